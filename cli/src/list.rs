//! `list`: what is declared.

use clap::ValueEnum;
use serde_json::{Value, json};
use std::io::Write;
use tilewright_codegen::pack::Layout;
use tilewright_codegen::target::Target;
use tilewright_models::arch::ArchSet;
use tilewright_models::format::FormatSet;
use tilewright_passes::PIPELINE;

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Model families
    Archs,
    /// Block formats of weights
    Formats,
    /// Machines to compile for
    Targets,
    /// Passes in their order; those that --no-fuse can switch off
    Passes,
}

#[derive(clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    what: What,
    /// One array of objects
    #[arg(long)]
    json: bool,
}

fn rows(what: What) -> Vec<Value> {
    match what {
        What::Archs => ArchSet::builtin()
            .iter()
            .map(|a| json!({ "name": a.name(), "gguf": a.gguf(), "hf": a.hf(), "about": a.about() }))
            .collect(),
        What::Formats => FormatSet::builtin()
            .iter()
            .map(|f| {
                let int8 = Layout::of(f).is_ok_and(|l| l.takes_q8());
                let bits = (f.bits_per_weight() * 1e3).round() / 1e3;
                json!({ "name": f.name, "ggml_type": f.ggml_type, "block": f.block, "bytes": f.bytes, "bits": bits, "int8_activations": int8 })
            })
            .collect(),
        What::Targets => Target::all()
            .iter()
            .map(|t| {
                let missing = t.features_missing_on_host();
                // A CPU has vectors; of a GPU its kind and the shared memory of a block matter. What lacks is null.
                let (gpu, bits) = (t.gpu(), Some(t.vector_bits).filter(|bits| *bits > 0));
                json!({ "name": t.name, "triple": t.triple, "vector_bits": bits, "sm": gpu.map(|g| g.sm),
                        "shared_memory": gpu.map(|g| g.block_shared_bytes), "features": t.features, "missing_here": missing })
            })
            .collect(),
        What::Passes => PIPELINE
            .iter()
            .map(|p| json!({ "name": p.pass.name(), "switchable": p.switchable, "doc": p.pass.doc() }))
            .collect(),
    }
}

fn plain(v: &Value) -> String {
    match v {
        Value::Null => "-".into(),
        Value::Bool(b) => (if *b { "yes" } else { "no" }).into(),
        Value::String(s) => s.clone(),
        Value::Array(a) if a.is_empty() => "-".into(),
        Value::Array(a) => a.iter().map(plain).collect::<Vec<_>>().join(" "),
        v => v.to_string(),
    }
}

/// Columns as wide as their widest cell; the last one as it is.
pub fn table(rows: &[Value]) -> String {
    let Some(Value::Object(first)) = rows.first() else { return String::new() };
    let keys: Vec<&String> = first.keys().collect();
    let mut lines: Vec<Vec<String>> = vec![keys.iter().map(|k| k.replace('_', " ")).collect()];
    lines.extend(rows.iter().map(|r| keys.iter().map(|k| plain(&r[k.as_str()])).collect()));
    let widths: Vec<usize> =
        (0..keys.len()).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    let line = |l: &Vec<String>| {
        let cells = l.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let rows = rows(args.what);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Value::Array(rows))?
    } else {
        out.write_all(table(&rows).as_bytes())?
    }
    Ok(())
}
