//! File tests, end to end tests, differential and fault tests.

pub mod gguf_out;
pub mod quant;
pub mod tiny;
