//! What can go wrong while reading model files and declarations.
//!
//! Every message names the file, the place in it (offset, key, tensor, or line and column) and what to do. All of them
//! are the input's fault; a bug of this crate is a panic in a test, never one of these.

use std::path::PathBuf;

pub use crate::format::FormatError;
pub use crate::gguf::{GgufError, GgufProblem};
pub use crate::safetensors::FolderError;

/// Any error of opening a model file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to open or map a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A GGUF file is damaged, hostile or newer than this reader.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A Hugging Face folder is incomplete, damaged or hostile.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A block format declaration is wrong.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The path is neither a GGUF file nor a model folder.
    #[error("{}: neither a GGUF file nor a Hugging Face folder; give a .gguf file, or a folder with config.json and model.safetensors", path.display())]
    UnknownModel {
        /// What was given.
        path: PathBuf,
    },
    /// A tensor was asked for that the model does not have.
    #[error("{}: no tensor named `{name}`", path.display())]
    NoTensor {
        /// The model.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
}

impl Error {
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }
}

/// Result of this crate's readers.
pub type Result<T, E = Error> = std::result::Result<T, E>;
