//! Text to ids and back.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::chat::Rendered;
use super::load::{self, Loaded};
use super::{StreamDecoder, TextError};

/// How the text of a token becomes bytes.
#[derive(Clone, Copy, PartialEq)]
enum Alphabet {
    /// Every byte has a printable character.
    ByteLevel,
    /// `▁` is a space and `<0xNN>` a byte.
    SentencePiece,
    /// The text is the bytes.
    Plain,
}

/// A tokenizer, read from a `tokenizer.json` document.
///
/// Text becomes ids by the `tokenizers` library; ids become bytes by a table made once, so that streaming costs a
/// lookup a token.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same with special tokens in text not parsed; made when a text first needs it.
    plain: OnceLock<tokenizers::Tokenizer>,
    bytes: Vec<u8>,
    /// End of each id's bytes.
    ends: Vec<u32>,
    special: Vec<bool>,
    special_ids: HashMap<String, u32>,
    /// Lengths of the special tokens' texts, longest first, and the bytes they start with.
    special_lens: Vec<usize>,
    special_first: [bool; 256],
    strips_first_space: bool,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` document. Say with [`with_bos`](Self::with_bos) and [`with_eos`](Self::with_eos) what it
    /// does not hold.
    pub fn from_json(json: &[u8]) -> Result<Self, TextError> {
        // Parts of the library assume a sound document; a panic there must not take a server down.
        let loaded = std::panic::catch_unwind(|| load::load(json))
            .unwrap_or_else(|_| Err(TextError::Document("is damaged".into())))?;
        Self::new(loaded)
    }

    fn new(Loaded { inner, texts, added, decoder }: Loaded<'_>) -> Result<Self, TextError> {
        let pre = inner.get_pre_tokenizer().map(|p| serde_json::to_value(p).unwrap_or(Value::Null)).unwrap_or_default();
        let has = |name: &str| names(&decoder, name) || names(&pre, name);
        let alphabet = if has("ByteLevel") {
            Alphabet::ByteLevel
        } else if has("ByteFallback") || has("Metaspace") {
            Alphabet::SentencePiece
        } else {
            Alphabet::Plain
        };
        let len = texts.iter().map(|(id, _)| *id as usize + 1).max().unwrap_or(0);
        let mut by_id: Vec<&str> = vec![""; len];
        for (id, text) in &texts {
            by_id[*id as usize] = text;
        }
        let mut raw = vec![false; len];
        let mut special = vec![false; len];
        let mut special_ids = HashMap::new();
        let mut special_first = [false; 256];
        for a in &added {
            raw[a.id as usize] = true;
            if a.special {
                special[a.id as usize] = true;
                special_ids.insert(a.content.clone(), a.id);
                special_first[a.content.as_bytes()[0] as usize] = true;
            }
        }
        let mut special_lens: Vec<usize> = special_ids.keys().map(String::len).collect();
        special_lens.sort_unstable_by(|a, b| b.cmp(a));
        special_lens.dedup();
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(len));
        for (id, text) in by_id.iter().enumerate() {
            token_bytes(text, if raw[id] { Alphabet::Plain } else { alphabet }, &mut bytes);
            ends.push(
                u32::try_from(bytes.len()).map_err(|_| TextError::Document("has more than 4 GiB of tokens".into()))?,
            );
        }
        let strips_first_space =
            alphabet == Alphabet::SentencePiece && (names(&decoder, "Strip") || prepends(&decoder) || prepends(&pre));
        Ok(Self {
            inner,
            plain: OnceLock::new(),
            bytes,
            ends,
            special,
            special_ids,
            special_lens,
            special_first,
            strips_first_space,
            bos: None,
            eos: Vec::new(),
        })
    }

    /// Sets the beginning-of-text token.
    pub fn with_bos(mut self, bos: Option<u32>) -> Self {
        self.bos = bos;
        self
    }

    /// Sets the tokens that end a generation.
    pub fn with_eos(mut self, eos: Vec<u32>) -> Self {
        self.eos = eos;
        self
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.ends.len()
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a generation.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Whether this token ends a generation.
    pub fn is_end(&self, id: u32) -> bool {
        self.eos.contains(&id)
    }

    /// Whether this token is a special one, which is not printed.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The id of the special token with this text.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.special_ids.get(text).copied()
    }

    /// Text to ids; special tokens in the text are parsed as such. `add_bos` puts the beginning-of-text token first, unless
    /// the text already starts with it.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>, TextError> {
        let mut ids = self.bos_first(add_bos);
        self.run(&self.inner, text, &mut ids)?;
        self.undouble(&mut ids, add_bos);
        Ok(ids)
    }

    /// Text to ids with nothing in it parsed as a special token: for what a user wrote.
    pub fn encode_plain(&self, text: &str, add_bos: bool) -> Result<Vec<u32>, TextError> {
        let mut ids = self.bos_first(add_bos);
        let t = if self.find_special(text, 0).is_none() { &self.inner } else { self.plain() };
        self.run(t, text, &mut ids)?;
        Ok(ids)
    }

    /// A rendered conversation to ids: special tokens the template wrote are parsed, those in user text are not.
    /// Adds no beginning-of-text token: most templates write it.
    pub fn encode_chat(&self, rendered: &Rendered) -> Result<Vec<u32>, TextError> {
        self.encode_chat_with(rendered, false)
    }

    /// As [`encode_chat`](Self::encode_chat); `add_bos` puts the beginning-of-text token first, unless the template did.
    pub fn encode_chat_with(&self, rendered: &Rendered, add_bos: bool) -> Result<Vec<u32>, TextError> {
        if rendered.user_special.is_empty() {
            return self.encode(&rendered.text, add_bos);
        }
        let text = rendered.text.as_str();
        let (mut ids, mut done, mut at) = (self.bos_first(add_bos), 0, 0);
        while let Some((start, len, id)) = self.find_special(text, at) {
            at = start + len;
            if let Some(r) = rendered.user_special.iter().find(|r| start < r.end && r.start < at) {
                at = r.end.max(start + 1);
                while !text.is_char_boundary(at) {
                    at += 1;
                }
                continue;
            }
            self.run(self.plain(), &text[done..start], &mut ids)?;
            ids.push(id);
            done = at;
        }
        self.run(self.plain(), &text[done..], &mut ids)?;
        self.undouble(&mut ids, add_bos);
        Ok(ids)
    }

    /// The first special token in `text` at or after byte `from`: its place, length and id.
    pub(super) fn find_special(&self, text: &str, from: usize) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        (from..bytes.len()).filter(|&i| self.special_first[bytes[i] as usize]).find_map(|i| {
            self.special_lens.iter().find_map(|&n| {
                let id = *self.special_ids.get(text.get(i..i.checked_add(n)?)?)?;
                Some((i, n, id))
            })
        })
    }

    fn bos_first(&self, add_bos: bool) -> Vec<u32> {
        self.bos.filter(|_| add_bos).into_iter().collect()
    }

    fn undouble(&self, ids: &mut Vec<u32>, add_bos: bool) {
        if ids.len() > 1 && add_bos && ids[0] == ids[1] && self.bos == Some(ids[0]) {
            ids.remove(0);
        }
    }

    fn plain(&self) -> &tokenizers::Tokenizer {
        self.plain.get_or_init(|| {
            let mut t = self.inner.clone();
            t.set_encode_special_tokens(true);
            t
        })
    }

    fn run(&self, t: &tokenizers::Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if text.is_empty() {
            return Ok(());
        }
        let e = t.encode_fast(text, false).map_err(|e| TextError::Encode(e.to_string()))?;
        ids.extend_from_slice(e.get_ids());
        Ok(())
    }

    /// The bytes of a token; not always whole characters. Empty for an id outside the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Ids to text without special tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let mut d = StreamDecoder::new();
        let mut out = String::new();
        for &id in ids {
            if id as usize >= self.ends.len() {
                return Err(TextError::Id { id, len: self.ends.len() });
            }
            d.push_to(self, id, &mut out);
        }
        out.push_str(&d.finish());
        if self.strips_first_space && out.starts_with(' ') {
            out.remove(0);
        }
        Ok(out)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .finish_non_exhaustive()
    }
}

/// Whether a component of this type occurs in a normalizer, pre-tokenizer or decoder.
fn names(v: &Value, kind: &str) -> bool {
    match v {
        Value::Object(m) => m.get("type").and_then(Value::as_str) == Some(kind) || m.values().any(|v| names(v, kind)),
        Value::Array(a) => a.iter().any(|v| names(v, kind)),
        _ => false,
    }
}

/// Whether a `Metaspace` in there puts a space before the text.
fn prepends(v: &Value) -> bool {
    match v {
        Value::Object(m) => {
            let scheme = m.get("prepend_scheme").and_then(Value::as_str);
            (m.get("type").and_then(Value::as_str) == Some("Metaspace") && scheme != Some("never"))
                || m.values().any(prepends)
        }
        Value::Array(a) => a.iter().any(prepends),
        _ => false,
    }
}

/// The byte a character of the byte-level alphabet stands for. Printable Latin-1 stands for itself; the other 68 bytes
/// are, in order, the characters from U+0100.
fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8),
        n @ 0x121..=0x142 => Some((n - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

fn token_bytes(text: &str, alphabet: Alphabet, out: &mut Vec<u8>) {
    match alphabet {
        Alphabet::Plain => out.extend_from_slice(text.as_bytes()),
        Alphabet::ByteLevel => {
            for c in text.chars() {
                match byte_of(c) {
                    Some(b) => out.push(b),
                    None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        Alphabet::SentencePiece => {
            let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|h| h.len() == 2);
            match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
                Some(b) => out.push(b),
                None => out.extend_from_slice(text.replace('▁', " ").as_bytes()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
