//! Every golden of `tests/goldens/arch` through the whole compiler: from a Hugging Face folder and from GGUF.
//!
//! Distances are the largest difference of a logit over the largest logit.

use tilewright_driver::{BuildOptions, Oracle};
use tilewright_passes::Activations;
use tilewright_tests::e2e::{self, Built, distance, logits, logits_stepwise};
use tilewright_tests::quant::Quant;
use tilewright_tests::tiny::{Golden, HfStyle};

/// f32 weights and activations: what is left is the f16 of the KV cache (half a unit in the last of 11 bits, 5e-4 of
/// a value, through a few layers).
const F32_LIMIT: f32 = 2e-3;

/// int8 activations in blocks of 32: half a step of 1/127 a value, averaged over sums, through a few layers.
const Q8_LIMIT: f32 = 6e-2;

fn f32_options() -> BuildOptions {
    BuildOptions { activations: Activations::F32, ..e2e::options() }
}

/// For the context of the golden: phi3 chooses its rotary factors by that.
fn f32_for(golden: &Golden) -> BuildOptions {
    BuildOptions { ctx: Some(golden.ids.len() as u32), ..f32_options() }
}

/// Distances of prefill and decode from the golden's rows.
fn against_golden(built: &Built, golden: &Golden) -> [f32; 2] {
    let vocab = built.artifact.plan().model.vocab as usize;
    let want: Vec<f32> = golden.logits.concat();
    let mut session = built.session(2).unwrap();
    let all = [logits(&mut session, &golden.ids).unwrap(), logits_stepwise(&mut session, &golden.ids).unwrap()];
    all.map(|all| {
        let got: Vec<f32> = golden.positions.iter().flat_map(|&p| &all[p * vocab..(p + 1) * vocab]).copied().collect();
        distance(&got, &want)
    })
}

fn check(what: &str, name: &str, d: [f32; 2], limit: f32) {
    eprintln!("{name} {what}: prefill {:.1e}, decode {:.1e}", d[0], d[1]);
    assert!(d[0] <= limit && d[1] <= limit, "{name} {what}: prefill {:e}, decode {:e}", d[0], d[1]);
}

#[test]
fn from_hugging_face_folders() {
    for name in Golden::names() {
        let golden = Golden::load(&name).unwrap();
        for style in [HfStyle::Classic, HfStyle::Saved] {
            let built = e2e::hf(&golden, style, &f32_for(&golden)).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            check(&format!("hf {style:?}"), &name, against_golden(&built, &golden), F32_LIMIT);
        }
    }
}

#[test]
fn from_gguf() {
    for name in Golden::names() {
        let golden = Golden::load(&name).unwrap();
        if !golden.gguf_says_all() {
            continue;
        }
        let built = e2e::gguf(&golden, Quant::F32, &f32_for(&golden)).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        check("gguf f32", &name, against_golden(&built, &golden), F32_LIMIT);
    }
}

/// Quantised weights: the compiled path against the interpreter on the same file.
#[test]
fn quantised_against_the_interpreter() {
    for name in Golden::names() {
        let golden = Golden::load(&name).unwrap();
        for quant in [Quant::Q8_0, Quant::Q4_0, Quant::F16] {
            for (options, limit) in [(f32_options(), F32_LIMIT), (e2e::options(), Q8_LIMIT)] {
                let built = e2e::gguf(&golden, quant, &options).unwrap_or_else(|e| panic!("{name}: {e:#}"));
                let mut want = vec![];
                let mut oracle = Oracle::new(&built.model).unwrap();
                oracle.eval_each(&golden.ids, |_, row| want.extend_from_slice(row)).unwrap();
                let mut session = built.session(2).unwrap();
                let d = [logits(&mut session, &golden.ids), logits_stepwise(&mut session, &golden.ids)];
                let d = d.map(|got| distance(&got.unwrap(), &want));
                check(&format!("{quant:?} {:?}", options.activations), &name, d, limit);
            }
        }
    }
}
