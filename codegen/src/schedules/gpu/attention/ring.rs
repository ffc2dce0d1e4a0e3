//! Tiles of keys and values in shared memory, copied some tiles ahead of their use.

use super::super::block::{self, Thread};
use super::config::Config;
use tilewright_ir::kernel::{KernelBuilder, Pred, Type, Value};

/// Bytes of a copy.
const COPY: u64 = 16;

/// Keys and values of a tile in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub keys: Value,
    pub values: Value,
}

/// The stages, and where they are filled from.
pub(super) struct Ring {
    c: Config,
    memory: Value,
    /// Keys and values of the head.
    from: [Value; 2],
    /// End of the positions.
    to: Value,
    /// First row of a tile that this thread copies, bytes from its start, and from the tile's.
    row: Value,
    at: Value,
    at_shared: Value,
    /// Threads that copy a row together, and rows that the block copies at once.
    of_row: u64,
    rows: u64,
}

impl Ring {
    pub fn new(b: &mut KernelBuilder, c: Config, t: Thread, memory: Value, from: [Value; 2], to: Value) -> Ring {
        let threads = u64::from(c.threads());
        let copies = c.hd * 2 / COPY;
        // As many threads as divide a row evenly, or more where there are more than rows.
        let even = 1 << copies.trailing_zeros();
        let of_row = threads.min(even.max(threads / c.keys));
        let (row, part) = block::div_rem(b, t.id, of_row);
        let at = b.mul_imm(part, COPY as i64);
        let row_at = b.mul_imm(row, c.row_bytes() as i64);
        let at_shared = b.add(row_at, at);
        let ring = Ring { c, memory, from, to, row, at, at_shared, of_row, rows: threads / of_row };
        ring.clear_padding(b, t);
        ring
    }

    /// Zeros behind the elements of keys: what is there is multiplied.
    fn clear_padding(&self, b: &mut KernelBuilder, t: Thread) {
        let c = self.c;
        if c.padded() == c.hd {
            return;
        }
        let zeros = b.int(Type::I32.x(4), 0);
        let end = b.i64((c.stages * c.keys) as i64);
        b.for_(t.id, end, i64::from(c.threads()), &[], |b, i, _| {
            let (stage, row) = block::div_rem(b, i, c.keys);
            let p = b.index(self.memory, stage, c.stage_bytes() as i64);
            let p = b.index(p, row, c.row_bytes() as i64);
            b.store(zeros, p, c.hd as i64 * 2);
            vec![]
        });
    }

    /// Begins to copy the tile at position `s0` to the stage at `stage` bytes. Positions behind the end repeat the last:
    /// their values are multiplied with zero, and what lies there may be no number.
    fn copy(&self, b: &mut KernelBuilder, s0: Value, stage: Value) {
        let c = self.c;
        let last = b.add_imm(self.to, -1);
        let stage = b.offset(self.memory, stage);
        let stage = b.offset(stage, self.at_shared);
        let copies = c.hd * 2 / COPY;
        for pass in 0..c.keys.div_ceil(self.rows) {
            let row = b.add_imm(self.row, (pass * self.rows) as i64);
            let position = b.add(s0, row);
            let position = b.smin(position, last);
            let bytes = b.mul_imm(position, c.hd as i64 * 2);
            let bytes = b.add(bytes, self.at);
            for (half, from) in (0..).zip(self.from) {
                let from = b.offset(from, bytes);
                let to = b.index_bytes(stage, pass * self.rows * c.row_bytes() + half * c.half_stage());
                for i in 0..copies.div_ceil(self.of_row) {
                    let more = i * self.of_row * COPY;
                    let copy = |b: &mut KernelBuilder| {
                        let (to, from) = (b.index_bytes(to, more), b.index_bytes(from, more));
                        b.copy_async(to, from, COPY as i64);
                    };
                    if (i + 1) * self.of_row <= copies {
                        copy(b);
                    } else {
                        let end = b.i64((c.hd * 2 - more) as i64);
                        let inside = b.cmp(Pred::Slt, self.at, end);
                        b.when(inside, copy);
                    }
                }
            }
        }
    }

    /// Tiles that are under way while one is used.
    fn ahead(&self) -> u64 {
        self.c.stages - 1
    }

    /// Begins to copy the first tiles of those from position `from` on.
    pub fn begin(&self, b: &mut KernelBuilder, from: Value) {
        for i in 0..self.ahead() {
            let s0 = b.add_imm(from, (i * self.c.keys) as i64);
            let stage = b.i64((i * self.c.stage_bytes()) as i64);
            let there = b.cmp(Pred::Slt, s0, self.to);
            b.when(there, |b| self.copy(b, s0, stage));
            b.copy_commit();
        }
    }

    /// `step` for each tile, by its position; it takes and gives `init`. Nothing is under way afterwards, and the memory is
    /// free.
    pub fn each(
        &self,
        b: &mut KernelBuilder,
        from: Value,
        init: Vec<Value>,
        step: impl FnOnce(&mut KernelBuilder, Value, Keys, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let c = self.c;
        let size = c.stage_bytes() as i64;
        let mut all = vec![b.i64(0), b.i64(self.ahead() as i64 * size)];
        all.extend(init);
        let mut all = b.for_(from, self.to, c.keys as i64, &all, |b, s0, all| {
            let (read, write) = (all[0], all[1]);
            // The tile is there for all threads, and all are done with the one before, whose memory is filled next.
            b.copy_wait(self.ahead() as i64 - 1);
            b.barrier();
            let next = b.add_imm(s0, (self.ahead() * c.keys) as i64);
            let there = b.cmp(Pred::Slt, next, self.to);
            b.when(there, |b| self.copy(b, next, write));
            b.copy_commit();
            let keys = b.offset(self.memory, read);
            let values = b.index_bytes(keys, c.half_stage());
            let mut out = [read, write].map(|stage| self.after(b, stage)).to_vec();
            out.extend(step(b, s0, Keys { keys, values }, &all[2..]));
            out
        });
        // All copies that began were waited for: what was committed last is empty.
        b.barrier();
        all.split_off(2)
    }

    fn after(&self, b: &mut KernelBuilder, stage: Value) -> Value {
        let next = b.add_imm(stage, self.c.stage_bytes() as i64);
        let (end, zero) = (b.i64((self.c.stages * self.c.stage_bytes()) as i64), b.i64(0));
        let over = b.cmp(Pred::Sge, next, end);
        b.select(over, zero, next)
    }
}
