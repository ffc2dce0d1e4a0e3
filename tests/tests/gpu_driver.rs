//! The program on a machine that has NVIDIA's driver, as far as it can tell: `tests/fake-cuda` stands in for it, runs the kernels
//! in the emulator and is strict about the driver's rules. What no other test does: find the library, call it, and end well
//! whatever it answers.

use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use tilewright_tests::e2e::{fake_cuda, program};
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

/// What the driver is like: variables without `FAKE_CUDA_`, and their values.
type Vars<'a> = &'a [(&'a str, &'a str)];

/// A tiny model, a cache, and a driver.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a folder");
        Golden::load("llama")
            .expect("a golden")
            .write_gguf(&dir.path().join("tiny.gguf"), Quant::Q8_0)
            .expect("a model");
        fake_cuda(dir.path()).expect("a driver");
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program; `{}` in an argument is the folder.
    fn call(&self, vars: Vars<'_>, args: &str) -> Output {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("COMPILE_MODEL_")) {
            command.env_remove(name);
        }
        command.env("LD_LIBRARY_PATH", self.dir.path()).env("COMPILE_MODEL_CACHE_DIR", self.path("cache"));
        command.envs(vars.iter().map(|(name, value)| (format!("FAKE_CUDA_{name}"), value)));
        let folder = self.dir.path().to_str().expect("UTF-8");
        command
            .args(args.split(' ').map(|a| a.replace("{}", folder)))
            .stdin(Stdio::null())
            .output()
            .expect("the program")
    }

    fn answer(&self, vars: Vars<'_>, args: &str) -> String {
        let out = self.call(vars, args);
        assert!(out.status.success(), "{vars:?} {args}: {}", stderr(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// What the driver counted.
fn log(path: &Path) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(path).expect("the driver's log");
    let row = |l: &str| l.rsplit_once(' ').map(|(what, n)| (what.to_string(), n.parse().expect("a count")));
    text.lines().map(|l| row(l).expect("a name and a count")).collect()
}

/// Text of the GPU is that of the CPU, on a device whose launches overlap and on one where they do not; a step is one graph, and
/// everything is given back.
#[test]
fn text_equals_the_cpus() {
    let p = Place::new();
    let run = "run -m {}/tiny.gguf -p the -n 24 --activations f32 --temp";
    for temp in ["0", "0.9 --seed 7"] {
        let want = p.answer(&[], &format!("{run} {temp}"));
        for sm in ["90", "80"] {
            let path = p.path("log");
            let vars = [("SM", sm), ("SEED", "3"), ("LOG", path.to_str().expect("UTF-8"))];
            assert_eq!(p.answer(&vars, &format!("{run} {temp} --target cuda")), want, "sm_{sm}, temperature {temp}");
            let log = log(&path);
            assert!(log.keys().all(|k| !k.starts_with("left ")), "{log:?}");
            // All launches are captured, few in number, and steps only replay them.
            assert!(log["cuGraphLaunch"] > 10 && log["cuLaunchKernelEx"] < 100, "{log:?}");
        }
    }
}

/// Each call of the driver fails, in the beginning and at a later time: one error with an exit code, or, where only clearing up is
/// left, the same text. Never a panic, never another text.
#[test]
fn every_call_fails_once() {
    let p = Place::new();
    p.answer(&[], "build -m {}/tiny.gguf --target cuda -o {}/tiny.tw");
    let run = "run {}/tiny.tw -p the -n 3 --temp 0";
    let path = p.path("log");
    let want = p.answer(&[("LOG", path.to_str().expect("UTF-8"))], run);
    let calls = log(&path);
    assert!(calls.len() > 30, "{calls:?}");
    let times: Vec<(&String, usize)> =
        calls.iter().flat_map(|(call, &n)| [1, n.div_ceil(2), n].map(|at| (call, at))).collect();
    let failed: Vec<bool> = times
        .par_iter()
        .map(|(call, at)| {
            // A kernel's fault comes to light where something waits.
            let code = if call.ends_with("Synchronize") { 719 } else { 999 };
            let fail = format!("{call}:{at}:{code}");
            let out = p.call(&[("FAIL", &fail)], run);
            let (said, ok) = (stderr(&out), out.status.success());
            assert!(!said.contains("panicked") && out.status.code().is_some(), "{fail}: {said}");
            let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("error: ")).collect();
            assert_eq!(errors.len(), usize::from(!ok), "{fail}: {said}");
            // After a number with no meaning of its own the driver's word for it is told, and what to do.
            let tells = |e: &&str| e.contains("; ") && (e.contains("CUDA_ERROR_") || e.contains("there is no kernel"));
            assert!(errors.iter().all(tells), "{fail}: {said}");
            assert!(!ok || out.stdout == want.as_bytes(), "{fail}: {said}");
            !ok
        })
        .collect();
    let first = |call: &str| times.iter().zip(&failed).any(|((c, at), failed)| *c == call && *at == 1 && *failed);
    for call in
        ["cuInit", "cuMemAlloc_v2", "cuLaunchKernelEx", "cuGraphLaunch", "cuStreamSynchronize", "cuStreamEndCapture"]
    {
        assert!(first(call), "a failure of {call} went unnoticed");
    }
}

/// What a user is told of machines that cannot run it.
#[test]
fn machines_that_cannot() {
    let p = Place::new();
    p.answer(&[], "build -m {}/tiny.gguf --target sm_90a -o {}/tiny.tw");
    let cases: [(Vars<'_>, i32, &str); 6] = [
        (&[("SM", "0")], 4, "finds no usable GPU (there is none); check nvidia-smi"),
        (&[("FAIL", "cuInit:1:100")], 4, "CUDA_ERROR_NO_DEVICE"),
        (&[("SM", "86")], 4, "compiled for sm_90a, this is sm_86 (emulated sm_86); compile the model again"),
        // Machine code is refused first, then the text.
        (&[("FAIL", "cuModuleLoadDataEx:2:222")], 4, "driver is too old (CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
        (&[("MEMORY", "200000000")], 0, ""),
        (&[("MEMORY", "135000000")], 5, "no context fits"),
    ];
    for (vars, code, message) in cases {
        let out = p.call(vars, "run {}/tiny.tw -p the -n 2 --temp 0");
        assert!(out.status.code() == Some(code) && stderr(&out).contains(message), "{vars:?}: {}", stderr(&out));
    }
}

/// Records of the GPU are made, used, shown and exported like those of the processor.
#[test]
fn records_of_the_gpu() {
    let p = Place::new();
    let doctor = |p: &Place| p.answer(&[], "doctor");
    assert!(
        doctor(&p).contains("emulated sm_90 (sm_90, 4 multiprocessors, 4.29 GB), driver of CUDA 13.0: --target sm_90a")
    );
    p.answer(&[], "tune -m {}/tiny.gguf --target cuda --quick --budget 1 --kernel kv_write");
    let rows = p.answer(&[], "cache ls");
    assert!(rows.lines().count() > 1 && rows.lines().skip(1).all(|l| l.contains(" sm_90a ")), "{rows}");
    assert!(doctor(&p).contains("0 record(s) of the processor"), "{}", doctor(&p));
    let id = rows.lines().nth(1).and_then(|l| l.split(' ').next()).expect("an id");
    assert!(p.answer(&[], &format!("cache show {id}")).contains("target    sm_90a"));
    let explained = p.answer(&[], "explain {}/tiny.gguf --target cuda");
    assert!(explained.contains("emulated sm_90") && explained.contains("tok/s"), "{explained}");
    p.answer(&[], "report -m {}/tiny.gguf --target cuda -o {}/report.html");
    let report = std::fs::read_to_string(p.path("report.html")).expect("a report");
    let says = ["emulated sm_90", "multiply-adds f16", "measured for this report", "tune -m tiny.gguf --target cuda"];
    assert!(says.iter().all(|s| report.contains(s)), "{report}");
    let exported = p.answer(&[], "cache export -");
    std::fs::write(p.path("exported.jsonl"), &exported).expect("a file");
    // Another kind of GPU has none of them, and is told so.
    assert_eq!(p.answer(&[("SM", "80")], "cache ls"), "");
    let out = p.call(&[("SM", "80")], "cache import {}/exported.jsonl");
    assert!(!out.status.success() && stderr(&out).contains("another machine"), "{}", stderr(&out));
    p.answer(&[], "cache clear --yes");
    p.answer(&[], "cache import {}/exported.jsonl");
    assert_eq!(p.answer(&[], "cache export -"), exported);
}
