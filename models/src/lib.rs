//! Model files, block formats, architectures and tokenizers, turned into graphs.

pub mod tokenizer;
