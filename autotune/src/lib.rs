//! Measurement for tuning: statistics of timings, and how fast this machine reads memory.
//!
//! What is here is what `compile-model bench`, `explain` and `doctor` use. Spaces are declared by the schedules of
//! `tilewright-codegen`; the search over them and the records of its results come with the tuner.
#![forbid(unsafe_code)]

pub mod bandwidth;
pub mod stats;
