//! What rewrites share: who uses a value, and rebuilding a node from operands by role.

use tilewright_ir::graph::{Attr, AttrKind, Attrs, Elem, Graph, GraphError, NodeId, OpKind};

/// Operands of a node by role, in the order of the op's row.
pub(crate) type Roles = Vec<(&'static str, NodeId)>;

/// Whether exactly one operand of one node reads `id`, and it does not leave the graph.
pub(crate) fn used_once(g: &Graph, id: NodeId) -> bool {
    g.users(id).len() == 1 && !g.outputs().contains(&id)
}

/// The operands of `id` by role.
pub(crate) fn roles(g: &Graph, id: NodeId) -> Roles {
    let node = g.node(id);
    let row = node.op.row();
    let present = row.optional.iter().filter(|o| node.attrs.get(**o) == Some(&Attr::Bool(true)));
    row.operands.iter().chain(present).copied().zip(g.operands(id)).collect()
}

/// Makes `id` compute `op` of these operands, in any order; the flags of optional operands follow from the roles given,
/// and attributes that say nothing are dropped.
pub(crate) fn rebuild(
    g: &mut Graph,
    id: NodeId,
    op: OpKind,
    operands: &[(&'static str, NodeId)],
    attrs: &Attrs,
) -> Result<(), GraphError> {
    let row = op.row();
    let mut attrs = attrs.clone();
    for role in row.optional {
        attrs.insert(role.to_string(), Attr::Bool(operands.iter().any(|(r, _)| r == role)));
    }
    let ordered: Vec<NodeId> = row
        .operands
        .iter()
        .chain(row.optional)
        .filter_map(|role| operands.iter().find(|(r, _)| r == role).map(|(_, n)| *n))
        .collect();
    g.replace_node(id, op, &ordered, meaningful(op, &attrs))
}

/// The attributes without those that equal their default and those that only matter with an operand that is absent.
pub(crate) fn meaningful(op: OpKind, attrs: &Attrs) -> Attrs {
    let row = op.row();
    let has = |role: &str| attrs.get(role) == Some(&Attr::Bool(true));
    let needs = |name: &str| match (op, name) {
        (OpKind::KvWrite, "eps") => Some("k_norm"),
        (OpKind::Attention, "eps") => Some("q_norm"),
        (OpKind::Quantize | OpKind::Matmul | OpKind::Glu, "eps") => Some("gamma"),
        (OpKind::KvWrite | OpKind::Attention, "style") => Some("angles"),
        _ => None,
    };
    let says = |name: &str, value: &Attr| {
        if needs(name).is_some_and(|role| !has(role)) {
            return false;
        }
        match row.attrs.iter().find(|(n, _)| *n == name).map(|(_, kind)| *kind) {
            Some(AttrKind::IntOr(v)) => *value != Attr::Int(v),
            Some(AttrKind::FloatOr(v)) => *value != Attr::Float(v),
            Some(AttrKind::OneOf(words)) => *value != Attr::Str(words[0].to_string()),
            Some(AttrKind::Int | AttrKind::Float) => true,
            Some(AttrKind::Flag) | None => *value != Attr::Bool(false),
        }
    };
    attrs.iter().filter(|(n, v)| says(n, v)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// Gives `to` the name of `from`, if that has one: a fused node is known by the step it does the work of.
pub(crate) fn take_name(g: &mut Graph, to: NodeId, from: NodeId) {
    let name = g.node(from).name.clone();
    if !name.is_empty() {
        g.node_mut(to).name = name;
    }
}

/// Removes these, in this order, if nobody uses them any more.
pub(crate) fn remove_all(g: &mut Graph, ids: &[NodeId]) {
    for &id in ids {
        g.remove(id);
    }
}

/// Nodes of that op, in program order.
pub(crate) fn all(g: &Graph, op: OpKind) -> Vec<NodeId> {
    g.order().iter().copied().filter(|&n| g.node(n).op == op).collect()
}

/// Whether `id` is a product and nothing else: no bias, no residual, no rounding of what it reads.
pub(crate) fn is_plain_matmul(g: &Graph, id: NodeId) -> bool {
    let is_sum = g.flag(id, "bias") || g.flag(id, "residual");
    g.node(id).op == OpKind::Matmul && !is_sum && g.word(id, "round") == "none"
}

/// Whether `id` is a weight.
pub(crate) fn is_weight(g: &Graph, id: NodeId) -> bool {
    matches!(g.ty(id).elem, Elem::Format(_))
}
