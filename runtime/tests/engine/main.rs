//! Artifact, loader, workers and session, on artifacts made by hand.
//!
//! Kernels are Rust functions of this test: the object holds a jump to each.
#![cfg(target_arch = "x86_64")]

mod artifact;
mod kernels;
mod loader;
mod mutations;
mod session;
mod workers;
