//! Damage as a person meets it: one `error:` line on stderr, an exit code that is not 0, no signal.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tilewright_tests::e2e::program;
use tilewright_tests::quant::Quant;

use crate::artifact::{mutated as mutated_artifact, retarget, sample_artifact, truncated};
use crate::model::{mutated, sample};

fn run(file: &Path, cache: &Path) -> Output {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("COMPILE_MODEL_")) {
        command.env_remove(name);
    }
    command
        .stdin(Stdio::null())
        .args(["run", "-n", "3", "-t", "1", "-c", "16", "--temp", "0", "-p", "to be", "-m"])
        .arg(file)
        .arg("--cache-dir")
        .arg(cache)
        .output()
        .unwrap()
}

/// Checks an answer to a file that cannot be used; its exit code.
fn refused(what: &str, out: &Output) -> i32 {
    let stderr = String::from_utf8_lossy(&out.stderr);
    let code = out.status.code().unwrap_or_else(|| panic!("{what}: ended by a signal: {stderr}"));
    assert_ne!(code, 0, "{what}: {stderr}");
    assert!(out.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&out.stdout));
    let errors = stderr.lines().filter(|l| l.starts_with("error:")).count();
    assert_eq!(errors, 1, "{what}: {stderr}");
    assert!(!stderr.contains("internal error") && !stderr.contains("panicked"), "{what}: {stderr}");
    code
}

#[test]
fn damaged_models() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("model.gguf"), dir.path().join("cache"));
    let (good, parts) = sample("llama_tied", Quant::Q4_0);
    fs::write(&file, &good).unwrap();
    let out = run(&file, &cache);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for i in 0..20 {
        let at = if i < 10 { parts.data.start * i / 10 } else { parts.data.start + parts.data.len() * (i - 10) / 10 };
        fs::write(&file, &good[..at]).unwrap();
        assert_eq!(refused(&format!("cut at {at}"), &run(&file, &cache)), 3);
    }
    let mut worked = 0;
    for seed in 0..20 {
        let (bytes, part) = mutated(seed);
        fs::write(&file, bytes).unwrap();
        let out = run(&file, &cache);
        if out.status.success() {
            worked += 1;
        } else {
            refused(&format!("seed {seed} ({part})"), &out);
        }
    }
    assert!(worked < 20, "all mutated files work");
    refused("no file", &run(&dir.path().join("nothing.gguf"), &cache));
    refused("a folder that is no model", &run(dir.path(), &cache));
}

#[test]
fn damaged_artifacts() {
    let (temp, dir, files) = sample_artifact();
    let cache = temp.path().join("cache");
    let out = run(&dir, &cache);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for i in 0..40 {
        // Spread over the cases of the other tests.
        let (name, bytes) = if i < 20 { truncated(i * 9, 200, &files) } else { mutated_artifact(i * 97, &files) };
        fs::write(dir.join(&name), bytes).unwrap();
        let code = refused(&format!("case {i} ({name})"), &run(&dir, &cache));
        assert!(matches!(code, 3 | 4), "case {i} ({name}): exit code {code}");
        fs::write(dir.join(&name), &files[&name]).unwrap();
    }
    for name in files.keys().filter(|n| *n != "manifest.json") {
        fs::remove_file(dir.join(name)).unwrap();
        refused(&format!("without {name}"), &run(&dir, &cache));
        fs::write(dir.join(name), &files[name]).unwrap();
    }
    retarget(&dir, std::env::consts::ARCH, &["warp-drive"]);
    assert_eq!(refused("another machine", &run(&dir, &cache)), 4);
    assert!(!cache.exists() || fs::read_dir(cache).unwrap().next().is_none(), "an artifact needs no cache");
}
