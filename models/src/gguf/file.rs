//! Opening a file and its further parts.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::read::{Header, header};
use super::{GgmlType, GgufError, GgufProblem, MetaValue};
use crate::error::Result;
use crate::mapped::Mapped;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Unique in the model.
    pub name: String,
    /// As in the file: `dims[0]` is the row length.
    pub dims: Vec<u64>,
    /// How elements are stored.
    pub ty: GgmlType,
    /// Of the data, from the start of the file that holds them.
    pub offset: u64,
    /// Of the data.
    pub bytes: u64,
    pub(super) shard: usize,
}

/// An open GGUF model, checked; its data stay mapped. The files must not be shortened meanwhile.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    version: u32,
    alignment: u64,
    metadata: IndexMap<String, MetaValue>,
    tensors: IndexMap<String, TensorInfo>,
    shards: Vec<Mapped>,
}

fn problem(path: &Path, problem: GgufProblem) -> GgufError {
    GgufError { file: path.display().to_string(), problem }
}

fn split_problem(path: &Path, what: String) -> GgufError {
    problem(path, GgufProblem::Split { what })
}

/// `name-00002-of-00005.gguf` → ("name", 2, 5).
fn split_name(path: &Path) -> Option<(&str, u32, u32)> {
    let rest = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (base, no) = rest.rsplit_once('-')?;
    let number = |s: &str| if s.len() == 5 && s.bytes().all(|c| c.is_ascii_digit()) { s.parse().ok() } else { None };
    let (no, count) = (number(no)?, number(count)?);
    (1..=count).contains(&no).then_some((base, no, count))
}

impl GgufFile {
    /// Opens a file. Of a split model give any part: the others are taken from the same folder.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile> {
        let path = path.as_ref();
        let Some((base, _, count)) = split_name(path) else {
            let file = Self::build(path, vec![(path.to_owned(), Mapped::open(path)?)])?;
            return Ok(file);
        };
        let mut parts = Vec::new();
        for no in 1..=count {
            let part = path.with_file_name(format!("{base}-{no:05}-of-{count:05}.gguf"));
            if !part.exists() {
                return Err(split_problem(path, format!("part {no} of {count}, {}, is missing", part.display())).into());
            }
            let mapped = Mapped::open(&part)?;
            parts.push((part, mapped));
        }
        Ok(Self::build(path, parts)?)
    }

    /// Reads a file that is in memory; `name` is for messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> std::result::Result<GgufFile, GgufError> {
        let path = PathBuf::from(name);
        Self::build(&path, vec![(path.clone(), Mapped::Owned(bytes))])
    }

    fn build(path: &Path, parts: Vec<(PathBuf, Mapped)>) -> std::result::Result<GgufFile, GgufError> {
        let count = parts.len() as u64;
        let mut file = GgufFile {
            path: path.to_owned(),
            version: 0,
            alignment: 0,
            metadata: IndexMap::new(),
            tensors: IndexMap::new(),
            shards: Vec::new(),
        };
        for (no, (part, mapped)) in parts.into_iter().enumerate() {
            let Header { version, alignment, metadata, tensors } = header(&mapped).map_err(|p| problem(&part, p))?;
            let said = |key: &str| metadata.get(key).and_then(MetaValue::as_u64);
            // A file without split keys counts as the only part.
            let (said_count, said_no) =
                (said("split.count").filter(|c| *c > 0).unwrap_or(1), said("split.no").unwrap_or(0));
            if said_count != count || said_no != no as u64 {
                let what = format!(
                    "the file says it is part {} of {said_count}, but its name makes it part {} of {count}",
                    said_no.saturating_add(1),
                    no + 1
                );
                return Err(split_problem(&part, what));
            }
            if no == 0 {
                (file.version, file.alignment, file.metadata) = (version, alignment, metadata);
            }
            for mut t in tensors {
                t.shard = no;
                if file.tensors.contains_key(&t.name) {
                    return Err(problem(&part, GgufProblem::DuplicateTensor { tensor: t.name }));
                }
                file.tensors.insert(t.name.clone(), t);
            }
            file.shards.push(mapped);
        }
        if count > 1
            && let Some(total) = file.get("split.tensors.count").and_then(MetaValue::as_u64)
            && total != file.tensors.len() as u64
        {
            let what = format!("the parts hold {} tensors, and the first says {total}", file.tensors.len());
            return Err(split_problem(path, what));
        }
        Ok(file)
    }

    /// The path given to [`GgufFile::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Metadata in the order of the (first) file.
    pub fn metadata(&self) -> &IndexMap<String, MetaValue> {
        &self.metadata
    }

    /// One metadata value.
    pub fn get(&self, key: &str) -> Option<&MetaValue> {
        self.metadata.get(key)
    }

    /// Tensors in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values()
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        let t = self.tensors.get(name)?;
        let start = usize::try_from(t.offset).ok()?;
        let end = start.checked_add(usize::try_from(t.bytes).ok()?)?;
        self.shards.get(t.shard)?.get(start..end)
    }
}
