//! The PTX back end: kernels of blocks of threads to the text of a PTX module, which a driver or `ptxas` assembles for the
//! GPU at hand.
//!
//! ```text
//! Kernel ──demand, spaces──▶ lower ──▶ instructions on virtual registers ──func──▶ text
//! ```
//!
//! A kernel becomes an entry under its name. All its parameters are 64-bit device addresses in the order of the kernel's:
//! for a pointer that of the memory, for an `i64` that of an `i64` in device memory, which is read at the entry, or behind
//! the kernel's `wait_prior` if it has one at its top level: the value may change from step to step. The block's number is
//! the chunk, and shared memory is dynamic: [`launch`] says how much.
//!
//! Registers are of three sizes. Lanes below 32 bits are packed (`value.rs`): `f16x8` is four registers, so memory moves
//! them as they are and a bitcast costs nothing. Scalar `i64` values, which indices are, carry the range of what they can
//! be (`int.rs`), and are computed in 32 bits wherever that is enough. Everything else, the order of instructions above
//! all, is left to the schedule and to `ptxas`.
//!
//! ```
//! use tilewright_codegen::{backend::Backend, ptx::Ptx, target::Target};
//! use tilewright_ir::kernel::{KernelBuilder, Type};
//! let mut b = KernelBuilder::of_blocks("twice", 128, 0);
//! let p = b.ptr_param("p");
//! let thread = b.thread_id();
//! let p = b.index(p, thread, 16);
//! let v = b.load(Type::F32.x(4), p, 0);
//! let v = b.add(v, v);
//! b.store(v, p, 0);
//! let text = Ptx.object(&[b.finish()], &Target::get("sm_80")?)?;
//! assert!(String::from_utf8(text)?.contains("ld.global.v4.b32"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arith;
pub mod assembler;
mod control;
mod convert;
mod demand;
mod func;
mod int;
mod isa;
mod lower;
mod memory;
mod names;
mod packed;
mod sass;
#[cfg(test)]
mod tests;
mod value;
mod warp;

use std::collections::HashSet;
use std::fmt::Write;

use tilewright_ir::kernel::{Imm, Inst, Kernel, Opcode, Type, Value, inst_line, verify};
use tilewright_runtime::plan::Launch;

use crate::backend::{Backend, CodegenError, Unsupported};
use crate::target::Target;
use isa::Caps;

/// The back end that emits PTX.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ptx;

impl Backend for Ptx {
    fn name(&self) -> &'static str {
        "ptx"
    }

    fn check(&self, kernel: &Kernel, target: &Target) -> Result<(), Vec<Unsupported>> {
        let fault =
            |inst: &str, reason: String| Unsupported { kernel: kernel.name.clone(), inst: inst.to_string(), reason };
        let Some(gpu) = target.gpu() else {
            return Err(vec![fault("target", format!("there is no such NVIDIA GPU as {}", target.name))]);
        };
        let mut found = vec![];
        if kernel.threads == 0 {
            found.push(fault("threads 0", "there is no such thing as a kernel of one thread on a GPU".into()));
        }
        if names::is_reserved(&kernel.name) {
            found.push(fault("name", format!("`{}` is a word of PTX", kernel.name)));
        }
        let mut local = 0u64;
        each_inst(&kernel.body.insts, &mut |inst| {
            if let Some(reason) = isa::lacks(kernel, inst, target, gpu.sm) {
                found.push(fault(&inst_line(kernel, inst), format!("{}: {reason}", target.name)));
            }
            if let (Opcode::Local, Imm::Int(bytes)) = (inst.op, inst.imm) {
                local = local.saturating_add(u64::try_from(bytes).unwrap_or(0).next_multiple_of(64));
            }
        });
        if local > target.max_local_bytes {
            let most = target.max_local_bytes;
            found.push(fault("local", format!("{local} bytes, but {} allows {most}", target.name)));
        }
        let (shared, most) = (shared_bytes(kernel), gpu.block_shared_bytes);
        if shared > most {
            found.push(fault("shared", format!("{shared} bytes, but a block on {} has at most {most}", target.name)));
        }
        let fit = gpu.resident(kernel.threads, shared);
        if kernel.resident > fit && kernel.threads > 0 {
            let what = format!("{} threads and {shared} bytes of shared memory", kernel.threads);
            let reason = format!("a multiprocessor of {} holds {fit} blocks of {what}", target.name);
            found.push(fault(&format!("resident {}", kernel.resident), reason));
        }
        found.extend(early_scalars(kernel).into_iter().map(|(inst, reason)| fault(&inst, reason)));
        found.extend(memory::strange_places(kernel).into_iter().map(|(inst, reason)| fault(&inst, reason)));
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn object(&self, kernels: &[Kernel], target: &Target) -> Result<Vec<u8>, CodegenError> {
        let Some(gpu) = target.gpu() else {
            let reason = "PTX is for NVIDIA GPUs".into();
            return Err(CodegenError::Target { target: target.name.clone(), reason });
        };
        let (mut names, mut entries, mut caps) = (HashSet::new(), String::new(), Caps::new(gpu));
        let mut shared = false;
        for kernel in kernels {
            if !names.insert(&kernel.name) {
                return Err(CodegenError::Duplicate(kernel.name.clone()));
            }
            verify(kernel).map_err(|errors| CodegenError::Invalid { kernel: kernel.name.clone(), errors })?;
            self.check(kernel, target).map_err(CodegenError::Unsupported)?;
            shared |= shared_bytes(kernel) > 0;
            entries.push_str(&lower::entry(kernel, &mut caps));
        }
        let mut text = String::new();
        let version = (caps.version / 10, caps.version % 10);
        let _ = writeln!(text, ".version {}.{}\n.target {}\n.address_size 64", version.0, version.1, target.name);
        if shared {
            let _ = writeln!(text, "\n.extern .shared .align {} .b8 {}[];", memory::ALIGN, memory::SHARED);
        }
        text.push_str(&entries);
        Ok(text.into_bytes())
    }
}

/// How `kernel` is launched on `target`. A GPU that cannot launch a kernel early has it wait for the one before anyway.
pub fn launch(kernel: &Kernel, target: &Target) -> Launch {
    let waits = has(kernel, Opcode::WaitPrior);
    let early = target.gpu().is_some_and(|gpu| gpu.launches_early());
    Launch { threads: kernel.threads, shared_bytes: shared_bytes(kernel), waits: waits && early }
}

/// Bytes of shared memory that all `shared` of a kernel take together, each aligned.
pub fn shared_bytes(kernel: &Kernel) -> u32 {
    let align = memory::alignment(kernel);
    let of = |inst: &Inst| match (inst.op, inst.imm) {
        (Opcode::Shared, Imm::Int(bytes)) => memory::shared_size(bytes, align),
        _ => 0,
    };
    kernel.body.insts.iter().map(of).fold(0, u32::saturating_add)
}

/// True if the kernel has such an op.
fn has(kernel: &Kernel, op: Opcode) -> bool {
    let mut found = false;
    each_inst(&kernel.body.insts, &mut |inst| found |= inst.op == op);
    found
}

fn each_inst(insts: &[Inst], f: &mut dyn FnMut(&Inst)) {
    for inst in insts {
        f(inst);
        inst.blocks.iter().for_each(|b| each_inst(&b.insts, f));
    }
}

/// Index of the first `wait_prior` among the instructions at the top.
fn top_wait(kernel: &Kernel) -> Option<usize> {
    kernel.body.insts.iter().position(|i| i.op == Opcode::WaitPrior)
}

/// Uses of `i64` parameters where they are not read yet.
fn early_scalars(kernel: &Kernel) -> Vec<(String, String)> {
    let scalars: HashSet<Value> =
        kernel.params.iter().map(|p| p.value).filter(|&v| kernel.types.get(v.0 as usize) == Some(&Type::I64)).collect();
    let mut found = vec![];
    if scalars.is_empty() {
        return found;
    }
    let top = top_wait(kernel);
    let before = &kernel.body.insts[..top.unwrap_or(kernel.body.insts.len())];
    each_inst(before, &mut |inst| {
        let yields = inst.blocks.iter().flat_map(|b| &b.yields);
        if top.is_some() && inst.args.iter().chain(yields).any(|v| scalars.contains(v)) {
            let reason = "an i64 parameter is used before `wait_prior`, where it may still change";
            found.push((inst_line(kernel, inst), reason.into()));
        }
        if inst.op == Opcode::WaitPrior {
            let reason = "the first `wait_prior` of a kernel that has i64 parameters is at its top level";
            found.push((inst_line(kernel, inst), reason.into()));
        }
    });
    found
}
