//! What a session on a GPU computes.

use tilewright_codegen::emulated::{EmulatedDriver, EmulatedGpu};
use tilewright_runtime::session::{Logits, Session, SessionOptions};

use crate::toy::{N_CTX, Random, Toy, VOCAB, fresh_seed, session};

/// Kinds of code and the devices they run on.
const PAIRS: [(&str, u32); 4] = [("sm_80", 80), ("sm_80", 90), ("sm_90", 90), ("sm_90a", 90)];

#[test]
fn rows_are_right_whatever_the_split() {
    let mut random = Random(fresh_seed());
    for (target, sm) in PAIRS {
        let toy = Toy::new(&mut random, target);
        let gpu = EmulatedGpu { sm, seed: random.below(u64::MAX), ..EmulatedGpu::default() };
        let (mut session, _) = session(&toy.open(), N_CTX, gpu).unwrap();
        assert_eq!(session.device().unwrap().sm, sm);
        for n in [1, 2, 3, 4, 5, 6, 33, 41, 47, 90] {
            session.reset();
            let mut tokens = random.tokens(n);
            assert_eq!(session.eval(&tokens, Logits::Last).unwrap(), toy.logits(&tokens), "{n} tokens, {target}");
            assert_eq!(session.position(), n as u32);
            // Back to somewhere, and on with other tokens.
            let kept = random.below(n as u64) as usize;
            session.truncate(kept as u32);
            tokens.truncate(kept);
            let (more, last) = (random.tokens(7), random.tokens(1));
            assert!(session.eval(&more, Logits::None).unwrap().is_empty());
            tokens.extend(more.iter().chain(&last));
            assert_eq!(session.eval(&last, Logits::Last).unwrap(), toy.logits(&tokens), "{kept} of {n}, {target}");
        }
    }
}

#[test]
fn all_rows() {
    let mut random = Random(fresh_seed());
    let toy = Toy::new(&mut random, "sm_90");
    let (mut session, _) = session(&toy.open(), N_CTX, EmulatedGpu::default()).unwrap();
    let tokens = random.tokens(87);
    let want: Vec<f32> = (1..=tokens.len()).flat_map(|n| toy.logits(&tokens[..n])).collect();
    assert_eq!(session.eval(&tokens, Logits::All).unwrap(), want);
    session.truncate(40);
    let mut positions = Vec::new();
    let check = |position: u32, row: &[f32]| {
        let at = position as usize * VOCAB as usize;
        assert_eq!(row, &want[at..at + VOCAB as usize], "position {position}");
        positions.push(position);
    };
    session.eval_each(&tokens[40..], check).unwrap();
    assert_eq!(positions, (40..87).collect::<Vec<_>>());
}

#[test]
fn greedy_is_step_by_step() {
    let mut random = Random(fresh_seed());
    for (target, sm) in PAIRS {
        let toy = Toy::new(&mut random, target);
        let gpu = EmulatedGpu { sm, seed: random.below(u64::MAX), ..EmulatedGpu::default() };
        let (mut session, counts) = session(&toy.open(), N_CTX, gpu).unwrap();
        let mut tokens = random.tokens(9);
        session.eval(&tokens[..8], Logits::None).unwrap();
        for n in [1, 2, 0, 7, 8, 30] {
            let want = toy.greedy(&tokens, n);
            let mut got = Vec::new();
            let last = *tokens.last().unwrap();
            session
                .decode_greedy(last, n, |id| {
                    got.push(id);
                    true
                })
                .unwrap();
            assert_eq!(got, want, "{n} after {} tokens, {target}", tokens.len());
            tokens.extend(got);
            assert_eq!(session.position() as usize, tokens.len() - 1);
        }
        // Ended in the middle of what the device made at once; then on, in both ways.
        let (want, mut got) = (toy.greedy(&tokens, 23), Vec::new());
        session
            .decode_greedy(*tokens.last().unwrap(), 40, |id| {
                got.push(id);
                got.len() < 23
            })
            .unwrap();
        assert_eq!(got, want);
        tokens.extend(got);
        assert_eq!(session.position() as usize, tokens.len() - 1);
        let last = tokens[tokens.len() - 1];
        assert_eq!(session.eval(&[last], Logits::Last).unwrap(), toy.logits(&tokens));
        // Overlap where the device and the kernels can do it; never at the start of a step.
        let counts = counts.by_kernel();
        let overlaps = sm >= 90 && target != "sm_80";
        assert_eq!(counts["store"].dependent, 0);
        assert_eq!(counts["head"].dependent, if overlaps { counts["head"].launches } else { 0 });
        assert!(counts["next"].launches >= 48 && counts["next"].instructions > 0);
    }
}

#[test]
fn greedy_ends_with_the_context() {
    let mut random = Random(fresh_seed());
    let toy = Toy::new(&mut random, "sm_90");
    let artifact = toy.open();
    // Whole blocks of the cache, and not.
    for ctx in [16, 17, 30, 32, N_CTX] {
        let (mut session, _) = session(&artifact, ctx, EmulatedGpu::default()).unwrap();
        let tokens = random.tokens(ctx as usize - 10);
        session.eval(&tokens[..tokens.len() - 1], Logits::None).unwrap();
        let mut got = Vec::new();
        session
            .decode_greedy(*tokens.last().unwrap(), 1000, |id| {
                got.push(id);
                true
            })
            .unwrap();
        assert_eq!(got, toy.greedy(&tokens, 11), "context {ctx}");
        assert_eq!(session.position(), ctx);
        assert!(session.decode_greedy(1, 1, |_| true).unwrap_err().to_string().contains("do not fit"));
    }
}

#[test]
fn profile_names_calls() {
    let mut random = Random(fresh_seed());
    let toy = Toy::new(&mut random, "sm_90");
    let options = SessionOptions { ctx: None, threads: None, profile: true };
    let driver = Box::new(EmulatedDriver::new(EmulatedGpu::default()));
    let mut session = Session::with_driver(toy.open(), driver, options).unwrap();
    let mut tokens = random.tokens(44);
    assert_eq!(session.eval(&tokens, Logits::Last).unwrap(), toy.logits(&tokens));
    let mut got = Vec::new();
    let next = toy.greedy(&tokens, 6);
    session
        .decode_greedy(next[0], 5, |id| {
            got.push(id);
            true
        })
        .unwrap();
    tokens.push(next[0]);
    assert_eq!(got, next[1..]);
    let calls = session.profile();
    let seen: Vec<_> = calls.iter().map(|c| (c.max_tokens, c.label.as_str(), c.runs)).collect();
    // The head ran for one token at a time only.
    let both = |width, runs, heads| [(width, "store", runs), (width, "head", heads)];
    assert_eq!(seen, [both(1, 6, 6), both(4, 1, 0), both(40, 1, 0)].concat());
    assert!(calls.iter().all(|c| (c.nanos > 0) == (c.label == "store" || c.max_tokens == 1)));
}
