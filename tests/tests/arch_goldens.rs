//! Every architecture against Hugging Face `transformers`: the graph of a tiny random-weight model, interpreted in f32,
//! gives the golden logits, from a GGUF file and from folders of either style.

use std::path::Path;

use tilewright_ir::graph::interp::{Interp, KvPrecision};
use tilewright_ir::graph::verify;
use tilewright_models::arch::ArchSet;
use tilewright_models::format::FormatSet;
use tilewright_models::gguf::GgufFile;
use tilewright_models::model::Model;
use tilewright_models::weights::WeightFile;
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::{Golden, HfStyle};

/// Largest difference of a logit, relative to the largest logit of its position.
const LIMIT: f32 = 1e-4;

/// The logits of all of the golden's tokens, run in pieces of `step`.
fn logits(golden: &Golden, model: &Model, step: usize) -> Vec<f32> {
    let graph = model.graph_for(golden.ids.len() as u64).unwrap();
    verify(&graph).unwrap();
    let mut interp = Interp::<f32>::with_kv(&graph, model, KvPrecision::Exact).unwrap();
    golden.ids.chunks(step).flat_map(|ids| interp.run(ids).unwrap()[0].floats()).collect()
}

fn difference(golden: &Golden, logits: &[f32]) -> f32 {
    let vocab = logits.len() / golden.ids.len();
    let mut worst = 0f32;
    for (want, &at) in golden.logits.iter().zip(&golden.positions) {
        let largest = want.iter().fold(0f32, |a, b| a.max(b.abs()));
        let rows = want.iter().zip(&logits[at * vocab..(at + 1) * vocab]);
        worst = rows.fold(worst, |w, (a, b)| w.max((a - b).abs() / largest));
    }
    worst
}

fn check(golden: &Golden, path: &Path, what: &str) {
    let model = Model::open(path).unwrap_or_else(|e| panic!("{} as {what}: {e}", golden.name));
    let all = logits(golden, &model, golden.ids.len());
    let far = difference(golden, &all);
    assert!(far < LIMIT, "{} as {what}: {far}", golden.name);
    for (at, best) in golden.argmax.iter().enumerate() {
        let row = &all[at * 320..(at + 1) * 320];
        let mine = (0..320).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        assert_eq!(mine as u32, *best, "{} as {what} at {at}", golden.name);
    }
    // One token after the other, too: the caches and windows then come into play.
    let far = difference(golden, &logits(golden, &model, 1));
    assert!(far < LIMIT, "{} as {what}, by the token: {far}", golden.name);
}

#[test]
fn from_gguf() {
    for golden in Golden::names().iter().map(|n| Golden::load(n).unwrap()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        golden.write_gguf(&path, Quant::F32).unwrap();
        if golden.gguf_says_all() {
            check(&golden, &path, "GGUF");
        } else {
            Model::open(&path).unwrap().graph().unwrap();
        }
    }
}

#[test]
fn from_folders() {
    for golden in Golden::names().iter().map(|n| Golden::load(n).unwrap()) {
        for style in [HfStyle::Saved, HfStyle::Classic] {
            let dir = tempfile::tempdir().unwrap();
            golden.write_hf(dir.path(), style, Quant::F32).unwrap();
            check(&golden, dir.path(), &format!("{style:?}"));
        }
    }
}

/// The weights of both containers, once both have been through the same block format, make the same model.
#[test]
fn quantised_twins() {
    for name in ["llama", "gemma2", "phi3", "qwen3"] {
        let golden = Golden::load(name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        golden.write_gguf(&path, Quant::Q8_0).unwrap();
        golden.write_hf(&dir.path().join("hf"), HfStyle::Saved, Quant::Q8_0).unwrap();
        let (a, b) = (Model::open(&path).unwrap(), Model::open(dir.path().join("hf")).unwrap());
        assert_eq!((a.hyper().parameters, a.hyper().d_model), (b.hyper().parameters, b.hyper().d_model));
        assert!(a.hyper().file_bytes < b.hyper().file_bytes / 3);
        let (a, b) = (logits(&golden, &a, 29), logits(&golden, &b, 29));
        let largest = a.iter().fold(0f32, |a, b| a.max(b.abs()));
        let far = a.iter().zip(&b).fold(0f32, |w, (a, b)| w.max((a - b).abs()));
        assert!(far / largest < LIMIT, "{name}: {far}");
    }
}

#[test]
fn encoded_rows_are_the_files_or_f32() {
    let golden = Golden::load("phi3").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    golden.write_gguf(&path, Quant::Q8_0).unwrap();
    let model = Model::open(&path).unwrap();
    let find = |n: &str| model.reading().weights().find(|w| w.name == n).unwrap();
    let bytes = |n: &str| model.weight_bytes(find(n)).unwrap().concat();
    let whole = model.weights().data("blk.1.attn_qkv.weight").unwrap();
    assert_eq!([bytes("blk.1.attn_q"), bytes("blk.1.attn_k"), bytes("blk.1.attn_v")].concat(), whole);
    assert_eq!(bytes("blk.0.ffn_gate").len(), 160 * 96 / 32 * 34);

    // A norm that the model means as 1 + what the folder has.
    let golden = Golden::load("gemma3").unwrap();
    golden.write_hf(&dir.path().join("hf"), HfStyle::Classic, Quant::F32).unwrap();
    let model = Model::open(dir.path().join("hf")).unwrap();
    let norm = model.reading().weights().find(|w| w.name == "output_norm").unwrap();
    let want: Vec<u8> =
        golden.values("model.norm.weight").unwrap().iter().flat_map(|v| (v + 1.0).to_le_bytes()).collect();
    assert_eq!(model.weight_bytes(norm).unwrap().concat(), want);
}

#[test]
fn tokenizers_come_along() {
    let golden = Golden::load("llama").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    golden.write_gguf(&path, Quant::F32).unwrap();
    golden.write_hf(&dir.path().join("hf"), HfStyle::Saved, Quant::F32).unwrap();
    for path in [path, dir.path().join("hf")] {
        let t = Model::open(&path).unwrap().tokenizer().unwrap();
        assert_eq!((t.bos, t.eos.first(), t.add_bos), (Some(1), Some(&2), false), "{}", path.display());
    }
}

/// A sample of the bytes made wrong, every third of the first 2000 and few of the rest: an error, or a model whose graph is well-formed; never a panic.
#[test]
fn damaged_headers() {
    for name in ["llama3_rope", "gemma3", "phi3_longrope"] {
        let golden = Golden::load(name).unwrap();
        let bytes = golden.gguf(Quant::Q8_0).unwrap().encode();
        // Without the tokenizer, whose own tests do this.
        let header: Vec<usize> = (24..bytes.len()).filter(|&n| n < 2000 && n % 3 == 0 || n % 97 == 0).collect();
        let (mut opened, mut refused) = (0, 0);
        for (n, at) in header.into_iter().enumerate() {
            let mut bytes = bytes.clone();
            bytes[at] = [bytes[at] ^ 1, bytes[at] ^ 0x80, 0, 0xFF][n % 4];
            let Ok(file) = GgufFile::from_bytes("damaged.gguf", bytes) else { continue };
            let weights = WeightFile::from_gguf(file, FormatSet::builtin());
            match Model::from_weights(weights, ArchSet::builtin()).and_then(|m| m.graph()) {
                Ok(graph) => {
                    verify(&graph).unwrap_or_else(|e| panic!("{name}, byte {at}: {e}"));
                    opened += 1;
                }
                Err(e) => {
                    assert!(e.to_string().starts_with("damaged.gguf: "), "{e}");
                    refused += 1;
                }
            }
        }
        assert!(opened > 20 && refused > 20, "{name}: {opened} opened, {refused} refused");
    }
}
