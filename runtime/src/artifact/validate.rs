//! Rules that a plan must obey before anything runs. Generated code cannot check its arguments, so this is the only
//! check there is.
//!
//! - Programs: at least one, `max_tokens` rising from 1 to at most 65,536; the first has a head.
//! - Kernels: every name is a symbol of the object; a call's index is inside the list.
//! - Launches (GPU): one for each kernel; 1 to 1024 threads.
//! - Calls: 1 to [`MAX_CHUNKS`] chunks (on a GPU 2^24 blocks), at most 64 pointers and 64 scalars, at most 2^20 calls a program.
//! - Arguments: offsets start inside the weights or the program's arena; K, V and rope indices exist.
//! - Head: `head_start` is inside the calls; where there is a head, the logits of `max_tokens` rows lie inside the arena
//!   on 4 bytes, at least a row apart.
//!   Only on a GPU: a call that prepares the next step, in programs that have a head.
//! - Model: 1 to 2^24 token ids, context of 1 to 2^24; caches have 1 to 2^20 elements a position.
//! - Rope tables: at most 4096 finite frequencies and a finite scale.
//! - Sizes: arena at most 64 GiB, weights as long as the file (checked by [`super::Artifact::open`]).
//!
//! How far a kernel reaches from a pointer is not in the plan and is not checked.

use thiserror::Error;

use crate::plan::{Arg, Call, Plan, Program};

/// Most chunks of a call: the workers count them in 16 bits.
pub const MAX_CHUNKS: u32 = 0xfffe;

/// Most blocks of a call on a GPU.
const MAX_BLOCKS: u32 = 1 << 24;
const MAX_THREADS: u32 = 1024;
const MAX_TOKENS: u32 = 1 << 16;
const MAX_CALLS: usize = 1 << 20;
const MAX_ARGS: usize = 64;
const MAX_ARENA: u64 = 64 << 30;
const MAX_MODEL: u32 = 1 << 24;
const MAX_KV_WIDTH: u64 = 1 << 20;
const MAX_ROPE: usize = 4096;

/// A rule that a plan breaks; the compiler's fault, or the file is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {what}")]
pub struct PlanError {
    /// Where: `program 0 call 17 (blk.3 ffn)`.
    pub place: String,
    /// Which rule.
    pub what: String,
}

fn fail<T>(place: impl Into<String>, what: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError { place: place.into(), what: what.into() })
}

impl Plan {
    /// Checks all rules of this module. `has_symbol` tells whether the object defines a kernel of that name.
    pub fn validate(&self, has_symbol: impl Fn(&str) -> bool) -> Result<(), PlanError> {
        self.validate_facts()?;
        if let Some(name) = self.kernels.iter().find(|name| !has_symbol(name)) {
            return fail("kernels", format!("{name:?} is not in the object"));
        }
        if !self.launches.is_empty() && self.launches.len() != self.kernels.len() {
            return fail("launches", format!("{} for {} kernels", self.launches.len(), self.kernels.len()));
        }
        if let Some((i, launch)) =
            self.launches.iter().enumerate().find(|(_, l)| !(1..=MAX_THREADS).contains(&l.threads))
        {
            return fail(format!("launch {i}"), format!("{} threads are not in 1..={MAX_THREADS}", launch.threads));
        }
        if self.programs.first().is_none_or(|p| p.max_tokens != 1 || !p.has_head()) {
            return fail("programs", "the first must be for one token and have a head");
        }
        if let Some(pair) = self.programs.windows(2).find(|pair| pair[0].max_tokens >= pair[1].max_tokens) {
            return fail("programs", format!("max_tokens {} is not above the one before", pair[1].max_tokens));
        }
        for (index, program) in self.programs.iter().enumerate() {
            self.validate_program(index, program)?;
        }
        Ok(())
    }

    fn validate_facts(&self) -> Result<(), PlanError> {
        let model = &self.model;
        for (name, value) in [("vocab", model.vocab), ("n_ctx", model.n_ctx)] {
            if !(1..=MAX_MODEL).contains(&value) {
                return fail("model", format!("{name} {value} is not in 1..={MAX_MODEL}"));
            }
        }
        for (i, layer) in self.kv.iter().enumerate() {
            let width = u64::from(layer.heads) * u64::from(layer.head_dim);
            if !(1..=MAX_KV_WIDTH).contains(&width) {
                return fail(format!("kv {i}"), format!("{width} elements a position are not in 1..={MAX_KV_WIDTH}"));
            }
        }
        for (i, table) in self.rope.iter().enumerate() {
            if table.inv_freq.len() > MAX_ROPE
                || !table.scale.is_finite()
                || !table.inv_freq.iter().all(|f| f.is_finite())
            {
                return fail(
                    format!("rope {i}"),
                    format!("needs a finite scale and at most {MAX_ROPE} finite frequencies"),
                );
            }
        }
        Ok(())
    }

    fn validate_program(&self, index: usize, program: &Program) -> Result<(), PlanError> {
        let place = format!("program {index}");
        if program.max_tokens > MAX_TOKENS {
            return fail(place, format!("max_tokens {} is above {MAX_TOKENS}", program.max_tokens));
        }
        if program.arena_bytes > MAX_ARENA {
            return fail(place, format!("arena of {} bytes is above {MAX_ARENA}", program.arena_bytes));
        }
        if program.calls.len() > MAX_CALLS || program.head_start as usize > program.calls.len() {
            return fail(place, format!("head_start {} of {} calls", program.head_start, program.calls.len()));
        }
        let (row, stride) = (u64::from(self.model.vocab) * 4, program.logits_stride);
        let last = stride.checked_mul(u64::from(program.max_tokens.saturating_sub(1)));
        let end = last.and_then(|last| last.checked_add(program.logits)?.checked_add(row));
        let aligned = program.logits.is_multiple_of(4) && stride.is_multiple_of(4);
        if program.has_head() && (!aligned || stride < row || end.is_none_or(|end| end > program.arena_bytes)) {
            let (at, arena) = (program.logits, program.arena_bytes);
            return fail(place, format!("logits at {at}, {stride} bytes apart, do not fit in {arena} bytes"));
        }
        if program.following().next().is_some() && !(self.is_gpu() && program.has_head()) {
            return fail(place, "it prepares the next step, which only one with a head on a GPU can");
        }
        for (i, call) in program.calls.iter().chain(program.following()).enumerate() {
            if let Err(what) = self.check_call(program, call) {
                return fail(format!("program {index} call {i} ({})", call.label), what);
            }
        }
        Ok(())
    }

    fn check_call(&self, program: &Program, call: &Call) -> Result<(), String> {
        if call.kernel as usize >= self.kernels.len() {
            return Err(format!("kernel {} of {}", call.kernel, self.kernels.len()));
        }
        let most = if self.is_gpu() { MAX_BLOCKS } else { MAX_CHUNKS };
        if !(1..=most).contains(&call.chunks) {
            return Err(format!("{} chunks are not in 1..={most}", call.chunks));
        }
        if call.args.len() > MAX_ARGS || call.scalars.len() > MAX_ARGS {
            return Err(format!("more than {MAX_ARGS} arguments"));
        }
        for (i, arg) in call.args.iter().enumerate() {
            let (value, limit) = match *arg {
                Arg::Weights(offset) => (offset, self.weights_bytes),
                Arg::Arena(offset) => (offset, program.arena_bytes),
                Arg::K(layer) | Arg::V(layer) => (layer.into(), self.kv.len() as u64),
                Arg::Rope(table) => (table.into(), self.rope.len() as u64),
                Arg::Tokens => continue,
                Arg::RopeAll(_) | Arg::State | Arg::History | Arg::Sampling | Arg::Draws | Arg::Counters(_)
                    if !self.is_gpu() =>
                {
                    return Err(format!("argument {i} is {arg:?}, which only a plan for a GPU has"));
                }
                Arg::RopeAll(table) => (table.into(), self.rope.len() as u64),
                Arg::Counters(offset) => (offset, self.counters_bytes),
                Arg::State | Arg::History | Arg::Sampling | Arg::Draws => continue,
            };
            if value >= limit {
                return Err(format!("argument {i} is {arg:?}, the limit is {limit}"));
            }
        }
        Ok(())
    }
}

impl Program {
    /// Whether the program can compute logits.
    pub fn has_head(&self) -> bool {
        (self.head_start as usize) < self.calls.len()
    }
}
