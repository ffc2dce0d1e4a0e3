//! The thin runtime: loads an artifact and runs it. No compiler inside.

pub mod plan;
pub mod sampler;
pub mod text;
