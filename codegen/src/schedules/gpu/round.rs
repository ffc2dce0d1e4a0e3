//! Rounding activations to f16 with a scale a row, and the RMS norm that comes before: [`F16Rows`].

use super::super::{Axis, Data, Operand, Operands, Params, Schedule, Space, if_token};
use super::block::{self, Exchange, Place, TOP_BITS, Thread};
use crate::pack::UNIT_K;
use half::f16;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Type, Value, WARP};
use tilewright_runtime::plan::ScalarArg;

/// Layout of rows of `terms` times `width` f16, then, at a multiple of 64 bytes, an f32: `[f16][the rest in f16][scale]`.
/// Within 16 elements, pairs stand in the order 0, 2, 4, 6, 1, 3, 5, 7: as tensor cores count them when weights are packed
/// as [`crate::pack::Fragments`] says.
///
/// An element is the scale times the sum of its terms. The scale is a power of two, such that the largest element is from
/// 2^13 to 2^14; 1 for a row of zeros. The first term is the element rounded to nearest even, the second what that left
/// over, rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct F16Rows {
    /// Elements a row.
    pub width: u64,
    /// 1, or 2 for about 22 bits.
    pub terms: u32,
}

impl F16Rows {
    /// Where element `i` of a term stands.
    pub fn place(i: u64) -> u64 {
        i & !15 | (i & 2) << 2 | (i & 12) >> 1 | i & 1
    }

    /// [`F16Rows::place`] of numbers that are multiples of `lanes`.
    fn place_of(b: &mut KernelBuilder, i: Value, lanes: u16) -> Value {
        // Bits of the number, and how far each moves to the left.
        let moves = [(!15, 0), (12, -1), (2, 2), (1, 0)];
        let mut out: Option<Value> = None;
        for (mask, by) in moves.into_iter().filter(|(mask, _)| *mask < 0 || *mask >= i64::from(lanes)) {
            let mask = b.i64(mask);
            let bits = b.and(i, mask);
            let count = b.int(Type::I32, i64::abs(by));
            let bits = match by {
                0 => bits,
                1.. => b.shl(bits, count),
                _ => b.shr_u(bits, count),
            };
            out = Some(out.map_or(bits, |o| b.or(o, bits)));
        }
        out.expect("four rows")
    }

    /// Elements of a term: kernels read whole units of [`UNIT_K`], so rows end with zeros.
    pub fn padded(self) -> u64 {
        self.width.next_multiple_of(UNIT_K)
    }

    /// Where the first element of term `term` is.
    pub fn term(self, term: u32) -> u64 {
        u64::from(term) * self.padded() * 2
    }

    /// Where the scale is.
    pub fn scale(self) -> u64 {
        self.term(self.terms).next_multiple_of(64)
    }

    /// Bytes of a row.
    pub fn bytes(self) -> u64 {
        self.scale() + 64
    }

    /// Rounds a row of f32 as the kernels do.
    pub fn encode(self, x: &[f32], row: &mut [u8]) {
        let top = x.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m });
        let exponent = (top.to_bits() >> 23) as i32 - TOP_BITS as i32;
        let exponent = if top > 0.0 { exponent.max(1) as u32 } else { 127 };
        let inverse = f32::from_bits((254 - exponent) << 23);
        row[..self.term(self.terms) as usize].fill(0);
        for (i, v) in x.iter().enumerate() {
            let mut rest = v * inverse;
            for term in 0..self.terms {
                let half = f16::from_f32(rest);
                let at = (self.term(term) + 2 * F16Rows::place(i as u64)) as usize;
                row[at..at + 2].copy_from_slice(&half.to_le_bytes());
                rest -= half.to_f32();
            }
        }
        let at = self.scale() as usize;
        row[at..at + 4].copy_from_slice(&f32::from_bits(exponent << 23).to_le_bytes());
    }

    /// The values of a row.
    pub fn decode(self, row: &[u8]) -> Vec<f64> {
        let at = self.scale() as usize;
        let scale = f64::from(f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]));
        let half = |term: u32, i: usize| {
            let at = (self.term(term) + 2 * F16Rows::place(i as u64)) as usize;
            f16::from_le_bytes([row[at], row[at + 1]]).to_f64()
        };
        let value = |i: usize| (0..self.terms).map(|term| half(term, i)).sum::<f64>() * scale;
        (0..self.width as usize).map(value).collect()
    }
}

/// `round`, with or without the norm. Arguments: x, `[gamma]`, out; scalars: tokens. One block a token.
#[derive(Clone, Debug)]
pub struct Round {
    /// Elements a row.
    pub width: u64,
    /// Bytes from one row of x to the next.
    pub x_stride: u64,
    /// Epsilon of the norm, if there is one.
    pub norm: Option<f32>,
    /// Terms of an element: 1 or 2.
    pub terms: u32,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Round {
    /// The layout of the result.
    pub fn rows(&self) -> F16Rows {
        F16Rows { width: self.width, terms: self.terms }
    }
}

impl Schedule for Round {
    fn signature(&self) -> String {
        let Round { width, x_stride, norm, terms, max_tokens } = self;
        format!("gpu round w{width} xs{x_stride} norm{norm:?} f16x{terms} t{max_tokens}")
    }

    fn space(&self) -> Space {
        // Two vectors a thread: the row is read at once, and what there is to merge stays little.
        let best = (self.width / 8).next_power_of_two().clamp(32, 1024) as i64;
        let rest = [256, 512, 1024, 128].into_iter().filter(|&n| n != best);
        vec![Axis { name: "threads", values: [best].into_iter().chain(rest).collect() }]
    }

    fn chunks(&self, _: &Params) -> u32 {
        self.max_tokens
    }

    fn operands(&self) -> Operands {
        let data = [Data::Rows { width: self.width, stride: self.x_stride }].into_iter();
        let read = data.chain(self.norm.map(|_| Data::Vector(self.width)));
        let out = Operand { data: Data::F16(self.rows()), written: true };
        let pointers = read.map(|data| Operand { data, written: false }).chain([out]).collect();
        Operands { terms: self.terms.into(), ..Operands::plain(self.max_tokens, pointers, vec![ScalarArg::Tokens]) }
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let threads = block::param(p, "threads").next_multiple_of(u64::from(WARP));
        let mut b = KernelBuilder::of_blocks(name, threads as u32, 1);
        let x = b.ptr_param("x");
        let gamma = self.norm.map(|_| b.ptr_param("gamma"));
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let exchange = Exchange::new(&mut b, 1);
        let t = Thread::start(&mut b);
        let token = b.chunk_id();
        if_token(&mut b, token, tokens, |b| {
            let x = b.index(x, token, self.x_stride as i64);
            let rows = self.rows();
            let out = b.index(out, token, rows.bytes() as i64);
            let places = Place::all(b, t.id, threads, self.width, block::lanes(&[self.width * 4], 4));
            let mut values: Vec<Value> = places.iter().map(|p| p.load(b, x)).collect();
            if let (Some(eps), Some(gamma)) = (self.norm, gamma) {
                let sum = block::sum_of_squares(b, &values);
                let sum = exchange.merge(b, t, &[sum], block::plus)[0];
                let factor = block::rms_factor(b, sum, self.width, eps);
                for (v, place) in values.iter_mut().zip(&places) {
                    let f = b.splat(factor, b.ty(*v).lanes);
                    let n = b.mul(*v, f);
                    let g = place.load(b, gamma);
                    *v = b.mul(n, g);
                }
            }
            let top = block::largest(b, &values);
            let top = exchange.merge(b, t, &[top], block::larger)[0];
            let (scale, inverse) = block::power_scale(b, top);
            for (place, v) in places.iter().zip(values) {
                let inverse = b.splat(inverse, b.ty(v).lanes);
                let v = b.mul(v, inverse);
                let terms = block::f16_terms(b, v, u64::from(self.terms));
                place.when(b, |b, at| {
                    let lanes = b.ty(terms[0]).lanes;
                    let at = F16Rows::place_of(b, at, lanes);
                    let to = b.index(out, at, 2);
                    for (term, half) in (0..).zip(terms) {
                        let first = rows.term(term) as i64;
                        if lanes == 4 {
                            let (low, high) = (b.low(half), b.high(half));
                            b.store(low, to, first);
                            b.store(high, to, first + 16);
                        } else {
                            b.store(half, to, first);
                        }
                    }
                });
            }
            let rest = b.i64((rows.padded() - self.width) as i64);
            b.for_(t.id, rest, threads as i64, &[], |b, i, _| {
                let zero = b.int(Type::I16, 0);
                let i = b.add_imm(i, self.width as i64);
                let at = F16Rows::place_of(b, i, 1);
                let to = b.index(out, at, 2);
                for term in 0..self.terms {
                    b.store(zero, to, rows.term(term) as i64);
                }
                vec![]
            });
            block::when_first(b, t.id, |b| b.store(scale, out, rows.scale() as i64));
        });
        b.finish()
    }
}
