//! How much of its memory's bandwidth a machine reaches: what a report of speed is to be read against.

use crate::DriverError;
use std::collections::BTreeMap;
use tilewright_autotune::bandwidth::{self, Bandwidth};
use tilewright_autotune::gpu;
use tilewright_codegen::target::Target;
use tilewright_runtime::artifact::{Artifact, Choice};
use tilewright_runtime::cuda::{self, DeviceFacts, GpuDriver, GpuError, Sm};
use tilewright_runtime::session::CallTime;

/// Most bytes to measure bandwidth with; beyond, it no longer changes.
const MOST: u64 = 1 << 30;

/// What a machine can read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Bytes a second.
    pub rate: Bandwidth,
    /// The GPU, if it is one.
    pub gpu: Option<DeviceFacts>,
}

/// Measures the machine that code for `target` runs on: its GPU, or the CPU with so many threads that read `bytes` between them.
pub fn reading(target: &Target, threads: usize, bytes: u64) -> Result<Reading, DriverError> {
    match target.gpu() {
        Some(_) => reading_of(&mut *cuda::open()?, target),
        None => Ok(Reading { rate: bandwidth::measure(threads, bytes.clamp(1 << 20, MOST) as usize), gpu: None }),
    }
}

/// [`reading`] of the GPU of that driver.
pub fn reading_of(driver: &mut dyn GpuDriver, target: &Target) -> Result<Reading, DriverError> {
    let facts = driver.facts().clone();
    if !Sm::parse(&target.name).is_some_and(|sm| sm.runs_on(facts.sm)) {
        return Err(GpuError::WrongArch { compiled: target.name.clone(), device: facts.sm, name: facts.name }.into());
    }
    Ok(Reading { rate: gpu::bandwidth(driver, target)?, gpu: Some(facts) })
}

/// A kernel of a program that was timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// Most tokens of a run of the program.
    pub max_tokens: u32,
    /// Its name.
    pub kernel: String,
    /// Calls of it in the program.
    pub calls: u32,
    /// Nanoseconds of a call, on average.
    pub ns: f64,
    /// Bytes that a call has to fetch from memory: weights, and keys and values of some hundred tokens, however many there were.
    /// Activations stay in caches and count nothing.
    pub bytes: u64,
    /// What that is of the bandwidth.
    pub share: f64,
}

/// What each kernel reached of `bandwidth` bytes a second in the calls that a session timed, those with the most time first.
pub fn reach(artifact: &Artifact, times: &[CallTime], bandwidth: f64) -> Vec<Reach> {
    let plan = artifact.plan();
    let choices = &artifact.manifest().info.choices;
    let bytes_of = |c: &Choice| Some((c.what.strip_prefix("kernel ")?.to_string(), c.why["bytes"].as_u64()?));
    let bytes: BTreeMap<String, u64> = choices.iter().filter_map(bytes_of).collect();
    let mut out = vec![];
    for program in &plan.programs {
        let timed = times.iter().filter(|t| t.max_tokens == program.max_tokens);
        let mut kernels: BTreeMap<u32, (u32, f64)> = BTreeMap::new();
        // A session times the calls of a program in their order.
        for (call, time) in program.calls.iter().zip(timed).filter(|(_, time)| time.runs > 0) {
            let of = kernels.entry(call.kernel).or_default();
            *of = (of.0 + 1, of.1 + time.nanos as f64 / time.runs as f64);
        }
        for (index, (calls, ns)) in kernels {
            let (kernel, ns) = (plan.kernels[index as usize].clone(), ns / f64::from(calls));
            let bytes = bytes.get(&kernel).copied().unwrap_or(0);
            let share = bytes as f64 / ns.max(1.0) * 1e9 / bandwidth;
            out.push(Reach { max_tokens: program.max_tokens, kernel, calls, ns, bytes, share });
        }
    }
    let spent = |r: &Reach| f64::from(r.calls) * r.ns;
    out.sort_by(|a, b| a.max_tokens.cmp(&b.max_tokens).then(spent(b).total_cmp(&spent(a))));
    out
}
