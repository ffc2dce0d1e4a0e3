//! Sessions on an emulated GPU, with a model of three kernels written by hand.

mod refusals;
mod steps;
mod toy;
