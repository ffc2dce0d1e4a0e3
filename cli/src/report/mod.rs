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
use tilewright_autotune::fingerprint::{self, Device};
use tilewright_autotune::gpu::Gpu;
use tilewright_autotune::layers::Layers;
use tilewright_autotune::machine::Machine;
use tilewright_autotune::record;
use tilewright_autotune::roofline::Roofline;
use tilewright_autotune::tuner::{Level, Tuner};
use tilewright_codegen::target::Target;
use tilewright_driver::{BuildOptions, layers};
use tilewright_runtime::cuda::{self, GpuDriver};

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

/// What a report is of, and where its times were measured.
struct Place {
    /// Lines of name and value.
    device: String,
    layers: Option<Layers>,
    threads: u32,
    gpu: Option<Box<dyn GpuDriver>>,
}

impl Place {
    /// The processor, or for code of a GPU the one that is there. If there is none, records are of whatever device.
    fn find(args: &Args, target: &Target) -> anyhow::Result<Place> {
        let gpu = match target.gpu().map(|_| cuda::open()) {
            None => None,
            Some(Ok(gpu)) => Some(gpu),
            Some(Err(e)) => {
                eprintln!("warning: {e}");
                None
            }
        };
        let facts = gpu.as_ref().map(|gpu| gpu.facts().clone());
        let (device, threads) = match (target.gpu(), &facts) {
            (None, _) => (Device::detect().describe(), args.threads.map_or(system::cores() as u32, u32::from)),
            (Some(_), facts) => (facts.as_ref().map_or(String::new(), fingerprint::describe_gpu), 1),
        };
        let records = Some(args.compile.cache()?.root().to_path_buf());
        let layers = layers(&BuildOptions { gpu: facts, records, ..BuildOptions::for_target(target.clone()) })?;
        Ok(Place { device, layers, threads, gpu })
    }

    /// The roofs as tuning measures them; `None` if the target is for a GPU that is not there.
    fn roofs(&mut self, target: &Target) -> anyhow::Result<Option<Roofs>> {
        let roofs = |r: &Roofline| Roofs { bandwidth: r.bandwidth, peaks: r.peaks, source: Source::Measured };
        Ok(match (target.gpu(), self.gpu.take()) {
            (None, _) => Some(roofs(Tuner::new(target, self.threads, Level::Quick, 1)?.roofline())),
            (Some(_), Some(driver)) => Some(roofs(Gpu::new(driver, target, None)?.roofline())),
            (Some(_), None) => None,
        })
    }
}

/// The file's name: where it lies is nobody's business who is sent the report.
fn tune_command(path: &Path, target: &Target) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let model = if open::is_artifact(path) || name.is_empty() { "MODEL".to_string() } else { name };
    let gpu = if target.gpu().is_some() { " --target cuda" } else { "" };
    format!("compile-model tune -m {model}{gpu}")
}

fn gather(args: &Args) -> anyhow::Result<Facts> {
    let path = args.model.path()?;
    let decided = Decided::of(path, &args.compile, args.threads.map(u32::from))?;
    let target = Target::get(&decided.target)?;
    let mut place = Place::find(args, &target)?;
    let programs = facts::programs(&decided, place.layers.as_ref(), place.threads);
    let mut roofs = facts::roofs_of_records(&programs);
    if !args.no_measure {
        match place.roofs(&target) {
            Ok(measured) => roofs = measured.map(|m| m.or(roofs)).or(roofs),
            Err(e) => eprintln!("warning: the roofs of {} cannot be measured here: {e}", decided.target),
        }
    }
    Ok(Facts {
        target: decided.target.clone(),
        device: place.device,
        threads: target.gpu().is_none().then_some(place.threads),
        date: record::now(),
        tune: tune_command(path, &target),
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
