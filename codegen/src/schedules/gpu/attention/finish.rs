//! The end of an attention: what warps found becomes one result, and what blocks found, too.

use super::super::block::{self, Thread};
use super::super::last::Last;
use super::Rows;
use super::config::Config;
use super::tile::Found;
use tilewright_ir::kernel::{KernelBuilder, Pred, Type, Value, WARP};

/// Loads of a merge that are under way together.
const TOGETHER: u64 = 4;

/// What a block needs in the end.
pub(super) struct Finish<'a> {
    pub c: Config,
    pub t: Thread,
    pub rows: &'a Rows,
    /// This block among those that divide the positions, and how many they are.
    pub part: Value,
    pub live: Value,
    /// Shared memory for the sums of warps, and for maximum and weight of their rows.
    pub memory: Value,
    pub states: Value,
}

/// A vector of a row of the block.
struct Item {
    /// Row of the block, and its elements: bytes of f32.
    row: Value,
    bytes: Value,
    /// True for one item of each row.
    first: Value,
}

impl Finish<'_> {
    /// Puts what this warp found into shared memory, where all see it afterwards.
    pub fn exchange(&self, b: &mut KernelBuilder, found: Found) {
        let stride = self.c.result_stride() as i64 * 4;
        let (group, of_four) = block::div_rem(b, self.t.lane, 4);
        let row = b.mul_imm(self.t.warp, 16);
        let row = b.add(row, group);
        let at = b.index(self.memory, row, stride);
        let at = b.index(at, of_four, 8);
        for (sum, bytes) in found.sums.into_iter().zip((0..).step_by(32)) {
            let (upper, lower) = (b.low(sum), b.high(sum));
            b.store(upper, at, bytes);
            b.store(lower, at, bytes + 8 * stride);
        }
        let state = b.index(self.states, row, 8);
        block::when_first(b, of_four, |b| {
            for (i, bytes) in [(0, 0), (1, 64)] {
                let pair = b.splat(found.max[i], 2);
                let pair = b.insert(pair, found.weight[i], 1);
                b.store(pair, state, bytes);
            }
        });
        b.barrier();
    }

    /// Writes the block's rows of the result, f32 rows `stride` bytes apart, if it is alone, or else what it found; then
    /// the last block merges. `record` is the number of the block's row tile among all.
    pub fn write(
        &self,
        b: &mut KernelBuilder,
        (out, stride): (Value, u64),
        split: Option<((Value, Value), Last)>,
        record: Value,
    ) {
        let Some(((parts, counters), last)) = split else {
            return self.write_result(b, out, stride);
        };
        let one = b.i64(1);
        let alone = b.cmp(Pred::Eq, self.live, one);
        let write_result = |b: &mut KernelBuilder| {
            self.write_result(b, out, stride);
            vec![]
        };
        b.if_(alone, write_result, |b| {
            let bytes = self.c.record_bytes() as i64;
            let first = b.index(parts, record, bytes * self.c.splits as i64);
            let mine = b.index(first, self.part, bytes);
            self.write_part(b, mine, stride);
            let counter = b.index(counters, record, 4);
            last.when(b, self.t, counter, self.live, |b| self.merge(b, first, out, stride));
            vec![]
        });
    }

    /// Elements of the vectors that results are written by.
    fn lanes(&self, stride: u64) -> u16 {
        block::lanes(&[stride, self.c.hd * 4], 4)
    }

    /// `body` for each vector of the block's rows that there are.
    fn each(&self, b: &mut KernelBuilder, stride: u64, body: impl FnOnce(&mut KernelBuilder, Item)) {
        let lanes = u64::from(self.lanes(stride));
        let of_row = self.c.hd / lanes;
        let left = b.sub(self.rows.total, self.rows.first);
        let most = b.i64(self.c.stored_rows() as i64);
        let rows = b.smin(left, most);
        let items = b.mul_imm(rows, of_row as i64);
        b.for_(self.t.id, items, i64::from(self.c.threads()), &[], |b, i, _| {
            let (row, column) = block::div_rem(b, i, of_row);
            let zero = b.i64(0);
            let first = b.cmp(Pred::Eq, column, zero);
            let bytes = b.mul_imm(column, lanes as i64 * 4);
            body(b, Item { row, bytes, first });
            vec![]
        });
    }

    /// Sums, maximum and weight of an item, from all warps that have its row.
    fn of_warps(&self, b: &mut KernelBuilder, item: &Item, lanes: u16) -> (Value, Value, Value) {
        let c = self.c;
        let (row_warp, in_16) = block::div_rem(b, item.row, 16);
        let first = b.mul_imm(row_warp, 16 * c.key_warps as i64);
        let first = b.add(first, in_16);
        let state = b.index(self.states, first, 8);
        let pairs: Vec<[Value; 2]> = (0..c.key_warps as i64)
            .map(|w| {
                let pair = b.load(Type::F32.x(2), state, w * 16 * 8);
                [b.extract(pair, 0), b.extract(pair, 1)]
            })
            .collect();
        let stride = c.result_stride() as i64 * 4;
        let sums = b.index(self.memory, first, stride);
        let sums = b.offset(sums, item.bytes);
        let mut max = pairs[0][0];
        for p in &pairs[1..] {
            max = b.fmax(p[0], max);
        }
        let (mut sum, mut weight) = (b.f32(lanes, 0.0), b.f32(1, 0.0));
        for (w, p) in (0..).zip(&pairs) {
            let d = b.sub(p[0], max);
            let share = b.exp2_approx(d);
            weight = b.fma(p[1], share, weight);
            let share = b.splat(share, lanes);
            let v = b.load(Type::F32.x(lanes), sums, w * 16 * stride);
            sum = b.fma(v, share, sum);
        }
        (sum, max, weight)
    }

    fn store(&self, b: &mut KernelBuilder, item: &Item, v: Value, out: Value, stride: u64) {
        let row = b.add(self.rows.first, item.row);
        let (token, head) = self.rows.of(b, row);
        let p = b.index(out, token, stride as i64);
        let p = b.index(p, head, self.c.hd as i64 * 4);
        let p = b.offset(p, item.bytes);
        b.store(v, p, 0);
    }

    fn write_result(&self, b: &mut KernelBuilder, out: Value, stride: u64) {
        let lanes = self.lanes(stride);
        self.each(b, stride, |b, item| {
            let (sum, _, weight) = self.of_warps(b, &item, lanes);
            let one = b.f32(1, 1.0);
            let inverse = b.div(one, weight);
            let inverse = b.splat(inverse, lanes);
            let v = b.mul(sum, inverse);
            self.store(b, &item, v, out, stride);
        });
    }

    /// Where the maximum and the weight of a row are in a record.
    fn state_at(&self) -> i64 {
        (self.c.stored_rows() * self.c.hd * 4) as i64
    }

    fn write_part(&self, b: &mut KernelBuilder, record: Value, stride: u64) {
        let lanes = self.lanes(stride);
        self.each(b, stride, |b, item| {
            let (sum, max, weight) = self.of_warps(b, &item, lanes);
            let p = b.index(record, item.row, self.c.hd as i64 * 4);
            let p = b.offset(p, item.bytes);
            b.store(sum, p, 0);
            b.when(item.first, |b| {
                let p = b.index(record, item.row, 8);
                let pair = b.splat(max, 2);
                let pair = b.insert(pair, weight, 1);
                b.store(pair, p, self.state_at());
            });
        });
    }

    /// Merges the records from `first` on.
    fn merge(&self, b: &mut KernelBuilder, first: Value, out: Value, stride: u64) {
        let (c, lanes) = (self.c, self.lanes(stride));
        let record = c.record_bytes() as i64;
        // Shares of the parts of each row, in shared memory that is free by now.
        let left = b.sub(self.rows.total, self.rows.first);
        let most = b.i64(c.stored_rows() as i64);
        let rows = b.smin(left, most);
        b.for_(self.t.warp, rows, i64::from(c.warps()), &[], |b, row, _| {
            let state = b.index(first, row, 8);
            let shares = b.index(self.memory, row, c.splits as i64 * 4);
            self.shares(b, state, record, shares);
            vec![]
        });
        b.barrier();
        self.each(b, stride, |b, item| {
            let from = b.index(first, item.row, c.hd as i64 * 4);
            let from = b.offset(from, item.bytes);
            let shares = b.index(self.memory, item.row, c.splits as i64 * 4);
            let (zero, none) = (b.i64(0), b.f32(lanes, 0.0));
            let last = b.add_imm(self.live, -1);
            let together = TOGETHER.min(c.splits);
            let sum = b.for_(zero, self.live, together as i64, &[none], |b, part, sum| {
                // One part too many is the last again, with a share of zero.
                let both: Vec<(Value, Value)> = (0..together as i64)
                    .map(|i| {
                        let share = b.index(shares, part, 4);
                        let share = b.load(Type::F32, share, i * 4);
                        let part = b.add_imm(part, i);
                        let part = b.smin(part, last);
                        let p = b.index(from, part, record);
                        (b.load(Type::F32.x(lanes), p, 0), share)
                    })
                    .collect();
                let mut sum = sum[0];
                for (v, share) in both {
                    let share = b.splat(share, lanes);
                    sum = b.fma(v, share, sum);
                }
                vec![sum]
            });
            self.store(b, &item, sum[0], out, stride);
        });
    }

    /// The share of each part in a row, by a warp, zero for parts that are not there: from the maxima and weights at
    /// `state`, `record` bytes apart.
    fn shares(&self, b: &mut KernelBuilder, state: Value, record: i64, shares: Value) {
        let rounds = self.c.splits.div_ceil(u64::from(WARP)) as i64;
        let nothing = [b.f32(1, f64::NEG_INFINITY), b.f32(1, 0.0)];
        let mut max = nothing[0];
        let mut parts = vec![];
        for round in 0..rounds {
            let part = b.add_imm(self.t.lane, round * i64::from(WARP));
            let there = b.cmp(Pred::Slt, part, self.live);
            let load = |b: &mut KernelBuilder| {
                let p = b.index(state, part, record);
                let pair = b.load(Type::F32.x(2), p, self.state_at());
                vec![b.extract(pair, 0), b.extract(pair, 1)]
            };
            let found = b.if_(there, load, |_| nothing.to_vec());
            max = b.fmax(found[0], max);
            parts.push((part, found));
        }
        let max = block::of_warp(b, max, block::larger);
        let mut all = nothing[1];
        let mut mine = vec![];
        for (part, found) in parts {
            let d = b.sub(found[0], max);
            let share = b.exp2_approx(d);
            all = b.fma(found[1], share, all);
            mine.push((part, share));
        }
        let all = block::of_warp(b, all, block::plus);
        let one = b.f32(1, 1.0);
        let inverse = b.div(one, all);
        for (part, share) in mine {
            let share = b.mul(share, inverse);
            let end = b.i64(self.c.splits as i64);
            let inside = b.cmp(Pred::Slt, part, end);
            b.when(inside, |b| {
                let p = b.index(shares, part, 4);
                b.store(share, p, 0);
            });
        }
    }
}
