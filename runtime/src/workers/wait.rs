//! Waiting: spin, then yield, then sleep.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time to spin: most waits inside a run are shorter than a chunk.
const SPIN: Duration = Duration::from_micros(20);
/// Time until sleep: longer than sampling takes between two tokens, so that workers are awake for the next.
const AWAKE: Duration = Duration::from_millis(1);

/// Where workers sleep. One for all: whoever wakes looks whether its own condition holds.
#[derive(Default)]
pub(super) struct Sleep {
    sleepers: AtomicU32,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Sleep {
    /// Returns when `ready` holds. `ready` must load with `SeqCst`, and whoever makes it true must store with `SeqCst`
    /// and call [`Sleep::wake`] afterwards: then either the sleeper sees the value or the waker sees the sleeper.
    #[inline]
    pub(super) fn until(&self, ready: impl Fn() -> bool) {
        if !ready() {
            self.slow(&ready);
        }
    }

    #[cold]
    fn slow(&self, ready: &dyn Fn() -> bool) {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        while start.elapsed() < AWAKE {
            std::thread::yield_now();
            if ready() {
                return;
            }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !ready() {
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes all sleepers, if there are any.
    #[inline]
    pub(super) fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        // With the lock, a sleeper that has counted itself but not yet gone to sleep is not missed.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_all();
    }
}
