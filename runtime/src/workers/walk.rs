//! The walk: claiming and finishing chunks.
//!
//! Every unit that ever runs has a number of its own, counted over all runs. The counters of a unit, chunks claimed and
//! chunks finished, hold that number above 16 bits of count, so nothing is ever reset: the first claimer lifts a counter
//! over its old value, and a worker that overslept sees larger numbers everywhere and runs through its list without
//! touching data. A unit starts only after the one before it is finished, so a few sets of counters, used in turn, serve
//! lists of any length and stay in the nearest cache.
//!
//! The chunks of a unit are divided into as many regions as there are workers, each with a counter of what is claimed of
//! it. A worker begins in its own region and goes on in those of others, so that it reads one stretch of the weights from
//! end to end, as the machine likes best, and yet nobody waits for a worker that has lost its core.
//!
//! What a run is (first unit number, list, head or not) is one word, read once: a late worker cannot mix two runs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::list::{CallList, Step, Unit};
use super::wait::Sleep;

/// Bits of a counter that count chunks, and of a job that name list and head.
const BITS: u32 = 16;
/// Sets of counters. Two would do; with more, a late worker reads lines that nobody writes at the moment.
const RING: usize = 4;
/// The job that ends a worker.
pub(super) const STOP: u64 = u64::MAX;

/// A counter on cache lines of its own: two, since some CPUs fetch lines in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicU64);

struct Slot {
    /// Of each region.
    claimed: Box<[Counter]>,
    finished: Counter,
}

/// One run of one list.
pub(super) struct Job {
    pub(super) first: u64,
    pub(super) list: usize,
    pub(super) head: bool,
}

impl Job {
    fn pack(&self) -> u64 {
        self.first << BITS | (self.list as u64) << 1 | u64::from(self.head)
    }

    fn unpack(word: u64) -> Job {
        Job { first: word >> BITS, list: (word as usize & ((1 << BITS) - 1)) >> 1, head: word & 1 != 0 }
    }
}

/// What all workers see.
pub(super) struct Shared {
    pub(super) lists: Box<[CallList]>,
    units: Box<[(Box<[Unit]>, usize)]>,
    slots: [Slot; RING],
    pub(super) job: AtomicU64,
    pub(super) sleep: Sleep,
}

impl Shared {
    pub(super) fn new(lists: Vec<CallList>, merge: bool, workers: usize) -> Shared {
        assert!(lists.len() < 1 << (BITS - 1), "too many call lists");
        let units = lists.iter().map(|list| list.units(merge)).collect();
        let regions = || (0..workers.max(1)).map(|_| Counter::default()).collect();
        let slots = std::array::from_fn(|_| Slot { claimed: regions(), finished: Counter::default() });
        let (job, sleep) = Default::default();
        Shared { lists: lists.into(), units, slots, job, sleep }
    }

    /// The units of a run.
    pub(super) fn units(&self, job: &Job) -> &[Unit] {
        let (units, body) = &self.units[job.list];
        if job.head { units } else { &units[..*body] }
    }

    /// Lets the helpers start.
    pub(super) fn publish(&self, job: &Job) {
        // A swap is a full barrier, which `Sleep::wake` needs before it looks for sleepers.
        self.job.swap(job.pack(), Ordering::SeqCst);
        self.sleep.wake();
    }

    /// The life of helper number `worker`.
    pub(super) fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            self.sleep.until(|| self.job.load(Ordering::SeqCst) != seen);
            seen = self.job.load(Ordering::SeqCst);
            if seen == STOP {
                return;
            }
            // SAFETY: a job is published only inside `Pool::run`, whose caller vouches for the list. If that run is over
            // by now, all its chunks are claimed and none is called from here.
            unsafe { self.walk(worker, &Job::unpack(seen), |_| {}) };
        }
    }

    /// Walks a job to its end as worker number `worker`; `done` gets the first step of each unit after it.
    ///
    /// # Safety
    ///
    /// As [`super::Pool::run`].
    pub(super) unsafe fn walk(&self, worker: usize, job: &Job, mut done: impl FnMut(usize)) {
        let steps = &self.lists[job.list].steps;
        for (number, unit) in (job.first..).zip(self.units(job)) {
            let slot = &self.slots[number as usize % RING];
            let base = number << BITS;
            let chunks = u64::from(unit.chunks);
            // One more count than chunks: for the steps that follow.
            let end = base + chunks + 1;
            let first = &steps[unit.first as usize];
            while let Some(chunk) = slot.claim(worker, base, chunks) {
                // SAFETY: the caller's promise, and no other worker has this chunk.
                unsafe { (first.kernel)(first.args, first.scalars, chunk) };
                if slot.finish(base) == base + chunks {
                    for step in &steps[unit.first as usize + 1..unit.end as usize] {
                        // SAFETY: as above; all chunks are finished, so this is the only worker in the unit.
                        unsafe { (step.kernel)(step.args, step.scalars, 0) };
                    }
                    slot.finish(base);
                    self.sleep.wake();
                }
            }
            self.sleep.until(|| slot.finished.0.load(Ordering::SeqCst) >= end);
            done(unit.first as usize);
        }
    }
}

impl Counter {
    /// Claims one of the `n` chunks of a region of the unit at `base`; `None` when all are claimed or the unit is of the
    /// past.
    #[inline]
    fn claim(&self, base: u64, n: u64) -> Option<u64> {
        let mut at = self.0.load(Ordering::Acquire);
        loop {
            if at >= base + n {
                return None;
            }
            let next = at.max(base);
            match self.0.compare_exchange_weak(at, next + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(next - base),
                Err(now) => at = now,
            }
        }
    }
}

impl Slot {
    /// Claims one of the `chunks` chunks of the unit at `base`, of `worker`'s own region while there are any.
    #[inline]
    fn claim(&self, worker: usize, base: u64, chunks: u64) -> Option<i64> {
        let regions = self.claimed.len();
        (worker..worker + regions).find_map(|i| {
            let region = (i % regions) as u64;
            let [from, to] = [region, region + 1].map(|r| chunks * r / regions as u64);
            if from == to {
                return None;
            }
            self.claimed[region as usize].claim(base, to - from).map(|k| (from + k) as i64)
        })
    }

    /// Counts a finished chunk and gives the new count.
    #[inline]
    fn finish(&self, base: u64) -> u64 {
        let mut at = self.finished.0.load(Ordering::Relaxed);
        loop {
            let next = at.max(base) + 1;
            match self.finished.0.compare_exchange_weak(at, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return next,
                Err(now) => at = now,
            }
        }
    }
}

/// Runs steps on this thread only.
///
/// # Safety
///
/// As [`super::Pool::run`].
pub(super) unsafe fn alone(steps: &[Step], mut times: Option<&mut [u64]>) {
    for (i, step) in steps.iter().enumerate() {
        let start = times.is_some().then(std::time::Instant::now);
        for chunk in 0..i64::from(step.chunks) {
            // SAFETY: the caller's promise.
            unsafe { (step.kernel)(step.args, step.scalars, chunk) };
        }
        if let (Some(times), Some(start)) = (times.as_deref_mut(), start) {
            times[i] += start.elapsed().as_nanos() as u64;
        }
    }
}
