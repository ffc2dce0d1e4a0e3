//! Each schedule at odd shapes on random data, by the interpreter and by the emulator of PTX, against f64
//! references written here.

mod attention;
mod next;
mod rows;

use super::super::{self as cpu, HeadPrep, Params, RopeStyle, Schedule, defaults};
use super::Attention;
use crate::backend::Backend;
use crate::ptx::{Ptx, shared_bytes};
use crate::target::Target;
use crate::tests::Random;
use half::f16;
use tilewright_ir::kernel::{Kernel, Type, interp, print};
use tilewright_ptx_emu::{Arg, Config, Device, DevicePtr, Fault, Launch, Module, Options};

/// A point of the schedule's space, the default but for `changes`.
fn params(s: &dyn Schedule, changes: &[(&'static str, i64)]) -> Params {
    let mut p = defaults(&s.space());
    p.extend(changes.iter().copied());
    p
}

/// Runs all blocks by the interpreter, in a random order, then their PTX in the emulator, twice in a row and overlapping, with
/// several seeds: races, and what is read before the kernel in front has ended, show there. The buffers after each run.
fn run(s: &dyn Schedule, p: &Params, buffers: &[Vec<u8>], scalars: &[i64], random: &mut Random) -> Vec<Vec<Vec<u8>>> {
    let kernel = s.build("k", p);
    let mut blocks: Vec<i64> = (0..i64::from(s.chunks(p))).collect();
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, random.next() as usize % (i + 1));
    }
    let who = format!("seed {}, {} {p:?}", random.seed, s.signature());
    let mut out = buffers.to_vec();
    for block in blocks {
        if let Err(e) = interp::run(&kernel, &mut out, scalars, block) {
            let text = print(&kernel);
            let head: String = text.lines().take(12).map(|l| format!("{l}\n")).collect();
            panic!("{who}, block {block}: {e}\n{head}");
        }
    }
    let mut all = vec![out];
    let target = Target::get("sm_90").unwrap();
    let text = Ptx.object(std::slice::from_ref(&kernel), &target).unwrap_or_else(|e| panic!("{who}: {e}"));
    let text = String::from_utf8(text).unwrap();
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{who}: {e}"));
    for _ in 0..SEEDS {
        let options = Options { seed: random.next(), ..Options::default() };
        let out = emulate(&kernel, &module, s.chunks(p), buffers, scalars, &options);
        all.push(out.unwrap_or_else(|e| {
            let line = text.lines().nth(e.line.saturating_sub(1) as usize).unwrap_or_default();
            panic!("{who}, emulator {}: {e}\n{line}", options.seed)
        }));
    }
    all
}

/// Orders of threads that the emulator tries.
const SEEDS: usize = 2;

fn emulate(
    kernel: &Kernel,
    module: &Module,
    blocks: u32,
    buffers: &[Vec<u8>],
    scalars: &[i64],
    options: &Options,
) -> Result<Vec<Vec<u8>>, Fault> {
    let mut device = Device::new(Config::default());
    let mut place = |name: &str, bytes: &[u8]| -> Result<DevicePtr, Fault> {
        let p = device.alloc(name, bytes.len());
        device.write(p, bytes)?;
        Ok(p)
    };
    let (mut from, mut numbers, mut places, mut args) = (buffers.iter(), scalars.iter(), vec![], vec![]);
    for param in &kernel.params {
        args.push(Arg::Ptr(if kernel.ty(param.value) == Type::PTR {
            let p = place(&param.name, from.next().unwrap())?;
            places.push(p);
            p
        } else {
            place(&param.name, &numbers.next().unwrap().to_le_bytes())?
        }));
    }
    let launch = |dependent| Launch {
        module,
        kernel: &kernel.name,
        grid: [blocks, 1, 1],
        block: [kernel.threads, 1, 1],
        dynamic_shared: shared_bytes(kernel) as usize,
        args: args.clone(),
        dependent,
    };
    device.stream(&[launch(false), launch(true)], options)?;
    places.iter().zip(buffers).map(|(&p, b)| device.read(p, b.len())).collect()
}

impl Random {
    /// About normal.
    fn normal(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64 - 0.5).sum();
        sum * 3f64.sqrt()
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// `n` f32 of that size.
    fn floats(&mut self, n: u64, size: f64) -> Vec<f32> {
        (0..n).map(|_| (self.normal() * size) as f32).collect()
    }

    fn garbage(&mut self, bytes: u64) -> Vec<u8> {
        (0..bytes).map(|_| self.next() as u8).collect()
    }
}

fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(b: &[u8]) -> Vec<f32> {
    b.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn halves(b: &[u8]) -> Vec<f64> {
    b.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
}

/// Rows of `width` f32, `stride` bytes apart, padding of no meaning between them.
fn strided(rows: &[Vec<f32>], stride: u64) -> Vec<u8> {
    let mut out = vec![];
    for row in rows {
        out.extend(bytes(row));
        out.resize(out.len().next_multiple_of(stride as usize), 0xff);
    }
    out
}

/// Element `width` of each row of [`strided`].
fn rows_of(b: &[u8], width: u64, stride: u64) -> Vec<Vec<f32>> {
    b.chunks(stride as usize).map(|row| floats(&row[..width as usize * 4])).collect()
}

/// Squared error by squared size.
fn nmse<A: Copy + Into<f64>>(got: &[A], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&g, w)| (g.into() - w).powi(2)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>().max(1e-300)
}

/// Norm, rotation by the row `angles`, as [`HeadPrep`] says.
fn prepared(prep: HeadPrep, x: &[f32], angles: &[f32], gamma: &[f32]) -> Vec<f64> {
    let mut y: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    if let Some(eps) = prep.norm {
        let mean = y.iter().map(|v| v * v).sum::<f64>() / y.len() as f64;
        let f = 1.0 / (mean + f64::from(eps)).sqrt();
        y.iter_mut().zip(gamma).for_each(|(v, &g)| *v *= f * f64::from(g));
    }
    if let Some((pairs, style)) = prep.rope {
        let n = pairs as usize;
        for i in 0..n {
            let (c, s) = (f64::from(angles[i]), f64::from(angles[n + i]));
            let (a, b) = if style == RopeStyle::Half { (i, i + n) } else { (2 * i, 2 * i + 1) };
            (y[a], y[b]) = (y[a] * c - y[b] * s, y[b] * c + y[a] * s);
        }
    }
    y
}

/// Angles of `tokens` tokens, and a gamma, as far as `prep` has them; as arguments and as numbers.
fn prep_data(prep: HeadPrep, hd: u64, tokens: u64, r: &mut Random) -> (Vec<Vec<u8>>, Vec<Vec<f32>>, Vec<f32>) {
    let mut args = vec![];
    let pairs = prep.rope.map_or(0, |(pairs, _)| pairs);
    let row = |r: &mut Random| -> Vec<f32> {
        let angles: Vec<f64> = (0..pairs).map(|_| r.normal() * 3.0).collect();
        let (cos, sin) = (angles.iter().map(|a| a.cos() as f32), angles.iter().map(|a| a.sin() as f32));
        cos.chain(sin).collect()
    };
    let angles: Vec<Vec<f32>> = (0..tokens).map(|_| row(r)).collect();
    if prep.rope.is_some() {
        args.push(bytes(&angles.concat()));
    }
    let gamma: Vec<f32> = (0..hd).map(|_| 1.0 + r.normal() as f32 * 0.3).collect();
    if prep.norm.is_some() {
        args.push(bytes(&gamma));
    }
    (args, angles, gamma)
}

#[test]
fn each_value_of_each_axis_makes_a_kernel() {
    let gpu = Target::get("sm_90").unwrap();
    let op = |heads, kv_heads, head_dim, max_tokens| cpu::Attention {
        heads,
        kv_heads,
        head_dim,
        q_stride: 65536,
        prep: HeadPrep { norm: Some(1e-5), rope: Some((head_dim / 2, RopeStyle::Half)) },
        scale: 0.1,
        window: 512,
        softcap: 30.0,
        out_stride: Some(65536),
        max_tokens,
    };
    let shapes = [op(32, 8, 128, 1), op(32, 8, 128, 512), op(8, 4, 256, 1), op(8, 4, 256, 64), op(9, 3, 64, 16)];
    for op in shapes {
        let s = Attention::new(op, 1).unwrap();
        for axis in s.space() {
            for &value in &axis.values {
                let p = params(&s, &[(axis.name, value)]);
                let kernel = s.build("k", &p);
                Ptx.check(&kernel, &gpu).unwrap_or_else(|e| panic!("{} {p:?}: {e:?}", s.signature()));
                let small = value == axis.values[0];
                assert!(!small || shared_bytes(&kernel) <= 99 << 10, "{} {p:?}", s.signature());
            }
        }
        // As many pointers and scalars as are declared.
        let kernel = s.build("k", &params(&s, &[]));
        let pointers = kernel.params.iter().filter(|p| kernel.ty(p.value) == Type::PTR).count();
        let o = s.operands();
        assert_eq!((o.pointers.len(), o.scalars.len()), (pointers, kernel.params.len() - pointers));
    }
}
