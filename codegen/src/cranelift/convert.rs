//! Conversions between element types.
//!
//! Half precision is converted by integer arithmetic on 32-bit lanes, since Cranelift has no instruction for it.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, InstBuilder, types};
use tilewright_ir::kernel::{Scalar, Type, Value};

use super::lower::{Lower, Pieces, count, full, lane_type};

/// Lanes of two vectors of twice the wanted width: their even 32-bit halves.
const EVEN_WORDS: [u8; 16] = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
const LOW_HALVES: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
/// Interleaves 16-bit lanes of two vectors.
const UNPACK_LOW: [u8; 16] = [0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23];
const UNPACK_HIGH: [u8; 16] = [8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31];

impl Lower<'_, '_> {
    /// Integer lanes of twice the width.
    fn widen(&mut self, pieces: &[ir::Value], lanes: u16, signed: bool) -> Pieces {
        let Some(&first) = pieces.first() else { return vec![] };
        let n = count(lanes, 2 * self.clif_type(first).lane_bits());
        let mut out = Vec::with_capacity(n + 1);
        for &p in pieces {
            let i = self.b.ins();
            out.push(if signed { i.swiden_low(p) } else { i.uwiden_low(p) });
            if out.len() < n {
                let i = self.b.ins();
                out.push(if signed { i.swiden_high(p) } else { i.uwiden_high(p) });
            }
        }
        out
    }

    /// Integer lanes of half the width, of values that fit as signed (`masks`) or as unsigned.
    fn narrow(&mut self, pieces: &[ir::Value], masks: bool) -> Pieces {
        let pair = |l: &mut Self, pair: &[ir::Value]| {
            let (a, b) = (pair[0], *pair.last().unwrap_or(&pair[0]));
            match l.clif_type(a) {
                types::I64X2 => {
                    let v = l.shuffle(a, b, EVEN_WORDS);
                    l.cast(v, types::I32X4)
                }
                _ if masks => l.b.ins().snarrow(a, b),
                _ => l.b.ins().unarrow(a, b),
            }
        };
        pieces.chunks(2).map(|p| pair(self, p)).collect()
    }

    /// A mask with lanes of `bits` bits.
    pub(super) fn mask_width(&mut self, mut pieces: Pieces, lanes: u16, bits: u32) -> Pieces {
        while let Some(&p) = pieces.first() {
            let now = self.clif_type(p).lane_bits();
            if now == bits || lanes == 1 {
                break;
            }
            pieces = if now < bits { self.widen(&pieces, lanes, true) } else { self.narrow(&pieces, true) };
        }
        pieces
    }

    pub(super) fn extend(&mut self, signed: bool, a: Value, to: Type) -> Pieces {
        let (from, lane) = (self.ty(a), lane_type(to.scalar));
        let mut pieces = self.get(a);
        if from.lanes == 1 {
            let v = pieces[0];
            return vec![match (from.scalar, lane) {
                (Scalar::I1, types::I8) => v,
                _ if signed => self.b.ins().sextend(lane, v),
                _ => self.b.ins().uextend(lane, v),
            }];
        }
        if from.scalar == Scalar::I1 {
            let one = self.splat_const(full(lane), 1);
            let masks = self.mask_width(pieces, from.lanes, lane.bits());
            return masks.into_iter().map(|m| self.b.ins().band(m, one)).collect();
        }
        while pieces.first().is_some_and(|&p| self.clif_type(p).lane_bits() < lane.bits()) {
            pieces = self.widen(&pieces, from.lanes, signed);
        }
        pieces
    }

    pub(super) fn truncate(&mut self, a: Value, to: Type) -> Pieces {
        let (from, lane) = (self.ty(a), lane_type(to.scalar));
        let mut pieces = self.get(a);
        if from.lanes == 1 {
            return vec![self.b.ins().ireduce(lane, pieces[0])];
        }
        if from.scalar == Scalar::I64 {
            pieces = self.narrow(&pieces, false);
        }
        if self.clif_type(pieces[0]).lane_bits() > lane.bits() {
            // With the high bits cleared the saturating pack instructions do not saturate.
            let ty = self.clif_type(pieces[0]);
            let low = self.splat_const(ty, u64::MAX >> (64 - lane.bits()));
            pieces = pieces.into_iter().map(|p| self.b.ins().band(p, low)).collect();
        }
        while self.clif_type(pieces[0]).lane_bits() > lane.bits() {
            pieces = self.narrow(&pieces, false);
        }
        pieces
    }

    pub(super) fn int_to_float(&mut self, a: Value, to: Type) -> Pieces {
        let (from, pieces) = (self.ty(a), self.get(a));
        if from.lanes == 1 {
            return vec![self.b.ins().fcvt_from_sint(lane_type(to.scalar), pieces[0])];
        }
        if to.scalar == Scalar::F32 {
            return pieces.into_iter().map(|p| self.b.ins().fcvt_from_sint(types::F32X4, p)).collect();
        }
        self.two_from_each(&pieces, from.lanes, |l, low| {
            let wide = l.b.ins().swiden_low(low);
            l.b.ins().fcvt_from_sint(types::F64X2, wide)
        })
    }

    /// Doubles lanes with an instruction that reads the low half of a vector.
    fn two_from_each(
        &mut self,
        pieces: &[ir::Value],
        lanes: u16,
        mut low: impl FnMut(&mut Self, ir::Value) -> ir::Value,
    ) -> Pieces {
        let n = count(lanes, 64);
        let mut out = Vec::with_capacity(n + 1);
        for &p in pieces {
            out.push(low(self, p));
            if out.len() < n {
                let high = self.rotate(p, 8);
                out.push(low(self, high));
            }
        }
        out
    }

    pub(super) fn float_to_int(&mut self, a: Value) -> Pieces {
        let to = if self.ty(a).lanes == 1 { types::I32 } else { types::I32X4 };
        self.get(a).into_iter().map(|p| self.b.ins().fcvt_to_sint_sat(to, p)).collect()
    }

    pub(super) fn widen_float(&mut self, a: Value, to: Type) -> Pieces {
        let (from, pieces) = (self.ty(a), self.get(a));
        let scalar = from.lanes == 1;
        match from.scalar {
            Scalar::F32 if scalar => vec![self.b.ins().fpromote(lane_type(to.scalar), pieces[0])],
            Scalar::F32 => self.two_from_each(&pieces, from.lanes, |l, p| l.b.ins().fvpromote_low(p)),
            half => {
                let high = self.in_high_half(&pieces, from.lanes);
                let wide = match half {
                    Scalar::F16 => self.f16_to_f32(high),
                    _ => self.cast_all(&high, types::F32X4),
                };
                self.back_to_scalar(wide, scalar)
            }
        }
    }

    /// 16-bit lanes, or a 16-bit scalar, as the upper half of 32-bit lanes.
    fn in_high_half(&mut self, pieces: &[ir::Value], lanes: u16) -> Pieces {
        if lanes == 1 {
            let wide = self.b.ins().uextend(types::I32, pieces[0]);
            let high = self.b.ins().ishl_imm_u(wide, 16);
            return vec![self.b.ins().scalar_to_vector(types::I32X4, high)];
        }
        let n = count(lanes, 32);
        let mut out = Vec::with_capacity(n + 1);
        for &p in pieces {
            let zero = self.splat_const(types::I16X8, 0);
            for mask in [UNPACK_LOW, UNPACK_HIGH] {
                if out.len() < n {
                    let v = self.shuffle(zero, p, mask);
                    out.push(self.cast(v, types::I32X4));
                }
            }
        }
        out
    }

    /// Lane 0 if the IR value is a scalar.
    pub(super) fn back_to_scalar(&mut self, pieces: Pieces, scalar: bool) -> Pieces {
        if scalar { vec![self.b.ins().extractlane(pieces[0], 0)] } else { pieces }
    }

    /// Half precision in the upper 16 bits to single: the exponent is moved to its place and rebiased by a product,
    /// which makes subnormals right; an exponent of all ones, which the product took for 2^16, is set again.
    fn f16_to_f32(&mut self, pieces: Pieces) -> Pieces {
        let int = types::I32X4;
        let keep = self.splat_const(int, 0x8fff_e000);
        let rebias = self.splat_const(types::F32X4, 0x7780_0000);
        let finite = self.splat_const(int, 0x1eff_ffff);
        let exponent = self.splat_const(int, 0x7f80_0000);
        let one = |l: &mut Self, v: ir::Value| {
            let moved = l.b.ins().sshr_imm_u(v, 3);
            let moved = l.b.ins().band(moved, keep);
            let float = l.cast(moved, types::F32X4);
            let float = l.b.ins().fmul(float, rebias);
            let unsigned = l.b.ins().ishl_imm_u(moved, 1);
            let special = l.b.ins().icmp(IntCC::SignedGreaterThan, unsigned, finite);
            let ones = l.b.ins().band(special, exponent);
            let bits = l.cast(float, int);
            let bits = l.b.ins().bor(bits, ones);
            l.cast(bits, types::F32X4)
        };
        pieces.into_iter().map(|v| one(self, v)).collect()
    }

    pub(super) fn narrow_float(&mut self, a: Value, to: Type) -> Pieces {
        let (from, mut pieces) = (self.ty(a), self.get(a));
        let scalar = from.lanes == 1;
        if from.scalar == Scalar::F64 {
            if scalar {
                return vec![self.b.ins().fdemote(types::F32, pieces[0])];
            }
            let demoted: Pieces = pieces.into_iter().map(|p| self.b.ins().fvdemote(p)).collect();
            let join = |l: &mut Self, pair: &[ir::Value]| match *pair {
                [a, b] => {
                    let v = l.shuffle(a, b, LOW_HALVES);
                    l.cast(v, types::F32X4)
                }
                _ => pair[0],
            };
            return demoted.chunks(2).map(|p| join(self, p)).collect();
        }
        if scalar {
            pieces = vec![self.b.ins().scalar_to_vector(types::F32X4, pieces[0])];
        }
        let one = |l: &mut Self, p| {
            let bits = l.cast(p, types::I32X4);
            if to.scalar == Scalar::F16 { l.f32_to_f16(bits) } else { l.f32_to_bf16(bits) }
        };
        let wide: Pieces = pieces.into_iter().map(|p| one(self, p)).collect();
        let narrow = self.narrow(&wide, false);
        self.back_to_scalar(narrow, scalar)
    }

    /// `v` plus half of the last place to be kept, ties to even: what is cut off then rounds.
    fn add_half(&mut self, v: ir::Value, cut: i64) -> ir::Value {
        let last = self.b.ins().ushr_imm_u(v, cut);
        let one = self.splat_const(types::I32X4, 1);
        let odd = self.b.ins().band(last, one);
        let half = self.splat_const(types::I32X4, (1 << (cut - 1)) - 1);
        let v = self.b.ins().iadd(v, half);
        self.b.ins().iadd(v, odd)
    }

    /// Bits of single precision to bits of half, to nearest even, in 32-bit lanes.
    fn f32_to_f16(&mut self, bits: ir::Value) -> ir::Value {
        let int = types::I32X4;
        let not_sign = self.splat_const(int, 0x7fff_ffff);
        let magnitude = self.b.ins().band(bits, not_sign);
        let sign = self.b.ins().bxor(bits, magnitude);

        let rebias = self.splat_const(int, 112 << 23);
        let rebiased = self.b.ins().isub(magnitude, rebias);
        let rounded = self.add_half(rebiased, 13);
        let normal = self.b.ins().ushr_imm_u(rounded, 13);

        // One place of 0.5 is the smallest subnormal, so adding 0.5 rounds to it.
        let half = self.splat_const(types::F32X4, 0x3f00_0000);
        let float = self.cast(magnitude, types::F32X4);
        let sum = self.b.ins().fadd(float, half);
        let sum = self.cast(sum, int);
        let half = self.cast(half, int);
        let subnormal = self.b.ins().isub(sum, half);
        let smallest = self.splat_const(int, 113 << 23);
        let small = self.b.ins().icmp(IntCC::SignedLessThan, magnitude, smallest);
        let finite = self.select_piece(small, subnormal, normal);

        let infinity = self.splat_const(int, 0x7c00);
        let largest = self.splat_const(int, 0x477f_ffff);
        let large = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, largest);
        let v = self.select_piece(large, infinity, finite);

        let payload = self.b.ins().ushr_imm_u(magnitude, 13);
        let low = self.splat_const(int, 0x3ff);
        let payload = self.b.ins().band(payload, low);
        let quiet = self.splat_const(int, 0x7e00);
        let nan = self.b.ins().bor(payload, quiet);
        let v = self.where_nan(bits, nan, v);
        let sign = self.b.ins().ushr_imm_u(sign, 16);
        self.b.ins().bor(v, sign)
    }

    fn f32_to_bf16(&mut self, bits: ir::Value) -> ir::Value {
        let rounded = self.add_half(bits, 16);
        let quiet = self.splat_const(types::I32X4, 0x0040_0000);
        let nan = self.b.ins().bor(bits, quiet);
        let v = self.where_nan(bits, nan, rounded);
        self.b.ins().ushr_imm_u(v, 16)
    }

    fn where_nan(&mut self, bits: ir::Value, nan: ir::Value, other: ir::Value) -> ir::Value {
        let float = self.cast(bits, types::F32X4);
        let is_nan = self.b.ins().fcmp(FloatCC::Unordered, float, float);
        self.select_piece(is_nan, nan, other)
    }
}
