//! 16 rows of a warp against its keys of a tile: scores by `mma`, running maximum, weights, values by `mma`.
//!
//! A lane has rows `lane / 4` and the same plus 8, and of each 8 columns 2: the layout of sums of `mma`. The weights of 16
//! keys, made from the scores of two such sums, are the left factor of the next product as they are.

use super::super::block::{self, Thread};
use super::Rows;
use super::config::Config;
use super::queries::Queries;
use super::ring::Keys;
use std::f64::consts::LOG2_E;
use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value};

/// Maximum of a row that has seen no key: above what is masked, below all else.
const NONE: f64 = -1e30;
/// Weights are this power of two larger than they should be, the sums of them too: f16 has more digits there.
const WEIGHT_BITS: f64 = 14.0;

/// What stays the same from tile to tile.
pub(super) struct Tile {
    c: Config,
    queries: Queries,
    /// All left factors by step and term, or where they are.
    kept: Vec<Value>,
    fragments: Value,
    /// Factor that makes scores of sums, base 2, for the elements of a sum; `None` with a soft cap.
    scale: Value,
    /// Last position that the rows of a sum's elements see, i32x4, less their column.
    seen: Value,
    /// This lane's row and bytes as `load_matrix` wants them, for keys and for values.
    key_at: Value,
    value_at: Value,
    /// First of the warp's keys.
    first_key: Value,
}

/// What a warp has found: sums of values by groups of 8 elements, and for each of the lane's two rows the maximum and the
/// sum of the weights.
pub(super) struct Found {
    pub sums: Vec<Value>,
    pub max: [Value; 2],
    pub weight: [Value; 2],
}

impl Tile {
    pub fn new(b: &mut KernelBuilder, c: Config, t: Thread, queries: &Queries, rows: &Rows, past: Value) -> Tile {
        let (row_warp, key_warp) = block::div_rem(b, t.warp, c.key_warps);
        let row = b.mul_imm(row_warp, 16);
        let first_key = b.mul_imm(key_warp, c.keys_of_warp() as i64);
        let (rest, in_8) = block::div_rem(b, t.lane, 8);
        let (upper, odd) = block::div_rem(b, rest, 2);
        let at = |b: &mut KernelBuilder, eights: Value, bytes: Value| {
            let row = b.mul_imm(eights, 8);
            let row = b.add(row, in_8);
            let row = b.mul_imm(row, c.row_bytes() as i64);
            let bytes = b.mul_imm(bytes, 16);
            b.add(row, bytes)
        };
        // Keys: the other half of 16 elements first, then the other 8 keys; values and queries the other way round.
        let key_at = at(b, upper, odd);
        let value_at = at(b, odd, upper);
        let fragments = queries.fragments(b, row, value_at);
        let mut kept = vec![];
        if c.keeps_queries() {
            for step in 0..c.padded() / 16 {
                kept.extend((0..c.terms).map(|term| queries.fragment(b, fragments, step, term)));
            }
        }
        let (group, of_four) = block::div_rem(b, t.lane, 4);
        let mine = b.add(row, group);
        let other = b.add_imm(mine, 8);
        let factor = if c.softcap > 0.0 { 1.0 / f64::from(c.softcap) } else { LOG2_E } * f64::from(c.scale);
        let factor = b.f32(1, factor);
        let [scale0, scale1] = [mine, other].map(|row| {
            let s = queries.scale(b, row);
            b.mul(s, factor)
        });
        let column = b.mul_imm(of_four, 2);
        let [seen0, seen1] = [mine, other].map(|row| {
            let (token, _) = rows.clamped(b, row);
            let seen = b.add(past, token);
            let seen = b.sub(seen, column);
            b.trunc(seen, Scalar::I32)
        });
        let seen = pairs(b, seen0, seen1);
        let (zero, one) = (b.int(Type::I32, 0), b.int(Type::I32, 1));
        let columns = b.splat(zero, 4);
        let columns = b.insert(columns, one, 1);
        let columns = b.insert(columns, one, 3);
        let scale = pairs(b, scale0, scale1);
        let seen = b.sub(seen, columns);
        Tile { c, queries: *queries, kept, fragments, scale, seen, key_at, value_at, first_key }
    }

    /// Before the first tile.
    pub fn start(&self, b: &mut KernelBuilder) -> Vec<Value> {
        let (none, zeros) = (b.f32(1, NONE), b.f32(4, 0.0));
        let mut state = vec![none, none, zeros];
        state.resize(3 + (self.c.hd / 8) as usize, zeros);
        state
    }

    /// One tile, at position `s0`; `ragged` if some row does not see all of it.
    pub fn step(&self, b: &mut KernelBuilder, s0: Value, keys: Keys, ragged: Value, state: &[Value]) -> Vec<Value> {
        let c = self.c;
        let warp_row = b.mul_imm(self.first_key, c.row_bytes() as i64);
        let [k, v] = [(keys.keys, self.key_at), (keys.values, self.value_at)].map(|(p, at)| {
            let p = b.offset(p, warp_row);
            b.offset(p, at)
        });
        let mut scores = self.scores(b, k);
        if c.softcap > 0.0 {
            let cap = b.f32(4, f64::from(c.softcap) * LOG2_E);
            for s in &mut scores {
                let x = b.mul(*s, self.scale);
                let x = b.tanh(x);
                *s = b.mul(x, cap);
            }
        }
        let first = b.add(s0, self.first_key);
        let all = scores.clone();
        let scores = b.if_(ragged, |b| self.mask(b, first, &all), |_| all.clone());

        let mut top = scores[0];
        for &s in &scores[1..] {
            top = b.fmax(s, top);
        }
        let scale = (c.softcap == 0.0).then_some(self.scale);
        if let Some(scale) = scale {
            // A masked score is minus infinity and stays so.
            top = b.mul(top, scale);
        }
        let mut max = [state[0], state[1]];
        let mut keep = max;
        for (row, at) in [(0, 0), (1, 2)] {
            let (x, y) = (b.extract(top, at), b.extract(top, at + 1));
            let m = b.fmax(x, y);
            let m = block::of_lanes(b, &[m], 4, block::larger)[0];
            max[row] = b.fmax(m, state[row]);
            let d = b.sub(state[row], max[row]);
            keep[row] = b.exp2_approx(d);
        }
        let bits = b.f32(1, WEIGHT_BITS);
        let [down0, down1] = max.map(|m| b.sub(bits, m));
        let down = pairs(b, down0, down1);
        let keep = pairs(b, keep[0], keep[1]);

        let mut sum = b.mul(state[2], keep);
        let mut weights = vec![];
        for s in scores {
            let x = match scale {
                Some(scale) => b.fma(s, scale, down),
                None => b.add(s, down),
            };
            let p = b.exp2_approx(x);
            sum = b.add(sum, p);
            weights.push(p);
        }
        let sums = state[3..].iter().map(|&a| b.mul(a, keep)).collect();
        let mut out = vec![max[0], max[1], sum];
        out.extend(self.values(b, v, &weights, sums));
        out
    }

    /// Sums of products of queries and the warp's keys, 8 keys each.
    fn scores(&self, b: &mut KernelBuilder, k: Value) -> Vec<Value> {
        let c = self.c;
        let none = b.f32(4, 0.0);
        let mut scores = vec![none; (c.keys_of_warp() / 8) as usize];
        for step in 0..c.padded() / 16 {
            let queries: Vec<Value> = (0..c.terms)
                .map(|term| match self.kept.get((step * c.terms + term) as usize) {
                    Some(&q) => q,
                    None => self.queries.fragment(b, self.fragments, step, term),
                })
                .collect();
            for (i, scores) in (0..).zip(scores.chunks_mut(2)) {
                let p = b.index_bytes(k, i * 16 * c.row_bytes() + step * 32);
                let keys = b.load_matrix(Type::F16.x(8), p, false);
                let halves = [b.low(keys), b.high(keys)];
                for (s, keys) in scores.iter_mut().zip(halves) {
                    for &q in &queries {
                        *s = b.mma(*s, q, keys);
                    }
                }
            }
        }
        scores
    }

    /// Scores with minus infinity where a row does not see a key; the first key is at position `first`.
    fn mask(&self, b: &mut KernelBuilder, first: Value, scores: &[Value]) -> Vec<Value> {
        let hidden = b.f32(4, f64::NEG_INFINITY);
        let first = b.trunc(first, Scalar::I32);
        let first = b.splat(first, 4);
        let seen = b.sub(self.seen, first);
        let window = (self.c.window > 0).then(|| {
            let window = b.int(Type::I32.x(4), self.c.window);
            b.sub(seen, window)
        });
        let one = |b: &mut KernelBuilder, i: i64, s: Value| {
            let key = b.int(Type::I32.x(4), 8 * i);
            let visible = b.cmp(Pred::Sle, key, seen);
            let s = b.select(visible, s, hidden);
            match window {
                None => s,
                Some(before) => {
                    let visible = b.cmp(Pred::Sgt, key, before);
                    b.select(visible, s, hidden)
                }
            }
        };
        (0..).zip(scores).map(|(i, &s)| one(b, i, s)).collect()
    }

    /// Adds weights times values.
    fn values(&self, b: &mut KernelBuilder, v: Value, weights: &[Value], mut sums: Vec<Value>) -> Vec<Value> {
        let c = self.c;
        for (i, weights) in (0..).zip(weights.chunks(2)) {
            let left = left_factors(b, weights, c.terms);
            for (j, sums) in (0..).zip(sums.chunks_mut(2)) {
                let p = b.index_bytes(v, i * 16 * c.row_bytes() + j * 32);
                let halves = match sums.len() {
                    1 => vec![b.load_matrix(Type::F16.x(4), p, true)],
                    _ => {
                        let both = b.load_matrix(Type::F16.x(8), p, true);
                        vec![b.low(both), b.high(both)]
                    }
                };
                for (s, values) in sums.iter_mut().zip(halves) {
                    for &w in &left {
                        *s = b.mma(*s, w, values);
                    }
                }
            }
        }
        sums
    }

    /// After the last tile.
    pub fn end(&self, b: &mut KernelBuilder, state: Vec<Value>) -> Found {
        let weight = [0, 2].map(|at| {
            let (x, y) = (b.extract(state[2], at), b.extract(state[2], at + 1));
            let sum = b.add(x, y);
            block::of_lanes(b, &[sum], 4, block::plus)[0]
        });
        Found { sums: state[3..].to_vec(), max: [state[0], state[1]], weight }
    }
}

/// What the two rows of a lane have, for the four elements of a sum.
fn pairs(b: &mut KernelBuilder, first: Value, second: Value) -> Value {
    let v = b.splat(first, 4);
    let v = b.insert(v, second, 2);
    b.insert(v, second, 3)
}

/// The weights of 16 keys, two sums of 8 keys each, as left factors of f16, one a term.
fn left_factors(b: &mut KernelBuilder, weights: &[Value], terms: u64) -> Vec<Value> {
    let halves: Vec<Vec<Value>> = weights.iter().map(|&w| block::f16_terms(b, w, terms)).collect();
    let term = |b: &mut KernelBuilder, term: usize| {
        // Pairs of f16 are moved as the registers they are in.
        let words = [0, 1].map(|i| b.bitcast(halves[i][term], Type::I32.x(2)));
        let word = b.extract(words[0], 0);
        let mut all = b.splat(word, 4);
        for at in 1..4 {
            let word = b.extract(words[at / 2], at as i64 % 2);
            all = b.insert(all, word, at as i64);
        }
        b.bitcast(all, Type::F16.x(8))
    };
    (0..terms as usize).map(|i| term(b, i)).collect()
}
