//! Products of many tokens in bf16: each panel of weights is expanded once for a block of tokens, whatever its format is,
//! and then multiplied by pairs of bf16, vector by vector or tile by tile.
//!
//! Expanded weights lie in pairs: dword `r` of line `i` has elements `2i` and `2i + 1` of row `r`, low half first. 16 such
//! lines, 32 elements of 16 rows, are a right factor of tiles; one line is a vector for [`KernelBuilder::dot2`].
//!
//! For each group of panels: for each block of tokens: sums to zero; for each block along the rows: expand, multiply, add
//! to the sums; then bias, residual or activation. Sums are in private memory between the blocks.

use super::expand::expand;
use super::{Activation, Axis, Operands, Params, Schedule, Space, operands};
use crate::pack::{Layout, ROWS, UNIT};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Scalar, TILE_ROWS, Type, Value};

/// Layout of bf16 rows of `width` elements, each on a line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bf16Rows {
    /// Elements a row.
    pub width: u64,
}

impl Bf16Rows {
    /// Bytes of a row.
    pub fn bytes(self) -> u64 {
        (self.width * 2).next_multiple_of(64)
    }
}

/// What becomes of the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// They are the result, with bias and residual.
    Sum {
        /// Adds a packed f32 vector.
        bias: bool,
        /// Adds f32 rows that far apart.
        residual: Option<u64>,
    },
    /// `fn(first) * second`, of two weights.
    Glu(Activation),
}

/// `y = x W^T` or `fn(x G^T) * (x U^T)` with bf16 rows x. Arguments: x, each weight, `[bias]`, `[residual]`, out; scalars:
/// tokens.
#[derive(Clone, Debug)]
pub struct Gemm {
    /// Layout of the weight, or of gate and up.
    pub weights: Vec<Layout>,
    /// Output rows.
    pub rows: u64,
    /// Elements a row, a multiple of 32.
    pub cols: u64,
    /// What becomes of the sums.
    pub finish: Finish,
    /// Bytes from row to row of an f32 result; `None` rounds to bf16 rows.
    pub out_stride: Option<u64>,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

/// Parameter `unit`: what multiplies.
const DOT2: i64 = 0;
const TILE: i64 = 1;
/// Most tokens whose sums are kept at once.
const BLOCK: u64 = 256;
/// Bytes of a line of expanded weights, and of the sums of 16 rows.
const LINE: i64 = 64;

impl Gemm {
    fn panels(&self) -> u64 {
        self.rows.div_ceil(ROWS)
    }

    /// Tiles of tokens that are computed together.
    fn tall(&self) -> u64 {
        if u64::from(self.max_tokens) > TILE_ROWS as u64 { 2 } else { 1 }
    }

    fn block(&self) -> u64 {
        u64::from(self.max_tokens).min(BLOCK)
    }
}

impl Schedule for Gemm {
    fn signature(&self) -> String {
        format!(
            "gemm {:?} m{} n{} {:?} ys{:?} t{}",
            self.weights, self.rows, self.cols, self.finish, self.out_stride, self.max_tokens
        )
    }

    fn space(&self) -> Space {
        // A long row is taken in blocks that stay in the first-level cache with the tokens' part of it.
        let depth = |k: i64| k.min(self.cols as i64);
        let mut depths: Vec<i64> = [256, 512, 1024].map(depth).to_vec();
        depths.dedup();
        vec![
            Axis { name: "panels", values: vec![4, 2, 1, 8, 12] },
            Axis { name: "group", values: vec![2, 1] },
            Axis { name: "tokens", values: if self.max_tokens > 1 { vec![8, 12, 6, 4, 2] } else { vec![1] } },
            Axis { name: "depth", values: depths },
            Axis { name: "unit", values: vec![DOT2, TILE] },
        ]
    }

    fn preferred(&self) -> Vec<Params> {
        vec![[("unit", TILE)].into()]
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.panels().div_ceil(p["panels"] as u64) as u32
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let mut b = KernelBuilder::new(name);
        let x = b.ptr_param("x");
        let names = if self.weights.len() > 1 { &["gate", "up"][..] } else { &["w"] };
        let weights: Vec<Value> = names.iter().map(|n| b.ptr_param(n)).collect();
        let (with_bias, residual) = match self.finish {
            Finish::Sum { bias, residual } => (bias, residual),
            Finish::Glu(_) => (false, None),
        };
        let bias = with_bias.then(|| b.ptr_param("bias"));
        let residual = residual.map(|stride| (b.ptr_param("residual"), stride));
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let together = p["group"];
        let (depth, count) = (p["depth"], (self.weights.len() * together as usize) as i64);
        // What is computed beyond the last token has a place, too.
        let granule = if p["unit"] == TILE { self.tall() * TILE_ROWS as u64 } else { p["tokens"] as u64 };
        let capacity = self.block().next_multiple_of(granule) as i64;
        let expanded = b.local(count * depth / 2 * LINE);
        let sums = b.local(count * capacity * LINE);
        let tail = if p["unit"] == TILE { Some(b.local(granule as i64 * depth * 2)) } else { None };

        let chunk = b.chunk_id();
        let first = b.mul_imm(chunk, p["panels"]);
        let end = b.add_imm(first, p["panels"]);
        let all = b.i64(self.panels() as i64);
        let end = b.smin(end, all);
        let last = b.add_imm(end, -1);
        let (none, cols) = (b.i64(0), b.i64(self.cols as i64));
        b.for_(first, end, together, &[], |b, panel, _| {
            // A group that reaches past the end computes the last panel again.
            let numbers: Vec<Value> = (0..together)
                .map(|i| {
                    let n = b.add_imm(panel, i);
                    if i > 0 { b.smin(n, last) } else { n }
                })
                .collect();
            b.for_(none, tokens, self.block() as i64, &[], |b, t0, _| {
                let t1 = b.add_imm(t0, self.block() as i64);
                let t1 = b.smin(t1, tokens);
                let zero = b.f32(16, 0.0);
                let lines = b.i64(count * capacity);
                b.for_(none, lines, 1, &[], |b, i, _| {
                    let p = b.index(sums, i, LINE);
                    b.store(zero, p, 0);
                    vec![]
                });
                b.for_(none, cols, depth, &[], |b, k0, _| {
                    let k1 = b.add_imm(k0, depth);
                    let k1 = b.smin(k1, cols);
                    let shift = b.int(Type::I32, UNIT.trailing_zeros().into());
                    let (u0, u1) = (b.shr_u(k0, shift), b.shr_u(k1, shift));
                    for (m, (&w, layout)) in (0..).zip(weights.iter().zip(&self.weights)) {
                        for (i, &n) in (0..).zip(&numbers) {
                            let panel = b.index(w, n, layout.panel_bytes(self.cols) as i64);
                            let to = b.index_bytes(expanded, (m * together + i) as u64 * (depth / 2 * LINE) as u64);
                            expand(b, layout, panel, u0, u1, to);
                        }
                    }
                    let x = b.index(x, k0, 2);
                    let units = b.sub(u1, u0);
                    let job = Job {
                        x,
                        stride: Bf16Rows { width: self.cols }.bytes() as i64,
                        expanded,
                        sums,
                        depth,
                        count,
                        capacity,
                        t0,
                        t1,
                        units,
                    };
                    match tail {
                        Some(tail) => job.tiles(b, self.tall(), tail),
                        None => job.dots(b, p["tokens"]),
                    }
                    vec![]
                });
                b.for_(t0, t1, 1, &[], |b, t, _| {
                    let j = b.sub(t, t0);
                    for (i, &n) in (0..).zip(&numbers) {
                        let sum = |b: &mut KernelBuilder, m: i64| {
                            let p = b.index(sums, j, LINE);
                            b.load(Type::F32.x(16), p, (m * together + i) * capacity * LINE)
                        };
                        let column = b.mul_imm(n, ROWS as i64 * 4);
                        let mut y = sum(b, 0);
                        if let Some(p) = bias {
                            let p = b.offset(p, column);
                            let v = b.load(Type::F32.x(16), p, 0);
                            y = b.add(y, v);
                        }
                        if let Some((p, stride)) = residual {
                            let p = b.index(p, t, stride as i64);
                            let p = b.offset(p, column);
                            let v = b.load(Type::F32.x(16), p, 0);
                            y = b.add(y, v);
                        }
                        if let Finish::Glu(function) = self.finish {
                            let up = sum(b, 1);
                            let gate = function.apply(b, y);
                            y = b.mul(gate, up);
                        }
                        self.store(b, y, out, t, n);
                    }
                    vec![]
                });
                vec![]
            });
            vec![]
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::gemm(self)
    }
}

impl Gemm {
    /// Writes 16 results of token `t`, those of panel `n`.
    fn store(&self, b: &mut KernelBuilder, y: Value, out: Value, t: Value, n: Value) {
        let (y, stride, size) = match self.out_stride {
            Some(stride) => (y, stride, 4),
            None => (b.fround(y, Scalar::BF16), Bf16Rows { width: self.rows }.bytes(), 2),
        };
        let row = b.index(out, t, stride as i64);
        let p = b.index(row, n, ROWS as i64 * size);
        b.store(y, p, 0);
    }
}

/// Expanded panels times a block of tokens, for a part of the rows' length.
struct Job {
    /// The part in row 0 of x.
    x: Value,
    /// Bytes from row to row of x.
    stride: i64,
    expanded: Value,
    sums: Value,
    /// Elements for which a panel has room.
    depth: i64,
    /// Panels.
    count: i64,
    /// Tokens for which a panel has sums.
    capacity: i64,
    /// Tokens.
    t0: Value,
    t1: Value,
    /// Runs of 32 elements.
    units: Value,
}

impl Job {
    /// A token's number, or the last one's.
    fn token(&self, b: &mut KernelBuilder, t: Value, j: i64) -> Value {
        let last = b.add_imm(self.t1, -1);
        let id = b.add_imm(t, j);
        b.smin(id, last)
    }

    /// Where the sums of token `t` begin; those of the next panel are [`Job::panel`] bytes on.
    fn place(&self, b: &mut KernelBuilder, t: Value) -> Value {
        let j = b.sub(t, self.t0);
        b.index(self.sums, j, LINE)
    }

    /// Bytes from panel to panel of expanded weights and of sums.
    fn panel(&self) -> (i64, i64) {
        (self.depth / 2 * LINE, self.capacity * LINE)
    }

    /// Vectors of 16 rows times `group` tokens, two panels at a time.
    fn dots(&self, b: &mut KernelBuilder, group: i64) {
        let (next_lines, next_sums) = self.panel();
        b.for_(self.t0, self.t1, group, &[], |b, t, _| {
            let place = self.place(b, t);
            let xs: Vec<Value> = (0..group)
                .map(|j| {
                    let id = self.token(b, t, j);
                    b.index(self.x, id, self.stride)
                })
                .collect();
            for first in (0..self.count).step_by(2) {
                let panels: Vec<i64> = (first..self.count.min(first + 2)).collect();
                let at: Vec<i64> =
                    panels.iter().flat_map(|p| (0..group).map(move |j| p * next_sums + j * LINE)).collect();
                let init: Vec<Value> = at.iter().map(|&at| b.load(Type::F32.x(16), place, at)).collect();
                let lo = b.i64(0);
                let done = b.for_(lo, self.units, 1, &init, |b, unit, acc| {
                    let mut acc = acc.to_vec();
                    let w = b.index(self.expanded, unit, UNIT as i64 / 2 * LINE);
                    let xs: Vec<Value> = xs.iter().map(|&x| b.index(x, unit, UNIT as i64 * 2)).collect();
                    for line in 0..UNIT as i64 / 2 {
                        let ws: Vec<Value> =
                            panels.iter().map(|p| b.load(Type::BF16.x(32), w, p * next_lines + line * LINE)).collect();
                        for (j, &x) in xs.iter().enumerate() {
                            let v = b.load(Type::I32, x, line * 4);
                            let v = b.splat(v, 16);
                            let v = b.bitcast(v, Type::BF16.x(32));
                            for (i, &w) in ws.iter().enumerate() {
                                let a = &mut acc[i * group as usize + j];
                                *a = b.dot2(*a, w, v);
                            }
                        }
                    }
                    acc
                });
                for (&v, &at) in done.iter().zip(&at) {
                    b.store(v, place, at);
                }
            }
            vec![]
        });
    }

    /// Tiles of 16 tokens times 16 rows, up to two by two. Tokens that do not fill their tiles are copied to `tail`, the
    /// last one into the rows that are left.
    fn tiles(&self, b: &mut KernelBuilder, tall: u64, tail: Value) {
        let (next_lines, next_sums) = self.panel();
        let tall = tall as i64;
        let rows = tall * TILE_ROWS as i64;
        let (none, line) = (b.i64(0), b.i64(LINE));
        b.for_(self.t0, self.t1, rows, &[], |b, t, _| {
            let place = self.place(b, t);
            let over = b.add_imm(t, rows);
            let whole = b.cmp(Pred::Sge, self.t1, over);
            let (direct, packed) = (b.i64(self.stride), b.i64(self.depth * 2));
            let from = b.if_(
                whole,
                |b| vec![b.index(self.x, t, self.stride), direct],
                |b| {
                    let n = b.i64(rows);
                    b.for_(none, n, 1, &[], |b, r, _| {
                        let id = b.add(t, r);
                        let id = self.token(b, id, 0);
                        let (x, to) = (b.index(self.x, id, self.stride), b.index(tail, r, self.depth * 2));
                        b.for_(none, self.units, 1, &[], |b, unit, _| {
                            let (x, to) = (b.index(x, unit, UNIT as i64 * 2), b.index(to, unit, UNIT as i64 * 2));
                            let v = b.load(Type::I32.x(16), x, 0);
                            b.store(v, to, 0);
                            vec![]
                        });
                        vec![]
                    });
                    vec![tail, packed]
                },
            );
            let (x, stride) = (from[0], from[1]);
            let lower = b.mul_imm(stride, TILE_ROWS as i64);
            for first in (0..self.count).step_by(2) {
                let wide = (self.count - first).min(2);
                // Tile numbers: sums 0 to 3, tokens 4 and 5, weights 6 and 7.
                let sums: Vec<(u8, Value)> = (0..tall)
                    .flat_map(|i| (0..wide).map(move |j| (i, j)))
                    .map(|(i, j)| {
                        let at = (first + j) * next_sums + i * TILE_ROWS as i64 * LINE;
                        ((2 * i + j) as u8, b.index_bytes(place, at as u64))
                    })
                    .collect();
                sums.iter().for_each(|&(c, p)| b.tile_load(c, p, line));
                b.for_(none, self.units, 1, &[], |b, unit, _| {
                    let x = b.index(x, unit, UNIT as i64 * 2);
                    let w = b.index(self.expanded, unit, UNIT as i64 / 2 * LINE);
                    for j in 0..wide {
                        let p = b.index_bytes(w, ((first + j) * next_lines) as u64);
                        b.tile_load(6 + j as u8, p, line);
                    }
                    for i in 0..tall {
                        let p = if i > 0 { b.offset(x, lower) } else { x };
                        b.tile_load(4 + i as u8, p, stride);
                        (0..wide as u8).for_each(|j| b.tile_dot(2 * i as u8 + j, 4 + i as u8, 6 + j));
                    }
                    vec![]
                });
                sums.iter().for_each(|&(c, p)| b.tile_store(c, p, line));
            }
            vec![]
        });
    }
}
