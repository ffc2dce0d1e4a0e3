//! Packed matrix times rows of activations, for one token and for many, with bias and residual; and the gate/up pair with
//! its activation.
//!
//! A chunk is a few panels of 16 output rows. For many tokens the panel stays in the first-level cache while groups of
//! `tokens` rows pass by; a group that reaches past the end repeats the last row, which writes the same values again.

use super::panel::{Rows, panel_dot};
use super::quantize::Q8Rows;
use super::{Activation, Axis, Operands, Params, Schedule, Space, operands};
use crate::pack::{Layout, ROWS};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Type, Value};

/// What the activations of a product are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// f32 rows, that many bytes apart.
    F32 {
        /// Bytes from row to row.
        stride: u64,
    },
    /// int8 rows in the layout of [`Q8Rows`].
    Q8,
}

impl Activations {
    fn stride(self, cols: u64) -> u64 {
        match self {
            Activations::F32 { stride } => stride,
            Activations::Q8 => Q8Rows { width: cols }.bytes(),
        }
    }
}

/// `y = x W^T (+ bias) (+ residual)`. Arguments: x, w, `[bias]`, `[residual]`, out; scalars: tokens.
#[derive(Clone, Debug)]
pub struct Matmul {
    /// Layout of the weight.
    pub layout: Layout,
    /// Output rows.
    pub rows: u64,
    /// Elements a row.
    pub cols: u64,
    /// The activations.
    pub x: Activations,
    /// Adds a packed f32 vector.
    pub bias: bool,
    /// Adds f32 rows that far apart.
    pub residual: Option<u64>,
    /// Bytes from one output row of activations to the next.
    pub out_stride: u64,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

/// Parameters shared by the panel schedules.
fn panel_space(layout: &Layout, panels: u64, cols: u64, max_tokens: u32, pair: u64) -> Space {
    let bytes = layout.panel_bytes(cols).max(1);
    // About 48 KB a chunk: a few µs, long enough to hide the claim, short enough to share out evenly.
    let ideal = (49_152 / bytes).clamp(1, panels.max(1)).div_ceil(pair) * pair;
    let mut chunk = vec![ideal as i64];
    chunk.extend(
        [1, 2, 4, 6, 12, 24, 48, 96].into_iter().filter(|&c| (c as u64).is_multiple_of(pair) && c != ideal as i64),
    );
    // So many rows at once, never more than there are.
    let mut tokens = vec![8, 2, 3, 4, 6, 12, 1];
    tokens.retain(|&t| t <= i64::from(max_tokens));
    if let Some(most) = tokens.iter().position(|&t| t == i64::from(max_tokens)) {
        tokens[..=most].rotate_right(1);
    }
    // Weights pass once for a few tokens: memory is what such a step waits for.
    let streams = max_tokens <= 4;
    vec![
        Axis { name: "panels", values: chunk },
        Axis { name: "lanes", values: vec![16, 8, 4] },
        Axis { name: "group", values: vec![1, 2] },
        Axis { name: "ahead", values: if streams { vec![0, 1024, 2048, 4096, 512] } else { vec![0] } },
        Axis { name: "tokens", values: tokens },
    ]
}

impl Matmul {
    fn panels(&self) -> u64 {
        self.rows.div_ceil(ROWS)
    }
}

impl Schedule for Matmul {
    fn signature(&self) -> String {
        format!(
            "matmul {:?} m{} n{} x{:?} bias{} res{:?} ys{} t{}",
            self.layout, self.rows, self.cols, self.x, self.bias, self.residual, self.out_stride, self.max_tokens
        )
    }

    fn space(&self) -> Space {
        panel_space(&self.layout, self.panels(), self.cols, self.max_tokens, 1)
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.panels().div_ceil(p["panels"] as u64) as u32
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let (per_chunk, lanes, group) = (p["panels"], p["lanes"] as u16, p["tokens"] as usize);
        let together = p["group"];
        let mut b = KernelBuilder::new(name);
        let x = b.ptr_param("x");
        let w = b.ptr_param("w");
        let bias = self.bias.then(|| b.ptr_param("bias"));
        let residual = self.residual.map(|_| b.ptr_param("residual"));
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let chunk = b.chunk_id();
        let first = b.mul_imm(chunk, per_chunk);
        let end = b.add_imm(first, per_chunk);
        let all = b.i64(self.panels() as i64);
        let end = b.smin(end, all);
        let last = b.add_imm(end, -1);
        b.for_(first, end, together, &[], |b, panel, _| {
            // A group that reaches past the end computes the last panel again.
            let numbers: Vec<Value> = (0..together)
                .map(|i| {
                    let n = b.add_imm(panel, i);
                    if i > 0 { b.smin(n, last) } else { n }
                })
                .collect();
            let panels: Vec<Value> =
                numbers.iter().map(|&n| b.index(w, n, self.layout.panel_bytes(self.cols) as i64)).collect();
            let columns: Vec<Value> = numbers.iter().map(|&n| b.mul_imm(n, ROWS as i64 * 4)).collect();
            for_token_groups(b, tokens, self.max_tokens, group, |b, ids| {
                let xs = token_rows(b, x, ids, self.x.stride(self.cols));
                for part in 0..ROWS / u64::from(lanes) {
                    let lane0 = part * u64::from(lanes);
                    let sums = dot(b, &self.layout, self.cols, &panels, lane0, lanes, &xs, self.x, p["ahead"]);
                    let results = sums.iter().zip(&columns).flat_map(|(s, &c)| s.iter().zip(ids).map(move |r| (c, r)));
                    for (column, (&sum, &id)) in results {
                        let at = |b: &mut KernelBuilder, p: Value, stride: u64| {
                            let row = b.index(p, id, stride as i64);
                            b.offset(row, column)
                        };
                        let byte = lane0 as i64 * 4;
                        let mut y = sum;
                        if let Some(p) = bias {
                            let p = b.offset(p, column);
                            let v = b.load(Type::F32.x(lanes), p, byte);
                            y = b.add(y, v);
                        }
                        if let (Some(p), Some(stride)) = (residual, self.residual) {
                            let p = at(b, p, stride);
                            let v = b.load(Type::F32.x(lanes), p, byte);
                            y = b.add(y, v);
                        }
                        let p = at(b, out, self.out_stride);
                        b.store(y, p, byte);
                    }
                }
            });
            vec![]
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::matmul(self)
    }
}

#[allow(clippy::too_many_arguments, reason = "forwards to panel_dot")]
fn dot(
    b: &mut KernelBuilder,
    layout: &Layout,
    cols: u64,
    panels: &[Value],
    first: u64,
    lanes: u16,
    xs: &[Value],
    x: Activations,
    ahead: i64,
) -> Vec<Vec<Value>> {
    let q8 = Q8Rows { width: cols };
    let rows = match x {
        Activations::F32 { .. } => Rows::F32(xs),
        Activations::Q8 => Rows::Q8(xs, &q8),
    };
    panel_dot(b, layout, cols, panels, first, lanes, &rows, ahead)
}

fn token_rows(b: &mut KernelBuilder, x: Value, ids: &[Value], stride: u64) -> Vec<Value> {
    ids.iter().map(|&t| b.index(x, t, stride as i64)).collect()
}

/// Calls `body` for groups of `group` token numbers that cover `0..tokens`.
fn for_token_groups(
    b: &mut KernelBuilder,
    tokens: Value,
    max_tokens: u32,
    group: usize,
    body: impl FnOnce(&mut KernelBuilder, &[Value]),
) {
    let zero = b.i64(0);
    if max_tokens == 1 {
        return body(b, &[zero]);
    }
    b.for_(zero, tokens, group as i64, &[], |b, t, _| {
        let last = b.add_imm(tokens, -1);
        let ids: Vec<Value> = (0..group as i64)
            .map(|j| {
                let id = b.add_imm(t, j);
                b.smin(id, last)
            })
            .collect();
        body(b, &ids);
        vec![]
    });
}

/// `y = fn(x G^T) * (x U^T)`, rounded to q8 or not. Arguments: x, gate, up, out; scalars: tokens.
#[derive(Clone, Debug)]
pub struct Glu {
    /// Layout of the gate's weight.
    pub gate: Layout,
    /// Layout of the up weight.
    pub up: Layout,
    /// Output rows.
    pub rows: u64,
    /// Elements a row.
    pub cols: u64,
    /// The activations.
    pub x: Activations,
    /// The function.
    pub function: Activation,
    /// Bytes from row to row of an f32 result; `None` rounds to q8 rows.
    pub out_stride: Option<u64>,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Glu {
    fn panels(&self) -> u64 {
        self.rows.div_ceil(ROWS)
    }

    /// Panels that are computed together: two make the 32 elements of a q8 block.
    fn pair(&self) -> u64 {
        if self.out_stride.is_none() { 2 } else { 1 }
    }
}

impl Schedule for Glu {
    fn signature(&self) -> String {
        format!(
            "glu {:?} {:?} m{} n{} x{:?} {:?} ys{:?} t{}",
            self.gate, self.up, self.rows, self.cols, self.x, self.function, self.out_stride, self.max_tokens
        )
    }

    fn space(&self) -> Space {
        panel_space(&self.gate, self.panels(), self.cols, self.max_tokens, self.pair())
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.panels().div_ceil(p["panels"] as u64) as u32
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let (per_chunk, lanes, group) = (p["panels"], p["lanes"] as u16, p["tokens"] as usize);
        let together = p["group"];
        let pair = self.pair();
        let mut b = KernelBuilder::new(name);
        let x = b.ptr_param("x");
        let gate = b.ptr_param("gate");
        let up = b.ptr_param("up");
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        // Results of one group of tokens: rows of `pair` panels.
        let row_bytes = (pair * ROWS * 4) as i64;
        let stage = b.local(row_bytes * group as i64);
        let chunk = b.chunk_id();
        let first = b.mul_imm(chunk, per_chunk);
        let end = b.add_imm(first, per_chunk);
        let all = b.i64(self.panels() as i64);
        let end = b.smin(end, all);
        b.for_(first, end, pair as i64, &[], |b, panel, _| {
            for_token_groups(b, tokens, self.max_tokens, group, |b, ids| {
                let xs = token_rows(b, x, ids, self.x.stride(self.cols));
                for i in 0..pair {
                    let panel = b.add_imm(panel, i as i64);
                    let g = b.index(gate, panel, self.gate.panel_bytes(self.cols) as i64);
                    let u = b.index(up, panel, self.up.panel_bytes(self.cols) as i64);
                    for part in 0..ROWS / u64::from(lanes) {
                        let lane0 = part * u64::from(lanes);
                        let at = |j: usize| j as i64 * row_bytes + ((i * ROWS + lane0) * 4) as i64;
                        let write = |b: &mut KernelBuilder, j: usize, gate: Value, up: Value| {
                            let a = self.function.apply(b, gate);
                            let y = b.mul(a, up);
                            b.store(y, stage, at(j));
                        };
                        if together > 1 && self.gate == self.up {
                            let both = dot(b, &self.gate, self.cols, &[g, u], lane0, lanes, &xs, self.x, p["ahead"]);
                            for (j, (&gate, &up)) in both[0].iter().zip(&both[1]).enumerate() {
                                write(b, j, gate, up);
                            }
                            continue;
                        }
                        let gates =
                            dot(b, &self.gate, self.cols, &[g], lane0, lanes, &xs, self.x, p["ahead"]).remove(0);
                        // Held in memory while the second product needs the registers.
                        for (j, &v) in gates.iter().enumerate() {
                            b.store(v, stage, at(j));
                        }
                        let ups = dot(b, &self.up, self.cols, &[u], lane0, lanes, &xs, self.x, p["ahead"]).remove(0);
                        for (j, v) in ups.into_iter().enumerate() {
                            let gate = b.load(Type::F32.x(lanes), stage, at(j));
                            write(b, j, gate, v);
                        }
                    }
                }
                for (j, &id) in ids.iter().enumerate() {
                    let at = j as i64 * row_bytes;
                    match self.out_stride {
                        Some(stride) => {
                            let row = b.index(out, id, stride as i64);
                            let p = b.index(row, panel, ROWS as i64 * 4);
                            let v = b.load(Type::F32.x(16), stage, at);
                            b.store(v, p, 0);
                        }
                        None => {
                            let rows = Q8Rows { width: self.rows };
                            let row = b.index(out, id, rows.bytes() as i64);
                            let block = [0, 64].map(|o| b.load(Type::F32.x(16), stage, at + o));
                            let two = b.i64(2);
                            let unit = b.div_s(panel, two);
                            rows.store_unit(b, block, row, unit);
                        }
                    }
                }
            });
            vec![]
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::glu(self)
    }
}
