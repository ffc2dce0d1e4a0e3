//! Barriers of a CTA: sixteen of them, counted in whole warps.

use super::divergence::Block;
use super::{Cx, Flow, lanes};
use crate::check::race::{Clock, join};
use crate::ops::{BarOp, RegId, Src};
use crate::{Fault, FaultKind};

#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Warps wanted; fixed by whoever comes first.
    expected: usize,
    arrived: usize,
    clock: Clock,
    /// Warps that wait, with the register that takes the result of a reduction.
    waiting: Vec<(usize, BarOp, Option<RegId>, u32)>,
    ones: u64,
    threads: u64,
}

impl Cx<'_, '_> {
    pub(super) fn barrier(
        &mut self,
        op: BarOp,
        id: Src,
        count: Option<Src>,
        dst: Option<RegId>,
        (pred, negate): (Src, bool),
    ) -> Result<Flow, Fault> {
        let first = self.mask.trailing_zeros() as usize;
        let kind = FaultKind::BarrierDivergence;
        let elsewhere = self.cta.warps[self.w].lanes.live & !self.mask;
        if elsewhere != 0 {
            let m = format!("lane {} of the warp is elsewhere", elsewhere.trailing_zeros());
            return self.err(Some(first), kind, m);
        }
        let id = self.src(id)?[first] as usize;
        let all = self.cta.warps.len();
        let threads = match count {
            Some(c) => self.src(c)?[first] as usize,
            None => all * 32,
        };
        if id >= 16 || threads % 32 != 0 || threads == 0 || threads > all * 32 {
            return self.err(
                None,
                kind,
                format!("barrier {id} for {threads} threads: ids are below 16, counts whole warps"),
            );
        }
        let votes = self.src(pred)?;
        let ones = lanes(self.mask).filter(|&l| (votes[l] & 1 == 1) != negate).count() as u64;
        let (clock, mask) = (self.cta.clocks[self.w].clone(), self.mask);
        let bar = &mut self.cta.barriers[id];
        if bar.arrived == 0 {
            *bar = Barrier { expected: threads / 32, clock: vec![0; all + 1], ..Barrier::default() };
        } else if bar.expected != threads / 32 {
            let m = format!("barrier {id} is for {} warps, but others came for {}", threads / 32, bar.expected);
            return self.err(None, kind, m);
        }
        join(&mut bar.clock, &clock);
        bar.arrived += 1;
        bar.ones += ones;
        bar.threads += u64::from(mask.count_ones());
        self.tick();
        if op != BarOp::Arrive {
            let (w, g) = (self.w, self.g);
            self.cta.barriers[id].waiting.push((w, op, dst, mask));
            self.warp().lanes.groups[g].block = Block::Barrier(id);
        }
        if self.cta.barriers[id].arrived == self.cta.barriers[id].expected {
            self.release(id);
        }
        Ok(if op == BarOp::Arrive { Flow::Next } else { Flow::Moved })
    }

    fn release(&mut self, id: usize) {
        let bar = std::mem::take(&mut self.cta.barriers[id]);
        for (w, op, dst, mask) in bar.waiting {
            join(&mut self.cta.clocks[w], &bar.clock);
            self.cta.clocks[w][w] += 1;
            let result = match op {
                BarOp::And => u64::from(bar.ones == bar.threads),
                BarOp::Or => u64::from(bar.ones > 0),
                _ => bar.ones,
            };
            let here = std::mem::replace(&mut self.w, w);
            if let Some(d) = dst {
                self.set(d, mask, &[result; 32]);
            }
            self.w = here;
            let lanes = &mut self.cta.warps[w].lanes;
            if let Some(g) = lanes.groups.iter().position(|g| g.block == Block::Barrier(id)) {
                let pc = lanes.groups[g].pc;
                lanes.advance(g, pc + 1);
            }
        }
    }
}
