//! Schedules and back ends: kernels from ops, machine code from kernels.

pub mod lower;
pub mod pack;
pub mod schedules;
