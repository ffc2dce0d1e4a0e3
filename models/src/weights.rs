//! One view of a model's weights, whatever holds them.
//!
//! ```no_run
//! use tilewright_models::weights::WeightFile;
//! let model = WeightFile::open("model.gguf")?;
//! for t in model.tensors() {
//!     println!("{} {:?} {}", t.name, t.shape, t.format);
//! }
//! # Ok::<(), tilewright_models::error::Error>(())
//! ```

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::error::{Error, Result};
use crate::format::{BlockFormat, FormatSet};
use crate::gguf::GgufFile;
use crate::safetensors::HfFolder;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone)]
pub enum TensorFormat {
    /// A declared format.
    Block(Arc<BlockFormat>),
    /// A known type that no declared format decodes, by its name in the file, e.g. `IQ2_XS` or `I64`.
    Unsupported(String),
}

impl TensorFormat {
    /// Name of the format, or of the type that is not supported.
    pub fn name(&self) -> &str {
        match self {
            TensorFormat::Block(f) => &f.name,
            TensorFormat::Unsupported(name) => name,
        }
    }

    /// The declared format.
    pub fn block(&self) -> Option<&Arc<BlockFormat>> {
        match self {
            TensorFormat::Block(f) => Some(f),
            TensorFormat::Unsupported(_) => None,
        }
    }
}

impl fmt::Display for TensorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorFormat::Block(b) => f.write_str(&b.name),
            TensorFormat::Unsupported(name) => write!(f, "{name} (unsupported)"),
        }
    }
}

/// A tensor of a model.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Row-major: outermost dimension first, the last one is contiguous.
    pub shape: Vec<u64>,
    /// How elements are stored.
    pub format: TensorFormat,
}

/// What holds the weights.
#[derive(Debug)]
pub enum Source {
    /// A GGUF file, possibly split.
    Gguf(GgufFile),
    /// A Hugging Face folder.
    Folder(HfFolder),
}

/// An open model.
#[derive(Debug)]
pub struct WeightFile {
    source: Source,
    tensors: IndexMap<String, TensorInfo>,
}

impl WeightFile {
    /// Opens a GGUF file or a Hugging Face folder, with the built-in formats.
    pub fn open(path: impl AsRef<Path>) -> Result<WeightFile> {
        Self::open_with(path, FormatSet::builtin())
    }

    /// Opens a model with other formats.
    pub fn open_with(path: impl AsRef<Path>, formats: &FormatSet) -> Result<WeightFile> {
        let path = path.as_ref();
        if path.is_dir() {
            return Ok(Self::from_folder(HfFolder::open(path)?, formats));
        }
        let mut magic = [0; 4];
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        file.take(4).read(&mut magic).map_err(|e| Error::io(path, e))?;
        if &magic != b"GGUF" && path.extension().is_none_or(|e| e != "gguf") {
            return Err(Error::UnknownModel { path: path.to_owned() });
        }
        Ok(Self::from_gguf(GgufFile::open(path)?, formats))
    }

    /// Of an open GGUF file.
    pub fn from_gguf(file: GgufFile, formats: &FormatSet) -> WeightFile {
        let info = |t: &crate::gguf::TensorInfo| TensorInfo {
            name: t.name.clone(),
            shape: t.dims.iter().rev().copied().collect(),
            format: match formats.by_ggml(t.ty.id()) {
                Some(f) => TensorFormat::Block(f.clone()),
                None => TensorFormat::Unsupported(t.ty.name().to_owned()),
            },
        };
        let tensors = file.tensors().map(|t| (t.name.clone(), info(t))).collect();
        WeightFile { source: Source::Gguf(file), tensors }
    }

    /// Of an open folder.
    pub fn from_folder(folder: HfFolder, formats: &FormatSet) -> WeightFile {
        let info = |t: &crate::safetensors::FolderTensor| {
            let name = match t.dtype.as_str() {
                "F32" => "f32",
                "F16" => "f16",
                "BF16" => "bf16",
                _ => "",
            };
            let format = match formats.get(name) {
                Some(f) => TensorFormat::Block(f.clone()),
                None => TensorFormat::Unsupported(t.dtype.clone()),
            };
            TensorInfo { name: t.name.clone(), shape: t.shape.clone(), format }
        };
        let tensors = folder.tensors().map(|t| (t.name.clone(), info(t))).collect();
        WeightFile { source: Source::Folder(folder), tensors }
    }

    /// What holds the weights; metadata are there.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::Gguf(f) => Some(f),
            Source::Folder(_) => None,
        }
    }

    /// The Hugging Face folder, if it is one.
    pub fn folder(&self) -> Option<&HfFolder> {
        match &self.source {
            Source::Folder(f) => Some(f),
            Source::Gguf(_) => None,
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Gguf(f) => f.path(),
            Source::Folder(f) => f.path(),
        }
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
    pub fn data(&self, name: &str) -> Result<&[u8]> {
        let data = match &self.source {
            Source::Gguf(f) => f.data(name),
            Source::Folder(f) => f.data(name),
        };
        data.ok_or_else(|| Error::NoTensor { path: self.path().to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
