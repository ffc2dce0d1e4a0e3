//! Hugging Face model folders: `config.json` and safetensors files.
//!
//! The folder is not trusted: shard names must be base names, and what they lead to must be a regular file of the folder
//! itself or of the blob store of the Hugging Face cache that the folder belongs to.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::mapped::Mapped;

const MAX_JSON: u64 = 100 << 20;
const MAX_SHARDS: usize = 4096;
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A refused folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum FolderError {
    #[error("{}: no {file} here; give the folder of a Hugging Face checkpoint", folder.display())]
    Missing { folder: PathBuf, file: &'static str },
    #[error("{}: the weights are pickled ({file}), which can run code when loaded; convert them: save_pretrained(folder, safe_serialization=True)", folder.display())]
    Pickle { folder: PathBuf, file: String },
    #[error("{}: {problem}", path.display())]
    Json { path: PathBuf, problem: String },
    #[error("{}: the index names the file {name:?}; only plain file names inside the folder are allowed", folder.display())]
    ShardName { folder: PathBuf, name: String },
    #[error("{}: leads out of the model's folder to {}; copy the file into the folder", path.display(), target.display())]
    Escape { path: PathBuf, target: PathBuf },
    #[error("{}: not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: {problem}; download the file again", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("{}: tensor `{tensor}` is in two shards; remove one", path.display())]
    Duplicate { path: PathBuf, tensor: String },
    #[error("{}: the index places tensor `{tensor}` in {shard}, which does not have it", folder.display())]
    NotInShard { folder: PathBuf, tensor: String, shard: String },
}

/// A tensor of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderTensor {
    /// Unique in the model.
    pub name: String,
    /// Row-major: the last dimension is contiguous.
    pub shape: Vec<u64>,
    /// Element type as safetensors names it, e.g. `BF16`.
    pub dtype: String,
    shard: usize,
    start: usize,
    end: usize,
}

/// An open folder; its weights stay mapped. The files must not be shortened meanwhile.
#[derive(Debug)]
pub struct HfFolder {
    folder: PathBuf,
    config: Value,
    tensors: IndexMap<String, FolderTensor>,
    shards: Vec<Mapped>,
}

impl HfFolder {
    /// Opens a folder with `config.json` and either `model.safetensors` or an index and its shards.
    pub fn open(folder: impl AsRef<Path>) -> Result<HfFolder> {
        let folder = folder.as_ref();
        let config = json(&inside(folder, "config.json")?.ok_or_else(|| missing(folder, "config.json"))?)?;
        let mut out = HfFolder { folder: folder.to_owned(), config, tensors: IndexMap::new(), shards: Vec::new() };
        if let Some(path) = inside(folder, INDEX)? {
            out.indexed(&path)?;
        } else if let Some(path) = inside(folder, SINGLE)? {
            out.shard(&path)?;
        } else if let Some(file) = pickled(folder) {
            return Err(FolderError::Pickle { folder: folder.to_owned(), file }.into());
        } else {
            return Err(missing(folder, SINGLE));
        }
        Ok(out)
    }

    fn indexed(&mut self, path: &Path) -> Result<()> {
        let index = json(path)?;
        let bad = |problem: String| Error::from(FolderError::Json { path: path.to_owned(), problem });
        let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
            return Err(bad("`weight_map` is missing or not an object; download the index again".into()));
        };
        let mut shards: IndexMap<&str, Vec<&str>> = IndexMap::new();
        for (tensor, shard) in map {
            let Some(shard) = shard.as_str() else {
                return Err(bad(format!("the shard of `{tensor}` is not a string; download the index again")));
            };
            shards.entry(shard).or_default().push(tensor);
        }
        shards.sort_keys();
        if shards.len() > MAX_SHARDS {
            return Err(bad(format!("{} shards; at most {MAX_SHARDS} are opened", shards.len())));
        }
        for (shard, tensors) in shards {
            let mut parts = Path::new(shard).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(n)), None) if n == shard);
            if !plain || shard.contains(['/', '\\', '\0', ':']) || !shard.ends_with(".safetensors") {
                return Err(FolderError::ShardName { folder: self.folder.clone(), name: shard.to_owned() }.into());
            }
            let file = inside(&self.folder, shard)?.ok_or_else(|| FolderError::Damaged {
                path: self.folder.join(shard),
                problem: "this shard of the index does not exist".into(),
            })?;
            let no = self.shards.len();
            self.shard(&file)?;
            if let Some(tensor) = tensors.into_iter().find(|t| self.tensors.get(*t).is_none_or(|t| t.shard != no)) {
                let (tensor, shard) = (tensor.to_owned(), shard.to_owned());
                return Err(FolderError::NotInShard { folder: self.folder.clone(), tensor, shard }.into());
            }
        }
        Ok(())
    }

    fn shard(&mut self, path: &Path) -> Result<()> {
        let mapped = Mapped::open(path)?;
        let damaged = |problem: String| FolderError::Damaged { path: path.to_owned(), problem };
        let (header, meta) = safetensors::SafeTensors::read_metadata(&mapped).map_err(|e| damaged(e.to_string()))?;
        let base = header.checked_add(8).ok_or_else(|| damaged("the header is too long".into()))?;
        let no = self.shards.len();
        // By offset, so that the order does not depend on a hash.
        for name in meta.offset_keys() {
            let Some(info) = meta.info(&name) else { continue };
            let (start, end) = info.data_offsets;
            let range = start.checked_add(base).zip(end.checked_add(base)).filter(|r| mapped.get(r.0..r.1).is_some());
            let Some((start, end)) = range else {
                return Err(damaged(format!("tensor `{name}` lies outside the file")).into());
            };
            let tensor = FolderTensor {
                name: name.clone(),
                shape: info.shape.iter().map(|d| *d as u64).collect(),
                dtype: format!("{:?}", info.dtype),
                shard: no,
                start,
                end,
            };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(FolderError::Duplicate { path: path.to_owned(), tensor: name }.into());
            }
        }
        self.shards.push(mapped);
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Another JSON file of the folder, such as `generation_config.json`; None if there is none.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        inside(&self.folder, name)?.map(|p| json(&p)).transpose()
    }

    /// Tensors, shard by shard in the order of their data.
    pub fn tensors(&self) -> impl Iterator<Item = &FolderTensor> {
        self.tensors.values()
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&FolderTensor> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        let t = self.tensors.get(name)?;
        self.shards.get(t.shard)?.get(t.start..t.end)
    }
}

fn missing(folder: &Path, file: &'static str) -> Error {
    FolderError::Missing { folder: folder.to_owned(), file }.into()
}

/// The real path of `name` in `folder`, None if there is no such file.
fn inside(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    let path = folder.join(name);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let real = path.canonicalize().map_err(|e| Error::io(&path, e))?;
    let home = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
    // Hugging Face's cache: <model>/snapshots/<revision>/file → <model>/blobs/<hash>.
    let blobs = home.parent().filter(|p| p.ends_with("snapshots")).and_then(Path::parent).map(|p| p.join("blobs"));
    let parent = real.parent();
    if parent != Some(&home) && (blobs.is_none() || parent != blobs.as_deref()) {
        return Err(FolderError::Escape { path, target: real }.into());
    }
    if !real.is_file() {
        return Err(FolderError::NotAFile { path }.into());
    }
    Ok(Some(real))
}

fn json(path: &Path) -> Result<Value> {
    let bad = |problem: String| Error::from(FolderError::Json { path: path.to_owned(), problem });
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let mut text = String::new();
    let read = file.take(MAX_JSON + 1).read_to_string(&mut text).map_err(|e| Error::io(path, e))?;
    if read as u64 > MAX_JSON {
        return Err(bad(format!("more than {MAX_JSON} bytes of JSON")));
    }
    serde_json::from_str(&text).map_err(|e| bad(format!("{e}; the file is damaged")))
}

fn pickled(folder: &Path) -> Option<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).ok()?.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().find(|n| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|e| n.ends_with(e)))
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
mod tests;
