//! Rounds activations to int8 blocks, bf16 or f16 in front of the products that can use them. Not a fusion: it changes numerics.
//!
//! ```text
//! weight @wq : @q4_1[96, 96]
//! weight @wk : @q4_1[48, 96]
//! %q = matmul %x, @wq
//! %k = matmul %x, @wk
//! =>
//! %0 = quantize %x
//! %q = matmul %0, @wq
//! %k = matmul %0, @wk
//! ```
//!
//! Int8 and bf16 apply where every weight's format has kernels that take them and rows divide into blocks, f16 and f16x2 to
//! every product. One `quantize` serves all readers of a value. Runs before the fusions, so that what is rounded does not depend on which of
//! them are on: a `glu` never forms from two products of which only one reads int8.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{meaningful, rebuild, roles};
use tilewright_ir::graph::{Elem, Graph, GraphError, NodeId, OpKind, Q8_UNIT, attrs};

/// See the module.
pub struct ChoosePrecision;

impl Pass for ChoosePrecision {
    fn name(&self) -> &'static str {
        "choose-precision"
    }

    fn doc(&self) -> &'static str {
        "round activations to int8, bf16 or f16 where kernels take them (changes numerics)"
    }

    fn run(&self, g: &mut Graph, ctx: &PassContext) -> Result<usize, GraphError> {
        let Some(to) = ctx.activations.rounding() else { return Ok(0) };
        let mut count = 0;
        for id in g.order().to_vec() {
            let Some(x) = to_round(g, id, &to, ctx) else { continue };
            let rounded = quantized(g, x, id, &to)?;
            let (op, mut operands, attrs) = (g.node(id).op, roles(g, id), g.node(id).attrs.clone());
            for (role, n) in &mut operands {
                if *role == "x" {
                    *n = rounded;
                }
            }
            rebuild(g, id, op, &operands, &attrs)?;
            count += 1;
        }
        Ok(count)
    }
}

/// The value that the product `id` reads, if it should be rounded.
fn to_round(g: &Graph, id: NodeId, to: &Elem, ctx: &PassContext) -> Option<NodeId> {
    let weights: &[&str] = match g.node(id).op {
        OpKind::Matmul => &["w"],
        OpKind::Glu => &["gate", "up"],
        _ => return None,
    };
    let x = g.operand(id, "x")?;
    let takes =
        |role: &&str| g.operand(id, role).and_then(|w| g.weight_of(w)).is_some_and(|w| (ctx.takes_q8)(w.format()));
    let fits = || g.ty(x).width().is_some_and(|n| n.is_multiple_of(Q8_UNIT)) && weights.iter().all(takes);
    let is_exact = g.ty(x).elem == Elem::F32 && g.word(id, "round") == "none";
    (is_exact && (to.is_f16() || fits())).then_some(x)
}

/// The rounded `x`, standing before `user`.
fn quantized(g: &mut Graph, x: NodeId, user: NodeId, to: &Elem) -> Result<NodeId, GraphError> {
    let plain = |&n: &NodeId| g.node(n).op == OpKind::Quantize && g.ty(n).elem == *to && !g.flag(n, "gamma");
    let known = g.users(x).into_iter().find(plain);
    let id = match known {
        Some(id) => {
            let at = |n: NodeId| g.order().iter().position(|&o| o == n);
            if at(id) < at(user) {
                return Ok(id);
            }
            id
        }
        None => {
            let name = g.node(x).name.clone();
            let attrs = meaningful(OpKind::Quantize, &attrs([("to", to.to_string().as_str().into())]));
            g.push_named(OpKind::Quantize, &[x], attrs, &name)?
        }
    };
    g.move_before(id, user);
    Ok(id)
}
