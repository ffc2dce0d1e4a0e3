//! `report` through the command line: with and without records, of models and artifacts, and of a model with a hostile name.

#[path = "../../cli/src/report/check.rs"]
mod check;

use check::check;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use tilewright_tests::e2e::program;
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::Golden;

/// A tiny model and a cache of its own.
struct Place(TempDir);

impl Place {
    fn new(arch: &str) -> Place {
        let place = Place(tempfile::tempdir().expect("a folder"));
        let golden = Golden::load(arch).expect("a golden");
        golden.write_gguf(Path::new(&place.path("tiny.gguf")), Quant::Q8_0).expect("a model");
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn call(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("COMPILE_MODEL_")) {
            command.env_remove(name);
        }
        command.env("COMPILE_MODEL_CACHE_DIR", self.path("cache"));
        command.args(args).stdin(Stdio::null()).output().expect("the program")
    }

    fn answer(&self, args: &[&str]) -> String {
        let out = self.call(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    /// The page about `model`, checked.
    fn page(&self, model: &str, more: &[&str]) -> String {
        let text = self.answer(&[&["report", "-m", model, "-o", "-"], more].concat());
        check(&text);
        assert!(!text.contains("http") && !text.contains("src="), "something is loaded");
        text
    }

    fn kernels(&self, model: &str) -> Vec<String> {
        let all: Value = serde_json::from_str(&self.answer(&["explain", "--json", model])).expect("JSON");
        let names = all["choices"].as_array().expect("choices").iter().filter_map(|c| c["what"].as_str());
        names.filter_map(|w| w.strip_prefix("kernel ").map(str::to_string)).collect()
    }
}

/// Without its date, which is in the head and at the end.
fn timeless(page: &str) -> String {
    let mut out = String::new();
    for (i, part) in page.split("UTC").enumerate() {
        out += if i == 0 { &part[..part.len() - 20] } else { part };
    }
    out.rsplit_once("<footer>").map_or(String::new(), |p| p.0.to_string())
}

#[test]
fn without_records() {
    let p = Place::new("llama");
    let model = p.path("tiny.gguf");
    let page = p.page(&model, &["--no-measure"]);
    let kernels = p.kernels(&model);
    assert!(kernels.len() > 8, "{kernels:?}");
    for k in &kernels {
        assert!(page.contains(&format!(">{k}<")), "{k}");
    }
    assert!(
        page.contains("No kernel has a record on this machine") && page.contains("compile-model tune -m tiny.gguf")
    );
    assert!(page.contains("Nothing to draw") && page.contains("fuse-glu") && page.contains("layer × 2 (0–1)"));
    assert!(!page.contains(&*p.0.path().to_string_lossy()), "the page names a folder");
    assert_eq!(timeless(&page), timeless(&p.page(&model, &["--no-measure"])), "not the same twice");

    // Measured roofs, and where kernels could be below them.
    let page = p.page(&model, &[]);
    assert!(
        page.contains("what the roof allows") && page.contains("int8 ") && !page.contains("class=\"mark "),
        "{page}"
    );
}

#[test]
fn with_records_of_a_model_and_an_artifact() {
    let p = Place::new("llama");
    let (model, artifact, file) = (p.path("tiny.gguf"), p.path("tiny.tw"), p.path("a report.html"));
    p.answer(&["tune", "-m", &model, "--json", "--budget", "4"]);
    p.answer(&["build", "-m", &model, "-o", &artifact]);
    let pages = [p.page(&model, &["--no-measure"]), p.page(&artifact, &["--no-measure"])];
    for page in &pages {
        for k in p.kernels(&model) {
            assert!(page.contains(&format!(">{k}<")), "{k}");
        }
        assert!(
            page.contains("class=\"mark ") && page.contains("<figure style=\"--w") && page.contains(">user<small>")
        );
        assert!(page.contains("concluded from the floors in the records") && !page.contains("on this machine. Make"));
    }
    assert_eq!(timeless(&pages[0]), timeless(&pages[1]), "an artifact says what its model does");
    // Records that are not to be used are not told of.
    assert!(p.page(&model, &["--no-measure", "--tune", "off"]).contains("No kernel has a record"));

    assert_eq!(p.answer(&["report", &model, "-o", &file]).trim(), file);
    check(&std::fs::read_to_string(&file).expect("a report"));
    let out = p.call(&["report", &model, "--no-measure", "-o", &p.path("no such folder/x.html")]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("x.html"), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn other_architectures_are_drawn() {
    for (arch, title) in [("gemma2", "layer "), ("phi3", "layer ")] {
        let p = Place::new(arch);
        let page = p.page(&p.path("tiny.gguf"), &["--no-measure"]);
        assert!(page.contains(title) && page.contains("class=\"edge\"") && page.contains("after the layers"), "{arch}");
    }
}

#[test]
fn a_hostile_name_is_text() {
    let p = Place::new("llama");
    let path = p.path("tiny.gguf");
    let mut bytes = std::fs::read(&path).expect("a model");
    let (name, evil) = (b"tiny random weights", b"<script>\"&'</title>");
    assert_eq!(name.len(), evil.len());
    let at = bytes.windows(name.len()).position(|w| w == name).expect("the name");
    bytes[at..at + name.len()].copy_from_slice(evil);
    std::fs::write(&path, bytes).expect("a model");
    let page = p.page(&path, &["--no-measure"]);
    assert!(page.contains("<h1>&lt;script&gt;&quot;&amp;&#39;&lt;/title&gt;</h1>"), "{:.400}", page);
    assert_eq!((page.matches("<script>").count(), page.matches("</head>").count()), (1, 1));
}
