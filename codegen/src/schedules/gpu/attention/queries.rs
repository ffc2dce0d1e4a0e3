//! Queries of a block: norm, rotation, and f16 rows with a scale in shared memory.

use super::super::block::{self, Thread};
use super::super::head::Head;
use super::Rows;
use super::config::Config;
use tilewright_ir::kernel::{KernelBuilder, Type, Value};

/// Rows that a warp prepares together, so that they wait for memory once.
const TOGETHER: u64 = 4;

/// The f16 rows of the queries, one term after the other, and the scale of each row.
#[derive(Clone, Copy)]
pub(super) struct Queries {
    c: Config,
    rows: Value,
    scales: Value,
}

impl Queries {
    /// At the top level of a kernel.
    pub fn new(b: &mut KernelBuilder, c: Config) -> Queries {
        Queries { c, rows: b.shared(c.query_bytes() as i64), scales: b.shared(c.rows() as i64 * 4) }
    }

    /// Prepares the rows of the block; a barrier must follow. A row that the run does not have repeats the last.
    pub fn prepare(self, b: &mut KernelBuilder, t: Thread, head: Head, (q, stride): (Value, u64), rows: &Rows) {
        let c = self.c;
        let of_warp = c.rows() / u64::from(c.warps());
        let together = TOGETHER.min(of_warp);
        let begin = b.mul_imm(t.warp, of_warp as i64);
        let end = b.add_imm(begin, of_warp as i64);
        b.for_(begin, end, together as i64, &[], |b, first, _| {
            for i in 0..together {
                let row = b.add_imm(first, i as i64);
                let (token, query_head) = rows.clamped(b, row);
                let src = b.index(q, token, stride as i64);
                let src = b.index(src, query_head, c.hd as i64 * 4);
                self.row(b, t, head, row, token, src);
            }
            vec![]
        });
    }

    fn row(self, b: &mut KernelBuilder, t: Thread, head: Head, row: Value, token: Value, src: Value) {
        let c = self.c;
        let parts = head.load(b, t.lane, token, src);
        // Parts need not have equally many elements.
        let mut top = b.f32(1, 0.0);
        for part in &parts {
            let v = block::largest(b, &[part.values]);
            top = b.fmax(v, top);
        }
        let top = block::of_warp(b, top, block::larger);
        let (scale, inverse) = block::power_scale(b, top);
        let to = b.index(self.rows, row, c.row_bytes() as i64);
        for part in parts {
            let by = b.splat(inverse, b.ty(part.values).lanes);
            let v = b.mul(part.values, by);
            for (term, half) in (0..).zip(block::f16_terms(b, v, c.terms)) {
                let to = b.index_bytes(to, self.term(term));
                part.place.store(b, half, to);
            }
        }
        block::when_first(b, t.lane, |b| {
            let p = b.index(self.scales, row, 4);
            b.store(scale, p, 0);
            if c.padded() > c.hd {
                let zeros = b.int(Type::I32.x(4), 0);
                for term in 0..c.terms {
                    b.store(zeros, to, (self.term(term) + c.hd * 2) as i64);
                }
            }
        });
    }

    /// Bytes to the rows of a term.
    fn term(self, term: u64) -> u64 {
        term * self.c.rows() * self.c.row_bytes()
    }

    /// The rows of the 16 from `row` on, as this lane names them to `load_matrix`; the next 16 elements are 32 bytes on.
    pub fn fragments(self, b: &mut KernelBuilder, row: Value, lane_at: Value) -> Value {
        let p = b.index(self.rows, row, self.c.row_bytes() as i64);
        b.offset(p, lane_at)
    }

    /// Left factor: 16 rows, elements 16 `step` and the next 15, of a term.
    pub fn fragment(self, b: &mut KernelBuilder, fragments: Value, step: u64, term: u64) -> Value {
        let p = b.index_bytes(fragments, self.term(term) + step * 32);
        b.load_matrix(Type::F16.x(8), p, false)
    }

    /// Scale of row `row`.
    pub fn scale(self, b: &mut KernelBuilder, row: Value) -> Value {
        let p = b.index(self.scales, row, 4);
        b.load(Type::F32, p, 0)
    }
}
