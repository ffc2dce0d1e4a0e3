//! What a point of the space means for an attention.

use super::super::super as cpu;
use super::super::block::param;
use cpu::Params;
use tilewright_ir::kernel::{MAX_SHARED, WARP};

/// Sizes, all of them possible ones: a point that asks for too much gets the most there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    /// Elements of a head.
    pub hd: u64,
    /// Query heads of a K/V head.
    pub group: u64,
    /// Warps with rows of their own.
    pub row_warps: u64,
    /// Warps that share rows and divide the keys of a tile.
    pub key_warps: u64,
    /// Keys of a tile.
    pub keys: u64,
    /// Tiles in shared memory.
    pub stages: u64,
    /// Blocks that divide the positions.
    pub splits: u64,
    /// f16 terms of queries and weights.
    pub terms: u64,
    /// Row tiles of a K/V head.
    pub row_tiles: u64,
    /// Rows that a K/V head has at most.
    pub max_rows: u64,
    /// Positions seen, 0 = all.
    pub window: i64,
    /// Soft cap of scores, 0 = none.
    pub softcap: f32,
    /// Factor on the scores.
    pub scale: f32,
}

/// Keys that a warp takes at least: what one `mma` sums over.
const KEYS: u64 = 16;
/// Registers of a thread that queries may stay in: a quarter of them.
const QUERY_REGISTERS: u64 = 64;

impl Config {
    pub fn new(op: &cpu::Attention, p: &Params) -> Config {
        let power = |name: &str, most: u64| 1 << param(p, name).min(most).ilog2();
        let group = op.heads / op.kv_heads;
        let max_rows = u64::from(op.max_tokens) * group;
        let row_warps = power("row_warps", 8);
        let mut c = Config {
            hd: op.head_dim,
            group,
            row_warps,
            key_warps: power("key_warps", 8 / row_warps),
            keys: power("keys", 256).max(KEYS),
            stages: param(p, "stages").clamp(2, 4),
            splits: param(p, "splits").min(64),
            terms: param(p, "terms").min(2),
            row_tiles: max_rows.div_ceil(row_warps * 16).max(1),
            max_rows,
            // A window longer than any cache is none.
            window: i32::try_from(op.window).map_or(0, i64::from),
            softcap: op.softcap,
            scale: op.scale,
        };
        while c.shared_bytes() > MAX_SHARED as u64 && c.stages > 2 {
            c.stages -= 1;
        }
        while c.shared_bytes() > MAX_SHARED as u64 && c.keys > KEYS {
            c.keys /= 2;
        }
        c.key_warps = c.key_warps.min(c.keys / KEYS);
        c
    }

    /// Rows of a block.
    pub fn rows(self) -> u64 {
        self.row_warps * 16
    }

    pub fn warps(self) -> u32 {
        (self.row_warps * self.key_warps) as u32
    }

    pub fn threads(self) -> u32 {
        self.warps() * WARP
    }

    /// Keys of a tile that a warp takes.
    pub fn keys_of_warp(self) -> u64 {
        self.keys / self.key_warps
    }

    /// Elements of a head, filled up with zeros to what `mma` sums over.
    pub fn padded(self) -> u64 {
        self.hd.next_multiple_of(16)
    }

    /// Bytes from row to row in shared memory: an odd number of 16, so that 8 rows are in different banks.
    pub fn row_bytes(self) -> u64 {
        self.padded() * 2 + 16
    }

    /// Bytes of the keys, or the values, of a tile.
    pub fn half_stage(self) -> u64 {
        self.keys * self.row_bytes()
    }

    /// Bytes of keys and values of a tile.
    pub fn stage_bytes(self) -> u64 {
        2 * self.half_stage()
    }

    /// f32 from row to row of results in shared memory.
    pub fn result_stride(self) -> u64 {
        self.hd + 8
    }

    /// Bytes of the tiles, or what takes their place in the end: results of warps, weights of parts.
    pub fn ring_bytes(self) -> u64 {
        let results = u64::from(self.warps()) * 16 * self.result_stride() * 4;
        let weights = self.rows() * self.splits * 4;
        (self.stages * self.stage_bytes()).max(results).max(weights)
    }

    /// Bytes of the queries of all terms.
    pub fn query_bytes(self) -> u64 {
        self.terms * self.rows() * self.row_bytes()
    }

    fn shared_bytes(self) -> u64 {
        let states = u64::from(self.warps()) * 16 * 8 + self.rows() * 4;
        [self.query_bytes(), self.ring_bytes(), states + 512].iter().map(|n| n.next_multiple_of(128)).sum()
    }

    /// Whether queries stay in registers.
    pub fn keeps_queries(self) -> bool {
        self.padded() / 4 * self.terms <= QUERY_REGISTERS / 2
    }

    /// Rows of a block that there are at most.
    pub fn stored_rows(self) -> u64 {
        self.rows().min(self.max_rows)
    }

    /// Bytes of what a block leaves for the last one: its sums, then maximum and sum of weights of each row.
    pub fn record_bytes(self) -> u64 {
        (self.stored_rows() * (self.hd * 4 + 8)).next_multiple_of(128)
    }
}
