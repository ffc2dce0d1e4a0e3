//! The GPU as a machine of a session.

use std::sync::Arc;

use super::bind::{Bound, Memory, bytes_for};
use super::driver::{self, DeviceFacts, GpuDriver, GraphId};
use super::error::GpuError;
use crate::artifact::Artifact;
use crate::error::RunError;
use crate::kv::KvCache;
use crate::plan::Program;
use crate::sampler::OnDevice;
use crate::session::{Decode, Machine, check_fit};

/// How much of a program a step does.
#[derive(Clone, Copy)]
enum Part {
    /// What fills the cache.
    Body,
    /// And logits.
    Head,
    /// And the inputs of the next step, with the likeliest token.
    Next,
    /// Or with one drawn by chance.
    Sampled,
}

/// How many parts there are.
const PARTS: usize = 4;

/// A program with addresses in it.
struct Step {
    calls: Vec<Bound>,
    /// The calls of each part; none if the program does not have it.
    parts: [Vec<usize>; PARTS],
    /// Captured when first wanted, a graph for each part.
    graphs: [Option<GraphId>; PARTS],
    /// When calls are timed: a graph of each, and nanoseconds so far.
    timed: Option<Vec<(GraphId, u64)>>,
    /// The nanoseconds alone.
    times: Vec<u64>,
}

/// A GPU with a plan bound to its memory.
pub(crate) struct Gpu {
    driver: Box<dyn GpuDriver>,
    memory: Memory,
    steps: Vec<Step>,
    artifact: Arc<Artifact>,
    kv_bytes: u64,
    profile: bool,
    notes: Vec<String>,
    logits: Vec<f32>,
    /// What the device knows of a sampler.
    sampling: Option<OnDevice>,
}

impl Gpu {
    /// Loads kernels and weights. What does not fit is refused before anything is allocated.
    pub(crate) fn new(
        artifact: Arc<Artifact>,
        mut driver: Box<dyn GpuDriver>,
        ctx: u32,
        profile: bool,
    ) -> Result<Gpu, RunError> {
        let plan = artifact.plan();
        let Some(kernels) = artifact.gpu_kernels() else {
            return Err(RunError::NotForGpu { target: artifact.manifest().info.target.name.clone() });
        };
        let codes = kernels.for_device(driver.facts())?;
        let has = driver.facts().shared_bytes;
        if let Some((kernel, l)) = plan.kernels.iter().zip(&plan.launches).find(|(_, l)| l.shared_bytes > has) {
            return Err(GpuError::SharedMemory { kernel: kernel.clone(), need: l.shared_bytes, has }.into());
        }
        let available = driver.free_memory()?;
        check_fit(|ctx| bytes_for(plan, ctx), ctx, plan.model.n_ctx, available)?;
        let (module, note) = driver::load(&mut *driver, &codes)?;
        let mut functions = Vec::with_capacity(plan.kernels.len());
        for name in &plan.kernels {
            functions.push(driver.function(module, name)?);
        }
        let memory = Memory::new(&mut *driver, plan, ctx)?;
        if !artifact.weights().is_empty() {
            driver.upload(memory.weights(), artifact.weights())?;
        }
        // The host's weights are in use until here.
        driver.synchronize()?;
        let steps = (0..plan.programs.len()).map(|i| {
            let calls = Bound::all(plan, i, &functions, &memory);
            let parts = parts(&plan.programs[i]);
            Step { calls, parts, graphs: [None; PARTS], timed: None, times: Vec::new() }
        });
        let steps = steps.collect();
        let kv_bytes = KvCache::bytes_for(&plan.kv, ctx).unwrap_or(0);
        let (notes, logits) = (note.into_iter().collect(), Vec::new());
        Ok(Gpu { driver, memory, steps, artifact, kv_bytes, profile, notes, logits, sampling: None })
    }

    fn upload(&mut self, program: usize, tokens: &[u32], past: u32) -> Result<(), GpuError> {
        self.memory.begin_step(&mut *self.driver, self.artifact.plan(), program, tokens, past)
    }

    /// Runs the calls of `part` on the inputs that are on the device.
    fn replay(&mut self, program: usize, part: Part) -> Result<(), GpuError> {
        let step = &mut self.steps[program];
        let calls = &step.parts[part as usize];
        if calls.is_empty() {
            return Ok(());
        }
        if self.profile {
            return self.replay_timed(program, part);
        }
        let graph = match step.graphs[part as usize] {
            Some(graph) => graph,
            None => {
                let graph = capture(&mut *self.driver, calls.iter().map(|i| &step.calls[*i]))?;
                step.graphs[part as usize] = Some(graph);
                graph
            }
        };
        self.driver.replay(graph)
    }

    /// One call after another, each alone: slower in all than a step, but every call has a time.
    fn replay_timed(&mut self, program: usize, part: Part) -> Result<(), GpuError> {
        let step = &mut self.steps[program];
        let mut graphs = step.timed.take().unwrap_or_default();
        for call in &step.calls[graphs.len()..] {
            graphs.push((capture(&mut *self.driver, [call])?, 0));
        }
        for i in &step.parts[part as usize] {
            let (graph, nanos) = &mut graphs[*i];
            *nanos += self.driver.time(*graph)?;
        }
        step.times = graphs.iter().map(|(_, nanos)| *nanos).collect();
        step.timed = Some(graphs);
        Ok(())
    }

    /// Puts what a device is told of a sampler there, and the draws for the tokens after `past` and on.
    fn upload_sampling(&mut self, to: OnDevice, draws: &[f32], past: u32) -> Result<(), GpuError> {
        if self.sampling != Some(to) {
            self.driver.upload(self.memory.sampling, &to.bytes())?;
            self.sampling = Some(to);
        }
        self.driver.upload(self.memory.draws() + u64::from(past) * 4, bytemuck::cast_slice(draws))
    }
}

/// The calls of each part of a program.
fn parts(program: &Program) -> [Vec<usize>; PARTS] {
    let all = program.calls.len();
    // In the order of `Program::following`.
    let with = |has: bool, at: usize| if has { (0..all).chain([at]).collect() } else { vec![] };
    let (next, sampled) = (program.next.is_some(), program.sampled.is_some());
    [
        (0..program.head_start as usize).collect(),
        (0..all).collect(),
        with(next, all),
        with(sampled, all + usize::from(next)),
    ]
}

/// Records calls; each may overlap with the one before it, if the device can do that.
fn capture<'a>(driver: &mut dyn GpuDriver, calls: impl IntoIterator<Item = &'a Bound>) -> Result<GraphId, GpuError> {
    let overlaps = driver.facts().overlaps();
    driver.begin_capture()?;
    let launched = calls.into_iter().enumerate().try_for_each(|(i, call)| call.launch(driver, overlaps && i > 0));
    let graph = driver.end_capture();
    launched.and(graph)
}

impl Machine for Gpu {
    fn run(&mut self, program: usize, tokens: &[u32], past: u32, head: bool) -> Result<(), RunError> {
        self.upload(program, tokens, past)?;
        Ok(self.replay(program, if head { Part::Head } else { Part::Body })?)
    }

    fn row(&mut self, program: usize, t: usize) -> Result<&[f32], RunError> {
        let plan = self.artifact.plan();
        let at = self.memory.arena + plan.programs[program].logits_at(t);
        self.logits.resize(plan.model.vocab as usize, 0.0);
        self.driver.download(at, bytemuck::cast_slice_mut(&mut self.logits))?;
        Ok(&self.logits)
    }

    fn decode(
        &mut self,
        token: u32,
        past: u32,
        steps: u32,
        how: Decode<'_>,
        entries: &mut Vec<u32>,
    ) -> Result<bool, RunError> {
        let part = if let Decode::Likeliest = how { Part::Next } else { Part::Sampled };
        if self.steps[0].parts[part as usize].is_empty() {
            return Ok(false);
        }
        if let Decode::Sampled(to, draws) = how {
            self.upload_sampling(to, draws, past)?;
        }
        self.upload(0, &[token], past)?;
        for _ in 0..steps {
            self.replay(0, part)?;
        }
        let made = entries.len();
        entries.resize(made + steps as usize, 0);
        let at = self.memory.history + (u64::from(past) + 1) * 4;
        self.driver.download(at, bytemuck::cast_slice_mut(&mut entries[made..]))?;
        Ok(true)
    }

    fn times(&self, program: usize) -> Option<&[u64]> {
        self.profile.then_some(&self.steps[program].times[..])
    }

    fn threads(&self) -> usize {
        1
    }

    fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }

    fn arena_bytes(&self) -> u64 {
        self.artifact.plan().arena_bytes()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn device(&self) -> Option<&DeviceFacts> {
        Some(self.driver.facts())
    }
}
