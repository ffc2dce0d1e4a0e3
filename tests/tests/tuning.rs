//! Tuning from end to end: on this machine, of a schedule with candidates that lie, and of a tiny model by the command line.
//! Nothing here depends on which candidate is the fastest.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tilewright_autotune::candidate::params_in;
use tilewright_autotune::fingerprint::Device;
use tilewright_autotune::record::Record;
use tilewright_autotune::store::{self, Store};
use tilewright_autotune::tuner::{Level, Tuner, compiler, operation};
use tilewright_codegen::pack::{Layout, Store as Float};
use tilewright_codegen::schedules::{Activations, Axis, Matmul, Operands, Params, Schedule, Space, defaults};
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::Kernel;
use tilewright_tests::e2e::program;
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

const BUDGET: Duration = Duration::from_secs(3);

fn matmul(max_tokens: u32) -> Matmul {
    let x = Activations::F32 { stride: 512 };
    let layout = Layout::Float(Float::F16);
    Matmul { layout, rows: 256, cols: 128, x, bias: false, residual: None, out_stride: 1024, max_tokens }
}

fn tuner() -> Tuner {
    Tuner::new(&Target::detect().expect("a target"), 2, Level::Quick, 7).expect("a tuner")
}

#[test]
fn a_record_of_this_machine() {
    let (root, tuner) = (tempfile::tempdir().expect("a folder"), tuner());
    for max_tokens in [1, 8] {
        let m = matmul(max_tokens);
        let mut heard = 0;
        let outcome = tuner.tune(&m, BUDGET, None, &mut |_| heard += 1).expect("tuned");
        let r = outcome.record;
        assert_eq!(r.check(), Ok(()));
        assert_eq!((r.op.as_str(), r.threads, r.device.as_str()), (&*operation(&m), 2, &*Device::detect().id()));
        let params = params_in(&m.space(), &r.params).expect("a point of the space");
        assert!(m.chunks(&params) >= 2, "{params:?} leaves a thread idle");
        assert!(r.tried > 1 && r.error < 1e-9 && r.floor_ns > 0.0 && heard >= r.tried, "{r:?}");
        assert_eq!(r.rejected, outcome.refused.values().sum::<u32>());
        let is_default = params == defaults(&m.space());
        assert!(r.history.iter().any(|t| t.params == r.params), "the winner was timed");
        assert!(is_default || r.ns < r.default_ns, "{r:?}");
        let mut store = Store::open(root.path(), &Device::detect().id(), &compiler()).expect("a store");
        store.append(&r).expect("a good record");
        let again = Store::open(root.path(), &Device::detect().id(), &compiler()).expect("a store");
        assert_eq!(again.get(&r.key()).map(|k| &k.params), Some(&r.params));
    }
}

/// A product with candidates that are fast because they leave work out.
struct Planted(Matmul);

impl Schedule for Planted {
    fn signature(&self) -> String {
        format!("planted {}", self.0.signature())
    }

    fn space(&self) -> Space {
        vec![Axis { name: "panels", values: vec![2, 4] }, Axis { name: "lie", values: vec![0, 1, 2, 3] }]
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.honest(p).chunks(&self.params(p))
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        self.honest(p).build(name, &self.params(p))
    }

    fn operands(&self) -> Operands {
        self.0.operands()
    }
}

impl Planted {
    /// What a candidate computes: everything, half of each sum, half of the rows, or with bf16 where f16 lies.
    fn honest(&self, p: &Params) -> Matmul {
        let m = self.0.clone();
        match p["lie"] {
            1 => Matmul { cols: m.cols / 2, ..m },
            2 => Matmul { rows: m.rows / 2, ..m },
            3 => Matmul { layout: Layout::Float(Float::BF16), ..m },
            _ => m,
        }
    }

    fn params(&self, p: &Params) -> Params {
        let mut params = defaults(&self.0.space());
        params.insert("panels", p["panels"]);
        params
    }
}

#[test]
fn candidates_that_lie_are_refused() {
    let outcome = tuner().tune(&Planted(matmul(1)), BUDGET, None, &mut |_| {}).expect("tuned");
    assert_eq!(outcome.record.params["lie"], 0, "{:?}", outcome.record);
    let backends = tilewright_codegen::backend::for_target(&Target::detect().expect("a target")).count() as u32;
    assert_eq!((outcome.record.tried, outcome.refused["wrong"]), (2 * backends, 6 * backends), "{outcome:?}");
    assert!(outcome.record.history.iter().all(|t| t.params["lie"] == 0), "a liar was timed");
}

/// A tiny model and a cache of its own.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a folder");
        let golden = Golden::load("llama").expect("a golden");
        golden.write_gguf(&dir.path().join("tiny.gguf"), Quant::Q8_0).expect("a model");
        Place(dir)
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn call(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("COMPILE_MODEL_")) {
            command.env_remove(name);
        }
        command.env("COMPILE_MODEL_CACHE_DIR", self.cache());
        command.arg(args[0]).arg(self.0.path().join("tiny.gguf")).args(&args[1..]);
        command.stdin(Stdio::null()).output().expect("the program")
    }

    /// Lines of stdout and stderr of a call that must work.
    fn answer(&self, args: &[&str]) -> (Vec<String>, Vec<String>) {
        let out = self.call(args);
        let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_string).collect();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        (lines(&out.stdout), lines(&out.stderr))
    }

    /// Why each kernel is as it is.
    fn reasons(&self, more: &[&str]) -> Vec<Value> {
        let (out, _) = self.answer(&[&["explain", "--json"], more].concat());
        let all: Value = serde_json::from_str(&out[0]).expect("JSON");
        let choices = all["choices"].as_array().expect("choices").iter();
        let kernels = choices.filter(|c| c["what"].as_str().is_some_and(|w| w.starts_with("kernel ")));
        kernels.map(|c| c["why"].clone()).collect()
    }

    fn build(&self) -> PathBuf {
        PathBuf::from(&self.answer(&["build"]).0[0])
    }
}

fn records(folder: &Path) -> Vec<PathBuf> {
    store::files(&store::folder(folder)).expect("a folder")
}

#[test]
fn from_tuning_to_a_build() {
    let place = Place::new();
    for verb in [vec!["build", "--frozen"], vec!["run", "--frozen", "-p", "x"], vec!["explain", "--frozen"]] {
        let out = place.call(&verb);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{verb:?}: {said}");
        assert!(said.contains("no record for") && said.contains("compile-model tune -m MODEL -t"), "{verb:?}: {said}");
    }
    let plain = place.build();
    assert!(place.reasons(&[]).iter().all(|w| w["from"] == "default"));

    let (rows, _) = place.answer(&["tune", "--json", "--budget", "6"]);
    assert!(rows.len() >= 4, "{rows:?}");
    for row in &rows {
        let row: Value = serde_json::from_str(row).expect("JSON");
        assert!(row["record"]["ns"].as_f64() > Some(0.0) && row["calls"].as_u64() > Some(0), "{row}");
    }
    let reasons = place.reasons(&["--frozen"]);
    let tuned = |w: &&Value| w["from"] == "user";
    assert_eq!(reasons.iter().filter(tuned).count(), rows.len(), "{reasons:?}");
    assert!(reasons.iter().filter(tuned).all(|w| w["tried"].as_u64() > Some(0) && w["date"].is_string()));
    assert!(reasons.iter().filter(|w| !tuned(w)).all(|w| w["reason"] == "nothing to choose"), "{reasons:?}");
    assert!(place.reasons(&["--tune", "off"]).iter().all(|w| w["from"] == "default"));

    let with_records = place.build();
    assert_ne!(plain, with_records, "new records, new artifact");
    assert_eq!(with_records, place.build(), "the same records, the same artifact");
    let (text, _) = place.answer(&["explain"]);
    assert!(text.iter().any(|l| l.contains("user record of") && l.contains("x the default")), "{text:?}");
    let (out, _) = place.answer(&["run", "--frozen", "-p", "hello", "-n", "3", "--temp", "0"]);
    assert!(!out.is_empty());
}

#[test]
fn bad_records_are_said_once_and_ignored() {
    let place = Place::new();
    place.answer(&["tune", "--json", "--budget", "4", "--kernel", "attn_output"]);
    let files = records(&place.cache());
    assert_eq!(files.len(), 1, "one machine, one file");
    let good = place.reasons(&[]).iter().filter(|w| w["from"] == "user").count();
    assert!(good > 0);
    // Two lines that are no records, and one of another machine.
    let mut file = std::fs::OpenOptions::new().append(true).open(&files[0]).expect("the file");
    file.write_all(b"{\"crc\":\"00000000\",\"record\":{}}\n\xff\xfe\n").expect("written");
    store::append(&files[0], &Record { device: "feed".into(), ..Record::example() }).expect("written");
    let (_, said) = place.answer(&["explain", "--json"]);
    let about: Vec<&String> = said.iter().filter(|l| l.contains("ignored")).collect();
    assert_eq!(about.len(), 1, "{said:?}");
    assert!(about[0].contains("2 damaged") && about[0].contains("1 of another machine"), "{about:?}");
    assert_eq!(place.reasons(&[]).iter().filter(|w| w["from"] == "user").count(), good);

    // A record whose parameters no schedule has.
    let bytes = std::fs::read(&files[0]).expect("the file");
    let line = bytes.split(|b| *b == b'\n').next().expect("a line");
    let record = tilewright_autotune::line::read(line).expect("a record");
    store::append(&files[0], &Record { params: [("panels".to_string(), 12345)].into(), ..record }).expect("written");
    let (_, said) = place.answer(&["explain", "--json"]);
    assert!(said.iter().any(|l| l.contains("is not used")), "{said:?}");
    assert!(place.reasons(&[]).iter().filter(|w| w["from"] == "user").count() < good);
}
