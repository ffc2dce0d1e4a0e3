//! The oracle check: a candidate has to give the results of the default kernel, run by the interpreter in f64.
//!
//! The interpreter is slow, so it runs a few chunks of the default kernel; those places of a candidate's results are
//! compared with it. Everywhere else a candidate is compared with the default's machine code, which has passed the same
//! check. All runs write between guards and over not-a-number, so what is missing or strays is seen too.

use crate::TuneError;
use crate::candidate::{Rejected, SYMBOL};
use crate::machine::Machine;
use crate::work::Scenario;
use std::time::{Duration, Instant};
use tilewright_codegen::schedules::{Data, Operands, Schedule, defaults};
use tilewright_ir::kernel::interp::{Precision, run_at};

/// The interpreter stops after the chunk that ends beyond this.
const PATIENCE: Duration = Duration::from_millis(300);
/// Chunks of the default kernel that the interpreter runs at most.
const CHUNKS: u32 = 3;

/// Most error of results in f32: sums in another order.
const LIMIT_F32: f64 = 1e-9;
/// Most error of rounded results: a value between two codes may fall to either side.
const LIMIT_ROUNDED: f64 = 1e-4;
/// Most error where what is multiplied is rounded to 11 bits, of another size by another candidate.
const LIMIT_F16: f64 = 1e-6;

/// Most error that results of this kind may have.
fn limit(operands: &Operands) -> f64 {
    let rounded = |d: &Data| matches!(d, Data::Q8(_) | Data::Bf16(_) | Data::Cache { .. });
    match operands.pointers.iter().any(|o| o.written && rounded(&o.data)) {
        true => LIMIT_ROUNDED,
        false if operands.terms == 1 => LIMIT_F16,
        false => LIMIT_F32,
    }
}

/// Normalised mean squared error over all values of `want` that are numbers; infinite where `got` is none there.
pub fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let (mut error, mut size) = (0f64, 0f64);
    for (&g, &w) in got.iter().zip(want).filter(|(_, w)| !w.is_nan()) {
        if !g.is_finite() {
            return f64::INFINITY;
        }
        error += (f64::from(g) - f64::from(w)).powi(2);
        size += f64::from(w).powi(2);
    }
    if error == 0.0 { 0.0 } else { error / size.max(f64::MIN_POSITIVE) }
}

/// The worst of all results.
fn worst(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    got.iter().zip(want).map(|(g, w)| nmse(g, w)).fold(0.0, f64::max)
}

/// Results of each scenario, each of them.
type Results = Vec<Vec<Vec<f32>>>;

/// What the results should be, for one operation on one set of inputs.
pub struct Oracle<'a, M: Machine> {
    machine: &'a M,
    data: M::Data,
    limit: f64,
    /// Where the interpreter computed it.
    exact: Results,
    /// From the default's machine code.
    whole: Results,
}

impl<'a, M: Machine> Oracle<'a, M> {
    /// Interprets the default kernel of `schedule` on inputs from `seed`, and checks its machine code.
    pub fn new(machine: &'a M, schedule: &dyn Schedule, default: &M::Code, seed: u64) -> Result<Self, TuneError> {
        let operands = schedule.operands();
        let wrong = |why: String| TuneError::Wrong { op: schedule.signature(), why };
        // Three short of all tokens: tiles that do not come out even are part of the check.
        let tokens = operands.max_tokens.saturating_sub(3).max(operands.max_tokens.min(2));
        let pasts: &[u32] = if operands.reads_cache() { &[0, 131] } else { &[0] };
        let scenarios: Vec<Scenario> = pasts.iter().map(|&past| Scenario { tokens, past }).collect();
        let mut data = machine.data(&operands, &scenarios, seed, false)?;
        let params = defaults(&schedule.space());
        let kernel = schedule.build(SYMBOL, &params);
        let together = operands.together.max(1);
        let groups = schedule.chunks(&params) / together;
        let mut exact = vec![];
        for s in 0..scenarios.len() {
            let work = data.as_mut();
            work.clear();
            let start = Instant::now();
            // Spread over all chunks, the first among them: later ones may have no tokens in this run.
            for i in 0..CHUNKS.min(groups) {
                let group = i64::from(i) * i64::from(groups) / i64::from(CHUNKS.min(groups));
                for chunk in group * i64::from(together)..(group + 1) * i64::from(together) {
                    let (mut buffers, pointers, scalars) = work.interpreted(s);
                    run_at(&kernel, Precision::F64, &mut buffers, &pointers, &scalars, chunk)
                        .map_err(|e| wrong(format!("the interpreter says: {e}")))?;
                }
                if start.elapsed() > PATIENCE {
                    break;
                }
            }
            let results = work.results(s);
            if results.iter().any(|r| r.iter().all(|v| v.is_nan())) {
                return Err(wrong("its first chunks write nothing".into()));
            }
            exact.push(results);
        }
        let whole = exact.clone();
        let mut oracle = Oracle { machine, data, limit: limit(&operands), exact, whole };
        oracle.whole = oracle.compare(default)?.map_err(|e| wrong(e.to_string()))?.1;
        Ok(oracle)
    }

    /// The error of a candidate, or why it is none.
    pub fn check(&mut self, code: &M::Code) -> Result<Result<f64, Rejected>, TuneError> {
        Ok(self.compare(code)?.map(|(error, _)| error))
    }

    fn compare(&mut self, code: &M::Code) -> Result<Result<(f64, Results), Rejected>, TuneError> {
        let mut all = vec![];
        let mut error = 0f64;
        for s in 0..self.exact.len() {
            self.data.as_mut().clear();
            self.machine.call(&mut self.data, code, s)?;
            let work = self.data.as_mut();
            if !work.guards_hold() {
                return Ok(Err(Rejected::Stray));
            }
            let got = work.results(s);
            let nmse = worst(&got, &self.exact[s]);
            // The default has rounded once already: twice the error is still no other result.
            for (nmse, limit) in [(nmse, self.limit), (worst(&got, &self.whole[s]), 4.0 * self.limit)] {
                if nmse > limit {
                    return Ok(Err(Rejected::Wrong { nmse, limit }));
                }
            }
            error = error.max(nmse);
            all.push(got);
        }
        Ok(Ok((error, all)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_nothing_is_missed() {
        let want = [1.0, f32::NAN, 2.0];
        assert_eq!(nmse(&[1.0, 77.0, 2.0], &want), 0.0);
        assert!((nmse(&[1.1, 0.0, 2.0], &want) - 0.01 / 5.0).abs() < 1e-7);
        assert_eq!(nmse(&[1.0, 0.0, f32::NAN], &want), f64::INFINITY);
        assert_eq!(nmse(&[0.0], &[0.0]), 0.0);
        assert!(nmse(&[1.0], &[0.0]) > 1.0);
    }
}
