//! Verifier of graph IR. What passes is safe to interpret, plan and lower.
//!
//! The rules; each has a file test in `tests/ir/graph/verify/` or, where no text can break it, a unit test:
//!
//! - G01 operands come before their users
//! - G02 operands and attributes are those of the op table, and the type is the one that follows
//! - G03 inputs are `tokens` or `pos` of type `i32[T]`, `kv.N` of type `kv[h, d]`, or activations `f32[T, n]`
//! - G04 no two inputs and no two weights have the same name
//! - G05 a weight has a format and one or two constant dimensions, none of them 0
//! - G06 the parts of a weight are not empty and give as many rows as its shape says
//! - G07 a part has a finite `add`, which is 0 unless the format is `f32`
//! - G08 rotary tables are finite and not empty, and `rope_angles` names one
//! - G09 angles come from `rope_angles`, heads have an even size and at least twice as many elements as the angles' table
//! - G10 positions are the input `pos`
//! - G11 a cache value is written at most once: states of a cache form a chain
//! - G12 what reads a cache reads its last state
//! - G13 there are outputs, all of them nodes of the graph and computed: no inputs, no weights
//! - G14 `eps` and attention's `softcap` are at least 0, `cap` is above 0

use super::op::OpKind;
use super::types::{Dim, Elem, TensorType, Weight};
use super::{Graph, NodeId};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// `G01` to `G14`.
    pub rule: &'static str,
    /// Text name of the op and name of the node; for the graph as a whole its name.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.rule, self.place, self.message)
    }
}

/// All broken rules, in the order of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(VerifyError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for VerifyErrors {}

/// Checks all rules.
pub fn verify(graph: &Graph) -> Result<(), VerifyErrors> {
    let at = graph.order().iter().enumerate().map(|(i, &n)| (n, i)).collect();
    let mut v = Verifier { graph, at, names: HashSet::new(), errors: vec![] };
    v.graph();
    for &n in graph.order() {
        v.node(n);
    }
    if v.errors.is_empty() { Ok(()) } else { Err(VerifyErrors(v.errors)) }
}

struct Verifier<'g> {
    graph: &'g Graph,
    at: HashMap<NodeId, usize>,
    /// Inputs' and weights' names, the kind first.
    names: HashSet<(OpKind, &'g str)>,
    errors: Vec<VerifyError>,
}

impl<'g> Verifier<'g> {
    fn place(&self, n: NodeId) -> String {
        let node = self.graph.node(n);
        match node.op {
            OpKind::Weight => format!("weight @{}", node.name),
            op => format!("{} %{}", op.row().name, self.graph.value_name(n)),
        }
    }

    fn fail(&mut self, rule: &'static str, n: NodeId, message: impl Into<String>) {
        let place = self.place(n);
        self.errors.push(VerifyError { rule, place, message: message.into() });
    }

    fn graph(&mut self) {
        let mut fail = |rule, message| {
            self.errors.push(VerifyError { rule, place: format!("graph @{}", self.graph.name), message });
        };
        for (i, table) in self.graph.rope.iter().enumerate() {
            let finite = table.inv_freq.iter().chain([&table.scale]).all(|v| v.is_finite());
            if !finite || table.inv_freq.is_empty() {
                fail("G08", format!("rope {i} is empty or not finite"));
            }
        }
        if self.graph.outputs().is_empty() {
            fail("G13", "there are no outputs".to_string());
        }
        for &o in self.graph.outputs() {
            if !self.at.contains_key(&o) {
                fail("G13", "an output is not a node of the graph".to_string());
            } else if matches!(self.graph.node(o).op, OpKind::Input | OpKind::Weight) {
                fail("G13", format!("the output `{}` is not computed", self.graph.node(o).name));
            }
        }
    }

    fn node(&mut self, n: NodeId) {
        let g = self.graph;
        let (node, operands) = (g.node(n), g.operands(n));
        if operands.iter().any(|o| self.at.get(o).is_none_or(|at| *at >= self.at[&n])) {
            self.fail("G01", n, "an operand comes after it");
        }
        match node.op {
            OpKind::Input => self.input(n),
            OpKind::Weight => self.weight(n),
            _ => match g.infer(node.op, &operands, &node.attrs, &node.name) {
                Ok(ty) if ty == node.ty => self.op(n),
                Ok(ty) => self.fail("G02", n, format!("its type is {}, but the op gives {ty}", node.ty)),
                Err(e) => self.fail("G02", n, e.message),
            },
        }
        if node.ty.elem == Elem::Kv {
            self.cache(n);
        }
    }

    fn name(&mut self, n: NodeId) {
        let node = self.graph.node(n);
        if !self.names.insert((node.op, &node.name)) {
            self.fail("G04", n, "the name is used twice");
        }
    }

    fn input(&mut self, n: NodeId) {
        self.name(n);
        let node = self.graph.node(n);
        let is_kv =
            |name: &str| name.strip_prefix("kv.").is_some_and(|i| i.parse().is_ok_and(|v: u32| v.to_string() == i));
        let ok = match node.name.as_str() {
            "tokens" | "pos" => node.ty == TensorType::new(Elem::I32, [Dim::T]),
            name if is_kv(name) => {
                node.ty.elem == Elem::Kv && matches!(node.ty.shape[..], [Dim::N(h), Dim::N(d)] if h > 0 && d > 0)
            }
            _ => node.ty.elem == Elem::F32 && matches!(node.ty.shape[..], [Dim::T, Dim::N(n)] if n > 0),
        };
        if !ok {
            self.fail("G03", n, format!("an input of this name has no type {}", node.ty));
        }
    }

    fn weight(&mut self, n: NodeId) {
        self.name(n);
        let Some(Weight { ty, parts, .. }) = self.graph.weight_of(n) else {
            return self.fail("G05", n, "nothing says where it comes from");
        };
        let sizes: Vec<u64> = ty.shape.iter().map(|d| if let Dim::N(n) = d { *n } else { 0 }).collect();
        let elements = sizes.iter().try_fold(1u64, |a, &b| a.checked_mul(b));
        let Elem::Format(format) = &ty.elem else { return self.fail("G05", n, format!("{ty} has no format")) };
        if !(1..=2).contains(&sizes.len())
            || elements.is_none_or(|e| e == 0 || e > 1 << 48)
            || *ty != self.graph.node(n).ty
        {
            return self.fail("G05", n, format!("{ty} is no type of a weight"));
        }
        let rows = parts.iter().try_fold(0u64, |a, p| {
            p.rows.0.checked_add(p.rows.1)?;
            a.checked_add(p.rows.1).filter(|_| p.rows.1 > 0)
        });
        if rows != Some(sizes[0]) {
            self.fail("G06", n, format!("its parts do not give {} rows", sizes[0]));
        }
        if let Some(p) = parts.iter().find(|p| !p.add.is_finite() || (p.add != 0.0 && &**format != "f32")) {
            self.fail("G07", n, format!("adds {:?} to elements of format {format}", p.add));
        }
    }

    fn op(&mut self, n: NodeId) {
        let g = self.graph;
        let node = g.node(n);
        let low = |name: &str| g.float(n, name) < 0.0;
        if low("eps") || low("softcap") || (node.op == OpKind::Softcap && g.float(n, "cap") <= 0.0) {
            self.fail("G14", n, "`eps` and `softcap` are at least 0, `cap` is above 0");
        }
        if let Some(pos) = g.operand(n, "pos")
            && (g.node(pos).op != OpKind::Input || g.node(pos).name != "pos")
        {
            self.fail("G10", n, "positions are not the input `pos`");
        }
        if node.op == OpKind::RopeAngles && g.rope.get(g.int(n, "table") as usize).is_none() {
            self.fail("G08", n, format!("there is no rope {}", g.int(n, "table")));
        }
        let Some(angles) = g.operand(n, "angles") else { return };
        if g.node(angles).op != OpKind::RopeAngles {
            return self.fail("G09", n, "angles do not come from rope_angles");
        }
        let head = match node.op {
            OpKind::Rope => node.ty.width().unwrap_or(0) / g.int(n, "heads").max(1) as u64,
            _ => g.operand(n, "kv").and_then(|kv| g.ty(kv).width()).unwrap_or(0),
        };
        let pairs = g.rope.get(g.int(angles, "table") as usize).map_or(0, |t| t.inv_freq.len() as u64);
        if !head.is_multiple_of(2) || 2 * pairs > head {
            self.fail("G09", n, format!("{pairs} angles cannot rotate heads of {head}"));
        }
    }

    fn cache(&mut self, n: NodeId) {
        let mut users = self.graph.users(n);
        users.dedup();
        let writes = users.iter().filter(|&&u| self.graph.node(u).op == OpKind::KvWrite).count();
        if writes > 1 {
            self.fail("G11", n, format!("is written {writes} times"));
        }
        let read = users.iter().find(|&&u| self.graph.node(u).op != OpKind::KvWrite).copied();
        if let Some(reader) = read.filter(|_| writes > 0) {
            self.fail("G12", reader, format!("reads %{}, which a kv_write replaces", self.graph.value_name(n)));
        }
    }
}
