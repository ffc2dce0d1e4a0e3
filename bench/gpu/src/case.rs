//! One kernel on made-up data, on the device and in the kernel interpreter.

use crate::gpu::Gpu;
use anyhow::{Result, anyhow, bail};
use half::f16;
use tilewright_autotune::work::made_up;
use tilewright_codegen::schedules::{Data, Operand, Params, Schedule};
use tilewright_ir::kernel::{Kernel, interp};
use tilewright_runtime::plan::ScalarArg;

/// Changes the buffers of a case, given its tokens, past positions and capacity.
pub type Arrange = fn(&mut [Vec<u8>], [u64; 3]);

/// A kernel to check.
pub struct Case {
    /// Name in the results.
    pub name: String,
    /// What makes the kernel.
    pub schedule: Box<dyn Schedule + Send>,
    /// The point of its space.
    pub params: Params,
    /// Tokens of the run.
    pub tokens: u64,
    /// Positions before it.
    pub past: u64,
    /// Most normalised squared error.
    pub limit: f64,
    /// What made-up data cannot know.
    pub arrange: Arrange,
}

/// A case with its data and what should come of it.
pub struct Prepared {
    kernel: Kernel,
    scalars: Vec<i64>,
    before: Vec<Vec<u8>>,
    want: Vec<Vec<u8>>,
}

impl Case {
    /// Positions of the caches, not a round number.
    fn capacity(&self) -> u64 {
        (self.past + self.tokens + 17).next_multiple_of(16)
    }

    /// Makes the data from a seed and has the interpreter run all blocks.
    pub fn prepare(&self, seed: u64) -> Result<Prepared> {
        let operands = self.schedule.operands();
        let capacity = self.capacity();
        let mut before: Vec<Vec<u8>> = vec![];
        for (i, o) in operands.pointers.iter().enumerate() {
            let mut bytes =
                vec![0; o.data.bytes(u64::from(operands.max_tokens), capacity).next_multiple_of(16) as usize];
            // Results and counters begin as zeros: what a kernel does not write stays so on both sides.
            if !o.written {
                let exact = o.data.bytes(u64::from(operands.max_tokens), capacity) as usize;
                made_up(&o.data, &mut bytes[..exact], seed.wrapping_add(i as u64));
            }
            before.push(bytes);
        }
        (self.arrange)(&mut before, [self.tokens, self.past, capacity]);
        let scalar = |s: &ScalarArg| match *s {
            ScalarArg::Const(value) => value,
            ScalarArg::Tokens => self.tokens as i64,
            ScalarArg::Past => self.past as i64,
            ScalarArg::Capacity => capacity as i64,
        };
        let scalars: Vec<i64> = operands.scalars.iter().map(scalar).collect();
        let kernel = self.schedule.build("k", &self.params);
        let mut want = before.clone();
        for block in 0..self.schedule.chunks(&self.params) {
            interp::run(&kernel, &mut want, &scalars, block.into())
                .map_err(|e| anyhow!("the interpreter, block {block}: {e}"))?;
        }
        Ok(Prepared { kernel, scalars, before, want })
    }

    /// Runs it on the device twice, overlapping; the error, or an error if it is too large.
    pub fn check(&self, gpu: &mut Gpu, prepared: &Prepared) -> Result<f64> {
        let kernel = gpu.load(std::slice::from_ref(&prepared.kernel))?[0];
        let places = prepared.before.iter().map(|b| gpu.put(b)).collect::<Result<Vec<u64>>>()?;
        let mut params = places.clone();
        for value in &prepared.scalars {
            params.push(gpu.put(&value.to_le_bytes())?);
        }
        let overlap = gpu.facts.overlaps();
        let grid = self.schedule.chunks(&self.params);
        gpu.launch(kernel, grid, &params, false)?;
        gpu.launch(kernel, grid, &params, overlap)?;
        let operands = self.schedule.operands();
        let mut worst = 0f64;
        for ((operand, at), want) in operands.pointers.iter().zip(places).zip(&prepared.want) {
            if operand.written {
                let got = gpu.get(at, want.len())?;
                worst = worst.max(difference(operand, &got, want, self.tokens as usize));
            }
        }
        if worst.is_nan() || worst > self.limit {
            bail!("error {worst:.1e} against the interpreter, at most {:.0e} is allowed", self.limit);
        }
        Ok(worst)
    }
}

/// Squared error by squared size of what two results mean.
pub fn difference(operand: &Operand, got: &[u8], want: &[u8], tokens: usize) -> f64 {
    if got == want {
        return 0.0;
    }
    let [got, want] = [got, want].map(|b| numbers(&operand.data, b, tokens));
    let (mut error, mut size) = (0f64, 0f64);
    for (g, w) in got.iter().zip(&want).filter(|(g, w)| g.to_bits() != w.to_bits()) {
        if !g.is_finite() || !w.is_finite() {
            return f64::INFINITY;
        }
        error += (g - w).powi(2);
    }
    want.iter().filter(|w| w.is_finite()).for_each(|w| size += w * w);
    if error == 0.0 { 0.0 } else { error / size.max(f64::MIN_POSITIVE) }
}

fn numbers(data: &Data, bytes: &[u8], tokens: usize) -> Vec<f64> {
    let word = |b: &[u8]| [b[0], b[1], b[2], b[3]];
    match data {
        Data::F16(rows) => {
            let rows_of = bytes.chunks_exact(rows.bytes() as usize);
            rows_of.take(tokens).flat_map(|row| rows.decode(row)).collect()
        }
        Data::Cache { .. } => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
        // A wrong id is no small error.
        Data::Ids { .. } => bytes.chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(word(b))) * 1e6).collect(),
        _ => bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(word(b)))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences() {
        let operand = Operand { data: Data::Vector(2), written: true };
        let bytes = |x: [f32; 2]| x.map(f32::to_le_bytes).concat();
        let of = |got, want| difference(&operand, &bytes(got), &bytes(want), 1);
        assert_eq!(of([1.0, 2.0], [1.0, 2.0]), 0.0);
        assert!((of([1.5, 2.0], [1.0, 2.0]) - 0.05).abs() < 1e-12);
        assert_eq!(of([f32::NAN, 2.0], [1.0, 2.0]), f64::INFINITY);
        assert_eq!(of([f32::INFINITY, 2.0], [f32::INFINITY, 2.0]), 0.0);
        assert!(of([1.0, 0.0], [0.0, 0.0]) > 1.0);
    }
}
