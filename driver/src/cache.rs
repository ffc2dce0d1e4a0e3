//! The cache of built artifacts: a raw model is built once and found there the next time.
//!
//! The key is what decides the result: the model's files (path, size, time of change), the options, the compiler's version
//! and the records that the model's kernels have. Nothing is ever deleted here.

use crate::{BuildOptions, DriverError, Progress, build, records};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use tilewright_autotune::candidate::is_tunable;
use tilewright_autotune::tuner::operation;
use tilewright_models::model::Model;

/// A folder of artifacts.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `dir`, else `$COMPILE_MODEL_CACHE_DIR`, else the platform's cache folder.
    pub fn open(dir: Option<&Path>) -> Result<Cache, DriverError> {
        if let Some(dir) = dir {
            return Ok(Cache { root: dir.to_path_buf() });
        }
        if let Some(dir) = std::env::var_os("COMPILE_MODEL_CACHE_DIR").filter(|d| !d.is_empty()) {
            return Ok(Cache { root: dir.into() });
        }
        use etcetera::BaseStrategy;
        let base = etcetera::choose_base_strategy().map_err(|e| DriverError::NoCache(e.to_string()))?;
        Ok(Cache { root: base.cache_dir().join("compile-model") })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the artifact of `model` with `options` is, built or not.
    pub fn path(&self, model: &Path, options: &BuildOptions) -> Result<PathBuf, DriverError> {
        let io = |source| DriverError::Io { path: model.to_path_buf(), source };
        let full = model.canonicalize().map_err(io)?;
        let mut hash = blake3::Hasher::new();
        hash.update(env!("CARGO_PKG_VERSION").as_bytes());
        hash.update(options.key()?.as_bytes());
        hash.update(full.as_os_str().as_encoded_bytes());
        for file in model_files(&full)? {
            let meta = file.metadata().map_err(io)?;
            let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            hash.update(file.as_os_str().as_encoded_bytes());
            hash.update(&meta.len().to_le_bytes());
            hash.update(&time.as_nanos().to_le_bytes());
        }
        let stem = full.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let stem: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
        let folder = self.root.join("artifacts");
        let base = format!("{stem}-{}", &hash.finalize().to_hex()[..16]);
        let Some(layers) = records::layers(options)? else { return Ok(folder.join(base)) };
        if layers.records().is_empty() && !options.frozen {
            return Ok(folder.join(base));
        }
        let mut hash = blake3::Hasher::new();
        let mut used = 0;
        for op in operations_of(model, &folder.join(format!("{base}.ops")), options)? {
            match records::find(&layers, &op, options) {
                Some((r, _)) => {
                    used += 1;
                    // What decides the kernel, and its date: the artifact says it.
                    hash.update(format!("{op} {} {:?} {}\n", r.backend, r.params, r.date).as_bytes());
                }
                None if options.frozen => return Err(records::no_record(op, options)),
                None => {}
            }
        }
        let digest = hash.finalize().to_hex();
        Ok(folder.join(if used == 0 { base } else { format!("{base}-{}", &digest[..12]) }))
    }
}

/// The operations of `model` that records may be of. Finding them takes most of a compilation, so they are kept in `file`;
/// it is no more than a shortcut, and where it cannot be written or read the work is done again.
fn operations_of(model: &Path, file: &Path, options: &BuildOptions) -> Result<Vec<String>, DriverError> {
    if let Ok(text) = std::fs::read_to_string(file)
        && let Some(lines) = text.strip_suffix("end\n")
    {
        return Ok(lines.lines().map(str::to_string).collect());
    }
    let operations = crate::build::operations(&Model::open(model)?, options)?;
    let tunable = operations.iter().map(|o| o.schedule.as_ref()).filter(|s| is_tunable(*s, &options.target));
    let names: Vec<String> = tunable.map(|s| operation(s)).collect();
    let text: String = names.iter().map(|n| format!("{n}\n")).chain(["end\n".to_string()]).collect();
    let _ = file.parent().map(std::fs::create_dir_all);
    let _ = std::fs::write(file, text);
    Ok(names)
}

/// Which file names belong to a model.
type Keep = Box<dyn Fn(&str) -> bool>;

/// The files that a model is made of: a GGUF file with its other parts if it is split, or what lies in a folder.
pub(crate) fn model_files(path: &Path) -> Result<Vec<PathBuf>, DriverError> {
    let io = |source| DriverError::Io { path: path.to_path_buf(), source };
    let (folder, keep): (PathBuf, Keep) = if path.is_dir() {
        (path.to_path_buf(), Box::new(|n| [".json", ".safetensors", ".jinja"].iter().any(|e| n.ends_with(e))))
    } else {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // `name-00001-of-00003.gguf`: the parts differ in one number.
        let Some((stem, count)) = name.rsplit_once("-of-").map(|(s, c)| (s.to_string(), c.to_string())) else {
            return Ok(vec![path.to_path_buf()]);
        };
        let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit()).to_string();
        let keep = move |n: &str| n.starts_with(&stem) && n.ends_with(&format!("-of-{count}"));
        (path.parent().map(Path::to_path_buf).unwrap_or_default(), Box::new(keep))
    };
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(io)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.is_file() && p.file_name().is_some_and(|n| keep(&n.to_string_lossy())))
        .collect();
    files.sort();
    Ok(files)
}

/// Makes the records that `options` want and that are missing; the options to go on with, which take what there is. To be
/// called before [`Cache::path`], since records are part of it.
pub fn tuned(
    path: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BuildOptions, DriverError> {
    if options.tune.level().is_some() {
        return crate::tune::missing(&Model::open(path)?, options, progress);
    }
    Ok(options.clone())
}

/// The artifact of a model: `path` itself if it is one, else the cache's, built first if need be.
pub fn cached_artifact(
    path: &Path,
    cache: &Cache,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, DriverError> {
    if path.join(tilewright_runtime::artifact::MANIFEST).is_file() {
        return Ok(path.to_path_buf());
    }
    let options = &tuned(path, options, progress)?;
    let target = cache.path(path, options)?;
    if !target.join(tilewright_runtime::artifact::MANIFEST).is_file() {
        build(&Model::open(path)?, &target, options, progress)?;
    }
    Ok(target)
}
