//! Schedules for GPUs.

mod block;
mod embed;
mod product;
mod round;

pub use embed::Embed;
pub use product::{FEW, Input, Product};
pub use round::{F16Rows, Round};
