//! Rotates heads where they are used: k as it is written to the cache, q inside attention.
//!
//! ```text
//! %kr = rope %k, %c {heads = 2}
//! %kv = kv_write %kv.0, %kr, %v, %pos
//! %qr = rope %q, %c {heads = 4, style = interleaved}
//! %y = attention %qr, %kv, %pos {heads = 4, scale = 0.25}
//! =>
//! %kv = kv_write %kv.0, %k, %v, %pos, %c {angles}
//! %y = attention %q, %kv, %pos, %c {angles, heads = 4, scale = 0.25, style = interleaved}
//! ```
//!
//! The rotated value has no other user, and its heads are those of the reader. A reader that already norms its heads is
//! left alone: it norms first, then rotates. Hence this pass comes before `fuse-qk-norm`.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{rebuild, remove_all, roles, used_once};
use tilewright_ir::graph::{Attr, Dim, Graph, GraphError, NodeId, OpKind};

/// See the module.
pub struct FuseRope;

impl Pass for FuseRope {
    fn name(&self) -> &'static str {
        "fuse-rope"
    }

    fn doc(&self) -> &'static str {
        "rope into kv_write and attention"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for id in g.order().to_vec() {
            let Some(reader) = HeadReader::of(g, id) else { continue };
            let rope = reader.heads;
            let same = g.node(rope).op == OpKind::Rope && g.int(rope, "heads") == reader.count;
            if !same || g.flag(id, "angles") || g.flag(id, reader.norm) || !used_once(g, rope) {
                continue;
            }
            let (Some(x), Some(angles)) = (g.operand(rope, "x"), g.operand(rope, "angles")) else { continue };
            let mut operands = reader.reading(g, id, x);
            operands.push(("angles", angles));
            let mut attrs = g.node(id).attrs.clone();
            attrs.insert("style".into(), Attr::Str(g.word(rope, "style")));
            rebuild(g, id, g.node(id).op, &operands, &attrs)?;
            remove_all(g, &[rope]);
            count += 1;
        }
        Ok(count)
    }
}

/// A node that reads heads and can prepare them itself.
pub(crate) struct HeadReader {
    /// Role of the heads it reads, and of the norm's gamma.
    pub role: &'static str,
    pub norm: &'static str,
    /// The heads it reads, how many and how long.
    pub heads: NodeId,
    pub count: i64,
    pub head_dim: u64,
}

impl HeadReader {
    /// What `id` reads, if it is such a node.
    pub(crate) fn of(g: &Graph, id: NodeId) -> Option<HeadReader> {
        let (role, norm) = match g.node(id).op {
            OpKind::KvWrite => ("k", "k_norm"),
            OpKind::Attention => ("q", "q_norm"),
            _ => return None,
        };
        let &[Dim::N(kv_heads), Dim::N(head_dim)] = g.ty(g.operand(id, "kv")?).shape.as_slice() else { return None };
        let count = if role == "k" { kv_heads as i64 } else { g.int(id, "heads") };
        Some(HeadReader { role, norm, heads: g.operand(id, role)?, count, head_dim })
    }

    /// The operands of `id` with `x` as the heads.
    pub(crate) fn reading(&self, g: &Graph, id: NodeId, x: NodeId) -> crate::rewrite::Roles {
        roles(g, id).into_iter().map(|(role, n)| (role, if role == self.role { x } else { n })).collect()
    }
}
