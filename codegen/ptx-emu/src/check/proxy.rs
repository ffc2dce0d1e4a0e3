//! Shared memory as the asynchronous proxy sees it. `wgmma` and bulk copies read it past the paths of ordinary accesses: what
//! those wrote is there for them only after a `fence.proxy.async` by the lane that wrote it, made before whatever orders the
//! write before the read. And `wgmma` goes on reading until it is waited for.

use super::Bad;
use crate::FaultKind;

/// Pieces that `wgmma` reads, and that this shadow is kept for.
pub(crate) const CHUNK: usize = 16;

/// The shadow; kept only for kernels that have such readers.
pub(crate) struct Proxy {
    /// For each byte, the time of its writer at which it made the byte visible; 0 where it has not.
    fenced: Vec<u32>,
    /// For each warp, a bit for each chunk that it wrote to since its last fence.
    dirty: Vec<Vec<u64>>,
    /// How many warps wait for a `wgmma` that reads a chunk, and the line of one.
    flights: Vec<(u32, u32)>,
}

impl Proxy {
    pub fn new(bytes: usize, warps: usize) -> Self {
        let chunks = bytes.div_ceil(CHUNK);
        Self { fenced: vec![0; bytes], dirty: vec![vec![0; chunks.div_ceil(64)]; warps], flights: vec![(0, 0); chunks] }
    }

    /// A warp wrote bytes.
    pub fn wrote(&mut self, warp: usize, at: usize, n: usize) {
        self.fenced[at..at + n].fill(0);
        for c in at / CHUNK..(at + n).div_ceil(CHUNK) {
            self.dirty[warp][c / 64] |= 1 << (c % 64);
        }
    }

    /// A warp fences at `time`; `own` tells what the byte has to do with it.
    pub fn fence(&mut self, warp: usize, time: u32, own: impl Fn(usize) -> Own) {
        let bytes = self.fenced.len();
        for (i, word) in self.dirty[warp].iter_mut().enumerate() {
            let mut bits = *word;
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let start = (64 * i + bit as usize) * CHUNK;
                let mut left = false;
                for b in start..(start + CHUNK).min(bytes) {
                    match own(b) {
                        Own::Fenced if self.fenced[b] == 0 => self.fenced[b] = time,
                        Own::OtherLane => left = true,
                        _ => {}
                    }
                }
                *word &= !(u64::from(!left) << bit);
            }
        }
    }

    /// May the proxy read a byte that a warp wrote, given the time of the warp that the reader knows of?
    pub fn visible(&self, b: usize, known: u32) -> bool {
        (1..=known).contains(&self.fenced[b])
    }

    pub fn begin(&mut self, chunk: u32, line: u32) {
        let flight = &mut self.flights[chunk as usize];
        *flight = (flight.0 + 1, line);
    }

    pub fn end(&mut self, chunk: u32) {
        self.flights[chunk as usize].0 -= 1;
    }

    /// Nothing may be written where a `wgmma` reads.
    pub fn quiet(&self, at: usize, n: usize) -> Result<(), Bad> {
        let busy = |c: &usize| self.flights[*c].0 > 0;
        let Some(c) = (at / CHUNK..(at + n).div_ceil(CHUNK)).find(busy) else { return Ok(()) };
        let m = format!(
            "byte {} of shared memory: the wgmma of line {} reads it until its wgmma.wait_group",
            at.max(c * CHUNK),
            self.flights[c].1
        );
        Err(Bad::new(FaultKind::Race, m))
    }
}

/// Whose a byte is when a warp fences.
pub(crate) enum Own {
    /// Written by a lane that fences.
    Fenced,
    /// By a lane of the warp that does not.
    OtherLane,
    /// By somebody else since.
    Foreign,
}
