//! Graph passes: canonicalisation, fusions, buffer planning. One file a pass.
#![forbid(unsafe_code)]

pub mod memory;
