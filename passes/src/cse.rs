//! Computes equal things once.
//!
//! ```text
//! %a = rms_norm %x, @g {eps = 1e-5}
//! %b = rms_norm %x, @g {eps = 1e-5}
//! %c = mul %a, %b
//! =>
//! %a = rms_norm %x, @g {eps = 1e-5}
//! %c = mul %a, %a
//! ```
//!
//! Equal means the same op, operands and attributes. Never `kv_write`, which has an effect.

use crate::manager::{Pass, PassContext};
use rustc_hash::FxHashMap;
use tilewright_ir::graph::{Graph, GraphError, NodeId, OpKind};

/// See the module.
pub struct Cse;

impl Pass for Cse {
    fn name(&self) -> &'static str {
        "cse"
    }

    fn doc(&self) -> &'static str {
        "compute equal things once"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut first: FxHashMap<(OpKind, Vec<NodeId>, String), NodeId> = FxHashMap::default();
        let mut count = 0;
        for id in g.order().to_vec() {
            let node = g.node(id);
            if matches!(node.op, OpKind::Input | OpKind::Weight | OpKind::KvWrite) {
                continue;
            }
            // The debug form of a float is its shortest exact one, so equal texts are equal attributes.
            let key = (node.op, g.operands(id), format!("{:?}", node.attrs));
            match first.get(&key) {
                Some(&same) => {
                    g.replace_uses(id, same);
                    g.remove(id);
                    count += 1;
                }
                None => {
                    first.insert(key, id);
                }
            }
        }
        Ok(count)
    }
}
