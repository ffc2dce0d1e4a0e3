//! Which bytes were ever written.

use super::Bad;
use crate::FaultKind;

/// A shadow of a memory: one flag a byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Vec<bool>);

impl Written {
    pub fn new(bytes: usize) -> Self {
        Self(vec![false; bytes])
    }

    pub fn set(&mut self, at: usize, n: usize) {
        self.0[at..at + n].fill(true);
    }

    pub fn all(&self, at: usize, n: usize) -> bool {
        self.0[at..at + n].iter().all(|w| *w)
    }

    /// An error that names the first byte nobody wrote.
    pub fn check(&self, what: &str, at: usize, n: usize) -> Result<(), Bad> {
        match self.0[at..at + n].iter().position(|w| !w) {
            None => Ok(()),
            Some(i) => {
                let m = format!("byte {} of {what} was never written", at + i);
                Err(Bad::new(FaultKind::Uninitialised, m))
            }
        }
    }
}
