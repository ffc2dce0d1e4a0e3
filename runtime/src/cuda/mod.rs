//! Running on an NVIDIA GPU.
//!
//! | file | content |
//! |---|---|
//! | `driver.rs` | [`GpuDriver`]: all that a session wants of a GPU; two implementations |
//! | `real/` | the one on NVIDIA's driver, which is looked for at run time (cargo feature `cuda`) |
//! | `machine.rs` | the GPU behind a session: memory, graphs, steps |
//! | `bind.rs` | device memory, and the calls of a plan with device addresses in place of offsets |
//! | `error.rs` | [`GpuError`] |
//!
//! The other implementation, `tilewright_codegen::emulated`, runs the text of the kernels in an emulator, so that all of
//! this is tested on machines without a GPU.
//!
//! A step is one graph, captured once: inputs go up in one copy, the graph is launched, and logits come down only where
//! somebody asks for them. A decode whose tokens the device chooses launches step after step and never waits for one before the
//! next.

mod bind;
mod driver;
mod error;
mod machine;
#[cfg(feature = "cuda")]
mod real;

pub use bind::{Bound, Memory};
pub use driver::{Code, DeviceFacts, FunctionId, GpuDriver, GraphId, Launch, ModuleId, Sm, load};
pub use error::GpuError;
pub(crate) use machine::Gpu;

/// The driver of this machine's first GPU (`CUDA_VISIBLE_DEVICES` says which is the first).
pub fn open() -> Result<Box<dyn GpuDriver>, GpuError> {
    #[cfg(feature = "cuda")]
    return real::Cuda::open().map(|driver| Box::new(driver) as Box<dyn GpuDriver>);
    #[cfg(not(feature = "cuda"))]
    Err(GpuError::NotBuilt)
}
