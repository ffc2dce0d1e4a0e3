//! What can go wrong when an artifact is opened or run, and whose fault it is.
//!
//! Every message is one sentence that says what to do. [`ArtifactError::exit_code`] and [`RunError::exit_code`] give the
//! exit status of the command line: 1 input/output or use, 3 a bad file, 4 the wrong device or version, 5 out of memory.

use std::path::PathBuf;

use thiserror::Error;

use crate::cuda::GpuError;
use crate::sampler::SampleError;

/// Why an artifact cannot be written, opened or loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The file system's fault: a file is missing or cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The artifact's fault: damaged, cut short, changed after it was built, or built by a faulty compiler.
    #[error("the artifact is damaged ({file}: {what}); delete it and compile the model again")]
    Rejected {
        /// File of the artifact.
        file: String,
        /// The rule that it breaks.
        what: String,
    },
    /// Nobody's fault: the artifact is of another version of the format.
    #[error("the artifact has format version {found}, this program reads {expected}; compile the model again")]
    Version {
        /// Version in the manifest.
        found: u64,
        /// [`crate::plan::SCHEMA`].
        expected: u32,
    },
    /// The user's fault: the artifact was compiled for another kind of machine.
    #[error(
        "the artifact was compiled for {target} and this machine lacks {missing}; compile the model again on this machine or choose a smaller --target"
    )]
    Mismatch {
        /// Name of the artifact's target.
        target: String,
        /// What is missing, comma separated.
        missing: String,
    },
    /// The system's fault: it does not let programs make memory executable.
    #[error("the system refuses executable memory ({0}); allow it for this process (MemoryDenyWriteExecute=no)")]
    ExecutableMemory(std::io::Error),
    /// The compiler's fault: something wrong was given to the writer.
    #[error("cannot write the artifact: {0}")]
    Writer(String),
}

impl ArtifactError {
    /// Exit status for the command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            ArtifactError::Io { .. } | ArtifactError::ExecutableMemory(_) | ArtifactError::Writer(_) => 1,
            ArtifactError::Rejected { .. } => 3,
            ArtifactError::Version { .. } | ArtifactError::Mismatch { .. } => 4,
        }
    }

    pub(crate) fn rejected(file: &str, what: impl Into<String>) -> Self {
        ArtifactError::Rejected { file: file.into(), what: what.into() }
    }
}

/// Why a session cannot start or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The artifact is at fault.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The GPU is missing or failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The caller's fault: a GPU was given for an artifact that runs on a CPU.
    #[error("the artifact was compiled for {target}, a CPU; compile the model again with a GPU as --target")]
    NotForGpu {
        /// Name of the artifact's target.
        target: String,
    },
    /// The machine is too small for the context asked for. Nothing was allocated.
    #[error("a context of {ctx} needs {} and {} is available; {}", mib(*.need), mib(*.available), remedy(*.largest))]
    OutOfMemory {
        /// Context asked for.
        ctx: u32,
        /// Bytes needed: weights, arena and KV cache.
        need: u64,
        /// Bytes available to this process.
        available: u64,
        /// Largest context that fits; 0 when none does.
        largest: u32,
    },
    /// The system refused an allocation that seemed to fit.
    #[error("cannot allocate {} for {what}: {source}", mib(*.bytes))]
    Allocation {
        /// What it was for.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller's fault: a context of zero or longer than the model was trained for.
    #[error("a context of {ctx} is not possible: the model has 1 to {max}; give -c in that range")]
    BadContext {
        /// Context asked for.
        ctx: u32,
        /// Longest.
        max: u32,
    },
    /// The caller's fault: more tokens than the context holds.
    #[error(
        "{tokens} more tokens do not fit: {position} of {capacity} positions are used; use a larger -c or a shorter prompt"
    )]
    ContextFull {
        /// Tokens asked for.
        tokens: usize,
        /// Positions used.
        position: u32,
        /// Positions there are.
        capacity: u32,
    },
    /// The caller's fault: a token id that the model does not have.
    #[error("token {token} at index {index} is not in the vocabulary of {vocab}; the tokenizer is not this model's")]
    BadToken {
        /// The id.
        token: u32,
        /// Where it stands in the input.
        index: usize,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// The caller's fault: logits of no token at all.
    #[error("logits were asked for an empty list of tokens; give at least one token")]
    NoTokens,
    /// The model's fault, or a kernel's: every logit is NaN.
    #[error("numerical error: all logits at position {position} are NaN; check the model file, fetch it again")]
    Numerical {
        /// Position of the row.
        position: u32,
    },
    /// No token could be chosen.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The caller's fault: a sampler that looks at the tokens before, of which a decode knows nothing.
    #[error(
        "a decode does not know the tokens before, which penalties look at; sample token by token, or without penalties"
    )]
    LooksBack,
    /// The system's fault: a worker thread could not be started.
    #[error("cannot start worker thread {index}: {source}; use fewer threads (-t)")]
    Thread {
        /// Which.
        index: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RunError {
    /// Exit status for the command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Artifact(e) => e.exit_code(),
            RunError::Gpu(e) => e.exit_code(),
            RunError::NotForGpu { .. } => 4,
            RunError::OutOfMemory { .. } | RunError::Allocation { .. } => 5,
            _ => 1,
        }
    }
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

fn remedy(largest: u32) -> String {
    match largest {
        0 => "no context fits, use a smaller model or quantisation".into(),
        n => format!("the largest that fits is -c {n}"),
    }
}
