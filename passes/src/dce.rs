//! Drops what nobody uses.
//!
//! ```text
//! %a = act %x
//! %c = kv_write %kv.0, %k, %v, %pos
//! %y = act %v
//! return %y
//! =>
//! %c = kv_write %kv.0, %k, %v, %pos
//! %y = act %v
//! return %y
//! ```
//!
//! `kv_write` is always used: the cache outlives the graph. Inputs stay, as callers give them by name.

use crate::manager::{Pass, PassContext};
use tilewright_ir::graph::{Graph, GraphError, OpKind};

/// See the module.
pub struct Dce;

impl Pass for Dce {
    fn name(&self) -> &'static str {
        "dce"
    }

    fn doc(&self) -> &'static str {
        "drop what nobody uses"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        // Backwards, users go before their operands: one walk is enough.
        for id in g.order().iter().rev().copied().collect::<Vec<_>>() {
            let op = g.node(id).op;
            if !matches!(op, OpKind::Input | OpKind::KvWrite) && g.remove(id) {
                count += usize::from(op != OpKind::Weight);
            }
        }
        Ok(count)
    }
}
