//! Hashes of files: BLAKE3 of each segment of 16 MiB, so that a large file is checked on several cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes that one hash covers; the last segment of a file is shorter.
pub const SEGMENT_BYTES: usize = 16 << 20;

/// Hashes a stream segment by segment.
#[derive(Default)]
pub(super) struct SegmentHasher {
    hasher: blake3::Hasher,
    filled: usize,
    done: Vec<String>,
    total: u64,
}

impl SegmentHasher {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(SEGMENT_BYTES - self.filled));
            self.hasher.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == SEGMENT_BYTES {
                self.close();
            }
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        if self.filled > 0 {
            self.close();
        }
        self.done
    }

    fn close(&mut self) {
        self.done.push(self.hasher.finalize().to_hex().to_string());
        self.hasher.reset();
        self.filled = 0;
    }
}

/// Index of the first segment whose hash differs, `None` when all agree. The caller has checked that `expected` has one
/// entry a segment. `prepare` is called with each range before it is read.
pub(super) fn first_difference(
    data: &[u8],
    expected: &[String],
    threads: usize,
    prepare: impl Fn(usize, usize) + Sync,
) -> Option<usize> {
    let bad = AtomicUsize::new(usize::MAX);
    each_segment(data.chunks(SEGMENT_BYTES), threads, |i, segment| {
        prepare(i * SEGMENT_BYTES, segment.len());
        if expected.get(i).is_some_and(|hash| !matches(segment, hash)) {
            bad.fetch_min(i, Ordering::Relaxed);
        }
    });
    let bad = bad.into_inner();
    (bad != usize::MAX).then_some(bad)
}

/// Whether a segment has this hash.
pub(super) fn matches(segment: &[u8], hash: &str) -> bool {
    blake3::hash(segment).to_hex().as_str() == hash
}

/// Gives each segment and its number to `work`, on up to `threads` threads.
pub(super) fn each_segment<S: Send>(
    segments: impl ExactSizeIterator<Item = S> + Send,
    threads: usize,
    work: impl Fn(usize, S) + Sync,
) {
    let helpers = threads.min(segments.len()).saturating_sub(1);
    let rest = Mutex::new(segments.enumerate());
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((i, segment)) = next() {
            work(i, segment);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            // A thread that cannot start is work for the others.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}
