//! Parameters of kernels: from a record of this machine where there is a good one, else the schedule's defaults.
//!
//! A record is believed only after its back end is found and its parameters are a point of the schedule's space that the
//! back end compiles. One that is not is a miss that is said aloud, never an error.

use crate::{BuildOptions, DriverError};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tilewright_autotune::candidate::{is_tunable, params_in};
use tilewright_autotune::fingerprint::{Device, of_gpu};
use tilewright_autotune::layers::{Layer, Layers};
use tilewright_autotune::record::Record;
use tilewright_autotune::tuner;
use tilewright_codegen::backend::{self, Backend};
use tilewright_codegen::schedules::{Math, Operands, Params, Schedule, params_for};
use tilewright_codegen::target::Target;

/// What a build does about records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TuneMode {
    /// Uses none.
    Off,
    /// Uses those there are.
    #[default]
    Cached,
    /// Makes those that are missing, quickly.
    Quick,
    /// Makes those that are missing, thoroughly.
    Full,
}

impl TuneMode {
    /// How missing records are made, if they are.
    pub fn level(self) -> Option<tuner::Level> {
        match self {
            TuneMode::Off | TuneMode::Cached => None,
            TuneMode::Quick => Some(tuner::Level::Quick),
            TuneMode::Full => Some(tuner::Level::Full),
        }
    }
}

/// How one operation is made.
#[derive(Clone)]
pub(crate) struct Chosen {
    /// What its records are kept under.
    pub op: String,
    pub params: Params,
    /// `None` for the default of the kernel at hand.
    pub backend: Option<&'static dyn Backend>,
    /// Whether there was anything to choose.
    pub tunable: bool,
    pub record: Option<(Record, Layer)>,
    /// What a call of it does, on average over the runs that stand for its use.
    work: Work,
}

/// Bytes from memory and multiply-adds: what a report places a kernel under the roofline by.
#[derive(Clone, Copy)]
struct Work {
    bytes: u64,
    macs: u64,
    math: Math,
}

impl Work {
    fn of(operands: &Operands) -> Work {
        let runs = tuner::scenarios(operands);
        let sum = runs.iter().map(|s| operands.work(s.tokens.into(), s.past.into()));
        let (bytes, macs) = sum.fold((0, 0), |(a, b), (bytes, macs)| (a + bytes, b + macs));
        let n = runs.len().max(1) as u64;
        // Each term is a product of its own to the machine.
        Work { bytes: bytes / n, macs: macs / n * operands.terms.max(1), math: operands.math() }
    }
}

/// Opens the layers of this machine, or of the GPU in question; none if the options name no folder or want none.
///
/// # Errors
///
/// A file of records that cannot be read.
pub fn layers(options: &BuildOptions) -> Result<Option<Layers>, DriverError> {
    let Some(root) = options.records.as_ref().filter(|_| options.tune != TuneMode::Off) else { return Ok(None) };
    let compiler = tuner::compiler();
    let device = match (options.target.gpu(), &options.gpu) {
        (None, _) => Device::detect().id(),
        (Some(_), Some(facts)) => of_gpu(facts),
        (Some(_), None) => return Ok(Some(Layers::of_any_device(root, &compiler)?)),
    };
    Ok(Some(Layers::open(root, &device, &compiler)?))
}

/// Threads that records are of: a GPU is never had in part.
pub(crate) fn threads(options: &BuildOptions) -> u32 {
    if options.target.gpu().is_some() { 1 } else { options.threads }
}

/// The record of an operation that was measured here, or on any device where none is meant.
pub(crate) fn find<'a>(layers: &'a Layers, op: &str, options: &BuildOptions) -> Option<(&'a Record, Layer)> {
    let found = layers.find(op, &options.target.name, threads(options))?;
    (found.measured_here || found.layer == Layer::Foreign).then_some((found.record, found.layer))
}

/// Chooses for one build.
pub(crate) struct Chooser<'a> {
    options: &'a BuildOptions,
    layers: Option<Layers>,
    chosen: RefCell<BTreeMap<String, Rc<Chosen>>>,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Chooser<'a> {
    pub(crate) fn new(options: &'a BuildOptions) -> Result<Chooser<'a>, DriverError> {
        let layers = layers(options)?;
        let warnings = layers.iter().flat_map(|l| l.warnings()).map(ToString::to_string).collect();
        Ok(Chooser { options, layers, chosen: RefCell::default(), warnings: RefCell::new(warnings) })
    }

    /// What was ignored.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    /// How `schedule` is made.
    pub(crate) fn choose(&self, schedule: &dyn Schedule) -> Rc<Chosen> {
        let signature = schedule.signature();
        if let Some(known) = self.chosen.borrow().get(&signature) {
            return known.clone();
        }
        let tunable = is_tunable(schedule, &self.options.target);
        let params = params_for(schedule, &self.options.target);
        // Its hash costs a build of the kernel: only where there may be a record.
        let op = if tunable && self.options.records.is_some() { tuner::operation(schedule) } else { signature.clone() };
        let mut chosen =
            Chosen { op, params, backend: None, tunable, record: None, work: Work::of(&schedule.operands()) };
        let found = self.layers.as_ref().filter(|_| tunable).and_then(|l| find(l, &chosen.op, self.options));
        if let Some((record, layer)) = found {
            match valid(schedule, record, &self.options.target) {
                Ok((params, backend)) => {
                    chosen.record = Some((record.clone(), layer));
                    (chosen.params, chosen.backend) = (params, Some(backend));
                }
                Err(why) => {
                    let text = format!("the record {} is not used: {why}", record.key().id());
                    self.warnings.borrow_mut().push(text);
                }
            }
        }
        let chosen = Rc::new(chosen);
        self.chosen.borrow_mut().insert(signature, chosen.clone());
        chosen
    }

    /// The first operation without a record is an error if the options say so.
    pub(crate) fn check_frozen(&self) -> Result<(), DriverError> {
        let missing = |c: &&Rc<Chosen>| c.tunable && c.record.is_none();
        match self.chosen.borrow().values().find(missing).filter(|_| self.options.frozen) {
            Some(c) => Err(no_record(c.op.clone(), self.options)),
            None => Ok(()),
        }
    }
}

/// The error of an operation that has no record and must have one.
pub(crate) fn no_record(op: String, options: &BuildOptions) -> DriverError {
    DriverError::NoRecord { op, threads: threads(options), target: options.target.name.clone() }
}

/// The parameters and the back end of a record, or why it cannot be used.
fn valid(schedule: &dyn Schedule, record: &Record, target: &Target) -> Result<(Params, &'static dyn Backend), String> {
    let params = params_in(&schedule.space(), &record.params)?;
    let name = &record.backend;
    let backend = backend::find(name).ok_or_else(|| format!("there is no back end {name}"))?;
    let kernel = schedule.build("k", &params);
    match backend.check(&kernel, target) {
        Ok(()) => Ok((params, backend)),
        Err(faults) => Err(faults.first().map_or_else(String::new, ToString::to_string)),
    }
}

impl Chosen {
    /// Parameters and back end, for reports.
    pub(crate) fn choice(&self, backend: &str) -> Value {
        let params = self.params.iter().map(|(k, v)| (k.to_string(), Value::from(*v)));
        Value::Object(params.chain([("backend".to_string(), backend.into())]).collect::<Map<_, _>>())
    }

    /// Why, for reports.
    pub(crate) fn why(&self) -> Value {
        let Work { bytes, macs, math } = self.work;
        let work = json!({ "op": self.op, "bytes": bytes, "macs": macs, "math": math.name() });
        let from = match &self.record {
            None => {
                let reason = if self.tunable { "no tuning record" } else { "nothing to choose" };
                json!({ "from": "default", "reason": reason })
            }
            Some((r, layer)) => {
                let round = |v: f64, digits: i32| (v * 10f64.powi(digits)).round() / 10f64.powi(digits);
                json!({
                    "from": layer.name(), "date": r.date, "tried": r.tried, "rejected": r.rejected,
                    "search": r.search, "us": round(r.ns / 1e3, 2), "default_us": round(r.default_ns / 1e3, 2),
                    "gain": round(r.gain(), 3), "roofline": round(r.floor_ns / r.ns, 3),
                })
            }
        };
        let both = [from, work].into_iter().filter_map(|v| if let Value::Object(m) = v { Some(m) } else { None });
        Value::Object(both.flatten().collect())
    }
}
