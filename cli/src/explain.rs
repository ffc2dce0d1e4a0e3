//! `explain`: what the compiler chose and why, and the bytes a token costs against what this machine can read.

use crate::args::{CompileArgs, ModelArgs};
use crate::{open, system};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write;
use tilewright_autotune::bandwidth;
use tilewright_driver::compile;
use tilewright_models::model::Model;
use tilewright_runtime::artifact::{Artifact, Choice, OpenOptions};
use tilewright_runtime::plan::Plan;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Threads of the bandwidth measurement [default: as many as there are cores for this process]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Also every weight
    #[arg(long)]
    weights: bool,
    #[command(flatten)]
    compile: CompileArgs,
    /// One object
    #[arg(long)]
    json: bool,
}

/// Most bytes to measure bandwidth with; beyond, it no longer changes.
const MOST: u64 = 1 << 30;

/// Choices and plan: from the artifact's manifest, or by compiling all but the weights.
fn choices(args: &Args) -> anyhow::Result<(String, Vec<Choice>, Plan)> {
    let path = args.model.path()?;
    if open::is_artifact(path) {
        let artifact = Artifact::open_with(path, OpenOptions { verify_weights: false, threads: None })?;
        let info = &artifact.manifest().info;
        return Ok((info.target.name.clone(), info.choices.clone(), artifact.plan().clone()));
    }
    let options = args.compile.options()?;
    let compiled = compile(&Model::open(path)?, &options, &mut |_| {})?;
    Ok((options.target.name, compiled.choices, compiled.plan))
}

fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Object(m) if m.is_empty() => "no parameters".into(),
        Value::Object(m) => m.iter().map(|(k, v)| format!("{k}={}", plain(v))).collect::<Vec<_>>().join(" "),
        v => v.to_string(),
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let (target, choices, plan) = choices(&args)?;
    let threads = args.threads.map_or_else(system::cores, usize::from);
    let bytes = plan.model.bytes_per_token;
    let rate = bandwidth::measure(threads, bytes.clamp(1 << 20, MOST) as usize);
    let floor = bytes as f64 / rate.median;
    // How often one token's program calls each kernel.
    let mut calls = vec![0u32; plan.kernels.len()];
    for program in &plan.programs {
        for call in &program.calls {
            if let Some(n) = calls.get_mut(call.kernel as usize) {
                *n += 1;
            }
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let kernels: serde_json::Map<_, _> = plan.kernels.iter().cloned().zip(calls.into_iter().map(Value::from)).collect();
        let object = json!({
            "target": target, "choices": choices, "calls": kernels, "bytes_per_token": bytes,
            "macs_per_token": plan.model.macs_per_token, "bandwidth": rate.median, "bandwidth_mad": rate.mad,
            "threads": threads, "floor_ms": floor * 1e3, "ceiling_tps": 1.0 / floor,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let mut text = format!("{} ({}) for {target}\n\n", plan.model.name, plan.model.arch);
    let of = |kind: &'static str| {
        choices.iter().filter_map(move |c| Some((c.what.strip_prefix(kind)?.strip_prefix(' ')?, plain(&c.choice), plain(&c.why))))
    };
    for c in choices.iter().filter(|c| !c.what.contains(' ')) {
        let _ = writeln!(text, "{}: {} - {}", c.what, plain(&c.choice), plain(&c.why));
    }
    text += "\npasses (rewrites)\n";
    for (name, rewrites, why) in of("pass") {
        let _ = writeln!(text, "  {name:<22} {rewrites:>5}  {why}");
    }
    text += "\nkernels (calls in all programs)\n";
    for (name, params, why) in of("kernel") {
        let n = plan.kernels.iter().position(|k| k == name).map_or(0, |i| calls[i]);
        let _ = writeln!(text, "  {name:<22} {n:>5}  {params}\n{:30} {why}", "");
    }
    if args.weights {
        text += "\nweights\n";
        for (name, format, why) in of("weight") {
            let _ = writeln!(text, "  {name:<32} {format}; {why}");
        }
    }
    let _ = writeln!(
        text,
        "\na token reads {} of weights and multiplies {:.1} M times\n\
         this machine reads {:.1} GB/s (+- {:.1}) with {threads} thread(s)\n\
         so a token takes at least {:.2} ms: at most {:.1} tok/s",
        system::human(bytes),
        plan.model.macs_per_token as f64 / 1e6,
        rate.median / 1e9,
        rate.mad / 1e9,
        floor * 1e3,
        1.0 / floor
    );
    Ok(out.write_all(text.as_bytes())?)
}
