//! A whole file in memory: mapped read-only, or owned bytes.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::error::{Error, Result};

/// The bytes of a model file. A mapped file must not be shortened while it is open: on Unix, reading pages that are gone
/// raises SIGBUS. The descriptor is held, so replacing the file by rename is safe.
#[derive(Debug)]
pub(crate) enum Mapped {
    Map { map: memmap2::Mmap, _file: File },
    Owned(Vec<u8>),
}

impl Mapped {
    /// Maps `path`, which must be a regular file (links are followed).
    pub(crate) fn open(path: &Path) -> Result<Mapped> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Err(Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        if meta.len() == 0 {
            return Ok(Mapped::Owned(Vec::new()));
        }
        let map = map(&file).map_err(|e| Error::io(path, e))?;
        Ok(Mapped::Map { map, _file: file })
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is private, read-only and only ever seen as `&[u8]`, for which every byte pattern is valid. The
    // remaining obligation, that nobody shortens or rewrites the file meanwhile, is documented on `Mapped`.
    unsafe { memmap2::MmapOptions::new().map_copy_read_only(file) }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Mapped::Map { map, .. } => map,
            Mapped::Owned(bytes) => bytes,
        }
    }
}
