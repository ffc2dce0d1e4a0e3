//! Schedules: from an operation with its shapes and formats to a kernel.
//!
//! A schedule knows loops, tiles, packing and staging, never a back end's syntax. It declares the space of its tunable
//! parameters ([`Schedule::space`], defaults first) and builds the kernel for one point of it. All of them write their
//! results by chunk: any worker may compute any chunk at any time, and no two chunks write the same byte.
//!
//! | file | operation |
//! |---|---|
//! | `embed.rs` | rows of a packed table |
//! | `matmul.rs` | packed matrix times one or many rows, bias and residual; gate and up with activation |
//! | `panel.rs` | the inner product of one panel, the part that decodes weights |
//! | `gemm.rs` | the same for many tokens in bf16, weights expanded on the way |
//! | `expand.rs` | the part that expands them |
//! | `quantize.rs` | RMS norm and rounding to int8 blocks or to bf16 |
//! | `qk.rs` | per-head norm and rotation, shared by the next two |
//! | `kv_write.rs` | keys and values into the f16 cache |
//! | `attention/` | scores, mask, softmax and values in one |
//! | `rowwise.rs` | everything that works row by row, unfused |
//! | `gpu/` | the same operations for GPUs |
//! | `operands.rs` | what the arguments of each kernel are |

mod attention;
mod embed;
mod expand;
mod gemm;
pub mod gpu;
mod kv_write;
mod matmul;
mod operands;
mod panel;
mod qk;
mod quantize;
mod rowwise;

pub use attention::{Attention, AttentionCombine};
pub use embed::Embed;
pub use gemm::{Bf16Rows, Finish, Gemm};
pub use kv_write::KvWrite;
pub use matmul::{Activations, Glu, Matmul};
pub use operands::{Data, Math, Operand, Operands};
pub use qk::{HeadPrep, RopeStyle};
pub use quantize::{Q8Rows, Quantize, Rounding};
pub use rowwise::{Rowwise, RowwiseOp};

use crate::backend;
use crate::target::Target;
use std::collections::BTreeMap;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Value};

/// Tunable parameters by name.
pub type Params = BTreeMap<&'static str, i64>;

/// One axis of a space: values, the default first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Name of the parameter.
    pub name: &'static str,
    /// Values worth trying.
    pub values: Vec<i64>,
}

/// The tunable parameters of a schedule.
pub type Space = Vec<Axis>;

/// Activation function of a fused epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU, tanh form.
    GeluTanh,
}

impl Activation {
    /// From the attribute's word.
    pub fn from_word(word: &str) -> Option<Activation> {
        match word {
            "silu" => Some(Activation::Silu),
            "gelu_tanh" => Some(Activation::GeluTanh),
            _ => None,
        }
    }

    fn apply(self, b: &mut KernelBuilder, x: Value) -> Value {
        match self {
            Activation::Silu => b.silu(x),
            Activation::GeluTanh => b.gelu_tanh(x),
        }
    }
}

/// An operation that can be made into a kernel.
pub trait Schedule: Sync {
    /// Text that says everything about the operation but its parameters; equal text, equal kernel. It is the key of
    /// records and the source of the symbol name.
    fn signature(&self) -> String;
    /// Tunable parameters.
    fn space(&self) -> Space {
        vec![]
    }
    /// Parameters that change what the arguments are, not only how they are computed: tuning leaves them at their
    /// defaults.
    fn structural(&self) -> &'static [&'static str] {
        &[]
    }
    /// Values that are together better than the defaults where a back end takes them, rising: not every machine can.
    fn preferred(&self) -> Vec<Params> {
        vec![]
    }
    /// Number of chunks of a call.
    fn chunks(&self, params: &Params) -> u32;
    /// The kernel, named `name`.
    fn build(&self, name: &str, params: &Params) -> Kernel;
    /// The kernel's arguments.
    fn operands(&self) -> Operands;
}

/// The point of a schedule's space for `target` where nothing is known of it: the defaults, and what the schedule prefers as
/// far as the target takes it.
pub fn params_for(schedule: &dyn Schedule, target: &Target) -> Params {
    let mut best = defaults(&schedule.space());
    for better in schedule.preferred() {
        let mut params = best.clone();
        params.extend(better);
        if backend::default_for(&schedule.build("k", &params), target).is_ok() {
            best = params;
        }
    }
    best
}

/// The default point of a space.
pub fn defaults(space: &Space) -> Params {
    space.iter().map(|a| (a.name, a.values[0])).collect()
}

/// `chunk < tokens` guards the chunks of a program that runs with fewer tokens than it could.
fn if_token(b: &mut KernelBuilder, token: Value, tokens: Value, then: impl FnOnce(&mut KernelBuilder)) {
    let live = b.cmp(Pred::Slt, token, tokens);
    b.when(live, then);
}
