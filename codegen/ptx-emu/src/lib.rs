//! An emulator of PTX: it reads the text of a module and runs its kernels on the CPU, so that generated GPU code can be proven
//! on a machine that has no GPU.
//!
//! It runs the text and not what the text was made from, so the code generator is tested too. And it looks for what a real
//! device would only show now and then:
//!
//! - accesses out of bounds and misaligned ones; bytes and registers that nothing wrote;
//! - races in shared memory, between warps and between lanes of one warp;
//! - barriers that not all threads reach, misused mbarriers, deadlocks, endless loops;
//! - reads of what an asynchronous copy, or the grid before, has yet to write;
//! - registers and shared memory that a `wgmma` under way uses, touched before its `wait_group`, or given to it without
//!   `wgmma.fence` and `fence.proxy.async`; warp groups that do not come whole; matrix descriptors that the hardware cannot
//!   follow, or that lean on an alignment which the kernel did not ask for.
//!
//! A [`Fault`] names the line of the text, CTA, warp and lane. Which warp and which CTA goes next, how many CTAs are resident
//! and when copies land comes from [`Options::seed`]: a kernel is right if it passes with all of them.
//!
//! ```
//! use tilewright_ptx_emu::{Arg, Config, Device, Module, Options};
//!
//! let module = Module::parse(
//!     ".version 8.0
//!      .target sm_80
//!      .address_size 64
//!      .visible .entry twice(.param .u64 x)
//!      {
//!          .reg .b32 %r<2>;
//!          .reg .f32 %f<3>;
//!          .reg .b64 %rd<4>;
//!          ld.param.u64 %rd0, [x];
//!          mov.u32 %r0, %tid.x;
//!          mul.wide.u32 %rd1, %r0, 4;
//!          add.s64 %rd2, %rd0, %rd1;
//!          ld.global.f32 %f0, [%rd2];
//!          add.rn.f32 %f1, %f0, %f0;
//!          st.global.f32 [%rd2], %f1;
//!          ret;
//!      }",
//! )?;
//! let mut device = Device::new(Config::default());
//! let x = device.alloc("x", 32 * 4);
//! device.write_f32(x, &[1.5; 32])?;
//! let stats = device.launch(&module, "twice", [1, 1, 1], [32, 1, 1], 0, &[Arg::Ptr(x)], &Options::default())?;
//! assert_eq!(device.read_f32(x, 32)?, [3.0; 32]);
//! assert_eq!((stats.total(), stats.global_read), (8, 128));
//!
//! // One thread too many: the load is outside of `x`.
//! let args = [Arg::Ptr(x.offset(4))];
//! let fault = device.launch(&module, "twice", [1, 1, 1], [32, 1, 1], 0, &args, &Options::default()).unwrap_err();
//! assert_eq!((fault.line, fault.lane), (13, Some(31)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is not as on a device
//!
//! - Global memory is sequentially consistent; missing fences between CTAs are found only as far as orders expose them.
//! - Clusters have one CTA, streams are one, tensor maps and tcgen05 are unknown. Of `wgmma` there is f16 and bf16 into f32, with
//!   matrices that are K-major and descriptors of base offset 0.
//! - A missing `fence.proxy.async` is found where `wgmma` and bulk stores read shared memory; not where a bulk load writes it.
//! - `.approx` functions are exact but for their last rounding, `mma` sums in order of rising k (`exec/matrix.rs`), and
//!   `wgmma` rounds once for 16 k (`exec/wgmma.rs`). Compare them with a tolerance.
//! - A CTA barrier reached by a part of a warp is a fault also where it is not `.aligned`.

#![forbid(unsafe_code)]

mod cfg;
mod check;
mod device;
mod error;
mod exec;
mod num;
mod ops;
mod parse;
mod rng;
mod stats;
mod ty;

pub use device::{Arg, Config, Device, DevicePtr, Launch, Options};
pub use error::{Fault, FaultKind, ParseError};
pub use ops::Class;
pub use parse::module::Module;
pub use stats::Stats;
