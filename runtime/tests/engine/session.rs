use std::sync::Arc;

use tilewright_runtime::artifact::Artifact;
use tilewright_runtime::error::RunError;
use tilewright_runtime::plan::KvLayer;
use tilewright_runtime::sampler::{Sampler, SamplerParams};
use tilewright_runtime::session::{Logits, Session, SessionOptions};

use crate::kernels;

fn open(change: impl Fn(&mut tilewright_runtime::plan::Plan)) -> Arc<Artifact> {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("toy");
    let mut plan = kernels::plan();
    change(&mut plan);
    kernels::write_parts(&dir, &serde_json::to_vec(&plan).unwrap(), &kernels::object(), kernels::info()).unwrap();
    Arc::new(Artifact::open(&dir).unwrap())
}

fn options(ctx: u32, threads: usize) -> SessionOptions {
    SessionOptions { ctx: Some(ctx), threads: Some(threads), profile: false }
}

fn row(sum: u32, position: u32, tokens: u32, ctx: u32) -> Vec<f32> {
    let angle = f64::from(position) * f64::from(0.01f32);
    let (cos, sin) = ((angle.cos() * 2.0) as f32, (angle.sin() * 2.0) as f32);
    let past = position + 1 - tokens;
    vec![sum as f32, cos, sin, tokens as f32, past as f32, ctx as f32, 2.5, 0.0]
}

#[test]
fn rows_are_right_whatever_the_split() {
    let artifact = open(|_| {});
    for threads in [1, 2, 3] {
        let mut session = Session::new(artifact.clone(), options(60, threads)).unwrap();
        for n in 1..=40usize {
            session.reset();
            let tokens: Vec<u32> = (0..n as u32).map(|i| i % 7).collect();
            let sum = tokens.iter().sum();
            assert_eq!(session.eval(&tokens, Logits::Last).unwrap(), row(sum, n as u32 - 1, 1, 64));
            assert_eq!(session.position(), n as u32);
            // The first half again, without logits, then the rest.
            session.truncate(n as u32 / 2);
            assert!(session.eval(&tokens[n / 2..], Logits::None).unwrap().is_empty());
            assert_eq!(session.eval(&[5], Logits::Last).unwrap(), row(sum + 5, n as u32, 1, 64));
        }
    }
}

#[test]
fn all_rows() {
    let mut session = Session::new(open(|_| {}), options(60, 2)).unwrap();
    let tokens: Vec<u32> = (0..37).map(|i| i % 7).collect();
    let all = session.eval(&tokens, Logits::All).unwrap().to_vec();
    session.reset();
    let mut each = Vec::new();
    let mut positions = Vec::new();
    session
        .eval_each(&tokens, |position, row| {
            positions.push(position);
            each.extend_from_slice(row);
        })
        .unwrap();
    assert_eq!(all, each);
    assert_eq!(positions, (0..37).collect::<Vec<_>>());
    for (position, got) in all.chunks(8).enumerate() {
        let sum: u32 = tokens[..=position].iter().sum();
        assert_eq!((got[0], &got[1..3]), (sum as f32, &row(0, position as u32, 1, 64)[1..3]));
    }
    // 16 + 16 + a rest of 5, which the program for 16 takes.
    assert_eq!((all[3], all[36 * 8 + 3], all[36 * 8 + 4]), (16.0, 5.0, 32.0));
}

#[test]
fn greedy_is_step_by_step() {
    let artifact = open(|_| {});
    for (ctx, most, stop_at) in [(60, 9, 100), (60, 1000, 5), (24, 1000, 100), (60, 0, 100)] {
        let [mut one, mut all] = [(); 2].map(|()| Session::new(artifact.clone(), options(ctx, 1)).unwrap());
        let (mut got, mut want) = (Vec::new(), Vec::new());
        let mut token = 3;
        for session in [&mut one, &mut all] {
            session.eval(&[6; 12], Logits::None).unwrap();
        }
        while want.len() < most.min(stop_at) && one.position() < one.capacity() {
            let row = one.eval(&[token], Logits::Last).unwrap();
            let top = row.iter().copied().fold(f32::MIN, f32::max);
            token = row.iter().position(|l| *l == top).unwrap() as u32;
            want.push(token);
        }
        all.decode_greedy(3, most, |id| {
            got.push(id);
            got.len() < stop_at
        })
        .unwrap();
        assert_eq!((got, all.position()), (want, one.position()));
    }
}

#[test]
fn sampled_is_step_by_step() {
    let artifact = open(|_| {});
    // Of a session on a CPU each kind of sampler can be asked, but for those with penalties.
    for (top_k, temp, bias) in
        [(0, 1.0, vec![]), (40, 30.0, vec![]), (5, 100.0, vec![(7, 1.0)]), (0, 0.0, vec![(1, 9e9)])]
    {
        let params = SamplerParams { top_k, temp, logit_bias: bias, min_p: 0.0, seed: 5, ..SamplerParams::default() };
        let [mut one, mut all] = [(); 2].map(|()| Session::new(artifact.clone(), options(60, 1)).unwrap());
        let [mut a, mut b] = [(); 2].map(|()| Sampler::new(params.clone()).unwrap());
        let (mut got, mut want, mut token) = (vec![], vec![], 3);
        for _ in 0..20 {
            let row = one.eval(&[token], Logits::Last).unwrap();
            token = a.sample(&mut row.to_vec(), &[]).unwrap();
            want.push(token);
        }
        all.decode(3, 20, &mut b, |id| {
            got.push(id);
            true
        })
        .unwrap();
        assert_eq!((got, all.position()), (want, one.position()), "{params:?}");
    }
    let mut session = Session::new(artifact, options(60, 1)).unwrap();
    let params = SamplerParams { presence_penalty: 1.0, ..SamplerParams::default() };
    let mut sampler = Sampler::new(params).unwrap();
    assert!(matches!(session.decode(3, 5, &mut sampler, |_| true), Err(RunError::LooksBack)));
    assert_eq!(session.position(), 0);
}

#[test]
fn refusals_change_nothing() {
    let artifact = open(|_| {});
    for ctx in [0, 101] {
        assert!(matches!(Session::new(artifact.clone(), options(ctx, 1)), Err(RunError::BadContext { max: 100, .. })));
    }
    let mut session = Session::new(artifact.clone(), options(10, 1)).unwrap();
    session.eval(&[1, 2, 3], Logits::None).unwrap();
    assert!(matches!(
        session.eval(&[1; 8], Logits::None),
        Err(RunError::ContextFull { tokens: 8, position: 3, capacity: 10 })
    ));
    assert!(matches!(session.eval(&[1, 8], Logits::None), Err(RunError::BadToken { token: 8, index: 1, vocab: 8 })));
    assert!(matches!(session.eval(&[], Logits::Last), Err(RunError::NoTokens)));
    assert!(matches!(session.eval(&[], Logits::All), Err(RunError::NoTokens)));
    assert!(session.eval(&[], Logits::None).is_ok());
    assert_eq!(session.position(), 3);
    assert!(matches!(session.eval(&[7], Logits::Last), Err(RunError::Numerical { position: 3 })));
    assert_eq!(session.kv_bytes(), 2 * (512 + 64));
    assert_eq!(session.arena_bytes(), 64 + 16 * kernels::STRIDE);
}

#[test]
fn too_large_contexts_name_the_largest() {
    let artifact = open(|plan| {
        plan.model.n_ctx = 1 << 24;
        plan.kv = vec![KvLayer { heads: 1, head_dim: 1 << 20 }; 2];
    });
    let RunError::OutOfMemory { need, available, largest, .. } =
        Session::new(artifact, options(1 << 24, 1)).err().unwrap()
    else {
        panic!("another error")
    };
    // 8 MiB a position.
    assert!(need > 1 << 46 && available < need && u64::from(largest) <= available >> 23 && largest > 0);
}

#[test]
fn profile_names_calls() {
    let options = SessionOptions { profile: true, ..options(60, 2) };
    let mut session = Session::new(open(|_| {}), options).unwrap();
    session.eval(&[1; 20], Logits::Last).unwrap();
    let calls = session.profile();
    let seen: Vec<_> = calls.iter().map(|c| (c.max_tokens, c.label.as_str(), c.runs)).collect();
    // 16 tokens, then 3 by the program for 4, then 1, which alone has a head.
    assert_eq!(
        seen,
        [(1, "store", 1), (1, "head", 1), (4, "store", 1), (4, "head", 0), (16, "store", 1), (16, "head", 0)]
    );
    assert!(calls[1].nanos > 0 && calls[3].nanos == 0);
}
