//! Attention over caches longer than a block of keys: machine code and kernel interpreter give the same bits for every
//! shape of group, window, split and tile; both agree with the graph interpreter in f64, and decode with prefill.

use std::collections::BTreeMap;
use tilewright_codegen::backend;
use tilewright_codegen::schedules::{Params, Schedule};
use tilewright_codegen::target::Target;
use tilewright_ir::graph::interp::{Interp, Tensor};
use tilewright_ir::graph::{Attrs, Dim, Elem, Graph, OpKind, RopeSpec, TensorType, Weight, attrs};
use tilewright_tests::host::{Engine, Host, RandomWeights, default_params};
use tilewright_tests::tiny::splitmix64;

const VOCAB: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    window: i64,
    softcap: f64,
}

const PLAIN: Shape = Shape { heads: 3, kv_heads: 1, head_dim: 32, window: 0, softcap: 0.0 };

/// Embedding, rotation, cache and attention: what the tokens give q, k and v is random.
fn graph(s: Shape) -> Graph {
    let mut g = Graph::new("attention");
    let inv_freq = (0..s.head_dim / 4).map(|i| 0.7f32.powi(i as i32)).collect();
    g.rope.push(RopeSpec { inv_freq, scale: 1.0 });
    let tokens = g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
    let pos = g.input("pos", TensorType::new(Elem::I32, [Dim::T]));
    let kv = g.input("kv.0", TensorType::new(Elem::Kv, [Dim::N(s.kv_heads), Dim::N(s.head_dim)]));
    let (q, k) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let table = g.weight(Weight::of("embd", "f32", &[VOCAB, q + 2 * k]));
    let op = |g: &mut Graph, kind, on: &[_], a: Attrs| g.push(kind, on, a).expect("well-typed");
    let x = op(&mut g, OpKind::Embed, &[tokens, table], attrs([]));
    let x = op(&mut g, OpKind::Scale, &[x], attrs([("by", 3.0.into())]));
    let mut slice = |start: u64, len: u64| {
        let a = attrs([("start", (start as i64).into()), ("len", (len as i64).into())]);
        op(&mut g, OpKind::Slice, &[x], a)
    };
    let (qx, kx, vx) = (slice(0, q), slice(q, k), slice(q + k, k));
    let angles = op(&mut g, OpKind::RopeAngles, &[pos], attrs([]));
    let rope = |heads: u64| attrs([("heads", (heads as i64).into()), ("style", "half".into())]);
    let qx = op(&mut g, OpKind::Rope, &[qx, angles], rope(s.heads));
    let kx = op(&mut g, OpKind::Rope, &[kx, angles], rope(s.kv_heads));
    let kv = op(&mut g, OpKind::KvWrite, &[kv, kx, vx, pos], attrs([]));
    let how = attrs([
        ("heads", (s.heads as i64).into()),
        ("scale", (1.0 / (s.head_dim as f64).sqrt()).into()),
        ("window", s.window.into()),
        ("softcap", s.softcap.into()),
    ]);
    let y = op(&mut g, OpKind::Attention, &[qx, kv, pos], how);
    g.set_outputs(&[y]);
    g
}

/// The defaults but for some parameters of attention.
fn with(set: &[(&'static str, i64)]) -> impl Fn(&dyn Schedule) -> Params {
    let set: BTreeMap<_, _> = set.iter().copied().collect();
    move |s| {
        let mut p = default_params(s);
        for axis in s.space() {
            if let Some(&v) = set.get(axis.name) {
                assert!(axis.values.contains(&v), "{} has no {} = {v}", s.signature(), axis.name);
                p.insert(axis.name, v);
            }
        }
        p
    }
}

fn ids(seed: u64, n: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (splitmix64(seed ^ i << 20) % VOCAB) as u32).collect()
}

/// Runs steps of so many tokens in the graph interpreter and in the two engines; a negative step forgets so many
/// positions. Returns the rows of the kernels.
fn check(s: Shape, max_tokens: u32, set: &[(&'static str, i64)], steps: &[i64], seed: u64) -> Vec<Vec<f32>> {
    let what = format!("{s:?} max_tokens {max_tokens} {set:?} seed {seed:#x}");
    let g = graph(s);
    let weights = RandomWeights::for_graph(&g, seed);
    let mut oracle = Interp::<f64>::new(&g, &weights).unwrap_or_else(|e| panic!("{what}: {e}"));
    let all: i64 = steps.iter().filter(|&&n| n > 0).sum();
    let pick = with(set);
    let host = |engine| Host::new(&g, &weights, max_tokens, all as usize, engine, &pick).expect("a host");
    let mut interp = host(Engine::Interp);
    let target = Target::detect().expect("a target");
    let mut jit = host(Engine::Jit(backend::all()[0], target));
    let mut stream = ids(seed, all as usize).into_iter();
    let mut out = vec![];
    for &step in steps {
        if step < 0 {
            let to = oracle.position() - step.unsigned_abs() as usize;
            oracle.truncate(to);
            interp.truncate(to);
            jit.truncate(to);
            continue;
        }
        let tokens: Vec<u32> = stream.by_ref().take(step as usize).collect();
        let want = match oracle.run(&tokens).unwrap_or_else(|e| panic!("{what}: {e}")).remove(0) {
            Tensor::F { data, .. } => data,
            _ => panic!("{what}: no rows"),
        };
        let mut got = vec![];
        for piece in tokens.chunks(max_tokens as usize) {
            let rows = interp.run(piece).unwrap_or_else(|e| panic!("{what}: {e}"));
            let same = jit.run(piece).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(rows.iter().zip(&same).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: engines differ");
            got.extend(rows);
        }
        let at = oracle.position();
        for (i, (&a, &b)) in got.iter().zip(&want).enumerate() {
            // Values are in -3..3.
            assert!((f64::from(a) - b).abs() < 2e-5, "{what}: element {i} up to position {at}: {a}, not {b}");
        }
        let width = (s.heads * s.head_dim) as usize;
        out.extend(got.chunks(width).map(<[f32]>::to_vec));
    }
    out
}

#[test]
fn decode_beyond_a_block_of_keys() {
    for (splits, keys, lanes) in [(1, 32, 16), (2, 32, 8), (4, 32, 4), (8, 32, 16), (4, 128, 16)] {
        let set = [("splits", splits), ("keys", keys), ("lanes", lanes)];
        check(PLAIN, 1, &set, &[150, 1, 1], 7 + splits as u64);
    }
}

#[test]
fn groups_of_any_size() {
    for (i, (heads, kv_heads)) in [(2, 2), (6, 2), (7, 1), (9, 1), (17, 1), (8, 4)].into_iter().enumerate() {
        let s = Shape { heads, kv_heads, head_dim: 16, ..PLAIN };
        check(s, 1, &[("keys", 32)], &[70], 20 + i as u64);
        check(s, 16, &[("keys", 32)], &[16, 16, 16, 11], 30 + i as u64);
    }
}

#[test]
fn heads_that_no_wide_vector_divides() {
    for (i, head_dim) in [4, 8, 12, 20, 48, 80, 128].into_iter().enumerate() {
        let s = Shape { head_dim, ..PLAIN };
        for lanes in [16, 8, 4] {
            check(s, 1, &[("lanes", lanes), ("keys", 32)], &[40], 40 + i as u64);
            check(s, 8, &[("lanes", lanes), ("keys", 32)], &[37], 50 + i as u64);
        }
    }
}

#[test]
fn windows_and_soft_caps() {
    for (i, window) in [1, 3, 16, 17, 33, 64, 90].into_iter().enumerate() {
        let s = Shape { window, softcap: if i % 2 == 0 { 2.0 } else { 0.0 }, ..PLAIN };
        for splits in [1, 4] {
            check(s, 1, &[("splits", splits), ("keys", 32)], &[100], 60 + i as u64);
        }
        for tokens in [8, 2] {
            check(s, 24, &[("tokens", tokens), ("keys", 32)], &[24, 24, 24, 5, 24], 70 + i as u64);
        }
    }
}

#[test]
fn ragged_tiles() {
    for tokens in [8, 4, 2, 1] {
        let steps: Vec<i64> = (1..=13).collect();
        check(PLAIN, 13, &[("tokens", tokens), ("keys", 32)], &steps, 80 + tokens as u64);
    }
}

/// What lies in the cache behind the position is of the past and must not be seen.
#[test]
fn after_forgetting() {
    for window in [0, 20] {
        let s = Shape { window, ..PLAIN };
        check(s, 1, &[("keys", 32)], &[60, -25, 3, -1, 20, -50, 9], 90);
        check(s, 16, &[("keys", 32)], &[16, 16, 16, -25, 3, -1, 16, -35, 9, 1], 91);
    }
}

#[test]
fn decode_agrees_with_prefill() {
    let steps = [16, 16, 16, 16, 3];
    let one = check(PLAIN, 1, &[("keys", 32)], &steps, 100);
    let many = check(PLAIN, 16, &[("keys", 32)], &steps, 100);
    assert_eq!(one.len(), 67);
    for (i, (a, b)) in one.iter().zip(&many).enumerate() {
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-5, "position {i}: decode and prefill differ by {off}");
    }
}
