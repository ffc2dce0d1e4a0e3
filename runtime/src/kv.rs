//! The KV cache: for each layer K and V in f16, laid out as [`KvLayer`] says.

use crate::error::RunError;
use crate::plan::{KEY_BLOCK, KvLayer};
use crate::session::Block;

/// The cache of one session. Pages take memory when they are first written.
#[derive(Debug)]
pub struct KvCache {
    block: Block,
    /// Byte offsets of K and V of each layer.
    offsets: Vec<(u64, u64)>,
}

/// Positions for which a cache for `ctx` of them has room.
pub(crate) fn capacity(ctx: u32) -> u64 {
    u64::from(ctx).next_multiple_of(KEY_BLOCK.into())
}

/// Bytes of K or of V of one layer, on whole cache lines; `None` when that is beyond 64 bits.
fn plane(layer: &KvLayer, ctx: u32) -> Option<u64> {
    let width = u64::from(layer.heads) * u64::from(layer.head_dim) * 2;
    width.checked_mul(capacity(ctx))?.checked_next_multiple_of(64)
}

impl KvCache {
    /// Bytes of a cache for a context of `ctx`.
    pub fn bytes_for(layers: &[KvLayer], ctx: u32) -> Option<u64> {
        layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(plane(layer, ctx)?.checked_mul(2)?))
    }

    /// Reserves a cache for a context of `ctx`.
    pub fn new(layers: &[KvLayer], ctx: u32) -> Result<KvCache, RunError> {
        let bytes = Self::bytes_for(layers, ctx).unwrap_or(u64::MAX);
        // Small pages: huge ones made SmolLM2 on 2 threads no faster at 700 tokens (1.01, quartiles 0.97-1.04), but take
        // memory for all 4096 positions with the first token: 221 MB in place of 128, to be cleared before it is there.
        let block = Block::new("the KV cache", bytes, false)?;
        Ok(KvCache { block, offsets: Self::offsets(layers, ctx) })
    }

    /// Byte offsets of K and V of each layer. [`KvCache::bytes_for`] must have said that they fit into 64 bits.
    pub(crate) fn offsets(layers: &[KvLayer], ctx: u32) -> Vec<(u64, u64)> {
        let mut at = 0;
        let place = |layer| {
            let size = plane(layer, ctx).unwrap_or(0);
            at += 2 * size;
            (at - 2 * size, at - size)
        };
        layers.iter().map(place).collect()
    }

    /// Reserved bytes.
    pub fn bytes(&self) -> u64 {
        self.block.bytes()
    }

    pub(crate) fn k(&self, layer: u32) -> *mut u8 {
        self.block.at(self.offsets[layer as usize].0)
    }

    pub(crate) fn v(&self, layer: u32) -> *mut u8 {
        self.block.at(self.offsets[layer as usize].1)
    }
}
