//! The records of one machine: a file that many processes append to at once, `<root>/records/<device>.jsonl`.
//!
//! A record is one line and one `write` to a file opened for appending, which the system does not interleave with another:
//! no lock, and a process that is killed takes with it no more than the record it was writing. What cannot be read is
//! counted and ignored. The latest record of a key is the one that holds.
//!
//! ```
//! use tilewright_autotune::{fingerprint::Device, record::Record, store::Store};
//! let (root, device) = (tempfile::tempdir()?, Device::detect());
//! let mut store = Store::open(root.path(), &device.id(), "c0ffee")?;
//! let record = Record { device: device.id(), compiler: "c0ffee".into(), ..Record::example() };
//! store.append(&record)?;
//! assert_eq!(Store::open(root.path(), &device.id(), "c0ffee")?.get(&record.key()), Some(&record));
//! assert_eq!(Store::open(root.path(), &device.id(), "another")?.warnings().compiler, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::line::{self, Fault, Lazy};
use crate::record::{Key, Record, SCHEMA};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Largest file that is read: 100 times what tuning a hundred models writes.
const MAX_FILE: u64 = 256 << 20;

/// A file of records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No tuner writes that much.
    #[error("{path}: {bytes} bytes are more than a file of records may have ({MAX_FILE}); remove it or export from it")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The disk took a part of a record. The next record starts on a line of its own.
    #[error("{path}: wrote {written} of the {bytes} bytes of a record; is the disk full?")]
    Short {
        /// The file.
        path: PathBuf,
        /// Bytes that were taken.
        written: usize,
        /// Bytes there were.
        bytes: usize,
    },
    /// A record that a reader would ignore is not written.
    #[error("the record of {key} is refused: {fault}")]
    Refused {
        /// What it is of.
        key: Key,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// How many lines of a file were ignored, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    /// The file.
    pub path: PathBuf,
    /// Torn, altered, or senseless.
    pub damaged: usize,
    /// Of another version of the form.
    pub schema: usize,
    /// Of another machine.
    pub device: usize,
    /// Of another compiler.
    pub compiler: usize,
}

impl Warnings {
    /// None of a file.
    pub fn of(path: &Path) -> Warnings {
        Warnings { path: path.to_path_buf(), ..Warnings::default() }
    }

    /// Counts one.
    pub fn count(&mut self, fault: &Fault) {
        *match fault {
            Fault::Form | Fault::Checksum | Fault::Content(_) => &mut self.damaged,
            Fault::Schema(_) => &mut self.schema,
            Fault::Device(_) => &mut self.device,
            Fault::Compiler(_) => &mut self.compiler,
        } += 1;
    }

    /// Lines that were ignored.
    pub fn total(&self) -> usize {
        self.damaged + self.schema + self.device + self.compiler
    }

    /// Whether every line was good.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.damaged, "damaged"),
            (self.schema, "of another version of the form"),
            (self.device, "of another machine"),
            (self.compiler, "of another compiler"),
        ];
        let said: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let all = if said.is_empty() { "none".into() } else { said.join(", ") };
        write!(f, "{}: lines ignored: {all}", self.path.display())
    }
}

/// The folder of records under `root`.
pub fn folder(root: &Path) -> PathBuf {
    root.join("records")
}

/// The file of a device's records under `root`.
pub fn file(root: &Path, device: &str) -> PathBuf {
    folder(root).join(format!("{device}.jsonl"))
}

/// The files of records in a folder, by name; none if there is no such folder.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let io = |source| StoreError::Io { path: folder.to_path_buf(), source };
    let entries = match fs::read_dir(folder) {
        Ok(e) => e,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(io(e)),
    };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>().map_err(io)?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "jsonl"));
    paths.sort();
    Ok(paths)
}

/// The content of a file of records; of one that does not exist, none.
pub fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let io = |source| StoreError::Io { path: path.to_path_buf(), source };
    let mut file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(io(e)),
    };
    let mut bytes = vec![];
    (&mut file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        let bytes = file.metadata().map_or(0, |m| m.len()).max(MAX_FILE + 1);
        return Err(StoreError::TooLarge { path: path.to_path_buf(), bytes });
    }
    Ok(bytes)
}

/// The lines of a file's content with their numbers, for [`line::read`]. Empty ones are none.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes.split(|b| *b == b'\n').enumerate().map(|(i, l)| (i + 1, l)).filter(|(_, l)| !l.is_empty())
}

/// Puts a record at the end of a file, which is made if need be, with one `write`.
pub fn append(path: &Path, record: &Record) -> Result<(), StoreError> {
    let refused = |fault| StoreError::Refused { key: record.key(), fault };
    if record.schema != SCHEMA {
        return Err(refused(Fault::Schema(record.schema)));
    }
    record.check().map_err(|why| refused(Fault::Content(why)))?;
    let io = |source| StoreError::Io { path: path.to_path_buf(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| StoreError::Io { path: folder.to_path_buf(), source })?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
    let mut text = line::write(record) + "\n";
    if torn(&mut file).map_err(io)? {
        text.insert(0, '\n');
    }
    // Not `write_all`, whose second write another process could come before.
    let written = loop {
        match file.write(text.as_bytes()) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => break other.map_err(io)?,
        }
    };
    if written == text.len() {
        return Ok(());
    }
    Err(StoreError::Short { path: path.to_path_buf(), written, bytes: text.len() })
}

/// Whether the last line has no end: who wrote it was killed.
fn torn(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

/// The records that hold on this machine with this compiler.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    device: String,
    compiler: String,
    records: BTreeMap<Key, Lazy>,
    warnings: Warnings,
}

impl Store {
    /// Reads the records of `device`, [`Device::id`](crate::fingerprint::Device::id) or [`of_gpu`](crate::fingerprint::of_gpu), under `root`, those of `compiler`. Nothing is written before the first
    /// [`Store::append`].
    pub fn open(root: &Path, device: &str, compiler: &str) -> Result<Store, StoreError> {
        let path = file(root, device);
        let warnings = Warnings::of(&path);
        let mut store =
            Store { path, device: device.into(), compiler: compiler.into(), records: BTreeMap::new(), warnings };
        store.reload()?;
        Ok(store)
    }

    /// Reads again: other processes may have appended.
    pub fn reload(&mut self) -> Result<(), StoreError> {
        let bytes = read(&self.path)?;
        self.warnings = Warnings::of(&self.path);
        self.records.clear();
        for (_, line) in lines(&bytes) {
            match Lazy::read(line).and_then(|r| self.ours(r.head()).map(|()| r)) {
                Ok(r) => drop(self.records.insert(r.head().key(), r)),
                Err(fault) => self.warnings.count(&fault),
            }
        }
        Ok(())
    }

    fn ours(&self, r: &Record) -> Result<(), Fault> {
        if r.device != self.device {
            return Err(Fault::Device(r.device.clone()));
        }
        if r.compiler != self.compiler { Err(Fault::Compiler(r.compiler.clone())) } else { Ok(()) }
    }

    /// Keeps a record, here and in the file. One of another machine or compiler is refused.
    pub fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        self.ours(record).map_err(|fault| StoreError::Refused { key: record.key(), fault })?;
        append(&self.path, record)?;
        self.records.insert(record.key(), record.clone().into());
        Ok(())
    }

    /// The record of a key.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key).map(Lazy::record)
    }

    /// All of them, ordered by key.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.records.values().map(Lazy::record)
    }

    /// What was ignored when the file was read.
    pub fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fingerprint of the machine.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The compiler whose records hold.
    pub fn compiler(&self) -> &str {
        &self.compiler
    }
}
