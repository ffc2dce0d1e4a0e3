//! What the integer and bit instructions do to one lane.

use super::{Form, Half};

type L = [u64; 4];

fn clamp(f: &Form, v: i128) -> u64 {
    let (low, high) = (i32::MIN as i128, i32::MAX as i128);
    f.ty.mask(if f.sat { v.clamp(low, high) } else { v } as u64)
}

pub(super) fn add(f: &Form, [a, b, ..]: &L) -> u64 {
    if !f.sat {
        return f.ty.mask(a.wrapping_add(*b));
    }
    clamp(f, f.ty.extend(*a) + f.ty.extend(*b))
}

pub(super) fn sub(f: &Form, [a, b, ..]: &L) -> u64 {
    if !f.sat {
        return f.ty.mask(a.wrapping_sub(*b));
    }
    clamp(f, f.ty.extend(*a) - f.ty.extend(*b))
}

fn product(f: &Form, a: u64, b: u64) -> u64 {
    match f.half {
        Half::Low => f.ty.mask(a.wrapping_mul(b)),
        Half::High => f.ty.mask((wide(f, a, b) >> f.ty.bits()) as u64),
        Half::Wide => wide(f, a, b) as u64,
    }
}

/// Wraps at 128 bits only for u64 × u64, whose sign bit then is the product's own.
fn wide(f: &Form, a: u64, b: u64) -> u128 {
    if f.ty.signed() {
        f.ty.extend(a).wrapping_mul(f.ty.extend(b)) as u128
    } else {
        u128::from(f.ty.mask(a)) * u128::from(f.ty.mask(b))
    }
}

fn wide_mask(f: &Form, v: u64) -> u64 {
    match f.half {
        Half::Wide if f.ty.bits() == 16 => v & 0xffff_ffff,
        Half::Wide => v,
        _ => f.ty.mask(v),
    }
}

pub(super) fn mul(f: &Form, [a, b, ..]: &L) -> u64 {
    wide_mask(f, product(f, *a, *b))
}

pub(super) fn mad(f: &Form, [a, b, c, _]: &L) -> u64 {
    wide_mask(f, product(f, *a, *b).wrapping_add(*c))
}

/// Division by zero gives all ones, as the hardware does; PTX leaves it open.
pub(super) fn div(f: &Form, [a, b, ..]: &L) -> u64 {
    let (a, b) = (f.ty.extend(*a), f.ty.extend(*b));
    f.ty.mask(if b == 0 { u64::MAX } else { (a / b) as u64 })
}

pub(super) fn rem(f: &Form, [a, b, ..]: &L) -> u64 {
    let (a, b) = (f.ty.extend(*a), f.ty.extend(*b));
    f.ty.mask(if b == 0 { a } else { a % b } as u64)
}

pub(super) fn neg(f: &Form, [a, ..]: &L) -> u64 {
    f.ty.mask(a.wrapping_neg())
}

pub(super) fn abs(f: &Form, [a, ..]: &L) -> u64 {
    f.ty.mask(f.ty.extend(*a).unsigned_abs() as u64)
}

pub(super) fn min(f: &Form, [a, b, ..]: &L) -> u64 {
    if f.ty.extend(*a) <= f.ty.extend(*b) { *a } else { *b }
}

pub(super) fn max(f: &Form, [a, b, ..]: &L) -> u64 {
    if f.ty.extend(*a) >= f.ty.extend(*b) { *a } else { *b }
}

pub(super) fn and(_: &Form, [a, b, ..]: &L) -> u64 {
    a & b
}

pub(super) fn or(_: &Form, [a, b, ..]: &L) -> u64 {
    a | b
}

pub(super) fn xor(_: &Form, [a, b, ..]: &L) -> u64 {
    a ^ b
}

pub(super) fn not(f: &Form, [a, ..]: &L) -> u64 {
    f.ty.mask(!a)
}

pub(super) fn cnot(_: &Form, [a, ..]: &L) -> u64 {
    u64::from(*a == 0)
}

pub(super) fn shl(f: &Form, [a, b, ..]: &L) -> u64 {
    let n = *b as u32;
    if n >= f.ty.bits() { 0 } else { f.ty.mask(a << n) }
}

/// Shifts of the whole width or more leave the sign, or nothing.
pub(super) fn shr(f: &Form, [a, b, ..]: &L) -> u64 {
    let n = (*b as u32).min(f.ty.bits());
    f.ty.mask((f.ty.extend(*a) >> n) as u64)
}

pub(super) fn shf(f: &Form, [a, b, c, _]: &L) -> u64 {
    let n = *c as u32;
    let n = if f.imm & 2 != 0 { n.min(32) } else { n & 31 };
    let both = (b & 0xffff_ffff) << 32 | (a & 0xffff_ffff);
    if f.imm & 1 == 0 { (both << n) >> 32 } else { both >> n & 0xffff_ffff }
}

pub(super) fn bfe(f: &Form, [a, b, c, _]: &L) -> u64 {
    let (pos, len, bits) = (*b as u32 & 255, *c as u32 & 255, f.ty.bits());
    let a = f.ty.mask(*a);
    if len == 0 {
        return 0;
    }
    let sign = f.ty.signed() && a >> (pos + len - 1).min(bits - 1) & 1 == 1;
    let field = if pos >= bits { 0 } else { a >> pos };
    let keep = bits.saturating_sub(pos).min(len);
    let mask = if keep >= 64 { u64::MAX } else { (1 << keep) - 1 };
    f.ty.mask(if sign { field | !mask } else { field & mask })
}

pub(super) fn bfi(f: &Form, [a, b, c, d]: &L) -> u64 {
    let (pos, len, bits) = (*c as u32 & 255, *d as u32 & 255, f.ty.bits());
    if pos >= bits || len == 0 {
        return *b;
    }
    let keep = (bits - pos).min(len);
    let mask = if keep >= 64 { u64::MAX } else { ((1 << keep) - 1) << pos };
    f.ty.mask(b & !mask | a << pos & mask)
}

pub(super) fn prmt(_: &Form, [a, b, c, _]: &L) -> u64 {
    let bytes = ((b & 0xffff_ffff) << 32 | (a & 0xffff_ffff)).to_le_bytes();
    (0..4).fold(0, |r, i| {
        let sel = c >> (4 * i);
        let v = bytes[(sel & 7) as usize];
        let v = if sel & 8 != 0 { ((v as i8) >> 7) as u8 } else { v };
        r | u64::from(v) << (8 * i)
    })
}

/// Sum of the products whose bit is set in the table, as the manual puts it.
pub(super) fn lop3(f: &Form, [a, b, c, _]: &L) -> u64 {
    let pick = |i: u32, v: u64, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
    let terms = (0..8).filter(|i| f.imm >> i & 1 == 1).map(|i| pick(i, *a, 2) & pick(i, *b, 1) & pick(i, *c, 0));
    f.ty.mask(terms.fold(0, |r, t| r | t))
}

pub(super) fn popc(f: &Form, [a, ..]: &L) -> u64 {
    f.ty.mask(*a).count_ones().into()
}

pub(super) fn clz(f: &Form, [a, ..]: &L) -> u64 {
    (f.ty.mask(*a).leading_zeros() - (64 - f.ty.bits())).into()
}

pub(super) fn bfind(f: &Form, [a, ..]: &L) -> u64 {
    let v = f.ty.extend(*a);
    let v = f.ty.mask(if v < 0 { !v } else { v } as u64);
    if v == 0 { 0xffff_ffff } else { (63 - v.leading_zeros()).into() }
}

pub(super) fn brev(f: &Form, [a, ..]: &L) -> u64 {
    f.ty.mask(*a).reverse_bits() >> (64 - f.ty.bits())
}

/// `form.imm` bit 0: first factor signed, bit 1: second signed.
pub(super) fn dp4a(f: &Form, [a, b, c, _]: &L) -> u64 {
    let byte = |v: u64, i: u32, signed: bool| {
        let v = (v >> (8 * i)) as u8;
        if signed { i64::from(v as i8) } else { i64::from(v) }
    };
    let sum: i64 = (0..4).map(|i| byte(*a, i, f.imm & 1 != 0) * byte(*b, i, f.imm & 2 != 0)).sum();
    c.wrapping_add(sum as u64) & 0xffff_ffff
}

pub(super) fn copy(f: &Form, [a, ..]: &L) -> u64 {
    f.ty.mask(*a)
}

pub(super) fn zero(_: &Form, _: &L) -> u64 {
    0
}

pub(super) fn selp(_: &Form, [a, b, c, _]: &L) -> u64 {
    if c & 1 == 1 { *a } else { *b }
}

/// Adds what an address of a space is in generic addressing.
pub(super) fn to_generic(f: &Form, [a, ..]: &L) -> u64 {
    a.wrapping_add(f.base)
}

pub(super) fn from_generic(f: &Form, [a, ..]: &L) -> u64 {
    a.wrapping_sub(f.base)
}
