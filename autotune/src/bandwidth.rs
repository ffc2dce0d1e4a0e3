//! How fast this machine reads memory in sequence: the floor under every decoded token.
//!
//! ```no_run
//! let b = tilewright_autotune::bandwidth::measure(2, 256 << 20);
//! println!("{:.1} GB/s +- {:.1}", b.median / 1e9, b.mad / 1e9);
//! ```

use crate::stats;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Passes; the first is thrown away.
const PASSES: usize = 9;

/// Bytes a second.
#[derive(Clone, Debug)]
pub struct Bandwidth {
    /// Median of the passes.
    pub median: f64,
    /// Median distance from it.
    pub mad: f64,
    /// The fastest pass: what a lower bound of time has to be taken from.
    pub best: f64,
    /// Threads that read at once.
    pub threads: usize,
}

/// Measures with `threads` that read `bytes` between them in each pass. Give as many bytes as the work in question
/// reads: what fits a large last-level cache is read twice as fast.
pub fn measure(threads: usize, bytes: usize) -> Bandwidth {
    let threads = threads.max(1);
    let words = (bytes / threads / 8).max(1);
    let barrier = Barrier::new(threads);
    // A pass lasts from the first thread's start to the last one's end.
    let spans: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|t| {
                let barrier = &barrier;
                scope.spawn(move || {
                    // Written by the thread that reads it, so that its pages are near.
                    let data: Vec<u64> = (0..words as u64).map(|i| i ^ t as u64).collect();
                    let mut spans = vec![];
                    for _ in 0..PASSES {
                        barrier.wait();
                        let start = Instant::now();
                        black_box(sum(black_box(&data)));
                        spans.push((start, Instant::now()));
                    }
                    spans
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap_or_default()).collect()
    });
    let pass = |p: usize| {
        let start = spans.iter().filter_map(|s| s.get(p)).map(|s| s.0).min()?;
        let end = spans.iter().filter_map(|s| s.get(p)).map(|s| s.1).max()?;
        Some((words * 8 * threads) as f64 / (end - start).as_secs_f64().max(1e-9))
    };
    let rates: Vec<f64> = (1..PASSES).filter_map(pass).collect();
    Bandwidth { median: stats::median(&rates), mad: stats::mad(&rates), best: stats::quantile(&rates, 1.0), threads }
}

/// Eight sums side by side: the compiler makes vector loads of it, and additions never wait for each other.
fn sum(data: &[u64]) -> u64 {
    let mut sums = [0u64; 8];
    let chunks = data.chunks_exact(8);
    for chunk in chunks {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *s = s.wrapping_add(*v);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_something() {
        let b = measure(2, 1 << 20);
        assert!(b.median > 0.0 && b.mad >= 0.0 && b.threads == 2, "{b:?}");
    }
}
