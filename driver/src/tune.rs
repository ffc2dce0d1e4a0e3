//! Tuning the kernels of a model: every distinct operation of its programs, the heaviest first.

use crate::build::{Progress, operations};
use crate::{BuildOptions, DriverError, TuneMode, records};
use std::time::{Duration, Instant};
use tilewright_autotune::TuneError;
use tilewright_autotune::gpu::Gpu;
use tilewright_autotune::layers::Layers;
use tilewright_autotune::machine::Machine;
use tilewright_autotune::record::Record;
use tilewright_autotune::tuner::{Level, Outcome, Tuner, operation};
use tilewright_codegen::schedules::Schedule;
use tilewright_models::model::Model;
use tilewright_runtime::cuda::{self, GpuDriver};

/// How to tune.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// How thoroughly.
    pub level: Level,
    /// Time for all of it, about; `None` for the level's.
    pub budget: Option<Duration>,
    /// Only operations whose name contains this.
    pub filter: Option<String>,
    /// Seed of data and searches.
    pub seed: u64,
    /// Only operations without a record.
    pub missing: bool,
}

impl TuneOptions {
    /// Everything, in the level's time.
    pub fn new(level: Level) -> TuneOptions {
        TuneOptions { level, budget: None, filter: None, seed: 1, missing: false }
    }

    fn total(&self) -> Duration {
        let seconds = match self.level {
            Level::Quick => 60,
            Level::Full => 600,
            Level::Exhaustive => 3600,
        };
        self.budget.unwrap_or(Duration::from_secs(seconds))
    }
}

/// An operation of a model.
pub struct Operation {
    /// The first call's label: op and node.
    pub label: String,
    /// Most tokens of a run.
    pub tokens: u32,
    /// Calls in its program.
    pub calls: u32,
    /// Builds its kernels.
    pub schedule: Box<dyn Schedule + Send>,
}

/// What tuning tells of itself.
pub enum TuneEvent<'a> {
    /// The operations to come, and records that were ignored.
    Start(usize, Vec<String>),
    /// What the user should know of how it is timed.
    Warning(&'a str),
    /// One is done; its record is kept.
    Done(&'a Operation, &'a Outcome),
}

/// Tunes the operations of `model` that `tune` names, on this machine or its GPU, and keeps their records. What is finished
/// stays, whatever ends this.
pub fn tune(
    model: &Model,
    options: &BuildOptions,
    tune: &TuneOptions,
    progress: &mut dyn FnMut(TuneEvent<'_>),
) -> Result<Vec<Record>, DriverError> {
    if options.target.gpu().is_some() {
        return tune_on_gpu(model, options, tune, cuda::open()?, progress);
    }
    let tuner = || Tuner::new(&options.target, options.threads, tune.level, tune.seed);
    all(model, options, tune, tuner, progress)
}

/// [`tune`] on the GPU of that driver.
pub fn tune_on_gpu(
    model: &Model,
    options: &BuildOptions,
    tune: &TuneOptions,
    driver: Box<dyn GpuDriver>,
    progress: &mut dyn FnMut(TuneEvent<'_>),
) -> Result<Vec<Record>, DriverError> {
    let options = BuildOptions { gpu: Some(driver.facts().clone()), ..options.clone() };
    let gpu = || Gpu::new(driver, &options.target, options.assembler.clone());
    all(model, &options, tune, || Ok(Tuner::on(gpu()?, tune.level, tune.seed)), progress)
}

fn all<M: Machine>(
    model: &Model,
    options: &BuildOptions,
    tune: &TuneOptions,
    tuner: impl FnOnce() -> Result<Tuner<M>, TuneError>,
    progress: &mut dyn FnMut(TuneEvent<'_>),
) -> Result<Vec<Record>, DriverError> {
    // Whatever a build would do with them: records are what this is about.
    let cached = BuildOptions { tune: TuneMode::Cached, ..options.clone() };
    let Some(mut layers) = records::layers(&cached)? else { return Err(DriverError::NoFolder) };
    let mut todo = operations(model, &cached)?;
    todo.retain(|o| tilewright_autotune::candidate::is_tunable(o.schedule.as_ref(), &options.target));
    if let Some(filter) = &tune.filter {
        todo.retain(|o| o.label.contains(filter) || o.schedule.signature().contains(filter));
    }
    if tune.missing {
        todo.retain(|o| records::find(&layers, &operation(o.schedule.as_ref()), &cached).is_none());
    }
    let ignored = layers.warnings().map(ToString::to_string).collect();
    progress(TuneEvent::Start(todo.len(), ignored));
    if todo.is_empty() {
        return Ok(vec![]);
    }
    let end = Instant::now() + tune.total();
    let tuner = tuner()?;
    // Time of a token at best, over all calls.
    let share = |o: &Operation| {
        let runs = [tilewright_autotune::work::Scenario { tokens: o.tokens, past: 256 }];
        tuner.roofline().floor_ns(&o.schedule.operands(), &runs) * f64::from(o.calls) / f64::from(o.tokens)
    };
    todo.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let count = todo.len();
    let (mut done, mut warned) = (vec![], false);
    for (i, o) in todo.iter().enumerate() {
        let budget = end.saturating_duration_since(Instant::now()) / (count - i) as u32;
        let outcome = one(&tuner, o, &layers, options, budget)?;
        layers.user.append(&outcome.record)?;
        if let Some(note) = tuner.note().filter(|_| !warned) {
            progress(TuneEvent::Warning(&note));
            warned = true;
        }
        progress(TuneEvent::Done(o, &outcome));
        done.push(outcome.record);
    }
    Ok(done)
}

fn one<M: Machine>(
    tuner: &Tuner<M>,
    o: &Operation,
    layers: &Layers,
    options: &BuildOptions,
    budget: Duration,
) -> Result<Outcome, DriverError> {
    let schedule = o.schedule.as_ref();
    let hint = layers.find(&operation(schedule), &options.target.name, records::threads(options)).map(|f| f.record);
    Ok(tuner.tune(schedule, budget, hint, &mut |_| {})?)
}

/// Makes the records that a build with these options misses, if it is to. The options to go on with, which take what there is:
/// for a GPU, the records of the one that was tuned on.
pub(crate) fn missing(
    model: &Model,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BuildOptions, DriverError> {
    let Some(level) = options.tune.level() else { return Ok(options.clone()) };
    let what = TuneOptions { missing: true, ..TuneOptions::new(level) };
    let mut options = BuildOptions { tune: TuneMode::Cached, ..options.clone() };
    let mut tell = |event: TuneEvent<'_>| match event {
        TuneEvent::Start(0, _) => {}
        TuneEvent::Start(..) => progress(Progress::Stage("tuning")),
        TuneEvent::Warning(text) => progress(Progress::Warning(text)),
        TuneEvent::Done(o, outcome) => progress(Progress::Tuned(&o.label, outcome.record.gain())),
    };
    if options.target.gpu().is_some() {
        let driver = cuda::open()?;
        options.gpu = Some(driver.facts().clone());
        tune_on_gpu(model, &options, &what, driver, &mut tell)?;
    } else {
        tune(model, &options, &what, &mut tell)?;
    }
    Ok(options)
}
