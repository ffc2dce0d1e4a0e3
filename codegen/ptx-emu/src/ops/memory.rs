//! How loads, stores, atomics, asynchronous copies and mbarriers are read.

use super::decode::{Dec, Res};
use super::table::alone;
use super::*;

pub(super) fn load(d: &mut Dec<'_>) -> Res<Op> {
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

pub(super) fn store(d: &mut Dec<'_>) -> Res<Op> {
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

pub(super) const ATOMICS: &[(&str, AtomOp)] = &[
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

pub(super) fn atomic(d: &mut Dec<'_>, result: bool) -> Res<Op> {
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

pub(super) fn copy_async(d: &mut Dec<'_>) -> Res<Op> {
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

pub(super) fn copy_bulk(d: &mut Dec<'_>) -> Res<Op> {
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

pub(super) fn mbarrier(d: &mut Dec<'_>) -> Res<Op> {
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
