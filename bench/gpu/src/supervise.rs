//! Runs the parts one after the other as processes of this program, watches their time, and keeps the results.
//!
//! A process that dies, or does not get on, loses the item it was at; another goes on behind it. The file of results is
//! written anew after each part, so that whatever ends the run leaves what was measured.

use crate::Settings;
use crate::part::{LOST, PARTS, Part};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Version of the file of results.
const SCHEMA: u32 = 1;
/// How often a part that dies is started again.
const STARTS: usize = 40;
/// Beyond its time a part gets so long to end its item.
const GRACE: Duration = Duration::from_secs(5);

/// Who runs which parts.
struct Supervisor<'a> {
    /// This program.
    program: PathBuf,
    parts: &'a [Part],
    settings: Settings,
    /// Most seconds in all.
    seconds: u64,
}

/// All parts, or those named. The exit status says whether anything failed.
pub fn run(settings: &Settings, out: Option<PathBuf>, seconds: u64, only: &[String]) -> Result<ExitCode> {
    if let Some(unknown) = only.iter().find(|n| !PARTS.iter().any(|p| p.name == n.as_str())) {
        let known: Vec<&str> = PARTS.iter().map(|p| p.name).collect();
        bail!("there is no part {unknown}; there are {}", known.join(", "));
    }
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = settings.seed.unwrap_or(clock.as_nanos() as u64 >> 8 & 0xffff_ffff);
    let settings = Settings { seed: Some(seed), ..settings.clone() };
    let facts = crate::gpu::Gpu::open(settings.emulate, seed)?.describe();
    let date = date(clock.as_secs());
    let results = json!({
        "schema": SCHEMA,
        "program": concat!("tilewright-gpu-bench ", env!("CARGO_PKG_VERSION")),
        "date": date,
        "seed": seed,
        "emulated": settings.emulate,
        "device": facts,
        "parts": [],
    });
    let folder = out.unwrap_or_else(|| if settings.emulate { std::env::temp_dir() } else { "bench/results".into() });
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = folder.join(format!("{date}-{}.json", slug(facts["name"].as_str().unwrap_or("gpu"))));
    let wanted: Vec<Part> =
        PARTS.iter().filter(|p| only.is_empty() || only.iter().any(|n| n == p.name)).copied().collect();
    let failures =
        Supervisor { program: std::env::current_exe()?, parts: &wanted, settings, seconds }.all(results, &file)?;
    eprintln!("{}", file.display());
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Supervisor<'_> {
    /// Runs them and writes the file after each; how much failed.
    fn all(&self, mut results: Value, file: &Path) -> Result<usize> {
        let start = Instant::now();
        let (mut done, mut failures) = (vec![], 0);
        for part in self.parts {
            let left = self.seconds.saturating_sub(start.elapsed().as_secs());
            let limit = Duration::from_secs(part.seconds.min(left));
            let result = self
                .watch(part, limit)
                .unwrap_or_else(|e| json!({"name": part.name, "items": [], "seconds": 0.0, "error": format!("{e:#}")}));
            let failed = failures_of(&result);
            failures += failed;
            let count = result["items"].as_array().map_or(0, Vec::len);
            eprintln!("{:8} {count:4} items, {failed} failed, {} s", part.name, result["seconds"]);
            done.push(result);
            results["parts"] = Value::Array(done.clone());
            save(file, &results)?;
        }
        Ok(failures)
    }
}

fn failures_of(part: &Value) -> usize {
    let items = part["items"].as_array().map_or(0, |items| items.iter().filter(|i| i.get("error").is_some()).count());
    items + usize::from(part.get("error").is_some())
}

/// Writes all of it beside the file and then in its place: there is never half a file.
fn save(file: &Path, results: &Value) -> Result<()> {
    let beside = file.with_extension("json.new");
    std::fs::write(&beside, serde_json::to_string_pretty(results)? + "\n")?;
    std::fs::rename(&beside, file).with_context(|| file.display().to_string())
}

/// A part's process and the lines it writes.
struct Running {
    child: Child,
    lines: Receiver<Value>,
    errors: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Result<Running> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, mut err) = (child.stdout.take().context("no pipe")?, child.stderr.take().context("no pipe")?);
        let ((send, lines), (say, errors)) = (channel(), channel());
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            // What is no JSON was not written by a part.
            for line in lines.filter_map(|l| serde_json::from_str(&l).ok()) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.read_to_end(&mut text);
            let _ = say.send(String::from_utf8_lossy(&text).into_owned());
        });
        Ok(Running { child, lines, errors })
    }

    /// Waits for its end, or brings it about; its status, and the last of what it said. A process that a driver does not let
    /// die is left alone.
    fn end(mut self, kill: bool) -> Result<(Option<i32>, String)> {
        if kill {
            self.child.kill()?;
        }
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status.code(),
                None if start.elapsed() >= GRACE => {
                    // One that closed its output and goes on.
                    self.child.kill()?;
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let said = self.errors.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
        Ok((status, lines[lines.len().saturating_sub(3)..].join("; ")))
    }
}

impl Supervisor<'_> {
    /// The command that does a part but for its first items.
    fn command(&self, part: &Part, skip: usize, seconds: f64) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("part").arg(part.name).arg(format!("--skip={skip}")).arg(format!("--seconds={seconds}"));
        let Settings { emulate, whole, seed, model } = &self.settings;
        command.args(seed.map(|s| format!("--seed={s}"))).args(emulate.then_some("--emulate"));
        command.args(whole.then_some("--whole"));
        if let Some(model) = model {
            command.arg("--model").arg(model);
        }
        command
    }

    /// A part, by as many processes as it takes: its items and what became of them.
    fn watch(&self, part: &Part, limit: Duration) -> Result<Value> {
        let start = Instant::now();
        let (mut items, mut late, mut error, mut finished) = (vec![], vec![], None, false);
        for attempt in 0..STARTS {
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            let running = Running::start(self.command(part, items.len(), left.as_secs_f64()))?;
            let (mut at, mut since, mut hung) = (None::<String>, Instant::now(), false);
            let before = items.len();
            loop {
                let item_end = since + Duration::from_secs(part.item_seconds);
                let end = item_end.min(start + limit + GRACE);
                match running.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    Ok(line) => {
                        since = Instant::now();
                        if let Some(name) = line["begin"].as_str() {
                            at = Some(name.into());
                        } else if let Some(name) = line["late"].as_str() {
                            late.push(name.to_string());
                        } else {
                            items.push(line["done"].clone());
                            at = None;
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {
                        hung = true;
                        break;
                    }
                }
            }
            let waited = since.elapsed().as_secs_f64();
            let (status, said) = running.end(hung)?;
            if status == Some(0) {
                finished = true;
                break;
            }
            let why = match (hung, status) {
                (true, _) => format!("given up after {waited:.0} s"),
                (false, Some(code)) if code == i32::from(LOST) => "the device is lost".into(),
                (false, _) => format!("its process ended with {status:?}: {said}"),
            };
            match at {
                Some(name) => items.push(json!({"name": name, "error": why})),
                // It died before any item, and would again.
                None if items.len() == before => {
                    error = Some(why);
                    break;
                }
                None => {}
            }
            if attempt + 1 == STARTS {
                error = Some(format!("started {STARTS} times, and it died each time"));
            }
        }
        if !finished && error.is_none() {
            late.push(if items.is_empty() { "all of it" } else { "what comes after" }.to_string());
        }
        let mut done = json!({"name": part.name, "limit": limit.as_secs()});
        done["seconds"] = json!((start.elapsed().as_secs_f64() * 10.0).round() / 10.0);
        if let Some(error) = error {
            done["error"] = error.into();
        }
        if !late.is_empty() {
            done["late"] = late.into();
        }
        done["items"] = items.into();
        Ok(done)
    }
}

/// The day of a time in seconds since 1970: `2026-11-21`.
fn date(seconds: u64) -> String {
    // Days since March of year 0, in cycles of 400 years.
    let days = seconds / 86_400 + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month_of) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{month_of:02}-{day:02}", cycle * 400 + year + u64::from(month_of <= 2))
}

/// A device's name as part of a file's.
fn slug(name: &str) -> String {
    let kept: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    kept.split('-').filter(|p| !p.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn days_and_names() {
        assert_eq!(
            [0, 951_782_400, 951_868_800, 1_795_219_200].map(date),
            ["1970-01-01", "2000-02-29", "2000-03-01", "2026-11-21"]
        );
        assert_eq!(slug("NVIDIA H200 (SXM)"), "nvidia-h200-sxm");
    }

    /// Parts that go wrong in every way, played by a script: called as `part NAME --skip=N …`.
    const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
begin() { echo "{\"begin\": \"$1\"}"; }
done_() { echo "{\"done\": {\"name\": \"$1\", \"x\": 1}}"; }
case "$2 $3" in
"good --skip=0") begin a; done_ a; begin b; echo "no JSON"; done_ b ;;
"dies --skip=0") begin a; done_ a; begin b; echo "bad weather" >&2; exit 7 ;;
"dies --skip=2") begin c; done_ c ;;
"hangs --skip=0") begin a; exec sleep 60 ;;
"hangs --skip=1") begin b; done_ b ;;
"lost --skip=0") begin a; echo '{"done": {"name": "a", "error": "illegal address"}}'; exit 3 ;;
"lost --skip=1") begin b; done_ b ;;
"slow --skip=0") begin a; done_ a; echo '{"late": "b"}' ;;
"broken "*) echo "no such thing" >&2; exit 1 ;;
"forever "*) begin a; exec sleep 60 ;;
"last "*) cp results.json seen.json; begin a; done_ a ;;
esac
"#;

    fn parts(names: &[&'static str]) -> Vec<Part> {
        let part = |&name: &&'static str| {
            let (seconds, item_seconds) = if name == "forever" { (1, 30) } else { (20, 1) };
            Part { name, seconds, item_seconds, run: |_| Ok(()) }
        };
        names.iter().map(part).collect()
    }

    /// What fails, dies or hangs is told of, costs its item alone, and is in the file before the next part begins.
    #[test]
    fn parts_that_go_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("script");
        std::fs::write(&program, SCRIPT).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let names = ["good", "dies", "hangs", "lost", "slow", "broken", "forever", "last"];
        let settings = Settings { emulate: true, whole: false, seed: Some(1), model: None };
        let parts = parts(&names);
        let supervisor = Supervisor { program, parts: &parts, settings, seconds: 40 };
        let file = folder.path().join("results.json");
        let start = Instant::now();
        assert_eq!(supervisor.all(json!({}), &file).unwrap(), 5);
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());

        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.path().join(name)).unwrap()).unwrap()
        };
        let all = read("results.json");
        let told: Vec<(String, String)> = (0..names.len())
            .map(|i| {
                let part = &all["parts"][i];
                assert_eq!(part["name"], names[i]);
                let item = |x: &Value| match x["error"].as_str() {
                    Some(error) => format!("{} {error}", x["name"].as_str().unwrap()),
                    None => x["name"].as_str().unwrap().to_string(),
                };
                let items: Vec<String> = part["items"].as_array().unwrap().iter().map(item).collect();
                (items.join(", "), format!("{} {}", part["error"], part["late"]))
            })
            .collect();
        let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(
            told,
            [
                ("a, b", "null null"),
                ("a, b its process ended with Some(7): bad weather, c", "null null"),
                ("a given up after 1 s, b", "null null"),
                ("a illegal address, b", "null null"),
                ("a", r#"null ["b"]"#),
                ("", r#""its process ended with Some(1): no such thing" null"#),
                ("a given up after 6 s", r#"null ["what comes after"]"#),
                ("a", "null null"),
            ]
        );
        // The last part saw all parts before it in the file.
        let before: Vec<Value> = read("seen.json")["parts"].as_array().unwrap().clone();
        assert_eq!(before.iter().map(|p| p["name"].as_str().unwrap()).collect::<Vec<_>>(), names[..7]);
        assert_eq!(before[..], all["parts"].as_array().unwrap()[..7]);
    }

    /// When the whole time is over nothing begins any more, and that is told.
    #[test]
    fn no_time_left() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { emulate: true, whole: false, seed: None, model: None };
        let parts = parts(&["good"]);
        let supervisor = Supervisor { program: "/nowhere".into(), parts: &parts, settings, seconds: 0 };
        let file = folder.path().join("results.json");
        assert_eq!(supervisor.all(json!({}), &file).unwrap(), 0);
        let all: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(all["parts"][0]["late"][0], "all of it");
    }
}
