//! Merges of a SentencePiece BPE vocabulary, which files store as scores instead.
//!
//! SentencePiece joins, again and again, the neighbouring pair whose joined text is the token with the highest score.
//! As a merge list that is: every split of every token into two tokens, ordered by the score of the whole.

use std::collections::HashMap;

use super::{TokenizerError, bad};

/// Tokens longer than this many characters get no merges (they would cost their square).
const MAX_CHARS: usize = 256;

/// The merge list, best first, as pairs of token ids. `ordinary` says which tokens may take part: not control, byte,
/// unknown and unused ones. Tokens without a score rank by id.
pub fn merges_from_scores(
    tokens: &[&str],
    scores: Option<&[f32]>,
    ordinary: impl Fn(usize) -> bool,
) -> Result<Vec<(u32, u32)>, TokenizerError> {
    let score = |i: usize| match scores {
        Some(s) => s.get(i).copied().unwrap_or(f32::NEG_INFINITY),
        None => -(i as f32),
    };
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for (i, t) in tokens.iter().enumerate().filter(|(i, _)| ordinary(*i)) {
        ids.entry(t).or_insert(i as u32);
    }
    // Real vocabularies have 2–3 merges a token; a hostile one could have hundreds.
    let limit = tokens.len().saturating_mul(16) + 1024;
    let mut whole: Vec<u32> = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        if ids.get(t) == Some(&(i as u32)) && t.chars().take(MAX_CHARS + 1).count() <= MAX_CHARS {
            whole.push(i as u32);
        }
    }
    whole.sort_by(|&a, &b| score(b as usize).total_cmp(&score(a as usize)).then(a.cmp(&b)));
    let mut merges = Vec::new();
    for w in whole {
        let text = tokens[w as usize];
        let start = merges.len();
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(&l), Some(&r)) = (ids.get(&text[..at]), ids.get(&text[at..])) {
                merges.push((l, r));
            }
        }
        merges[start..].sort_unstable();
        if merges.len() > limit {
            return Err(bad("tokenizer.ggml.tokens", format!("more than {limit} ways to build tokens from tokens")));
        }
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_score_first_and_every_split() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"];
        let scores = [-1.0, -2.0, -3.0, -9.0, -4.0, -5.0];
        let m = merges_from_scores(&tokens, Some(&scores), |_| true).unwrap();
        // bc (-4), then abc (-5) = a+bc and ab+c, then ab (-9).
        assert_eq!(m, [(1, 2), (0, 4), (3, 2), (0, 1)]);
    }

    #[test]
    fn tokens_that_may_not_take_part() {
        let m = merges_from_scores(&["a", "b", "ab"], None, |i| i != 2).unwrap();
        assert!(m.is_empty());
    }

    #[test]
    fn a_vocabulary_that_explodes_is_refused() {
        let own: Vec<String> = (1..256).map(|n| "a".repeat(n)).collect();
        let tokens: Vec<&str> = own.iter().map(String::as_str).collect();
        assert!(merges_from_scores(&tokens, None, |_| true).is_err());
    }
}
