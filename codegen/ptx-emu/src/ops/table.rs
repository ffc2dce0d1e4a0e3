//! The instructions: root of the name, class, and how its operands are read.

use super::decode::{Dec, Res};
use super::*;

/// A line of the table.
pub(super) struct Entry {
    pub root: &'static str,
    pub class: Class,
    pub decode: fn(&mut Dec<'_>) -> Res<Op>,
}

const fn entry(root: &'static str, class: Class, decode: fn(&mut Dec<'_>) -> Res<Op>) -> Entry {
    Entry { root, class, decode }
}

/// Every instruction that the emulator knows.
pub(super) const TABLE: &[Entry] = &[
    entry("add", Class::Integer, |d| either(d, int::add, float::add, 2)),
    entry("sub", Class::Integer, |d| either(d, int::sub, float::sub, 2)),
    entry("mul", Class::Integer, |d| product(d, int::mul, float::mul, 2)),
    entry("mad", Class::Integer, |d| product(d, int::mad, float::fma, 3)),
    entry("fma", Class::Float, |d| floats(d, float::fma, 3)),
    entry("div", Class::Float, |d| either(d, int::div, float::div, 2)),
    entry("rem", Class::Integer, |d| ints(d, int::rem, 2)),
    entry("neg", Class::Integer, |d| either(d, int::neg, float::neg, 1)),
    entry("abs", Class::Integer, |d| either(d, int::abs, float::abs, 1)),
    entry("min", Class::Integer, |d| either(d, int::min, float::min, 2)),
    entry("max", Class::Integer, |d| either(d, int::max, float::max, 2)),
    entry("rcp", Class::Float, |d| floats(d, float::rcp, 1)),
    entry("sqrt", Class::Float, |d| floats(d, float::sqrt, 1)),
    entry("rsqrt", Class::Float, |d| floats(d, float::rsqrt, 1)),
    entry("ex2", Class::Float, |d| floats(d, float::ex2, 1)),
    entry("lg2", Class::Float, |d| floats(d, float::lg2, 1)),
    entry("sin", Class::Float, |d| floats(d, float::sin, 1)),
    entry("cos", Class::Float, |d| floats(d, float::cos, 1)),
    entry("tanh", Class::Float, |d| floats(d, float::tanh, 1)),
    entry("and", Class::Integer, |d| logic(d, int::and, 2)),
    entry("or", Class::Integer, |d| logic(d, int::or, 2)),
    entry("xor", Class::Integer, |d| logic(d, int::xor, 2)),
    entry("not", Class::Integer, |d| logic(d, int::not, 1)),
    entry("cnot", Class::Integer, |d| ints(d, int::cnot, 1)),
    entry("shl", Class::Integer, |d| shift(d, int::shl)),
    entry("shr", Class::Integer, |d| shift(d, int::shr)),
    entry("shf", Class::Integer, funnel),
    entry("bfe", Class::Integer, |d| fields(d, int::bfe, 3)),
    entry("bfi", Class::Integer, |d| fields(d, int::bfi, 4)),
    entry("prmt", Class::Integer, |d| ints(d, int::prmt, 3)),
    entry("lop3", Class::Integer, lop3),
    entry("popc", Class::Integer, |d| counts(d, int::popc)),
    entry("clz", Class::Integer, |d| counts(d, int::clz)),
    entry("bfind", Class::Integer, |d| counts(d, int::bfind)),
    entry("brev", Class::Integer, |d| ints(d, int::brev, 1)),
    entry("dp4a", Class::Integer, dp4a),
    entry("mov", Class::Move, mov),
    entry("cvta", Class::Move, cvta),
    entry("createpolicy", Class::Move, policy),
    entry("cvt", Class::Convert, cvt),
    entry("setp", Class::Compare, setp),
    entry("selp", Class::Compare, selp),
    entry("bra", Class::Control, branch),
    entry("ret", Class::Control, |d| alone(d, &["uni"], Op::Exit)),
    entry("exit", Class::Control, |d| alone(d, &[], Op::Exit)),
    entry("trap", Class::Control, |d| alone(d, &[], Op::Trap)),
    entry("nanosleep", Class::Control, |d| hint(d, &["u32"], Op::Sleep)),
    entry("setmaxnreg", Class::Control, |d| hint(d, &["inc", "dec", "sync", "aligned", "u32"], Op::Nop)),
    entry("prefetch", Class::Load, |d| {
        d.cache();
        hint(d, &["global", "local", "L1", "L2"], Op::Nop)
    }),
    entry("griddepcontrol", Class::Synchronise, |d| {
        let op = d.choose(&[("wait", false), ("launch_dependents", true)]);
        let launch = op.ok_or("griddepcontrol waits or launches dependents")?;
        alone(d, &[], if launch { Op::GridLaunch } else { Op::GridWait })
    }),
    entry("ld", Class::Load, load),
    entry("ldu", Class::Load, load),
    entry("st", Class::Store, store),
    entry("atom", Class::Atomic, |d| atomic(d, true)),
    entry("red", Class::Atomic, |d| atomic(d, false)),
    entry("cp", Class::AsyncCopy, copy_async),
    entry("mbarrier", Class::Synchronise, mbarrier),
    entry("bar", Class::Synchronise, barrier),
    entry("barrier", Class::Synchronise, barrier),
    entry("fence", Class::Synchronise, fence),
    entry("membar", Class::Synchronise, fence),
    entry("shfl", Class::Warp, shuffle),
    entry("vote", Class::Warp, vote),
    entry("redux", Class::Warp, redux),
    entry("match", Class::Warp, matching),
    entry("activemask", Class::Warp, |d| {
        d.flag("b32");
        Ok(Op::ActiveMask { dst: d.reg(0, Ty::B32)? })
    }),
    entry("elect", Class::Warp, |d| {
        d.flag("sync");
        let (dst, ok) = d.pair(0, Ty::B32)?;
        Ok(Op::Elect { dst, ok: ok.ok_or("elect.sync writes a predicate")?, mask: d.src(1, Ty::B32)? })
    }),
    entry("ldmatrix", Class::Matrix, |d| matrix(d, true)),
    entry("stmatrix", Class::Matrix, |d| matrix(d, false)),
    entry("mma", Class::Matrix, mma),
];

fn no_float_bits(form: &Form) -> Res<()> {
    use Ty::*;
    if matches!(form.ty, F16 | F16x2 | BF16 | BF16x2 | F32 | F64) {
        return Ok(());
    }
    Err(format!("type {} is none that this instruction computes with", form.ty.name()))
}

/// f64 only rounds to nearest here; f16 and bf16 nowhere else.
fn rounding(form: &Form) -> Res<()> {
    if form.ty != Ty::F32 && form.round != Round::Near {
        return Err(format!("only .rn is known to the emulator for {}", form.ty.name()));
    }
    Ok(())
}

fn floats(d: &mut Dec<'_>, f: LaneFn, n: usize) -> Res<Op> {
    d.ignore(&["approx", "full", "noftz"]);
    let form = d.form()?;
    no_float_bits(&form)?;
    rounding(&form)?;
    d.lane(f, form, n)
}

fn ints(d: &mut Dec<'_>, f: LaneFn, n: usize) -> Res<Op> {
    let form = d.form()?;
    if !form.ty.integer() || form.ty.size() < 2 {
        return Err(format!("type {} is none that this instruction computes with", form.ty.name()));
    }
    d.lane(f, form, n)
}

fn either(d: &mut Dec<'_>, int: LaneFn, float: LaneFn, n: usize) -> Res<Op> {
    d.ignore(&["approx", "full", "noftz"]);
    let form = d.form()?;
    if form.ty.integer() && form.ty.size() >= 2 {
        return d.lane(int, form, n);
    }
    no_float_bits(&form)?;
    rounding(&form)?;
    d.lane(float, form, n)
}

fn product(d: &mut Dec<'_>, int: LaneFn, float: LaneFn, n: usize) -> Res<Op> {
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
fn logic(d: &mut Dec<'_>, f: LaneFn, n: usize) -> Res<Op> {
    let form = d.form()?;
    if form.ty.float() {
        return Err(format!("type {} is none that this instruction computes with", form.ty.name()));
    }
    d.lane(f, form, n)
}

fn shift(d: &mut Dec<'_>, f: LaneFn) -> Res<Op> {
    let form = d.form()?;
    if !form.ty.integer() {
        return Err("a shift is of integers".into());
    }
    d.lane_of(f, form, form.ty, &[form.ty, Ty::U32])
}

fn funnel(d: &mut Dec<'_>) -> Res<Op> {
    let right = d.need("the direction", &[("l", 0), ("r", 1)])?;
    let clamp = d.need("the mode", &[("wrap", 0), ("clamp", 2)])?;
    let mut form = d.form()?;
    form.imm = right | clamp;
    d.lane_of(int::shf, form, Ty::B32, &[Ty::B32, Ty::B32, Ty::U32])
}

/// `sources`: all but two, position and length, are of the full type.
fn fields(d: &mut Dec<'_>, f: LaneFn, sources: usize) -> Res<Op> {
    let form = d.form()?;
    if !form.ty.integer() || form.ty.size() < 4 {
        return Err("bit fields are of 32 or 64 bits".into());
    }
    let types = [form.ty, form.ty, Ty::U32, Ty::U32];
    d.lane_of(f, form, form.ty, &types[4 - sources..])
}

fn lop3(d: &mut Dec<'_>) -> Res<Op> {
    let mut form = d.form()?;
    form.imm = d.constant(4)? as u32;
    d.count(5, 5)?;
    d.ops = &d.ops[..4];
    d.lane_of(int::lop3, form, Ty::B32, &[Ty::B32; 3])
}

fn counts(d: &mut Dec<'_>, f: LaneFn) -> Res<Op> {
    let form = d.form()?;
    if form.ty.float() || form.ty.size() < 4 {
        return Err("bits are counted of 32 or 64 of them".into());
    }
    d.lane_of(f, form, Ty::U32, &[form.ty])
}

fn dp4a(d: &mut Dec<'_>) -> Res<Op> {
    let mut form = d.form()?;
    let second = d.ty()?;
    if form.ty.size() != 4 || second.size() != 4 {
        return Err("dp4a is of .u32 and .s32".into());
    }
    form.imm = u32::from(form.ty.signed()) | u32::from(second.signed()) << 1;
    d.lane_of(int::dp4a, form, Ty::B32, &[Ty::B32; 3])
}

fn mov(d: &mut Dec<'_>) -> Res<Op> {
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

fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Const => CONST_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Generic => 0,
    }
}

fn cvta(d: &mut Dec<'_>) -> Res<Op> {
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
fn policy(d: &mut Dec<'_>) -> Res<Op> {
    d.cache();
    d.ignore(&["fractional"]);
    let form = d.form()?;
    let dst = Some(d.reg(0, Ty::B64)?);
    Ok(Op::Lane { f: int::zero, form, dst, dst2: None, src: [Src::Imm(0); 4], sources: 0 })
}

fn cvt(d: &mut Dec<'_>) -> Res<Op> {
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

const fn cmp(less: bool, equal: bool, greater: bool, unordered: bool) -> Cmp {
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
fn compare(f: &Form, [a, b, c, _]: &[u64; 4]) -> u64 {
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

fn setp(d: &mut Dec<'_>) -> Res<Op> {
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

fn selp(d: &mut Dec<'_>) -> Res<Op> {
    let form = d.form()?;
    d.lane_of(int::selp, form, form.ty, &[form.ty, form.ty, Ty::Pred])
}

fn branch(d: &mut Dec<'_>) -> Res<Op> {
    d.ignore(&["uni"]);
    d.count(1, 1)?;
    Ok(Op::Branch { target: d.label(0)?, reconverge: 0 })
}

fn alone(d: &mut Dec<'_>, ignore: &[&str], op: Op) -> Res<Op> {
    d.ignore(ignore);
    d.count(0, 0)?;
    Ok(op)
}

fn hint(d: &mut Dec<'_>, ignore: &[&str], op: Op) -> Res<Op> {
    d.ignore(ignore);
    d.count(1, 1)?;
    Ok(op)
}

fn load(d: &mut Dec<'_>) -> Res<Op> {
    let order = d.order(false);
    let policy = d.cache();
    let (named, constant, n) = (d.space(), d.flag("nc"), d.vector());
    let ty = d.ty()?;
    d.count(2 + usize::from(policy), 2 + usize::from(policy))?;
    let space = if named == Space::Generic { d.addr_space(1).unwrap_or(named) } else { named };
    if ty == Ty::Pred {
        return Err("predicates are not in memory".into());
    }
    Ok(Op::Load { space, ty, dst: d.load_dst(0, n, ty)?, addr: d.addr(1)?, order, constant })
}

fn store(d: &mut Dec<'_>) -> Res<Op> {
    let order = d.order(false);
    let policy = d.cache();
    let (named, n) = (d.space(), d.vector());
    let ty = d.ty()?;
    d.count(2 + usize::from(policy), 2 + usize::from(policy))?;
    let space = if named == Space::Generic { d.addr_space(0).unwrap_or(named) } else { named };
    if matches!(space, Space::Param | Space::Const) || ty == Ty::Pred {
        return Err("nothing can be stored there".into());
    }
    Ok(Op::Store { space, ty, src: d.store_src(1, n, ty)?, addr: d.addr(0)?, order })
}

const ATOMICS: &[(&str, AtomOp)] = &[
    ("add", AtomOp::Add),
    ("min", AtomOp::Min),
    ("max", AtomOp::Max),
    ("and", AtomOp::And),
    ("or", AtomOp::Or),
    ("xor", AtomOp::Xor),
    ("inc", AtomOp::Inc),
    ("dec", AtomOp::Dec),
    ("exch", AtomOp::Exch),
    ("cas", AtomOp::Cas),
];

fn atomic(d: &mut Dec<'_>, result: bool) -> Res<Op> {
    let order = d.order(true);
    let policy = d.cache();
    d.ignore(&["noftz"]);
    let (space, op) = (d.space(), d.need("the operation", ATOMICS)?);
    let ty = d.ty()?;
    let r = usize::from(result);
    let n = 2 + r + usize::from(op == AtomOp::Cas) + usize::from(policy);
    d.count(n, n)?;
    let arithmetic = matches!(op, AtomOp::Add | AtomOp::Min | AtomOp::Max | AtomOp::Exch);
    if ty.size() < 2 || ty.float() && !arithmetic {
        return Err(format!("this operation on {} is not known to the emulator", ty.name()));
    }
    let dst = if result { d.load_dst(0, 1, ty)?[0] } else { None };
    let c = if op == AtomOp::Cas { d.src(r + 2, ty)? } else { Src::Imm(0) };
    Ok(Op::Atomic { space, op, ty, dst, addr: d.addr(r)?, b: d.src(r + 1, ty)?, c, order })
}

fn copy_async(d: &mut Dec<'_>) -> Res<Op> {
    if !d.flag("async") {
        return Err("of `cp`, only cp.async is known to the emulator".into());
    }
    let bulk = d.flag("bulk");
    if d.flag("commit_group") {
        return alone(d, &[], Op::Commit { bulk });
    }
    if d.flag("wait_all") {
        return alone(d, &[], Op::WaitGroup { bulk, left: None });
    }
    if d.flag("wait_group") {
        d.ignore(&["read"]);
        d.count(1, 1)?;
        return Ok(Op::WaitGroup { bulk, left: Some(d.constant(0)? as u32) });
    }
    if bulk {
        return copy_bulk(d);
    }
    let cg = d.flag("cg");
    let policy = d.cache();
    d.ignore(&["shared", "shared::cta", "global"]);
    d.count(3, 4 + usize::from(policy))?;
    let size = d.constant(2)?;
    if !(matches!(size, 4 | 8 | 16) && (!cg || size == 16)) {
        return Err(format!("cp.async does not copy {size} bytes; .cg takes 16, .ca 4, 8 or 16"));
    }
    let taken = if d.ops.len() > 3 + usize::from(policy) { Some(d.src(3, Ty::U32)?) } else { None };
    Ok(Op::CopyAsync { dst: d.addr(0)?, src: d.addr(1)?, size: size as u32, taken })
}

fn copy_bulk(d: &mut Dec<'_>) -> Res<Op> {
    let policy = usize::from(d.cache());
    if d.flag("mbarrier::complete_tx::bytes") {
        if !((d.flag("shared::cluster") || d.flag("shared::cta")) && d.flag("global")) {
            return Err("only copies from global to shared memory complete on an mbarrier here".into());
        }
        d.count(4 + policy, 4 + policy)?;
        return Ok(Op::BulkLoad { dst: d.addr(0)?, src: d.addr(1)?, size: d.src(2, Ty::U32)?, mbar: d.addr(3)? });
    }
    if d.flag("bulk_group") && d.flag("global") && d.flag("shared::cta") {
        d.count(3 + policy, 3 + policy)?;
        return Ok(Op::BulkStore { dst: d.addr(0)?, src: d.addr(1)?, size: d.src(2, Ty::U32)? });
    }
    Err("this form of cp.async.bulk is not known to the emulator".into())
}

fn mbarrier(d: &mut Dec<'_>) -> Res<Op> {
    let op = d.need(
        "the operation",
        &[
            ("init", MbarOp::Init),
            ("inval", MbarOp::Inval),
            ("arrive", MbarOp::Arrive),
            ("arrive_drop", MbarOp::ArriveDrop),
            ("expect_tx", MbarOp::Expect),
            ("test_wait", MbarOp::State(false)),
            ("try_wait", MbarOp::State(true)),
            ("pending_count", MbarOp::Pending),
        ],
    )?;
    // `arrive.expect_tx` was taken as `arrive` above: its second word is still there.
    let op = match op {
        MbarOp::Arrive if d.flag("expect_tx") => MbarOp::ArriveExpect,
        MbarOp::State(t) if d.flag("parity") => MbarOp::Parity(t),
        op => op,
    };
    d.ignore(&["shared", "shared::cta", "shared::cluster", "b64", "release", "acquire", "relaxed", "cta", "cluster"]);
    let m = |dst, addr, a| Op::Mbar { op, addr, dst, a, count: Src::Imm(1) };
    let none = Src::Imm(0);
    Ok(match op {
        MbarOp::Init | MbarOp::Expect => m(None, d.addr(0)?, d.src(1, Ty::U32)?),
        MbarOp::Inval => m(None, d.addr(0)?, none),
        MbarOp::Arrive | MbarOp::ArriveDrop => {
            let count = if d.ops.len() > 2 { d.src(2, Ty::U32)? } else { Src::Imm(1) };
            Op::Mbar { op, addr: d.addr(1)?, dst: d.load_dst(0, 1, Ty::B64)?[0], a: none, count }
        }
        MbarOp::ArriveExpect => m(d.load_dst(0, 1, Ty::B64)?[0], d.addr(1)?, d.src(2, Ty::U32)?),
        MbarOp::Parity(_) => m(Some(d.reg(0, Ty::Pred)?), d.addr(1)?, d.src(2, Ty::U32)?),
        MbarOp::State(_) => m(Some(d.reg(0, Ty::Pred)?), d.addr(1)?, d.src(2, Ty::B64)?),
        MbarOp::Pending => return Err("mbarrier.pending_count is not known to the emulator".into()),
    })
}

fn barrier(d: &mut Dec<'_>) -> Res<Op> {
    if d.flag("warp") {
        d.flag("sync");
        d.count(1, 1)?;
        return Ok(Op::WarpBarrier { mask: d.src(0, Ty::B32)? });
    }
    d.ignore(&["cta", "aligned"]);
    let red = d.flag("red");
    if red {
        let op = d.need("the reduction", &[("and", BarOp::And), ("or", BarOp::Or), ("popc", BarOp::Popc)])?;
        let ty = d.ty()?;
        d.count(3, 4)?;
        let count = if d.ops.len() == 4 { Some(d.src(2, Ty::U32)?) } else { None };
        let (pred, negate) = d.pred(d.ops.len() - 1)?;
        let dst = Some(d.reg(0, if op == BarOp::Popc { Ty::U32 } else { ty })?);
        return Ok(Op::Barrier { op, id: d.src(1, Ty::U32)?, count, dst, pred, negate });
    }
    let op = d.need("the operation", &[("sync", BarOp::Sync), ("arrive", BarOp::Arrive)])?;
    d.count(1 + usize::from(op == BarOp::Arrive), 2)?;
    let count = if d.ops.len() == 2 { Some(d.src(1, Ty::U32)?) } else { None };
    Ok(Op::Barrier { op, id: d.src(0, Ty::U32)?, count, dst: None, pred: Src::Imm(0), negate: false })
}

fn fence(d: &mut Dec<'_>) -> Res<Op> {
    let words =
        ["cta", "cluster", "gpu", "gl", "sys", "sc", "acq_rel", "acquire", "release", "proxy", "async", "alias"];
    d.ignore(&words);
    d.ignore(&["async::generic", "shared::cta", "shared::cluster", "global", "async.global", "mbarrier_init"]);
    d.ignore(&["sync_restrict::shared::cta", "sync_restrict::shared::cluster"]);
    alone(d, &[], Op::Fence)
}

fn shuffle(d: &mut Dec<'_>) -> Res<Op> {
    d.flag("sync");
    let modes = [("up", ShflMode::Up), ("down", ShflMode::Down), ("bfly", ShflMode::Bfly), ("idx", ShflMode::Idx)];
    let mode = d.need("the mode", &modes)?;
    let ty = d.ty()?;
    d.count(5, 5)?;
    let (dst, ok) = d.pair(0, ty)?;
    let [a, b, c, mask] = [d.src(1, ty)?, d.src(2, Ty::U32)?, d.src(3, Ty::U32)?, d.src(4, Ty::B32)?];
    if ty.size() != 4 {
        return Err("shfl.sync moves 32 bits".into());
    }
    Ok(Op::Shuffle { mode, dst: dst.ok_or("shfl.sync writes a register")?, ok, a, b, c, mask })
}

fn vote(d: &mut Dec<'_>) -> Res<Op> {
    d.flag("sync");
    let modes = [("all", VoteMode::All), ("any", VoteMode::Any), ("uni", VoteMode::Uni), ("ballot", VoteMode::Ballot)];
    let mode = d.need("the mode", &modes)?;
    let ty = d.ty()?;
    d.count(3, 3)?;
    let (pred, negate) = d.pred(1)?;
    let ty = if mode == VoteMode::Ballot { Ty::B32 } else { ty };
    Ok(Op::Vote { mode, dst: d.reg(0, ty)?, pred, negate, mask: d.src(2, Ty::B32)? })
}

fn redux(d: &mut Dec<'_>) -> Res<Op> {
    d.flag("sync");
    let op = d.need("the operation", &ATOMICS[..6])?;
    let ty = d.ty()?;
    d.count(3, 3)?;
    if ty.size() != 4 || ty.float() {
        return Err("redux.sync is of .u32, .s32 and .b32".into());
    }
    Ok(Op::Reduce { op, ty, dst: d.reg(0, ty)?, a: d.src(1, ty)?, mask: d.src(2, Ty::B32)? })
}

fn matching(d: &mut Dec<'_>) -> Res<Op> {
    d.flag("sync");
    let all = d.need("the mode", &[("any", false), ("all", true)])?;
    let ty = d.ty()?;
    d.count(3, 3)?;
    let (dst, ok) = d.pair(0, Ty::B32)?;
    let dst = dst.ok_or("match.sync writes a register")?;
    Ok(Op::Match { all, dst, ok, a: d.src(1, ty)?, ty, mask: d.src(2, Ty::B32)? })
}

fn matrix(d: &mut Dec<'_>, load: bool) -> Res<Op> {
    if !(d.flag("sync") && d.flag("aligned") && d.flag("m8n8")) {
        return Err("matrices are .sync.aligned.m8n8 here".into());
    }
    let n = d.need("how many matrices", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let (trans, space, ty) = (d.flag("trans"), d.space(), d.ty()?);
    if space != Space::Shared || ty != Ty::B16 {
        return Err("matrices are .shared and .b16 here".into());
    }
    d.count(2, 2)?;
    Ok(if load {
        Op::LoadMatrix { trans, dst: d.regs(0, n, Ty::B32)?, addr: d.addr(1)? }
    } else {
        Op::StoreMatrix { trans, src: d.regs(1, n, Ty::B32)?, addr: d.addr(0)? }
    })
}

fn mma(d: &mut Dec<'_>) -> Res<Op> {
    if !(d.flag("sync") && d.flag("aligned") && d.flag("row") && d.flag("col")) {
        return Err("mma is .sync.aligned.row.col".into());
    }
    let shapes = [("m16n8k4", 4), ("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)];
    let k: usize = d.need("a shape that we know", &shapes)?;
    let saturate = d.flag("satfinite");
    let (dt, a_ty, b_ty, ct) = (d.ty()?, d.ty()?, d.ty()?, d.ty()?);
    let acc = match dt {
        Ty::F32 => Accumulator::F32,
        Ty::F16 => Accumulator::F16,
        Ty::S32 => Accumulator::S32,
        _ => return Err(format!("mma into {} is not known to the emulator", dt.name())),
    };
    use Ty::*;
    let known = match (a_ty, b_ty, acc) {
        (F16, F16, Accumulator::F32 | Accumulator::F16) | (BF16, BF16, Accumulator::F32) => matches!(k, 8 | 16),
        (TF32, TF32, Accumulator::F32) => matches!(k, 4 | 8),
        (S8 | U8, S8 | U8, Accumulator::S32) => matches!(k, 16 | 32),
        (E4M3 | E5M2, E4M3 | E5M2, Accumulator::F32) => k == 32,
        _ => false,
    };
    if !known || dt != ct {
        let (a, b) = (a_ty.name(), b_ty.name());
        return Err(format!("mma k{k} of {a} and {b} into {} is not known to the emulator", dt.name()));
    }
    d.count(4, 4)?;
    // Sixteen rows of k values over 32 lanes, in registers of four bytes.
    let a_regs = 16 * k * a_ty.size() / 128;
    let acc_regs = if acc == Accumulator::F16 { 2 } else { 4 };
    let acc_ty = if acc == Accumulator::F16 { B32 } else { dt };
    let c = d.list(3, acc_regs)?.iter().map(|o| d.source(o, acc_ty)).collect::<Res<_>>()?;
    let (a, b) = (d.regs(1, a_regs, B32)?, d.regs(2, a_regs / 2, B32)?);
    Ok(Op::Mma(Box::new(Mma { k, a_ty, b_ty, acc, saturate, d: d.regs(0, acc_regs, acc_ty)?, a, b, c })))
}
