//! The graph itself, kept in a petgraph `StableDiGraph`: edges carry the operand index and are the only record of who
//! uses whom.

use super::op::{Attr, AttrKind, Attrs, OpKind};
use super::types::{RopeSpec, TensorType, Weight};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

/// A node's identity; stays valid when others are removed.
pub type NodeId = NodeIndex<u32>;

/// One node: an operation and the type of its single result.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: OpKind,
    /// Attributes that differ from their defaults, and all required ones.
    pub attrs: Attrs,
    /// Result type.
    pub ty: TensorType,
    /// Name: of the input, of the weight, otherwise where the node comes from (`blk.3.attn_q`).
    pub name: String,
    /// Only for [`OpKind::Weight`].
    pub weight: Option<Weight>,
}

/// An ill-formed node.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{op} {name}: {message}")]
pub struct GraphError {
    /// Text name of the op.
    pub op: &'static str,
    /// Name of the node.
    pub name: String,
    /// What is wrong.
    pub message: String,
}

/// A model as a dataflow graph.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Name in the text form.
    pub name: String,
    /// Rotary tables that `rope_angles` refers to.
    pub rope: Vec<RopeSpec>,
    nodes: StableDiGraph<Node, u32>,
    order: Vec<NodeId>,
    outputs: Vec<NodeId>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), rope: vec![], nodes: StableDiGraph::new(), order: vec![], outputs: vec![] }
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The node `id`, to be changed; its operands change through [`Graph::replace_node`].
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id]
    }

    /// Result type of `id`.
    pub fn ty(&self, id: NodeId) -> &TensorType {
        &self.nodes[id].ty
    }

    /// Nodes in an order in which operands come before users.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// Operands of `id` in order.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        let mut edges: Vec<_> =
            self.nodes.edges_directed(id, Direction::Incoming).map(|e| (*e.weight(), e.source())).collect();
        edges.sort_unstable();
        edges.into_iter().map(|(_, n)| n).collect()
    }

    /// Users of `id` in program order, once for each operand position.
    pub fn users(&self, id: NodeId) -> Vec<NodeId> {
        let mut users: Vec<NodeId> = self.nodes.neighbors_directed(id, Direction::Outgoing).collect();
        users.sort_unstable();
        users
    }

    /// Values that leave the graph.
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// Says which values leave the graph.
    pub fn set_outputs(&mut self, outputs: &[NodeId]) {
        self.outputs = outputs.to_vec();
    }

    /// An input of that name and type.
    pub fn input(&mut self, name: &str, ty: TensorType) -> NodeId {
        self.insert(Node { op: OpKind::Input, attrs: Attrs::new(), ty, name: name.to_string(), weight: None }, &[])
    }

    /// A weight; the same name gives the same node.
    pub fn weight(&mut self, weight: Weight) -> NodeId {
        let known =
            self.order.iter().find(|&&n| self.nodes[n].op == OpKind::Weight && self.nodes[n].name == weight.name);
        if let Some(&n) = known {
            return n;
        }
        let node = Node {
            op: OpKind::Weight,
            attrs: Attrs::new(),
            ty: weight.ty.clone(),
            name: weight.name.clone(),
            weight: Some(weight),
        };
        self.insert(node, &[])
    }

    fn insert(&mut self, node: Node, operands: &[NodeId]) -> NodeId {
        let id = self.nodes.add_node(node);
        for (i, &o) in operands.iter().enumerate() {
            self.nodes.add_edge(o, id, i as u32);
        }
        self.order.push(id);
        id
    }

    /// Appends an operation; its result type follows from the op's rule.
    pub fn push(&mut self, op: OpKind, operands: &[NodeId], attrs: Attrs) -> Result<NodeId, GraphError> {
        self.push_named(op, operands, attrs, "")
    }

    /// [`Graph::push`] with a name that says where the node comes from.
    pub fn push_named(
        &mut self,
        op: OpKind,
        operands: &[NodeId],
        attrs: Attrs,
        name: &str,
    ) -> Result<NodeId, GraphError> {
        let ty = self.infer(op, operands, &attrs, name)?;
        Ok(self.insert(Node { op, attrs, ty, name: name.to_string(), weight: None }, operands))
    }

    /// Replaces what `id` computes; users, position and name stay. Operands must come before it in the order.
    pub fn replace_node(
        &mut self,
        id: NodeId,
        op: OpKind,
        operands: &[NodeId],
        attrs: Attrs,
    ) -> Result<(), GraphError> {
        let name = self.nodes[id].name.clone();
        let ty = self.infer(op, operands, &attrs, &name)?;
        let old: Vec<_> = self.nodes.edges_directed(id, Direction::Incoming).map(|e| e.id()).collect();
        for e in old {
            self.nodes.remove_edge(e);
        }
        for (i, &o) in operands.iter().enumerate() {
            self.nodes.add_edge(o, id, i as u32);
        }
        let node = &mut self.nodes[id];
        (node.op, node.attrs, node.ty) = (op, attrs, ty);
        Ok(())
    }

    /// Makes every user of `old`, outputs included, use `new`.
    pub fn replace_uses(&mut self, old: NodeId, new: NodeId) {
        let edges: Vec<_> =
            self.nodes.edges_directed(old, Direction::Outgoing).map(|e| (e.id(), e.target(), *e.weight())).collect();
        for (e, user, index) in edges {
            self.nodes.remove_edge(e);
            self.nodes.add_edge(new, user, index);
        }
        for o in &mut self.outputs {
            if *o == old {
                *o = new;
            }
        }
    }

    /// Removes a node that nobody uses. Returns false, and does nothing, if somebody does.
    pub fn remove(&mut self, id: NodeId) -> bool {
        let used = self.nodes.neighbors_directed(id, Direction::Outgoing).next().is_some();
        if used || self.outputs.contains(&id) {
            return false;
        }
        self.nodes.remove_node(id);
        self.order.retain(|&n| n != id);
        true
    }

    /// Moves `id` so that it stands directly before `before` in the order.
    pub fn move_before(&mut self, id: NodeId, before: NodeId) {
        self.order.retain(|&n| n != id);
        let at = self.order.iter().position(|&n| n == before).unwrap_or(self.order.len());
        self.order.insert(at, id);
    }

    /// Sorts the order topologically, keeping the present order where there is a choice. Err = the graph has a cycle.
    pub fn sort(&mut self) -> Result<(), GraphError> {
        let rank: std::collections::HashMap<NodeId, usize> =
            self.order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let mut waiting: std::collections::HashMap<NodeId, usize> =
            self.order.iter().map(|&n| (n, self.operands(n).len())).collect();
        let mut ready: std::collections::BTreeSet<(usize, NodeId)> =
            self.order.iter().filter(|n| waiting[n] == 0).map(|&n| (rank[&n], n)).collect();
        let mut sorted = Vec::with_capacity(self.order.len());
        while let Some((_, n)) = ready.pop_first() {
            sorted.push(n);
            for u in self.users(n) {
                let w = waiting.get_mut(&u).expect("users are in the order");
                *w -= 1;
                if *w == 0 {
                    ready.insert((rank[&u], u));
                }
            }
        }
        if sorted.len() != self.order.len() {
            let message = "the graph has a cycle".to_string();
            return Err(GraphError { op: "graph", name: self.name.clone(), message });
        }
        self.order = sorted;
        Ok(())
    }

    /// Attribute `name` of node `id`, defaults filled in.
    pub fn attr(&self, id: NodeId, name: &str) -> Option<Attr> {
        let node = &self.nodes[id];
        attr(node.op, &node.attrs, name)
    }

    /// Integer attribute, 0 if there is none.
    pub fn int(&self, id: NodeId, name: &str) -> i64 {
        match self.attr(id, name) {
            Some(Attr::Int(v)) => v,
            _ => 0,
        }
    }

    /// Float attribute, 0 if there is none.
    pub fn float(&self, id: NodeId, name: &str) -> f64 {
        match self.attr(id, name) {
            Some(Attr::Float(v)) => v,
            Some(Attr::Int(v)) => v as f64,
            _ => 0.0,
        }
    }

    /// Flag, false if there is none.
    pub fn flag(&self, id: NodeId, name: &str) -> bool {
        self.attr(id, name) == Some(Attr::Bool(true))
    }

    /// Word attribute, empty if there is none.
    pub fn word(&self, id: NodeId, name: &str) -> String {
        match self.attr(id, name) {
            Some(Attr::Str(s)) => s,
            _ => String::new(),
        }
    }

    /// The operand in that role, if it is present.
    pub fn operand(&self, id: NodeId, role: &str) -> Option<NodeId> {
        let node = &self.nodes[id];
        let row = node.op.row();
        let present = row.optional.iter().filter(|o| node.attrs.get(**o) == Some(&Attr::Bool(true)));
        let at = row.operands.iter().chain(present).position(|&r| r == role)?;
        self.operands(id).get(at).copied()
    }

    /// The weight of a weight node.
    pub fn weight_of(&self, id: NodeId) -> Option<&Weight> {
        self.nodes[id].weight.as_ref()
    }

    /// Result type of an op, or what is wrong with its operands and attributes.
    pub fn infer(&self, op: OpKind, operands: &[NodeId], attrs: &Attrs, name: &str) -> Result<TensorType, GraphError> {
        let row = op.row();
        let fail = |message: String| GraphError { op: row.name, name: name.to_string(), message };
        for key in attrs.keys() {
            if !row.optional.contains(&key.as_str()) && !row.attrs.iter().any(|(n, _)| n == key) {
                return Err(fail(format!("unknown attribute `{key}`")));
            }
        }
        for (n, kind) in row.attrs {
            let ok = match (kind, attrs.get(*n)) {
                (AttrKind::Int | AttrKind::IntOr(_), Some(Attr::Int(v))) => *v >= 0,
                (AttrKind::Float | AttrKind::FloatOr(_), Some(Attr::Float(v))) => v.is_finite(),
                (AttrKind::OneOf(words), Some(Attr::Str(s))) => words.contains(&s.as_str()),
                (AttrKind::Flag, Some(Attr::Bool(_))) => true,
                (AttrKind::Int | AttrKind::Float, None) => return Err(fail(format!("attribute `{n}` is missing"))),
                (_, None) => true,
                _ => false,
            };
            if !ok {
                return Err(fail(format!("attribute `{n}` has a value that does not fit {kind:?}")));
            }
        }
        let roles: Vec<&str> = row
            .operands
            .iter()
            .chain(row.optional.iter().filter(|o| attrs.get(**o) == Some(&Attr::Bool(true))))
            .copied()
            .collect();
        if roles.len() != operands.len() {
            return Err(fail(format!("takes {} operands ({}), has {}", roles.len(), roles.join(", "), operands.len())));
        }
        let types: Vec<&TensorType> = operands.iter().map(|&o| self.ty(o)).collect();
        let get = |role: &str| roles.iter().position(|&r| r == role).map(|i| types[i]);
        super::op_types::result_type(op, &get, attrs).map_err(fail)
    }
}

fn attr(op: OpKind, attrs: &Attrs, name: &str) -> Option<Attr> {
    if let Some(v) = attrs.get(name) {
        return Some(v.clone());
    }
    let (_, kind) = op.row().attrs.iter().find(|(n, _)| *n == name)?;
    match kind {
        AttrKind::IntOr(v) => Some(Attr::Int(*v)),
        AttrKind::FloatOr(v) => Some(Attr::Float(*v)),
        AttrKind::OneOf(words) => Some(Attr::Str(words[0].to_string())),
        AttrKind::Flag => Some(Attr::Bool(false)),
        AttrKind::Int | AttrKind::Float => None,
    }
}

impl From<i64> for Attr {
    fn from(v: i64) -> Attr {
        Attr::Int(v)
    }
}
impl From<f64> for Attr {
    fn from(v: f64) -> Attr {
        Attr::Float(v)
    }
}
impl From<bool> for Attr {
    fn from(v: bool) -> Attr {
        Attr::Bool(v)
    }
}
impl From<&str> for Attr {
    fn from(v: &str) -> Attr {
        Attr::Str(v.to_string())
    }
}

/// Builds [`Attrs`]: `attrs([("eps", 1e-5.into())])`.
pub fn attrs<const N: usize>(pairs: [(&str, Attr); N]) -> Attrs {
    pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}
