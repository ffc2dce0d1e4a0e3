//! `perplexity`: exactly as llama.cpp's tool computes it.
//!
//! The text, less one final newline, becomes tokens once, with the special tokens the model asks for around it. It is
//! cut into whole chunks of `-c` tokens; where the model asks for a BOS it takes the place of each chunk's first token.
//! Positions c/2 .. c-2 count, each predicting its successor, every chunk with an empty KV cache.

use crate::args::{CompileArgs, ModelArgs, SessionArgs, TextArgs};
use crate::exit::usage;
use crate::logits::{Backend, Engine, log_sum_exp};
use crate::open::Text;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Chunks to evaluate; -1 evaluates all
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    chunks: i64,
    /// What computes
    #[arg(long, value_enum, default_value = "compiled")]
    backend: Backend,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
    /// One object: {"ppl", "stderr", "chunks", "tokens"}
    #[arg(long)]
    json: bool,
}

/// Tokens of a chunk when `-c` is not given, as llama.cpp's.
const CHUNK: u32 = 512;

fn tokens(text: &Text, input: &str) -> anyhow::Result<Vec<u32>> {
    let input = input.strip_suffix('\n').unwrap_or(input);
    let mut ids = text.tokenizer.encode_plain(input, text.facts.add_bos)?;
    ids.extend(text.facts.eos.first().filter(|_| text.facts.add_eos));
    Ok(ids)
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let input = args.text.read()?;
    let size = args.session.ctx_size.unwrap_or(CHUNK);
    let c = size as usize;
    if c < 4 {
        return Err(usage("-c must be at least 4"));
    }
    let mut ids = vec![];
    let (mut engine, text) = Engine::open(args.backend, &args.model, &args.compile, &args.session, |text| {
        ids = tokens(text, &input)?;
        if ids.len() < 2 * c {
            let n = ids.len();
            return Err(usage(format!(
                "the text has {n} tokens and chunks of {c} need at least {}; give more or a smaller -c",
                2 * c
            )));
        }
        Ok(size)
    })?;
    let all = ids.len() / c;
    let chunks = usize::try_from(args.chunks).map_or(all, |n| n.min(all));
    let bos = text.facts.bos.filter(|_| text.facts.add_bos);

    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0usize);
    let start = Instant::now();
    for (i, chunk) in ids.chunks_exact(c).take(chunks).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        // Nobody asks what follows the last token.
        engine.eval_from(&chunk[..c - 1], c / 2, |pos, row| {
            let loss = log_sum_exp(row) - f64::from(row[chunk[pos + 1] as usize]);
            sum += loss;
            squares += loss * loss;
            count += 1;
        })?;
        let rest = start.elapsed().as_secs_f64() / (i + 1) as f64 * (chunks - i - 1) as f64;
        eprintln!("[{}/{chunks}] {:.4}  ({rest:.0} s left)", i + 1, (sum / count as f64).exp());
    }
    if count == 0 {
        return Err(usage("--chunks 0 leaves nothing to evaluate"));
    }
    let mean = sum / count as f64;
    let ppl = mean.exp();
    let deviation = (squares / count as f64 - mean * mean).max(0.0);
    let stderr = (deviation / (count.max(2) - 1) as f64).sqrt() * ppl;
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json!({ "ppl": ppl, "stderr": stderr, "chunks": chunks, "tokens": count, "n_ctx": c, "n_text_tokens": ids.len() });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "perplexity = {ppl:.4} +/- {stderr:.4}  ({chunks} chunks of {c}, {count} tokens counted)")?;
    }
    Ok(())
}
