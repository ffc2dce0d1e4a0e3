//! What the floating-point instructions do to one lane. f32 and f64 round once; packed pairs go half by half; the `.approx`
//! functions are computed in f64 and rounded, which is within any error that PTX documents.

use super::Form;
use crate::num::{self, Round};
use crate::ty::Ty;

type L = [u64; 4];
/// The same function in three precisions: f32, f64, and narrow types by way of f64 (exact or rounded to odd).
type Three<const N: usize> = (fn(&Form, [f32; N]) -> f32, fn([f64; N]) -> f64, fn([f64; N]) -> f64);

fn f32_of(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn flush(f: &Form, v: f32) -> f32 {
    if f.ftz && v.is_subnormal() { 0f32.copysign(v) } else { v }
}

fn finish32(f: &Form, v: f32) -> u64 {
    let v = flush(f, v);
    if v.is_nan() {
        return if f.sat { 0 } else { 0x7fff_ffff };
    }
    // `+ 0.0` because -0.0 clamps to itself, and saturation gives +0.0.
    (if f.sat { v.clamp(0.0, 1.0) + 0.0 } else { v }).to_bits().into()
}

fn narrow<const N: usize>(f: &Form, ty: Ty, v: [u64; N], op: fn([f64; N]) -> f64) -> u64 {
    let format = if ty == Ty::F16 { num::F16 } else { num::BF16 };
    let r = op(v.map(|b| format.decode(b & 0xffff)));
    let r = if f.sat { if r.is_nan() { 0.0 } else { r.clamp(0.0, 1.0) } } else { r };
    let r = if f.relu && (r < 0.0) { 0.0 } else { r };
    let bits = format.encode(r, f.round, false);
    if f.ftz && bits & 0x7fff < 1 << format.mantissa { bits & 0x8000 } else { bits }
}

fn apply<const N: usize>(f: &Form, v: &L, (single, double, small): Three<N>) -> u64 {
    let v: [u64; N] = std::array::from_fn(|i| v[i]);
    match f.ty {
        Ty::F32 => finish32(f, single(f, v.map(|b| flush(f, f32_of(b))))),
        Ty::F64 => double(v.map(f64::from_bits)).to_bits(),
        Ty::F16 | Ty::BF16 => narrow(f, f.ty, v, small),
        _ => {
            let half = f.ty.half().unwrap_or(Ty::F16);
            narrow(f, half, v, small) | narrow(f, half, v.map(|b| b >> 16), small) << 16
        }
    }
}

/// An f32 from an f64 that is exact or rounded to odd.
fn single(f: &Form, v: f64) -> f32 {
    f32::from_bits(num::F32.encode(v, f.round, false) as u32)
}

/// Two f32 whose sum is an exact zero: its sign follows the rounding.
fn add32(f: &Form, [a, b]: [f32; 2]) -> f32 {
    let s = a + b;
    match f.round {
        Round::Near => s,
        Round::Down if s == 0.0 && a == -b => {
            if a == 0.0 && a.is_sign_positive() && b.is_sign_positive() {
                0.0
            } else {
                -0.0
            }
        }
        _ if s == 0.0 => s,
        _ => single(f, num::add_odd(a.into(), b.into())),
    }
}

pub(super) fn add(f: &Form, v: &L) -> u64 {
    apply(f, v, (add32, |[a, b]| a + b, |[a, b]| num::add_odd(a, b)))
}

pub(super) fn sub(f: &Form, v: &L) -> u64 {
    apply(f, v, (|f, [a, b]| add32(f, [a, -b]), |[a, b]| a - b, |[a, b]| num::add_odd(a, -b)))
}

pub(super) fn mul(f: &Form, v: &L) -> u64 {
    apply(f, v, (|f, [a, b]| single(f, f64::from(a) * f64::from(b)), |[a, b]| a * b, |[a, b]| a * b))
}

pub(super) fn fma(f: &Form, v: &L) -> u64 {
    fn one(f: &Form, [a, b, c]: [f32; 3]) -> f32 {
        if f.round == Round::Near {
            return a.mul_add(b, c);
        }
        single(f, num::fma_odd(a.into(), b.into(), c.into()))
    }
    apply(f, v, (one, |[a, b, c]| a.mul_add(b, c), |[a, b, c]| num::fma_odd(a, b, c)))
}

pub(super) fn div(f: &Form, v: &L) -> u64 {
    apply(f, v, (|f, [a, b]| single(f, num::div_odd(a.into(), b.into())), |[a, b]| a / b, |[a, b]| a / b))
}

pub(super) fn rcp(f: &Form, v: &L) -> u64 {
    apply(f, v, (|f, [a]| single(f, num::div_odd(1.0, a.into())), |[a]| 1.0 / a, |[a]| 1.0 / a))
}

pub(super) fn sqrt(f: &Form, v: &L) -> u64 {
    apply(f, v, (|f, [a]| single(f, num::sqrt_odd(a.into())), |[a]| a.sqrt(), |[a]| a.sqrt()))
}

macro_rules! by_f64 {
    ($($name:ident = $e:expr;)*) => {$(
        pub(super) fn $name(f: &Form, v: &L) -> u64 {
            let op: fn([f64; 1]) -> f64 = |[a]| $e(a);
            apply(f, v, (|f, [a]| { let op: fn(f64) -> f64 = |a| $e(a); single(f, op(a.into())) }, op, op))
        }
    )*};
}

by_f64! {
    rsqrt = |a: f64| 1.0 / a.sqrt();
    ex2 = |a: f64| a.exp2();
    lg2 = |a: f64| a.log2();
    sin = |a: f64| a.sin();
    cos = |a: f64| a.cos();
    tanh = |a: f64| a.tanh();
}

/// Sign bits only: no rounding, and NaNs keep their payload.
fn signs(f: &Form, v: u64, op: fn(u64, u64) -> u64) -> u64 {
    let top = match f.ty.half() {
        Some(_) => 0x8000_8000,
        None => 1 << (f.ty.bits() - 1),
    };
    let v = if f.ty == Ty::F32 { flush(f, f32_of(v)).to_bits().into() } else { v };
    op(v, top)
}

pub(super) fn neg(f: &Form, v: &L) -> u64 {
    signs(f, v[0], |v, top| v ^ top)
}

pub(super) fn abs(f: &Form, v: &L) -> u64 {
    signs(f, v[0], |v, top| v & !top)
}

fn smaller(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        // -0.0 is below +0.0.
        _ if a < b || a == b && a.is_sign_negative() => a,
        _ => b,
    }
}

fn least(f: &Form, a: f64, b: f64) -> f64 {
    if f.nan && (a.is_nan() || b.is_nan()) { f64::NAN } else { smaller(a, b) }
}

pub(super) fn min(f: &Form, v: &L) -> u64 {
    if f.nan {
        let nan: fn([f64; 2]) -> f64 = |[a, b]| if a.is_nan() || b.is_nan() { f64::NAN } else { smaller(a, b) };
        return apply(f, v, (|f, [a, b]| least(f, a.into(), b.into()) as f32, nan, nan));
    }
    apply(f, v, (|f, [a, b]| least(f, a.into(), b.into()) as f32, |[a, b]| smaller(a, b), |[a, b]| smaller(a, b)))
}

pub(super) fn max(f: &Form, v: &L) -> u64 {
    if f.nan {
        let nan: fn([f64; 2]) -> f64 = |[a, b]| if a.is_nan() || b.is_nan() { f64::NAN } else { -smaller(-a, -b) };
        return apply(f, v, (|f, [a, b]| -least(f, -f64::from(a), -f64::from(b)) as f32, nan, nan));
    }
    let plain: fn([f64; 2]) -> f64 = |[a, b]| -smaller(-a, -b);
    apply(f, v, (|f, [a, b]| -least(f, -f64::from(a), -f64::from(b)) as f32, plain, plain))
}

/// Comparison as PTX orders it: `None` where one is NaN.
pub(super) fn compare(f: &Form, a: u64, b: u64) -> Option<std::cmp::Ordering> {
    match f.ty {
        Ty::F32 => flush(f, f32_of(a)).partial_cmp(&flush(f, f32_of(b))),
        Ty::F64 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        Ty::F16 => num::F16.decode(a).partial_cmp(&num::F16.decode(b)),
        Ty::BF16 => num::BF16.decode(a).partial_cmp(&num::BF16.decode(b)),
        _ => Some(f.ty.extend(a).cmp(&f.ty.extend(b))),
    }
}
