//! Part `device`: how fast its memory is, and what a launch costs.

use crate::gpu::{Gpu, median, round};
use crate::part::Items;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Type};

/// Bytes that a copy or a kernel goes through.
const SIZES: [u64; 4] = [64 << 20, 256 << 20, 1 << 30, 4 << 30];
const TINY_SIZES: [u64; 1] = [64 << 10];
/// Kernels of a graph whose cost is measured.
const LAUNCHES: usize = 200;

/// Copies, kernels that only read or copy, launches.
pub fn run(items: &mut Items) -> Result<()> {
    let sizes: &[u64] = if items.settings.emulate { &TINY_SIZES } else { &SIZES };
    items.item("memcpy", |gpu| memcpy(gpu, sizes));
    for (name, writes) in [("read", false), ("copy", true)] {
        items.item(name, |gpu| stream(gpu, sizes, writes));
    }
    items.item("launches", launches);
    Ok(())
}

/// Copies by the driver, timed by the host's clock: several in a row.
fn memcpy(gpu: &mut Gpu, sizes: &[u64]) -> Result<Value> {
    let most = *sizes.last().context("no sizes")?;
    let (from, to) = (gpu.alloc(most)?, gpu.alloc(most)?);
    gpu.fill(from, most, &[0x5a; 4096])?;
    gpu.driver.copy(to, from, most)?;
    let mut rows = vec![];
    for &bytes in sizes {
        let copies = ((8 << 30) / bytes).clamp(1, 32);
        let runs = (0..gpu.runs(7)).map(|_| {
            let seconds = gpu.wall(|gpu| Ok((0..copies).try_for_each(|_| gpu.driver.copy(to, from, bytes))?))?;
            Ok((seconds * 1e9) as u64)
        });
        let mut runs = runs.collect::<Result<Vec<u64>>>()?;
        runs.sort_unstable();
        // Bytes that are read and bytes that are written.
        rows.push(json!({"bytes": bytes, "gb_s": round((2 * bytes * copies) as f64 / median(&runs)?.max(1.0))}));
    }
    Ok(json!({"sizes": rows}))
}

/// A kernel of `blocks` blocks of 512 threads that reads all of a buffer, `ahead` loads of 16 bytes at a time, and adds it up
/// or writes it elsewhere. Arguments: from, to; scalars: rounds.
fn streaming(name: &str, blocks: u64, resident: u32, ahead: u64, writes: bool) -> Kernel {
    const THREADS: u64 = 512;
    let mut b = KernelBuilder::of_blocks(name, THREADS as u32, resident);
    let (from, to) = (b.ptr_param("from"), b.ptr_param("to"));
    let rounds = b.int_param("rounds");
    let ty = Type::F32.x(4);
    let (chunk, thread, zero) = (b.chunk_id(), b.thread_id(), b.i64(0));
    let first = b.mul_imm(chunk, THREADS as i64);
    let first = b.add(first, thread);
    let stride = blocks * THREADS * 16;
    let sums = vec![b.f32(4, 0.0); if writes { 0 } else { ahead as usize }];
    let sums = b.for_(zero, rounds, 1, &sums, |b, round, sums| {
        let at = b.mul_imm(round, (stride * ahead) as i64);
        let mine = b.mul_imm(first, 16);
        let at = b.add(at, mine);
        let source = b.offset(from, at);
        let values: Vec<_> = (0..ahead).map(|i| b.load_stream(ty, source, (i * stride) as i64)).collect();
        if writes {
            let target = b.offset(to, at);
            values.iter().zip(0..).for_each(|(&v, i)| b.store(v, target, i * stride as i64));
            return vec![];
        }
        values.iter().zip(sums).map(|(&v, &sum)| b.add(sum, v)).collect()
    });
    if let Some(sum) = sums.into_iter().reduce(|a, s| b.add(a, s)) {
        let out = b.index(to, first, 16);
        b.store(sum, out, 0);
    }
    b.finish()
}

/// The fastest of some ways to read everything, and to copy it.
fn stream(gpu: &mut Gpu, sizes: &[u64], writes: bool) -> Result<Value> {
    let blocks_of = |resident: u32| u64::from(gpu.facts.multiprocessors * resident);
    let ways: Vec<(u32, u64)> = [1, 2, 4].into_iter().flat_map(|r| [2, 4, 8].map(|a| (r, a))).collect();
    let ways = if gpu.emulated { vec![(1, 2)] } else { ways };
    let kernel = |(resident, ahead): (u32, u64)| {
        streaming(&format!("stream_{resident}_{ahead}"), blocks_of(resident), resident, ahead, writes)
    };
    let kernels: Vec<Kernel> = ways.iter().map(|&way| kernel(way)).collect();
    let units: Vec<u64> = ways.iter().map(|&(resident, ahead)| blocks_of(resident) * 512 * 16 * ahead).collect();
    let loaded = gpu.load(&kernels)?;
    // What a round reads may be more than a small size; a copy needs as much again.
    let most = (*sizes.last().context("no sizes")?).max(*units.iter().max().context("no ways")?);
    let from = gpu.alloc(most)?;
    gpu.fill(from, most, &0.5f32.to_le_bytes().repeat(1024))?;
    let sums = units.iter().max().unwrap_or(&0) / 2;
    let to = gpu.alloc(if writes { most } else { sums })?;
    let mut rows = vec![];
    for &bytes in sizes {
        let mut best = (0.0, String::new(), 0);
        for ((&(resident, ahead), &unit), &kernel) in ways.iter().zip(&units).zip(&loaded) {
            let rounds = (bytes / unit).max(1);
            let scalar = gpu.put(&rounds.to_le_bytes())?;
            let grid = gpu.facts.multiprocessors * resident;
            let graph = gpu.graph(|gpu| gpu.launch(kernel, grid, &[from, to, scalar], false))?;
            let runs = gpu.runs(7);
            let nanos = gpu.median(graph, runs)?;
            let moved = rounds * unit * (1 + u64::from(writes));
            let speed = moved as f64 / nanos.max(1.0);
            if speed > best.0 {
                best = (speed, format!("{resident} blocks of 512, {ahead} ahead"), moved);
            }
        }
        rows.push(json!({"bytes": best.2, "gb_s": round(best.0), "way": best.1}));
    }
    Ok(json!({"sizes": rows}))
}

/// A kernel that does next to nothing, and waits for the one before it.
fn trivial() -> Kernel {
    let mut b = KernelBuilder::of_blocks("trivial", 32, 1);
    let p = b.ptr_param("p");
    b.wait_prior();
    b.launch_next();
    let (thread, chunk) = (b.thread_id(), b.chunk_id());
    let at = b.index(p, chunk, 128);
    let at = b.index(at, thread, 4);
    let v = b.load(Type::F32, at, 0);
    let one = b.f32(1, 1.0);
    let v = b.add(v, one);
    b.store(v, at, 0);
    b.finish()
}

/// What the boundary between two kernels costs, in a graph with and without overlap and on the stream.
fn launches(gpu: &mut Gpu) -> Result<Value> {
    let kernel = gpu.load(&[trivial()])?[0];
    let count = if gpu.emulated { 5 } else { LAUNCHES };
    let mut out = json!({"kernels": count, "overlaps": gpu.facts.overlaps()});
    for (grid, suffix) in [(1, ""), (gpu.facts.multiprocessors, "_all")] {
        let p = gpu.alloc(u64::from(grid) * 128)?;
        gpu.driver.zero(p, u64::from(grid) * 128)?;
        for (name, overlap) in [("graph_us", false), ("graph_overlap_us", gpu.facts.overlaps())] {
            let graph =
                gpu.graph(|gpu| (0..count).try_for_each(|i| gpu.launch(kernel, grid, &[p], overlap && i > 0)))?;
            let runs = gpu.runs(15);
            out[format!("{name}{suffix}")] = json!(round(gpu.median(graph, runs)? / count as f64 / 1e3));
        }
        let one = gpu.graph(|gpu| gpu.launch(kernel, grid, &[p], false))?;
        let runs = gpu.runs(31);
        out[format!("alone_us{suffix}")] = json!(round(gpu.median(one, runs)? / 1e3));
        let seconds = gpu.wall(|gpu| (0..count).try_for_each(|_| gpu.launch(kernel, grid, &[p], false)))?;
        out[format!("stream_us{suffix}")] = json!(round(seconds / count as f64 * 1e6));
    }
    Ok(out)
}
