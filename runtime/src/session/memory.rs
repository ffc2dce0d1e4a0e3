//! Memory of a session: blocks, and how much there is.

use memmap2::{MmapMut, MmapOptions};

use crate::error::RunError;

/// Kernels may read a vector past the end of what they work on.
const SLACK: u64 = 4096;

/// Zeroed memory at a fixed address, on whole pages; pages are taken when first touched.
#[derive(Debug)]
pub(crate) struct Block {
    /// Owns the memory; all access goes through `base`.
    _map: MmapMut,
    base: *mut u8,
    bytes: u64,
}

// SAFETY: a block owns its memory; the address is only followed by kernels and by the session that has the block.
unsafe impl Send for Block {}
// SAFETY: nothing can be read or written through `&Block` in safe code.
unsafe impl Sync for Block {}

impl Block {
    pub(crate) fn new(what: &'static str, bytes: u64, huge_pages: bool) -> Result<Block, RunError> {
        let fail = |source| RunError::Allocation { what, bytes, source };
        let too_large = || fail(std::io::ErrorKind::OutOfMemory.into());
        let length = bytes.checked_add(SLACK).and_then(|n| usize::try_from(n).ok()).ok_or_else(too_large)?;
        let mut map = MmapOptions::new().len(length).map_anon().map_err(fail)?;
        #[cfg(target_os = "linux")]
        if huge_pages && length >= 2 << 20 {
            // Only a hint: fewer TLB misses on large arenas.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let base = map.as_mut_ptr();
        Ok(Block { _map: map, base, bytes })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Address of byte `offset`, which must be at most the length.
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        assert!(offset <= self.bytes, "offset {offset} in a block of {}", self.bytes);
        // SAFETY: checked above to be inside the mapping.
        unsafe { self.base.add(offset as usize) }
    }
}

/// Bytes that this process can still take: what the system has available, or what its control groups leave, whichever
/// is less. `None` where the system does not say.
pub(crate) fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let system = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_available(&text));
    Some(group.map_or(system, |g| g.min(system)))
}

/// What the process's memory groups leave: limit less use, where cached file pages are not use.
fn group_available(text: &str) -> Option<u64> {
    let mut least = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, limit, used) = match kinds {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            kinds if kinds.split(',').any(|k| k == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // A group is limited by those above it too. In a container the path may not exist: its root does.
        let mut path = path;
        loop {
            let dir = format!("{root}{}", path.trim_end_matches('/'));
            let number = |file: &str| std::fs::read_to_string(format!("{dir}/{file}")).ok()?.trim().parse::<u64>().ok();
            if let (Some(limit), Some(used)) = (number(limit), number(used)) {
                let stat = std::fs::read_to_string(format!("{dir}/memory.stat")).unwrap_or_default();
                let cached: u64 = ["inactive_file ", "active_file "]
                    .iter()
                    .filter_map(|key| stat.lines().find_map(|l| l.strip_prefix(key))?.parse::<u64>().ok())
                    .sum();
                let free = limit.saturating_sub(used.saturating_sub(cached));
                least = Some(least.map_or(free, |l: u64| l.min(free)));
            }
            match path.trim_end_matches('/').rfind('/') {
                Some(cut) => path = &path[..cut],
                None => break,
            }
        }
    }
    least
}
