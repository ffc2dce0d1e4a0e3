use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tilewright_runtime::workers::{CallList, Pool, Step};

/// `counts[chunk] += 1`, not atomic: two runs of a chunk at once would lose one.
unsafe extern "sysv64" fn count(args: *const *mut u8, _: *const i64, chunk: i64) {
    // SAFETY: the tests pass one array of as many counters as there are chunks.
    unsafe { *(*args as *mut u64).offset(chunk as isize) += 1 };
}

/// `to[chunk] = from[last - chunk] + 1`: wrong unless all of the call before is finished.
unsafe extern "sysv64" fn mirror(args: *const *mut u8, scalars: *const i64, chunk: i64) {
    // SAFETY: the tests pass two arrays of `last + 1`.
    unsafe {
        let (from, to) = (*args as *const u64, *args.add(1) as *mut u64);
        *to.offset(chunk as isize) = *from.offset((*scalars - chunk) as isize) + 1;
    }
}

unsafe extern "sysv64" fn nothing(_: *const *mut u8, _: *const i64, _: i64) {}

/// `calls` mirrors between two arrays, each of `sizes[i % len]` chunks of the same largest size.
struct Mirrors {
    a: Vec<u64>,
    b: Vec<u64>,
    args: [[*mut u8; 2]; 2],
    last: Vec<i64>,
}

impl Mirrors {
    fn new(chunks: u32) -> Box<Mirrors> {
        let n = chunks as usize;
        let mut m = Box::new(Mirrors {
            a: vec![0; n],
            b: vec![0; n],
            args: [[std::ptr::null_mut(); 2]; 2],
            last: vec![i64::from(chunks) - 1],
        });
        let (a, b) = (m.a.as_mut_ptr().cast(), m.b.as_mut_ptr().cast());
        m.args = [[a, b], [b, a]];
        m
    }

    fn steps(&self, calls: usize) -> Vec<Step> {
        let step = |i: usize| Step {
            kernel: mirror,
            args: self.args[i % 2].as_ptr(),
            scalars: self.last.as_ptr(),
            chunks: self.a.len() as u32,
        };
        (0..calls).map(step).collect()
    }
}

#[test]
fn every_chunk_once_and_in_order() {
    for threads in [1, 2, 3, 4, 9] {
        let rounds = if threads > 4 { 50 } else { 1500 };
        let (wide, single) = (Mirrors::new(13), Mirrors::new(1));
        let mut steps = wide.steps(6);
        steps.extend(single.steps(4));
        steps.extend(wide.steps(2));
        let mut counts = vec![0u64; 300];
        let counted = [counts.as_mut_ptr().cast::<u8>()];
        let tail = Step { kernel: count, args: counted.as_ptr(), scalars: std::ptr::null(), chunks: 300 };
        let lists = vec![CallList::new(steps.clone(), 12), CallList::new([&steps[..], &[tail]].concat(), 12)];
        let mut pool = Pool::new(threads, lists, false).unwrap();
        assert_eq!(pool.threads(), threads);
        for round in 0..rounds {
            // SAFETY: all arguments point to arrays of the size that their steps need.
            unsafe { pool.run(round % 2, round % 3 == 0) };
            // As a sampler does between tokens; sometimes long enough for workers to fall asleep.
            if round % 500 == 7 {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        let heads = (0..rounds).filter(|r| r % 2 == 1 && r % 3 == 0).count() as u64;
        drop(pool);
        assert!(counts.iter().all(|c| *c == heads), "{threads} threads");
        assert!(wide.a.iter().all(|x| *x == 8 * rounds as u64), "{threads} threads");
        assert!(single.a.iter().all(|x| *x == 4 * rounds as u64), "{threads} threads");
    }
}

#[test]
fn survives_busy_neighbours() {
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while stop.load(Ordering::Relaxed) == 0 {
                    std::hint::spin_loop()
                }
            });
        }
        let wide = Mirrors::new(8);
        let mut pool = Pool::new(2, vec![CallList::new(wide.steps(40), 40)], false).unwrap();
        for _ in 0..200 {
            // SAFETY: as above.
            unsafe { pool.run(0, true) };
        }
        stop.store(1, Ordering::Relaxed);
        drop(pool);
        assert!(wide.a.iter().all(|x| *x == 40 * 200));
    });
}

#[test]
fn times_of_calls() {
    for threads in [1, 2] {
        let wide = Mirrors::new(5);
        let mut pool = Pool::new(threads, vec![CallList::new(wide.steps(4), 2)], true).unwrap();
        for _ in 0..100 {
            // SAFETY: as above.
            unsafe { pool.run(0, false) };
        }
        let times = pool.times(0).unwrap();
        assert!(times[0] > 0 && times[1] > 0 && times[2..] == [0, 0], "{times:?}");
    }
}

/// About 1 µs.
unsafe extern "sysv64" fn work(_: *const *mut u8, _: *const i64, _: i64) {
    for i in 0..1200u64 {
        std::hint::black_box(i);
    }
}

/// Not a test of anything: 300 calls of 10 chunks, alone and beside a neighbour that wants a core for itself.
#[test]
#[ignore = "prints a measurement"]
fn neighbours() {
    let steps = vec![Step { kernel: work, args: std::ptr::null(), scalars: std::ptr::null(), chunks: 10 }; 300];
    for (threads, busy) in [(1, 0), (2, 0), (1, 1), (2, 1), (2, 2)] {
        let stop = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..busy {
                scope.spawn(|| {
                    while stop.load(Ordering::Relaxed) == 0 {
                        std::hint::spin_loop()
                    }
                });
            }
            let mut pool = Pool::new(threads, vec![CallList::new(steps.clone(), 300)], false).unwrap();
            let mut samples: Vec<_> = (0..300)
                .map(|_| {
                    let start = Instant::now();
                    // SAFETY: the kernel touches nothing.
                    unsafe { pool.run(0, true) };
                    start.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            stop.store(1, Ordering::Relaxed);
            samples.sort_by(f64::total_cmp);
            let (best, median, worst) = (samples[0], samples[150], samples[296]);
            println!("{threads} threads, {busy} busy: min {best:.2} median {median:.2} p99 {worst:.2} ms");
        });
    }
}

/// Counts chunks that somebody other than the caller of [`Pool::run`] has taken.
unsafe extern "sysv64" fn helped(args: *const *mut u8, _: *const i64, _: i64) {
    if !CALLER.get() {
        // SAFETY: the measurement passes one atomic counter.
        unsafe { &*(*args as *const AtomicU64) }.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static CALLER: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Not a test of anything: `cargo test --release -p tilewright-runtime overhead -- --ignored --nocapture`
///
/// Runs for 50 ms before it counts: in its first milliseconds a helper may wait for a core, and then there is nobody to
/// share with. The last call of a list says how many of its chunks the helper took.
#[test]
#[ignore = "prints a measurement"]
fn overhead() {
    CALLER.set(true);
    let by_helpers = AtomicU64::new(0);
    let args = [(&raw const by_helpers).cast::<u8>().cast_mut()];
    let step = |chunks| Step { kernel: nothing, args: args.as_ptr(), scalars: std::ptr::null(), chunks };
    let last = Step { kernel: helped, chunks: 8, ..step(8) };
    for (name, pattern) in
        [("1 chunk", vec![1]), ("2 chunks", vec![2]), ("8 chunks", vec![8]), ("1 and 8 chunks", vec![1, 8])]
    {
        for threads in [1, 2] {
            let mut steps: Vec<_> = (0..299).map(|i| step(pattern[i % pattern.len()])).collect();
            steps.push(last);
            let mut pool = Pool::new(threads, vec![CallList::new(steps, 300)], false).unwrap();
            let mut sample = || {
                let start = Instant::now();
                // SAFETY: the kernels touch nothing but the counter.
                unsafe { pool.run(0, true) };
                start.elapsed().as_nanos() as f64 / 300.0
            };
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(50) {
                sample();
            }
            by_helpers.store(0, Ordering::Relaxed);
            let mut samples: Vec<_> = (0..20_000).map(|_| sample()).collect();
            samples.sort_by(f64::total_cmp);
            let at = |q: f64| samples[(q * 19_999.0) as usize];
            let share = by_helpers.load(Ordering::Relaxed) as f64 / (8.0 * 200.0);
            println!(
                "{name:>15}, {threads} threads: min {:.1} median {:.1} p99 {:.1} ns a call; helpers took {share:.0} %",
                at(0.0),
                at(0.5),
                at(0.99)
            );
        }
    }
}
