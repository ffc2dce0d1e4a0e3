//! What a launch did, for reports.

use crate::ops::Class;
use std::collections::BTreeMap;

/// Counts of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Warp instructions executed, by class.
    pub instructions: BTreeMap<Class, u64>,
    /// Bytes read from global memory, asynchronous copies included.
    pub global_read: u64,
    /// Bytes written to global memory, atomics included.
    pub global_written: u64,
    /// Bytes read from shared memory.
    pub shared_read: u64,
    /// Bytes written to shared memory, asynchronous copies included.
    pub shared_written: u64,
    /// Accesses of a warp to shared memory that had to be repeated because of bank conflicts.
    pub bank_conflicts: u64,
    /// The worst access: how often it is made, and where. `(1, _)` is free of conflicts.
    pub worst_conflict: (u32, u32),
}

impl Stats {
    /// All warp instructions.
    pub fn total(&self) -> u64 {
        self.instructions.values().sum()
    }

    /// Notes an access of a warp to shared memory: address of each lane that takes part, and bytes per lane.
    ///
    /// There are 32 banks of four bytes. Accesses of 8 and 16 bytes a lane go in two and four parts; lanes that want the
    /// same word share it.
    pub(crate) fn banks(&mut self, addresses: &[u32], bytes: usize, line: u32) {
        let part = match bytes {
            ..=4 => 32,
            5..=8 => 16,
            _ => 8,
        };
        for lanes in addresses.chunks(part) {
            let mut words: Vec<u32> =
                lanes.iter().flat_map(|a| a / 4..(a + bytes as u32).div_ceil(4)).collect::<Vec<_>>();
            words.sort_unstable();
            words.dedup();
            let mut used = [0u32; 32];
            words.iter().for_each(|w| used[(w % 32) as usize] += 1);
            let ways = used.into_iter().max().unwrap_or(1).max(1);
            self.bank_conflicts += u64::from(ways - 1);
            if ways > self.worst_conflict.0 {
                self.worst_conflict = (ways, line);
            }
        }
    }
}
