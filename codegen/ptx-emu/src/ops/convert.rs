//! `cvt`: every pair of number types, through f64 or, between integers, through i128.

use super::Form;
use crate::num::{self, Format, Round};
use crate::ty::Ty;

/// The format of a floating-point type of up to 32 bits.
pub(crate) fn format(ty: Ty) -> Option<Format> {
    Some(match ty {
        Ty::F16 | Ty::F16x2 => num::F16,
        Ty::BF16 | Ty::BF16x2 => num::BF16,
        Ty::F32 => num::F32,
        Ty::TF32 => num::TF32,
        Ty::E4M3 | Ty::E4M3x2 => num::E4M3,
        Ty::E5M2 | Ty::E5M2x2 => num::E5M2,
        _ => return None,
    })
}

/// A value as f64; f32, the narrow types and small integers are exact, 64-bit integers rounded to odd.
fn value(ty: Ty, bits: u64) -> f64 {
    match (format(ty), ty) {
        (Some(f), Ty::TF32) => f.decode(bits >> 13),
        (Some(f), _) => f.decode(ty.mask(bits)),
        (None, Ty::F64) => f64::from_bits(bits),
        _ => {
            let n = ty.extend(bits);
            let low = n & 0xffff_ffff;
            num::add_odd((n - low) as f64, low as f64)
        }
    }
}

fn integral(v: f64, round: Round) -> f64 {
    match round {
        Round::Near => v.round_ties_even(),
        Round::Away => v.round(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

fn limits(ty: Ty) -> (i128, i128) {
    let n = ty.bits();
    if ty.signed() { (-(1 << (n - 1)), (1 << (n - 1)) - 1) } else { (0, (1 << n) - 1) }
}

fn one(f: &Form, to: Ty, from: Ty, bits: u64) -> u64 {
    if from.integer() && to.integer() {
        let (low, high) = limits(to);
        let n = from.extend(bits);
        return to.mask(if f.sat { n.clamp(low, high) } else { n } as u64);
    }
    let mut v = value(from, bits);
    if f.ftz && from == Ty::F32 && f32::from_bits(bits as u32).is_subnormal() {
        v = 0f64.copysign(v);
    }
    if to.integer() {
        let (low, high) = limits(to);
        // `as` saturates and takes NaN to zero, which is what PTX says.
        return to.mask((integral(v, f.round) as i128).clamp(low, high) as u64);
    }
    if f.integral {
        v = integral(v, f.round);
    }
    if f.relu && (v < 0.0 || v.is_nan()) {
        v = if v.is_nan() { v } else { 0.0 };
    }
    if f.sat && to.float() {
        v = if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) + 0.0 };
    }
    match (format(to), to) {
        (Some(t), Ty::TF32) => t.encode(v, f.round, f.finite) << 13,
        (Some(t), _) => {
            let r = t.encode(v, f.round, f.finite);
            let tiny = f.ftz && to == Ty::F32 && f32::from_bits(r as u32).is_subnormal();
            if tiny { r & 0x8000_0000 } else { r }
        }
        _ if from.integer() && from.bits() == 64 => exact_f64(from.extend(bits), f.round).to_bits(),
        _ => v.to_bits(),
    }
}

/// 64-bit integers do not all fit f64, so the rounding matters.
fn exact_f64(n: i128, round: Round) -> f64 {
    let near = n as f64;
    let over = near as i128 - n;
    let step = |up: bool| if up { near.next_up() } else { near.next_down() };
    match round {
        Round::Zero if over.signum() == n.signum() && over != 0 => step(n < 0),
        Round::Down if over > 0 => step(false),
        Round::Up if over < 0 => step(true),
        _ => near,
    }
}

/// Plain and packed; a pair from two f32 has its first source in the upper half.
pub(super) fn cvt(f: &Form, [a, b, ..]: &[u64; 4]) -> u64 {
    match (f.ty.half(), f.from.half()) {
        (Some(to), Some(from)) => {
            let (n, m) = (to.bits(), from.bits());
            one(f, to, from, from.mask(*a)) | one(f, to, from, from.mask(a >> m)) << n
        }
        (Some(to), None) => one(f, to, f.from, *b) | one(f, to, f.from, *a) << to.bits(),
        _ => one(f, f.ty, f.from, *a),
    }
}
