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
    let size = if items.settings.emulate && std::env::var("WHOLE").is_err() { Size::Tiny } else { Size::Whole };
    let seed = items.seed;
    for batch in cases::all(size, seed).chunks(BATCH) {
        let is_done = items.skips(batch.len());
        let wanted = !is_done && items.goes_on();
        let prepare = |case: &cases::Case| wanted.then(|| case.prepare(seed));
        let prepared: Vec<_> = batch.par_iter().map(prepare).collect();
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
