//! Schedules for GPUs.

mod block;
mod product;
mod round;

pub use product::{FEW, Input, Product};
pub use round::{F16Rows, Round};
