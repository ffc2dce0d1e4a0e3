//! Schedules for GPUs.

mod product;

pub use product::{FEW, Input, Product};
