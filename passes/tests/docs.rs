//! Each pass opens with IR before and after it; the file test of the pass's name must have the same lines.

use std::path::Path;
use tilewright_passes::PIPELINE;

#[test]
fn snippets_are_file_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for row in PIPELINE {
        let name = row.pass.name();
        let read = |path: String| std::fs::read_to_string(root.join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let source = read(format!("src/{}.rs", name.replace('-', "_")));
        let test = read(format!("../tests/ir/passes/{name}.tir"));
        let doc: Vec<&str> = source.lines().map_while(|l| l.strip_prefix("//!")).map(str::trim).collect();
        let doc = doc.join("\n");
        let (before, after) = doc
            .split_once("```text\n")
            .and_then(|(_, d)| d.split_once("\n```"))
            .and_then(|(d, _)| d.split_once("\n=>\n"))
            .unwrap_or_else(|| panic!("{name}: no snippet"));
        let (input, output) = test.split_once("// ----").unwrap_or_else(|| panic!("{name}: no exact output"));
        for (snippet, text) in [(before, input), (after, output)] {
            for line in snippet.lines() {
                // The output says types, too.
                let same = |l: &str| l.trim() == line || l.trim().starts_with(&format!("{line} : "));
                assert!(text.lines().any(same), "{name}: its file test lacks `{line}`");
            }
        }
    }
}
