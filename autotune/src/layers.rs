//! Where records come from, best first: this machine's own, then those that came with the program or were imported.
//!
//! Own records and shipped ones of the same device were measured here, or on a machine that cannot be told from it. A record
//! of another device is found too, but only as a hint of where to start searching: [`Found::measured_here`] is false.
//!
//! ```
//! use tilewright_autotune::{fingerprint::Device, layers::{Layer, Layers}, record::Record};
//! let (root, device) = (tempfile::tempdir()?, Device::detect());
//! let mut layers = Layers::open(root.path(), &device.id(), "c0ffee")?;
//! assert!(layers.find("matmul", "x86-64-v3", 2).is_none());
//! layers.user.append(&Record { device: device.id(), ..Record::example() })?;
//! let found = layers.find("matmul", "x86-64-v3", 2).unwrap();
//! assert!(found.layer == Layer::User && found.measured_here);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::line::{Fault, Lazy};
use crate::record::{Key, Record};
use crate::store::{self, Store, StoreError, Warnings};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of `autotune/records`, which come with the program. A test holds this list against the folder.
const SHIPPED: &[(&str, &str)] = &[];

/// Which layer a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Measured on this machine by its user.
    User,
    /// Came with the program, or was imported as a hint.
    Shipped,
    /// Of whatever device, where nobody says which one it is for: [`Layers::of_any_device`].
    Foreign,
}

impl Layer {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Layer::User => "user",
            Layer::Shipped => "shipped",
            Layer::Foreign => "foreign",
        }
    }
}

/// A record and what it is worth.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The record.
    pub record: &'a Record,
    /// Where it is from.
    pub layer: Layer,
    /// Whether its times are of this device. If not it is a place to start from, and says nothing of speed here.
    pub measured_here: bool,
}

/// All layers.
#[derive(Debug)]
pub struct Layers {
    /// This machine's own records; what the tuner appends to.
    pub user: Store,
    /// One record a key: of this device if there is one.
    shipped: BTreeMap<Key, Lazy>,
    /// What those are.
    lower: Layer,
    warnings: Vec<Warnings>,
}

/// The folder of hints under `root`: imported records of other machines, one file a device.
pub fn hints(root: &Path) -> PathBuf {
    store::folder(root).join("hints")
}

/// What orders shipped records of one key: those of a device that is `here` last, then by date.
pub(crate) fn worth(r: &Record, here: bool) -> (bool, String) {
    (here, r.date.clone())
}

/// The files of the lower layer with their content: hints under `root`, then what comes with the program.
pub fn shipped(root: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, StoreError> {
    let mut files = vec![];
    for path in store::files(&hints(root))? {
        let bytes = store::read(&path)?;
        files.push((path, bytes));
    }
    let named = |(name, text): &(&str, &str)| (Path::new("autotune/records").join(name), text.as_bytes().to_vec());
    files.extend(SHIPPED.iter().map(named));
    Ok(files)
}

impl Layers {
    /// The layers of a machine: its records and hints under `root`, and what comes with the program.
    pub fn open(root: &Path, device: &str, compiler: &str) -> Result<Layers, StoreError> {
        let files = shipped(root)?;
        Ok(Layers::new(Store::open(root, device, compiler)?, files))
    }

    /// The layers of a build for a kind of device that need not be there: of every key the latest record of any device.
    /// They are to be read only.
    pub fn of_any_device(root: &Path, compiler: &str) -> Result<Layers, StoreError> {
        let mut files = shipped(root)?;
        for path in store::files(&store::folder(root))? {
            let bytes = store::read(&path)?;
            files.push((path, bytes));
        }
        // No device has that name, so the file is not there and nothing can be appended.
        let user = Store::open(root, "none", compiler)?;
        Ok(Layers { lower: Layer::Foreign, ..Layers::new(user, files) })
    }

    /// The layers above files of shipped records, given with their content.
    fn new(user: Store, files: Vec<(PathBuf, Vec<u8>)>) -> Layers {
        let mut layers = Layers { user, shipped: BTreeMap::new(), lower: Layer::Shipped, warnings: vec![] };
        for (path, bytes) in files {
            let mut warnings = Warnings::of(&path);
            for (_, line) in store::lines(&bytes) {
                match Lazy::read(line) {
                    Ok(r) if r.head().compiler == layers.user.compiler() => layers.ship(r),
                    Ok(r) => warnings.count(&Fault::Compiler(r.head().compiler.clone())),
                    Err(fault) => warnings.count(&fault),
                }
            }
            layers.warnings.push(warnings);
        }
        layers
    }

    /// Keeps a shipped record unless one worth more is there.
    fn ship(&mut self, r: Lazy) {
        let (key, device) = (r.head().key(), self.user.device());
        let worth = |r: &Record| worth(r, r.device == device);
        let mine = worth(r.head());
        let better = self.shipped.get(&key).is_none_or(|old| worth(old.head()) <= mine);
        if better {
            self.shipped.insert(key, r);
        }
    }

    /// The record of an operation: the user's, else the shipped one.
    pub fn find(&self, op: &str, target: &str, threads: u32) -> Option<Found<'_>> {
        self.get(&Key { op: op.into(), target: target.into(), threads })
    }

    /// The record of a key.
    pub fn get(&self, key: &Key) -> Option<Found<'_>> {
        let shipped = || self.shipped.get(key).map(|r| self.found(r.record(), self.lower));
        self.user.get(key).map(|r| self.found(r, Layer::User)).or_else(shipped)
    }

    /// What [`Layers::find`] finds, of every key, in their order.
    pub fn records(&self) -> Vec<Found<'_>> {
        let mut all: BTreeMap<Key, Found<'_>> =
            self.shipped.iter().map(|(k, r)| (k.clone(), self.found(r.record(), self.lower))).collect();
        all.extend(self.user.records().map(|r| (r.key(), self.found(r, Layer::User))));
        all.into_values().collect()
    }

    fn found<'a>(&'a self, record: &'a Record, layer: Layer) -> Found<'a> {
        Found { record, layer, measured_here: record.device == self.user.device() }
    }

    /// What was ignored, one of each file where something was.
    pub fn warnings(&self) -> impl Iterator<Item = &Warnings> {
        std::iter::once(self.user.warnings()).chain(&self.warnings).filter(|w| !w.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Device;

    #[test]
    fn every_shipped_file_is_listed_and_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("records");
        let there: Vec<PathBuf> = store::files(&folder).expect("a folder");
        let names: Vec<String> =
            there.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect();
        assert_eq!(names, SHIPPED.iter().map(|(n, _)| n.to_string()).collect::<Vec<_>>());
        for (name, text) in SHIPPED {
            assert!(store::lines(text.as_bytes()).all(|(_, l)| crate::line::read(l).is_ok()), "{name}");
        }
    }

    #[test]
    fn the_order_of_layers() {
        let (root, device) = (tempfile::tempdir().expect("a folder"), Device::detect());
        let base = Record { device: device.id(), ..Record::example() };
        let other = |ns, date: &str| Record { device: "feed".into(), ns, date: date.into(), ..base.clone() };
        let open = |files: &[&[&Record]]| {
            let text = |rs: &[&Record]| rs.iter().map(|r| crate::line::write(r) + "\n").collect::<String>();
            let files =
                files.iter().enumerate().map(|(i, rs)| (PathBuf::from(i.to_string()), text(rs).into())).collect();
            Layers::new(Store::open(root.path(), &device.id(), &base.compiler).expect("a store"), files)
        };
        let (old, new) = (other(5.0, "2026-01-01T00:00:00Z"), other(6.0, "2026-02-01T00:00:00Z"));
        let found = |layers: &Layers| layers.get(&base.key()).map(|f| (f.record.ns, f.layer, f.measured_here));
        assert_eq!(found(&open(&[])), None);
        assert_eq!(found(&open(&[&[&new], &[&old]])), Some((6.0, Layer::Shipped, false)));
        // Of this device, though older and slower.
        let here = Record { ns: 9.0, date: "2025-01-01T00:00:00Z".into(), ..base.clone() };
        assert_eq!(found(&open(&[&[&here], &[&new]])), Some((9.0, Layer::Shipped, true)));
        let stale = Record { compiler: "older".into(), ..here.clone() };
        let mut layers = open(&[&[&stale, &here]]);
        assert_eq!(layers.warnings().map(|w| w.compiler).collect::<Vec<_>>(), [1]);
        layers.user.append(&Record { ns: 30.0, ..base.clone() }).expect("a record");
        assert_eq!(found(&layers), Some((30.0, Layer::User, true)));
        assert_eq!(layers.records().len(), 1);
        assert!(layers.find(&base.op, &base.target, 3).is_none() && layers.find(&base.op, "vax", 2).is_none());

        // Without a device, the latest of any, and nothing that belongs to this one comes first.
        store::append(&store::file(root.path(), "feed"), &new).expect("a record");
        let any = Layers::of_any_device(root.path(), &base.compiler).expect("layers");
        let latest = if new.date > base.date { 6.0 } else { 30.0 };
        assert_eq!(found(&any), Some((latest, Layer::Foreign, false)));
        assert_eq!(any.warnings().count(), 0);
    }
}
