//! Which schedule computes a node on a GPU.

use super::{LowerError, LoweredCall, Lowering, attention};
use crate::pack::{Fragments, Layout};
use crate::schedules::gpu::{Attention, Embed, F16Rows, Input, KvWrite, Product, Round, Rowwise};
use crate::schedules::{self, Finish, Schedule, defaults};
use tilewright_ir::graph::{Elem, NodeId, OpKind};
use tilewright_runtime::plan::{Arg, ScalarArg};

/// Terms of f16 that a rounding stands for; `None` for other roundings.
fn terms(kind: &str) -> Option<u64> {
    match kind {
        "f16" => Some(1),
        "f16x2" => Some(2),
        _ => None,
    }
}

impl Lowering<'_> {
    /// A matrix in the order of tensor cores: argument, layout, rows, columns, bytes.
    fn fragments(&mut self, n: NodeId, role: &str) -> Result<(Arg, Fragments, u64, u64, u64), LowerError> {
        let w = self.operand(n, role)?;
        match self.matrix(w)? {
            (arg, Layout::Fragments(f), rows, cols, bytes) if cols.is_multiple_of(4) => Ok((arg, f, rows, cols, bytes)),
            (_, Layout::Fragments(_), ..) => Err(self.fail(n, "rows are no multiple of 4 elements")),
            _ => Err(self.fail(n, "a weight is packed for a CPU")),
        }
    }

    /// The activations of a product: argument, how they are read, and gamma's argument.
    fn input(&mut self, n: NodeId) -> Result<(Arg, Input, Option<Arg>), LowerError> {
        let g = self.graph;
        let x = self.operand(n, "x")?;
        let (arg, stride) = self.value(x)?;
        let width = g.ty(x).width().unwrap_or(0);
        let rounded = |terms: u32| Input::Rounded(F16Rows { width, terms });
        Ok(match g.ty(x).elem {
            Elem::F16 => (arg, rounded(1), None),
            Elem::F16Pair => (arg, rounded(2), None),
            Elem::F32 => {
                let what = "products on a GPU round their activations to f16; no rounding is stated";
                let terms = terms(&g.word(n, "round")).ok_or_else(|| self.fail(n, what))?;
                let gamma = g.operand(n, "gamma").map(|gamma| self.vector(gamma)).transpose()?;
                let norm = gamma.map(|_| g.float(n, "eps") as f32);
                (arg, Input::Rows { stride, norm, terms }, gamma)
            }
            _ => return Err(self.fail(n, "int8 and bf16 activations are for CPUs")),
        })
    }

    /// The call that computes `n`; none if it is not computed.
    pub(super) fn on_gpu(&mut self, n: NodeId) -> Result<Option<LoweredCall>, LowerError> {
        let (g, tokens) = (self.graph, self.tokens);
        let op = g.node(n).op;
        let mut args = vec![];
        let mut scalars = vec![ScalarArg::Tokens];
        let mut weight_bytes = 0;
        let width = g.ty(n).width().unwrap_or(1);
        let schedule: Box<dyn Schedule + Send> = match op {
            OpKind::Input | OpKind::Weight | OpKind::RopeAngles | OpKind::Slice => return Ok(None),
            OpKind::Embed => {
                let (w, layout, rows, cols, bytes) = self.fragments(n, "table")?;
                let (out, out_stride) = self.value(n)?;
                args.extend([Arg::Tokens, w, out]);
                weight_bytes = bytes / rows.max(1);
                Box::new(Embed { layout, cols, out_stride, max_tokens: tokens })
            }
            OpKind::Quantize => {
                let kind = g.word(n, "to");
                let terms = terms(&kind).ok_or_else(|| self.fail(n, format!("rounding to {kind} is for CPUs")))?;
                let (xa, x_stride) = self.in_arena(n, "x")?;
                args.push(xa);
                let mut norm = None;
                if let Some(gamma) = g.operand(n, "gamma") {
                    args.push(self.vector(gamma)?);
                    norm = Some(g.float(n, "eps") as f32);
                }
                args.push(self.value(n)?.0);
                Box::new(Round { width, x_stride, norm, terms: terms as u32, max_tokens: tokens })
            }
            OpKind::Matmul | OpKind::Glu => {
                let (xa, x, gamma) = self.input(n)?;
                args.push(xa);
                let roles: &[&str] = if op == OpKind::Glu { &["gate", "up"] } else { &["w"] };
                let (mut weights, mut size) = (vec![], (0, 0));
                for role in roles {
                    let (w, layout, rows, cols, bytes) = self.fragments(n, role)?;
                    args.push(w);
                    weights.push(layout);
                    size = (rows, cols);
                    weight_bytes += bytes;
                }
                args.extend(gamma);
                let finish = if op == OpKind::Glu {
                    if g.flag(n, "quantize") {
                        return Err(self.fail(n, "a GPU does not round what a product gives"));
                    }
                    Finish::Glu(self.activation(n)?)
                } else {
                    let bias = g.operand(n, "bias").map(|b| self.vector(b)).transpose()?;
                    args.extend(bias);
                    let residual = g.operand(n, "residual").map(|r| self.value(r)).transpose()?;
                    args.extend(residual.map(|r| r.0));
                    Finish::Sum { bias: bias.is_some(), residual: residual.map(|r| r.1) }
                };
                let (out, out_stride) = self.value(n)?;
                args.push(out);
                let (rows, cols) = size;
                Box::new(Product { weights, rows, cols, x, finish, out_stride, max_tokens: tokens })
            }
            OpKind::KvWrite => {
                let (k_cache, v_cache, heads, head_dim) = self.cache(n)?;
                let (k, k_stride) = self.in_arena(n, "k")?;
                let (v, v_stride) = self.in_arena(n, "v")?;
                args.extend([k_cache, v_cache, k, v]);
                let prep = self.prep(n, "k_norm", &mut args)?;
                scalars.extend([ScalarArg::Past, ScalarArg::Capacity]);
                let op = schedules::KvWrite { heads, head_dim, k_stride, v_stride, prep, max_tokens: tokens };
                Box::new(KvWrite(op))
            }
            OpKind::Attention => {
                let (k_cache, v_cache, ..) = self.cache(n)?;
                let (q, q_stride) = self.in_arena(n, "q")?;
                args.extend([q, k_cache, v_cache]);
                let prep = self.prep(n, "q_norm", &mut args)?;
                let (out, stride) = self.value(n)?;
                args.push(out);
                scalars.extend([ScalarArg::Past, ScalarArg::Capacity]);
                let attention =
                    schedules::Attention { q_stride, prep, out_stride: Some(stride), ..attention(g, n, tokens) };
                let terms = self.cx.terms.unwrap_or(1);
                let attention = Attention::new(attention, terms).map_err(|what| self.fail(n, what))?;
                // What changes the arguments is never tuned.
                let counters = attention.counters_bytes(&defaults(&attention.space()));
                if counters > 0 {
                    let parts = self.memory.scratch.get(&n).ok_or_else(|| self.fail(n, "has no scratch memory"))?;
                    args.extend([Arg::Arena(*parts), Arg::Counters(0)]);
                    self.counters = self.counters.max(counters);
                }
                Box::new(attention)
            }
            _ => Box::new(Rowwise(self.rowwise(n, &mut args)?)),
        };
        let params = (self.cx.params)(schedule.as_ref());
        let label = format!("{} {}", op.row().name, g.node(n).name).trim_end().to_string();
        Ok(Some(LoweredCall { node: n, label, schedule, params, args, scalars, weight_bytes }))
    }
}

/// Bytes of scratch memory of `n`.
pub(super) fn scratch(g: &tilewright_ir::graph::Graph, n: NodeId, tokens: u32, terms: u64) -> u64 {
    if g.node(n).op != OpKind::Attention {
        return 0;
    }
    // An attention that a GPU cannot do is refused when it is lowered.
    let of = Attention::new(schedules::Attention { out_stride: Some(0), ..attention(g, n, tokens) }, terms);
    of.map_or(0, |a| a.parts_bytes(&defaults(&a.space())))
}
