//! GGUF files, versions 2 and 3, little-endian, whole or split, memory-mapped.
//!
//! Files are not trusted: see `read.rs` for the rules and [`GgufProblem`] for what they refuse.
//!
//! ```
//! use tilewright_models::gguf::{GgmlType, GgufFile, GgufWriter};
//! let f32 = GgmlType::from_id(0).unwrap();
//! let bytes = GgufWriter::new()
//!     .key("general.architecture", "llama")
//!     .tensor("w", &[2, 1], f32, &[0, 0, 128, 63, 0, 0, 0, 64])
//!     .finish();
//! let file = GgufFile::from_bytes("example.gguf", bytes).unwrap();
//! assert_eq!(file.get("general.architecture").and_then(|v| v.as_str()), Some("llama"));
//! assert_eq!(file.tensor("w").unwrap().dims, [2, 1]);
//! ```

mod error;
mod file;
mod read;
#[cfg(test)]
mod tests;
mod types;
mod value;
mod write;

pub use error::{GgufError, GgufProblem};
pub use file::{GgufFile, TensorInfo};
pub use types::GgmlType;
pub use value::{MetaArray, MetaValue, Strings};
pub use write::GgufWriter;
