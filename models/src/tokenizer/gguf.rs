//! From GGUF's `tokenizer.ggml.*` keys.

use std::collections::HashMap;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{TokenizerError, TokenizerImport, bad, end_tokens, pre_tokenizer, pre_tokenizer_names, spm};

/// What a GGUF file says about its tokenizer; each field is the key `tokenizer.ggml.<field>` unless noted.
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufTokenizer<'a> {
    /// `gpt2` or `llama`.
    pub model: &'a str,
    /// Name of the pre-tokenizer.
    pub pre: Option<&'a str>,
    /// Text of every token; the index is the id.
    pub tokens: &'a [&'a str],
    /// One score a token (`llama` only).
    pub scores: Option<&'a [f32]>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<&'a [i32]>,
    /// `left right`, best first (`gpt2` only).
    pub merges: &'a [&'a str],
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: end of a turn.
    pub eot: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<&'a str>,
}

const MAX_TOKENS: usize = 1 << 22;
const MAX_TOKEN_BYTES: usize = 1 << 16;
/// Every added token is a string searched for in every prompt.
const MAX_ADDED_BYTES: usize = 1 << 10;
const MAX_ADDED: usize = 1 << 17;
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Builds the `tokenizer.json` document of a GGUF file.
pub fn from_gguf(t: &GgufTokenizer<'_>) -> Result<TokenizerImport, TokenizerError> {
    check(t)?;
    let mut warnings = Vec::new();
    let kind = |i: usize| t.token_types.and_then(|k| k.get(i).copied()).unwrap_or(1);
    let named = [t.bos, t.eos, t.eot, t.unk, t.pad];
    let is_special = |i: usize| match t.token_types {
        Some(_) => matches!(kind(i), CONTROL | UNKNOWN),
        None => named.contains(&Some(i as u32)),
    };

    // Text → first id, and the texts as the document has them: its vocabulary is a map, so a repeated text needs another.
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(t.tokens.len());
    let mut renamed: HashMap<u32, String> = HashMap::new();
    for (i, &text) in t.tokens.iter().enumerate() {
        if ids.contains_key(text) {
            renamed.insert(i as u32, format!("<|duplicate of a token, id {i}|>"));
        } else {
            ids.insert(text, i as u32);
        }
    }
    if renamed.values().any(|r| ids.contains_key(r.as_str())) {
        return Err(bad("tokenizer.ggml.tokens", "has tokens twice"));
    }
    if !renamed.is_empty() {
        warnings
            .push(format!("tokenizer.ggml.tokens: {} texts occur twice; the first id of each is used", renamed.len()));
    }
    let text_of = |id: u32| renamed.get(&id).map(String::as_str).or(t.tokens.get(id as usize).copied()).unwrap_or("");

    let mut added = Vec::new();
    for (i, &text) in t.tokens.iter().enumerate() {
        let special = is_special(i);
        if !(special || kind(i) == USER_DEFINED) || text.is_empty() || renamed.contains_key(&(i as u32)) {
            continue;
        }
        if text.len() > MAX_ADDED_BYTES {
            return Err(bad(
                "tokenizer.ggml.tokens",
                format!("special token {i} has {} bytes (limit {MAX_ADDED_BYTES})", text.len()),
            ));
        }
        added.push(Added {
            id: i as u32,
            content: text,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        });
    }
    if added.len() > MAX_ADDED {
        return Err(bad("tokenizer.ggml.token_type", format!("{} special tokens (limit {MAX_ADDED})", added.len())));
    }

    let scheme = match t.model {
        "gpt2" => byte_level(t, &ids, &mut warnings)?,
        "llama" => sentence_piece(t, kind, &mut warnings)?,
        other => return Err(TokenizerError::Model(other.to_owned())),
    };
    let unk_token = match t.model {
        // Without it a character that neither the vocabulary nor the bytes have would vanish.
        "llama" => t.unk.or_else(|| (0..t.tokens.len()).find(|&i| kind(i) == UNKNOWN).map(|i| i as u32)).map(&text_of),
        _ => None,
    };
    let doc = Doc {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added,
        normalizer: scheme.normalizer,
        pre_tokenizer: scheme.pre_tokenizer,
        post_processor: (),
        decoder: scheme.decoder,
        model: Model {
            kind: "BPE",
            dropout: (),
            unk_token,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: t.model == "llama",
            byte_fallback: t.model == "llama",
            ignore_merges: scheme.ignore_merges,
            vocab: Vocab { text_of: &text_of, len: t.tokens.len() as u32 },
            merges: Merges { text_of: &text_of, pairs: &scheme.merges },
        },
    };
    let json = serde_json::to_string(&doc).map_err(|e| bad("tokenizer.ggml", e.to_string()))?;
    let eos = end_tokens(&[t.eos, t.eot], |name| {
        ids.get(name).copied().filter(|&id| is_special(id as usize) || kind(id as usize) == USER_DEFINED)
    });
    if eos.is_empty() {
        warnings.push("tokenizer.ggml.eos_token_id is missing: generation ends only at the token limit".into());
    }
    let mut add_bos = t.add_bos.unwrap_or(scheme.add_bos && t.bos.is_some());
    if add_bos && t.bos.is_none() {
        warnings.push("tokenizer.ggml.add_bos_token is true but there is no bos_token_id: none is added".into());
        add_bos = false;
    }
    Ok(TokenizerImport {
        json,
        bos: t.bos,
        eos,
        add_bos,
        add_eos: t.add_eos.unwrap_or(false) && t.eos.is_some(),
        chat_template: t.chat_template.map(str::to_owned),
        warnings,
    })
}

/// Lengths and ids, before anything is allocated by them.
fn check(t: &GgufTokenizer<'_>) -> Result<(), TokenizerError> {
    let n = t.tokens.len();
    if n == 0 || n > MAX_TOKENS {
        return Err(bad("tokenizer.ggml.tokens", format!("has {n} entries (1 to {MAX_TOKENS} are possible)")));
    }
    if let Some(i) = t.tokens.iter().position(|s| s.len() > MAX_TOKEN_BYTES) {
        return Err(bad("tokenizer.ggml.tokens", format!("token {i} is longer than {MAX_TOKEN_BYTES} bytes")));
    }
    let lengths = [("scores", t.scores.map(<[_]>::len)), ("token_type", t.token_types.map(<[_]>::len))];
    for (key, len) in lengths {
        if let Some(len) = len.filter(|&l| l != n) {
            return Err(bad(&format!("tokenizer.ggml.{key}"), format!("has {len} entries, but there are {n} tokens")));
        }
    }
    let ids = [("bos", t.bos), ("eos", t.eos), ("eot", t.eot), ("unknown", t.unk), ("padding", t.pad)];
    for (key, id) in ids {
        if let Some(id) = id.filter(|&i| i as usize >= n) {
            return Err(bad(&format!("tokenizer.ggml.{key}_token_id"), format!("is {id}, but there are {n} tokens")));
        }
    }
    if let Some(c) = t.chat_template.filter(|c| c.len() > MAX_TEMPLATE_BYTES) {
        return Err(bad("tokenizer.chat_template", format!("has {} bytes (limit {MAX_TEMPLATE_BYTES})", c.len())));
    }
    Ok(())
}

struct Scheme {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    merges: Vec<(u32, u32)>,
    ignore_merges: bool,
    add_bos: bool,
}

fn byte_level(
    t: &GgufTokenizer<'_>,
    ids: &HashMap<&str, u32>,
    warnings: &mut Vec<String>,
) -> Result<Scheme, TokenizerError> {
    let name = t.pre.unwrap_or_else(|| {
        warnings.push(
            "tokenizer.ggml.pre is missing: the default pre-tokenizer is used and answers may be worse; \
             convert the model again with a current converter"
                .into(),
        );
        "default"
    });
    let unknown = || TokenizerError::Pre { name: name.to_owned(), known: pre_tokenizer_names() };
    let pre = pre_tokenizer(name).ok_or_else(unknown)?;
    let mut merges = Vec::with_capacity(t.merges.len());
    let mut unusable = 0usize;
    let mut whole = String::new();
    for m in t.merges {
        // A token may contain spaces itself: the right place to cut is where both halves and the whole are tokens.
        let cut = m.match_indices(' ').filter(|(at, _)| *at > 0).find_map(|(at, _)| {
            let (l, r) = (&m[..at], &m[at + 1..]);
            let pair = (*ids.get(l)?, *ids.get(r)?);
            whole.clear();
            whole.push_str(l);
            whole.push_str(r);
            ids.contains_key(whole.as_str()).then_some(pair)
        });
        match cut {
            Some(pair) => merges.push(pair),
            None => unusable += 1,
        }
    }
    if unusable > 0 {
        warnings.push(format!(
            "tokenizer.ggml.merges: {unusable} of {} do not join two tokens into a third; they are left out",
            t.merges.len()
        ));
    }
    let mut steps: Vec<Value> = pre
        .split
        .iter()
        .map(|r| json!({"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": false}))
        .collect();
    let space = t.add_space_prefix.unwrap_or(false);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    steps.push(bytes.clone());
    Ok(Scheme {
        normalizer: if space { json!({"type": "Prepend", "prepend": " "}) } else { Value::Null },
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        decoder: bytes,
        merges,
        ignore_merges: pre.ignore_merges,
        add_bos: pre.add_bos,
    })
}

fn sentence_piece(
    t: &GgufTokenizer<'_>,
    kind: impl Fn(usize) -> i32,
    warnings: &mut Vec<String>,
) -> Result<Scheme, TokenizerError> {
    if t.scores.is_none() {
        warnings.push("tokenizer.ggml.scores is missing: tokens are ranked by id".into());
    }
    if t.scores.is_some_and(|s| s.iter().any(|x| x.is_nan())) {
        return Err(bad("tokenizer.ggml.scores", "has a NaN"));
    }
    let ordinary = |i: usize| !matches!(kind(i), UNKNOWN | CONTROL | UNUSED | BYTE);
    let merges = spm::merges_from_scores(t.tokens, t.scores, ordinary)?;
    let prefix = t.add_space_prefix.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = match prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}),
        false => replace,
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Scheme {
        normalizer,
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        merges,
        ignore_merges: false,
        add_bos: true,
    })
}

#[derive(Serialize)]
#[serde(bound(serialize = "F: Fn(u32) -> &'a str"))]
struct Doc<'a, F: Fn(u32) -> &'a str> {
    version: &'a str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Added<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: (),
    decoder: Value,
    model: Model<'a, F>,
}

#[derive(Serialize)]
struct Added<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
#[serde(bound(serialize = "F: Fn(u32) -> &'a str"))]
struct Model<'a, F: Fn(u32) -> &'a str> {
    #[serde(rename = "type")]
    kind: &'a str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocab<'a, F>,
    merges: Merges<'a, F>,
}

struct Vocab<'a, F> {
    text_of: &'a F,
    len: u32,
}

impl<'a, F: Fn(u32) -> &'a str> Serialize for Vocab<'a, F> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.len as usize))?;
        for id in 0..self.len {
            map.serialize_entry((self.text_of)(id), &id)?;
        }
        map.end()
    }
}

struct Merges<'a, F> {
    text_of: &'a F,
    pairs: &'a [(u32, u32)],
}

impl<'a, F: Fn(u32) -> &'a str> Serialize for Merges<'a, F> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(Some(self.pairs.len()))?;
        for &(l, r) in self.pairs {
            seq.serialize_element(&[(self.text_of)(l), (self.text_of)(r)])?;
        }
        seq.end()
    }
}
