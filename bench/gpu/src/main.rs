//! Everything there is to measure on an NVIDIA GPU, in one program and ten minutes. See `bench/gpu/README.md`.
//!
//! The program runs itself: each part is a process of its own, so that a kernel that hangs or faults costs its item and
//! nothing more (`supervise.rs`).
//!
//! | file | what |
//! |---|---|
//! | `supervise.rs` | parts as processes, their time, the file of results |
//! | `part.rs` | the parts, and how one tells of its items |
//! | `gpu.rs` | a device, real or emulated: kernels, memory, times |
//! | `case.rs` | one kernel on made-up data, on the device and in the interpreter |
//! | `synthetic.rs` | models that are only shapes |
//! | `model.rs` | whole plans of such models on a device |
//! | `facts.rs` | part `device`: bandwidth, cost of a launch |
//! | `check.rs`, `cases.rs` | part `check`: every kernel against the interpreter |
//! | `jit.rs` | part `jit`: the driver's compiler against `ptxas` |
//! | `sweep.rs` | part `sweep`: products of known models at many points of their spaces |
//! | `decode.rs` | parts `decode` and `prefill` |
//! | `blas.rs` | part `blas`: cuBLASLt as a yardstick |
//! | `text.rs` | part `text`: tokens of a model file, against the CPU's |
//! | `table.rs`, `floors.rs` | tables for `docs/performance.md` |

mod blas;
mod case;
mod cases;
mod check;
mod decode;
mod facts;
mod floors;
mod gpu;
mod jit;
mod model;
mod part;
mod supervise;
mod sweep;
mod synthetic;
mod table;
mod text;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "tilewright-gpu-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure and check everything; results go to `<out>/<date>-<device>.json`.
    Run(RunArgs),
    /// One part, telling of it line by line: what `run` starts.
    #[command(hide = true)]
    Part(PartArgs),
    /// The tables for docs/performance.md from a file of results.
    Table {
        /// What `run` left.
        file: PathBuf,
    },
    /// What decoding can reach at best, from the bytes of the packed weights: needs no GPU.
    Floors,
}

/// What parts may be told.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Run on the emulator, everything tiny: proves the program, measures nothing.
    #[arg(long)]
    pub emulate: bool,
    /// With --emulate: all of part `check`, which takes some minutes.
    #[arg(long, requires = "emulate")]
    pub whole: bool,
    /// Seed of all data; fresh if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// A GGUF file for part `text`.
    #[arg(long, value_name = "GGUF")]
    pub model: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    settings: Settings,
    /// Folder of the results.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Most seconds in all.
    #[arg(long, default_value_t = 575)]
    seconds: u64,
    /// Only these parts.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Args)]
struct PartArgs {
    #[command(flatten)]
    settings: Settings,
    /// Its name.
    name: String,
    /// Items that are done already.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// No item is begun after so many seconds.
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    done(Cli::parse().verb).unwrap_or_else(|e| {
        // One line, also where backtraces are asked for: it ends up in the results.
        eprintln!("tilewright-gpu-bench: {e:#}");
        ExitCode::FAILURE
    })
}

fn done(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Run(args) => supervise::run(&args.settings, args.out, args.seconds, &args.only),
        Verb::Part(args) => part::run(&args.name, args.settings, args.skip, args.seconds),
        Verb::Table { file } => {
            print!("{}", table::of(&serde_json::from_str(&std::fs::read_to_string(file)?)?));
            Ok(ExitCode::SUCCESS)
        }
        Verb::Floors => {
            print!("{}", floors::table()?);
            Ok(ExitCode::SUCCESS)
        }
    }
}
