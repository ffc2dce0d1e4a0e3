//! Device memory of a plan, and its calls with device addresses in place of offsets.
//!
//! [`Memory`] and [`Bound`] are public for whoever runs a plan without an artifact, such as benchmarks.

use std::collections::BTreeMap;

use super::driver::{FunctionId, GpuDriver, Launch};
use super::error::GpuError;
use crate::kv::KvCache;
use crate::plan::{self, Arg, Plan, Program, RopeTable, ScalarArg};
use crate::session::fill_row;

/// Regions begin on multiples of this.
const ALIGN: u64 = 256;
/// `i64[3]`: tokens, past, capacity.
const STATE_BYTES: u64 = 24;
/// [`crate::sampler::OnDevice`].
const SAMPLING_BYTES: u64 = 16;

/// Bytes of a row of a rotary table: cosines, sines.
fn row_bytes(table: &RopeTable) -> u64 {
    2 * table.inv_freq.len() as u64 * 4
}

/// What a program reads anew in each step, side by side so that it goes up in one copy: state, tokens, rotary rows.
pub(super) struct StepInputs {
    base: u64,
    tokens: u64,
    rope: Vec<u64>,
    bytes: u64,
}

impl StepInputs {
    fn layout(plan: &Plan, program: &Program) -> StepInputs {
        let most = u64::from(program.max_tokens);
        let tokens = STATE_BYTES.next_multiple_of(16);
        let mut end = tokens + most * 4;
        let place = |table: &RopeTable| {
            let at = end.next_multiple_of(16);
            end = at + most * row_bytes(table);
            at
        };
        let rope = plan.rope.iter().map(place).collect();
        StepInputs { base: 0, tokens, rope, bytes: end }
    }

    /// Address of the token ids.
    pub(super) fn tokens(&self) -> u64 {
        self.base + self.tokens
    }

    /// Puts the inputs of a step on the device.
    pub(super) fn upload(
        &self,
        driver: &mut dyn GpuDriver,
        host: &mut Vec<u8>,
        tables: &[RopeTable],
        step: (&[u32], u32, u64),
    ) -> Result<(), GpuError> {
        let (tokens, past, capacity) = step;
        host.clear();
        host.resize(self.bytes as usize, 0);
        for (i, value) in [tokens.len() as u64, past.into(), capacity].iter().enumerate() {
            host[8 * i..8 * i + 8].copy_from_slice(&value.to_le_bytes());
        }
        let at = self.tokens as usize;
        for (bytes, token) in host[at..].chunks_exact_mut(4).zip(tokens) {
            bytes.copy_from_slice(&token.to_le_bytes());
        }
        for (table, at) in tables.iter().zip(&self.rope) {
            write_rows(table, past, tokens.len(), &mut host[*at as usize..]);
        }
        driver.upload(self.base, host)
    }
}

/// `count` rows of a rotary table from `position` on.
fn write_rows(table: &RopeTable, position: u32, count: usize, out: &mut [u8]) {
    let width = row_bytes(table) as usize;
    if width == 0 {
        return;
    }
    let mut row = vec![0f32; width / 4];
    for (position, bytes) in (position..).zip(out.chunks_exact_mut(width).take(count)) {
        fill_row(table, position, &mut row);
        bytes.copy_from_slice(bytemuck::cast_slice(&row));
    }
}

/// Sizes of everything that a session keeps on a device.
struct Sizes {
    /// All but the cache and what else grows with the context.
    fixed: u64,
    plan_steps: Vec<StepInputs>,
    counters: u64,
    constants: Vec<i64>,
    /// Which rotary tables are read whole.
    whole: Vec<bool>,
}

fn calls(plan: &Plan) -> impl Iterator<Item = &plan::Call> {
    plan.programs.iter().flat_map(|p| p.calls.iter().chain(p.following()))
}

fn sizes(plan: &Plan) -> Sizes {
    let plan_steps: Vec<StepInputs> = plan.programs.iter().map(|p| StepInputs::layout(plan, p)).collect();
    let constant = |s: &ScalarArg| if let ScalarArg::Const(value) = s { Some(*value) } else { None };
    let mut constants: Vec<i64> = calls(plan).flat_map(|c| &c.scalars).filter_map(constant).collect();
    constants.sort_unstable();
    constants.dedup();
    let whole = |i| calls(plan).flat_map(|c| &c.args).any(|a| *a == Arg::RopeAll(i as u32));
    let whole = (0..plan.rope.len()).map(whole).collect();
    let counters = plan.counters_bytes;
    let small = plan_steps.iter().map(|s| s.bytes + ALIGN).sum::<u64>() + constants.len() as u64 * 8 + counters;
    let fixed = plan.weights_bytes.saturating_add(plan.arena_bytes()).saturating_add(small);
    Sizes { fixed, plan_steps, counters, constants, whole }
}

/// Bytes of what grows with the capacity, the cache apart: whole rotary tables, the history, and the sampler's draws. The first
/// two have a row more than the context, because the last step, too, prepares one after it.
fn growing(plan: &Plan, whole: &[bool], capacity: u64) -> u64 {
    let rows = plan.rope.iter().zip(whole).filter(|(_, whole)| **whole).map(|(t, _)| row_bytes(t)).sum::<u64>();
    (capacity + 1) * (rows + 4) + sampler_bytes(plan, capacity)
}

/// Bytes of what a device is told of a sampler, and of a draw for each position; 0 if nothing is sampled there.
fn sampler_bytes(plan: &Plan, capacity: u64) -> u64 {
    let sampled = plan.programs.iter().any(|p| p.sampled.is_some());
    if sampled { SAMPLING_BYTES + capacity * 4 } else { 0 }
}

/// Bytes that a session of a context of `ctx` takes; `None` beyond 64 bits.
pub(super) fn bytes_for(plan: &Plan, ctx: u32) -> Option<u64> {
    let sizes = sizes(plan);
    let growing = growing(plan, &sizes.whole, crate::kv::capacity(ctx));
    KvCache::bytes_for(&plan.kv, ctx)?.checked_add(sizes.fixed)?.checked_add(growing)
}

/// Addresses of everything that a plan needs on a device.
pub struct Memory {
    pub(super) capacity: u64,
    weights: u64,
    pub(super) arena: u64,
    counters: u64,
    kv: u64,
    /// Offsets of K and V of each layer.
    layers: Vec<(u64, u64)>,
    pub(super) history: u64,
    /// How a token is drawn.
    pub(super) sampling: u64,
    rope: Vec<Option<u64>>,
    constants: BTreeMap<i64, u64>,
    /// Inputs of each program.
    pub(super) steps: Vec<StepInputs>,
    /// Inputs on their way up.
    staging: Vec<u8>,
}

impl Memory {
    /// Allocates all of it for contexts of `ctx` tokens and uploads what stays: constants and rotary tables. The weights
    /// ([`Memory::weights`]) are left to the caller.
    pub fn new(driver: &mut dyn GpuDriver, plan: &Plan, ctx: u32) -> Result<Memory, GpuError> {
        let Sizes { mut plan_steps, counters, constants, whole, .. } = sizes(plan);
        let capacity = crate::kv::capacity(ctx);
        let zeroed = |driver: &mut dyn GpuDriver, what, bytes: u64| {
            let at = driver.alloc(what, bytes)?;
            if bytes > 0 {
                driver.zero(at, bytes)?;
            }
            Ok::<u64, GpuError>(at)
        };
        let filled = |driver: &mut dyn GpuDriver, what, bytes: &[u8]| {
            let at = driver.alloc(what, bytes.len() as u64)?;
            if !bytes.is_empty() {
                driver.upload(at, bytes)?;
            }
            Ok::<u64, GpuError>(at)
        };
        let on_device = driver.alloc("the weights", plan.weights_bytes)?;
        let arena = driver.alloc("the arena", plan.arena_bytes())?;
        // Kernels may multiply what lies behind the last position by zero: it must be numbers.
        let kv_bytes = KvCache::bytes_for(&plan.kv, ctx).unwrap_or(u64::MAX);
        let kv = zeroed(driver, "the KV cache", kv_bytes)?;
        let counters = zeroed(driver, "counters", counters)?;
        let history = driver.alloc("the history", (capacity + 1) * 4)?;
        let sampling = driver.alloc("the sampler", sampler_bytes(plan, capacity))?;
        for step in &mut plan_steps {
            step.base = driver.alloc("inputs of a step", step.bytes)?;
        }
        let bytes: Vec<u8> = constants.iter().flat_map(|c| c.to_le_bytes()).collect();
        let at = filled(driver, "constants", &bytes)?;
        let constants = constants.into_iter().zip((at..).step_by(8)).collect();
        let mut rope = Vec::with_capacity(whole.len());
        for (table, whole) in plan.rope.iter().zip(whole) {
            rope.push(match whole {
                false => None,
                true => {
                    let rows = capacity as usize + 1;
                    let mut bytes = vec![0; rows * row_bytes(table) as usize];
                    write_rows(table, 0, rows, &mut bytes);
                    Some(filled(driver, "rotary tables", &bytes)?)
                }
            });
        }
        let layers = KvCache::offsets(&plan.kv, ctx);
        Ok(Memory {
            capacity,
            weights: on_device,
            arena,
            counters,
            kv,
            layers,
            history,
            sampling,
            rope,
            constants,
            steps: plan_steps,
            staging: Vec::new(),
        })
    }

    /// Where the packed weights go, [`Plan::weights_bytes`] of them.
    pub fn weights(&self) -> u64 {
        self.weights
    }

    /// Where the logits of a program's first token are.
    pub fn logits(&self, plan: &Plan, program: usize) -> u64 {
        self.arena + plan.programs[program].logits_at(0)
    }

    /// Where the draws for the token after each position are.
    pub(super) fn draws(&self) -> u64 {
        self.sampling + SAMPLING_BYTES
    }

    /// Puts the inputs of a step on the device: `tokens` after `past` others.
    pub fn begin_step(
        &mut self,
        driver: &mut dyn GpuDriver,
        plan: &Plan,
        program: usize,
        tokens: &[u32],
        past: u32,
    ) -> Result<(), GpuError> {
        let step = (tokens, past, self.capacity);
        self.steps[program].upload(driver, &mut self.staging, &plan.rope, step)
    }

    fn address(&self, program: usize, arg: Arg) -> u64 {
        let step = &self.steps[program];
        match arg {
            Arg::Weights(offset) => self.weights + offset,
            Arg::Arena(offset) => self.arena + offset,
            Arg::K(layer) => self.kv + self.layers[layer as usize].0,
            Arg::V(layer) => self.kv + self.layers[layer as usize].1,
            Arg::Tokens => step.tokens(),
            Arg::Rope(table) => step.base + step.rope[table as usize],
            Arg::RopeAll(table) => self.rope[table as usize].unwrap_or_default(),
            Arg::State => step.base,
            Arg::History => self.history,
            Arg::Sampling => self.sampling,
            Arg::Draws => self.draws(),
            Arg::Counters(offset) => self.counters + offset,
        }
    }

    fn scalar(&self, program: usize, scalar: ScalarArg) -> u64 {
        let state = self.steps[program].base;
        match scalar {
            ScalarArg::Const(value) => self.constants[&value],
            ScalarArg::Tokens => state,
            ScalarArg::Past => state + 8,
            ScalarArg::Capacity => state + 16,
        }
    }
}

/// A call, ready to be launched.
pub struct Bound {
    function: FunctionId,
    launch: plan::Launch,
    grid: u32,
    params: Vec<u64>,
}

impl Bound {
    /// Binds the calls of a program, last those that prepare the next step.
    pub fn all(plan: &Plan, program: usize, functions: &[FunctionId], memory: &Memory) -> Vec<Bound> {
        let calls = plan.programs[program].calls.iter().chain(plan.programs[program].following());
        let bind = |call: &plan::Call| {
            let args = call.args.iter().map(|arg| memory.address(program, *arg));
            let scalars = call.scalars.iter().map(|scalar| memory.scalar(program, *scalar));
            let kernel = call.kernel as usize;
            let params = args.chain(scalars).collect();
            Bound { function: functions[kernel], launch: plan.launches[kernel], grid: call.chunks, params }
        };
        calls.map(bind).collect()
    }

    /// Launches it; `overlap` if there is a launch in front of it that it may overlap with.
    pub fn launch(&self, driver: &mut dyn GpuDriver, overlap: bool) -> Result<(), GpuError> {
        driver.launch(&Launch {
            function: self.function,
            grid: self.grid,
            threads: self.launch.threads,
            shared_bytes: self.launch.shared_bytes,
            params: &self.params,
            dependent: overlap && self.launch.waits,
        })
    }
}
