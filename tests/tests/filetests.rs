//! Runs every `tests/ir/**/*.tir`; see `tilewright_tests::filetest`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use tilewright_tests::filetest;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("ir");
    let trial = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        Trial::test(name, move || filetest::run_file(&path).map_err(Into::into))
    };
    let mut trials: Vec<Trial> = filetest::files(&root).into_iter().map(trial).collect();
    trials.push(Trial::test("every_rule_is_broken_by_a_file", move || every_rule(&root)));
    libtest_mimic::run(&args, trials).exit_code()
}

/// The verifiers, whose module docs list their rules, and the rules that no text can break: unit tests have those.
const VERIFIERS: [(&str, &[&str]); 2] = [
    (include_str!("../../ir/src/graph/verify.rs"), &["G01"]),
    (include_str!("../../ir/src/kernel/verify.rs"), &["K22"]),
];

fn every_rule(root: &Path) -> Result<(), Failed> {
    let files: Vec<String> = filetest::files(root).iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    let expected =
        |rule: &&str| files.iter().flat_map(|f| f.lines()).any(|l| l.starts_with(&format!("// error: {rule}")));
    for (source, excepted) in VERIFIERS {
        let rules: Vec<&str> = source.lines().filter_map(|l| l.strip_prefix("//! - ")?.split(' ').next()).collect();
        let untested: Vec<&&str> = rules.iter().filter(|r| expected(r) == excepted.contains(*r)).collect();
        if rules.len() < 10 || !untested.is_empty() {
            return Err(format!(
                "of {} rules, {untested:?} are neither broken by a file nor excepted, or both",
                rules.len()
            )
            .into());
        }
    }
    Ok(())
}
