//! Operations against values worked out by hand, fused ones against what they are made of, and the rules and the
//! robustness that no text file can show.

use super::interp::{Arg, Interp, InterpError, KvPrecision, KvState, Real, Tensor, WeightSource, eval_op};
use super::random::{RandomWeights, random_graph};
use super::{Graph, OpKind, Part, Q8_BLOCK, TensorType, Weight, parse, verify};

struct Given<'a>(&'a [(&'a str, &'a [f32])]);

impl WeightSource for Given<'_> {
    fn load(&self, weight: &Weight) -> Result<Vec<f32>, String> {
        let found = self.0.iter().find(|w| w.0 == weight.name);
        found.map(|w| w.1.to_vec()).ok_or_else(|| "is not given".into())
    }
}

/// `body` with inputs `x` (f32) and `pos`; the last line is `%y`, the output.
fn graph(body: &str, width: usize) -> Graph {
    let text = format!("graph @g {{ %pos = input : i32[T] %x = input : f32[T, {width}] {body} return %y }}");
    parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn run<R: Real>(body: &str, width: usize, x: &[f64], weights: &[(&str, &[f32])]) -> Tensor<R> {
    let g = graph(body, width);
    let x = Tensor::rows(width, x.iter().map(|&v| R::of_f64(v)).collect());
    let Tensor::F { rows, .. } = x else { unreachable!() };
    let mut interp = Interp::new(&g, &Given(weights)).unwrap();
    interp.run_with(&vec![0; rows], &[("x", x)]).unwrap().remove(0)
}

/// In f64, and in f32 with less precision.
#[track_caller]
fn gives(body: &str, width: usize, x: &[f64], weights: &[(&str, &[f32])], wanted: &[f64]) {
    let close = |got: Vec<f64>, e: f64| {
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= e * b.abs().max(1.0);
        assert!(got.len() == wanted.len() && got.iter().zip(wanted).all(near), "{got:?}, wanted {wanted:?}");
    };
    close(run::<f64>(body, width, x, weights).floats(), 1e-6);
    close(run::<f32>(body, width, x, weights).floats().iter().map(|v| f64::from(*v)).collect(), 1e-5);
}

#[test]
fn elementwise() {
    gives("%y = scale %x {by = 2.5}", 2, &[1.0, -2.0], &[], &[2.5, -5.0]);
    gives("%y = softcap %x {cap = 2}", 2, &[2.0, -100.0], &[], &[2.0 * 1f64.tanh(), -2.0]);
    gives("%y = act %x", 3, &[0.0, 1.0, -2.0], &[], &[0.0, 0.731058579, -0.238405844]);
    gives("%y = act %x {fn = gelu_tanh}", 2, &[1.0, -1.0], &[], &[0.841191991, -0.158808009]);
    gives("%y = add %x, %x", 2, &[1.0, 2.0], &[], &[2.0, 4.0]);
    gives("%y = mul %x, %x", 2, &[3.0, -2.0], &[], &[9.0, 4.0]);
    let b = [("b", &[10.0, 20.0][..])];
    gives("weight @b : @f32[2] %y = add %x, @b", 2, &[1.0, 2.0, 3.0, 4.0], &b, &[11.0, 22.0, 13.0, 24.0]);
    gives("%y = slice %x {start = 1, len = 2}", 4, &[1., 2., 3., 4., 5., 6., 7., 8.], &[], &[2.0, 3.0, 6.0, 7.0]);
}

#[test]
fn rms_norm_works_on_groups() {
    let w = [("w", &[1.0, 2.0][..])];
    let body = "weight @w : @f32[2] %y = rms_norm %x, @w {eps = 0.5}";
    // mean square 12.5 + 0.5 and 0 + 0.5
    let r = 13f64.sqrt();
    gives(body, 4, &[3.0, 4.0, 0.0, 0.0], &w, &[3.0 / r, 8.0 / r, 0.0, 0.0]);
}

#[test]
fn matmul_adds_bias_and_residual() {
    let w = [("w", &[1., 2., 3., 4., 5., 6.][..]), ("b", &[100.0, 200.0][..])];
    let body = "weight @w : @f32[2, 3] weight @b : @f32[2] %r = slice %x {start = 1, len = 2}";
    let x = [1.0, 0.0, 2.0, -1.0, 1.0, 0.5];
    gives(&format!("{body} %y = matmul %x, @w"), 3, &x, &w, &[7.0, 16.0, 2.5, 4.0]);
    let all = format!("{body} %y = matmul %x, @w, @b, %r {{bias, residual}}");
    gives(&all, 3, &x, &w, &[107.0, 218.0, 103.5, 204.5]);
}

#[test]
fn embed_takes_rows() {
    let text = "graph @g { weight @e : @f32[3, 2] %tokens = input : i32[T] %y = embed %tokens, @e return %y }";
    let mut interp = Interp::<f32>::new(&parse(text).unwrap(), &Given(&[("e", &[1., 2., 3., 4., 5., 6.])])).unwrap();
    assert_eq!(interp.run(&[2, 0]).unwrap()[0].floats(), [5.0, 6.0, 1.0, 2.0]);
    for bad in [3, u32::MAX] {
        assert!(interp.run(&[0, bad]).unwrap_err().to_string().contains("is not in the table"));
    }
    assert_eq!(interp.position(), 2);
}

#[test]
fn quantize_rounds_halves_to_even() {
    let mut x = vec![0.0; 96];
    x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -1.5, -126.6]);
    x[64] = -2.0;
    let Tensor::Q8 { codes, scales, .. } = run::<f32>("%y = quantize %x", 96, &x, &[]) else { panic!() };
    assert_eq!(codes[..7], [127, 0, 2, 2, -2, -127, 0]);
    let block = Q8_BLOCK as usize;
    assert_eq!((scales[0], scales[32 / block], scales[64 / block]), (1.0, 0.0, 2.0 / 127.0));
    assert!(codes[32..64].iter().all(|&c| c == 0) && codes[64] == -127);
    // A product reads code * scale.
    let w = [1.0; 32];
    let body = "weight @w : @f32[1, 32] %q = quantize %x %y = matmul %q, @w";
    gives(body, 32, &x[..32], &[("w", &w)], &[2.0]);
}

#[test]
fn rows_of_f16_have_a_scale_each_and_meet_exact_weights() {
    // In units of the first row's scale, 2^-12: 8192, 1 + 2^-11 (a tie), 1 + 3 * 2^-11 (a tie), 2^-25 (a tie).
    let (unit, bit) = (2f64.powi(-12), 2f64.powi(-11));
    let row = [8192.0, 1.0 + bit, -1.0 - 3.0 * bit, 2f64.powi(-25)];
    let x: Vec<f64> = row.iter().map(|v| v * unit).chain(row.iter().map(|v| v * 64.0)).collect();
    let one = [2.0, unit, -unit * (1.0 + 4.0 * bit), 0.0];
    let wanted: Vec<f64> = one.iter().copied().chain(one.iter().map(|v| v / unit * 64.0)).collect();
    gives("%y = quantize %x {to = f16}", 4, &x, &[], &wanted);
    // What the first term lost is in the second, but not what lies below the smallest f16.
    let both: Vec<f64> = x.iter().enumerate().map(|(i, &v)| if i % 4 == 3 { 0.0 } else { v }).collect();
    let Tensor::F { data, .. } = run::<f32>("%y = quantize %x {to = f16x2}", 4, &x, &[]) else { panic!() };
    assert_eq!(data, both.iter().map(|&v| v as f32).collect::<Vec<_>>());
    // A product of bf16 rounds this weight to 1; its rows are whole blocks of 32.
    let w = 1.0 + 2f32.powi(-20);
    for (to, n, wanted) in [("f16", 3, f64::from(w)), ("f16x2", 3, f64::from(w)), ("bf16", 32, 1.0)] {
        let first = |v: f64| (0..n).map(|i| if i == 0 { v } else { 0.0 }).collect::<Vec<_>>();
        let weights: Vec<f32> = first(w.into()).iter().map(|&v| v as f32).collect();
        let body = format!("weight @w : @f32[1, {n}] %q = quantize %x {{to = {to}}} %y = matmul %q, @w");
        assert_eq!(run::<f64>(&body, n, &first(2.0), &[("w", &weights)]).floats(), [2.0 * wanted], "{to}");
    }
}

#[test]
fn rope_turns_pairs() {
    // Position 0, then 1: a quarter turn for the first pair, none for the second.
    let rope = "rope 0 = scale 1.0 [1.5707963267948966, 0.0] %a = rope_angles %pos";
    let x = [1., 2., 3., 4., 1., 2., 3., 4.];
    let half = [1., 2., 3., 4., -3., 2., 1., 4.];
    let interleaved = [1., 2., 3., 4., -2., 1., 3., 4.];
    gives(&format!("{rope} %y = rope %x, %a {{heads = 1}}"), 4, &x, &[], &half);
    gives(&format!("{rope} %y = rope %x, %a {{heads = 1, style = interleaved}}"), 4, &x, &[], &interleaved);
    // One pair for heads of 4: the rest stays. The scale is on cosines and sines.
    let partial = "rope 0 = scale 2.0 [1.5707963267948966] %a = rope_angles %pos %y = rope %x, %a {heads = 1}";
    gives(partial, 4, &x, &[], &[2., 4., 3., 4., -4., 2., 3., 4.]);
}

#[test]
fn attention_weighs_what_it_may_see() {
    let body = |kv: &str, attention: &str| {
        format!(
            "%k = slice %x {{start = 0, len = 2}} %v = slice %x {{start = 2, len = 2}}
             %kv.0 = input : kv[{kv}] %kv = kv_write %kv.0, %k, %v, %pos
             %q = slice %x {{start = 4, len = 4}} %y = attention %q, %kv, %pos {{{attention}}}"
        )
    };
    // k, v, q: equal scores, so each token gets the mean of what it sees. Two heads share each cache head.
    let x = [0., 0., 1., 10., 9., 9., 9., 9., 0., 0., 2., 20., 9., 9., 9., 9., 0., 0., 6., 60., 9., 9., 9., 9.];
    let all = body("2, 1", "heads = 4, scale = 1");
    gives(&all, 8, &x, &[], &[1., 1., 10., 10., 1.5, 1.5, 15., 15., 3., 3., 30., 30.]);
    let window = body("2, 1", "heads = 4, scale = 1, window = 2");
    gives(&window, 8, &x, &[], &[1., 1., 10., 10., 1.5, 1.5, 15., 15., 4., 4., 40., 40.]);
    // One head of two: scores are 0 and ln 3 after the scale.
    let x = [0., 0., 4., 0., 0., 0., 0., 0., 1., 0., 8., 4., 3f64.ln() * 2.0, 0., 0., 0.];
    let f16 = body("1, 2", "heads = 2, scale = 0.5");
    gives(&f16, 8, &x, &[], &[4., 0., 4., 0., 7., 3., 6., 2.]);
    // Capped at 1: tanh of the scores.
    let (a, b) = (0f64.exp(), 3f64.ln().tanh().exp());
    let capped = body("1, 2", "heads = 2, scale = 0.5, softcap = 1");
    gives(&capped, 8, &x, &[], &[4., 0., 4., 0., (4. * a + 8. * b) / (a + b), 4. * b / (a + b), 6., 2.]);
}

#[test]
fn caches_are_f16_unless_told_otherwise() {
    let v = 1.0 + 1.0 / 4096.0;
    for (precision, wanted) in [(KvPrecision::F16, 1.0), (KvPrecision::Exact, v)] {
        let mut kv = KvState::<f64>::new(1, 1, precision);
        assert!(kv.write(0, &[v], &[v]) && !kv.write(2, &[v], &[v]) && !kv.write(0, &[v, v], &[v, v]));
        assert_eq!((kv.keys(), kv.values(), kv.rows()), (&[wanted][..], &[wanted][..], 1));
    }
}

#[test]
fn argmax_takes_the_first_of_equals() {
    assert_eq!(run::<f32>("%y = argmax %x", 3, &[1., 5., 5., -1., -3., -2.], &[]), Tensor::I32(vec![1, 0]));
}

#[test]
fn fused_ops_are_what_they_are_made_of() {
    let head = "rope 0 = scale 1.0 [1.0, 0.3] weight @g : @f32[4] weight @n : @f32[32] weight @b : @f32[32]
        weight @w : @f32[32, 32] weight @u : @f32[32, 32] %kv.0 = input : kv[8, 4] %a = rope_angles %pos";
    let cases = [
        ("%z = matmul %x, @w %s = add %z, @b %y = add %s, %x", "%y = matmul %x, @w, @b, %x {bias, residual}"),
        ("%n = rms_norm %x, @n {eps = 0.1} %y = quantize %n", "%y = quantize %x, @n {gamma, eps = 0.1}"),
        (
            "%g = matmul %x, @w %u = matmul %x, @u %s = act %g {fn = gelu_tanh} %m = mul %s, %u %y = quantize %m",
            "%y = glu %x, @w, @u {fn = gelu_tanh, quantize}",
        ),
        (
            "%q = quantize %x, @n {gamma, eps = 0.1, to = f16} %y = matmul %q, @w, @b, %x {bias, residual}",
            "%y = matmul %x, @w, @b, %x, @n {bias, residual, gamma, eps = 0.1, round = f16}",
        ),
        (
            "%n = rms_norm %x, @n {eps = 0.1} %q = quantize %n {to = f16x2} %m = glu %q, @w, @u {fn = gelu_tanh}
             %y = quantize %m",
            "%y = glu %x, @w, @u, @n {fn = gelu_tanh, gamma, eps = 0.1, round = f16x2, quantize}",
        ),
        ("%q = quantize %x {to = f16x2} %y = matmul %q, @w", "%y = matmul %x, @w {round = f16x2}"),
        (
            "%n = rms_norm %x, @g {eps = 0.1} %r = rope %n, %a {heads = 8, style = interleaved}
             %kv = kv_write %kv.0, %r, %x, %pos %o = attention %r, %kv, %pos {heads = 8, scale = 0.5} %y = quantize %o",
            "%kv = kv_write %kv.0, %x, %x, %pos, %a, @g {angles, k_norm, eps = 0.1, style = interleaved}
             %y = attention %x, %kv, %pos, %a, @g
               {angles, q_norm, eps = 0.1, style = interleaved, heads = 8, scale = 0.5, quantize}",
        ),
    ];
    for (apart, fused) in cases {
        let outputs = [apart, fused].map(|body| {
            let g = graph(&format!("{head} {body}"), 32);
            let x = Tensor::rows(32, (0..96).map(|i| f64::from(i * i * 7 % 41) / 20.0 - 1.0).collect());
            Interp::new(&g, &RandomWeights { seed: 3 }).unwrap().run_with(&[0; 3], &[("x", x)]).unwrap()
        });
        assert_eq!(outputs[0], outputs[1], "{fused}");
    }
}

#[test]
fn single_ops_refuse_what_does_not_fit() {
    let g = graph("%kv.0 = input : kv[1, 4] %w = kv_write %kv.0, %x, %x, %pos %y = act %x", 4);
    let id = g.order().iter().copied().find(|&n| g.node(n).op == OpKind::KvWrite).unwrap();
    let x = Tensor::rows(4, vec![1.0f32; 8]);
    let write = |x: &Tensor<f32>, pos: Vec<i32>, kv: Option<&mut KvState<f32>>| {
        let pos = Tensor::I32(pos);
        eval_op(&g, id, &[&Tensor::Kv, x, x, &pos].map(Arg::Value), kv).map_err(|e| e.to_string())
    };
    let mut kv = KvState::new(1, 4, KvPrecision::F16);
    assert_eq!(write(&x, vec![0, 1], Some(&mut kv)), Ok(Tensor::Kv));
    assert_eq!(write(&x, vec![1, 2], Some(&mut kv)), Ok(Tensor::Kv));
    assert_eq!(kv.rows(), 3);
    for pos in [vec![3, 5], vec![-1, 0]] {
        assert!(write(&x, pos, Some(&mut kv)).unwrap_err().starts_with("kv_write %w: position"));
    }
    assert!(write(&x, vec![0], Some(&mut kv)).unwrap_err().contains("is no"));
    assert!(write(&Tensor::rows(5, vec![1.0; 10]), vec![0, 1], Some(&mut kv)).unwrap_err().contains("is no"));
    assert!(write(&x, vec![0, 1], None).unwrap_err().contains("no cache"));
}

#[test]
fn runs_say_what_is_missing() {
    let g = graph("weight @w : @f32[4] %y = add %x, @w", 4);
    let new = |w: &[(&str, &[f32])]| Interp::<f32>::new(&g, &Given(w)).map(|_| ()).unwrap_err().to_string();
    assert_eq!(new(&[]), "weight @w: is not given");
    assert_eq!(new(&[("w", &[1.0])]), "weight @w: 1 elements were loaded, @f32[4] is 4");
    let mut interp = Interp::<f32>::new(&g, &Given(&[("w", &[1.0; 4])])).unwrap();
    let error = interp.run(&[0, 0]).unwrap_err();
    assert!(matches!(&error, InterpError::Input { name, .. } if name == "x"), "{error}");
    assert_eq!(interp.position(), 0);
}

#[test]
fn truncation_forgets() {
    let (g, weights) = (random_graph(5), RandomWeights { seed: 5 });
    let mut interp = Interp::<f32>::new(&g, &weights).unwrap();
    interp.run(&[1, 2, 3]).unwrap();
    let wanted = interp.run(&[4]).unwrap();
    interp.truncate(2);
    assert_eq!((interp.position(), interp.kv(0).unwrap().rows()), (2, 2));
    interp.run(&[9]).unwrap();
    interp.truncate(2);
    interp.run(&[3]).unwrap();
    assert_eq!(interp.run(&[4]).unwrap(), wanted);
}

#[test]
fn rules_that_texts_cannot_break() {
    let rules = |g: &Graph| match verify(g) {
        Ok(()) => vec![],
        Err(e) => e.0.iter().map(|e| e.rule).collect::<Vec<_>>(),
    };
    let fine = graph("weight @w : @f32[4] weight @v : @f32[4] %z = add %x, @w %y = add %z, @v", 4);
    assert!(rules(&fine).is_empty());
    let by_name = |name: &str| fine.order().iter().copied().find(|&n| fine.node(n).name == name).unwrap();
    let mut g = fine.clone();
    g.move_before(by_name("y"), by_name("z"));
    assert_eq!(rules(&g), ["G01"]);
    let mut g = fine.clone();
    g.node_mut(by_name("v")).name = "w".into();
    assert_eq!(rules(&g), ["G04"]);
    let mut g = fine.clone();
    g.node_mut(by_name("w")).weight = None;
    assert_eq!(rules(&g), ["G05"]);
    let mut g = fine.clone();
    let dead = g.push(OpKind::Act, &[by_name("x")], Default::default()).unwrap();
    g.remove(dead);
    g.set_outputs(&[by_name("y"), dead]);
    assert_eq!(rules(&g), ["G13"]);
    let mut g = fine.clone();
    g.node_mut(by_name("w")).weight.as_mut().unwrap().parts =
        vec![Part { tensor: "w".into(), rows: (0, 4), add: f32::NAN }];
    assert_eq!(rules(&g), ["G07"]);
    let mut g = fine.clone();
    g.node_mut(by_name("z")).ty = TensorType::activations(5);
    assert_eq!(rules(&g), ["G02", "G02"]);
}

#[test]
fn mutated_texts_never_panic() {
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let pieces = ["%x", "@w", "{", "}", "[", "9", "18446744073709551615", "-", "T", "kv", "q8", "eps", ":", "\"", "é"];
    let mut parsed = 0;
    for seed in 0..60 {
        let text = random_graph(seed).to_string();
        for _ in 0..60 {
            let mut words: Vec<&str> = text.split_inclusive([' ', ',', '[', '{', '\n']).collect();
            for _ in 0..1 + random(3) {
                let at = random(words.len());
                match random(4) {
                    0 => drop(words.remove(at)),
                    1 => words.truncate(at.max(1)),
                    2 => words.swap(at, random(text.len()) % at.max(1)),
                    _ => words[at] = pieces[random(pieces.len())],
                }
            }
            if let Ok(g) = parse(&words.concat()) {
                parsed += 1;
                let _ = verify(&g);
                let text = g.to_string();
                assert_eq!(parse(&text).map(|g| g.to_string()), Ok(text));
            }
        }
    }
    assert!(parsed > 100, "{parsed}");
}
