//! From a fused graph to kernel calls on a memory map: one schedule for each node, arguments by role.
//!
//! Weights get their place in the packed file when they are first used, so the file is in the order in which a step reads
//! it.

//!
//! What is the same for all machines is here; which schedule computes a node is in `cpu.rs` and `gpu.rs`.

mod cpu;
mod gpu;

use crate::pack::{Layout, ROWS};
use crate::schedules::gpu::{Choice, F16Rows, Next};
use crate::schedules::{
    Activation, Attention, Bf16Rows, HeadPrep, Params, Q8Rows, RopeStyle, Rowwise, RowwiseOp, Schedule, defaults,
};
use tilewright_ir::graph::{Dim, Elem, Graph, NodeId, OpKind, TensorType, Weight};
use tilewright_passes::memory::{self, ALIGN, Memory, Place};
use tilewright_runtime::plan::{Arg, ScalarArg};

/// How a weight is packed.
#[derive(Clone, Debug, PartialEq)]
pub enum Packing {
    /// f32 as they are, padded to 16.
    Vector,
    /// Panels.
    Panels(Layout),
}

/// A weight's place in the packed file.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    /// The weight.
    pub weight: Weight,
    /// Byte offset, a multiple of 64.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// How.
    pub packing: Packing,
}

/// The packed file's table of contents, in file order.
#[derive(Clone, Debug, Default)]
pub struct WeightMap {
    /// Entries by rising offset.
    pub entries: Vec<PackedWeight>,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A graph that cannot be lowered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LowerError {
    /// A format without a declaration.
    #[error("weight {weight}: there is no block format `{format}`; `compile-model list formats` shows those there are")]
    Format {
        /// Weight.
        weight: String,
        /// Format.
        format: String,
    },
    /// A format no layout holds.
    #[error("weight {weight}: {source}")]
    Pack {
        /// Weight.
        weight: String,
        /// Reason.
        source: crate::pack::PackError,
    },
    /// A combination without a kernel.
    #[error("{op} {node}: {what}")]
    Unsupported {
        /// Op.
        op: &'static str,
        /// Node.
        node: String,
        /// What is missing.
        what: String,
    },
}

/// One kernel call.
pub struct LoweredCall {
    /// The node it computes.
    pub node: NodeId,
    /// What it is, for people.
    pub label: String,
    /// The schedule that builds its kernel.
    pub schedule: Box<dyn Schedule + Send>,
    /// The chosen parameters.
    pub params: Params,
    /// Pointer arguments.
    pub args: Vec<Arg>,
    /// Scalar arguments.
    pub scalars: Vec<ScalarArg>,
    /// Weight bytes that it reads.
    pub weight_bytes: u64,
}

/// One program: the graph for up to so many tokens.
pub struct Lowered {
    /// Calls in order.
    pub calls: Vec<LoweredCall>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Calls from here on only matter for the outputs.
    pub head_start: usize,
    /// Arena offset and row stride of the first output.
    pub output: (u64, u64),
    /// GPU: bytes of counters. Calls follow each other and leave zeros: they share them.
    pub counters_bytes: u64,
    /// GPU, for one token: the call that takes the likeliest token and prepares the next step.
    pub next: Option<LoweredCall>,
    /// The same with a token drawn by chance.
    pub sampled: Option<LoweredCall>,
}

/// Where layouts and parameters come from.
pub struct LowerContext<'a> {
    /// Layout of a format.
    pub layout: &'a dyn Fn(&str) -> Option<Result<Layout, crate::pack::PackError>>,
    /// Parameters for a schedule: records, else defaults.
    pub params: &'a dyn Fn(&dyn Schedule) -> Params,
    /// For a GPU: terms of f16 that stand for an f32 in products.
    pub terms: Option<u64>,
}

/// Bytes of a row of a value: f32 rows padded to 64 bytes, rounded ones as [`Q8Rows`], [`Bf16Rows`] and [`F16Rows`] say.
pub fn row_bytes(ty: &TensorType) -> u64 {
    match (&ty.elem, ty.width()) {
        (Elem::Q8, Some(width)) => Q8Rows { width }.bytes(),
        (Elem::BF16, Some(width)) => Bf16Rows { width }.bytes(),
        (Elem::F16, Some(width)) => F16Rows { width, terms: 1 }.bytes(),
        (Elem::F16Pair, Some(width)) => F16Rows { width, terms: 2 }.bytes(),
        (_, Some(width)) => (width * 4).next_multiple_of(ALIGN),
        (_, None) => 4,
    }
}

impl WeightMap {
    fn place(
        &mut self,
        weight: &Weight,
        packing: impl FnOnce() -> Result<Packing, LowerError>,
    ) -> Result<usize, LowerError> {
        if let Some(i) = self.entries.iter().position(|e| e.weight.name == weight.name) {
            return Ok(i);
        }
        let packing = packing()?;
        let dims: Vec<u64> = weight.ty.shape.iter().map(|d| if let Dim::N(n) = d { *n } else { 0 }).collect();
        let bytes = match (&packing, dims.as_slice()) {
            (Packing::Panels(l), [rows, cols]) => l.bytes(*rows, *cols),
            (_, dims) => dims.iter().product::<u64>().next_multiple_of(ROWS) * 4,
        };
        let offset = self.bytes;
        self.bytes = (offset + bytes).next_multiple_of(ALIGN);
        self.entries.push(PackedWeight { weight: weight.clone(), offset, bytes, packing });
        Ok(self.entries.len() - 1)
    }
}

/// Lowers `graph` for runs of up to `tokens` tokens; new weights are added to `weights`.
pub fn lower(
    graph: &Graph,
    tokens: u32,
    weights: &mut WeightMap,
    cx: &LowerContext<'_>,
) -> Result<Lowered, LowerError> {
    let scratch = |n: NodeId| match cx.terms {
        Some(terms) => gpu::scratch(graph, n, tokens, terms),
        None if graph.node(n).op == OpKind::Attention => {
            let a = attention(graph, n, tokens);
            Attention::scratch_bytes(a.heads, a.head_dim, tokens)
        }
        None => 0,
    };
    let memory = memory::plan(graph, u64::from(tokens), &row_bytes, &scratch);
    let mut l = Lowering { graph, tokens, memory: &memory, weights, cx, combine: None, counters: 0 };
    let mut calls: Vec<LoweredCall> = vec![];
    let mut head_start = 0;
    for &n in graph.order() {
        let call = if cx.terms.is_some() { l.on_gpu(n)? } else { l.on_cpu(n)? };
        if let Some(call) = call {
            calls.push(call);
            calls.extend(l.combine.take());
            if graph.node(n).op == OpKind::KvWrite {
                head_start = calls.len();
            }
        }
    }
    let output = match graph.outputs().first().map(|o| memory.places[o]) {
        Some(Place::Arena { offset, stride }) => (offset, stride),
        _ => {
            let what = "the first output is not computed".to_string();
            return Err(LowerError::Unsupported { op: "graph", node: graph.name.clone(), what });
        }
    };
    let mut lowered = Lowered {
        calls,
        arena_bytes: memory.bytes.max(ALIGN),
        head_start,
        output,
        counters_bytes: l.counters,
        next: None,
        sampled: None,
    };
    if cx.terms.is_some() && tokens == 1 {
        next(graph, &mut lowered);
    }
    Ok(lowered)
}

/// The calls that lead from one decode step to the next without the host. They share their memory: a step has one of them.
fn next(graph: &Graph, lowered: &mut Lowered) {
    let Some(&node) = graph.outputs().first() else { return };
    let vocab = graph.ty(node).width().unwrap_or(1);
    let rope: Vec<u64> = graph.rope.iter().map(|r| r.inv_freq.len() as u64).collect();
    let parts = lowered.arena_bytes.next_multiple_of(ALIGN);
    let mut call = |choice: Choice| {
        let next = Next { vocab, rope: rope.clone(), choice };
        let params = defaults(&next.space());
        let end = parts + next.parts_bytes(&params).next_multiple_of(ALIGN);
        lowered.arena_bytes = lowered.arena_bytes.max(end);
        lowered.counters_bytes = lowered.counters_bytes.max(next.counters_bytes(&params));
        let mut args = vec![Arg::Arena(lowered.output.0), Arg::Arena(parts), Arg::Counters(0)];
        args.extend([Arg::State, Arg::Tokens, Arg::History]);
        if choice == Choice::Sampled {
            args.extend([Arg::Sampling, Arg::Draws]);
        }
        args.extend((0..rope.len() as u32).flat_map(|i| [Arg::RopeAll(i), Arg::Rope(i)]));
        LoweredCall {
            node,
            label: next.label().into(),
            schedule: Box::new(next),
            params,
            args,
            scalars: vec![ScalarArg::Past],
            weight_bytes: 0,
        }
    };
    let (likeliest, sampled) = (call(Choice::Likeliest), call(Choice::Sampled));
    (lowered.next, lowered.sampled) = (Some(likeliest), Some(sampled));
}

/// The attention `n` but for norm and rotation, and how far its rows are apart.
fn attention(graph: &Graph, n: NodeId, tokens: u32) -> Attention {
    let (kv_heads, head_dim) = match graph.operand(n, "kv").map(|kv| graph.ty(kv).shape.as_slice()) {
        Some([Dim::N(heads), Dim::N(head_dim)]) => (*heads, *head_dim),
        _ => (0, 0),
    };
    Attention {
        heads: graph.int(n, "heads") as u64,
        kv_heads,
        head_dim,
        q_stride: 0,
        prep: HeadPrep::default(),
        scale: graph.float(n, "scale") as f32,
        window: graph.int(n, "window") as u64,
        softcap: graph.float(n, "softcap") as f32,
        out_stride: None,
        max_tokens: tokens,
    }
}

struct Lowering<'a> {
    graph: &'a Graph,
    tokens: u32,
    memory: &'a Memory,
    weights: &'a mut WeightMap,
    cx: &'a LowerContext<'a>,
    /// The second call of the node just lowered.
    combine: Option<LoweredCall>,
    /// Bytes of counters so far.
    counters: u64,
}

impl Lowering<'_> {
    fn fail(&self, n: NodeId, what: impl Into<String>) -> LowerError {
        let node = self.graph.node(n);
        LowerError::Unsupported { op: node.op.row().name, node: node.name.clone(), what: what.into() }
    }

    /// A value in the arena: argument and row stride.
    fn value(&self, n: NodeId) -> Result<(Arg, u64), LowerError> {
        match self.memory.places[&n] {
            Place::Arena { offset, stride } => Ok((Arg::Arena(offset), stride)),
            _ => Err(self.fail(n, "is not a computed value")),
        }
    }

    fn operand(&self, n: NodeId, role: &str) -> Result<NodeId, LowerError> {
        self.graph.operand(n, role).ok_or_else(|| self.fail(n, format!("operand `{role}` is missing")))
    }

    fn in_arena(&self, n: NodeId, role: &str) -> Result<(Arg, u64), LowerError> {
        self.value(self.operand(n, role)?)
    }

    fn vector(&mut self, n: NodeId) -> Result<Arg, LowerError> {
        let weight = self.graph.weight_of(n).ok_or_else(|| self.fail(n, "is not a weight"))?;
        let i = self.weights.place(weight, || Ok(Packing::Vector))?;
        Ok(Arg::Weights(self.weights.entries[i].offset))
    }

    /// A matrix: argument, layout, rows, columns, bytes.
    fn matrix(&mut self, n: NodeId) -> Result<(Arg, Layout, u64, u64, u64), LowerError> {
        let weight = self.graph.weight_of(n).ok_or_else(|| self.fail(n, "is not a weight"))?;
        let cx = self.cx;
        let i = self.weights.place(weight, || {
            let (name, format) = (weight.name.clone(), weight.format().to_string());
            match (cx.layout)(&format) {
                Some(Ok(l)) => Ok(Packing::Panels(l)),
                Some(Err(source)) => Err(LowerError::Pack { weight: name, source }),
                None => Err(LowerError::Format { weight: name, format }),
            }
        })?;
        let entry = &self.weights.entries[i];
        match (&entry.packing, weight.ty.shape.as_slice()) {
            (Packing::Panels(l), [Dim::N(rows), Dim::N(cols)]) => {
                Ok((Arg::Weights(entry.offset), l.clone(), *rows, *cols, entry.bytes))
            }
            _ => Err(self.fail(n, "is used as a matrix and as a vector")),
        }
    }

    fn pairs(&self, angles: NodeId) -> (u32, u64) {
        let table = self.graph.int(angles, "table") as usize;
        (table as u32, self.graph.rope.get(table).map_or(0, |r| r.inv_freq.len() as u64))
    }

    /// Norm and rotation of q or k; pushes their arguments.
    fn prep(&mut self, n: NodeId, norm: &str, args: &mut Vec<Arg>) -> Result<HeadPrep, LowerError> {
        let mut prep = HeadPrep::default();
        if let Some(angles) = self.graph.operand(n, "angles") {
            let (table, pairs) = self.pairs(angles);
            let style = RopeStyle::from_word(&self.graph.word(n, "style"));
            prep.rope = style.map(|s| (pairs, s));
            args.push(Arg::Rope(table));
        }
        if let Some(gamma) = self.graph.operand(n, norm) {
            prep.norm = Some(self.graph.float(n, "eps") as f32);
            args.push(self.vector(gamma)?);
        }
        Ok(prep)
    }

    fn cache(&self, n: NodeId) -> Result<(Arg, Arg, u64, u64), LowerError> {
        let kv = self.operand(n, "kv")?;
        match (self.memory.places[&kv], self.graph.ty(kv).shape.as_slice()) {
            (Place::Kv(i), [Dim::N(heads), Dim::N(hd)]) => Ok((Arg::K(i), Arg::V(i), *heads, *hd)),
            _ => Err(self.fail(n, "its cache is not an input kv.N")),
        }
    }

    fn activation(&self, n: NodeId) -> Result<Activation, LowerError> {
        let word = self.graph.word(n, "fn");
        Activation::from_word(&word).ok_or_else(|| self.fail(n, format!("no kernel for activation `{word}`")))
    }

    /// An op on rows by themselves, with its arguments.
    fn rowwise(&mut self, n: NodeId, args: &mut Vec<Arg>) -> Result<Rowwise, LowerError> {
        let g = self.graph;
        let x = g.operands(n)[0];
        let ((xa, x_stride), (out, out_stride)) = (self.value(x)?, self.value(n)?);
        args.push(xa);
        let op = self.rowwise_op(n, args)?;
        args.push(out);
        let rows = if op == RowwiseOp::Argmax { x } else { n };
        let width = g.ty(rows).width().unwrap_or(1);
        Ok(Rowwise { op, width, x_stride, out_stride, max_tokens: self.tokens })
    }

    fn rowwise_op(&mut self, n: NodeId, args: &mut Vec<Arg>) -> Result<RowwiseOp, LowerError> {
        let g = self.graph;
        Ok(match g.node(n).op {
            OpKind::RmsNorm => {
                let gamma = self.operand(n, "gamma")?;
                args.push(self.vector(gamma)?);
                let group = g.ty(gamma).width().unwrap_or(1);
                RowwiseOp::RmsNorm { group, eps: g.float(n, "eps") as f32 }
            }
            OpKind::Add => {
                let y = self.operand(n, "b")?;
                if g.weight_of(y).is_some() {
                    args.push(self.vector(y)?);
                    RowwiseOp::Add(0)
                } else {
                    let (arg, stride) = self.value(y)?;
                    args.push(arg);
                    RowwiseOp::Add(stride)
                }
            }
            OpKind::Mul => {
                let (arg, stride) = self.in_arena(n, "b")?;
                args.push(arg);
                RowwiseOp::Mul(stride)
            }
            OpKind::Scale => RowwiseOp::Scale(g.float(n, "by") as f32),
            OpKind::Softcap => RowwiseOp::Softcap(g.float(n, "cap") as f32),
            OpKind::Act => RowwiseOp::Act(self.activation(n)?),
            OpKind::Rope => {
                let (table, pairs) = self.pairs(self.operand(n, "angles")?);
                args.push(Arg::Rope(table));
                let style = RopeStyle::from_word(&g.word(n, "style"));
                let style = style.ok_or_else(|| self.fail(n, "unknown rope style"))?;
                RowwiseOp::Rope { heads: g.int(n, "heads") as u64, pairs, style }
            }
            OpKind::Argmax => RowwiseOp::Argmax,
            other => return Err(self.fail(n, format!("no schedule for {}", other.row().name))),
        })
    }
}
