//! File tests, end to end tests, differential and fault tests.

pub mod e2e;
pub mod filetest;
pub mod gguf_out;
pub mod host;
pub mod quant;
pub mod tiny;
