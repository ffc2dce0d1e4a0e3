//! Counted memory, seeded mutations, caught panics.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Remembers the largest amount that each thread held at once.
struct Counting;

thread_local! {
    static HELD: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

fn count(change: i64) {
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + change, most.max(now + change)));
    });
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist for a moment.
        count(size as i64);
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that this thread held at once during `run`, above what it held before.
pub fn peak<T>(run: impl FnOnce() -> T) -> (T, i64) {
    let (before, _) = HELD.get();
    HELD.set((before, before));
    let out = run();
    (out, HELD.get().1 - before)
}

/// The result of `run`, or what it panicked with and where.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.get() {
                PANIC.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
    CATCHING.set(true);
    let out = catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(false);
    out.map_err(|_| PANIC.take().unwrap_or_else(|| "a panic on another thread".into()))
}

/// Whether a message helps: it says something, and is not the name of a Rust type or a debug dump.
pub fn useful(message: &str) -> bool {
    message.trim().len() >= 15 && message.contains(' ') && message.len() < 2000 && !message.contains("unwrap()")
}

/// Numbers at which something changes.
const EDGES: [u64; 14] =
    [0, 1, 2, 3, 31, 255, 65535, 1 << 20, 1 << 31, (1 << 31) - 1, u32::MAX as u64, 1 << 40, 1 << 62, u64::MAX];

/// A xorshift generator.
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Random {
        Random(tilewright_tests::tiny::splitmix64(seed) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    /// Puts another number into `range`: one at an edge, a small one, or one near what is there.
    pub fn number(&mut self, bytes: &mut [u8], range: &Range<usize>) {
        let mut old = [0; 8];
        old[..range.len()].copy_from_slice(&bytes[range.clone()]);
        let old = u64::from_le_bytes(old);
        let new = match self.below(6) {
            0 => EDGES[self.below(EDGES.len())],
            1 => self.below(100) as u64,
            2 => old.wrapping_add(1 + self.below(4) as u64),
            3 => old.wrapping_sub(1 + self.below(4) as u64),
            4 => old.wrapping_mul(2 << self.below(4)),
            _ => old / (2 << self.below(4)),
        };
        bytes[range.clone()].copy_from_slice(&new.to_le_bytes()[..range.len()]);
    }

    /// Changes one to eight bytes inside `range`: a bit, a byte, a run, or a number that sits at an edge.
    pub fn mutate(&mut self, bytes: &mut [u8], range: &Range<usize>) {
        for _ in 0..[1, 1, 1, 2, 3][self.below(5)] {
            let at = range.start + self.below(range.len());
            let room = range.end - at;
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes[at] = [0, 0xff, 0x7f, 0x80, b'"'][self.below(5)],
                3 => {
                    let n = (1 + self.below(8)).min(room);
                    bytes[at..at + n].iter_mut().for_each(|b| *b = self.below(256) as u8);
                }
                4 => {
                    let n = 4.min(room);
                    bytes[at..at + n].copy_from_slice(&EDGES[self.below(EDGES.len())].to_le_bytes()[..n]);
                }
                _ => {
                    let n = 8.min(room);
                    bytes[at..at + n].copy_from_slice(&EDGES[self.below(EDGES.len())].to_le_bytes()[..n]);
                }
            }
        }
    }
}
