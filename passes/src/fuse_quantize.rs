//! Rounds the result of attention or of a GLU as it is stored.
//!
//! ```text
//! %m = glu %x, @gate, @up {fn = gelu_tanh}
//! %r = quantize %m
//! %y = matmul %r, @down
//! =>
//! %m = glu %x, @gate, @up {fn = gelu_tanh, quantize}
//! %y = matmul %m, @down
//! ```
//!
//! The unrounded value has no other user, and what one call of the kernel makes is whole blocks: a head, or rows of the
//! GLU. Rows of f16 are not made so: their scale is known only at their end. The fused node stands where its source stood: an attention must not move past a later write to its cache.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{all, rebuild, roles, used_once};
use tilewright_ir::graph::{Attr, Elem, Graph, GraphError, NodeId, OpKind, Q8_UNIT};

/// See the module.
pub struct FuseQuantize;

impl Pass for FuseQuantize {
    fn name(&self) -> &'static str {
        "fuse-quantize"
    }

    fn doc(&self) -> &'static str {
        "quantize into attention and glu"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for id in all(g, OpKind::Quantize) {
            let Some(source) = g.operand(id, "x") else { continue };
            if g.flag(id, "gamma") || g.flag(source, "quantize") || !used_once(g, source) || !rounds(g, source, id) {
                continue;
            }
            let to = g.node(id).attrs.get_key_value("to").map(|(k, v)| (k.clone(), v.clone()));
            // The users are moved first: the type of `source` is about to change under them.
            g.replace_uses(id, source);
            g.remove(id);
            let (op, operands, mut attrs) = (g.node(source).op, roles(g, source), g.node(source).attrs.clone());
            attrs.insert("quantize".into(), Attr::Bool(true));
            attrs.extend(to);
            rebuild(g, source, op, &operands, &attrs)?;
            count += 1;
        }
        Ok(count)
    }
}

/// Whether `id` can round what it makes as `quantize` does.
fn rounds(g: &Graph, id: NodeId, quantize: NodeId) -> bool {
    let bf16 = match g.ty(quantize).elem {
        Elem::Q8 => false,
        Elem::BF16 => true,
        _ => return false,
    };
    let unit = match g.node(id).op {
        // Attention has no bf16 results, and a GLU makes them of bf16 only.
        OpKind::Attention if bf16 => None,
        OpKind::Glu if bf16 && g.operand(id, "x").is_none_or(|x| g.ty(x).elem != Elem::BF16) => None,
        OpKind::Attention => g.operand(id, "kv").and_then(|kv| g.ty(kv).width()),
        OpKind::Glu => g.ty(id).width(),
        _ => None,
    };
    unit.is_some_and(|n| n.is_multiple_of(Q8_UNIT))
}
