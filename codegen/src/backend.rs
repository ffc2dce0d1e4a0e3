//! The seam between kernels and machines: a back end turns verified kernels into an object file, or for a GPU into the text
//! of a module.

use thiserror::Error;
use tilewright_ir::kernel::{Kernel, VerifyErrors};

use crate::cranelift::Cranelift;
use crate::ptx::Ptx;
use crate::target::Target;
use crate::x86::X86;

/// Turns kernels into machine code.
///
/// On a CPU every kernel becomes a global function with the C calling convention of the System V ABI,
/// `fn(pointers: *const *mut u8, scalars: *const i64, chunk: i64)`, under the kernel's name. On a GPU it becomes an entry
/// under that name; [`crate::ptx`] says how it is launched.
pub trait Backend: Sync {
    /// Name in options and reports.
    fn name(&self) -> &'static str;

    /// All reasons why `kernel` cannot be compiled for `target`, so that a planner can choose another schedule.
    fn check(&self, kernel: &Kernel, target: &Target) -> Result<(), Vec<Unsupported>>;

    /// A relocatable object that needs no other; the same input gives the same bytes.
    fn object(&self, kernels: &[Kernel], target: &Target) -> Result<Vec<u8>, CodegenError>;
}

/// All back ends, best first: the first one that can compile a kernel for a target is the default for it. None serves both
/// CPUs and GPUs.
///
/// ```
/// use tilewright_codegen::backend;
/// assert!(backend::find("cranelift").is_some() && backend::find("pascal").is_none());
/// ```
pub fn all() -> &'static [&'static dyn Backend] {
    &[&X86, &Cranelift, &Ptx]
}

/// The back ends that may have code for `target`, best first.
pub fn for_target(target: &Target) -> impl Iterator<Item = &'static dyn Backend> + use<> {
    let gpu = target.gpu().is_some();
    all().iter().copied().filter(move |b| (b.name() == Ptx.name()) == gpu)
}

/// The back end of that name.
pub fn find(name: &str) -> Option<&'static dyn Backend> {
    all().iter().copied().find(|b| b.name() == name)
}

/// The first back end that can compile `kernel` for `target`; what the first one lacks if there is none.
pub fn default_for(kernel: &Kernel, target: &Target) -> Result<&'static dyn Backend, CodegenError> {
    let mut why = None;
    for backend in for_target(target) {
        match backend.check(kernel, target) {
            Ok(()) => return Ok(backend),
            Err(faults) => why = why.or(Some(faults)),
        }
    }
    Err(CodegenError::Unsupported(why.unwrap_or_default()))
}

/// Why a back end for CPUs refuses a target, or a kernel of thread blocks.
pub(crate) fn refuse_gpu(kernel: &Kernel, target: &Target) -> Vec<Unsupported> {
    let fault = |inst: String, reason: String| Unsupported { kernel: kernel.name.clone(), inst, reason };
    let mut found = vec![];
    if target.gpu().is_some() {
        found.push(fault("target".into(), format!("there is no such CPU as {}", target.name)));
    }
    if kernel.threads > 0 {
        let reason = "there is no such thing as a block of threads on a CPU".into();
        found.push(fault(format!("threads {}", kernel.threads), reason));
    }
    found
}

/// Something a back end cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("@{kernel}: {inst}: {reason}")]
pub struct Unsupported {
    /// Symbol of the kernel.
    pub kernel: String,
    /// The instruction in text form, or `target`.
    pub inst: String,
    /// Why.
    pub reason: String,
}

/// Why no code came out.
#[derive(Debug, Error)]
pub enum CodegenError {
    /// The kernel breaks the rules of the IR.
    #[error("kernel @{kernel} is not valid:\n{errors}")]
    Invalid {
        /// Symbol of the kernel.
        kernel: String,
        /// The broken rules.
        errors: VerifyErrors,
    },
    /// The back end cannot do this for this target.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Unsupported(Vec<Unsupported>),
    /// The target's machine is unknown to the back end.
    #[error("target {target}: {reason}")]
    Target {
        /// Name of the target.
        target: String,
        /// Why.
        reason: String,
    },
    /// Two kernels have one name.
    #[error("two kernels are named @{0}")]
    Duplicate(String),
    /// A compiled kernel was called wrongly.
    #[error("call of @{kernel}: {reason}")]
    Call {
        /// Symbol of the kernel.
        kernel: String,
        /// What is wrong.
        reason: String,
    },
    /// The code generator gave up: a bug, of ours or of the library.
    #[error("kernel @{kernel}: {message}")]
    Internal {
        /// Symbol of the kernel; empty for the object as a whole.
        kernel: String,
        /// What it said.
        message: String,
    },
}
