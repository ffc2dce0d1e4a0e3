//! Everything that works row by row: what is left of a graph when a fusion is switched off or does not apply.
//!
//! Vectors are as wide as the row length allows, so nothing runs over the end of a row.

use super::qk::{RopeStyle, lanes_of, rotate};
use super::quantize::rms_factor;
use super::{Activation, Operands, Params, Schedule, if_token, operands};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Scalar, Type, Value};

/// Which operation.
#[derive(Clone, Debug, PartialEq)]
pub enum RowwiseOp {
    /// Arguments x, gamma: norm over groups of that many elements.
    RmsNorm {
        /// Elements a group.
        group: u64,
        /// Epsilon.
        eps: f32,
    },
    /// Arguments a, b; b's row stride, 0 for a vector added to each row.
    Add(u64),
    /// Arguments a, b; b's row stride.
    Mul(u64),
    /// Argument x.
    Scale(f32),
    /// Argument x.
    Softcap(f32),
    /// Argument x.
    Act(Activation),
    /// Argument x: columns from this one on.
    Slice(u64),
    /// Arguments x, angles.
    Rope {
        /// Heads in a row.
        heads: u64,
        /// Rotated pairs a head.
        pairs: u64,
        /// Layout of pairs.
        style: RopeStyle,
    },
    /// Argument x; the result is one i32 a row.
    Argmax,
}

/// A row-wise operation. Arguments as its kind says, then out; scalars: tokens. One chunk a token.
#[derive(Clone, Debug)]
pub struct Rowwise {
    /// Which.
    pub op: RowwiseOp,
    /// Elements of a row of the result (of x for `Argmax`).
    pub width: u64,
    /// Bytes from row to row of the first operand.
    pub x_stride: u64,
    /// Bytes from row to row of the result.
    pub out_stride: u64,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Schedule for Rowwise {
    fn signature(&self) -> String {
        format!("{:?} w{} xs{} ys{} t{}", self.op, self.width, self.x_stride, self.out_stride, self.max_tokens)
    }

    fn chunks(&self, _: &Params) -> u32 {
        self.max_tokens
    }

    fn build(&self, name: &str, _: &Params) -> Kernel {
        let mut b = KernelBuilder::new(name);
        let x = b.ptr_param("x");
        let second = match self.op {
            RowwiseOp::RmsNorm { .. } | RowwiseOp::Add(_) | RowwiseOp::Mul(_) | RowwiseOp::Rope { .. } => {
                Some(b.ptr_param("y"))
            }
            _ => None,
        };
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let token = b.chunk_id();
        if_token(&mut b, token, tokens, |b| {
            let x = b.index(x, token, self.x_stride as i64);
            let out = b.index(out, token, self.out_stride as i64);
            self.row(b, token, x, second, out);
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::rowwise(self)
    }
}

impl Rowwise {
    fn row(&self, b: &mut KernelBuilder, token: Value, x: Value, second: Option<Value>, out: Value) {
        let y = |b: &mut KernelBuilder, stride: u64| {
            let p = second.expect("declared for this op");
            if stride == 0 { p } else { b.index(p, token, stride as i64) }
        };
        match &self.op {
            RowwiseOp::RmsNorm { group, eps } => {
                let gamma = y(b, 0);
                let (lo, hi) = (b.i64(0), b.i64((self.width / group) as i64));
                b.for_(lo, hi, 1, &[], |b, g, _| {
                    let x = b.index(x, g, *group as i64 * 4);
                    let out = b.index(out, g, *group as i64 * 4);
                    let f = rms_factor(b, x, *group, *eps);
                    let lanes = lanes_of(*group);
                    map(b, *group, lanes, &[x, gamma], out, |b, v| {
                        let f = b.splat(f, lanes);
                        let n = b.mul(v[0], f);
                        b.mul(n, v[1])
                    });
                    vec![]
                });
            }
            RowwiseOp::Add(stride) => {
                let y = y(b, *stride);
                self.map(b, &[x, y], out, |b, v| b.add(v[0], v[1]));
            }
            RowwiseOp::Mul(stride) => {
                let y = y(b, *stride);
                self.map(b, &[x, y], out, |b, v| b.mul(v[0], v[1]));
            }
            RowwiseOp::Scale(k) => self.map(b, &[x], out, |b, v| {
                let k = b.float(b.ty(v[0]), f64::from(*k));
                b.mul(v[0], k)
            }),
            RowwiseOp::Softcap(cap) => self.map(b, &[x], out, |b, v| {
                let ty = b.ty(v[0]);
                let inv = b.float(ty, 1.0 / f64::from(*cap));
                let t = b.mul(v[0], inv);
                let t = b.tanh(t);
                let cap = b.float(ty, f64::from(*cap));
                b.mul(t, cap)
            }),
            RowwiseOp::Act(f) => self.map(b, &[x], out, |b, v| f.apply(b, v[0])),
            RowwiseOp::Slice(start) => {
                let x = b.index_bytes(x, start * 4);
                self.map(b, &[x], out, |_, v| v[0]);
            }
            RowwiseOp::Rope { heads, pairs, style } => {
                self.map(b, &[x], out, |_, v| v[0]);
                let table = y(b, pairs * 8);
                let (lo, hi) = (b.i64(0), b.i64(*heads as i64));
                let bytes = (self.width / heads * 4) as i64;
                b.for_(lo, hi, 1, &[], |b, head, _| {
                    let p = b.index(out, head, bytes);
                    rotate(b, *pairs, *style, table, p);
                    vec![]
                });
            }
            RowwiseOp::Argmax => self.argmax(b, x, out),
        }
    }

    fn map(
        &self,
        b: &mut KernelBuilder,
        from: &[Value],
        out: Value,
        f: impl Fn(&mut KernelBuilder, &[Value]) -> Value,
    ) {
        map(b, self.width, lanes_of(self.width), from, out, f);
    }

    /// Scalar, in order, so that the first of equals wins and a NaN never does.
    fn argmax(&self, b: &mut KernelBuilder, x: Value, out: Value) {
        let (lo, hi) = (b.i64(0), b.i64(self.width as i64));
        let best = b.f32(1, f64::from(f32::MIN));
        let none = b.i64(0);
        let found = b.for_(lo, hi, 1, &[best, none], |b, i, s| {
            let p = b.index(x, i, 4);
            let v = b.load(Type::F32, p, 0);
            let more = b.cmp(Pred::Sgt, v, s[0]);
            let v = b.select(more, v, s[0]);
            let i = b.select(more, i, s[1]);
            vec![v, i]
        });
        let id = b.trunc(found[1], Scalar::I32);
        b.store(id, out, 0);
    }
}

fn map(
    b: &mut KernelBuilder,
    width: u64,
    lanes: u16,
    from: &[Value],
    out: Value,
    f: impl Fn(&mut KernelBuilder, &[Value]) -> Value,
) {
    let (lo, hi) = (b.i64(0), b.i64(width as i64));
    b.for_(lo, hi, i64::from(lanes), &[], |b, i, _| {
        let values: Vec<Value> = from
            .iter()
            .map(|&p| {
                let p = b.index(p, i, 4);
                b.load(Type::F32.x(lanes), p, 0)
            })
            .collect();
        let v = f(b, &values);
        let p = b.index(out, i, 4);
        b.store(v, p, 0);
        vec![]
    });
}
