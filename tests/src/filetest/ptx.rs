//! File tests of the PTX back end.
//!
//! - `ptx TARGET`: the text of the kernel for that target; what cannot be lowered is an error.

use tilewright_codegen::backend::Backend;
use tilewright_codegen::ptx::Ptx;
use tilewright_codegen::target::Target;
use tilewright_ir::kernel;

use super::{Case, Output};

/// Mode `ptx`.
pub fn run(case: &Case) -> Result<Output, String> {
    let kernel = kernel::parse(&case.source).map_err(|e| e.to_string())?;
    let target = Target::get(&case.args).map_err(|e| e.to_string())?;
    if let Err(found) = Ptx.check(&kernel, &target) {
        return Ok(Output { text: String::new(), errors: found.iter().map(ToString::to_string).collect() });
    }
    let text = Ptx.object(&[kernel], &target).map_err(|e| e.to_string())?;
    Ok(Output { text: String::from_utf8(text).map_err(|e| e.to_string())?, errors: vec![] })
}
