//! `cache`: the records of tuning, which lie beside the built artifacts.

use crate::exit::usage;
use crate::list::table;
use crate::system;
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use tilewright_autotune::exchange::{self, ExchangeError, Row};
use tilewright_autotune::record::Record;
use tilewright_autotune::store::{self, Warnings};
use tilewright_driver::Cache;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// Folder of records and built artifacts [default: compile-model in the platform's cache folder]
    #[arg(long, value_name = "FOLDER", global = true)]
    cache_dir: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum What {
    /// The records that are known to this machine, by operation
    Ls {
        /// One array of objects
        #[arg(long)]
        json: bool,
    },
    /// One record with the history of its search
    Show {
        /// Its id as `ls` shows it, or how its operation starts
        key: String,
        /// One object
        #[arg(long)]
        json: bool,
    },
    /// Check every line of every file; fails if one is bad
    Verify,
    /// What is only in A, only in B, and what differs; files or cache folders
    Diff { a: PathBuf, b: PathBuf },
    /// Take over what is new or faster; bad lines and records of other machines are left out
    Merge {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Write this machine's latest records to a file; `-` is stdout
    Export { file: PathBuf },
    /// Take over a file as `export` writes it, whole or not at all
    Import {
        file: PathBuf,
        /// Keep records of other machines as places where a search starts
        #[arg(long)]
        as_hint: bool,
    },
    /// Remove all records, of every machine; artifacts stay
    Clear {
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

fn rows(root: &Path, here: &[String]) -> anyhow::Result<Vec<Row>> {
    let (rows, warnings) = exchange::known(root, here)?;
    warn(&warnings);
    if rows.is_empty() {
        eprintln!("no records in {}", store::folder(root).display());
    }
    Ok(rows)
}

fn warn(warnings: &[Warnings]) {
    for w in warnings {
        eprintln!("warning: {w}");
    }
}

fn params(params: &BTreeMap<String, i64>) -> String {
    params.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

/// A time for people.
fn time(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.2} us", ns / 1e3),
        _ => format!("{:.3} ms", ns / 1e6),
    }
}

fn ls(rows: &[Row]) -> Vec<Value> {
    let row = |(r, layer): &Row| {
        json!({
            "id": r.key().id(), "op": r.key().short(), "target": r.target, "threads": r.threads, "backend": r.backend,
            "params": params(&r.params), "time": time(r.ns), "gain": format!("{:.2}", r.gain()), "layer": layer.name(),
            "date": r.date,
        })
    };
    rows.iter().map(row).collect()
}

/// A record as an object, with what follows from it.
fn object((r, layer): &Row) -> Value {
    let mut object = json!(r);
    object["id"] = json!(r.key().id());
    object["layer"] = json!(layer.name());
    object["gain"] = json!(r.gain());
    object
}

fn find<'a>(rows: &'a [Row], wanted: &str) -> anyhow::Result<&'a Row> {
    let id = wanted.len() >= 4;
    let fits = |r: &&Row| {
        let key = r.0.key();
        id && key.id().starts_with(wanted) || key.op.starts_with(wanted) || key.short().starts_with(wanted)
    };
    match rows.iter().filter(fits).collect::<Vec<_>>()[..] {
        [one] => Ok(one),
        [] => Err(usage(format!("no record's id or operation starts with `{wanted}`; `cache ls` lists them"))),
        ref many => {
            let some: Vec<String> =
                many.iter().take(5).map(|r| format!("{} ({})", r.0.key().id(), r.0.key().short())).collect();
            Err(usage(format!("{} records start with `{wanted}`; give an id: {}", many.len(), some.join(", "))))
        }
    }
}

fn show((r, layer): &Row) -> String {
    let mut text = format!(
        "{}  {}\n\ntarget    {}, {} thread(s)\nwinner    {} {}\ntime      {} +- {}\ndefault   {} +- {}, {:.2} times as long\n\
         floor     {}\nerror     {:.2e} (normalised mean square)\nsearch    {}: {} tried, {} refused\nlayer     {}, device {}\n\
         compiler  {}\ndate      {}\n",
        r.key().id(),
        r.op,
        r.target,
        r.threads,
        r.backend,
        params(&r.params),
        time(r.ns),
        time(r.mad_ns),
        time(r.default_ns),
        time(r.default_mad_ns),
        r.gain(),
        if r.floor_ns > 0.0 { time(r.floor_ns) } else { "unknown".into() },
        r.error,
        r.search,
        r.tried,
        r.rejected,
        layer.name(),
        r.device,
        r.compiler,
        r.date,
    );
    if !r.history.is_empty() {
        text += "\nhistory\n";
    }
    for t in &r.history {
        let (ns, mad) = (time(t.ns), time(t.mad_ns));
        let _ = writeln!(text, "  round {:<2} {ns:>10} +- {mad:<9} {} {}", t.round, t.backend, params(&t.params));
    }
    text
}

fn verify(root: &Path) -> anyhow::Result<(String, Option<ExchangeError>)> {
    let (mut text, mut first, mut count) = (String::new(), None, 0);
    for c in exchange::verify(root)? {
        let _ = writeln!(text, "{}: {} good, {} bad", c.path.display(), c.good, c.bad.len());
        for (line, fault) in &c.bad {
            let _ = writeln!(text, "  line {line}: {fault}");
        }
        count += c.bad.len();
        if !c.bad.is_empty() && first.is_none() {
            first = Some(c.path);
        }
    }
    if text.is_empty() {
        text = "no records\n".into();
    }
    Ok((text, first.map(|path| ExchangeError::Bad { path, count })))
}

fn diff(a: &Path, b: &Path) -> anyhow::Result<String> {
    let diff = exchange::diff(a, b)?;
    warn(&diff.warnings);
    let mut text = String::new();
    let line = |r: &Record| format!("{} {}  {} {}", r.key().id(), r.key().short(), params(&r.params), time(r.ns));
    for (side, records) in [("A", &diff.only_a), ("B", &diff.only_b)] {
        for r in records {
            let _ = writeln!(text, "only {side}   {}", line(r));
        }
    }
    for (a, b) in &diff.differs {
        let (other, ratio) = (format!("{} {}", params(&b.params), time(b.ns)), b.ns / a.ns);
        let _ = writeln!(text, "differs  {} -> {other}, B takes {ratio:.3} of A's time", line(a));
    }
    let (only_a, only_b) = (diff.only_a.len(), diff.only_b.len());
    let _ = writeln!(text, "{only_a} only in A, {only_b} only in B, {} differ, {} same", diff.differs.len(), diff.same);
    Ok(text)
}

fn merge(root: &Path, here: &[String], file: &Path) -> anyhow::Result<String> {
    let (m, warnings) = exchange::merge(root, here, file)?;
    warn(&warnings);
    let (kept, elsewhere) = (m.kept, m.elsewhere);
    let file = file.display();
    Ok(format!("{file}: {} added, {} faster, {kept} not better, {elsewhere} of other machines\n", m.added, m.faster))
}

fn export(root: &Path, here: &[String], file: &Path) -> anyhow::Result<Option<String>> {
    let (text, count, warnings) = exchange::export(root, here)?;
    warn(&warnings);
    if file == Path::new("-") {
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(None);
    }
    std::fs::write(file, text).with_context(|| file.display().to_string())?;
    Ok(Some(format!("{}: {count} record(s)\n", file.display())))
}

fn import(root: &Path, here: &[String], file: &Path, as_hint: bool) -> anyhow::Result<String> {
    let m = exchange::import(root, here, file, as_hint)?;
    let (hints, kept) = (m.hints, m.kept);
    Ok(format!("{}: {} added, {} faster, {hints} as hints, {kept} not better\n", file.display(), m.added, m.faster))
}

fn clear(root: &Path, yes: bool) -> anyhow::Result<String> {
    if !yes {
        let files = exchange::all_files(root)?.len();
        let folder = store::folder(root);
        let folder = folder.display();
        return Err(usage(format!("this removes {files} file(s) of records in {folder}; say --yes to do it")));
    }
    let removed = exchange::clear(root)?;
    let mut text: String = removed.iter().map(|(p, n)| format!("removed {}: {n} line(s)\n", p.display())).collect();
    if text.is_empty() {
        text = "no records\n".into();
    }
    Ok(text)
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let cache = Cache::open(args.cache_dir.as_deref())?;
    let (root, here) = (cache.root(), system::devices());
    let mut failure = None;
    let text = match args.what {
        What::Ls { json: true } => format!("{}\n", Value::from_iter(rows(root, &here)?.iter().map(object))),
        What::Ls { json: false } => table(&ls(&rows(root, &here)?)),
        What::Show { key, json } => {
            let rows = rows(root, &here)?;
            let row = find(&rows, &key)?;
            if json { format!("{}\n", object(row)) } else { show(row) }
        }
        What::Verify => {
            let (text, bad) = verify(root)?;
            failure = bad;
            text
        }
        What::Diff { a, b } => diff(&a, &b)?,
        What::Merge { files } => {
            let texts: anyhow::Result<Vec<_>> = files.iter().map(|f| merge(root, &here, f)).collect();
            texts?.concat()
        }
        What::Export { file } => export(root, &here, &file)?.unwrap_or_default(),
        What::Import { file, as_hint } => import(root, &here, &file, as_hint)?,
        What::Clear { yes } => clear(root, yes)?,
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    failure.map_or(Ok(()), |e| Err(e.into()))
}
