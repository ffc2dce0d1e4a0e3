//! Attention of one query head over the f16 cache: scores, mask, softmax and values in one kernel, for one token and for
//! many.
//!
//! Keys are taken in blocks of 64 with a running maximum, so the scratch does not grow with the context. Masked positions
//! are never visited: a token at position p sees `max(0, p - window + 1) ..= p`.

use super::qk::{HeadPrep, lanes_of};
use super::quantize::Q8Rows;
use super::{Axis, Operands, Params, Schedule, Space, operands};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Scalar, Type, Value};

/// Keys that are scored before their values are added.
const BLOCK: i64 = 64;
/// Below every score.
const LOWEST: f64 = -1e30;

/// `attention`. Arguments: q, k cache, v cache, [angles], [gamma], out; scalars: tokens, past, capacity.
/// A chunk is one head and a few tokens.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: u64,
    /// K/V heads.
    pub kv_heads: u64,
    /// Elements a head.
    pub head_dim: u64,
    /// Bytes from row to row of q.
    pub q_stride: u64,
    /// Norm and rotation of q.
    pub prep: HeadPrep,
    /// Factor on the scores.
    pub scale: f32,
    /// Positions seen, 0 = all.
    pub window: u64,
    /// Soft cap of the scores, 0 = none.
    pub softcap: f32,
    /// Bytes from row to row of an f32 result; `None` rounds to q8 rows.
    pub out_stride: Option<u64>,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Schedule for Attention {
    fn signature(&self) -> String {
        format!(
            "attention h{}/{} d{} qs{} {:?} scale{} win{} cap{} ys{:?} t{}",
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.q_stride,
            self.prep,
            self.scale,
            self.window,
            self.softcap,
            self.out_stride,
            self.max_tokens
        )
    }

    fn space(&self) -> Space {
        let tokens = if self.max_tokens > 1 { vec![8, 4, 16, 1] } else { vec![1] };
        vec![Axis { name: "tokens", values: tokens }]
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.heads as u32 * self.max_tokens.div_ceil(p["tokens"] as u32)
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let tile = p["tokens"];
        let hd = self.head_dim;
        let mut b = KernelBuilder::new(name);
        let q = b.ptr_param("q");
        let k_cache = b.ptr_param("k_cache");
        let v_cache = b.ptr_param("v_cache");
        let args = self.prep.params(&mut b);
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let past = b.int_param("past");
        let capacity = b.int_param("capacity");
        let query = b.local(hd as i64 * 4);
        let scores = b.local(BLOCK * 4);
        let acc = b.local(hd as i64 * 4);
        let chunk = b.chunk_id();
        let heads = b.i64(self.heads as i64);
        let tile_index = b.div_s(chunk, heads);
        let head = b.rem_s(chunk, heads);
        let share = b.i64((self.heads / self.kv_heads) as i64);
        let kv_head = b.div_s(head, share);
        let cache_row = b.mul(kv_head, capacity);
        let k_head = b.index(k_cache, cache_row, hd as i64 * 2);
        let v_head = b.index(v_cache, cache_row, hd as i64 * 2);
        let first = b.mul_imm(tile_index, tile);
        let end = b.add_imm(first, tile);
        let end = b.smin(end, tokens);
        b.for_(first, end, 1, &[], |b, token, _| {
            let q = b.index(q, token, self.q_stride as i64);
            let q = b.index(q, head, hd as i64 * 4);
            self.prep.apply(b, args, hd, token, q, query, f64::from(self.scale));
            let position = b.add(past, token);
            let end = b.add_imm(position, 1);
            let start = if self.window > 0 {
                let s = b.add_imm(end, -(self.window as i64));
                let zero = b.i64(0);
                b.smax(s, zero)
            } else {
                b.i64(0)
            };
            fill(b, acc, hd, 0.0);
            let lowest = b.f32(1, LOWEST);
            let zero = b.f32(1, 0.0);
            let state = b.for_(start, end, BLOCK, &[lowest, zero], |b, s0, state| {
                let left = b.sub(end, s0);
                let full = b.i64(BLOCK);
                let n = b.smin(left, full);
                let k = b.index(k_head, s0, hd as i64 * 2);
                let v = b.index(v_head, s0, hd as i64 * 2);
                fill(b, scores, BLOCK as u64, LOWEST);
                self.score(b, query, k, n, scores);
                let (m, l) = self.softmax(b, scores, state[0], state[1], acc);
                add_values(b, hd, scores, v, n, acc);
                vec![m, l]
            });
            let one = b.f32(1, 1.0);
            let inverse = b.div(one, state[1]);
            self.write(b, acc, inverse, out, token, head);
            vec![]
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::attention(self)
    }
}

impl Attention {
    /// `scores[s] = q . k[s]`, soft-capped, for `s < n`.
    fn score(&self, b: &mut KernelBuilder, query: Value, k: Value, n: Value, scores: Value) {
        let hd = self.head_dim;
        let lanes = lanes_of(hd).min(8);
        let zero = b.i64(0);
        b.for_(zero, n, 1, &[], |b, s, _| {
            let row = b.index(k, s, hd as i64 * 2);
            // Unrolled over the head: it is a small constant.
            let mut sums = [None, None];
            for i in 0..hd / u64::from(lanes) {
                let at = (i * u64::from(lanes)) as i64;
                let kv = b.load_f32(Scalar::F16, lanes, row, at * 2);
                let qv = b.load(Type::F32.x(lanes), query, at * 4);
                let sum = &mut sums[i as usize % 2];
                *sum = Some(match *sum {
                    Some(a) => b.fma(kv, qv, a),
                    None => b.mul(kv, qv),
                });
            }
            let mut v = sums[0].expect("a head has elements");
            if let Some(w) = sums[1] {
                v = b.add(v, w);
            }
            let v = if lanes > 1 { b.sum(v) } else { v };
            let p = b.index(scores, s, 4);
            b.store(v, p, 0);
            vec![]
        });
        if self.softcap > 0.0 {
            let end = b.i64(BLOCK);
            b.for_(zero, end, 8, &[], |b, s, _| {
                let p = b.index(scores, s, 4);
                let v = b.load(Type::F32.x(8), p, 0);
                let low = b.f32(8, LOWEST);
                let masked = b.cmp(Pred::Sle, v, low);
                let inv = b.f32(8, 1.0 / f64::from(self.softcap));
                let x = b.mul(v, inv);
                let t = b.tanh(x);
                let cap = b.f32(8, f64::from(self.softcap));
                let y = b.mul(t, cap);
                let y = b.select(masked, low, y);
                b.store(y, p, 0);
                vec![]
            });
        }
    }

    /// Turns scores into weights; rescales what was gathered under the old maximum. Gives the new maximum and sum.
    fn softmax(&self, b: &mut KernelBuilder, scores: Value, m: Value, l: Value, acc: Value) -> (Value, Value) {
        let zero = b.i64(0);
        let end = b.i64(BLOCK);
        let top = b.splat(m, 8);
        let top = b.for_(zero, end, 8, &[top], |b, s, top| {
            let p = b.index(scores, s, 4);
            let v = b.load(Type::F32.x(8), p, 0);
            vec![b.fmax(v, top[0])]
        });
        let m_new = b.max_lane(top[0]);
        let d = b.sub(m, m_new);
        let keep = b.exp(d);
        let none = b.f32(8, 0.0);
        let sums = b.for_(zero, end, 8, &[none], |b, s, sum| {
            let p = b.index(scores, s, 4);
            let v = b.load(Type::F32.x(8), p, 0);
            let top = b.splat(m_new, 8);
            let d = b.sub(v, top);
            let e = b.exp(d);
            b.store(e, p, 0);
            vec![b.add(sum[0], e)]
        });
        let sum = b.sum(sums[0]);
        let l_new = b.fma(l, keep, sum);
        let lanes = lanes_of(self.head_dim);
        let hd = b.i64(self.head_dim as i64);
        let moved = b.cmp(Pred::Sgt, m_new, m);
        b.when(moved, |b| {
            b.for_(zero, hd, i64::from(lanes), &[], |b, i, _| {
                let p = b.index(acc, i, 4);
                let v = b.load(Type::F32.x(lanes), p, 0);
                let k = b.splat(keep, lanes);
                let v = b.mul(v, k);
                b.store(v, p, 0);
                vec![]
            });
        });
        (m_new, l_new)
    }

    fn write(&self, b: &mut KernelBuilder, acc: Value, inverse: Value, out: Value, token: Value, head: Value) {
        let hd = self.head_dim;
        match self.out_stride {
            Some(stride) => {
                let row = b.index(out, token, stride as i64);
                let row = b.index(row, head, hd as i64 * 4);
                let lanes = lanes_of(hd);
                let (lo, hi) = (b.i64(0), b.i64(hd as i64));
                b.for_(lo, hi, i64::from(lanes), &[], |b, i, _| {
                    let p = b.index(acc, i, 4);
                    let v = b.load(Type::F32.x(lanes), p, 0);
                    let k = b.splat(inverse, lanes);
                    let v = b.mul(v, k);
                    let p = b.index(row, i, 4);
                    b.store(v, p, 0);
                    vec![]
                });
            }
            None => {
                let rows = Q8Rows { width: self.heads * hd };
                let row = b.index(out, token, rows.bytes() as i64);
                let blocks = hd as i64 / 32;
                let unit0 = b.mul_imm(head, blocks);
                for i in 0..blocks {
                    let block = [0, 64].map(|o| {
                        let v = b.load(Type::F32.x(16), acc, i * 128 + o);
                        let k = b.splat(inverse, 16);
                        b.mul(v, k)
                    });
                    let unit = b.add_imm(unit0, i);
                    rows.store_unit(b, block, row, unit);
                }
            }
        }
    }
}

fn fill(b: &mut KernelBuilder, p: Value, n: u64, v: f64) {
    let lanes = lanes_of(n);
    let v = b.f32(lanes, v);
    for i in 0..n / u64::from(lanes) {
        b.store(v, p, (i * u64::from(lanes) * 4) as i64);
    }
}

/// `acc += sum over s < n of p[s] v[s]`, in tiles of the head that stay in registers.
fn add_values(b: &mut KernelBuilder, hd: u64, scores: Value, v: Value, n: Value, acc: Value) {
    let lanes = [32u16, 16, 8, 4, 2, 1].into_iter().find(|&l| hd.is_multiple_of(u64::from(l))).unwrap_or(1);
    for tile in 0..hd / u64::from(lanes) {
        let at = (tile * u64::from(lanes)) as i64;
        let start = b.load(Type::F32.x(lanes), acc, at * 4);
        let zero = b.i64(0);
        let sum = b.for_(zero, n, 1, &[start], |b, s, sum| {
            let p = b.index(scores, s, 4);
            let p = b.load(Type::F32, p, 0);
            let p = b.splat(p, lanes);
            let row = b.index(v, s, hd as i64 * 2);
            let x = b.load_f32(Scalar::F16, lanes, row, at * 2);
            vec![b.fma(x, p, sum[0])]
        });
        b.store(sum[0], acc, at * 4);
    }
}
