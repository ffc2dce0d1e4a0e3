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
use tilewright_models::arch::ArchSet;
use tilewright_models::model::Model;
use tilewright_models::weights::{TensorInfo, WeightFile};
use tilewright_runtime::artifact::{Artifact, HugePages, OpenOptions};
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
        text +=
            &format!("program for up to {tokens} token(s): {calls} calls, head from {}, arena {arena}\n", p.head_start);
        for (i, c) in p.calls.iter().enumerate() {
            let kernel = plan.kernels.get(c.kernel as usize).map_or("?", String::as_str);
            text += &format!(
                "  {i:>4} {kernel:<24} {:>5} chunks  {:<36} {:?} {:?}\n",
                c.chunks, c.label, c.args, c.scalars
            );
        }
    }
    out(text)
}

// --- artifacts

fn artifact(path: &Path, args: &Args) -> anyhow::Result<()> {
    if args.kernels || args.dump_ir.is_some() || args.emit.is_some() {
        return Err(usage(
            "an artifact holds machine code and no kernel IR or passes; give the model it was built from",
        ));
    }
    let artifact =
        Artifact::open_with(path, OpenOptions { verify_weights: true, threads: None, huge_pages: HugePages::Off })?;
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
        return out(rows
            .iter()
            .map(|c| format!("{:<40} {}; {}\n", c.what, text(&c.choice), text(&c.why)))
            .collect::<String>());
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
    text += &format!(
        "made by       {} (format {}), digest {}\n",
        manifest.info.compiler,
        manifest.schema,
        &manifest.digest[..16]
    );
    for f in &manifest.info.model.files {
        text += &format!("from          {} ({}), {}\n", f.name, human(f.bytes), f.fingerprint);
    }
    text += &format!("target        {}: {}\n", manifest.info.target.name, manifest.info.target.features.join(" "));
    text += &format!(
        "model         {} ({}), {:.1} M parameters, vocabulary {}\n",
        m.name,
        m.arch,
        m.parameters as f64 / 1e6,
        m.vocab
    );
    text += &format!("context       {}; {} of KV cache a token\n", m.n_ctx, human(kv));
    text += &format!("a token reads {} of weights\n", human(m.bytes_per_token));
    for p in &plan.programs {
        text += &format!(
            "program       up to {} token(s): {} calls, arena {}\n",
            p.max_tokens,
            p.calls.len(),
            human(p.arena_bytes)
        );
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
    if args.needs_compiler() {
        let mut options = args.compile.options()?;
        options.dump = args.dump_ir.clone();
        return compiled(&compile(&Model::open(path)?, &options, &mut |_| {})?, args);
    }
    let weights = WeightFile::open(path)?;
    if args.tensors { tensors(&weights, args.json) } else { summary(path, weights, args.json) }
}

fn compiled(compiled: &Compiled, args: &Args) -> anyhow::Result<()> {
    for (pass, text) in &compiled.passes.dumps {
        out(format!("// after {pass}\n{text}\n"))?;
    }
    if args.graph {
        compiled.graphs.iter().try_for_each(|g| out(g.to_string()))?;
    }
    if args.emit.is_some() {
        compiled.graphs.iter().try_for_each(|g| out(dot(g)))?;
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

fn bytes(weights: &WeightFile, t: &TensorInfo) -> u64 {
    weights.data(&t.name).map_or(0, |d| d.len() as u64)
}

fn tensors(weights: &WeightFile, json: bool) -> anyhow::Result<()> {
    if json {
        let rows = weights.tensors().map(|t| {
            json!({ "name": t.name, "format": t.format.name(), "shape": t.shape, "bytes": bytes(weights, t), "supported": t.format.block().is_some() })
        });
        return out(Value::Array(rows.collect()).to_string());
    }
    let line = |t: &TensorInfo| {
        let shape = t.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        format!("{:<32} {:<8} [{shape:<14}] {:>10}\n", t.name, t.format.to_string(), human(bytes(weights, t)))
    };
    out(weights.tensors().map(line).collect::<String>())
}

/// Formats first, so that a model that cannot be compiled is described all the same, with the reason.
fn summary(path: &Path, weights: WeightFile, json: bool) -> anyhow::Result<()> {
    let mut formats: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for t in weights.tensors() {
        let entry = formats.entry(t.format.to_string()).or_default();
        let elements: u64 = t.shape.iter().fold(1, |a, &b| a.saturating_mul(b));
        *entry = (entry.0 + 1, entry.1.saturating_add(elements), entry.2 + bytes(&weights, t));
    }
    let mut rows = vec![];
    let mut text = format!("model         {}\n", path.display());
    for (name, (n, elements, bytes)) in formats {
        text += &format!(
            "format        {name:<8} {n:>4} tensors  {:>8.1} M elements  {:>10}\n",
            elements as f64 / 1e6,
            human(bytes)
        );
        rows.push(json!({ "format": name, "tensors": n, "elements": elements, "bytes": bytes }));
    }
    let described =
        Model::from_weights(weights, ArchSet::builtin()).map_err(anyhow::Error::from).and_then(|m| describe(&m));
    let (lines, mut object) = match &described {
        Ok((lines, object)) => (lines.clone(), object.clone()),
        Err(e) => (format!("compiles      no: {e:#}\n"), json!({ "compiles": false, "why": format!("{e:#}") })),
    };
    object["kind"] = "model".into();
    object["formats"] = rows.into();
    out(if json { object.to_string() } else { text + &lines })?;
    described.map(|_| ())
}

fn describe(model: &Model) -> anyhow::Result<(String, Value)> {
    let (h, tokenizer) = (model.hyper(), open::tokenizer(model)?);
    let (name, arch) = (model.name(), model.arch().name());
    model.graph()?;
    let kv = h.n_layers * h.kv_heads * h.head_dim * 4;
    let bos = tokenizer.bos.map_or("none".into(), |id| id.to_string());
    let added = if tokenizer.add_bos { "added" } else { "not added" };
    let template = if tokenizer.chat_template.is_some() { "yes" } else { "no" };
    let text = format!(
        "name          {name} ({arch})\n\
         size          {:.1} M parameters, {} of tensors\n\
         shape         {} layers of {}, {} heads, {} KV heads of {}, feed-forward {}\n\
         context       {}; {} of KV cache a token\n\
         vocabulary    {}; bos {bos} ({added}), ends {:?}\n\
         chat template {template}\n\
         compiles      yes\n",
        h.parameters as f64 / 1e6,
        human(h.file_bytes),
        h.n_layers,
        h.d_model,
        h.heads,
        h.kv_heads,
        h.head_dim,
        h.d_ff,
        h.n_ctx,
        human(kv),
        h.vocab,
        tokenizer.eos,
    );
    let object = json!({
        "name": name, "arch": arch, "parameters": h.parameters, "file_bytes": h.file_bytes, "n_layers": h.n_layers,
        "d_model": h.d_model, "d_ff": h.d_ff, "heads": h.heads, "kv_heads": h.kv_heads, "head_dim": h.head_dim,
        "n_ctx": h.n_ctx, "vocab": h.vocab, "kv_bytes_per_token": kv, "chat_template": tokenizer.chat_template.is_some(),
        "tokenizer": { "bos": tokenizer.bos, "eos": tokenizer.eos, "add_bos": tokenizer.add_bos, "add_eos": tokenizer.add_eos },
        "compiles": true,
    });
    Ok((text, object))
}
