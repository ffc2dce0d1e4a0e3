//! `bench`: tokens a second, with llama-bench's rows and field names.

use crate::args::{CompileArgs, ModelArgs, OpenArgs};
use crate::exit::usage;
use crate::{open, profile, system};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tilewright_autotune::stats;
use tilewright_codegen::target::Target;
use tilewright_driver::reach::{Reading, reach, reading};
use tilewright_runtime::artifact::Artifact;
use tilewright_runtime::sampler::Rng;
use tilewright_runtime::session::{CallTime, Logits, Session, SessionOptions};

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Md,
    Json,
    Jsonl,
    Csv,
}

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Threads [default: as many as there are cores for this process]
    #[arg(short, long, value_name = "N,..", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Prompt lengths; 0 leaves the row out
    #[arg(short = 'p', long, value_name = "N,..", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Tokens to generate; 0 leaves the row out
    #[arg(short = 'n', long, value_name = "N,..", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Tokens in the cache beforehand
    #[arg(short = 'd', long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Repetitions
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "md")]
    output: Format,
    /// Also each kernel's time and share of the bandwidth, and on stderr the time of each kind of call; costs a little speed, on
    /// a GPU, where every call then runs alone, a lot
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

/// One row to measure.
struct Test {
    prompt: u32,
    gen_: u32,
    depth: u32,
    threads: usize,
}

/// Nanoseconds of each repetition, and of each generated token of all of them in order.
#[derive(Default)]
struct Samples {
    whole: Vec<u64>,
    tokens: Vec<u64>,
    calls: Vec<CallTime>,
}

fn measure(artifact: &Arc<Artifact>, test: &Test, args: &Args) -> anyhow::Result<(usize, Samples)> {
    let total = test.prompt + test.gen_ + test.depth;
    let options = SessionOptions { ctx: Some(total), threads: Some(test.threads), profile: args.profile };
    let mut session = Session::new(artifact.clone(), options)?;
    open::say(&session);
    let vocab = u64::from(artifact.plan().model.vocab);
    let mut rng = Rng::new(0);
    let mut random = |n: u32| -> Vec<u32> { (0..n).map(|_| (rng.next_u64() % vocab) as u32).collect() };
    // Warm-up, as llama-bench: the whole prompt, one generated token.
    if test.prompt > 0 {
        session.eval(&random(test.prompt), Logits::Last)?;
    }
    if test.gen_ > 0 {
        session.reset();
        session.eval(&random(1), Logits::Last)?;
    }
    let mut samples = Samples::default();
    for _ in 0..args.repetitions {
        session.reset();
        session.eval(&random(test.depth), Logits::None)?;
        let (prompt, generated) = (random(test.prompt), random(test.gen_));
        let start = Instant::now();
        if !prompt.is_empty() {
            session.eval(&prompt, Logits::Last)?;
        }
        let mut before = start.elapsed();
        for id in generated {
            session.eval(&[id], Logits::Last)?;
            let now = start.elapsed();
            samples.tokens.push((now - before).as_nanos() as u64);
            before = now;
        }
        samples.whole.push(start.elapsed().as_nanos() as u64);
    }
    if args.profile {
        samples.calls = session.profile();
        profile::print(&samples.calls);
    }
    Ok((session.threads(), samples))
}

fn row(
    artifact: &Artifact,
    file: &str,
    test: &Test,
    threads: usize,
    samples: &Samples,
    reading: &Reading,
) -> Map<String, Value> {
    let model = &artifact.plan().model;
    let tokens = f64::from(test.prompt + test.gen_);
    let ns: Vec<f64> = samples.whole.iter().map(|&n| n as f64).collect();
    let ts: Vec<f64> = ns.iter().map(|n| 1e9 * tokens / n).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Only the weights: what a context adds depends on its length.
    let share = model.bytes_per_token as f64 * stats::mean(&ts) / reading.rate.best;
    let share = if test.gen_ > 0 { Some(share) } else { None };
    let gpu = reading.gpu.as_ref();
    let mut value = json!({
        "build_commit": concat!("tilewright ", env!("CARGO_PKG_VERSION")), "build_number": 0,
        "cpu_info": system::cpu_name(), "gpu_info": gpu.map_or("", |g| &g.name), "backends": if gpu.is_some() { "CUDA" } else { "CPU" },
        "target": artifact.manifest().info.target.name,
        "model_filename": file, "model_type": format!("{} {}", model.arch, model.name),
        "model_size": model.file_bytes, "model_n_params": model.parameters, "n_threads": threads,
        "type_k": "f16", "type_v": "f16", "n_prompt": test.prompt, "n_gen": test.gen_, "n_depth": test.depth,
        "test_time": now, "avg_ns": stats::mean(&ns) as u64, "stddev_ns": stats::stddev(&ns) as u64,
        "avg_ts": stats::mean(&ts), "stddev_ts": stats::stddev(&ts), "samples_ns": samples.whole, "samples_ts": ts,
        "samples_token_ns": samples.tokens,
        "bandwidth": reading.rate.best, "bytes_per_token": model.bytes_per_token, "bandwidth_share": share,
    });
    if !samples.calls.is_empty() {
        let reached = reach(artifact, &samples.calls, reading.rate.best);
        profile::print_reach(&reached);
        let kernels = reached.into_iter().map(|r| {
            json!({ "max_tokens": r.max_tokens, "kernel": r.kernel, "calls": r.calls, "ns": r.ns, "bytes": r.bytes,
                    "bandwidth_share": r.share })
        });
        value["kernels"] = kernels.collect();
    }
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn print(rows: &[Map<String, Value>], format: Format) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(rows)?)?,
        Format::Jsonl => rows.iter().try_for_each(|r| writeln!(out, "{}", Value::Object(r.clone())))?,
        Format::Csv => {
            let keep = |k: &&String| !k.starts_with("samples") && *k != "kernels";
            if let Some(first) = rows.first() {
                writeln!(out, "{}", first.keys().filter(keep).cloned().collect::<Vec<_>>().join(","))?;
            }
            for r in rows {
                let quoted =
                    r.iter().filter(|(k, _)| keep(k)).map(|(_, v)| format!("\"{}\"", text(v).replace('"', "\"\"")));
                writeln!(out, "{}", quoted.collect::<Vec<_>>().join(","))?;
            }
        }
        Format::Md => {
            writeln!(out, "| model | size | params | backend | threads | test | t/s | bandwidth |")?;
            writeln!(out, "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")?;
            for r in rows {
                let n = |key: &str| r[key].as_f64().unwrap_or(0.0);
                let kind =
                    if n("n_prompt") > 0.0 { format!("pp{}", r["n_prompt"]) } else { format!("tg{}", r["n_gen"]) };
                let depth = if n("n_depth") > 0.0 { format!(" @ d{}", r["n_depth"]) } else { String::new() };
                let share = r["bandwidth_share"].as_f64().map_or("-".into(), |s| format!("{:.0} %", 100.0 * s));
                writeln!(
                    out,
                    "| {} | {:.2} MiB | {:.2} M | {} | {} | {kind}{depth} | {:.2} ± {:.2} | {share} |",
                    text(&r["model_type"]),
                    n("model_size") / f64::from(1 << 20),
                    n("model_n_params") / 1e6,
                    text(&r["backends"]),
                    r["n_threads"],
                    n("avg_ts"),
                    n("stddev_ts")
                )?;
            }
        }
    }
    Ok(())
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let threads = if args.threads.is_empty() { vec![system::cores()] } else { args.threads.clone() };
    let kinds: Vec<(u32, u32)> = args
        .n_prompt
        .iter()
        .map(|&p| (p, 0))
        .chain(args.n_gen.iter().map(|&n| (0, n)))
        .filter(|&k| k != (0, 0))
        .collect();
    if kinds.is_empty() || threads.contains(&0) {
        return Err(usage("nothing to measure: -p or -n, and -t, must be above 0"));
    }
    let artifact = open::artifact(&args.model, &args.compile, args.open.options())?;
    let file = args.model.path()?.display().to_string();
    let mut rows = vec![];
    let target = Target::get(&artifact.manifest().info.target.name)?;
    for &threads in &threads {
        let reading = reading(&target, threads, artifact.plan().model.bytes_per_token)?;
        for &depth in &args.n_depth {
            for &(prompt, gen_) in &kinds {
                let test = Test { prompt, gen_, depth, threads };
                let (threads, samples) = measure(&artifact, &test, &args)?;
                rows.push(row(&artifact, &file, &test, threads, &samples, &reading));
            }
        }
    }
    print(&rows, args.output)
}
