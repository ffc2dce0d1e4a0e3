//! The cases of the back ends for CPUs, each thread of a block computing a chunk: every op on every type, and random kernels.

use super::agree_all;
use crate::tests::{collect, control, kernels, ops};

/// Runs them all; at most so many may be none for a GPU.
fn run(tests: impl FnOnce(), most: usize) {
    let cases = collect(tests);
    assert!(!cases.is_empty());
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
    run(|| kernels::random_kernels_of(120, true), 0);
}

#[test]
fn control_flow() {
    run(control::loops_carry_values, 0);
    run(control::masks_cross_blocks, 0);
    run(control::private_memory, 0);
    run(ops::chains_of_dot_products, 0);
    run(ops::functions, 0);
}
