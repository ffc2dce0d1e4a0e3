//! What can be wrong with a declaration, or with a model held against one.

use std::path::PathBuf;

use tilewright_ir::graph::GraphError;

/// An error of an architecture file, or of a model read through one.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// The declaration is wrong.
    #[error("{file}:{line}:{column}: {message}")]
    Declaration {
        /// The architecture file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// An expression of the declaration has no value for this model.
    #[error("{model}: {file}:{line}:{column}: {message}")]
    Value {
        /// The model.
        model: String,
        /// The architecture file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// No declaration matches.
    #[error("{model}: {key} is {found}, which no architecture matches; there are {}. A file of your own in a folder of architectures adds one", known.join(", "))]
    Unknown {
        /// The model.
        model: String,
        /// The key that names the architecture.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would match.
        known: Vec<String>,
    },
    /// A metadata key is missing or has a value that cannot be.
    #[error("{model}: {key}: {message}")]
    Key {
        /// The model.
        model: String,
        /// The key, or the keys of which one is needed.
        key: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A tensor is missing, of the wrong shape, or not known.
    #[error("{model}: tensor `{tensor}` {message}")]
    Tensor {
        /// The model.
        model: String,
        /// Name in the file.
        tensor: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The model asks for something this program refuses.
    #[error("{model}: {message}")]
    Refused {
        /// The model.
        model: String,
        /// Why.
        message: String,
    },
    /// The graph's own rules refuse what the declaration says.
    #[error("{model}: {file}:{line}:{column}: {source}")]
    Graph {
        /// The model.
        model: String,
        /// The architecture file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The broken rule.
        source: Box<GraphError>,
    },
    /// A folder of declarations cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
