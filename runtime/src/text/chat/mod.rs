//! Chat templates: Jinja, rendered under bounds of time and memory.
//!
//! A template comes with the model file, so it is untrusted code. Three things hold it: the engine's fuel bounds the
//! instructions; a **budget of bytes** is charged by every operation that can copy or build a value (`guard`
//! makes operators ask for it, the filters and methods below do themselves); and no loader, `include` or Python object
//! exists.

mod date;
mod env;
mod input;
mod json;
mod meter;

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::Value;

use super::guard::guard;
use super::{TextError, Tokenizer};
use env::environment;
use input::{Fields, any_string, json_size, to_value, unmark};
use meter::{Meter, reason};

const MAX_TEMPLATE: usize = 256 << 10;
const MAX_INPUT: u64 = 16 << 20;
/// Instructions of a rendering, and one more for every eight bytes of input.
const FUEL: u64 = 400_000;
const MAX_FUEL: u64 = 2_000_000;
/// Bytes that a rendering may handle whatever its input, and for each byte of it.
const BASE_BUDGET: u64 = 8 << 20;
const BUDGET_PER_BYTE: u64 = 256;
const MAX_BUDGET: u64 = 1 << 30;
/// Deepest value, of the input or made by a template.
const MAX_NESTING: usize = 64;

/// A chat template, checked and ready.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
}

/// What a template is rendered with.
#[derive(Debug, Clone, Default)]
pub struct ChatInput {
    /// The messages: an array of `{role, content, …}`.
    pub messages: serde_json::Value,
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Tools offered to the model.
    pub tools: Option<serde_json::Value>,
    /// Text of the beginning-of-text token.
    pub bos_token: String,
    /// Text of the end-of-text token.
    pub eos_token: String,
    /// More variables (`enable_thinking`, …).
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Seconds since 1970 for `strftime_now` (UTC); the clock when missing.
    pub now: Option<u64>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Where a special token's text in `text` came from a message, and so is not one.
    pub user_special: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Checks a template: its size, its syntax, and that it asks only for what is offered.
    pub fn new(source: &str) -> Result<Self, TextError> {
        if source.len() > MAX_TEMPLATE {
            return Err(TextError::Template(format!("has {} bytes (limit {MAX_TEMPLATE})", source.len())));
        }
        let source = guard(source)?;
        environment(&Arc::new(Meter::new(0)), FUEL, 0)
            .template_from_str(&source)
            .map_err(|e| TextError::Template(reason(&e)))?;
        Ok(Self { source })
    }

    /// Renders a conversation. The tokenizer is asked what its special tokens are, so that those written by a user can be
    /// told from the template's.
    pub fn render(&self, input: &ChatInput, tokenizer: Option<&Tokenizer>) -> Result<Rendered, TextError> {
        let all = [Some(&input.messages), input.tools.as_ref()].into_iter().flatten().chain(input.extra.values());
        let size = all.clone().map(|v| json_size(v, 0)).try_fold(0u64, |a, b| Some(a + b?));
        let size =
            size.filter(|&s| s <= MAX_INPUT).ok_or(TextError::Limit("16 MiB of messages, nested at most 64 deep"))?;
        // A character no input has marks the special tokens that users wrote, and is taken out again afterwards.
        let mark = match tokenizer {
            Some(t) if all.clone().any(|v| any_string(v, &mut |s| t.find_special(s, 0).is_some())) => {
                // Noncharacters: no text should have one, no text has all 32.
                let free = |c: &char| {
                    !self.source.contains(*c) && !all.clone().any(|v| any_string(v, &mut |s| s.contains(*c)))
                };
                Some((
                    t,
                    ('\u{fdd0}'..='\u{fdef}')
                        .find(free)
                        .ok_or(TextError::Encode("it has every noncharacter".into()))?,
                ))
            }
            _ => None,
        };
        let value = |v: &serde_json::Value| to_value(v, mark);
        let mut vars = vec![
            ("messages".to_owned(), value(&input.messages)),
            ("add_generation_prompt".into(), Value::from(input.add_generation_prompt)),
            ("bos_token".into(), Value::from(input.bos_token.as_str())),
            ("eos_token".into(), Value::from(input.eos_token.as_str())),
        ];
        if let Some(t) = &input.tools {
            vars.push(("tools".into(), value(t)));
        }
        vars.extend(input.extra.iter().filter(|(k, _)| !k.starts_with("tw__")).map(|(k, v)| (k.clone(), value(v))));

        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let budget = BASE_BUDGET.saturating_add(size.saturating_mul(BUDGET_PER_BYTE)).min(MAX_BUDGET);
        let meter = Arc::new(Meter::new(budget));
        let env = environment(&meter, (FUEL + size / 8).min(MAX_FUEL), input.now.unwrap_or_else(clock));
        let root = Fields::value(vars);
        let render = || env.template_from_str(&self.source)?.render(root);
        let text = render().map_err(|e| meter.explain(&e))?;
        Ok(match mark {
            Some((t, c)) => unmark(&text, c, t),
            None => Rendered { text, user_special: Vec::new() },
        })
    }
}

#[cfg(test)]
mod tests;
