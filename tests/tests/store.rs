//! The store of tuning records under attack: writers that are killed, bytes that change, records that are not of here.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tilewright_autotune::fingerprint::Device;
use tilewright_autotune::line;
use tilewright_autotune::record::{Key, Record, Trial};
use tilewright_autotune::store::{self, Store, StoreError};
use tilewright_tests::tiny::splitmix64;

/// A folder and this machine.
struct Place {
    root: TempDir,
    device: Device,
}

impl Place {
    fn new() -> Place {
        Place { root: tempfile::tempdir().expect("a folder"), device: Device::detect() }
    }

    fn file(&self) -> PathBuf {
        store::file(self.root.path(), &self.device.id())
    }

    fn open(&self) -> Store {
        Store::open(self.root.path(), &self.device.id(), "c0ffee").expect("a store")
    }

    /// Number `i` of this machine, each with other content.
    fn record(&self, i: usize) -> Record {
        let trial = Trial { ns: 100.0 / (i + 1) as f64, backend: "cranelift".into(), ..Trial::default() };
        let history = vec![trial; i % 4];
        let params = [("panels".to_string(), i as i64)].into();
        let ns = 1e6 / (i + 3) as f64;
        Record { op: format!("matmul m{i}"), device: self.device.id(), params, ns, history, ..Record::example() }
    }
}

/// A running `store-writer`.
fn writer(root: &Path, name: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_store-writer"));
    command.arg(root).arg(name).stdout(Stdio::piped()).spawn().expect("a writer")
}

/// Kills a writer and says how many records it had acknowledged. The pipe holds what it said last.
fn kill(mut child: Child) -> usize {
    // SIGKILL: it cannot finish anything.
    child.kill().expect("a kill");
    let said = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok).count();
    assert!(!child.wait().expect("an end").success(), "the writer ended by itself");
    said
}

/// A hundred rounds, ten on each store, of four writers that are killed at any moment.
#[test]
fn killed_writers_lose_at_most_what_they_were_writing() {
    let (mut torn, mut lost, mut all) = (0, 0, 0);
    for era in 0..10 {
        let place = Place::new();
        let mut acknowledged: Vec<(String, usize)> = vec![];
        for round in 0..10 {
            let names: Vec<String> = (0..4).map(|w| format!("r{round} w{w}")).collect();
            let children: Vec<Child> = names.iter().map(|n| writer(place.root.path(), n)).collect();
            std::thread::sleep(Duration::from_micros(2000 + splitmix64(era * 10 + round) % 12_000));
            acknowledged.extend(names.into_iter().zip(children.into_iter().map(kill)));
        }
        let store = place.open();
        let damaged = store.warnings().damaged;
        assert_eq!(store.warnings().total(), damaged, "{}", store.warnings());
        assert!(damaged <= acknowledged.len(), "{damaged} bad lines of {} writers", acknowledged.len());
        let there: HashSet<&str> = store.records().map(|r| r.op.as_str()).collect();
        for (name, count) in &acknowledged {
            let missing = (0..*count).filter(|i| !there.contains(format!("{name} {i}").as_str())).count();
            assert!(missing <= 1, "{name} acknowledged {count} records and lost {missing}");
            lost += missing;
            all += count;
        }
        torn += damaged;
    }
    // Rounds in which nobody wrote would show nothing.
    assert!(all > 1000, "only {all} records in 400 writers' lives");
    println!("400 writers killed, {all} records acknowledged, {lost} of them lost, {torn} lines torn");
}

/// What a torn write leaves, at every length of it.
#[test]
fn a_torn_line_costs_itself_only() {
    let place = Place::new();
    for i in 0..3 {
        place.open().append(&place.record(i)).expect("a record");
    }
    let whole = fs::read(place.file()).expect("the store");
    let start = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').expect("a line") + 1;
    for cut in start..whole.len() {
        fs::write(place.file(), &whole[..cut]).expect("a cut");
        let mut store = place.open();
        // Without its last byte, the line's end, the record is whole.
        let damaged = usize::from(cut > start && cut < whole.len() - 1);
        assert_eq!(
            (store.warnings().damaged, store.records().len()),
            (damaged, if cut == whole.len() - 1 { 3 } else { 2 })
        );
        store.append(&place.record(7)).expect("a record");
        store.reload().expect("a store");
        assert_eq!(store.warnings().damaged, damaged, "cut at {cut}");
        for i in [0, 1, 7] {
            assert_eq!(store.get(&place.record(i).key()), Some(&place.record(i)), "cut at {cut}");
        }
    }
}

/// Whatever happens to the bytes, a record is one that was written or is not there.
#[test]
fn damage_never_makes_another_record() {
    let place = Place::new();
    let written: Vec<Record> = (0..12).map(|i| place.record(i)).collect();
    for r in &written {
        store::append(&place.file(), r).expect("a record");
    }
    let good = fs::read(place.file()).expect("the store");
    let (mut survivors, mut cases) = (0, 0);
    for seed in 0..2000u64 {
        let mut state = seed;
        let mut below = |n: usize| {
            state = splitmix64(state);
            (state % n.max(1) as u64) as usize
        };
        let mut bytes = good.clone();
        for _ in 0..1 + below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = below(bytes.len());
            let run = (1 + below(300)).min(bytes.len() - at);
            match below(7) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at] = below(256) as u8,
                2 => bytes[at..at + run].iter_mut().for_each(|b| *b = 0),
                3 => drop(bytes.drain(at..at + run)),
                4 => bytes.truncate(at),
                // Digits are what changes a value and leaves JSON what it is.
                5 => bytes[at] = b'0' + below(10) as u8,
                _ => {
                    let copy = bytes[at..at + run].to_vec();
                    let to = below(bytes.len());
                    drop(bytes.splice(to..to, copy));
                }
            }
        }
        fs::write(place.file(), &bytes).expect("a file");
        let store = place.open();
        for r in store.records() {
            assert!(written.contains(r), "seed {seed} made {r:?}");
            survivors += 1;
        }
        cases += written.len();
    }
    // Damage is local: most records are where they were.
    assert!(survivors > cases / 2 && survivors < cases, "{survivors} of {cases}");
}

#[test]
fn what_is_not_of_here_is_ignored_with_one_warning() {
    let place = Place::new();
    let here = place.record(0);
    let other = |i: usize| Record { op: format!("other {i}"), ..here.clone() };
    for r in [
        here.clone(),
        Record { device: "feed".into(), ..other(1) },
        Record { device: "beef".into(), ..other(2) },
        Record { compiler: "older".into(), ..other(3) },
    ] {
        store::append(&place.file(), &r).expect("a record");
    }
    let schema = serde_json::to_string(&Record { schema: 2, ..other(4) }).expect("JSON");
    let crc = line::write(&Record { schema: 2, ..other(4) })[8..16].to_string();
    let mut text = fs::read_to_string(place.file()).expect("the store");
    text += &format!("{{\"crc\":\"{crc}\",\"record\":{schema}}}\n\nnot a record\n");
    fs::write(place.file(), text).expect("a file");
    let store = place.open();
    assert_eq!(store.records().collect::<Vec<_>>(), [&here]);
    let w = store.warnings();
    assert_eq!((w.device, w.compiler, w.schema, w.damaged, w.total()), (2, 1, 1, 1, 5));
    let said = w.to_string();
    assert!(said.lines().count() == 1 && said.contains("2 of another machine") && said.contains("jsonl"), "{said}");
}

#[test]
fn the_latest_record_of_a_key_holds() {
    let place = Place::new();
    let (mut a, mut b) = (place.open(), place.open());
    let (first, second) = (place.record(1), Record { ns: 5e9, ..place.record(1) });
    a.append(&first).expect("a record");
    b.append(&second).expect("a record");
    assert_eq!(a.get(&first.key()), Some(&first));
    a.reload().expect("a store");
    // Though slower: who measured later knew the first.
    assert_eq!(a.get(&first.key()), Some(&second));
    assert_eq!(a.get(&Key { threads: 9, ..first.key() }), None);
}

#[test]
fn what_would_be_ignored_is_not_written() {
    let place = Place::new();
    let mut store = place.open();
    for bad in [
        Record { ns: f64::NAN, ..place.record(0) },
        Record { schema: 9, ..place.record(0) },
        Record { device: "feed".into(), ..place.record(0) },
        Record { compiler: "older".into(), ..place.record(0) },
    ] {
        let answer = store.append(&bad);
        assert!(matches!(answer, Err(StoreError::Refused { .. })), "{answer:?}");
    }
    assert!(!place.file().exists() && store.records().len() == 0);
}

#[test]
fn what_the_system_refuses_is_an_error() {
    let place = Place::new();
    fs::create_dir_all(place.file()).expect("a folder in the place of the file");
    let opened = Store::open(place.root.path(), &place.device.id(), "c0ffee");
    assert!(matches!(&opened, Err(StoreError::Io { path, .. }) if *path == place.file()), "{opened:?}");
    let place = Place::new();
    fs::write(store::folder(place.root.path()), "a file in the place of the folder").expect("a file");
    assert!(Store::open(place.root.path(), &place.device.id(), "c0ffee").is_err());
    let huge = Place::new();
    fs::create_dir_all(store::folder(huge.root.path())).expect("a folder");
    fs::File::create(huge.file()).and_then(|f| f.set_len(1 << 33)).expect("a sparse file");
    let opened = Store::open(huge.root.path(), &huge.device.id(), "c0ffee");
    assert!(matches!(opened, Err(StoreError::TooLarge { bytes, .. }) if bytes == 1 << 33), "{opened:?}");
}

/// Printed, not asserted: `cargo test --release --test store -- --nocapture speed`.
#[test]
fn speed_of_opening() {
    for trials in [0, 16, 64] {
        let place = Place::new();
        let trial =
            Trial { ns: 1e5 / 3.0, params: [("panels".to_string(), 4)].into(), ..place.record(1).history[0].clone() };
        for i in 0..1000 {
            let r = Record { history: vec![trial.clone(); trials], ..place.record(i) };
            store::append(&place.file(), &r).expect("a record");
        }
        let mut times = vec![];
        for _ in 0..5 {
            let start = Instant::now();
            let store = place.open();
            times.push(start.elapsed());
            assert_eq!(store.records().len(), 1000);
        }
        println!("1000 records with {trials} trials each: opened in {:.1?}", times.iter().min().expect("a time"));
    }
}
