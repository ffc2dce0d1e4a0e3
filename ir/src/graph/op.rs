//! The operations of graph IR: one table that printer, parser, verifier, interpreter and planner read.
//!
//! Fused operations are rows of the same table: a fusion rewrites several nodes into one whose meaning is the
//! composition, so the interpreter can check it.

use std::collections::BTreeMap;

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// Integer.
    Int(i64),
    /// Float.
    Float(f64),
    /// Word.
    Str(String),
    /// Flag.
    Bool(bool),
}

/// Attributes by name; absent ones have the default of the op's row.
pub type Attrs = BTreeMap<String, Attr>;

/// Kind of an attribute and its default (`None` = must be given).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttrKind {
    /// Required integer ≥ 0.
    Int,
    /// Integer with a default.
    IntOr(i64),
    /// Required float.
    Float,
    /// Float with a default.
    FloatOr(f64),
    /// One of these words; the first is the default.
    OneOf(&'static [&'static str]),
    /// Flag, false by default.
    Flag,
}

/// Activation functions.
pub const ACTIVATIONS: &[&str] = &["silu", "gelu_tanh"];
/// What `quantize` rounds to: text names of elements.
pub const ROUNDINGS: &[&str] = &["q8", "bf16", "f16", "f16x2"];
/// What a product can round its result to as it is stored: not to f16, as a row's scale is known only at its end.
pub const RESULT_ROUNDINGS: &[&str] = &["q8", "bf16"];
/// What a product can round `x` to as it reads it.
pub const OPERAND_ROUNDINGS: &[&str] = &["none", "f16", "f16x2"];
/// How rotary pairs are laid out: element `i` with `i + n/2` (`half`), or `2i` with `2i + 1` (`interleaved`).
pub const ROPE_STYLES: &[&str] = &["half", "interleaved"];

/// One row of [`GRAPH_OPS`].
#[derive(Clone, Copy, Debug)]
pub struct OpRow {
    /// Which.
    pub op: OpKind,
    /// Text name.
    pub name: &'static str,
    /// Operands that must be there, by role.
    pub operands: &'static [&'static str],
    /// Operands that may follow, each present exactly if the flag attribute of its name is true, in this order.
    pub optional: &'static [&'static str],
    /// Attributes (the flags of optional operands are implied).
    pub attrs: &'static [(&'static str, AttrKind)],
    /// Meaning and shape rule.
    pub doc: &'static str,
}

macro_rules! graph_ops {
    ($($op:ident $name:literal ($($operand:literal),*) [$($opt:literal),*] {$($attr:literal: $kind:expr),*} $doc:literal;)*) => {
        /// Operations; [`GRAPH_OPS`] says what each takes and means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OpKind { $(#[doc = concat!("```text\n", $doc, "\n```")] $op,)* }

        /// The operations, in the order of [`OpKind`].
        pub const GRAPH_OPS: &[OpRow] = &[$(OpRow {
            op: OpKind::$op, name: $name, operands: &[$($operand),*], optional: &[$($opt),*],
            attrs: &[$(($attr, $kind)),*], doc: $doc,
        },)*];
    };
}

use AttrKind::*;
graph_ops! {
    Input    "input"     () [] {} "Value given from outside, with the graph's name for it.";
    Weight   "weight"    () [] {} "A weight of the model, written inline as @name.";
    Embed    "embed"     ("tokens", "table") [] {} "Rows of the table: i32[T], W[V, n] -> f32[T, n].";
    RmsNorm  "rms_norm"  ("x", "gamma") [] {"eps": Float} "x / sqrt(mean x^2 + eps) * gamma over groups of gamma's length: f32[T, k*n], W[n] -> f32[T, k*n].";
    Matmul   "matmul"    ("x", "w") ["bias", "residual", "gamma"] {"eps": FloatOr(0.0), "round": OneOf(OPERAND_ROUNDINGS)} "x W^T, plus bias [m], plus residual f32[T, m]: f32 or rounded x[T, n], W[m, n] -> f32[T, m]. With bf16 rows, W is rounded to bf16, too; with f16 and f16x2 rows it is not. round: x, f32[T, n], is first what quantize to that makes of it, with gamma [n] and eps as there.";
    Add      "add"       ("a", "b") [] {} "Sum of two f32[T, n]; b may be a weight [n], added to each row.";
    Mul      "mul"       ("a", "b") [] {} "Product of two f32[T, n].";
    Scale    "scale"     ("x") [] {"by": Float} "x * by.";
    Softcap  "softcap"   ("x") [] {"cap": Float} "cap * tanh(x / cap).";
    Act      "act"       ("x") [] {"fn": OneOf(ACTIVATIONS)} "Activation function.";
    Slice    "slice"     ("x") [] {"start": Int, "len": Int} "Columns start .. start+len of f32[T, n].";
    RopeAngles "rope_angles" ("pos") [] {"table": IntOr(0)} "cos and sin of pos * inv_freq of the graph's rope table, r of each a row: i32[T] -> f32[T, 2], r being the table's length.";
    Rope     "rope"      ("x", "angles") [] {"heads": Int, "style": OneOf(ROPE_STYLES)} "Rotate the first 2r elements of each head: f32[T, heads*hd] -> same.";
    KvWrite  "kv_write"  ("kv", "k", "v", "pos") ["angles", "k_norm"] {"style": OneOf(ROPE_STYLES), "eps": FloatOr(0.0)} "The cache with rows of k and v at the positions; with k_norm, each head of k is first RMS-normed with that gamma [hd] and eps; with angles, then rotated. kv[h, hd], f32[T, h*hd] twice -> kv.";
    Attention "attention" ("q", "kv", "pos") ["angles", "q_norm"] {"heads": Int, "scale": Float, "window": IntOr(0), "softcap": FloatOr(0.0), "style": OneOf(ROPE_STYLES), "eps": FloatOr(0.0), "quantize": Flag} "softmax(softcap(scale q K^T) + causal mask) V, each KV head serving heads/kv_heads query heads; window w > 0 sees positions > p - w; q_norm, angles as in kv_write; quantize rounds the result to q8. f32[T, heads*hd] -> f32 or q8 [T, heads*hd].";
    Quantize "quantize"  ("x") ["gamma"] {"eps": FloatOr(0.0), "to": OneOf(ROUNDINGS)} "Round to int8 blocks, to bf16, or to f16 or a sum of two f16 with a scale a row; with gamma, rms_norm first: f32[T, n] -> q8, bf16, f16 or f16x2 [T, n].";
    Glu      "glu"       ("x", "gate", "up") ["gamma"] {"eps": FloatOr(0.0), "fn": OneOf(ACTIVATIONS), "quantize": Flag, "round": OneOf(OPERAND_ROUNDINGS), "to": OneOf(RESULT_ROUNDINGS)} "fn(x gate^T) * (x up^T); quantize rounds the result: x, W[m, n] twice, round, gamma and eps as in matmul -> f32, q8 or bf16 [T, m].";
    Argmax   "argmax"    ("x") [] {} "Index of the largest element of each row, the first of equals: f32[T, n] -> i32[T].";
}

impl OpKind {
    /// This op's row.
    pub fn row(self) -> &'static OpRow {
        &GRAPH_OPS[self as usize]
    }
}
