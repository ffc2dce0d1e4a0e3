//! Progress of a build: a bar on a terminal, plain lines elsewhere. All on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;
use tilewright_driver::Progress;

pub struct BuildProgress {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl BuildProgress {
    pub fn new(what: &str) -> BuildProgress {
        eprintln!("compiling {what}");
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg:14} {wide_bar} {bytes}/{total_bytes}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        BuildProgress { bar, start: Instant::now() }
    }

    pub fn show(&mut self, progress: Progress<'_>) {
        match (progress, &self.bar) {
            (Progress::Stage(name), Some(bar)) => bar.set_message(name.to_string()),
            (Progress::Stage(name), None) => eprintln!("  {name} ({:.1} s)", self.start.elapsed().as_secs_f64()),
            (Progress::Packed(done, total), Some(bar)) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            (Progress::Packed(..), None) => {}
            (Progress::Warning(text), Some(bar)) => bar.suspend(|| eprintln!("warning: {text}")),
            (Progress::Warning(text), None) => eprintln!("warning: {text}"),
            (Progress::Tuned(what, gain), _) => eprintln!("  {what:<40} {gain:.2} x"),
        }
    }

    pub fn done(&self) -> f64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.start.elapsed().as_secs_f64()
    }
}
