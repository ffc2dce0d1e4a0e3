//! Products of a few tokens: every block norms and rounds the activations itself, and streams its panels past them.
//!
//! A block has `warps` warps; `split` of them share a panel, each taking every `split`-th unit, and so it has
//! `warps / split` panels at a time, until it has done `panels` of them. Loads run `ahead` units in front of the products,
//! also over the end of a panel, and the first ones are under way before the kernel in front of this one has ended: weights
//! do not depend on it.
//!
//! Activations lie in shared memory as f16, a row a token and term, in the order in which lanes read them: element
//! `16 j + 4 c + e` of a unit at `16 c + 4 j + e`. They are divided by a power of two for each token, so that none is too
//! large for f16; the sums are multiplied by it. Rows are filled up with zeros to whole rounds of units, so that no loop needs
//! an end of its own.

use super::super::block::{self, Exchange, Thread, div_rem};
use super::finish::Epilogue;
use super::weights::Weights;
use super::{Input, Product};
use crate::pack::{ROWS, UNIT_K};
use crate::schedules::Params;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Type, Value};

/// Most bytes of shared memory: two blocks fit on every device.
const SHARED: u64 = 31 * 1024;

/// The kernel's shape.
struct Shape {
    warps: u64,
    split: u64,
    panels: u64,
    ahead: u64,
    /// Loads and products of a panel, `ahead * split` units each.
    rounds: u64,
    /// Rounds whose activations are staged at once.
    staged: u64,
    terms: u64,
}

/// Bytes left for activations beside the sums of `warps` warps.
pub(super) fn stage_bytes(p: &Product, warps: u64) -> u64 {
    SHARED.saturating_sub(p.weights.len() as u64 * warps * u64::from(p.max_tokens) * ROWS * 4)
}

impl Shape {
    fn new(p: &Product, params: &Params, terms: u64) -> Shape {
        let get = |name: &str| params[name] as u64;
        let (warps, split, panels, ahead) = (get("warps"), get("split"), get("panels"), get("ahead"));
        let split = split.min(warps);
        let round = split * ahead;
        let rounds = p.units().div_ceil(round);
        let of_round = round * UNIT_K * 2 * terms * u64::from(p.max_tokens);
        let staged = (stage_bytes(p, warps) / of_round).clamp(1, rounds);
        Shape { warps, split, panels: panels.max(warps / split), ahead, rounds, staged, terms }
    }

    /// Bytes of a staged row; the end keeps rows off the same banks.
    fn row(&self) -> u64 {
        self.staged * self.split * self.ahead * UNIT_K * 2 + 16
    }
}

pub(super) fn chunks(p: &Product, params: &Params) -> u32 {
    let shape = Shape::new(p, params, 1);
    p.panels().div_ceil(shape.panels) as u32
}

pub(super) fn build(p: &Product, name: &str, params: &Params) -> Kernel {
    let Input::Rows { stride, norm, terms } = p.x else { unreachable!("checked by the caller") };
    let shape = Shape::new(p, params, terms);
    let (tokens_max, kinds) = (u64::from(p.max_tokens), p.weights.len() as u64);
    let mut b = KernelBuilder::of_blocks(name, shape.warps as u32 * 32, params["resident"] as u32);
    let b = &mut b;
    let x = b.ptr_param("x");
    let weights: Vec<Value> = (0..kinds).map(|i| b.ptr_param(&format!("w{i}"))).collect();
    let gamma = norm.map(|_| b.ptr_param("gamma"));
    let epilogue = Epilogue::params(b, p);
    let tokens = b.int_param("tokens");

    let stage = b.shared((shape.row() * tokens_max * terms) as i64);
    let factors = b.shared(tokens_max as i64 * 8);
    let exchange = Exchange::new(b, 1);
    let parts = b.shared((kinds * shape.warps * tokens_max * ROWS * 4) as i64);
    let t = Thread::here(b);
    let (g, c) = div_rem(b, t.lane, 4);
    let readers: Vec<Weights<'_>> = p.weights.iter().map(|l| Weights::new(b, l, p.cols, t.lane)).collect();
    let (part, share) = div_rem(b, t.warp, shape.split);
    let block = b.chunk_id();
    let first = b.mul_imm(block, shape.panels as i64);
    let first = b.add(first, part);
    let (last_panel, last_unit) = (b.i64(p.panels() as i64 - 1), b.i64(p.units() as i64 - 1));
    let load = |b: &mut KernelBuilder, panel: Value, round: Value| -> Vec<Value> {
        let panel = b.smin(panel, last_panel);
        let unit = b.mul_imm(round, (shape.ahead * shape.split) as i64);
        let unit = b.add(unit, share);
        let mut raw = vec![];
        for (reader, &w) in readers.iter().zip(&weights) {
            let panel = reader.panel(b, w, panel);
            for a in 0..shape.ahead {
                let unit = b.add_imm(unit, (a * shape.split) as i64);
                let unit = b.smin(unit, last_unit);
                raw.extend(reader.load(b, panel, unit));
            }
        }
        raw
    };
    let zero = b.i64(0);
    let raw = load(b, first, zero);
    b.wait_prior();
    b.launch_next();

    let rows = Rows { p, shape: &shape, t, x, stride, norm, gamma, tokens, stage, factors, exchange };
    rows.measure(b);
    let all_at_once = shape.staged == shape.rounds;
    if all_at_once {
        rows.stage(b, zero);
    }
    // This lane's token; lanes beyond the tokens read the last one, and nobody reads their sums.
    let last = b.add_imm(tokens, -1);
    let token = b.smin(g, last);
    let mine = b.index(stage, token, shape.row() as i64);
    let mine = b.index(mine, c, 32);
    let mine = b.index(mine, share, UNIT_K as i64 * 2);

    let (step, rounds) = (shape.warps / shape.split, shape.panels.div_ceil(shape.warps / shape.split));
    let (end, per_stage, all_rounds) = (b.i64(rounds as i64), b.i64(shape.staged as i64), b.i64(shape.rounds as i64));
    b.for_(zero, end, 1, &raw, |b, i, raw| {
        let panel = b.mul_imm(i, step as i64);
        let panel = b.add(first, panel);
        let none = b.f32(4, 0.0);
        let carried: Vec<Value> = raw.iter().copied().chain(weights.iter().map(|_| none)).collect();
        let carried = b.for_(zero, all_rounds, shape.staged as i64, &carried, |b, start, carried| {
            if !all_at_once {
                b.barrier();
                rows.stage(b, start);
            }
            let end = b.add(start, per_stage);
            let end = b.smin(end, all_rounds);
            b.for_(start, end, 1, carried, |b, round, carried| {
                let (raw, sums) = carried.split_at(raw.len());
                let next = b.add_imm(round, 1);
                let over = b.cmp(Pred::Sge, next, all_rounds);
                let further = b.add_imm(panel, step as i64);
                let next_panel = b.select(over, further, panel);
                let next = b.select(over, zero, next);
                let ahead = load(b, next_panel, next);
                let mut sums: Vec<Vec<Value>> = sums.iter().map(|&s| vec![s]).collect();
                let row = b.sub(round, start);
                let row = b.index(mine, row, (shape.split * shape.ahead * UNIT_K * 2) as i64);
                let mut raw = raw.iter().copied();
                for (reader, sum) in readers.iter().zip(&mut sums) {
                    for a in 0..shape.ahead {
                        let raw: Vec<Value> = raw.by_ref().take(reader.loads()).collect();
                        let unit = (a * shape.split * UNIT_K * 2) as i64;
                        let mut x = |b: &mut KernelBuilder, j: usize, _: usize| {
                            let term = |t: u64| {
                                let at = unit + (t * tokens_max * shape.row()) as i64 + j as i64 / 2 * 16;
                                let two = b.load(Type::F16.x(8), row, at);
                                if j.is_multiple_of(2) { b.low(two) } else { b.high(two) }
                            };
                            (0..shape.terms).map(term).collect()
                        };
                        reader.multiply(b, &[&raw], &mut x, std::slice::from_mut(sum));
                    }
                }
                ahead.into_iter().chain(sums.concat()).collect()
            })
        });
        let (raw, sums) = carried.split_at(raw.len());
        // Sums of all warps: [weight][warp][token][row].
        for (kind, &sum) in sums.iter().enumerate() {
            let place = b.index(parts, t.warp, (tokens_max * ROWS * 4) as i64);
            let place = b.index(place, g, 4);
            for i in 0..4 {
                let token = b.mul_imm(c, 2);
                let token = b.add_imm(token, i % 2);
                let live = b.cmp(Pred::Slt, token, tokens);
                b.when(live, |b| {
                    let place = b.index(place, token, ROWS as i64 * 4);
                    let v = b.extract(sum, i);
                    b.store(v, place, (kind as u64 * shape.warps * tokens_max * ROWS * 4) as i64 + i / 2 * 32);
                });
            }
        }
        b.barrier();
        let base = b.sub(panel, part);
        let count = b.i64((step * tokens_max * ROWS) as i64);
        b.for_(t.id, count, shape.warps as i64 * 32, &[], |b, i, _| {
            let (rest, row) = div_rem(b, i, ROWS);
            let (part, token) = div_rem(b, rest, tokens_max);
            let panel = b.add(base, part);
            let (real, live) = (b.cmp(Pred::Sle, panel, last_panel), b.cmp(Pred::Slt, token, tokens));
            let both = b.and(real, live);
            b.when(both, |b| {
                let factor = b.index(factors, token, 8);
                let factor = b.load(Type::F32, factor, 0);
                let place = b.index(parts, part, (shape.split * tokens_max * ROWS * 4) as i64);
                let place = b.index(place, token, ROWS as i64 * 4);
                let place = b.index(place, row, 4);
                let sums: Vec<Value> = (0..kinds)
                    .map(|kind| {
                        let at = |s: u64| ((kind * shape.warps + s) * tokens_max * ROWS * 4) as i64;
                        let mut sum = b.load(Type::F32, place, at(0));
                        for s in 1..shape.split {
                            let v = b.load(Type::F32, place, at(s));
                            sum = b.add(sum, v);
                        }
                        let reader = &readers[kind as usize];
                        let panel = reader.panel(b, weights[kind as usize], panel);
                        let sum = b.mul(sum, factor);
                        match reader.row_scale(b, panel, row) {
                            Some(scale) => b.mul(sum, scale),
                            None => sum,
                        }
                    })
                    .collect();
                let row = epilogue.row(b, panel, row);
                epilogue.finish(b, &row, token, &sums);
            });
            vec![]
        });
        if rounds > 1 {
            b.barrier();
        }
        raw.to_vec()
    });
    std::mem::replace(b, KernelBuilder::new("")).finish()
}

/// The activations and where they go.
struct Rows<'a> {
    p: &'a Product,
    shape: &'a Shape,
    t: Thread,
    x: Value,
    stride: u64,
    norm: Option<f32>,
    gamma: Option<Value>,
    tokens: Value,
    stage: Value,
    /// For each token the power of two, and what an element is multiplied with before gamma.
    factors: Value,
    exchange: Exchange,
}

impl Rows<'_> {
    fn threads(&self) -> i64 {
        self.shape.warps as i64 * 32
    }

    /// The sum of squares and the largest magnitude of each row give its factors.
    fn measure(&self, b: &mut KernelBuilder) {
        let zero = b.i64(0);
        b.for_(zero, self.tokens, 1, &[], |b, token, _| {
            let row = b.index(self.x, token, self.stride as i64);
            let (none, end) = (b.f32(4, 0.0), b.i64(self.p.cols as i64 / 4));
            let found = b.for_(self.t.id, end, self.threads(), &[none, none], |b, i, s| {
                let p = b.index(row, i, 16);
                let v = b.load(Type::F32.x(4), p, 0);
                let squares = b.fma(v, v, s[0]);
                let v = match self.gamma {
                    Some(gamma) => {
                        let p = b.index(gamma, i, 16);
                        let g = b.load(Type::F32.x(4), p, 0);
                        b.mul(v, g)
                    }
                    None => v,
                };
                let size = b.abs(v);
                vec![squares, b.fmax(size, s[1])]
            });
            let sum = b.sum(found[0]);
            let most = b.max_lane(found[1]);
            let factor = match self.norm {
                Some(eps) => {
                    let sum = self.exchange.merge(b, self.t, &[sum], block::plus)[0];
                    block::rms_factor(b, sum, self.p.cols, eps)
                }
                None => b.f32(1, 1.0),
            };
            let most = self.exchange.merge(b, self.t, &[most], block::larger)[0];
            block::when_first(b, self.t.id, |b| {
                let most = b.mul(most, factor);
                let (scale, inverse) = block::power_scale(b, most);
                let factor = b.mul(factor, inverse);
                let p = b.index(self.factors, token, 8);
                b.store(scale, p, 0);
                b.store(factor, p, 4);
            });
            b.barrier();
            vec![]
        });
    }

    /// Norms, rounds and stages the activations of the rounds that begin with `round`.
    fn stage(&self, b: &mut KernelBuilder, round: Value) {
        let s = self.shape;
        let units = s.staged * s.split * s.ahead;
        let zero = b.i64(0);
        let start = b.mul_imm(round, (s.split * s.ahead * UNIT_K / 4) as i64);
        b.for_(zero, self.tokens, 1, &[], |b, token, _| {
            let row = b.index(self.x, token, self.stride as i64);
            let to = b.index(self.stage, token, s.row() as i64);
            let factor = b.index(self.factors, token, 8);
            let factor = b.load(Type::F32, factor, 4);
            let factor = b.splat(factor, 4);
            let end = b.i64((units * UNIT_K / 4) as i64);
            b.for_(self.t.id, end, self.threads(), &[], |b, i, _| {
                let four = b.add(start, i);
                let cols = b.i64(self.p.cols as i64 / 4);
                let inside = b.cmp(Pred::Slt, four, cols);
                let v = b.if_(
                    inside,
                    |b| {
                        let p = b.index(row, four, 16);
                        let v = b.load(Type::F32.x(4), p, 0);
                        let v = b.mul(v, factor);
                        vec![match self.gamma {
                            Some(gamma) => {
                                let p = b.index(gamma, four, 16);
                                let g = b.load(Type::F32.x(4), p, 0);
                                b.mul(v, g)
                            }
                            None => v,
                        }]
                    },
                    |b| vec![b.f32(4, 0.0)],
                );
                // Tile j of the unit, lanes c: from [j][c] to [c][j].
                let (unit, within) = div_rem(b, i, 16);
                let (j, c) = div_rem(b, within, 4);
                let p = b.index(to, unit, UNIT_K as i64 * 2);
                let p = b.index(p, c, 32);
                let p = b.index(p, j, 8);
                for (term, half) in (0..).zip(block::f16_terms(b, v[0], s.terms)) {
                    b.store(half, p, (term * u64::from(self.p.max_tokens) * s.row()) as i64);
                }
                vec![]
            });
            vec![]
        });
        b.barrier();
    }
}
