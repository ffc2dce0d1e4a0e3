//! One generation: a prompt into the cache, then token by token until the model, the user or the context ends it.

use crate::interrupt::Gentle;
use crate::open::Text;
use std::time::Instant;
use tilewright_runtime::sampler::{Sampler, SamplerParams};
use tilewright_runtime::session::{Logits, Session};
use tilewright_runtime::text::StreamDecoder;

/// Why a generation ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model's end token.
    End,
    /// `-n` tokens.
    Limit,
    /// No room for another token.
    Context,
    /// Ctrl-C.
    Interrupted,
}

impl Stop {
    pub fn word(self) -> &'static str {
        match self {
            Stop::End => "eos",
            Stop::Limit => "limit",
            Stop::Context => "context",
            Stop::Interrupted => "interrupted",
        }
    }
}

/// What a generation gave.
pub struct Generation {
    /// Tokens, the end token not among them.
    pub ids: Vec<u32>,
    pub text: String,
    pub stop: Stop,
    /// Whether a GPU waited for the host to choose each token.
    pub chosen_by_host: bool,
    /// Prompt tokens a second.
    pub prefill_tps: f64,
    /// Tokens a second after the first.
    pub decode_tps: f64,
    /// From the prompt to the first token.
    pub ttft_ms: f64,
}

impl Generation {
    /// The speed line.
    pub fn speed(&self, prompt: usize) -> String {
        let host = if self.chosen_by_host { ", each chosen by the host" } else { "" };
        format!(
            "prompt {prompt} tokens, {:.1} tok/s; {} generated, {:.1} tok/s{host}; first token after {:.0} ms; stopped at {}",
            self.prefill_tps,
            self.ids.len(),
            self.decode_tps,
            self.ttft_ms,
            self.stop.word()
        )
    }
}

/// Whether a GPU can do what the sampler does.
pub fn chooses_on_device(params: &SamplerParams) -> bool {
    params.is_greedy() || params.on_device().is_some()
}

/// Evaluates `prompt` at the session's position and generates up to `limit` tokens. `history` is what was in the cache
/// before, for penalties; `print` gets the text as it comes.
pub fn generate(
    session: &mut Session,
    text: &Text,
    sampler: &mut Sampler,
    history: &[u32],
    prompt: &[u32],
    limit: Option<usize>,
    print: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Generation> {
    let ctrl_c = Gentle::new();
    let mut seen = [history, prompt].concat();
    let first = seen.len();
    let mut decoder = StreamDecoder::new();
    let mut out = String::new();
    let mut show = |piece: String, out: &mut String| {
        out.push_str(&piece);
        if piece.is_empty() { Ok(()) } else { print(&piece) }
    };

    // A GPU goes from one token to the next by itself where nothing but the likeliest logits decides.
    let on_device = session.device().is_some() && chooses_on_device(sampler.params());
    let start = Instant::now();
    let mut logits = session.eval(prompt, Logits::Last)?.to_vec();
    let prefill = start.elapsed().as_secs_f64();
    let mut ttft = prefill;
    let mut decode = Instant::now();
    let stop = loop {
        if limit.is_some_and(|n| seen.len() - first >= n) {
            break Stop::Limit;
        }
        if ctrl_c.asked() {
            break Stop::Interrupted;
        }
        let id = sampler.sample(&mut logits, &seen)?;
        if seen.len() == first {
            ttft = start.elapsed().as_secs_f64();
            decode = Instant::now();
        }
        if text.tokenizer.is_end(id) {
            break Stop::End;
        }
        seen.push(id);
        show(decoder.push(&text.tokenizer, id), &mut out)?;
        if limit.is_some_and(|n| seen.len() - first >= n) {
            break Stop::Limit;
        }
        if session.position() == session.capacity() {
            break Stop::Context;
        }
        if on_device {
            let most = limit.map_or(usize::MAX, |n| n - (seen.len() - first));
            // Unless something ends it, no room is left.
            let (mut stop, mut failed) = (Stop::Context, None);
            session.decode(id, most, sampler, |id| {
                if text.tokenizer.is_end(id) {
                    stop = Stop::End;
                    return false;
                }
                seen.push(id);
                failed = show(decoder.push(&text.tokenizer, id), &mut out).err();
                if limit.is_some_and(|n| seen.len() - first >= n) {
                    stop = Stop::Limit;
                } else if ctrl_c.asked() {
                    stop = Stop::Interrupted;
                }
                failed.is_none() && stop == Stop::Context
            })?;
            match failed {
                Some(e) => return Err(e),
                None => break stop,
            }
        }
        let row = session.eval(&[id], Logits::Last)?;
        logits.copy_from_slice(row);
    };
    let decode = decode.elapsed().as_secs_f64();
    show(decoder.finish(), &mut out)?;

    let ids = seen.split_off(first);
    let steps = ids.len().saturating_sub(usize::from(stop != Stop::End));
    Ok(Generation {
        decode_tps: if steps > 0 { steps as f64 / decode } else { 0.0 },
        prefill_tps: prompt.len() as f64 / prefill,
        ttft_ms: ttft * 1e3,
        ids,
        text: out,
        stop,
        chosen_by_host: session.device().is_some() && !on_device,
    })
}
