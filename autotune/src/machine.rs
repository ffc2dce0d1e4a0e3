//! The seam between the tuner and what candidates run on: [`crate::cpu::Cpu`] and [`crate::gpu::Gpu`].

use crate::TuneError;
use crate::candidate::Rejected;
use crate::measure::Timing;
use crate::roofline::Roofline;
use crate::work::{Scenario, Work};
use std::time::Instant;
use tilewright_codegen::backend::Backend;
use tilewright_codegen::schedules::Operands;
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::Kernel;

/// A candidate's kernel: valid, and one that its back end takes.
pub struct Built {
    /// The kernel.
    pub kernel: Kernel,
    /// Chunks of a call.
    pub chunks: u32,
    /// What compiles it.
    pub backend: &'static dyn Backend,
}

/// A machine that runs and times kernels.
pub trait Machine {
    /// A kernel on it.
    type Code;
    /// The data of calls of one operation on it.
    type Data: AsMut<Work>;

    /// What its kernels are compiled for.
    fn target(&self) -> &Target;

    /// Which machine it is: what [`crate::record::Record::device`] says.
    fn device(&self) -> &str;

    /// Threads that run a call together; 1 on a GPU, which is never had in part.
    fn threads(&self) -> u32;

    /// What it can do at best.
    fn roofline(&self) -> &Roofline;

    /// What the user should know of how its kernels are run.
    fn note(&self) -> Option<String> {
        None
    }

    /// Makes code of all candidates. With `prune` those may be refused that the compiler shows to be slow; the default of a
    /// schedule has to do in any case.
    fn compile(&self, all: Vec<Built>, prune: bool) -> Result<Vec<Result<Self::Code, Rejected>>, TuneError>;

    /// Data from `seed`; for timing, with as many copies of what is `cold` as make the caches forget them.
    fn data(&self, operands: &Operands, scenarios: &[Scenario], seed: u64, cold: bool)
    -> Result<Self::Data, TuneError>;

    /// Runs `code` once on a scenario of `data`, whose [`Work`] then has the results.
    fn call(&self, data: &mut Self::Data, code: &Self::Code, scenario: usize) -> Result<(), TuneError>;

    /// Times all of `codes`, `samples` times each or as often as comes out `until` then.
    fn time(
        &self,
        data: &mut Self::Data,
        codes: &[&Self::Code],
        samples: usize,
        until: Instant,
    ) -> Result<Vec<Timing>, TuneError>;
}
