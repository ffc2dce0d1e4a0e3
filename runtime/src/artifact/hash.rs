//! Hashes of files: BLAKE3 of each segment of 16 MiB, so that a large file is checked on several cores.

use std::sync::atomic::{AtomicUsize, Ordering};

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
    let next = AtomicUsize::new(0);
    let bad = AtomicUsize::new(usize::MAX);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some((segment, hash)) = data.chunks(SEGMENT_BYTES).nth(i).zip(expected.get(i)) else { return };
            prepare(i * SEGMENT_BYTES, segment.len());
            if blake3::hash(segment).to_hex().as_str() != hash {
                bad.fetch_min(i, Ordering::Relaxed);
            }
        }
    };
    let helpers = threads.min(expected.len()).saturating_sub(1);
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            // A thread that cannot start is work for the others.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let bad = bad.into_inner();
    (bad != usize::MAX).then_some(bad)
}
