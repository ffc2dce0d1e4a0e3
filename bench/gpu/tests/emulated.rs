//! The whole program on the emulator: every part is there and nothing fails; what fails is told; the script needs nothing but
//! the program beside it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tilewright_tests::{quant::Quant, tiny::Golden};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tilewright-gpu-bench");
/// Every part, and the fewest items it has.
const PARTS: [(&str, usize); 8] =
    [("device", 4), ("check", 40), ("jit", 1), ("sweep", 14), ("decode", 2), ("prefill", 1), ("blas", 1), ("text", 2)];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The one file of results in a folder.
fn results(folder: &Path) -> (PathBuf, Value) {
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    (file.clone(), serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
}

/// Fresh data each time; the file names its seed.
#[test]
fn every_part() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    Golden::load("llama").unwrap().write_gguf(&model, Quant::Q8_0).unwrap();
    let out = folder.path().join("results");
    let start = Instant::now();
    let run = Command::new(PROGRAM).args(["run", "--emulate", "--model"]).arg(&model).arg("--out").arg(&out).output();
    let run = run.unwrap();
    let (file, all) = results(&out);
    assert!(run.status.success(), "seed {}: {}\n{all:#}", all["seed"], said(&run));
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    assert_eq!(all["emulated"], true);
    let parts = all["parts"].as_array().unwrap();
    assert_eq!(parts.len(), PARTS.len());
    for (part, (name, least)) in parts.iter().zip(PARTS) {
        assert_eq!(part["name"], name);
        assert!(part.get("error").is_none() && part.get("late").is_none(), "{part:#}");
        let items = part["items"].as_array().unwrap();
        assert!(items.len() >= least, "{name}: {}", items.len());
        for item in items {
            let is_done = item.get("error").is_none() && item["name"].is_string() && item["seconds"].is_number();
            assert!(is_done, "seed {}: {item:#}", all["seed"]);
        }
    }
    let sweep = parts.iter().find(|p| p["name"] == "sweep").unwrap();
    let has_points = |i: &Value| i["points"].as_array().is_some_and(|p| p.len() > 1);
    assert!(sweep["items"].as_array().unwrap().iter().all(has_points));

    let table = Command::new(PROGRAM).arg("table").arg(&file).output().unwrap();
    let text = said(&table);
    assert!(table.status.success() && text.contains("**Emulated"), "{text}");
    for heading in ["| memory |", "| product |", "| model | depth |", "| model | tokens |"] {
        assert!(text.contains(heading), "{heading} is missing:\n{text}");
    }
    // Every line of a table has as many cells as its heading.
    let mut cells = 0;
    for line in text.lines() {
        let count = line.matches('|').count();
        assert!(cells == 0 || count == 0 || count == cells, "{line}");
        cells = count;
    }
}

/// The way that hardware takes, with a stand-in for NVIDIA's driver: text of the device is the CPU's.
#[test]
fn with_a_driver() {
    let folder = tempfile::tempdir().unwrap();
    tilewright_tests::e2e::fake_cuda(folder.path()).unwrap();
    let model = folder.path().join("model.gguf");
    Golden::load("llama").unwrap().write_gguf(&model, Quant::Q8_0).unwrap();
    let out = folder.path().join("results");
    let mut run = Command::new(PROGRAM);
    run.env("LD_LIBRARY_PATH", folder.path()).args(["run", "--only", "text", "--model"]).arg(&model);
    let run = run.arg("--out").arg(&out).output().unwrap();
    let (_, all) = results(&out);
    assert!(run.status.success(), "seed {}: {}\n{all:#}", all["seed"], said(&run));
    assert!(all["emulated"] == false && all["device"]["name"] == "emulated sm_90", "{all:#}");
    for item in all["parts"][0]["items"].as_array().unwrap() {
        assert!(item["tokens"].as_u64() > Some(10) && item["same"] == item["tokens"], "{item:#}");
    }
}

/// A failure is in the file and in the exit status, and the parts beside it are done.
#[test]
fn a_part_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["run", "--emulate", "--only", "text,prefill", "--model", "/nowhere.gguf", "--out"];
    let run = Command::new(PROGRAM).args(args).arg(folder.path()).output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{}", said(&run));
    let (_, all) = results(folder.path());
    let [prefill, text] = [0, 1].map(|i| all["parts"][i].clone());
    assert!(prefill["name"] == "prefill" && prefill["items"][0].get("error").is_none(), "{prefill:#}");
    let error = text["items"][0]["error"].as_str().unwrap();
    assert!(text["name"] == "text" && error.contains("nowhere.gguf"), "{error}");
}

/// The script with the program beside it, and no GPU to be seen.
#[test]
fn the_script() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("run");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/run"), &script).unwrap();
    let tool = |args: &[&str]| {
        let mut command = Command::new(&script);
        command.args(args).env("CUDA_VISIBLE_DEVICES", "").env("PATH", "/usr/bin:/bin").output().unwrap()
    };
    let bare = tool(&[]);
    assert!(!bare.status.success() && said(&bare).contains("beside this script"), "{}", said(&bare));

    std::os::unix::fs::symlink(PROGRAM, folder.path().join("tilewright-gpu-bench")).unwrap();
    let help = tool(&["--help"]);
    assert!(help.status.success() && said(&help).contains("--emulate"), "{}", said(&help));
    let without = tool(&["--out", folder.path().to_str().unwrap()]);
    assert!(!without.status.success(), "{}", said(&without));
    assert_eq!(said(&without).trim().lines().count(), 1, "{}", said(&without));
    let out = folder.path().join("results");
    let emulated = tool(&["--emulate", "--only", "device", "--out", out.to_str().unwrap()]);
    assert!(emulated.status.success(), "{}", said(&emulated));
    assert_eq!(results(&out).1["parts"][0]["name"], "device");
}
