//! Files of records as a whole: check, compare, unite, clear. What `compile-model cache` does.
//!
//! A machine has one or two devices, `here`: its processor and its GPU, by their names in records
//! ([`fingerprint`](crate::fingerprint)).
//!
//! ```
//! use tilewright_autotune::{exchange, record::Record, store};
//! let (here, there) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! let slow = Record::example();
//! let fast = Record { ns: 900.0, ..slow.clone() };
//! store::append(&store::file(here.path(), &slow.device), &slow)?;
//! let other = there.path().join("other.jsonl");
//! store::append(&other, &fast)?;
//! let diff = exchange::diff(here.path(), &other)?;
//! assert_eq!((diff.differs.len(), diff.only_a.len()), (1, 0));
//! assert_eq!(exchange::merge(here.path(), &[slow.device], &other)?.0.faster, 1);
//! assert_eq!(exchange::diff(here.path(), &other)?.same, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::layers::{self, Layer};
use crate::line::{self, Fault};
use crate::record::{Key, Record};
use crate::store::{self, StoreError, Warnings};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// A file of records cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is imported has to be whole: nobody would notice what is missing.
    #[error("{path}:{line}: {fault}; nothing was imported. `cache merge` takes the lines that are good")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first bad line.
        line: usize,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Nothing in it.
    #[error("{path}: there is no record in it")]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// What `verify` found.
    #[error("{count} bad line(s) in {}; they are ignored. `cache export` writes the good ones", path.display())]
    Bad {
        /// The first file that has some.
        path: PathBuf,
        /// Bad lines of all files.
        count: usize,
    },
    /// Times of another machine say nothing here.
    #[error(
        "{path}: {count} record(s) were measured on another machine ({device}; this one is {here}), so their times do not \
         hold here; nothing was imported. With --as-hint they are kept as places where a search starts"
    )]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
        /// One of the other machines.
        device: String,
        /// This machine.
        here: String,
    },
}

/// The good records of files, the latest of each `by`.
fn latest<K: Ord>(
    files: &[PathBuf],
    by: impl Fn(&Record) -> K,
) -> Result<(BTreeMap<K, Record>, Vec<Warnings>), StoreError> {
    let (mut records, mut ignored) = (BTreeMap::new(), vec![]);
    for path in files {
        let (good, warnings) = good(path, &store::read(path)?);
        records.extend(good.into_iter().map(|r| (by(&r), r)));
        ignored.extend(warnings);
    }
    Ok((records, ignored))
}

/// The good records of a file's content in their order, and what was ignored if something was.
fn good(path: &Path, bytes: &[u8]) -> (Vec<Record>, Option<Warnings>) {
    let (mut records, mut warnings) = (vec![], Warnings::of(path));
    for (_, line) in store::lines(bytes) {
        match line::read(line) {
            Ok(r) => records.push(r),
            Err(fault) => warnings.count(&fault),
        }
    }
    (records, Some(warnings).filter(|w| !w.is_empty()))
}

/// A record and where it is from.
pub type Row = (Record, Layer);

/// Everything a machine knows, one record a key: its own, else one of the lower layer as [`layers::Layers`] chooses it. Of
/// any compiler, so that a person can see what the next build will not use.
pub fn known(root: &Path, here: &[String]) -> Result<(Vec<Row>, Vec<Warnings>), StoreError> {
    let (mut mine, mut lower, mut ignored) = (vec![], vec![], vec![]);
    for device in here {
        let own = store::file(root, device);
        let (records, warnings) = good(&own, &store::read(&own)?);
        mine.extend(records.into_iter().filter(|r| r.device == *device));
        ignored.extend(warnings);
    }
    for (path, bytes) in layers::shipped(root)? {
        let (records, warnings) = good(&path, &bytes);
        lower.extend(records);
        ignored.extend(warnings);
    }
    lower.sort_by_cached_key(|r| layers::worth(r, here.contains(&r.device)));
    let lower = lower.into_iter().map(|r| (r, Layer::Shipped));
    let rows = lower.chain(mine.into_iter().map(|r| (r, Layer::User)));
    let known: BTreeMap<Key, Row> = rows.map(|row| (row.0.key(), row)).collect();
    Ok((known.into_values().collect(), ignored))
}

/// All files of records under `root`: those of every machine, then hints.
pub fn all_files(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = store::files(&store::folder(root))?;
    files.extend(store::files(&layers::hints(root))?);
    Ok(files)
}

/// What a user names: a file, a store, or a folder of files.
fn named(path: &Path) -> Result<Vec<PathBuf>, ExchangeError> {
    if path.is_dir() {
        let inner = store::folder(path);
        let files = if inner.is_dir() { all_files(path)? } else { store::files(path)? };
        return if files.is_empty() { Err(ExchangeError::Empty { path: path.into() }) } else { Ok(files) };
    }
    // A store's file may be absent; one that is asked for by name may not.
    let missing = || StoreError::Io { path: path.into(), source: Error::from(ErrorKind::NotFound) };
    if path.exists() { Ok(vec![path.into()]) } else { Err(missing().into()) }
}

/// Every line of a file, looked at.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// Good lines.
    pub good: usize,
    /// The others: number, and what is wrong.
    pub bad: Vec<(usize, Fault)>,
}

/// Checks every line of every file under `root`.
pub fn verify(root: &Path) -> Result<Vec<Checked>, StoreError> {
    all_files(root)?.into_iter().map(check).collect()
}

fn check(path: PathBuf) -> Result<Checked, StoreError> {
    // A file is named after its device: a record of another one never would be found.
    let device = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let bytes = store::read(&path)?;
    let (mut good, mut bad) = (0, vec![]);
    for (number, line) in store::lines(&bytes) {
        match line::read(line) {
            Ok(r) if r.device != device => bad.push((number, Fault::Device(r.device))),
            Ok(_) => good += 1,
            Err(fault) => bad.push((number, fault)),
        }
    }
    Ok(Checked { path, good, bad })
}

/// How two sets of records differ.
#[derive(Debug, Default)]
pub struct Diff {
    /// Keys that only the first has.
    pub only_a: Vec<Record>,
    /// Keys that only the second has.
    pub only_b: Vec<Record>,
    /// Both have them, with another choice or time.
    pub differs: Vec<(Record, Record)>,
    /// Keys that both have with the same record.
    pub same: usize,
    /// What was ignored in either.
    pub warnings: Vec<Warnings>,
}

/// Compares two files or stores by the latest record of each key, whatever machine it is of.
pub fn diff(a: &Path, b: &Path) -> Result<Diff, ExchangeError> {
    let (a, mut warnings) = latest(&named(a)?, Record::key)?;
    let (mut b, more) = latest(&named(b)?, Record::key)?;
    warnings.extend(more);
    let mut diff = Diff { warnings, ..Diff::default() };
    for (key, a) in a {
        match b.remove(&key) {
            None => diff.only_a.push(a),
            Some(b) if a == b => diff.same += 1,
            Some(b) => diff.differs.push((a, b)),
        }
    }
    diff.only_b = b.into_values().collect();
    Ok(diff)
}

/// What became of the records of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Were not there.
    pub added: usize,
    /// Took the place of slower ones.
    pub faster: usize,
    /// Were there, or slower than what is.
    pub kept: usize,
    /// Of another machine, kept as hints.
    pub hints: usize,
    /// Of another machine, left out.
    pub elsewhere: usize,
}

/// Records of different compilers or machines are different: one's time says nothing of the other's.
fn identity(r: &Record) -> (Key, String, String) {
    (r.key(), r.compiler.clone(), r.device.clone())
}

/// Takes over what `source` has of this machine that is new or faster. Lines that are bad, and records of other
/// machines, are left out and counted.
pub fn merge(root: &Path, here: &[String], source: &Path) -> Result<(Merged, Vec<Warnings>), ExchangeError> {
    let (records, warnings) = latest(&named(source)?, identity)?;
    let (ours, others): (Vec<_>, Vec<_>) = records.into_values().partition(|r| here.contains(&r.device));
    let mut merged = Merged { elsewhere: others.len(), ..Merged::default() };
    unite_each(&|device| store::file(root, device), ours, &mut merged)?;
    Ok((merged, warnings))
}

/// Takes over a whole file, or nothing of it if a line is bad. Records of other machines are refused, or become hints.
pub fn import(root: &Path, here: &[String], source: &Path, as_hint: bool) -> Result<Merged, ExchangeError> {
    for path in named(source)? {
        let bytes = store::read(&path)?;
        if let Some((line, fault)) = store::lines(&bytes).find_map(|(n, l)| Some((n, line::read(l).err()?))) {
            return Err(ExchangeError::Damaged { path, line, fault });
        }
    }
    let (records, _) = latest(&named(source)?, identity)?;
    if records.is_empty() {
        return Err(ExchangeError::Empty { path: source.into() });
    }
    let (ours, others): (Vec<_>, Vec<_>) = records.into_values().partition(|r| here.contains(&r.device));
    if let (Some(other), false) = (others.first(), as_hint) {
        let (device, here) = (other.device.clone(), here.join(", "));
        return Err(ExchangeError::Elsewhere { path: source.into(), count: others.len(), device, here });
    }
    let mut merged = Merged::default();
    unite_each(&|device| store::file(root, device), ours, &mut merged)?;
    let mut hints = Merged::default();
    unite_each(&|device| layers::hints(root).join(format!("{device}.jsonl")), others, &mut hints)?;
    merged.hints = hints.added + hints.faster;
    merged.kept += hints.kept;
    Ok(merged)
}

/// Unites the records of each device with its file.
fn unite_each(file: &dyn Fn(&str) -> PathBuf, records: Vec<Record>, merged: &mut Merged) -> Result<(), StoreError> {
    let mut by_device = BTreeMap::<String, Vec<Record>>::new();
    for r in records {
        by_device.entry(r.device.clone()).or_default().push(r);
    }
    by_device.into_iter().try_for_each(|(device, records)| unite(&file(&device), records, merged))
}

/// Appends to a file what it lacks or has slower.
fn unite(path: &Path, records: Vec<Record>, merged: &mut Merged) -> Result<(), StoreError> {
    let (there, _) = latest(&[path.to_path_buf()], identity)?;
    for r in records {
        match there.get(&identity(&r)) {
            Some(old) if old.ns <= r.ns => {
                merged.kept += 1;
                continue;
            }
            Some(_) => merged.faster += 1,
            None => merged.added += 1,
        }
        store::append(path, &r)?;
    }
    Ok(())
}

/// The latest records of a machine as the content of a file, ordered by key, so that equal stores give equal bytes.
pub fn export(root: &Path, here: &[String]) -> Result<(String, usize, Vec<Warnings>), ExchangeError> {
    let files: Vec<PathBuf> = here.iter().map(|device| store::file(root, device)).collect();
    let (mut records, warnings) = latest(&files, identity)?;
    records.retain(|_, r| here.contains(&r.device));
    if records.is_empty() {
        return Err(ExchangeError::Empty { path: store::folder(root) });
    }
    let text = records.values().map(|r| line::write(r) + "\n").collect();
    Ok((text, records.len(), warnings))
}

/// Removes the files of records under `root`; with the number of lines each had.
pub fn clear(root: &Path) -> Result<Vec<(PathBuf, usize)>, StoreError> {
    let mut removed = vec![];
    for path in all_files(root)? {
        // What cannot be read can still be removed.
        let lines = store::read(&path).map_or(0, |bytes| store::lines(&bytes).count());
        std::fs::remove_file(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        removed.push((path, lines));
    }
    Ok(removed)
}
