//! The parts, and how one tells of its items.
//!
//! A part is a list of named items. It writes a line of JSON when it begins one and another when it is done, so that whoever
//! reads them knows which one it died of and can have it go on behind that.

use crate::Settings;
use crate::gpu::Gpu;
use crate::{blas, check, decode, facts, jit, sweep, text};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A part.
#[derive(Clone, Copy)]
pub struct Part {
    /// Its name on the command line and in the results.
    pub name: &'static str,
    /// Seconds it may take.
    pub seconds: u64,
    /// Seconds that one item may take before it is given up.
    pub item_seconds: u64,
    /// Measures; an error is of the whole part.
    pub run: fn(&mut Items) -> Result<()>,
}

/// All of them, in order. Their times add up to less than ten minutes.
pub const PARTS: &[Part] = &[
    Part { name: "device", seconds: 30, item_seconds: 15, run: facts::run },
    Part { name: "check", seconds: 120, item_seconds: 40, run: check::run },
    Part { name: "jit", seconds: 20, item_seconds: 15, run: jit::run },
    Part { name: "sweep", seconds: 140, item_seconds: 30, run: sweep::run },
    Part { name: "decode", seconds: 120, item_seconds: 60, run: decode::decode },
    Part { name: "prefill", seconds: 60, item_seconds: 50, run: decode::prefill },
    Part { name: "blas", seconds: 20, item_seconds: 15, run: blas::run },
    Part { name: "text", seconds: 50, item_seconds: 50, run: text::run },
];

/// Exit status of a part that stopped because the device is lost: another process can go on.
pub const LOST: u8 = 3;

/// What a part measures on, and whom it tells.
pub struct Items {
    /// The device.
    pub gpu: Gpu,
    /// What was asked for.
    pub settings: Settings,
    /// Seed of all data.
    pub seed: u64,
    skip: usize,
    end: Instant,
    lost: bool,
    /// Whether anything was done on the device.
    used: bool,
}

impl Items {
    /// Does an item, unless that is done already or it is too late, and tells of it. What it allocated is freed.
    pub fn item(&mut self, name: impl Into<String>, work: impl FnOnce(&mut Gpu) -> Result<Value>) {
        let name = name.into();
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        if self.lost {
            return;
        }
        if Instant::now() >= self.end {
            return say(&json!({"late": name}));
        }
        self.used = true;
        say(&json!({"begin": name}));
        let start = Instant::now();
        let done =
            work(&mut self.gpu).and_then(|value| self.gpu.driver.synchronize().map(|()| value).map_err(Into::into));
        let mut line = match done {
            Ok(Value::Object(fields)) => Value::Object(fields),
            Ok(other) => json!({"value": other}),
            Err(e) => json!({"error": format!("{e:#}")}),
        };
        let failed = line.get("error").is_some();
        let gone = self.gpu.release().is_err() || self.gpu.driver.synchronize().is_err();
        line["name"] = name.into();
        line["seconds"] = json!((start.elapsed().as_secs_f64() * 1e3).round() / 1e3);
        say(&json!({"done": line}));
        // After a fault of a kernel nothing works any more in this process.
        self.lost = gone && failed;
    }

    /// Frees all that is on the device, which a driver does when it goes.
    pub fn restart(&mut self) -> Result<()> {
        if std::mem::take(&mut self.used) && !self.lost {
            self.gpu.reopen(self.seed)?;
        }
        Ok(())
    }

    /// Whether items that are still to come will be done.
    pub fn goes_on(&self) -> bool {
        !self.lost && Instant::now() < self.end
    }

    /// How many of the next items are done already, so that nothing need be prepared for them.
    pub fn to_skip(&self) -> usize {
        self.skip
    }
}

fn say(line: &Value) {
    // Nobody listens any more: then there is nothing to say either.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs a part in this process.
pub fn run(name: &str, settings: Settings, skip: usize, seconds: f64) -> Result<ExitCode> {
    let Some(part) = PARTS.iter().find(|p| p.name == name) else { bail!("there is no part {name}") };
    let end = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 3600.0));
    let seed = settings.seed.unwrap_or(1);
    let mut items =
        Items { gpu: Gpu::open(settings.emulate, seed)?, settings, seed, skip, end, lost: false, used: false };
    (part.run)(&mut items)?;
    Ok(if items.lost { ExitCode::from(LOST) } else { ExitCode::SUCCESS })
}
