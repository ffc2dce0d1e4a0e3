//! A graph in the language of Graphviz.

use tilewright_ir::graph::{Graph, OpKind};

/// Weights are left out: they hang on every second node, and the text form of the graph shows them.
pub fn dot(graph: &Graph) -> String {
    let mut out = format!("digraph {:?} {{\n  node [shape=box, fontname=\"monospace\"];\n", graph.name);
    for &n in graph.order() {
        let node = graph.node(n);
        if node.op == OpKind::Weight {
            continue;
        }
        let weights: Vec<String> = graph
            .operands(n)
            .into_iter()
            .filter_map(|o| graph.weight_of(o))
            .map(|w| format!("\\n{} {}", w.name, w.ty))
            .collect();
        let shape = if node.op == OpKind::Input { ", style=rounded" } else { "" };
        let label = format!("{} {}\\n{}{}", node.op.row().name, node.name, node.ty, weights.concat());
        out += &format!("  n{} [label=\"{}\"{shape}];\n", n.index(), label.replace('"', "'"));
        for o in graph.operands(n) {
            if graph.node(o).op != OpKind::Weight {
                out += &format!("  n{} -> n{};\n", o.index(), n.index());
            }
        }
    }
    for o in graph.outputs() {
        out += &format!("  out [label=\"output\", style=rounded];\n  n{} -> out;\n", o.index());
    }
    out + "}\n"
}
