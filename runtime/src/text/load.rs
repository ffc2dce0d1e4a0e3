//! Reading `tokenizer.json`.
//!
//! BPE documents, which is nearly all, are read here and handed to the library's builder: its own reader buffers the
//! whole model twice and indexes out of bounds on merges that are longer than every token. Other models go through the
//! library.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use super::TextError;

/// Highest id that may occur; the table of token texts is indexed by id.
const MAX_ID: u32 = 1 << 22;

/// An added token with the id the document gives it.
#[derive(Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    pub special: bool,
}

#[derive(Deserialize)]
struct Doc<'a> {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Option<NormalizerWrapper>,
    #[serde(default)]
    pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Bpe<'a> {
    #[serde(rename = "type", default)]
    _kind: BpeName,
    #[serde(borrow, default)]
    unk_token: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    continuing_subword_prefix: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    end_of_word_suffix: Option<Cow<'a, str>>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Pairs<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// What was read: the library's tokenizer, every token with its text, and the parts the decoder needs.
pub(super) struct Loaded<'a> {
    pub inner: tokenizers::Tokenizer,
    pub texts: Vec<(u32, Cow<'a, str>)>,
    pub added: Vec<Added>,
    pub decoder: Value,
}

pub(super) fn load(json: &[u8]) -> Result<Loaded<'_>, TextError> {
    let doc_error = |e: serde_json::Error| TextError::Document(e.to_string());
    let doc: Doc<'_> = serde_json::from_slice(json).map_err(doc_error)?;
    // Nearly all are this, so the type is looked at only where it fails: a pass over the whole model is saved.
    let (inner, texts) = match serde_json::from_str::<Bpe<'_>>(doc.model.get()) {
        Ok(model) => {
            let (bpe, texts) = build(model)?;
            let mut t = tokenizers::Tokenizer::new(bpe);
            t.with_normalizer(doc.normalizer).map_err(|e| TextError::Document(e.to_string()))?;
            t.with_pre_tokenizer(doc.pre_tokenizer);
            (t, texts)
        }
        Err(e) => {
            let kind: Kind<'_> = serde_json::from_str(doc.model.get()).map_err(doc_error)?;
            match kind.kind.as_deref() {
                None | Some("BPE") => return Err(doc_error(e)),
                Some("Unigram" | "WordPiece" | "WordLevel") => {}
                Some(other) => return Err(TextError::Document(format!("model type {other:?} is not supported"))),
            }
            let t = tokenizers::Tokenizer::from_bytes(json).map_err(|e| TextError::Document(e.to_string()))?;
            let texts = t.get_vocab(false).into_iter().map(|(s, id)| (id, s.into())).collect();
            (t, texts)
        }
    };
    let loaded = add(inner, texts, doc.added_tokens, doc.decoder)?;
    match loaded.texts.iter().find(|(id, _)| *id > MAX_ID) {
        Some((id, _)) => Err(TextError::Document(format!("has a token with id {id} (limit {MAX_ID})"))),
        None => Ok(loaded),
    }
}

/// Adds the added tokens. The library numbers the new ones itself, so they go in by id and are compared afterwards.
fn add<'a>(
    mut inner: tokenizers::Tokenizer,
    mut texts: Vec<(u32, Cow<'a, str>)>,
    mut added: Vec<Added>,
    decoder: Value,
) -> Result<Loaded<'a>, TextError> {
    added.retain(|a| !a.content.is_empty());
    added.sort_by_key(|a| a.id);
    let tokens = added.iter().map(|a| AddedToken {
        content: a.content.clone(),
        single_word: a.single_word,
        lstrip: a.lstrip,
        rstrip: a.rstrip,
        normalized: a.normalized,
        special: a.special,
    });
    inner.add_tokens(tokens).map_err(|e| TextError::Document(format!("added_tokens: {e}")))?;
    for a in &added {
        let got = inner.token_to_id(&a.content);
        if got != Some(a.id) {
            return Err(TextError::Document(format!(
                "added token {:?} has id {} there and {got:?} by its place",
                a.content, a.id
            )));
        }
        texts.push((a.id, a.content.clone().into()));
    }
    Ok(Loaded { inner, texts, added, decoder })
}

/// Tokens by id, borrowed from the document where they can be.
type Texts<'a> = Vec<(u32, Cow<'a, str>)>;

fn build(m: Bpe<'_>) -> Result<(BPE, Texts<'_>), TextError> {
    let refuse = |why: String| Err(TextError::Document(why));
    if m.continuing_subword_prefix.is_some_and(|p| !p.is_empty()) {
        return refuse("a continuing_subword_prefix is not supported".into());
    }
    let vocab: Vocab = m.vocab.0.iter().map(|(t, id)| (t.clone().into_owned(), *id)).collect();
    // The builder looks every part up, but copies the two halves into a buffer of the longest token's length first.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let mut merges = Vec::with_capacity(m.merges.len());
    for (i, Merge(l, r)) in m.merges.into_iter().enumerate() {
        if l.len() + r.len() > longest {
            return refuse(format!("merge {i} makes {:?}, which is not a token", format!("{l}{r}")));
        }
        merges.push((l.into_owned(), r.into_owned()));
    }
    let texts = m.vocab.0.into_iter().map(|(t, id)| (id, t)).collect();
    if let Some(u) = m.unk_token.as_ref().filter(|u| !vocab.contains_key(u.as_ref())) {
        return refuse(format!("unk_token {u:?} is not a token"));
    }
    let mut b = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .fuse_unk(m.fuse_unk)
        .byte_fallback(m.byte_fallback)
        .ignore_merges(m.ignore_merges);
    if let Some(u) = m.unk_token {
        b = b.unk_token(u.into_owned());
    }
    if let Some(s) = m.end_of_word_suffix.filter(|s| !s.is_empty()) {
        b = b.end_of_word_suffix(s.into_owned());
    }
    b.build().map(|bpe| (bpe, texts)).map_err(|e| TextError::Document(e.to_string()))
}

#[derive(Deserialize, Default)]
enum BpeName {
    #[default]
    #[serde(rename = "BPE")]
    Bpe,
}

/// A map read as a list, borrowing where it can.
struct Pairs<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = Vec::new();
                while let Some((Text(k), v)) = map.next_entry::<Text<'de>, u32>()? {
                    out.push((k, v));
                }
                Ok(Pairs(out))
            }
        }
        d.deserialize_map(V)
    }
}

/// A string that borrows from the document unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(s)))
            }
            fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(s.to_owned())))
            }
        }
        d.deserialize_str(V)
    }
}

/// `["left", "right"]`, or the older `"left right"`.
struct Merge<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        fn cut<E: serde::de::Error>(s: &str) -> Result<(&str, &str), E> {
            s.split_once(' ')
                .filter(|(_, r)| !r.contains(' '))
                .ok_or_else(|| E::custom(format!("merge {s:?} is not two tokens")))
        }
        impl<'de> Visitor<'de> for V {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two strings")
            }
            fn visit_borrowed_str<E: serde::de::Error>(self, s: &'de str) -> Result<Self::Value, E> {
                cut(s).map(|(l, r)| Merge(l.into(), r.into()))
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Self::Value, E> {
                cut(s).map(|(l, r)| Merge(l.to_owned().into(), r.to_owned().into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let short = || serde::de::Error::custom("a merge needs two strings");
                let Text(l) = seq.next_element()?.ok_or_else(short)?;
                let Text(r) = seq.next_element()?.ok_or_else(short)?;
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Merge(l, r)),
                    Some(_) => Err(serde::de::Error::custom("a merge has more than two strings")),
                }
            }
        }
        d.deserialize_any(V)
    }
}
