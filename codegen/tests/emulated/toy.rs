//! The model: its artifact, and what it computes, in Rust.

use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::sync::Arc;

use tilewright_codegen::emulated::{Counts, EmulatedDriver, EmulatedGpu};
use tilewright_runtime::artifact::{Artifact, ArtifactWriter, KERNELS_PTX, ManifestInfo, TOKENIZER, TargetInfo};
use tilewright_runtime::error::{ArtifactError, RunError};
use tilewright_runtime::plan::{Arg, Call, KvLayer, Launch, ModelFacts, Plan, Program, RopeTable, ScalarArg};
use tilewright_runtime::session::{Session, SessionOptions};

pub const PTX: &str = include_str!("toy.ptx");
pub const VOCAB: u32 = 32;
/// The token after which all logits are NaN. The model never chooses it.
pub const BAD_TOKEN: u32 = VOCAB - 1;
pub const N_CTX: u32 = 200;
/// Logits of a row and a gap.
const STRIDE: u64 = 36;
const WEIGHTS_AT: u64 = 64;
const FREQUENCY: f32 = 0.37;

/// A number that differs from run to run, printed so that a failing test can be repeated.
pub fn fresh_seed() -> u64 {
    let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
    println!("seed {seed:#x}");
    seed
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(u64::from(BAD_TOKEN)) as u32).collect()
    }
}

/// The text for another kind of GPU; below sm_90 kernels do not overlap.
pub fn ptx_for(target: &str) -> String {
    let text = PTX.replace(".target sm_90", &format!(".target {target}"));
    if target.starts_with("sm_9") {
        text
    } else {
        text.lines().filter(|l| !l.contains("griddep")).map(|l| format!("{l}\n")).collect()
    }
}

pub struct Toy {
    pub weights: Vec<f32>,
    pub plan: Plan,
    pub ptx: String,
    pub target: TargetInfo,
}

fn call(kernel: u32, label: &str, args: &[Arg], scalars: &[ScalarArg], chunks: u32) -> Call {
    Call { kernel, label: label.into(), args: args.into(), scalars: scalars.into(), chunks }
}

fn program(max_tokens: u32) -> Program {
    use ScalarArg::{Const, Past, Tokens};
    let x = 256;
    let logits = x + u64::from(max_tokens) * 4;
    let store = [Arg::K(1), Arg::Tokens, Arg::Arena(x), Arg::Weights(WEIGHTS_AT)];
    let head = [Arg::Arena(logits), Arg::K(1), Arg::Arena(x), Arg::Rope(0)];
    let next =
        [Arg::Arena(logits), Arg::Counters(4), Arg::State, Arg::Tokens, Arg::History, Arg::RopeAll(0), Arg::Rope(0)];
    Program {
        max_tokens,
        arena_bytes: logits + u64::from(max_tokens) * STRIDE * 4,
        calls: vec![
            call(0, "store", &store, &[Tokens, Past], max_tokens.div_ceil(32)),
            call(1, "head", &head, &[Tokens, Past, Const(STRIDE as i64)], max_tokens),
        ],
        head_start: 1,
        logits,
        logits_stride: STRIDE * 4,
        next: (max_tokens == 1).then(|| call(2, "next", &next, &[Past], 2)),
        sampled: None,
    }
}

impl Toy {
    pub fn new(random: &mut Random, target: &str) -> Toy {
        let mut weights: Vec<f32> = (0..VOCAB).map(|_| random.below(4096) as f32 / 64.0 - 32.0).collect();
        weights[BAD_TOKEN as usize] = f32::NAN;
        let facts = ModelFacts {
            name: "toy".into(),
            arch: "toy".into(),
            vocab: VOCAB,
            n_ctx: N_CTX,
            parameters: 32,
            file_bytes: 128,
            bytes_per_token: 128,
            macs_per_token: 1,
        };
        let plan = Plan {
            model: facts,
            kernels: ["store", "head", "next"].map(String::from).into(),
            kv: vec![KvLayer { heads: 3, head_dim: 5 }, KvLayer { heads: 1, head_dim: 1 }],
            rope: vec![RopeTable { inv_freq: vec![FREQUENCY, 0.01], scale: 0.5 }],
            programs: vec![program(1), program(4), program(40)],
            weights_bytes: 4096,
            launches: vec![Launch { threads: 32, shared_bytes: 0, waits: target.starts_with("sm_9") }; 3],
            counters_bytes: 8,
        };
        let target_info = TargetInfo { name: "toy".into(), arch: "nvptx64".into(), features: vec![target.into()] };
        Toy { weights, plan, ptx: ptx_for(target), target: target_info }
    }

    /// Writes the artifact and opens it.
    pub fn try_open(&self, more: &[(&str, &[u8])]) -> Result<Arc<Artifact>, ArtifactError> {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = ArtifactWriter::create(temp.path().join("toy"))?;
        writer.file(KERNELS_PTX, self.ptx.as_bytes())?;
        for (name, bytes) in more {
            writer.file(name, bytes)?;
        }
        writer.file(TOKENIZER, b"{}")?;
        writer.plan(&self.plan)?;
        let mut weights = writer.weights()?;
        weights.write_all(&[1]).unwrap();
        assert_eq!(weights.align()?, WEIGHTS_AT);
        weights.write_all(&self.weights.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        assert_eq!(weights.finish()?, 4096);
        writer.commit(ManifestInfo { target: self.target.clone(), ..Default::default() })?;
        Artifact::open(temp.path().join("toy")).map(Arc::new)
    }

    pub fn open(&self) -> Arc<Artifact> {
        self.try_open(&[]).unwrap()
    }

    /// The logits after the last of `tokens`.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let sum: u32 = tokens.iter().zip(1..).map(|(id, i)| id * i).sum();
        let position = tokens.len() - 1;
        let cosine = ((position as f64 * f64::from(FREQUENCY)).cos() * 0.5) as f32;
        let row = (0..VOCAB).map(|v| if v == BAD_TOKEN { -1.0 } else { ((sum * (2 * v + 1)) & 63) as f32 });
        row.map(|l| l + self.weights[tokens[position] as usize] + cosine).collect()
    }

    /// The likeliest continuation of `tokens`.
    pub fn greedy(&self, tokens: &[u32], n: usize) -> Vec<u32> {
        let mut all = tokens.to_vec();
        for _ in 0..n {
            let row = self.logits(&all);
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            all.push(row.iter().position(|l| *l == top).unwrap() as u32);
        }
        all.split_off(tokens.len())
    }
}

pub fn session(artifact: &Arc<Artifact>, ctx: u32, gpu: EmulatedGpu) -> Result<(Session, Counts), RunError> {
    let driver = EmulatedDriver::new(gpu);
    let counts = driver.counts();
    let options = SessionOptions { ctx: Some(ctx), threads: None, profile: false };
    Ok((Session::with_driver(artifact.clone(), Box::new(driver), options)?, counts))
}
