//! The budget of one rendering.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::super::TextError;
use super::MAX_NESTING;

const MAX_OUTPUT: u64 = 32 << 20;

/// The budget of one rendering.
pub(super) struct Meter {
    left: AtomicU64,
    printed: AtomicU64,
    refused: Mutex<Option<String>>,
    over: Mutex<Option<&'static str>>,
}

impl Meter {
    pub(super) fn new(budget: u64) -> Self {
        Self {
            left: AtomicU64::new(budget),
            printed: AtomicU64::new(0),
            refused: Mutex::new(None),
            over: Mutex::new(None),
        }
    }

    pub(super) fn limit(&self, what: &'static str) -> Error {
        if let Ok(mut o) = self.over.lock() {
            *o = Some(what);
        }
        Error::new(ErrorKind::InvalidOperation, what)
    }

    pub(super) fn charge(&self, n: u64) -> Result<(), Error> {
        let left = self.left.load(Ordering::Relaxed);
        match left.checked_sub(n) {
            Some(l) => {
                self.left.store(l, Ordering::Relaxed);
                Ok(())
            }
            None => {
                self.left.store(0, Ordering::Relaxed);
                Err(self.limit("memory"))
            }
        }
    }

    /// Counts what is printed.
    pub(super) fn print(&self, n: u64) -> Result<(), Error> {
        match self.printed.fetch_add(n, Ordering::Relaxed) {
            before if before > MAX_OUTPUT => Err(self.limit("32 MiB of text")),
            _ => Ok(()),
        }
    }

    /// Notes why the template itself refused the conversation.
    pub(super) fn refuse(&self, why: &str) {
        if let Ok(mut r) = self.refused.lock() {
            *r = Some(why.chars().take(1000).collect());
        }
    }

    /// Charges `factor` times the size of a whole value and returns that size. Walks no further than the budget reaches.
    pub(super) fn whole(&self, v: &Value, factor: u64, depth: usize) -> Result<u64, Error> {
        if depth > MAX_NESTING {
            return Err(self.limit("64 levels of nesting"));
        }
        let own = v.as_str().map_or(16, |s| s.len() as u64 + 16);
        self.charge(own.saturating_mul(factor))?;
        let mut size = own;
        match v.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for x in v.try_iter()? {
                    size += self.whole(&x, factor, depth + 1)?;
                }
            }
            ValueKind::Map => {
                for k in v.try_iter()? {
                    size += self.whole(&k, factor, depth + 1)? + self.whole(&v.get_item(&k)?, factor, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(size)
    }

    pub(super) fn explain(&self, e: &Error) -> TextError {
        if let Some(why) = self.refused.lock().ok().and_then(|mut r| r.take()) {
            return TextError::Refused(why);
        }
        if let Some(what) = self.over.lock().ok().and_then(|mut o| o.take()) {
            return TextError::Limit(what);
        }
        match e.kind() {
            ErrorKind::OutOfFuel => TextError::Limit("instructions"),
            _ => TextError::Template(reason(e)),
        }
    }
}

pub(super) fn reason(e: &Error) -> String {
    let line = e.line().map_or(String::new(), |l| format!(" in line {l}"));
    format!("{}{line}", e.detail().map_or_else(|| e.kind().to_string(), str::to_owned))
}
