//! Artifacts for GPUs: machine code beside the PTX where the assembler is installed, what a session takes of them, and what its
//! kernels reach. On the emulator, whose clock counts work, so nothing here says what is fast.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tilewright_codegen::emulated::{EmulatedDriver, EmulatedGpu};
use tilewright_codegen::ptx::assembler::Assembler;
use tilewright_codegen::target::Target;
use tilewright_driver::reach::{reach, reading_of};
use tilewright_driver::{BuildOptions, BuildReport, DriverError, Progress, build};
use tilewright_models::model::Model;
use tilewright_runtime::artifact::{Artifact, cubin_of};
use tilewright_runtime::cuda::GpuError;
use tilewright_runtime::session::{Logits, Session, SessionOptions};
use tilewright_tests::e2e;
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

fn seed() -> u64 {
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    std::env::var("TILEWRIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh)
}

/// The assembler; its absence is said, and is a failure where tests count.
fn assembler() -> Option<Assembler> {
    let found = Assembler::find();
    let wanted = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(found.is_some() || !wanted, "ptxas is not installed (`make cuda-tools`), and CI=true");
    if found.is_none() {
        eprintln!("SKIPPED: ptxas is not installed (`make cuda-tools`): no machine code was made");
    }
    found
}

fn options(target: &str) -> BuildOptions {
    let target = Target::get(target).expect("a declared target");
    BuildOptions { ctx: Some(64), prefill_tokens: 16, ..BuildOptions::for_target(target) }
}

/// A tiny model and room for artifacts of it.
struct Place {
    dir: TempDir,
    model: Model,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tiny.gguf");
        Golden::load("llama").expect("a golden").write_gguf(&path, Quant::Q8_0).expect("a model");
        Place { dir, model: Model::open(&path).expect("a model") }
    }

    /// The artifact `name`, with the stages and the warnings of its making.
    fn build(&self, name: &str, options: &BuildOptions) -> (Arc<Artifact>, BuildReport, BTreeSet<String>, Vec<String>) {
        let out = self.dir.path().join(name);
        let (mut stages, mut said) = (BTreeSet::new(), vec![]);
        let report = build(&self.model, &out, options, &mut |p| match p {
            Progress::Stage(stage) => drop(stages.insert(stage.to_string())),
            Progress::Warning(text) => said.push(text.to_string()),
            Progress::Packed(..) | Progress::Tuned(..) => {}
        });
        let report = report.unwrap_or_else(|e| panic!("{name}: {e}"));
        (Arc::new(Artifact::open(&out).expect("an artifact")), report, stages, said)
    }

    fn file(&self, name: &str, file: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(name).join(file)).ok()
    }
}

/// What the artifact says of its code.
fn code(artifact: &Artifact) -> String {
    let choices = &artifact.manifest().info.choices;
    choices.iter().find(|c| c.what == "code").map_or(String::new(), |c| format!("{} - {}", c.choice, c.why))
}

fn session(artifact: &Arc<Artifact>, takes_cubins: bool, seed: u64) -> Session {
    let driver = EmulatedDriver::new(EmulatedGpu { takes_cubins, seed, ..EmulatedGpu::default() });
    let options = SessionOptions { ctx: Some(64), ..SessionOptions::default() };
    Session::with_driver(artifact.clone(), Box::new(driver), options).unwrap_or_else(|e| panic!("seed {seed}: {e}"))
}

#[test]
fn machine_code_is_made_once() {
    let Some(assembler) = assembler() else { return };
    let (place, seed) = (Place::new(), seed());
    let cache = place.dir.path().join("cache");
    let with = BuildOptions { assembler: Some(assembler.clone()), records: Some(cache.clone()), ..options("sm_90a") };
    let file = cubin_of("sm_90a");
    let (first, report, stages, said) = place.build("first", &with);
    let cubin = place.file("first", &file).expect("machine code");
    assert!(stages.contains("assembler") && said.is_empty(), "{stages:?} {said:?}");
    assert!(cubin.starts_with(b"\x7fELF") && report.object_bytes > cubin.len());
    let version = assembler.version().expect("a version");
    assert!(version.starts_with("ptxas ") && code(&first).contains(&version), "{}", code(&first));
    assert_eq!(first.gpu_kernels().map(|k| k.cubins().map(str::to_string).collect()), Some(vec!["sm_90a".to_string()]));

    // Again with the cache, and with an empty one: the same, byte for byte.
    let (_, second, stages, _) = place.build("second", &with);
    assert!(!stages.contains("assembler"), "it was assembled twice");
    let (_, third, stages, _) =
        place.build("third", &BuildOptions { records: Some(place.dir.path().join("empty")), ..with.clone() });
    assert!(stages.contains("assembler"));
    assert_eq!((&second.digest, &third.digest), (&report.digest, &report.digest));
    // What is damaged in the cache is made again.
    let kept: Vec<_> =
        std::fs::read_dir(cache.join("cubins")).expect("the cache").flatten().map(|e| e.path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let mut bytes = std::fs::read(&kept[0]).expect("kept");
    let at = seed as usize % bytes.len();
    bytes[at] ^= 1 << (seed % 8);
    std::fs::write(&kept[0], &bytes).expect("written");
    let (_, fourth, stages, _) = place.build("fourth", &with);
    assert!(stages.contains("assembler") && fourth.digest == report.digest, "seed {seed}: byte {at}");
    // Another target is another text.
    let other = BuildOptions { target: Target::get("sm_80").expect("declared"), ..with.clone() };
    let (_, _, stages, _) = place.build("other", &other);
    assert!(stages.contains("assembler") && place.file("other", &cubin_of("sm_80")).is_some());
    assert_ne!(with.key().expect("a key"), options("sm_90a").key().expect("a key"));

    // The emulator takes text alone; a driver that refuses machine code is given the text, and that is said.
    let ids = &Golden::load("llama").expect("a golden").ids[..6];
    let mut plain = session(&first, false, seed);
    let mut refused = session(&first, true, seed);
    assert_eq!(plain.notes().len(), 0);
    assert!(
        refused.notes().len() == 1 && refused.notes()[0].contains("refuses the machine code"),
        "{:?}",
        refused.notes()
    );
    let logits = |s: &mut Session| e2e::logits(s, ids).expect("logits");
    assert_eq!(logits(&mut plain), logits(&mut refused), "seed {seed}");
}

#[test]
fn without_an_assembler() {
    let place = Place::new();
    let (artifact, _, stages, said) = place.build("plain", &options("sm_90a"));
    assert!(!stages.contains("assembler") && said.is_empty() && place.file("plain", &cubin_of("sm_90a")).is_none());
    assert!(code(&artifact).contains("PTX alone") && code(&artifact).contains("no assembler"), "{}", code(&artifact));
    assert!(session(&artifact, true, seed()).notes().is_empty());
}

/// A program in the assembler's place.
#[cfg(unix)]
fn stand_in(folder: &Path, script: &str) -> Assembler {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("ptxas");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    Assembler::at(path)
}

#[test]
#[cfg(unix)]
fn an_assembler_that_cannot() {
    let place = Place::new();
    let version = "[ \"$1\" = --version ] && echo 'Cuda compilation tools, release 9.1, V9.1.7' && exit";
    let assembler = stand_in(place.dir.path(), &format!("{version}\necho 'no such arch' >&2; exit 255"));
    let (artifact, _, _, said) = place.build("old", &BuildOptions { assembler: Some(assembler), ..options("sm_90a") });
    assert!(said.len() == 1 && said[0].contains("ptxas 9.1.7 refuses the kernels (no such arch)"), "{said:?}");
    assert!(code(&artifact).contains("PTX alone"), "{}", code(&artifact));
    let silent = stand_in(place.dir.path(), "exit 0");
    let with = BuildOptions { assembler: Some(silent), ..options("sm_90a") };
    let e = build(&place.model, &place.dir.path().join("x"), &with, &mut |_| {}).expect_err("refused");
    assert!(e.to_string().contains("does not say its version"), "{e}");
}

#[test]
fn kernels_reach_a_share() {
    let (place, seed) = (Place::new(), seed());
    let (artifact, ..) = place.build("plain", &options("sm_90a"));
    let target = Target::get("sm_90a").expect("declared");
    let small = EmulatedGpu { l2_bytes: 32 << 10, seed, ..EmulatedGpu::default() };
    let reading = reading_of(&mut EmulatedDriver::new(small.clone()), &target).expect("a rate");
    assert!(reading.gpu.as_ref().is_some_and(|g| g.sm == 90) && reading.rate.best > 0.0, "{reading:?}");
    let old = EmulatedGpu { sm: 86, ..small.clone() };
    let e = reading_of(&mut EmulatedDriver::new(old), &target).err();
    assert!(matches!(e, Some(DriverError::Gpu(GpuError::WrongArch { device: 86, .. }))), "{e:?}");

    let how = SessionOptions { ctx: Some(64), profile: true, ..SessionOptions::default() };
    let mut session =
        Session::with_driver(artifact.clone(), Box::new(EmulatedDriver::new(small)), how).expect("a session");
    let ids = &Golden::load("llama").expect("a golden").ids[..9];
    session.eval(ids, Logits::Last).expect("logits");
    session.eval(&ids[..1], Logits::Last).expect("logits");
    let times = session.profile();
    let reached = reach(&artifact, &times, reading.rate.best);
    for r in &reached {
        let want = r.bytes as f64 / r.ns * 1e9 / reading.rate.best;
        assert!(r.ns > 0.0 && (r.share - want).abs() <= 1e-9 * want, "seed {seed}: {r:?}");
    }
    let reads = |op: &str| reached.iter().filter(|r| r.kernel.ends_with(op)).all(|r| r.bytes > 0 && r.share > 0.0);
    assert!(reads("_matmul") && reads("_attention"), "seed {seed}: {reached:?}");
    // Of each program that ran all calls and all of the time.
    for max_tokens in times.iter().map(|t| t.max_tokens).collect::<BTreeSet<u32>>() {
        let of = || reached.iter().filter(|r| r.max_tokens == max_tokens);
        let timed = || times.iter().filter(|t| t.max_tokens == max_tokens && t.runs > 0);
        assert_eq!(of().map(|r| r.calls as usize).sum::<usize>(), timed().count());
        let (a, b): (f64, f64) =
            (of().map(|r| f64::from(r.calls) * r.ns).sum(), timed().map(|t| t.nanos as f64 / t.runs as f64).sum());
        assert!((a / b - 1.0).abs() < 1e-9, "seed {seed}: {a} {b}");
    }
}
