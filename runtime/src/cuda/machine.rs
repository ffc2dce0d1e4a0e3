//! The GPU as a machine of a session.

use std::ops::Range;
use std::sync::Arc;

use super::bind::{Bound, Memory, bytes_for};
use super::driver::{self, DeviceFacts, GpuDriver, GraphId};
use super::error::GpuError;
use crate::artifact::Artifact;
use crate::error::RunError;
use crate::kv::KvCache;
use crate::session::{Machine, check_fit};

/// How much of a program a step does.
#[derive(Clone, Copy)]
enum Part {
    /// What fills the cache.
    Body,
    /// And logits.
    Head,
    /// And the inputs of the next step.
    Next,
}

/// A program with addresses in it.
struct Step {
    calls: Vec<Bound>,
    /// Ends of the parts.
    ends: [usize; 3],
    /// Captured when first wanted, a graph for each part.
    graphs: [Option<GraphId>; 3],
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
}

/// Logits that tell whether any is a number: usually the first is.
const PROBE: usize = 64;

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
            let program = &plan.programs[i];
            let ends = [program.head_start as usize, program.calls.len(), calls.len()];
            Step { calls, ends, graphs: [None; 3], timed: None, times: Vec::new() }
        });
        let steps = steps.collect();
        let kv_bytes = KvCache::bytes_for(&plan.kv, ctx).unwrap_or(0);
        let (notes, logits) = (note.into_iter().collect(), Vec::new());
        Ok(Gpu { driver, memory, steps, artifact, kv_bytes, profile, notes, logits })
    }

    fn upload(&mut self, program: usize, tokens: &[u32], past: u32) -> Result<(), GpuError> {
        self.memory.begin_step(&mut *self.driver, self.artifact.plan(), program, tokens, past)
    }

    /// Runs the calls up to the end of `part` on the inputs that are on the device.
    fn replay(&mut self, program: usize, part: Part) -> Result<(), GpuError> {
        let step = &mut self.steps[program];
        let calls = 0..step.ends[part as usize];
        if calls.is_empty() {
            return Ok(());
        }
        if self.profile {
            return self.replay_timed(program, calls);
        }
        let graph = match step.graphs[part as usize] {
            Some(graph) => graph,
            None => {
                let graph = capture(&mut *self.driver, &step.calls[calls])?;
                step.graphs[part as usize] = Some(graph);
                graph
            }
        };
        self.driver.replay(graph)
    }

    /// One call after another, each alone: slower in all than a step, but every call has a time.
    fn replay_timed(&mut self, program: usize, calls: Range<usize>) -> Result<(), GpuError> {
        let step = &mut self.steps[program];
        let mut graphs = step.timed.take().unwrap_or_default();
        for call in &step.calls[graphs.len()..] {
            graphs.push((capture(&mut *self.driver, std::slice::from_ref(call))?, 0));
        }
        for (graph, nanos) in &mut graphs[calls] {
            *nanos += self.driver.time(*graph)?;
        }
        step.times = graphs.iter().map(|(_, nanos)| *nanos).collect();
        step.timed = Some(graphs);
        Ok(())
    }

    /// The first `count` logits of a row.
    fn fetch(&mut self, program: usize, t: usize, count: usize) -> Result<(), GpuError> {
        let at = self.memory.arena + self.artifact.plan().programs[program].logits_at(t);
        self.logits.resize(count, 0.0);
        self.driver.download(at, bytemuck::cast_slice_mut(&mut self.logits))
    }
}

/// Records calls; each may overlap with the one before it, if the device can do that.
fn capture(driver: &mut dyn GpuDriver, calls: &[Bound]) -> Result<GraphId, GpuError> {
    let overlaps = driver.facts().overlaps();
    driver.begin_capture()?;
    let launched = calls.iter().enumerate().try_for_each(|(i, call)| call.launch(driver, overlaps && i > 0));
    let graph = driver.end_capture();
    launched.and(graph)
}

impl Machine for Gpu {
    fn run(&mut self, program: usize, tokens: &[u32], past: u32, head: bool) -> Result<(), RunError> {
        self.upload(program, tokens, past)?;
        Ok(self.replay(program, if head { Part::Head } else { Part::Body })?)
    }

    fn row(&mut self, program: usize, t: usize) -> Result<&[f32], RunError> {
        self.fetch(program, t, self.artifact.plan().model.vocab as usize)?;
        Ok(&self.logits)
    }

    fn decode(&mut self, token: u32, past: u32, steps: u32, ids: &mut Vec<u32>) -> Result<bool, RunError> {
        if self.artifact.plan().programs[0].next.is_none() || steps == 0 {
            return Ok(false);
        }
        self.upload(0, &[token], past)?;
        for _ in 0..steps {
            self.replay(0, Part::Next)?;
        }
        // The history need not have room for the last: it stands where the next step would read it.
        let mut made = vec![0u32; steps as usize];
        let (earlier, last) = made.split_at_mut(steps as usize - 1);
        if !earlier.is_empty() {
            let at = self.memory.history + (u64::from(past) + 1) * 4;
            self.driver.download(at, bytemuck::cast_slice_mut(earlier))?;
        }
        self.driver.download(self.memory.steps[0].tokens(), bytemuck::cast_slice_mut(last))?;
        let vocab = self.artifact.plan().model.vocab as usize;
        let position = past + steps - 1;
        self.fetch(0, 0, vocab.min(PROBE))?;
        if self.logits.iter().all(|x| x.is_nan()) {
            self.fetch(0, 0, vocab)?;
        }
        if self.logits.iter().all(|x| x.is_nan()) || made.iter().any(|id| *id as usize >= vocab) {
            return Err(RunError::Numerical { position });
        }
        ids.extend(made);
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
