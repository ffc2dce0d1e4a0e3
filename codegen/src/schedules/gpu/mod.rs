//! The schedules of [`super`] for GPUs: the same operations with the same arguments, by blocks of threads.
//!
//! A chunk is a block. Memory that an argument points to begins at a multiple of 16 bytes, and its rows do; then vectors of
//! rows whose width allows it are aligned. A kernel waits for the one before it before it reads
//! anything, and lets the next one be launched at once (`block::Thread::start`).
//!
//! | file | what |
//! |---|---|
//! | `attention/` | scores, mask, softmax and values by tensor cores |
//! | `embed.rs` | rows of a packed table |
//! | `product/` | matmul, gate and up, by tensor cores |
//! | `kv_write.rs` | keys and values into the f16 caches |
//! | `rowwise.rs` | everything that works row by row, unfused |
//! | `round.rs` | RMS norm and rounding to f16 rows |
//! | `next/` | from logits to the next decode step |
//! | `head.rs` | norm and rotation of a head, by a warp |
//! | `last.rs` | which block is the last |
//! | `block.rs` | threads, places in rows, sums and maxima of many threads |

mod attention;
mod block;
mod embed;
mod head;
mod kv_write;
mod last;
mod next;
mod product;
mod round;
mod rowwise;

#[cfg(test)]
mod tests;

pub use attention::{Attention, MAX_HEAD_DIM};
pub use embed::Embed;
pub use kv_write::KvWrite;
pub use next::{Choice, Next};
pub use product::{FEW, Input, Product};
pub use round::{F16Rows, Round};
pub use rowwise::Rowwise;
