//! Declarations that are right, declarations that are wrong, and models that do not fit theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use tilewright_ir::graph::{Dim, OpKind};

use super::*;

/// A model file without data.
#[derive(Clone)]
struct Fake {
    container: Container,
    keys: BTreeMap<String, Value>,
    tensors: BTreeMap<String, (Vec<u64>, String)>,
}

impl Source for Fake {
    fn label(&self) -> String {
        "model.gguf".into()
    }
    fn container(&self) -> Container {
        self.container
    }
    fn key(&self, key: &str) -> Option<Value> {
        self.keys.get(key).cloned()
    }
    fn tensor(&self, name: &str) -> Option<(Vec<u64>, String)> {
        self.tensors.get(name).cloned()
    }
    fn tensor_names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
    fn floats(&self, tensor: &str) -> Result<Vec<f32>, String> {
        Ok(vec![2.0; self.tensors[tensor].0[0] as usize])
    }
}

impl Fake {
    fn set(mut self, key: &str, value: f64) -> Fake {
        self.keys.insert(key.into(), Value::Num(value));
        self
    }
    fn word(mut self, key: &str, value: &str) -> Fake {
        self.keys.insert(key.into(), Value::Word(value.into()));
        self
    }
    fn with(mut self, name: &str, shape: &[u64]) -> Fake {
        let format = if shape.len() == 1 { "f16" } else { "q4_1" };
        self.tensors.insert(name.into(), (shape.to_vec(), format.into()));
        self
    }
    fn without(mut self, name: &str) -> Fake {
        self.keys.remove(name);
        self.tensors.remove(name);
        self
    }
}

/// A llama of two layers: width 96, three heads of 32, one KV head.
fn llama() -> Fake {
    let mut f = Fake { container: Container::Gguf, keys: BTreeMap::new(), tensors: BTreeMap::new() }
        .word("general.architecture", "llama")
        .set("llama.block_count", 2.0)
        .set("llama.context_length", 128.0)
        .set("llama.embedding_length", 96.0)
        .set("llama.feed_forward_length", 160.0)
        .set("llama.attention.head_count", 3.0)
        .set("llama.attention.head_count_kv", 1.0)
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .with("token_embd.weight", &[320, 96])
        .with("output_norm.weight", &[96]);
    for i in 0..2 {
        for (name, shape) in [
            ("attn_norm", &[96][..]),
            ("attn_q", &[96, 96]),
            ("attn_k", &[32, 96]),
            ("attn_v", &[32, 96]),
            ("attn_output", &[96, 96]),
            ("ffn_norm", &[96]),
            ("ffn_gate", &[160, 96]),
            ("ffn_up", &[160, 96]),
            ("ffn_down", &[96, 160]),
        ] {
            f = f.with(&format!("blk.{i}.{name}.weight"), shape);
        }
    }
    f
}

fn read(f: &Fake) -> Result<Reading, String> {
    ArchSet::builtin().read(f).map_err(|e| e.to_string())
}

fn builtin(name: &str) -> &'static str {
    BUILTIN.iter().find(|(f, _)| *f == format!("{name}.yaml")).unwrap().1
}

#[test]
fn the_built_in_ones_are_right_and_match_once() {
    let set = ArchSet::builtin();
    let mut seen = std::collections::BTreeSet::new();
    for a in set.iter() {
        assert_eq!(a.file(), format!("{}.yaml", a.name()));
        for m in a.gguf().iter().chain(a.hf()) {
            assert!(seen.insert(m.clone()), "{m} twice");
        }
    }
    assert_eq!(set.iter().count(), 6);
}

#[test]
fn a_llama_becomes_a_graph() {
    let r = read(&llama()).unwrap();
    assert_eq!((r.size("heads"), r.size("head_dim"), r.size("vocab"), r.size("n_layers")), (3, 32, 320, 2));
    let g = r.graph(128).unwrap();
    let names: Vec<&str> = g.order().iter().map(|&n| g.node(n).name.as_str()).collect();
    for n in
        ["tokens", "pos", "kv.0", "kv.1", "blk.1.attn_q", "blk.1.ffn_down", "output_norm", "token_embd", "blk.0.attn"]
    {
        assert!(names.contains(&n), "{n}: {names:?}");
    }
    assert!(!names.contains(&"output.weight"));
    let embeddings = g.order().iter().filter(|&&n| g.weight_of(n).is_some_and(|w| w.name == "token_embd"));
    assert_eq!(embeddings.count(), 1, "the tied matrix is one weight");
    let out = g.outputs()[0];
    assert_eq!(g.ty(out).to_string(), "f32[T, 320]");
    assert_eq!(g.rope[0].inv_freq.len(), 16);
    let count = |op| g.order().iter().filter(|&&n| g.node(n).op == op).count();
    assert_eq!((count(OpKind::Matmul), count(OpKind::Add), count(OpKind::Rope)), (15, 4, 4));
    let norm = r.weights().find(|w| w.name == "blk.0.attn_norm").unwrap();
    assert_eq!((norm.format(), &norm.ty.shape[..]), ("f32", &[Dim::N(96)][..]));
    assert_eq!(r.elements(), 320 * 96 + 96 + 2 * (2 * 96 + 2 * 96 * 96 + 2 * 32 * 96 + 3 * 160 * 96));
}

#[test]
fn optional_tensors_and_windows_change_the_graph() {
    let f = llama()
        .with("blk.0.attn_q.bias", &[96])
        .with("rope_freqs.weight", &[16])
        .set("llama.attention.sliding_window", 12.0);
    let plain = read(&llama()).unwrap().graph(128).unwrap();
    let g = read(&f.with("output.weight", &[320, 96])).unwrap().graph(128).unwrap();
    let find = |n: &str| g.order().iter().copied().find(|&id| g.node(id).name == n && g.node(id).op != OpKind::Weight);
    assert!(find("blk.0.attn_q_bias").is_some() && find("blk.1.attn_q_bias").is_none());
    assert_eq!(g.int(find("blk.1.attn").unwrap(), "window"), 12);
    assert_eq!(g.word(find("blk.1.q_rope").unwrap(), "style"), "interleaved");
    assert_eq!(g.rope[0].inv_freq[3] * 2.0, plain.rope[0].inv_freq[3]);
}

#[test]
fn models_that_do_not_fit_are_refused() {
    let base = "model.gguf: ";
    for (f, want) in [
        (
            llama().word("general.architecture", "mamba"),
            "general.architecture is mamba, which no architecture matches; there are llama, qwen2, qwen3, gemma2, gemma3, phi3",
        ),
        (llama().without("general.architecture"), "general.architecture is missing"),
        (
            llama().without("llama.block_count"),
            "llama.block_count: is missing; the architecture llama needs it for `n_layers`",
        ),
        (llama().set("llama.block_count", 0.0), "llama.block_count: is 0, not an integer from 1 to 2^31"),
        (llama().set("llama.block_count", -1.0), "llama.block_count: is -1, not"),
        (llama().set("llama.block_count", 4e9), "llama.block_count: is 4000000000, not"),
        (llama().set("llama.block_count", 2e9), "2000000000 layers; at most"),
        (
            llama().set("llama.block_count", 3.0),
            "tensor `blk.2.attn_norm.weight` is missing; the architecture llama needs it",
        ),
        (llama().set("llama.block_count", 1.0), "tensor `blk.1.attn_k.weight` is not used by the architecture llama"),
        (llama().set("llama.attention.head_count", 0.0), "llama.attention.head_count: is 0, not"),
        (llama().set("llama.attention.head_count", 2.5), "llama.attention.head_count: is 2.5, not"),
        (llama().word("llama.attention.head_count", "x"), "llama.attention.head_count: is 'x', not"),
        (llama().set("llama.attention.head_count", 7.0), "llama.yaml:17:71: `head_dim` = `d_model / heads` is 13.7"),
        (
            llama().set("llama.attention.head_count_kv", 2.0),
            "must be a multiple of the number of KV heads (`heads % kv_heads == 0` does not hold)",
        ),
        (
            llama().set("llama.attention.key_length", 16.0),
            "tensor `blk.0.attn_q.weight` has shape [96, 96]; the hyper-parameters say [48, 96] ([heads * head_dim, d_model])",
        ),
        (
            llama().set("llama.attention.layer_norm_rms_epsilon", f64::NAN),
            "layer_norm_rms_epsilon: is NaN, not a finite number",
        ),
        (llama().set("llama.expert_count", 8.0), "mixtures of experts are not supported"),
        (
            llama().word("llama.rope.scaling.type", "yarn"),
            "llama.rope.scaling.type: is 'yarn'; this architecture knows default, none, linear, llama3",
        ),
        (
            llama().with("token_embd.weight", &[320, 64]),
            "tensor `token_embd.weight` has shape [320, 64]; the hyper-parameters say [320, 96] ([vocab, d_model])",
        ),
        (llama().with("output.weight", &[321, 96]), "tensor `output.weight` has shape [321, 96]"),
        (llama().without("token_embd.weight"), "`rows(token_embd)`: the file has no `token_embd`"),
        (llama().with("blk.0.attn_sinks.weight", &[3]), "tensor `blk.0.attn_sinks.weight` is not used"),
    ] {
        let e = read(&f).unwrap_err();
        assert!(e.starts_with(base) && e.contains(want), "{e}\nshould say\n{want}");
    }
    for (f, want) in [
        (llama().set("llama.rope.dimension_count", 33.0), "33 elements of a head are to rotate"),
        (llama().set("llama.rope.dimension_count", 64.0), "it must be an even number up to head_dim = 32"),
        (llama().set("llama.rope.freq_base", 0.0), "gives no frequency for pair"),
    ] {
        let e = read(&f).unwrap().graph(128).unwrap_err().to_string();
        assert!(e.contains(want), "{e}\nshould say\n{want}");
    }
}

/// What is replaced in llama.yaml, by what, with `¶` where the error must point to, and what it says.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "op: rms_norm, in: [x, attn_norm]",
        "op: ¶rmsnorm, in: [x, attn_norm]",
        "layer[0].op: unknown op `rmsnorm`; there are embed, rms_norm, matmul",
    ),
    (
        "in: [h, attn_q], out: q",
        "in: [h, ¶attn_qq], out: q",
        "`attn_qq` is neither a value made before (angles, h, kv, pos, tokens, x) nor a tensor (token_embd, ",
    ),
    ("in: [h, attn_k], out: k", "in: [¶g, attn_k], out: k", "`g` is neither"),
    ("in: [h, attn_q], out: q", "in: ¶[h], out: q", "matmul takes 2 operands (x, w), not 1"),
    (
        "in: [h, output], out: logits",
        "in: [h, ¶attn_q], out: logits",
        "each layer has a `attn_q`; it can be used in `layer` only",
    ),
    (
        "scale: 1 / sqrt(head_dim)",
        "scale: ¶1 / sqrt(head_dim",
        "attrs.scale: the expression `1 / sqrt(head_dim` is wrong at character 18: expected `)`",
    ),
    (
        "attrs: {eps: eps}, out: h}\n  - {op: matmul, in: [h, attn_q]",
        "attrs: {epsilon: ¶eps}, out: h}\n  - {op: matmul, in: [h, attn_q]",
        "rms_norm has no attribute `epsilon`; it has eps",
    ),
    (
        "{op: rms_norm, in: [x, ffn_norm], attrs: {eps: eps}",
        "¶{op: rms_norm, in: [x, ffn_norm], attrs: {}",
        "rms_norm needs the attribute `eps`",
    ),
    (
        "attrs: {fn: silu}",
        "attrs: {fn: ¶swish}",
        "`fn` is silu or gelu_tanh or a word of the hyper-parameters, not swish",
    ),
    ("heads: heads, style", "heads: ¶1.5, style", "`heads` is an integer from 0 up, not 1.5"),
    ("attrs: {table: main}", "attrs: {table: ¶mian}", "no rotary table `mian`; there are main"),
    ("when: has(attn_q_bias)", "when: ¶has(q_bias)", "no tensor `q_bias`; there are token_embd"),
    (
        "when: has(attn_q_bias)",
        "when: ¶has(attn_q_bias) and",
        "layer[2].when: the expression `has(attn_q_bias) and` is wrong at character 21",
    ),
    (
        "else: d_model / heads",
        "else: ¶d_model / head",
        "`d_model / head` mentions `head`, which is not known here; there are d_ff, d_model",
    ),
    (
        "that: value_dim == head_dim",
        "that: ¶has(attn_q)",
        "each layer has a `attn_q`; it can be asked for in `layer` and `per_layer` only",
    ),
    ("  d_ff:", "  dff:", "`d_ff` is missing or not of kind size"),
    (
        "{kind: count, gguf: \"{arch}.expert_count\"",
        "{kind: ¶counts, gguf: \"{arch}.expert_count\"",
        "unknown variant `counts`",
    ),
    ("about:", "¶abuot:", "unknown field `abuot`"),
    ("  vocab:", "  d_ff:", "hyper: `d_ff` is given twice; remove one"),
    (
        "shape: [heads * head_dim, d_model]\n  attn_k",
        "shape: ¶[heads, head_dim, d_model]\n  attn_k",
        "`attn_q` has 3 dimensions; a weight has 1 or 2",
    ),
    (
        "shape: [vocab, d_model], else: token_embd",
        "shape: [vocab, d_model], else: ¶attn_q",
        "`attn_q` cannot take the place of `output`",
    ),
    (
        "shape: [vocab, d_model], else: token_embd",
        "shape: [vocab, d_model], add: ¶1",
        "`add` is for tensors of one dimension",
    ),
    ("out: logits", "out: logit", "no op has `out: logits`"),
    (
        "gguf: blk.{i}.attn_q.weight",
        "gguf: blk.0.attn_q.weight",
        "`blk.0.attn_q.weight` has no {i}, but another name of `attn_q` has one",
    ),
    ("out: q, name: q_rope", "out: ¶attn_q, name: q_rope", "`attn_q` cannot name a value"),
    ("one_of: [silu]", "one_of: [silu", "did not find expected"),
    (
        "kind: count, gguf: \"{arch}.expert_count\"",
        "one_of: ¶[a], gguf: \"{arch}.expert_count\"",
        "`one_of` is for `kind: word`",
    ),
    ("  gguf: [llama]\n  hf: [LlamaForCausalLM, MistralForCausalLM]", "  ¶{}", "matches nothing"),
    ("  value_dim:", "  ctx:", "`ctx` is no name"),
    ("smooth: (", "wave: (", "rope.main.let: `wave` is given twice"),
];

#[test]
fn wrong_declarations_name_line_and_column() {
    let text = builtin("llama");
    for (from, to, want) in WRONG {
        assert!(text.contains(from), "{from}");
        let wrong = text.replacen(from, to, 1);
        let place = match wrong.split_once('¶') {
            Some((before, _)) => {
                let line = before.lines().count() + usize::from(before.ends_with('\n'));
                format!("my.yaml:{line}:{}: ", before.len() - before.rfind('\n').map_or(0, |n| n + 1) + 1)
            }
            None => "my.yaml:".into(),
        };
        let parsed = Arch::parse("my.yaml", &wrong.replace('¶', ""));
        let e = parsed.unwrap_err().to_string();
        assert!(e.starts_with(&place) && e.contains(want), "{e}\nshould say\n{place}{want}");
    }
}

#[test]
fn any_cut_or_twisted_declaration_is_an_error_or_right() {
    let text = builtin("gemma3");
    for n in (0..text.len()).step_by(37) {
        let _ = Arch::parse("cut.yaml", &text[..n]);
        let mut bytes = text.as_bytes().to_vec();
        bytes[n] = b"{}[]:-#'\"0 x"[n % 12];
        let _ = Arch::parse("twisted.yaml", &String::from_utf8(bytes).unwrap());
    }
}

#[test]
fn a_folder_adds_and_replaces() {
    let dir = std::env::temp_dir().join(format!("tilewright-arch-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let own = builtin("llama")
        .replace("name: llama", "name: mamba")
        .replace("gguf: [llama]", "gguf: [mamba]")
        .replace("hf: [Llama", "hf: [My");
    std::fs::write(dir.join("a.yaml"), own).unwrap();
    std::fs::write(dir.join("b.yaml"), builtin("qwen2").replace("about: Qwen2", "about: my Qwen2")).unwrap();
    let set = ArchSet::builtin().with_folder(&dir);
    let wrong = dir.join("c.yaml");
    std::fs::write(&wrong, "name: x\n").unwrap();
    let fails = ArchSet::builtin().with_folder(&dir).unwrap_err().to_string();
    std::fs::remove_dir_all(&dir).unwrap();
    let set = set.unwrap();
    assert_eq!(set.iter().count(), 7);
    assert!(set.get("qwen2").unwrap().about().starts_with("my "));
    // The newest match wins.
    assert_eq!(set.for_hf("MistralForCausalLM").map(|a| a.name()), Some("mamba"));
    assert!(fails.contains("c.yaml:1:1: missing field"), "{fails}");
    let f = llama().word("general.architecture", "mamba");
    assert!(set.read(&f).unwrap_err().to_string().contains("llama.block_count") || set.get("mamba").is_some());
    let _: &Arc<Arch> = set.get("llama").unwrap();
}
