//! The command line from outside: exit codes, one-line errors, forms of the answers, what goes to which stream.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;
use tilewright_tests::e2e::program;
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

/// A tiny model and a cache of its own.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a folder");
        let golden = Golden::load("llama").expect("a golden");
        golden.write_gguf(&dir.path().join("tiny.gguf"), Quant::Q8_0).expect("a model");
        Place { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn model(&self) -> String {
        self.path("tiny.gguf")
    }

    fn call(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("COMPILE_MODEL_")) {
            command.env_remove(name);
        }
        command.env("COMPILE_MODEL_CACHE_DIR", self.dir.path().join("cache"));
        command.args(args).stdin(Stdio::null()).output().expect("the program")
    }

    /// Standard output of a call that must work.
    fn answer(&self, args: &[&str]) -> String {
        let out = self.call(args);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.answer(args);
        serde_json::from_str(text.lines().last().unwrap_or("")).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// A call that must fail with this code, with a message on stderr and nothing on stdout.
    fn fails(&self, code: i32, args: &[&str], message: &str) {
        let out = self.call(args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(message), "{args:?}: {}", stderr(&out));
        assert_eq!(String::from_utf8_lossy(&out.stdout), "", "{args:?}");
        if code != 2 {
            let errors = stderr(&out).lines().filter(|l| l.starts_with("error: ")).count();
            assert_eq!(errors, 1, "{args:?}: {}", stderr(&out));
        }
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn help_has_the_exit_codes() {
    let p = Place::new();
    for args in [vec!["--help"], vec!["run", "--help"], vec!["bench", "--help"]] {
        let text = p.answer(&args);
        assert!(text.contains("Exit codes:") && text.contains("130  interrupted"), "{text}");
    }
    assert!(p.answer(&["--version"]).starts_with("compile-model "));
}

#[test]
fn wrong_usage_is_2() {
    let p = Place::new();
    let m = p.model();
    p.fails(2, &["run", "--no-such-flag"], "--no-such-flag");
    p.fails(2, &["run", "-p", "x"], "no model given");
    p.fails(2, &["run", "-m", &m, "-p", "x", "--temp", "hot"], "hot");
    p.fails(2, &["run", "-m", &m, "-p", "x", "--top-p", "2"], "top_p");
    p.fails(2, &["run", "-m", &m, "-p", "x", "-t", "0"], "0");
    p.fails(2, &["build", "-m", &m, "--target", "vax"], "there is no target `vax`");
    p.fails(2, &["build", "-m", &m, "--no-fuse", "dce"], "dce");
    p.fails(2, &["inspect", &m, "--dump-ir", "sometimes"], "sometimes");
    p.fails(2, &["bench", "-m", &m, "-p", "0", "-n", "0"], "nothing to measure");
    p.fails(2, &["perplexity", "-m", &m, "-p", "short", "-c", "64"], "at least 128");
}

#[test]
fn a_missing_file_is_1() {
    let p = Place::new();
    let missing = p.path("missing.gguf");
    for verb in ["run", "build", "inspect", "explain", "tokenize", "logits", "perplexity", "bench"] {
        let mut args = vec![verb, "-m", &missing];
        if ["run", "tokenize", "logits", "perplexity"].contains(&verb) {
            args.extend(["-p", "x"]);
        }
        p.fails(1, &args, "missing.gguf");
    }
    p.fails(1, &["run", "-m", &p.model(), "-f", &p.path("missing.txt")], "missing.txt");
}

#[test]
fn a_damaged_model_is_3() {
    let p = Place::new();
    let good = std::fs::read(p.model()).expect("the model");
    let mut flipped = good.clone();
    flipped[4] = 99;
    let cases: [(&str, &[u8]); 5] = [
        ("junk.gguf", b"this is no model"),
        ("empty.gguf", b""),
        ("version.gguf", &flipped),
        ("half.gguf", &good[..good.len() / 2]),
        ("head.gguf", &good[..100]),
    ];
    for (name, bytes) in cases {
        let path = p.path(name);
        std::fs::write(&path, bytes).expect("a file");
        p.fails(3, &["run", "-m", &path, "-p", "x"], name);
        p.fails(3, &["tokenize", "-m", &path, "-p", "x"], name);
    }
    let folder = p.path("folder");
    std::fs::create_dir(&folder).expect("a folder");
    p.fails(3, &["inspect", &folder], "folder");
}

#[test]
fn a_damaged_artifact_is_3_and_another_version_4() {
    let p = Place::new();
    let artifact = p.path("tiny.tw");
    assert_eq!(p.answer(&["build", "-m", &p.model(), "-o", &artifact]).trim(), artifact);
    p.fails(2, &["build", "-m", &artifact], "is an artifact already");
    p.fails(2, &["logits", "-m", &artifact, "-p", "x", "--backend", "interp"], "an artifact has none");

    let weights = Path::new(&artifact).join("weights.bin");
    let mut bytes = std::fs::read(&weights).expect("weights");
    bytes[1000] ^= 1;
    std::fs::write(&weights, &bytes).expect("weights");
    p.fails(3, &["run", "-m", &artifact, "-p", "x"], "weights.bin");
    bytes[1000] ^= 1;
    bytes.pop();
    std::fs::write(&weights, &bytes).expect("weights");
    p.fails(3, &["bench", "-m", &artifact], "weights.bin");

    let manifest = Path::new(&artifact).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    std::fs::write(&manifest, text.replacen("\"schema\": ", "\"schema\": 9", 1)).expect("a manifest");
    p.fails(4, &["run", "-m", &artifact, "-p", "x"], "compile the model again");
}

#[test]
fn an_impossible_context_is_refused() {
    let p = Place::new();
    p.fails(1, &["run", "-m", &p.model(), "-p", "x", "-c", "1000000"], "give -c");
    let long = "word ".repeat(200);
    p.fails(1, &["run", "-m", &p.model(), "-p", &long, "-c", "16"], "use a larger -c");
}

#[test]
fn tokenize_needs_no_build() {
    let p = Place::new();
    let v = p.json(&["tokenize", "-m", &p.model(), "-p", "Hello, world", "--json"]);
    let (ids, pieces) = (v["ids"].as_array().expect("ids"), v["pieces"].as_array().expect("pieces"));
    assert!(!ids.is_empty() && ids.len() == pieces.len(), "{v}");
    assert_eq!(pieces.iter().filter_map(Value::as_str).collect::<String>(), "Hello, world");
    assert!(!Path::new(&p.path("cache")).exists(), "the cache was written to");
}

#[test]
fn run_answers_with_one_object() {
    let p = Place::new();
    let args = ["run", "-m", &p.model(), "-p", "Hello", "-n", "5", "--temp", "0", "-t", "2", "--json"];
    let first = p.call(&args);
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(stderr(&first).contains("compiling"), "{}", stderr(&first));
    let text = String::from_utf8(first.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    let v: Value = serde_json::from_str(&text).expect("JSON");
    assert!(v["text"].is_string() && v["ids"].as_array().is_some_and(|a| a.len() <= 5), "{v}");
    assert!(v["prompt_ids"].as_array().is_some_and(|a| !a.is_empty()), "{v}");
    for key in ["prefill_tps", "decode_tps", "ttft_ms"] {
        assert!(v[key].as_f64().is_some_and(|x| x >= 0.0), "{key}: {v}");
    }

    // Found again: nothing is compiled, and the same tokens come.
    let second = p.call(&args);
    assert!(!stderr(&second).contains("compiling"), "{}", stderr(&second));
    let again: Value = serde_json::from_slice(&second.stdout).expect("JSON");
    assert_eq!(v["ids"], again["ids"]);

    // Without --json the text alone is on stdout, the speed on stderr.
    let plain = p.call(&["run", &p.model(), "-p", "Hello", "-n", "5", "--temp", "0"]);
    assert_eq!(String::from_utf8_lossy(&plain.stdout), format!("{}\n", v["text"].as_str().unwrap_or("")));
    assert!(stderr(&plain).contains("tok/s"), "{}", stderr(&plain));
}

#[test]
fn a_seed_repeats_a_text() {
    let p = Place::new();
    let run = |seed: &str| {
        p.json(&["run", "-m", &p.model(), "-p", "Hello", "-n", "8", "--temp", "1.5", "-s", seed, "--json"])["ids"]
            .clone()
    };
    assert_eq!(run("7"), run("7"));
}

#[test]
fn a_damaged_cache_is_built_again() {
    let p = Place::new();
    let args = ["run", "-m", &p.model(), "-p", "Hello", "-n", "3", "--temp", "0", "--json"];
    let ids = p.json(&args)["ids"].clone();
    let artifacts = std::fs::read_dir(p.path("cache/artifacts")).expect("a cache");
    let artifact = artifacts.filter_map(Result::ok).map(|e| e.path()).next().expect("an artifact");
    std::fs::write(artifact.join("plan.json"), "{}").expect("a plan");
    let out = p.call(&args);
    assert!(out.status.success() && stderr(&out).contains("compiling again"), "{}", stderr(&out));
    let v: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(v["ids"], ids);
}

#[test]
fn logits_are_one_object_a_position() {
    let p = Place::new();
    let run = |backend: &str| -> Vec<Value> {
        let text =
            p.answer(&["logits", "-m", &p.model(), "-p", "Hello, world", "--top", "4", "--json", "--backend", backend]);
        text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    };
    let (compiled, interp) = (run("compiled"), run("interp"));
    assert_eq!(compiled.len(), interp.len());
    for (i, (c, o)) in compiled.iter().zip(&interp).enumerate() {
        assert_eq!((c["pos"].as_u64(), &c["id"]), (Some(i as u64), &o["id"]));
        let top = c["top"].as_array().expect("top");
        assert_eq!(top.len(), 4, "{c}");
        let lp = |t: &Value| t[1].as_f64().expect("a logprob");
        assert!(top.windows(2).all(|w| lp(&w[0]) >= lp(&w[1])) && lp(&top[0]) <= 0.0, "{c}");
        assert!((lp(&top[0]) - lp(&o["top"][0])).abs() < 0.2, "{c} {o}");
    }
}

#[test]
fn perplexity_agrees_with_the_oracle() {
    let p = Place::new();
    let text = p.path("text.txt");
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(8)).expect("a text");
    let run = |backend: &str| {
        p.json(&[
            "perplexity",
            "-m",
            &p.model(),
            "-f",
            &text,
            "-c",
            "32",
            "--chunks",
            "3",
            "--json",
            "--backend",
            backend,
        ])
    };
    let (c, o) = (run("compiled"), run("interp"));
    assert_eq!((c["chunks"].as_u64(), c["tokens"].as_u64()), (Some(3), Some(3 * 15)));
    let (a, b) = (c["ppl"].as_f64().expect("ppl"), o["ppl"].as_f64().expect("ppl"));
    assert!((a / b - 1.0).abs() < 0.05, "{a} {b}");
}

#[test]
fn bench_has_llama_benchs_fields() {
    let p = Place::new();
    let text = p.answer(&[
        "bench",
        "-m",
        &p.model(),
        "-p",
        "8,0",
        "-n",
        "4",
        "-d",
        "0,4",
        "-t",
        "1,2",
        "-r",
        "2",
        "-o",
        "json",
    ]);
    let rows: Vec<Value> = serde_json::from_str(&text).expect("an array");
    assert_eq!(rows.len(), 8, "{text}");
    for r in &rows {
        for key in ["n_prompt", "n_gen", "n_depth", "n_threads", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts"] {
            assert!(r[key].is_number(), "{key}: {r}");
        }
        assert_eq!(r["samples_ts"].as_array().map(Vec::len), Some(2), "{r}");
        assert!(r["avg_ts"].as_f64().is_some_and(|t| t > 0.0));
        assert!(r["bandwidth"].as_f64().is_some_and(|b| b > 1e8) && r["bytes_per_token"].as_u64() > Some(0), "{r}");
        assert_eq!(r["bandwidth_share"].as_f64().is_some_and(|s| s > 0.0), r["n_gen"] == 4, "{r}");
        assert_eq!((&r["backends"], &r["gpu_info"], &r["kernels"]), (&"CPU".into(), &"".into(), &Value::Null));
    }
    let md = p.answer(&["bench", "-m", &p.model(), "-p", "0", "-n", "4", "-r", "1"]);
    assert!(md.starts_with("| model |") && md.contains("| tg4 |") && !md.contains("pp"), "{md}");
    let profiled = p.json(&["bench", "-m", &p.model(), "-p", "0", "-n", "4", "-r", "1", "-o", "jsonl", "--profile"]);
    let kernels = profiled["kernels"].as_array().cloned().unwrap_or_default();
    assert!(kernels.len() > 4, "{profiled}");
    for k in &kernels {
        assert!(["ns", "bytes", "bandwidth_share"].iter().all(|key| k[key].as_f64().is_some_and(|n| n >= 0.0)), "{k}");
        let reads = k["kernel"].as_str().is_some_and(|name| name.ends_with("_matmul"));
        assert!(!reads || k["bandwidth_share"].as_f64() > Some(0.0), "{k}");
    }
    let csv = p.answer(&["bench", "-m", &p.model(), "-p", "8", "-n", "0", "-r", "1", "-o", "csv"]);
    assert!(csv.lines().count() == 2 && csv.contains("avg_ts"), "{csv}");
    let jsonl = p.answer(&["bench", "-m", &p.model(), "-p", "8", "-n", "4", "-r", "1", "-o", "jsonl"]);
    assert_eq!(jsonl.lines().filter(|l| serde_json::from_str::<Value>(l).is_ok()).count(), 2, "{jsonl}");
}

#[test]
fn inspect_and_explain_know_models_and_artifacts() {
    let p = Place::new();
    let (m, artifact) = (p.model(), p.path("tiny.tw"));
    p.answer(&["build", "-m", &m, "-o", &artifact]);
    let (of_model, of_artifact) = (p.json(&["inspect", &m, "--json"]), p.json(&["inspect", &artifact, "--json"]));
    assert_eq!(of_model["kind"], "model");
    assert_eq!(of_artifact["kind"], "artifact");
    assert_eq!(of_model["vocab"], of_artifact["model"]["vocab"]);
    assert!(p.json(&["inspect", &m, "--tensors", "--json"]).as_array().is_some_and(|a| a.len() > 10));
    assert!(p.answer(&["inspect", &m, "--graph"]).starts_with("graph "));
    assert!(p.answer(&["inspect", &m, "--kernels"]).contains("kernel "));
    assert!(p.answer(&["inspect", &m, "--emit", "dot"]).starts_with("digraph"));
    assert!(p.answer(&["inspect", &m, "--dump-ir", "all"]).matches("// after ").count() >= 10);
    assert!(p.answer(&["inspect", &artifact, "--plan"]).contains("program for up to 1 token"));
    for path in [&m, &artifact] {
        let text = p.answer(&["explain", path]);
        assert!(text.contains("passes (rewrites)") && text.contains("tok/s"), "{text}");
    }
}

/// A call whose stdin stays open, with a chat template the tiny model lacks.
fn chat(p: &Place, args: &[&str]) -> Child {
    let template = p.path("template.jinja");
    std::fs::write(&template, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
        .expect("a template");
    let mut command = Command::new(program());
    command.env("COMPILE_MODEL_CACHE_DIR", p.path("cache"));
    command.args(["chat", "-m", &p.model(), "--chat-template", &template, "--temp", "0", "-n", "3"]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program")
}

#[test]
fn chat_works_in_a_pipe_and_reuses_the_cache() {
    let p = Place::new();
    let mut child = chat(&p, &["-c", "128"]);
    child.stdin.take().expect("stdin").write_all(b"Hello\n\nAgain\n").expect("a write");
    let out = child.wait_with_output().expect("an end");
    assert!(out.status.success(), "{}", stderr(&out));
    let reused: Vec<u32> =
        stderr(&out).lines().filter_map(|l| l.strip_suffix(" reused]")?.rsplit(' ').next()?.parse().ok()).collect();
    assert!(reused.len() == 2 && reused[0] == 0 && reused[1] > 0, "{}", stderr(&out));
}

#[cfg(unix)]
#[test]
fn an_interrupt_is_130() {
    let p = Place::new();
    let mut child = chat(&p, &[]);
    // Once it has compiled it waits for a line, which does not come; `wait` would close stdin, and that is an end too.
    let open = child.stdin.take();
    let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
    assert!(lines.any(|l| l.is_ok_and(|l| l.contains("compiled in"))));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    drop(open);
}

#[test]
fn lists_are_tables() {
    let p = Place::new();
    for (what, name) in [("archs", "llama"), ("formats", "q4_1"), ("targets", "x86-64-v3"), ("passes", "fuse-glu")] {
        assert!(p.answer(&["list", what]).contains(name));
        let rows = p.json(&["list", what, "--json"]);
        assert!(rows.as_array().is_some_and(|a| a.iter().any(|r| r["name"] == name)), "{rows}");
    }
}

/// What matters of a CPU is no matter of a GPU.
#[test]
fn targets_say_what_matters() {
    let p = Place::new();
    let rows = p.json(&["list", "targets", "--json"]);
    let of = |name: &str| rows.as_array().and_then(|a| a.iter().find(|r| r["name"] == name)).cloned().expect(name);
    let (cpu, gpu) = (of("x86-64-v3"), of("sm_90a"));
    assert_eq!((&cpu["vector_bits"], &cpu["sm"], &cpu["shared_memory"]), (&256.into(), &Value::Null, &Value::Null));
    let shared = Value::from(227 << 10);
    assert_eq!((&gpu["vector_bits"], &gpu["sm"], &gpu["shared_memory"]), (&Value::Null, &90.into(), &shared));
    let text = p.answer(&["list", "targets"]);
    let line = text.lines().find(|l| l.starts_with("sm_86 ")).expect("a line");
    assert!(line.contains("-") && line.contains("86") && line.contains("101376"), "{text}");
}

/// What wants a GPU where there is none: the same sentence and code whatever wants it; what does not want one works.
#[test]
fn without_a_gpu_is_4() {
    let Err(none) = tilewright_runtime::cuda::open() else {
        eprintln!("SKIPPED: this machine has a GPU, so what is said without one cannot be seen");
        return;
    };
    let (p, why) = (Place::new(), "this needs an NVIDIA GPU");
    let (m, artifact) = (p.model(), p.path("tiny.tw"));
    assert!(none.exit_code() == 4 && none.to_string().contains(why), "{none}");
    let sentence = |args: &[&str]| {
        p.fails(4, args, why);
        stderr(&p.call(args)).lines().find(|l| l.starts_with("error: ")).unwrap_or("").to_string()
    };
    let said = sentence(&["run", "-m", &m, "-p", "x", "--target", "cuda"]);
    for verb in ["tune", "build", "bench"] {
        assert_eq!(sentence(&[verb, "-m", &m, "--target", "cuda"]), said);
    }
    assert_eq!(sentence(&["tune", "-m", &m, "--target", "sm_90a"]), said);
    assert_eq!(sentence(&["build", "-m", &m, "--target", "sm_90a", "--tune", "quick"]), said);
    p.answer(&["build", "-m", &m, "--target", "sm_90a", "-o", &artifact]);
    assert_eq!(sentence(&["run", "-m", &artifact, "-p", "x"]), said);
    p.fails(2, &["build", "-m", &m, "--target", "sm_90a", "--activations", "q8"], "q8 activations are not for sm_90a");
    let text = p.answer(&["explain", &artifact]);
    assert!(text.contains("how fast sm_90a can be is not measured") && text.contains("code: "), "{text}");
    let object = p.json(&["explain", &artifact, "--json"]);
    assert!(object["bandwidth"].is_null() && object["floor_ms"].is_null() && object["target"] == "sm_90a", "{object}");
}

#[test]
fn a_flag_may_come_from_the_environment() {
    let p = Place::new();
    let out = Command::new(program())
        .args(["tokenize", "--json"])
        .env("COMPILE_MODEL_MODEL", p.model())
        .env("COMPILE_MODEL_PROMPT", "Hello")
        .output()
        .expect("the program");
    assert!(out.status.success(), "{}", stderr(&out));
}

/// A fused and an unfused build, and one without int8, give the same first token on the whole.
#[test]
fn fusions_can_be_switched_off() {
    let p = Place::new();
    let names = p.json(&["list", "passes", "--json"]);
    let off: Vec<&str> = names
        .as_array()
        .into_iter()
        .flatten()
        .filter(|r| r["switchable"] == true)
        .filter_map(|r| r["name"].as_str())
        .collect();
    let off = off.join(",");
    let ppl = |extra: &[&str]| {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(4);
        let m = p.model();
        let mut args = vec!["perplexity", "-m", &m, "-p", &text, "-c", "32", "--json"];
        args.extend(extra);
        p.json(&args)["ppl"].as_f64().expect("ppl")
    };
    let (fused, unfused, f32s) = (ppl(&[]), ppl(&["--no-fuse", &off]), ppl(&["--activations", "f32"]));
    assert!((unfused / fused - 1.0).abs() < 1e-3, "{fused} {unfused}");
    assert!((f32s / fused - 1.0).abs() < 0.05, "{fused} {f32s}");
}
