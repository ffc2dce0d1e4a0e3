//! Products for GPUs: every format, odd shapes, random parameters, against f64: by the kernel interpreter, and their PTX by
//! the emulator.

use std::time::{SystemTime, UNIX_EPOCH};
use tilewright_codegen::backend::Backend;
use tilewright_codegen::emulated::{EmulatedDriver, EmulatedGpu};
use tilewright_codegen::pack::{Layout, Order, pack_panel};
use tilewright_codegen::ptx::{self, Ptx};
use tilewright_codegen::schedules::gpu::{F16Rows, Input, Product};
use tilewright_codegen::schedules::{Activation, Finish, Params, Schedule};
use tilewright_codegen::target::Target;
use tilewright_ir::graph::Weight;
use tilewright_ir::graph::interp::WeightSource;
use tilewright_ir::kernel::{Kernel, interp, print, verify};
use tilewright_models::format::FormatSet;
use tilewright_runtime::cuda::{Code, GpuDriver, GpuError, Launch};
use tilewright_tests::host::RandomWeights;
use tilewright_tests::tiny::splitmix64;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        splitmix64(self.0)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: u64) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

fn seed() -> u64 {
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    std::env::var("TILEWRIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh)
}

/// A weight packed for the GPU, and its numbers.
fn packed(format: &str, name: &str, rows: u64, cols: u64, seed: u64) -> (Layout, Vec<u8>, Vec<f32>) {
    let mut g = tilewright_ir::graph::Graph::new("one");
    let n = g.weight(Weight::of(name, format, &[rows, cols]));
    let weight = g.weight_of(n).expect("a weight").clone();
    let weights = RandomWeights::for_graph(&g, seed);
    let format = FormatSet::builtin().get(format).expect("a format");
    let layout = Layout::in_order(format, Order::Fragments).expect("a layout");
    let raw = weights.rows(&weight);
    let mut out = vec![0; layout.bytes(rows, cols) as usize];
    for (i, panel) in out.chunks_exact_mut(layout.panel_bytes(cols) as usize).enumerate() {
        pack_panel(format, &layout, &raw, cols, i as u64, panel).expect("packs");
    }
    (layout, out, weights.load(&weight).expect("numbers"))
}

fn bytes(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn pick(p: &Product, random: &mut Random) -> Params {
    p.space().iter().map(|a| (a.name, a.values[random.next() as usize % a.values.len()])).collect()
}

fn rounded(x: &[f64], terms: u64) -> Vec<f64> {
    let most = x.iter().fold(0f64, |m, v| m.max(v.abs()));
    let scale = 2f64.powi(most.log2().floor() as i32 - 13);
    let round = |v: f64| half::f16::from_f64(v).to_f64();
    x.iter()
        .map(|v| {
            let high = round(v / scale);
            let low = if terms == 2 { round(v / scale - high) } else { 0.0 };
            (high + low) * scale
        })
        .collect()
}

/// One random product; its error.
fn check(format: &str, random: &mut Random, seed: u64) -> f64 {
    let of = |r: &mut Random, all: &[u64]| all[r.next() as usize % all.len()];
    let block = FormatSet::builtin().get(format).expect("a format").block as u64;
    let rows = of(random, &[16, 24, 48, 80]);
    let cols = of(random, &[64, 96, 192, 320, 640]).next_multiple_of(block.max(4));
    let max_tokens = of(random, &[1, 3, 4, 8]) as u32;
    let tokens = 1 + random.next() % u64::from(max_tokens);
    let norm = random.next().is_multiple_of(2).then_some(1e-5);
    let terms = of(random, &[1, 2]);
    let glu = random.next().is_multiple_of(3);
    let (bias, residual) = (random.next().is_multiple_of(2), random.next().is_multiple_of(2));
    let (stride, out_stride) = (cols * 4 + 64, rows.next_multiple_of(16) * 4 + 64);
    let kinds: Vec<_> =
        (0..1 + u64::from(glu)).map(|i| packed(format, &format!("w{i}"), rows, cols, seed + i)).collect();
    let layouts = kinds.iter().map(|k| match &k.0 {
        Layout::Fragments(f) => f.clone(),
        other => panic!("{other:?}"),
    });
    let finish = if glu {
        Finish::Glu(Activation::Silu)
    } else {
        Finish::Sum { bias, residual: residual.then_some(out_stride) }
    };
    let many = random.next().is_multiple_of(2);
    let (max_tokens, norm) = if many { (of(random, &[5, 16, 40, 72]) as u32, None) } else { (max_tokens, norm) };
    let tokens = if many { 1 + random.next() % u64::from(max_tokens) } else { tokens };
    let f16 = F16Rows { width: cols, terms: terms as u32 };
    let x = if many { Input::Rounded(f16) } else { Input::Rows { stride, norm, terms } };
    let p = Product { weights: layouts.collect(), rows, cols, x, finish, out_stride, max_tokens };
    let params = pick(&p, random);
    let kernel = p.build("k", &params);
    assert_eq!(verify(&kernel), Ok(()), "{}", print(&kernel));

    // Rows of very different sizes.
    let data: Vec<f32> = (0..tokens)
        .flat_map(|t| random.floats(stride / 4).into_iter().map(move |v| v * 10f32.powi(t as i32 % 8 * 2 - 3)))
        .collect();
    let gamma = random.floats(cols);
    let (bias_data, residual_data) = (random.floats(rows.next_multiple_of(16)), random.floats(tokens * out_stride / 4));
    let mut buffers = vec![bytes(&data)];
    if many {
        buffers[0] = vec![0; (tokens * f16.bytes()) as usize];
        let from = data.chunks_exact(stride as usize / 4);
        for (x, row) in from.zip(buffers[0].chunks_exact_mut(f16.bytes() as usize)) {
            f16.encode(&x[..cols as usize], row);
        }
    }
    buffers.extend(kinds.iter().map(|k| k.1.clone()));
    buffers.extend(norm.map(|_| bytes(&gamma)));
    if let Finish::Sum { bias, residual } = finish {
        buffers.extend(bias.then(|| bytes(&bias_data)));
        buffers.extend(residual.map(|_| bytes(&residual_data)));
    }
    buffers.push(vec![0xff; (tokens * out_stride) as usize]);
    assert_eq!(buffers.len(), p.operands().pointers.len());
    let inputs = buffers.clone();
    let what = format!("{} {params:?} tokens {tokens}, seed {seed}", p.signature());
    for chunk in 0..p.chunks(&params) {
        if let Err(e) = interp::run(&kernel, &mut buffers, &[tokens as i64], chunk.into()) {
            panic!("{what}: {e}");
        }
    }
    let target = Target::get(["sm_75", "sm_80", "sm_90"][random.next() as usize % 3]).expect("a declared target");
    let grid = p.chunks(&params);
    // Some points of the space are too large for some targets.
    let emulated = Ptx.check(&kernel, &target).is_ok().then(|| {
        let out = emulate(&kernel, &target, &inputs, tokens, grid, random.next());
        out.unwrap_or_else(|e| panic!("{what} on {}: {e}", target.name))
    });
    let error = |out: &[u8]| -> f64 {
        let (mut error, mut power) = (0.0, 0.0);
        for t in 0..tokens as usize {
            let x: Vec<f64> = data[t * stride as usize / 4..][..cols as usize].iter().map(|&v| v.into()).collect();
            let factor = norm.map_or(1.0, |eps: f32| {
                1.0 / (x.iter().map(|v| v * v).sum::<f64>() / cols as f64 + f64::from(eps)).sqrt()
            });
            let x: Vec<f64> =
                x.iter().zip(&gamma).map(|(v, &g)| v * factor * if norm.is_some() { g.into() } else { 1.0 }).collect();
            let x = rounded(&x, terms);
            let (mut wrong, mut size) = (0.0, 0.0);
            for r in 0..rows as usize {
                let dot = |w: &[f32]| -> f64 {
                    w[r * cols as usize..][..cols as usize].iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum()
                };
                let at = t * out_stride as usize / 4 + r;
                let want = match finish {
                    Finish::Glu(_) => {
                        let g = dot(&kinds[0].2);
                        g / (1.0 + (-g).exp()) * dot(&kinds[1].2)
                    }
                    Finish::Sum { bias, residual } => {
                        let bias = if bias { f64::from(bias_data[r]) } else { 0.0 };
                        dot(&kinds[0].2) + bias + residual.map_or(0.0, |_| f64::from(residual_data[at]))
                    }
                };
                let got = f32::from_le_bytes(out[at * 4..][..4].try_into().expect("four bytes"));
                wrong += (f64::from(got) - want).powi(2);
                size += want * want;
            }
            error += wrong / size.max(1e-30);
            power += 1.0;
        }
        error / power
    };
    let mut worst = 0f64;
    for (by, out) in [("interpreter", buffers.last()), ("emulator", emulated.as_ref())] {
        let error = out.map_or(0.0, |out| error(out));
        assert!(error < 1e-7, "{what}, {by}: NMSE {error:e}");
        worst = worst.max(error);
    }
    worst
}

/// The result of the kernel's PTX on an emulated GPU.
fn emulate(
    kernel: &Kernel,
    target: &Target,
    buffers: &[Vec<u8>],
    tokens: u64,
    grid: u32,
    seed: u64,
) -> Result<Vec<u8>, GpuError> {
    let sm = target.gpu().expect("a GPU").sm;
    let mut driver = EmulatedDriver::new(EmulatedGpu { sm, seed, ..EmulatedGpu::default() });
    let text = Ptx.object(std::slice::from_ref(kernel), target).expect("checked");
    let module = driver.load(Code::Ptx(std::str::from_utf8(&text).expect("text")))?;
    let function = driver.function(module, &kernel.name)?;
    let mut params = vec![];
    for data in buffers.iter().chain([&tokens.to_le_bytes().to_vec()]) {
        let at = driver.alloc("an argument", data.len() as u64)?;
        driver.upload(at, data)?;
        params.push(at);
    }
    let launch = ptx::launch(kernel, target);
    let (threads, shared_bytes) = (launch.threads, launch.shared_bytes);
    driver.launch(&Launch { function, grid, threads, shared_bytes, params: &params, dependent: false })?;
    let mut out = buffers.last().expect("the result").clone();
    driver.download(params[buffers.len() - 1], &mut out)?;
    Ok(out)
}

#[test]
fn every_format() {
    let seed = seed();
    let mut random = Random(seed);
    for format in FormatSet::builtin().iter() {
        let worst = (0..4).map(|_| check(&format.name, &mut random, seed)).fold(0.0, f64::max);
        println!("{:8} {worst:.1e}", format.name);
    }
}
