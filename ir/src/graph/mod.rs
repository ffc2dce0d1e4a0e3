//! Graph IR: the model as typed tensors, one node per mathematical step.
//!
//! ```
//! use tilewright_ir::graph::{Attrs, Dim, Elem, Graph, OpKind, TensorType, Weight};
//! let mut g = Graph::new("demo");
//! let tokens = g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
//! let table = g.weight(Weight::of("token_embd", "q8_0", &[320, 96]));
//! let x = g.push(OpKind::Embed, &[tokens, table], Attrs::new()).unwrap();
//! g.set_outputs(&[x]);
//! assert_eq!(g.ty(x).to_string(), "f32[T, 96]");
//! ```

mod build;
mod eval;
pub mod interp;
mod op;
mod op_types;
mod parse;
mod print;
pub mod random;
mod real;
mod round;
#[cfg(test)]
mod tests;
mod types;
mod verify;

pub use build::{Graph, GraphError, Node, NodeId, attrs};
pub use op::{
    ACTIVATIONS, Attr, AttrKind, Attrs, GRAPH_OPS, OPERAND_ROUNDINGS, OpKind, OpRow, RESULT_ROUNDINGS, ROPE_STYLES,
    ROUNDINGS,
};
pub use parse::parse;
pub use round::f16_scale;
pub use types::{Dim, Elem, Part, Q8_BLOCK, Q8_UNIT, RopeSpec, TensorType, Weight};
pub use verify::{VerifyError, VerifyErrors, verify};
