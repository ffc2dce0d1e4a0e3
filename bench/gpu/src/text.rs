//! Part `text`: a model file, compiled for the device and for this machine's CPU; both must go on alike.

use crate::gpu::Gpu;
use crate::part::Items;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tilewright_driver::{BuildOptions, build};
use tilewright_models::model::Model;
use tilewright_passes::Activations;
use tilewright_runtime::artifact::Artifact;
use tilewright_runtime::session::{Logits, Session, SessionOptions};

/// Tokens of the prompt, and how many to make.
const TOKENS: [usize; 2] = [40, 48];
const FEW_TOKENS: [usize; 2] = [9, 6];
/// The context that is compiled for.
const CONTEXT: u32 = 128;
/// Gap between the two best logits below which either may come first.
const GAP: f32 = 0.05;

/// Greedy tokens of the file that was named.
pub fn run(items: &mut Items) -> Result<()> {
    let Some(path) = items.settings.model.clone() else {
        items.item("absent", |_| Ok(json!({"why": "no model was given"})));
        return Ok(());
    };
    for (name, activations) in [("f16", Activations::F16), ("f32", Activations::F16Pair)] {
        items.item(name, |gpu| one(gpu, &path, activations));
        items.restart()?;
    }
    Ok(())
}

/// Prefers a CPU without rounded activations: then only the GPU's rounding is between them.
fn one(gpu: &mut Gpu, path: &Path, activations: Activations) -> Result<Value> {
    let model = Model::open(path)?;
    let folder = tempfile::tempdir()?;
    let [given, wanted] = if gpu.emulated { FEW_TOKENS } else { TOKENS };
    let on_gpu = BuildOptions { activations, ctx: Some(CONTEXT), ..BuildOptions::for_target(gpu.target.clone()) };
    let on_cpu = BuildOptions { activations: Activations::F32, ctx: Some(CONTEXT), ..BuildOptions::for_host()? };
    let prompt: Vec<u32> =
        (0..given).map(|i| ((i + 1) * 97 % model.hyper().vocab.clamp(1, 30_000) as usize) as u32).collect();
    let options = SessionOptions { ctx: Some(CONTEXT), ..SessionOptions::default() };
    let open = |name: &str, build_options: &BuildOptions| -> Result<Arc<Artifact>> {
        let out = folder.path().join(name);
        build(&model, &out, build_options, &mut |_| {})?;
        Ok(Arc::new(Artifact::open(&out)?))
    };
    let (cpu, device) = (open("cpu", &on_cpu)?, open("gpu", &on_gpu)?);
    let mut cpu = Session::new(cpu, options)?;
    // A second driver on the same device; this part's own has nothing on it.
    let mut device = Session::with_driver(device, Gpu::open(gpu.emulated, 0)?.driver, options)?;
    let (last, head) = prompt.split_last().context("a prompt")?;
    device.eval(head, Logits::None)?;
    let mut made = vec![];
    device.decode_greedy(*last, wanted, |token| {
        made.push(token);
        true
    })?;
    // The CPU is given the GPU's tokens, so that one near tie does not change all that follows.
    cpu.eval(head, Logits::None)?;
    let (mut token, mut same, mut ties, mut worst) = (*last, 0, 0, 0f32);
    for &next in &made {
        let row = cpu.eval(&[token], Logits::Last)?;
        let best = row.iter().fold(f32::MIN, |m, &x| m.max(x));
        let behind = best - row[next as usize];
        worst = worst.max(behind);
        same += usize::from(behind == 0.0);
        ties += usize::from(behind > 0.0 && behind <= GAP);
        token = next;
    }
    if same + ties < made.len() {
        bail!("{} of {} tokens are not the CPU's, by up to {worst} of a logit", made.len() - same - ties, made.len());
    }
    Ok(json!({"tokens": made.len(), "same": same, "ties": ties, "largest_gap": worst}))
}
