//! Graph passes: canonicalisation, fusions, buffer planning. One file a pass, [`manager`] runs them in order.
//!
//! A fusion replaces nodes by one node whose meaning is their composition, so no switch changes what a graph computes
//! beyond rounding. The one pass that changes numerics is `choose-precision`; it runs before every fusion, on nodes that
//! no switch has touched yet, so its decisions do not depend on which fusions are on.
#![forbid(unsafe_code)]

mod canonicalise;
mod choose_precision;
mod concat_matmul;
mod cse;
mod dce;
mod fuse_bias;
mod fuse_glu;
mod fuse_norm_quantize;
mod fuse_qk_norm;
mod fuse_quantize;
mod fuse_quantize_matmul;
mod fuse_residual;
mod fuse_rope;
pub mod manager;
pub mod memory;
mod rewrite;

pub use canonicalise::Canonicalise;
pub use choose_precision::ChoosePrecision;
pub use concat_matmul::ConcatMatmul;
pub use cse::Cse;
pub use dce::Dce;
pub use fuse_bias::FuseBias;
pub use fuse_glu::FuseGlu;
pub use fuse_norm_quantize::FuseNormQuantize;
pub use fuse_qk_norm::FuseQkNorm;
pub use fuse_quantize::FuseQuantize;
pub use fuse_quantize_matmul::FuseQuantizeMatmul;
pub use fuse_residual::FuseResidual;
pub use fuse_rope::FuseRope;
pub use manager::{Activations, PIPELINE, Pass, PassContext, PassError, PassManager, PassRow, Report, ReportRow};
