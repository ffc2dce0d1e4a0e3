//! Writes equal things equally, so that the passes after it match one form.
//!
//! ```text
//! %a = scale %x {by = 1.0}
//! %b = slice %a {start = 32, len = 16}
//! %c = slice %b {start = 8, len = 8}
//! %d = act %c {fn = silu}
//! =>
//! %c = slice %x {len = 8, start = 40}
//! %d = act %c
//! ```
//!
//! Scaling by 1 and slices of a whole value go, a slice of a slice becomes one, sums and products name the earlier operand
//! first (a weight stays second), attributes that equal their default or cannot matter are dropped.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{is_weight, meaningful, roles};
use rustc_hash::FxHashMap;
use tilewright_ir::graph::{Attr, Graph, GraphError, NodeId, OpKind, attrs};

/// More rounds than a graph can need: each but the last shortens a chain that an earlier one could not see whole.
const ROUNDS: usize = 32;

/// See the module.
pub struct Canonicalise;

impl Pass for Canonicalise {
    fn name(&self) -> &'static str {
        "canonicalise"
    }

    fn doc(&self) -> &'static str {
        "drop steps and attributes that do nothing, order operands"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut total = 0;
        for _ in 0..ROUNDS {
            let n = round(g)?;
            total += n;
            if n == 0 {
                break;
            }
        }
        Ok(total)
    }
}

fn round(g: &mut Graph) -> Result<usize, GraphError> {
    let order = g.order().to_vec();
    let rank: FxHashMap<NodeId, usize> = order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
    let mut count = 0;
    for id in order {
        let kept = meaningful(g.node(id).op, &g.node(id).attrs);
        if kept != g.node(id).attrs {
            g.node_mut(id).attrs = kept;
            count += 1;
        }
        count += usize::from(step(g, id, &rank)?);
    }
    Ok(count)
}

/// One rewrite of `id`, if one applies.
fn step(g: &mut Graph, id: NodeId, rank: &FxHashMap<NodeId, usize>) -> Result<bool, GraphError> {
    let operands = roles(g, id);
    let [(_, x), rest @ ..] = operands.as_slice() else { return Ok(false) };
    let x = *x;
    match g.node(id).op {
        OpKind::Scale if g.float(id, "by") == 1.0 => Ok(skip(g, id, x)),
        OpKind::Slice if g.int(id, "start") == 0 && g.ty(x).width() == u64::try_from(g.int(id, "len")).ok() => {
            Ok(skip(g, id, x))
        }
        OpKind::Slice if g.node(x).op == OpKind::Slice => {
            let Some(&inner) = g.operands(x).first() else { return Ok(false) };
            let start = Attr::Int(g.int(x, "start").saturating_add(g.int(id, "start")));
            let merged = attrs([("start", start), ("len", g.int(id, "len").into())]);
            g.replace_node(id, OpKind::Slice, &[inner], merged)?;
            Ok(true)
        }
        op @ (OpKind::Add | OpKind::Mul) => {
            let [(_, y)] = rest else { return Ok(false) };
            if is_weight(g, *y) || rank.get(&x) <= rank.get(y) {
                return Ok(false);
            }
            g.replace_node(id, op, &[*y, x], attrs([]))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Makes users of `id` use `x`; not if `id` leaves the graph and `x` is an input, which must not.
fn skip(g: &mut Graph, id: NodeId, x: NodeId) -> bool {
    if g.node(x).op == OpKind::Input && g.outputs().contains(&id) {
        return false;
    }
    g.replace_uses(id, x);
    g.remove(id)
}
