//! How barriers, fences and what a warp does together are read: shuffles, votes, matrices.

use super::decode::{Dec, Res};
use super::memory::ATOMICS;
use super::table::alone;
use super::*;

pub(super) fn barrier(d: &mut Dec<'_>) -> Res<Op> {
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

pub(super) fn fence(d: &mut Dec<'_>) -> Res<Op> {
    if d.flag("proxy") {
        return proxy_fence(d);
    }
    alone(d, &["cta", "cluster", "gpu", "gl", "sys", "sc", "acq_rel", "acquire", "release", "mbarrier_init"], Op::Fence)
}

/// Only fences between the generic and the asynchronous proxy that reach shared memory do something here.
fn proxy_fence(d: &mut Dec<'_>) -> Res<Op> {
    let (both, space) = (d.flag("async"), d.space());
    let shared = both && matches!(space, Space::Shared | Space::Generic);
    d.ignore(&["alias", "async::generic", "async.global", "cta", "cluster", "gpu", "sys", "acquire", "release"]);
    d.ignore(&["sync_restrict::shared::cta", "sync_restrict::shared::cluster"]);
    alone(d, &[], if shared { Op::ProxyFence } else { Op::Fence })
}

pub(super) fn shuffle(d: &mut Dec<'_>) -> Res<Op> {
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

pub(super) fn vote(d: &mut Dec<'_>) -> Res<Op> {
    d.flag("sync");
    let modes = [("all", VoteMode::All), ("any", VoteMode::Any), ("uni", VoteMode::Uni), ("ballot", VoteMode::Ballot)];
    let mode = d.need("the mode", &modes)?;
    let ty = d.ty()?;
    d.count(3, 3)?;
    let (pred, negate) = d.pred(1)?;
    let ty = if mode == VoteMode::Ballot { Ty::B32 } else { ty };
    Ok(Op::Vote { mode, dst: d.reg(0, ty)?, pred, negate, mask: d.src(2, Ty::B32)? })
}

pub(super) fn redux(d: &mut Dec<'_>) -> Res<Op> {
    d.flag("sync");
    let op = d.need("the operation", &ATOMICS[..6])?;
    let ty = d.ty()?;
    d.count(3, 3)?;
    if ty.size() != 4 || ty.float() {
        return Err("redux.sync is of .u32, .s32 and .b32".into());
    }
    Ok(Op::Reduce { op, ty, dst: d.reg(0, ty)?, a: d.src(1, ty)?, mask: d.src(2, Ty::B32)? })
}

pub(super) fn matching(d: &mut Dec<'_>) -> Res<Op> {
    d.flag("sync");
    let all = d.need("the mode", &[("any", false), ("all", true)])?;
    let ty = d.ty()?;
    d.count(3, 3)?;
    let (dst, ok) = d.pair(0, Ty::B32)?;
    let dst = dst.ok_or("match.sync writes a register")?;
    Ok(Op::Match { all, dst, ok, a: d.src(1, ty)?, ty, mask: d.src(2, Ty::B32)? })
}

pub(super) fn matrix(d: &mut Dec<'_>, load: bool) -> Res<Op> {
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

pub(super) fn mma(d: &mut Dec<'_>) -> Res<Op> {
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

/// `wgmma` of f16 and bf16 into f32, both matrices K-major: `mma_async` with A in registers or behind a descriptor, and what
/// orders it.
pub(super) fn wgmma(d: &mut Dec<'_>) -> Res<Op> {
    if d.flag("wait_group") {
        sync_aligned(d)?;
        d.count(1, 1)?;
        return Ok(Op::WgmmaWait { left: d.constant(0)? as u32 });
    }
    if let Some(commit) = d.choose(&[("fence", false), ("commit_group", true)]) {
        sync_aligned(d)?;
        return alone(d, &[], if commit { Op::WgmmaCommit } else { Op::WgmmaFence });
    }
    if !d.flag("mma_async") {
        return Err("wgmma is mma_async, fence, commit_group or wait_group".into());
    }
    sync_aligned(d)?;
    let shape = |m: &str| m.strip_prefix("m64n")?.strip_suffix("k16")?.parse().ok();
    let n: usize =
        d.read(shape).filter(|n| n % 8 == 0 && (8..=256).contains(n)).ok_or("wgmma is m64n8k16 to m64n256k16")?;
    let (dt, a_ty, ty) = (d.ty()?, d.ty()?, d.ty()?);
    if dt != Ty::F32 || a_ty != ty || !matches!(ty, Ty::F16 | Ty::BF16) {
        let (a, b) = (a_ty.name(), ty.name());
        return Err(format!("wgmma of {a} and {b} into {} is not known to the emulator", dt.name()));
    }
    let in_regs = matches!(d.ops.get(1), Some(crate::parse::inst::Operand::Vector(_)));
    d.count(8 - usize::from(in_regs), 8 - usize::from(in_regs))?;
    let a = if in_regs { Left::Regs(d.regs(1, 4, Ty::B32)?) } else { Left::Shared(d.src(1, Ty::B64)?) };
    let mut minus = false;
    for i in [4, 5] {
        minus ^= match d.constant(i)? as u32 as i32 {
            1 => false,
            -1 => true,
            n => return Err(format!("wgmma scales its matrices by 1 or -1, not by {n}")),
        };
    }
    for i in 6..d.ops.len() {
        if d.constant(i)? != 0 {
            return Err("matrices of wgmma that are not K-major are not known to the emulator".into());
        }
    }
    let d_regs = d.regs(0, n / 2, Ty::F32)?;
    let left: &[RegId] = if let Left::Regs(r) = &a { r } else { &[] };
    if d_regs.iter().enumerate().any(|(i, r)| d_regs[..i].contains(r) || left.contains(r)) {
        return Err("a register of wgmma's sum stands there twice".into());
    }
    Ok(Op::Wgmma(Box::new(Wgmma { n, ty, d: d_regs, a, b: d.src(2, Ty::B64)?, add: d.pred(3)?, minus })))
}

fn sync_aligned(d: &mut Dec<'_>) -> Res<()> {
    if d.flag("sync") && d.flag("aligned") { Ok(()) } else { Err("wgmma is .sync.aligned".into()) }
}
