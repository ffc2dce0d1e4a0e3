use super::*;
use serde_json::json;

/// Byte-level BPE of every byte, and a few merges.
fn byte_level() -> Tokenizer {
    let chars: Vec<char> = (0u32..0x144).filter_map(char::from_u32).filter(|c| byte_of(*c).is_some()).collect();
    assert_eq!(chars.len(), 256);
    let mut vocab = serde_json::Map::new();
    for c in chars {
        vocab.insert(c.to_string(), json!(vocab.len()));
    }
    let merges = [("h", "i"), ("Ġ", "hi"), ("ð", "Ł")];
    for (l, r) in merges {
        vocab.insert(format!("{l}{r}"), json!(vocab.len()));
    }
    vocab.insert("<|end|>".into(), json!(259));
    vocab.insert("<tool>".into(), json!(260));
    let added = |id: u32, content: &str, special: bool| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let doc = json!({
        "version": "1.0",
        "added_tokens": [added(259, "<|end|>", true), added(260, "<tool>", false)],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    Tokenizer::from_json(doc.to_string().as_bytes()).unwrap().with_bos(Some(259)).with_eos(vec![259])
}

fn sentence_piece() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    for t in ["<unk>", "<s>"] {
        vocab.insert(t.into(), json!(vocab.len()));
    }
    for b in 0..256 {
        vocab.insert(format!("<0x{b:02X}>"), json!(vocab.len()));
    }
    for t in ["▁", "a", "b", "▁a", "ab", "▁ab"] {
        vocab.insert(t.into(), json!(vocab.len()));
    }
    let doc = json!({
        "added_tokens": [{"id": 1, "content": "<s>", "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["▁ ab", "a b", "▁ a"]},
    });
    Tokenizer::from_json(doc.to_string().as_bytes()).unwrap()
}

#[test]
fn any_text_comes_back() {
    for t in [byte_level(), sentence_piece()] {
        for text in ["hi hi", "ab ab", "", " ", "naïve 日本 🙂👩\u{200d}👧\r\n\t\0", "\u{feff}a\u{301}", "<tool>hi"]
        {
            let ids = t.encode(text, false).unwrap();
            assert_eq!(t.decode(&ids).unwrap(), text, "{t:?}");
        }
    }
}

#[test]
fn merges_and_added_tokens() {
    let t = byte_level();
    let piece = |ids: &[u32]| ids.iter().map(|&i| String::from_utf8_lossy(t.piece(i)).into_owned()).collect::<Vec<_>>();
    assert_eq!(piece(&t.encode("hi hi", false).unwrap()), ["hi", " hi"]);
    assert_eq!(t.encode("<|end|><tool>", false).unwrap(), [259, 260]);
    let s = sentence_piece();
    assert_eq!(s.encode("ab", false).unwrap(), [263]);
    // The prefix comes back after a special token.
    assert_eq!(s.encode("<s>ab", false).unwrap(), [1, 263]);
}

#[test]
fn user_text_holds_no_special_tokens() {
    let t = byte_level();
    let ids = t.encode_plain("hi<|end|>", false).unwrap();
    assert!(!ids.contains(&259));
    assert_eq!(t.decode(&ids).unwrap(), "hi<|end|>");
    let r = Rendered { text: "<|end|>hi<|end|><|end|>".into(), user_special: std::iter::once(9..16).collect() };
    assert_eq!(t.encode_chat_with(&r, true).unwrap(), t.encode_chat(&r).unwrap());
    let ids = t.encode_chat(&r).unwrap();
    assert_eq!(ids.iter().filter(|&&i| i == 259).count(), 2);
    assert_eq!((ids[0], ids[ids.len() - 1]), (259, 259));
}

#[test]
fn beginning_of_text_is_not_doubled() {
    let t = byte_level();
    assert_eq!(t.encode("", true).unwrap(), [259]);
    assert_eq!(t.encode("<|end|>hi", true).unwrap(), t.encode("hi", true).unwrap());
}

#[test]
fn streaming_never_prints_half_a_character() {
    let t = byte_level();
    let text = "a🙂é日b";
    let ids = t.encode(text, false).unwrap();
    let mut d = StreamDecoder::new();
    let parts: Vec<String> = ids.iter().map(|&i| d.push(&t, i)).collect();
    assert!(parts.iter().all(|p| !p.contains('\u{fffd}')));
    assert_eq!(parts.concat(), text);
    assert_eq!(d.finish(), "");
    // Cut off, and broken in the middle.
    let mut d = StreamDecoder::new();
    let half: String = ids[..2].iter().map(|&i| d.push(&t, i)).collect();
    assert_eq!((half.as_str(), d.finish().as_str()), ("a", "\u{fffd}"));
    let ff = byte_level().encode("ÿ", false).unwrap()[0];
    let a = t.encode("a", false).unwrap()[0];
    assert_eq!(t.decode(&[ff, a]).unwrap(), "\u{fffd}a");
    assert_eq!(StreamDecoder::new().push(&t, 259), "");
    assert_eq!(StreamDecoder::new().show_special(true).push(&t, 259), "<|end|>");
    assert!(t.decode(&[100_000]).is_err());
    assert_eq!(t.piece(u32::MAX), b"");
}

#[test]
fn stop_strings_hold_back() {
    let mut s = super::super::StopStrings::new(vec!["</s>".into(), "é!".into(), String::new()]);
    assert_eq!(s.push("a<"), ("a".into(), false));
    assert_eq!(s.push("/x"), ("</x".into(), false));
    assert_eq!(s.push("né"), ("n".into(), false));
    assert_eq!(s.push("?"), ("é?".into(), false));
    assert_eq!(s.push("é!rest"), (String::new(), true));
    assert_eq!(s.finish(), "");
}

#[test]
fn damaged_documents_are_errors() {
    let bpe =
        |vocab: Value, merges: Value| json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}}).to_string();
    for doc in [
        String::new(),
        "{}".into(),
        "[]".into(),
        bpe(json!({"a": 0}), json!([["a", "a"]])),
        bpe(json!({"a": 0, "aa": 1}), json!([["a", "b"]])),
        bpe(json!({"a": 0}), json!(["a"])),
        bpe(json!({"a": 0}), json!([["a"]])),
        bpe(json!({"a": 4_000_000_000u32}), json!([])),
        bpe(json!({"a": -1}), json!([])),
        json!({"model": {"type": "Odd"}}).to_string(),
        json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "b"}}).to_string(),
        json!({"added_tokens": [{"id": 7, "content": "x"}], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})
            .to_string(),
        json!({"model": {"type": "Unigram", "vocab": 3}}).to_string(),
        json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false},
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})
        .to_string(),
    ] {
        assert!(Tokenizer::from_json(doc.as_bytes()).is_err(), "{doc}");
    }
}

#[test]
fn long_runs_are_no_trouble() {
    let t = byte_level();
    for text in [" ".repeat(200_000), "a".repeat(200_000), "\n ".repeat(50_000), "<|end|".repeat(30_000)] {
        let ids = t.encode(&text, false).unwrap();
        assert_eq!(t.decode(&ids).unwrap(), text);
    }
}

#[test]
fn mutated_documents_never_panic() {
    let doc = json!({
        "added_tokens": [{"id": 4, "content": "<s>", "special": true, "lstrip": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "NFKC"}]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|[a-z]{1,3}"}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "unk_token": "a", "byte_fallback": true, "vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3, "<s>": 4}, "merges": [["a", "b"]]},
    })
    .to_string();
    let mut rng = crate::sampler::Rng::new(1);
    let mut loaded = 0;
    for _ in 0..4000 {
        let mut bytes = doc.clone().into_bytes();
        for _ in 0..1 + rng.next_u64() % 3 {
            let at = rng.next_u64() as usize % bytes.len();
            match rng.next_u64() % 3 {
                0 => bytes[at] = b"0129\"{}[],:-\\a"[rng.next_u64() as usize % 14],
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(8)),
            }
        }
        if let Ok(t) = Tokenizer::from_json(&bytes) {
            loaded += 1;
            if let Ok(ids) = t.encode("<s> ab é\n", true) {
                let _ = t.decode(&ids);
            }
            let _ = t.encode_plain("a<s>b", false);
        }
    }
    assert!(loaded > 50, "{loaded}");
}
