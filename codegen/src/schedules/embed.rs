//! Rows of a packed table: the embedding. Reads single rows out of panels, so a table that is also the head is kept once.

use super::panel::{Codes, code_table, scalar, unit_bytes};
use super::{Operands, Params, Schedule, if_token, operands};
use crate::pack::{Layout, LevelLayout, QuantLayout, ROWS, UNIT};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Scalar, Type, Value};

/// `embed`. Arguments: tokens, table, out; scalars: tokens. One chunk a token.
#[derive(Clone, Debug)]
pub struct Embed {
    /// Layout of the table.
    pub layout: Layout,
    /// Elements a row.
    pub cols: u64,
    /// Bytes from row to row of the result.
    pub out_stride: u64,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Schedule for Embed {
    fn signature(&self) -> String {
        format!("embed {:?} n{} ys{} t{}", self.layout, self.cols, self.out_stride, self.max_tokens)
    }

    fn chunks(&self, _: &Params) -> u32 {
        self.max_tokens
    }

    fn build(&self, name: &str, _: &Params) -> Kernel {
        let mut b = KernelBuilder::new(name);
        let ids = b.ptr_param("ids");
        let table = b.ptr_param("table");
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let token = b.chunk_id();
        if_token(&mut b, token, tokens, |b| {
            let id = b.index(ids, token, 4);
            let id = b.load(Type::I32, id, 0);
            let id = b.sext(id, Scalar::I64);
            let rows = b.i64(ROWS as i64);
            let panel = b.div_s(id, rows);
            let row = b.rem_s(id, rows);
            let panel = b.index(table, panel, self.layout.panel_bytes(self.cols) as i64);
            let out = b.index(out, token, self.out_stride as i64);
            match &self.layout {
                Layout::Float(store) => {
                    let size = store.bytes() as i64;
                    let src = b.index(panel, row, size);
                    let (lo, hi) = (b.i64(0), b.i64(self.cols as i64));
                    b.for_(lo, hi, 1, &[], |b, k, _| {
                        let p = b.index(src, k, ROWS as i64 * size);
                        let v = b.load_f32(scalar(*store), 1, p, 0);
                        let o = b.index(out, k, 4);
                        b.store(v, o, 0);
                        vec![]
                    });
                }
                Layout::Fragments(_) => unreachable!("kernels for CPUs read panels"),
                Layout::Quant(q) => {
                    let units = (q.block / UNIT) as i64;
                    let (lo, hi) = (b.i64(0), b.i64((self.cols / q.block) as i64));
                    b.for_(lo, hi, 1, &[], |b, block, _| {
                        let base = b.index(panel, block, q.bytes as i64);
                        let out = b.index(out, block, q.block as i64 * 4);
                        let (lo, hi) = (b.i64(0), b.i64(units));
                        b.for_(lo, hi, 1, &[], |b, u, _| {
                            let out = b.index(out, u, UNIT as i64 * 4);
                            decode_unit(b, q, base, u, row, out);
                            vec![]
                        });
                        vec![]
                    });
                }
            }
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::embed(self)
    }
}

/// One scale level for group `g` of unit `u` of one row.
fn level(b: &mut KernelBuilder, q: &QuantLayout, l: &LevelLayout, base: Value, u: Value, g: u64, row: Value) -> Value {
    let p = b.index(base, row, l.store.bytes() as i64);
    let top = b.load_f32(scalar(l.store), 1, p, l.top as i64);
    let Some(at) = l.sub else { return top };
    let per_unit = UNIT / q.group;
    let p = b.offset(base, row);
    let p = b.index(p, u, (per_unit * ROWS) as i64);
    let s = b.load(Type::I8, p, (at + g * ROWS) as i64);
    let s = b.sext(s, Scalar::I32);
    let s = b.int_to_f(s, Scalar::F32);
    b.mul(top, s)
}

/// Writes the 32 floats of unit `u` of row `row` of the block at `base`.
fn decode_unit(b: &mut KernelBuilder, q: &QuantLayout, base: Value, u: Value, row: Value, out: Value) {
    let table = code_table(b, q);
    let p = b.index(base, u, unit_bytes(q) as i64);
    let p = b.index(p, row, 4);
    let p = b.index_bytes(p, q.codes);
    let mut codes = Codes::new(q, p, 0, 1, table);
    let zero = b.int(Type::I32.x(4), i64::from(q.zero));
    let per_unit = UNIT / q.group;
    for g in 0..per_unit {
        let s = level(b, q, &q.scale, base, u, g, row);
        let s = b.splat(s, 4);
        let m = q.min.as_ref().map(|m| level(b, q, m, base, u, g, row));
        for t in g * 8 / per_unit..(g + 1) * 8 / per_unit {
            let c = codes.dword(b, t);
            let c = b.zext(c, Scalar::I32);
            let c = b.add(c, zero);
            let c = b.int_to_f(c, Scalar::F32);
            let mut v = b.mul(c, s);
            if let Some(m) = m {
                let m = b.splat(m, 4);
                v = b.add(v, m);
            }
            b.store(v, out, t as i64 * 16);
        }
    }
}
