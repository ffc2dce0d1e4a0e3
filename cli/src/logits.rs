//! `logits`: the most likely next tokens after every token of a text, teacher-forced. Also the engines that `perplexity`
//! shares: the compiled model, and the interpreter as oracle.

use crate::args::{CompileArgs, ModelArgs, SessionArgs, TextArgs};
use crate::exit::usage;
use crate::open::{self, Text};
use clap::ValueEnum;
use serde_json::json;
use std::io::Write;
use tilewright_driver::Oracle;
use tilewright_models::model::Model;
use tilewright_runtime::artifact::OpenOptions;
use tilewright_runtime::session::{Logits, Session};

/// What computes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The compiled model
    Compiled,
    /// The graph interpreter, f32 activations: slow, and as near to exact as f32 goes
    Interp,
}

/// An engine that gives the logits after each token.
pub enum Engine {
    Compiled(Box<Session>),
    Interp(Box<Oracle>),
}

/// Tokens that the interpreter takes at once; bounds its memory.
const PIECE: usize = 64;

impl Engine {
    /// The engine and the model's text side. `ctx` is what must fit.
    pub fn open(
        backend: Backend,
        model: &ModelArgs,
        compile: &CompileArgs,
        session: &SessionArgs,
        ctx: impl FnOnce(&Text) -> anyhow::Result<u32>,
    ) -> anyhow::Result<(Engine, Text)> {
        match backend {
            Backend::Compiled => {
                let artifact = open::artifact(model, compile, OpenOptions::default())?;
                let text = Text::of_artifact(&artifact)?;
                let args = SessionArgs { ctx_size: Some(ctx(&text)?), threads: session.threads };
                Ok((Engine::Compiled(Box::new(open::session(&artifact, &args)?)), text))
            }
            Backend::Interp => {
                let path = model.path()?;
                if open::is_artifact(path) {
                    return Err(usage("--backend interp reads a model file; an artifact has none"));
                }
                let model = Model::open(path)?;
                let text = Text::of_model(&open::tokenizer(&model)?)?;
                ctx(&text)?;
                Ok((Engine::Interp(Box::new(Oracle::new(&model)?)), text))
            }
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        match self {
            Engine::Compiled(s) => s.reset(),
            Engine::Interp(o) => o.reset(),
        }
    }

    /// Runs `tokens` from the start and gives the logits after each of them from index `from` on.
    pub fn eval_from(
        &mut self,
        tokens: &[u32],
        from: usize,
        mut each: impl FnMut(usize, &[f32]),
    ) -> anyhow::Result<()> {
        self.reset();
        match self {
            Engine::Compiled(s) => {
                s.eval(&tokens[..from], Logits::None)?;
                s.eval_each(&tokens[from..], |i, row| each(i as usize, row))?;
            }
            Engine::Interp(o) => {
                for (n, piece) in tokens.chunks(PIECE).enumerate() {
                    o.eval_each(piece, |i, row| {
                        let i = n * PIECE + i;
                        if i >= from {
                            each(i, row);
                        }
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Largest logit, and the logarithm of the sum of exponentials.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from((x - max).exp())).sum();
    sum.ln() + f64::from(max)
}

/// The `k` largest, best first, the first of equals before the others.
pub fn top(row: &[f32], k: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    let order = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    if k > 0 && k < ids.len() {
        ids.select_nth_unstable_by(k - 1, order);
    }
    ids.truncate(k);
    ids.sort_unstable_by(order);
    ids
}

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Token ids in place of a text
    #[arg(long, value_name = "ID,..", value_delimiter = ',', conflicts_with_all = ["prompt", "file"])]
    ids: Vec<u32>,
    /// How many tokens to list
    #[arg(long, default_value_t = 10, value_name = "K")]
    top: usize,
    /// What computes
    #[arg(long, value_enum, default_value = "compiled")]
    backend: Backend,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
    /// One object a line: {"pos", "id", "top": [[id, logprob], ..]}
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let input = if args.ids.is_empty() { args.text.read()? } else { String::new() };
    let mut ids = args.ids;
    let (mut engine, text) = Engine::open(args.backend, &args.model, &args.compile, &args.session, |text| {
        if ids.is_empty() {
            ids = text.encode(&input)?;
        }
        match ids.len() {
            0 => Err(usage("the text has no tokens; give at least one character")),
            n => Ok(args.session.ctx_size.unwrap_or(n as u32)),
        }
    })?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    engine.eval_from(&ids, 0, |pos, row| {
        if written.is_err() {
            return;
        }
        let total = log_sum_exp(row);
        let top: Vec<(u32, f64)> =
            top(row, args.top).into_iter().map(|id| (id, f64::from(row[id as usize]) - total)).collect();
        written = if args.json {
            writeln!(out, "{}", json!({ "pos": pos, "id": ids[pos], "top": top }))
        } else {
            let piece = |id: u32| format!("{:?}", String::from_utf8_lossy(text.tokenizer.piece(id)));
            let top: Vec<String> = top.iter().map(|&(id, lp)| format!("{} {lp:.3}", piece(id))).collect();
            writeln!(out, "{pos:>5}  {:<16} -> {}", piece(ids[pos]), top.join("  "))
        };
    })?;
    written?;
    Ok(out.flush()?)
}
