//! Whole models through the GPU path on the emulator: every golden of `tests/goldens/arch`, prefill, decode and the decode that
//! never returns to the host.
//!
//! Distances are the largest difference of a logit over the largest logit. Every mistake that the emulator knows (bounds,
//! races, missing waits, memory that nothing wrote) fails a step.

use rayon::prelude::*;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use tilewright_codegen::emulated::{Counts, EmulatedDriver, EmulatedGpu};
use tilewright_codegen::target::Target;
use tilewright_driver::BuildOptions;
use tilewright_passes::Activations;
use tilewright_runtime::sampler::{Sampler, SamplerParams};
use tilewright_runtime::session::{Logits, Session, SessionOptions};
use tilewright_tests::e2e::{self, Built, distance, logits, logits_stepwise};
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::{Golden, HfStyle};

/// Against f32 goldens: what is left is the f16 of the KV cache, as on a CPU.
const F32_LIMIT: f32 = 2e-3;
/// Activations of 11 bits.
const F16_LIMIT: f32 = 1e-2;

fn options(target: &str, activations: Activations, ctx: u32) -> BuildOptions {
    let target = Target::get(target).expect("a declared target");
    BuildOptions { activations, ctx: Some(ctx), ..BuildOptions::for_target(target) }
}

fn session(built: &Built, seed: u64) -> Session {
    counted(built, seed).0
}

/// And what it launched.
fn counted(built: &Built, seed: u64) -> (Session, Counts) {
    let sm = built.artifact.gpu_kernels().expect("kernels for a GPU").target();
    let sm = sm.trim_start_matches("sm_").trim_end_matches('a').parse().expect("a number");
    let driver = EmulatedDriver::new(EmulatedGpu { sm, seed, ..EmulatedGpu::default() });
    let counts = driver.counts();
    let ctx = built.artifact.plan().model.n_ctx.min(64);
    let options = SessionOptions { ctx: Some(ctx), ..SessionOptions::default() };
    let session = Session::with_driver(built.artifact.clone(), Box::new(driver), options);
    (session.unwrap_or_else(|e| panic!("{e}")), counts)
}

/// Distances of prefill and decode from the golden's rows.
fn against_golden(built: &Built, golden: &Golden, seed: u64) -> [f32; 2] {
    let vocab = built.artifact.plan().model.vocab as usize;
    let want: Vec<f32> = golden.logits.concat();
    let mut session = session(built, seed);
    let all = [logits(&mut session, &golden.ids), logits_stepwise(&mut session, &golden.ids)];
    all.map(|all| {
        let all = all.unwrap_or_else(|e| panic!("{}: {e:#}", golden.ids.len()));
        let got: Vec<f32> = golden.positions.iter().flat_map(|&p| &all[p * vocab..(p + 1) * vocab]).copied().collect();
        distance(&got, &want)
    })
}

#[test]
fn every_architecture() {
    let targets = ["sm_90a", "sm_80", "sm_75", "sm_100a", "sm_86", "sm_120", "sm_89", "sm_90"];
    // Each model on one of the targets; the emulator is one thread a model.
    Golden::names().par_iter().enumerate().for_each(|(i, name)| {
        let golden = Golden::load(name).unwrap();
        let target = targets[i % targets.len()];
        for (activations, limit) in [(Activations::F16Pair, F32_LIMIT), (Activations::F16, F16_LIMIT)] {
            let options = options(target, activations, golden.ids.len() as u32);
            let built = e2e::hf(&golden, HfStyle::Classic, &options).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let d = against_golden(&built, &golden, i as u64);
            eprintln!("{name} {target} {activations:?}: prefill {:.1e}, decode {:.1e}", d[0], d[1]);
            assert!(d.iter().all(|&d| d <= limit), "{name} {target} {activations:?}: {d:?}");
        }
    });
}

/// Fifty tokens of a quantised model: those of the CPU, whether the host chooses each or the GPU goes on by itself.
#[test]
fn fifty_tokens() {
    let golden = Golden::load("llama").unwrap();
    let prompt = &golden.ids[..4];
    let cpu = BuildOptions { activations: Activations::F32, ..e2e::options() };
    let cpu = e2e::gguf(&golden, Quant::Q8_0, &cpu).unwrap();
    let gpu = e2e::gguf(&golden, Quant::Q8_0, &options("sm_90a", Activations::F16Pair, 64)).unwrap();
    let mut want = vec![];
    let mut on_cpu = cpu.session(2).unwrap();
    on_cpu.eval(&prompt[..3], Logits::None).unwrap();
    on_cpu
        .decode_greedy(prompt[3], 50, |t| {
            want.push(t);
            true
        })
        .unwrap();
    for seed in 0..2 {
        let mut got = vec![];
        let mut on_gpu = session(&gpu, seed);
        on_gpu.eval(&prompt[..3], Logits::None).unwrap();
        on_gpu
            .decode_greedy(prompt[3], 50, |t| {
                got.push(t);
                true
            })
            .unwrap();
        assert_eq!(got, want, "seed {seed}");
    }
    let mut on_gpu = session(&gpu, 7);
    on_gpu.eval(&prompt[..3], Logits::None).unwrap();
    let mut token = prompt[3];
    for (i, &next) in want.iter().enumerate() {
        let row = on_gpu.eval(&[token], Logits::Last).unwrap();
        let best = (0..row.len()).fold(0, |b, k| if row[k] > row[b] { k } else { b });
        assert_eq!(best as u32, next, "token {i}");
        token = next;
    }
}

/// Tokens drawn by the device are those that the host draws from its logits with the same seed, wherever one stops to look.
#[test]
fn tokens_by_chance() {
    let golden = Golden::load("llama").unwrap();
    let prompt = &golden.ids[..4];
    let built = e2e::gguf(&golden, Quant::Q8_0, &options("sm_90a", Activations::F16, 64)).unwrap();
    let random = || RandomState::new().build_hasher().finish();
    let warm = |top_k| SamplerParams { temp: 0.9, top_k, seed: random(), ..SamplerParams::default() };
    let hot = SamplerParams { temp: 3.0, top_p: 1.0, min_p: 0.0, ..warm(64) };
    let narrow = SamplerParams { top_p: 0.4, min_p: 0.2, ..warm(7) };
    // The last two are not for the device, one because it needs no draw.
    let mut by_host = session(&built, 1);
    for (params, on_device) in [(hot, true), (narrow, true), (warm(0), false), (warm(1), false)] {
        let mut sampler = Sampler::new(params.clone()).unwrap();
        let (mut want, mut token) = (vec![], prompt[3]);
        by_host.reset();
        by_host.eval(&prompt[..3], Logits::None).unwrap();
        for _ in 0..14 {
            let row = by_host.eval(&[token], Logits::Last).unwrap();
            token = sampler.sample(&mut row.to_vec(), &[]).unwrap();
            want.push(token);
        }
        let mut sampler = Sampler::new(params.clone()).unwrap();
        let (mut by_device, counts) = counted(&built, random());
        by_device.eval(&prompt[..3], Logits::None).unwrap();
        let mut got = vec![];
        for end in [3, 14] {
            let token = got.last().copied().unwrap_or(prompt[3]);
            by_device
                .decode(token, 100, &mut sampler, |id| {
                    got.push(id);
                    got.len() < end
                })
                .unwrap();
        }
        assert_eq!(got, want, "{params:?}");
        let launched = counts.by_kernel().iter().any(|(name, n)| name.ends_with("_sample") && n.launches >= 14);
        assert_eq!(launched, on_device, "{params:?}");
    }
}
