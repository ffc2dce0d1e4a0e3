//! Chores of developers: `cargo run -p tilewright-xtask -- ci|bless|fetch`.
#![forbid(unsafe_code)]

use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;

const HELP: &str = "\
usage: cargo run -p tilewright-xtask -- TASK

  ci             what CI runs
  bless          rewrite the exact outputs of the file tests; read the diff afterwards
  fetch [MODEL]  bring a real model into target/models (smollm2 or qwen; both without a name)";

fn call(command: &mut Command) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let status = command.current_dir(root).status().with_context(|| format!("{command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
}

fn fetch(model: &str) -> anyhow::Result<()> {
    call(Command::new("python3").args(["bench/fetch_model.py", model, "target/models"]))
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ci"] => call(&mut Command::new(".ci/run")),
        ["bless"] => call(
            Command::new("cargo")
                .args(["test", "--release", "-p", "tilewright-tests", "--test", "filetests"])
                .env("BLESS", "1"),
        ),
        ["fetch"] => fetch("smollm2").and_then(|()| fetch("qwen")),
        ["fetch", model] => fetch(model),
        [] | ["-h" | "--help" | "help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("there is no such task\n{HELP}"),
    }
}
