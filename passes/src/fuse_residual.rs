//! Adds the residual stream inside the product.
//!
//! ```text
//! %m = matmul %x, @w
//! %a = add %r, %m
//! =>
//! %m = matmul %x, @w, %r {residual}
//! ```
//!
//! The product has no other user and no residual yet. The fused node stands where the sum stood, so the residual comes
//! before it, and it cannot depend on it: whatever reads the product reads it through that sum. Of two products that are
//! added, the later one takes the other as its residual.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{all, is_weight, rebuild, remove_all, roles, take_name, used_once};
use tilewright_ir::graph::{Graph, GraphError, NodeId, OpKind};

/// See the module.
pub struct FuseResidual;

impl Pass for FuseResidual {
    fn name(&self) -> &'static str {
        "fuse-residual"
    }

    fn doc(&self) -> &'static str {
        "matmul + residual"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for add in all(g, OpKind::Add) {
            let [(_, a), (_, b)] = roles(g, add)[..] else { continue };
            if is_weight(g, b) {
                continue;
            }
            let at = |n: NodeId| g.order().iter().position(|&o| o == n);
            let pairs = if at(a) > at(b) { [(a, b), (b, a)] } else { [(b, a), (a, b)] };
            let Some(&(m, residual)) = pairs.iter().find(|(m, _)| takes_residual(g, *m)) else { continue };
            let mut operands = roles(g, m);
            operands.push(("residual", residual));
            let attrs = g.node(m).attrs.clone();
            rebuild(g, add, OpKind::Matmul, &operands, &attrs)?;
            take_name(g, add, m);
            remove_all(g, &[m]);
            count += 1;
        }
        Ok(count)
    }
}

fn takes_residual(g: &Graph, m: NodeId) -> bool {
    g.node(m).op == OpKind::Matmul && !g.flag(m, "residual") && used_once(g, m)
}
