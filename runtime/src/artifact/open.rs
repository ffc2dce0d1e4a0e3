//! Opening an artifact: everything is checked here, and nothing runs before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::code::{GpuKernels, KernelCode};
use super::hash::{SEGMENT_BYTES, first_difference};
use super::weights::{Copy, HugePages, Weights};
use super::{CHAT_TEMPLATE, FileEntry, GRAPH, MANIFEST, Manifest, PLAN, TOKENIZER, WEIGHTS, missing_features};
use crate::error::ArtifactError;
use crate::loader::Kernels;
use crate::plan::Plan;

/// Most bytes of the manifest.
const MAX_MANIFEST: u64 = 64 << 20;
/// Most bytes of a file that is read into memory (all but the weights).
const MAX_SMALL: u64 = 512 << 20;

/// How to open an artifact.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Whether `weights.bin` is hashed (100 MiB: 13 ms on two Zen 4 cores, 24 ms on one). Its size is always checked.
    pub verify_weights: bool,
    /// Threads to read and hash; `None` for as many as there are cores.
    pub threads: Option<usize>,
    /// Whether weights are copied into huge pages.
    pub huge_pages: HugePages,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { verify_weights: true, threads: None, huge_pages: HugePages::default() }
    }
}

/// An opened artifact: checked, with kernels loaded and weights in memory. Shared by sessions.
#[derive(Debug)]
pub struct Artifact {
    dir: PathBuf,
    manifest: Manifest,
    plan: Plan,
    kernels: KernelCode,
    weights: Weights,
    files: BTreeMap<String, Vec<u8>>,
}

impl Artifact {
    /// Opens the folder `dir` and checks all of it, the weights too.
    pub fn open(dir: impl AsRef<Path>) -> Result<Artifact, ArtifactError> {
        Artifact::open_with(dir, OpenOptions::default())
    }

    /// Opens the folder `dir`.
    pub fn open_with(dir: impl AsRef<Path>, options: OpenOptions) -> Result<Artifact, ArtifactError> {
        let dir = dir.as_ref().to_path_buf();
        let manifest = Manifest::parse(&read_limited(&dir.join(MANIFEST), MANIFEST, None)?)?;
        check_machine(&manifest)?;
        for (name, entry) in &manifest.files {
            if name != WEIGHTS && entry.bytes > MAX_SMALL {
                return Err(ArtifactError::rejected(name, format!("{} bytes are too many", entry.bytes)));
            }
        }
        let mut files = BTreeMap::new();
        for (name, entry) in manifest.files.iter().filter(|(name, _)| *name != WEIGHTS) {
            let bytes = read_limited(&dir.join(name), name, Some(entry.bytes))?;
            check_hashes(name, &bytes, entry, 1, |_, _| {})?;
            files.insert(name.clone(), bytes);
        }
        let gpu = manifest.info.target.is_gpu();
        let kernels = KernelCode::take(KernelCode::main_file(gpu), &mut files)?;
        let bad_plan = |what: String| ArtifactError::rejected(PLAN, what);
        let plan = files.remove(PLAN).ok_or_else(|| ArtifactError::rejected(MANIFEST, "no plan"))?;
        let plan: Plan = serde_json::from_slice(&plan).map_err(|e| bad_plan(e.to_string()))?;
        plan.validate(|name| kernels.has(name)).map_err(|e| bad_plan(e.to_string()))?;
        if plan.is_gpu() != gpu {
            let kind = |gpu| if gpu { "a GPU" } else { "a CPU" };
            return Err(bad_plan(format!("it is for {}, the artifact for {}", kind(!gpu), kind(gpu))));
        }
        // What goes to a GPU is read once.
        let options = OpenOptions { huge_pages: if gpu { HugePages::Off } else { options.huge_pages }, ..options };
        let weights = open_weights(&dir, &manifest, plan.weights_bytes, options)?;
        Ok(Artifact { dir, manifest, plan, kernels, weights, files })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The kernels, if they are for a CPU.
    pub fn kernels(&self) -> Option<&Kernels> {
        if let KernelCode::Cpu(kernels) = &self.kernels { Some(kernels) } else { None }
    }

    /// The kernels, if they are for a GPU.
    pub fn gpu_kernels(&self) -> Option<&GpuKernels> {
        if let KernelCode::Gpu(kernels) = &self.kernels { Some(kernels) } else { None }
    }

    /// The packed weights.
    pub fn weights(&self) -> &[u8] {
        self.weights.bytes()
    }

    /// Whether the weights are a copy, in memory that is taken already, and not the file's pages.
    pub fn weights_copied(&self) -> bool {
        self.weights.copied()
    }

    /// The tokenizer's JSON.
    pub fn tokenizer(&self) -> &[u8] {
        self.file(TOKENIZER).unwrap_or_default()
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Option<&str> {
        std::str::from_utf8(self.file(CHAT_TEMPLATE)?).ok()
    }

    /// The graph dump, if the compiler wrote one.
    pub fn graph(&self) -> Option<&str> {
        std::str::from_utf8(self.file(GRAPH)?).ok()
    }

    /// Any file but plan, kernels and weights.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }
}

fn check_machine(manifest: &Manifest) -> Result<(), ArtifactError> {
    let target = &manifest.info.target;
    if target.is_gpu() {
        return Ok(());
    }
    let mut missing = missing_features(target.features.iter().map(String::as_str));
    if target.arch != std::env::consts::ARCH {
        missing = vec![&target.arch];
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(ArtifactError::Mismatch { target: target.name.clone(), missing: missing.join(", ") })
}

/// Opens a regular file whose size is `expected`. A pipe or device would block or never end.
fn open_sized(path: &Path, name: &str, expected: Option<u64>) -> Result<(File, u64), ArtifactError> {
    let io = |source| ArtifactError::Io { path: path.into(), source };
    let meta = fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(ArtifactError::rejected(name, "it is not a regular file"));
    }
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if let Some(expected) = expected.filter(|n| *n != bytes) {
        return Err(ArtifactError::rejected(name, format!("it has {bytes} bytes, the manifest says {expected}")));
    }
    Ok((file, bytes))
}

fn read_limited(path: &Path, name: &str, expected: Option<u64>) -> Result<Vec<u8>, ArtifactError> {
    let (file, bytes) = open_sized(path, name, expected)?;
    if expected.is_none() && bytes > MAX_MANIFEST {
        return Err(ArtifactError::rejected(name, format!("{bytes} bytes are too many")));
    }
    let mut out = Vec::with_capacity(bytes as usize);
    file.take(bytes).read_to_end(&mut out).map_err(|source| ArtifactError::Io { path: path.into(), source })?;
    Ok(out)
}

fn check_hashes(
    name: &str,
    data: &[u8],
    entry: &FileEntry,
    threads: usize,
    prepare: impl Fn(usize, usize) + Sync,
) -> Result<(), ArtifactError> {
    if data.len() as u64 != entry.bytes {
        return Err(ArtifactError::rejected(name, format!("{} bytes of {}", data.len(), entry.bytes)));
    }
    match first_difference(data, &entry.blake3, threads, prepare) {
        None => Ok(()),
        Some(i) => Err(differs(name, i)),
    }
}

fn open_weights(dir: &Path, manifest: &Manifest, planned: u64, options: OpenOptions) -> Result<Weights, ArtifactError> {
    let entry = manifest.files.get(WEIGHTS).ok_or_else(|| ArtifactError::rejected(MANIFEST, "no weights"))?;
    if entry.bytes != planned {
        return Err(ArtifactError::rejected(
            PLAN,
            format!("it is for weights of {planned} bytes, there are {}", entry.bytes),
        ));
    }
    let path = dir.join(WEIGHTS);
    let (file, bytes) = open_sized(&path, WEIGHTS, Some(planned))?;
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let io = |source| ArtifactError::Io { path: path.clone(), source };
    if options.huge_pages.wanted(bytes)
        && let Some(mut copy) = Copy::new(bytes)
    {
        let hashes = options.verify_weights.then_some(&entry.blake3[..]);
        return match copy.fill(&file, hashes, threads).map_err(io)? {
            None => copy.finish().map_err(io),
            Some(i) => Err(differs(WEIGHTS, i)),
        };
    }
    let weights = Weights::map(&file, bytes).map_err(io)?;
    if options.verify_weights {
        check_hashes(WEIGHTS, weights.bytes(), entry, threads, |start, len| weights.populate(start, len))?;
    }
    Ok(weights)
}

fn differs(name: &str, segment: usize) -> ArtifactError {
    ArtifactError::rejected(name, format!("the hash of the part at byte {} differs", segment * SEGMENT_BYTES))
}
