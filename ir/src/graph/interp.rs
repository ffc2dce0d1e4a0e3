//! The interpreter of graph IR: what each operation means, and so the oracle for passes, schedules and back ends.
//!
//! [`eval_op`] is the meaning of one node; [`Interp`] runs a whole graph and keeps its caches. Weights are dense f32,
//! sums are in [`Real`]: f32, or f64 to tell rounding from mistakes. Caches are rounded to f16 unless told not to be,
//! because that is what they are: numerics are part of the op.

use super::op::OpKind;
use super::real::each_chunk;
use super::types::{Dim, Elem, Q8_BLOCK, TensorType, Weight};
use super::verify::{VerifyErrors, verify};
use super::{Graph, NodeId};
use std::collections::HashMap;

pub use super::eval::eval_op;
pub use super::real::Real;

/// Where the interpreter gets a model's weights from.
pub trait WeightSource: Sync {
    /// The weight as dense rows: its parts one after the other, decoded, with their `add` applied.
    fn load(&self, weight: &Weight) -> Result<Vec<f32>, String>;
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor<R> {
    /// Activations, row after row; of types bf16, f16 and f16x2, too: the values that they stand for. Of `rope_angles`: a row is all cosines, then all sines.
    F {
        /// Tokens.
        rows: usize,
        /// Elements of a row.
        width: usize,
        /// All elements.
        data: Vec<R>,
    },
    /// Activations in int8 blocks.
    Q8 {
        /// Tokens.
        rows: usize,
        /// Elements of a row.
        width: usize,
        /// All elements.
        codes: Vec<i8>,
        /// Of each block of [`Q8_BLOCK`], row after row.
        scales: Vec<R>,
    },
    /// Tokens or positions.
    I32(Vec<i32>),
    /// A cache, which its owner keeps.
    Kv,
}

impl<R: Real> Tensor<R> {
    /// Activations from their elements.
    pub fn rows(width: usize, data: Vec<R>) -> Tensor<R> {
        Tensor::F { rows: data.len() / width.max(1), width, data }
    }

    /// The elements of activations, int8 ones decoded; empty for others.
    pub fn floats(&self) -> Vec<R> {
        match self {
            Tensor::F { data, .. } => data.clone(),
            Tensor::Q8 { codes, scales, .. } => {
                let decode = |(i, &c): (usize, &i8)| R::of(c.into()) * scales[i / Q8_BLOCK as usize];
                codes.iter().enumerate().map(decode).collect()
            }
            Tensor::I32(_) | Tensor::Kv => vec![],
        }
    }
}

/// How cache rows are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPrecision {
    /// As computed.
    Exact,
    /// Rounded to f16.
    #[default]
    F16,
}

/// One layer's cache: row `p` is position `p`.
#[derive(Clone, Debug)]
pub struct KvState<R> {
    heads: usize,
    head_dim: usize,
    precision: KvPrecision,
    k: Vec<R>,
    v: Vec<R>,
}

impl<R: Real> KvState<R> {
    /// An empty cache.
    pub fn new(heads: usize, head_dim: usize, precision: KvPrecision) -> Self {
        KvState { heads, head_dim, precision, k: vec![], v: vec![] }
    }

    /// Heads of a row.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.k.len() / (self.heads * self.head_dim).max(1)
    }

    /// Keys, row after row, in a row head after head.
    pub fn keys(&self) -> &[R] {
        &self.k
    }

    /// Values, likewise.
    pub fn values(&self) -> &[R] {
        &self.v
    }

    /// Forgets all rows from `rows` on.
    pub fn truncate(&mut self, rows: usize) {
        self.k.truncate(rows * self.heads * self.head_dim);
        self.v.truncate(rows * self.heads * self.head_dim);
    }

    /// Sets row `position`, which may be the first one that is not there yet. False = it lies further out, or the
    /// rows have the wrong length.
    pub fn write(&mut self, position: usize, k: &[R], v: &[R]) -> bool {
        let width = self.heads * self.head_dim;
        if position > self.rows() || k.len() != width || v.len() != width {
            return false;
        }
        for (to, from) in [(&mut self.k, k), (&mut self.v, v)] {
            to.resize(to.len().max((position + 1) * width), R::default());
            for (to, &from) in to[position * width..].iter_mut().zip(from) {
                *to = if self.precision == KvPrecision::F16 { from.through_f16() } else { from };
            }
        }
        true
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum InterpError {
    /// The graph breaks rules.
    #[error("the graph is ill-formed: {0}")]
    Graph(#[from] VerifyErrors),
    /// A weight cannot be had.
    #[error("weight @{name}: {message}")]
    Weight {
        /// Which.
        name: String,
        /// Why.
        message: String,
    },
    /// The inputs of a run do not fit the graph.
    #[error("input %{name}: {message}")]
    Input {
        /// Which.
        name: String,
        /// Why.
        message: String,
    },
    /// An operation met values that it is not defined for.
    #[error("{op} %{name}: {message}")]
    Op {
        /// Text name of the op.
        op: &'static str,
        /// Name of the node.
        name: String,
        /// Why.
        message: String,
    },
}

/// A graph with its weights and caches.
pub struct Interp<R> {
    graph: Graph,
    weights: HashMap<NodeId, Vec<f32>>,
    kv: HashMap<NodeId, KvState<R>>,
    position: usize,
}

impl<R: Real> Interp<R> {
    /// Loads the weights. Caches are f16.
    pub fn new(graph: &Graph, source: &dyn WeightSource) -> Result<Self, InterpError> {
        Self::with_kv(graph, source, KvPrecision::default())
    }

    /// [`Interp::new`] with a choice for the caches.
    pub fn with_kv(graph: &Graph, source: &dyn WeightSource, kv: KvPrecision) -> Result<Self, InterpError> {
        verify(graph)?;
        let wanted = graph.order().iter().filter_map(|&n| Some((n, graph.weight_of(n)?)));
        let mut loaded: Vec<_> = wanted.map(|(n, w)| (n, w, Ok(vec![]))).collect();
        each_chunk(&mut loaded, 1, usize::MAX, |_, one| one[0].2 = source.load(one[0].1));
        let mut weights = HashMap::new();
        for (n, w, data) in loaded {
            let fail = |message| InterpError::Weight { name: w.name.clone(), message };
            let data = data.map_err(fail)?;
            let wanted = w.ty.shape.iter().map(|d| size(*d)).product::<usize>();
            if data.len() != wanted {
                return Err(fail(format!("{} elements were loaded, {} is {wanted}", data.len(), w.ty)));
            }
            weights.insert(n, data);
        }
        let caches = graph.order().iter().filter(|&&n| is_cache(graph, n));
        let state = |&n: &NodeId| {
            let shape = &graph.ty(n).shape;
            (n, KvState::new(size(shape[0]), size(shape[1]), kv))
        };
        Ok(Interp { graph: graph.clone(), weights, kv: caches.map(state).collect(), position: 0 })
    }

    /// Number of tokens in the caches: the position of the next one.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets all tokens from position `n` on.
    pub fn truncate(&mut self, n: usize) {
        self.position = self.position.min(n);
        self.kv.values_mut().for_each(|kv| kv.truncate(self.position));
    }

    /// The cache `kv.{index}`.
    pub fn kv(&self, index: usize) -> Option<&KvState<R>> {
        let name = format!("kv.{index}");
        self.kv.iter().find(|(n, _)| self.graph.node(**n).name == name).map(|(_, kv)| kv)
    }

    /// Runs the next tokens and returns the graph's outputs. After an error the caches are as before.
    pub fn run(&mut self, tokens: &[u32]) -> Result<Vec<Tensor<R>>, InterpError> {
        self.run_with(tokens, &[])
    }

    /// [`Interp::run`] of a graph that has activations as inputs, too.
    pub fn run_with(&mut self, tokens: &[u32], inputs: &[(&str, Tensor<R>)]) -> Result<Vec<Tensor<R>>, InterpError> {
        let before = self.position;
        let outputs = self.run_nodes(tokens, inputs);
        self.position = if outputs.is_ok() { before + tokens.len() } else { before };
        self.truncate(self.position);
        outputs
    }

    fn run_nodes(&mut self, tokens: &[u32], inputs: &[(&str, Tensor<R>)]) -> Result<Vec<Tensor<R>>, InterpError> {
        let g = &self.graph;
        let mut values: HashMap<NodeId, Tensor<R>> = HashMap::new();
        let mut caches: HashMap<NodeId, NodeId> = HashMap::new(); // cache value -> its input
        let mut uses: HashMap<NodeId, usize> = HashMap::new();
        g.order().iter().flat_map(|&n| g.operands(n)).for_each(|o| *uses.entry(o).or_default() += 1);
        g.outputs().iter().for_each(|&o| *uses.entry(o).or_default() += 1);
        for &n in g.order() {
            let node = g.node(n);
            let value = match node.op {
                OpKind::Weight => continue,
                OpKind::Input => {
                    caches.insert(n, n);
                    self.input(n, tokens, inputs)?
                }
                _ => {
                    let operands = g.operands(n);
                    let kv = g.operand(n, "kv").map(|kv| caches[&kv]);
                    kv.map(|kv| caches.insert(n, kv));
                    let arg = |o: &NodeId| match self.weights.get(o) {
                        Some(w) => Arg::Weight(w),
                        None => Arg::Value(&values[o]),
                    };
                    let args: Vec<Arg<'_, R>> = operands.iter().map(arg).collect();
                    let value = eval_op(g, n, &args, kv.and_then(|kv| self.kv.get_mut(&kv)))?;
                    for o in operands {
                        let left = uses.entry(o).or_default();
                        *left -= 1;
                        if *left == 0 {
                            values.remove(&o);
                        }
                    }
                    value
                }
            };
            values.insert(n, value);
        }
        Ok(g.outputs().iter().map(|o| values[o].clone()).collect())
    }

    fn input(&self, n: NodeId, tokens: &[u32], inputs: &[(&str, Tensor<R>)]) -> Result<Tensor<R>, InterpError> {
        let node = self.graph.node(n);
        let value = match node.name.as_str() {
            "tokens" => Tensor::I32(tokens.iter().map(|&t| t.cast_signed()).collect()),
            "pos" => Tensor::I32((self.position..self.position + tokens.len()).map(|p| p as i32).collect()),
            _ if node.ty.elem == Elem::Kv => Tensor::Kv,
            name => match inputs.iter().find(|i| i.0 == name) {
                Some((_, value)) => value.clone(),
                None => Tensor::I32(vec![]),
            },
        };
        if fits(&node.ty, Arg::Value(&value), tokens.len()) {
            return Ok(value);
        }
        let message = format!("no value of type {} for {} tokens was given", node.ty, tokens.len());
        Err(InterpError::Input { name: node.name.clone(), message })
    }
}

fn is_cache(graph: &Graph, n: NodeId) -> bool {
    graph.node(n).op == OpKind::Input && graph.ty(n).elem == Elem::Kv
}

fn size(d: Dim) -> usize {
    match d {
        Dim::T => 0,
        Dim::N(n) => n as usize,
    }
}

/// An operand.
#[derive(Debug)]
pub enum Arg<'a, R> {
    /// A value.
    Value(&'a Tensor<R>),
    /// A dense weight.
    Weight(&'a [f32]),
}

impl<R> Clone for Arg<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Arg<'_, R> {}

pub(super) fn fits<R>(ty: &TensorType, arg: Arg<'_, R>, tokens: usize) -> bool {
    // rope_angles' width is that of the graph's table, which its readers check.
    let width = ty.width().map(|n| n as usize);
    let is_width = |w: usize| Some(w) == width || ty.shape.len() != 2 || ty.shape[1] == Dim::N(2);
    match (arg, &ty.elem) {
        (Arg::Weight(w), Elem::Format(_)) => w.len() == ty.shape.iter().map(|d| size(*d)).product::<usize>(),
        (Arg::Value(Tensor::F { rows, width, data }), Elem::F32 | Elem::BF16 | Elem::F16 | Elem::F16Pair) => {
            *rows == tokens && is_width(*width) && data.len() == rows * width
        }
        (Arg::Value(Tensor::Q8 { rows, width, codes, scales }), Elem::Q8) => {
            let sizes = codes.len() == rows * width && scales.len() * Q8_BLOCK as usize == codes.len();
            *rows == tokens && is_width(*width) && sizes
        }
        (Arg::Value(Tensor::I32(v)), Elem::I32) => v.len() == tokens,
        (Arg::Value(Tensor::Kv), Elem::Kv) => true,
        _ => false,
    }
}
