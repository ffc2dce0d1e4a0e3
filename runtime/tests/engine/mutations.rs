//! Damaged artifacts: refused, no panic, and no allocation beyond what the files are worth.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;

use tilewright_runtime::artifact::Artifact;
use tilewright_runtime::loader::Kernels;
use tilewright_runtime::plan::Plan;

use crate::kernels;

/// Remembers the largest amount that this thread held at once.
struct Counting;

thread_local! {
    static HELD: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
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

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn peak(run: impl FnOnce()) -> i64 {
    let (before, _) = HELD.get();
    HELD.set((before, before));
    run();
    HELD.get().1 - before
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            bytes[at] = match self.below(4) {
                0 => bytes[at] ^ 1 << self.below(8),
                1 => *b"0129\"{}[],:-e.\\ "[..].get(self.below(16)).unwrap(),
                2 => 0xff,
                _ => self.below(256) as u8,
            };
        }
    }
}

#[test]
fn damage_on_disk_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a");
    kernels::write(&dir);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for name in ["manifest.json", "plan.json", "kernels.o", "weights.bin", "tokenizer.json"] {
        let path = dir.join(name);
        let good = fs::read(&path).unwrap();
        let total: u64 = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        let check = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let most =
                peak(|| assert!(matches!(Artifact::open(&dir).map_err(|e| e.exit_code()), Err(3 | 4)), "{name}"));
            assert!(most < 4 * total as i64 + (64 << 10), "{most} bytes for {total}");
        };
        for i in 0..200 {
            check(&good[..good.len() * i / 200]);
        }
        for _ in 0..400 {
            let mut bytes = good.clone();
            random.mutate(&mut bytes);
            if bytes != good {
                check(&bytes);
            }
        }
        fs::write(&path, &good).unwrap();
    }
    Artifact::open(&dir).unwrap();
}

#[test]
fn consistent_damage_does_not_panic() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (plan, object) = (serde_json::to_vec(&kernels::plan()).unwrap(), kernels::object());
    let mut taken = [0; 2];
    for i in 0..4000 {
        let mut bytes = if i % 2 == 0 { plan.clone() } else { object.clone() };
        random.mutate(&mut bytes);
        if i % 20 >= 18 {
            bytes.truncate(random.below(bytes.len()));
        }
        let size = bytes.len() as i64;
        let most = peak(|| {
            if i % 2 == 0 {
                let plan = serde_json::from_slice::<Plan>(&bytes);
                taken[0] += u32::from(plan.is_ok_and(|p| p.validate(|name| name.len() < 6).is_ok()));
            } else {
                taken[1] += u32::from(Kernels::load(&bytes).is_ok());
            }
        });
        assert!(most < 4 * size + (64 << 10), "{most} bytes for {size}");
    }
    println!("still valid: {taken:?} of 2000 plans and objects");
}
