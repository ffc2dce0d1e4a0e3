//! Schedules and back ends: kernels from ops, machine code from kernels.

pub mod backend;
pub mod cranelift;
pub mod jit;
pub mod lower;
pub mod pack;
pub mod ptx;
pub mod schedules;
pub mod target;
pub mod x86;

#[cfg(test)]
mod tests;
