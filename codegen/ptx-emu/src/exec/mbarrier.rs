//! Mbarriers: objects in shared memory that count arrivals and bytes of copies, phase by phase.

use super::{Cx, Flow, lanes};
use crate::check::race::{Clock, State, join};
use crate::ops::{Addr, MbarOp, RegId, Src};
use crate::{Fault, FaultKind};

/// The count of transactions, and that of arrivals, are below this.
const LIMIT: i64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Mbarrier {
    count: i64,
    pending: i64,
    /// Bytes expected and not yet there; negative if they were faster than who expects them.
    bytes: i64,
    phase: u64,
    /// What all that arrived have done, and how much of it those who wait may know.
    clock: Clock,
    done: Clock,
    /// Who made it, and when.
    made: (usize, u32),
}

impl Mbarrier {
    fn turn(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
            self.done.clone_from(&self.clock);
        }
    }

    /// Bytes of a copy came.
    pub fn complete(&mut self, bytes: i64, clock: &[u32]) {
        join(&mut self.clock, clock);
        self.bytes -= bytes;
        self.turn();
    }

    fn arrive(&mut self, count: i64, expect: i64, clock: &[u32]) -> Result<u64, String> {
        join(&mut self.clock, clock);
        let phase = self.phase;
        if count > self.pending {
            return Err(format!("{count} arrive, but only {} are still expected in this phase", self.pending));
        }
        self.bytes += expect;
        if self.bytes.abs() >= LIMIT {
            return Err(format!("{} bytes are expected, more than an mbarrier counts", self.bytes));
        }
        self.pending -= count;
        self.turn();
        Ok(phase)
    }
}

impl Cx<'_, '_> {
    /// Place of an mbarrier that was made, by something that is ordered before now.
    pub(super) fn mbarrier_at(&self, lane: usize, address: u64) -> Result<usize, Fault> {
        let at = self.shared_at(lane, address, 8, 8)?;
        let Some(m) = self.cta.mbarriers.get(&at) else {
            let m = format!("there is no initialised mbarrier at byte {at} of shared memory");
            return self.err(Some(lane), FaultKind::Mbarrier, m);
        };
        let (warp, time) = m.made;
        if warp != self.w && self.cta.clocks[self.w][warp] < time {
            let m = format!("the mbarrier at byte {at} was initialised by warp {warp} with no barrier since");
            return self.err(Some(lane), FaultKind::Mbarrier, m);
        }
        Ok(at)
    }

    fn init(&mut self, lane: usize, address: u64, count: u64) -> Result<(), Fault> {
        let at = self.shared_at(lane, address, 8, 8)?;
        if count == 0 || count as i64 >= LIMIT {
            return self.err(Some(lane), FaultKind::Mbarrier, format!("an mbarrier cannot expect {count} arrivals"));
        }
        if self.cta.mbarriers.contains_key(&at) {
            let m = format!("the mbarrier at byte {at} is initialised again with no mbarrier.inval between");
            return self.err(Some(lane), FaultKind::Mbarrier, m);
        }
        let who = self.who(lane, false);
        let cta = &mut *self.cta;
        let result = cta.shared.write(who, at, 8, None, &cta.clocks[self.w]);
        result.map_err(self.at(lane))?;
        self.cta.shared.mark(at, 8, State::Mbarrier);
        self.cta.shared.written.set(at, 8);
        let zero = vec![0; self.cta.clocks.len()];
        let made = (self.w, self.cta.clocks[self.w][self.w]);
        let count = count as i64;
        let new = Mbarrier { count, pending: count, bytes: 0, phase: 0, clock: zero.clone(), done: zero, made };
        self.cta.mbarriers.insert(at, new);
        Ok(())
    }

    pub(super) fn mbarrier(
        &mut self,
        op: MbarOp,
        addr: &Addr,
        dst: Option<RegId>,
        a: Src,
        count: Src,
    ) -> Result<Flow, Fault> {
        let (addresses, a, count) = (self.addresses(addr)?, self.src(a)?, self.src(count)?);
        let (mut out, mut all, mut ticked) = ([0; 32], true, false);
        for l in lanes(self.mask) {
            if op == MbarOp::Init {
                self.init(l, addresses[l], a[l])?;
                continue;
            }
            let at = self.mbarrier_at(l, addresses[l])?;
            let clock = self.cta.clocks[self.w].clone();
            let Some(m) = self.cta.mbarriers.get_mut(&at) else { continue };
            let arrived = match op {
                MbarOp::Arrive => m.arrive(count[l] as i64, 0, &clock),
                MbarOp::ArriveDrop => {
                    m.count -= count[l] as i64;
                    m.arrive(count[l] as i64, 0, &clock)
                }
                MbarOp::ArriveExpect => m.arrive(1, a[l] as i64, &clock),
                MbarOp::Expect => m.arrive(0, a[l] as i64, &clock),
                MbarOp::Parity(_) | MbarOp::State(_) => {
                    let over = match op {
                        MbarOp::Parity(_) => m.phase & 1 != a[l] & 1,
                        _ => m.phase > a[l],
                    };
                    all &= over;
                    if over {
                        join(&mut self.cta.clocks[self.w], &m.done);
                    }
                    Ok(over.into())
                }
                _ => {
                    self.cta.mbarriers.remove(&at);
                    self.cta.shared.mark(at, 8, State::Plain);
                    Ok(0)
                }
            };
            ticked |= matches!(op, MbarOp::Arrive | MbarOp::ArriveDrop | MbarOp::ArriveExpect | MbarOp::Expect);
            out[l] = match arrived {
                Ok(v) => v,
                Err(m) => return self.err(Some(l), FaultKind::Mbarrier, m),
            };
        }
        if ticked {
            self.tick();
        }
        if let Some(d) = dst {
            self.set(d, self.mask, &out);
        }
        Ok(if all { Flow::Next } else { Flow::Yield })
    }
}
