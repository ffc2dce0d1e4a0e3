//! Parts `decode` and `prefill`: whole models of known shapes with made-up weights.

use crate::gpu::{Gpu, median, round};
use crate::model::Model;
use crate::part::Items;
use crate::synthetic::{LLAMA_1B, LLAMA_8B, Shape, TINY};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use tilewright_runtime::cuda::GraphId;

/// Tokens of a greedy decode that is timed.
const STEPS: usize = 64;
/// Repetitions of it.
const RUNS: usize = 5;

/// One token after another.
pub fn decode(items: &mut Items) -> Result<()> {
    let (models, depths): (&[(Shape, &str)], &[u32]) = match items.settings.emulate {
        true => (&[(TINY, "q4_0"), (TINY, "bf16")], &[5, 40]),
        false => (
            &[(LLAMA_1B, "q4_0"), (LLAMA_8B, "q4_0"), (LLAMA_1B, "bf16"), (LLAMA_8B, "bf16"), (LLAMA_1B, "q8_0")],
            &[128, 4096],
        ),
    };
    for (shape, format) in models {
        items.item(format!("{} {format}", shape.name), |gpu| one_decode(gpu, shape, format, depths));
        // Its memory is freed with the process, and the next model wants it.
        items.restart()?;
    }
    Ok(())
}

fn one_decode(gpu: &mut Gpu, shape: &Shape, format: &str, depths: &[u32]) -> Result<Value> {
    let steps = if gpu.emulated { 3 } else { STEPS };
    let context = depths.iter().max().unwrap_or(&0) + steps as u32 + 16;
    let mut model = Model::new(gpu, shape, format, 1, context)?;
    let bytes = model.plan.model.bytes_per_token;
    let mut at_depths = vec![];
    for &depth in depths {
        let mut at = json!({"depth": depth});
        // With programmatic dependent launch, and without.
        for (name, overlap) in [("overlap", true), ("apart", false)] {
            let graph = model.graph(gpu, model.calls.len(), overlap)?;
            let step = step_nanos(gpu, &mut model, graph, depth, steps)?;
            let wall = (0..gpu.runs(RUNS)).map(|_| {
                model.begin(gpu, &[1], depth)?;
                // One step in front, so that the clock does not see the graph go up.
                gpu.driver.replay(graph)?;
                let seconds = gpu.wall(|gpu| Ok((1..steps).try_for_each(|_| gpu.driver.replay(graph))?))?;
                Ok((seconds * 1e9 / (steps - 1) as f64) as u64)
            });
            let mut wall = wall.collect::<Result<Vec<u64>>>()?;
            wall.sort_unstable();
            let nanos = median(&wall)?;
            at[name] = json!({
                "step_us": round(step / 1e3),
                "greedy_us": round(nanos / 1e3),
                "greedy_us_least": round(wall[0] as f64 / 1e3),
                "tokens_per_s": round(1e9 / nanos),
                "weights_gb_s": round(bytes as f64 / nanos),
            });
        }
        at["kinds"] = kinds(gpu, &mut model, depth)?;
        at_depths.push(at);
    }
    check_logits(gpu, &model)?;
    Ok(json!({
        "model": shape.name,
        "format": format,
        "bytes_per_token": bytes,
        "calls": model.calls.len(),
        "depths": at_depths,
    }))
}

/// Nanoseconds of one step on the device, at that depth.
fn step_nanos(gpu: &mut Gpu, model: &mut Model, graph: GraphId, depth: u32, steps: usize) -> Result<f64> {
    let mut times = vec![];
    for _ in 0..gpu.runs(steps.min(16)) {
        model.begin(gpu, &[1], depth)?;
        times.push(gpu.driver.time(graph)?);
    }
    times.sort_unstable();
    median(&times)
}

/// Time of each kind of call, each call alone, in the order of a step so that nothing finds its weights in the cache. A call
/// alone takes some microseconds more than in a step: what launching and the clock cost.
fn kinds(gpu: &mut Gpu, model: &mut Model, depth: u32) -> Result<Value> {
    let graphs = (0..model.calls.len()).map(|i| model.graph_of(gpu, i..i + 1, false)).collect::<Result<Vec<_>>>()?;
    let rounds = gpu.runs(3);
    let mut all = vec![vec![]; graphs.len()];
    for _ in 0..rounds {
        model.begin(gpu, &[1], depth)?;
        for (graph, times) in graphs.iter().zip(&mut all) {
            times.push(gpu.driver.time(*graph)?);
        }
    }
    let of_call = |times: &mut Vec<u64>| {
        times.sort_unstable();
        median(times)
    };
    let nanos = all.iter_mut().map(of_call).collect::<Result<Vec<f64>>>()?;
    let kind = |(label, calls): (String, Vec<usize>)| {
        let total: f64 = calls.iter().map(|&i| nanos[i]).sum();
        json!({"kind": label, "calls": calls.len(), "us_each": round(total / calls.len() as f64 / 1e3)})
    };
    Ok(model.kinds().into_iter().map(kind).collect())
}

/// Numbers, at least: nothing else is known of them.
fn check_logits(gpu: &mut Gpu, model: &Model) -> Result<()> {
    let at = model.memory.logits(&model.plan, model.program);
    let bytes = gpu.get(at, model.plan.model.vocab as usize * 4)?;
    let mut logits = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    logits.all(f32::is_finite).then_some(()).context("the logits are no numbers")
}

/// Many tokens at once.
pub fn prefill(items: &mut Items) -> Result<()> {
    let (models, lengths, step): (&[(Shape, &str)], &[u32], u32) = match items.settings.emulate {
        true => (&[(TINY, "q4_0")], &[24, 40], 16),
        false => (&[(LLAMA_8B, "bf16"), (LLAMA_8B, "q4_0")], &[512, 2048], 512),
    };
    for (shape, format) in models {
        items.item(format!("{} {format}", shape.name), |gpu| one_prefill(gpu, shape, format, lengths, step));
        items.restart()?;
    }
    Ok(())
}

fn one_prefill(gpu: &mut Gpu, shape: &Shape, format: &str, lengths: &[u32], step: u32) -> Result<Value> {
    let context = lengths.iter().max().unwrap_or(&0) + 16;
    let mut model = Model::new(gpu, shape, format, step, context)?;
    // The head is for the last token alone, and another program's.
    let body = model.plan.programs[model.program].head_start as usize;
    let graph = model.graph(gpu, body, true)?;
    let macs = model.plan.model.macs_per_token - shape.vocab * shape.d_model;
    let mut all = vec![];
    for &length in lengths {
        let tokens: Vec<u32> = (0..length).map(|t| t * 7919 % shape.vocab as u32).collect();
        let mut runs = vec![];
        for _ in 0..gpu.runs(RUNS) + usize::from(!gpu.emulated) {
            let mut nanos = 0;
            for (part, past) in tokens.chunks(step as usize).zip((0..).step_by(step as usize)) {
                model.begin(gpu, part, past)?;
                nanos += gpu.driver.time(graph)?;
            }
            runs.push(nanos);
        }
        if !gpu.emulated {
            // The first warms up.
            runs.remove(0);
        }
        runs.sort_unstable();
        let nanos = median(&runs)?;
        all.push(json!({
            "tokens": length,
            "ms": round(nanos / 1e6),
            "tokens_per_s": round(f64::from(length) * 1e9 / nanos),
            "tflop_s": round(2.0 * macs as f64 * f64::from(length) / nanos / 1e3),
        }));
    }
    Ok(json!({"model": shape.name, "format": format, "step": step, "lengths": all}))
}
