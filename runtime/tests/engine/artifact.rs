use std::fs;

use tilewright_runtime::artifact::{Artifact, ArtifactWriter, HugePages, MAX_CHUNKS, OpenOptions, SEGMENT_BYTES};
use tilewright_runtime::error::ArtifactError;
use tilewright_runtime::plan::{Arg, Plan};

use crate::kernels;

#[test]
fn round_trip_is_deterministic() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("deep/a.tw"), temp.path().join("b.tw"));
    assert_eq!(kernels::write(&a), kernels::write(&b));
    assert_eq!(fs::read(a.join("manifest.json")).unwrap(), fs::read(b.join("manifest.json")).unwrap());
    let artifact = Artifact::open(&a).unwrap();
    assert_eq!(*artifact.plan(), kernels::plan());
    assert_eq!(artifact.manifest().info, kernels::info());
    assert_eq!(artifact.tokenizer(), b"{}");
    assert_eq!(artifact.chat_template(), None);
    assert_eq!(artifact.weights()[64..68], 2.5f32.to_le_bytes());
}

#[test]
fn writer_replaces_and_cleans_up() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a");
    kernels::write(&dir);
    kernels::write(&dir);
    drop(ArtifactWriter::create(&dir).unwrap());
    let error = ArtifactWriter::create(&dir).unwrap().commit(kernels::info()).unwrap_err();
    assert!(error.to_string().contains("was not written"), "{error}");
    let mut writer = ArtifactWriter::create(&dir).unwrap();
    for name in ["", "..", "a/b", "manifest.json", ".x", "ü"] {
        assert!(writer.file(name, b"").is_err(), "{name}");
    }
    writer.file("x", b"").unwrap();
    assert!(writer.file("x", b"").is_err());
    drop(writer);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    Artifact::open(&dir).unwrap();
}

#[test]
fn wrong_machines_and_versions() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a");
    let plan = serde_json::to_vec(&kernels::plan()).unwrap();
    for (arch, feature) in [("x86_64", "avx9000"), ("riscv64", "sse2")] {
        let mut info = kernels::info();
        info.target.arch = arch.into();
        info.target.features = vec![feature.into()];
        kernels::write_parts(&dir, &plan, &kernels::object(), info).unwrap();
        let error = Artifact::open(&dir).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(error.to_string().contains("compile the model again"), "{error}");
    }
    fs::write(dir.join("manifest.json"), r#"{"schema": 99, "news": []}"#).unwrap();
    assert!(matches!(Artifact::open(&dir), Err(ArtifactError::Version { found: 99, .. })));
    assert_eq!(Artifact::open(temp.path().join("none")).unwrap_err().exit_code(), 1);
}

#[test]
fn large_weights_are_hashed_by_segment() {
    use std::io::Write;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a");
    let bytes = 3 * SEGMENT_BYTES + 4096;
    let mut plan = kernels::plan();
    plan.weights_bytes = bytes as u64;
    let mut writer = ArtifactWriter::create(&dir).unwrap();
    let mut weights = writer.weights().unwrap();
    for chunk in vec![7; bytes].chunks(1_000_003) {
        weights.write_all(chunk).unwrap();
    }
    assert_eq!(weights.finish().unwrap(), bytes as u64);
    writer.plan(&plan).unwrap();
    writer.file("kernels.o", &kernels::object()).unwrap();
    writer.file("tokenizer.json", b"{}").unwrap();
    writer.commit(kernels::info()).unwrap();
    Artifact::open(&dir).unwrap();
    for (at, segment) in [(0, 0), (2 * SEGMENT_BYTES + 5, 2), (bytes - 1, 3)] {
        let mut data = vec![7; bytes];
        data[at] ^= 1;
        fs::write(dir.join("weights.bin"), data).unwrap();
        for huge_pages in [HugePages::On, HugePages::Off] {
            let error = Artifact::open_with(&dir, OpenOptions { huge_pages, ..OpenOptions::default() }).unwrap_err();
            assert!(error.to_string().contains(&format!("byte {} differs", segment * SEGMENT_BYTES)), "{error}");
            assert_eq!(error.exit_code(), 3);
        }
        let file = fs::read(dir.join("weights.bin")).unwrap();
        for huge_pages in [HugePages::On, HugePages::Off] {
            let options = OpenOptions { verify_weights: false, threads: None, huge_pages };
            let artifact = Artifact::open_with(&dir, options).unwrap();
            assert_eq!(artifact.weights_copied(), huge_pages == HugePages::On);
            assert!(artifact.weights() == file, "huge pages {huge_pages:?}");
        }
    }
}

/// A change to the plan and a part of the message that it must cause.
type Case = (fn(&mut Plan), &'static str);

#[test]
fn every_rule_of_plans() {
    let cases: [Case; 29] = [
        (|p| p.kernels[0] = "missing".into(), "\"missing\" is not in the object"),
        (|p| p.programs.clear(), "the first must be"),
        (|p| p.programs[0].max_tokens = 2, "the first must be"),
        (|p| p.programs[0].head_start = 2, "the first must be"),
        (|p| p.programs.swap(1, 2), "max_tokens 4 is not above"),
        (|p| p.programs[2].max_tokens = 1 << 20, "is above 65536"),
        (|p| p.programs[1].arena_bytes = u64::MAX, "arena"),
        (|p| p.programs[1].arena_bytes -= 9, "logits"),
        (|p| p.programs[1].logits_stride = 28, "logits"),
        (|p| p.programs[1].logits_stride = 38, "logits"),
        (|p| p.programs[1].logits_stride = 1 << 63, "logits"),
        (|p| p.programs[1].head_start = 3, "head_start 3 of 2"),
        (|p| p.programs[1].logits = 62, "logits"),
        (|p| p.programs[1].logits = u64::MAX - 3, "logits"),
        (|p| p.programs[1].calls[1].kernel = 2, "program 1 call 1 (head): kernel 2 of 2"),
        (|p| p.programs[1].calls[1].chunks = 0, "0 chunks"),
        (|p| p.programs[1].calls[1].chunks = MAX_CHUNKS + 1, "65535 chunks"),
        (|p| p.programs[1].calls[1].args = vec![Arg::Tokens; 65], "more than 64"),
        (|p| p.programs[1].calls[1].args[0] = Arg::Weights(4096), "argument 0 is Weights(4096), the limit is 4096"),
        (|p| p.programs[1].calls[1].args[0] = Arg::Arena(224), "Arena"),
        (|p| p.programs[1].calls[1].args[0] = Arg::K(2), "K(2)"),
        (|p| p.programs[1].calls[1].args[0] = Arg::V(u32::MAX), "V("),
        (|p| p.programs[1].calls[1].args[0] = Arg::Rope(1), "Rope"),
        (|p| p.model.vocab = 0, "vocab 0"),
        (|p| p.model.n_ctx = u32::MAX, "n_ctx"),
        (|p| p.kv[1].heads = 0, "kv 1"),
        (|p| p.kv[1].heads = u32::MAX, "kv 1"),
        (|p| p.rope[0].inv_freq = vec![0.5; 5000], "rope 0"),
        (|p| p.rope[0].scale = f32::INFINITY, "rope 0"),
    ];
    let validate = |plan: &Plan| plan.validate(|name| name != "missing");
    validate(&kernels::plan()).unwrap();
    for (change, message) in cases {
        let mut plan = kernels::plan();
        change(&mut plan);
        let error = validate(&plan).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
    let mut plan = kernels::plan();
    plan.weights_bytes = 8192;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a");
    kernels::write_parts(&dir, &serde_json::to_vec(&plan).unwrap(), &kernels::object(), kernels::info()).unwrap();
    assert!(Artifact::open(&dir).unwrap_err().to_string().contains("weights of 8192 bytes, there are 4096"));
}

/// Not a test of anything: `cargo test --release -p tilewright-runtime opening -- --ignored --nocapture`
#[test]
#[ignore = "prints a measurement"]
fn opening() {
    use std::io::Write;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a");
    let mut plan = kernels::plan();
    plan.weights_bytes = 100 << 20;
    let mut writer = ArtifactWriter::create(&dir).unwrap();
    let mut weights = writer.weights().unwrap();
    weights.write_all(&vec![7; 100 << 20]).unwrap();
    weights.finish().unwrap();
    writer.plan(&plan).unwrap();
    writer.file("kernels.o", &kernels::object()).unwrap();
    writer.file("tokenizer.json", &vec![b' '; 3 << 20]).unwrap();
    writer.commit(kernels::info()).unwrap();
    for (verify_weights, threads) in [(false, 1), (true, 1), (true, 2)] {
        let mut times: Vec<_> = (0..15)
            .map(|_| {
                let start = std::time::Instant::now();
                Artifact::open_with(
                    &dir,
                    OpenOptions { verify_weights, threads: Some(threads), ..OpenOptions::default() },
                )
                .unwrap();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("100 MiB, hash {verify_weights}, {threads} threads: min {:.1} median {:.1} ms", times[0], times[7]);
    }
}
