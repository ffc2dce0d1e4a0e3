//! Tuning: statistics of timings, how fast this machine reads memory, and the records of what was found.
//!
//! Spaces are declared by the schedules of `tilewright-codegen`. A search ends in a [`record::Record`]; [`store`] keeps
//! those of one machine, [`layers`] adds those that come with the program, [`exchange`] moves them. See `docs/tuning.md`.
#![deny(unsafe_code)]

pub mod bandwidth;
pub mod candidate;
pub mod check;
#[allow(unsafe_code, reason = "machine code is called there")]
pub mod cpu;
mod error;
pub mod exchange;
pub mod fingerprint;
pub mod gpu;
pub mod layers;
pub mod line;
pub mod machine;
pub mod measure;
pub mod record;
pub mod roofline;
pub mod search;
pub mod stats;
pub mod store;
pub mod tuner;
pub mod work;

pub use error::TuneError;
