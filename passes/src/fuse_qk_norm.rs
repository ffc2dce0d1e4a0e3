//! Norms heads where they are used: k as it is written to the cache, q inside attention.
//!
//! ```text
//! %m = rms_norm %k, @g {eps = 1e-6}
//! %kv = kv_write %kv.0, %m, %v, %pos
//! %n = rms_norm %q, @g {eps = 1e-6}
//! %y = attention %n, %kv, %pos, %c {angles, heads = 4, scale = 0.25}
//! =>
//! %kv = kv_write %kv.0, %k, %v, %pos, @g {eps = 1e-6, k_norm}
//! %y = attention %q, %kv, %pos, %c, @g {angles, eps = 1e-6, heads = 4, q_norm, scale = 0.25}
//! ```
//!
//! The norm has no other user and its gamma is one head long. The reader norms before it rotates, so a norm below a
//! rotation moves only when `fuse-rope` has taken the rotation; below one that stays it stays too.

use crate::fuse_rope::HeadReader;
use crate::manager::{Pass, PassContext};
use crate::rewrite::{rebuild, remove_all, used_once};
use tilewright_ir::graph::{Attr, Graph, GraphError, OpKind};

/// See the module.
pub struct FuseQkNorm;

impl Pass for FuseQkNorm {
    fn name(&self) -> &'static str {
        "fuse-qk-norm"
    }

    fn doc(&self) -> &'static str {
        "per-head rms_norm into kv_write and attention"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for id in g.order().to_vec() {
            let Some(reader) = HeadReader::of(g, id) else { continue };
            let norm = reader.heads;
            if g.node(norm).op != OpKind::RmsNorm || g.flag(id, reader.norm) || !used_once(g, norm) {
                continue;
            }
            let (Some(x), Some(gamma)) = (g.operand(norm, "x"), g.operand(norm, "gamma")) else { continue };
            if g.ty(gamma).width() != Some(reader.head_dim) {
                continue;
            }
            let mut operands = reader.reading(g, id, x);
            operands.push((reader.norm, gamma));
            let mut attrs = g.node(id).attrs.clone();
            attrs.insert("eps".into(), Attr::Float(g.float(norm, "eps")));
            rebuild(g, id, g.node(id).op, &operands, &attrs)?;
            remove_all(g, &[norm]);
            count += 1;
        }
        Ok(count)
    }
}
