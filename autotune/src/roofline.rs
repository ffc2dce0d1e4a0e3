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
use tilewright_codegen::schedules::{Data, Operand, Operands};
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
    /// Multiply-adds of int8 a second.
    pub int8: f64,
    /// Multiply-adds of bf16 a second; 0 where no back end has any.
    pub bf16: f64,
    /// Multiply-adds of f16 a second by tensor cores; 0 on a CPU.
    pub f16: f64,
    /// Multiply-adds of f32 a second.
    pub float: f64,
}

/// What is multiplied.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Int8,
    Bf16,
    Float,
}

impl Roofline {
    /// Measures; takes about a tenth of a second. `bytes` is what timing rotates through.
    pub fn measure(target: &Target, threads: usize, bytes: u64) -> Result<Roofline, TuneError> {
        let bandwidth = bandwidth::measure(threads, bytes as usize).best;
        let peak = |kind| peak(target, threads, kind);
        let (int8, bf16, float) = (peak(Kind::Int8)?, peak(Kind::Bf16)?, peak(Kind::Float)?);
        Ok(Roofline { bandwidth, int8, bf16, f16: 0.0, float })
    }

    /// Nanoseconds that a call takes at least, on average over `scenarios`.
    pub fn floor_ns(&self, operands: &Operands, scenarios: &[Scenario]) -> f64 {
        let reads = |is: fn(&Data) -> bool| operands.pointers.iter().any(|p| !p.written && is(&p.data));
        let peak = match () {
            _ if operands.terms > 0 => self.f16 / operands.terms as f64,
            _ if operands.is_int8() => self.int8,
            _ if reads(|d| matches!(d, Data::Bf16(_))) => self.bf16,
            _ => self.float,
        };
        let floor = |s: &Scenario| {
            let (bytes, macs) = operands.work(s.tokens.into(), s.past.into());
            let arithmetic = if peak > 0.0 { macs as f64 / peak } else { 0.0 };
            (bytes as f64 / self.bandwidth.max(1.0)).max(arithmetic) * 1e9
        };
        scenarios.iter().map(floor).sum::<f64>() / scenarios.len().max(1) as f64
    }
}

/// Multiply-adds a second of the best loop; 0 if no back end has any.
fn peak(target: &Target, threads: usize, kind: Kind) -> Result<f64, TuneError> {
    let mut loops = vec![];
    let widest = (target.vector_bits / 32) as u16;
    for lanes in [4, 8, 16].into_iter().filter(|&l| l <= widest.max(4)) {
        let depth = match kind {
            Kind::Int8 => 4,
            Kind::Bf16 => 2,
            Kind::Float => 1,
        };
        loops.push((chains(lanes, kind), i64::from(lanes) * CHAINS as i64 * ROUNDS * depth));
    }
    if kind == Kind::Bf16 {
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

fn chains(lanes: u16, kind: Kind) -> Kernel {
    let mut b = KernelBuilder::new("k");
    let out = b.ptr_param("out");
    let i32s = Type { scalar: Scalar::I32, lanes };
    let bytes = Type { scalar: Scalar::I8, lanes: lanes * 4 };
    let int8 = kind == Kind::Int8;
    let start: Vec<_> =
        (0..CHAINS).map(|i| if int8 { b.int(i32s, i as i64) } else { b.f32(lanes, 0.5 + i as f64) }).collect();
    let (x, y) = if int8 { (b.int(bytes, 3), b.int(bytes, 5)) } else { (b.f32(lanes, 0.5), b.f32(lanes, 0.25)) };
    // As pairs of bf16, the bits of an f32 are a small number after a zero.
    let pairs = |b: &mut KernelBuilder, v| b.bitcast(v, Type::BF16.x(lanes * 2));
    let (x, y) = if kind == Kind::Bf16 { (pairs(&mut b, x), pairs(&mut b, y)) } else { (x, y) };
    let (lo, hi) = (b.i64(0), b.i64(ROUNDS));
    let sums = b.for_(lo, hi, 1, &start, |b, _, sums| {
        let step = |&s: &_| match kind {
            Kind::Int8 => b.dot4(s, x, y),
            Kind::Bf16 => b.dot2(s, x, y),
            Kind::Float => b.fma(s, x, y),
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
        let roof = Roofline { bandwidth: 1e9, int8: 1e9, bf16: 1e9, f16: 0.0, float: 1e8 };
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
        let fast = Roofline { float: 1e12, ..roof };
        assert_eq!(fast.floor_ns(&o, &[Scenario { tokens: 1, past: 0 }]), 1024.0);
    }

    #[test]
    fn this_machine_has_peaks() {
        let target = Target::detect().expect("a target");
        let roof = Roofline::measure(&target, 1, 4 << 20).expect("measured");
        assert_eq!(roof.bf16 > 1e8, target.has("avx512bf16"), "{roof:?}");
        assert!(roof.bandwidth > 1e8 && roof.int8 > 1e8 && roof.float > 1e8, "{roof:?}");
    }
}
