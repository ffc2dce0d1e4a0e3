//! A session: one conversation with an artifact, on a CPU or a GPU (`machine`).
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
mod cpu;
mod inputs;
mod machine;
mod memory;

use std::sync::Arc;

use cpu::Cpu;
pub(crate) use inputs::fill_row;
pub(crate) use machine::{Decode, Machine};
pub(crate) use memory::{Block, available as available_memory};

use crate::artifact::Artifact;
use crate::cuda::{self, DeviceFacts, Gpu, GpuDriver};
use crate::error::RunError;
use crate::plan::Program;
use crate::sampler::Sampler;

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
    /// How often it ran: calls of the head only in runs that wanted logits.
    pub runs: u64,
}

/// Tokens that a decode makes before it looks at them, at most. Looking costs a GPU some microseconds in which it idles.
const LOOK: usize = 8;

/// One conversation.
pub struct Session {
    machine: Box<dyn Machine>,
    /// Of each program, and how many of them with the head.
    runs: Vec<(u64, u64)>,
    gathered: Vec<f32>,
    artifact: Arc<Artifact>,
    capacity: u32,
    position: u32,
}

impl Session {
    /// Reserves memory on the CPU or GPU that the artifact is for. What cannot fit is refused before anything is reserved.
    ///
    /// An artifact for a GPU wants one: nothing else runs in its place.
    pub fn new(artifact: Arc<Artifact>, options: SessionOptions) -> Result<Session, RunError> {
        let ctx = context(&artifact, options)?;
        if artifact.gpu_kernels().is_some() {
            return Session::with_driver(artifact, cuda::open()?, options);
        }
        let machine = Box::new(Cpu::new(artifact.clone(), ctx, options)?);
        Ok(Session::on(machine, artifact, ctx))
    }

    /// A session on a GPU of the caller's choice, real or emulated.
    pub fn with_driver(
        artifact: Arc<Artifact>,
        driver: Box<dyn GpuDriver>,
        options: SessionOptions,
    ) -> Result<Session, RunError> {
        let ctx = context(&artifact, options)?;
        let machine = Box::new(Gpu::new(artifact.clone(), driver, ctx, options.profile)?);
        Ok(Session::on(machine, artifact, ctx))
    }

    fn on(machine: Box<dyn Machine>, artifact: Arc<Artifact>, capacity: u32) -> Session {
        let runs = vec![(0, 0); artifact.plan().programs.len()];
        Session { machine, runs, gathered: Vec::new(), artifact, capacity, position: 0 }
    }

    /// Runs `tokens` at the current position and moves it on. The answer has as many rows of `vocab` logits as asked for.
    ///
    /// For [`Logits::All`] on long inputs use [`Session::eval_each`], which does not gather the rows.
    pub fn eval(&mut self, tokens: &[u32], logits: Logits) -> Result<&[f32], RunError> {
        self.check(tokens)?;
        match logits {
            Logits::None => {
                self.run_body(tokens)?;
                Ok(&[])
            }
            Logits::Last => {
                let (last, body) = tokens.split_last().ok_or(RunError::NoTokens)?;
                self.run_body(body)?;
                self.run(0, std::slice::from_ref(last), true)?;
                let position = self.position - 1;
                checked_row(self.machine.row(0, 0)?, position)
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
            self.run(index, now, true)?;
            for (position, t) in (first..).zip(0..now.len()) {
                each(position, checked_row(self.machine.row(index, t)?, position)?);
            }
            rest = later;
        }
        Ok(())
    }

    /// [`Session::decode`] of the likeliest tokens, of equal ones the lowest.
    pub fn decode_greedy(&mut self, token: u32, most: usize, each: impl FnMut(u32) -> bool) -> Result<(), RunError> {
        self.decode(token, most, &mut Sampler::greedy(), each)
    }

    /// Runs `token` and then, over and over, the next one that `sampler` chooses, which `each` is given first. Ends after `most`
    /// of them, when the context is full, or when `each` says false.
    ///
    /// The last token given has not been run: it is the next to come, at [`Session::position`]. A GPU makes some tokens before
    /// it hands them out, and goes from one step to the next without the host, where it can do what the sampler does: see
    /// [`SamplerParams::on_device`](crate::sampler::SamplerParams::on_device). All others choose here, but for those with
    /// penalties, for which tokens before would have to be known.
    pub fn decode(
        &mut self,
        token: u32,
        most: usize,
        sampler: &mut Sampler,
        mut each: impl FnMut(u32) -> bool,
    ) -> Result<(), RunError> {
        self.check(&[token])?;
        if sampler.params().looks_back() {
            return Err(RunError::LooksBack);
        }
        let most = most.min((self.capacity - self.position) as usize);
        let (greedy, on_device) = (sampler.params().is_greedy(), sampler.params().on_device());
        let (mut token, mut done, mut entries) = (token, 0, Vec::new());
        while done < most {
            // The first comes at once, as with any other way to sample.
            let steps = done.clamp(1, LOOK).min(most - done);
            let first = self.position;
            entries.clear();
            let draws = sampler.draws(steps);
            let how = if greedy { Some(Decode::Likeliest) } else { on_device.map(|to| Decode::Sampled(to, &draws)) };
            let by_machine = match how {
                Some(how) => self.machine.decode(token, first, steps as u32, how, &mut entries)?,
                None => false,
            };
            if by_machine {
                self.ran(0, steps as u64, true);
            } else {
                let mut logits = self.eval(&[token], Logits::Last)?.to_vec();
                self.position = first + 1;
                token = sampler.sample(&mut logits, &[])?;
                done += 1;
                if !each(token) {
                    return Ok(());
                }
            }
            for (entry, position) in entries.iter().zip(first + 1..) {
                self.position = position;
                token = sampler.take(*entry)?;
                done += 1;
                if !each(token) {
                    return Ok(());
                }
            }
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
        self.machine.threads()
    }

    /// Bytes reserved for the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        self.machine.kv_bytes()
    }

    /// Bytes reserved for activations.
    pub fn arena_bytes(&self) -> u64 {
        self.machine.arena_bytes()
    }

    /// The GPU it runs on, if it is one.
    pub fn device(&self) -> Option<&DeviceFacts> {
        self.machine.device()
    }

    /// What the user should know of how it started, a sentence each: machine code that was not taken.
    pub fn notes(&self) -> &[String] {
        self.machine.notes()
    }

    /// The artifact.
    pub fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    /// Time of every call of every program that ran; empty unless [`SessionOptions::profile`] was set.
    pub fn profile(&self) -> Vec<CallTime> {
        let mut out = Vec::new();
        for (index, program) in self.artifact.plan().programs.iter().enumerate().filter(|(i, _)| self.runs[*i].0 > 0) {
            let (all, with_head) = self.runs[index];
            let times = self.machine.times(index).unwrap_or_default();
            for (i, (call, nanos)) in program.calls.iter().zip(times).enumerate() {
                let runs = if i < program.head_start as usize { all } else { with_head };
                let label = call.label.clone();
                out.push(CallTime { max_tokens: program.max_tokens, label, nanos: *nanos, runs });
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

    fn run_body(&mut self, mut tokens: &[u32]) -> Result<(), RunError> {
        while !tokens.is_empty() {
            let index = self.choose(tokens.len(), |_| true);
            let (now, later) = tokens.split_at(tokens.len().min(self.width(index)));
            self.run(index, now, false)?;
            tokens = later;
        }
        Ok(())
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

    fn run(&mut self, index: usize, tokens: &[u32], head: bool) -> Result<(), RunError> {
        debug_assert!((1..=self.width(index)).contains(&tokens.len()));
        self.machine.run(index, tokens, self.position, head)?;
        self.ran(index, 1, head);
        self.position += tokens.len() as u32;
        Ok(())
    }

    fn ran(&mut self, index: usize, times: u64, head: bool) {
        let (all, with_head) = &mut self.runs[index];
        *all += times;
        *with_head += if head { times } else { 0 };
    }
}

/// The context that the options ask for, if the model has it.
fn context(artifact: &Artifact, options: SessionOptions) -> Result<u32, RunError> {
    let max = artifact.plan().model.n_ctx;
    let ctx = options.ctx.unwrap_or(max.min(DEFAULT_CTX));
    if (1..=max).contains(&ctx) { Ok(ctx) } else { Err(RunError::BadContext { ctx, max }) }
}

fn checked_row(row: &[f32], position: u32) -> Result<&[f32], RunError> {
    // Ends at the first number.
    if row.iter().all(|x| x.is_nan()) { Err(RunError::Numerical { position }) } else { Ok(row) }
}

/// Refuses a context that needs more than `available`, and finds the largest that does not.
pub(crate) fn check_fit(need: impl Fn(u32) -> Option<u64>, ctx: u32, max: u32, available: u64) -> Result<(), RunError> {
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
