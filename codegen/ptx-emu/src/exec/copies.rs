//! Copies that go on while the threads do other things. They are checked when they are issued and land as late as the rules
//! allow: those of `cp.async` when their group is waited for, bulk copies at any time up to the one that a thread cannot do
//! without. Their source is read at either end, by chance.

use super::{Cx, Flow, lanes};
use crate::check::bounds;
use crate::check::race::{Clock, State, Who, join};
use crate::ops::{Addr, Src};
use crate::{Fault, FaultKind};

/// A copy of one lane that waits for its group.
pub(crate) struct Copy {
    lane: usize,
    group: u32,
    line: u32,
    bulk: bool,
    what: What,
}

enum What {
    /// Global to shared: offset there, source, bytes taken, bytes written; the data if it was read early.
    Load { at: usize, from: (usize, usize), taken: usize, size: usize, data: Option<Vec<u8>> },
    /// Shared to global.
    Store { at: usize, to: u64, size: usize },
}

/// A bulk copy that completes on an mbarrier.
pub(crate) struct Bulk {
    who: Who,
    clock: Clock,
    at: usize,
    from: (usize, usize),
    size: usize,
    data: Option<Vec<u8>>,
    mbar: usize,
}

impl Cx<'_, '_> {
    pub(super) fn copy_async(
        &mut self,
        dst: &Addr,
        src: &Addr,
        size: usize,
        taken: Option<Src>,
    ) -> Result<Flow, Fault> {
        let (to, from) = (self.addresses(dst)?, self.addresses(src)?);
        let taken = taken.map(|t| self.src(t)).transpose()?;
        let mut banks = Vec::new();
        for l in lanes(self.mask) {
            let taken = taken.map_or(size, |t| t[l] as usize);
            if taken > size {
                return self.err(Some(l), FaultKind::OutOfBounds, format!("takes {taken} of {size} bytes"));
            }
            let at = self.shared_at(l, to[l], size, size)?;
            bounds::aligned(from[l], size).map_err(self.at(l))?;
            // With nothing to take, the source may point anywhere.
            let place = if taken == 0 { (0, 0) } else { self.global(l, |m, who| m.check_read(from[l], taken, who))? };
            let who = self.who(l, false);
            let cta = &mut *self.cta;
            let result = cta.shared.write(who, at, size, None, &cta.clocks[self.w]);
            result.map_err(self.at(l))?;
            self.cta.shared.mark(at, size, State::Copy);
            let early = taken > 0 && self.rng.chance(2);
            let data = early.then(|| self.mem.peek(place, taken).to_vec());
            let (group, line) = (self.cta.warps[self.w].committed[0][l], self.line);
            let what = What::Load { at, from: place, taken, size, data };
            self.warp().copies.push(Copy { lane: l, group, line, bulk: false, what });
            self.stats.global_read += taken as u64;
            self.stats.shared_written += size as u64;
            banks.push(at as u32);
        }
        self.stats.banks(&banks, size, self.line);
        Ok(Flow::Next)
    }

    /// Lets all copies land but those of the `left` newest groups; without a number, all of them, committed or not.
    pub(super) fn wait_group(&mut self, bulk: bool, left: Option<u32>) -> Result<Flow, Fault> {
        let mask = self.mask;
        let committed = self.cta.warps[self.w].committed[usize::from(bulk)];
        let due = |c: &Copy| {
            let open = left.is_some_and(|n| c.group >= committed[c.lane].saturating_sub(n));
            c.bulk == bulk && mask >> c.lane & 1 == 1 && !open
        };
        let copies = std::mem::take(&mut self.warp().copies);
        let (mut done, rest) = copies.into_iter().partition::<Vec<_>, _>(due);
        self.warp().copies = rest;
        self.rng.shuffle(&mut done);
        let time = self.cta.clocks[self.w][self.w];
        for copy in done {
            let who = Who { line: copy.line, ..self.who(copy.lane, false) };
            match copy.what {
                What::Load { at, from, taken, size, data } => {
                    let mut bytes = vec![0; size];
                    match (&data, taken) {
                        (_, 0) => {}
                        (Some(d), _) => bytes[..taken].copy_from_slice(d),
                        (None, _) => bytes[..taken].copy_from_slice(self.mem.peek(from, taken)),
                    }
                    self.cta.shared.land(who, at, &bytes, time);
                }
                What::Store { at, to, size } => {
                    let bytes = self.cta.shared.data[at..at + size].to_vec();
                    self.global(copy.lane, |m, who| m.write(to, &bytes, who))?;
                    self.stats.global_written += size as u64;
                }
            }
        }
        Ok(Flow::Next)
    }

    /// Size and alignment that all bulk copies want.
    fn bulk_size(&self, lane: usize, size: u64, address: u64) -> Result<usize, Fault> {
        if !size.is_multiple_of(16) || size > 1 << 24 {
            let m = format!("a bulk copy of {size} bytes, no multiple of 16");
            return self.err(Some(lane), FaultKind::Misaligned, m);
        }
        bounds::aligned(address, 16).map_err(self.at(lane))?;
        Ok(size as usize)
    }

    pub(super) fn bulk_load(&mut self, dst: &Addr, src: &Addr, size: Src, mbar: &Addr) -> Result<Flow, Fault> {
        let (to, from, bars) = (self.addresses(dst)?, self.addresses(src)?, self.addresses(mbar)?);
        let sizes = self.src(size)?;
        for l in lanes(self.mask) {
            let size = self.bulk_size(l, sizes[l], from[l])?;
            let at = self.shared_at(l, to[l], size, 16)?;
            let place = self.global(l, |m, who| m.check_read(from[l], size, who))?;
            let mbar = self.mbarrier_at(l, bars[l])?;
            let who = self.who(l, false);
            let cta = &mut *self.cta;
            let result = cta.shared.write(who, at, size, None, &cta.clocks[self.w]);
            result.map_err(self.at(l))?;
            self.cta.shared.mark(at, size, State::Bulk);
            let data = self.rng.chance(2).then(|| self.mem.peek(place, size).to_vec());
            let clock = self.cta.clocks[self.w].clone();
            self.cta.bulk.push(Bulk { who, clock, at, from: place, size, data, mbar });
            self.stats.global_read += size as u64;
            self.stats.shared_written += size as u64;
        }
        self.tick();
        Ok(Flow::Next)
    }

    pub(super) fn bulk_store(&mut self, dst: &Addr, src: &Addr, size: Src) -> Result<Flow, Fault> {
        let (to, from, sizes) = (self.addresses(dst)?, self.addresses(src)?, self.src(size)?);
        for l in lanes(self.mask) {
            let size = self.bulk_size(l, sizes[l], to[l])?;
            let at = self.shared_at(l, from[l], size, 16)?;
            let mut bytes = vec![0; size];
            let weak = crate::ops::Order { acquire: false, release: false, strong: false };
            self.read_shared(l, at, &mut bytes, weak)?;
            self.cta.shared.visible(at, size, &self.cta.clocks[self.w]).map_err(self.at(l))?;
            self.mem.find(to[l], size).map_err(|bad| self.fault(Some(l), bad))?;
            let (group, line) = (self.cta.warps[self.w].committed[1][l], self.line);
            let what = What::Store { at, to: to[l], size };
            self.warp().copies.push(Copy { lane: l, group, line, bulk: true, what });
        }
        Ok(Flow::Next)
    }
}

impl super::Cta {
    /// One bulk copy comes to its end: its bytes are there, and its mbarrier hears of them.
    pub(super) fn land_bulk(&mut self, i: usize, mem: &super::Global) {
        let b = self.bulk.swap_remove(i);
        let engine = self.clocks.len() - 1;
        join(&mut self.clocks[engine], &b.clock);
        let bytes = b.data.unwrap_or_else(|| mem.peek(b.from, b.size).to_vec());
        let time = self.clocks[engine][engine];
        self.shared.land(Who { actor: engine, ..b.who }, b.at, &bytes, time);
        let clock = self.clocks[engine].clone();
        self.clocks[engine][engine] += 1;
        if let Some(m) = self.mbarriers.get_mut(&b.mbar) {
            m.complete(b.size as i64, &clock);
        }
    }
}
