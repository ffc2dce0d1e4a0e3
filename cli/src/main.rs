//! `compile-model`: the command line of Tilewright.
//!
//! One file a verb. Answers go to stdout, everything else to stderr; [`exit`] holds the table of exit codes. There is no
//! logic here that another program could want: that lives in `tilewright-driver` and `tilewright-runtime`.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod build;
mod cache;
mod chat;
mod completions;
mod doctor;
mod dot;
mod exit;
mod explain;
mod generate;
mod inspect;
mod interrupt;
mod list;
mod logits;
mod open;
mod perplexity;
mod profile;
mod progress;
mod report;
mod run;
mod system;
mod tokenize;
mod tune;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "compile-model", version, about = "Compiles language models for this machine and runs them.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Compile a model into an artifact
    Build(build::Args),
    /// Continue a text
    Run(run::Args),
    /// Talk with a model through its chat template
    Chat(chat::Args),
    /// Time kernels on this machine and keep what is best for a model
    Tune(tune::Args),
    /// Show what a model file or an artifact holds: facts, tensors, graph, plan, kernels
    Inspect(inspect::Args),
    /// Say what the compiler chose, why, and what it costs against the floor of this machine
    Explain(explain::Args),
    /// Write what `explain` says and how tuning went as one HTML file, with plots
    Report(report::Args),
    /// List what is declared: architectures, block formats, targets, passes
    List(list::Args),
    /// Say what this machine has, what is missing and what that costs
    Doctor(doctor::Args),
    /// Text to token ids
    Tokenize(tokenize::Args),
    /// The most likely next tokens after every token of a text
    Logits(logits::Args),
    /// Perplexity of a text, as llama.cpp computes it
    Perplexity(perplexity::Args),
    /// Tokens a second, in llama-bench's form
    Bench(bench::Args),
    /// What tuning found: list, show, check, compare, exchange and clear its records
    Cache(cache::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

fn dispatch(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Build(a) => build::run(a),
        Verb::Run(a) => run::run(a),
        Verb::Chat(a) => chat::run(a),
        Verb::Tune(a) => tune::run(a),
        Verb::Inspect(a) => inspect::run(a),
        Verb::Explain(a) => explain::run(a),
        Verb::Report(a) => report::run(a),
        Verb::List(a) => list::run(a),
        Verb::Doctor(a) => doctor::run(a),
        Verb::Tokenize(a) => tokenize::run(a),
        Verb::Logits(a) => logits::run(a),
        Verb::Perplexity(a) => perplexity::run(a),
        Verb::Bench(a) => bench::run(a),
        Verb::Cache(a) => cache::run(a),
        Verb::Completions(a) => completions::run(a, &mut command()),
    }
}

/// The command, every flag readable from `COMPILE_MODEL_<FLAG>` and every help with the table of exit codes.
fn command() -> clap::Command {
    args::with_environment(Cli::command()).after_help(exit::help())
}

fn main() -> ExitCode {
    exit::install_panic_hook();
    let cli = match command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    interrupt::install();
    exit::guard(|| dispatch(cli.verb))
}
