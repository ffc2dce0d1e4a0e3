//! Types of graph values: element, shape with symbolic token count, weights and rotary tables.

use std::fmt;
use std::sync::Arc;

/// Block size of int8 activations: elements that share one scale.
///
/// With blocks of 32, as others have them, SmolLM2-135M lay at a mean KL of 2.2e-3 from f32 activations, with blocks of 8 at
/// 1.0e-3, for two more vector operations a block; `docs/performance.md` says how far to trust that.
pub const Q8_BLOCK: u64 = 8;
/// Rows of int8 activations are whole multiples of this, the smallest block of weights that they meet.
pub const Q8_UNIT: u64 = 32;

/// Element of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// Single precision.
    F32,
    /// Token ids and positions.
    I32,
    /// Activations rounded to int8 with one f32 scale per [`Q8_BLOCK`] elements of a row: `scale = max|x| / 127`.
    Q8,
    /// Activations rounded to bf16, for products that round their weights to bf16, too.
    BF16,
    /// Activations rounded for tensor cores, to f16 with one power of two a row as scale ([`super::f16_scale`]): their largest
    /// magnitude is `2^13 .. 2^14` scales, so nothing overflows. Products multiply them by their weights as those are: exactly,
    /// where products of bf16 round the weights, too.
    F16,
    /// Likewise, as the sum of two f16: about 22 bits.
    F16Pair,
    /// A layer's key/value cache, f16; shape `[heads, head_dim]`.
    Kv,
    /// A weight in the block format of that name (`q4_1`, `f16`, `f32`, …).
    Format(Arc<str>),
}

/// Text names of all elements but weights' formats.
pub(super) const ELEMS: &[(&str, Elem)] = &[
    ("f32", Elem::F32),
    ("i32", Elem::I32),
    ("q8", Elem::Q8),
    ("bf16", Elem::BF16),
    ("f16", Elem::F16),
    ("f16x2", Elem::F16Pair),
    ("kv", Elem::Kv),
];

impl Elem {
    /// The element of that text name.
    pub fn named(name: &str) -> Option<Elem> {
        ELEMS.iter().find(|e| e.0 == name).map(|e| e.1.clone())
    }

    /// Whether it is one of the kinds for tensor cores: [`Elem::F16`], [`Elem::F16Pair`].
    pub fn is_f16(&self) -> bool {
        matches!(self, Elem::F16 | Elem::F16Pair)
    }
}

/// One dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Number of tokens of this run.
    T,
    /// A constant.
    N(u64),
}

/// Element and shape, outermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element.
    pub elem: Elem,
    /// Shape.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type.
    pub fn new(elem: Elem, shape: impl IntoIterator<Item = Dim>) -> Self {
        TensorType { elem, shape: shape.into_iter().collect() }
    }

    /// `f32[T, n]`.
    pub fn activations(n: u64) -> Self {
        Self::new(Elem::F32, [Dim::T, Dim::N(n)])
    }

    /// The last dimension if it is a constant.
    pub fn width(&self) -> Option<u64> {
        match self.shape.last() {
            Some(Dim::N(n)) => Some(*n),
            _ => None,
        }
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Elem::Format(name) => write!(f, "@{name}"),
            other => f.write_str(ELEMS.iter().find(|e| e.1 == *other).map_or("", |e| e.0)),
        }
    }
}

impl fmt::Display for TensorType {
    /// `f32[T, 96]`; a weight's format is written with `@` (`@q4_1[96, 96]`), so that the format `f32` and the value
    /// type `f32` stay apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.elem)?;
        for (i, d) in self.shape.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            match d {
                Dim::T => write!(f, "{comma}T")?,
                Dim::N(n) => write!(f, "{comma}{n}")?,
            }
        }
        f.write_str("]")
    }
}

/// Rows of a tensor of the model file.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Name in the file.
    pub tensor: String,
    /// First row (element, if the tensor has one dimension) and how many.
    pub rows: (u64, u64),
    /// Added to each element (1 for norms stored as γ where the model means 1 + γ); f32 formats only.
    pub add: f32,
}

/// A weight: rows of one or more tensors of one format, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Name in the graph.
    pub name: String,
    /// Format and shape; all dimensions constant, 1 or 2 of them.
    pub ty: TensorType,
    /// Where the rows come from.
    pub parts: Vec<Part>,
}

impl Weight {
    /// A weight that is one whole tensor of the same name.
    pub fn of(name: &str, format: &str, shape: &[u64]) -> Weight {
        Weight {
            name: name.to_string(),
            ty: TensorType::new(Elem::Format(format.into()), shape.iter().map(|&n| Dim::N(n))),
            parts: vec![Part { tensor: name.to_string(), rows: (0, shape[0]), add: 0.0 }],
        }
    }

    /// Name of the block format.
    pub fn format(&self) -> &str {
        match &self.ty.elem {
            Elem::Format(name) => name,
            _ => unreachable!("a weight has a format"),
        }
    }
}

/// A rotary table: angles `position * inv_freq[i]`, cosines and sines times `scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Radians a position, one for each rotated pair.
    pub inv_freq: Vec<f32>,
    /// Factor on cosines and sines.
    pub scale: f32,
}
