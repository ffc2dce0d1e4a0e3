//! The rows of a chunk against one block of keys.
//!
//! Keys lie in the cache with their positions side by side, so a lane is a key: a score needs no sum over lanes, and mask
//! and softmax work on whole vectors. Values lie in rows, so there a lane is an element of the result.

use super::{Attention, Params, param};
use crate::schedules::qk::lanes_of;
use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value};
use tilewright_runtime::plan::KEY_BLOCK;

/// A masked score.
const MASKED: f64 = -1e30;
/// The maximum of nothing: above a masked score, so that its weight is 0 even if nothing else was seen; below every other.
const LOWEST: f64 = -1e29;

/// Where the state of a row has the maximum of its scores,
pub(super) const MAX: i64 = 0;
/// the sum of its weights,
pub(super) const SUM: i64 = 4;
/// and the factor on what was added up under the maximum before.
const KEEP: i64 = 8;
const STATE_BYTES: i64 = 16;

/// Shape and scratch of a chunk. Row `t * heads + h` is head `h` of token `t`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Query heads.
    pub heads: u64,
    /// Tokens.
    pub tokens: u64,
    /// Keys of a block.
    pub keys: i64,
    head_dim: u64,
    lanes: u16,
    /// Rows whose sums are in registers at once.
    step: u64,
    /// f32 `[rows][head_dim]`.
    pub query: Value,
    /// f32 `[rows][keys]`: scores, then weights.
    weights: Value,
    /// f32 `[rows][head_dim]`.
    acc: Value,
    state: Value,
    /// i32 `0..lanes`.
    index: Value,
}

impl Tile {
    pub fn new(b: &mut KernelBuilder, a: &Attention, heads: u64, p: &Params) -> Tile {
        let (tokens, keys, lanes) = (param(p, "tokens") as u64, param(p, "keys"), param(p, "lanes") as u16);
        let rows = heads * tokens;
        let step = (1..=8).rev().find(|&s| rows.is_multiple_of(s)).unwrap_or(1);
        let heads_bytes = (rows * a.head_dim * 4) as i64;
        let index = b.local(i64::from(lanes) * 4);
        for i in 0..i64::from(lanes) {
            let v = b.int(Type::I32, i);
            b.store(v, index, i * 4);
        }
        Tile {
            heads,
            tokens,
            keys,
            head_dim: a.head_dim,
            lanes,
            step,
            query: b.local(heads_bytes),
            weights: b.local(rows as i64 * keys * 4),
            acc: b.local(heads_bytes),
            state: b.local(rows as i64 * STATE_BYTES),
            index,
        }
    }

    /// Runs `body` for each row, its token and its head, all counted from the chunk's first.
    pub fn each_row(self, b: &mut KernelBuilder, mut body: impl FnMut(&mut KernelBuilder, Value, Value, Value)) {
        let (zero, tokens, heads) = (b.i64(0), b.i64(self.tokens as i64), b.i64(self.heads as i64));
        b.for_(zero, tokens, 1, &[], |b, t, _| {
            let row0 = b.mul_imm(t, self.heads as i64);
            b.for_(zero, heads, 1, &[], |b, h, _| {
                let row = b.add(row0, h);
                body(b, row, t, h);
                vec![]
            });
            vec![]
        });
    }

    /// Runs `body` for each `step` rows.
    fn each_step(self, b: &mut KernelBuilder, body: impl FnOnce(&mut KernelBuilder, Value)) {
        let (zero, rows) = (b.i64(0), b.i64((self.heads * self.tokens) as i64));
        b.for_(zero, rows, self.step as i64, &[], |b, row, _| {
            body(b, row);
            vec![]
        });
    }

    pub fn state_of(self, b: &mut KernelBuilder, row: Value) -> Value {
        b.index(self.state, row, STATE_BYTES)
    }

    /// The sums of a row, in the widest vectors that divide it.
    pub fn acc_of(self, b: &mut KernelBuilder, row: Value) -> Vec<Value> {
        let acc = b.index(self.acc, row, self.head_dim as i64 * 4);
        let lanes = lanes_of(self.head_dim);
        let count = self.head_dim as i64 / i64::from(lanes);
        (0..count).map(|i| b.load(Type::F32.x(lanes), acc, i * i64::from(lanes) * 4)).collect()
    }

    /// A row that has seen nothing.
    pub fn start(self, b: &mut KernelBuilder, row: Value) {
        let state = self.state_of(b, row);
        let (lowest, none) = (b.f32(1, LOWEST), b.f32(1, 0.0));
        b.store(lowest, state, MAX);
        b.store(none, state, SUM);
        let acc = b.index(self.acc, row, self.head_dim as i64 * 4);
        let lanes = lanes_of(self.head_dim);
        let zero = b.f32(lanes, 0.0);
        for i in 0..self.head_dim as i64 / i64::from(lanes) {
            b.store(zero, acc, i * i64::from(lanes) * 4);
        }
    }

    /// Scores of all rows with the `n` keys at `k`, and with what lies behind them up to whole vectors.
    pub fn score(self, b: &mut KernelBuilder, k: Value, n: Value) {
        let lanes = i64::from(self.lanes);
        let zero = b.i64(0);
        // One token's keys come from memory, and as one stream they come faster: 2,048 keys of 30 layers take 2.6 ms, not
        // the 3.9 of two streams side by side.
        if self.tokens == 1 || self.step * 2 > self.budget() {
            return self.score_vectors(b, k, zero, n, 1);
        }
        // Several tokens' keys are in the cache: two vectors of keys a turn share each element of the queries, 29 ms for
        // 64 tokens at 512 against 34.
        let mask = b.i64(-2 * lanes);
        let pairs = b.and(n, mask);
        self.score_vectors(b, k, zero, pairs, 2);
        self.score_vectors(b, k, pairs, n, 1);
    }

    /// Scores with keys `from .. to`, `width` vectors of keys at once.
    fn score_vectors(self, b: &mut KernelBuilder, k: Value, from: Value, to: Value, width: i64) {
        let (hd, block) = (self.head_dim as i64, i64::from(KEY_BLOCK));
        let (lanes, step) = (i64::from(self.lanes), self.step as i64);
        // An fma takes 4 cycles: with few sums, several of them over alternate elements.
        let chains = [8, 4, 2].into_iter().find(|c| c * step * width <= 8).unwrap_or(1);
        let unroll = [8, 4, 2].into_iter().find(|&u| hd % u == 0 && u * step * width <= 64).unwrap_or(1);
        let chains = unroll.min(chains);
        let next = if lanes == block { hd * block * 2 } else { lanes * 2 };
        b.for_(from, to, lanes * width, &[], |b, s, _| {
            let k = if lanes == block {
                b.index(k, s, hd * 2)
            } else {
                let (low, high) = (b.i64(block - 1), b.i64(-block));
                let (inside, before) = (b.and(s, low), b.and(s, high));
                let k = b.index(k, before, hd * 2);
                b.index(k, inside, 2)
            };
            let weights = b.index(self.weights, s, 4);
            self.each_step(b, |b, row| {
                let query = b.index(self.query, row, hd * 4);
                let none = b.f32(self.lanes, 0.0);
                let init = vec![none; (step * width * chains) as usize];
                let (zero, end) = (b.i64(0), b.i64(hd));
                let sums = b.for_(zero, end, unroll, &init, |b, d, sums| {
                    let mut sums = sums.to_vec();
                    let k = b.index(k, d, block * 2);
                    let query = b.index(query, d, 4);
                    for u in 0..unroll {
                        let keys: Vec<Value> = (0..width)
                            .map(|j| b.load_f32(Scalar::F16, self.lanes, k, j * next + u * block * 2))
                            .collect();
                        for r in 0..step {
                            let q = b.load(Type::F32, query, (r * hd + u) * 4);
                            let q = b.splat(q, self.lanes);
                            for (j, &key) in (0..).zip(&keys) {
                                let sum = &mut sums[((r * width + j) * chains + u % chains) as usize];
                                *sum = b.fma(key, q, *sum);
                            }
                        }
                    }
                    sums
                });
                let to = b.index(weights, row, self.keys * 4);
                for (i, sums) in (0..).zip(sums.chunks(chains as usize)) {
                    let mut sums = sums.to_vec();
                    while sums.len() > 1 {
                        sums = sums.chunks(2).map(|p| b.add(p[0], p[1])).collect();
                    }
                    b.store(sums[0], to, i / width * self.keys * 4 + i % width * lanes * 4);
                }
            });
            vec![]
        });
    }

    /// Sums in registers: half of 32 of 512 bits, or of 16 narrower ones. The rest are for loads, factors and addresses.
    fn budget(self) -> u64 {
        if self.lanes == 16 { 16 } else { 8 }
    }

    /// Turns the scores of a row into weights. The row sees the first `seen` keys, or of these the last `window`.
    pub fn softmax(self, b: &mut KernelBuilder, row: Value, n: Value, seen: Value, window: u64, softcap: f32) {
        let lanes = self.lanes;
        let weights = b.index(self.weights, row, self.keys * 4);
        let state = self.state_of(b, row);
        let before = b.load(Type::F32, state, MAX);
        let seen = b.trunc(seen, Scalar::I32);
        let index = b.load(Type::I32.x(lanes), self.index, 0);
        let masked = b.f32(lanes, MASKED);
        let zero = b.i64(0);
        let top = b.for_(zero, n, i64::from(lanes), &[masked], |b, s, top| {
            let p = b.index(weights, s, 4);
            let mut v = b.load(Type::F32.x(lanes), p, 0);
            if softcap > 0.0 {
                let inverse = b.f32(lanes, 1.0 / f64::from(softcap));
                let x = b.mul(v, inverse);
                let t = b.tanh(x);
                let cap = b.f32(lanes, f64::from(softcap));
                v = b.mul(t, cap);
            }
            let s = b.trunc(s, Scalar::I32);
            let end = b.sub(seen, s);
            let ends = b.splat(end, lanes);
            let visible = b.cmp(Pred::Slt, index, ends);
            v = b.select(visible, v, masked);
            if window > 0 {
                let begin = b.add_imm(end, -(window as i64));
                let begin = b.splat(begin, lanes);
                let visible = b.cmp(Pred::Sge, index, begin);
                v = b.select(visible, v, masked);
            }
            b.store(v, p, 0);
            vec![b.fmax(v, top[0])]
        });
        let top = b.max_lane(top[0]);
        let max = b.fmax(top, before);
        let maxima = b.splat(max, lanes);
        let none = b.f32(lanes, 0.0);
        let sums = b.for_(zero, n, i64::from(lanes), &[none], |b, s, sum| {
            let p = b.index(weights, s, 4);
            let v = b.load(Type::F32.x(lanes), p, 0);
            let d = b.sub(v, maxima);
            let e = b.exp(d);
            b.store(e, p, 0);
            vec![b.add(sum[0], e)]
        });
        let sum = b.sum(sums[0]);
        let d = b.sub(before, max);
        let keep = b.exp(d);
        let all = b.load(Type::F32, state, SUM);
        let all = b.fma(all, keep, sum);
        b.store(max, state, MAX);
        b.store(all, state, SUM);
        b.store(keep, state, KEEP);
    }

    /// `acc = keep acc + weights v`, over the `n` values at `v`. What lies behind them may be anything and is not read.
    pub fn add_values(self, b: &mut KernelBuilder, v: Value, n: Value) {
        let hd = self.head_dim as i64;
        let lanes = lanes_of(self.head_dim).min(self.lanes);
        let vectors = self.head_dim / u64::from(lanes);
        let fits = |w: u64| vectors.is_multiple_of(w) && w * self.step <= self.budget();
        let width = (1..=vectors).rev().find(|&w| fits(w)).unwrap_or(1);
        let bytes = i64::from(lanes) * 4;
        let rows = self.step as i64;
        let (zero, four) = (b.i64(0), b.i64(-4));
        let fours = b.and(n, four);
        self.each_step(b, |b, row| {
            let acc = b.index(self.acc, row, hd * 4);
            let weights = b.index(self.weights, row, self.keys * 4);
            let state = self.state_of(b, row);
            let end = b.i64((vectors / width) as i64);
            b.for_(zero, end, 1, &[], |b, part, _| {
                let acc = b.index(acc, part, width as i64 * bytes);
                let v = b.index(v, part, width as i64 * bytes / 2);
                let mut sums = vec![];
                for r in 0..rows {
                    let keep = b.load(Type::F32, state, r * STATE_BYTES + KEEP);
                    let keep = b.splat(keep, lanes);
                    for j in 0..width as i64 {
                        let a = b.load(Type::F32.x(lanes), acc, r * hd * 4 + j * bytes);
                        sums.push(b.mul(a, keep));
                    }
                }
                // Four keys a turn, then the rest.
                for (from, to, unroll) in [(zero, fours, 4), (fours, n, 1)] {
                    sums = b.for_(from, to, unroll, &sums, |b, s, sums| {
                        let mut sums = sums.to_vec();
                        let v = b.index(v, s, hd * 2);
                        let weights = b.index(weights, s, 4);
                        for u in 0..unroll {
                            let values: Vec<Value> = (0..width as i64)
                                .map(|j| b.load_f32(Scalar::F16, lanes, v, u * hd * 2 + j * bytes / 2))
                                .collect();
                            for (r, sums) in sums.chunks_mut(width as usize).enumerate() {
                                let weight = b.load(Type::F32, weights, (r as i64 * self.keys + u) * 4);
                                let weight = b.splat(weight, lanes);
                                for (sum, &value) in sums.iter_mut().zip(&values) {
                                    *sum = b.fma(value, weight, *sum);
                                }
                            }
                        }
                        sums
                    });
                }
                for (i, sum) in sums.into_iter().enumerate() {
                    let (r, j) = (i as i64 / width as i64, i as i64 % width as i64);
                    b.store(sum, acc, r * hd * 4 + j * bytes);
                }
                vec![]
            });
        });
    }
}
