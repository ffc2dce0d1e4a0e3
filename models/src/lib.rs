//! Model files, block formats, architectures and tokenizers, turned into graphs.

#![deny(unsafe_code)] // one exception: the memory map in mapped.rs

pub mod arch;
pub mod error;
pub mod format;
pub mod gguf;
mod mapped;
pub mod model;
pub mod safetensors;
pub mod tokenizer;
pub mod weights;

pub use model::{Model, ModelError};
