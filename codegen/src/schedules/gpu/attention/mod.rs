//! Attention over the f16 caches by tensor cores, in the manner of FlashAttention-2: scores, mask, softmax and values in one
//! kernel, for one token and for many.
//!
//! The rows of a block are pairs of a token and a query head of one K/V head's group, tokens outside, 16 rows a warp. They
//! share the keys and values that the block copies tile by tile to shared memory, some tiles ahead. Where there are few rows
//! several warps have the same ones, and each takes a part of the keys of every tile; where there are few blocks the
//! positions are split between several, of which the last merges the results.
//!
//! Queries and weights are f16 with a power-of-two scale, or with `terms` 2 the sum of two of them; sums are f32. Keys and
//! values are f16 as they are in the cache.
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | tiles, warps and memory that a point of the space means |
//! | `queries.rs` | norm, rotation and rounding of queries |
//! | `ring.rs` | copies of keys and values ahead of their use |
//! | `tile.rs` | 16 rows of a warp against the keys of a tile |
//! | `finish.rs` | results of warps, and of blocks, merged and written |

mod config;
mod finish;
mod queries;
mod ring;
mod tile;

use super::super::{self as cpu, Axis, Data, Operand, Operands, Params, Schedule, Space};
use super::block::{self, Thread};
use super::head::Head;
use super::last::Last;
use config::Config;
use finish::Finish;
use queries::Queries;
use ring::Ring;
use tile::Tile;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Value};

/// Largest head.
pub const MAX_HEAD_DIM: u64 = 256;
/// Blocks that a large GPU has room for at once: two on each of 132 multiprocessors.
const BLOCKS: u64 = 264;
/// Most row tiles of a K/V head for which it is worth to divide positions: with more there are blocks enough, and partial
/// results would be large.
const SPLIT_TILES: u64 = 4;

/// [`cpu::Attention`] by tensor cores. Arguments as there, with `splits` above 1 then parts ([`Attention::parts_bytes`])
/// and counters ([`Attention::counters_bytes`], zero and left so). The result is always f32 rows.
#[derive(Clone, Debug)]
pub struct Attention {
    op: cpu::Attention,
    terms: u64,
}

impl Attention {
    /// The schedule of `op` with queries and weights of one f16 term or two; if there is none, why.
    pub fn new(op: cpu::Attention, terms: u64) -> Result<Attention, String> {
        let hd = op.head_dim;
        if hd == 0 || !hd.is_multiple_of(8) || hd > MAX_HEAD_DIM {
            return Err(format!("heads of {hd} elements: a GPU takes multiples of 8 up to {MAX_HEAD_DIM}"));
        }
        if op.kv_heads == 0 || op.heads == 0 || !op.heads.is_multiple_of(op.kv_heads) {
            return Err(format!("{} query heads for {} K/V heads", op.heads, op.kv_heads));
        }
        if op.prep.rope.is_some_and(|(pairs, _)| 2 * pairs > hd) {
            return Err(format!("more rotated pairs than heads of {hd} elements have"));
        }
        match op.out_stride {
            None => Err("attention on a GPU has no int8 result".into()),
            Some(_) => Ok(Attention { op, terms }),
        }
    }

    /// Bytes of what blocks tell the last of them; 0 if positions are not split.
    pub fn parts_bytes(&self, p: &Params) -> u64 {
        self.most(p, |c| self.op.kv_heads * c.row_tiles * c.splits * c.record_bytes())
    }

    /// Bytes of counters; 0 if positions are not split.
    pub fn counters_bytes(&self, p: &Params) -> u64 {
        self.most(p, |c| self.op.kv_heads * c.row_tiles * 4)
    }

    /// Bytes that suffice however many rows a block takes: memory is laid out before tuning chooses that.
    fn most(&self, p: &Params, bytes: impl Fn(Config) -> u64) -> u64 {
        let rows = self.space().into_iter().filter(|a| a.name == "row_warps").flat_map(|a| a.values);
        let of = |row_warps: i64| {
            let c = Config::new(&self.op, &Params::from_iter(p.clone().into_iter().chain([("row_warps", row_warps)])));
            if c.splits > 1 { bytes(c) } else { 0 }
        };
        rows.map(of).max().unwrap_or(0)
    }
}

impl Schedule for Attention {
    fn signature(&self) -> String {
        format!("gpu {} terms{}", self.op.signature(), self.terms)
    }

    fn space(&self) -> Space {
        let rows = u64::from(self.op.max_tokens) * self.op.heads / self.op.kv_heads;
        let axis = |name, best: i64, others: &[i64]| {
            let others = others.iter().copied().filter(|&v| v != best);
            Axis { name, values: [best].into_iter().chain(others).collect() }
        };
        // Large heads in smaller tiles.
        let large = self.op.head_dim * self.terms > 128;
        let row_warps = rows.div_ceil(16).next_power_of_two().min(if large { 2 } else { 4 }) as i64;
        let tiles = rows.div_ceil(row_warps as u64 * 16);
        let splits = if tiles > SPLIT_TILES { 1 } else { BLOCKS / (self.op.kv_heads * tiles) };
        let splits = 1 << splits.clamp(1, 64).ilog2();
        let fewer: Vec<i64> = [1, 2].into_iter().filter(|&v| v < row_warps).collect();
        vec![
            axis("row_warps", row_warps, &fewer),
            axis("key_warps", 4 / row_warps, if row_warps == 1 { &[1, 2, 8] } else { &[1] }),
            // Tiles that every GPU has room for.
            axis("keys", [64, 32, 16][usize::from(self.op.head_dim > 64) + usize::from(large)], &[32, 64, 128, 16]),
            axis("stages", 2, &[3]),
            axis("splits", splits, if splits > 1 { &[1, 2, 4, 8, 16, 32, 64] } else { &[] }),
            axis("terms", self.terms as i64, &[1, 2]),
        ]
    }

    fn structural(&self) -> &'static [&'static str] {
        &["splits", "terms"]
    }

    fn preferred(&self) -> Vec<Params> {
        let keys: &[i64] = if self.op.head_dim > 128 { &[32] } else { &[32, 64] };
        keys.iter().map(|&n| [("keys", n)].into()).collect()
    }

    fn chunks(&self, p: &Params) -> u32 {
        let c = Config::new(&self.op, p);
        (self.op.kv_heads * c.row_tiles * c.splits) as u32
    }

    fn operands(&self) -> Operands {
        let p = super::super::defaults(&self.space());
        let mut operands = cpu::Attention { max_tokens: 2, ..self.op.clone() }.operands();
        operands.max_tokens = self.op.max_tokens;
        let (parts, counters) = (self.parts_bytes(&p), self.counters_bytes(&p));
        if parts > 0 {
            let scratch = [Data::Scratch(parts), Data::Counters(counters)];
            operands.pointers.extend(scratch.map(|data| Operand { data, written: true }));
        }
        Operands { terms: self.terms, together: Config::new(&self.op, &p).splits as u32, ..operands }
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let op = &self.op;
        let c = Config::new(op, p);
        // One block at least: a thread may have all registers that it can name.
        let mut b = KernelBuilder::of_blocks(name, c.threads(), 1);
        let q = b.ptr_param("q");
        let k_cache = b.ptr_param("k_cache");
        let v_cache = b.ptr_param("v_cache");
        let args = op.prep.params(&mut b);
        let out = b.ptr_param("out");
        let split = (c.splits > 1).then(|| (b.ptr_param("parts"), b.ptr_param("counters")));
        let tokens = b.int_param("tokens");
        let past = b.int_param("past");
        let capacity = b.int_param("capacity");
        let queries = Queries::new(&mut b, c);
        let ring_memory = b.shared(c.ring_bytes() as i64);
        let states = b.shared(i64::from(c.warps()) * 16 * 8);
        let last = split.map(|_| Last::new(&mut b));

        let t = Thread::start(&mut b);
        let chunk = b.chunk_id();
        let (rest, part) = block::div_rem(&mut b, chunk, c.splits);
        let (tile, kv_head) = block::div_rem(&mut b, rest, op.kv_heads);
        // Later rows see more keys: they begin first.
        let top = b.i64(c.row_tiles as i64 - 1);
        let tile = b.sub(top, tile);
        let rows = Rows::new(&mut b, c, tile, kv_head, tokens);
        let any = b.cmp(Pred::Slt, rows.first, rows.total);
        b.when(any, |b| {
            let span = Span::new(b, c, &rows, past, part);
            let work = b.cmp(Pred::Slt, span.from, span.to);
            b.when(work, |b| {
                let head_row = b.mul(kv_head, capacity);
                let [k, v] = [k_cache, v_cache].map(|p| b.index(p, head_row, c.hd as i64 * 2));
                let ring = Ring::new(b, c, t, ring_memory, [k, v], span.to);
                ring.begin(b, span.from);
                let head = Head { prep: op.prep, args, hd: c.hd };
                queries.prepare(b, t, head, (q, op.q_stride), &rows);
                b.barrier();
                let tile = Tile::new(b, c, t, &queries, &rows, past);
                let none = tile.start(b);
                let sums = ring.each(b, span.from, none, |b, s0, keys, sums| {
                    let masked = span.is_ragged(b, c, s0);
                    tile.step(b, s0, keys, masked, sums)
                });
                let finish = Finish { c, t, rows: &rows, part, live: span.live, memory: ring_memory, states };
                let found = tile.end(b, sums);
                finish.exchange(b, found);
                finish.write(b, (out, op.out_stride.unwrap_or(0)), split.zip(last), rest);
            });
        });
        b.finish()
    }
}

/// The rows of a block: row `r` of a K/V head is token `r / group`, query head `r % group` of its group.
struct Rows {
    first: Value,
    /// Rows of the run.
    total: Value,
    /// Tokens of the first and the last row.
    first_token: Value,
    last_token: Value,
    /// First query head of the group.
    head0: Value,
    group: u64,
}

impl Rows {
    fn new(b: &mut KernelBuilder, c: Config, tile: Value, kv_head: Value, tokens: Value) -> Rows {
        let first = b.mul_imm(tile, c.rows() as i64);
        let total = b.mul_imm(tokens, c.group as i64);
        let end = b.add_imm(first, c.rows() as i64);
        let end = b.smin(end, total);
        let last = b.add_imm(end, -1);
        let (first_token, _) = block::div_rem(b, first, c.group);
        let (last_token, _) = block::div_rem(b, last, c.group);
        Rows { first, total, first_token, last_token, head0: b.mul_imm(kv_head, c.group as i64), group: c.group }
    }

    /// Token and query head of row `row` of the block; of the last of the run if there is no such row.
    fn clamped(&self, b: &mut KernelBuilder, row: Value) -> (Value, Value) {
        let row = b.add(self.first, row);
        let last = b.add_imm(self.total, -1);
        let row = b.smin(row, last);
        self.of(b, row)
    }

    /// Token and query head of row `row` of the run.
    fn of(&self, b: &mut KernelBuilder, row: Value) -> (Value, Value) {
        let (token, head) = block::div_rem(b, row, self.group);
        (token, b.add(self.head0, head))
    }
}

/// The positions that a block looks at.
struct Span {
    from: Value,
    to: Value,
    /// Blocks that have positions, of those that divide them between them.
    live: Value,
    /// All rows see positions below this one.
    seen_by_all: Value,
    /// All rows see positions from this one on; `None` without a window.
    seen_from: Option<Value>,
}

impl Span {
    fn new(b: &mut KernelBuilder, c: Config, rows: &Rows, past: Value, part: Value) -> Span {
        let [first, last] = [rows.first_token, rows.last_token].map(|token| b.add(past, token));
        let (to, seen_by_all) = (b.add_imm(last, 1), b.add_imm(first, 1));
        let zero = b.i64(0);
        let (mut from, mut seen_from) = (zero, None);
        if c.window > 0 {
            seen_from = Some(b.add_imm(to, -c.window));
            let begin = b.add_imm(seen_by_all, -c.window);
            let begin = b.smax(begin, zero);
            let mask = b.i64(-(c.keys as i64));
            from = b.and(begin, mask);
        }
        let one = b.i64(1);
        if c.splits == 1 {
            return Span { from, to, live: one, seen_by_all, seen_from };
        }
        let up = |b: &mut KernelBuilder, n: Value, by: u64| {
            let n = b.add_imm(n, by as i64 - 1);
            block::div_rem(b, n, by).0
        };
        let length = b.sub(to, from);
        let tiles = up(b, length, c.keys);
        let share = up(b, tiles, c.splits);
        let live = b.add(tiles, share);
        let live = b.add_imm(live, -1);
        let live = b.div_s(live, share);
        let share = b.mul_imm(share, c.keys as i64);
        let skip = b.mul(part, share);
        let from = b.add(from, skip);
        let end = b.add(from, share);
        Span { from, to: b.smin(to, end), live, seen_by_all, seen_from }
    }

    /// Whether some row does not see all keys of the tile at `s0`.
    fn is_ragged(&self, b: &mut KernelBuilder, c: Config, s0: Value) -> Value {
        let end = b.add_imm(s0, c.keys as i64);
        let after = b.cmp(Pred::Sgt, end, self.seen_by_all);
        match self.seen_from {
            None => after,
            Some(from) => {
                let before = b.cmp(Pred::Slt, s0, from);
                b.or(after, before)
            }
        }
    }
}
