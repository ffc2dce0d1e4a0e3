//! Ctrl-C: a generation ends after the token at hand and prints what it has; everything else ends at once.

use std::sync::atomic::{AtomicBool, Ordering};

static GENTLE: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// Installs the handler. Where the system has none, Ctrl-C ends the program its own way.
pub fn install() {
    let _ = ctrlc::set_handler(|| {
        let again = ASKED.swap(true, Ordering::Relaxed);
        if again || !GENTLE.load(Ordering::Relaxed) {
            std::process::exit(i32::from(crate::exit::INTERRUPTED));
        }
    });
}

/// While this lives, Ctrl-C only sets a flag.
pub struct Gentle;

impl Gentle {
    pub fn new() -> Gentle {
        ASKED.store(false, Ordering::Relaxed);
        GENTLE.store(true, Ordering::Relaxed);
        Gentle
    }

    /// Whether Ctrl-C was pressed.
    pub fn asked(&self) -> bool {
        ASKED.load(Ordering::Relaxed)
    }
}

impl Drop for Gentle {
    fn drop(&mut self) {
        GENTLE.store(false, Ordering::Relaxed);
        ASKED.store(false, Ordering::Relaxed);
    }
}
