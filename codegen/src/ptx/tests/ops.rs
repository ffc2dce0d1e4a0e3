//! The cases of the back ends for CPUs, each thread of a block computing a chunk: every op on every type, and random kernels.

use super::agree_all;
use crate::tests::{collect, ops, random};

/// Runs them all; at most so many may be none for a GPU.
fn run(tests: impl FnOnce(), most: usize) {
    let cases = collect(tests);
    let refused = agree_all(&cases);
    assert!(refused <= most, "{refused} of {} were not run", cases.len());
}

#[test]
fn arithmetic() {
    run(ops::arithmetic, 0);
}

#[test]
fn shifts() {
    run(ops::shifts, 0);
}

#[test]
fn comparison_and_selection() {
    run(ops::comparison_and_selection, 0);
}

#[test]
fn conversions() {
    run(ops::conversions, 0);
}

#[test]
fn lanes() {
    run(ops::lanes, 0);
}

#[test]
fn random_kernels() {
    run(|| random::random_kernels_of(120, true), 0);
}
