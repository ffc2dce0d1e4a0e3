//! A graph as a person sees it: what comes before the layers, one layer of each kind, what comes after.
//!
//! Layers are found by the numbers in names and are of one kind if they have the same nodes, types and edges.

use crate::profile::kind;
use std::collections::{BTreeMap, HashMap};
use tilewright_ir::graph::{Attr, Graph, NodeId, OpKind};

/// Kinds of layers that are drawn; the rest is named.
const MOST_KINDS: usize = 4;
/// What a layer's values from elsewhere are of.
const BEFORE: &str = "layer before";

/// Parts from top to bottom.
pub struct Picture {
    pub parts: Vec<Part>,
    /// Kinds of layers that are not drawn.
    pub left_out: usize,
}

/// A part of the graph that is drawn by itself.
pub struct Part {
    pub title: String,
    /// Whether it stands for layers.
    pub layer: bool,
    pub nodes: Vec<Node>,
    /// Indices into `nodes`, the earlier first.
    pub edges: Vec<(usize, usize)>,
}

/// A node, or a value that comes from another part.
pub struct Node {
    /// Empty for a value of another part.
    pub op: String,
    /// Without the number of the layer.
    pub name: String,
    pub ty: String,
    pub weights: Vec<String>,
    /// `eps=1e-5`.
    pub attrs: Vec<String>,
    /// What its calls are named, `matmul blk.*.ffn_down` without the op.
    pub label: String,
}

/// The layer that a name belongs to: its first number.
fn layer_of(name: &str) -> Option<u32> {
    name.split(['.', '+']).find_map(|part| part.parse().ok())
}

fn text(attr: &Attr) -> String {
    match attr {
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => v.to_string(),
        Attr::Str(v) => v.clone(),
        Attr::Bool(v) => v.to_string(),
    }
}

/// Groups of nodes: before, layers by number, after.
fn groups(graph: &Graph) -> (Vec<NodeId>, BTreeMap<u32, Vec<NodeId>>, Vec<NodeId>) {
    let (mut before, mut layers, mut after) = (vec![], BTreeMap::<u32, Vec<NodeId>>::new(), vec![]);
    let mut of: HashMap<NodeId, Option<u32>> = HashMap::new();
    // Behind any layer, and so not in front of all.
    let mut behind: HashMap<NodeId, bool> = HashMap::new();
    for &n in graph.order().iter().filter(|&&n| graph.node(n).op != OpKind::Weight) {
        let name = &graph.node(n).name;
        let operands = graph.operands(n);
        // One without a name belongs to what it is computed from.
        let inherited = || operands.iter().filter_map(|o| of.get(o).copied().flatten()).max();
        let layer = layer_of(name).or_else(|| if name.is_empty() { inherited() } else { None });
        let late = operands.iter().any(|o| behind.get(o) == Some(&true) || of.get(o).copied().flatten().is_some());
        of.insert(n, layer);
        behind.insert(n, late);
        match layer {
            Some(layer) => layers.entry(layer).or_default().push(n),
            None if late => after.push(n),
            None => before.push(n),
        }
    }
    (before, layers, after)
}

/// Nodes by themselves; values of other parts become nodes without an op, those of layers "of the `from`".
fn part(graph: &Graph, title: String, ids: &[NodeId], from: &str) -> Part {
    let (mut nodes, mut edges): (Vec<Node>, Vec<(usize, usize)>) = (vec![], vec![]);
    let mut index: HashMap<NodeId, usize> = HashMap::new();
    for &n in ids {
        let node = graph.node(n);
        let operands: Vec<NodeId> =
            graph.operands(n).into_iter().filter(|&o| graph.node(o).op != OpKind::Weight).collect();
        for &o in &operands {
            index.entry(o).or_insert_with(|| {
                let other = graph.node(o);
                let name = super::facts::what(&format!("- {}", kind(&other.name)));
                let name = if layer_of(&other.name).is_some() { format!("{name} of the {from}") } else { name };
                let (op, ty, label) = (String::new(), other.ty.to_string(), String::new());
                nodes.push(Node { op, name, ty, weights: vec![], attrs: vec![], label });
                nodes.len() - 1
            });
        }
        let label = kind(&node.name);
        let weights = graph.operands(n).into_iter().filter_map(|o| graph.weight_of(o)).map(|w| w.ty.to_string());
        nodes.push(Node {
            op: node.op.row().name.to_string(),
            name: super::facts::what(&format!("- {label}")),
            ty: node.ty.to_string(),
            weights: weights.collect(),
            attrs: node.attrs.iter().map(|(k, v)| format!("{k}={}", text(v))).collect(),
            label,
        });
        let to = nodes.len() - 1;
        index.insert(n, to);
        let mut from: Vec<usize> = operands.iter().filter_map(|o| index.get(o).copied()).collect();
        from.sort_unstable();
        from.dedup();
        edges.extend(from.into_iter().map(|f| (f, to)));
    }
    Part { title, layer: from == BEFORE, nodes, edges }
}

/// What makes two layers the same kind.
fn signature(p: &Part) -> String {
    let node = |n: &Node| {
        format!("{} {} {} {:?} {:?}\n", n.op, if n.op.is_empty() { "" } else { &n.name }, n.ty, n.weights, n.attrs)
    };
    p.nodes.iter().map(node).chain([format!("{:?}", p.edges)]).collect()
}

/// `0-3, 5`.
fn ranges(numbers: &[u32]) -> String {
    let mut out: Vec<(u32, u32)> = vec![];
    for &n in numbers {
        match out.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(n) => last.1 = n,
            _ => out.push((n, n)),
        }
    }
    let text = |&(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}–{b}") };
    let words: Vec<String> = out.iter().map(text).collect();
    // Windows that come and go make long lists.
    if words.len() > 8 { format!("{}, .. {}", words[..6].join(", "), words[words.len() - 1]) } else { words.join(", ") }
}

/// Folds a graph.
pub fn fold(graph: &Graph) -> Picture {
    let (before, layers, after) = groups(graph);
    let mut kinds: Vec<(String, Vec<u32>)> = vec![];
    for (&number, ids) in &layers {
        let text = signature(&part(graph, String::new(), ids, ""));
        match kinds.iter_mut().find(|k| k.0 == text) {
            Some(k) => k.1.push(number),
            None => kinds.push((text, vec![number])),
        }
    }
    let mut parts = vec![];
    // Inputs alone show up where they are used.
    if before.iter().any(|&n| graph.node(n).op != OpKind::Input) {
        parts.push(part(graph, "before the layers".into(), &before, ""));
    }
    for (_, numbers) in kinds.iter().take(MOST_KINDS) {
        let title = match numbers.len() {
            1 => format!("layer {}", numbers[0]),
            n => format!("layer × {n} ({})", ranges(numbers)),
        };
        // The last one has a layer before it.
        let ids = numbers.last().and_then(|n| layers.get(n)).map_or(&[][..], |v| v);
        parts.push(part(graph, title, ids, BEFORE));
    }
    if !after.is_empty() {
        parts.push(part(graph, "after the layers".into(), &after, "last layer"));
    }
    Picture { parts, left_out: kinds.len().saturating_sub(MOST_KINDS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilewright_ir::graph::parse;

    const TEXT: &str = "graph @g {
  weight @blk.0.w : @f32[32, 32]
  weight @blk.1.w : @f32[32, 32]
  weight @blk.2.w : @f32[32, 32]
  weight @head : @f32[64, 32]
  weight @embd : @f32[64, 32]
  %tokens = input : i32[T]
  %x = embed %tokens, @embd : f32[T, 32]
  %blk.0.y = matmul %x, @blk.0.w : f32[T, 32]
  %blk.0.z = add %blk.0.y, %x : f32[T, 32]
  %blk.1.y = matmul %blk.0.z, @blk.1.w : f32[T, 32]
  %blk.1.z = add %blk.1.y, %blk.0.z : f32[T, 32]
  %blk.2.y = matmul %blk.1.z, @blk.2.w : f32[T, 32]
  %out = matmul %blk.2.y, @head : f32[T, 64]
  return %out
}";

    #[test]
    fn equal_layers_are_one() {
        let picture = fold(&parse(TEXT).expect("a graph"));
        let titles: Vec<&str> = picture.parts.iter().map(|p| p.title.as_str()).collect();
        assert_eq!(titles, ["before the layers", "layer × 2 (0–1)", "layer 2", "after the layers"]);
        let layer = &picture.parts[1];
        let names: Vec<(&str, &str)> = layer.nodes.iter().map(|n| (n.op.as_str(), n.name.as_str())).collect();
        assert_eq!(names, [("", "z of the layer before"), ("matmul", "y"), ("add", "z")]);
        assert_eq!(layer.edges, [(0, 1), (0, 2), (1, 2)]);
        assert_eq!(
            (layer.nodes[1].weights.concat().as_str(), layer.nodes[1].label.as_str()),
            ("@f32[32, 32]", "blk.*.y")
        );
        assert!(picture.parts.iter().all(|p| p.edges.iter().all(|e| e.0 < e.1 && e.1 < p.nodes.len())));
    }

    #[test]
    fn an_empty_graph_has_no_parts() {
        assert!(fold(&Graph::new("g")).parts.is_empty());
    }

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
        let odd: Vec<u32> = (0..20).map(|i| 2 * i + 1).collect();
        assert_eq!(ranges(&odd), "1, 3, 5, 7, 9, 11, .. 39");
    }
}
