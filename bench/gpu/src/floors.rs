//! What decoding can reach at best: bytes of packed weights against bandwidths. Needs no GPU.

use crate::synthetic::{LLAMA_1B, LLAMA_8B};
use anyhow::Result;
use std::fmt::Write;
use tilewright_codegen::target::Target;
use tilewright_driver::{BuildOptions, compile_reading};

/// What an H200's data sheet says, and what copies reach on one, GB/s.
pub const BANDWIDTHS: [f64; 2] = [4800.0, 4300.0];
/// Microseconds that the boundary between two kernels may cost.
const BOUNDARIES: [f64; 3] = [2.0, 1.0, 0.5];

/// A table of tokens a second, from whole plans for an H200.
pub fn table() -> Result<String> {
    let options = BuildOptions { prefill_tokens: 1, ..BuildOptions::for_target(Target::get("sm_90a")?) };
    let mut out = String::from("| model | GB a token | kernels | at 4.8 TB/s | at 4.3 TB/s |");
    BOUNDARIES.iter().for_each(|c| out += &format!(" {c} µs a kernel |"));
    out += "\n|---|---|---|---|---|---|---|---|\n";
    for shape in [LLAMA_1B, LLAMA_8B] {
        for format in ["q4_0", "q4_k", "q8_0", "bf16"] {
            let plan = compile_reading(shape.name, &shape.read(format)?, 0, &options, &mut |_| {})?.plan;
            let bytes = plan.model.bytes_per_token as f64;
            let kernels = plan.programs[0].calls.len() + usize::from(plan.programs[0].next.is_some());
            write!(out, "| {} {format} | {:.3} | {kernels} |", shape.name, bytes / 1e9)?;
            BANDWIDTHS.iter().for_each(|gb_s| out += &format!(" {:.0} |", gb_s * 1e9 / bytes));
            let exposed = |c: &f64| 1e9 / (bytes / BANDWIDTHS[1] + c * 1e3 * kernels as f64);
            BOUNDARIES.iter().for_each(|c| out += &format!(" {:.0} |", exposed(c)));
            out.push('\n');
        }
    }
    Ok(out)
}
