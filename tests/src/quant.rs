//! Reference quantisers for tests: the simple 32-element formats as ggml's reference code rounds them, their decoders,
//! and random but valid blocks of the formats that tests have no quantiser for.
//!
//! ```
//! use tilewright_tests::quant::Quant;
//! let row: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
//! let bytes = Quant::Q8_0.encode(&row);
//! assert_eq!(bytes.len(), 2 * 34);
//! assert!(Quant::Q8_0.decode(&bytes).iter().zip(&row).all(|(a, b)| (a - b).abs() < 0.005));
//! ```

use half::{bf16, f16};

/// How a test stores a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)]
pub enum Quant {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
}

impl Quant {
    /// All of them.
    pub const ALL: [Quant; 8] =
        [Quant::F32, Quant::F16, Quant::BF16, Quant::Q4_0, Quant::Q4_1, Quant::Q5_0, Quant::Q5_1, Quant::Q8_0];

    /// GGUF's number of this type.
    pub fn ggml_type(self) -> u32 {
        match self {
            Quant::F32 => 0,
            Quant::F16 => 1,
            Quant::BF16 => 30,
            Quant::Q4_0 => 2,
            Quant::Q4_1 => 3,
            Quant::Q5_0 => 6,
            Quant::Q5_1 => 7,
            Quant::Q8_0 => 8,
        }
    }

    /// GGUF's `general.file_type` of a file mostly of this type.
    pub fn file_type(self) -> u32 {
        match self {
            Quant::F32 => 0,
            Quant::F16 => 1,
            Quant::Q4_0 => 2,
            Quant::Q4_1 => 3,
            Quant::Q8_0 => 7,
            Quant::Q5_0 => 8,
            Quant::Q5_1 => 9,
            Quant::BF16 => 32,
        }
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Quant::F32 => (1, 4),
            Quant::F16 | Quant::BF16 => (1, 2),
            Quant::Q4_0 => (32, 18),
            Quant::Q4_1 => (32, 20),
            Quant::Q5_0 => (32, 22),
            Quant::Q5_1 => (32, 24),
            Quant::Q8_0 => (32, 34),
        }
    }

    /// Bytes of `x`, whose length must be a multiple of the block.
    pub fn encode(self, x: &[f32]) -> Vec<u8> {
        let (n, bytes) = self.block();
        assert_eq!(x.len() % n, 0, "{} elements are no multiple of {n}", x.len());
        let mut out = Vec::with_capacity(x.len() / n * bytes);
        for b in x.chunks_exact(n) {
            match self {
                Quant::F32 => out.extend(b[0].to_le_bytes()),
                Quant::F16 => out.extend(f16::from_f32(b[0]).to_le_bytes()),
                Quant::BF16 => out.extend(bf16::from_f32(b[0]).to_le_bytes()),
                Quant::Q8_0 => q8_0(b, &mut out),
                Quant::Q4_0 => symmetric(b, 8, &mut out),
                Quant::Q5_0 => symmetric(b, 16, &mut out),
                Quant::Q4_1 => affine(b, 15, &mut out),
                Quant::Q5_1 => affine(b, 31, &mut out),
            }
        }
        out
    }

    /// Values of `bytes`.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let (n, size) = self.block();
        assert_eq!(bytes.len() % size, 0);
        let mut out = Vec::with_capacity(bytes.len() / size * n);
        for b in bytes.chunks_exact(size) {
            let h = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
            // nibble, and fifth bit from `qh`, of element `i`
            let nib = |qs: usize, i: usize| (b[qs + i % 16] >> (4 * (i / 16))) & 15;
            let bit = |qh: usize, i: usize| (b[qh + i / 8] >> (i % 8)) & 1;
            match self {
                Quant::F32 => out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                Quant::F16 => out.push(h(0)),
                Quant::BF16 => out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
                Quant::Q8_0 => out.extend((0..32).map(|i| h(0) * f32::from(b[2 + i] as i8))),
                Quant::Q4_0 => out.extend((0..32).map(|i| h(0) * (f32::from(nib(2, i)) - 8.0))),
                Quant::Q4_1 => out.extend((0..32).map(|i| h(0) * f32::from(nib(4, i)) + h(2))),
                Quant::Q5_0 => {
                    out.extend((0..32).map(|i| h(0) * (f32::from(nib(6, i) | (bit(2, i) << 4)) - 16.0)));
                }
                Quant::Q5_1 => out.extend((0..32).map(|i| h(0) * f32::from(nib(8, i) | (bit(4, i) << 4)) + h(2))),
            }
        }
        out
    }

    /// `x` as it comes back from this format.
    pub fn round_trip(self, x: &[f32]) -> Vec<f32> {
        if self == Quant::F32 { x.to_vec() } else { self.decode(&self.encode(x)) }
    }
}

fn q8_0(b: &[f32], out: &mut Vec<u8>) {
    let amax = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = amax / 127.0;
    let id = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(b.iter().map(|v| (v * id).round() as i8 as u8));
}

/// Q4_0 (`half` 8) and Q5_0 (`half` 16): the value of largest magnitude becomes exactly `-half`.
fn symmetric(b: &[f32], half: u8, out: &mut Vec<u8>) {
    let max = b.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let d = max / -f32::from(half);
    let id = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    let top = 2 * half - 1;
    pack(b.iter().map(|v| ((v * id + f32::from(half) + 0.5) as i32 as u8).min(top)), half == 16, out);
}

/// Q4_1 (`levels` 15) and Q5_1 (`levels` 31): a scale and a minimum.
fn affine(b: &[f32], levels: u8, out: &mut Vec<u8>) {
    let min = b.iter().copied().fold(f32::INFINITY, f32::min);
    let max = b.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (max - min) / f32::from(levels);
    let id = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(f16::from_f32(min).to_le_bytes());
    pack(b.iter().map(|v| (((v - min) * id + 0.5) as u8).min(levels)), levels == 31, out);
}

/// Writes 32 quants: the plane of fifth bits if there is one, then nibbles `i` and `i + 16` in one byte.
fn pack(q: impl Iterator<Item = u8>, fifth: bool, out: &mut Vec<u8>) {
    let q: Vec<u8> = q.collect();
    if fifth {
        let qh = q.iter().enumerate().fold(0u32, |m, (i, v)| m | (u32::from(v >> 4) << i));
        out.extend(qh.to_le_bytes());
    }
    out.extend((0..16).map(|i| (q[i] & 15) | ((q[i + 16] & 15) << 4)));
}

/// A block format that a test may fill with random bytes: name, GGUF type, elements, bytes, and where its f16 scales are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Lower-case name.
    pub name: &'static str,
    /// GGUF's number.
    pub ggml_type: u32,
    /// Elements of a block.
    pub elements: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Offsets of f16 fields; every other bit pattern of a block is valid.
    pub halves: &'static [usize],
}

/// The formats of [`random_blocks`].
pub const LAYOUTS: [Layout; 12] = [
    Layout { name: "q4_0", ggml_type: 2, elements: 32, bytes: 18, halves: &[0] },
    Layout { name: "q4_1", ggml_type: 3, elements: 32, bytes: 20, halves: &[0, 2] },
    Layout { name: "q5_0", ggml_type: 6, elements: 32, bytes: 22, halves: &[0] },
    Layout { name: "q5_1", ggml_type: 7, elements: 32, bytes: 24, halves: &[0, 2] },
    Layout { name: "q8_0", ggml_type: 8, elements: 32, bytes: 34, halves: &[0] },
    Layout { name: "q2_k", ggml_type: 10, elements: 256, bytes: 84, halves: &[80, 82] },
    Layout { name: "q3_k", ggml_type: 11, elements: 256, bytes: 110, halves: &[108] },
    Layout { name: "q4_k", ggml_type: 12, elements: 256, bytes: 144, halves: &[0, 2] },
    Layout { name: "q5_k", ggml_type: 13, elements: 256, bytes: 176, halves: &[0, 2] },
    Layout { name: "q6_k", ggml_type: 14, elements: 256, bytes: 210, halves: &[208] },
    Layout { name: "iq4_nl", ggml_type: 20, elements: 32, bytes: 18, halves: &[0] },
    Layout { name: "iq4_xs", ggml_type: 23, elements: 256, bytes: 136, halves: &[0] },
];

/// The layout called `name`.
pub fn layout(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|l| l.name == name)
}

/// `n` blocks of random bits with scales of either sign in 2^-9 … 2^-6; the same bytes for the same `seed`.
pub fn random_blocks(layout: &Layout, n: usize, seed: u64) -> Vec<u8> {
    let mut k = seed;
    let mut next = || {
        k = k.wrapping_add(1);
        crate::tiny::splitmix64(k.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    };
    let mut out: Vec<u8> = (0..n * layout.bytes).map(|_| (next() >> 56) as u8).collect();
    for b in out.chunks_exact_mut(layout.bytes) {
        for &at in layout.halves {
            let r = next();
            // exponent 6…8 of bias 15, any mantissa and sign
            let bits = ((r & 0x83FF) | ((6 + (r >> 32) % 3) << 10)) as u16;
            b[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Vec<f32> {
        (0..320u64).map(|i| (crate::tiny::splitmix64(i) >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
    }

    #[test]
    fn errors_are_within_half_a_step() {
        let x = row();
        for (q, steps) in
            [(Quant::Q4_0, 7.0), (Quant::Q4_1, 7.5), (Quant::Q5_0, 15.0), (Quant::Q5_1, 15.5), (Quant::Q8_0, 127.0)]
        {
            let y = q.round_trip(&x);
            // the symmetric formats lack the top level, so a value opposite to the largest may be a whole step off
            let limit = if matches!(q, Quant::Q4_0 | Quant::Q5_0) { 1.05 / steps } else { 0.52 / steps };
            let worst = x.iter().zip(&y).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= limit, "{q:?}: {worst} > {limit}");
            assert_eq!(q.encode(&y).len(), x.len() / 32 * q.block().1);
        }
        assert_eq!(Quant::F32.round_trip(&x), x);
        assert!(Quant::F16.round_trip(&x).iter().zip(&x).all(|(a, b)| (a - b).abs() < 5e-4));
        assert!(Quant::BF16.round_trip(&x).iter().zip(&x).all(|(a, b)| (a - b).abs() < 4e-3));
    }

    #[test]
    fn a_zero_block_stays_zero() {
        for q in Quant::ALL {
            assert!(q.round_trip(&[0.0; 32]).iter().all(|v| *v == 0.0), "{q:?}");
        }
    }

    #[test]
    fn nibbles_are_split_at_sixteen() {
        let mut x = [0.0f32; 32];
        x[0] = -8.0;
        x[17] = 7.0;
        let b = Quant::Q4_0.encode(&x);
        assert_eq!(f16::from_le_bytes([b[0], b[1]]).to_f32(), 1.0);
        assert_eq!((b[2], b[3]), (0x80, 0xF8));
    }

    #[test]
    fn random_blocks_have_finite_scales() {
        for l in &LAYOUTS {
            let b = random_blocks(l, 50, 7);
            assert_eq!(b.len(), 50 * l.bytes);
            assert_eq!(b, random_blocks(l, 50, 7));
            for blk in b.chunks_exact(l.bytes) {
                for &at in l.halves {
                    let d = f16::from_le_bytes([blk[at], blk[at + 1]]).to_f32().abs();
                    assert!((0.0019..0.016).contains(&d), "{}: {d}", l.name);
                }
            }
        }
    }
}
