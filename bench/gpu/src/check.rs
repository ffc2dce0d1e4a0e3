//! Part `check`: every kernel on the device against the kernel interpreter on this machine's CPU.

use crate::cases::{self, Size};
use crate::part::Items;
use anyhow::Result;
use rayon::prelude::*;
use serde_json::json;

/// Cases whose references are computed at once, on all cores.
const BATCH: usize = 32;

/// All cases of `cases.rs`.
pub fn run(items: &mut Items) -> Result<()> {
    let size = if items.settings.emulate && !items.settings.whole { Size::Tiny } else { Size::Whole };
    let seed = items.seed;
    for batch in cases::all(size, seed, &items.gpu.target.clone()).chunks(BATCH) {
        let (skip, goes_on) = (items.to_skip(), items.goes_on());
        let prepare = |(i, case): (usize, &cases::Case)| (goes_on && i >= skip).then(|| case.prepare(seed));
        let prepared: Vec<_> = batch.par_iter().enumerate().map(prepare).collect();
        for (case, prepared) in batch.iter().zip(prepared) {
            items.item(&case.name, |gpu| {
                let prepared = prepared.unwrap_or_else(|| case.prepare(seed))?;
                let error = case.check(gpu, &prepared)?;
                Ok(json!({"nmse": error, "limit": case.limit}))
            });
        }
    }
    Ok(())
}
