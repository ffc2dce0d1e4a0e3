//! Binding: a program's calls with real addresses, made once for a session.

use super::inputs::Inputs;
use super::memory::Block;
use crate::artifact::Artifact;
use crate::error::{ArtifactError, RunError};
use crate::kv::KvCache;
use crate::loader::Kernels;
use crate::plan::{Arg, Program, ScalarArg};
use crate::workers::{CallList, Step};

/// What the arguments of calls point into.
pub(super) struct Regions<'a> {
    pub(super) artifact: &'a Artifact,
    pub(super) kernels: &'a Kernels,
    pub(super) arena: &'a Block,
    pub(super) kv: &'a KvCache,
    pub(super) inputs: &'a Inputs,
    pub(super) capacity: u64,
}

/// A program's arguments; its call list points into them.
pub(super) struct Bound {
    /// Pointers of all calls. Held for the call list.
    _args: Block,
    /// Scalars of all calls.
    scalars: Block,
    /// Indices of scalars that follow each run.
    tokens: Vec<u32>,
    past: Vec<u32>,
}

impl Bound {
    /// Binds all calls of a validated program.
    pub(super) fn new(program: &Program, regions: &Regions<'_>) -> Result<(Bound, CallList), RunError> {
        let count = |f: fn(&crate::plan::Call) -> usize| program.calls.iter().map(f).sum::<usize>() as u64;
        let args = Block::new("arguments", count(|c| c.args.len()) * size_of::<*mut u8>() as u64, false)?;
        let scalars = Block::new("arguments", count(|c| c.scalars.len()) * 8, false)?;
        let mut bound = Bound { _args: args, scalars, tokens: Vec::new(), past: Vec::new() };
        let (mut next_arg, mut next_scalar) = (0u64, 0u64);
        let mut steps = Vec::with_capacity(program.calls.len());
        for call in &program.calls {
            let name = &regions.artifact.plan().kernels[call.kernel as usize];
            let Some(kernel) = regions.kernels.get(name) else {
                return Err(ArtifactError::rejected(crate::artifact::KERNELS, format!("no kernel {name}")).into());
            };
            let args = bound._args.at(next_arg * 8).cast::<*mut u8>();
            let scalars = bound.scalars.at(next_scalar * 8).cast::<i64>();
            for (i, arg) in call.args.iter().enumerate() {
                // SAFETY: the block has room for the pointers of all calls, and pages are aligned.
                unsafe { args.add(i).write(regions.address(*arg)) };
            }
            for (i, scalar) in call.scalars.iter().enumerate() {
                let index = next_scalar as u32 + i as u32;
                let value = match *scalar {
                    ScalarArg::Const(value) => value,
                    ScalarArg::Capacity => regions.capacity as i64,
                    ScalarArg::Tokens => {
                        bound.tokens.push(index);
                        0
                    }
                    ScalarArg::Past => {
                        bound.past.push(index);
                        0
                    }
                };
                // SAFETY: the block has room for the scalars of all calls, and pages are aligned.
                unsafe { scalars.add(i).write(value) };
            }
            steps.push(Step { kernel, args, scalars, chunks: call.chunks });
            next_arg += call.args.len() as u64;
            next_scalar += call.scalars.len() as u64;
        }
        Ok((bound, CallList::new(steps, program.head_start as usize)))
    }

    /// Sets the scalars of the next run. No run may be under way.
    pub(super) fn set(&mut self, tokens: u32, past: u32) {
        let base = self.scalars.at(0).cast::<i64>();
        for (indices, value) in [(&self.tokens, tokens), (&self.past, past)] {
            for index in indices {
                // SAFETY: indices were counted while the block was filled; `&mut self` and the pool's promise that no
                // worker touches anything after a run make this the only access.
                unsafe { base.add(*index as usize).write(value.into()) };
            }
        }
    }
}

impl Regions<'_> {
    fn address(&self, arg: Arg) -> *mut u8 {
        match arg {
            // Kernels only read weights: the mapping is read-only and a write would fault.
            Arg::Weights(offset) => self.artifact.weights()[offset as usize..].as_ptr().cast_mut(),
            Arg::Arena(offset) => self.arena.at(offset),
            Arg::K(layer) => self.kv.k(layer),
            Arg::V(layer) => self.kv.v(layer),
            Arg::Tokens => self.inputs.tokens(),
            Arg::Rope(table) => self.inputs.rope(table),
            Arg::RopeAll(_) | Arg::State | Arg::History | Arg::Sampling | Arg::Draws | Arg::Counters(_) => {
                unreachable!("a plan for a CPU has none: checked when it was opened")
            }
        }
    }
}
