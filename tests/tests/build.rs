//! Building and running a tiny model: the same bytes each time, and the same answer whichever way it is run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tilewright_driver::{BuildOptions, build};
use tilewright_models::model::Model;
use tilewright_passes::{Activations, PIPELINE};
use tilewright_runtime::error::RunError;
use tilewright_runtime::session::{Logits, SessionOptions};
use tilewright_tests::e2e::{self, distance, logits, logits_stepwise};
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

/// One model for each way an architecture differs from the others.
const ARCHS: [&str; 7] = ["llama_tied", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

fn with(activations: Activations) -> BuildOptions {
    BuildOptions { activations, ..e2e::options() }
}

/// All files of a folder.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

#[test]
fn building_twice_gives_equal_bytes_whatever_the_threads() {
    for (name, quant) in [("llama_tied", Quant::Q8_0), ("qwen2", Quant::Q4_0), ("gemma3", Quant::F16)] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        Golden::load(name).unwrap().write_gguf(&file, quant).unwrap();
        let run = |out: &str, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let out = dir.path().join(out);
            let model = Model::open(&file).unwrap();
            let report = pool.install(|| build(&model, &out, &e2e::options(), &mut |_| {})).unwrap();
            (report.digest, files(&out))
        };
        let first = run("a.tw", 1);
        assert!(first.1.contains_key("manifest.json") && first.1.contains_key("weights.bin"));
        for (out, threads) in [("b.tw", 1), ("c.tw", 2), ("other-name.tw", 5), ("a.tw", 3)] {
            let again = run(out, threads);
            assert_eq!(first.0, again.0, "{name}: digest with {threads} threads");
            for (file, bytes) in &first.1 {
                assert!(again.1.get(file) == Some(bytes), "{name}: {file} differs with {threads} threads");
            }
            assert_eq!(first.1.len(), again.1.len(), "{name}: other files");
        }
    }
}

#[test]
fn what_cannot_be_switched_off_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    Golden::load("llama_tied").unwrap().write_gguf(&file, Quant::Q8_0).unwrap();
    let model = Model::open(&file).unwrap();
    for name in ["fuse-nothing", "", "cse", "canonicalise"] {
        let options = BuildOptions { off: [name.to_string()].into(), ..e2e::options() };
        let out = dir.path().join("out.tw");
        let message = build(&model, &out, &options, &mut |_| {}).expect_err(name).to_string();
        assert!(message.contains(name) && message.contains("fuse-bias"), "{message}");
        assert!(!out.exists(), "nothing may be left behind");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing may be left behind");
    }
    let options = BuildOptions { dump: Some("after:nothing".into()), ..e2e::options() };
    let message = build(&model, &dir.path().join("out.tw"), &options, &mut |_| {}).expect_err("dump").to_string();
    assert!(message.contains("nothing"), "{message}");
}

/// What rounding may cost in f32: another order of sums, and values of the KV cache that round to the next f16.
const F32_LIMIT: f32 = 2e-4;

/// With int8 activations a value near the middle between two codes may fall to the other side.
const Q8_LIMIT: f32 = 2e-2;

#[test]
fn every_fusion_off_gives_the_same_to_rounding() {
    let names = PIPELINE.iter().filter(|r| r.switchable).map(|r| r.pass.name());
    // It folds f16 rows, which programs of a CPU have none of.
    let mut switchable: Vec<&str> = names.filter(|n| *n != "fuse-quantize-matmul").collect();
    assert!(switchable.len() >= 8, "{switchable:?}");
    switchable.push("all of them");
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut worst: BTreeMap<(&str, &str), f32> = BTreeMap::new();
    for arch in ARCHS {
        let golden = Golden::load(arch).unwrap();
        let ids = &golden.ids[..golden.ids.len().min(12)];
        for (kind, activations, quant, limit) in
            [("f32", Activations::F32, Quant::F32, F32_LIMIT), ("int8", Activations::Q8, Quant::Q8_0, Q8_LIMIT)]
        {
            let run = |options: &BuildOptions| {
                let built = e2e::gguf(&golden, quant, options).unwrap();
                let mut session = built.session(1).unwrap();
                let all = [logits(&mut session, ids).unwrap(), logits_stepwise(&mut session, ids).unwrap()];
                (all, built.report.passes)
            };
            let (on, report) = run(&with(activations));
            used.extend(switchable.iter().copied().filter(|p| report.rewrites(p) > 0));
            for pass in &switchable {
                let off = match *pass {
                    "all of them" => switchable[..switchable.len() - 1].iter().map(|p| p.to_string()).collect(),
                    one => [one.to_string()].into(),
                };
                let (off, report) = run(&BuildOptions { off, ..with(activations) });
                assert_eq!(report.rewrites(pass), 0, "{pass} ran");
                for (what, a, b) in [("prefill", &off[0], &on[0]), ("decode", &off[1], &on[1])] {
                    let d = distance(a, b);
                    assert!(d <= limit, "{arch} {kind} without {pass}, {what}: {d:e} > {limit:e}");
                    let w = worst.entry((kind, pass)).or_default();
                    *w = w.max(d);
                }
            }
        }
    }
    assert_eq!(used.len() + 1, switchable.len(), "some were never put to the test; used: {used:?}");
    for ((kind, pass), d) in worst {
        eprintln!("{kind} without {pass}: {d:.1e}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for arch in ARCHS {
        let golden = Golden::load(arch).unwrap();
        let built = e2e::gguf(&golden, Quant::Q8_0, &e2e::options()).unwrap();
        let run = |threads| {
            let mut session = built.session(threads).unwrap();
            [logits(&mut session, &golden.ids).unwrap(), logits_stepwise(&mut session, &golden.ids).unwrap()]
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(run(threads) == one, "{arch}: {threads} threads and one differ");
        }
    }
}

/// Prefill and decode kernels sum in another order; chunks of a prefill do not.
#[test]
fn chunks_agree_with_single_tokens() {
    for arch in ARCHS {
        let golden = Golden::load(arch).unwrap();
        for (activations, quant, limit) in
            [(Activations::F32, Quant::F32, F32_LIMIT), (Activations::Q8, Quant::Q8_0, Q8_LIMIT)]
        {
            let narrow = BuildOptions { prefill_tokens: 5, ..with(activations) };
            let wide = e2e::gguf(&golden, quant, &with(activations)).unwrap();
            let narrow = e2e::gguf(&golden, quant, &narrow).unwrap();
            let mut session = wide.session(2).unwrap();
            let all = logits(&mut session, &golden.ids).unwrap();
            let single = logits_stepwise(&mut session, &golden.ids).unwrap();
            let d = distance(&all, &single);
            assert!(d <= limit, "{arch}: prefill against decode {d:e}");
            let d = distance(&logits(&mut narrow.session(2).unwrap(), &golden.ids).unwrap(), &all);
            assert!(d <= limit, "{arch}: chunks of 5 against one chunk {d:e}");
            // Uneven pieces, into the same session.
            session.reset();
            let mut pieces = vec![];
            for piece in golden.ids.chunks(7) {
                pieces.extend_from_slice(session.eval(piece, Logits::All).unwrap());
            }
            let d = distance(&pieces, &all);
            assert!(d <= limit, "{arch}: pieces of 7 against one {d:e}");
        }
    }
}

#[test]
fn what_was_truncated_is_forgotten() {
    for arch in ["llama_tied", "gemma3", "phi3"] {
        let golden = Golden::load(arch).unwrap();
        let built = e2e::gguf(&golden, Quant::Q4_0, &e2e::options()).unwrap();
        let mut session = built.session(2).unwrap();
        let (head, tail) = golden.ids.split_at(golden.ids.len() / 2);
        session.eval(head, Logits::None).unwrap();
        let first = session.eval(tail, Logits::Last).unwrap().to_vec();
        session.truncate(head.len() as u32);
        let other: Vec<u32> = tail.iter().map(|t| (t + 1) % 320).collect();
        let changed = session.eval(&other, Logits::Last).unwrap().to_vec();
        assert_ne!(first, changed, "{arch}");
        session.truncate(head.len() as u32);
        assert_eq!(session.position(), head.len() as u32);
        assert!(session.eval(tail, Logits::Last).unwrap() == first, "{arch}: after truncate");
        session.reset();
        session.eval(head, Logits::None).unwrap();
        assert!(session.eval(tail, Logits::Last).unwrap() == first, "{arch}: after reset");
    }
}

#[test]
fn wrong_use_of_a_session_is_said_clearly() {
    let golden = Golden::load("llama_tied").unwrap();
    let built = e2e::gguf(&golden, Quant::Q8_0, &e2e::options()).unwrap();
    let open = |ctx| {
        let options = SessionOptions { ctx: Some(ctx), threads: Some(1), profile: false };
        tilewright_runtime::session::Session::new(built.artifact.clone(), options)
    };
    let mut session = open(8).unwrap();
    let error = session.eval(&[5; 9], Logits::Last).expect_err("9 tokens in 8 positions");
    assert!(matches!(error, RunError::ContextFull { tokens: 9, position: 0, capacity: 8 }), "{error}");
    session.eval(&[5; 8], Logits::Last).unwrap();
    let error = session.eval(&[5], Logits::Last).expect_err("a ninth token");
    assert!(error.to_string().contains("8 of 8 positions"), "{error}");
    session.reset();
    let error = session.eval(&[5, 320], Logits::Last).expect_err("token 320 of 320");
    assert!(matches!(error, RunError::BadToken { token: 320, index: 1, vocab: 320 }), "{error}");
    assert_eq!(session.position(), 0, "a refused call changes nothing");
    assert!(matches!(session.eval(&[], Logits::Last), Err(RunError::NoTokens)));
    let max = built.artifact.plan().model.n_ctx;
    for ctx in [0, max + 1] {
        assert!(matches!(open(ctx).map(drop), Err(RunError::BadContext { .. })), "context {ctx}");
    }
}
