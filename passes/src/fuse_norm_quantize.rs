//! Norms and rounds a row in one step.
//!
//! ```text
//! %n = rms_norm %x, @g {eps = 1e-5}
//! %r = quantize %n
//! %y = matmul %r, @w
//! =>
//! %r = quantize %x, @g {eps = 1e-5, gamma}
//! %y = matmul %r, @w
//! ```
//!
//! The norm has no other user and covers the whole row; per-head norms are `fuse-qk-norm`'s.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{all, rebuild, remove_all, used_once};
use tilewright_ir::graph::{Attr, Graph, GraphError, OpKind};

/// See the module.
pub struct FuseNormQuantize;

impl Pass for FuseNormQuantize {
    fn name(&self) -> &'static str {
        "fuse-norm-quantize"
    }

    fn doc(&self) -> &'static str {
        "rms_norm + quantize"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for id in all(g, OpKind::Quantize) {
            let Some(norm) = g.operand(id, "x") else { continue };
            if g.flag(id, "gamma") || g.node(norm).op != OpKind::RmsNorm || !used_once(g, norm) {
                continue;
            }
            let (Some(x), Some(gamma)) = (g.operand(norm, "x"), g.operand(norm, "gamma")) else { continue };
            if g.ty(gamma).width() != g.ty(x).width() {
                continue;
            }
            let mut attrs = g.node(id).attrs.clone();
            attrs.insert("eps".to_string(), Attr::Float(g.float(norm, "eps")));
            rebuild(g, id, OpKind::Quantize, &[("x", x), ("gamma", gamma)], &attrs)?;
            remove_all(g, &[norm]);
            count += 1;
        }
        Ok(count)
    }
}
