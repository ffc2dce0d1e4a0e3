//! What a device can do at best: bytes a second from memory, and multiply-adds of its tensor cores.

use crate::bandwidth::Bandwidth;
use crate::roofline::Roofline;
use crate::{TuneError, stats};
use tilewright_codegen::backend::Backend;
use tilewright_codegen::ptx::{Ptx, launch};
use tilewright_codegen::schedules::Math;
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Type};
use tilewright_runtime::cuda::{self, GpuDriver, GpuError};

/// Passes of reading; the first is thrown away.
const PASSES: usize = 7;
/// Passes of multiplying, which depends on nothing else that goes on.
const FEW_PASSES: usize = 4;
/// Most bytes that are read; beyond, the rate no longer changes.
const MOST_BYTES: u64 = 1 << 30;
/// Threads of a block that reads.
const THREADS: u32 = 512;
/// Such blocks for each multiprocessor.
const BLOCKS: u32 = 4;
/// Loads of 16 bytes that a thread has on the way.
const LOADS: i64 = 4;
/// Threads of a block that multiplies: eight warps.
const MULTIPLIERS: u32 = 256;
/// Independent sums of a warp.
const CHAINS: i64 = 8;
/// Rounds of them.
const ROUNDS: i64 = 512;
/// Multiply-adds of a product of a warp.
const MACS: i64 = 16 * 8 * 16;

pub(super) fn measure(driver: &mut dyn GpuDriver, target: &Target) -> Result<Roofline, TuneError> {
    let bandwidth = bandwidth(driver, target)?.best;
    let mut peaks = [0.0; Math::ALL.len()];
    peaks[Math::F16 as usize] = products(driver, target)?;
    Ok(Roofline { bandwidth, peaks })
}

/// How fast a device reads its memory: much more than its caches hold, from end to end.
pub fn bandwidth(driver: &mut dyn GpuDriver, target: &Target) -> Result<Bandwidth, TuneError> {
    let facts = driver.facts().clone();
    let blocks = facts.multiprocessors.max(1) * BLOCKS;
    let round = u64::from(blocks) * u64::from(THREADS) * LOADS as u64 * 16;
    let most = MOST_BYTES.min(driver.free_memory()? / 4);
    let rounds = (8 * facts.l2_bytes).clamp(round, most.max(round)) / round;
    let bytes = rounds * round;
    let kernel = reader(i64::from(blocks), rounds as i64);
    let from = driver.alloc("memory to read", bytes)?;
    let out = driver.alloc("sums", u64::from(blocks * THREADS) * 16)?;
    driver.zero(from, bytes)?;
    let times = passes(driver, target, &kernel, blocks, &[from, out], PASSES);
    driver.free(from)?;
    driver.free(out)?;
    let rates: Vec<f64> = times?.iter().map(|ns| bytes as f64 / ns * 1e9).collect();
    let best = stats::quantile(&rates, 1.0);
    Ok(Bandwidth { median: stats::median(&rates), mad: stats::mad(&rates), best, threads: 1 })
}

/// Multiply-adds of f16 a second; 0 where the target's kernels have none.
fn products(driver: &mut dyn GpuDriver, target: &Target) -> Result<f64, TuneError> {
    let kernel = multiplier();
    if Ptx.check(&kernel, target).is_err() {
        return Ok(0.0);
    }
    let blocks = driver.facts().multiprocessors.max(1) * 2;
    let out = driver.alloc("sums", u64::from(blocks * MULTIPLIERS) * 16)?;
    let times = passes(driver, target, &kernel, blocks, &[out], FEW_PASSES);
    driver.free(out)?;
    let fastest = times?.into_iter().fold(f64::INFINITY, f64::min);
    let warps = f64::from(blocks) * f64::from(MULTIPLIERS / 32);
    Ok(warps * (CHAINS * ROUNDS * MACS) as f64 / fastest * 1e9)
}

/// Nanoseconds of a launch, one number a pass.
fn passes(
    driver: &mut dyn GpuDriver,
    target: &Target,
    kernel: &Kernel,
    grid: u32,
    params: &[u64],
    passes: usize,
) -> Result<Vec<f64>, TuneError> {
    let internal = |source| TuneError::Default { op: kernel.name.clone(), source };
    let text = Ptx.object(std::slice::from_ref(kernel), target).map_err(internal)?;
    let module = driver.load(cuda::Code::Ptx(&String::from_utf8_lossy(&text)))?;
    let function = driver.function(module, &kernel.name)?;
    let how = launch(kernel, target);
    driver.begin_capture()?;
    let one =
        cuda::Launch { function, grid, threads: how.threads, shared_bytes: how.shared_bytes, params, dependent: false };
    let launched = driver.launch(&one);
    let graph = launched.and(driver.end_capture())?;
    let all: Result<Vec<u64>, GpuError> = (0..passes).map(|_| driver.time(graph)).collect();
    driver.forget(graph)?;
    Ok(all?[1..].iter().map(|&ns| ns.max(1) as f64).collect())
}

/// Each thread sums what it reads, and the threads of all blocks together read from end to end.
fn reader(blocks: i64, rounds: i64) -> Kernel {
    let mut b = KernelBuilder::of_blocks("reader", THREADS, 1);
    let (from, out) = (b.ptr_param("from"), b.ptr_param("out"));
    let (chunk, thread) = (b.chunk_id(), b.thread_id());
    let first = b.mul_imm(chunk, i64::from(THREADS));
    let who = b.add(first, thread);
    let from = b.index(from, who, 16);
    let all = blocks * i64::from(THREADS) * 16;
    let (zero, end) = (b.i64(0), b.i64(rounds));
    let start: Vec<_> = (0..LOADS).map(|_| b.f32(4, 0.0)).collect();
    let sums = b.for_(zero, end, 1, &start, |b, i, sums| {
        let at = b.index(from, i, all * LOADS);
        let loads: Vec<_> = (0..LOADS).map(|k| b.load_stream(Type::F32.x(4), at, k * all)).collect();
        loads.into_iter().zip(sums).map(|(v, s)| b.add(v, *s)).collect()
    });
    let sum = sums[1..].iter().fold(sums[0], |a, s| b.add(a, *s));
    let out = b.index(out, who, 16);
    b.store(sum, out, 0);
    b.finish()
}

/// Independent chains of products in registers.
fn multiplier() -> Kernel {
    let mut b = KernelBuilder::of_blocks("multiplier", MULTIPLIERS, 1);
    let out = b.ptr_param("out");
    let (chunk, thread) = (b.chunk_id(), b.thread_id());
    let first = b.mul_imm(chunk, i64::from(MULTIPLIERS));
    let who = b.add(first, thread);
    // Pairs of one half in f16.
    let [x, y] = [8, 4].map(|lanes: u16| {
        let pairs = b.int(Type::I32.x(lanes / 2), 0x3800_3800);
        b.bitcast(pairs, Type::F16.x(lanes))
    });
    let start: Vec<_> = (0..CHAINS).map(|i| b.f32(4, i as f64)).collect();
    let (zero, end) = (b.i64(0), b.i64(ROUNDS));
    let sums = b.for_(zero, end, 1, &start, |b, _, sums| sums.iter().map(|s| b.mma(*s, x, y)).collect());
    let sum = sums[1..].iter().fold(sums[0], |a, s| b.add(a, *s));
    let out = b.index(out, who, 16);
    b.store(sum, out, 0);
    b.finish()
}
