//! Rows of a packed table. A table that is also the head is kept once, in the order of tensor cores.

use super::block::{Thread, div_rem};
use super::product::Weights;
use crate::pack::{Fragments, ROWS, UNIT_K};
use crate::schedules::{Axis, Operands, Params, Schedule, Space, if_token, operands};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Scalar, Type, Value};

/// `embed`. Arguments: tokens, table, out; scalars: tokens. One block a token.
#[derive(Clone, Debug)]
pub struct Embed {
    /// Layout of the table.
    pub layout: Fragments,
    /// Elements a row, a multiple of 4.
    pub cols: u64,
    /// Bytes from row to row of the result.
    pub out_stride: u64,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Schedule for Embed {
    fn signature(&self) -> String {
        format!("gpu embed {:?} n{} ys{} t{}", self.layout, self.cols, self.out_stride, self.max_tokens)
    }

    fn space(&self) -> Space {
        vec![Axis { name: "threads", values: vec![128, 64, 256] }]
    }

    fn chunks(&self, _: &Params) -> u32 {
        self.max_tokens
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let threads = p["threads"];
        let mut b = KernelBuilder::of_blocks(name, threads as u32, 0);
        let ids = b.ptr_param("ids");
        let table = b.ptr_param("table");
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let t = Thread::start(&mut b);
        let token = b.chunk_id();
        if_token(&mut b, token, tokens, |b| {
            let id = b.index(ids, token, 4);
            let id = b.load(Type::I32, id, 0);
            let id = b.sext(id, Scalar::I64);
            let (panel, row) = div_rem(b, id, ROWS);
            let (half, g) = div_rem(b, row, 8);
            let out = b.index(out, token, self.out_stride as i64);
            // A thread does what lane 4 g + c would load of a unit, for one c: 16 elements of two rows, of which one is wanted.
            let (first, c) = div_rem(b, t.id, 4);
            let lane = b.mul_imm(g, 4);
            let lane = b.add(lane, c);
            let weights = Weights::new(b, &self.layout, self.cols, lane);
            let panel = weights.panel(b, table, panel);
            let scale = weights.row_scale(b, panel, row);
            let zero = b.i64(0);
            let upper = b.cmp(Pred::Eq, half, zero);
            let units = b.i64(self.cols.div_ceil(UNIT_K) as i64);
            b.for_(first, units, threads / 4, &[], |b, unit, _| {
                let raw = weights.load(b, panel, unit);
                for j in 0..4 {
                    let rows = weights.numbers(b, &raw, j);
                    let mut v = b.select(upper, rows[0], rows[1]);
                    if let Some(scale) = scale {
                        let scale = b.splat(scale, 4);
                        v = b.mul(v, scale);
                    }
                    self.store(b, v, out, unit, j, c);
                }
                vec![]
            });
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::gpu_embed(self)
    }
}

impl Embed {
    /// Four elements, unless the row has ended.
    fn store(&self, b: &mut KernelBuilder, v: Value, out: Value, unit: Value, j: usize, c: Value) {
        let k = b.mul_imm(unit, UNIT_K as i64);
        let k = b.add_imm(k, 16 * j as i64);
        let four = b.mul_imm(c, 4);
        let k = b.add(k, four);
        let end = b.i64(self.cols as i64);
        let inside = b.cmp(Pred::Slt, k, end);
        b.when(inside, |b| {
            let p = b.index(out, k, 4);
            b.store(v, p, 0);
        });
    }
}
