//! Candidates: the points of a schedule's space times the back ends, less what is illegal or hopeless.
//!
//! A point is refused before anything is compiled if its kernel breaks a rule of the IR, if its back end cannot compile it
//! for the target, or if it leaves threads idle that the default keeps busy: with fewer chunks than threads no timing is
//! needed to see that it cannot win.
//!
//! ```
//! use tilewright_autotune::candidate::Candidates;
//! use tilewright_codegen::{schedules::{Quantize, Rounding}, target::Target};
//! let q = Quantize { width: 64, x_stride: 256, norm: None, to: Rounding::Q8, max_tokens: 2 };
//! let target = Target::get("x86-64-v3").unwrap();
//! let c = Candidates::new(&q, &target, 1).unwrap();
//! assert!(c.kernel(&vec![0; c.sizes().len()]).is_ok());
//! ```

use crate::TuneError;
use crate::machine::Built;
use crate::search::Point;
use std::collections::BTreeMap;
use tilewright_codegen::backend::{self, Backend};
use tilewright_codegen::schedules::{Axis, Params, Schedule, Space, params_for};
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::{Kernel, verify};
use tilewright_runtime::artifact::MAX_CHUNKS;

/// Name of every candidate's kernel.
pub(crate) const SYMBOL: &str = "k";

/// Why a point is no candidate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// The kernel breaks a rule of the IR.
    #[error("the kernel is not valid: {0}")]
    Invalid(String),
    /// The back end cannot compile it.
    #[error("{0}")]
    Unsupported(String),
    /// Threads would have nothing to do.
    #[error("{chunks} chunks for {threads} threads")]
    Idle {
        /// Chunks of a call.
        chunks: u32,
        /// Threads.
        threads: usize,
    },
    /// More chunks than the workers count, or none.
    #[error("{0} chunks; the workers count from 1 to {MAX_CHUNKS}")]
    Chunks(u32),
    /// The results differ from the oracle's.
    #[error("error {nmse:.1e} against the oracle, at most {limit:.0e} is allowed")]
    Wrong {
        /// Normalised mean squared error.
        nmse: f64,
        /// What was allowed.
        limit: f64,
    },
    /// Registers of a GPU's threads do not hold what they should.
    #[error("{bytes} bytes of registers spilled")]
    Spills {
        /// Of stores and loads of a thread.
        bytes: u32,
    },
    /// It writes where it must not.
    #[error("it writes beside its result, or leaves counters")]
    Stray,
}

impl Rejected {
    /// One word for it, for counts.
    pub fn kind(&self) -> &'static str {
        match self {
            Rejected::Invalid(_) => "invalid",
            Rejected::Unsupported(_) => "unsupported",
            Rejected::Idle { .. } | Rejected::Chunks(_) | Rejected::Spills { .. } => "hopeless",
            Rejected::Wrong { .. } | Rejected::Stray => "wrong",
        }
    }
}

/// The grid of one schedule: axis 0 is the back end, the others are those of its space.
pub struct Candidates<'a> {
    schedule: &'a dyn Schedule,
    target: &'a Target,
    threads: usize,
    backends: Vec<&'static dyn Backend>,
    space: Space,
    default_chunks: u32,
}

impl<'a> Candidates<'a> {
    /// The first point, the default, is what a build takes without a record: the parameters of [`params_for`] and the first
    /// back end that can compile them.
    pub fn new(schedule: &'a dyn Schedule, target: &'a Target, threads: usize) -> Result<Candidates<'a>, TuneError> {
        let mut space = schedule.space();
        let params = params_for(schedule, target);
        for axis in &mut space {
            let at = axis.values.iter().position(|v| *v == params[axis.name]).unwrap_or(0);
            axis.values[..=at].rotate_right(1);
            if schedule.structural().contains(&axis.name) {
                axis.values.truncate(1);
            }
        }
        let kernel = schedule.build(SYMBOL, &params);
        let fail = |source| TuneError::Default { op: schedule.signature(), source };
        let first = backend::default_for(&kernel, target).map_err(fail)?;
        let others = backend::for_target(target).filter(|b| b.name() != first.name());
        let backends = [first].into_iter().chain(others).collect();
        Ok(Candidates { schedule, target, threads, backends, space, default_chunks: schedule.chunks(&params) })
    }

    /// Sizes of the axes.
    pub fn sizes(&self) -> Vec<usize> {
        [self.backends.len()].into_iter().chain(self.space.iter().map(|a| a.values.len())).collect()
    }

    /// The parameters of a point.
    pub fn params(&self, p: &Point) -> Params {
        self.space.iter().zip(&p[1..]).map(|(a, &i)| (a.name, a.values[i])).collect()
    }

    /// The back end of a point.
    pub fn backend(&self, p: &Point) -> &'static dyn Backend {
        self.backends[p[0]]
    }

    /// The point of a back end and parameters by name, if there is one.
    pub fn point(&self, backend: &str, named: &BTreeMap<String, i64>) -> Option<Point> {
        let first = self.backends.iter().position(|b| b.name() == backend)?;
        let params = params_in(&self.space, named).ok()?;
        let rest = self.space.iter().map(|a| a.values.iter().position(|v| *v == params[a.name]));
        std::iter::once(Some(first)).chain(rest).collect()
    }

    /// Chunks of a call.
    pub fn chunks(&self, p: &Point) -> u32 {
        self.schedule.chunks(&self.params(p))
    }

    /// The kernel of a point, if it is legal and has a chance.
    pub fn kernel(&self, p: &Point) -> Result<Kernel, Rejected> {
        let params = self.params(p);
        let chunks = self.schedule.chunks(&params);
        if !(1..=MAX_CHUNKS).contains(&chunks) {
            return Err(Rejected::Chunks(chunks));
        }
        if (chunks as usize) < self.threads.min(self.default_chunks as usize) {
            return Err(Rejected::Idle { chunks, threads: self.threads });
        }
        let kernel = self.schedule.build(SYMBOL, &params);
        verify(&kernel).map_err(|e| Rejected::Invalid(e.to_string()))?;
        let faults = |f: Vec<_>| f.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        self.backend(p).check(&kernel, self.target).map_err(|f| Rejected::Unsupported(faults(f)))?;
        Ok(kernel)
    }

    /// The kernel of a point with all that compiling it needs.
    pub fn built(&self, p: &Point) -> Result<Built, Rejected> {
        Ok(Built { kernel: self.kernel(p)?, chunks: self.chunks(p), backend: self.backend(p) })
    }
}

/// Whether there is anything to choose for this schedule on that target.
pub fn is_tunable(schedule: &dyn Schedule, target: &Target) -> bool {
    let is_free = |a: &Axis| a.values.len() > 1 && !schedule.structural().contains(&a.name);
    backend::for_target(target).count() > 1 || schedule.space().iter().any(is_free)
}

/// The parameters that a record names, as a point of the schedule's space, or what is wrong with them.
pub fn params_in(space: &Space, named: &BTreeMap<String, i64>) -> Result<Params, String> {
    if let Some(name) = named.keys().find(|n| !space.iter().any(|a| a.name == n.as_str())) {
        return Err(format!("there is no parameter {name}"));
    }
    let value = |a: &Axis| match named.get(a.name) {
        Some(v) if a.values.contains(v) => Ok((a.name, *v)),
        Some(v) => Err(format!("{} cannot be {v}", a.name)),
        None => Err(format!("{} is missing", a.name)),
    };
    space.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilewright_codegen::pack::{Layout, Store};
    use tilewright_codegen::schedules::{Activations, Matmul};

    fn matmul(rows: u64) -> Matmul {
        let cols = 1024;
        let x = Activations::F32 { stride: 4096 };
        let layout = Layout::Float(Store::F16);
        Matmul { layout, rows, cols, x, bias: false, residual: None, out_stride: rows * 4, max_tokens: 1 }
    }

    #[test]
    fn idle_threads_are_hopeless() {
        let m = matmul(16 * 48);
        let target = Target::get("x86-64-v3").expect("declared");
        let c = Candidates::new(&m, &target, 4).expect("compiles");
        let all: Vec<_> =
            crate::search::grid(&c.sizes()).iter().map(|p| (c.params(p)["panels"], c.kernel(p))).collect();
        assert!(all.iter().any(|(_, k)| k.is_ok()));
        for (panels, k) in all {
            let idle = 48u64.div_ceil(panels as u64) < 4;
            assert_eq!(matches!(k, Err(Rejected::Idle { .. })), idle, "{panels} panels");
        }
    }

    #[test]
    fn records_are_points_of_the_space() {
        let space = vec![Axis { name: "a", values: vec![1, 2] }, Axis { name: "b", values: vec![0] }];
        let named = |pairs: &[(&str, i64)]| pairs.iter().map(|(n, v)| (n.to_string(), *v)).collect();
        assert_eq!(params_in(&space, &named(&[("a", 2), ("b", 0)])), Ok([("a", 2), ("b", 0)].into()));
        assert_eq!(params_in(&space, &named(&[("a", 3), ("b", 0)])), Err("a cannot be 3".into()));
        assert_eq!(params_in(&space, &named(&[("a", 1)])), Err("b is missing".into()));
        assert_eq!(params_in(&space, &named(&[("a", 1), ("b", 0), ("c", 0)])), Err("there is no parameter c".into()));
    }
}
