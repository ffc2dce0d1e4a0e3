//! File tests: one IR text a file, with what is expected of it in comments.
//!
//! ```text
//! // test: kernel-verify
//! // error: K07
//! kernel @k(%p: ptr) { … }
//! ```
//!
//! `// test: MODE ARGS` picks a row of [`MODES`], whose function turns the text into an [`Output`]. What the runner
//! then compares is the same for all modes:
//!
//! - `// error: TEXT` — one of the errors contains TEXT. Each error needs its line and each line its error.
//! - `// check: TEXT` — a line of the output after the last match contains TEXT (runs of blanks count as one);
//!   `// next: TEXT` — the very next line does; `// not: TEXT` — no line does up to the next match or the end.
//! - `// ----` — what follows is the output, exactly; `BLESS=1 cargo test` rewrites it.
//!
//! A new mode is a function and a row in [`MODES`]; other directives are its own: [`Case::values`].

use std::path::{Path, PathBuf};
use std::{env, fs};

mod graph;
mod kernel;
mod ptx;
mod x86;

/// What a mode made of a text.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// What `check`, `next`, `not` and `----` look at.
    pub text: String,
    /// What `error` looks at.
    pub errors: Vec<String>,
}

/// One kind of file test.
pub struct Mode {
    /// The word after `// test:`.
    pub name: &'static str,
    /// Does the work; `Err` fails the test whatever is expected.
    pub run: fn(&Case) -> Result<Output, String>,
}

/// All kinds of file tests.
pub const MODES: &[Mode] = &[
    Mode { name: "graph-roundtrip", run: graph::roundtrip },
    Mode { name: "graph-parse", run: graph::parse },
    Mode { name: "graph-verify", run: graph::verify },
    Mode { name: "pass", run: graph::pass },
    Mode { name: "kernel-roundtrip", run: kernel::roundtrip },
    Mode { name: "kernel-parse", run: kernel::parse },
    Mode { name: "kernel-verify", run: kernel::verify },
    Mode { name: "kernel-run", run: kernel::run },
    Mode { name: "x86", run: x86::run },
    Mode { name: "ptx", run: ptx::run },
];

/// A `// key: value` line.
#[derive(Clone, Debug)]
pub struct Directive {
    /// Line in the file, from 1.
    pub line: usize,
    /// Word before the colon.
    pub key: String,
    /// The rest, without blanks around it.
    pub value: String,
}

/// A file, taken apart.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it is.
    pub path: PathBuf,
    /// First word of `// test:`.
    pub mode: String,
    /// The rest of `// test:`.
    pub args: String,
    /// The text up to `// ----`, comments included.
    pub source: String,
    /// Directives in the order of the file.
    pub directives: Vec<Directive>,
    /// What follows `// ----`.
    pub expected: Option<String>,
}

impl Case {
    /// Takes a file's text apart.
    pub fn new(path: &Path, text: &str) -> Result<Case, String> {
        let (source, expected) = match text.split_once("\n// ----\n") {
            Some((source, expected)) => (format!("{source}\n"), Some(expected.to_string())),
            None => (text.to_string(), None),
        };
        let directives: Vec<Directive> = source.lines().enumerate().filter_map(directive).collect();
        let mut tests = directives.iter().filter(|d| d.key == "test");
        let (Some(test), None) = (tests.next(), tests.next()) else {
            return Err("expected one `// test: MODE` line".into());
        };
        let (mode, args) = test.value.split_once(|c: char| c == ':' || c.is_whitespace()).unwrap_or((&test.value, ""));
        let (mode, args) = (mode.to_string(), args.trim().to_string());
        Ok(Case { path: path.to_path_buf(), mode, args, source, directives, expected })
    }

    /// Values of all directives `key`.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.directives.iter().filter(move |d| d.key == key).map(|d| d.value.as_str())
    }
}

fn directive((index, line): (usize, &str)) -> Option<Directive> {
    let (key, value) = line.trim_start().strip_prefix("// ")?.split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    is_key.then(|| Directive { line: index + 1, key: key.to_string(), value: value.trim().to_string() })
}

/// All `.tir` files under `dir`, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "tir") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Runs one file; the error is for people.
pub fn run_file(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let case = Case::new(path, &text)?;
    let known = || MODES.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
    let mode = MODES.iter().find(|m| m.name == case.mode);
    let mode = mode.ok_or_else(|| format!("no mode `{}`; there are {}", case.mode, known()))?;
    let output = (mode.run)(&case)?;
    match &case.expected {
        Some(_) if env::var_os("BLESS").is_some_and(|v| v == "1") => {
            let blessed = format!("{}// ----\n{}", case.source, output.text);
            if blessed != text {
                fs::write(path, blessed).map_err(|e| e.to_string())?;
            }
        }
        Some(expected) if *expected != output.text => {
            return Err(format!("the output differs\n{}", difference(expected, &output.text)));
        }
        _ => {}
    }
    compare_errors(&case, &output)?;
    compare_lines(&case, &output)
}

fn compare_errors(case: &Case, output: &Output) -> Result<(), String> {
    let mut left: Vec<&String> = output.errors.iter().collect();
    for d in case.directives.iter().filter(|d| d.key == "error") {
        match left.iter().position(|e| squeeze(e).contains(&squeeze(&d.value))) {
            Some(i) => drop(left.remove(i)),
            None => {
                let errors = if left.is_empty() { "  (none)".to_string() } else { bullets(&left) };
                return Err(format!("line {}: no error contains `{}`; errors left:\n{errors}", d.line, d.value));
            }
        }
    }
    if left.is_empty() { Ok(()) } else { Err(format!("unexpected errors:\n{}", bullets(&left))) }
}

fn bullets(lines: &[&String]) -> String {
    lines.iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")
}

fn compare_lines(case: &Case, output: &Output) -> Result<(), String> {
    let lines: Vec<String> = output.text.lines().map(squeeze).collect();
    let fail = |d: &Directive, what: &str| {
        Err(format!("line {}: {} `{}`: {what} in the output:\n{}", d.line, d.key, d.value, output.text))
    };
    // The first line not yet passed, and the `not`s that hold from there to the next match.
    let mut at = 0;
    let mut nots: Vec<&Directive> = vec![];
    let hit = |d: &Directive, range: std::ops::Range<usize>| {
        let wanted = squeeze(&d.value);
        range.into_iter().find(|&i| lines[i].contains(&wanted))
    };
    for d in &case.directives {
        let found = match d.key.as_str() {
            "check" => hit(d, at..lines.len()),
            "next" => hit(d, at..lines.len().min(at + 1)),
            "not" => {
                nots.push(d);
                continue;
            }
            _ => continue,
        };
        let Some(i) = found else { return fail(d, "not found") };
        if let Some(not) = nots.drain(..).find(|not| hit(not, at..i).is_some()) {
            return fail(not, "found");
        }
        at = i + 1;
    }
    match nots.into_iter().find(|not| hit(not, at..lines.len()).is_some()) {
        Some(not) => fail(not, "found"),
        None => Ok(()),
    }
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first line that differs, with both texts' versions of it.
fn difference(expected: &str, output: &str) -> String {
    let (mut a, mut b) = (expected.lines(), output.lines());
    for n in 1.. {
        let (x, y) = (a.next(), b.next());
        if x != y || x.is_none() {
            let show = |line: Option<&str>| line.map_or("(end)".to_string(), str::to_string);
            return format!("output line {n}\n- {}\n+ {}\nwhole output:\n{output}", show(x), show(y));
        }
    }
    String::new()
}
