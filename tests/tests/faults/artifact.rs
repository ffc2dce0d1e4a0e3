//! A built artifact, cut short, mutated, with files missing or added, and for another machine. Any damage is refused.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tilewright_driver::build;
use tilewright_models::model::Model;
use tilewright_runtime::artifact::{Artifact, ArtifactWriter, KERNELS, MANIFEST, PLAN, WEIGHTS};
use tilewright_runtime::error::ArtifactError;
use tilewright_tests::e2e;

use crate::model::sample;
use crate::support::{Random, caught, peak, useful};

/// Bytes beyond the folder × 4 that opening may take.
const ALLOWANCE: i64 = 64 << 10;

/// A small artifact in a folder of its own, and its files by name.
pub fn sample_artifact() -> (TempDir, PathBuf, BTreeMap<String, Vec<u8>>) {
    let temp = tempfile::Builder::new().prefix("tilewright-fault").tempdir().unwrap();
    let file = temp.path().join("model.gguf");
    fs::write(&file, sample("llama_tied", tilewright_tests::quant::Quant::Q4_0).0).unwrap();
    let dir = temp.path().join("model.tw");
    build(&Model::open(&file).unwrap(), &dir, &e2e::options(), &mut |_| {}).unwrap();
    let entries = fs::read_dir(&dir).unwrap().map(|e| e.unwrap());
    let files = entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect();
    (temp, dir, files)
}

/// Opens a damaged folder; what is wrong with the answer.
fn refused(dir: &Path, total: usize) -> Result<ArtifactError, String> {
    let (opened, most) = peak(|| caught(|| Artifact::open(dir)));
    if most > 4 * total as i64 + ALLOWANCE {
        return Err(format!("took {most} bytes for a folder of {total}"));
    }
    match opened? {
        Ok(_) => Err("was opened".into()),
        Err(e) if !useful(&e.to_string()) => Err(format!("the message does not help: {e}")),
        Err(e) if e.exit_code() == 0 => Err("exit code 0".into()),
        Err(e) => Ok(e),
    }
}

fn size(files: &BTreeMap<String, Vec<u8>>) -> usize {
    files.values().map(Vec::len).sum()
}

/// Writes each damaged file, opens, and puts the good one back.
fn damage(cases: usize, case: impl Fn(usize, &BTreeMap<String, Vec<u8>>) -> (String, Vec<u8>)) {
    let (_temp, dir, files) = sample_artifact();
    let mut failures = vec![];
    for seed in 0..cases {
        let (name, bytes) = case(seed, &files);
        let path = dir.join(&name);
        fs::write(&path, bytes).unwrap();
        if let Err(e) = refused(&dir, size(&files)) {
            failures.push(format!("seed {seed} ({name}): {e}"));
        }
        fs::write(&path, &files[&name]).unwrap();
    }
    assert!(failures.is_empty(), "{} of {cases}:\n{}", failures.len(), failures.join("\n"));
    Artifact::open(&dir).unwrap();
}

/// File `seed` of a mutated artifact: its name and bytes.
pub fn mutated(seed: usize, files: &BTreeMap<String, Vec<u8>>) -> (String, Vec<u8>) {
    let mut random = Random::new(seed as u64);
    let (name, good) = files.iter().nth(seed % files.len()).unwrap();
    let mut bytes = good.clone();
    while bytes == *good {
        random.mutate(&mut bytes, &(0..good.len()));
    }
    (name.clone(), bytes)
}

/// File `seed` of `n` of a truncated artifact.
pub fn truncated(seed: usize, n: usize, files: &BTreeMap<String, Vec<u8>>) -> (String, Vec<u8>) {
    let (name, good) = files.iter().nth(seed % files.len()).unwrap();
    (name.clone(), good[..good.len() * (seed / files.len() * files.len()) / n.next_multiple_of(files.len())].to_vec())
}

#[test]
fn truncated_artifacts() {
    damage(200, |seed, files| truncated(seed, 200, files));
}

#[test]
fn mutated_artifacts() {
    damage(2000, mutated);
}

#[test]
fn missing_files_are_named() {
    let (_temp, dir, files) = sample_artifact();
    for (name, bytes) in &files {
        fs::remove_file(dir.join(name)).unwrap();
        let error = refused(&dir, size(&files)).unwrap();
        assert!(error.to_string().contains(name.as_str()), "{error}");
        fs::create_dir(dir.join(name)).unwrap();
        let error = refused(&dir, size(&files)).unwrap();
        assert!(error.to_string().contains(name.as_str()), "{error}");
        fs::remove_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }
    let error = refused(&dir.join("not-there"), size(&files)).unwrap();
    assert!(error.to_string().contains("not-there"), "{error}");
    Artifact::open(&dir).unwrap();
}

/// What the manifest does not list is not read.
#[test]
fn added_files_change_nothing() {
    let (_temp, dir, files) = sample_artifact();
    let digest = Artifact::open(&dir).unwrap().manifest().digest.clone();
    fs::write(dir.join("chat_template.jinja"), "{{ 'not from the compiler' }}").unwrap();
    fs::write(dir.join("notes.txt"), [0xff; 100]).unwrap();
    let artifact = Artifact::open(&dir).unwrap();
    assert_eq!(artifact.manifest().digest, digest);
    assert_eq!(artifact.chat_template(), None);
    assert!(artifact.file("notes.txt").is_none());
    assert_eq!(artifact.manifest().files.len() + 1, files.len());
}

#[test]
fn two_files_swapped() {
    let (_temp, dir, files) = sample_artifact();
    let names: Vec<&String> = files.keys().collect();
    for pair in names.windows(2) {
        fs::write(dir.join(pair[0]), &files[pair[1]]).unwrap();
        fs::write(dir.join(pair[1]), &files[pair[0]]).unwrap();
        assert!(matches!(refused(&dir, size(&files)), Ok(ArtifactError::Rejected { .. })));
        for name in pair {
            fs::write(dir.join(name), &files[*name]).unwrap();
        }
    }
}

/// Writes `dir` again as another compiler for another machine would have.
pub fn retarget(dir: &Path, arch: &str, features: &[&str]) {
    let (info, plan, files) = {
        let artifact = Artifact::open(dir).unwrap();
        let names: Vec<String> = artifact.manifest().files.keys().cloned().collect();
        let read = |n: String| (n.clone(), fs::read(dir.join(&n)).unwrap());
        (artifact.manifest().info.clone(), artifact.plan().clone(), names.into_iter().map(read).collect::<Vec<_>>())
    };
    let mut writer = ArtifactWriter::create(dir).unwrap();
    writer.plan(&plan).unwrap();
    for (name, bytes) in files.iter().filter(|(n, _)| n != PLAN && n != MANIFEST) {
        if name == WEIGHTS {
            let mut weights = writer.weights().unwrap();
            weights.write_all(bytes).unwrap();
            weights.finish().unwrap();
        } else {
            writer.file(name, bytes).unwrap();
        }
    }
    assert!(files.iter().any(|(n, _)| n == KERNELS));
    let mut info = info;
    info.target.name = "another-machine".into();
    info.target.arch = arch.into();
    info.target.features = features.iter().map(|f| f.to_string()).collect();
    writer.commit(info).unwrap();
}

#[test]
fn other_machines_are_named() {
    let here = std::env::consts::ARCH;
    let there = if here == "x86_64" { "aarch64" } else { "x86_64" };
    for (arch, features, lacks) in [(there, &[][..], there), (here, &["warp-drive"][..], "warp-drive")] {
        let (_temp, dir, files) = sample_artifact();
        retarget(&dir, arch, features);
        let error = refused(&dir, size(&files)).unwrap();
        assert!(matches!(error, ArtifactError::Mismatch { .. }), "{error}");
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("another-machine") && error.to_string().contains(lacks), "{error}");
    }
    // The same machine again: retargeting itself breaks nothing.
    let (_temp, dir, _) = sample_artifact();
    retarget(&dir, here, &[]);
    Artifact::open(&dir).unwrap();
}
