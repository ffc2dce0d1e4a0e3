//! Norms and rounds a row to f16 inside each product that reads it.
//!
//! ```text
//! %r = quantize %x, @g {eps = 1e-5, gamma, to = f16}
//! %q = matmul %r, @wq
//! %m = glu %r, @gate, @up
//! =>
//! %q = matmul %x, @wq, @g {eps = 1e-5, gamma, round = f16}
//! %m = glu %x, @gate, @up, @g {eps = 1e-5, gamma, round = f16}
//! ```
//!
//! For f16 and f16x2, in programs of few tokens: there every block of a kernel can afford to norm and round the whole row
//! itself, which saves a call and the wait between the two. All readers of the rounded value take it in, or none does: a
//! value that has to be there anyway is read as it is.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{all, rebuild, remove_all, roles};
use tilewright_ir::graph::{Attr, Graph, GraphError, NodeId, OpKind};

/// See the module.
pub struct FuseQuantizeMatmul;

impl Pass for FuseQuantizeMatmul {
    fn name(&self) -> &'static str {
        "fuse-quantize-matmul"
    }

    fn doc(&self) -> &'static str {
        "norm and rounding to f16 into matmuls and glus, for few tokens"
    }

    fn run(&self, g: &mut Graph, ctx: &PassContext) -> Result<usize, GraphError> {
        if !ctx.few_tokens {
            return Ok(0);
        }
        let mut count = 0;
        for id in all(g, OpKind::Quantize) {
            if !is_folded(g, id) {
                continue;
            }
            for user in g.users(id) {
                fold(g, id, user)?;
            }
            remove_all(g, &[id]);
            count += 1;
        }
        Ok(count)
    }
}

/// Whether every reader of the rounded value can round for itself.
fn is_folded(g: &Graph, id: NodeId) -> bool {
    let users = g.users(id);
    let products = users.iter().all(|&u| matches!(g.node(u).op, OpKind::Matmul | OpKind::Glu));
    g.ty(id).elem.is_f16() && products && !users.is_empty() && !g.outputs().contains(&id)
}

/// Makes the product `user` read what `id` rounds.
fn fold(g: &mut Graph, id: NodeId, user: NodeId) -> Result<(), GraphError> {
    let (op, mut operands, mut attrs) = (g.node(user).op, roles(g, user), g.node(user).attrs.clone());
    operands.retain(|(role, _)| *role != "x");
    operands.extend(roles(g, id));
    attrs.insert("round".into(), Attr::Str(g.word(id, "to")));
    attrs.insert("eps".into(), Attr::Float(g.float(id, "eps")));
    rebuild(g, user, op, &operands, &attrs)
}
