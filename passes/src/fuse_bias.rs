//! Adds a bias inside the product.
//!
//! ```text
//! %m = matmul %x, @w
//! %a = add %m, @b
//! =>
//! %m = matmul %x, @w, @b {bias}
//! ```
//!
//! The product must have no other user, and neither a bias nor a residual yet.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{all, is_plain_matmul, is_weight, rebuild, remove_all, roles, take_name, used_once};
use tilewright_ir::graph::{Graph, GraphError, OpKind};

/// See the module.
pub struct FuseBias;

impl Pass for FuseBias {
    fn name(&self) -> &'static str {
        "fuse-bias"
    }

    fn doc(&self) -> &'static str {
        "matmul + bias"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for add in all(g, OpKind::Add) {
            let [(_, m), (_, bias)] = roles(g, add)[..] else { continue };
            if !is_plain_matmul(g, m) || !is_weight(g, bias) || !used_once(g, m) {
                continue;
            }
            let mut operands = roles(g, m);
            operands.push(("bias", bias));
            let attrs = g.node(m).attrs.clone();
            rebuild(g, add, OpKind::Matmul, &operands, &attrs)?;
            take_name(g, add, m);
            remove_all(g, &[m]);
            count += 1;
        }
        Ok(count)
    }
}
