//! From a model file to an artifact: the whole compiler as one library call.
//!
//! ```no_run
//! use tilewright_driver::{BuildOptions, build};
//! use tilewright_models::model::Model;
//! let model = Model::open("model.gguf")?;
//! let report = build(&model, "model.tw".as_ref(), &BuildOptions::for_host()?, &mut |_| {})?;
//! println!("{} kernels", report.kernels);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | what |
//! |---|---|
//! | `build.rs` | model → graph → passes → plan → kernels → packed weights → artifact |
//! | `choices.rs` | what was chosen and why, for the manifest |
//! | `records.rs` | parameters of kernels: from records, else defaults |
//! | `tune.rs` | tuning all operations of a model |
//! | `cubins.rs` | machine code for GPUs, ahead of time |
//! | `cache.rs` | where built artifacts of raw models live, and how they are found again |
//! | `reach.rs` | bandwidth of a machine, and what kernels reach of it |
//! | `oracle.rs` | the graph interpreter on a model: f32 activations, no kernels |
#![forbid(unsafe_code)]

mod build;
mod cache;
mod choices;
mod cubins;
mod error;
mod oracle;
pub mod reach;
mod records;
pub mod target;
mod tune;

pub use build::{BuildOptions, BuildReport, Compiled, Progress, build, compile, compile_reading, operations_of};
pub use cache::{Cache, cached_artifact, tuned};
pub use error::DriverError;
pub use oracle::Oracle;
pub use records::{TuneMode, layers};
pub use tune::{Operation, TuneEvent, TuneOptions, tune, tune_on_gpu};
