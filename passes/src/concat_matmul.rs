//! Products of one value become one product with the weights stacked, read apart by `slice`s, which cost nothing.
//!
//! ```text
//! weight @wq : @q4_1[96, 96]
//! weight @wk : @q4_1[48, 96]
//! %q = matmul %x, @wq
//! %k = matmul %x, @wk
//! =>
//! weight "wq+wk" : @q4_1[144, 96] = rows 0+96 of @wq, rows 0+48 of @wk
//! %0 = matmul %x, "wq+wk"
//! %q = slice %0 {len = 96, start = 0}
//! %k = slice %0 {len = 48, start = 96}
//! ```
//!
//! The weights have one format and no other user, either all products have a bias or none has, none has a residual, and none rounds what it reads.
//! Weights are packed in panels of 16 rows, so every weight but the last has a multiple of that. A product that leaves the
//! graph stays: callers want whole rows.

use crate::manager::{Pass, PassContext};
use crate::rewrite::{all, rebuild, used_once};
use tilewright_ir::graph::{Dim, Graph, GraphError, NodeId, OpKind, TensorType, Weight, attrs};

/// Rows of a packed panel.
const PANEL: u64 = 16;
/// Parts a weight may have: the packer's limit.
const MAX_PARTS: usize = 16;

/// See the module.
pub struct ConcatMatmul;

impl Pass for ConcatMatmul {
    fn name(&self) -> &'static str {
        "concat-matmul"
    }

    fn doc(&self) -> &'static str {
        "one matmul for several of one value (q, k, v)"
    }

    fn run(&self, g: &mut Graph, _ctx: &PassContext) -> Result<usize, GraphError> {
        let mut count = 0;
        for group in groups(g) {
            merge(g, &group)?;
            count += group.len();
        }
        Ok(count)
    }
}

/// A product that may be merged.
#[derive(Clone)]
struct Member {
    id: NodeId,
    x: NodeId,
    weight: Weight,
    bias: Option<Weight>,
    rows: u64,
}

fn member(g: &Graph, id: NodeId) -> Option<Member> {
    let w = g.operand(id, "w")?;
    let is_more = g.flag(id, "residual") || g.word(id, "round") != "none";
    if is_more || g.outputs().contains(&id) || !used_once(g, w) {
        return None;
    }
    let bias = match g.operand(id, "bias") {
        Some(b) if used_once(g, b) => Some(g.weight_of(b)?.clone()),
        Some(_) => return None,
        None => None,
    };
    Some(Member { id, x: g.operand(id, "x")?, weight: g.weight_of(w)?.clone(), bias, rows: g.ty(id).width()? })
}

/// Products to merge, each group in the order of its rows; a ragged weight is last.
fn groups(g: &Graph) -> Vec<Vec<Member>> {
    let mut groups: Vec<Vec<Member>> = vec![];
    for m in all(g, OpKind::Matmul).into_iter().filter_map(|id| member(g, id)) {
        let joins = |group: &&mut Vec<Member>| {
            let parts = |f: fn(&Member) -> usize| group.iter().map(f).sum::<usize>() + f(&m);
            let ragged = |m: &Member| !m.rows.is_multiple_of(PANEL);
            group[0].x == m.x
                && group[0].weight.format() == m.weight.format()
                && group[0].bias.as_ref().map(Weight::format) == m.bias.as_ref().map(Weight::format)
                && parts(|m| m.weight.parts.len()) <= MAX_PARTS
                && parts(|m| m.bias.as_ref().map_or(0, |b| b.parts.len())) <= MAX_PARTS
                && !(ragged(&m) && group.iter().any(ragged))
        };
        match groups.iter_mut().find(joins) {
            Some(group) => group.push(m),
            None => groups.push(vec![m]),
        }
    }
    groups.retain(|group| group.len() > 1);
    for group in &mut groups {
        group.sort_by_key(|m| !m.rows.is_multiple_of(PANEL));
    }
    groups
}

fn merge(g: &mut Graph, group: &[Member]) -> Result<(), GraphError> {
    let ids: Vec<NodeId> = group.iter().map(|m| m.id).collect();
    let Some(first) = g.order().iter().copied().find(|n| ids.contains(n)) else { return Ok(()) };
    let old: Vec<NodeId> = group.iter().flat_map(|m| g.operands(m.id)).filter(|&n| n != group[0].x).collect();

    let weights: Vec<&Weight> = group.iter().map(|m| &m.weight).collect();
    let biases: Vec<&Weight> = group.iter().filter_map(|m| m.bias.as_ref()).collect();
    let mut operands = vec![group[0].x];
    for stack in [weights, biases].iter().filter(|s| !s.is_empty()) {
        let w = g.weight(stacked(stack));
        g.move_before(w, first);
        operands.push(w);
    }
    let flags = if biases_of(group) { attrs([("bias", true.into())]) } else { attrs([]) };
    let name = group.iter().map(|m| g.node(m.id).name.as_str()).filter(|n| !n.is_empty()).collect::<Vec<_>>().join("+");
    let all = g.push_named(OpKind::Matmul, &operands, flags, &name)?;
    g.move_before(all, first);

    let mut start = 0i64;
    for m in group {
        let columns = attrs([("start", start.into()), ("len", (m.rows as i64).into())]);
        rebuild(g, m.id, OpKind::Slice, &[("x", all)], &columns)?;
        start = start.saturating_add(m.rows as i64);
    }
    for w in old {
        g.remove(w);
    }
    Ok(())
}

fn biases_of(group: &[Member]) -> bool {
    group.iter().all(|m| m.bias.is_some())
}

/// The rows of these weights, one weight after the other.
fn stacked(weights: &[&Weight]) -> Weight {
    let mut ty = weights[0].ty.clone();
    let rows = |t: &TensorType| match t.shape[0] {
        Dim::N(n) => n,
        Dim::T => 0,
    };
    ty.shape[0] = Dim::N(weights.iter().fold(0, |n: u64, w| n.saturating_add(rows(&w.ty))));
    Weight {
        name: weights.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join("+"),
        ty,
        parts: weights.iter().flat_map(|w| w.parts.clone()).collect(),
    }
}
