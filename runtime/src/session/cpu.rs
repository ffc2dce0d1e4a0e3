//! The CPU as a machine: workers, and the memory that kernels work on.

use super::bind::{Bound, Regions};
use super::inputs::Inputs;
use super::machine::Machine;
use super::memory::{self, Block};
use super::{SessionOptions, check_fit};
use crate::artifact::Artifact;
use crate::cuda::DeviceFacts;
use crate::error::{ArtifactError, RunError};
use crate::kv::{self, KvCache};
use crate::plan::{Plan, RopeTable};
use crate::workers::Pool;
use std::sync::Arc;

/// Workers with a plan bound to memory.
pub(super) struct Cpu {
    // First: dropping it ends the workers before the memory goes.
    pool: Pool,
    bound: Vec<Bound>,
    inputs: Inputs,
    arena: Block,
    kv: KvCache,
    /// Holds weights and code, and the plan.
    artifact: Arc<Artifact>,
}

impl Cpu {
    /// Reserves memory and starts workers. What cannot fit is refused before anything is reserved.
    pub(super) fn new(artifact: Arc<Artifact>, ctx: u32, options: SessionOptions) -> Result<Cpu, RunError> {
        let plan = artifact.plan();
        let Some(kernels) = artifact.kernels() else {
            return Err(ArtifactError::rejected(crate::artifact::KERNELS, "it has no kernels for a CPU").into());
        };
        let arena_bytes = plan.arena_bytes();
        // The file's pages still have to be taken, a copy of them is.
        let weights = if artifact.weights_copied() { 0 } else { plan.weights_bytes };
        let fixed = weights.saturating_add(arena_bytes).saturating_add(Inputs::bytes_for(plan));
        if let Some(available) = memory::available() {
            check_fit(|ctx| KvCache::bytes_for(&plan.kv, ctx)?.checked_add(fixed), ctx, plan.model.n_ctx, available)?;
        }
        let arena = Block::new("the arena", arena_bytes, true)?;
        let kv = KvCache::new(&plan.kv, ctx)?;
        let inputs = Inputs::new(plan)?;
        let capacity = kv::capacity(ctx);
        let regions = Regions { artifact: &artifact, kernels, arena: &arena, kv: &kv, inputs: &inputs, capacity };
        let mut bound = Vec::new();
        let mut lists = Vec::new();
        for program in &plan.programs {
            let (b, list) = Bound::new(program, &regions)?;
            bound.push(b);
            lists.push(list);
        }
        let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let pool = Pool::new(threads, lists, options.profile)?;
        Ok(Cpu { pool, bound, inputs, arena, kv, artifact })
    }
}

impl Machine for Cpu {
    fn run(&mut self, program: usize, tokens: &[u32], past: u32, head: bool) -> Result<(), RunError> {
        let rope: &[RopeTable] = &self.artifact.plan().rope;
        self.inputs.fill(rope, tokens, past);
        self.bound[program].set(tokens.len() as u32, past);
        // SAFETY: kernels, pointers and scalars were bound to memory that this machine owns or shares read-only, and
        // `&mut self` keeps everyone else away. That kernels stay inside their buffers is the artifact's promise.
        unsafe { self.pool.run(program, head) };
        Ok(())
    }

    fn row(&mut self, program: usize, t: usize) -> Result<&[f32], RunError> {
        let plan: &Plan = self.artifact.plan();
        let address = self.arena.at(plan.programs[program].logits_at(t)).cast::<f32>();
        // SAFETY: validation puts `max_tokens` rows inside the arena on 4 bytes; no run is under way.
        Ok(unsafe { std::slice::from_raw_parts(address, plan.model.vocab as usize) })
    }

    fn times(&self, program: usize) -> Option<&[u64]> {
        self.pool.times(program)
    }

    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn kv_bytes(&self) -> u64 {
        self.kv.bytes()
    }

    fn arena_bytes(&self) -> u64 {
        self.arena.bytes()
    }

    fn device(&self) -> Option<&DeviceFacts> {
        None
    }
}
