//! The table of pre-tokenizers (`pre.yaml`), looked up by the value of `tokenizer.ggml.pre`.

use std::sync::LazyLock;

use serde::Deserialize;

/// How text is cut into pieces before byte-level BPE merges.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreTokenizer {
    /// The `tokenizer.ggml.pre` values that mean this one.
    pub names: Vec<String>,
    /// Expressions applied one after another; each isolates its matches in the pieces of the one before.
    pub split: Vec<String>,
    /// A piece that is itself a token is taken whole, before any merge.
    #[serde(default)]
    pub ignore_merges: bool,
    /// Whether a beginning-of-text token is added when the file does not say.
    #[serde(default)]
    pub add_bos: bool,
}

// The text is a constant of this crate and `the_table_is_sound` reads it: failing to parse is a build mistake.
static TABLE: LazyLock<Vec<PreTokenizer>> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("pre.yaml")).expect("pre.yaml is well formed"));

/// The pre-tokenizer of that name, or nothing where the table lacks it.
pub fn pre_tokenizer(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|p| p.names.iter().any(|n| n == name))
}

/// Every name the table knows, sorted.
pub fn pre_tokenizer_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = TABLE.iter().flat_map(|p| p.names.iter().map(String::as_str)).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, SplitDelimiterBehavior};

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut s = PreTokenizedString::from(text);
        for r in &pre_tokenizer(name).unwrap().split {
            let split = Split::new(SplitPattern::Regex(r.clone()), SplitDelimiterBehavior::Isolated, false).unwrap();
            split.pre_tokenize(&mut s).unwrap();
        }
        s.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter().map(|(t, ..)| t.to_owned()).collect()
    }

    #[test]
    fn the_table_is_sound() {
        let names = pre_tokenizer_names();
        for w in names.windows(2) {
            assert_ne!(w[0], w[1], "listed twice");
        }
        for n in names {
            let text = "Ab'LL 12345 €x\r\n  日本 don't!\t ";
            assert_eq!(pieces(n, text).concat(), text, "{n} loses text");
        }
    }

    #[test]
    fn pieces_differ_as_the_families_do() {
        assert_eq!(pieces("smollm", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(pieces("gpt-2", "a 123"), ["a", " 123"]);
        assert_eq!(pieces("qwen2", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(pieces("llama-bpe", "a 12345"), ["a", " ", "123", "45"]);
        assert_eq!(pieces("gpt-2", "I'LL we'll"), ["I", "'", "LL", " we", "'ll"]);
        assert_eq!(pieces("llama-bpe", "I'LL"), ["I", "'LL"]);
        assert_eq!(pieces("gpt-4o", "CamelCase's"), ["Camel", "Case's"]);
        assert_eq!(pieces("llama-bpe", "x  \n\n y"), ["x", "  \n\n", " y"]);
    }
}
