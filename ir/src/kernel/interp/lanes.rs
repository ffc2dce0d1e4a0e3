//! Lanes as bit patterns: conversions between them, memory and numbers, and arithmetic on them.

use half::{bf16, f16};
use smallvec::SmallVec;

use super::super::{Opcode, Pred, Scalar, Type};
use super::{Fault, Precision};

/// Bit patterns of the lanes, integers zero-extended. An `f32` is its bits, or with [`Precision::F64`] those of an `f64`.
pub(super) type Lanes = SmallVec<[u64; 16]>;

impl Precision {
    /// Lanes of a value that is these bytes in memory.
    pub(super) fn unpack(self, ty: Type, bytes: &[u8]) -> Lanes {
        let lane = |chunk: &[u8]| {
            let mut wide = [0; 8];
            wide[..chunk.len()].copy_from_slice(chunk);
            let bits = u64::from_le_bytes(wide);
            if self.held_wide(ty.scalar) { f64::from(f32::from_bits(bits as u32)).to_bits() } else { bits }
        };
        bytes.chunks_exact(ty.scalar.bytes() as usize).map(lane).collect()
    }

    /// The bytes of a value in memory.
    pub(super) fn pack(self, ty: Type, lanes: &Lanes) -> SmallVec<[u8; 64]> {
        let mut out = SmallVec::new();
        for &bits in lanes {
            let wide = self.held_wide(ty.scalar);
            let bits = if wide { u64::from((f64::from_bits(bits) as f32).to_bits()) } else { bits };
            out.extend_from_slice(&bits.to_le_bytes()[..ty.scalar.bytes() as usize]);
        }
        out
    }

    /// True for `f32` values that are held as `f64`.
    pub(super) fn held_wide(self, s: Scalar) -> bool {
        s == Scalar::F32 && self == Precision::F64
    }

    /// The number a float's bits stand for.
    pub(super) fn get(self, s: Scalar, bits: u64) -> f64 {
        match s {
            Scalar::F16 => f16::from_bits(bits as u16).to_f64(),
            Scalar::BF16 => bf16::from_bits(bits as u16).to_f64(),
            Scalar::F32 if self == Precision::F32 => f64::from(f32::from_bits(bits as u32)),
            _ => f64::from_bits(bits),
        }
    }

    /// Bits of the nearest float.
    pub(super) fn put(self, s: Scalar, v: f64) -> u64 {
        match s {
            Scalar::F16 => u64::from(f16::from_f32(v as f32).to_bits()),
            Scalar::BF16 => u64::from(bf16::from_f32(v as f32).to_bits()),
            Scalar::F32 if self == Precision::F32 => u64::from((v as f32).to_bits()),
            _ => v.to_bits(),
        }
    }

    /// An `i64` goes to `f32` in one rounding, not through `f64`.
    pub(super) fn int_to_float(self, to: Scalar, v: i64) -> u64 {
        match to {
            Scalar::F32 if !self.held_wide(to) => u64::from((v as f32).to_bits()),
            _ => self.put(to, v as f64),
        }
    }

    /// An `f32` goes to 16 bits from its 32 (in `f64` precision rounded to `f32` first, as in memory).
    pub(super) fn narrow(self, from: Scalar, to: Scalar, bits: u64) -> u64 {
        let v = self.get(from, bits);
        match to {
            Scalar::F16 => u64::from(f16::from_f32(v as f32).to_bits()),
            Scalar::BF16 => u64::from(bf16::from_f32(v as f32).to_bits()),
            _ => self.put(to, v),
        }
    }

    /// One op of float arithmetic on one lane.
    pub(super) fn float(self, op: Opcode, s: Scalar, a: u64, b: u64, c: u64) -> u64 {
        if s == Scalar::F32 && !self.held_wide(s) {
            let f = |bits: u64| f32::from_bits(bits as u32);
            u64::from(arith_f32(op, f(a), f(b), f(c)).to_bits())
        } else if s.is_half() {
            // A product of two is exact in f64, and a sum is off by less than a tie of 16 bits can tell, or by none.
            let f = |bits: u64| self.get(s, bits);
            self.put(s, arith_f64(op, f(a), f(b), f(c)))
        } else {
            arith_f64(op, f64::from_bits(a), f64::from_bits(b), f64::from_bits(c)).to_bits()
        }
    }

    /// One comparison of one lane.
    pub(super) fn compare(self, p: Pred, s: Scalar, a: u64, b: u64) -> bool {
        if s.is_float() {
            let (a, b) = (self.get(s, a), self.get(s, b));
            return match p {
                Pred::Eq => a == b,
                Pred::Ne => a != b,
                Pred::Slt => a < b,
                Pred::Sle => a <= b,
                Pred::Sgt => a > b,
                Pred::Sge => a >= b,
                Pred::Ult | Pred::Uge => unreachable!("verified"),
            };
        }
        let (x, y) = (signed(a, s), signed(b, s));
        match p {
            Pred::Eq => x == y,
            Pred::Ne => x != y,
            Pred::Slt => x < y,
            Pred::Sle => x <= y,
            Pred::Sgt => x > y,
            Pred::Sge => x >= y,
            Pred::Ult => a < b,
            Pred::Uge => a >= b,
        }
    }
}

macro_rules! arith {
    ($name:ident, $t:ty) => {
        fn $name(op: Opcode, a: $t, b: $t, c: $t) -> $t {
            match op {
                Opcode::Add => a + b,
                Opcode::Sub => a - b,
                Opcode::Mul => a * b,
                Opcode::Div => a / b,
                Opcode::Fma => a.mul_add(b, c),
                Opcode::Neg => -a,
                Opcode::Abs => a.abs(),
                Opcode::Sqrt => a.sqrt(),
                Opcode::Floor => a.floor(),
                Opcode::Nearest => a.round_ties_even(),
                Opcode::Fmin => {
                    if a < b {
                        a
                    } else {
                        b
                    }
                }
                Opcode::Fmax => {
                    if a > b {
                        a
                    } else {
                        b
                    }
                }
                _ => unreachable!("not float arithmetic"),
            }
        }
    };
}
arith!(arith_f32, f32);
arith!(arith_f64, f64);

/// One op of integer arithmetic on one lane.
pub(super) fn integer(op: Opcode, s: Scalar, a: u64, b: u64) -> Result<u64, Fault> {
    let (x, y) = (signed(a, s), signed(b, s));
    let wide = match op {
        Opcode::Add => x.wrapping_add(y),
        Opcode::Sub => x.wrapping_sub(y),
        Opcode::Mul => x.wrapping_mul(y),
        Opcode::Smin => x.min(y),
        Opcode::Smax => x.max(y),
        Opcode::And => x & y,
        Opcode::Or => x | y,
        Opcode::Xor => x ^ y,
        _ if y == 0 => return Err(Fault::DivisionByZero),
        _ if y == -1 && a == 1 << (width(s) - 1) => return Err(Fault::DivisionOverflow),
        Opcode::DivS => x / y,
        _ => x % y,
    };
    Ok(wide as u64 & mask(s))
}

/// Bits of a lane.
pub(super) fn width(s: Scalar) -> u32 {
    if s == Scalar::I1 { 1 } else { 8 * s.bytes() }
}

/// The bits a lane uses.
pub(super) fn mask(s: Scalar) -> u64 {
    u64::MAX >> (64 - width(s))
}

/// A lane as a signed number.
pub(super) fn signed(bits: u64, s: Scalar) -> i64 {
    let up = 64 - width(s);
    (bits << up) as i64 >> up
}
