//! `tune`: times the kernels of a model on this machine and keeps the best of each.

use crate::args::{CompileArgs, ModelArgs};
use crate::exit::usage;
use crate::{open, system};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tilewright_autotune::record::Record;
use tilewright_autotune::tuner::{Level, Outcome};
use tilewright_driver::{Operation, TuneEvent, TuneOptions, tune};
use tilewright_models::model::Model;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Few samples, about a minute (default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Many samples, about ten minutes
    #[arg(long)]
    full: bool,
    /// Every point of every space, up to an hour; best with --kernel
    #[arg(long, conflicts_with_all = ["quick", "full"])]
    exhaustive: bool,
    /// Threads that the kernels are meant for [default: as many as there are cores for this process]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Only kernels with this in their name or shape
    #[arg(long, value_name = "TEXT")]
    kernel: Option<String>,
    /// Time for all kernels together, about
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    budget: Option<u64>,
    /// Seed of data and searches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    compile: CompileArgs,
    /// One object a kernel, a line each
    #[arg(long)]
    json: bool,
}

/// Load a core above which it is said.
const BUSY: f64 = 0.5;

/// Name of a row: the label of the first call, and how many tokens it is for.
fn name(o: &Operation) -> String {
    let tokens = if o.tokens == 1 { "1 token".to_string() } else { format!("{} tokens", o.tokens) };
    // Products of several weights have long names.
    let label: String = o.label.chars().take(32).collect();
    format!("{label}, {tokens}")
}

fn row(out: &mut impl Write, o: &Operation, outcome: &Outcome) -> std::io::Result<()> {
    let r = &outcome.record;
    let params: Vec<String> = r.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let share = if r.floor_ns > 0.0 { format!("{:.0} %", 100.0 * r.floor_ns / r.ns) } else { "-".into() };
    writeln!(
        out,
        "{:<44} {:>10.1} {:>10.1} {:>5.2} x {share:>8} {:>6}  {} {}{}",
        name(o),
        r.default_ns / 1e3,
        r.ns / 1e3,
        r.gain(),
        r.tried,
        r.backend,
        params.join(" "),
        refused(outcome),
    )
}

fn refused(outcome: &Outcome) -> String {
    let kinds: Vec<String> = outcome.refused.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    if kinds.is_empty() { String::new() } else { format!("  (rejected: {})", kinds.join(", ")) }
}

fn object(o: &Operation, outcome: &Outcome) -> serde_json::Value {
    let r = Record { history: vec![], ..outcome.record.clone() };
    let tokens = o.tokens;
    json!({ "kernel": o.label, "tokens": tokens, "calls": o.calls, "record": r, "refused": outcome.refused })
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let path = args.model.path()?;
    if open::is_artifact(path) {
        return Err(usage(format!("{} is an artifact; give the model it was built from", path.display())));
    }
    let mut options = args.compile.options()?;
    options.threads = args.threads.map_or(system::cores() as u32, u32::from);
    let level = match (args.full, args.exhaustive) {
        (_, true) => Level::Exhaustive,
        (true, _) => Level::Full,
        _ => Level::Quick,
    };
    let what = TuneOptions {
        budget: args.budget.map(Duration::from_secs),
        filter: args.kernel.clone(),
        seed: args.seed,
        ..TuneOptions::new(level)
    };
    let start = Instant::now();
    let mut failed: Option<std::io::Error> = None;
    let records = tune(&Model::open(path)?, &options, &what, &mut |event| {
        let mut out = std::io::stdout().lock();
        let written = match event {
            TuneEvent::Start(count, ignored) => {
                ignored.iter().for_each(|w| eprintln!("warning: {w}"));
                eprintln!("{count} kernels for {} {}", options.target.name, open::runs_on(&options));
                if let Some(load) = system::load().filter(|l| *l > BUSY * system::cores() as f64) {
                    eprintln!("warning: other programs are busy (load {load:.1}); times will be less certain");
                }
                if args.json { Ok(()) } else { header(&mut out) }
            }
            TuneEvent::Warning(text) => {
                eprintln!("warning: {text}");
                Ok(())
            }
            TuneEvent::Done(o, outcome) if args.json => writeln!(out, "{}", object(o, outcome)),
            TuneEvent::Done(o, outcome) => row(&mut out, o, outcome),
        };
        failed = failed.take().or(written.err());
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    if records.is_empty() {
        let filter = args.kernel.as_deref().unwrap_or("");
        return Err(usage(format!("no kernel with a choice has `{filter}` in its name; `explain` shows them")));
    }
    let folder: PathBuf = options.records.unwrap_or_default();
    eprintln!("{} records in {:.0} s -> {}", records.len(), start.elapsed().as_secs_f64(), folder.display());
    Ok(())
}

fn header(out: &mut impl Write) -> std::io::Result<()> {
    let (kernel, default, best) = ("kernel", "default us", "best us");
    writeln!(out, "{kernel:<44} {default:>10} {best:>10}    gain roofline  tried  choice")
}
