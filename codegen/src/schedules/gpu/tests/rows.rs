//! Row-wise operations, cache writes and rounding.

use super::super::super::{self as cpu, Activation, RowwiseOp};
use super::super::{F16Rows, KvWrite, Round, Rowwise};
use super::*;

/// Tokens of a run, of the most there could be.
const TOKENS: u64 = 3;
const MAX_TOKENS: u32 = 4;

fn rowwise(op: RowwiseOp, width: u64, threads: i64) {
    let mut r = Random::new();
    let stride = |n: u64| (n * 4).next_multiple_of(64);
    let source = if let RowwiseOp::Slice(start) = op { width + start } else { width };
    let (x_stride, out_stride) = (stride(source) + 64, stride(width));
    let y_stride = stride(width) + 128;
    let op = match op {
        RowwiseOp::Mul(_) => RowwiseOp::Mul(y_stride),
        RowwiseOp::Add(s) if s > 0 => RowwiseOp::Add(y_stride),
        op => op,
    };
    let x: Vec<Vec<f32>> = (0..MAX_TOKENS).map(|_| r.floats(source, 3.0)).collect();
    let y: Vec<Vec<f32>> = (0..MAX_TOKENS).map(|_| r.floats(width, 1.0)).collect();
    let f = |f: &dyn Fn(f64) -> f64, x: &[f32]| -> Vec<f64> { x.iter().map(|&v| f(f64::from(v))).collect() };
    let with = |f: &dyn Fn(f64, f64) -> f64, x: &[f32], y: &[f32]| -> Vec<f64> {
        x.iter().zip(y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).collect()
    };
    let mut second = match op {
        RowwiseOp::RmsNorm { group, .. } => vec![bytes(&y[0][..group as usize])],
        RowwiseOp::Add(0) => vec![bytes(&y[0])],
        RowwiseOp::Add(_) | RowwiseOp::Mul(_) => vec![strided(&y, y_stride)],
        _ => vec![],
    };
    let mut angles = vec![];
    if let RowwiseOp::Rope { pairs, style, .. } = op {
        let prep = HeadPrep { norm: None, rope: Some((pairs, style)) };
        (second, angles, _) = prep_data(prep, 8, MAX_TOKENS.into(), &mut r);
    }
    let want = |t: usize| -> Vec<f64> {
        let (x, y0) = (&x[t][..], &y[0][..]);
        match op {
            RowwiseOp::RmsNorm { group, eps } => {
                let prep = HeadPrep { norm: Some(eps), rope: None };
                x.chunks(group as usize).flat_map(|x| prepared(prep, x, &[], y0)).collect()
            }
            RowwiseOp::Add(0) => with(&|x, y| x + y, x, y0),
            RowwiseOp::Add(_) => with(&|x, y| x + y, x, &y[t]),
            RowwiseOp::Mul(_) => with(&|x, y| x * y, x, &y[t]),
            RowwiseOp::Scale(k) => f(&|x| x * f64::from(k), x),
            RowwiseOp::Softcap(c) => f(&|x| f64::from(c) * (x / f64::from(c)).tanh(), x),
            RowwiseOp::Act(Activation::Silu) => f(&|x| x / (1.0 + (-x).exp()), x),
            RowwiseOp::Act(Activation::GeluTanh) => {
                let k = (2.0 / std::f64::consts::PI).sqrt();
                f(&|x| x / 2.0 * (1.0 + (k * (x + 0.044715 * x.powi(3))).tanh()), x)
            }
            RowwiseOp::Slice(start) => f(&|x| x, &x[start as usize..]),
            RowwiseOp::Rope { heads, pairs, style } => {
                let prep = HeadPrep { norm: None, rope: Some((pairs, style)) };
                x.chunks((width / heads) as usize).flat_map(|x| prepared(prep, x, &angles[t], &[])).collect()
            }
            RowwiseOp::Argmax => unreachable!("has a test of its own"),
        }
    };
    let s = Rowwise(cpu::Rowwise { op: op.clone(), width, x_stride, out_stride, max_tokens: MAX_TOKENS });
    let before = r.garbage(out_stride * u64::from(MAX_TOKENS));
    let buffers = [vec![strided(&x, x_stride)], second, vec![before.clone()]].concat();
    for mut out in run(&s, &params(&s, &[("threads", threads)]), &buffers, &[TOKENS as i64], &mut r) {
        let out = out.pop().unwrap();
        for (t, got) in rows_of(&out, width, out_stride).iter().enumerate().take(TOKENS as usize) {
            let e = nmse(got, &want(t));
            assert!(e < 1e-13, "seed {}, {}, token {t}: nmse {e}", r.seed, s.signature());
        }
        let end = (out_stride * TOKENS) as usize;
        assert!(out[end..] == before[end..], "seed {}, {}: wrote behind its rows", r.seed, s.signature());
    }
}

#[test]
fn row_by_row() {
    for (width, threads) in [(576, 256), (40, 128), (1030, 256), (77, 64), (2080, 32)] {
        for op in [
            RowwiseOp::RmsNorm { group: width, eps: 1e-5 },
            RowwiseOp::Add(0),
            RowwiseOp::Add(64),
            RowwiseOp::Mul(64),
            RowwiseOp::Scale(0.3),
            RowwiseOp::Softcap(2.5),
            RowwiseOp::Act(Activation::Silu),
            RowwiseOp::Act(Activation::GeluTanh),
            RowwiseOp::Slice(16),
            RowwiseOp::Slice(3),
        ] {
            rowwise(op, width, threads);
        }
    }
    for (width, group) in [(576, 64), (240, 80), (35, 7)] {
        rowwise(RowwiseOp::RmsNorm { group, eps: 1e-6 }, width, 128);
    }
    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
        for (width, heads, pairs) in [(576, 9, 32), (240, 3, 20), (72, 1, 13), (512, 4, 64)] {
            rowwise(RowwiseOp::Rope { heads, pairs, style }, width, 64);
        }
    }
}

#[test]
fn likeliest_of_a_row() {
    for width in [1u64, 33, 1000, 4097] {
        let mut r = Random::new();
        let x_stride = (width * 4).next_multiple_of(64);
        let mut x: Vec<Vec<f32>> = (0..MAX_TOKENS).map(|_| logits(width, &mut r)).collect();
        x[1].fill(f32::NAN);
        let s =
            Rowwise(cpu::Rowwise { op: RowwiseOp::Argmax, width, x_stride, out_stride: 64, max_tokens: MAX_TOKENS });
        let buffers = [strided(&x, x_stride), r.garbage(64 * u64::from(MAX_TOKENS))];
        for mut out in run(&s, &params(&s, &[]), &buffers, &[TOKENS as i64], &mut r) {
            let out = out.pop().unwrap();
            for t in 0..TOKENS as usize {
                let got = i32::from_le_bytes(out[64 * t..64 * t + 4].try_into().unwrap());
                assert_eq!(got, first_largest(&x[t]), "seed {}, width {width}, token {t}", r.seed);
            }
        }
    }
}

/// Few different values, so that the largest is there more than once, and some that are no numbers.
fn logits(n: u64, r: &mut Random) -> Vec<f32> {
    let mut one = || match r.below(16) {
        0 => f32::NAN,
        1 => f32::NEG_INFINITY,
        _ => r.below(n.min(40)) as f32 - 20.0,
    };
    (0..n).map(|_| one()).collect()
}

fn first_largest(x: &[f32]) -> i32 {
    let mut best = (f32::MIN, 0);
    for (i, &v) in x.iter().enumerate() {
        if v > best.0 {
            best = (v, i as i32);
        }
    }
    best.1
}

fn preps(hd: u64) -> Vec<HeadPrep> {
    let mut all = vec![HeadPrep::default()];
    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
        all.push(HeadPrep { norm: None, rope: Some((hd / 2, style)) });
        all.push(HeadPrep { norm: Some(1e-6), rope: Some((hd / 4, style)) });
    }
    all
}

#[test]
fn new_keys_and_values() {
    for (heads, hd, threads) in [(3, 64, 128), (1, 80, 32), (2, 128, 64), (5, 8, 128), (2, 72, 32), (1, 256, 32)] {
        for prep in preps(hd) {
            let mut r = Random::new();
            let (capacity, past) = (16, r.below(12));
            let stride = (heads * hd * 4).next_multiple_of(64);
            let [k, v] = [0, 1].map(|_| (0..MAX_TOKENS).map(|_| r.floats(heads * hd, 2.0)).collect::<Vec<_>>());
            let (args, angles, gamma) = prep_data(prep, hd, MAX_TOKENS.into(), &mut r);
            let caches = [0, 1].map(|_| r.garbage(heads * capacity * hd * 2));
            let (k_stride, v_stride) = (stride, stride + 64);
            let s = KvWrite(cpu::KvWrite { heads, head_dim: hd, k_stride, v_stride, prep, max_tokens: MAX_TOKENS });
            let rows = vec![strided(&k, k_stride), strided(&v, v_stride)];
            let buffers = [caches.to_vec(), rows, args].concat();
            let scalars = [TOKENS, past, capacity].map(|n| n as i64);
            let check = |r: &Random, out: Vec<Vec<u8>>| {
                for (i, (rows, prep)) in [(&k, prep), (&v, HeadPrep::default())].into_iter().enumerate() {
                    for (p, got) in out[i].chunks(hd as usize * 2).enumerate() {
                        let (head, position) = (p as u64 / capacity, p as u64 % capacity);
                        let who = format!("seed {}, {}, head {head} at {position}", r.seed, s.signature());
                        if !(past..past + TOKENS).contains(&position) {
                            assert_eq!(got, &caches[i][p * hd as usize * 2..][..hd as usize * 2], "{who}");
                            continue;
                        }
                        let t = (position - past) as usize;
                        let x = &rows[t][(head * hd) as usize..][..hd as usize];
                        let want = prepared(prep, x, &angles[t], &gamma);
                        // Half of the last of 11 digits; where pairs turn, also what f32 loses when large values cancel.
                        let most = want.iter().fold(0.0, |most: f64, w| most.max(w.abs()));
                        let lost = if prep.rope.is_some() { most * 2f64.powi(-22) } else { 0.0 };
                        for (g, w) in halves(got).iter().zip(&want) {
                            let limit = w.abs() / 2047.0 + 3e-8 + lost;
                            assert!((g - w).abs() <= limit, "{who}: {g} instead of {w}");
                        }
                    }
                }
            };
            let runs = run(&s, &params(&s, &[("threads", threads)]), &buffers, &scalars, &mut r);
            runs.into_iter().for_each(|out| check(&r, out));
        }
    }
}

#[test]
fn rounded_rows() {
    for (width, size) in [(576u64, 1.0), (64, 1e20), (41, 1e-3), (4100, 40.0), (66, 1e-42), (8, 0.0)] {
        for (terms, norm) in [(1, None), (2, None), (1, Some(1e-5)), (2, Some(1e-5))] {
            let mut r = Random::new();
            let x_stride = (width * 4).next_multiple_of(64);
            let mut x: Vec<Vec<f32>> = (0..MAX_TOKENS).map(|_| r.floats(width, size)).collect();
            if norm.is_some() && !(1e-10..1e10).contains(&size) {
                continue;
            }
            // One far larger than the others, as activations have them.
            x[1][width as usize / 2] *= 1e3;
            x[2].fill(0.0);
            let gamma = r.floats(width, 1.0);
            let s = Round { width, x_stride, norm, terms, max_tokens: MAX_TOKENS };
            let rows: F16Rows = s.rows();
            let before = r.garbage(rows.bytes() * u64::from(MAX_TOKENS));
            let mut buffers = vec![strided(&x, x_stride)];
            buffers.extend(norm.map(|_| bytes(&gamma)));
            buffers.push(before.clone());
            let outs = run(&s, &params(&s, &[]), &buffers, &[TOKENS as i64], &mut r);
            let outs = outs.iter().filter_map(|o| o.last());
            for (t, got) in outs.flat_map(|out| out.chunks(rows.bytes() as usize).enumerate()) {
                let who = format!("seed {}, {}, token {t}", r.seed, s.signature());
                let mut want = before[t * got.len()..][..got.len()].to_vec();
                if t >= TOKENS as usize {
                    assert!(got == want, "{who}: wrote behind its rows");
                    continue;
                }
                let prep = HeadPrep { norm, rope: None };
                let exact = prepared(prep, &x[t], &[], &gamma);
                if norm.is_none() {
                    rows.encode(&x[t], &mut want);
                    assert!(got == want, "{who}");
                }
                let e = nmse(&rows.decode(got), &exact);
                // Half of the last of 11 digits, or of 22, where one element is nearly all of a row.
                let limit = [2.5e-7, 2e-13][terms as usize - 1];
                assert!(e < limit || size < 1e-30, "{who}: nmse {e}");
            }
        }
    }
}
