//! Rounding activations to int8 blocks, or to bf16, with the RMS norm that comes before.
//!
//! The norm's row scale commutes with the matmul, but the rounding has to see `gamma * x`; so norm and rounding are one
//! kernel, run once a row, and every matmul that reads the row shares its result.

use super::{Bf16Rows, Operands, Params, Schedule, if_token, operands};
use crate::pack::UNIT;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Scalar, Type, Value};

/// Layout of int8 rows of `width` elements: `[codes i8][scales f32 / 8][sums f32 / 32][sums f32 / 16]`.
///
/// The sums are of code times scale: what zero points and mins of weights multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Q8Rows {
    /// Elements a row, a multiple of 32.
    pub width: u64,
}

/// Elements that share a scale.
pub(super) const BLOCK: u64 = tilewright_ir::graph::Q8_BLOCK;

impl Q8Rows {
    /// Bytes of a row.
    pub fn bytes(self) -> u64 {
        self.width + self.width / BLOCK * 4 + self.width / 32 * 12
    }

    pub(super) fn scales(self) -> i64 {
        self.width as i64
    }

    pub(super) fn sums32(self) -> i64 {
        self.scales() + (self.width / BLOCK * 4) as i64
    }

    pub(super) fn sums16(self) -> i64 {
        self.sums32() + self.width as i64 / 8
    }

    /// Pointer to the scales of unit `unit`, to be read at [`Q8Rows::scale_at`].
    pub(super) fn scales_of(self, b: &mut KernelBuilder, row: Value, unit: Value) -> Value {
        b.index(row, unit, (UNIT / BLOCK * 4) as i64)
    }

    /// Offset of the scale of block `block` of a unit from [`Q8Rows::scales_of`].
    pub(super) fn scale_at(self, block: u64) -> i64 {
        self.scales() + block as i64 * 4
    }

    /// Sum of unit `unit`, or of its half `half`.
    pub(super) fn load_sum(self, b: &mut KernelBuilder, row: Value, unit: Value, half: Option<u64>) -> Value {
        match half {
            None => {
                let p = b.index(row, unit, 4);
                b.load(Type::F32, p, self.sums32())
            }
            Some(h) => {
                let p = b.index(row, unit, 8);
                b.load(Type::F32, p, self.sums16() + 4 * h as i64)
            }
        }
    }

    /// Rounds 32 floats, given as two vectors of 16, into unit `unit` of `row`. A block is half of a vector: what is
    /// one number a block stands in all of its lanes.
    pub(super) fn store_unit(self, b: &mut KernelBuilder, x: [Value; 2], row: Value, unit: Value) {
        let codes = b.index(row, unit, UNIT as i64);
        let scales = self.scales_of(b, row, unit);
        let mut sums = vec![];
        for (half, v) in (0..).zip(x) {
            let mut top = b.abs(v);
            for distance in WITHIN_BLOCK {
                let other = b.swap_lanes(top, distance);
                top = b.fmax(top, other);
            }
            let k = b.f32(16, 1.0 / 127.0);
            let scale = b.mul(top, k);
            let zero = b.f32(16, 0.0);
            let some = b.cmp(Pred::Sgt, scale, zero);
            let one = b.f32(16, 1.0);
            let inverse = b.div(one, scale);
            let inverse = b.select(some, inverse, zero);
            let v = b.mul(v, inverse);
            let v = b.nearest(v);
            let v = b.f_to_int(v, Scalar::I32);
            let mut sum = v;
            for distance in WITHIN_BLOCK {
                let other = b.swap_lanes(sum, distance);
                sum = b.add(sum, other);
            }
            let sum = b.int_to_f(sum, Scalar::F32);
            let sum = b.mul(sum, scale);
            let other = b.swap_lanes(sum, BLOCK as i64);
            sums.push(b.add(sum, other));
            let v = b.trunc(v, Scalar::I8);
            b.store(v, codes, half * 16);
            for block in 0..2 {
                let scale = b.extract(scale, block * BLOCK as i64);
                b.store(scale, scales, self.scale_at(2 * half as u64 + block as u64));
            }
        }
        let at4 = b.index(row, unit, 4);
        let at8 = b.index(row, unit, 8);
        let total = b.add(sums[0], sums[1]);
        for (v, p, at) in
            [(sums[0], at8, self.sums16()), (sums[1], at8, self.sums16() + 4), (total, at4, self.sums32())]
        {
            let v = b.extract(v, 0);
            b.store(v, p, at);
        }
    }
}

/// Distances of swaps that bring together the lanes of a block.
const WITHIN_BLOCK: [i64; 3] = [1, 2, 4];

/// What rows are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// [`Q8Rows`].
    Q8,
    /// [`Bf16Rows`].
    Bf16,
}

/// `quantize`, with or without the norm. Arguments: x, `[gamma]`, out; scalars: tokens. One chunk a token.
#[derive(Clone, Debug)]
pub struct Quantize {
    /// Elements a row.
    pub width: u64,
    /// Bytes from one row of x to the next.
    pub x_stride: u64,
    /// Epsilon of the norm, if there is one.
    pub norm: Option<f32>,
    /// What rows are rounded to.
    pub to: Rounding,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Schedule for Quantize {
    fn signature(&self) -> String {
        let Quantize { width, x_stride, norm, to, max_tokens } = self;
        format!("quantize w{width} xs{x_stride} norm{norm:?} {to:?} t{max_tokens}")
    }

    fn chunks(&self, _: &Params) -> u32 {
        self.max_tokens
    }

    fn build(&self, name: &str, _: &Params) -> Kernel {
        let mut b = KernelBuilder::new(name);
        let x = b.ptr_param("x");
        let gamma = self.norm.map(|_| b.ptr_param("gamma"));
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let token = b.chunk_id();
        let rows = Q8Rows { width: self.width };
        if_token(&mut b, token, tokens, |b| {
            let x = b.index(x, token, self.x_stride as i64);
            let bytes = match self.to {
                Rounding::Q8 => rows.bytes(),
                Rounding::Bf16 => Bf16Rows { width: self.width }.bytes(),
            };
            let out = b.index(out, token, bytes as i64);
            let factor = self.norm.map(|eps| {
                let f = rms_factor(b, x, self.width, eps);
                b.splat(f, 16)
            });
            let (lo, hi) = (b.i64(0), b.i64(self.width as i64 / 32));
            b.for_(lo, hi, 1, &[], |b, unit, _| {
                let xp = b.index(x, unit, 128);
                let gp = gamma.map(|g| b.index(g, unit, 128));
                let block = [0, 1].map(|h| {
                    let v = b.load(Type::F32.x(16), xp, 64 * h);
                    match (factor, gp) {
                        (Some(f), Some(g)) => {
                            let g = b.load(Type::F32.x(16), g, 64 * h);
                            let v = b.mul(v, f);
                            b.mul(v, g)
                        }
                        _ => v,
                    }
                });
                match self.to {
                    Rounding::Q8 => rows.store_unit(b, block, out, unit),
                    Rounding::Bf16 => {
                        let p = b.index(out, unit, UNIT as i64 * 2);
                        for (half, v) in (0..).zip(block) {
                            let v = b.fround(v, Scalar::BF16);
                            b.store(v, p, 32 * half);
                        }
                    }
                }
                vec![]
            });
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::quantize(self)
    }
}

/// `1 / sqrt(mean(x^2) + eps)` of `n` f32 at `x`.
pub(super) fn rms_factor(b: &mut KernelBuilder, x: Value, n: u64, eps: f32) -> Value {
    let lanes = [16u16, 8, 4, 2, 1].into_iter().find(|&l| n.is_multiple_of(u64::from(l))).unwrap_or(1);
    let (lo, hi) = (b.i64(0), b.i64(n as i64));
    let zero = b.f32(lanes, 0.0);
    let sums = b.for_(lo, hi, i64::from(lanes), &[zero], |b, i, acc| {
        let p = b.index(x, i, 4);
        let v = b.load(Type::F32.x(lanes), p, 0);
        vec![b.fma(v, v, acc[0])]
    });
    let sum = if lanes > 1 { b.sum(sums[0]) } else { sums[0] };
    let k = b.f32(1, 1.0 / n as f64);
    let mean = b.mul(sum, k);
    let eps = b.f32(1, f64::from(eps));
    let v = b.add(mean, eps);
    let root = b.sqrt(v);
    let one = b.f32(1, 1.0);
    b.div(one, root)
}
