//! Operations of a warp as a whole. They run once all lanes that are named have come, whatever groups they are in.

use super::divergence::Block;
use super::{Cx, Flow, Values, lanes};
use crate::ops::{self, Op, RegId, ShflMode, Src, VoteMode};
use crate::ty::Ty;
use crate::{Fault, FaultKind};

impl Cx<'_, '_> {
    /// Lanes of other groups that already wait here, and ours.
    fn present(&self) -> Result<u32, Fault> {
        let here = &self.cta.warps[self.w].lanes.groups;
        let others = here.iter().filter(|g| g.pc == self.pc && g.block == Block::Members).fold(0, |m, g| m | g.mask);
        let guard = match self.info.kernel.code[self.pc].guard {
            Some((r, negated)) if others != 0 => self.guard(r, negated)?,
            _ => u32::MAX,
        };
        Ok(self.mask | others & guard)
    }

    /// Waits for all lanes that `mask` names, then runs `op` for each set of them.
    pub(super) fn collective(&mut self, op: &Op) -> Result<Flow, Fault> {
        let mask = match op {
            Op::Shuffle { mask, .. }
            | Op::Vote { mask, .. }
            | Op::Reduce { mask, .. }
            | Op::Match { mask, .. }
            | Op::Elect { mask, .. }
            | Op::WarpBarrier { mask } => *mask,
            _ => Src::Imm(0xffff_ffff),
        };
        let own = self.mask;
        self.mask = self.present()?;
        let (masks, live) = (self.src(mask)?, self.cta.warps[self.w].lanes.live);
        let (mut sets, mut wait) = (Vec::new(), false);
        for l in lanes(own) {
            let named = masks[l] as u32;
            if named >> l & 1 == 0 {
                return self.err(
                    Some(l),
                    FaultKind::Collective,
                    format!("the mask {named:#010x} does not name the lane"),
                );
            }
            let need = named & live;
            wait |= need & !self.mask != 0;
            if let Some(o) = lanes(need & self.mask).find(|&o| masks[o] != masks[l]) {
                let m = format!("lane {o} gives the mask {:#010x}, this one {named:#010x}", masks[o]);
                return self.err(Some(l), FaultKind::Collective, m);
            }
            if !sets.contains(&need) {
                sets.push(need);
            }
        }
        let (g, pc) = (self.g, self.pc);
        self.warp().lanes.groups[g].block = Block::Members;
        if wait {
            return Ok(Flow::Moved);
        }
        let done = sets.iter().fold(0, |m, s| m | s);
        for set in sets {
            self.mask = set;
            self.together(op)?;
        }
        // A `.sync` operation orders the lanes of its warp.
        self.tick();
        let lanes = &mut self.warp().lanes;
        let whole = |g: &super::divergence::Group| g.pc == pc && g.block == Block::Members && g.mask & done != 0;
        while let Some(i) = lanes.groups.iter().position(whole) {
            lanes.advance(i, pc + 1);
        }
        Ok(Flow::Moved)
    }

    fn together(&mut self, op: &Op) -> Result<(), Fault> {
        let mask = self.mask;
        match op {
            Op::Shuffle { mode, dst, ok, a, b, c, .. } => self.shuffle(*mode, (*dst, *ok), *a, *b, *c)?,
            Op::Vote { mode, dst, pred, negate, .. } => {
                let v = self.src(*pred)?;
                let yes = lanes(mask).filter(|&l| (v[l] & 1 == 1) != *negate).fold(0u32, |m, l| m | 1 << l);
                let r = match mode {
                    VoteMode::All => u64::from(yes == mask),
                    VoteMode::Any => u64::from(yes != 0),
                    VoteMode::Uni => u64::from(yes == mask || yes == 0),
                    VoteMode::Ballot => yes.into(),
                };
                self.set(*dst, mask, &[r; 32]);
            }
            Op::Reduce { op, ty, dst, a, .. } => {
                let v = self.src(*a)?;
                let r = lanes(mask).map(|l| v[l]).reduce(|a, b| ops::combine(*op, *ty, a, b, 0));
                self.set(*dst, mask, &[r.unwrap_or(0); 32]);
            }
            Op::Match { all, dst, ok, a, ty, .. } => self.matching(*all, (*dst, *ok), *a, *ty)?,
            Op::Elect { dst, ok, .. } => {
                let leader = mask.trailing_zeros() as usize;
                let v: Values = std::array::from_fn(|l| u64::from(l == leader));
                self.set(*ok, mask, &v);
                if let Some(d) = dst {
                    self.set(*d, mask, &[leader as u64; 32]);
                }
            }
            Op::LoadMatrix { trans, dst, addr } => self.load_matrix(*trans, dst, addr)?,
            Op::StoreMatrix { trans, src, addr } => self.store_matrix(*trans, src, addr)?,
            Op::Mma(m) => self.mma(m)?,
            _ => {}
        }
        Ok(())
    }

    fn shuffle(
        &mut self,
        mode: ShflMode,
        (dst, ok): (RegId, Option<RegId>),
        a: Src,
        b: Src,
        c: Src,
    ) -> Result<(), Fault> {
        let (a, b, c) = (self.src(a)?, self.src(b)?, self.src(c)?);
        let (mut out, mut fine) = ([0; 32], [0; 32]);
        for l in lanes(self.mask) {
            let (lane, b, clamp, segment) = (l as i64, b[l] as i64 & 31, c[l] as i64 & 31, c[l] as i64 >> 8 & 31);
            let last = lane & segment | clamp & !segment;
            let first = lane & segment;
            let (from, inside) = match mode {
                ShflMode::Up => (lane - b, lane - b >= last),
                ShflMode::Down => (lane + b, lane + b <= last),
                ShflMode::Bfly => (lane ^ b, lane ^ b <= last),
                ShflMode::Idx => (first | b & !segment, first | b & !segment <= last),
            };
            let from = if inside { from as usize } else { l };
            if self.mask >> from & 1 == 0 {
                return self.err(
                    Some(l),
                    FaultKind::Collective,
                    format!("reads lane {from}, which does not take part"),
                );
            }
            (out[l], fine[l]) = (a[from], inside.into());
        }
        let mask = self.mask;
        self.set(dst, mask, &out);
        if let Some(p) = ok {
            self.set(p, mask, &fine);
        }
        Ok(())
    }

    fn matching(&mut self, all: bool, (dst, ok): (RegId, Option<RegId>), a: Src, ty: Ty) -> Result<(), Fault> {
        let (v, mask) = (self.src(a)?, self.mask);
        let same = |l: usize| lanes(mask).filter(|&o| ty.mask(v[o]) == ty.mask(v[l])).fold(0u64, |m, o| m | 1 << o);
        let every = same(mask.trailing_zeros() as usize) == u64::from(mask);
        let out: Values = std::array::from_fn(|l| match all {
            true => u64::from(mask) * u64::from(every),
            false => same(l),
        });
        self.set(dst, mask, &out);
        if let Some(p) = ok {
            self.set(p, mask, &[every.into(); 32]);
        }
        Ok(())
    }
}
