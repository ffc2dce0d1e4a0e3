//! Opening an artifact: everything is checked here, and nothing runs before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::hash::{SEGMENT_BYTES, first_difference};
use super::{
    CHAT_TEMPLATE, FileEntry, GRAPH, KERNELS, MANIFEST, Manifest, PLAN, TOKENIZER, WEIGHTS, is_kernels,
    missing_features,
};
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
    /// Threads for that; `None` for as many as there are cores.
    pub threads: Option<usize>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { verify_weights: true, threads: None }
    }
}

/// An opened artifact: checked, with kernels loaded and weights mapped. Shared by sessions.
#[derive(Debug)]
pub struct Artifact {
    dir: PathBuf,
    manifest: Manifest,
    plan: Plan,
    kernels: Kernels,
    weights: Option<Mmap>,
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
        let take = |files: &mut BTreeMap<_, _>, name: &str| {
            files.remove(name).ok_or_else(|| ArtifactError::rejected(MANIFEST, format!("{name} is not listed")))
        };
        let mut kernels = Kernels::load(&take(&mut files, KERNELS)?)?;
        let more: Vec<String> = files.keys().filter(|name| is_kernels(name)).cloned().collect();
        for name in more {
            kernels.join(Kernels::load(&take(&mut files, &name)?)?);
        }
        let plan: Plan = serde_json::from_slice(&take(&mut files, PLAN)?)
            .map_err(|e| ArtifactError::rejected(PLAN, e.to_string()))?;
        plan.validate(|name| kernels.get(name).is_some()).map_err(|e| ArtifactError::rejected(PLAN, e.to_string()))?;
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

    /// The kernels.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The packed weights.
    pub fn weights(&self) -> &[u8] {
        self.weights.as_deref().unwrap_or_default()
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
        Some(i) => {
            Err(ArtifactError::rejected(name, format!("the hash of the part at byte {} differs", i * SEGMENT_BYTES)))
        }
    }
}

fn open_weights(
    dir: &Path,
    manifest: &Manifest,
    planned: u64,
    options: OpenOptions,
) -> Result<Option<Mmap>, ArtifactError> {
    let entry = manifest.files.get(WEIGHTS).ok_or_else(|| ArtifactError::rejected(MANIFEST, "no weights"))?;
    if entry.bytes != planned {
        return Err(ArtifactError::rejected(
            PLAN,
            format!("it is for weights of {planned} bytes, there are {}", entry.bytes),
        ));
    }
    let path = dir.join(WEIGHTS);
    let (file, bytes) = open_sized(&path, WEIGHTS, Some(planned))?;
    if bytes == 0 {
        return Ok(None);
    }
    // SAFETY: the mapping is read-only and private. The bytes are only read by kernels and the hash; a process that cuts
    // the file short while it is mapped makes this one stop with SIGBUS, which the module documentation leaves to trust.
    let map = unsafe { Mmap::map(&file) }.map_err(|source| ArtifactError::Io { path, source })?;
    #[cfg(unix)]
    let _ = map.advise(memmap2::Advice::WillNeed);
    if options.verify_weights {
        let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        // Mapping pages in by the range is cheaper than a fault for each.
        check_hashes(WEIGHTS, &map, entry, threads, |_start, _len| {
            #[cfg(target_os = "linux")]
            let _ = map.advise_range(memmap2::Advice::PopulateRead, _start, _len);
        })?;
    }
    Ok(Some(map))
}
