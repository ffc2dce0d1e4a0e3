//! The kernels to check, at shapes that are no round numbers.

use crate::case::Arrange;
pub use crate::case::Case;

use tilewright_codegen::backend::Backend;
use tilewright_codegen::pack::Fragments;
use tilewright_codegen::ptx::Ptx;
use tilewright_codegen::schedules::gpu::{
    Attention, Choice, Embed, F16Rows, FEW, Input, KvWrite, Next, Product, Round, Rowwise,
};
use tilewright_codegen::schedules::{self as op, Activation, Finish, HeadPrep, RopeStyle, RowwiseOp, Schedule};
use tilewright_codegen::target::Target;
use tilewright_models::format::FormatSet;
use tilewright_runtime::sampler::OnDevice;

/// How many of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// What an emulator does in seconds.
    Tiny,
    /// All.
    Whole,
}

/// How often a point is drawn before the default is taken.
const DRAWS: usize = 20;
/// Sums of f32 in another order.
const EXACT: f64 = 1e-10;
/// A value between two f16 may fall to either side.
const ROUNDED: f64 = 1e-6;
/// By f16 terms of the activations: rounding may fall to either side before the sums.
const BY_TERMS: [f64; 2] = [1e-6, 1e-10];

/// All cases; parameters off the defaults are chosen by `seed`.
pub fn all(size: Size, seed: u64, target: &Target) -> Vec<Case> {
    let mut all = Cases { out: vec![], random: seed, target };
    all.products(size);
    all.attention(size);
    all.rows(size);
    all.out
}

struct Cases<'a> {
    out: Vec<Case>,
    random: u64,
    target: &'a Target,
}

fn nothing(_: &mut [Vec<u8>], _: [u64; 3]) {}

impl Cases<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % n.max(1)
    }

    /// Adds the default point, or one chosen at random.
    fn add(&mut self, what: String, schedule: impl Schedule + Send + 'static, run: (u64, u64), limit: f64, any: bool) {
        let space = schedule.space();
        let structural = schedule.structural();
        let mut params = op::defaults(&space);
        // A point that the device has no room for is another case than a wrong one.
        for _ in 0..if any { DRAWS } else { 0 } {
            let mut drawn = params.clone();
            for axis in space.iter().filter(|a| !structural.contains(&a.name)) {
                drawn.insert(axis.name, axis.values[self.below(axis.values.len())]);
            }
            if Ptx.check(&schedule.build("k", &drawn), self.target).is_ok() {
                params = drawn;
                break;
            }
        }
        let point: Vec<String> = if any { params.iter().map(|(n, v)| format!("{n}={v}")).collect() } else { vec![] };
        let name = format!("{what} {}", point.join(" ")).trim_end().to_string();
        let (tokens, past) = run;
        self.out.push(Case { name, schedule: Box::new(schedule), params, tokens, past, limit, arrange: nothing });
    }

    /// Every block format by the kernels of few tokens and of many.
    fn products(&mut self, size: Size) {
        let runs: &[(u32, u64)] = match size {
            Size::Tiny => &[(1, 1), (FEW, 5), (16, 11)],
            Size::Whole => &[(1, 1), (4, 3), (FEW, 8), (16, 16), (64, 41), (512, 100)],
        };
        for (f, format) in FormatSet::builtin().iter().enumerate() {
            let tiny = size == Size::Tiny;
            if tiny && !["q4_0", "q6_k", "bf16"].contains(&format.name.as_str()) {
                continue;
            }
            let Ok(layout) = Fragments::of(format) else { continue };
            for (r, &(max_tokens, tokens)) in runs.iter().enumerate() {
                for terms in [1u64, 2] {
                    let rows = if tiny { 24 } else { [48, 80, 200, 24][self.below(4)] };
                    let cols = if tiny { 96u64 } else { [320u64, 640, 192, 1088][self.below(4)] };
                    let cols = cols.next_multiple_of((format.block as u64).max(4));
                    let out_stride = (rows + 16u64).next_multiple_of(16) * 4;
                    let glu = (f + r + terms as usize).is_multiple_of(3);
                    let finish = match (glu, r % 2 == 0) {
                        (true, _) => Finish::Glu(Activation::Silu),
                        (false, more) => Finish::Sum { bias: more, residual: more.then_some(out_stride) },
                    };
                    let norm = (r % 2 == 1).then_some(1e-5);
                    let x = match max_tokens <= FEW {
                        true => Input::Rows { stride: cols * 4 + 64, norm, terms },
                        false => Input::Rounded(F16Rows { width: cols, terms: terms as u32 }),
                    };
                    let weights = vec![layout.clone(); 1 + usize::from(glu)];
                    let product = Product { weights, rows, cols, x, finish, out_stride, max_tokens };
                    let what = format!("product {} {rows}x{cols} t{tokens}/{max_tokens} f16x{terms}", format.name);
                    let limit = BY_TERMS[terms as usize - 1];
                    self.add(what.clone(), product.clone(), (tokens, 0), limit, false);
                    if !tiny {
                        self.add(what, product, (tokens, 0), limit, true);
                    }
                }
            }
        }
    }

    /// Decode with positions split, prefill; heads, groups, windows, caps.
    fn attention(&mut self, size: Size) {
        let rope = |hd: u64| HeadPrep { norm: Some(1e-6), rope: Some((hd / 2, RopeStyle::Half)) };
        let twisted = HeadPrep { norm: None, rope: Some((20, RopeStyle::Interleaved)) };
        let plain = HeadPrep::default();
        // Heads, K/V heads, elements, most tokens, tokens, past, window, cap, preparation.
        let all = [
            (4, 2, 64, 1, 1, 77, 0, 0.0, rope(64)),
            (3, 1, 40, 12, 9, 30, 20, 5.0, twisted),
            (9, 3, 64, 1, 1, 0, 0, 0.0, plain),
            (32, 8, 128, 1, 1, 1000, 0, 0.0, rope(128)),
            (28, 4, 128, 8, 7, 300, 0, 0.0, plain),
            (7, 1, 72, 1, 1, 150, 40, 0.0, plain),
            (8, 4, 256, 1, 1, 90, 0, 50.0, rope(256)),
            (4, 4, 96, 64, 50, 61, 0, 0.0, twisted),
            (8, 2, 128, 512, 70, 30, 33, 0.0, rope(128)),
            (2, 1, 256, 64, 17, 20, 0, 20.0, plain),
            (16, 16, 80, 16, 16, 0, 0, 0.0, plain),
        ];
        let count = if size == Size::Tiny { 2 } else { all.len() };
        for (heads, kv_heads, hd, max_tokens, tokens, past, window, softcap, prep) in all.into_iter().take(count) {
            let width = heads * hd;
            let shape = op::Attention {
                heads,
                kv_heads,
                head_dim: hd,
                q_stride: (width * 4).next_multiple_of(64) + 64,
                prep,
                scale: 1.0 / (hd as f32).sqrt(),
                window,
                softcap,
                out_stride: Some((width * 4).next_multiple_of(64)),
                max_tokens,
            };
            for terms in [1, 2] {
                let Ok(schedule) = Attention::new(shape.clone(), terms) else { continue };
                let what = format!("attention {heads}/{kv_heads}x{hd} t{tokens} past{past} window{window} f16x{terms}");
                let limit = BY_TERMS[terms as usize - 1];
                self.add(what.clone(), schedule.clone(), (tokens, past), limit, false);
                if size == Size::Whole {
                    self.add(what, schedule, (tokens, past), limit, true);
                }
            }
        }
    }

    /// What works row by row, and what fills the cache.
    fn rows(&mut self, size: Size) {
        let tiny = size == Size::Tiny;
        let max_tokens = 4;
        for (heads, hd) in [(2, 40), (3, 64), (8, 128), (2, 256)].into_iter().take(if tiny { 1 } else { 4 }) {
            let prep = HeadPrep { norm: Some(1e-6), rope: Some((hd / 2, RopeStyle::Half)) };
            for prep in [prep, HeadPrep { norm: None, rope: Some((hd / 4, RopeStyle::Interleaved)) }] {
                let stride = (heads * hd * 4).next_multiple_of(64);
                let write =
                    op::KvWrite { heads, head_dim: hd, k_stride: stride, v_stride: stride + 64, prep, max_tokens };
                self.add(format!("kv_write {heads}x{hd} {prep:?}"), KvWrite(write), (3, 9), ROUNDED, false);
            }
        }
        for width in [72u64, 576, 4100, 8192].into_iter().take(if tiny { 1 } else { 4 }) {
            for (terms, norm) in [(1, None), (2, None), (1, Some(1e-5)), (2, Some(1e-5))] {
                let x_stride = (width * 4).next_multiple_of(64);
                let limit = BY_TERMS[terms as usize - 1];
                let what = format!("round {width} f16x{terms}{}", if norm.is_some() { " norm" } else { "" });
                self.add(what, Round { width, x_stride, norm, terms, max_tokens }, (3, 0), limit, false);
            }
            let stride = (width * 4).next_multiple_of(64);
            let kinds = [
                RowwiseOp::RmsNorm { group: width, eps: 1e-5 },
                RowwiseOp::Add(stride),
                RowwiseOp::Add(0),
                RowwiseOp::Mul(stride),
                RowwiseOp::Scale(0.37),
                RowwiseOp::Softcap(30.0),
                RowwiseOp::Act(Activation::Silu),
                RowwiseOp::Act(Activation::GeluTanh),
                RowwiseOp::Rope { heads: 2, pairs: width / 4, style: RopeStyle::Half },
                RowwiseOp::Argmax,
            ];
            for kind in kinds {
                let out_stride = if kind == RowwiseOp::Argmax { 64 } else { stride };
                let name = format!("rowwise {kind:?} {width}");
                let rowwise = op::Rowwise { op: kind, width, x_stride: stride, out_stride, max_tokens };
                self.add(name, Rowwise(rowwise), (3, 0), EXACT, false);
            }
        }
        for format in FormatSet::builtin().iter().take(if tiny { 2 } else { usize::MAX }) {
            let Ok(layout) = Fragments::of(format) else { continue };
            let cols = 96u64.next_multiple_of((format.block as u64).max(4));
            let out_stride = cols * 4 + 64;
            let embed = Embed { layout, cols, out_stride, max_tokens };
            self.add(format!("embed {}", format.name), embed, (3, 0), EXACT, false);
        }
        for (vocab, rope) in
            [(1000, vec![32]), (49_157, vec![3, 64]), (128_256, vec![64])].into_iter().take(if tiny { 1 } else { 3 })
        {
            let arrange: [(Choice, Arrange); 2] = [(Choice::Likeliest, next_step), (Choice::Sampled, sampled_step)];
            for (choice, arrange) in arrange {
                let next = Next { vocab, rope: rope.clone(), choice };
                self.add(format!("{} {vocab}", next.label()), next, (1, 7), EXACT, false);
                if let Some(case) = self.out.last_mut() {
                    case.arrange = arrange;
                }
            }
        }
    }
}

/// The state of a step, its history, and tables of all positions, for [`Next`].
fn next_step(buffers: &mut [Vec<u8>], numbers: [u64; 3]) {
    step(buffers, 6, numbers);
}

/// The same with a token drawn by chance.
fn sampled_step(buffers: &mut [Vec<u8>], numbers: [u64; 3]) {
    buffers[6] = OnDevice { top_k: 12, top_p: 0.95, floor: -3.0, scale: 1.8 }.bytes().to_vec();
    buffers[7] = (0..numbers[2]).flat_map(|i| (i as f32 * 0.37).fract().to_le_bytes()).collect();
    step(buffers, 8, numbers);
}

fn step(buffers: &mut [Vec<u8>], tables: usize, [tokens, past, capacity]: [u64; 3]) {
    // The history and tables have a row more.
    let rows = capacity as usize + 1;
    let state = [tokens, past, capacity].map(u64::to_le_bytes).concat();
    buffers[3][..state.len()].copy_from_slice(&state);
    buffers[5] = vec![0; rows * 4];
    for i in (tables..buffers.len()).step_by(2) {
        let row = buffers[i].clone();
        let bytes = (0..rows).flat_map(|t| row.iter().map(move |b| b ^ t as u8));
        buffers[i] = bytes.collect();
    }
}
