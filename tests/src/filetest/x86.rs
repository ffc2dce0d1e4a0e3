//! File tests of the x86-64 back end.
//!
//! - `x86 TARGET`: the kernel's machine code for that target, in Intel's notation; what cannot be lowered is an error.
//!   Constants lie before the code, at addresses below zero.

use tilewright_codegen::backend::Backend;
use tilewright_codegen::target::Target;
use tilewright_codegen::x86::X86;
use tilewright_ir::kernel;

use super::{Case, Output};

/// Mode `x86`.
pub fn run(case: &Case) -> Result<Output, String> {
    let kernel = kernel::parse(&case.source).map_err(|e| e.to_string())?;
    let target = Target::get(&case.args).map_err(|e| e.to_string())?;
    if let Err(found) = X86.check(&kernel, &target) {
        return Ok(Output { text: String::new(), errors: found.iter().map(ToString::to_string).collect() });
    }
    let text = X86.disassemble(&kernel, &target).map_err(|e| e.to_string())?;
    Ok(Output { text, errors: vec![] })
}
