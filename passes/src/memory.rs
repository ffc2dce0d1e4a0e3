//! Lays the activations of a graph out in one arena, by liveness.
//!
//! Nodes run in graph order, one after the other, so a buffer may be reused as soon as the last reader has run. Slices
//! take no memory: they are columns of their operand. The cache is updated in place. A node that takes several kernels may
//! have scratch memory, which holds what they tell each other while the node runs. Buffers are placed best fit, in graph
//! order, so equal graphs give equal layouts.

use rustc_hash::FxHashMap;
use tilewright_ir::graph::{Elem, Graph, NodeId, OpKind, TensorType};

/// Where a node's value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Arena: byte offset of the first row, bytes from row to row.
    Arena {
        /// First row.
        offset: u64,
        /// Row to row.
        stride: u64,
    },
    /// The cache of that index.
    Kv(u32),
    /// Outside the arena: inputs, weights, rotary tables.
    Outside,
}

/// The arena's layout.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Place of each node.
    pub places: FxHashMap<NodeId, Place>,
    /// Offset of the scratch memory of each node that has some.
    pub scratch: FxHashMap<NodeId, u64>,
    /// Bytes of the arena.
    pub bytes: u64,
}

/// Alignment of buffers and of f32 rows.
pub const ALIGN: u64 = 64;

/// Plans for runs of up to `tokens` tokens; `row_bytes` says how long a row of a type is, `scratch_bytes` how much scratch
/// memory a node takes.
pub fn plan(
    graph: &Graph,
    tokens: u64,
    row_bytes: &dyn Fn(&TensorType) -> u64,
    scratch_bytes: &dyn Fn(NodeId) -> u64,
) -> Memory {
    let order = graph.order();
    let at: FxHashMap<NodeId, usize> = order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
    // The buffer a node's value is part of, and the last position that reads the buffer.
    let mut root: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    let mut last: FxHashMap<NodeId, usize> = FxHashMap::default();
    for (i, &n) in order.iter().enumerate() {
        let r = match graph.node(n).op {
            OpKind::Slice => root[&graph.operands(n)[0]],
            _ => n,
        };
        root.insert(n, r);
        for o in graph.operands(n) {
            last.insert(root[&o], i);
        }
        last.entry(r).or_insert(i);
    }
    for o in graph.outputs() {
        last.insert(root[o], order.len());
    }

    let (mut places, mut scratch) = (FxHashMap::default(), FxHashMap::default());
    let mut live: Vec<(u64, u64, usize)> = vec![]; // offset, bytes, last reader; sorted by offset
    let mut bytes = 0;
    let mut take = |i: usize, size: u64, last: usize| {
        let size = size.next_multiple_of(ALIGN);
        live.retain(|b| b.2 >= i);
        let offset = fit(&live, size);
        let index = live.partition_point(|b| b.0 < offset);
        live.insert(index, (offset, size, last));
        bytes = bytes.max(offset + size);
        offset
    };
    for (i, &n) in order.iter().enumerate() {
        let node = graph.node(n);
        let place = match (node.op, &node.ty.elem) {
            (OpKind::Weight | OpKind::RopeAngles, _) => Place::Outside,
            (OpKind::Input, Elem::Kv) => {
                Place::Kv(node.name.strip_prefix("kv.").and_then(|s| s.parse().ok()).unwrap_or(0))
            }
            (OpKind::Input, _) => Place::Outside,
            (OpKind::KvWrite, _) => places[&graph.operand(n, "kv").expect("kv_write has a cache")],
            (OpKind::Slice, _) => match places[&graph.operands(n)[0]] {
                Place::Arena { offset, stride } => {
                    Place::Arena { offset: offset + graph.int(n, "start") as u64 * 4, stride }
                }
                other => other,
            },
            _ => {
                let stride = row_bytes(&node.ty);
                Place::Arena { offset: take(i, stride * tokens, last[&n]), stride }
            }
        };
        let size = scratch_bytes(n);
        if size > 0 {
            scratch.insert(n, take(i, size, i));
        }
        debug_assert!(at[&n] == i);
        places.insert(n, place);
    }
    Memory { places, scratch, bytes }
}

/// The smallest gap that holds `size` bytes, else the end.
fn fit(live: &[(u64, u64, usize)], size: u64) -> u64 {
    let mut best: Option<(u64, u64)> = None; // gap, offset
    let mut end = 0;
    for &(offset, bytes, _) in live {
        let gap = offset - end;
        if gap >= size && best.is_none_or(|(g, _)| gap < g) {
            best = Some((gap, end));
        }
        end = offset + bytes;
    }
    best.map_or(end, |(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilewright_ir::graph::{Dim, Weight, attrs};

    #[test]
    fn a_chain_needs_two_buffers_and_slices_none() {
        let mut g = Graph::new("chain");
        let tokens = g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
        let table = g.weight(Weight::of("e", "f32", &[8, 16]));
        let mut x = g.push(OpKind::Embed, &[tokens, table], attrs([])).unwrap();
        for _ in 0..5 {
            x = g.push(OpKind::Act, &[x], attrs([])).unwrap();
        }
        let s = g.push(OpKind::Slice, &[x], attrs([("start", 4.into()), ("len", 8.into())])).unwrap();
        g.set_outputs(&[s]);
        let m = plan(&g, 3, &|_| 64, &|_| 0);
        assert_eq!(m.bytes, 2 * 3 * 64);
        let (Place::Arena { offset: whole, .. }, Place::Arena { offset: part, stride }) = (m.places[&x], m.places[&s])
        else {
            panic!("both are in the arena");
        };
        assert_eq!((part - whole, stride), (16, 64));
    }

    #[test]
    fn scratch_overlaps_nothing_its_node_reads_or_writes_and_is_free_again() {
        let mut g = Graph::new("chain");
        let tokens = g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
        let table = g.weight(Weight::of("e", "f32", &[8, 16]));
        let mut x = g.push(OpKind::Embed, &[tokens, table], attrs([])).unwrap();
        let mut nodes = vec![x];
        for _ in 0..4 {
            x = g.push(OpKind::Act, &[x], attrs([])).unwrap();
            nodes.push(x);
        }
        g.set_outputs(&[x]);
        let with = [nodes[1], nodes[3]];
        let m = plan(&g, 1, &|_| 64, &|n| if with.contains(&n) { 100 } else { 0 });
        assert_eq!(m.scratch.len(), 2);
        let place = |n: NodeId| match m.places[&n] {
            Place::Arena { offset, .. } => offset..offset + 64,
            _ => panic!("in the arena"),
        };
        for (i, &n) in nodes.iter().enumerate().filter(|(_, n)| with.contains(n)) {
            let scratch = m.scratch[&n]..m.scratch[&n] + 128;
            for near in [place(nodes[i - 1]), place(n)] {
                assert!(scratch.end <= near.start || near.end <= scratch.start, "{scratch:?} and {near:?}");
            }
            assert!(scratch.end <= m.bytes);
        }
        assert_eq!(m.bytes, 64 + 64 + 128, "both nodes use the same scratch");
    }
}
