//! The direction of dependencies, read from `cargo metadata`: a crate may use those below it in [`ORDER`] and no others.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// From the top down.
const ORDER: &[&str] = &["cli", "driver", "autotune", "codegen", "passes", "models", "ir"];
/// Depends on none of the above; these depend on it: they write or read what it defines.
const RUNTIME_USERS: &[&str] = &["cli", "driver", "autotune", "codegen"];
/// Stand beside the order and may use anything.
const TOOLS: &[&str] = &["tests", "bench", "gpu-bench", "xtask", "fake-cuda"];

/// Use the emulator of PTX, which is a GPU where there is none.
const EMULATOR_USERS: &[&str] = &["codegen"];

/// Depend on nothing of the workspace.
const ALONE: &[&str] = &["runtime", "ptx-emu"];

/// Crates of the workspace, with those of it that each needs to be built, development not counted.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["metadata", "--format-version=1", "--no-deps", "--offline"];
    let out = Command::new(cargo).args(args).current_dir(root).output().expect("cargo metadata");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let short = |v: &Value| v.as_str().and_then(|n| n.strip_prefix("tilewright-")).map(str::to_string);
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let needs = |p: &Value| {
        list(&p["dependencies"]).iter().filter(|d| d["kind"] != "dev").filter_map(|d| short(&d["name"])).collect()
    };
    list(&metadata["packages"]).iter().map(|p| (short(&p["name"]).expect("a crate of ours"), needs(p))).collect()
}

#[test]
fn dependencies_point_down() {
    for (name, needs) in dependencies() {
        if TOOLS.contains(&name.as_str()) {
            continue;
        }
        let rank = |n: &str| ORDER.iter().position(|o| *o == n);
        for need in needs {
            let allowed = match (rank(&name), rank(&need)) {
                (Some(above), Some(below)) => above < below,
                (Some(_), None) => match need.as_str() {
                    "runtime" => RUNTIME_USERS.contains(&name.as_str()),
                    "ptx-emu" => EMULATOR_USERS.contains(&name.as_str()),
                    _ => false,
                },
                (None, _) => false,
            };
            assert!(allowed, "{name} must not depend on {need}");
        }
    }
}

#[test]
fn every_crate_has_a_place() {
    let crates = dependencies();
    for name in crates.keys() {
        let known = ORDER.contains(&name.as_str()) || TOOLS.contains(&name.as_str()) || ALONE.contains(&name.as_str());
        assert!(known, "say in this test where {name} stands");
    }
    for name in ALONE.iter().chain(&["ir"]) {
        assert_eq!(crates[*name], Vec::<String>::new(), "{name} depends on nothing of the workspace");
    }
}
