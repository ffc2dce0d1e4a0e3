//! Block formats of weights, declared in YAML.
//!
//! A [`BlockFormat`] says how a fixed number of elements lies in a fixed number of bytes:
//!
//! ```text
//! x[i] = scale[i / group] * value(code[i]) + min[i / group]
//! scale[s] = super * sub[s]        (one float a block, optionally one small integer a group)
//! ```
//!
//! From the declaration come byte accounting, the reference decoder [`BlockFormat::dequantize`], and
//! [`BlockFormat::decompose`], which hands packers and kernels the integer parts. See `models/formats/q4_k.yaml`.
//!
//! ```
//! use tilewright_models::format::{Decomposed, FormatSet};
//! let q8 = FormatSet::builtin().get("q8_0").unwrap();
//! let mut block = vec![0x00, 0x38]; // d = 0.5
//! block.extend((0..32u8).map(|i| i.wrapping_sub(16)));
//! let mut x = [0f32; 32];
//! q8.dequantize(&block, &mut x).unwrap();
//! assert_eq!(x[0], -8.0);
//! let mut parts = Decomposed::default();
//! q8.decompose(&block, &mut parts);
//! assert_eq!((parts.codes[0], parts.scale_super), (128 - 16, 0.5));
//! ```

mod bits;
mod decl;
mod decode;
mod expr;
mod parse;
mod set;
mod subs;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decl::FormatError;
pub use decode::DecodeError;
pub use set::FormatSet;

use bits::CodePlan;
use expr::{Expr, Field};
use subs::SubPlan;

/// Storage of a floating-point number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatKind {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
}

impl FloatKind {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            FloatKind::F32 => 4,
            FloatKind::F16 | FloatKind::BF16 => 2,
        }
    }
}

/// How elements are represented.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // one a format, never in bulk
pub enum Element {
    /// Each element is a float of its own; the block is one element.
    Float(FloatKind),
    /// Elements are codes that share scales.
    Quant(Quant),
}

/// What an unsigned code stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeValue {
    /// value = code + zero.
    Zero(i32),
    /// value = table\[code\]; 2^bits entries.
    Table(Vec<i8>),
}

/// The quantised part of a [`BlockFormat`].
#[derive(Debug, Clone)]
pub struct Quant {
    /// Width of a code, 1 to 8.
    pub bits: u32,
    /// Meaning of a code.
    pub decode: CodeValue,
    /// Elements that share one scale (and min); divides the block.
    pub group: usize,
    /// Multiplies the value.
    pub scale: Level,
    /// Added afterwards.
    pub min: Option<Level>,
    pub(crate) codes: CodePlan,
    /// value(code) as f32, for every code.
    pub(crate) values: Vec<f32>,
}

/// A scale or a min: one float a block, and optionally one integer a group that multiplies it.
#[derive(Debug, Clone)]
pub struct Level {
    /// Whether there is an integer per group; otherwise the float holds for the whole block.
    pub has_sub: bool,
    /// The narrowest declared storage that holds the float exactly.
    pub store: FloatKind,
    /// Smallest and largest possible integer per group, within -128..=255; (1, 1) without one.
    pub sub_range: (i32, i32),
    pub(crate) base: Expr,
    pub(crate) sub: Option<SubPlan>,
}

/// A declared block format.
#[derive(Debug, Clone)]
pub struct BlockFormat {
    /// Unique, lower case, e.g. `q4_k`.
    pub name: String,
    /// Type id in GGUF files.
    pub ggml_type: Option<u32>,
    /// Elements in a block.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// What the elements are.
    pub element: Element,
    pub(crate) fields: Vec<Field>,
}

/// The parts of one block, as [`BlockFormat::decompose`] finds them. Reuse one for many blocks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decomposed {
    /// Unsigned, one per element.
    pub codes: Vec<u8>,
    /// The float of the scale.
    pub scale_super: f32,
    /// The integers of the scale, one per group; empty when the scale has none.
    pub scale_sub: Vec<i32>,
    /// The float of the min; 0 when the format has no min.
    pub min_super: f32,
    /// The integers of the min, one per group; empty when the min has none.
    pub min_sub: Vec<i32>,
}

impl BlockFormat {
    /// Bytes of a row of `n` elements; None if `n` is not a multiple of the block, or too large.
    pub fn row_bytes(&self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block) {
            return None;
        }
        (n / self.block).checked_mul(self.bytes)
    }

    /// Bits that one element costs, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.block as f64
    }

    /// The quantised part, or None for a float format.
    pub fn quant(&self) -> Option<&Quant> {
        match &self.element {
            Element::Quant(q) => Some(q),
            Element::Float(_) => None,
        }
    }
}
