//! An artifact: the folder that holds a compiled model.
//!
//! | file | content |
//! |---|---|
//! | `manifest.json` | [`Manifest`]: version, sizes and hashes of all other files, model, target, choices |
//! | `plan.json` | [`crate::plan::Plan`] |
//! | `kernels.o` | ELF relocatable object with the kernels, no imports |
//! | `kernels.<name>.o` | optional: more of them, from other back ends |
//! | `kernels.ptx` | for a GPU, in place of `kernels.o`: the text of the kernels |
//! | `kernels.<arch>.cubin` | for a GPU, optional: the same as machine code for `sm_90a` and the like |
//! | `weights.bin` | packed weights, mapped read-only, a whole number of pages |
//! | `tokenizer.json` | Hugging Face tokenizer |
//! | `chat_template.jinja` | optional |
//! | `graph.txt` | optional dump for people |
//!
//! # Trust
//!
//! [`Artifact::open`] finds damage: the manifest carries a digest of itself and the hashes of everything else, so that
//! any flipped bit is refused. It does not make a *hostile* artifact safe: whoever can write the folder can write
//! consistent hashes, and `kernels.o` is native code that runs with all rights of the process. [`Plan::validate`] checks
//! that every offset starts inside its region, but how far a kernel reads and writes from there is the kernel's doing.
//! So open only artifacts that this user compiled, in a folder that nobody else may write.
//!
//! [`Plan::validate`]: crate::plan::Plan::validate

mod code;
mod cpu;
mod hash;
mod manifest;
mod open;
mod validate;
mod weights;
mod writer;

pub use code::GpuKernels;
pub use cpu::missing_features;
pub use hash::SEGMENT_BYTES;
pub use manifest::{Choice, FileEntry, Manifest, ManifestInfo, ModelIdentity, SourceFile, TargetInfo, TokenizerFacts};
pub use open::{Artifact, OpenOptions};
pub use validate::{MAX_CHUNKS, PlanError};
pub use weights::HugePages;
pub use writer::{ArtifactWriter, WeightsWriter};

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// Name of the plan.
pub const PLAN: &str = "plan.json";
/// Name of the object with the kernels.
pub const KERNELS: &str = "kernels.o";
/// Name of a further object, with the kernels of back end `backend`.
pub fn kernels_of(backend: &str) -> String {
    format!("kernels.{backend}.o")
}

/// Name of the text of kernels for a GPU.
pub const KERNELS_PTX: &str = "kernels.ptx";
/// Name of the machine code for a kind of GPU: `sm_90a`.
pub fn cubin_of(arch: &str) -> String {
    format!("kernels.{arch}.cubin")
}

/// Whether a file of an artifact holds kernels.
pub fn is_kernels(name: &str) -> bool {
    name.starts_with("kernels.") && [".o", ".ptx", ".cubin"].iter().any(|end| name.ends_with(end))
}

/// Name of the packed weights.
pub const WEIGHTS: &str = "weights.bin";
/// Name of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the chat template.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Name of the graph dump.
pub const GRAPH: &str = "graph.txt";

/// Offsets that the writer gives out inside `weights.bin` are multiples of this.
pub const WEIGHTS_ALIGN: u64 = 64;
/// The length of `weights.bin` is a multiple of this.
pub const PAGE: u64 = 4096;
