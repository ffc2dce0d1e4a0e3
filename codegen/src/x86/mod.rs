//! The x86-64 back end: kernel IR to machine code at full width (AVX2 or AVX-512, with VNNI, BF16 and AMX where the target has them),
//! with nothing to install.
//!
//! ```text
//! Kernel ──lower──▶ Func (machine instructions on virtual registers)
//!        ──regalloc2──▶ registers, spills, moves ──emit (iced-x86)──▶ constants + code
//! ```
//!
//! Which instruction an op becomes is a table (`isa`); nothing here knows a particular kernel. The schedule's order is
//! kept: what it wrote is what runs, except that loads used once become memory operands of their users.
//!
//! ```
//! use tilewright_codegen::{backend::Backend, target::Target, x86::X86};
//! use tilewright_ir::kernel::{KernelBuilder, Type};
//! let mut b = KernelBuilder::new("add");
//! let p = b.ptr_param("p");
//! let v = b.load(Type::F32.x(16), p, 0);
//! let v = b.add(v, v);
//! b.store(v, p, 0);
//! let target = Target::get("x86-64-v4-vnni").unwrap();
//! assert!(X86.disassemble(&b.finish(), &target).unwrap().contains("vaddps zmm"));
//! ```

mod convert;
mod dot;
mod emit;
mod func;
mod isa;
mod lower;
mod memory;
mod object;
mod regs;
mod scalar;
#[cfg(test)]
mod tests;
mod tile;
mod vector;

use std::collections::HashSet;
use std::fmt::Write;

use iced_x86::{Formatter, IntelFormatter};
use regalloc2::RegallocOptions;
use rustc_hash::FxHashSet;
use tilewright_ir::kernel::{Kernel, verify};

use crate::backend::{Backend, CodegenError, Unsupported, refuse_gpu};
use crate::target::Target;
use isa::Caps;
use lower::Lower;

/// The back end that emits x86-64 machine code itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct X86;

/// What the lowering takes for granted.
const NEEDED: [&str; 4] = ["avx", "avx2", "fma", "f16c"];

impl Backend for X86 {
    fn name(&self) -> &'static str {
        "x86"
    }

    fn check(&self, kernel: &Kernel, target: &Target) -> Result<(), Vec<Unsupported>> {
        let fault = |inst: &str, reason: String| Unsupported { kernel: kernel.name.clone(), inst: inst.into(), reason };
        if target.arch() != "x86_64" {
            return Err(vec![fault("target", format!("{} is not an x86-64 machine", target.name))]);
        }
        let missing: Vec<&str> = NEEDED.into_iter().filter(|f| !target.has(f)).collect();
        if !missing.is_empty() {
            return Err(vec![fault("target", format!("{} lacks {}", target.name, missing.join(", ")))]);
        }
        let found = refuse_gpu(kernel, target);
        if !found.is_empty() {
            return Err(found);
        }
        let l = Lower::run(kernel, Caps::of(target));
        let mut found = l.unsupported;
        if l.frame as u64 > target.max_local_bytes {
            let most = target.max_local_bytes;
            found.push(fault("local", format!("{} bytes, but {} allows {most}", l.frame, target.name)));
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn object(&self, kernels: &[Kernel], target: &Target) -> Result<Vec<u8>, CodegenError> {
        let mut names = HashSet::new();
        let mut code = vec![];
        for kernel in kernels {
            if !names.insert(&kernel.name) {
                return Err(CodegenError::Duplicate(kernel.name.clone()));
            }
            code.push((kernel.name.as_str(), compile(kernel, target)?));
        }
        object::write(&code)
    }
}

impl X86 {
    /// Machine code of one kernel in Intel's notation, for tests and reports.
    pub fn disassemble(&self, kernel: &Kernel, target: &Target) -> Result<String, CodegenError> {
        let code = compile(kernel, target)?;
        let mut formatter = IntelFormatter::new();
        let (mut out, mut line) = (String::new(), String::new());
        for inst in &code.insts {
            line.clear();
            formatter.format(inst, &mut line);
            let label = if inst.ip() != 0 { format!("{}:", inst.ip()) } else { String::new() };
            let _ = writeln!(out, "{label:<6}{line}");
        }
        Ok(out)
    }
}

fn internal(kernel: &str, e: &dyn std::fmt::Display) -> CodegenError {
    CodegenError::Internal { kernel: kernel.to_string(), message: e.to_string() }
}

/// Checks, lowers, allocates and encodes one kernel.
fn compile(kernel: &Kernel, target: &Target) -> Result<emit::Emitted, CodegenError> {
    verify(kernel).map_err(|errors| CodegenError::Invalid { kernel: kernel.name.clone(), errors })?;
    X86.check(kernel, target).map_err(CodegenError::Unsupported)?;
    let caps = Caps::of(target);
    let (evex, width) = (caps.evex, caps.width);
    let l = Lower::run(kernel, caps);
    let options = RegallocOptions { validate_ssa: cfg!(test), ..RegallocOptions::default() };
    let environment = regs::environment(evex);
    let out = regalloc2::run(&l.f, &environment, &options).map_err(|e| internal(&kernel.name, &format!("{e:?}")))?;
    #[cfg(test)]
    {
        let mut checker = regalloc2::checker::Checker::new(&l.f, &environment);
        checker.prepare(&out);
        checker.run().map_err(|e| internal(&kernel.name, &format!("{e:?}")))?;
    }
    let emitted =
        emit::emit(&l.f, &out, l.frame, &l.pool.bytes, evex, width).map_err(|e| internal(&kernel.name, &e))?;
    // Nothing beyond the target's features, whatever the tables say.
    let mut seen = FxHashSet::default();
    for inst in &emitted.insts {
        if seen.insert(inst.code())
            && let Some(feature) = isa::missing(inst.code(), target)
        {
            return Err(internal(
                &kernel.name,
                &format!("{:?} needs {feature}, which {} lacks", inst.code(), target.name),
            ));
        }
    }
    Ok(emitted)
}
