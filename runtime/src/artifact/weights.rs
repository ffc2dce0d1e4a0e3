//! The packed weights in memory: the file's own pages, or a copy on huge pages.
//!
//! A decoded token walks through all weights once, so the address of every page of 4 KiB has to be looked up anew, on a
//! virtual machine through two tables. File systems' page caches rarely give 2 MiB at a time, anonymous memory does.
//!
//! Measured, copy against map, medians of interleaved rounds: decoding 1.02 (SmolLM2, 1 and 2 threads), 1.02 and 1.04
//! (Qwen2.5-Coder 0.5B); opening takes 4 and 21 ms more (96 and 486 MB). Hence [`HugePages::Auto`] copies.

use std::fs::File;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Mmap, MmapMut};

use super::hash::{SEGMENT_BYTES, each_segment, matches};
use crate::session::available_memory;

/// A huge page, of x86-64 and of aarch64 with small pages of 4 KiB.
const HUGE: usize = 2 << 20;

/// Whether weights are copied into huge pages, which takes their size in memory that the system cannot take back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Where the system gives them and at least twice the memory is available.
    #[default]
    Auto,
    /// Copy; whether the pages are huge is then the system's decision.
    On,
    /// Map the file: its pages are shared between processes and cost nothing to open.
    Off,
}

impl HugePages {
    pub(super) fn wanted(self, bytes: u64) -> bool {
        match self {
            HugePages::Off => false,
            HugePages::On => true,
            HugePages::Auto => {
                let file = "/sys/kernel/mm/transparent_hugepage/enabled";
                let given = std::fs::read_to_string(file).is_ok_and(|modes| !modes.contains("[never]"));
                given && available_memory().is_some_and(|available| available / 2 >= bytes)
            }
        }
    }
}

/// Weights, read-only.
#[derive(Debug)]
pub(super) struct Weights {
    /// `None` for no weights at all.
    map: Option<Mmap>,
    start: usize,
    bytes: usize,
    copied: bool,
}

impl Weights {
    /// Maps `bytes` bytes of a file.
    pub(super) fn map(file: &File, bytes: u64) -> io::Result<Weights> {
        let map = match bytes {
            0 => None,
            // SAFETY: the mapping is read-only and private. The bytes are only read by kernels and the hash; a process
            // that cuts the file short while it is mapped makes this one stop with SIGBUS, which the module
            // documentation leaves to trust.
            _ => Some(unsafe { Mmap::map(file) }?),
        };
        #[cfg(unix)]
        if let Some(map) = &map {
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
        Ok(Weights { map, start: 0, bytes: bytes as usize, copied: false })
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_deref().map_or(&[], |map| &map[self.start..self.start + self.bytes])
    }

    /// Whether they are a copy.
    pub(super) fn copied(&self) -> bool {
        self.copied
    }

    /// Maps a range of pages at once, which is cheaper than a fault for each.
    pub(super) fn populate(&self, start: usize, len: usize) {
        #[cfg(target_os = "linux")]
        if let Some(map) = &self.map {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, self.start + start, len);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (start, len);
    }
}

/// Memory that a file is read into, on huge pages where the system gives them.
pub(super) struct Copy {
    map: MmapMut,
    start: usize,
    bytes: usize,
}

impl Copy {
    /// `None` where the system refuses.
    pub(super) fn new(bytes: u64) -> Option<Copy> {
        let bytes = usize::try_from(bytes).ok().filter(|n| *n > 0)?;
        // Whole huge pages, and one more to begin on a boundary: what is not touched takes no memory.
        let map = MmapMut::map_anon(bytes.checked_next_multiple_of(HUGE)?.checked_add(HUGE)?).ok()?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_ptr().align_offset(HUGE);
        Some(Copy { map, start, bytes })
    }

    /// Reads the file; with `hashes`, the answer is the first segment whose hash differs.
    pub(super) fn fill(&mut self, file: &File, hashes: Option<&[String]>, threads: usize) -> io::Result<Option<usize>> {
        let bad = AtomicUsize::new(usize::MAX);
        let failed = Mutex::new(None);
        let target = &mut self.map[self.start..][..self.bytes];
        each_segment(target.chunks_mut(SEGMENT_BYTES), threads, |i, segment| {
            if let Err(e) = read_at(file, segment, (i * SEGMENT_BYTES) as u64) {
                *failed.lock().expect("nothing panics with it") = Some(e);
            } else if hashes.and_then(|h| h.get(i)).is_some_and(|hash| !matches(segment, hash)) {
                bad.fetch_min(i, Ordering::Relaxed);
            }
        });
        match failed.into_inner().expect("nothing panics with it") {
            Some(e) => Err(e),
            None => Ok(Some(bad.into_inner()).filter(|i| *i != usize::MAX)),
        }
    }

    /// From here on nobody can write.
    pub(super) fn finish(self) -> io::Result<Weights> {
        let map = self.map.make_read_only()?;
        Ok(Weights { map: Some(map), start: self.start, bytes: self.bytes, copied: true })
    }
}

#[cfg(unix)]
fn read_at(file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut to: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !to.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, to, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (to, offset) = (&mut to[n..], offset + n as u64),
        }
    }
    Ok(())
}
