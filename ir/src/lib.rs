//! The two levels of Tilewright's IR.
//!
//! [`graph`] is the model: typed tensors, one operation per mathematical step, symbolic token counts.
//! [`kernel`] is what runs: SSA over scalars and short vectors with structured loops. Both have a builder, a text
//! form (print → parse → print is the identity), a verifier and an interpreter that serves as the oracle.
#![forbid(unsafe_code)]

pub mod graph;
pub mod kernel;
pub mod text;
