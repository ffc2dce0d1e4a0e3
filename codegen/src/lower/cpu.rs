//! Which schedule computes a node on a CPU.

use super::{LowerError, LoweredCall, Lowering, attention};
use crate::pack::Layout;
use crate::schedules::{
    Activations, Attention, Embed, Finish, Gemm, Glu, KvWrite, Matmul, Quantize, Rounding, Schedule,
};
use tilewright_ir::graph::{Elem, NodeId, OpKind};
use tilewright_runtime::plan::{Arg, ScalarArg};

impl Lowering<'_> {
    fn activations(&self, n: NodeId) -> Result<(Arg, Activations), LowerError> {
        let (arg, stride) = self.value(n)?;
        Ok(match self.graph.ty(n).elem {
            Elem::Q8 => (arg, Activations::Q8),
            _ => (arg, Activations::F32 { stride }),
        })
    }

    /// Whether the product `n` is one of bf16.
    fn reads_bf16(&self, n: NodeId) -> bool {
        self.graph.operand(n, "x").is_some_and(|x| self.graph.ty(x).elem == Elem::BF16)
    }

    fn check_pair(&self, n: NodeId, layout: &Layout, x: Activations) -> Result<(), LowerError> {
        if x == Activations::Q8 && !layout.takes_q8() {
            return Err(self.fail(n, "int8 activations with float weights; keep this matmul on f32 activations"));
        }
        Ok(())
    }

    pub(super) fn on_cpu(&mut self, n: NodeId) -> Result<Option<LoweredCall>, LowerError> {
        let (g, tokens) = (self.graph, self.tokens);
        let op = g.node(n).op;
        if g.ty(n).elem.is_f16() || !matches!(g.word(n, "round").as_str(), "" | "none") {
            return Err(self.fail(n, "f16 activations are for GPU targets"));
        }
        let mut args = vec![];
        let mut scalars = vec![ScalarArg::Tokens];
        let mut weight_bytes = 0;
        let width = g.ty(n).width().unwrap_or(1);
        let schedule: Box<dyn Schedule + Send> = match op {
            OpKind::Input | OpKind::Weight | OpKind::RopeAngles | OpKind::Slice => return Ok(None),
            OpKind::Embed => {
                let table = self.operand(n, "table")?;
                let (w, layout, rows, cols, bytes) = self.matrix(table)?;
                let (out, out_stride) = self.value(n)?;
                args.extend([Arg::Tokens, w, out]);
                weight_bytes = bytes / rows.max(1);
                Box::new(Embed { layout, cols, out_stride, max_tokens: tokens })
            }
            OpKind::Quantize => {
                let x = self.operand(n, "x")?;
                let (xa, x_stride) = self.value(x)?;
                args.push(xa);
                let norm = match g.operand(n, "gamma") {
                    Some(gamma) => {
                        args.push(self.vector(gamma)?);
                        Some(g.float(n, "eps") as f32)
                    }
                    None => None,
                };
                args.push(self.value(n)?.0);
                let to = if g.ty(n).elem == Elem::BF16 { Rounding::Bf16 } else { Rounding::Q8 };
                Box::new(Quantize { width, x_stride, norm, to, max_tokens: tokens })
            }
            OpKind::Matmul => {
                let (xa, x) = self.activations(self.operand(n, "x")?)?;
                let bf16 = self.reads_bf16(n);
                let (w, layout, rows, cols, bytes) = self.matrix(self.operand(n, "w")?)?;
                self.check_pair(n, &layout, x)?;
                args.extend([xa, w]);
                weight_bytes = bytes;
                let bias = g.operand(n, "bias");
                if let Some(bias) = bias {
                    args.push(self.vector(bias)?);
                }
                let mut residual = None;
                if let Some(r) = g.operand(n, "residual") {
                    let (arg, stride) = self.value(r)?;
                    args.push(arg);
                    residual = Some(stride);
                }
                let (out, out_stride) = self.value(n)?;
                args.push(out);
                let bias = bias.is_some();
                if bf16 {
                    let finish = Finish::Sum { bias, residual };
                    let (weights, out_stride) = (vec![layout], Some(out_stride));
                    Box::new(Gemm { weights, rows, cols, finish, out_stride, max_tokens: tokens })
                } else {
                    Box::new(Matmul { layout, rows, cols, x, bias, residual, out_stride, max_tokens: tokens })
                }
            }
            OpKind::Glu => {
                let (xa, x) = self.activations(self.operand(n, "x")?)?;
                let (ga, gate, rows, cols, gate_bytes) = self.matrix(self.operand(n, "gate")?)?;
                let (ua, up, _, _, up_bytes) = self.matrix(self.operand(n, "up")?)?;
                self.check_pair(n, &gate, x)?;
                self.check_pair(n, &up, x)?;
                let (out, stride) = self.value(n)?;
                args.extend([xa, ga, ua, out]);
                weight_bytes = gate_bytes + up_bytes;
                let function = self.activation(n)?;
                let out_stride = (!g.flag(n, "quantize")).then_some(stride);
                if self.reads_bf16(n) {
                    let (weights, finish) = (vec![gate, up], Finish::Glu(function));
                    Box::new(Gemm { weights, rows, cols, finish, out_stride, max_tokens: tokens })
                } else if g.ty(n).elem == Elem::BF16 {
                    return Err(self.fail(n, "rounds to bf16 what it computes from something else"));
                } else {
                    Box::new(Glu { gate, up, rows, cols, x, function, out_stride, max_tokens: tokens })
                }
            }
            OpKind::KvWrite => {
                let (k_cache, v_cache, heads, head_dim) = self.cache(n)?;
                let (k, k_stride) = self.in_arena(n, "k")?;
                let (v, v_stride) = self.in_arena(n, "v")?;
                args.extend([k_cache, v_cache, k, v]);
                let prep = self.prep(n, "k_norm", &mut args)?;
                scalars.extend([ScalarArg::Past, ScalarArg::Capacity]);
                Box::new(KvWrite { heads, head_dim, k_stride, v_stride, prep, max_tokens: tokens })
            }
            OpKind::Attention => {
                let (k_cache, v_cache, _, head_dim) = self.cache(n)?;
                let (q, q_stride) = self.in_arena(n, "q")?;
                args.extend([q, k_cache, v_cache]);
                let prep = self.prep(n, "q_norm", &mut args)?;
                let (out, stride) = self.value(n)?;
                scalars.extend([ScalarArg::Past, ScalarArg::Capacity]);
                let quantize = g.flag(n, "quantize");
                if quantize && !head_dim.is_multiple_of(32) {
                    return Err(self.fail(n, format!("heads of {head_dim} cannot be rounded to blocks of 32")));
                }
                let out_stride = (!quantize).then_some(stride);
                let attention = Attention { q_stride, prep, out_stride, ..attention(g, n, tokens) };
                let params = (self.cx.params)(&attention);
                if let Some(combine) = attention.combine(&params) {
                    let parts = self.memory.scratch.get(&n).ok_or_else(|| self.fail(n, "has no scratch memory"))?;
                    let parts = Arg::Arena(*parts);
                    args.push(parts);
                    self.combine = Some(LoweredCall {
                        node: n,
                        label: format!("attention_combine {}", g.node(n).name).trim_end().to_string(),
                        params: (self.cx.params)(&combine),
                        schedule: Box::new(combine),
                        args: vec![parts, out],
                        scalars: vec![ScalarArg::Past],
                        weight_bytes: 0,
                    });
                } else {
                    args.push(out);
                }
                Box::new(attention)
            }
            _ => Box::new(self.rowwise(n, &mut args)?),
        };
        let params = (self.cx.params)(schedule.as_ref());
        let label = format!("{} {}", op.row().name, g.node(n).name).trim_end().to_string();
        Ok(Some(LoweredCall { node: n, label, schedule, params, args, scalars, weight_bytes }))
    }
}
