//! What can go wrong while tuning.

use tilewright_codegen::backend::CodegenError;
use tilewright_runtime::cuda::GpuError;
use tilewright_runtime::error::{ArtifactError, RunError};

/// Why an operation could not be tuned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// The default kernel cannot be compiled: the target's or the back end's fault.
    #[error("{op}: the default kernel cannot be compiled: {source}; choose another --target")]
    Default {
        /// Signature of the operation.
        op: String,
        /// What the back end said.
        source: CodegenError,
    },
    /// The default kernel is wrong: a bug of its schedule or of the back end.
    #[error("{op}: the default kernel is wrong ({why}); this is a bug, please report it with this line")]
    Wrong {
        /// Signature of the operation.
        op: String,
        /// How.
        why: String,
    },
    /// No memory for the data of a call.
    #[error("{bytes} bytes for the data of a call: {source}; close other programs or tune on a larger machine")]
    Memory {
        /// Bytes asked for.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// The target is for another machine.
    #[error("target {target} cannot be timed here: this machine lacks {missing}; tune on such a machine")]
    Machine {
        /// Name of the target.
        target: String,
        /// Features.
        missing: String,
    },
    /// The machine code cannot be loaded.
    #[error(transparent)]
    Load(#[from] ArtifactError),
    /// The GPU, or what it needs.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The workers cannot run.
    #[error(transparent)]
    Run(#[from] RunError),
}
