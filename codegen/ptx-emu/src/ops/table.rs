//! The instructions: root of the name, class, and how its operands are read.

use super::decode::{Dec, Res};
use super::memory::*;
use super::scalar::*;
use super::warp::*;
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
    entry("wgmma", Class::Matrix, wgmma),
];

fn branch(d: &mut Dec<'_>) -> Res<Op> {
    d.ignore(&["uni"]);
    d.count(1, 1)?;
    Ok(Op::Branch { target: d.label(0)?, reconverge: 0 })
}

pub(super) fn alone(d: &mut Dec<'_>, ignore: &[&str], op: Op) -> Res<Op> {
    d.ignore(ignore);
    d.count(0, 0)?;
    Ok(op)
}

fn hint(d: &mut Dec<'_>, ignore: &[&str], op: Op) -> Res<Op> {
    d.ignore(ignore);
    d.count(1, 1)?;
    Ok(op)
}
