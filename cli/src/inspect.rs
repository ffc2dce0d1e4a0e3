//! `inspect`: what a model file or an artifact holds. Reads only; nothing is put into the cache.

use crate::args::{CompileArgs, ModelArgs};
use crate::dot::dot;
use crate::exit::usage;
use crate::open::{self, is_artifact};
use crate::system::human;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tilewright_driver::{Compiled, compile};
use tilewright_ir::graph::{Dim, Graph, Weight};
use tilewright_models::format::FormatSet;
use tilewright_models::model::Model;
use tilewright_runtime::artifact::{Artifact, OpenOptions};
use tilewright_runtime::plan::Plan;

#[derive(Clone, Copy, ValueEnum)]
enum Emit {
    /// Graphviz, of the fused graph
    Dot,
}

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The graph after all passes
    #[arg(long)]
    graph: bool,
    /// The plan: every kernel call with its arguments
    #[arg(long)]
    plan: bool,
    /// Kernel IR of every distinct kernel
    #[arg(long)]
    kernels: bool,
    /// Every weight with its format, shape and bytes
    #[arg(long)]
    tensors: bool,
    /// The graph in another language
    #[arg(long, value_enum)]
    emit: Option<Emit>,
    /// The graph after each pass (`all`) or after one (`after:PASS`)
    #[arg(long, value_name = "WHEN")]
    dump_ir: Option<String>,
    #[command(flatten)]
    compile: CompileArgs,
    /// The summary, or the tensors or the plan asked for, as one object
    #[arg(long)]
    json: bool,
}

impl Args {
    fn needs_compiler(&self) -> bool {
        self.graph || self.plan || self.kernels || self.emit.is_some() || self.dump_ir.is_some()
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let path = args.model.path()?;
    if is_artifact(path) { artifact(path, &args) } else { model(path, &args) }
}

fn out(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_ref().as_bytes())?;
    if !text.as_ref().ends_with('\n') {
        writeln!(stdout)?;
    }
    Ok(())
}

fn print_plan(plan: &Plan, json: bool) -> anyhow::Result<()> {
    if json {
        return out(serde_json::to_string(plan)?);
    }
    let mut text = String::new();
    for p in &plan.programs {
        let (tokens, calls, arena) = (p.max_tokens, p.calls.len(), human(p.arena_bytes));
        text += &format!("program for up to {tokens} token(s): {calls} calls, head from {}, arena {arena}\n", p.head_start);
        for (i, c) in p.calls.iter().enumerate() {
            let kernel = plan.kernels.get(c.kernel as usize).map_or("?", String::as_str);
            text += &format!("  {i:>4} {kernel:<24} {:>5} chunks  {:<36} {:?} {:?}\n", c.chunks, c.label, c.args, c.scalars);
        }
    }
    out(text)
}

// --- artifacts

fn artifact(path: &Path, args: &Args) -> anyhow::Result<()> {
    if args.kernels || args.dump_ir.is_some() || args.emit.is_some() {
        return Err(usage("an artifact holds machine code and no kernel IR or passes; give the model it was built from"));
    }
    let artifact = Artifact::open_with(path, OpenOptions { verify_weights: true, threads: None })?;
    let (manifest, plan) = (artifact.manifest(), artifact.plan());
    if args.graph {
        return out(artifact.graph().unwrap_or("the artifact has no graph"));
    }
    if args.plan {
        return print_plan(plan, args.json);
    }
    if args.tensors {
        let rows: Vec<_> = manifest.info.choices.iter().filter(|c| c.what.starts_with("weight ")).collect();
        if args.json {
            return out(serde_json::to_string(&rows)?);
        }
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
        return out(rows.iter().map(|c| format!("{:<40} {}; {}\n", c.what, text(&c.choice), text(&c.why))).collect::<String>());
    }
    let kv: u64 = plan.kv.iter().map(|l| u64::from(l.heads) * u64::from(l.head_dim) * 4).sum();
    if args.json {
        return out(json!({
            "kind": "artifact", "schema": manifest.schema, "digest": manifest.digest, "compiler": manifest.info.compiler,
            "source": manifest.info.model, "target": manifest.info.target, "tokenizer": manifest.info.tokenizer,
            "model": plan.model, "kernels": plan.kernels.len(), "kv_bytes_per_token": kv,
            "calls": plan.programs.iter().map(|p| (p.max_tokens, p.calls.len())).collect::<Vec<_>>(),
            "files": manifest.files.iter().map(|(n, f)| (n.clone(), f.bytes.into())).collect::<serde_json::Map<_, _>>(),
        })
        .to_string());
    }
    let m = &plan.model;
    let mut text = format!("artifact      {}\n", path.display());
    text += &format!("made by       {} (format {}), digest {}\n", manifest.info.compiler, manifest.schema, &manifest.digest[..16]);
    for f in &manifest.info.model.files {
        text += &format!("from          {} ({}), {}\n", f.name, human(f.bytes), f.fingerprint);
    }
    text += &format!("target        {}: {}\n", manifest.info.target.name, manifest.info.target.features.join(" "));
    text += &format!("model         {} ({}), {:.1} M parameters, vocabulary {}\n", m.name, m.arch, m.parameters as f64 / 1e6, m.vocab);
    text += &format!("context       {}; {} of KV cache a token\n", m.n_ctx, human(kv));
    text += &format!("a token reads {} of weights\n", human(m.bytes_per_token));
    for p in &plan.programs {
        text += &format!("program       up to {} token(s): {} calls, arena {}\n", p.max_tokens, p.calls.len(), human(p.arena_bytes));
    }
    text += &format!("kernels       {}\n", plan.kernels.len());
    text += &format!("chat template {}\n", if artifact.chat_template().is_some() { "yes" } else { "no" });
    for (name, f) in &manifest.files {
        text += &format!("file          {name:<22} {:>10}\n", human(f.bytes));
    }
    out(text)
}

// --- model files

fn model(path: &Path, args: &Args) -> anyhow::Result<()> {
    let model = open::model(path)?;
    if args.tensors {
        return tensors(&model.graph()?, args.json);
    }
    if args.needs_compiler() {
        let mut options = args.compile.options()?;
        options.dump = args.dump_ir.clone();
        return compiled(&compile(&model, &options, &mut |_| {})?, args);
    }
    summary(path, &model, args.json)
}

fn compiled(compiled: &Compiled, args: &Args) -> anyhow::Result<()> {
    for (pass, text) in &compiled.passes.dumps {
        out(format!("// after {pass}\n{text}\n"))?;
    }
    if args.graph {
        out(compiled.graph.to_string())?;
    }
    if args.emit.is_some() {
        out(dot(&compiled.graph))?;
    }
    if args.kernels {
        for kernel in &compiled.kernels {
            out(tilewright_ir::kernel::print(kernel))?;
        }
    }
    if args.plan {
        print_plan(&compiled.plan, args.json)?;
    }
    Ok(())
}

fn weights(graph: &Graph) -> Vec<&Weight> {
    graph.order().iter().filter_map(|&n| graph.weight_of(n)).collect()
}

fn elements(w: &Weight) -> u64 {
    w.ty.shape.iter().map(|d| if let Dim::N(n) = d { *n } else { 1 }).product()
}

fn bytes(w: &Weight) -> u64 {
    let format = FormatSet::builtin().get(w.format());
    format.map_or(0, |f| elements(w) / f.block.max(1) as u64 * f.bytes as u64)
}

fn tensors(graph: &Graph, json: bool) -> anyhow::Result<()> {
    let weights = weights(graph);
    if json {
        let rows = weights.iter().map(|w| {
            let shape: Vec<u64> = w.ty.shape.iter().map(|d| if let Dim::N(n) = d { *n } else { 0 }).collect();
            let from: Vec<&str> = w.parts.iter().map(|p| p.tensor.as_str()).collect();
            json!({ "name": w.name, "format": w.format(), "shape": shape, "bytes": bytes(w), "tensors": from })
        });
        return out(Value::Array(rows.collect()).to_string());
    }
    let line = |w: &&Weight| {
        let from: Vec<&str> = w.parts.iter().map(|p| p.tensor.as_str()).filter(|t| *t != w.name).collect();
        let from = if from.is_empty() { String::new() } else { format!("  from {}", from.join(", ")) };
        format!("{:<32} {:<24} {:>10}{from}\n", w.name, w.ty.to_string(), human(bytes(w)))
    };
    out(weights.iter().map(line).collect::<String>())
}

fn summary(path: &Path, model: &Model, json: bool) -> anyhow::Result<()> {
    let (facts, tokenizer) = (model.facts(), model.tokenizer());
    // A model whose graph cannot be made still has facts worth showing; the reason is part of the answer.
    let graph = model.graph();
    let mut formats: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for w in graph.iter().flat_map(weights) {
        let entry = formats.entry(w.format().to_string()).or_default();
        *entry = (entry.0 + 1, entry.1 + elements(w), entry.2 + bytes(w));
    }
    let problem = graph.as_ref().err().map(ToString::to_string);
    if json {
        let formats: serde_json::Map<_, _> = formats
            .into_iter()
            .map(|(name, (n, elements, bytes))| (name, json!({ "weights": n, "elements": elements, "bytes": bytes })))
            .collect();
        return out(json!({
            "kind": "model", "name": facts.name, "arch": facts.arch, "vocab": facts.vocab, "n_ctx": facts.n_ctx,
            "parameters": facts.parameters, "file_bytes": facts.file_bytes, "formats": formats,
            "tokenizer": { "bos": tokenizer.bos, "eos": tokenizer.eos, "add_bos": tokenizer.add_bos, "add_eos": tokenizer.add_eos },
            "chat_template": tokenizer.chat_template.is_some(), "unsupported": problem,
        })
        .to_string());
    }
    let mut text = format!("model         {}\n", path.display());
    text += &format!("name          {} ({})\n", facts.name, facts.arch);
    text += &format!("size          {:.1} M parameters, {}\n", facts.parameters as f64 / 1e6, human(facts.file_bytes));
    text += &format!("context       {}, vocabulary {}\n", facts.n_ctx, facts.vocab);
    for (name, (n, elements, bytes)) in &formats {
        text += &format!("format        {name:<8} {n:>4} weights  {:>8.1} M elements  {:>10}\n", *elements as f64 / 1e6, human(*bytes));
    }
    text += &format!("tokenizer     bos {:?}{}, ends {:?}\n", tokenizer.bos, if tokenizer.add_bos { " (added)" } else { "" }, tokenizer.eos);
    text += &format!("chat template {}\n", if tokenizer.chat_template.is_some() { "yes" } else { "no" });
    text += &format!("compiles      {}\n", problem.map_or("yes".into(), |p| format!("no: {p}")));
    out(text)
}
