//! Positions and partial results: which keys a chunk sees, and where it leaves what it found.

use super::div_rem;
use super::tile::{MAX, SUM};
use crate::schedules::qk::lanes_of;
use tilewright_ir::kernel::{KernelBuilder, Type, Value};
use tilewright_runtime::plan::KEY_BLOCK;

/// A part is a multiple of so many positions: whole blocks of keys of any length, so that how long they are does not
/// change what a part is.
const PART: i64 = 128;

/// How the positions that a token sees are divided.
#[derive(Clone, Debug)]
pub(super) struct Split {
    pub splits: u64,
    pub window: u64,
    pub head_dim: u64,
}

/// Bytes of one partial result: the sums of a head, then on a line of its own maximum and sum of the weights.
pub(super) fn record_bytes(head_dim: u64) -> u64 {
    (head_dim * 4).next_multiple_of(64) + 64
}

impl Split {
    /// First position and end of part `part` of what tokens `first .. end` of a run see. The first is at the beginning of
    /// a block of keys in the cache; a part that has no keys ends where or before it begins.
    pub fn range(&self, b: &mut KernelBuilder, past: Value, first: Value, end: Value, part: Value) -> (Value, Value) {
        let (from, to) = self.seen(b, past, first, end);
        if self.splits == 1 {
            return (from, to);
        }
        let share = self.share(b, from, to);
        let skip = b.mul(part, share);
        let start = b.add(from, skip);
        let stop = b.add(start, share);
        (start, b.smin(to, stop))
    }

    /// Parts with keys, for the token at position `past`.
    pub fn live(&self, b: &mut KernelBuilder, past: Value) -> Value {
        let (zero, one) = (b.i64(0), b.i64(1));
        let (from, to) = self.seen(b, past, zero, one);
        let share = self.share(b, from, to);
        let length = b.sub(to, from);
        let up = b.add(length, share);
        let up = b.add_imm(up, -1);
        b.div_s(up, share)
    }

    fn seen(&self, b: &mut KernelBuilder, past: Value, first: Value, end: Value) -> (Value, Value) {
        let to = b.add(past, end);
        let zero = b.i64(0);
        if self.window == 0 {
            return (zero, to);
        }
        let position = b.add(past, first);
        let from = b.add_imm(position, 1 - self.window as i64);
        let from = b.smax(from, zero);
        let mask = b.i64(-i64::from(KEY_BLOCK));
        (b.and(from, mask), to)
    }

    /// Positions of a part.
    fn share(&self, b: &mut KernelBuilder, from: Value, to: Value) -> Value {
        let all = self.splits * PART as u64;
        let length = b.sub(to, from);
        let up = b.add_imm(length, all as i64 - 1);
        let (blocks, _) = div_rem(b, up, all);
        b.mul_imm(blocks, PART)
    }

    fn record(&self, b: &mut KernelBuilder, scratch: Value, head: Value, part: Value) -> Value {
        let index = b.mul_imm(head, self.splits as i64);
        let index = b.add(index, part);
        b.index(scratch, index, record_bytes(self.head_dim) as i64)
    }

    fn state_at(&self) -> i64 {
        record_bytes(self.head_dim) as i64 - 64
    }

    /// Stores the sums `acc` of part `part`, and the maximum and the sum that `state` points to.
    pub fn store(
        &self,
        b: &mut KernelBuilder,
        scratch: Value,
        head: Value,
        part: Value,
        acc: Vec<Value>,
        state: Value,
    ) {
        let record = self.record(b, scratch, head, part);
        let bytes = usize::from(lanes_of(self.head_dim)) * 4;
        for (v, at) in acc.into_iter().zip((0..).step_by(bytes)) {
            b.store(v, record, at);
        }
        for at in [MAX, SUM] {
            let v = b.load(Type::F32, state, at);
            b.store(v, record, self.state_at() + at);
        }
    }

    /// Maximum of a partial result.
    pub fn load_max(&self, b: &mut KernelBuilder, scratch: Value, head: Value, part: Value) -> Value {
        let record = self.record(b, scratch, head, part);
        b.load(Type::F32, record, self.state_at() + MAX)
    }

    /// Sums, maximum and sum of the weights of a partial result.
    pub fn load(
        &self,
        b: &mut KernelBuilder,
        scratch: Value,
        head: Value,
        part: Value,
        lanes: u16,
    ) -> (Vec<Value>, Value, Value) {
        let record = self.record(b, scratch, head, part);
        let count = self.head_dim / u64::from(lanes);
        let bytes = i64::from(lanes) * 4;
        let acc = (0..count as i64).map(|i| b.load(Type::F32.x(lanes), record, i * bytes)).collect();
        let max = b.load(Type::F32, record, self.state_at() + MAX);
        let sum = b.load(Type::F32, record, self.state_at() + SUM);
        (acc, max, sum)
    }
}
