//! No fusion changes what a graph computes: random graphs, fused and not, in f64.
//!
//! A fused op is the composition of the ops that it replaces, and a sum of two values is the only thing whose operands
//! it swaps, so results agree to the last bits: the bound is [`BOUND`]. That holds with int8 activations, too: a rounding
//! tie would flip only if what is rounded differed in f64's last bits, which then shows as one code, 1/127 of a block's
//! largest value. None of these graphs has one; one that fails by that much and no more is a tie, not a wrong fusion.
//! Rounding to f16 inside a product is the same computation in another node, and gives the same bits.

use std::collections::BTreeMap;
use tilewright_codegen::lower::{LowerContext, WeightMap, lower};
use tilewright_codegen::pack::Layout;
use tilewright_codegen::schedules::defaults;
use tilewright_ir::graph::interp::{Interp, KvPrecision, Real, Tensor};
use tilewright_ir::graph::random::{RandomWeights, VOCAB, random_graph};
use tilewright_ir::graph::{Elem, Graph, OpKind, parse};
use tilewright_models::format::FormatSet;
use tilewright_passes::{Activations, PIPELINE, PassContext, PassManager, Report};

/// Largest difference, relative to the largest value of its tensor.
const BOUND: f64 = 1e-9;
const GRAPHS: u64 = 600;

/// A random graph whose matrices have different formats. Formats that only some kernels read as int8 make products of one
/// value differ in precision.
fn graph(seed: u64) -> Graph {
    let mut g = random_graph(seed);
    let formats: &[&str] = [&["q4_1"][..], &["q4_1", "q6_k"], &["q4_1", "f16"]][(seed % 3) as usize];
    for (i, id) in g.order().to_vec().into_iter().enumerate() {
        let node = g.node_mut(id);
        let Some(weight) = node.weight.as_mut().filter(|w| w.ty.shape.len() == 2) else { continue };
        let pick = (i as u64).wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 3;
        weight.ty.elem = Elem::Format(formats[pick as usize % formats.len()].into());
        node.ty = weight.ty.clone();
    }
    g
}

fn switches() -> Vec<&'static str> {
    PIPELINE.iter().filter(|r| r.switchable).map(|r| r.pass.name()).collect()
}

/// The graph after the pipeline without `off`, and what was done. Those of f16 are for few tokens, others' passes do not ask.
fn compiled(g: &Graph, activations: Activations, off: &[&str]) -> (Graph, Report) {
    let takes_q8 = |format: &str| format.starts_with('q');
    let mut manager = PassManager::new(PassContext { activations, takes_q8: &takes_q8, few_tokens: true });
    manager.off = off.iter().map(|n| n.to_string()).collect();
    let mut g = g.clone();
    let report = manager.run(&mut g).unwrap_or_else(|e| panic!("{}: {e}", g.name));
    (g, report)
}

/// Outputs and caches after two steps.
fn results(g: &Graph, seed: u64) -> Vec<Vec<f64>> {
    results_in::<f64>(g, seed)
}

/// [`results`] of a run in `R`.
fn results_in<R: Real>(g: &Graph, seed: u64) -> Vec<Vec<f64>> {
    let wide = |v: &[R]| v.iter().map(|v| v.f64()).collect::<Vec<f64>>();
    let weights = RandomWeights { seed };
    let mut interp = Interp::<R>::with_kv(g, &weights, KvPrecision::Exact).unwrap_or_else(|e| panic!("{e}\n{g}"));
    let mut out = vec![];
    for range in [0..4, 4..6] {
        let tokens: Vec<u32> = range.map(|i| ((i * 11 + seed) % VOCAB) as u32).collect();
        for t in interp.run(&tokens).unwrap_or_else(|e| panic!("{e}\n{g}")) {
            out.push(match t {
                Tensor::I32(v) => v.into_iter().map(f64::from).collect(),
                other => wide(&other.floats()),
            });
        }
    }
    let caches = (0..).map_while(|i| interp.kv(i));
    out.extend(caches.flat_map(|kv| [wide(kv.keys()), wide(kv.values())]));
    out
}

/// Fails if they differ by more than [`BOUND`].
fn same(a: &[Vec<f64>], b: &[Vec<f64>], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.len(), b.len(), "{what}");
        let size = a.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0f64, |m, e| if e <= m { m } else { e });
        assert!(size.is_finite() && off <= BOUND * size, "{what}: off by {off} of {size}");
    }
}

/// Compares the graph without fusions to the one with all, and with all but each that did something.
fn check(activations: Activations, seed: u64, counts: &mut BTreeMap<&'static str, usize>) {
    let g = graph(seed);
    let none = results(&compiled(&g, activations, &switches()).0, seed);
    if activations == Activations::F32 {
        same(&results(&g, seed), &none, &format!("seed {seed}: canonical"));
    }
    let (all, report) = compiled(&g, activations, &[]);
    same(&none, &results(&all, seed), &format!("seed {seed}: all on"));
    for row in &report.rows {
        *counts.entry(row.name).or_default() += row.rewrites;
    }
    for name in switches() {
        if report.rewrites(name) > 0 {
            let (one_off, _) = compiled(&g, activations, &[name]);
            same(&none, &results(&one_off, seed), &format!("seed {seed}: {name} off"));
        }
    }
}

/// All seeds, on two threads; rewrites of each pass over all graphs.
fn check_all(activations: Activations) -> BTreeMap<&'static str, usize> {
    let half = |start: u64| {
        let mut counts = BTreeMap::new();
        (start..GRAPHS).step_by(2).for_each(|seed| check(activations, seed, &mut counts));
        counts
    };
    std::thread::scope(|s| {
        let other = s.spawn(|| half(1));
        let mut counts = half(0);
        for (name, n) in other.join().unwrap_or_else(|e| std::panic::resume_unwind(e)) {
            *counts.entry(name).or_default() += n;
        }
        counts
    })
}

/// Every pass must have had something to do, or the comparison said nothing about it.
fn all_worked(counts: &BTreeMap<&'static str, usize>, idle: &[&str]) {
    for row in PIPELINE {
        let name = row.pass.name();
        assert_eq!(counts.get(name).is_some_and(|&n| n > 0), !idle.contains(&name), "{name}: {counts:?}");
    }
}

#[test]
fn fusions_keep_results_with_f32_activations() {
    let counts = check_all(Activations::F32);
    all_worked(&counts, &["choose-precision", "fuse-norm-quantize", "fuse-quantize", "fuse-quantize-matmul"]);
}

#[test]
fn fusions_keep_results_with_int8_activations() {
    all_worked(&check_all(Activations::Q8), &["fuse-quantize-matmul"]);
}

#[test]
fn fusions_keep_results_with_bf16_activations() {
    all_worked(&check_all(Activations::Bf16), &["fuse-quantize-matmul"]);
}

#[test]
fn fusions_keep_results_with_f16_activations() {
    all_worked(&check_all(Activations::F16), &["fuse-quantize"]);
}

#[test]
fn fusions_keep_results_with_pairs_of_f16_as_activations() {
    all_worked(&check_all(Activations::F16Pair), &["fuse-quantize"]);
}

#[test]
fn rounding_inside_products_keeps_every_bit() {
    let (mut folded, mut left) = (0, 0);
    for seed in 0..GRAPHS {
        let g = graph(seed);
        let activations = if seed % 2 == 0 { Activations::F16 } else { Activations::F16Pair };
        let (apart, _) = compiled(&g, activations, &["fuse-quantize-matmul"]);
        let (inside, report) = compiled(&g, activations, &[]);
        folded += report.rewrites("fuse-quantize-matmul");
        left += inside.order().iter().filter(|&&n| inside.node(n).op == OpKind::Quantize).count();
        assert_eq!(results_in::<f32>(&apart, seed), results_in::<f32>(&inside, seed), "seed {seed}, f32\n{inside}");
        assert_eq!(results(&apart, seed), results(&inside, seed), "seed {seed}, f64\n{inside}");
    }
    assert!(folded > 1000 && left == 0, "{folded} folded, {left} left");
}

#[test]
fn rounded_activations_are_near_f32_ones() {
    // Of a block's largest value, and of each value.
    near_f32(Activations::Q8, Elem::Q8, 0.01);
    near_f32(Activations::Bf16, Elem::BF16, 0.001);
    near_f32(Activations::F16, Elem::F16, 1e-5);
    near_f32(Activations::F16Pair, Elem::F16Pair, 1e-11);
}

fn near_f32(activations: Activations, elem: Elem, limit: f64) {
    let mut rounded = 0;
    for seed in 0..100 {
        let g = graph(seed);
        let (a, b) = (
            results(&compiled(&g, Activations::F32, &[]).0, seed),
            compiled(&g, activations, &["fuse-quantize-matmul"]).0,
        );
        rounded += b.order().iter().filter(|&&n| b.ty(n).elem == elem).count();
        // The logits of the first step: a block's values lose up to 1/254 of its largest, a few times over.
        let (a, b) = (&a[0], &results(&b, seed)[0]);
        let square = |v: f64| v * v;
        let error: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
        let size: f64 = a.iter().map(|a| square(*a)).sum();
        assert!(error < limit * size, "seed {seed}: {error} of {size}");
    }
    assert!(rounded > 0);
}

#[test]
fn products_of_f16_are_refused_for_a_cpu_and_not_taken_for_others() {
    let layout = |name: &str| FormatSet::builtin().get(name).map(|f| Layout::of(f));
    let cx = LowerContext { layout: &layout, params: &|schedule| defaults(&schedule.space()), terms: None };
    for activations in [Activations::F16, Activations::F16Pair] {
        for (off, op) in [(&["fuse-quantize-matmul"][..], "quantize"), (&[], "matmul")] {
            let (g, _) = compiled(&graph(3), activations, off);
            let message = lower(&g, 1, &mut WeightMap::default(), &cx).map(|_| ()).unwrap_err().to_string();
            assert!(message.starts_with(op) && message.ends_with("f16 activations are for GPU targets"), "{message}");
        }
    }
}

#[test]
fn a_fused_graph_is_a_fixpoint_and_keeps_its_text() {
    for seed in 0..GRAPHS {
        let all = [Activations::Q8, Activations::Bf16, Activations::F16, Activations::F16Pair];
        let activations = all[seed as usize % all.len()];
        let (g, _) = compiled(&graph(seed), activations, &[]);
        let text = g.to_string();
        let again = parse(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(again.to_string(), text, "seed {seed}");
        let (_, report) = compiled(&g, activations, &[]);
        for row in &report.rows {
            assert_eq!(row.rewrites, 0, "seed {seed}: {} rewrites again\n{text}", row.name);
        }
    }
}

#[test]
fn passes_have_switches_reports_and_dumps() {
    let g = graph(3);
    let mut manager = PassManager::new(PassContext::f32());
    manager.off.insert("fuse-everything".into());
    let message = manager.run(&mut g.clone()).unwrap_err().to_string();
    assert!(message.contains("`fuse-everything`") && message.contains("fuse-bias, fuse-glu"), "{message}");
    manager.off = ["cse".to_string()].into();
    assert!(manager.run(&mut g.clone()).is_err(), "cse has no switch");
    manager.off = ["fuse-glu".to_string()].into();

    manager.dump = Some("after:fuse-nothing".into());
    assert!(manager.run(&mut g.clone()).unwrap_err().to_string().contains("choose-precision, fuse-bias"));
    manager.dump = Some("before".into());
    assert!(manager.run(&mut g.clone()).is_err());
    manager.dump = Some("after:dce".into());
    let mut after = g.clone();
    let report = manager.run(&mut after).unwrap();
    assert_eq!(report.dumps.iter().map(|d| d.0).collect::<Vec<_>>(), ["dce"]);
    assert!(report.dumps[0].1.starts_with("graph @random3 {"));
    assert_eq!(report.rows.len(), PIPELINE.len() - 1);
    assert!(report.rows.iter().all(|r| r.name != "fuse-glu"));
    assert!(report.rows.windows(2).all(|r| r[0].nodes.1 == r[1].nodes.0));
    assert_eq!(report.rows.last().map(|r| r.nodes.1), Some(after.order().len()));
    manager.dump = Some("all".into());
    assert_eq!(manager.run(&mut g.clone()).unwrap().dumps.len(), PIPELINE.len() - 1);

    let mut wrong = g.clone();
    wrong.set_outputs(&[]);
    assert!(manager.run(&mut wrong).unwrap_err().to_string().contains("after reading: G13"));
    assert!(wrong.order().iter().any(|&n| wrong.node(n).op == OpKind::Embed), "nothing ran");
}
