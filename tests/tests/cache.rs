//! The verb `cache` from outside: what it prints, what it changes, what it refuses and with which exit code.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use tilewright_autotune::fingerprint::Device;
use tilewright_autotune::record::{Record, Trial};
use tilewright_autotune::{layers, store};
use tilewright_tests::e2e::program;

/// A cache folder with two records of this machine, one of them measured twice.
struct Place {
    dir: TempDir,
    device: String,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().expect("a folder"), device: Device::detect().id() };
        place.append(&Record { ns: 1200.0, ..place.matmul() });
        place.append(&place.attention());
        place.append(&place.matmul());
        place
    }

    fn matmul(&self) -> Record {
        let trial = Trial { ns: 1400.0, mad_ns: 3.0, backend: "cranelift".into(), round: 2, ..Trial::default() };
        let params = [("lanes".to_string(), 8), ("panels".to_string(), 4)].into();
        let op = "matmul Quant(Layout { planes: [4] }) m576 n576 biasfalse t1".to_string();
        Record { op, params, device: self.device.clone(), history: vec![trial], ..Record::example() }
    }

    fn attention(&self) -> Record {
        Record { op: "attention h9/3 d64 t1".into(), threads: 1, device: self.device.clone(), ..Record::example() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn file(&self) -> PathBuf {
        store::file(&self.root(), &self.device)
    }

    fn append(&self, r: &Record) {
        store::append(&self.file(), r).expect("a record");
    }

    /// A file beside the cache.
    fn write(&self, name: &str, records: &[Record]) -> String {
        let path = self.dir.path().join(name);
        let _ = fs::remove_file(&path);
        records.iter().for_each(|r| store::append(&path, r).expect("a record"));
        path.to_string_lossy().into_owned()
    }

    fn call(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("COMPILE_MODEL_")) {
            command.env_remove(name);
        }
        command.env("COMPILE_MODEL_CACHE_DIR", self.root());
        command.arg("cache").args(args).stdin(Stdio::null()).output().expect("the program")
    }

    fn answer(&self, args: &[&str]) -> String {
        let out = self.call(args);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.answer(args)).expect("JSON")
    }

    /// A call that must fail with one line on stderr; what it printed before.
    fn fails(&self, code: i32, args: &[&str], message: &str) -> String {
        let out = self.call(args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(message), "{args:?}: {}", stderr(&out));
        String::from_utf8(out.stdout).expect("UTF-8")
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Spoils byte `at` of a file.
fn spoil(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("a file");
}

#[test]
fn ls_shows_the_latest_of_each_key() {
    let p = Place::new();
    let text = p.answer(&["ls"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("id") && lines[1].contains("attention h9/3"), "{text}");
    for part in ["matmul q4 m576 n576 t1", "lanes=8 panels=4", "1.00 us", "1.50", "user", "2026-01-31"] {
        assert!(lines[2].contains(part), "{part}: {text}");
    }
    let rows = p.json(&["ls", "--json"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
    assert_eq!((&rows[1]["ns"], &rows[1]["params"]["panels"]), (&Value::from(1000.0), &Value::from(4)), "{rows}");
    // A bad line is one warning, and no less is shown.
    fs::write(p.file(), fs::read_to_string(p.file()).expect("records") + "junk\njunk\n").expect("a file");
    let out = p.call(&["ls"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), text);
    assert!(stderr(&out).contains("2 damaged") && stderr(&out).lines().count() == 1, "{}", stderr(&out));
    // Flags of verbs of verbs may come from the environment too.
    let mut command = Command::new(program());
    command.args(["cache", "ls"]).env("COMPILE_MODEL_CACHE_DIR", p.root()).env("COMPILE_MODEL_JSON", "true");
    let out = command.output().expect("the program");
    assert_eq!(serde_json::from_slice::<Value>(&out.stdout).expect("JSON"), rows);
    let empty = p.dir.path().join("empty");
    let out = p.call(&["ls", "--cache-dir", &empty.to_string_lossy()]);
    assert!(out.status.success() && out.stdout.is_empty() && stderr(&out).contains("no records"), "{}", stderr(&out));
    assert!(!empty.exists(), "looking wrote something");
}

#[test]
fn show_has_the_history() {
    let p = Place::new();
    let id = p.matmul().key().id();
    for key in [&id, &id[..4], "matmul", "matmul q4 m576"] {
        let text = p.answer(&["show", key]);
        assert!(text.contains(&p.matmul().op) && text.contains("round 2") && text.contains("1.40 us"), "{text}");
    }
    assert_eq!(p.json(&["show", &id, "--json"])["history"][0]["ns"], 1400.0);
    p.fails(2, &["show", "glu"], "`cache ls` lists them");
    p.append(&Record { threads: 4, ..p.matmul() });
    assert_eq!(p.fails(2, &["show", "matmul"], "give an id"), "");
    p.fails(2, &["show"], "<KEY>");
}

#[test]
fn verify_names_each_bad_line() {
    let p = Place::new();
    assert!(p.answer(&["verify"]).contains(": 3 good, 0 bad"));
    p.append(&Record { device: "feed".into(), ..p.matmul() });
    spoil(&p.file(), 100);
    let text = p.fails(3, &["verify"], "2 bad line(s)");
    assert!(
        text.contains("2 good, 2 bad")
            && text.contains("line 1: the checksum")
            && text.contains("line 4: it was measured on another machine, feed"),
        "{text}"
    );
    // What is not of here is neither shown nor exported.
    let here = p.device.as_str();
    let exported = p.answer(&["export", "-"]);
    assert!(exported.lines().count() == 2 && exported.lines().all(|l| l.contains(here)), "{exported}");
    assert!(p.json(&["ls", "--json"]).as_array().is_some_and(|a| a.iter().all(|r| r["device"] == here)));
    fs::remove_file(p.file()).expect("a removal");
    assert_eq!(p.answer(&["verify"]), "no records\n");
}

#[test]
fn diff_compares_files_and_stores() {
    let p = Place::new();
    let other = p.write("b.jsonl", &[Record { ns: 500.0, ..p.matmul() }, Record { threads: 8, ..p.matmul() }]);
    let text = p.answer(&["diff", &p.root().to_string_lossy(), &other]);
    let starts: Vec<&str> = text.lines().map(|l| l.split(' ').next().unwrap_or("")).collect();
    assert_eq!(starts, ["only", "only", "differs", "1"], "{text}");
    assert!(text.contains("only A") && text.contains("only B") && text.contains("B takes 0.500 of A's time"), "{text}");
    assert_eq!(p.answer(&["diff", &other, &other]), "0 only in A, 0 only in B, 0 differ, 2 same\n");
    p.fails(1, &["diff", &other, "missing.jsonl"], "missing.jsonl");
    let empty = p.dir.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    p.fails(3, &["diff", &other, &empty.to_string_lossy()], "no record in it");
    p.fails(2, &["diff", &other], "<B>");
}

#[test]
fn merge_takes_what_is_new_or_faster() {
    let p = Place::new();
    let records = [
        Record { ns: 900.0, ..p.matmul() },
        Record { ns: 2000.0, ..p.attention() },
        Record { op: "glu m1536".into(), ..p.matmul() },
        Record { device: "feed".into(), ns: 1.0, ..p.matmul() },
    ];
    let file = p.write("b.jsonl", &records);
    fs::write(&file, fs::read_to_string(&file).expect("records") + "junk\n").expect("a file");
    let out = p.call(&["merge", &file]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("1 added, 1 faster, 1 not better, 1 of other machines"), "{text}");
    assert!(stderr(&out).contains("1 damaged"), "{}", stderr(&out));
    assert!(p.answer(&["merge", &file, &file]).contains("0 added, 0 faster, 3 not better"));
    let times: Vec<f64> =
        p.json(&["ls", "--json"]).as_array().into_iter().flatten().filter_map(|r| r["ns"].as_f64()).collect();
    assert_eq!(times, [1000.0, 1000.0, 900.0]);
    // Another compiler's kernel is another kernel, however fast.
    let other = p.write("c.jsonl", &[Record { compiler: "newer".into(), ns: 5000.0, ..p.matmul() }]);
    assert!(p.answer(&["merge", &other]).contains("1 added"));
    p.fails(1, &["merge", "missing.jsonl"], "missing.jsonl");
    p.fails(2, &["merge"], "<FILES>");
}

#[test]
fn export_and_import_are_inverse() {
    let (p, q) = (Place::new(), Place::new());
    let file = p.dir.path().join("out.jsonl").to_string_lossy().into_owned();
    assert!(p.answer(&["export", &file]).contains("2 record(s)"));
    let text = fs::read_to_string(&file).expect("a file");
    assert_eq!((text.lines().count(), p.answer(&["export", "-"])), (2, text.clone()));
    fs::remove_file(q.file()).expect("a removal");
    q.fails(3, &["export", "-"], "no record in it");
    assert!(q.answer(&["import", &file]).contains("2 added, 0 faster, 0 as hints, 0 not better"));
    assert_eq!(q.answer(&["export", "-"]), text);
    p.fails(1, &["export", "/nonexistent/out.jsonl"], "/nonexistent/out.jsonl");
    p.fails(1, &["import", "missing.jsonl"], "missing.jsonl");
    // One bad line, and nothing is taken.
    let before = fs::read(q.file()).expect("records");
    fs::write(&file, q.write("new.jsonl", &[Record { threads: 7, ..p.matmul() }])).expect("a file");
    q.fails(3, &["import", &file], "out.jsonl:1: it is no record");
    fs::write(&file, "\n").expect("a file");
    q.fails(3, &["import", &file], "no record in it");
    assert_eq!(fs::read(q.file()).expect("records"), before);
}

#[test]
fn records_of_another_machine_are_hints_or_nothing() {
    let p = Place::new();
    let there = |r: Record| Record { device: "feed".into(), ..r };
    let glu = Record { op: "glu m1536".into(), ..p.matmul() };
    let file = p.write("there.jsonl", &[there(p.matmul()), there(glu.clone()), Record { threads: 3, ..p.matmul() }]);
    let before = fs::read(p.file()).expect("records");
    p.fails(4, &["import", &file], "2 record(s) were measured on another machine (feed; this one is ");
    assert_eq!(fs::read(p.file()).expect("records"), before);
    assert!(p.answer(&["import", &file, "--as-hint"]).contains("1 added, 0 faster, 2 as hints, 0 not better"));
    assert!(layers::hints(&p.root()).join("feed.jsonl").is_file());
    let rows = p.json(&["ls", "--json"]);
    let layer = |op: &str| rows.as_array().into_iter().flatten().find(|r| r["op"] == op).map(|r| r["layer"].clone());
    // An own record comes before a hint.
    assert_eq!((layer(&glu.op), layer(&p.matmul().op)), (Some("shipped".into()), Some("user".into())), "{rows}");
    assert!(p.answer(&["verify"]).contains("feed.jsonl: 2 good, 0 bad"));
    assert!(!p.answer(&["export", "-"]).contains("feed"));
}

#[test]
fn clear_needs_a_yes() {
    let p = Place::new();
    let artifact = p.root().join("artifacts").join("tiny");
    fs::create_dir_all(&artifact).expect("a folder");
    p.fails(2, &["clear"], "removes 1 file(s)");
    assert!(p.file().is_file());
    let text = p.answer(&["clear", "--yes"]);
    assert!(text.contains(&p.device) && text.contains("3 line(s)"), "{text}");
    assert!(!p.file().exists() && artifact.is_dir());
    assert_eq!(p.answer(&["clear", "--yes"]), "no records\n");
    p.fails(2, &["tidy"], "tidy");
}
