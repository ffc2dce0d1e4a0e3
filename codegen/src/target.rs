//! Declared targets: the machines code is generated for, one YAML file each in `codegen/targets/`.
//!
//! A target states what generated code may use and what schedules may count on. Feature names are those of
//! `is_x86_feature_detected!` and its like, so one list serves the back ends and the check at load.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tilewright_runtime::artifact::missing_features;

/// A machine to generate code for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name on the command line and in artifacts.
    pub name: String,
    /// Target triple, as compilers spell it; its first part is the architecture.
    pub triple: String,
    /// Instruction set extensions code may use.
    pub features: Vec<String>,
    /// Width of the widest vector register.
    pub vector_bits: u32,
    /// Number of vector registers.
    pub registers: u32,
    /// First-level data cache of a core.
    pub l1_bytes: u64,
    /// Second-level cache of a core.
    pub l2_bytes: u64,
    /// Most `local` memory of a kernel, all of it on the stack.
    pub max_local_bytes: u64,
    /// What prefill multiplies with unless told otherwise.
    #[serde(default)]
    pub prefill_activations: PrefillActivations,
}

/// Activations of products of many tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefillActivations {
    /// int8 blocks, as decode has them.
    #[default]
    Q8,
    /// bf16, with weights expanded to bf16 on the way.
    Bf16,
}

/// Why there is no such target.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// The name is not declared.
    #[error("there is no target `{name}`; declared are {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// All declared names.
        known: String,
    },
    /// The text of a target file is wrong.
    #[error("target file: {0}")]
    Parse(String),
    /// The host is less than every declared target.
    #[error("no declared target fits this machine; {nearest} comes nearest and lacks {missing}")]
    NoneFits {
        /// The target with the fewest missing features.
        nearest: String,
        /// What the host lacks for it.
        missing: String,
    },
}

/// Best first: [`Target::detect`] takes the first that fits.
const FILES: [&str; 7] = [
    include_str!("../targets/x86-64-v4-amx.yaml"),
    include_str!("../targets/x86-64-v4-bf16.yaml"),
    include_str!("../targets/x86-64-v4-vnni.yaml"),
    include_str!("../targets/x86-64-v3-vnni.yaml"),
    include_str!("../targets/x86-64-v3.yaml"),
    include_str!("../targets/aarch64-i8mm.yaml"),
    include_str!("../targets/aarch64-dotprod.yaml"),
];

static BUILT_IN: LazyLock<Vec<Target>> =
    LazyLock::new(|| FILES.iter().filter_map(|text| Target::from_yaml(text).ok()).collect());

impl Target {
    /// Reads a target file.
    pub fn from_yaml(text: &str) -> Result<Target, TargetError> {
        serde_yaml::from_str(text).map_err(|e| TargetError::Parse(e.to_string()))
    }

    /// The declared targets, best first within an architecture.
    pub fn all() -> &'static [Target] {
        &BUILT_IN
    }

    /// The declared target of that name.
    pub fn get(name: &str) -> Result<Target, TargetError> {
        Target::all().iter().find(|t| t.name == name).cloned().ok_or_else(|| TargetError::Unknown {
            name: name.to_string(),
            known: Target::all().iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The best declared target all of whose features this machine has.
    pub fn detect() -> Result<Target, TargetError> {
        let missing: Vec<(&Target, Vec<String>)> =
            Target::all().iter().map(|t| (t, t.features_missing_on_host())).collect();
        if let Some((t, _)) = missing.iter().find(|(_, missing)| missing.is_empty()) {
            return Ok((*t).clone());
        }
        let nearest = missing.iter().min_by_key(|(_, missing)| missing.len());
        Err(TargetError::NoneFits {
            nearest: nearest.map_or(String::new(), |(t, _)| t.name.clone()),
            missing: nearest.map_or(String::new(), |(_, missing)| missing.join(", ")),
        })
    }

    /// Architecture, as in `std::env::consts::ARCH`.
    pub fn arch(&self) -> &str {
        self.triple.split('-').next().unwrap_or_default()
    }

    /// True if code may use that extension.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// Features this machine lacks; the architecture itself if it is another one.
    pub fn features_missing_on_host(&self) -> Vec<String> {
        if self.arch() != std::env::consts::ARCH {
            return vec![self.arch().to_string()];
        }
        missing_features(self.features.iter().map(String::as_str)).into_iter().map(String::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_target() {
        let all: Result<Vec<Target>, TargetError> = FILES.iter().map(|f| Target::from_yaml(f)).collect();
        assert_eq!(all.as_deref(), Ok(Target::all()));
        for t in Target::all() {
            assert_eq!(Target::get(&t.name).as_ref(), Ok(t));
            assert!(t.vector_bits >= 128 && t.registers >= 16 && t.l1_bytes < t.l2_bytes, "{t:?}");
        }
    }

    #[test]
    fn detection_says_what_is_missing() {
        match Target::detect() {
            Ok(t) => assert_eq!(t.features_missing_on_host(), Vec::<String>::new()),
            Err(e) => assert!(e.to_string().contains("lacks"), "{e}"),
        }
        let other = Target { triple: "z80-unknown-none".into(), ..Target::all()[0].clone() };
        assert_eq!(other.features_missing_on_host(), ["z80"]);
        assert!(Target::get("vax").unwrap_err().to_string().contains("x86-64-v3"));
    }
}
