//! Attention over the f16 cache: scores, mask, softmax and values in one kernel, for one token and for many.
//!
//! A chunk computes some query heads of one K/V head for a few tokens: its *rows* share each load of a key or a value, which
//! costs a conversion and, in decode, memory bandwidth. Keys are taken in blocks with a running maximum, so the scratch
//! does not grow with the context.
//!
//! In decode there are few rows and many keys: the keys are split between chunks, whose partial results
//! [`AttentionCombine`] merges.
//!
//! | file | what |
//! |---|---|
//! | `tile.rs` | the rows of a chunk against one block of keys |
//! | `split.rs` | the positions a chunk sees, and where it puts a partial result |
//! | `combine.rs` | merging partial results |

mod combine;
mod split;
mod tile;

pub use combine::AttentionCombine;

use super::qk::{HeadPrep, lanes_of};
use super::quantize::Q8Rows;
use super::{Axis, Operands, Params, Schedule, Space, if_token, operands};
use split::Split;
use tile::Tile;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Type, Value};

/// Most query heads of a chunk: rows whose sums are in registers at once. A larger group is several chunks.
const MAX_HEADS: u64 = 8;
/// Rows of a chunk that are worth it: scores, sums and queries of 32 rows of 64 are 24 KiB.
const MAX_ROWS: u64 = 32;
/// Most parts of the keys of a token.
const MAX_SPLITS: u64 = 8;

/// `attention`. Arguments: q, k cache, v cache, `[angles]`, `[gamma]`, out; scalars: tokens, past, capacity.
///
/// With parameter `splits` above 1, `out` takes [`Attention::scratch_bytes`] of partial results, and a call of
/// [`Attention::combine`] follows.
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
        // 16 lanes keep 16 sums in registers, which is for machines with 32; fewer lanes keep 8.
        let lanes = Axis { name: "lanes", values: vec![16, 8, 4] };
        if self.max_tokens == 1 {
            // Four parts divide 3 K/V heads evenly between up to 4 workers; a part without keys ends at once.
            let splits = Axis { name: "splits", values: vec![4, 2, 1, MAX_SPLITS as i64] };
            return vec![lanes, Axis { name: "keys", values: vec![128, 64, 32] }, splits];
        }
        let (heads, _) = self.heads_of_chunk();
        let best = [16, 8, 4, 2].into_iter().find(|t| t * heads <= MAX_ROWS).unwrap_or(1) as i64;
        let mut tokens = vec![best];
        tokens.extend([16, 8, 4, 2, 1].into_iter().filter(|&t| t < best));
        vec![lanes, Axis { name: "keys", values: vec![64, 128, 32] }, Axis { name: "tokens", values: tokens }]
    }

    fn structural(&self) -> &'static [&'static str] {
        &["splits"]
    }

    fn operands(&self) -> Operands {
        operands::attention(self)
    }

    fn chunks(&self, p: &Params) -> u32 {
        let (_, parts) = self.heads_of_chunk();
        let tiles = self.max_tokens.div_ceil(param(p, "tokens") as u32);
        tiles * (self.kv_heads * parts) as u32 * param(p, "splits") as u32
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let (heads, parts) = self.heads_of_chunk();
        let mut b = KernelBuilder::new(name);
        let q = b.ptr_param("q");
        let k_cache = b.ptr_param("k_cache");
        let v_cache = b.ptr_param("v_cache");
        let args = self.prep.params(&mut b);
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let past = b.int_param("past");
        let capacity = b.int_param("capacity");
        let tile = Tile::new(&mut b, self, heads, p);
        let split = self.split(p);
        let hd = self.head_dim as i64;

        let chunk = b.chunk_id();
        let (rest, part_of_keys) = div_rem(&mut b, chunk, split.splits);
        let (tile_index, of_heads) = div_rem(&mut b, rest, self.kv_heads * parts);
        let first = b.mul_imm(tile_index, tile.tokens as i64);
        if_token(&mut b, first, tokens, |b| {
            let end = b.add_imm(first, tile.tokens as i64);
            let end = b.smin(end, tokens);
            let (from, to) = split.range(b, past, first, end, part_of_keys);
            let work = b.cmp(Pred::Slt, from, to);
            b.when(work, |b| {
                let (kv_head, part) = div_rem(b, of_heads, parts);
                let group = (self.heads / self.kv_heads) as i64;
                let head0 = b.mul_imm(kv_head, group);
                let head_end = b.add_imm(head0, group);
                let skip = b.mul_imm(part, heads as i64);
                let head0 = b.add(head0, skip);
                let rows = Rows { first, end, head0, head_end, ragged_heads: heads * parts > group as u64 };

                tile.each_row(b, |b, row, t, h| {
                    // A row beyond the last token or head repeats the last, and is not written.
                    let (token, head) = rows.clamped(b, t, h);
                    let src = b.index(q, token, self.q_stride as i64);
                    let src = b.index(src, head, hd * 4);
                    let dst = b.index(tile.query, row, hd * 4);
                    self.prep.apply(b, args, self.head_dim, token, src, dst, f64::from(self.scale));
                    tile.start(b, row);
                });

                let cache_row = b.mul(kv_head, capacity);
                let k_head = b.index(k_cache, cache_row, hd * 2);
                let v_head = b.index(v_cache, cache_row, hd * 2);
                b.for_(from, to, tile.keys, &[], |b, s0, _| {
                    let left = b.sub(to, s0);
                    let full = b.i64(tile.keys);
                    let n = b.smin(left, full);
                    // Blocks of 16 keys are as long as 16 rows: the offset of s0 is the same in both.
                    let k = b.index(k_head, s0, hd * 2);
                    let v = b.index(v_head, s0, hd * 2);
                    tile.score(b, k, n);
                    tile.each_row(b, |b, row, t, h| {
                        let (token, _) = rows.clamped(b, t, h);
                        let seen = b.add(past, token);
                        let seen = b.sub(seen, s0);
                        let seen = b.add_imm(seen, 1);
                        tile.softmax(b, row, n, seen, self.window, self.softcap);
                    });
                    tile.add_values(b, v, n);
                    vec![]
                });

                tile.each_row(b, |b, row, t, h| {
                    rows.when_live(b, &tile, t, h, |b, token, head| {
                        let acc = tile.acc_of(b, row);
                        let state = tile.state_of(b, row);
                        if split.splits > 1 {
                            split.store(b, out, head, part_of_keys, acc, state);
                        } else {
                            let sum = b.load(Type::F32, state, tile::SUM);
                            self.output().store(b, &acc, sum, out, token, head);
                        }
                    });
                });
            });
        });
        b.finish()
    }
}

impl Attention {
    /// Bytes of partial results, whatever the parameters; 0 if there never are any.
    pub fn scratch_bytes(heads: u64, head_dim: u64, max_tokens: u32) -> u64 {
        if max_tokens == 1 { heads * MAX_SPLITS * split::record_bytes(head_dim) } else { 0 }
    }

    /// What merges partial results, if these parameters make them.
    pub fn combine(&self, p: &Params) -> Option<AttentionCombine> {
        let split = self.split(p);
        (split.splits > 1).then_some(AttentionCombine { split, output: self.output(), heads: self.heads })
    }

    fn split(&self, p: &Params) -> Split {
        Split { splits: param(p, "splits") as u64, window: self.window, head_dim: self.head_dim }
    }

    fn output(&self) -> Output {
        Output { width: self.heads * self.head_dim, head_dim: self.head_dim, stride: self.out_stride }
    }

    /// Query heads of a chunk, and how many chunks have the heads of one K/V head.
    fn heads_of_chunk(&self) -> (u64, u64) {
        let group = self.heads / self.kv_heads;
        let parts = group.div_ceil(MAX_HEADS);
        (group.div_ceil(parts), parts)
    }
}

/// A parameter; 1 where this space does not have it.
fn param(p: &Params, name: &str) -> i64 {
    p.get(name).copied().unwrap_or(1)
}

/// Tokens and heads of a chunk.
struct Rows {
    first: Value,
    end: Value,
    head0: Value,
    head_end: Value,
    /// The last chunk of a group has fewer heads.
    ragged_heads: bool,
}

impl Rows {
    /// Token and head of row `(t, h)`, the last there is if there is no such row.
    fn clamped(&self, b: &mut KernelBuilder, t: Value, h: Value) -> (Value, Value) {
        let token = b.add(self.first, t);
        let last = b.add_imm(self.end, -1);
        let token = b.smin(token, last);
        let head = b.add(self.head0, h);
        if !self.ragged_heads {
            return (token, head);
        }
        let last = b.add_imm(self.head_end, -1);
        (token, b.smin(head, last))
    }

    /// Runs `then` if there is a row `(t, h)`.
    fn when_live(
        &self,
        b: &mut KernelBuilder,
        tile: &Tile,
        t: Value,
        h: Value,
        then: impl FnOnce(&mut KernelBuilder, Value, Value),
    ) {
        let token = b.add(self.first, t);
        let head = b.add(self.head0, h);
        let in_tokens = (tile.tokens > 1).then(|| b.cmp(Pred::Slt, token, self.end));
        let in_heads = self.ragged_heads.then(|| b.cmp(Pred::Slt, head, self.head_end));
        match (in_tokens, in_heads) {
            (None, None) => then(b, token, head),
            (Some(c), None) | (None, Some(c)) => b.when(c, |b| then(b, token, head)),
            (Some(c), Some(d)) => {
                let both = b.and(c, d);
                b.when(both, |b| then(b, token, head));
            }
        }
    }
}

/// Where results go.
#[derive(Clone, Debug)]
struct Output {
    width: u64,
    head_dim: u64,
    stride: Option<u64>,
}

impl Output {
    /// Lanes of the vectors that [`Output::store`] takes.
    fn lanes(&self) -> u16 {
        lanes_of(self.head_dim)
    }

    /// Stores the `values` of a head divided by `sum`.
    fn store(&self, b: &mut KernelBuilder, values: &[Value], sum: Value, out: Value, token: Value, head: Value) {
        let one = b.f32(1, 1.0);
        let inverse = b.div(one, sum);
        let lanes = self.lanes();
        let inverse = b.splat(inverse, lanes);
        let values: Vec<Value> = values.iter().map(|&v| b.mul(v, inverse)).collect();
        let hd = self.head_dim as i64;
        match self.stride {
            Some(stride) => {
                let row = b.index(out, token, stride as i64);
                let row = b.index(row, head, hd * 4);
                for (v, at) in values.into_iter().zip((0..).step_by(usize::from(lanes) * 4)) {
                    b.store(v, row, at);
                }
            }
            None => {
                let rows = Q8Rows { width: self.width };
                let row = b.index(out, token, rows.bytes() as i64);
                let unit0 = b.mul_imm(head, hd / 32);
                for (pair, i) in values.chunks_exact(2).zip(0..) {
                    let unit = b.add_imm(unit0, i);
                    rows.store_unit(b, [pair[0], pair[1]], row, unit);
                }
            }
        }
    }
}

/// Quotient and remainder of a number that is not negative.
fn div_rem(b: &mut KernelBuilder, a: Value, by: u64) -> (Value, Value) {
    if by == 1 {
        let zero = b.i64(0);
        return (a, zero);
    }
    if by.is_power_of_two() {
        let count = b.int(Type::I32, i64::from(by.trailing_zeros()));
        let mask = b.i64(by as i64 - 1);
        return (b.shr_u(a, count), b.and(a, mask));
    }
    let by = b.i64(by as i64);
    (b.div_s(a, by), b.rem_s(a, by))
}
