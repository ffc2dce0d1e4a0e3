//! The step between steps: tokens as the host's sampler chooses them, and all that the next step reads.

use super::super::{Choice, Next};
use super::*;
use tilewright_runtime::sampler::{SampleError, Sampler, SamplerParams};

/// Where things are among the arguments.
const PARTS: usize = 1;
const COUNTERS: usize = 2;
const STATE: usize = 3;
const TOKENS: usize = 4;
const HISTORY: usize = 5;
const SAMPLING: usize = 6;
const DRAWS: usize = 7;

/// A vocabulary, pairs of rotary tables, past positions of a capacity.
struct Step {
    vocab: u64,
    rope: Vec<u64>,
    past: i64,
    capacity: i64,
}

impl Step {
    /// The buffers of a call.
    fn buffers(&self, s: &Next, p: &Params, logits: &[f32], r: &mut Random) -> Vec<Vec<u8>> {
        let state: Vec<u8> = [1, self.past, self.capacity].iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut all = vec![bytes(logits), r.garbage(s.parts_bytes(p)), vec![0; s.counters_bytes(p) as usize]];
        all.extend([state, r.garbage(16), r.garbage(self.capacity as u64 * 4 + 4)]);
        if s.choice == Choice::Sampled {
            all.extend([vec![], vec![]]);
        }
        for pairs in &self.rope {
            all.push(bytes(&r.floats((self.capacity as u64 + 1) * pairs * 2, 1.0)));
            all.push(r.garbage(pairs * 8));
        }
        all
    }

    /// What it makes of them, if the history says `entry`.
    fn after(&self, before: &[Vec<u8>], entry: u32) -> Vec<Vec<u8>> {
        let (mut want, next) = (before.to_vec(), self.past as usize + 1);
        let token = if entry < 1 << 31 { entry } else { 0 };
        want[STATE][8..16].copy_from_slice(&(self.past + 1).to_le_bytes());
        want[TOKENS][..4].copy_from_slice(&token.to_le_bytes());
        want[HISTORY][4 * next..4 * next + 4].copy_from_slice(&entry.to_le_bytes());
        let tables = want.len() - 2 * self.rope.len();
        for i in (tables..want.len()).step_by(2) {
            let n = want[i + 1].len();
            want[i + 1] = want[i][n * next..n * next + n].to_vec();
        }
        want
    }

    fn all() -> [Step; 4] {
        let step = |vocab, rope, past, capacity| Step { vocab, rope, past, capacity };
        [
            step(1000, vec![32], 7, 16),
            step(33, vec![], 0, 16),
            step(16411, vec![3, 64], 14, 16),
            step(2048, vec![20], 15, 16),
        ]
    }
}

/// Few different values, so that equal ones are there.
fn ties(n: u64, r: &mut Random) -> Vec<f32> {
    let mut one = || if r.below(16) == 0 { f32::NEG_INFINITY } else { r.below(n.min(40)) as f32 / 2.0 - 10.0 };
    (0..n).map(|_| one()).collect()
}

/// What the history has to say.
fn entry(chosen: Result<u32, SampleError>) -> u32 {
    match chosen {
        Ok(id) => id,
        Err(SampleError::NotANumber(id)) => !id,
        Err(_) => 1 << 31,
    }
}

#[test]
fn from_logits_to_the_next_step() {
    for step in Step::all() {
        let mut r = Random::new();
        let s = Next { vocab: step.vocab, rope: step.rope.clone(), choice: Choice::Likeliest };
        let p = params(&s, &[("blocks", 16)]);
        let good = ties(step.vocab, &mut r);
        let mut bad = good.clone();
        for wrong in [f32::NAN, f32::INFINITY, f32::NAN] {
            bad[r.below(step.vocab) as usize] = wrong;
        }
        let none = vec![f32::NEG_INFINITY; step.vocab as usize];
        for logits in [good, bad, none] {
            let before = step.buffers(&s, &p, &logits, &mut r);
            let entry = entry(Sampler::greedy().sample(&mut logits.clone(), &[]));
            let want = step.after(&before, entry);
            for mut got in run(&s, &p, &before, &[step.past], &mut r) {
                got[PARTS] = want[PARTS].clone();
                assert!(got == want, "seed {}, vocab {}, {entry:#x}", r.seed, step.vocab);
            }
        }
    }
}

/// Distance of the draw to where the choice would be another one, in parts of all; and the choice in f64.
fn exact(logits: &[f32], params: &SamplerParams, draw: f64) -> (u32, f64) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    order.truncate(params.top_k);
    let best = logits[order[0]];
    let weight = |i: &usize, temp: f32| ((f64::from(logits[*i]) - f64::from(best)) / f64::from(temp)).exp();
    let mut near = f64::INFINITY;
    if params.top_p < 1.0 {
        let all: f64 = order.iter().map(|i| weight(i, 1.0)).sum();
        let (mut sum, mut kept) = (0.0, 0);
        while kept == 0 || (kept < order.len() && sum < f64::from(params.top_p) * all) {
            sum += weight(&order[kept], 1.0);
            kept += 1;
            near = near.min((sum / all - f64::from(params.top_p)).abs());
        }
        order.truncate(kept);
    }
    if params.min_p > 0.0 {
        order.retain(|i| logits[*i] >= best + params.min_p.ln());
    }
    let all: f64 = order.iter().map(|i| weight(i, params.temp)).sum();
    let mut sum = 0.0;
    let mut chosen = None;
    for i in &order {
        sum += weight(i, params.temp);
        near = near.min((sum / all - draw).abs());
        if chosen.is_none() && sum > draw * all {
            chosen = Some(*i as u32);
        }
    }
    (chosen.unwrap_or(order[0] as u32), near)
}

#[test]
fn from_logits_to_a_token_by_chance() {
    let mut checked = 0;
    for (round, step) in Step::all().iter().cycle().take(16).enumerate() {
        let mut r = Random::new();
        // Interpreting a round of so many threads takes long.
        let large = step.vocab > 10000;
        let s = Next { vocab: step.vocab, rope: step.rope.clone(), choice: Choice::Sampled };
        let p = params(&s, &[("blocks", if large { 16 } else { 64 })]);
        let of = |r: &mut Random, all: &[f32]| all[r.below(all.len() as u64) as usize];
        let how = SamplerParams {
            temp: of(&mut r, &[0.1, 0.7, 1.0, 2.5, 1e-30, 1e30]),
            top_k: if step.vocab > 10000 {
                2 + r.below(14) as usize
            } else {
                [64, 2, 3 + r.below(8) as usize, 9][round / 4 % 4]
            },
            top_p: of(&mut r, &[0.0, 0.3, 0.9, 0.95, 1.0]),
            min_p: of(&mut r, &[0.0, 0.05, 0.4, 1.0]),
            seed: r.next(),
            ..SamplerParams::default()
        };
        let spread = of(&mut r, &[0.3, 2.0, 6.0]).into();
        let mut logits = if round % 3 == 0 { ties(step.vocab, &mut r) } else { r.floats(step.vocab, spread) };
        let bad = round % 5 == 4;
        if bad {
            logits[r.below(step.vocab) as usize] = of(&mut r, &[f32::NAN, f32::INFINITY]);
        }
        let mut before = step.buffers(&s, &p, &logits, &mut r);
        let mut sampler = Sampler::new(how.clone()).unwrap();
        let draw = sampler.draws(1)[0];
        let mut draws = r.floats(step.capacity as u64, 1.0);
        draws[step.past as usize] = draw;
        (before[SAMPLING], before[DRAWS]) = (how.on_device().unwrap().bytes().to_vec(), bytes(&draws));
        let chosen = sampler.sample(&mut logits.clone(), &[]);
        let who = format!("seed {}, vocab {}, {how:?}, draw {draw}", r.seed, step.vocab);
        if !bad {
            let (id, near) = exact(&logits, &how, draw.into());
            // Sums of 64 weights of 2^-22, in f32.
            if near < 1e-5 {
                continue;
            }
            assert_eq!(chosen, Ok(id), "{who}: {near}");
        }
        checked += 1;
        let entry = entry(chosen);
        let want = step.after(&before, entry);
        for mut got in run(&s, &p, &before, &[step.past], &mut r) {
            got[PARTS] = want[PARTS].clone();
            let id = &got[HISTORY][4 * (step.past as usize + 1)..];
            let id = u32::from_le_bytes(id[..4].try_into().unwrap());
            assert!(got == want, "{who}: {id:#x} instead of {entry:#x}");
            assert!(got[COUNTERS] == [0; 4]);
        }
    }
    assert!(checked > 10, "{checked}");
}
