//! Attention against its definition.

use super::super::super as cpu;
use super::super::Attention;
use super::*;
use tilewright_ir::kernel::{Block, Opcode};
use tilewright_ptx_emu::FaultKind;

struct Shape {
    heads: u64,
    kv_heads: u64,
    hd: u64,
    tokens: u64,
    max_tokens: u32,
    past: u64,
    window: u64,
    softcap: f32,
    prep: HeadPrep,
}

/// The squared error by squared size of all results; the largest of all runs.
fn error(shape: &Shape, changes: &[(&'static str, i64)]) -> f64 {
    let mut r = Random::new();
    let &Shape { heads, kv_heads, hd, tokens, max_tokens, past, window, softcap, prep } = shape;
    let capacity = (past + tokens + r.below(40)).next_multiple_of(16);
    let width = heads * hd;
    let (q_stride, out_stride) = ((width * 4).next_multiple_of(64) + 64, (width * 4).next_multiple_of(64));
    let scale = 1.0 / (hd as f32).sqrt();
    let op = cpu::Attention {
        heads,
        kv_heads,
        head_dim: hd,
        q_stride,
        prep,
        scale,
        window,
        softcap,
        out_stride: Some(out_stride),
        max_tokens,
    };
    let s = Attention::new(op, 1).unwrap();
    let p = params(&s, changes);
    let q: Vec<Vec<f32>> = (0..max_tokens).map(|_| r.floats(width, 2.0)).collect();
    let (args, angles, gamma) = prep_data(prep, hd, max_tokens.into(), &mut r);
    let live = past + tokens;
    // What nobody wrote to the cache is no number.
    let mut cache = || -> Vec<u8> {
        let rows = (0..kv_heads).flat_map(|_| 0..capacity);
        let halves = rows.flat_map(|p| std::iter::repeat_n(p < live, hd as usize)).collect::<Vec<bool>>();
        halves.iter().flat_map(|live| if *live { f16::from_f64(r.normal()) } else { f16::NAN }.to_le_bytes()).collect()
    };
    let (k, v) = (cache(), cache());
    let out = r.garbage(out_stride * u64::from(max_tokens));
    let mut buffers = [vec![strided(&q, q_stride), k.clone(), v.clone()], args, vec![out]].concat();
    let at = buffers.len() - 1;
    let counters = s.counters_bytes(&p);
    if counters > 0 {
        buffers.extend([vec![0xff; s.parts_bytes(&p) as usize], vec![0; counters as usize]]);
    }
    let runs = run(&s, &p, &buffers, &[tokens, past, capacity].map(|n| n as i64), &mut r);
    let who = format!("seed {}, {} {p:?}", r.seed, s.signature());
    let end = (out_stride * tokens) as usize;
    for got in &runs {
        assert!(counters == 0 || got[at + 2].iter().all(|b| *b == 0), "{who}: counters are left");
        assert!(got[at][end..] == buffers[at][end..], "{who}: wrote behind its rows");
    }

    let (k, v) = (halves(&k), halves(&v));
    let mut want = vec![];
    for t in 0..tokens {
        for head in 0..heads {
            let x = &q[t as usize][(head * hd) as usize..][..hd as usize];
            let x = prepared(prep, x, &angles[t as usize], &gamma);
            let row = |p: u64| {
                let first = ((head / (heads / kv_heads) * capacity + p) * hd) as usize;
                first..first + hd as usize
            };
            let end = past + t + 1;
            let begin = if window > 0 { end.saturating_sub(window) } else { 0 };
            let score = |p: u64| {
                let s = x.iter().zip(&k[row(p)]).map(|(a, b)| a * b).sum::<f64>() * f64::from(scale);
                let cap = f64::from(softcap);
                if softcap > 0.0 { cap * (s / cap).tanh() } else { s }
            };
            let scores: Vec<f64> = (begin..end).map(score).collect();
            let top = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let all: f64 = weights.iter().sum();
            let mut sum = vec![0.0; hd as usize];
            for (p, w) in (begin..end).zip(&weights) {
                sum.iter_mut().zip(&v[row(p)]).for_each(|(s, v)| *s += w / all * v);
            }
            want.extend(sum);
        }
    }
    let of = |out: &[Vec<u8>]| nmse(&rows_of(&out[at], width, out_stride).concat()[..want.len()], &want);
    let errors: Vec<f64> = runs.iter().map(|out| of(out)).collect();
    assert!(errors.iter().all(|e| e.is_finite()), "{who}: nmse {errors:?}");
    errors.into_iter().fold(0.0, f64::max)
}

/// Largest error with one term, and with two.
const LIMITS: [(i64, f64); 2] = [(1, 4e-7), (2, 3e-12)];

/// Now and then (once in 480 heads) a softmax makes more of the roundings than that: of the errors of two draws one has to
/// keep the limit, and neither may be far from it.
fn check(shape: &Shape, changes: &[(&'static str, i64)]) {
    for (terms, limit) in LIMITS {
        let changes = [changes, &[("terms", terms)]].concat();
        let e = [(); 2].map(|()| error(shape, &changes));
        assert!(e[0].min(e[1]) < limit && e[0].max(e[1]) < 4.0 * limit, "nmse {e:?} of {limit:e}, {changes:?}");
    }
}

fn shape(heads: u64, kv_heads: u64, hd: u64) -> Shape {
    let prep = HeadPrep::default();
    Shape { heads, kv_heads, hd, tokens: 1, max_tokens: 1, past: 100, window: 0, softcap: 0.0, prep }
}

fn rope(hd: u64) -> HeadPrep {
    HeadPrep { norm: Some(1e-6), rope: Some((hd / 2, RopeStyle::Half)) }
}

#[test]
fn one_token() {
    // No position before; fewer than a tile; one more than tiles; a window; a cap; parts without keys.
    check(&Shape { past: 0, ..shape(3, 1, 64) }, &[("splits", 8)]);
    check(&Shape { past: 200, prep: rope(64), ..shape(9, 3, 64) }, &[("splits", 4), ("keys", 32)]);
    check(&Shape { past: 128, ..shape(4, 2, 128) }, &[("splits", 2), ("key_warps", 2), ("stages", 3)]);
    check(&Shape { past: 150, window: 40, ..shape(7, 1, 72) }, &[("splits", 8), ("keys", 32)]);
    check(&Shape { past: 90, softcap: 5.0, ..shape(2, 2, 80) }, &[("splits", 4), ("key_warps", 1), ("keys", 16)]);
    check(&Shape { past: 50, ..shape(20, 1, 8) }, &[("splits", 64), ("row_warps", 1)]);
}

#[test]
fn many_tokens() {
    check(&Shape { tokens: 9, max_tokens: 12, past: 0, prep: rope(64), ..shape(9, 3, 64) }, &[("splits", 2)]);
    check(
        &Shape { tokens: 33, max_tokens: 40, past: 61, ..shape(2, 2, 40) },
        &[("row_warps", 2), ("keys", 32), ("splits", 1)],
    );
    check(
        &Shape { tokens: 20, max_tokens: 20, past: 70, window: 33, ..shape(4, 1, 48) },
        &[("stages", 3), ("splits", 2)],
    );
    let prep = HeadPrep { norm: None, rope: Some((20, RopeStyle::Interleaved)) };
    check(&Shape { tokens: 5, max_tokens: 8, past: 30, prep, softcap: 20.0, ..shape(14, 2, 96) }, &[("splits", 2)]);
}

#[test]
fn large_heads() {
    check(&Shape { past: 70, prep: rope(256), ..shape(2, 1, 256) }, &[("splits", 2)]);
    check(
        &Shape { tokens: 17, max_tokens: 17, past: 20, ..shape(1, 1, 200) },
        &[("keys", 128), ("stages", 3), ("splits", 1)],
    );
}

#[test]
fn what_there_is_no_kernel_for() {
    let op = |hd, out_stride| cpu::Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: hd,
        q_stride: 4096,
        prep: HeadPrep::default(),
        scale: 1.0,
        window: 0,
        softcap: 0.0,
        out_stride,
        max_tokens: 1,
    };
    assert!(Attention::new(op(64, Some(4096)), 1).is_ok());
    for bad in [op(64, None), op(12, Some(4096)), op(264, Some(4096))] {
        assert!(!Attention::new(bad, 1).unwrap_err().is_empty());
    }
}

/// The block without any `op`.
fn without(block: &mut Block, op: Opcode) {
    block.insts.retain(|i| i.op != op);
    block.insts.iter_mut().flat_map(|i| &mut i.blocks).for_each(|b| without(b, op));
}

#[test]
fn what_it_waits_for_is_needed() {
    let mut r = Random::new();
    let op = cpu::Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        q_stride: 1024,
        prep: HeadPrep::default(),
        scale: 0.1,
        window: 0,
        softcap: 0.0,
        out_stride: Some(1024),
        max_tokens: 1,
    };
    let s = Attention::new(op, 1).unwrap();
    let p = params(&s, &[("splits", 2), ("keys", 32)]);
    let cache = |r: &mut Random| (0..2 * 256 * 64).flat_map(|_| f16::from_f64(r.normal()).to_le_bytes()).collect();
    let mut buffers = vec![bytes(&r.floats(256, 1.0)), cache(&mut r), cache(&mut r), vec![0; 1024]];
    buffers.extend([s.parts_bytes(&p), s.counters_bytes(&p)].map(|n| vec![0; n as usize]));
    // Who does not wait at a barrier reads beside the one who writes, or, in some orders of warps, before it.
    let cases: [(Option<Opcode>, &[FaultKind]); 4] = [
        (None, &[]),
        (Some(Opcode::Barrier), &[FaultKind::Race, FaultKind::Uninitialised]),
        (Some(Opcode::CopyWait), &[FaultKind::MissingWait]),
        (Some(Opcode::WaitPrior), &[FaultKind::DependencyWait]),
    ];
    for (op, kinds) in cases {
        let mut kernel = s.build("k", &p);
        if let Some(op) = op {
            without(&mut kernel.body, op);
        }
        let text = Ptx.object(std::slice::from_ref(&kernel), &Target::get("sm_90").unwrap()).unwrap();
        let module = Module::parse(&String::from_utf8(text).unwrap()).unwrap();
        let options = Options { seed: r.next(), ..Options::default() };
        let out = emulate(&kernel, &module, s.chunks(&p), &buffers, &[1, 150, 256], &options);
        let found = out.err().map(|e| e.kind);
        let right = found.map_or(kinds.is_empty(), |kind| kinds.contains(&kind));
        assert!(right, "seed {}, without {op:?}: {found:?}", r.seed);
    }
}

/// Memory that is laid out by the defaults suffices for every point that tuning may choose, and is for all tokens together.
#[test]
fn scratch_of_any_point() {
    let op = cpu::Attention {
        heads: 4,
        kv_heads: 4,
        head_dim: 96,
        q_stride: 1536,
        prep: HeadPrep::default(),
        scale: 0.1,
        window: 0,
        softcap: 0.0,
        out_stride: Some(1536),
        max_tokens: 64,
    };
    let s = Attention::new(op, 1).unwrap();
    let p = params(&s, &[]);
    let given = s.counters_bytes(&p);
    for row_warps in [1, 2] {
        let p = params(&s, &[("row_warps", row_warps)]);
        assert!(u64::from(s.chunks(&p)) * 4 <= given * p["splits"] as u64, "{p:?}");
        assert_eq!((s.parts_bytes(&p), s.counters_bytes(&p)), (s.parts_bytes(&params(&s, &[])), given));
    }
    let [.., parts, counters] = &s.operands().pointers[..] else { panic!("no scratch") };
    assert_eq!([parts, counters].map(|o| o.data.bytes(64, 128)), [s.parts_bytes(&p), given]);
}
