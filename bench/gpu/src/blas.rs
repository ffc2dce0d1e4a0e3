//! Part `blas`: cuBLASLt's bf16 products at the shapes of a model, a yardstick. Looked for at run time.

use crate::gpu::{Gpu, round};
use crate::part::Items;
use anyhow::{Result, anyhow};
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaStream};
use half::bf16;
use serde_json::{Value, json};
use std::sync::Arc;

/// Rows of the weight, its columns, tokens; all of Llama-3.1-8B, and one large square.
const SHAPES: [(u64, u64, u64); 8] = [
    (6144, 4096, 1),
    (28_672, 4096, 1),
    (4096, 14_336, 1),
    (128_256, 4096, 1),
    (28_672, 4096, 512),
    (4096, 14_336, 512),
    (28_672, 4096, 2048),
    (8192, 8192, 8192),
];
/// Products that are timed in a row.
const RUNS: u64 = 20;

/// All shapes.
pub fn run(items: &mut Items) -> Result<()> {
    // SAFETY: opens the vendor's library, whose initialiser has no conditions.
    let is_there = !items.gpu.emulated && unsafe { cudarc::cublaslt::sys::is_culib_present() };
    if !is_there {
        items.item("absent", |_| Ok(json!({"why": "no cublasLt"})));
        return Ok(());
    }
    for (rows, cols, tokens) in SHAPES {
        items.item(format!("bf16 {rows}x{cols} t{tokens}"), |gpu| one(gpu, rows, cols, tokens));
    }
    Ok(())
}

fn one(gpu: &mut Gpu, rows: u64, cols: u64, tokens: u64) -> Result<Value> {
    let context = CudaContext::new(0)?;
    // SAFETY: everything below is on one stream, and is waited for before anything goes.
    unsafe { context.disable_event_tracking() };
    let stream: Arc<CudaStream> = context.new_stream()?;
    let blas = CudaBlasLT::new(stream.clone()).map_err(|e| anyhow!("cublasLt: {e:?}"))?;
    let weight = (rows * cols) as usize;
    // As in the sweep: more than three times the second-level cache where one product does not fill it.
    let copies = (3 * gpu.facts.l2_bytes / (2 * rows * cols) + 1).min(RUNS);
    let numbers: Vec<bf16> =
        (0..1 << 20).map(|i: u32| bf16::from_f32((i * 7919 % 2001) as f32 / 1000.0 - 1.0)).collect();
    let filled = |n: usize| -> Result<_> {
        let all: Vec<bf16> = numbers.iter().copied().cycle().take(n).collect();
        Ok(stream.clone_htod(&all)?)
    };
    let first = filled(weight)?;
    let mut weights = vec![first];
    for _ in 1..copies {
        let next = weights[0].try_clone()?;
        weights.push(next);
    }
    let x = filled((tokens * cols) as usize)?;
    let mut y = stream.alloc_zeros::<bf16>((tokens * rows) as usize)?;
    // Column-major: y[rows, tokens] = w[cols, rows]^T x[cols, tokens].
    let config = MatmulConfig {
        transa: true,
        transb: false,
        transc: false,
        m: rows,
        n: tokens,
        k: cols,
        alpha: 1.0,
        lda: cols as i64,
        ldb: cols as i64,
        beta: 0.0,
        ldc: rows as i64,
        stride_a: None,
        stride_b: None,
        stride_c: None,
        stride_bias: None,
        batch_size: None,
    };
    let mut multiply = |i: u64| {
        let w = &weights[(i % copies) as usize];
        // SAFETY: the buffers are as large as the shape says.
        unsafe { blas.matmul(config, w, &x, &mut y, None, None) }.map_err(|e| anyhow!("cublasLt: {e:?}"))
    };
    multiply(0)?;
    stream.synchronize()?;
    let mut times = vec![];
    for _ in 0..5 {
        let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
        (0..RUNS).try_for_each(&mut multiply)?;
        let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
        times.push(f64::from(start.elapsed_ms(&end)?) * 1e6 / RUNS as f64);
    }
    times.sort_by(f64::total_cmp);
    let nanos = times[times.len() / 2];
    Ok(json!({
        "rows": rows,
        "cols": cols,
        "tokens": tokens,
        "us": round(nanos / 1e3),
        "gb_s": round((2 * rows * cols) as f64 / nanos),
        "tflop_s": round(2.0 * (rows * cols * tokens) as f64 / nanos / 1e3),
    }))
}
