//! Products by tensor cores: matmul with bias and residual, gate and up with activation.
//!
//! | file | what |
//! |---|---|
//! | `weights.rs` | what a lane loads of the weights, and fragments of it |
//! | `few.rs` | for a few tokens, with the norm and the rounding of the activations |
//! | `many.rs` | for many, whose activations are rounded already |
//! | `finish.rs` | bias, residual, activation |
//!
//! Weights are the left factor, 16 rows of them a tile, and 8 tokens the columns of the right one. Codes are exact in f16;
//! so are f16 weights. What is rounded is the activations, to one f16 or to the sum of two ([`Input`]), and every sum is f32.

mod few;
mod finish;
mod many;
mod weights;

pub(super) use weights::Weights;

use super::round::F16Rows;
use crate::pack::{Fragments, ROWS, UNIT_K};
use crate::schedules::{Axis, Finish, Operands, Params, Schedule, Space, operands};
use tilewright_ir::kernel::Kernel;

/// Most tokens whose activations a block rounds itself: the columns of one tile.
pub const FEW: u32 = 8;

/// The activations of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// Rows of f32, which every block norms, if there is an epsilon, and rounds.
    Rows {
        /// Bytes from row to row.
        stride: u64,
        /// Epsilon of an RMS norm.
        norm: Option<f32>,
        /// 1 for f16, 2 for the sum of two.
        terms: u64,
    },
    /// Rows that are rounded already.
    Rounded(F16Rows),
}

/// `y = x W^T`, or `fn(x G^T) * (x U^T)`. Arguments: x, each weight, `[gamma]`, `[bias]`, `[residual]`, out; scalars: tokens.
#[derive(Clone, Debug)]
pub struct Product {
    /// Layout of the weight, or of gate and up.
    pub weights: Vec<Fragments>,
    /// Output rows.
    pub rows: u64,
    /// Elements a row, a multiple of 4.
    pub cols: u64,
    /// The activations.
    pub x: Input,
    /// What becomes of the sums.
    pub finish: Finish,
    /// Bytes from row to row of the result.
    pub out_stride: u64,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Product {
    fn panels(&self) -> u64 {
        self.rows.div_ceil(ROWS)
    }

    fn units(&self) -> u64 {
        self.cols.div_ceil(UNIT_K)
    }

    /// 1 with mins or with groups of 16, 2 with both.
    fn involved(&self) -> usize {
        let of = |f: &Fragments| match f {
            Fragments::Float { .. } => 0,
            Fragments::Quant(q) => usize::from(q.has_min) + usize::from(q.group < 32),
        };
        self.weights.iter().map(of).max().unwrap_or(0)
    }

    /// Registers of a lane that hold a unit of all weights.
    fn unit_registers(&self) -> u64 {
        self.weights.iter().map(Fragments::lane_bytes).sum::<u64>().div_ceil(4)
    }

    /// Warps that share a panel, and units a load, that suit the length of rows: no unit is loaded that is not there, if that
    /// can be, and then as many loads as there may be. They are held twice, and two blocks should fit, of 128 registers a
    /// thread: measured with the assembler, 28 of them is what a load may take, and fewer where there is more to compute.
    fn shares(&self) -> (i64, i64) {
        let units = self.units();
        let few_panels = self.panels() < 512;
        let Input::Rows { terms, .. } = self.x else { return (1, 1) };
        let room = [28, 20, 12][self.involved()];
        let fits = |&(split, ahead): &(u64, u64)| {
            let staged = split * ahead * UNIT_K * 2 * terms * u64::from(self.max_tokens);
            ahead == 1 || ahead * self.unit_registers() <= room && staged <= few::stage_bytes(self, 8)
        };
        let cost = |&(split, ahead): &(u64, u64)| {
            let round = split * ahead;
            let waste = units.next_multiple_of(round) - units;
            // A twelfth of the units wasted is as bad as half the loads ahead.
            let shallow = if few_panels { 8 / split.min(8) + 4 / ahead.min(4) } else { split + 4 / ahead.min(4) };
            waste * 48 / units + shallow
        };
        let all = [8, 4, 2, 1].into_iter().flat_map(|s| [4, 3, 2, 5, 1].map(|a| (s, a))).filter(fits);
        let (split, ahead) = all.min_by_key(cost).unwrap_or((1, 1));
        (split as i64, ahead as i64)
    }
}

fn first(best: i64, others: &[i64]) -> Vec<i64> {
    [best].into_iter().chain(others.iter().copied().filter(|&o| o != best)).collect()
}

impl Schedule for Product {
    fn signature(&self) -> String {
        let Product { weights, rows, cols, x, finish, out_stride, max_tokens } = self;
        format!("gpu product {weights:?} m{rows} n{cols} {x:?} {finish:?} ys{out_stride} t{max_tokens}")
    }

    fn space(&self) -> Space {
        if matches!(self.x, Input::Rounded(_)) {
            let most = u64::from(self.max_tokens).next_multiple_of(8);
            let fits = |&n: &i64| n as u64 <= most.next_power_of_two();
            // Sums of 64 tokens, and what becomes fragments, leave no register for mins and for groups of 16.
            let wide = if self.involved() > 0 { 32 / self.weights.len() as i64 } else { 64 };
            // With gate and up there are twice as many sums.
            let high = if self.weights.len() == 1 { vec![2, 1] } else { vec![1, 2] };
            return vec![
                Axis { name: "wgmma", values: vec![0, 1] },
                Axis { name: "warps", values: vec![4, 8] },
                Axis { name: "high", values: high },
                Axis {
                    name: "tokens",
                    values: first(wide, &[64, 32, 128, 256, 16, 8]).into_iter().filter(fits).collect(),
                },
                Axis { name: "stages", values: vec![3, 2, 4] },
                Axis { name: "resident", values: vec![1, 2] },
            ];
        }
        let (split, ahead) = self.shares();
        // Panels of a block: more of them where there are many, so that activations are rounded by no more than about 500.
        let panels = (self.panels() / 512).next_power_of_two().min(16) as i64;
        vec![
            Axis { name: "warps", values: vec![8, 4, 16] },
            Axis { name: "split", values: first(split, &[8, 4, 2, 1]) },
            Axis { name: "ahead", values: first(ahead, &[4, 3, 2, 5, 1]) },
            Axis { name: "panels", values: first(panels, &[1, 2, 4, 8]) },
            // Two buffers of what is loaded, the sums, and as much again to compute with.
            Axis {
                name: "resident",
                values: if self.unit_registers() * ahead as u64 > 32 { vec![1] } else { vec![2, 1] },
            },
        ]
    }

    fn preferred(&self) -> Vec<Params> {
        let Input::Rounded(_) = self.x else { return vec![] };
        // Sums of a lane are half as many as tokens; products before they are scaled, and sums of activations, are as many.
        let exact = self.weights.iter().all(|w| matches!(w, Fragments::Float { .. }));
        let sums = self.weights.len() * if exact { 1 } else { 2 * (1 + self.involved()) };
        let most = i64::from(self.max_tokens.next_multiple_of(8).next_power_of_two());
        let tokens = most.min(256 / sums.next_power_of_two() as i64);
        let of =
            |tokens, stages| [("wgmma", 1), ("warps", 8), ("high", 1), ("tokens", tokens), ("stages", stages)].into();
        // Two terms are twice the shared memory.
        vec![of(tokens, 2), of(tokens, 3), of(tokens, 4)]
    }

    fn chunks(&self, p: &Params) -> u32 {
        match self.x {
            Input::Rows { .. } => few::chunks(self, p),
            Input::Rounded(_) => many::chunks(self, p),
        }
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        match self.x {
            Input::Rows { .. } => few::build(self, name, p),
            Input::Rounded(_) => many::build(self, name, p),
        }
    }

    fn operands(&self) -> Operands {
        operands::product(self)
    }
}
