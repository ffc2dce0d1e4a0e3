//! This machine's CPU: kernels are run as the runtime runs them, by its workers, on data that is not in any cache.
//!
//! A sample is a list of calls of about a millisecond; every sample goes on where the last one left off in the copies of the
//! weights, so what is read was not read for a whole rotation.

use crate::TuneError;
use crate::candidate::{Rejected, SYMBOL};
use crate::fingerprint::Device;
use crate::machine::{Built, Machine};
use crate::measure::{Timing, turns};
use crate::roofline::Roofline;
use crate::work::{Scenario, Work};
use rayon::prelude::*;
use std::time::{Duration, Instant};
use tilewright_codegen::backend::{Backend, CodegenError};
use tilewright_codegen::schedules::Operands;
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::Kernel;
use tilewright_runtime::error::ArtifactError;
use tilewright_runtime::loader::{KernelFn, Kernels};
use tilewright_runtime::workers::{CallList, Pool, Step};

/// A sample lasts about this long.
const SAMPLE_NS: f64 = 1e6;
/// First calls of each candidate; of long calls fewer.
const LOOKS: usize = 5;
/// Time for them, once each had two.
const LOOKING: Duration = Duration::from_millis(50);
/// Lists of one candidate at most; then its samples start over.
const MAX_LISTS: usize = 256;
/// Most bytes of weights that timing rotates through.
const MOST_ROTATED: u64 = 512 << 20;
/// Fewest.
const LEAST_ROTATED: u64 = 64 << 20;

/// This machine with a number of threads.
pub struct Cpu {
    target: Target,
    threads: u32,
    device: String,
    rotate: u64,
    roofline: Roofline,
}

impl Cpu {
    /// Measures what the machine can do at best.
    pub fn new(target: &Target, threads: u32) -> Result<Cpu, TuneError> {
        let missing = target.features_missing_on_host().join(", ");
        if !missing.is_empty() {
            return Err(TuneError::Machine { target: target.name.clone(), missing });
        }
        let (device, threads) = (Device::detect(), threads.max(1));
        let rotate = (2 * last_cache(&device.caches)).clamp(LEAST_ROTATED, MOST_ROTATED);
        let roofline = Roofline::measure(target, threads as usize, rotate)?;
        Ok(Cpu { target: target.clone(), threads, device: device.id(), rotate, roofline })
    }
}

impl Machine for Cpu {
    type Code = Code;
    type Data = Work;

    fn target(&self) -> &Target {
        &self.target
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn threads(&self) -> u32 {
        self.threads
    }

    fn roofline(&self) -> &Roofline {
        &self.roofline
    }

    fn compile(&self, all: Vec<Built>, _prune: bool) -> Result<Vec<Result<Code, Rejected>>, TuneError> {
        let one = |b: &Built| {
            let code = Code::new(&b.kernel, b.chunks, b.backend, &self.target);
            code.map_err(|e| Rejected::Unsupported(e.to_string()))
        };
        Ok(all.par_iter().map(one).collect())
    }

    fn data(&self, operands: &Operands, scenarios: &[Scenario], seed: u64, cold: bool) -> Result<Work, TuneError> {
        Work::new(operands, scenarios, if cold { self.rotate } else { 0 }, seed)
    }

    fn call(&self, data: &mut Work, code: &Code, scenario: usize) -> Result<(), TuneError> {
        call(data, code, scenario, self.threads as usize)
    }

    fn time(&self, data: &mut Work, codes: &[&Code], samples: usize, until: Instant) -> Result<Vec<Timing>, TuneError> {
        interleaved(data, codes, self.threads as usize, samples, until)
    }
}

/// The last-level cache, from descriptions like `L3 32768K`.
fn last_cache(caches: &[String]) -> u64 {
    let bytes = |c: &String| {
        let size = c.split(' ').nth(1)?;
        let (digits, unit) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
        let unit = match unit {
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            _ => 1u64,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    };
    caches.iter().filter_map(bytes).max().unwrap_or(0)
}

/// A kernel of this process.
pub struct Code {
    /// Owns the machine code.
    _kernels: Kernels,
    function: KernelFn,
    chunks: u32,
}

/// Why a kernel is not in this process.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The back end refused.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// The loader refused.
    #[error(transparent)]
    Load(#[from] ArtifactError),
}

impl Code {
    /// Compiles and loads the kernel of a candidate.
    pub fn new(kernel: &Kernel, chunks: u32, backend: &dyn Backend, target: &Target) -> Result<Code, CompileError> {
        let object = backend.object(std::slice::from_ref(kernel), target)?;
        let kernels = Kernels::load(&object)?;
        let missing = || CodegenError::Internal { kernel: SYMBOL.into(), message: "it is not in the object".into() };
        let function = kernels.get(&kernel.name).ok_or_else(missing)?;
        Ok(Code { _kernels: kernels, function, chunks })
    }

    fn step(&self, work: &Work, copy: usize, scenario: usize) -> Step {
        Step { kernel: self.function, args: work.args(copy), scalars: work.scalars(scenario), chunks: self.chunks }
    }
}

/// Runs `code` once on scenario `scenario` of `work` with all threads.
fn call(work: &mut Work, code: &Code, scenario: usize, threads: usize) -> Result<(), TuneError> {
    let list = CallList::new(vec![code.step(work, 0, scenario)], 1);
    let mut pool = Pool::new(threads.min(code.chunks as usize), vec![list], false)?;
    // SAFETY: the kernel was compiled from verified IR for this machine, `work` has all its arguments in the sizes that the
    // schedule states, and `&mut` keeps everybody else away.
    unsafe { pool.run(0, true) };
    Ok(())
}

/// Times all of `codes`, `samples` times each or as often as comes out `until` then, with `threads` threads.
pub(crate) fn interleaved(
    work: &mut Work,
    codes: &[&Code],
    threads: usize,
    samples: usize,
    until: Instant,
) -> Result<Vec<Timing>, TuneError> {
    if codes.is_empty() {
        return Ok(vec![]);
    }
    let scenarios = work.scenarios().len();
    // A first look, which also brings the code in: each scenario once.
    let look = |code: &&Code| CallList::new((0..scenarios).map(|s| code.step(work, s, s)).collect(), scenarios);
    let lists = codes.iter().map(look).collect();
    let mut pool = Pool::new(threads, lists, false)?;
    let mut first = vec![f64::INFINITY; codes.len()];
    let start = Instant::now();
    for look in 0..LOOKS {
        for (list, fastest) in first.iter_mut().enumerate() {
            let ns = sample(&mut pool, list, scenarios);
            // The first call waits for code and pages.
            *fastest = if look == 0 { *fastest } else { fastest.min(ns) };
        }
        if look > 0 && start.elapsed() > LOOKING {
            break;
        }
    }
    drop(pool);
    // As many calls a sample as the fastest needs: the same for all, on the same data.
    let fastest = first.iter().copied().fold(f64::INFINITY, f64::min).max(1.0);
    let rotation = work.copies().next_multiple_of(scenarios).max(scenarios);
    let calls = ((SAMPLE_NS / fastest) as usize).next_multiple_of(scenarios).clamp(scenarios, 4096);
    let segments = rotation.div_ceil(calls).min(MAX_LISTS);
    let mut lists = Vec::with_capacity(codes.len() * segments);
    for code in codes {
        for segment in 0..segments {
            let steps = (segment * calls..(segment + 1) * calls).map(|i| code.step(work, i, i % scenarios));
            lists.push(CallList::new(steps.collect(), calls));
        }
    }
    let mut pool = Pool::new(threads, lists, false)?;
    let mut segment = 0;
    turns(&first, samples, until, |i| {
        let ns = sample(&mut pool, i * segments + segment, calls);
        segment = (segment + 1) % segments;
        Ok(ns)
    })
}

/// Nanoseconds of a call of list number `list`, which has `calls`.
fn sample(pool: &mut Pool, list: usize, calls: usize) -> f64 {
    let start = Instant::now();
    // SAFETY: as in `call`; the lists point into `work` and `codes`, which their borrower holds until the pool is gone.
    unsafe { pool.run(list, true) };
    start.elapsed().as_nanos() as f64 / calls as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches() {
        let caches = ["L1d 32K", "L2 1024K", "L3 32M"].map(String::from);
        assert_eq!(last_cache(&caches), 32 << 20);
        assert_eq!(last_cache(&["L3 32768K".into(), "L9".into(), "L4 many".into()]), 32 << 20);
        assert_eq!(last_cache(&[]), 0);
    }
}
