//! From a path on the command line to something that runs: artifacts are opened, raw models built into the cache first.

use crate::args::{CompileArgs, ModelArgs, SessionArgs};
use crate::progress::BuildProgress;
use crate::system::human;
use std::path::Path;
use std::sync::Arc;
use tilewright_driver::{BuildOptions, Progress, build};
use tilewright_models::model::Model;
use tilewright_models::tokenizer::TokenizerImport;
use tilewright_runtime::artifact::{Artifact, MANIFEST, OpenOptions, TokenizerFacts};
use tilewright_runtime::error::ArtifactError;
use tilewright_runtime::session::{DEFAULT_CTX, Session, SessionOptions};
use tilewright_runtime::text::{TextError, Tokenizer};

/// Whether the path is an artifact rather than a model.
pub fn is_artifact(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// The tokenizer of a model file; says what a user should know about it.
pub fn tokenizer(model: &Model) -> anyhow::Result<TokenizerImport> {
    let import = model.tokenizer()?;
    for warning in &import.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(import)
}

/// The artifact of a model: the path itself if it is one, else the cache's, built first if it is not there or damaged.
pub fn artifact(model: &ModelArgs, compile: &CompileArgs, how: OpenOptions) -> anyhow::Result<Arc<Artifact>> {
    let path = model.path()?;
    if is_artifact(path) {
        return Ok(Arc::new(Artifact::open_with(path, how)?));
    }
    let options = tuned(path, &compile.options()?)?;
    let target = compile.cache()?.path(path, &options)?;
    if is_artifact(&target) {
        match Artifact::open_with(&target, how) {
            Ok(artifact) => return Ok(Arc::new(artifact)),
            Err(e @ (ArtifactError::Rejected { .. } | ArtifactError::Version { .. })) => {
                eprintln!("warning: {}: {e}; compiling again", target.display());
            }
            Err(e) => return Err(e.into()),
        }
    }
    build_to(path, &target, &options)?;
    Ok(Arc::new(Artifact::open_with(&target, how)?))
}

/// Makes the records that are missing, if the options want that.
pub fn tuned(path: &Path, options: &BuildOptions) -> anyhow::Result<BuildOptions> {
    Ok(tilewright_driver::tuned(path, options, &mut |p| match p {
        Progress::Stage(stage) => eprintln!("{stage} {} {}", path.display(), runs_on(options)),
        Progress::Tuned(what, gain) => eprintln!("  {what:<40} {gain:.2} x"),
        Progress::Warning(text) => eprintln!("warning: {text}"),
        Progress::Packed(..) => {}
    })?)
}

/// Builds `path` into `target`, with progress and a closing line on stderr.
pub fn build_to(path: &Path, target: &Path, options: &BuildOptions) -> anyhow::Result<tilewright_driver::BuildReport> {
    let model = Model::open(path)?;
    tokenizer(&model)?;
    let mut progress = BuildProgress::new(&format!("{} for {}", path.display(), options.target.name));
    let report = build(&model, target, options, &mut |p| progress.show(p))?;
    eprintln!(
        "compiled in {:.1} s: {} kernels, {} of code, {} of weights -> {}",
        progress.done(),
        report.kernels,
        human(report.object_bytes as u64),
        human(report.weights_bytes),
        target.display()
    );
    Ok(report)
}

/// A session; says when its context is smaller than the model's.
pub fn session(artifact: &Arc<Artifact>, args: &SessionArgs) -> anyhow::Result<Session> {
    let most = artifact.plan().model.n_ctx;
    if args.ctx_size.is_none() && most > DEFAULT_CTX {
        eprintln!("context {DEFAULT_CTX} of the model's {most} (-c sets it)");
    }
    let threads = args.threads.map(usize::from);
    let session = Session::new(artifact.clone(), SessionOptions { ctx: args.ctx_size, threads, profile: false })?;
    say(&session);
    Ok(session)
}

/// Says what a session has to say of how it started.
pub fn say(session: &Session) {
    session.notes().iter().for_each(|note| eprintln!("warning: {note}"));
}

/// What tuning runs on, for people.
pub fn runs_on(options: &BuildOptions) -> String {
    match options.target.gpu() {
        Some(_) => "on its GPU".into(),
        None => format!("with {} thread(s)", options.threads),
    }
}

/// A tokenizer and the facts that its document does not hold.
pub struct Text {
    pub tokenizer: Tokenizer,
    pub facts: TokenizerFacts,
}

impl Text {
    pub fn of_artifact(artifact: &Artifact) -> Result<Text, TextError> {
        Text::new(artifact.tokenizer(), artifact.manifest().info.tokenizer.clone())
    }

    pub fn of_model(import: &TokenizerImport) -> Result<Text, TextError> {
        let facts = TokenizerFacts {
            bos: import.bos,
            eos: import.eos.clone(),
            add_bos: import.add_bos,
            add_eos: import.add_eos,
        };
        Text::new(import.json.as_bytes(), facts)
    }

    fn new(json: &[u8], facts: TokenizerFacts) -> Result<Text, TextError> {
        let tokenizer = Tokenizer::from_json(json)?.with_bos(facts.bos).with_eos(facts.eos.clone());
        Ok(Text { tokenizer, facts })
    }

    /// Ids of a text whose special tokens are parsed, BOS in front if the model says so.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text, self.facts.add_bos)
    }
}
