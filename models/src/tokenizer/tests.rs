use super::*;
use tokenizers::Tokenizer;

fn load(i: &TokenizerImport) -> Tokenizer {
    i.json.parse().unwrap()
}

fn ids(t: &Tokenizer, text: &str) -> Vec<u32> {
    t.encode(text, false).unwrap().get_ids().to_vec()
}

const BPE: &[&str] = &["<|im_end|>", "a", "b", "ab", "Ġ", "Ġab", "1", "11", "<tool>", "x y", "x", "y"];

fn bpe<'a>() -> GgufTokenizer<'a> {
    GgufTokenizer {
        model: "gpt2",
        pre: Some("smollm"),
        tokens: BPE,
        token_types: Some(&[3, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 1]),
        merges: &["a b", "Ġ ab", "1 1"],
        eos: Some(0),
        ..Default::default()
    }
}

#[test]
fn byte_level() {
    let i = from_gguf(&bpe()).unwrap();
    assert_eq!((i.eos.as_slice(), i.add_bos, i.warnings.len()), ([0].as_slice(), false, 0));
    let t = load(&i);
    assert_eq!(t.get_vocab_size(true), BPE.len());
    // Digits stand alone in this pre-tokenizer, though the vocabulary joins them.
    assert_eq!(ids(&t, "ab ab11"), [3, 5, 6, 6]);
    assert_eq!(ids(&t, "a<|im_end|>b<tool>"), [1, 0, 2, 8]);
    for (id, text) in BPE.iter().enumerate() {
        assert_eq!(t.id_to_token(id as u32).as_deref(), Some(*text));
    }
}

#[test]
fn whole_pieces_before_merges() {
    let i = from_gguf(&GgufTokenizer { pre: Some("llama-bpe"), merges: &[], bos: Some(0), ..bpe() }).unwrap();
    assert!(i.add_bos, "llama 3 files that do not say add one");
    assert_eq!(ids(&load(&i), "ab 11"), [3, 4, 7]);
}

#[test]
fn merges_with_spaces_in_their_tokens() {
    let tokens = ["a ", "b", "a b", "c", "b c"];
    let i = from_gguf(&GgufTokenizer { tokens: &tokens, token_types: None, merges: &["a  b"], eos: Some(3), ..bpe() })
        .unwrap();
    assert!(i.json.contains(r#""merges":[["a ","b"]]"#), "{}", i.json);
    let i = from_gguf(&GgufTokenizer { merges: &["q r", "nospace", "", " "], ..bpe() }).unwrap();
    assert!(i.warnings[0].contains("4 of 4"), "{:?}", i.warnings);
}

#[test]
fn names_of_pre_tokenizers() {
    let e = from_gguf(&GgufTokenizer { pre: Some("new-thing"), ..bpe() }).unwrap_err().to_string();
    assert!(e.contains("\"new-thing\"") && e.contains("qwen2, "), "{e}");
    let i = from_gguf(&GgufTokenizer { pre: None, ..bpe() }).unwrap();
    assert!(i.warnings[0].contains("tokenizer.ggml.pre is missing"));
}

#[test]
fn sentence_piece() {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["▁", "a", "b", "c", "ab", "bc", "▁ab", "abc", "<start_of_turn>"].map(String::from));
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.extend([1; 8]);
    types.push(4);
    let mut scores = vec![0.0; 259];
    // `bc` beats `ab`, so "abc" is a + bc, and then there is abc.
    scores.extend([-8.0f32, -9.0, -10.0, -11.0, -3.0, -2.0, -4.0, -5.0, 0.0]);
    let base = GgufTokenizer {
        model: "llama",
        tokens: &tokens,
        scores: Some(&scores),
        token_types: Some(&types),
        bos: Some(1),
        eos: Some(2),
        ..Default::default()
    };
    let i = from_gguf(&base).unwrap();
    assert_eq!((i.bos, i.eos.as_slice(), i.add_bos), (Some(1), [2].as_slice(), true));
    let t = load(&i);
    let id = |s: &str| tokens.iter().position(|t| *t == s).unwrap() as u32;
    assert_eq!(ids(&t, "ab"), [id("▁ab")]);
    assert_eq!(ids(&t, "abc"), [id("▁"), id("abc")]);
    assert_eq!(ids(&t, "a é\n"), [id("▁"), id("a"), id("▁"), id("<0xC3>"), id("<0xA9>"), id("<0x0A>")]);
    assert_eq!(ids(&t, "</s>ab<start_of_turn>b"), [2, id("▁ab"), id("<start_of_turn>"), id("▁"), id("b")]);
    assert_eq!(t.decode(&ids(&t, "ab é"), true).unwrap(), "ab é");
    // As Gemma does it: no space before the text.
    let t = load(&from_gguf(&GgufTokenizer { add_space_prefix: Some(false), ..base }).unwrap());
    assert_eq!(ids(&t, "ab ab"), [id("ab"), id("▁ab")]);
}

#[test]
fn ends_of_generation() {
    let tokens = ["<s>", "</s>", "<|eot_id|>", "<|im_end|>", "a"];
    let types = [3, 3, 3, 1, 1];
    let t = GgufTokenizer { tokens: &tokens, token_types: Some(&types), eos: Some(1), merges: &[], ..bpe() };
    // The third is an ordinary token here.
    assert_eq!(from_gguf(&t).unwrap().eos, [1, 2]);
    let none = GgufTokenizer { tokens: &["a"], token_types: None, eos: None, merges: &[], ..bpe() };
    assert!(from_gguf(&none).unwrap().warnings[0].contains("token limit"));
}

#[test]
fn texts_that_occur_twice_keep_their_ids() {
    let tokens = ["a", "b", "a"];
    let i = from_gguf(&GgufTokenizer { tokens: &tokens, token_types: None, merges: &[], ..bpe() }).unwrap();
    let t = load(&i);
    assert_eq!((t.get_vocab_size(true), ids(&t, "a")), (3, vec![0]));
    assert!(i.warnings[0].contains("twice"));
}

#[test]
fn what_cannot_be_is_refused() {
    let long = "x".repeat(5000);
    let cases: Vec<(&str, GgufTokenizer)> = vec![
        ("tokenizer.ggml.model", GgufTokenizer { model: "t5", ..bpe() }),
        ("tokenizer.ggml.tokens", GgufTokenizer { tokens: &[], token_types: None, ..bpe() }),
        ("tokenizer.ggml.token_type", GgufTokenizer { token_types: Some(&[1]), ..bpe() }),
        ("tokenizer.ggml.scores", GgufTokenizer { scores: Some(&[1.0]), ..bpe() }),
        ("tokenizer.ggml.eos_token_id", GgufTokenizer { eos: Some(12), ..bpe() }),
        ("tokenizer.ggml.bos_token_id", GgufTokenizer { bos: Some(u32::MAX), ..bpe() }),
    ];
    for (key, t) in cases {
        let e = from_gguf(&t).unwrap_err().to_string();
        assert!(e.contains(key), "{key}: {e}");
    }
    let tokens = [long.as_str()];
    let t = GgufTokenizer { tokens: &tokens, token_types: Some(&[3]), eos: None, merges: &[], ..bpe() };
    assert!(from_gguf(&t).unwrap_err().to_string().contains("special token 0"));
    let nan = GgufTokenizer {
        model: "llama",
        tokens: &["a"],
        token_types: None,
        scores: Some(&[f32::NAN]),
        eos: None,
        ..bpe()
    };
    assert!(from_gguf(&nan).is_err());
}

#[test]
fn hugging_face_folder() {
    let dir = std::env::temp_dir().join(format!("tilewright-hf-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    assert!(from_hf_folder(&dir).unwrap_err().to_string().contains("tokenizer.json: is missing"));
    put("tokenizer.json", "{");
    assert!(from_hf_folder(&dir).unwrap_err().to_string().contains("not valid JSON"));
    put(
        "tokenizer.json",
        r#"{"added_tokens": [{"id": 2, "content": "<|im_end|>"}], "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "<|im_end|>": 2}, "merges": []},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}], "special_tokens": {"<s>": {"ids": [0]}}}}"#,
    );
    put(
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    let i = from_hf_folder(&dir).unwrap();
    assert_eq!(
        (i.bos, i.eos.as_slice(), i.add_bos, i.chat_template.as_deref()),
        (Some(0), [1, 2].as_slice(), true, Some("d"))
    );
    put("generation_config.json", r#"{"eos_token_id": [2, 1, 7000000000]}"#);
    put("chat_template.jinja", "j");
    let i = from_hf_folder(&dir).unwrap();
    assert_eq!((i.eos.as_slice(), i.chat_template.as_deref()), ([1, 2].as_slice(), Some("j")));
    std::fs::remove_dir_all(&dir).unwrap();
}
