//! How arithmetic, logic, moves, conversions and comparisons are read: what a lane does alone.

use super::decode::{Dec, Res};
use super::*;

pub(super) fn no_float_bits(form: &Form) -> Res<()> {
    use Ty::*;
    if matches!(form.ty, F16 | F16x2 | BF16 | BF16x2 | F32 | F64) {
        return Ok(());
    }
    Err(format!("type {} is none that this instruction computes with", form.ty.name()))
}

/// f64 only rounds to nearest here; f16 and bf16 nowhere else.
pub(super) fn rounding(form: &Form) -> Res<()> {
    if form.ty != Ty::F32 && form.round != Round::Near {
        return Err(format!("only .rn is known to the emulator for {}", form.ty.name()));
    }
    Ok(())
}

pub(super) fn floats(d: &mut Dec<'_>, f: LaneFn, n: usize) -> Res<Op> {
    d.ignore(&["approx", "full", "noftz"]);
    let form = d.form()?;
    no_float_bits(&form)?;
    rounding(&form)?;
    d.lane(f, form, n)
}

pub(super) fn ints(d: &mut Dec<'_>, f: LaneFn, n: usize) -> Res<Op> {
    let form = d.form()?;
    if !form.ty.integer() || form.ty.size() < 2 {
        return Err(format!("type {} is none that this instruction computes with", form.ty.name()));
    }
    d.lane(f, form, n)
}

pub(super) fn either(d: &mut Dec<'_>, int: LaneFn, float: LaneFn, n: usize) -> Res<Op> {
    d.ignore(&["approx", "full", "noftz"]);
    let form = d.form()?;
    if form.ty.integer() && form.ty.size() >= 2 {
        return d.lane(int, form, n);
    }
    no_float_bits(&form)?;
    rounding(&form)?;
    d.lane(float, form, n)
}

pub(super) fn product(d: &mut Dec<'_>, int: LaneFn, float: LaneFn, n: usize) -> Res<Op> {
    let half = d.choose(&[("lo", Half::Low), ("hi", Half::High), ("wide", Half::Wide)]);
    let mut form = d.form()?;
    if form.ty.float() {
        no_float_bits(&form)?;
        rounding(&form)?;
        return d.lane(float, form, n);
    }
    form.half = half.ok_or("a product of integers says .lo, .hi or .wide")?;
    let ty = form.ty;
    if form.half != Half::Wide {
        return d.lane(int, form, n);
    }
    let to = match ty.bits() {
        16 => Ty::B32,
        32 => Ty::B64,
        _ => return Err(".wide is for 16 and 32 bits".into()),
    };
    d.lane_of(int, form, to, &[ty, ty, to][..n])
}

/// The logic instructions also work on predicates.
pub(super) fn logic(d: &mut Dec<'_>, f: LaneFn, n: usize) -> Res<Op> {
    let form = d.form()?;
    if form.ty.float() {
        return Err(format!("type {} is none that this instruction computes with", form.ty.name()));
    }
    d.lane(f, form, n)
}

pub(super) fn shift(d: &mut Dec<'_>, f: LaneFn) -> Res<Op> {
    let form = d.form()?;
    if !form.ty.integer() {
        return Err("a shift is of integers".into());
    }
    d.lane_of(f, form, form.ty, &[form.ty, Ty::U32])
}

pub(super) fn funnel(d: &mut Dec<'_>) -> Res<Op> {
    let right = d.need("the direction", &[("l", 0), ("r", 1)])?;
    let clamp = d.need("the mode", &[("wrap", 0), ("clamp", 2)])?;
    let mut form = d.form()?;
    form.imm = right | clamp;
    d.lane_of(int::shf, form, Ty::B32, &[Ty::B32, Ty::B32, Ty::U32])
}

/// `sources`: all but two, position and length, are of the full type.
pub(super) fn fields(d: &mut Dec<'_>, f: LaneFn, sources: usize) -> Res<Op> {
    let form = d.form()?;
    if !form.ty.integer() || form.ty.size() < 4 {
        return Err("bit fields are of 32 or 64 bits".into());
    }
    let types = [form.ty, form.ty, Ty::U32, Ty::U32];
    d.lane_of(f, form, form.ty, &types[4 - sources..])
}

pub(super) fn lop3(d: &mut Dec<'_>) -> Res<Op> {
    let mut form = d.form()?;
    form.imm = d.constant(4)? as u32;
    d.count(5, 5)?;
    d.ops = &d.ops[..4];
    d.lane_of(int::lop3, form, Ty::B32, &[Ty::B32; 3])
}

pub(super) fn counts(d: &mut Dec<'_>, f: LaneFn) -> Res<Op> {
    let form = d.form()?;
    if form.ty.float() || form.ty.size() < 4 {
        return Err("bits are counted of 32 or 64 of them".into());
    }
    d.lane_of(f, form, Ty::U32, &[form.ty])
}

pub(super) fn dp4a(d: &mut Dec<'_>) -> Res<Op> {
    let mut form = d.form()?;
    let second = d.ty()?;
    if form.ty.size() != 4 || second.size() != 4 {
        return Err("dp4a is of .u32 and .s32".into());
    }
    form.imm = u32::from(form.ty.signed()) | u32::from(second.signed()) << 1;
    d.lane_of(int::dp4a, form, Ty::B32, &[Ty::B32; 3])
}

pub(super) fn mov(d: &mut Dec<'_>) -> Res<Op> {
    use crate::parse::inst::Operand;
    let form = d.form()?;
    d.count(2, 2)?;
    let part = |n: usize| match form.ty.bits() / n as u32 {
        8 => Ok(Ty::B8),
        16 => Ok(Ty::B16),
        32 => Ok(Ty::B32),
        _ => Err(format!("{n} parts of {} are not known to the emulator", form.ty.name())),
    };
    match (&d.ops[0], &d.ops[1]) {
        (_, Operand::Vector(v)) => {
            let ty = part(v.len())?;
            Ok(Op::Pack { dst: d.reg(0, form.ty)?, parts: d.store_src(1, v.len(), ty)?, bits: ty.bits() })
        }
        (Operand::Vector(v), _) => {
            let ty = part(v.len())?;
            Ok(Op::Unpack { dst: d.load_dst(0, v.len(), ty)?, src: d.src(1, form.ty)?, bits: ty.bits() })
        }
        _ => d.lane(int::copy, form, 1),
    }
}

pub(super) fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Const => CONST_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Generic => 0,
    }
}

pub(super) fn cvta(d: &mut Dec<'_>) -> Res<Op> {
    let to = d.flag("to");
    let space = d.space();
    let mut form = d.form()?;
    if space == Space::Generic || form.ty.size() < 8 {
        return Err("cvta names a space and .u64".into());
    }
    form.base = window(space);
    d.lane(if to { int::from_generic } else { int::to_generic }, form, 1)
}

/// Cache policies change no result: any number will do.
pub(super) fn policy(d: &mut Dec<'_>) -> Res<Op> {
    d.cache();
    d.ignore(&["fractional"]);
    let form = d.form()?;
    let dst = Some(d.reg(0, Ty::B64)?);
    Ok(Op::Lane { f: int::zero, form, dst, dst2: None, src: [Src::Imm(0); 4], sources: 0 })
}

pub(super) fn cvt(d: &mut Dec<'_>) -> Res<Op> {
    let finite = d.flag("satfinite");
    let integral = d.choose(&[("rni", Round::Near), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
    let mut form = d.form()?;
    form.from = d.ty()?;
    form.finite = finite;
    let (to, from) = (form.ty, form.from);
    match integral {
        Some(r) => (form.round, form.integral) = (r, true),
        None if from.float() && to.integer() => return Err("float to integer says .rni, .rzi, .rmi or .rpi".into()),
        None => {}
    }
    if matches!(to, Ty::Pred | Ty::E4M3 | Ty::E5M2) || matches!(from, Ty::Pred | Ty::E4M3 | Ty::E5M2) {
        return Err(format!("cvt from {} to {} is not known to the emulator", from.name(), to.name()));
    }
    if to.half().is_some() {
        let pair = from == Ty::F32;
        if !pair && from.half().is_none() {
            return Err(format!("cvt from {} to {} is not known to the emulator", from.name(), to.name()));
        }
        return d.lane_of(convert::cvt, form, to, &[from; 2][..1 + usize::from(pair)]);
    }
    if from.half().is_some() {
        return Err(format!("cvt from {} to {} is not known to the emulator", from.name(), to.name()));
    }
    // Registers may be wider than integer types: the value is extended, or taken from the low bits.
    d.count(2, 2)?;
    let dst = d.load_dst(0, 1, to)?[0].ok_or("cvt writes a register")?;
    let src = d.store_src(1, 1, from)?[0];
    let widened = d.reg_type(dst);
    if to.integer() && widened.size() > to.size() {
        form.imm = widened.bits();
        let f: LaneFn = |f, v| {
            let r = f.ty.extend(convert::cvt(f, v)) as u64;
            if f.imm >= 64 { r } else { r & ((1 << f.imm) - 1) }
        };
        let src = [src, Src::Imm(0), Src::Imm(0), Src::Imm(0)];
        return Ok(Op::Lane { f, form, dst: Some(dst), dst2: None, src, sources: 1 });
    }
    let src = [src, Src::Imm(0), Src::Imm(0), Src::Imm(0)];
    Ok(Op::Lane { f: convert::cvt, form, dst: Some(dst), dst2: None, src, sources: 1 })
}

pub(super) const fn cmp(less: bool, equal: bool, greater: bool, unordered: bool) -> Cmp {
    Cmp { less, equal, greater, unordered }
}

const COMPARISONS: &[(&str, Cmp)] = &[
    ("eq", cmp(false, true, false, false)),
    ("ne", cmp(true, false, true, false)),
    ("lt", cmp(true, false, false, false)),
    ("le", cmp(true, true, false, false)),
    ("gt", cmp(false, false, true, false)),
    ("ge", cmp(false, true, true, false)),
    ("lo", cmp(true, false, false, false)),
    ("ls", cmp(true, true, false, false)),
    ("hi", cmp(false, false, true, false)),
    ("hs", cmp(false, true, true, false)),
    ("equ", cmp(false, true, false, true)),
    ("neu", cmp(true, false, true, true)),
    ("ltu", cmp(true, false, false, true)),
    ("leu", cmp(true, true, false, true)),
    ("gtu", cmp(false, false, true, true)),
    ("geu", cmp(false, true, true, true)),
    ("num", cmp(true, true, true, false)),
    ("nan", cmp(false, false, false, true)),
];

/// Bit 0 is the predicate, bit 1 the one behind `|`. `imm`: 0 plain, 1 and, 2 or, 3 xor; bit 2 negates the third source.
pub(super) fn compare(f: &Form, [a, b, c, _]: &[u64; 4]) -> u64 {
    use std::cmp::Ordering::*;
    let yes = match float::compare(f, *a, *b) {
        Some(Less) => f.cmp.less,
        Some(Equal) => f.cmp.equal,
        Some(Greater) => f.cmp.greater,
        None => f.cmp.unordered,
    };
    let c = (c & 1 == 1) != (f.imm & 4 != 0);
    let join = |v: bool| match f.imm & 3 {
        0 => v,
        1 => v && c,
        2 => v || c,
        _ => v != c,
    };
    u64::from(join(yes)) | u64::from(join(!yes)) << 1
}

pub(super) fn setp(d: &mut Dec<'_>) -> Res<Op> {
    let cmp = d.need("the comparison", COMPARISONS)?;
    let join = d.choose(&[("and", 1), ("or", 2), ("xor", 3)]);
    let mut form = d.form()?;
    form.cmp = cmp;
    if matches!(form.ty, Ty::Pred) || form.ty.half().is_some() {
        return Err(format!("setp of {} is not known to the emulator", form.ty.name()));
    }
    d.count(3 + usize::from(join.is_some()), 3 + usize::from(join.is_some()))?;
    let (dst, dst2) = d.pair(0, Ty::Pred)?;
    let mut src = [d.src(1, form.ty)?, d.src(2, form.ty)?, Src::Imm(0), Src::Imm(0)];
    if let Some(j) = join {
        let (p, negate) = d.pred(3)?;
        src[2] = p;
        form.imm = j | u32::from(negate) << 2;
    }
    Ok(Op::Lane { f: compare, form, dst, dst2, src, sources: 2 + u8::from(join.is_some()) })
}

pub(super) fn selp(d: &mut Dec<'_>) -> Res<Op> {
    let form = d.form()?;
    d.lane_of(int::selp, form, form.ty, &[form.ty, form.ty, Ty::Pred])
}
