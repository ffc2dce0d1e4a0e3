//! Part `jit`: what the driver's compiler makes of the text, against NVIDIA's assembler where that is installed.

use crate::gpu::{Gpu, round};
use crate::part::Items;
use crate::sweep::Bench;
use crate::synthetic::LLAMA_8B;
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Instant;
use tilewright_codegen::ptx::assembler::Assembler;
use tilewright_codegen::schedules::defaults;
use tilewright_ir::kernel::Kernel;
use tilewright_runtime::cuda::Code;

/// The products of a decoded token, as text and as machine code.
pub fn run(items: &mut Items) -> Result<()> {
    let assembler = Assembler::find().filter(|_| items.gpu.facts.takes_cubins);
    let Some(assembler) = assembler else {
        items.item("absent", |_| Ok(json!({"why": "no ptxas, or a device that runs text alone"})));
        return Ok(());
    };
    for format in ["q4_0", "q4_k", "bf16"] {
        items.item(format, |gpu| one(gpu, &assembler, format));
    }
    Ok(())
}

fn one(gpu: &mut Gpu, assembler: &Assembler, format: &str) -> Result<Value> {
    let ops = crate::sweep::products(gpu, &LLAMA_8B, format, 1)?;
    let named =
        ops.iter().enumerate().map(|(i, op)| op.schedule.build(&format!("k{i}"), &defaults(&op.schedule.space())));
    let kernels: Vec<Kernel> = named.collect();
    let text = gpu.text(&kernels)?;
    let start = Instant::now();
    let by_driver = gpu.load_code(Code::Ptx(std::str::from_utf8(&text)?), &kernels)?;
    let driver_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let assembled = assembler.assemble(&text, &gpu.target.name)?;
    let assembler_ms = start.elapsed().as_secs_f64() * 1e3;
    let by_assembler = gpu.load_code(Code::Cubin(&assembled.cubin), &kernels)?;
    let mut rows = vec![];
    for (i, op) in ops.iter().enumerate() {
        let bench = Bench::new(gpu, op.schedule.as_ref(), 1, 0)?;
        let grid = op.schedule.chunks(&defaults(&op.schedule.space()));
        let mut us = [vec![], vec![]];
        let graphs = [by_driver[i], by_assembler[i]].map(|kernel| bench.graph(gpu, kernel, grid));
        let [a, b] = graphs;
        let graphs = [a?, b?];
        for _ in 0..5 {
            for (graph, times) in graphs.iter().zip(&mut us) {
                times.push(gpu.median(*graph, 3)? / bench.launches() as f64 / 1e3);
            }
        }
        us.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
        let entry = assembled.entries.iter().find(|e| e.name == kernels[i].name).cloned().unwrap_or_default();
        rows.push(json!({
            "op": crate::model::without_layer(&op.label),
            "driver_us": round(us[0][2]),
            "assembler_us": round(us[1][2]),
            "registers": entry.registers,
            "spills": entry.spill_stores + entry.spill_loads,
        }));
    }
    Ok(json!({"driver_ms": round(driver_ms), "assembler_ms": round(assembler_ms), "kernels": rows}))
}
