//! What becomes of the sums of a product, element by element.

use super::Product;
use crate::pack::ROWS;
use crate::schedules::Finish;
use tilewright_ir::kernel::{KernelBuilder, Type, Value};

/// The arguments behind the weights.
pub(super) struct Epilogue {
    finish: Finish,
    out_stride: u64,
    bias: Option<Value>,
    residual: Option<Value>,
    out: Value,
}

/// A row of the result.
pub(super) struct Row {
    at: Value,
    bias: Option<Value>,
}

impl Epilogue {
    /// Declares the parameters: bias, residual, out.
    pub(super) fn params(b: &mut KernelBuilder, p: &Product) -> Epilogue {
        let (bias, residual) = match p.finish {
            Finish::Sum { bias, residual } => (bias, residual.is_some()),
            Finish::Glu(_) => (false, false),
        };
        let bias = bias.then(|| b.ptr_param("bias"));
        let residual = residual.then(|| b.ptr_param("residual"));
        Epilogue { finish: p.finish, out_stride: p.out_stride, bias, residual, out: b.ptr_param("out") }
    }

    /// What is the same for all tokens of row `row` of panel `panel`.
    pub(super) fn row(&self, b: &mut KernelBuilder, panel: Value, row: Value) -> Row {
        let at = b.mul_imm(panel, ROWS as i64);
        let at = b.add(at, row);
        let bias = self.bias.map(|bias| {
            let p = b.index(bias, at, 4);
            b.load(Type::F32, p, 0)
        });
        Row { at, bias }
    }

    /// Writes a row for a token, from the sum of each weight. Rows beyond the matrix are written, too: results are whole
    /// panels.
    pub(super) fn finish(&self, b: &mut KernelBuilder, row: &Row, token: Value, sums: &[Value]) {
        let at = row.at;
        let y = match self.finish {
            Finish::Glu(function) => {
                let gate = function.apply(b, sums[0]);
                b.mul(gate, sums[1])
            }
            Finish::Sum { residual, .. } => {
                let mut y = sums[0];
                if let Some(bias) = row.bias {
                    y = b.add(y, bias);
                }
                if let (Some(r), Some(stride)) = (self.residual, residual) {
                    let p = b.index(r, token, stride as i64);
                    let p = b.index(p, at, 4);
                    let v = b.load(Type::F32, p, 0);
                    y = b.add(y, v);
                }
                y
            }
        };
        let p = b.index(self.out, token, self.out_stride as i64);
        let p = b.index(p, at, 4);
        b.store(y, p, 0);
    }
}
