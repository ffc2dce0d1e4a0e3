//! The whole way from a tiny model's file to logits, for tests.
//!
//! ```no_run
//! use tilewright_tests::{e2e, quant::Quant, tiny::Golden};
//! let golden = Golden::load("qwen2").unwrap();
//! let built = e2e::gguf(&golden, Quant::Q8_0, &e2e::options()).unwrap();
//! let logits = e2e::logits(&mut built.session(2).unwrap(), &golden.ids).unwrap();
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use tempfile::TempDir;
use tilewright_driver::{BuildOptions, BuildReport, build};
use tilewright_models::model::Model;
use tilewright_runtime::artifact::Artifact;
use tilewright_runtime::session::{Logits, Session, SessionOptions};

use crate::quant::Quant;
use crate::tiny::{Golden, HfStyle};

/// A built artifact and the model it came from; both lie in a folder that goes with this.
pub struct Built {
    /// The folder.
    pub dir: TempDir,
    /// The model.
    pub model: Model,
    /// The artifact.
    pub artifact: Arc<Artifact>,
    /// What building did.
    pub report: BuildReport,
}

impl Built {
    /// A session over the whole context of the model, at most 512 tokens.
    pub fn session(&self, threads: usize) -> Result<Session> {
        let ctx = self.artifact.plan().model.n_ctx.min(512);
        let options = SessionOptions { ctx: Some(ctx), threads: Some(threads), profile: false };
        Ok(Session::new(self.artifact.clone(), options)?)
    }
}

/// Default options for this machine.
pub fn options() -> BuildOptions {
    BuildOptions::for_host().expect("a target for this machine")
}

/// Builds a golden's model from a GGUF file.
pub fn gguf(golden: &Golden, quant: Quant, options: &BuildOptions) -> Result<Built> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("model.gguf");
    golden.write_gguf(&file, quant)?;
    built(dir, &file, options)
}

/// Builds a golden's model from a Hugging Face folder.
pub fn hf(golden: &Golden, style: HfStyle, options: &BuildOptions) -> Result<Built> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("hf");
    golden.write_hf(&folder, style, Quant::F32)?;
    built(dir, &folder, options)
}

fn built(dir: TempDir, file: &Path, options: &BuildOptions) -> Result<Built> {
    let model = Model::open(file)?;
    let out = dir.path().join("model.tw");
    let report = build(&model, &out, options, &mut |_| {})?;
    let artifact = Arc::new(Artifact::open(&out)?);
    Ok(Built { dir, model, artifact, report })
}

/// Logits of every position, all tokens at once.
pub fn logits(session: &mut Session, ids: &[u32]) -> Result<Vec<f32>> {
    session.reset();
    Ok(session.eval(ids, Logits::All)?.to_vec())
}

/// Logits of every position, one token at a time.
pub fn logits_stepwise(session: &mut Session, ids: &[u32]) -> Result<Vec<f32>> {
    session.reset();
    let mut out = vec![];
    for id in ids {
        out.extend_from_slice(session.eval(std::slice::from_ref(id), Logits::Last)?);
    }
    Ok(out)
}

/// Largest difference in units of the largest value of `b`; infinite where either is no number or lengths differ.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() || a.iter().chain(b).any(|x| !x.is_finite()) {
        return f32::INFINITY;
    }
    let most = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |d, (x, y)| d.max((x - y).abs())) / most
}

/// The command-line program: a binary of another crate.
pub fn program() -> &'static Path {
    &others().program
}

/// A folder that is searched for NVIDIA's driver before all others, if it is put into `LD_LIBRARY_PATH`: what it has is the one
/// of `tests/fake-cuda`.
pub fn fake_cuda(folder: &Path) -> std::io::Result<()> {
    // The names that it is looked for by, so that a real one is not found by another.
    let mut names = ["libcuda.so", "libcuda.so.1"].iter();
    names.try_for_each(|name| std::os::unix::fs::symlink(&others().fake_cuda, folder.join(name)))
}

/// What tests run and do not link.
struct Others {
    program: PathBuf,
    fake_cuda: PathBuf,
}

/// Built on the first call.
fn others() -> &'static Others {
    static OTHERS: OnceLock<Others> = OnceLock::new();
    OTHERS.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let packages = ["-p", "tilewright-cli", "-p", "tilewright-fake-cuda"];
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let mut command = Command::new(cargo);
        command.args(["build", "--release", "--quiet", "--message-format=json"]).args(packages).current_dir(root);
        let out = command.output().expect("cargo");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let messages = String::from_utf8(out.stdout).expect("UTF-8");
        let made: Vec<serde_json::Value> = messages.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let of = |target: &str| {
            let file = |m: &serde_json::Value| {
                Some(m["filenames"][0].as_str().filter(|_| m["target"]["name"] == target)?.into())
            };
            made.iter().find_map(file).unwrap_or_else(|| panic!("cargo made no {target}"))
        };
        Others { program: of("compile-model"), fake_cuda: of("fake_cuda") }
    })
}
