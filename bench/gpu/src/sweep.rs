//! Part `sweep`: the products of a decoded token, and of a step of prefill, at many points of their spaces.
//!
//! Weights come in as many copies as make more than three times the second-level cache, and a graph goes through all of them.
//! Points take turns, so that a slow moment is shared by all.

use crate::case::difference;
use crate::gpu::{Gpu, Loaded, median, round};
use crate::model::without_layer;
use crate::part::Items;
use crate::synthetic::{LLAMA_1B, LLAMA_8B, Shape, TINY};
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde_json::{Value, json};
use tilewright_autotune::work::made_up;
use tilewright_codegen::backend::Backend;
use tilewright_codegen::ptx::Ptx;
use tilewright_codegen::ptx::assembler::Assembler;
use tilewright_codegen::schedules::{Data, Operands, Params, Schedule, defaults};
use tilewright_driver::{BuildOptions, Operation, operations_of};
use tilewright_ir::kernel::Kernel;
use tilewright_runtime::cuda::{Code, GraphId};
use tilewright_runtime::plan::ScalarArg;

/// Points of a space that are tried.
const POINTS: usize = 21;
/// Rounds of all points.
const ROUNDS: usize = 5;
/// Most launches of a graph.
const LAUNCHES: u64 = 64;
/// Squared error between points: sums of f32 in another order, and what becomes of them in rounding.
const LIMIT: f64 = 1e-6;

/// Tokens of a step of prefill.
const MANY: u32 = 512;

/// Every product of both shapes, the most wanted formats first.
pub fn run(items: &mut Items) -> Result<()> {
    let all: &[(Shape, u32, &[&str])] = match items.settings.emulate {
        true => &[(TINY, 1, &["q4_0", "bf16"]), (TINY, 24, &["bf16"])],
        false => &[
            (LLAMA_8B, 1, &["q4_0", "bf16"]),
            (LLAMA_8B, MANY, &["bf16"]),
            (LLAMA_1B, 1, &["q4_0", "bf16"]),
            (LLAMA_8B, MANY, &["q4_0"]),
            (LLAMA_8B, 1, &["q4_k", "q8_0"]),
            (LLAMA_1B, 1, &["q4_k", "q8_0"]),
        ],
    };
    for (shape, tokens, formats) in all {
        for format in *formats {
            for op in products(&items.gpu, shape, format, *tokens)? {
                let name = format!("{} {format} t{tokens} {}", shape.name, without_layer(&op.label));
                let seed = items.seed;
                items.item(name, |gpu| one(gpu, shape, format, u64::from(*tokens), &op, seed));
            }
        }
    }
    Ok(())
}

/// The distinct products of a step of `tokens` tokens; the head, which prefill needs for its last token only, is there for one.
pub fn products(gpu: &Gpu, shape: &Shape, format: &str, tokens: u32) -> Result<Vec<Operation>> {
    let options = BuildOptions { prefill_tokens: tokens, ..BuildOptions::for_target(gpu.target.clone()) };
    let mut ops = operations_of(&shape.read(format)?, &options)?;
    let is_product = |op: &Operation| {
        let operands = op.schedule.operands();
        operands.macs > 0 && operands.max_tokens == tokens
    };
    ops.retain(is_product);
    if tokens > 1 {
        ops.pop();
    }
    Ok(ops)
}

/// The default point, its neighbours along each axis, then others by chance; only such as the back end takes.
fn points(gpu: &Gpu, schedule: &dyn Schedule, most: usize, seed: u64) -> Vec<(Params, Kernel)> {
    let space = schedule.space();
    let default = defaults(&space);
    let mut all = vec![default.clone()];
    let free: Vec<_> = space.iter().filter(|a| !schedule.structural().contains(&a.name)).collect();
    for axis in &free {
        for &value in &axis.values[1..] {
            all.push(Params::from_iter(default.clone().into_iter().chain([(axis.name, value)])));
        }
    }
    let mut random = seed;
    for _ in 0..8 * most {
        let mut p = default.clone();
        for axis in &free {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            p.insert(axis.name, axis.values[(random >> 33) as usize % axis.values.len()]);
        }
        all.push(p);
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|p| seen.insert(p.clone()));
    let kernel = |p: Params| {
        let kernel = schedule.build("k", &p);
        Ptx.check(&kernel, &gpu.target).is_ok().then_some((p, kernel))
    };
    let mut kept: Vec<(Params, Kernel)> = all.into_iter().filter_map(kernel).take(most).collect();
    for (i, (_, kernel)) in kept.iter_mut().enumerate() {
        kernel.name = format!("k{i}");
    }
    kept
}

/// Arguments on the device, the cold ones in copies.
pub struct Bench {
    operands: Operands,
    /// Addresses of all parameters, of each copy.
    params: Vec<Vec<u64>>,
    /// Address and bytes of the first result.
    result: (u64, usize),
    launches: u64,
    tokens: u64,
}

impl Bench {
    /// Made-up data for a run of `tokens` tokens, weights in copies.
    pub fn new(gpu: &mut Gpu, schedule: &dyn Schedule, tokens: u64, seed: u64) -> Result<Bench> {
        const CAPACITY: u64 = 64;
        let operands = schedule.operands();
        let most = u64::from(operands.max_tokens);
        let (cold, _) = operands.work(tokens, 0);
        let wanted = if gpu.emulated { cold } else { 3 * gpu.facts.l2_bytes + cold };
        let copies = wanted.div_ceil(cold.max(1)).clamp(1, LAUNCHES);
        let mut params = vec![vec![]; copies as usize];
        let mut result = None;
        for (i, o) in operands.pointers.iter().enumerate() {
            let bytes = o.data.bytes(most, CAPACITY);
            let is_cold = o.data.is_cold() && !o.written;
            let mut at = 0;
            for (copy, params) in params.iter_mut().enumerate() {
                if copy == 0 || is_cold {
                    at = gpu.alloc(bytes.next_multiple_of(16))?;
                    match &o.data {
                        _ if o.written => gpu.driver.zero(at, bytes.next_multiple_of(16))?,
                        Data::Weights { layout, cols, .. } => {
                            let panel = layout.panel_bytes(*cols).max(1);
                            let mut piece = vec![0; (panel * (1u64 << 20).div_ceil(panel)).min(bytes) as usize];
                            made_up(&o.data, &mut piece, seed.wrapping_add(i as u64));
                            gpu.fill(at, bytes, &piece)?;
                        }
                        data => {
                            let mut all = vec![0; bytes as usize];
                            made_up(data, &mut all, seed.wrapping_add(i as u64));
                            gpu.driver.upload(at, &all)?;
                        }
                    }
                }
                params.push(at);
            }
            if o.written {
                result.get_or_insert((at, bytes as usize));
            }
        }
        for s in &operands.scalars {
            let value = match *s {
                ScalarArg::Const(value) => value,
                ScalarArg::Tokens => tokens as i64,
                ScalarArg::Past => 0,
                ScalarArg::Capacity => CAPACITY as i64,
            };
            let at = gpu.put(&value.to_le_bytes())?;
            params.iter_mut().for_each(|p| p.push(at));
        }
        let launches = if gpu.emulated { 1 } else { copies * (20 / copies).max(1) };
        let result = result.context("it has no result")?;
        Ok(Bench { operands, params, result, launches, tokens })
    }

    /// Launches of a graph.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// A graph of launches, copy after copy.
    pub fn graph(&self, gpu: &mut Gpu, kernel: Loaded, grid: u32) -> Result<GraphId> {
        let overlap = gpu.facts.overlaps();
        let each = self.params.iter().cycle().take(self.launches as usize).enumerate();
        gpu.graph(|gpu| {
            for (i, params) in each {
                gpu.launch(kernel, grid, params, overlap && i > 0)?;
            }
            Ok(())
        })
    }
}

fn one(gpu: &mut Gpu, shape: &Shape, format: &str, tokens: u64, op: &Operation, seed: u64) -> Result<Value> {
    let schedule = op.schedule.as_ref();
    let most = if gpu.emulated { 3 } else { POINTS };
    let points = points(gpu, schedule, most, seed);
    let bench = Bench::new(gpu, schedule, tokens, seed)?;
    let (params, kernels): (Vec<Params>, Vec<Kernel>) = points.into_iter().unzip();
    let loaded = load(gpu, &kernels)?;
    let written = bench.operands.pointers.iter().find(|o| o.written).context("it has no result")?;
    let mut graphs = vec![];
    let mut reference: Option<Vec<u8>> = None;
    for (p, kernel) in params.iter().zip(&loaded) {
        let (at, bytes) = bench.result;
        gpu.driver.zero(at, bytes as u64)?;
        let graph = bench.graph(gpu, *kernel, schedule.chunks(p))?;
        gpu.driver.replay(graph)?;
        let got = gpu.get(at, bytes)?;
        let want = reference.get_or_insert_with(|| got.clone());
        let error = difference(written, &got, want, bench.tokens as usize);
        if error.is_nan() || error > LIMIT {
            bail!("{p:?} gives another result than the default: error {error:.1e}");
        }
        graphs.push(graph);
    }
    let mut times = vec![vec![]; graphs.len()];
    for _ in 0..gpu.runs(ROUNDS) {
        for (graph, times) in graphs.iter().zip(&mut times) {
            times.push(gpu.driver.time(*graph)? / bench.launches);
        }
    }
    let mut rows = vec![];
    for (p, times) in params.iter().zip(&mut times) {
        times.sort_unstable();
        rows.push((median(times)?, p));
    }
    let (bytes, macs) = bench.operands.work(tokens, 0);
    let point = |(nanos, p): &(f64, &Params)| {
        let text: Vec<String> = p.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let nanos = nanos.max(1.0);
        json!({
            "point": text.join(" "),
            "us": round(nanos / 1e3),
            "gb_s": round(bytes as f64 / nanos),
            "tflop_s": round(2.0 * macs as f64 / nanos / 1e3),
        })
    };
    let default = point(&rows[0]);
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(json!({
        "model": shape.name,
        "format": format,
        "op": without_layer(&op.label),
        "tokens": tokens,
        "bytes": bytes,
        "calls": op.calls,
        "copies": bench.params.len(),
        "default": default,
        "best": point(&rows[0]),
        "points": rows.iter().map(point).collect::<Vec<_>>(),
    }))
}

/// Loads kernels: compiled by `ptxas` on all cores where it is installed, as the driver compiles one at a time.
fn load(gpu: &mut Gpu, kernels: &[Kernel]) -> Result<Vec<Loaded>> {
    const TOGETHER: usize = 2;
    let assembler = Assembler::find().filter(|_| gpu.facts.takes_cubins);
    let (target, machine) = (&gpu.target, gpu.target.name.as_str());
    let code = |kernels: &[Kernel]| -> Result<Vec<u8>> {
        let text = Ptx.object(kernels, target)?;
        Ok(assembler.as_ref().map_or(Ok(text.clone()), |a| a.assemble(&text, machine).map(|a| a.cubin))?)
    };
    let codes: Vec<Result<Vec<u8>>> = kernels.par_chunks(TOGETHER).map(code).collect();
    let mut all = vec![];
    for (code, kernels) in codes.into_iter().zip(kernels.chunks(TOGETHER)) {
        let code = code?;
        let code = if assembler.is_some() { Code::Cubin(&code) } else { Code::Ptx(std::str::from_utf8(&code)?) };
        all.extend(gpu.load_code(code, kernels)?);
    }
    Ok(all)
}
