//! One instruction of one group of lanes.

use super::divergence::Block;
use super::{Cx, Flow, Values, lanes};
use crate::ops::{Form, LaneFn, Op, RegId, Special, Src};
use crate::{Fault, FaultKind};

impl Cx<'_, '_> {
    /// The values of a source; lanes that take part must have one.
    pub(super) fn src(&self, s: Src) -> Result<Values, Fault> {
        match s {
            Src::Imm(v) => Ok([v; 32]),
            Src::Special(s) => Ok(std::array::from_fn(|l| self.special(s, l as u32))),
            Src::Reg(r) => {
                let warp = &self.cta.warps[self.w];
                let missing = self.mask & !warp.defined[r as usize];
                if missing != 0 {
                    let lane = missing.trailing_zeros() as usize;
                    let m = format!("register {} was never written", self.info.kernel.reg_names[r as usize]);
                    return self.err(Some(lane), FaultKind::Uninitialised, m);
                }
                if let Some(line) = warp.tensor.as_ref().and_then(|t| t.read(r)) {
                    return self.in_flight(r, line, "reads");
                }
                Ok(warp.regs[r as usize])
            }
        }
    }

    fn special(&self, s: Special, lane: u32) -> u64 {
        let [bx, by, bz] = self.info.block;
        let thread = self.cta.warps[self.w].first + lane;
        let tid = [thread % bx, thread / bx % by, thread / bx / by];
        let threads = u64::from(bx) * u64::from(by) * u64::from(bz);
        let one = |d: u8| usize::from(d);
        let shared = (self.info.kernel.shared_bytes + self.info.dynamic_shared) as u64;
        match s {
            Special::Tid(d) => tid[one(d)].into(),
            Special::Ntid(d) => self.info.block[one(d)].into(),
            Special::Ctaid(d) => self.cta.id[one(d)].into(),
            Special::Nctaid(d) => self.info.grid[one(d)].into(),
            Special::LaneId => lane.into(),
            Special::WarpId => self.w as u64,
            Special::NWarpId => threads.div_ceil(32),
            Special::SmId | Special::Zero => 0,
            Special::One => 1,
            Special::Clock => self.ticks,
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => (2 << lane) - 1,
            Special::LaneMaskGe => 0xffff_ffff & !((1 << lane) - 1),
            Special::LaneMaskGt => 0xffff_ffff & !((2 << lane) - 1),
            Special::DynamicSharedSize => self.info.dynamic_shared as u64,
            Special::TotalSharedSize => shared,
        }
    }

    fn lane_op(&mut self, f: LaneFn, form: &Form, src: &[Src], dst: [Option<RegId>; 2]) -> Result<Flow, Fault> {
        let mut v = [[0; 32]; 4];
        for (v, s) in v.iter_mut().zip(src) {
            *v = self.src(*s)?;
        }
        let mut out = [0; 32];
        for l in lanes(self.mask) {
            out[l] = f(form, &[v[0][l], v[1][l], v[2][l], v[3][l]]);
        }
        if let [_, Some(second)] = dst {
            let mask = self.mask;
            self.set(second, mask, &out.map(|v| v >> 1));
            if let Some(first) = dst[0] {
                self.set(first, mask, &out.map(|v| v & 1));
            }
        } else if let Some(first) = dst[0] {
            // A comparison has its complement in bit 1; a predicate is one bit.
            let bit = self.info.kernel.reg_types[first as usize];
            let mask = self.mask;
            self.set(first, mask, &if bit == crate::ty::Ty::Pred { out.map(|v| v & 1) } else { out });
        }
        Ok(Flow::Next)
    }

    fn pack(&mut self, dst: RegId, parts: &[Src], bits: u32) -> Result<Flow, Fault> {
        let mut out = [0; 32];
        for (i, part) in parts.iter().enumerate() {
            let v = self.src(*part)?;
            lanes(self.mask).for_each(|l| out[l] |= (v[l] & ((1 << bits) - 1)) << (i as u32 * bits));
        }
        self.set(dst, self.mask, &out);
        Ok(Flow::Next)
    }

    fn unpack(&mut self, dst: &[Option<RegId>], src: Src, bits: u32) -> Result<Flow, Fault> {
        let v = self.src(src)?;
        for (i, d) in dst.iter().enumerate() {
            if let Some(d) = d {
                self.set(*d, self.mask, &v.map(|v| v >> (i as u32 * bits) & ((1 << bits) - 1)));
            }
        }
        Ok(Flow::Next)
    }

    /// Runs the instruction at the group's program counter.
    pub fn step(&mut self) -> Result<Flow, Fault> {
        let info = self.info;
        let group = self.cta.warps[self.w].lanes.groups[self.g];
        let inst = &info.kernel.code[group.pc];
        (self.pc, self.line, self.mask) = (group.pc, inst.line, group.mask);
        *self.stats.instructions.entry(inst.class).or_default() += 1;
        if let Some((r, negated)) = inst.guard {
            let guard = self.guard(r, negated)?;
            self.mask &= guard;
        }
        let flow =
            if self.mask == 0 && !matches!(inst.op, Op::Branch { .. }) { Flow::Next } else { self.run(&inst.op)? };
        if let Some((r, line)) = self.warp().tensor.as_mut().and_then(|t| t.clobbered.take()) {
            return self.in_flight(r, line, "writes");
        }
        if flow != Flow::Moved {
            let (g, pc) = (self.g, self.pc + 1);
            self.warp().lanes.advance(g, pc);
        }
        Ok(flow)
    }

    /// Lanes for which a guard holds.
    pub(super) fn guard(&self, r: RegId, negated: bool) -> Result<u32, Fault> {
        let v = self.src(Src::Reg(r))?;
        Ok(v.iter().enumerate().fold(0, |m, (l, v)| m | u32::from((v & 1 == 1) != negated) << l))
    }

    fn run(&mut self, op: &Op) -> Result<Flow, Fault> {
        match op {
            Op::Lane { f, form, dst, dst2, src, sources } => {
                self.lane_op(*f, form, &src[..usize::from(*sources)], [*dst, *dst2])
            }
            Op::Pack { dst, parts, bits } => self.pack(*dst, parts, *bits),
            Op::Unpack { dst, src, bits } => self.unpack(dst, *src, *bits),
            Op::Branch { target, reconverge } => {
                let (g, mask) = (self.g, self.mask);
                self.warp().lanes.branch(g, mask, *target, *reconverge);
                // Groups change places in the list: whoever runs next is chosen anew.
                Ok(Flow::Moved)
            }
            Op::Exit => {
                self.nothing_in_flight()?;
                let (g, mask) = (self.g, self.mask);
                self.warp().lanes.exit(g, mask);
                Ok(Flow::Moved)
            }
            Op::Trap => self.err(Some(self.mask.trailing_zeros() as usize), FaultKind::Trap, "the kernel gave up"),
            Op::Nop => Ok(Flow::Next),
            Op::Sleep => Ok(Flow::Yield),
            Op::Load { space, ty, dst, addr, order, constant } => self.load(*space, *ty, dst, addr, *order, *constant),
            Op::Store { space, ty, src, addr, order } => self.store(*space, *ty, src, addr, *order),
            Op::Atomic { space, op, ty, dst, addr, b, c, order } => {
                self.atomic(*space, (*op, *ty), *dst, addr, [*b, *c], *order)
            }
            Op::CopyAsync { dst, src, size, taken } => self.copy_async(dst, src, *size as usize, *taken),
            Op::Commit { bulk } => {
                let mask = self.mask;
                let counts = &mut self.warp().committed[usize::from(*bulk)];
                lanes(mask).for_each(|l| counts[l] += 1);
                Ok(Flow::Next)
            }
            Op::WaitGroup { bulk, left } => self.wait_group(*bulk, *left),
            Op::BulkLoad { dst, src, size, mbar } => self.bulk_load(dst, src, *size, mbar),
            Op::BulkStore { dst, src, size } => self.bulk_store(dst, src, *size),
            Op::Mbar { op, addr, dst, a, count } => self.mbarrier(*op, addr, *dst, *a, *count),
            Op::ActiveMask { dst } => {
                self.set(*dst, self.mask, &[self.mask.into(); 32]);
                Ok(Flow::Next)
            }
            Op::Barrier { op, id, count, dst, pred, negate } => self.barrier(*op, *id, *count, *dst, (*pred, *negate)),
            Op::Wgmma(m) => self.wgmma(m),
            Op::WgmmaFence => self.wgmma_fence(),
            Op::WgmmaCommit => self.wgmma_commit(),
            Op::WgmmaWait { left } => self.wgmma_wait(*left),
            Op::ProxyFence => {
                let (w, mask) = (self.w, self.mask);
                let time = self.cta.clocks[w][w];
                self.cta.shared.fence_proxy(w, mask, time);
                Ok(Flow::Next)
            }
            Op::Fence => {
                self.fence();
                Ok(Flow::Next)
            }
            Op::GridWait if self.pre => {
                let g = self.g;
                self.warp().lanes.groups[g].block = Block::Grid;
                Ok(Flow::Moved)
            }
            Op::GridWait => Ok(Flow::Next),
            Op::GridLaunch => {
                *self.early_trigger |= self.pre;
                Ok(Flow::Next)
            }
            collective => self.collective(collective),
        }
    }
}
