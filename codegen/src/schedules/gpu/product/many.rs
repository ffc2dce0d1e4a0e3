//! Products of many tokens, whose activations are rounded already ([`F16Rows`]).
//!
//! A block computes `warps * high` panels for `tokens` tokens. Its warps share the activations, which arrive in shared memory
//! unit by unit, `stages - 1` of them ahead of the products; each has panels of its own, which it decodes in registers, once for
//! all its tokens, from loads a unit ahead. Blocks of the same panels are neighbours, so that one fetches the weights and the
//! others find them in the cache.
//!
//! Where four warps multiply together, a token's 16-byte pieces of a unit are swapped in shared memory by the token's number,
//! as `wgmma_f16` wants it. Elsewhere there are 16 bytes between tokens, which need no address of its own for each tile. Both
//! have lanes fall on different banks. (`load_matrix` would read the same in one instruction; kernels with it spill.)

use super::super::block::{Thread, div_rem};
use super::super::round::F16Rows;
use super::finish::Epilogue;
use super::weights::{Weights, fours};
use super::{Input, Product};
use crate::pack::UNIT_K;
use crate::schedules::Params;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Type, Value, WGMMA_COLUMN};

/// Bytes of a token's part of a unit.
const PIECES: u64 = UNIT_K * 2;
const _: () = assert!(PIECES == WGMMA_COLUMN as u64, "what a product of four warps takes for a column");

struct Shape {
    warps: u64,
    /// Panels of a warp.
    high: u64,
    /// Blocks of 8 tokens.
    wide: u64,
    stages: u64,
    /// Whether four warps multiply together.
    grouped: bool,
}

impl Shape {
    fn new(p: &Product, params: &Params) -> Shape {
        let get = |name: &str| params[name] as u64;
        let grouped = get("wgmma") == 1;
        let most = u64::from(p.max_tokens).div_ceil(8);
        let most = if grouped { most.next_power_of_two() } else { most };
        let wide = (get("tokens") / 8).clamp(1, most);
        Shape { warps: get("warps"), high: get("high"), wide, stages: get("stages"), grouped }
    }

    /// Bytes from one token to the next in shared memory.
    fn row(&self) -> u64 {
        if self.grouped { PIECES } else { PIECES + 16 }
    }

    /// Bytes of a term of all tokens.
    fn term(&self) -> u64 {
        self.wide * 8 * self.row()
    }

    fn tiles(&self, p: &Product) -> u64 {
        u64::from(p.max_tokens).div_ceil(self.wide * 8)
    }
}

pub(super) fn chunks(p: &Product, params: &Params) -> u32 {
    let s = Shape::new(p, params);
    (p.panels().div_ceil(s.warps * s.high) * s.tiles(p)) as u32
}

pub(super) fn build(p: &Product, name: &str, params: &Params) -> Kernel {
    let Input::Rounded(from) = p.x else { unreachable!("checked by the caller") };
    let s = Shape::new(p, params);
    let mut b = KernelBuilder::of_blocks(name, s.warps as u32 * 32, params["resident"] as u32);
    let x = b.ptr_param("x");
    let weights: Vec<Value> = (0..p.weights.len()).map(|i| b.ptr_param(&format!("w{i}"))).collect();
    let epilogue = Epilogue::params(&mut b, p);
    let tokens = b.int_param("tokens");
    let stage = b.shared((s.stages * s.term()) as i64 * i64::from(from.terms));
    let t = Thread::here(&mut b);
    let (g, c) = div_rem(&mut b, t.lane, 4);
    let readers: Vec<Weights<'_>> = p.weights.iter().map(|l| Weights::new(&mut b, l, p.cols, t.lane)).collect();
    let block = b.chunk_id();
    let (group, tile) = div_rem(&mut b, block, s.tiles(p));
    let first = b.mul_imm(group, s.warps as i64);
    let first = b.add(first, t.warp);
    let first = b.mul_imm(first, s.high as i64);
    b.wait_prior();
    b.launch_next();
    let token = b.mul_imm(tile, s.wide as i64 * 8);
    let any = b.cmp(Pred::Slt, token, tokens);
    b.when(any, |b| {
        Tile { p, s: &s, from, t, g, c, x, weights: &weights, readers: &readers, tokens, token, first, stage }
            .run(b, &epilogue);
    });
    b.finish()
}

/// One block of the result.
struct Tile<'a> {
    p: &'a Product,
    s: &'a Shape,
    from: F16Rows,
    t: Thread,
    /// `lane / 4` and `lane % 4`.
    g: Value,
    c: Value,
    x: Value,
    weights: &'a [Value],
    readers: &'a [Weights<'a>],
    tokens: Value,
    /// First token.
    token: Value,
    /// First panel of this warp.
    first: Value,
    stage: Value,
}

impl Tile<'_> {
    fn stage_bytes(&self) -> u64 {
        self.s.term() * u64::from(self.from.terms)
    }

    /// Begins to copy unit `unit` of the activations to stage `slot`; nothing if there is no such unit.
    fn fetch(&self, b: &mut KernelBuilder, unit: Value, slot: Value) {
        let pieces = PIECES / 16;
        let all = self.s.wide * 8 * pieces * u64::from(self.from.terms);
        let units = b.i64(self.p.units() as i64);
        let inside = b.cmp(Pred::Slt, unit, units);
        b.when(inside, |b| {
            let to = b.index(self.stage, slot, self.stage_bytes() as i64);
            let from = b.index(self.x, unit, PIECES as i64);
            let end = b.i64(all as i64);
            let last = b.add_imm(self.tokens, -1);
            b.for_(self.t.id, end, self.s.warps as i64 * 32, &[], |b, i, _| {
                let (row, piece) = div_rem(b, i, pieces);
                let (term, n) = div_rem(b, row, self.s.wide * 8);
                // Beyond the tokens the last one stands in: nobody reads those sums.
                let token = b.add(self.token, n);
                let token = b.smin(token, last);
                let from = b.index(from, token, self.from.bytes() as i64);
                let from = b.index(from, term, self.from.term(1) as i64);
                let from = b.index(from, piece, 16);
                let to = b.index(to, row, self.s.row() as i64);
                let there = match self.s.grouped {
                    true => {
                        let (_, swap) = div_rem(b, row, 8);
                        b.xor(piece, swap)
                    }
                    false => piece,
                };
                let to = b.index(to, there, 16);
                b.copy_async(to, from, 16);
                vec![]
            });
        });
        b.copy_commit();
    }

    /// This lane's part of unit `unit` of all weights and panels.
    fn load(&self, b: &mut KernelBuilder, unit: Value) -> Vec<Value> {
        let (last_panel, last_unit) = (b.i64(self.p.panels() as i64 - 1), b.i64(self.p.units() as i64 - 1));
        let unit = b.smin(unit, last_unit);
        let mut raw = vec![];
        for (reader, &w) in self.readers.iter().zip(self.weights) {
            for high in 0..self.s.high {
                let panel = b.add_imm(self.first, high as i64);
                let panel = b.smin(panel, last_panel);
                let panel = reader.panel(b, w, panel);
                raw.extend(reader.load(b, panel, unit));
            }
        }
        raw
    }

    fn run(&self, b: &mut KernelBuilder, epilogue: &Epilogue) {
        let s = self.s;
        let zero = b.i64(0);
        for slot in 0..s.stages - 1 {
            let slot = b.i64(slot as i64);
            self.fetch(b, slot, slot);
        }
        let raw = self.load(b, zero);
        let (high, wide) = (s.high as usize, s.wide as usize);
        // The sums [weight][panel][n], n counting 8 tokens each, or all of them where four warps add in one go.
        let counts: Vec<usize> =
            self.readers.iter().map(|r| if s.grouped && r.is_exact() { 1 } else { wide }).collect();
        let start = |b: &mut KernelBuilder, n: usize| vec![b.f32(4 * (wide / n) as u16, 0.0); high * n];
        let none: Vec<Value> = counts.iter().flat_map(|&n| start(b, n)).collect();
        // The slot that is read, what is loaded, and the sums.
        let carried = [vec![zero], raw.clone(), none].concat();
        let units = b.i64(self.p.units() as i64);
        let lane = b.index(self.stage, self.g, s.row() as i64);
        let lane = b.index(lane, self.c, 4);
        let from = if s.grouped { self.stage } else { lane };
        let result = b.for_(zero, units, 1, &carried, |b, unit, carried| {
            let (slot, rest) = (carried[0], &carried[1..]);
            let (now, sums) = rest.split_at(raw.len());
            b.copy_wait(s.stages as i64 - 2);
            // All have what they wait for, and have read the slot that is filled next.
            b.barrier();
            let count = b.i64(s.stages as i64);
            let around = |b: &mut KernelBuilder, slot: Value, by: i64| {
                let next = b.add_imm(slot, by);
                let over = b.cmp(Pred::Sge, next, count);
                let wrapped = b.sub(next, count);
                b.select(over, wrapped, next)
            };
            let (next, fill) = (around(b, slot, 1), around(b, slot, s.stages as i64 - 1));
            let coming = b.add_imm(unit, s.stages as i64 - 1);
            self.fetch(b, coming, fill);
            let following = b.add_imm(unit, 1);
            let ahead = self.load(b, following);
            let x = b.index(from, slot, self.stage_bytes() as i64);
            let (mut now, mut sums) = (now, sums);
            let mut after = vec![next];
            after.extend(ahead);
            for (reader, &count) in self.readers.iter().zip(&counts) {
                let (mine, others) = now.split_at(reader.loads() * high);
                now = others;
                let panels: Vec<&[Value]> = mine.chunks(reader.loads()).collect();
                let (mine, others) = sums.split_at(high * count);
                sums = others;
                let mut mine: Vec<Vec<Value>> = mine.chunks(count).map(<[Value]>::to_vec).collect();
                self.multiply(b, reader, &panels, x, &mut mine);
                after.extend(mine.concat());
            }
            after
        });
        let sums: Vec<Value> = result[1 + raw.len()..].iter().flat_map(|&v| fours(b, v)).collect();
        self.finish(b, epilogue, &sums);
    }

    /// Adds the products of a unit whose activations are at `x`.
    fn multiply(&self, b: &mut KernelBuilder, w: &Weights<'_>, raw: &[&[Value]], x: Value, sums: &mut [Vec<Value>]) {
        let terms = u64::from(self.from.terms);
        if self.s.grouped {
            let columns: Vec<Value> = (0..terms).map(|t| b.index_bytes(x, t * self.s.term())).collect();
            return w.multiply_grouped(b, raw, &columns, sums);
        }
        let mut x = |b: &mut KernelBuilder, j: usize, n: usize| {
            let of = |term: u64| {
                let at = (term * self.s.term() + n as u64 * 8 * self.s.row() + j as u64 * 32) as i64;
                let none = b.int(Type::I32.x(2), 0);
                let pairs = (0..2).fold(none, |v, i| {
                    let pair = b.load(Type::I32, x, at + i * 16);
                    b.insert(v, pair, i)
                });
                b.bitcast(pairs, Type::F16.x(4))
            };
            (0..terms).map(of).collect()
        };
        w.multiply(b, raw, &mut x, sums);
    }

    fn finish(&self, b: &mut KernelBuilder, epilogue: &Epilogue, sums: &[Value]) {
        let (high, wide) = (self.s.high as usize, self.s.wide as usize);
        let last_panel = b.i64(self.p.panels() as i64 - 1);
        for h in 0..high {
            let panel = b.add_imm(self.first, h as i64);
            let real = b.cmp(Pred::Sle, panel, last_panel);
            b.when(real, |b| {
                let rows = [0, 8].map(|half| b.add_imm(self.g, half));
                // Of each half of the panel: the factor of each weight, if rows have one, and what its result needs.
                let factors = rows.map(|row| {
                    let of = |(reader, &w): (&Weights<'_>, &Value)| {
                        let start = reader.panel(b, w, panel);
                        reader.row_scale(b, start, row)
                    };
                    self.readers.iter().zip(self.weights).map(of).collect::<Vec<_>>()
                });
                let rows = rows.map(|row| epilogue.row(b, panel, row));
                for n in 0..wide {
                    for column in 0..2 {
                        let token = b.mul_imm(self.c, 2);
                        let token = b.add_imm(token, n as i64 * 8 + column);
                        let token = b.add(self.token, token);
                        let live = b.cmp(Pred::Slt, token, self.tokens);
                        b.when(live, |b| {
                            let scale = b.index(self.x, token, self.from.bytes() as i64);
                            let scale = b.load(Type::F32, scale, self.from.scale() as i64);
                            for (half, row) in rows.iter().enumerate() {
                                let of = |b: &mut KernelBuilder, kind: usize| {
                                    let v = b.extract(sums[(kind * high + h) * wide + n], half as i64 * 2 + column);
                                    let v = b.mul(v, scale);
                                    factors[half][kind].map_or(v, |factor| b.mul(v, factor))
                                };
                                let sums: Vec<Value> = (0..self.weights.len()).map(|kind| of(b, kind)).collect();
                                epilogue.finish(b, row, token, &sums);
                            }
                        });
                    }
                }
            });
        }
    }
}
