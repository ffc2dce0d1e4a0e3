//! `run`: continues a text.

use crate::args::{CompileArgs, ModelArgs, OpenArgs, SampleArgs, SessionArgs, TextArgs};
use crate::exit::{Interrupted, usage};
use crate::generate::{Stop, generate};
use crate::open::{self, Text};
use crate::system;
use serde_json::json;
use std::io::Write;
use std::time::Instant;
use tilewright_runtime::sampler::Sampler;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Most tokens to generate; -1 goes on until the model or the context ends
    #[arg(short = 'n', long, visible_aliases = ["n-predict", "max-tokens"], default_value_t = -1, allow_hyphen_values = true)]
    predict: i64,
    #[command(flatten)]
    sample: SampleArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    compile: CompileArgs,
    /// No text while it is made; one object at the end: text, ids, prompt_ids, speeds
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let prompt = args.text.read()?;
    let mut sampler = Sampler::new(args.sample.params())?;
    let artifact = open::artifact(&args.model, &args.compile, args.open.options())?;
    let text = Text::of_artifact(&artifact)?;
    let prompt_ids = text.encode(&prompt)?;
    if prompt_ids.is_empty() {
        return Err(usage(
            "the text is empty and the model has no beginning-of-text token; give at least one character",
        ));
    }
    let mut session = open::session(&artifact, &args.session)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let limit = usize::try_from(args.predict).ok();
    let mut stdout = std::io::stdout().lock();
    let got = generate(&mut session, &text, &mut sampler, &[], &prompt_ids, limit, &mut |piece| {
        if !args.json {
            stdout.write_all(piece.as_bytes())?;
            stdout.flush()?;
        }
        Ok(())
    })?;

    let (seed, peak) = (sampler.params().seed, system::peak_rss());
    if args.json {
        let object = json!({
            "text": got.text, "ids": got.ids, "prompt_ids": prompt_ids, "stop": got.stop.word(),
            "prefill_tps": got.prefill_tps, "decode_tps": got.decode_tps, "ttft_ms": got.ttft_ms,
            "load_ms": load_ms,
            "seed": seed, "n_threads": session.threads(), "n_ctx": session.capacity(), "peak_rss_bytes": peak,
        });
        writeln!(stdout, "{object}")?;
    } else {
        writeln!(stdout)?;
    }
    let peak = peak.map_or(String::new(), |p| format!("; peak memory {}", system::human(p)));
    let seed = if sampler.params().temp > 0.0 { format!("; seed {seed}") } else { String::new() };
    eprintln!("{}{peak}{seed}", got.speed(prompt_ids.len()));
    if got.stop == Stop::Interrupted {
        return Err(Interrupted.into());
    }
    Ok(())
}
