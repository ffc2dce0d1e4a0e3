//! Persistent workers that walk one list of kernel calls together.
//!
//! All workers, the calling thread among them, go through the same [`CallList`]. A call's chunks are claimed one by one,
//! by each worker first in a region of its own, then wherever some are left; a call is over when all its chunks are *finished*, not when all workers have arrived. So a
//! worker that loses its core delays the others by the chunk it holds and no more.
//!
//! Calls of a single chunk belong to the call before them: whoever finishes its last chunk runs them, and nobody waits for
//! a worker to come and fetch them.
//!
//! A waiting worker spins for about 20 µs, then yields, then sleeps; between runs too. One thread runs without any of this.
//!
//! ```text
//! pool.run(list, head):  publish (first sequence number, list, head); walk; all units are finished
//! ```

mod list;
mod wait;
mod walk;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

pub use list::{CallList, Step};
use walk::{Job, Shared};

use crate::error::RunError;

/// Workers bound to their call lists. Dropping it ends the threads.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    next_unit: u64,
    times: Option<Vec<Vec<u64>>>,
}

impl Pool {
    /// Starts `threads - 1` threads; the caller of [`Pool::run`] is one more. With `profile`, [`Pool::times`] counts.
    pub fn new(threads: usize, lists: Vec<CallList>, profile: bool) -> Result<Pool, RunError> {
        let times = profile.then(|| lists.iter().map(|list| vec![0; list.steps.len()]).collect());
        let shared = Arc::new(Shared::new(lists, !profile, threads));
        let mut pool = Pool { shared, helpers: Vec::new(), next_unit: 1, times };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let thread =
                std::thread::Builder::new().name(format!("tilewright-{index}")).spawn(move || shared.serve(index));
            pool.helpers.push(thread.map_err(|source| RunError::Thread { index, source })?);
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs list number `list` and returns when every call is finished; without `head`, up to the list's head.
    ///
    /// # Safety
    ///
    /// Every step's kernel, pointers and scalars must be valid for every chunk, and nothing else may touch what they
    /// write until this returns. (After that no worker touches anything.)
    pub unsafe fn run(&mut self, list: usize, head: bool) {
        if self.helpers.is_empty() {
            let steps = self.shared.lists[list].steps(head);
            // SAFETY: the caller's promise.
            unsafe { walk::alone(steps, self.times.as_mut().map(|t| &mut t[list][..])) };
            return;
        }
        let job = Job { first: self.next_unit, list, head };
        self.next_unit += self.shared.units(&job).len() as u64;
        self.shared.publish(&job);
        match self.times.as_mut() {
            // SAFETY: the caller's promise.
            None => unsafe { self.shared.walk(0, &job, |_| {}) },
            Some(times) => {
                let mut before = std::time::Instant::now();
                let record = |first: usize| {
                    let now = std::time::Instant::now();
                    times[list][first] += (now - before).as_nanos() as u64;
                    before = now;
                };
                // SAFETY: the caller's promise.
                unsafe { self.shared.walk(0, &job, record) }
            }
        }
    }

    /// Nanoseconds that each call of list number `list` took so far, in order, waiting included. `None` unless asked for.
    pub fn times(&self, list: usize) -> Option<&[u64]> {
        self.times.as_ref()?.get(list).map(Vec::as_slice)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.job.store(walk::STOP, Ordering::SeqCst);
        self.shared.sleep.wake();
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}
