//! `build`: a model into an artifact.

use crate::args::{CompileArgs, ModelArgs};
use crate::exit::usage;
use crate::open;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compile: CompileArgs,
    /// Folder of the artifact [default: in the cache, where `run` finds it]
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Longest context to compile for; models with rotary tables for long contexts (phi3) choose by it [default: the model's]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx_size: Option<u32>,
    /// One object on stdout instead of the path
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let path = args.model.path()?;
    if open::is_artifact(path) {
        return Err(usage(format!("{} is an artifact already; give the model it was built from", path.display())));
    }
    let mut options = args.compile.options()?;
    options.ctx = args.ctx_size;
    let options = open::tuned(path, &options)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => args.compile.cache()?.path(path, &options)?,
    };
    let report = open::build_to(path, &out, &options)?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let passes: serde_json::Map<_, _> =
            report.passes.rows.iter().map(|p| (p.name.to_string(), p.rewrites.into())).collect();
        let object = json!({
            "artifact": out, "digest": report.digest, "target": options.target.name, "kernels": report.kernels,
            "object_bytes": report.object_bytes, "weights_bytes": report.weights_bytes, "rewrites": passes,
        });
        writeln!(stdout, "{object}")?;
    } else {
        writeln!(stdout, "{}", out.display())?;
    }
    Ok(())
}
