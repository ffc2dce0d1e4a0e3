//! How the program ends: the table of exit codes, one line for an error, and panics that never look like success.

use std::cell::RefCell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use tilewright_autotune::TuneError;
use tilewright_autotune::exchange::ExchangeError;
use tilewright_autotune::store::StoreError;
use tilewright_codegen::target::TargetError;
use tilewright_driver::DriverError;
use tilewright_models::model::ModelError;
use tilewright_passes::PassError;
use tilewright_runtime::error::{ArtifactError, RunError};
use tilewright_runtime::sampler::SampleError;
use tilewright_runtime::text::TextError;

pub const OK: u8 = 0;
pub const RUNTIME: u8 = 1;
pub const USAGE: u8 = 2;
pub const MODEL: u8 = 3;
pub const DEVICE: u8 = 4;
pub const MEMORY: u8 = 5;
pub const INTERRUPTED: u8 = 130;

/// The one table of exit codes.
pub const CODES: &[(u8, &str)] = &[
    (OK, "done"),
    (RUNTIME, "failed while working: input, output, or a bug"),
    (USAGE, "wrong usage"),
    (MODEL, "the model, artifact or file of records is damaged or not supported"),
    (DEVICE, "the artifact, target or record is for another machine or version"),
    (MEMORY, "out of memory"),
    (INTERRUPTED, "interrupted"),
];

pub fn help() -> String {
    let mut out = String::from("Exit codes:\n");
    for (code, meaning) in CODES {
        out += &format!("  {code:>3}  {meaning}\n");
    }
    out + "\nEvery flag can also be set as COMPILE_MODEL_<FLAG>, for example COMPILE_MODEL_THREADS=2."
}

/// The user asked for something that does not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A usage error.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Ctrl-C ended the work; what was there has been printed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Runs `work` and turns its end into an exit code.
pub fn guard(work: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => ExitCode::from(OK),
        Ok(Err(e)) if pipe_closed(&e) => ExitCode::from(OK),
        Ok(Err(e)) => {
            eprintln!("error: {}", one_line(&e));
            ExitCode::from(code(&e))
        }
        Err(_) => {
            eprintln!("{}", PANIC.take());
            ExitCode::from(RUNTIME)
        }
    }
}

/// The reader of stdout went away, as `head` does.
fn pipe_closed(e: &anyhow::Error) -> bool {
    e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The error and its causes, each said once.
fn one_line(e: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in e.chain() {
        let text =
            cause.to_string().split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
        if out.is_empty() {
            out = text;
        } else if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
    }
    out
}

fn code(e: &anyhow::Error) -> u8 {
    e.chain().find_map(code_of).unwrap_or(RUNTIME)
}

fn code_of(e: &(dyn Error + 'static)) -> Option<u8> {
    if e.is::<Usage>() {
        return Some(USAGE);
    }
    if e.is::<Interrupted>() {
        return Some(INTERRUPTED);
    }
    if let Some(e) = e.downcast_ref::<DriverError>() {
        return Some(driver(e));
    }
    if let Some(e) = e.downcast_ref::<ModelError>() {
        return Some(model(e));
    }
    if let Some(e) = e.downcast_ref::<tilewright_models::error::Error>() {
        return Some(file(e));
    }
    if let Some(e) = e.downcast_ref::<ArtifactError>() {
        return Some(e.exit_code());
    }
    if let Some(e) = e.downcast_ref::<RunError>() {
        return Some(e.exit_code());
    }
    if let Some(e) = e.downcast_ref::<ExchangeError>() {
        return Some(exchange(e));
    }
    if let Some(e) = e.downcast_ref::<StoreError>() {
        return Some(store(e));
    }
    if let Some(e) = e.downcast_ref::<TargetError>() {
        return Some(target(e));
    }
    if let Some(e) = e.downcast_ref::<SampleError>() {
        return Some(if matches!(e, SampleError::Param { .. }) { USAGE } else { RUNTIME });
    }
    if let Some(e) = e.downcast_ref::<TextError>() {
        return Some(if matches!(e, TextError::Document(_) | TextError::Template(_)) { MODEL } else { RUNTIME });
    }
    None
}

fn driver(e: &DriverError) -> u8 {
    match e {
        DriverError::Model(e) => model(e),
        DriverError::Lower(_) | DriverError::Pack { .. } | DriverError::Plan(_) => MODEL,
        DriverError::Pass(PassError::Unknown { .. } | PassError::Dump(_)) => USAGE,
        DriverError::Artifact(e) => e.exit_code(),
        DriverError::Records(e) => store(e),
        DriverError::Target(e) => target(e),
        DriverError::Activations { .. } => USAGE,
        DriverError::Gpu(e) | DriverError::Tune(TuneError::Gpu(e)) => e.exit_code(),
        DriverError::Tune(TuneError::Machine { .. }) => DEVICE,
        DriverError::Tune(TuneError::Memory { .. }) => MEMORY,
        _ => RUNTIME,
    }
}

fn model(e: &ModelError) -> u8 {
    if let ModelError::File(e) = e { file(e) } else { MODEL }
}

fn file(e: &tilewright_models::error::Error) -> u8 {
    if matches!(e, tilewright_models::error::Error::Io { .. }) { RUNTIME } else { MODEL }
}

fn exchange(e: &ExchangeError) -> u8 {
    match e {
        ExchangeError::Store(e) => store(e),
        ExchangeError::Damaged { .. } | ExchangeError::Empty { .. } | ExchangeError::Bad { .. } => MODEL,
        ExchangeError::Elsewhere { .. } => DEVICE,
    }
}

fn store(e: &StoreError) -> u8 {
    if matches!(e, StoreError::TooLarge { .. }) { MODEL } else { RUNTIME }
}

fn target(e: &TargetError) -> u8 {
    match e {
        TargetError::Unknown { .. } => USAGE,
        TargetError::Parse(_) => RUNTIME,
        TargetError::NoneFits { .. } => DEVICE,
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// On the main thread a panic is kept for [`guard`], since libraries may catch it; on any other it ends the program,
/// which would otherwise wait for that thread for ever.
pub fn install_panic_hook() {
    let main = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        let message = format!("error: internal error, a bug of compile-model: {info}").replace('\n', " ");
        if std::thread::current().id() == main {
            PANIC.set(message);
        } else {
            eprintln!("{message}");
            std::process::exit(i32::from(RUNTIME));
        }
    }));
}
