//! What the arguments of a kernel are: enough to make up data for one call, to time it and to check its results.
//!
//! ```
//! use tilewright_codegen::schedules::{Data, Quantize, Rounding, Schedule};
//! let q = Quantize { width: 64, x_stride: 256, norm: None, to: Rounding::Q8, max_tokens: 2 };
//! let o = q.operands();
//! assert_eq!((o.max_tokens, o.pointers.len(), o.scalars.len()), (2, 2, 1));
//! assert_eq!(o.pointers[0].data, Data::Rows { width: 64, stride: 256 });
//! assert!(o.pointers[1].written && o.pointers[1].data.bytes(2, 0) == 2 * (64 + 32 + 24));
//! ```

use super::gpu::{self, F16Rows, Input, Product};
use super::quantize::BLOCK;
use super::{
    Activations, Attention, AttentionCombine, Bf16Rows, Embed, Finish, Gemm, Glu, HeadPrep, KvWrite, Matmul, Q8Rows,
    Quantize, RopeStyle, Rounding, Rowwise, RowwiseOp, Schedule, defaults,
};
use crate::pack::{Layout, ROWS, UNIT};
use tilewright_runtime::plan::ScalarArg;

/// What a pointer argument points to.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// A packed matrix of the model.
    Weights {
        /// Its layout.
        layout: Layout,
        /// Rows.
        rows: u64,
        /// Elements a row.
        cols: u64,
    },
    /// So many f32 of the model.
    Vector(u64),
    /// A row of f32 a token.
    Rows {
        /// Elements a row.
        width: u64,
        /// Bytes from row to row.
        stride: u64,
    },
    /// An int8 row a token.
    Q8(Q8Rows),
    /// A bf16 row a token.
    Bf16(Bf16Rows),
    /// A row of f16 terms a token.
    F16(F16Rows),
    /// An i32 a token, that many bytes apart, each in `0..below`.
    Ids {
        /// Bytes from one to the next.
        stride: u64,
        /// Above all of them.
        below: u64,
    },
    /// f16 `[heads][capacity][head_dim]`.
    Cache {
        /// K/V heads.
        heads: u64,
        /// Elements a head.
        head_dim: u64,
    },
    /// `pairs` cosines and `pairs` sines a token.
    Angles {
        /// Rotated pairs.
        pairs: u64,
    },
    /// So many bytes of what the blocks of a GPU kernel tell each other: no result.
    Scratch(u64),
    /// So many bytes by which they find the last of them: zero before a call, and left so.
    Counters(u64),
}

impl Data {
    /// Bytes for a call with `tokens` tokens and a cache of `capacity` positions.
    pub fn bytes(&self, tokens: u64, capacity: u64) -> u64 {
        match self {
            Data::Weights { layout, rows, cols } => layout.bytes(*rows, *cols),
            Data::Vector(n) => n * 4,
            // Kernels read and write whole panels: rows are padded to their width.
            Data::Rows { width, stride } => tokens.saturating_sub(1) * stride + width.next_multiple_of(ROWS) * 4,
            Data::Q8(rows) => tokens * rows.bytes(),
            Data::Bf16(rows) => tokens * rows.bytes(),
            Data::F16(rows) => tokens * rows.bytes(),
            Data::Ids { stride, .. } => tokens.saturating_sub(1) * stride + 4,
            Data::Cache { heads, head_dim } => heads * capacity * head_dim * 2,
            Data::Angles { pairs } => tokens * pairs * 8,
            Data::Scratch(bytes) | Data::Counters(bytes) => *bytes,
        }
    }

    /// True for what a step reads once and nothing has read shortly before: it comes from memory.
    pub fn is_cold(&self) -> bool {
        matches!(self, Data::Weights { .. } | Data::Cache { .. })
    }

    /// True for what a kernel is run for, if it writes it.
    pub fn is_result(&self) -> bool {
        !matches!(self, Data::Scratch(_) | Data::Counters(_))
    }
}

/// A pointer argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// What it points to.
    pub data: Data,
    /// Whether it is the kernel's result.
    pub written: bool,
}

/// What products are of, which decides how many of them a machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Math {
    /// Bytes, summed in 32 bits.
    Int8,
    /// bf16, summed in f32.
    Bf16,
    /// f16 by tensor cores, summed in f32.
    F16,
    /// f32.
    F32,
}

impl Math {
    /// All of them, in their order.
    pub const ALL: [Math; 4] = [Math::Int8, Math::Bf16, Math::F16, Math::F32];

    /// `int8`, `bf16`, `f16` or `f32`.
    pub fn name(self) -> &'static str {
        ["int8", "bf16", "f16", "f32"][self as usize]
    }
}

/// The arguments of a kernel in its parameters' order, pointers and scalars apart as in [`tilewright_runtime::plan::Call`].
#[derive(Clone, Debug, PartialEq)]
pub struct Operands {
    /// Most tokens of a call.
    pub max_tokens: u32,
    /// Pointers.
    pub pointers: Vec<Operand>,
    /// Scalars.
    pub scalars: Vec<ScalarArg>,
    /// Multiply-adds of a token, but for those of the cache.
    pub macs: u64,
    /// Multiply-adds of a token with each position of the cache that it sees.
    pub macs_per_position: u64,
    /// Positions seen, 0 = all.
    pub window: u64,
    /// f16 terms that tensor cores multiply each activation as: 1 keeps 11 bits of it, 2 about 22; 0 for other kernels.
    pub terms: u64,
    /// So many chunks, one after another, make a result together.
    pub together: u32,
}

impl Operands {
    /// Of a kernel that multiplies nothing.
    pub fn plain(max_tokens: u32, pointers: Vec<Operand>, scalars: Vec<ScalarArg>) -> Operands {
        Operands { max_tokens, pointers, scalars, macs: 0, macs_per_position: 0, window: 0, terms: 0, together: 1 }
    }

    fn new(max_tokens: u32, read: impl IntoIterator<Item = Data>, out: Data) -> Operands {
        let read = read.into_iter().map(|data| Operand { data, written: false });
        let pointers: Vec<Operand> = read.chain([Operand { data: out, written: true }]).collect();
        let macs = pointers.iter().map(|p| if let Data::Weights { rows, cols, .. } = p.data { rows * cols } else { 0 });
        let macs = macs.sum();
        Operands { macs, ..Operands::plain(max_tokens, pointers, vec![ScalarArg::Tokens]) }
    }

    fn cached(mut self) -> Operands {
        self.scalars.extend([ScalarArg::Past, ScalarArg::Capacity]);
        self
    }

    /// What the products are of.
    pub fn math(&self) -> Math {
        let reads = |is: fn(&Data) -> bool| self.pointers.iter().any(|p| !p.written && is(&p.data));
        match () {
            _ if self.terms > 0 => Math::F16,
            _ if reads(|d| matches!(d, Data::Q8(_))) => Math::Int8,
            _ if reads(|d| matches!(d, Data::Bf16(_))) => Math::Bf16,
            _ => Math::F32,
        }
    }

    /// Whether calls read a cache that grows with the context.
    pub fn reads_cache(&self) -> bool {
        self.pointers.iter().any(|p| matches!(p.data, Data::Cache { .. }) && !p.written)
    }

    /// Bytes that a call has to fetch from memory, and its multiply-adds.
    pub fn work(&self, tokens: u64, past: u64) -> (u64, u64) {
        let seen = |end: u64| if self.window == 0 { end } else { end.min(self.window) };
        let cold = self.pointers.iter().filter(|p| p.data.is_cold() && !p.written);
        let bytes = cold.map(|p| p.data.bytes(tokens, seen(past + tokens))).sum();
        let positions: u64 = (1..=tokens).map(|t| seen(past + t)).sum();
        (bytes, self.macs * tokens + self.macs_per_position * positions)
    }
}

impl Q8Rows {
    /// Rounds a row of f32 as the kernels do.
    pub fn encode(self, x: &[f32], row: &mut [u8]) {
        let put = |row: &mut [u8], at: i64, i: usize, v: f32| {
            let at = at as usize + i * 4;
            row[at..at + 4].copy_from_slice(&v.to_le_bytes());
        };
        let unit = UNIT as usize;
        for (u, x) in x.chunks_exact(unit).enumerate() {
            let mut sums = [0f32; 2];
            for (k, x) in x.chunks_exact(BLOCK as usize).enumerate() {
                let first = u * unit + k * BLOCK as usize;
                let scale = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                for (i, v) in x.iter().enumerate() {
                    let code = (v * inverse).round_ties_even() as i8;
                    row[first + i] = code as u8;
                    sums[k / 2] += f32::from(code) * scale;
                }
                put(row, self.scales(), first / BLOCK as usize, scale);
            }
            put(row, self.sums32(), u, sums[0] + sums[1]);
            put(row, self.sums16(), 2 * u, sums[0]);
            put(row, self.sums16(), 2 * u + 1, sums[1]);
        }
    }

    /// The values of a row and, behind them, its sums.
    pub fn decode(self, row: &[u8]) -> Vec<f32> {
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (codes, rest) = row.split_at(self.width as usize);
        let (scales, sums) = rest.split_at((self.sums32() - self.scales()) as usize);
        let scale = |i: usize| float(&scales[i / BLOCK as usize * 4..]);
        let values = codes.iter().enumerate().map(|(i, &c)| f32::from(c as i8) * scale(i));
        values.chain(sums.chunks_exact(4).map(float)).collect()
    }
}

fn rows(width: u64, stride: u64) -> Data {
    Data::Rows { width, stride }
}

fn q8(width: u64) -> Data {
    Data::Q8(Q8Rows { width })
}

/// f32 rows if there is a stride, int8 rows otherwise.
fn result(width: u64, stride: Option<u64>) -> Data {
    stride.map_or(q8(width), |s| rows(width, s))
}

fn bf16(width: u64) -> Data {
    Data::Bf16(Bf16Rows { width })
}

fn weights(layout: &Layout, rows: u64, cols: u64) -> Data {
    Data::Weights { layout: layout.clone(), rows, cols }
}

impl Activations {
    fn data(self, width: u64) -> Data {
        match self {
            Activations::F32 { stride } => rows(width, stride),
            Activations::Q8 => q8(width),
        }
    }
}

impl HeadPrep {
    fn data(self, head_dim: u64) -> impl Iterator<Item = Data> {
        let angles = self.rope.map(|(pairs, _): (u64, RopeStyle)| Data::Angles { pairs });
        angles.into_iter().chain(self.norm.map(|_| Data::Vector(head_dim)))
    }
}

pub(super) fn matmul(m: &Matmul) -> Operands {
    let mut read = vec![m.x.data(m.cols), weights(&m.layout, m.rows, m.cols)];
    read.extend(m.bias.then_some(Data::Vector(m.rows.next_multiple_of(ROWS))));
    read.extend(m.residual.map(|stride| rows(m.rows, stride)));
    Operands::new(m.max_tokens, read, rows(m.rows, m.out_stride))
}

pub(super) fn glu(g: &Glu) -> Operands {
    let read = [g.x.data(g.cols), weights(&g.gate, g.rows, g.cols), weights(&g.up, g.rows, g.cols)];
    Operands::new(g.max_tokens, read, result(g.rows, g.out_stride))
}

pub(super) fn gemm(g: &Gemm) -> Operands {
    let mut read = vec![bf16(g.cols)];
    read.extend(g.weights.iter().map(|l| weights(l, g.rows, g.cols)));
    if let Finish::Sum { bias, residual } = g.finish {
        read.extend(bias.then_some(Data::Vector(g.rows.next_multiple_of(ROWS))));
        read.extend(residual.map(|stride| rows(g.rows, stride)));
    }
    Operands::new(g.max_tokens, read, g.out_stride.map_or(bf16(g.rows), |s| rows(g.rows, s)))
}

pub(super) fn product(p: &Product) -> Operands {
    let (x, norm, terms) = match p.x {
        Input::Rows { stride, norm, terms } => (rows(p.cols, stride), norm, terms),
        Input::Rounded(from) => (Data::F16(from), None, from.terms.into()),
    };
    let mut read = vec![x];
    read.extend(p.weights.iter().map(|l| weights(&Layout::Fragments(l.clone()), p.rows, p.cols)));
    read.extend(norm.map(|_| Data::Vector(p.cols)));
    if let Finish::Sum { bias, residual } = p.finish {
        read.extend(bias.then_some(Data::Vector(p.rows.next_multiple_of(ROWS))));
        read.extend(residual.map(|stride| rows(p.rows, stride)));
    }
    Operands { terms, ..Operands::new(p.max_tokens, read, rows(p.rows, p.out_stride)) }
}

pub(super) fn attention(a: &Attention) -> Operands {
    let cache = Data::Cache { heads: a.kv_heads, head_dim: a.head_dim };
    let width = a.heads * a.head_dim;
    let read = [rows(width, a.q_stride), cache.clone(), cache].into_iter().chain(a.prep.data(a.head_dim));
    let out = match a.combine(&defaults(&a.space())) {
        Some(combine) => partial(&combine),
        None => result(width, a.out_stride),
    };
    let operands = Operands::new(a.max_tokens, read, out).cached();
    Operands { macs_per_position: 2 * width, window: a.window, ..operands }
}

/// Partial results of one token.
fn partial(c: &AttentionCombine) -> Data {
    let bytes = c.scratch_bytes();
    rows(bytes / 4, bytes)
}

pub(super) fn combine(c: &AttentionCombine) -> Operands {
    let (width, stride) = c.output();
    Operands { scalars: vec![ScalarArg::Past], ..Operands::new(1, [partial(c)], result(width, stride)) }
}

pub(super) fn kv_write(k: &KvWrite) -> Operands {
    let cache = || Operand { data: Data::Cache { heads: k.heads, head_dim: k.head_dim }, written: true };
    let width = k.heads * k.head_dim;
    let read = [rows(width, k.k_stride), rows(width, k.v_stride)].into_iter().chain(k.prep.data(k.head_dim));
    let read = read.map(|data| Operand { data, written: false });
    let pointers = [cache(), cache()].into_iter().chain(read).collect();
    Operands { pointers, ..Operands::new(k.max_tokens, [], q8(0)) }.cached()
}

pub(super) fn quantize(q: &Quantize) -> Operands {
    let read = [rows(q.width, q.x_stride)].into_iter().chain(q.norm.map(|_| Data::Vector(q.width)));
    let out = if q.to == Rounding::Q8 { q8(q.width) } else { bf16(q.width) };
    Operands::new(q.max_tokens, read, out)
}

pub(super) fn embed(e: &Embed) -> Operands {
    table(&e.layout, e.cols, e.out_stride, e.max_tokens)
}

pub(super) fn gpu_embed(e: &gpu::Embed) -> Operands {
    table(&Layout::Fragments(e.layout.clone()), e.cols, e.out_stride, e.max_tokens)
}

fn table(layout: &Layout, cols: u64, out_stride: u64, max_tokens: u32) -> Operands {
    // The kernel does not know how long its table is; a part of it is as good.
    let below = 64;
    let read = [Data::Ids { stride: 4, below }, weights(layout, below, cols)];
    Operands { macs: 0, ..Operands::new(max_tokens, read, rows(cols, out_stride)) }
}

pub(super) fn rowwise(r: &Rowwise) -> Operands {
    let (mut width, mut x, mut second) = (r.width, r.width, None);
    let mut out = None;
    match &r.op {
        RowwiseOp::RmsNorm { group, .. } => second = Some(Data::Vector(*group)),
        RowwiseOp::Add(0) => second = Some(Data::Vector(r.width)),
        RowwiseOp::Add(stride) | RowwiseOp::Mul(stride) => second = Some(rows(r.width, *stride)),
        RowwiseOp::Rope { pairs, .. } => second = Some(Data::Angles { pairs: *pairs }),
        RowwiseOp::Slice(start) => x += start,
        RowwiseOp::Argmax => {
            width = 1;
            out = Some(Data::Ids { stride: r.out_stride, below: r.width });
        }
        RowwiseOp::Scale(_) | RowwiseOp::Softcap(_) | RowwiseOp::Act(_) => {}
    }
    let out = out.unwrap_or(rows(width, r.out_stride));
    Operands::new(r.max_tokens, [rows(x, r.x_stride)].into_iter().chain(second), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Store;
    use tilewright_ir::kernel::Type;

    #[test]
    fn as_many_as_the_kernel_takes() {
        let x = Activations::F32 { stride: 256 };
        let prep = HeadPrep { norm: Some(1e-5), rope: Some((32, RopeStyle::Half)) };
        let layout = Layout::Float(Store::F16);
        let matmul = Matmul {
            layout: layout.clone(),
            rows: 40,
            cols: 64,
            x,
            bias: true,
            residual: Some(192),
            out_stride: 192,
            max_tokens: 4,
        };
        let function = crate::schedules::Activation::Silu;
        let (gate, up) = (layout.clone(), layout.clone());
        let glu = Glu { gate, up, rows: 64, cols: 64, x, function, out_stride: None, max_tokens: 4 };
        let attention = Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            q_stride: 1024,
            prep,
            scale: 0.125,
            window: 0,
            softcap: 0.0,
            out_stride: None,
            max_tokens: 4,
        };
        let kv_write = KvWrite { heads: 2, head_dim: 64, k_stride: 512, v_stride: 512, prep, max_tokens: 4 };
        let quantize = Quantize { width: 64, x_stride: 256, norm: Some(1e-5), to: Rounding::Q8, max_tokens: 4 };
        let finish = Finish::Sum { bias: true, residual: Some(192) };
        let gemm =
            Gemm { weights: vec![layout.clone()], rows: 40, cols: 64, finish, out_stride: Some(192), max_tokens: 4 };
        let pair = vec![layout.clone(), layout.clone()];
        let bf16_glu = Gemm { weights: pair, finish: Finish::Glu(function), out_stride: None, ..gemm.clone() };
        let embed = Embed { layout, cols: 64, out_stride: 256, max_tokens: 4 };
        let all: [&dyn Schedule; 8] = [&matmul, &glu, &attention, &kv_write, &quantize, &embed, &gemm, &bf16_glu];
        let ops = [
            RowwiseOp::RmsNorm { group: 64, eps: 1e-5 },
            RowwiseOp::Add(0),
            RowwiseOp::Mul(256),
            RowwiseOp::Scale(2.0),
            RowwiseOp::Slice(16),
            RowwiseOp::Rope { heads: 1, pairs: 32, style: RopeStyle::Half },
            RowwiseOp::Argmax,
        ];
        let rowwise = ops.map(|op| Rowwise { op, width: 64, x_stride: 512, out_stride: 256, max_tokens: 4 });
        for s in all.into_iter().chain(rowwise.iter().map(|r| r as &dyn Schedule)) {
            let kernel = s.build("k", &defaults(&s.space()));
            let pointers = kernel.params.iter().filter(|p| kernel.ty(p.value) == Type::PTR).count();
            let o = s.operands();
            let given = (o.pointers.len(), o.scalars.len(), o.max_tokens);
            assert_eq!(given, (pointers, kernel.params.len() - pointers, 4), "{}", s.signature());
            assert!(o.pointers.iter().any(|p| p.written), "{}", s.signature());
        }
        assert_eq!(matmul.operands().work(4, 0), (48 * 64 * 2, 40 * 64 * 4));
        assert_eq!(attention.operands().work(1, 9), (2 * 2 * 10 * 64 * 2, 2 * 4 * 64 * 10));
    }

    #[test]
    fn int8_rows_come_back() {
        let rows = Q8Rows { width: 64 };
        let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut row = vec![0; rows.bytes() as usize];
        rows.encode(&x, &mut row);
        let y = rows.decode(&row);
        assert_eq!(y.len(), 64 + 2 + 4);
        assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 0.005));
        let sum: f32 = y[..32].iter().sum();
        assert!((y[64] - sum).abs() < 1e-4 && (y[66] + y[67] - y[64]).abs() < 1e-5);
    }
}
