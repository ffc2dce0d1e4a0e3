//! A whole plan on a device, as the compiler makes it, with made-up weights that never were on the host.

use crate::gpu::{Gpu, Loaded};
use crate::synthetic::Shape;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use tilewright_autotune::work::made_up;
use tilewright_codegen::lower::Packing;
use tilewright_codegen::schedules::Data;
use tilewright_driver::{BuildOptions, Compiled, compile_reading};
use tilewright_ir::kernel::Kernel;
use tilewright_runtime::cuda::{Bound, FunctionId, GraphId, Memory};
use tilewright_runtime::plan::{Plan, Program};

/// About so many bytes of a weight are made up; the rest repeats them.
const PIECE: u64 = 4 << 20;

/// A plan that runs.
pub struct Model {
    /// The plan.
    pub plan: Plan,
    /// Its memory.
    pub memory: Memory,
    /// The program.
    pub program: usize,
    /// Its calls, the one that prepares the next step last.
    pub calls: Vec<Bound>,
}

/// Compiles `shape` with steps of `tokens` tokens.
pub fn compile(gpu: &Gpu, shape: &Shape, format: &str, tokens: u32) -> Result<Compiled> {
    let options = BuildOptions { prefill_tokens: tokens, ..BuildOptions::for_target(gpu.target.clone()) };
    Ok(compile_reading(shape.name, &shape.read(format)?, 0, &options, &mut |_| {})?)
}

impl Model {
    /// Puts the program of the most tokens on the device, for contexts of `context`. It stays until the process ends.
    pub fn new(gpu: &mut Gpu, shape: &Shape, format: &str, tokens: u32, context: u32) -> Result<Model> {
        let compiled = compile(gpu, shape, format, tokens)?;
        let (program, functions) = load(gpu, &compiled)?;
        let mut plan = compiled.plan;
        plan.weights_bytes = compiled.weights.bytes.next_multiple_of(4096);
        let memory = Memory::new(&mut *gpu.driver, &plan, context)?;
        for (i, w) in (0..).zip(&compiled.weights.entries) {
            let cols = w.weight.ty.width().unwrap_or(0);
            let data = match &w.packing {
                Packing::Vector => Data::Vector(w.bytes / 4),
                Packing::Panels(layout) => Data::Weights { layout: layout.clone(), rows: 0, cols },
            };
            let panel = match &w.packing {
                Packing::Vector => 4,
                Packing::Panels(layout) => layout.panel_bytes(cols).max(1),
            };
            let mut piece = vec![0; (panel * PIECE.div_ceil(panel)).min(w.bytes) as usize];
            made_up(&data, &mut piece, i);
            gpu.fill(memory.weights() + w.offset, w.bytes, &piece)?;
        }
        let mut calls = Bound::all(&plan, program, &functions, &memory);
        // A step takes the likeliest token here: that call comes before the one that draws.
        let Program { calls: own, next, .. } = &plan.programs[program];
        calls.truncate(own.len() + usize::from(next.is_some()));
        Ok(Model { plan, memory, program, calls })
    }

    /// Puts the inputs of a step on the device.
    pub fn begin(&mut self, gpu: &mut Gpu, tokens: &[u32], past: u32) -> Result<()> {
        Ok(self.memory.begin_step(&mut *gpu.driver, &self.plan, self.program, tokens, past)?)
    }

    /// A graph of the first `count` calls.
    pub fn graph(&self, gpu: &mut Gpu, count: usize, overlap: bool) -> Result<GraphId> {
        self.graph_of(gpu, 0..count, overlap)
    }

    /// A graph of some calls.
    pub fn graph_of(&self, gpu: &mut Gpu, calls: std::ops::Range<usize>, overlap: bool) -> Result<GraphId> {
        let overlap = overlap && gpu.facts.overlaps();
        let calls = self.calls.get(calls).context("there are not so many calls")?;
        gpu.graph(|gpu| {
            for (i, call) in calls.iter().enumerate() {
                call.launch(&mut *gpu.driver, overlap && i > 0)?;
            }
            Ok(())
        })
    }

    /// Kinds of calls with their names, in the order of the program: the calls that share a kernel.
    pub fn kinds(&self) -> Vec<(String, Vec<usize>)> {
        let program = &self.plan.programs[self.program];
        let mut kinds: Vec<(u32, String, Vec<usize>)> = vec![];
        for (i, call) in program.calls.iter().chain(&program.next).enumerate() {
            match kinds.iter_mut().find(|k| k.0 == call.kernel) {
                Some(kind) => kind.2.push(i),
                None => kinds.push((call.kernel, without_layer(&call.label), vec![i])),
            }
        }
        kinds.into_iter().map(|(_, label, calls)| (label, calls)).collect()
    }
}

/// `matmul blk.3.ffn_down` is one of the kind `matmul ffn_down`.
pub fn without_layer(label: &str) -> String {
    let word = |w: &str| {
        let rest = w.strip_prefix("blk.").and_then(|r| r.split_once('.'));
        rest.filter(|(n, _)| n.bytes().all(|b| b.is_ascii_digit())).map_or(w, |(_, rest)| rest).to_string()
    };
    let words = |part: &str| part.split('+').map(word).collect::<Vec<_>>().join("+");
    label.split(' ').map(words).collect::<Vec<_>>().join(" ")
}

/// Loads the kernels of the last program alone: the driver compiles each of them.
fn load(gpu: &mut Gpu, compiled: &Compiled) -> Result<(usize, Vec<FunctionId>)> {
    let program = compiled.plan.programs.len() - 1;
    let calls = compiled.plan.programs[program].calls.iter().chain(&compiled.plan.programs[program].next);
    let used: BTreeSet<usize> = calls.map(|c| c.kernel as usize).collect();
    let kernels: Vec<Kernel> = used.iter().map(|&i| compiled.kernels[i].clone()).collect();
    let loaded: BTreeMap<usize, Loaded> = used.into_iter().zip(gpu.load(&kernels)?).collect();
    let none = FunctionId(u32::MAX);
    let functions = (0..compiled.kernels.len()).map(|i| loaded.get(&i).map_or(none, |l| l.function));
    Ok((program, functions.collect()))
}
