//! The thin runtime: loads an artifact and runs it. No compiler inside.

pub mod artifact;
pub mod cuda;
pub mod error;
pub mod kv;
pub mod loader;
pub mod plan;
pub mod sampler;
pub mod session;
pub mod text;
pub mod workers;
