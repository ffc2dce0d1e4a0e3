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
