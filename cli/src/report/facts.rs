//! What a report says, as plain data: rendering it depends on nothing else, neither clock nor machine.

use super::fold::Picture;
use crate::explain::{Decided, bytes, kernel_rows, plain};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tilewright_autotune::layers::Layers;
use tilewright_autotune::record::{Record, Trial};
use tilewright_codegen::schedules::Math;
use tilewright_runtime::plan::{self, ModelFacts};

/// All of it.
pub struct Facts {
    pub model: ModelFacts,
    pub target: String,
    /// The machine, lines of name and value.
    pub device: String,
    /// Of the processor; a GPU is never had in part.
    pub threads: Option<u32>,
    pub date: String,
    /// What to run for records.
    pub tune: String,
    pub roofs: Option<Roofs>,
    pub programs: Vec<Program>,
    pub passes: Vec<Choice>,
    /// Choices about the whole model.
    pub choices: Vec<Choice>,
    pub formats: Vec<Format>,
    pub picture: Picture,
}

/// What the machine does at best; 0 is unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofs {
    /// Bytes a second.
    pub bandwidth: f64,
    /// Multiply-adds a second, by [`Math`].
    pub peaks: [f64; Math::ALL.len()],
    pub source: Source,
}

/// Where roofs are from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Measured,
    Records,
    /// The better of both: a busy machine does not measure what it can.
    Both,
}

impl Source {
    pub fn text(self) -> &'static str {
        match self {
            Source::Measured => "measured for this report",
            Source::Records => "concluded from the floors in the records",
            Source::Both => "the better of a measurement for this report and of the floors in the records",
        }
    }
}

impl Roofs {
    /// The higher ones. `other` counts where it is higher by more than noise.
    pub fn or(self, other: Option<Roofs>) -> Roofs {
        let Some(other) = other else { return self };
        let all = |r: &Roofs| [[r.bandwidth].as_slice(), &r.peaks].concat();
        if all(&self).iter().zip(all(&other)).all(|(a, b)| b <= a * 1.03) {
            return self;
        }
        let peaks = Math::ALL.map(|m| self.peaks[m as usize].max(other.peaks[m as usize]));
        Roofs { bandwidth: self.bandwidth.max(other.bandwidth), peaks, source: Source::Both }
    }
}

/// A choice with its reason.
pub struct Choice {
    pub what: String,
    pub choice: String,
    pub why: String,
}

/// Weights of one format.
pub struct Format {
    pub name: String,
    pub weights: usize,
    pub bytes: u64,
}

/// A program's kernels, the heaviest first.
pub struct Program {
    pub max_tokens: u32,
    pub kernels: Vec<Kernel>,
}

/// A kernel of a program.
pub struct Kernel {
    pub name: String,
    pub op: String,
    /// Its calls without the number of the layer, `attn_q+attn_k`.
    pub what: Vec<String>,
    pub types: Vec<String>,
    pub calls: u32,
    /// Calls of a step that wants no logits; in decoding, all.
    pub counted: u32,
    pub backend: String,
    pub params: String,
    pub work: Work,
    pub timing: Option<Timing>,
    /// Why it has no timing.
    pub reason: String,
}

/// What a call does.
#[derive(Clone, Copy)]
pub struct Work {
    pub bytes: f64,
    pub macs: f64,
    pub math: Math,
}

/// What its record says.
pub struct Timing {
    pub ns: f64,
    pub mad_ns: f64,
    pub default_ns: f64,
    pub floor_ns: f64,
    pub tried: u64,
    pub rejected: u64,
    pub search: String,
    pub layer: String,
    pub date: String,
    pub history: Vec<Trial>,
    /// Parameters and back end of the winner, to find it in the history.
    pub winner: (BTreeMap<String, i64>, String),
}

/// Sums over the calls of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    pub ns: f64,
    pub default_ns: f64,
    /// Kernels without a time.
    pub unknown: usize,
}

impl Kernel {
    /// The name for a mark in a plot: what it computes.
    pub fn label(&self) -> String {
        let what = self.what.first().filter(|w| !w.is_empty()).unwrap_or(&self.op);
        if self.what.len() > 1 { format!("{} +{}", self.op, self.what.len() - 1) } else { what.clone() }
    }

    /// Time of all its counted calls.
    pub fn step_ns(&self) -> Option<f64> {
        self.timing.as_ref().map(|t| t.ns * f64::from(self.counted))
    }

    /// Share of the floor in the time, if both are known.
    pub fn of_roofline(&self) -> Option<f64> {
        self.timing.as_ref().filter(|t| t.floor_ns > 0.0 && t.ns > 0.0).map(|t| t.floor_ns / t.ns)
    }
}

impl Program {
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for k in self.kernels.iter().filter(|k| k.counted > 0) {
            match &k.timing {
                Some(t) => {
                    sums.ns += t.ns * f64::from(k.counted);
                    sums.default_ns += t.default_ns * f64::from(k.counted);
                }
                None => sums.unknown += 1,
            }
        }
        sums
    }

    /// What a run of it is called.
    pub fn name(&self) -> String {
        if self.max_tokens == 1 { "decode, 1 token".into() } else { format!("prefill, {} tokens", self.max_tokens) }
    }
}

impl Facts {
    pub fn kernels(&self) -> impl Iterator<Item = (&Program, &Kernel)> {
        self.programs.iter().flat_map(|p| p.kernels.iter().map(move |k| (p, k)))
    }

    /// The least time of a token, bytes over bandwidth.
    pub fn floor_ns(&self) -> Option<f64> {
        let rate = self.roofs.map(|r| r.bandwidth).filter(|b| *b > 0.0)?;
        Some(self.model.bytes_per_token as f64 / rate * 1e9)
    }
}

/// Names of the calls of a kind: `matmul blk.*.attn_q+blk.*.attn_k` is `attn_q+attn_k`.
pub fn what(kind: &str) -> String {
    let (_, name) = kind.split_once(' ').unwrap_or(("", ""));
    name.split('+').map(|part| part.rsplit_once("*.").map_or(part, |p| p.1)).collect::<Vec<_>>().join("+")
}

/// The programs of a plan, with times from `layers` where the records are those that were chosen by.
pub fn programs(d: &Decided, layers: Option<&Layers>, threads: u32) -> Vec<Program> {
    d.plan.programs.iter().map(|p| program(d, p, layers, threads)).collect()
}

fn program(d: &Decided, p: &plan::Program, layers: Option<&Layers>, threads: u32) -> Program {
    let head = if p.max_tokens == 1 { p.calls.len() } else { p.head_start as usize };
    let counted = |name: &str| {
        let is = |c: &&plan::Call| d.plan.kernels.get(c.kernel as usize).is_some_and(|k| k == name);
        p.calls.iter().take(head).filter(is).count() as u32
    };
    let kernel = |(name, row): (String, crate::explain::KernelRow)| {
        let chosen = d.choices.iter().find(|c| c.what.strip_prefix("kernel ") == Some(&name));
        let (choice, why) = chosen.map_or((&Value::Null, &Value::Null), |c| (&c.choice, &c.why));
        let n = |key: &str| why[key].as_f64().unwrap_or(0.0);
        let math = Math::ALL.into_iter().find(|m| why["math"] == m.name()).unwrap_or(Math::F32);
        let params = choice.as_object().into_iter().flatten().filter(|(k, _)| *k != "backend");
        let op = row.what.keys().next().and_then(|w| w.split(' ').next()).unwrap_or_default().to_string();
        Kernel {
            counted: counted(&name),
            op,
            what: row.what.keys().map(|k| what(k)).collect::<BTreeSet<_>>().into_iter().collect(),
            types: row.types.keys().map(|t| t.trim_start_matches('@').to_string()).collect(),
            calls: row.calls,
            backend: choice["backend"].as_str().unwrap_or("?").to_string(),
            params: params.map(|(k, v)| format!("{k}={}", plain(v))).collect::<Vec<_>>().join(" "),
            work: Work { bytes: n("bytes"), macs: n("macs"), math },
            timing: timing(why, &d.target, layers, threads),
            reason: why["reason"].as_str().unwrap_or("not known").to_string(),
            name,
        }
    };
    let mut kernels: Vec<Kernel> = kernel_rows(&d.plan, &d.graph, p).into_iter().map(kernel).collect();
    kernels.sort_by(|a, b| b.step_ns().unwrap_or(0.0).total_cmp(&a.step_ns().unwrap_or(0.0)));
    Program { max_tokens: p.max_tokens, kernels }
}

/// From the reason of a choice; finer, and with its history, from the record if it is the same one.
fn timing(why: &Value, target: &str, layers: Option<&Layers>, threads: u32) -> Option<Timing> {
    let word = |key: &str| why[key].as_str().unwrap_or_default();
    let n = |key: &str| why[key].as_f64().unwrap_or(0.0).max(0.0);
    if word("from").is_empty() || word("from") == "default" || n("us") <= 0.0 {
        return None;
    }
    let same = |r: &&Record| r.date == word("date");
    let record = layers.and_then(|l| l.find(word("op"), target, threads)).map(|f| f.record).filter(same);
    let ns = record.map_or(n("us") * 1e3, |r| r.ns);
    Some(Timing {
        ns,
        mad_ns: record.map_or(0.0, |r| r.mad_ns),
        default_ns: record.map_or(n("default_us") * 1e3, |r| r.default_ns),
        floor_ns: record.map_or(n("roofline") * ns, |r| r.floor_ns),
        tried: why["tried"].as_u64().unwrap_or(0),
        rejected: why["rejected"].as_u64().unwrap_or(0),
        search: word("search").to_string(),
        layer: word("from").to_string(),
        date: word("date").to_string(),
        history: record.map_or(vec![], |r| r.history.clone()),
        winner: record.map_or_else(Default::default, |r| (r.params.clone(), r.backend.clone())),
    })
}

/// What the floors of records say of the machine: each is bytes over bandwidth or products over a peak, whichever is more,
/// so that the highest rates are the roofs, if anything touches them.
pub fn roofs_of_records(programs: &[Program]) -> Option<Roofs> {
    let mut roofs = Roofs { bandwidth: 0.0, peaks: Default::default(), source: Source::Records };
    for k in programs.iter().flat_map(|p| &p.kernels) {
        let Some(floor) = k.timing.as_ref().map(|t| t.floor_ns).filter(|f| *f > 0.0) else { continue };
        roofs.bandwidth = roofs.bandwidth.max(k.work.bytes / floor * 1e9);
        let peak = &mut roofs.peaks[k.work.math as usize];
        *peak = peak.max(k.work.macs / floor * 1e9);
    }
    (roofs.bandwidth > 0.0).then_some(roofs)
}

/// Choices of a kind.
pub fn choices(d: &Decided, kind: &str) -> Vec<Choice> {
    let row = |(what, choice, why): (&str, String, String)| Choice { what: what.to_string(), choice, why };
    d.of_kind(kind).into_iter().map(row).collect()
}

/// Choices about the whole model: those that name no pass, kernel or weight.
pub fn of_model(d: &Decided) -> Vec<Choice> {
    let whole = d.choices.iter().filter(|c| !c.what.contains(' '));
    whole.map(|c| Choice { what: c.what.clone(), choice: plain(&c.choice), why: plain(&c.why) }).collect()
}

/// Weights by format, most bytes first.
pub fn formats(d: &Decided) -> Vec<Format> {
    let mut formats: BTreeMap<String, (BTreeSet<&str>, u64)> = BTreeMap::new();
    for w in d.graph.order().iter().filter_map(|&n| d.graph.weight_of(n)) {
        let format = formats.entry(w.format().to_string()).or_default();
        if format.0.insert(&w.name) {
            format.1 += bytes(w, "");
        }
    }
    let row =
        |(name, (weights, bytes)): (String, (BTreeSet<&str>, u64))| Format { name, weights: weights.len(), bytes };
    let mut rows: Vec<Format> = formats.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.name.cmp(&b.name)));
    rows
}

#[cfg(test)]
mod tests {
    use super::super::example::facts;
    use super::*;

    #[test]
    fn names_lose_their_layer() {
        assert_eq!(what("matmul blk.*.attn_q+blk.*.attn_k"), "attn_q+attn_k");
        assert_eq!((what("embed token_embd").as_str(), what("add").as_str()), ("token_embd", ""));
    }

    #[test]
    fn sums_count_what_a_step_runs() {
        let f = facts();
        let sums = f.programs[0].sums();
        assert_eq!(sums, Sums { ns: 30.0 * 2e4, default_ns: 30.0 * 2.5e4, unknown: 1 });
        assert_eq!(f.floor_ns(), Some(2e6));
        assert_eq!(f.programs[0].kernels[0].of_roofline(), Some(0.5));
    }

    #[test]
    fn roofs_are_the_highest_rates() {
        let f = facts();
        let roofs = roofs_of_records(&f.programs).expect("records");
        // Half the time of the decode kernel for its bytes, half that of the other for its products.
        assert_eq!((roofs.bandwidth, roofs.peaks), (5e5 / 1e4 * 1e9, [5e7 / 2.5e5 * 1e9, 0.0, 0.0, 0.0]));
        assert!(roofs.source == Source::Records && roofs_of_records(&[]).is_none());
        let measured = f.roofs.expect("roofs");
        assert_eq!(measured.or(None), measured);
        let best = measured.or(Some(roofs));
        assert_eq!((best.bandwidth, best.peaks), (5e10, [4e11, 0.0, 0.0, 1e11]));
        assert_eq!((best.source, measured.or(Some(measured)).source), (Source::Both, Source::Measured));
    }

    #[test]
    fn a_reason_without_its_record() {
        let why = serde_json::json!({ "from": "user", "date": "d", "us": 2.0, "default_us": 3.0, "roofline": 0.5 });
        let t = timing(&why, "x86-64-v3", None, 2).expect("times");
        assert_eq!((t.ns, t.default_ns, t.floor_ns, t.history.len()), (2000.0, 3000.0, 1000.0, 0));
        let default = serde_json::json!({ "from": "default", "reason": "no tuning record" });
        assert!(timing(&default, "", None, 1).is_none() && timing(&Value::Null, "", None, 1).is_none());
    }
}
