//! A session: one conversation with an artifact. It owns the arena, the KV cache and the workers.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use tilewright_runtime::{artifact::Artifact, session::{Logits, Session, SessionOptions}};
//! let artifact = Arc::new(Artifact::open("smollm2.tw")?);
//! let mut session = Session::new(artifact, SessionOptions::default())?;
//! let logits = session.eval(&[1, 4093, 198], Logits::Last)?;
//! # Ok::<(), tilewright_runtime::error::RunError>(())
//! ```

mod bind;
mod inputs;
mod memory;

use std::sync::Arc;

use bind::{Bound, Regions};
use inputs::Inputs;
pub(crate) use memory::{Block, available as available_memory};

use crate::artifact::Artifact;
use crate::error::RunError;
use crate::kv::{self, KvCache};
use crate::plan::Program;
use crate::workers::Pool;

/// Context when none is asked for, unless the model was trained for less.
pub const DEFAULT_CTX: u32 = 4096;

/// How to run an artifact.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionOptions {
    /// Positions of the KV cache; `None` for [`DEFAULT_CTX`].
    pub ctx: Option<u32>,
    /// Threads; `None` for as many as there are cores.
    pub threads: Option<usize>,
    /// Whether to time each call, for [`Session::profile`].
    pub profile: bool,
}

/// Which logits [`Session::eval`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: the tokens only go into the cache.
    None,
    /// Those after the last token.
    Last,
    /// Those after each token.
    All,
}

/// Time of one call over all runs of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct CallTime {
    /// `max_tokens` of the program.
    pub max_tokens: u32,
    /// The call's label.
    pub label: String,
    /// Nanoseconds over all runs, waiting included.
    pub nanos: u64,
    /// Number of runs of the program; calls of the head ran in those that wanted logits.
    pub runs: u64,
}

/// One conversation.
pub struct Session {
    // First: dropping it ends the workers before the memory goes.
    pool: Pool,
    bound: Vec<Bound>,
    runs: Vec<u64>,
    inputs: Inputs,
    arena: Block,
    kv: KvCache,
    gathered: Vec<f32>,
    artifact: Arc<Artifact>,
    capacity: u32,
    position: u32,
}

impl Session {
    /// Reserves memory and starts workers. What cannot fit is refused before anything is reserved.
    pub fn new(artifact: Arc<Artifact>, options: SessionOptions) -> Result<Session, RunError> {
        let plan = artifact.plan();
        let ctx = options.ctx.unwrap_or(plan.model.n_ctx.min(DEFAULT_CTX));
        if !(1..=plan.model.n_ctx).contains(&ctx) {
            return Err(RunError::BadContext { ctx, max: plan.model.n_ctx });
        }
        let arena_bytes = plan.programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0);
        // The file's pages still have to be taken, a copy of them is.
        let weights = if artifact.weights_copied() { 0 } else { plan.weights_bytes };
        let fixed = weights.saturating_add(arena_bytes).saturating_add(Inputs::bytes_for(plan));
        if let Some(available) = memory::available() {
            check_fit(|ctx| KvCache::bytes_for(&plan.kv, ctx)?.checked_add(fixed), ctx, plan.model.n_ctx, available)?;
        }
        let arena = Block::new("the arena", arena_bytes, true)?;
        let kv = KvCache::new(&plan.kv, ctx)?;
        let inputs = Inputs::new(plan)?;
        let regions =
            Regions { artifact: &artifact, arena: &arena, kv: &kv, inputs: &inputs, capacity: kv::capacity(ctx) };
        let mut bound = Vec::new();
        let mut lists = Vec::new();
        for program in &plan.programs {
            let (b, list) = Bound::new(program, &regions)?;
            bound.push(b);
            lists.push(list);
        }
        let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let pool = Pool::new(threads, lists, options.profile)?;
        let runs = vec![0; bound.len()];
        Ok(Session { pool, bound, runs, inputs, arena, kv, gathered: Vec::new(), artifact, capacity: ctx, position: 0 })
    }

    /// Runs `tokens` at the current position and moves it on. The answer has as many rows of `vocab` logits as asked for.
    ///
    /// For [`Logits::All`] on long inputs use [`Session::eval_each`], which does not gather the rows.
    pub fn eval(&mut self, tokens: &[u32], logits: Logits) -> Result<&[f32], RunError> {
        self.check(tokens)?;
        match logits {
            Logits::None => {
                self.run_body(tokens);
                Ok(&[])
            }
            Logits::Last => {
                let (last, body) = tokens.split_last().ok_or(RunError::NoTokens)?;
                self.run_body(body);
                self.run(0, std::slice::from_ref(last), true);
                let position = self.position - 1;
                checked_row(self.row(0, 0), position)
            }
            Logits::All => {
                let mut gathered = std::mem::take(&mut self.gathered);
                gathered.clear();
                let result = self.eval_each(tokens, |_, row| gathered.extend_from_slice(row));
                self.gathered = gathered;
                result.map(|()| self.gathered.as_slice())
            }
        }
    }

    /// Runs `tokens` and gives `each` the position of each token and the logits after it.
    pub fn eval_each(&mut self, tokens: &[u32], mut each: impl FnMut(u32, &[f32])) -> Result<(), RunError> {
        self.check(tokens)?;
        if tokens.is_empty() {
            return Err(RunError::NoTokens);
        }
        let mut rest = tokens;
        while !rest.is_empty() {
            let index = self.choose(rest.len(), Program::has_head);
            let (now, later) = rest.split_at(rest.len().min(self.width(index)));
            let first = self.position;
            self.run(index, now, true);
            for (position, t) in (first..).zip(0..now.len()) {
                each(position, checked_row(self.row(index, t), position)?);
            }
            rest = later;
        }
        Ok(())
    }

    /// Positions in the cache: where the next token goes.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Forgets all positions from `position` on.
    pub fn truncate(&mut self, position: u32) {
        self.position = self.position.min(position);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.position = 0;
    }

    /// Positions there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Threads that run kernels, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes reserved for the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        self.kv.bytes()
    }

    /// Bytes reserved for activations.
    pub fn arena_bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// The artifact.
    pub fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    /// Time of every call of every program that ran; empty unless [`SessionOptions::profile`] was set.
    pub fn profile(&self) -> Vec<CallTime> {
        let mut out = Vec::new();
        for (index, program) in self.artifact.plan().programs.iter().enumerate().filter(|(i, _)| self.runs[*i] > 0) {
            for (call, nanos) in program.calls.iter().zip(self.pool.times(index).unwrap_or_default()) {
                let label = call.label.clone();
                out.push(CallTime { max_tokens: program.max_tokens, label, nanos: *nanos, runs: self.runs[index] });
            }
        }
        out
    }

    fn check(&self, tokens: &[u32]) -> Result<(), RunError> {
        if tokens.len() > (self.capacity - self.position) as usize {
            let (position, capacity) = (self.position, self.capacity);
            return Err(RunError::ContextFull { tokens: tokens.len(), position, capacity });
        }
        let vocab = self.artifact.plan().model.vocab;
        match tokens.iter().position(|t| *t >= vocab) {
            Some(index) => Err(RunError::BadToken { token: tokens[index], index, vocab }),
            None => Ok(()),
        }
    }

    fn run_body(&mut self, mut tokens: &[u32]) {
        while !tokens.is_empty() {
            let index = self.choose(tokens.len(), |_| true);
            let (now, later) = tokens.split_at(tokens.len().min(self.width(index)));
            self.run(index, now, false);
            tokens = later;
        }
    }

    /// The narrowest usable program that takes `tokens` at once, else the widest. The first is always usable.
    fn choose(&self, tokens: usize, usable: impl Fn(&Program) -> bool) -> usize {
        let mut choice = 0;
        for (index, program) in self.artifact.plan().programs.iter().enumerate().filter(|(_, p)| usable(p)) {
            choice = index;
            if program.max_tokens as usize >= tokens {
                break;
            }
        }
        choice
    }

    fn width(&self, program: usize) -> usize {
        self.artifact.plan().programs[program].max_tokens as usize
    }

    fn run(&mut self, index: usize, tokens: &[u32], head: bool) {
        debug_assert!((1..=self.width(index)).contains(&tokens.len()));
        let past = self.position;
        self.inputs.fill(&self.artifact.plan().rope, tokens, past);
        self.bound[index].set(tokens.len() as u32, past);
        // SAFETY: kernels, pointers and scalars were bound to memory that this session owns or shares read-only, and
        // `&mut self` keeps everyone else away. That kernels stay inside their buffers is the artifact's promise.
        unsafe { self.pool.run(index, head) };
        self.runs[index] += 1;
        self.position += tokens.len() as u32;
    }

    /// Row `t` of a program's logits.
    fn row(&self, index: usize, t: usize) -> &[f32] {
        let plan = self.artifact.plan();
        let program = &plan.programs[index];
        assert!(t < program.max_tokens as usize);
        let address = self.arena.at(program.logits + t as u64 * program.logits_stride).cast::<f32>();
        // SAFETY: validation puts `max_tokens` rows inside the arena on 4 bytes; no run is under way.
        unsafe { std::slice::from_raw_parts(address, plan.model.vocab as usize) }
    }
}

fn checked_row(row: &[f32], position: u32) -> Result<&[f32], RunError> {
    // Ends at the first number.
    if row.iter().all(|x| x.is_nan()) { Err(RunError::Numerical { position }) } else { Ok(row) }
}

/// Refuses a context that needs more than `available`, and finds the largest that does not.
fn check_fit(need: impl Fn(u32) -> Option<u64>, ctx: u32, max: u32, available: u64) -> Result<(), RunError> {
    let fits = |ctx| need(ctx).is_some_and(|n| n <= available);
    if fits(ctx) {
        return Ok(());
    }
    let (mut low, mut high) = (0, max);
    while low < high {
        let middle = high - (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Err(RunError::OutOfMemory { ctx, need: need(ctx).unwrap_or(u64::MAX), available, largest: low })
}
