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
const STARTS: usize = 12;
/// Beyond its time a part gets so long to end its item.
const GRACE: Duration = Duration::from_secs(5);

/// All parts, or those named. The exit status says whether anything failed.
pub fn run(settings: &Settings, out: Option<PathBuf>, seconds: u64, only: &[String]) -> Result<ExitCode> {
    if let Some(unknown) = only.iter().find(|n| !PARTS.iter().any(|p| p.name == n.as_str())) {
        let known: Vec<&str> = PARTS.iter().map(|p| p.name).collect();
        bail!("there is no part {unknown}; there are {}", known.join(", "));
    }
    let start = Instant::now();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = settings.seed.unwrap_or(clock.as_nanos() as u64 >> 8 & 0xffff_ffff);
    let settings = Settings { seed: Some(seed), ..settings.clone() };
    let facts = crate::gpu::Gpu::open(settings.emulate, seed)?.describe();
    let date = date(clock.as_secs());
    let mut results = json!({
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
    let mut failures = 0;
    for part in PARTS.iter().filter(|p| only.is_empty() || only.iter().any(|n| n == p.name)) {
        let left = seconds.saturating_sub(start.elapsed().as_secs());
        let done = watch(part, &settings, Duration::from_secs(part.seconds.min(left)))?;
        let failed = failures_of(&done);
        failures += failed;
        let count = done["items"].as_array().map_or(0, Vec::len);
        eprintln!("{:8} {count:4} items, {failed} failed, {} s", part.name, done["seconds"]);
        results["parts"].as_array_mut().expect("made above").push(done);
        save(&file, &results)?;
    }
    eprintln!("{}", file.display());
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    errors: std::thread::JoinHandle<String>,
}

impl Running {
    fn start(part: &Part, settings: &Settings, skip: usize, seconds: f64) -> Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("part").arg(part.name).arg(format!("--skip={skip}")).arg(format!("--seconds={seconds}"));
        command.args(settings.seed.map(|s| format!("--seed={s}"))).args(settings.emulate.then_some("--emulate"));
        if let Some(model) = &settings.model {
            command.arg("--model").arg(model);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            // What is no JSON was not written by a part.
            for line in lines.filter_map(|l| serde_json::from_str(&l).ok()) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Running { child, lines, errors })
    }

    /// Ends it; what it said before it died.
    fn end(mut self, kill: bool) -> Result<(Option<i32>, String)> {
        if kill {
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        let said = self.errors.join().unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
        Ok((status.code(), lines[lines.len().saturating_sub(3)..].join("; ")))
    }
}

fn watch(part: &Part, settings: &Settings, limit: Duration) -> Result<Value> {
    let start = Instant::now();
    let (mut items, mut late, mut error) = (vec![], vec![], None);
    for attempt in 0..STARTS {
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        let running = Running::start(part, settings, items.len(), left.as_secs_f64())?;
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
            break;
        }
        let why = match (hung, status) {
            (true, _) => format!("given up after {waited:.0} s"),
            (false, Some(code)) if code == i32::from(LOST) => "the device is lost".into(),
            (false, _) => format!("its process ended with {status:?}: {said}"),
        };
        match at {
            Some(name) => items.push(json!({"name": name, "error": why})),
            // It died beside its items, and would again.
            None if items.len() == before || status != Some(i32::from(LOST)) => {
                error = Some(why);
                break;
            }
            None => {}
        }
        if attempt + 1 == STARTS {
            error = Some(format!("started {STARTS} times, and it died each time"));
        }
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

    #[test]
    fn days_and_names() {
        assert_eq!(
            [0, 951_782_400, 951_868_800, 1_795_219_200].map(date),
            ["1970-01-01", "2000-02-29", "2000-03-01", "2026-11-21"]
        );
        assert_eq!(slug("NVIDIA H200 (SXM)"), "nvidia-h200-sxm");
    }
}
