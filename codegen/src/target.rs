//! Declared targets: the machines code is generated for, one YAML file each in `codegen/targets/`.
//!
//! A target states what generated code may use and what schedules may count on. Feature names of a CPU are those of
//! `is_x86_feature_detected!` and its like, so one list serves the back ends and the check at load. A GPU has one feature,
//! the name that its assembler gives it, and a section of its own, [`Gpu`].

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
    /// Width of the widest vector register; 0 for a GPU, as are the next three.
    #[serde(default)]
    pub vector_bits: u32,
    /// Number of vector registers.
    #[serde(default)]
    pub registers: u32,
    /// First-level data cache of a core.
    #[serde(default)]
    pub l1_bytes: u64,
    /// Second-level cache of a core.
    #[serde(default)]
    pub l2_bytes: u64,
    /// Most `local` memory of a kernel, all of it on the stack.
    pub max_local_bytes: u64,
    /// What prefill multiplies with unless told otherwise.
    #[serde(default)]
    pub prefill_activations: PrefillActivations,
    /// What a GPU is like; none for a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// An NVIDIA GPU, as far as code for it depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Compute capability times ten: 80 is 8.0.
    pub sm: u32,
    /// Lowest version of PTX that knows it, times ten.
    pub ptx: u32,
    /// Most shared memory of a block, if its kernel asks for more than the usual 48 KiB.
    pub block_shared_bytes: u32,
    /// Shared memory of a multiprocessor; each block takes [`Gpu::RESERVED_SHARED`] more than it asks for.
    pub shared_bytes: u32,
    /// Most threads of a multiprocessor.
    pub threads: u32,
    /// Most blocks of a multiprocessor.
    pub blocks: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers: u32,
}

impl Gpu {
    /// Shared memory of each block that the system keeps for itself.
    pub const RESERVED_SHARED: u32 = 1024;
    /// The architecture in the triple of such a target.
    pub const ARCH: &'static str = "nvptx64";

    /// Blocks of so many threads with so much shared memory that a multiprocessor can hold; registers may allow fewer.
    pub fn resident(&self, threads: u32, shared: u32) -> u32 {
        let reserved = if self.sm >= 80 { Gpu::RESERVED_SHARED } else { 0 };
        let by_shared = self.shared_bytes.checked_div(shared + reserved).unwrap_or(self.blocks);
        (self.threads / threads.max(1)).min(by_shared).min(self.blocks)
    }

    /// True where a kernel may begin before the one in front of it has ended, and wait for it by itself.
    pub fn launches_early(&self) -> bool {
        self.sm >= 90
    }
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

/// CPUs best first: [`Target::detect`] takes the first that fits. Then GPUs, oldest first.
const FILES: [&str; 15] = [
    include_str!("../targets/x86-64-v4-amx.yaml"),
    include_str!("../targets/x86-64-v4-bf16.yaml"),
    include_str!("../targets/x86-64-v4-vnni.yaml"),
    include_str!("../targets/x86-64-v3-vnni.yaml"),
    include_str!("../targets/x86-64-v3.yaml"),
    include_str!("../targets/aarch64-i8mm.yaml"),
    include_str!("../targets/aarch64-dotprod.yaml"),
    include_str!("../targets/sm_75.yaml"),
    include_str!("../targets/sm_80.yaml"),
    include_str!("../targets/sm_86.yaml"),
    include_str!("../targets/sm_89.yaml"),
    include_str!("../targets/sm_90.yaml"),
    include_str!("../targets/sm_90a.yaml"),
    include_str!("../targets/sm_100a.yaml"),
    include_str!("../targets/sm_120.yaml"),
];

static BUILT_IN: LazyLock<Vec<Target>> =
    LazyLock::new(|| FILES.iter().filter_map(|text| Target::from_yaml(text).ok()).collect());

impl Target {
    /// Reads a target file.
    pub fn from_yaml(text: &str) -> Result<Target, TargetError> {
        let target: Target = serde_yaml::from_str(text).map_err(|e| TargetError::Parse(e.to_string()))?;
        let gpu = target.arch() == Gpu::ARCH;
        let sizes = [target.vector_bits, target.registers, target.l1_bytes as u32, target.l2_bytes as u32];
        let wrong = match target.gpu {
            Some(_) if !gpu => "a `gpu` section is for nvptx64",
            None if gpu => "nvptx64 wants a `gpu` section",
            None if sizes.contains(&0) => "a CPU wants vector_bits, registers, l1_bytes and l2_bytes",
            _ => return Ok(target),
        };
        Err(TargetError::Parse(format!("{}: {wrong}", target.name)))
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

    /// The best declared CPU all of whose features this machine has.
    pub fn detect() -> Result<Target, TargetError> {
        let cpus = Target::all().iter().filter(|t| t.gpu.is_none());
        let missing: Vec<(&Target, Vec<String>)> = cpus.map(|t| (t, t.features_missing_on_host())).collect();
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

    /// What the GPU is like, if it is one.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
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
            match t.gpu() {
                Some(gpu) => {
                    assert!(t.name.starts_with(&format!("sm_{}", gpu.sm)) && t.features == [t.name.as_str()], "{t:?}");
                    assert!(gpu.block_shared_bytes <= gpu.shared_bytes && gpu.resident(1024, 0) >= 1, "{t:?}");
                    assert!(!t.features_missing_on_host().is_empty(), "{t:?}");
                }
                None => assert!(t.vector_bits >= 128 && t.registers >= 16 && t.l1_bytes < t.l2_bytes, "{t:?}"),
            }
        }
    }

    #[test]
    fn files_are_of_a_cpu_or_of_a_gpu() {
        let cpu = include_str!("../targets/x86-64-v3.yaml");
        let gpu = include_str!("../targets/sm_80.yaml");
        for (text, wrong) in [
            (cpu.replace("vector_bits: 256", ""), "a CPU wants"),
            (gpu.replace("nvptx64", "x86_64"), "is for nvptx64"),
            (gpu[..gpu.find("gpu:").unwrap()].to_string(), "wants a `gpu` section"),
        ] {
            let e = Target::from_yaml(&text).unwrap_err().to_string();
            assert!(e.contains(wrong), "{e}");
        }
    }

    #[test]
    fn residence() {
        let gpu = *Target::get("sm_80").unwrap().gpu().unwrap();
        assert_eq!((gpu.resident(256, 0), gpu.resident(256, 40 * 1024), gpu.resident(32, 0)), (8, 4, 32));
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
