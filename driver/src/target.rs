//! Targets by name, among them the one of the GPU that is there.

use crate::DriverError;
use tilewright_codegen::target::{Target, TargetError};
use tilewright_runtime::cuda::DeviceFacts;

/// The target of the GPU in this machine.
pub const CUDA: &str = "cuda";

/// The target of that name; `cuda` is the best one that the GPU of this machine runs, with what that is.
pub fn find(name: &str) -> Result<(Target, Option<DeviceFacts>), DriverError> {
    if name != CUDA {
        return Ok((Target::get(name)?, None));
    }
    let facts = tilewright_runtime::cuda::open()?.facts().clone();
    Ok((for_device(facts.sm)?, Some(facts)))
}

/// The best declared target for a GPU of compute capability `sm`: what is only for that one, else the newest that it runs.
pub fn for_device(sm: u32) -> Result<Target, TargetError> {
    let runs = |t: &&Target| {
        let name = t.gpu().and_then(|_| tilewright_runtime::cuda::Sm::parse(&t.name));
        name.is_some_and(|of| of.runs_on(sm))
    };
    let best = Target::all().iter().filter(runs).max_by_key(|t| (t.gpu().map(|g| g.sm), t.name.ends_with('a')));
    best.cloned().map_or_else(|| Target::get(&format!("sm_{sm}")), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_those_that_run() {
        for (sm, name) in
            [(75, "sm_75"), (87, "sm_86"), (89, "sm_89"), (90, "sm_90a"), (100, "sm_100a"), (120, "sm_120")]
        {
            assert_eq!(for_device(sm).map(|t| t.name), Ok(name.to_string()));
        }
        assert!(for_device(61).is_err_and(|e| e.to_string().contains("sm_61")));
        assert_eq!(find("sm_80").ok().map(|t| t.0.name), Some("sm_80".to_string()));
    }
}
