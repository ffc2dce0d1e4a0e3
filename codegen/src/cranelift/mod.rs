//! The Cranelift back end: kernels to x86-64 (and aarch64) machine code, in memory or as an object file.
//!
//! Cranelift has 128-bit vectors only, so a wider IR vector becomes several pieces and a narrower one the low lanes of
//! one. Code is generated with `opt_level=none`: what the schedule wrote is what runs, in its order.

mod arith;
mod convert;
mod fold;
mod lower;
mod memory;
#[cfg(test)]
mod tests;
mod vector;

use std::collections::HashSet;

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{AbiParam, Function, Signature, UserFuncName, types};
use cranelift_codegen::isa::{self, CallConv, OwnedTargetIsa, TargetIsa};
use cranelift_codegen::{Context, settings, settings::Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{FuncId, Linkage, Module, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use tilewright_ir::kernel::{Block, Imm, Kernel, Opcode, inst_line, verify};

use crate::backend::{Backend, CodegenError, Unsupported, refuse_gpu};
use crate::target::Target;

/// The back end that compiles by Cranelift.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cranelift;

impl Backend for Cranelift {
    fn name(&self) -> &'static str {
        "cranelift"
    }

    fn check(&self, kernel: &Kernel, target: &Target) -> Result<(), Vec<Unsupported>> {
        let mut found: Vec<Unsupported> = refuse_gpu(kernel, target);
        let fault =
            |inst: &str, reason: String| Unsupported { kernel: kernel.name.clone(), inst: inst.to_string(), reason };
        // Without these Cranelift would call library functions, and an object must stand alone.
        if target.arch() == "x86_64" {
            let missing: Vec<&str> =
                ["ssse3", "sse4.1", "sse4.2", "avx", "avx2"].into_iter().filter(|f| !target.has(f)).collect();
            if !missing.is_empty() {
                found.push(fault("target", format!("{} lacks {}", target.name, missing.join(", "))));
            }
        }
        let fma = target.arch() != "x86_64" || target.has("fma");
        let mut local = 0u64;
        each_inst(&kernel.body, &mut |inst| match (inst.op, inst.imm) {
            (Opcode::Fma, _) if !fma => {
                found.push(fault(&inst_line(kernel, inst), format!("{} lacks fma", target.name)));
            }
            (Opcode::Local, Imm::Int(bytes)) => {
                local = local.saturating_add(u64::try_from(bytes).unwrap_or(0).next_multiple_of(64));
            }
            (Opcode::Dot2 | Opcode::TileZero | Opcode::TileLoad | Opcode::TileStore | Opcode::TileDot, _) => {
                found.push(fault(&inst_line(kernel, inst), "there is no such instruction here".into()));
            }
            _ => {}
        });
        if local > target.max_local_bytes {
            let most = target.max_local_bytes;
            found.push(fault("local", format!("{local} bytes, but {} allows {most}", target.name)));
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn object(&self, kernels: &[Kernel], target: &Target) -> Result<Vec<u8>, CodegenError> {
        let isa = make_isa(target, true)?;
        let whole = |e: &dyn std::fmt::Display| internal("", e);
        let builder = ObjectBuilder::new(isa, "kernels", default_libcall_names()).map_err(|e| whole(&e))?;
        let mut module = ObjectModule::new(builder);
        define(self, &mut module, kernels, target)?;
        module.finish().emit().map_err(|e| whole(&e))
    }
}

impl Cranelift {
    /// Machine code of one kernel in Cranelift's text form, for tests and reports.
    pub fn disassemble(&self, kernel: &Kernel, target: &Target) -> Result<String, CodegenError> {
        let isa = make_isa(target, true)?;
        let mut ctx = translate(self, kernel, target, &*isa)?;
        ctx.set_disasm(true);
        let code = ctx.compile(&*isa, &mut ControlPlane::default()).map_err(|e| internal(&kernel.name, &e.inner))?;
        code.vcode.clone().ok_or_else(|| internal(&kernel.name, &"no disassembly"))
    }
}

fn internal(kernel: &str, e: &dyn std::fmt::Display) -> CodegenError {
    CodegenError::Internal { kernel: kernel.to_string(), message: e.to_string() }
}

fn each_inst(block: &Block, f: &mut dyn FnMut(&tilewright_ir::kernel::Inst)) {
    for inst in &block.insts {
        f(inst);
        inst.blocks.iter().for_each(|b| each_inst(b, f));
    }
}

/// Cranelift's names of the extensions that it makes use of.
const FLAGS: [(&str, &str); 17] = [
    ("sse3", "has_sse3"),
    ("ssse3", "has_ssse3"),
    ("sse4.1", "has_sse41"),
    ("sse4.2", "has_sse42"),
    ("popcnt", "has_popcnt"),
    ("avx", "has_avx"),
    ("avx2", "has_avx2"),
    ("fma", "has_fma"),
    ("bmi1", "has_bmi1"),
    ("bmi2", "has_bmi2"),
    ("lzcnt", "has_lzcnt"),
    ("avxvnni", "has_avx_vnni"),
    ("avx512f", "has_avx512f"),
    ("avx512dq", "has_avx512dq"),
    ("avx512vl", "has_avx512vl"),
    ("avx512vnni", "has_avx512vnni"),
    ("dotprod", "has_dotprod"),
];

fn make_isa(target: &Target, pic: bool) -> Result<OwnedTargetIsa, CodegenError> {
    let fail = |reason: String| CodegenError::Target { target: target.name.clone(), reason };
    let mut flags = settings::builder();
    let pic = if pic { "true" } else { "false" };
    for (name, value) in [
        ("opt_level", "none"),
        ("is_pic", pic),
        ("unwind_info", "false"),
        // Large locals touch each page of the stack in order, without a library call.
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
    ] {
        flags.set(name, value).map_err(|e| fail(e.to_string()))?;
    }
    let triple = target.triple.parse().map_err(|e| fail(format!("{}: {e}", target.triple)))?;
    let mut builder = isa::lookup(triple).map_err(|e| fail(e.to_string()))?;
    let i8mm = ("i8mm", "has_i8mm");
    for (feature, flag) in FLAGS.into_iter().chain([i8mm]).filter(|(f, _)| target.has(f)) {
        builder.enable(flag).map_err(|e| fail(format!("{feature}: {e}")))?;
    }
    builder.finish(settings::Flags::new(flags)).map_err(|e| fail(e.to_string()))
}

fn signature() -> Signature {
    let mut s = Signature::new(CallConv::SystemV);
    s.params = vec![AbiParam::new(types::I64); 3];
    s
}

/// Checks and lowers one kernel.
fn translate(
    backend: &Cranelift,
    kernel: &Kernel,
    target: &Target,
    isa: &dyn TargetIsa,
) -> Result<Context, CodegenError> {
    verify(kernel).map_err(|errors| CodegenError::Invalid { kernel: kernel.name.clone(), errors })?;
    backend.check(kernel, target).map_err(CodegenError::Unsupported)?;
    let mut ctx = Context::for_function(Function::with_name_signature(UserFuncName::default(), signature()));
    let mut scratch = FunctionBuilderContext::new();
    let builder = FunctionBuilder::new(&mut ctx.func, &mut scratch);
    lower::lower(kernel, lower::Caps::of(target), builder, isa.frontend_config())?;
    Ok(ctx)
}

fn define<M: Module>(
    backend: &Cranelift,
    module: &mut M,
    kernels: &[Kernel],
    target: &Target,
) -> Result<Vec<FuncId>, CodegenError> {
    let mut names = HashSet::new();
    let mut ids = Vec::with_capacity(kernels.len());
    for kernel in kernels {
        if !names.insert(&kernel.name) {
            return Err(CodegenError::Duplicate(kernel.name.clone()));
        }
        let mut ctx = translate(backend, kernel, target, module.isa())?;
        let fail = |e: cranelift_module::ModuleError| internal(&kernel.name, &format!("{e:?}"));
        let id = module.declare_function(&kernel.name, Linkage::Export, &signature()).map_err(fail)?;
        module.define_function(id, &mut ctx).map_err(fail)?;
        ids.push(id);
    }
    Ok(ids)
}
