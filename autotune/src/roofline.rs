//! The floor under a call: what memory and arithmetic of this machine allow at best.
//!
//! Bandwidth is read from memory with as many bytes as timing rotates through; the peak of products is the best of small
//! loops of independent chains, on every back end, since a candidate may come from any of them.

use crate::TuneError;
use crate::bandwidth;
use crate::cpu::{Code, interleaved};
use crate::work::{Scenario, Work};
use std::time::{Duration, Instant};
use tilewright_codegen::backend;
use tilewright_codegen::schedules::{Data, Math, Operand, Operands};
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Scalar, Type, verify};

/// For all loops of one kind.
const PATIENCE: Duration = Duration::from_millis(200);
/// Rounds of a chain in one chunk.
const ROUNDS: i64 = 4096;

/// What a machine can do, a CPU with a number of threads.
#[derive(Clone, Copy, Debug)]
pub struct Roofline {
    /// Bytes a second.
    pub bandwidth: f64,
    /// Multiply-adds a second, by [`Math`]; 0 where nothing does them, or nothing measures them.
    pub peaks: [f64; Math::ALL.len()],
}

impl Roofline {
    /// Measures a CPU; takes about a tenth of a second. `bytes` is what timing rotates through.
    pub fn measure(target: &Target, threads: usize, bytes: u64) -> Result<Roofline, TuneError> {
        let bandwidth = bandwidth::measure(threads, bytes as usize).best;
        let mut peaks = [0.0; Math::ALL.len()];
        for math in Math::ALL {
            peaks[math as usize] = peak(target, threads, math)?;
        }
        Ok(Roofline { bandwidth, peaks })
    }

    /// Multiply-adds a second of such numbers; 0 is unknown.
    pub fn peak(&self, math: Math) -> f64 {
        self.peaks[math as usize]
    }

    /// Nanoseconds that a call takes at least, on average over `scenarios`.
    pub fn floor_ns(&self, operands: &Operands, scenarios: &[Scenario]) -> f64 {
        let peak = self.peak(operands.math()) / operands.terms.max(1) as f64;
        let floor = |s: &Scenario| {
            let (bytes, macs) = operands.work(s.tokens.into(), s.past.into());
            let arithmetic = if peak > 0.0 { macs as f64 / peak } else { 0.0 };
            (bytes as f64 / self.bandwidth.max(1.0)).max(arithmetic) * 1e9
        };
        scenarios.iter().map(floor).sum::<f64>() / scenarios.len().max(1) as f64
    }
}

/// Multiply-adds a second of the best loop; 0 if no back end has any.
fn peak(target: &Target, threads: usize, math: Math) -> Result<f64, TuneError> {
    let mut loops = vec![];
    let widest = (target.vector_bits / 32) as u16;
    for lanes in [4, 8, 16].into_iter().filter(|&l| l <= widest.max(4)) {
        let depth = match math {
            Math::Int8 => 4,
            Math::Bf16 => 2,
            Math::F32 => 1,
            // Tensor cores.
            Math::F16 => return Ok(0.0),
        };
        loops.push((chains(lanes, math), i64::from(lanes) * CHAINS as i64 * ROUNDS * depth));
    }
    if math == Math::Bf16 {
        loops.push((tiles(), TILE_CHAINS * 16 * 16 * 32 * ROUNDS));
    }
    let mut codes = vec![];
    for (kernel, macs) in loops {
        debug_assert!(verify(&kernel).is_ok());
        let able = backend::all().iter().filter(|b| b.check(&kernel, target).is_ok());
        codes.extend(able.filter_map(|&b| Some((macs, Code::new(&kernel, threads as u32, b, target).ok()?))));
    }
    let out = Data::Rows { width: 16 * CHAINS as u64, stride: 64 };
    let pointers = vec![Operand { data: out, written: true }];
    let operands = Operands::plain(1, pointers, vec![]);
    let mut work = Work::new(&operands, &[Scenario { tokens: 1, past: 0 }], 0, 1)?;
    let timings =
        interleaved(&mut work, &codes.iter().map(|c| &c.1).collect::<Vec<_>>(), threads, 5, Instant::now() + PATIENCE)?;
    let rates = codes.iter().zip(&timings).map(|((macs, _), t)| {
        let fastest = t.samples.iter().copied().fold(f64::INFINITY, f64::min);
        *macs as f64 * threads as f64 / fastest.max(1.0) * 1e9
    });
    Ok(rates.fold(0.0, f64::max))
}

/// Independent sums: enough to hide the latency of a product, few enough to stay in registers.
const CHAINS: usize = 10;

/// Tiles of sums: as many as a product of two by two has.
const TILE_CHAINS: i64 = 4;

fn tiles() -> Kernel {
    let mut b = KernelBuilder::new("k");
    let out = b.ptr_param("out");
    (0..8).for_each(|t| b.tile_zero(t));
    let (lo, hi) = (b.i64(0), b.i64(ROUNDS));
    b.for_(lo, hi, 1, &[], |b, _, _| {
        (0..TILE_CHAINS as u8).for_each(|c| b.tile_dot(c, 4 + c / 2, 6 + c % 2));
        vec![]
    });
    // All rows to one place.
    let none = b.i64(0);
    b.tile_store(0, out, none);
    b.finish()
}

fn chains(lanes: u16, math: Math) -> Kernel {
    let mut b = KernelBuilder::new("k");
    let out = b.ptr_param("out");
    let i32s = Type { scalar: Scalar::I32, lanes };
    let bytes = Type { scalar: Scalar::I8, lanes: lanes * 4 };
    let int8 = math == Math::Int8;
    let start: Vec<_> =
        (0..CHAINS).map(|i| if int8 { b.int(i32s, i as i64) } else { b.f32(lanes, 0.5 + i as f64) }).collect();
    let (x, y) = if int8 { (b.int(bytes, 3), b.int(bytes, 5)) } else { (b.f32(lanes, 0.5), b.f32(lanes, 0.25)) };
    // As pairs of bf16, the bits of an f32 are a small number after a zero.
    let pairs = |b: &mut KernelBuilder, v| b.bitcast(v, Type::BF16.x(lanes * 2));
    let (x, y) = if math == Math::Bf16 { (pairs(&mut b, x), pairs(&mut b, y)) } else { (x, y) };
    let (lo, hi) = (b.i64(0), b.i64(ROUNDS));
    let sums = b.for_(lo, hi, 1, &start, |b, _, sums| {
        let step = |&s: &_| match math {
            Math::Int8 => b.dot4(s, x, y),
            Math::Bf16 => b.dot2(s, x, y),
            Math::F16 | Math::F32 => b.fma(s, x, y),
        };
        sums.iter().map(step).collect()
    });
    // All threads write the same values to the same place; it only has to be written.
    for (i, s) in sums.into_iter().enumerate() {
        b.store(s, out, i as i64 * 64);
    }
    b.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_higher_one() {
        let roof = Roofline { bandwidth: 1e9, peaks: [1e9, 1e9, 0.0, 1e8] };
        let x = Data::Rows { width: 16, stride: 64 };
        let w = Data::Weights {
            layout: tilewright_codegen::pack::Layout::Float(tilewright_codegen::pack::Store::F32),
            rows: 16,
            cols: 16,
        };
        let pointers = [x.clone(), w, x].map(|data| Operand { data, written: false }).to_vec();
        let o = Operands { macs: 256, ..Operands::plain(64, pointers, vec![]) };
        let at = |tokens| roof.floor_ns(&o, &[Scenario { tokens, past: 0 }]);
        assert_eq!(at(1), 256.0 / 1e8 * 1e9);
        assert_eq!(at(64), 64.0 * 256.0 / 1e8 * 1e9);
        let fast = Roofline { peaks: [1e12; 4], ..roof };
        assert_eq!(fast.floor_ns(&o, &[Scenario { tokens: 1, past: 0 }]), 1024.0);
    }

    #[test]
    fn this_machine_has_peaks() {
        let target = Target::detect().expect("a target");
        let roof = Roofline::measure(&target, 1, 4 << 20).expect("measured");
        assert_eq!(roof.peak(Math::Bf16) > 1e8, target.has("avx512bf16"), "{roof:?}");
        let all = [roof.bandwidth, roof.peak(Math::Int8), roof.peak(Math::F32)];
        assert!(all.iter().all(|rate| *rate > 1e8) && roof.peak(Math::F16) == 0.0, "{roof:?}");
    }
}
