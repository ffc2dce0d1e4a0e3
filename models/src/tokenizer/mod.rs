//! Tokenizer import: one Hugging Face `tokenizer.json` document from whatever a model file carries.
//!
//! - [`from_gguf`]: the `tokenizer.ggml.*` keys. `gpt2` is byte-level BPE whose pre-tokenizer comes from the table in
//!   `pre.yaml`; `llama` is SentencePiece BPE, whose merges are derived from the scores ([`spm`]).
//! - [`from_hf_folder`]: `tokenizer.json` as it is, with the ids and the template from the files beside it.
//!
//! Token ids in the document are the file's ids. Everything here is hostile input: lengths are bounded, ids are
//! checked against the vocabulary, and nothing grows beyond a few times the size of what was read.
//!
//! ```
//! use tilewright_models::tokenizer::{GgufTokenizer, from_gguf};
//! let tokens = ["<s>", "a", "b", "ab"];
//! let import = from_gguf(&GgufTokenizer {
//!     model: "gpt2",
//!     pre: Some("gpt-2"),
//!     tokens: &tokens,
//!     merges: &["a b"],
//!     token_types: Some(&[3, 1, 1, 1]),
//!     bos: Some(0),
//!     ..Default::default()
//! })?;
//! assert_eq!(import.bos, Some(0));
//! # Ok::<(), tilewright_models::tokenizer::TokenizerError>(())
//! ```

mod gguf;
mod hf;
mod pre;
pub mod spm;

pub use gguf::{GgufTokenizer, from_gguf};
pub use hf::from_hf_folder;
pub use pre::{PreTokenizer, pre_tokenizer, pre_tokenizer_names};

/// A tokenizer ready for the runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerImport {
    /// The `tokenizer.json` document (`tokenizers` 0.23).
    pub json: String,
    /// Beginning of text.
    pub bos: Option<u32>,
    /// Every token that ends a generation, the file's `eos` first.
    pub eos: Vec<u32>,
    /// Whether a prompt starts with `bos`.
    pub add_bos: bool,
    /// Whether a text ends with `eos`.
    pub add_eos: bool,
    /// Jinja chat template.
    pub chat_template: Option<String>,
    /// What a user should be told.
    pub warnings: Vec<String>,
}

/// Why a tokenizer was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A tokenizer algorithm this program lacks.
    #[error(
        "tokenizer.ggml.model is {0:?}, which is not supported; use a model whose tokenizer is \"gpt2\" (byte-level BPE) or \"llama\" (SentencePiece)"
    )]
    Model(String),
    /// A pre-tokenizer name that is not in the table.
    #[error("tokenizer.ggml.pre is {name:?}, which is not known; a text would be split wrongly; known are: {}", known.join(", "))]
    Pre {
        /// The file's value.
        name: String,
        /// What the table has.
        known: Vec<&'static str>,
    },
    /// A metadata key with a value that cannot be right.
    #[error("{key}: {why}; the file is damaged or was made by a faulty converter, so fetch or convert it again")]
    Key {
        /// The metadata key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a Hugging Face folder that cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
}

fn bad(key: &str, why: impl Into<String>) -> TokenizerError {
    TokenizerError::Key { key: key.to_owned(), why: why.into() }
}

/// Texts of special tokens after which a model has said what it had to say.
pub(crate) const END_NAMES: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "<EOT>",
    "[EOS]",
    "[EOT]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// `first`, then the special tokens of [`END_NAMES`] that the vocabulary has, each once.
pub(crate) fn end_tokens(first: &[Option<u32>], special: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
    let harmony = special("<|return|>").is_some() && special("<|call|>").is_some();
    // There `<|end|>` closes one of several messages of one answer.
    let named = END_NAMES.iter().filter(|n| !(harmony && **n == "<|end|>")).map(|n| special(n));
    let mut out = Vec::new();
    for id in first.iter().copied().chain(named).flatten() {
        if !out.contains(&id) {
            out.push(id);
        }
    }
    out
}

#[cfg(test)]
mod tests;
