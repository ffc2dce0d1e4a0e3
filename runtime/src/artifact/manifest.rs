//! The manifest: what is in the folder, for which model and machine it was made, and what was chosen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::code::KernelCode;
use super::{MANIFEST, PLAN, SEGMENT_BYTES, TOKENIZER, WEIGHTS};
use crate::error::ArtifactError;
use crate::plan::SCHEMA;

/// `manifest.json`. Equal inputs give equal bytes: no dates, no paths, maps in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version, [`SCHEMA`].
    pub schema: u32,
    /// What the compiler says of the artifact.
    pub info: ManifestInfo,
    /// Every other file of the artifact.
    pub files: BTreeMap<String, FileEntry>,
    /// BLAKE3 of this file up to the digest itself. Names the artifact.
    pub digest: String,
}

/// What the compiler says of an artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestInfo {
    /// Name and version of the compiler.
    pub compiler: String,
    /// The model it was made from.
    pub model: ModelIdentity,
    /// The machine it was made for.
    pub target: TargetInfo,
    /// Facts that the runtime needs beside `tokenizer.json`.
    pub tokenizer: TokenizerFacts,
    /// What the compiler chose, for `explain`.
    pub choices: Vec<Choice>,
}

/// The model that an artifact was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// Architecture.
    pub arch: String,
    /// Its files.
    pub files: Vec<SourceFile>,
}

/// A file of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// File name without folders.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// `blake3:…` of the whole file, or a cheaper fingerprint under another prefix.
    pub fingerprint: String,
}

/// The machine that an artifact was made for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetInfo {
    /// Name of the target description.
    pub name: String,
    /// As [`std::env::consts::ARCH`]: `x86_64`, `aarch64`; `nvptx64` for an NVIDIA GPU.
    pub arch: String,
    /// Features the kernels use, by the names of `is_x86_feature_detected`; for a GPU its kind, `sm_90a`.
    pub features: Vec<String>,
}

impl TargetInfo {
    /// Whether it is a GPU. Such an artifact opens on any machine and runs on those with one.
    pub fn is_gpu(&self) -> bool {
        self.arch == "nvptx64"
    }
}

/// Facts about the tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerFacts {
    /// Token put before a text.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// Whether `bos` is put before a text.
    pub add_bos: bool,
    /// Whether the first of `eos` is put after a text.
    pub add_eos: bool,
}

/// One choice of the compiler or tuner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What was chosen for: `gemv q4_0 576x1536`.
    pub what: String,
    /// What was chosen: a name, or an object of parameters.
    pub choice: Value,
    /// The reason, with the number that decided.
    pub why: Value,
}

/// Size and hashes of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of each segment of [`SEGMENT_BYTES`], in hexadecimal digits.
    pub blake3: Vec<String>,
}

/// Only the version, to tell a newer format from a damaged one.
#[derive(Deserialize)]
struct Version {
    schema: u64,
}

impl Manifest {
    /// The bytes of the file, with `digest` filled in.
    pub(super) fn seal(
        info: ManifestInfo,
        files: BTreeMap<String, FileEntry>,
    ) -> Result<(Vec<u8>, String), ArtifactError> {
        let unsigned = Manifest { schema: SCHEMA, info, files, digest: String::new() };
        let text = serde_json::to_string_pretty(&unsigned).map_err(|e| ArtifactError::Writer(e.to_string()))?;
        let Some(head) = text.strip_suffix(&tail("")[..tail("").len() - 1]) else {
            return Err(ArtifactError::Writer("the digest is not the last field of the manifest".into()));
        };
        let digest = blake3::hash(head.as_bytes()).to_hex().to_string();
        Ok((format!("{head}{}", tail(&digest)).into_bytes(), digest))
    }

    /// Parses and checks the file: version, digest, names, and that all needed files are listed.
    pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, ArtifactError> {
        let bad = |what: String| ArtifactError::rejected(MANIFEST, what);
        let text = std::str::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
        let version: Version = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if version.schema != u64::from(SCHEMA) {
            return Err(ArtifactError::Version { found: version.schema, expected: SCHEMA });
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        match text.strip_suffix(&tail(&manifest.digest)) {
            Some(head) if blake3::hash(head.as_bytes()).to_hex().as_str() == manifest.digest => {}
            _ => return Err(bad("it was changed after it was written (the digest differs)".into())),
        }
        for (name, entry) in &manifest.files {
            check_name(name).map_err(bad)?;
            let segments = entry.bytes.div_ceil(SEGMENT_BYTES as u64);
            if entry.blake3.len() as u64 != segments {
                return Err(bad(format!(
                    "{name} of {} bytes needs {segments} hashes, not {}",
                    entry.bytes,
                    entry.blake3.len()
                )));
            }
        }
        for name in [PLAN, KernelCode::main_file(manifest.info.target.is_gpu()), WEIGHTS, TOKENIZER] {
            if !manifest.files.contains_key(name) {
                return Err(bad(format!("{name} is not listed")));
            }
        }
        Ok(manifest)
    }
}

/// The end of the file, which the digest does not cover.
fn tail(digest: &str) -> String {
    format!(",\n  \"digest\": \"{digest}\"\n}}\n")
}

/// Whether `name` may be a file of an artifact: a plain name that cannot leave the folder.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.bytes().all(plain) || name == MANIFEST {
        return Err(format!("{name:?} is not a file name that an artifact may have"));
    }
    Ok(())
}
