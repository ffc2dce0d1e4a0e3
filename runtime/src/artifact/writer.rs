//! Writing an artifact: into a hidden folder beside the target, which takes the target's name when all is on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::code::KernelCode;
use super::hash::SegmentHasher;
use super::manifest::check_name;
use super::{FileEntry, MANIFEST, Manifest, ManifestInfo, PAGE, PLAN, TOKENIZER, WEIGHTS, WEIGHTS_ALIGN};
use crate::error::ArtifactError;
use crate::plan::Plan;

/// Writes an artifact; dropped before [`ArtifactWriter::commit`], it leaves nothing behind.
pub struct ArtifactWriter {
    target: PathBuf,
    temp: PathBuf,
    files: BTreeMap<String, FileEntry>,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + '_ {
    |source| ArtifactError::Io { path: path.into(), source }
}

impl ArtifactWriter {
    /// Starts an artifact that will be the folder `target`.
    pub fn create(target: impl Into<PathBuf>) -> Result<Self, ArtifactError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let target = target.into();
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(ArtifactError::Writer(format!("{} is not a folder name", target.display())));
        };
        if !parent.as_os_str().is_empty() {
            fs::create_dir_all(parent).map_err(io_at(parent))?;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let hidden = format!(".{}.{}-{number}.tmp", name.to_string_lossy(), std::process::id());
        let temp = parent.join(hidden);
        // A crashed process with our number may have left it.
        let _ = fs::remove_dir_all(&temp);
        create_private(&temp).map_err(io_at(&temp))?;
        Ok(ArtifactWriter { target, temp, files: BTreeMap::new() })
    }

    /// Writes a small file: the object, the tokenizer, the template, the graph.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let mut stream = self.stream(name)?;
        stream.write_all(bytes).map_err(io_at(&stream.path))?;
        stream.close()
    }

    /// Writes the plan. Its `weights_bytes` must be what [`WeightsWriter::finish`] gave.
    pub fn plan(&mut self, plan: &Plan) -> Result<(), ArtifactError> {
        let bytes = serde_json::to_vec(plan).map_err(|e| ArtifactError::Writer(e.to_string()))?;
        self.file(PLAN, &bytes)
    }

    /// Starts `weights.bin`.
    pub fn weights(&mut self) -> Result<WeightsWriter<'_>, ArtifactError> {
        Ok(WeightsWriter { stream: self.stream(WEIGHTS)? })
    }

    /// Writes the manifest, brings everything to disk and gives the folder its name. An older artifact of that name is
    /// moved aside and deleted. The answer is the artifact's digest.
    pub fn commit(mut self, info: ManifestInfo) -> Result<String, ArtifactError> {
        let kernels = KernelCode::main_file(info.target.is_gpu());
        if let Some(name) = [PLAN, kernels, WEIGHTS, TOKENIZER].iter().find(|n| !self.files.contains_key(**n)) {
            return Err(ArtifactError::Writer(format!("{name} was not written")));
        }
        let (bytes, digest) = Manifest::seal(info, std::mem::take(&mut self.files))?;
        let path = self.temp.join(MANIFEST);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            sync_dir(&self.temp)
        };
        write().map_err(io_at(&path))?;
        self.publish().map_err(io_at(&self.target))?;
        Ok(digest)
    }

    fn publish(&self) -> io::Result<()> {
        let aside = self.temp.with_extension("old");
        let replaced = match fs::rename(&self.target, &aside) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        if let Err(e) = fs::rename(&self.temp, &self.target) {
            if replaced {
                let _ = fs::rename(&aside, &self.target);
            }
            return Err(e);
        }
        if replaced {
            let _ = fs::remove_dir_all(&aside);
        }
        sync_dir(self.target.parent().unwrap_or(Path::new("")))
    }

    fn stream(&mut self, name: &str) -> Result<Stream<'_>, ArtifactError> {
        check_name(name).map_err(ArtifactError::Writer)?;
        if self.files.contains_key(name) {
            return Err(ArtifactError::Writer(format!("{name} is written twice")));
        }
        let path = self.temp.join(name);
        let file = File::create(&path).map_err(io_at(&path))?;
        let out = BufWriter::with_capacity(1 << 18, file);
        Ok(Stream { files: &mut self.files, name: name.into(), path, out, hasher: SegmentHasher::default() })
    }
}

impl Drop for ArtifactWriter {
    fn drop(&mut self) {
        // After a commit there is no such folder.
        let _ = fs::remove_dir_all(&self.temp);
    }
}

/// A file being written and hashed.
struct Stream<'a> {
    files: &'a mut BTreeMap<String, FileEntry>,
    name: String,
    path: PathBuf,
    out: BufWriter<File>,
    hasher: SegmentHasher,
}

impl Stream<'_> {
    fn close(mut self) -> Result<(), ArtifactError> {
        self.out.flush().map_err(io_at(&self.path))?;
        self.out.get_ref().sync_all().map_err(io_at(&self.path))?;
        let entry = FileEntry { bytes: self.hasher.total(), blake3: self.hasher.finish() };
        self.files.insert(self.name, entry);
        Ok(())
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes `weights.bin` in sequence: [`WeightsWriter::align`] gives the offset of what is written next.
pub struct WeightsWriter<'a> {
    stream: Stream<'a>,
}

impl WeightsWriter<'_> {
    /// Fills up with zeros to a multiple of [`WEIGHTS_ALIGN`] and gives that offset, for [`crate::plan::Arg::Weights`].
    pub fn align(&mut self) -> Result<u64, ArtifactError> {
        self.fill(WEIGHTS_ALIGN)
    }

    /// Fills up the last page, closes the file and gives its length, for [`Plan::weights_bytes`].
    pub fn finish(mut self) -> Result<u64, ArtifactError> {
        let bytes = self.fill(PAGE)?;
        self.stream.close()?;
        Ok(bytes)
    }

    fn fill(&mut self, align: u64) -> Result<u64, ArtifactError> {
        let at = self.stream.hasher.total();
        let end = at.next_multiple_of(align);
        self.stream.write_all(&[0; PAGE as usize][..(end - at) as usize]).map_err(io_at(&self.stream.path))?;
        Ok(end)
    }
}

impl Write for WeightsWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Native code is in it: only this user may write there.
fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // Folders cannot be opened on every system; there is nothing to do there.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}
