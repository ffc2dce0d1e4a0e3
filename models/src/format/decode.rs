//! Decoding blocks: into parts for packers, and into f32 as the reference.

use half::{bf16, f16};

use super::{BlockFormat, CodeValue, Decomposed, Element, FloatKind, Level, Quant};

/// The buffers given to [`BlockFormat::dequantize`] do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{format}: {bytes} bytes do not hold {elements} elements; blocks have {block_bytes} bytes for {block} elements"
)]
pub struct DecodeError {
    /// Name of the format.
    pub format: String,
    /// Bytes given.
    pub bytes: usize,
    /// Elements wanted.
    pub elements: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Elements of a block.
    pub block: usize,
}

impl BlockFormat {
    /// Takes one block apart. For a float format there are no parts: `out` is left empty. A block shorter than
    /// [`BlockFormat::bytes`] reads as if filled up with zeros.
    pub fn decompose(&self, block: &[u8], out: &mut Decomposed) {
        let Element::Quant(q) = &self.element else {
            *out = Decomposed::default();
            return;
        };
        let padded;
        let block = match block.get(..self.bytes) {
            Some(b) => b,
            None => {
                let mut b = block.to_vec();
                b.resize(self.bytes, 0);
                padded = b;
                &padded[..]
            }
        };
        out.codes.resize(self.block, 0);
        q.codes.read(&self.fields, block, &mut out.codes);
        let groups = self.block / q.group;
        out.scale_super = self.level(&q.scale, block, groups, &mut out.scale_sub);
        match &q.min {
            Some(min) => out.min_super = self.level(min, block, groups, &mut out.min_sub),
            None => {
                out.min_super = 0.0;
                out.min_sub.clear();
            }
        }
    }

    fn level(&self, level: &Level, block: &[u8], groups: usize, sub: &mut Vec<i32>) -> f32 {
        match &level.sub {
            Some(plan) => {
                sub.resize(groups, 0);
                plan.read(&self.fields, block, sub);
            }
            None => sub.clear(),
        }
        level.base.eval(&self.fields, 0, block).float() as f32
    }

    /// Decodes whole blocks to f32: each product and sum is rounded once, in the order of the formula.
    pub fn dequantize(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
        if self.row_bytes(out.len()) != Some(bytes.len()) {
            return Err(DecodeError {
                format: self.name.clone(),
                bytes: bytes.len(),
                elements: out.len(),
                block_bytes: self.bytes,
                block: self.block,
            });
        }
        match &self.element {
            Element::Float(kind) => floats(*kind, bytes, out),
            Element::Quant(q) => {
                let mut parts = Decomposed::default();
                for (block, x) in bytes.chunks_exact(self.bytes).zip(out.chunks_exact_mut(self.block)) {
                    self.decompose(block, &mut parts);
                    compose(q, &parts, x);
                }
            }
        }
        Ok(())
    }
}

fn floats(kind: FloatKind, bytes: &[u8], out: &mut [f32]) {
    match kind {
        FloatKind::F32 => {
            let words = bytes.as_chunks::<4>().0;
            out.iter_mut().zip(words).for_each(|(o, b)| *o = f32::from_le_bytes(*b));
        }
        FloatKind::F16 => {
            let words = bytes.as_chunks::<2>().0;
            out.iter_mut().zip(words).for_each(|(o, b)| *o = f16::from_le_bytes(*b).to_f32());
        }
        FloatKind::BF16 => {
            let words = bytes.as_chunks::<2>().0;
            out.iter_mut().zip(words).for_each(|(o, b)| *o = bf16::from_le_bytes(*b).to_f32());
        }
    }
}

/// A float times the integer of group `s`, or the float alone.
fn level_at(base: f32, sub: &[i32], s: usize) -> f32 {
    sub.get(s).map_or(base, |v| base * *v as f32)
}

fn compose(q: &Quant, parts: &Decomposed, out: &mut [f32]) {
    let groups = out.chunks_exact_mut(q.group).zip(parts.codes.chunks_exact(q.group));
    for (s, (x, codes)) in groups.enumerate() {
        let scale = level_at(parts.scale_super, &parts.scale_sub, s);
        match &q.decode {
            CodeValue::Zero(zero) => {
                x.iter_mut().zip(codes).for_each(|(x, c)| *x = scale * i32::from(*c).wrapping_add(*zero) as f32);
            }
            CodeValue::Table(_) => {
                x.iter_mut()
                    .zip(codes)
                    .for_each(|(x, c)| *x = scale * q.values.get(usize::from(*c)).copied().unwrap_or(0.0));
            }
        }
        if q.min.is_some() {
            let min = level_at(parts.min_super, &parts.min_sub, s);
            x.iter_mut().for_each(|x| *x += min);
        }
    }
}
