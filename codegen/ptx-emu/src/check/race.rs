//! Shared memory and who touched it: for every byte the last writer and, for each warp, the last read.
//!
//! Order is kept in vector clocks, one of each warp and one of the engine that makes bulk copies. A warp's own entry goes up
//! whenever it publishes what it did: at a barrier, at an arrival on an mbarrier, at a release, at a `.sync` operation. An
//! access of warp `v` at its time `t` is ordered before one of warp `w` exactly if `w` has seen `v` at `t` or later. Lanes of
//! one warp are ordered by its `.sync` operations: that they run in step is no promise of the hardware.

use super::Bad;
use super::init::Written;
use super::proxy::{CHUNK, Own, Proxy};
use crate::FaultKind;

/// Times of all actors, as one of them knows them.
pub(crate) type Clock = Vec<u32>;

/// Everything that happened before `from` happened before `into`, too.
pub(crate) fn join(into: &mut [u32], from: &[u32]) {
    into.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
}

/// What else a byte is besides memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Plain,
    /// A `cp.async` writes it and was not waited for.
    Copy,
    /// A bulk copy writes it.
    Bulk,
    Mbarrier,
}

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub actor: usize,
    pub lane: u8,
    pub line: u32,
    /// Atomic, relaxed and volatile accesses do not race with each other.
    pub strong: bool,
}

#[derive(Clone, Copy)]
struct Write {
    actor: u8,
    lane: u8,
    strong: bool,
    time: u32,
    line: u32,
}

#[derive(Clone, Copy)]
struct Read {
    time: u32,
    /// [`SEVERAL`] where more than one lane read it at that time.
    lane: u8,
    line: u32,
}

pub(crate) const SEVERAL: u8 = 255;

/// Shared memory of a CTA with its shadow.
pub(crate) struct Shared {
    pub data: Vec<u8>,
    pub written: Written,
    state: Vec<State>,
    writes: Vec<Write>,
    /// For each warp, its last read of each byte; empty until it reads.
    reads: Vec<Vec<Read>>,
    proxy: Option<Proxy>,
}

impl Shared {
    /// `proxy`: something in the kernel reads through the asynchronous proxy.
    pub fn new(bytes: usize, warps: usize, proxy: bool) -> Self {
        let nobody = Write { actor: 0, lane: 0, strong: false, time: 0, line: 0 };
        Self {
            data: vec![0xa5; bytes],
            written: Written::new(bytes),
            state: vec![State::Plain; bytes],
            writes: vec![nobody; bytes],
            reads: vec![Vec::new(); warps],
            proxy: proxy.then(|| Proxy::new(bytes, warps)),
        }
    }

    fn usable(&self, b: usize, write: bool) -> Result<(), Bad> {
        let line = self.writes[b].line;
        let verb = if write { "writes" } else { "reads" };
        Err(match self.state[b] {
            State::Plain => return Ok(()),
            State::Copy => {
                let m = format!("{verb} byte {b} of shared memory, which the cp.async of line {line} still fills");
                Bad::new(FaultKind::MissingWait, m)
            }
            State::Bulk => {
                let m = format!("{verb} byte {b} of shared memory, which the bulk copy of line {line} still fills");
                Bad::new(FaultKind::MissingWait, m)
            }
            State::Mbarrier => {
                let m = format!("{verb} byte {b} of shared memory, which belongs to the mbarrier of line {line}");
                Bad::new(FaultKind::Mbarrier, m)
            }
        })
    }

    /// Is the last write to `b` ordered before what `who` does? `same`: it leaves the byte as it is.
    fn after_write(&self, who: Who, b: usize, now: &[u32], engine: usize, same: bool) -> Result<(), Bad> {
        let w = self.writes[b];
        let actor = usize::from(w.actor);
        if w.time == 0 || who.strong && w.strong {
            return Ok(());
        }
        if actor == who.actor {
            let fresh = w.time == now[actor] && w.lane != who.lane;
            if !fresh || same && w.line == who.line {
                return Ok(());
            }
            let m = format!(
                "byte {b} of shared memory: lane {} wrote it at line {}, and no bar.warp.sync lies between",
                w.lane, w.line
            );
            return Err(Bad::new(FaultKind::Race, m));
        }
        if now[actor] >= w.time {
            return Ok(());
        }
        if actor == engine {
            let m = format!("byte {b} of shared memory: no wait on the mbarrier of the bulk copy of line {}", w.line);
            return Err(Bad::new(FaultKind::MissingWait, m));
        }
        let m = format!(
            "byte {b} of shared memory: warp {actor}, lane {} wrote it at line {}, with no barrier between",
            w.lane, w.line
        );
        Err(Bad::new(FaultKind::Race, m))
    }

    /// `who` reads bytes; `now` is its clock.
    pub fn read(&mut self, who: Who, at: usize, n: usize, now: &[u32]) -> Result<(), Bad> {
        let engine = now.len() - 1;
        for b in at..at + n {
            self.usable(b, false)?;
            self.after_write(who, b, now, engine, false)?;
        }
        self.written.check("shared memory", at, n)?;
        if who.strong || who.actor == engine {
            return Ok(());
        }
        self.note_read(who, at, n, now[who.actor]);
        Ok(())
    }

    fn note_read(&mut self, who: Who, at: usize, n: usize, time: u32) {
        let reads = &mut self.reads[who.actor];
        if reads.is_empty() {
            *reads = vec![Read { time: 0, lane: 0, line: 0 }; self.data.len()];
        }
        for r in &mut reads[at..at + n] {
            let lane = if r.time == time && r.lane != who.lane { SEVERAL } else { who.lane };
            *r = Read { time, lane, line: who.line };
        }
    }

    /// `wgmma` reads a chunk, at any time from here on; `known` is what all warps of its group know.
    pub fn read_async(&self, at: usize, known: &[u32]) -> Result<(), Bad> {
        let (engine, nobody) = (known.len() - 1, Who { actor: usize::MAX, lane: SEVERAL, line: 0, strong: false });
        for b in at..at + CHUNK {
            self.usable(b, false)?;
            self.after_write(nobody, b, known, engine, false)?;
        }
        self.written.check("shared memory", at, CHUNK)?;
        self.visible(at, CHUNK, known)
    }

    /// What ordinary accesses wrote must have been made visible to the asynchronous proxy, as far as the reader knows.
    pub fn visible(&self, at: usize, n: usize, known: &[u32]) -> Result<(), Bad> {
        let Some(proxy) = &self.proxy else { return Ok(()) };
        let engine = known.len() - 1;
        let hidden = |b: &usize| {
            let actor = usize::from(self.writes[*b].actor);
            actor != engine && !proxy.visible(*b, known[actor])
        };
        let Some(b) = (at..at + n).find(hidden) else { return Ok(()) };
        let w = self.writes[b];
        let m = format!(
            "byte {b} of shared memory: warp {}, lane {} wrote it at line {}, with no fence.proxy.async of that lane \
             before what orders the two",
            w.actor, w.lane, w.line
        );
        Err(Bad::new(FaultKind::MissingFence, m))
    }

    /// Lanes of a warp make visible to the asynchronous proxy what they wrote.
    pub fn fence_proxy(&mut self, warp: usize, lanes: u32, time: u32) {
        let writes = &self.writes;
        let own = |b: usize| match &writes[b] {
            w if usize::from(w.actor) != warp => Own::Foreign,
            w if lanes >> w.lane & 1 == 1 => Own::Fenced,
            _ => Own::OtherLane,
        };
        if let Some(proxy) = &mut self.proxy {
            proxy.fence(warp, time, own);
        }
    }

    /// A `wgmma` that a warp will wait for begins to read a chunk.
    pub fn begin_async(&mut self, chunk: u32, line: u32) {
        if let Some(proxy) = &mut self.proxy {
            proxy.begin(chunk, line);
        }
    }

    /// A warp has waited for it: `who` read the chunk at `time`.
    pub fn end_async(&mut self, who: Who, chunk: u32, time: u32) {
        if let Some(proxy) = &mut self.proxy {
            proxy.end(chunk);
        }
        self.note_read(who, chunk as usize * CHUNK, CHUNK, time);
    }

    /// `who` is about to write bytes, or has a copy do it; `value` where it is known.
    pub fn write(&mut self, who: Who, at: usize, n: usize, value: Option<&[u8]>, now: &[u32]) -> Result<(), Bad> {
        let engine = now.len() - 1;
        if let Some(proxy) = &self.proxy {
            proxy.quiet(at, n)?;
        }
        for b in at..at + n {
            self.usable(b, true)?;
            let same = value.is_some_and(|v| v[b - at] == self.data[b]);
            self.after_write(who, b, now, engine, same)?;
        }
        for (actor, reads) in self.reads.iter().enumerate().filter(|(_, r)| !r.is_empty()) {
            let known = now[actor];
            for (i, r) in reads[at..at + n].iter().enumerate() {
                let own = actor == who.actor;
                if if own { r.time == known && r.lane != who.lane } else { r.time > known } {
                    let what = if own { "no bar.warp.sync lies" } else { "no barrier lies" };
                    let m = format!(
                        "byte {} of shared memory: warp {actor} reads it at line {}, and {what} between",
                        at + i,
                        r.line
                    );
                    return Err(Bad::new(FaultKind::Race, m));
                }
            }
        }
        self.wrote(who, at, n, now[who.actor]);
        Ok(())
    }

    /// Notes a write that was found in order.
    fn wrote(&mut self, who: Who, at: usize, n: usize, time: u32) {
        let w = Write { actor: who.actor as u8, lane: who.lane, strong: who.strong, time, line: who.line };
        self.writes[at..at + n].fill(w);
        if let Some(proxy) = self.proxy.as_mut().filter(|_| who.actor < self.reads.len()) {
            proxy.wrote(who.actor, at, n);
        }
    }

    pub fn mark(&mut self, at: usize, n: usize, state: State) {
        self.state[at..at + n].fill(state);
    }

    /// A copy has come: from here on its bytes are as if `who` had written them at `time`.
    pub fn land(&mut self, who: Who, at: usize, bytes: &[u8], time: u32) {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.written.set(at, bytes.len());
        self.mark(at, bytes.len(), State::Plain);
        self.wrote(who, at, bytes.len(), time);
    }
}
