//! The data of a kernel call: made-up inputs for every argument, cold ones in many copies, results between guards.
//!
//! Values are of the size that models have: activations of up to one, weights whose scales are hundredths. None is zero,
//! denormal or no number, so nothing is faster or slower than in earnest.
//!
//! ```
//! use tilewright_autotune::work::{Scenario, Work};
//! use tilewright_codegen::schedules::{Quantize, Rounding, Schedule};
//! let q = Quantize { width: 64, x_stride: 256, norm: None, to: Rounding::Q8, max_tokens: 2 };
//! let mut work = Work::new(&q.operands(), &[Scenario { tokens: 2, past: 0 }], 0, 7).unwrap();
//! work.clear();
//! assert!(work.results(0).iter().flatten().all(|v| v.is_nan()), "nothing is written yet");
//! ```

use crate::TuneError;
use memmap2::MmapMut;
use tilewright_codegen::pack::{Fragments, Layout, LevelLayout, QuantLayout, ROWS, Store};
use tilewright_codegen::schedules::{Data, Operand, Operands};
use tilewright_ir::kernel::interp::Pointer;
use tilewright_runtime::plan::ScalarArg;

/// Bytes before and behind what a buffer holds. Kernels may read a vector past the end; nothing may be written there.
pub(crate) const GUARD: usize = 4096;
/// What guards hold.
const GUARD_BYTE: u8 = 0xa5;
/// What results hold before a run: no number in any float type, so what was not written shows.
const UNWRITTEN: u8 = 0xff;
/// Positions of a cache.
pub const CAPACITY: u64 = 2048;
/// Most copies of what is cold.
const MAX_COPIES: usize = 1024;

/// Whether there are copies of it: what comes from memory.
pub(crate) fn is_cold(o: &Operand) -> bool {
    o.data.is_cold() && !o.written
}

/// Copies of what is cold that are `rotate` bytes in all, at least one.
pub(crate) fn copies(operands: &Operands, rotate: u64) -> usize {
    let cold = operands.pointers.iter().filter(|o| is_cold(o));
    match cold.map(|o| o.data.bytes(operands.max_tokens.into(), CAPACITY)).sum::<u64>() {
        0 => 1,
        cold => rotate.div_ceil(cold).clamp(1, MAX_COPIES as u64) as usize,
    }
}

impl AsMut<Work> for Work {
    fn as_mut(&mut self) -> &mut Work {
        self
    }
}

/// The scalars of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Tokens of the run.
    pub tokens: u32,
    /// Positions in the cache before it.
    pub past: u32,
}

/// One buffer of one argument.
struct Buffer {
    map: MmapMut,
    bytes: usize,
}

impl Buffer {
    fn new(bytes: u64) -> Result<Buffer, TuneError> {
        let fail = |source| TuneError::Memory { bytes, source };
        let bytes = usize::try_from(bytes).map_err(|_| fail(std::io::ErrorKind::OutOfMemory.into()))?;
        let length = bytes.checked_add(2 * GUARD).ok_or_else(|| fail(std::io::ErrorKind::OutOfMemory.into()))?;
        Ok(Buffer { map: MmapMut::map_anon(length).map_err(fail)?, bytes })
    }

    fn data(&self) -> &[u8] {
        &self.map[GUARD..GUARD + self.bytes]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.map[GUARD..GUARD + self.bytes]
    }
}

/// Arguments for calls of one operation.
pub struct Work {
    operands: Operands,
    scenarios: Vec<Scenario>,
    /// Of each argument: one buffer, or as many as there are copies.
    buffers: Vec<Vec<Buffer>>,
    copies: usize,
    /// Pointers of each copy.
    args: Vec<Vec<*mut u8>>,
    /// Scalars of each scenario.
    scalars: Vec<Vec<i64>>,
}

impl Work {
    /// Data from `seed`; what is cold comes in copies of `rotate` bytes in all, at least one.
    pub fn new(operands: &Operands, scenarios: &[Scenario], rotate: u64, seed: u64) -> Result<Work, TuneError> {
        let tokens = u64::from(operands.max_tokens);
        let bytes = |o: &Operand| o.data.bytes(tokens, CAPACITY);
        let copies = copies(operands, rotate);
        let mut random = Random(seed);
        let mut buffers = vec![];
        for operand in &operands.pointers {
            let mut first = Buffer::new(bytes(operand))?;
            if operand.written {
                first.map[..GUARD].fill(GUARD_BYTE);
                first.map[GUARD + first.bytes..].fill(GUARD_BYTE);
            } else {
                fill(&operand.data, first.data_mut(), &mut random);
            }
            let mut all = vec![first];
            for _ in 1..if is_cold(operand) { copies } else { 1 } {
                let mut copy = Buffer::new(bytes(operand))?;
                copy.data_mut().copy_from_slice(all[0].data());
                all.push(copy);
            }
            buffers.push(all);
        }
        let mut work = Work {
            operands: operands.clone(),
            scenarios: scenarios.to_vec(),
            buffers,
            copies,
            args: vec![],
            scalars: vec![],
        };
        work.args = (0..copies).map(|c| work.pointers(c)).collect();
        work.scalars = scenarios.iter().map(|s| work.scalars_of(s)).collect();
        Ok(work)
    }

    fn pointers(&mut self, copy: usize) -> Vec<*mut u8> {
        let pick = |all: &mut Vec<Buffer>| {
            let i = copy % all.len();
            all[i].data_mut().as_mut_ptr()
        };
        self.buffers.iter_mut().map(pick).collect()
    }

    fn scalars_of(&self, s: &Scenario) -> Vec<i64> {
        let value = |a: &ScalarArg| match *a {
            ScalarArg::Const(c) => c,
            ScalarArg::Tokens => s.tokens.into(),
            ScalarArg::Past => s.past.into(),
            ScalarArg::Capacity => CAPACITY as i64,
        };
        self.operands.scalars.iter().map(value).collect()
    }

    /// Copies of what is cold.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// The scenarios.
    pub fn scenarios(&self) -> &[Scenario] {
        &self.scenarios
    }

    /// Pointer arguments with copy `copy`.
    pub(crate) fn args(&self, copy: usize) -> *const *mut u8 {
        self.args[copy % self.copies].as_ptr()
    }

    /// Scalar arguments of scenario `index`.
    pub(crate) fn scalars(&self, index: usize) -> *const i64 {
        self.scalars[index % self.scalars.len()].as_ptr()
    }

    /// The same arguments for the interpreter: its buffers, pointers and scalars.
    pub(crate) fn interpreted(&mut self, scenario: usize) -> (Vec<&mut [u8]>, Vec<Pointer>, Vec<i64>) {
        let pointers = (0..self.buffers.len()).map(|buffer| Pointer { buffer, offset: 0 }).collect();
        let scalars = self.scalars[scenario].clone();
        // The padding of the last row belongs to it; more does not.
        let buffers = self.buffers.iter_mut().map(|b| b[0].data_mut()).collect();
        (buffers, pointers, scalars)
    }

    /// Forgets all results.
    pub fn clear(&mut self) {
        for (operand, buffers) in self.operands.pointers.iter().zip(&mut self.buffers) {
            if operand.written {
                let zero = matches!(operand.data, Data::Counters(_));
                buffers[0].data_mut().fill(if zero { 0 } else { UNWRITTEN });
            }
        }
    }

    /// Whether nothing was written beside the results, and counters are left at zero.
    pub fn guards_hold(&self) -> bool {
        let holds = |o: &Operand, b: &Buffer| {
            let (head, tail) = (&b.map[..GUARD], &b.map[GUARD + b.bytes..GUARD + b.bytes + GUARD]);
            let zero = !matches!(o.data, Data::Counters(_)) || b.data().iter().all(|&v| v == 0);
            zero && head.iter().chain(tail).all(|&v| v == GUARD_BYTE)
        };
        self.operands.pointers.iter().zip(&self.buffers).all(|(o, b)| !o.written || holds(o, &b[0]))
    }

    /// Each argument, and its first buffer with the [`GUARD`] bytes before and behind.
    pub(crate) fn images(&mut self) -> impl Iterator<Item = (&Operand, &mut [u8])> {
        self.operands.pointers.iter().zip(&mut self.buffers).map(|(o, b)| (o, &mut b[0].map[..]))
    }

    /// The scalars of scenario `index`.
    pub(crate) fn values(&self, index: usize) -> &[i64] {
        &self.scalars[index]
    }

    /// The values of each result after a run of scenario `index`, not-a-number where none was written.
    pub fn results(&self, index: usize) -> Vec<Vec<f32>> {
        let tokens = self.scenarios[index].tokens as usize;
        let all = self.operands.pointers.iter().zip(&self.buffers);
        all.filter(|(o, _)| o.written && o.data.is_result())
            .map(|(o, b)| values(&o.data, b[0].data(), tokens))
            .collect()
    }
}

/// What `bytes` mean.
fn values(data: &Data, bytes: &[u8], tokens: usize) -> Vec<f32> {
    let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    match data {
        Data::Rows { width, stride } => {
            let row = |t: usize| bytes[t * *stride as usize..][..*width as usize * 4].chunks_exact(4).map(float);
            (0..tokens).flat_map(row).collect()
        }
        Data::Q8(rows) => {
            bytes.chunks_exact((rows.bytes() as usize).max(1)).take(tokens).flat_map(|r| rows.decode(r)).collect()
        }
        Data::Ids { stride, .. } => {
            let id = |t: usize| i32::from_le_bytes(bytes[t * *stride as usize..][..4].try_into().unwrap_or([0; 4]));
            (0..tokens).map(id).map(|v| if v < 0 { f32::NAN } else { v as f32 }).collect()
        }
        Data::Bf16(rows) => {
            let row = |t: usize| bytes[t * rows.bytes() as usize..][..rows.width as usize * 2].chunks_exact(2);
            (0..tokens).flat_map(row).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        Data::F16(rows) => {
            let each = bytes.chunks_exact((rows.bytes() as usize).max(1)).take(tokens);
            each.flat_map(|r| rows.decode(r)).map(|v| v as f32).collect()
        }
        Data::Cache { .. } => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Data::Vector(_) | Data::Angles { .. } | Data::Weights { .. } => bytes.chunks_exact(4).map(float).collect(),
        Data::Scratch(_) | Data::Counters(_) => vec![],
    }
}

/// Makes up such data from a seed.
pub fn made_up(data: &Data, out: &mut [u8], seed: u64) {
    fill(data, out, &mut Random(seed));
}

fn fill(data: &Data, out: &mut [u8], random: &mut Random) {
    match data {
        Data::Scratch(_) | Data::Counters(_) => out.fill(0),
        Data::Weights { layout, cols, .. } => weights(layout, *cols, out, random),
        Data::Vector(_) => floats(out, || 0.5 + random.unit()),
        Data::Rows { .. } => floats(out, || random.signed()),
        Data::Q8(rows) => {
            for row in out.chunks_exact_mut(rows.bytes() as usize) {
                let x: Vec<f32> = (0..rows.width).map(|_| random.signed()).collect();
                rows.encode(&x, row);
            }
        }
        Data::F16(rows) => {
            for row in out.chunks_exact_mut(rows.bytes() as usize) {
                let x: Vec<f32> = (0..rows.width).map(|_| random.signed()).collect();
                rows.encode(&x, row);
            }
        }
        Data::Bf16(_) => {
            for v in out.chunks_exact_mut(2) {
                v.copy_from_slice(&half::bf16::from_f32(random.signed()).to_le_bytes());
            }
        }
        Data::Ids { stride, below } => {
            for row in out.chunks_mut(*stride as usize) {
                let id = (random.next() % below.max(&1)) as i32;
                row[..4].copy_from_slice(&id.to_le_bytes());
            }
        }
        Data::Cache { .. } => {
            for v in out.chunks_exact_mut(2) {
                v.copy_from_slice(&half::f16::from_f32(random.signed()).to_le_bytes());
            }
        }
        Data::Angles { pairs } => {
            for row in out.chunks_exact_mut((*pairs as usize * 8).max(1)) {
                let angles: Vec<f32> = (0..*pairs).map(|_| random.unit() * 6.0).collect();
                let (cos, sin) = row.split_at_mut(*pairs as usize * 4);
                let mut each = angles.iter();
                floats(cos, || each.next().map_or(1.0, |a| a.cos()));
                let mut each = angles.iter();
                floats(sin, || each.next().map_or(0.0, |a| a.sin()));
            }
        }
    }
}

fn floats(out: &mut [u8], mut next: impl FnMut() -> f32) {
    out.chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&next().to_le_bytes()));
}

fn weights(layout: &Layout, cols: u64, out: &mut [u8], random: &mut Random) {
    match layout {
        Layout::Float(store) => {
            out.chunks_exact_mut(store.bytes() as usize).for_each(|v| store_float(*store, 0.1 * random.signed(), v));
        }
        Layout::Fragments(f) => fragments(f, cols, out, random),
        Layout::Quant(q) => {
            for block in out.chunks_exact_mut(q.bytes as usize) {
                // Codes: any bits are valid.
                for word in block[q.codes as usize..].chunks_mut(8) {
                    word.copy_from_slice(&random.next().to_le_bytes()[..word.len()]);
                }
                level(q, &q.scale, 1.0, block, random);
                // Minima below zero, as large as the middle code, put the values around it.
                let bits: u32 = q.planes.iter().sum();
                if let Some(min) = &q.min {
                    level(q, min, -f32::from(1u16 << (bits.min(8) - 1)), block, random);
                }
            }
        }
    }
}

/// The same in the order of tensor cores.
fn fragments(f: &Fragments, cols: u64, out: &mut [u8], random: &mut Random) {
    let q = match f {
        Fragments::Float { .. } => {
            for panel in out.chunks_exact_mut(f.panel_bytes(cols).max(1) as usize) {
                let (head, elements) = panel.split_at_mut(f.head_bytes() as usize);
                floats(head, || 0.1);
                elements.chunks_exact_mut(2).for_each(|v| store_float(Store::F16, random.signed(), v));
            }
            return;
        }
        Fragments::Quant(q) => q,
    };
    let bits: u32 = q.planes.iter().sum();
    let units = 8 * q.tops_bytes() as usize;
    for block in out.chunks_exact_mut(q.bytes() as usize) {
        for word in block[units..].chunks_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes()[..word.len()]);
        }
        for unit in block[units..].chunks_exact_mut(q.unit_bytes() as usize) {
            unit[..8 * q.subs_bytes() as usize].iter_mut().for_each(|v| *v = 1 + *v % 31);
        }
        let (kind, size) = (q.top_bytes() as usize, q.store.bytes() as usize);
        for (i, v) in block[..units].chunks_exact_mut(size).enumerate() {
            let is_min = i * size / kind % (1 + usize::from(q.has_min)) == 1;
            let factor = if is_min { -f32::from(1u16 << (bits.min(8) - 1)) } else { 1.0 };
            let most = if q.subs[usize::from(is_min)] { 0.1 / 32.0 } else { 0.1 };
            store_float(q.store, factor * most * (0.1 + 0.9 * random.unit()), v);
        }
    }
}

/// One level of scales: up to a tenth times `factor`, split between both levels if there are two.
fn level(q: &QuantLayout, l: &LevelLayout, factor: f32, block: &mut [u8], random: &mut Random) {
    let size = l.store.bytes() as usize;
    let most = if l.sub.is_some() { 0.1 / 32.0 } else { 0.1 };
    for row in 0..ROWS as usize {
        let value = factor * most * (0.1 + 0.9 * random.unit());
        store_float(l.store, value, &mut block[l.top as usize + row * size..]);
    }
    if let Some(at) = l.sub {
        let subs = (q.block / q.group * ROWS) as usize;
        for v in &mut block[at as usize..at as usize + subs] {
            *v = 1 + (random.next() % 31) as u8;
        }
    }
}

fn store_float(store: Store, v: f32, out: &mut [u8]) {
    match store {
        Store::F32 => out[..4].copy_from_slice(&v.to_le_bytes()),
        Store::F16 => out[..2].copy_from_slice(&half::f16::from_f32(v).to_le_bytes()),
        Store::BF16 => out[..2].copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Of either sign, between a twentieth and one.
    fn signed(&mut self) -> f32 {
        let v = 0.05 + 0.95 * self.unit();
        if self.next() & 1 == 0 { v } else { -v }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilewright_codegen::schedules::{Bf16Rows, Q8Rows};

    #[test]
    fn inputs_are_ordinary_numbers() {
        let level = |top, sub| LevelLayout { store: Store::F16, top, sub };
        let quant = QuantLayout {
            block: 256,
            group: 32,
            planes: vec![4],
            zero: 0,
            table: None,
            scale: level(0, Some(64)),
            min: Some(level(32, Some(192))),
            codes: 320,
            bytes: 320 + 16 * 128,
        };
        let mut random = Random(3);
        let mut block = vec![0; quant.bytes as usize];
        weights(&Layout::Quant(quant), 0, &mut block, &mut random);
        for at in (0..64).step_by(2) {
            let v = half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            assert!(v.is_normal() && v.abs() < 0.1 && (v < 0.0) == (at >= 32), "{at}: {v}");
        }
        for data in [
            Data::Rows { width: 30, stride: 128 },
            Data::Q8(Q8Rows { width: 64 }),
            Data::Bf16(Bf16Rows { width: 24 }),
            Data::Vector(5),
            Data::Angles { pairs: 3 },
            Data::Cache { heads: 1, head_dim: 4 },
        ] {
            let mut bytes = vec![0; data.bytes(3, 5) as usize];
            fill(&data, &mut bytes, &mut random);
            let all = values(&data, &bytes, 3);
            assert!(!all.is_empty() && all.iter().all(|v| v.is_finite() && *v != 0.0), "{data:?}: {all:?}");
        }
    }

    #[test]
    fn cold_data_rotates() {
        let weights = Data::Weights { layout: Layout::Float(Store::F32), rows: 16, cols: 16 };
        let data = [weights, Data::Rows { width: 16, stride: 64 }];
        let pointers = data.map(|data| Operand { written: matches!(data, Data::Rows { .. }), data }).to_vec();
        let operands = Operands::plain(1, pointers, vec![]);
        let mut work = Work::new(&operands, &[Scenario { tokens: 1, past: 0 }], 10_000, 1).expect("memory");
        assert_eq!(work.copies(), 10);
        assert_ne!(work.args[0][0], work.args[1][0]);
        assert_eq!(work.args[0][1], work.args[1][1]);
        assert!(work.guards_hold());
        work.buffers[1][0].map[GUARD - 1] = 0;
        assert!(!work.guards_hold());
    }
}
