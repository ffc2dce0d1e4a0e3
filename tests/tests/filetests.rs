//! Runs every `tests/ir/**/*.tir`; see `tilewright_tests::filetest`.

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use tilewright_tests::filetest;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("ir");
    let trial = |path: std::path::PathBuf| {
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        Trial::test(name, move || filetest::run_file(&path).map_err(Into::into))
    };
    let trials = filetest::files(&root).into_iter().map(trial).collect();
    libtest_mimic::run(&args, trials).exit_code()
}
