//! Every schedule × every format, fused and unfused, for one token and for many, with random parameters: machine code
//! and kernel interpreter give the same bits, and both agree with the graph interpreter in f64.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};
use tilewright_codegen::backend;
use tilewright_codegen::schedules::{Params, Schedule};
use tilewright_codegen::target::Target;
use tilewright_ir::graph::interp::{Interp, Tensor};
use tilewright_ir::graph::{Attrs, Dim, Elem, Graph, NodeId, OpKind, RopeSpec, TensorType, Weight, attrs};
use tilewright_models::format::FormatSet;
use tilewright_passes::{Activations, PassContext, PassManager};
use tilewright_tests::host::{Engine, Host, RandomWeights};
use tilewright_tests::tiny::splitmix64;

const D: u64 = 256;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
const HD: u64 = 64;
const FF: u64 = 512;
const VOCAB: u64 = 80;

/// What varies between the blocks under test.
#[derive(Clone, Copy, Debug)]
struct Variant {
    qk_norm: bool,
    bias: bool,
    window: i64,
    softcap: f64,
    style: &'static str,
    function: &'static str,
}

const VARIANTS: [Variant; 3] = [
    Variant { qk_norm: false, bias: false, window: 0, softcap: 0.0, style: "interleaved", function: "silu" },
    Variant { qk_norm: false, bias: true, window: 0, softcap: 0.0, style: "half", function: "silu" },
    Variant { qk_norm: true, bias: false, window: 3, softcap: 20.0, style: "half", function: "gelu_tanh" },
];

struct Builder {
    g: Graph,
    format: String,
}

impl Builder {
    fn op(&mut self, op: OpKind, operands: &[NodeId], attrs: Attrs) -> NodeId {
        self.g.push(op, operands, attrs).expect("well-typed")
    }

    fn vector(&mut self, name: &str, n: u64) -> NodeId {
        self.g.weight(Weight::of(name, "f32", &[n]))
    }

    fn linear(&mut self, x: NodeId, name: &str, rows: u64, bias: bool) -> NodeId {
        let cols = self.g.ty(x).width().expect("rows");
        let w = self.g.weight(Weight::of(name, &self.format, &[rows, cols]));
        let y = self.op(OpKind::Matmul, &[x, w], attrs([]));
        if !bias {
            return y;
        }
        let b = self.vector(&format!("{name}.bias"), rows);
        self.op(OpKind::Add, &[y, b], attrs([]))
    }
}

/// One transformer block with everything in it, unfused.
fn block(format: &str, v: Variant) -> Graph {
    let mut b = Builder { g: Graph::new("block"), format: format.to_string() };
    let inv_freq = (0..HD / 2).map(|i| (0.8f32).powi(i as i32)).collect();
    b.g.rope.push(RopeSpec { inv_freq, scale: 1.0 });
    let tokens = b.g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
    let pos = b.g.input("pos", TensorType::new(Elem::I32, [Dim::T]));
    let kv = b.g.input("kv.0", TensorType::new(Elem::Kv, [Dim::N(KV_HEADS), Dim::N(HD)]));
    let table = b.g.weight(Weight::of("embd", format, &[VOCAB, D]));
    let x = b.op(OpKind::Embed, &[tokens, table], attrs([]));
    let x = b.op(OpKind::Scale, &[x], attrs([("by", 0.5.into())]));
    let angles = b.op(OpKind::RopeAngles, &[pos], attrs([]));
    let norm = |b: &mut Builder, x: NodeId, name: &str, n: u64| {
        let g = b.vector(name, n);
        b.op(OpKind::RmsNorm, &[x, g], attrs([("eps", 1e-5.into())]))
    };
    let n = norm(&mut b, x, "attn_norm", D);
    let mut q = b.linear(n, "q", HEADS * HD, v.bias);
    let mut k = b.linear(n, "k", KV_HEADS * HD, v.bias);
    let val = b.linear(n, "v", KV_HEADS * HD, v.bias);
    if v.qk_norm {
        q = norm(&mut b, q, "q_norm", HD);
        k = norm(&mut b, k, "k_norm", HD);
    }
    let rope = |heads: u64| attrs([("heads", (heads as i64).into()), ("style", v.style.into())]);
    let q = b.op(OpKind::Rope, &[q, angles], rope(HEADS));
    let k = b.op(OpKind::Rope, &[k, angles], rope(KV_HEADS));
    let kv = b.op(OpKind::KvWrite, &[kv, k, val, pos], attrs([]));
    let a = attrs([
        ("heads", (HEADS as i64).into()),
        // Scores of random weights near 3, as a model's are; near 100 a softmax would make much of every rounding.
        ("scale", 0.004.into()),
        ("window", v.window.into()),
        ("softcap", v.softcap.into()),
    ]);
    let a = b.op(OpKind::Attention, &[q, kv, pos], a);
    let o = b.linear(a, "o", D, false);
    let x = b.op(OpKind::Add, &[x, o], attrs([]));
    let n = norm(&mut b, x, "ffn_norm", D);
    let gate = b.linear(n, "gate", FF, false);
    let up = b.linear(n, "up", FF, false);
    let act = b.op(OpKind::Act, &[gate], attrs([("fn", v.function.into())]));
    let h = b.op(OpKind::Mul, &[act, up], attrs([]));
    let d = b.linear(h, "down", D, false);
    let x = b.op(OpKind::Add, &[x, d], attrs([]));
    let n = norm(&mut b, x, "out_norm", D);
    let y = b.linear(n, "head", VOCAB, false);
    let y = b.op(OpKind::Softcap, &[y], attrs([("cap", 30.0.into())]));
    b.g.set_outputs(&[y]);
    b.g
}

fn random_params(seed: u64) -> impl Fn(&dyn Schedule) -> Params {
    move |s| {
        let mut params = Params::new();
        for (i, axis) in s.space().iter().enumerate() {
            let r = splitmix64(seed ^ (i as u64) << 32 ^ s.signature().len() as u64);
            params.insert(axis.name, axis.values[r as usize % axis.values.len()]);
        }
        params
    }
}

/// The same with this value of a parameter where a schedule has it.
fn with(pick: impl Fn(&dyn Schedule) -> Params, name: &'static str, value: i64) -> impl Fn(&dyn Schedule) -> Params {
    move |s| {
        let mut params = pick(s);
        params.entry(name).and_modify(|v| *v = value);
        params
    }
}

fn nmse(got: &[f32], want: &[f64]) -> f64 {
    let err: f64 = got.iter().zip(want).map(|(&a, &b)| (f64::from(a) - b).powi(2)).sum();
    let power: f64 = want.iter().map(|b| b * b).sum();
    err / power
}

/// Values of the parameter `unit` of products of bf16.
const DOT2: i64 = 0;
const TILE: i64 = 1;

/// NMSE against the graph interpreter in f64, of every run of a test.
///
/// Most runs have only the rounding of f32 in them. Where a value lies next to a tie between two codes, f32 and f64 may
/// round it to different ones: once in a hundred tokens, and a code is up to a part in 127 (int8) of a vector's greatest
/// value, so one such costs up to 6e-5. Several may meet in one run of a test, and then it is over the limit; not in two.
struct Errors {
    unit: i64,
    all: Vec<f64>,
    over: Vec<String>,
}

impl Errors {
    /// Of kernels whose parameter `unit` is that.
    fn new(unit: i64) -> Self {
        Self { unit, all: vec![], over: vec![] }
    }

    fn add(&mut self, context: &str, activations: Activations, error: f64) {
        // What a run may have, and what none may: that of many codes.
        let (limit, most) = match activations {
            Activations::Q8 => (2e-4, 1e-3),
            Activations::Bf16 => (1e-3, 1e-3),
            // No kernels of a CPU read them.
            Activations::F16 | Activations::F16Pair => unreachable!("f16 activations are for GPU targets"),
            Activations::F32 => (1e-6, 1e-6),
        };
        let what = format!("{context}: error {error:e} against the graph interpreter in f64");
        assert!(error < most, "{what}");
        if error >= limit {
            self.over.push(what);
        }
        self.all.push(error);
    }

    fn finish(mut self) {
        assert!(self.over.len() < 2, "{:#?}", self.over);
        self.all.sort_by(f64::total_cmp);
        let median = self.all[self.all.len() / 2];
        assert!(median < 1e-9, "half of {} runs are off by {median:e} or more", self.all.len());
    }
}

fn check(
    errors: &mut Errors,
    format: &str,
    v: Variant,
    activations: Activations,
    off: &BTreeSet<String>,
    max_tokens: u32,
) {
    let unit = errors.unit;
    let seed = seed();
    let context = format!("{format} {v:?} {activations:?} off {off:?} max_tokens {max_tokens} seed {seed:#x}");
    let mut g = block(format, v);
    // Products of bf16 take every format, whatever a build chooses.
    let bf16 = activations == Activations::Bf16;
    let takes_q8 = |name: &str| bf16 || !matches!(name, "f32" | "f16" | "bf16");
    let cx = PassContext { activations, takes_q8: &takes_q8, few_tokens: false };
    let manager = PassManager { off: off.clone(), dump: None, verify: true, context: cx };
    manager.run(&mut g).unwrap_or_else(|e| panic!("{context}: {e}"));
    let weights = RandomWeights::for_graph(&g, seed);
    let mut oracle = Interp::<f64>::new(&g, &weights).unwrap_or_else(|e| panic!("{context}: {e}"));
    let pick = with(random_params(seed), "unit", unit);
    let host =
        |engine| Host::new(&g, &weights, max_tokens, 96, engine, &pick).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut interp = host(Engine::Interp);
    let mut jits: Vec<(String, Host)> = Target::all()
        .iter()
        .filter(|t| t.features_missing_on_host().is_empty())
        .filter(|t| !bf16 || t.has(if unit == TILE { "amx-bf16" } else { "avx512bf16" }))
        .flat_map(|t| backend::for_target(t).map(move |b| (b, t)))
        // One that lacks the instruction says so, and other tests hold it to that.
        .filter(|(b, _)| !bf16 || b.name() == "x86")
        .map(|(b, t)| (format!("{} for {}", b.name(), t.name), host(Engine::Jit(b, t.clone()))))
        .collect();
    assert!(bf16 || !jits.is_empty(), "no declared target runs on this machine");
    // More tokens than a block of keys, once; the last chunks of a program with too few tokens.
    let most = max_tokens as usize;
    let runs: &[usize] = if max_tokens == 1 { &[1, 1, 1] } else { &[5, most, 1] };
    let mut next = seed;
    for &n in runs {
        let tokens: Vec<u32> = (0..n)
            .map(|_| {
                next = splitmix64(next);
                (next % VOCAB) as u32
            })
            .collect();
        let want = match oracle.run(&tokens).unwrap_or_else(|e| panic!("{context}: {e}")).remove(0) {
            Tensor::F { data, .. } => data,
            _ => panic!("{context}: no logits"),
        };
        let got = interp.run(&tokens).unwrap_or_else(|e| panic!("{context}: {e}"));
        errors.add(&context, activations, nmse(&got, &want));
        for (name, jit) in &mut jits {
            let same = jit.run(&tokens).unwrap_or_else(|e| panic!("{context} {name}: {e}"));
            let differ = got.iter().zip(&same).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            assert_eq!(
                differ, 0,
                "{context}: machine code for {name} and the kernel interpreter differ in {differ} values"
            );
        }
    }
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    splitmix64(now.as_nanos() as u64)
}

fn formats() -> Vec<String> {
    FormatSet::builtin().iter().map(|f| f.name.clone()).collect()
}

#[test]
fn every_format_with_int8_activations() {
    let mut errors = Errors::new(DOT2);
    for (i, format) in formats().iter().enumerate() {
        for max_tokens in [1, 8] {
            check(&mut errors, format, VARIANTS[i % 3], Activations::Q8, &BTreeSet::new(), max_tokens);
        }
    }
    errors.finish();
}

#[test]
fn every_format_with_f32_activations() {
    let mut errors = Errors::new(DOT2);
    for (i, format) in formats().iter().enumerate() {
        for max_tokens in [1, 8] {
            check(&mut errors, format, VARIANTS[(i + 1) % 3], Activations::F32, &BTreeSet::new(), max_tokens);
        }
    }
    errors.finish();
}

#[test]
fn every_format_with_bf16_activations() {
    let mut errors = Errors::new(DOT2);
    for (i, format) in formats().iter().enumerate() {
        for max_tokens in [1, 8] {
            check(&mut errors, format, VARIANTS[(i + 2) % 3], Activations::Bf16, &BTreeSet::new(), max_tokens);
        }
    }
    errors.finish();
}

/// One product and one pair of them, of values that are the same in both: no rounding can fall to the other side but that
/// of a weight.
#[test]
fn products_of_bf16_alone() {
    let seed = seed();
    for format in formats() {
        let mut b = Builder { g: Graph::new("product"), format: format.clone() };
        let tokens = b.g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
        let table = b.g.weight(Weight::of("embd", "bf16", &[VOCAB, D]));
        let x = b.op(OpKind::Embed, &[tokens, table], attrs([]));
        let x = b.op(OpKind::Quantize, &[x], attrs([("to", "bf16".into())]));
        // 75 rows are no whole panels; 33 tokens no whole tiles.
        let rows = 75;
        let [gate, up] = ["gate", "up"].map(|n| b.g.weight(Weight::of(n, &format, &[rows, D])));
        let glu = b.op(OpKind::Glu, &[x, gate, up], attrs([]));
        let bias = b.vector("bias", rows);
        let y = b.op(OpKind::Matmul, &[x, up, bias, glu], attrs([("bias", true.into()), ("residual", true.into())]));
        b.g.set_outputs(&[y]);
        let weights = RandomWeights::for_graph(&b.g, seed);
        let tokens: Vec<u32> = (0..33).map(|i| (splitmix64(seed ^ i) % VOCAB) as u32).collect();
        let mut oracle = Interp::<f64>::new(&b.g, &weights).expect("an interpreter");
        let want = oracle.run(&tokens).expect("runs").remove(0).floats();
        for unit in [DOT2, TILE] {
            let pick = with(random_params(seed), "unit", unit);
            let mut host = Host::new(&b.g, &weights, 33, 33, Engine::Interp, &pick).expect("a host");
            let error = nmse(&host.run(&tokens).expect("runs"), &want);
            assert!(error < 1e-8, "{format} unit {unit} seed {seed:#x}: error {error:e}");
        }
    }
}

/// Tiles, by the interpreter and where the machine has them: fewer tokens than a tile, and more than four with a rest.
#[test]
fn every_format_with_tiles() {
    let mut errors = Errors::new(TILE);
    for (i, format) in formats().iter().enumerate() {
        for max_tokens in [1, if i % 4 == 0 { 37 } else { 8 }] {
            check(&mut errors, format, VARIANTS[i % 3], Activations::Bf16, &BTreeSet::new(), max_tokens);
        }
    }
    errors.finish();
}

#[test]
fn every_schedule_unfused() {
    let mut errors = Errors::new(DOT2);
    let off: BTreeSet<String> =
        tilewright_passes::PIPELINE.iter().filter(|p| p.switchable).map(|p| p.pass.name().to_string()).collect();
    for variant in VARIANTS {
        for (format, activations) in [
            ("q4_1", Activations::Q8),
            ("q6_k", Activations::Q8),
            ("f16", Activations::F32),
            ("q5_0", Activations::F32),
            ("q4_k", Activations::Bf16),
        ] {
            check(&mut errors, format, variant, activations, &off, 8);
        }
    }
    errors.finish();
}

#[test]
fn every_variant_fused() {
    let mut errors = Errors::new(DOT2);
    for variant in VARIANTS {
        for format in ["q4_1", "q5_0", "q8_0", "q4_k", "q6_k", "iq4_nl"] {
            for max_tokens in [1, 8] {
                check(&mut errors, format, variant, Activations::Q8, &BTreeSet::new(), max_tokens);
            }
        }
    }
    errors.finish();
}

/// The one op whose result is not f32.
#[test]
fn argmax() {
    let seed = seed();
    let mut b = Builder { g: Graph::new("argmax"), format: "f16".into() };
    let tokens = b.g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
    let table = b.g.weight(Weight::of("embd", "f16", &[VOCAB, D]));
    let x = b.op(OpKind::Embed, &[tokens, table], attrs([]));
    let best = b.op(OpKind::Argmax, &[x], attrs([]));
    b.g.set_outputs(&[best]);
    let weights = RandomWeights::for_graph(&b.g, seed);
    let tokens: Vec<u32> = (0..8).map(|i| (splitmix64(seed ^ i) % VOCAB) as u32).collect();
    let mut oracle = Interp::<f64>::new(&b.g, &weights).expect("an interpreter");
    let want = match oracle.run(&tokens).expect("runs").remove(0) {
        Tensor::I32(ids) => ids,
        _ => panic!("argmax gives i32"),
    };
    let target = Target::detect().expect("a target");
    let mut engines = vec![Engine::Interp];
    engines.extend(backend::for_target(&target).map(|b| Engine::Jit(b, target.clone())));
    for engine in engines {
        let mut host = Host::new(&b.g, &weights, 8, 8, engine, &random_params(seed)).expect("a host");
        let got: Vec<i32> = host.run(&tokens).expect("runs").iter().map(|v| v.to_bits().cast_signed()).collect();
        assert_eq!(got, want, "seed {seed:#x}");
    }
}
