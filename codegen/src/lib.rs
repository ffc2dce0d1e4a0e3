//! Schedules and back ends: kernels from ops, machine code from kernels.
