//! Step inputs: token ids and rotary tables, filled before each run.

use super::memory::Block;
use crate::error::RunError;
use crate::plan::{Plan, RopeTable};

/// Inputs of a run of up to `max_tokens` tokens.
pub(super) struct Inputs {
    block: Block,
    rope: Vec<u64>,
}

impl Inputs {
    /// Bytes for a plan; a validated plan stays far below 64 bits.
    pub(super) fn bytes_for(plan: &Plan) -> u64 {
        Self::layout(plan).1
    }

    pub(super) fn new(plan: &Plan) -> Result<Inputs, RunError> {
        let (rope, bytes) = Self::layout(plan);
        Ok(Inputs { block: Block::new("inputs", bytes, false)?, rope })
    }

    fn layout(plan: &Plan) -> (Vec<u64>, u64) {
        let tokens = plan.programs.last().map_or(1, |p| u64::from(p.max_tokens));
        let mut end = (tokens * 4).next_multiple_of(64);
        let place = |table: &RopeTable| {
            let at = end;
            end = (end + tokens * 2 * table.inv_freq.len() as u64 * 4).next_multiple_of(64);
            at
        };
        (plan.rope.iter().map(place).collect(), end)
    }

    pub(super) fn tokens(&self) -> *mut u8 {
        self.block.at(0)
    }

    pub(super) fn rope(&self, table: u32) -> *mut u8 {
        self.block.at(self.rope[table as usize])
    }

    /// Writes the inputs of a run: at most `max_tokens` tokens of which the first is at position `past`.
    pub(super) fn fill(&mut self, tables: &[RopeTable], tokens: &[u32], past: u32) {
        // SAFETY: the block begins with room for `max_tokens` ids on whole pages, and no run is under way.
        let ids = unsafe { std::slice::from_raw_parts_mut(self.tokens().cast::<i32>(), tokens.len()) };
        for (id, token) in ids.iter_mut().zip(tokens) {
            *id = *token as i32;
        }
        for (index, table) in tables.iter().enumerate() {
            let half = table.inv_freq.len();
            if half == 0 {
                continue;
            }
            let address = self.rope(index as u32).cast::<f32>();
            // SAFETY: the table has room for `max_tokens` rows of cosines and sines on 64 bytes; no run is under way.
            let rows = unsafe { std::slice::from_raw_parts_mut(address, tokens.len() * 2 * half) };
            for (position, row) in (past..).zip(rows.chunks_exact_mut(2 * half)) {
                fill_row(table, position, row);
            }
        }
    }
}

/// Cosines and sines of a position.
pub(crate) fn fill_row(table: &RopeTable, position: u32, row: &mut [f32]) {
    let (cosines, sines) = row.split_at_mut(table.inv_freq.len());
    for ((freq, cosine), sine) in table.inv_freq.iter().zip(cosines).zip(sines) {
        let (s, c) = (f64::from(position) * f64::from(*freq)).sin_cos();
        *cosine = (c * f64::from(table.scale)) as f32;
        *sine = (s * f64::from(table.scale)) as f32;
    }
}
