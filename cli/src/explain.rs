//! `explain`: what the compiler chose and why, and the bytes a token costs against what this machine, or its GPU, can read.

use crate::args::{CompileArgs, ModelArgs};
use crate::{open, profile, system};
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use tilewright_codegen::target::Target;
use tilewright_driver::reach::{Reading, reading};
use tilewright_driver::{Compiled, DriverError, Progress, compile};
use tilewright_ir::graph::{Dim, Graph, Weight, parse};
use tilewright_models::format::FormatSet;
use tilewright_models::model::Model;
use tilewright_runtime::artifact::{Artifact, Choice, HugePages, OpenOptions};
use tilewright_runtime::plan::{Plan, Program};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Threads of the bandwidth measurement [default: as many as there are cores for this process]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Also the layout of every weight
    #[arg(long)]
    weights: bool,
    #[command(flatten)]
    compile: CompileArgs,
    /// One object
    #[arg(long)]
    json: bool,
}

/// What the compiler decided: from an artifact, or by compiling all but the weights.
pub struct Decided {
    pub target: String,
    pub choices: Vec<Choice>,
    pub plan: Plan,
    pub graph: Graph,
}

impl Decided {
    /// Of a model or an artifact; `threads` are those that records are of, and `None` all there are.
    pub fn of(path: &Path, compile_args: &CompileArgs, threads: Option<u32>) -> anyhow::Result<Decided> {
        if open::is_artifact(path) {
            let artifact = Artifact::open_with(
                path,
                OpenOptions { verify_weights: false, threads: None, huge_pages: HugePages::Off },
            )?;
            let info = artifact.manifest().info.clone();
            let graph = parse(artifact.graph().unwrap_or_default()).context("the graph in the artifact")?;
            return Ok(Decided {
                target: info.target.name,
                choices: info.choices,
                plan: artifact.plan().clone(),
                graph,
            });
        }
        let mut options = compile_args.options()?;
        options.threads = threads.unwrap_or(options.threads);
        let options = open::tuned(path, &options)?;
        let mut warn = |p: Progress<'_>| {
            if let Progress::Warning(text) = p {
                eprintln!("warning: {text}");
            }
        };
        let Compiled { choices, plan, mut graphs, .. } = compile(&Model::open(path)?, &options, &mut warn)?;
        Ok(Decided { target: options.target.name, choices, plan, graph: graphs.swap_remove(0) })
    }

    /// Choices of a kind: name, choice, reason.
    pub fn of_kind<'a>(&'a self, kind: &str) -> Vec<(&'a str, String, String)> {
        let row = |c: &'a Choice| {
            let name = c.what.strip_prefix(kind)?.strip_prefix(' ')?;
            Some((name, plain(&c.choice), plain(&c.why)))
        };
        self.choices.iter().filter_map(row).collect()
    }
}

/// One kernel of one program.
#[derive(Default)]
pub struct KernelRow {
    pub calls: u32,
    /// Calls by kind, `matmul blk.*.ffn_down`.
    pub what: BTreeMap<String, u32>,
    /// Types of the weights it reads.
    pub types: BTreeMap<String, u32>,
    /// Weight bytes that all its calls read, as the model file counts them.
    bytes: u64,
}

/// Bytes of a weight that a call of `op` reads.
pub fn bytes(w: &Weight, op: &str) -> u64 {
    let elements: u64 = w.ty.shape.iter().map(|d| if let Dim::N(n) = d { *n } else { 1 }).product();
    let rows = if let (Some(Dim::N(rows)), "embed") = (w.ty.shape.first(), op) { *rows } else { 1 };
    let format = FormatSet::builtin().get(w.format());
    format.map_or(0, |f| elements / f.block.max(1) as u64 * f.bytes as u64 / rows.max(1))
}

/// The kernels of a program in their order.
pub fn kernel_rows(plan: &Plan, graph: &Graph, program: &Program) -> Vec<(String, KernelRow)> {
    // A call's label is made of op and name of its node.
    let label = |n| format!("{} {}", graph.node(n).op.row().name, graph.node(n).name);
    let nodes: HashMap<String, _> = graph.order().iter().map(|&n| (label(n).trim_end().to_string(), n)).collect();
    let mut rows: BTreeMap<u32, KernelRow> = BTreeMap::new();
    for call in &program.calls {
        let row = rows.entry(call.kernel).or_default();
        row.calls += 1;
        *row.what.entry(profile::kind(&call.label)).or_default() += 1;
        let op = call.label.split(' ').next().unwrap_or("");
        for w in nodes.get(&call.label).into_iter().flat_map(|&n| graph.operands(n)).filter_map(|o| graph.weight_of(o))
        {
            *row.types.entry(w.ty.to_string()).or_default() += 1;
            row.bytes += bytes(w, op);
        }
    }
    let name = |i: u32| plan.kernels.get(i as usize).cloned().unwrap_or_default();
    rows.into_iter().map(|(i, row)| (name(i), row)).collect()
}

/// A choice as a person writes it.
pub fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Object(m) if m.is_empty() => "no parameters".into(),
        Value::Object(m) => m.iter().map(|(k, v)| format!("{k}={}", plain(v))).collect::<Vec<_>>().join(" "),
        v => v.to_string(),
    }
}

/// Why a kernel has its parameters: its record, or that there is none.
fn reason(why: &Value) -> String {
    let n = |key: &str| why[key].as_f64().unwrap_or(0.0);
    let word = |key: &str| why[key].as_str().unwrap_or("?");
    if why["from"] == "default" {
        return format!("default of the schedule ({})", word("reason"));
    }
    let floor = n("roofline");
    let share = if floor > 0.0 { format!(", {:.0} % of the roofline", floor * 100.0) } else { String::new() };
    // Kernels of a GPU take a few microseconds.
    let time = |us: f64| if us < 10.0 { format!("{:.0} ns", us * 1e3) } else { format!("{us:.1} us") };
    format!(
        "{} record of {}: {}, {:.2} x the default ({}){share}; {} tried, {} rejected",
        word("from"),
        word("date").split('T').next().unwrap_or("?"),
        time(n("us")),
        n("gain"),
        time(n("default_us")),
        n("tried"),
        n("rejected"),
    )
}

/// What the machine is that a token's bytes are held against.
fn machine(reading: &Reading) -> String {
    match &reading.gpu {
        Some(gpu) => format!("{} reads", system::gpu_name(gpu)),
        None => format!("this machine, with {} thread(s), reads", reading.rate.threads),
    }
}

fn text(d: &Decided, reading: Result<&Reading, &DriverError>, args: &Args) -> String {
    let plan = &d.plan;
    let mut text = format!("{} ({}) for {}\n\n", plan.model.name, plan.model.arch, d.target);
    for c in d.choices.iter().filter(|c| !c.what.contains(' ')) {
        let _ = writeln!(text, "{}: {} - {}", c.what, plain(&c.choice), plain(&c.why));
    }
    text += "\npasses (rewrites)\n";
    for (name, rewrites, why) in d.of_kind("pass") {
        let _ = writeln!(text, "  {name:<20} {rewrites:>5}  {why}");
    }
    let kernels: HashMap<&str, &Choice> =
        d.choices.iter().filter_map(|c| Some((c.what.strip_prefix("kernel ")?, c))).collect();
    for program in &plan.programs {
        let _ = writeln!(text, "\nkernels of the program for up to {} token(s)", program.max_tokens);
        for (name, row) in kernel_rows(plan, &d.graph, program) {
            let what = row.what.keys().cloned().collect::<Vec<_>>().join(", ");
            let types = row.types.keys().cloned().collect::<Vec<_>>().join(", ");
            let _ =
                writeln!(text, "  {name:<16} {:>3} calls {:>9}  {what}  {types}", row.calls, system::human(row.bytes));
            if let Some(c) = kernels.get(name.as_str()) {
                let _ = writeln!(text, "  {:37} {} - {}", "", plain(&c.choice), reason(&c.why));
            }
        }
    }
    if args.weights {
        text += "\nweights\n";
        for (name, format, why) in d.of_kind("weight") {
            let _ = writeln!(text, "  {name:<32} {format}; {why}");
        }
    }
    let _ = writeln!(
        text,
        "\na token reads {} of packed weights and multiplies {:.1} M times",
        system::human(plan.model.bytes_per_token),
        plan.model.macs_per_token as f64 / 1e6,
    );
    let _ = match reading {
        Ok(reading) => {
            let (rate, floor) = (&reading.rate, plan.model.bytes_per_token as f64 / reading.rate.best);
            writeln!(
                text,
                "{} that many bytes at {:.1} GB/s (median {:.1}, spread {:.1})\n\
                 so a token takes at least {:.2} ms: at most {:.1} tok/s",
                machine(reading),
                rate.best / 1e9,
                rate.median / 1e9,
                rate.mad / 1e9,
                floor * 1e3,
                1.0 / floor
            )
        }
        Err(e) => writeln!(text, "how fast {} can be is not measured: {e}", d.target),
    };
    text
}

fn object(d: &Decided, reading: Option<&Reading>) -> Value {
    let plan = &d.plan;
    let programs = plan.programs.iter().map(|p| {
        let rows = kernel_rows(plan, &d.graph, p).into_iter().map(|(name, r)| {
            json!({ "kernel": name, "calls": r.calls, "what": r.what, "weights": r.types, "weight_bytes": r.bytes })
        });
        json!({ "max_tokens": p.max_tokens, "kernels": rows.collect::<Vec<_>>() })
    });
    let (rate, gpu) = (reading.map(|r| &r.rate), reading.and_then(|r| r.gpu.as_ref()));
    let bytes = plan.model.bytes_per_token as f64;
    json!({
        "target": d.target, "choices": d.choices, "programs": programs.collect::<Vec<_>>(),
        "bytes_per_token": plan.model.bytes_per_token, "macs_per_token": plan.model.macs_per_token,
        "gpu": gpu.map(|g| g.name.as_str()), "bandwidth": rate.map(|r| r.best),
        "bandwidth_median": rate.map(|r| r.median), "bandwidth_mad": rate.map(|r| r.mad), "threads": rate.map(|r| r.threads),
        "floor_ms": rate.map(|r| bytes / r.best * 1e3), "ceiling_tps": rate.map(|r| r.best / bytes),
    })
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let decided = Decided::of(args.model.path()?, &args.compile, None)?;
    let threads = args.threads.map_or_else(system::cores, usize::from);
    // Without the GPU in question all but its speed can be explained.
    let reading = match reading(&Target::get(&decided.target)?, threads, decided.plan.model.bytes_per_token) {
        Err(e) if !matches!(e, DriverError::Gpu(_)) => return Err(e.into()),
        reading => reading,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        if let Err(e) = &reading {
            eprintln!("warning: how fast {} can be is not measured: {e}", decided.target);
        }
        writeln!(out, "{}", object(&decided, reading.as_ref().ok()))?;
    } else {
        out.write_all(text(&decided, reading.as_ref(), &args).as_bytes())?;
    }
    Ok(())
}
