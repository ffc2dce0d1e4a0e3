//! `report`: one HTML file with all that is known of a compiled model. It needs no network and no other file.
//!
//! | file | what |
//! |---|---|
//! | `facts.rs` | what is said, as plain data |
//! | `page.rs` | the page and its head |
//! | `steps.rs`, `roofline.rs`, `table.rs`, `history.rs`, `graph.rs` | its sections |
//! | `fold.rs`, `layout.rs` | equal layers of a graph are one; boxes in rows |
//! | `axis.rs`, `palette.rs`, `html.rs` | logarithmic axes; colours; elements, which escape what is put in |

mod axis;
#[cfg(test)]
mod check;
#[cfg(test)]
mod example;
mod facts;
mod fold;
mod graph;
mod history;
mod html;
mod layout;
mod page;
mod palette;
mod roofline;
mod steps;
mod table;

use palette::{class, legend};

use crate::args::{CompileArgs, ModelArgs};
use crate::explain::Decided;
use crate::{open, system};
use anyhow::Context;
use facts::{Facts, Roofs, Source};
use std::io::Write;
use std::path::{Path, PathBuf};
use tilewright_autotune::fingerprint::Device;
use tilewright_autotune::layers::Layers;
use tilewright_autotune::record;
use tilewright_autotune::tuner::{Level, Tuner, compiler};
use tilewright_codegen::target::Target;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The file to write, - for stdout
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Threads that records are of and that roofs are measured with [default: as many as there are cores for this process]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Take the roofs of the machine from the records, and measure nothing
    #[arg(long)]
    no_measure: bool,
    #[command(flatten)]
    compile: CompileArgs,
}

/// The roofs of this machine as tuning measures them, if it is one that the target is for.
fn measure(target: &str, threads: u32) -> anyhow::Result<Roofs> {
    let tuner = Tuner::new(&Target::get(target)?, threads, Level::Quick, 1)?;
    let r = tuner.roofline();
    Ok(Roofs { bandwidth: r.bandwidth, int8: r.int8, float: r.float, source: Source::Measured })
}

/// The file's name: where it lies is nobody's business who is sent the report.
fn tune_command(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let model = if open::is_artifact(path) || name.is_empty() { "MODEL".to_string() } else { name };
    format!("compile-model tune -m {model}")
}

fn gather(args: &Args) -> anyhow::Result<Facts> {
    let path = args.model.path()?;
    let threads = args.threads.map_or(system::cores() as u32, u32::from);
    let decided = Decided::of(path, &args.compile, Some(threads))?;
    let device = Device::detect();
    let layers = Layers::open(args.compile.cache()?.root(), &device.id(), &compiler())?;
    let programs = facts::programs(&decided, Some(&layers), threads);
    let mut roofs = facts::roofs_of_records(&programs);
    if !args.no_measure {
        match measure(&decided.target, threads) {
            Ok(measured) => roofs = Some(measured.or(roofs)),
            Err(e) => eprintln!("warning: the roofs of {} cannot be measured here: {e}", decided.target),
        }
    }
    Ok(Facts {
        target: decided.target.clone(),
        device: device.describe(),
        threads,
        date: record::now(),
        tune: tune_command(path),
        roofs,
        programs,
        passes: facts::choices(&decided, "pass"),
        choices: facts::of_model(&decided),
        formats: facts::formats(&decided),
        picture: fold::fold(&decided.graph),
        model: decided.plan.model,
    })
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let text = page::page(&gather(&args)?);
    let mut out = std::io::stdout().lock();
    if args.out.as_os_str() == "-" {
        out.write_all(text.as_bytes())?;
        return Ok(());
    }
    std::fs::write(&args.out, text).with_context(|| format!("{}", args.out.display()))?;
    writeln!(out, "{}", args.out.display())?;
    Ok(())
}
