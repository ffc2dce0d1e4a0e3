//! The tuner: one operation, one [`Machine`], one number of threads; what comes out is a [`Record`].
//!
//! ```no_run
//! use std::time::Duration;
//! use tilewright_autotune::tuner::{Level, Tuner};
//! use tilewright_codegen::{schedules::{Quantize, Rounding}, target::Target};
//! let tuner = Tuner::new(&Target::detect()?, 2, Level::Quick, 1)?;
//! let norm = Quantize { width: 576, x_stride: 2304, norm: Some(1e-5), to: Rounding::Q8, max_tokens: 1 };
//! let outcome = tuner.tune(&norm, Duration::from_secs(5), None, &mut |_| {})?;
//! println!("{:?}: {:.2} times as fast", outcome.record.params, outcome.record.gain());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::TuneError;
use crate::candidate::{Candidates, Rejected};
use crate::check::Oracle;
use crate::cpu::Cpu;
use crate::machine::{Built, Machine};
use crate::measure::Timing;
use crate::record::{MAX_HISTORY, Record, SCHEMA, Trial, now};
use crate::roofline::Roofline;
use crate::search::{Cost, Descent, Exhaustive, Halving, Point, Search, grid_len};
use crate::work::Scenario;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tilewright_codegen::schedules::{Operands, Schedule, defaults};
use tilewright_codegen::target::Target;

/// To be raised when what a schedule's default kernel does not show changes what its parameters mean.
const SPACES: u32 = 1;
/// The winner has to be faster than the default by more than this, and by more than [`SURE`] standard errors.
const MARGIN: f64 = 0.02;
/// Standard errors between winner and default.
const SURE: f64 = 3.0;
/// Within this factor of the floor there is nothing left to find.
const AT_FLOOR: f64 = 1.03;
/// Names the kernels that this compiler makes, for records: those of another one do not hold.
pub fn compiler() -> String {
    let text = format!("tilewright {} spaces {SPACES}", env!("CARGO_PKG_VERSION"));
    blake3::hash(text.as_bytes()).to_hex()[..12].to_string()
}

/// What records of `schedule` are kept under: its signature and a hash of its default kernel, so that a schedule that was
/// changed has no records.
pub fn operation(schedule: &dyn Schedule) -> String {
    let kernel = schedule.build("k", &defaults(&schedule.space()));
    format!("{} ir:{}", schedule.signature(), &blake3::hash(kernel.to_string().as_bytes()).to_hex()[..8])
}

/// How thoroughly to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Few samples; a model in a minute or two.
    Quick,
    /// Many samples, more starts.
    Full,
    /// Every point, equally often: what the searches are measured by.
    Exhaustive,
}

impl Level {
    fn search(self, points: usize, seed: u64, start: Option<Point>) -> Box<dyn Search> {
        match (self, points) {
            (Level::Exhaustive, _) => Box::new(Exhaustive { samples: 9 }),
            (Level::Quick, ..=100) => Box::new(Halving { samples: 4 }),
            (Level::Quick, _) => Box::new(Descent { samples: 6, restarts: 2, seed, start }),
            (Level::Full, ..=32) => Box::new(Exhaustive { samples: 15 }),
            (Level::Full, ..=400) => Box::new(Halving { samples: 8 }),
            (Level::Full, _) => Box::new(Descent { samples: 7, restarts: 8, seed, start }),
        }
    }

    /// Samples of the last comparison.
    fn last(self) -> usize {
        if self == Level::Quick { 31 } else { 101 }
    }
}

/// What tuning an operation found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The record.
    pub record: Record,
    /// How many candidates were refused, by kind.
    pub refused: BTreeMap<&'static str, u32>,
}

/// Times kernels on a machine.
pub struct Tuner<M = Cpu> {
    machine: M,
    level: Level,
    seed: u64,
}

impl Tuner {
    /// Measures what this machine's CPU can do at best, then is ready.
    pub fn new(target: &Target, threads: u32, level: Level, seed: u64) -> Result<Tuner, TuneError> {
        Ok(Tuner::on(Cpu::new(target, threads)?, level, seed))
    }
}

impl<M: Machine> Tuner<M> {
    /// Times on `machine`.
    pub fn on(machine: M, level: Level, seed: u64) -> Tuner<M> {
        Tuner { machine, level, seed }
    }

    /// What the machine can do.
    pub fn roofline(&self) -> &Roofline {
        self.machine.roofline()
    }

    /// What the user should know of how kernels were run so far.
    pub fn note(&self) -> Option<String> {
        self.machine.note()
    }

    /// Finds the best parameters of `schedule` in about `budget`, from the default and from `hint`'s parameters.
    /// `progress` hears of every candidate that was timed.
    pub fn tune(
        &self,
        schedule: &dyn Schedule,
        budget: Duration,
        hint: Option<&Record>,
        progress: &mut dyn FnMut(&Trial),
    ) -> Result<Outcome, TuneError> {
        let mut bench = Bench::new(self, schedule, Instant::now() + budget, progress)?;
        let sizes = bench.candidates.sizes();
        let start = hint.and_then(|r| bench.candidates.point(&r.backend, &r.params));
        let search = self.level.search(grid_len(&sizes), self.seed, start);
        let found = search.run(&sizes, &mut bench);
        if let Some(e) = bench.failure.take() {
            return Err(e);
        }
        bench.finish(found, search.name(), schedule)
    }
}

/// The runs that stand for the use of an operation.
pub fn scenarios(operands: &Operands) -> Vec<Scenario> {
    let tokens = operands.max_tokens;
    let pasts: &[u32] = match (operands.reads_cache(), tokens) {
        (false, _) => &[0],
        (true, 1) => &[64, 512, 1500],
        (true, _) => &[0, 448],
    };
    pasts.iter().map(|&past| Scenario { tokens, past }).collect()
}

/// A candidate that may be timed, and its error.
struct Entry<C> {
    code: C,
    error: f64,
}

/// Costs of candidates: compiled, checked and timed as the search asks for them.
struct Bench<'a, M: Machine> {
    tuner: &'a Tuner<M>,
    candidates: Candidates<'a>,
    default: Point,
    oracle: Oracle<'a, M>,
    data: M::Data,
    entries: HashMap<Point, Result<Entry<M::Code>, Rejected>>,
    deadline: Instant,
    floor: f64,
    fastest: f64,
    history: Vec<Trial>,
    round: u32,
    failure: Option<TuneError>,
    progress: &'a mut dyn FnMut(&Trial),
}

impl<'a, M: Machine> Bench<'a, M> {
    fn new(
        tuner: &'a Tuner<M>,
        schedule: &'a dyn Schedule,
        deadline: Instant,
        progress: &'a mut dyn FnMut(&Trial),
    ) -> Result<Bench<'a, M>, TuneError> {
        let machine = &tuner.machine;
        let candidates = Candidates::new(schedule, machine.target(), machine.threads() as usize)?;
        let default = vec![0; candidates.sizes().len()];
        let wrong = |why: String| TuneError::Wrong { op: schedule.signature(), why };
        let built = candidates.built(&default).map_err(|r| wrong(r.to_string()))?;
        let code = machine.compile(vec![built], false)?.pop();
        let code = code.ok_or_else(|| wrong("no code".into()))?.map_err(|r| wrong(r.to_string()))?;
        // Inputs of the check and of timing differ.
        let mut oracle = Oracle::new(machine, schedule, &code, tuner.seed.wrapping_add(1))?;
        let error = oracle.check(&code)?.map_err(|r| wrong(r.to_string()))?;
        let operands = schedule.operands();
        let scenarios = scenarios(&operands);
        let data = machine.data(&operands, &scenarios, tuner.seed, true)?;
        let floor = tuner.roofline().floor_ns(&operands, &scenarios);
        let entries = HashMap::from([(default.clone(), Ok(Entry { code, error }))]);
        let (fastest, history, round, failure) = (f64::INFINITY, vec![], 0, None);
        Ok(Bench {
            tuner,
            candidates,
            default,
            oracle,
            data,
            entries,
            deadline,
            floor,
            fastest,
            history,
            round,
            failure,
            progress,
        })
    }

    /// Compiles those of `points` that are new, on all cores, then checks them.
    fn prepare(&mut self, points: &[Point]) -> Result<(), TuneError> {
        let mut new: Vec<&Point> = points.iter().filter(|p| !self.entries.contains_key(*p)).collect();
        new.sort();
        new.dedup();
        let candidates = &self.candidates;
        let all: Vec<Result<Built, Rejected>> = new.par_iter().map(|p| candidates.built(p)).collect();
        let (mut legal, mut all_built) = (vec![], vec![]);
        for (p, built) in new.into_iter().zip(all) {
            match built {
                Ok(b) => {
                    legal.push(p);
                    all_built.push(b);
                }
                Err(rejected) => drop(self.entries.insert(p.clone(), Err(rejected))),
            }
        }
        for (p, code) in legal.into_iter().zip(self.tuner.machine.compile(all_built, true)?) {
            let entry = match code {
                Ok(code) => self.oracle.check(&code)?.map(|error| Entry { code, error }),
                Err(rejected) => Err(rejected),
            };
            self.entries.insert(p.clone(), entry);
        }
        Ok(())
    }

    /// Times the default and `points`, of which all are usable.
    fn measure(&mut self, points: &[Point], samples: usize, until: Instant) -> Result<Vec<Timing>, TuneError> {
        let all = [std::slice::from_ref(&self.default), points].concat();
        let code = |p: &Point| self.entries[p].as_ref().ok().map(|e| &e.code);
        let codes: Vec<&M::Code> = all.iter().filter_map(code).collect();
        let timings = self.tuner.machine.time(&mut self.data, &codes, samples, until)?;
        for (p, t) in all.iter().zip(&timings) {
            let trial = Trial {
                params: named(&self.candidates, p),
                backend: self.candidates.backend(p).name().to_string(),
                ns: t.ns(),
                mad_ns: t.mad(),
                round: self.round,
            };
            self.fastest = self.fastest.min(trial.ns);
            (self.progress)(&trial);
            self.history.push(trial);
        }
        self.round += 1;
        Ok(timings)
    }

    fn costs(&mut self, points: &[Point], samples: usize) -> Result<Vec<Option<f64>>, TuneError> {
        self.prepare(points)?;
        let is_usable = |p: &&Point| **p != self.default && self.entries[*p].is_ok();
        let usable: Vec<Point> = points.iter().filter(is_usable).cloned().collect();
        let timings = self.measure(&usable, samples, self.deadline)?;
        let default = timings[0].low();
        let mut rest = timings[1..].iter();
        let mut cost = |p: &Point| {
            if *p == self.default {
                return Some(1.0);
            }
            self.entries[p].as_ref().ok()?;
            rest.next().map(|t| t.low() / default)
        };
        Ok(points.iter().map(&mut cost).collect())
    }

    /// The last comparison, default against winner, and the record.
    fn finish(mut self, found: Point, search: &str, schedule: &dyn Schedule) -> Result<Outcome, TuneError> {
        let rivals = if found == self.default { vec![] } else { vec![found.clone()] };
        // It decides, so it gets its time even where the budget is spent.
        let until = self.deadline.max(Instant::now() + Duration::from_millis(500));
        let mut timings = self.measure(&rivals, self.tuner.level.last(), until)?;
        // Noise that favours one for a while is there; for twice that while it rarely is.
        if timings.get(1).is_some_and(|t| is_faster(t, &timings[0])) {
            let until = self.deadline.max(Instant::now() + Duration::from_millis(500));
            timings = self.measure(&rivals, self.tuner.level.last(), until)?;
        }
        let default = &timings[0];
        let (winner, point) = match timings.get(1) {
            Some(t) if is_faster(t, default) => (t, found),
            _ => (default, self.default.clone()),
        };
        let mut refused = BTreeMap::new();
        for rejected in self.entries.values().filter_map(|e| e.as_ref().err()) {
            *refused.entry(rejected.kind()).or_default() += 1;
        }
        let tried = self.entries.values().filter(|e| e.is_ok()).count() as u32;
        // The later the round the closer to the end: the finalists are kept.
        self.history.sort_by(|a, b| b.round.cmp(&a.round).then(a.ns.total_cmp(&b.ns)));
        self.history.truncate(MAX_HISTORY);
        let record = Record {
            schema: SCHEMA,
            op: operation(schedule),
            target: self.tuner.machine.target().name.clone(),
            backend: self.candidates.backend(&point).name().to_string(),
            threads: self.tuner.machine.threads(),
            params: named(&self.candidates, &point),
            ns: winner.ns(),
            mad_ns: winner.mad(),
            default_ns: default.ns(),
            default_mad_ns: default.mad(),
            floor_ns: self.floor,
            tried,
            rejected: refused.values().sum(),
            error: self.entries[&point].as_ref().map_or(0.0, |e| e.error),
            search: search.to_string(),
            history: self.history,
            device: self.tuner.machine.device().to_string(),
            compiler: compiler(),
            date: now(),
        };
        Ok(Outcome { record, refused })
    }
}

impl<M: Machine> Cost for Bench<'_, M> {
    fn time(&mut self, points: &[Point], samples: usize) -> Vec<Option<f64>> {
        self.costs(points, samples).unwrap_or_else(|e| {
            self.failure = Some(e);
            vec![None; points.len()]
        })
    }

    fn is_over(&self) -> bool {
        // A floor that was measured on a busy machine can be too high: it ends a search that has seen something, and never
        // one that is to see all.
        let may_end = self.round > 1 && self.tuner.level != Level::Exhaustive;
        let at_floor = may_end && self.fastest <= AT_FLOOR * self.floor;
        self.failure.is_some() || Instant::now() >= self.deadline || at_floor
    }
}

/// Whether the difference is more than noise and worth a record.
fn is_faster(rival: &Timing, default: &Timing) -> bool {
    let (ratio, error) = rival.ratio(default);
    // The lower quartiles too: a median moves when other programs hold the cores more than half of the time.
    let quiet = rival.low() < (1.0 - MARGIN) * default.low();
    1.0 - ratio > MARGIN.max(SURE * error) && quiet && rival.ns() < default.ns()
}

fn named(candidates: &Candidates<'_>, p: &Point) -> BTreeMap<String, i64> {
    candidates.params(p).into_iter().map(|(name, v)| (name.to_string(), v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(samples: impl IntoIterator<Item = f64>) -> Timing {
        Timing { samples: samples.into_iter().collect() }
    }

    #[test]
    fn the_default_stays_within_the_noise() {
        let base = timing((0..15).map(|i| 100.0 + f64::from(i % 5)));
        let scaled = |k: f64| timing(base.samples.iter().map(|s| s * k));
        assert!(is_faster(&scaled(0.9), &base));
        assert!(!is_faster(&scaled(0.99), &base), "less than two percent");
        assert!(!is_faster(&scaled(1.1), &base));
        // Faster in the middle, but all over the place.
        let wild = timing((0..15).map(|i| [40.0, 90.0, 180.0][i % 3]));
        assert!(!is_faster(&wild, &base), "noise");
        // Disturbed most of the time, equal when not.
        let disturbed = timing((0..15).map(|i| if i % 3 == 0 { 95.0 } else { 170.0 }));
        let calm = timing((0..15).map(|i| if i % 3 == 0 { 97.0 } else { 96.0 }));
        assert!(!is_faster(&calm, &disturbed), "the default was disturbed");
    }

    #[test]
    fn a_changed_kernel_is_another_operation() {
        use tilewright_codegen::schedules::{Quantize, Rounding};
        let op = |norm| operation(&Quantize { width: 64, x_stride: 256, norm, to: Rounding::Q8, max_tokens: 1 });
        assert_eq!(op(None), op(None));
        assert_ne!(op(None).rsplit_once("ir:").map(|x| x.1), op(Some(1e-5)).rsplit_once("ir:").map(|x| x.1));
        assert_eq!(compiler().len(), 12);
    }
}
