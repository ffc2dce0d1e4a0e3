//! Damaged models and artifacts, the whole way: each runs, or ends with an error that says what is wrong.
//!
//! No panic, no abort, and no more heap than the file's size × 4 and a fixed allowance. A case that kills the process
//! leaves its file in the temporary folder `tilewright-fault…`; all others are named by their seed.

mod artifact;
mod cli;
mod model;
mod support;
