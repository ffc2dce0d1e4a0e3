use super::*;

fn logits(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| (rng.next_f64() * 12.0 - 6.0) as f32).collect()
}

fn sampler(f: impl FnOnce(&mut SamplerParams)) -> Sampler {
    let mut p = SamplerParams { temp: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Default::default() };
    f(&mut p);
    Sampler::new(p).unwrap()
}

/// The tokens that can be drawn at all, from many draws.
fn support(s: &mut Sampler, l: &[f32], draws: usize) -> Vec<u32> {
    let mut seen: Vec<u32> = (0..draws).map(|_| s.sample(&mut l.to_vec(), &[]).unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn greedy_takes_the_first_of_the_best() {
    let mut s = sampler(|p| p.temp = 0.0);
    assert_eq!(s.sample(&mut [0.0, 3.0, 3.0, 1.0], &[]).unwrap(), 1);
    assert_eq!(s.sample(&mut [f32::NEG_INFINITY, -5.0], &[]).unwrap(), 1);
}

#[test]
fn draws_follow_the_softmax() {
    let mut rng = Rng::new(7);
    for (temp, n) in [(1.0, 50), (0.5, 20), (1.7, 200)] {
        let l = logits(&mut rng, n);
        let w: Vec<f64> = l.iter().map(|x| (f64::from(*x) / f64::from(temp)).exp()).collect();
        let total: f64 = w.iter().sum();
        let mut s = sampler(|p| {
            p.temp = temp;
            p.seed = 11;
        });
        let draws = 60_000;
        let mut counts = vec![0f64; n];
        for _ in 0..draws {
            counts[s.sample(&mut l.clone(), &[]).unwrap() as usize] += 1.0;
        }
        // Chi-square over cells of at least five: mean is the degrees of freedom, six standard deviations allowed.
        let (mut chi, mut cells) = (0.0, 0.0);
        for (c, w) in counts.iter().zip(&w) {
            let expect = w / total * f64::from(draws);
            if expect >= 5.0 {
                chi += (c - expect).powi(2) / expect;
                cells += 1.0;
            }
        }
        assert!(chi < cells + 6.0 * (2.0f64 * cells).sqrt(), "temp {temp}: chi² {chi} over {cells} cells");
    }
}

#[test]
fn the_cuts_keep_what_they_say() {
    let l: Vec<f32> = [0.4f32, 0.3, 0.15, 0.1, 0.05].iter().map(|p| p.ln()).collect();
    assert_eq!(support(&mut sampler(|p| p.top_k = 2), &l, 2000), [0, 1]);
    assert_eq!(support(&mut sampler(|p| p.top_p = 0.8), &l, 2000), [0, 1, 2]);
    assert_eq!(support(&mut sampler(|p| p.min_p = 0.3), &l, 2000), [0, 1, 2]);
    assert_eq!(support(&mut sampler(|p| p.top_p = 0.0), &l, 50), [0]);
    // Cuts look at the probabilities before the temperature.
    let hot = &mut sampler(|p| {
        p.min_p = 0.3;
        p.temp = 50.0;
    });
    assert_eq!(support(hot, &l, 2000), [0, 1, 2]);
    // Top-p counts within what top-k left: 0.4 of 0.7 is 0.57.
    let both = &mut sampler(|p| {
        p.top_k = 2;
        p.top_p = 0.57;
    });
    assert_eq!(support(both, &l, 2000), [0]);
}

#[test]
fn cuts_on_fresh_logits_agree_with_a_plain_reading() {
    let mut rng = Rng::new(99);
    for case in 0..40 {
        let l = logits(&mut rng, 30);
        let (k, p, m) = (1 + (rng.next_u64() % 30) as usize, rng.next_f64() as f32, rng.next_f64() as f32 * 0.5);
        let mut order: Vec<usize> = (0..30).collect();
        order.sort_by(|&a, &b| l[b].total_cmp(&l[a]));
        order.truncate(k);
        let w = |i: usize| f64::from(l[i] - l[order[0]]).exp();
        let goal = f64::from(p) * order.iter().map(|&i| w(i)).sum::<f64>();
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for &i in &order {
            kept.push(i as u32);
            sum += w(i);
            if sum >= goal {
                break;
            }
        }
        kept.retain(|&i| w(i as usize) >= f64::from(m) * 0.999_999);
        let mut s = sampler(|q| {
            (q.top_k, q.top_p, q.min_p, q.temp, q.seed) = (k, p, m, 1e3, case);
        });
        kept.sort_unstable();
        assert_eq!(support(&mut s, &l, 3000), kept, "k {k} p {p} m {m}");
    }
}

#[test]
fn penalties_change_what_was_said() {
    let run = |f: fn(&mut SamplerParams), history: &[u32]| {
        let mut l = [2.0f32, -2.0, 1.0];
        let mut s = sampler(|p| {
            p.temp = 0.0;
            f(p);
        });
        s.sample(&mut l, history).unwrap();
        l
    };
    assert_eq!(run(|p| p.repeat_penalty = 2.0, &[0, 1]), [1.0, -4.0, 1.0]);
    assert_eq!(run(|p| p.frequency_penalty = 0.5, &[0, 0, 2]), [1.0, -2.0, 0.5]);
    assert_eq!(run(|p| p.presence_penalty = 0.5, &[0, 0]), [1.5, -2.0, 1.0]);
    assert_eq!(run(|p| (p.presence_penalty, p.repeat_last_n) = (0.5, 1), &[0, 2]), [2.0, -2.0, 0.5]);
    assert_eq!(run(|p| p.presence_penalty = 1.0, &[77]), [2.0, -2.0, 1.0]);
    assert_eq!(run(|p| p.logit_bias = vec![(1, 9.0), (500, 1.0)], &[]), [2.0, 7.0, 1.0]);
}

#[test]
fn equal_seeds_give_equal_tokens() {
    let mut rng = Rng::new(3);
    let l = logits(&mut rng, 1000);
    let run = |seed| {
        let mut s = sampler(|p| p.seed = seed);
        (0..50).map(|_| s.sample(&mut l.clone(), &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn what_is_refused() {
    let mut s = sampler(|_| {});
    assert_eq!(s.sample(&mut [0.0, f32::NAN], &[]), Err(SampleError::NotANumber(1)));
    assert_eq!(s.sample(&mut [f32::INFINITY], &[]), Err(SampleError::NotANumber(0)));
    assert_eq!(s.sample(&mut [], &[]), Err(SampleError::Nothing));
    assert_eq!(s.sample(&mut [f32::NEG_INFINITY; 3], &[]), Err(SampleError::Nothing));
    assert!(Sampler::new(SamplerParams { top_p: 1.5, ..Default::default() }).is_err());
    assert!(Sampler::new(SamplerParams { repeat_penalty: 0.0, ..Default::default() }).is_err());
    assert!(Sampler::new(SamplerParams { temp: f32::NAN, ..Default::default() }).is_err());
}

#[test]
fn extreme_logits_stay_in_range() {
    for l in [[f32::MAX, f32::MIN, 0.0], [f32::MIN; 3], [1e-40, 0.0, -0.0]] {
        let mut s = sampler(|p| p.temp = 1e-30);
        assert!(s.sample(&mut l.to_vec(), &[]).unwrap() < 3);
    }
}

#[test]
fn what_a_device_can_do() {
    let base = SamplerParams { temp: 0.8, ..Default::default() };
    let told = base.on_device().unwrap();
    assert_eq!((told.top_k, told.top_p, told.floor), (40, 0.95, 0.05f32.ln()));
    assert!((told.scale - std::f32::consts::LOG2_E / 0.8).abs() < 1e-6);
    assert_eq!((&told.bytes()[..4], &told.bytes()[4..8]), (&[40, 0, 0, 0][..], &0.95f32.to_le_bytes()[..]));
    let all = SamplerParams { top_p: 1.0, min_p: 0.0, top_k: 64, ..base.clone() }.on_device().unwrap();
    assert_eq!((all.top_k, all.top_p, all.floor), (64, f32::INFINITY, f32::NEG_INFINITY));
    for temp in [f32::MIN_POSITIVE / 4.0, 1e-40, f32::MAX] {
        let scale = SamplerParams { temp, ..base.clone() }.on_device().unwrap().scale;
        assert!(scale.is_normal(), "{temp}: {scale}");
    }
    type Change = fn(&mut SamplerParams);
    let cases: [(Change, bool); 9] = [
        (|_| {}, true),
        (|p| p.top_k = 0, false),
        (|p| p.top_k = 65, false),
        (|p| p.temp = 0.0, false),
        (|p| p.repeat_penalty = 1.1, false),
        (|p| p.frequency_penalty = 0.1, false),
        (|p| p.presence_penalty = 0.1, false),
        (|p| (p.presence_penalty, p.repeat_last_n) = (0.1, 0), true),
        (|p| p.logit_bias = vec![(1, 1.0)], false),
    ];
    for (i, (change, can)) in cases.into_iter().enumerate() {
        let mut p = base.clone();
        change(&mut p);
        assert_eq!(p.on_device().is_some(), can, "{i}: {p:?}");
    }
}

#[test]
fn draws_are_used_up_by_tokens_taken() {
    let mut a = sampler(|p| (p.seed, p.top_k) = (11, 40));
    let mut b = a.clone();
    let l: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
    let ahead = a.draws(5);
    assert!(ahead.iter().all(|d| (0.0..1.0).contains(d)));
    for n in [0, 2, 1] {
        (0..n).for_each(|_| assert_eq!(a.take(3), Ok(3)));
        (0..n).for_each(|_| drop(b.sample(&mut l.clone(), &[])));
        assert_eq!(a.draws(2), b.draws(2));
    }
    assert_eq!(a.draws(2), ahead[3..]);
    assert_eq!(a.take(!7), Err(SampleError::NotANumber(7)));
    assert_eq!(a.take(crate::plan::NO_TOKEN), Err(SampleError::Nothing));
    // The likeliest needs no draw.
    let mut greedy = Sampler::greedy();
    let before = greedy.draws(1);
    assert_eq!((greedy.take(3), greedy.draws(1)), (Ok(3), before));
}
