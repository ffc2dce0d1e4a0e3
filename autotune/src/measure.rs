//! Timing: kernels are run as the runtime runs them, by its workers, on data that is not in any cache.
//!
//! The candidates of a batch take turns, A B C A B C, so that a machine that slows down slows all of them. A sample is a
//! list of calls of about a millisecond; every sample goes on where the last one left off in the copies of the weights,
//! so what is read was not read for a whole rotation. What is reported are medians. Searches compare lower quartiles, since
//! other programs only ever add time.

use crate::TuneError;
use crate::candidate::SYMBOL;
use crate::stats;
use crate::work::Work;
use std::time::{Duration, Instant};
use tilewright_codegen::backend::{Backend, CodegenError};
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
/// A candidate whose first calls all take this many times as long as the fastest is out.
const HOPELESS: f64 = 3.0;
/// Lists of one candidate at most; then its samples start over.
const MAX_LISTS: usize = 256;

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

/// Times of one candidate.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    /// Nanoseconds of a call, one number a sample.
    pub samples: Vec<f64>,
}

impl Timing {
    /// Median.
    pub fn ns(&self) -> f64 {
        stats::median(&self.samples)
    }

    /// Lower quartile.
    pub fn low(&self) -> f64 {
        stats::quantile(&self.samples, 0.25)
    }

    /// Median distance from the median.
    pub fn mad(&self) -> f64 {
        stats::mad(&self.samples)
    }

    /// How much of `other`'s time this takes, sample by sample, and the standard error of that.
    pub fn ratio(&self, other: &Timing) -> (f64, f64) {
        let ratios: Vec<f64> = self.samples.iter().zip(&other.samples).map(|(a, b)| a / b).collect();
        // The median of a normal sample spreads 1.2533 times as much as its mean; 1.4826 MAD estimate the deviation.
        let error = 1.2533 * 1.4826 * stats::mad(&ratios) / (ratios.len().max(1) as f64).sqrt();
        (stats::median(&ratios), error)
    }
}

/// Runs `code` once on scenario `scenario` of `work` with all threads.
pub fn call(work: &mut Work, code: &Code, scenario: usize, threads: usize) -> Result<(), TuneError> {
    let list = CallList::new(vec![code.step(work, 0, scenario)], 1);
    let mut pool = Pool::new(threads.min(code.chunks as usize), vec![list], false)?;
    // SAFETY: the kernel was compiled from verified IR for this machine, `work` has all its arguments in the sizes that the
    // schedule states, and `&mut` keeps everybody else away.
    unsafe { pool.run(0, true) };
    Ok(())
}

/// Times all of `codes`, `samples` times each or as often as comes out `until` then, with `threads` threads. Those that
/// are far behind at first sight are timed no further.
pub fn interleaved(
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
    let mut timings = vec![Timing::default(); codes.len()];
    let mut segment = 0;
    for (timing, &ns) in timings.iter_mut().zip(&first).filter(|(_, ns)| **ns > HOPELESS * fastest) {
        timing.samples.push(ns);
    }
    for round in 0..samples {
        if round > 0 && Instant::now() >= until {
            break;
        }
        for turn in 0..codes.len() {
            // Another one begins each round.
            let i = (turn + round) % codes.len();
            if first[i] > HOPELESS * fastest {
                continue;
            }
            timings[i].samples.push(sample(&mut pool, i * segments + segment, calls));
            segment = (segment + 1) % segments;
        }
    }
    Ok(timings)
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
    fn ratios_are_of_pairs() {
        let base = Timing { samples: vec![10.0, 20.0, 10.0, 40.0] };
        let half = Timing { samples: vec![5.0, 10.0, 5.0, 20.0] };
        assert_eq!(half.ratio(&base), (0.5, 0.0));
        assert_eq!((base.ns(), base.mad()), (15.0, 5.0));
        assert!(Timing { samples: vec![5.0, 12.0, 5.0, 20.0] }.ratio(&base).1 < 0.1);
    }
}
