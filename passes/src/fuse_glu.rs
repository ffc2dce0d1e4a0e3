//! Gate and up products, activation and their product in one step, so that neither intermediate is stored.
//!
//! ```text
//! %g = matmul %x, @gate
//! %a = act %g {fn = silu}
//! %u = matmul %x, @up
//! %m = mul %a, %u
//! =>
//! %g = glu %x, @gate, @up
//! ```
//!
//! Either operand of `mul` may be the gate. Each intermediate has no other user, and neither product has a bias or a
//! residual. The two formats may differ.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{all, is_plain_matmul, rebuild, remove_all, roles, take_name, used_once};
use tilewright_ir::graph::{Graph, GraphError, NodeId, OpKind};

/// See the module.
pub struct FuseGlu;

impl Pass for FuseGlu {
    fn name(&self) -> &'static str {
        "fuse-glu"
    }

    fn doc(&self) -> &'static str {
        "gate and up matmuls, activation, product"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for mul in all(g, OpKind::Mul) {
            let [(_, a), (_, b)] = roles(g, mul)[..] else { continue };
            let Some(m) = matched(g, a, b).or_else(|| matched(g, b, a)) else { continue };
            let attrs = [("fn".to_string(), g.word(m.act, "fn").as_str().into())].into();
            rebuild(g, mul, OpKind::Glu, &[("x", m.x), ("gate", m.gate.1), ("up", m.up.1)], &attrs)?;
            take_name(g, mul, m.gate.0);
            remove_all(g, &[m.act, m.gate.0, m.up.0]);
            count += 1;
        }
        Ok(count)
    }
}

struct Match {
    x: NodeId,
    act: NodeId,
    /// Product and weight.
    gate: (NodeId, NodeId),
    up: (NodeId, NodeId),
}

fn matched(g: &Graph, act: NodeId, up: NodeId) -> Option<Match> {
    if g.node(act).op != OpKind::Act || !used_once(g, act) {
        return None;
    }
    let gate = g.operand(act, "x")?;
    let (x, gate_w) = plain_matmul(g, gate)?;
    let (up_x, up_w) = plain_matmul(g, up)?;
    (x == up_x).then_some(Match { x, act, gate: (gate, gate_w), up: (up, up_w) })
}

/// Operand and weight of a product that only one node reads.
fn plain_matmul(g: &Graph, id: NodeId) -> Option<(NodeId, NodeId)> {
    (is_plain_matmul(g, id) && used_once(g, id)).then(|| Some((g.operand(id, "x")?, g.operand(id, "w")?)))?
}
