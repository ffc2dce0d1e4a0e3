//! A record: what tuning one operation on one machine found, and how it came to that.
//!
//! ```
//! use tilewright_autotune::record::{Record, Trial};
//! let mut r = Record { op: "matmul m576 n576 t1".into(), target: "x86-64-v3".into(), ..Record::example() };
//! r.params.insert("panels".into(), 4);
//! assert_eq!(r.key().to_string(), "matmul m576 n576 t1, x86-64-v3, 2 threads");
//! assert_eq!(r.gain(), 1.5);
//! assert!(r.check().is_ok());
//! r.history.push(Trial { ns: f64::NAN, ..Trial::default() });
//! assert_eq!(r.check().unwrap_err(), "trial 1 has the time NaN");
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the form; a reader ignores every other.
pub const SCHEMA: u32 = 1;

/// Most trials a record keeps: the report needs the finalists, not the thousands that fell in the first round.
pub const MAX_HISTORY: usize = 64;

/// Longest operation, target or other word.
const MAX_TEXT: usize = 4096;

/// What a record is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Signature of the schedule: operation, shapes, formats.
    pub op: String,
    /// Name of the target.
    pub target: String,
    /// Threads that run the operation together.
    pub threads: u32,
}

impl Key {
    /// Eight digits to name the key by on a command line.
    pub fn id(&self) -> String {
        let text = format!("{}\n{}\n{}", self.op, self.target, self.threads);
        blake3::hash(text.as_bytes()).to_hex()[..8].to_string()
    }

    /// The operation for a table: without what is in brackets, and without what is absent. A layout of weights becomes the
    /// widths of its planes of bits, `q4` or `q4+1`; [`Key::id`] tells apart what then looks alike.
    ///
    /// ```
    /// use tilewright_autotune::record::Key;
    /// let op = "matmul Quant(Layout { planes: [4, 1], min: None }) m576 xQ8 biasfalse ysNone resSome(2304)";
    /// let key = Key { op: op.into(), target: "x86-64-v3".into(), threads: 1 };
    /// assert_eq!(key.short(), "matmul q4+1 m576 xQ8 resSome");
    /// ```
    pub fn short(&self) -> String {
        let (mut out, mut inner, mut depth) = (String::new(), String::new(), 0usize);
        // The space ends a bracket that nothing follows.
        for c in self.op.chars().chain([' ']) {
            match c {
                '(' | '{' | '[' => depth += 1,
                ')' | '}' | ']' => depth = depth.saturating_sub(1),
                c if depth == 0 => {
                    if let Some(width) = width(&std::mem::take(&mut inner)) {
                        let name = out.rfind(' ').map_or(0, |i| i + 1);
                        out.replace_range(name.., &width);
                    }
                    out.push(c);
                    continue;
                }
                _ => {}
            }
            inner.push(c);
        }
        let absent = |w: &&str| !(w.ends_with("None") || w.ends_with("false"));
        out.split_whitespace().filter(absent).collect::<Vec<_>>().join(" ")
    }
}

/// `q4+1` of `.. planes: [4, 1] ..`.
fn width(layout: &str) -> Option<String> {
    let planes = layout.split_once("planes: [")?.1.split_once(']')?.0;
    Some(format!("q{}", planes.replace(", ", "+")))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.threads == 1 { "" } else { "s" };
        write!(f, "{}, {}, {} thread{s}", self.op, self.target, self.threads)
    }
}

/// One candidate that was timed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Its parameters.
    pub params: BTreeMap<String, i64>,
    /// The back end that compiled it.
    pub backend: String,
    /// Median time of a call, nanoseconds.
    pub ns: f64,
    /// Median distance from the median.
    pub mad_ns: f64,
    /// Round of the search, from 0.
    pub round: u32,
}

/// The winner of one search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Signature of the schedule: operation, shapes, formats.
    pub op: String,
    /// Name of the target.
    pub target: String,
    /// The back end that compiled the winner: `x86`, `cranelift`.
    pub backend: String,
    /// Threads that ran the operation together.
    pub threads: u32,
    /// The winner's parameters.
    pub params: BTreeMap<String, i64>,
    /// Median time of a call, nanoseconds.
    pub ns: f64,
    /// Median distance from the median.
    pub mad_ns: f64,
    /// Time of the default parameters, measured in turns with the winner.
    pub default_ns: f64,
    /// Spread of the default.
    pub default_mad_ns: f64,
    /// Estimate of the least time: bytes and multiplications against what the machine can do; 0 if unknown.
    pub floor_ns: f64,
    /// Candidates that were timed.
    pub tried: u32,
    /// Candidates that were refused: illegal, not compiled, or wrong.
    pub rejected: u32,
    /// Normalised mean square error of the winner against the oracle.
    pub error: f64,
    /// How the candidates were searched: `halving`, `descent`, `exhaustive`.
    pub search: String,
    /// [`Device::id`](crate::fingerprint::Device::id) of the machine it was measured on.
    pub device: String,
    /// Hash of the compiler whose kernels were measured.
    pub compiler: String,
    /// When, [`now`].
    pub date: String,
    /// The trials worth telling, at most [`MAX_HISTORY`]. Last, so that a reader can stop before it.
    #[serde(default)]
    pub history: Vec<Trial>,
}

impl Record {
    /// What it is found by.
    pub fn key(&self) -> Key {
        Key { op: self.op.clone(), target: self.target.clone(), threads: self.threads }
    }

    /// How many times faster the winner is than the default; 1 where the default was not measured.
    pub fn gain(&self) -> f64 {
        if self.default_ns > 0.0 { self.default_ns / self.ns } else { 1.0 }
    }

    /// Whether it can be kept and believed: JSON has no NaN, and a time of 0 would win every comparison.
    pub fn check(&self) -> Result<(), String> {
        let words = [
            ("op", &self.op),
            ("target", &self.target),
            ("backend", &self.backend),
            ("search", &self.search),
            ("compiler", &self.compiler),
        ];
        for (name, text) in words {
            if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                return Err(format!("`{name}` is not a line of 1 to {MAX_TEXT} bytes"));
            }
        }
        // It becomes the name of a file.
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        if self.device.is_empty() || self.device.len() > 64 || !self.device.bytes().all(plain) {
            return Err(format!("`device` is no fingerprint: {:?}", self.device));
        }
        if self.threads == 0 {
            return Err("`threads` is 0".into());
        }
        if !(self.ns.is_finite() && self.ns > 0.0) {
            return Err(format!("`ns` is {}", self.ns));
        }
        let numbers = [
            ("mad_ns", self.mad_ns),
            ("default_ns", self.default_ns),
            ("default_mad_ns", self.default_mad_ns),
            ("floor_ns", self.floor_ns),
            ("error", self.error),
        ];
        if let Some((name, value)) = numbers.into_iter().find(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
            return Err(format!("`{name}` is {value}"));
        }
        if self.history.len() > MAX_HISTORY {
            return Err(format!("`history` has {} trials, more than {MAX_HISTORY}", self.history.len()));
        }
        for (i, t) in self.history.iter().enumerate() {
            if !(t.ns.is_finite() && t.ns > 0.0 && t.mad_ns.is_finite() && t.mad_ns >= 0.0) {
                return Err(format!("trial {} has the time {}", i + 1, t.ns));
            }
        }
        if !is_date(&self.date) {
            return Err(format!("`date` is not of the form 2026-01-31T23:59:59Z: {:?}", self.date));
        }
        Ok(())
    }

    /// A small valid record for tests and examples.
    #[doc(hidden)]
    pub fn example() -> Record {
        Record {
            schema: SCHEMA,
            op: "matmul".into(),
            target: "x86-64-v3".into(),
            backend: "cranelift".into(),
            threads: 2,
            params: BTreeMap::new(),
            ns: 1000.0,
            mad_ns: 10.0,
            default_ns: 1500.0,
            default_mad_ns: 12.5,
            floor_ns: 800.0,
            tried: 8,
            rejected: 1,
            error: 1.25e-7,
            search: "halving".into(),
            device: "0123456789abcdef".into(),
            compiler: "c0ffee".into(),
            date: "2026-01-31T12:00:00Z".into(),
            history: vec![],
        }
    }
}

/// The time now, as records have it: RFC 3339 in UTC, to the second.
pub fn now() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()))
}

/// Seconds since 1970 as a date. Years are counted from March, so that the leap day is the last of a year.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

fn is_date(text: &str) -> bool {
    let form = "dddd-dd-ddTdd:dd:ddZ";
    let fits = |(c, f): (u8, u8)| if f == b'd' { c.is_ascii_digit() } else { c == f };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), text);
        }
        assert!(is_date(&now()), "{}", now());
        assert!(!is_date("2026-01-31 12:00:00Z") && !is_date("2026-01-31"));
    }

    #[test]
    fn what_cannot_be_believed() {
        type Spoil = fn(&mut Record);
        let cases: [(Spoil, &str); 7] = [
            (|r| r.ns = 0.0, "`ns` is 0"),
            (|r| r.error = f64::INFINITY, "`error` is inf"),
            (|r| r.op = "a\nb".into(), "`op`"),
            (|r| r.device = "../../etc".into(), "no fingerprint"),
            (|r| r.threads = 0, "`threads`"),
            (|r| r.date = "yesterday".into(), "`date`"),
            (|r| r.history = vec![Trial { ns: 1.0, ..Trial::default() }; 65], "65 trials"),
        ];
        for (spoil, message) in cases {
            let mut r = Record::example();
            assert_eq!(r.check(), Ok(()));
            spoil(&mut r);
            assert!(r.check().is_err_and(|e| e.contains(message)), "{message}");
        }
    }
}
