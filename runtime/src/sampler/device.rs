//! Sampling by a GPU: which samplers it does, what it is told, and how its choices become those of the host's sampler.
//!
//! The host draws ahead for tokens to come. A token that is handed out uses up its draw, one that is not leaves it to the next:
//! the text of a seed is the same wherever it is sampled, but for draws within rounding of the boundary between two tokens.

use super::{SampleError, Sampler, SamplerParams};
use crate::plan::NO_TOKEN;

/// Largest top-k that a device does: it has so many of the likeliest in their order.
pub const MAX_TOP_K: usize = 64;

/// What a device is told of a sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OnDevice {
    /// Keep this many of the likeliest, 1 ..= [`MAX_TOP_K`].
    pub top_k: u32,
    /// Keep the likeliest whose probabilities reach this sum; infinite if that drops none.
    pub top_p: f32,
    /// Drop logits that are less than the largest plus this.
    pub floor: f32,
    /// By this factor the difference of a logit to the largest becomes an exponent of two.
    pub scale: f32,
}

impl OnDevice {
    /// As it lies in the memory of a device, the fields in their order, 4 bytes each.
    pub fn bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&self.top_k.to_le_bytes());
        for (bytes, x) in out[4..].chunks_exact_mut(4).zip([self.top_p, self.floor, self.scale]) {
            bytes.copy_from_slice(&x.to_le_bytes());
        }
        out
    }
}

impl SamplerParams {
    /// What a device is told, if it can do this: the likeliest few are all that matters, and nothing but their logits. A
    /// [greedy](SamplerParams::is_greedy) one is not told anything.
    pub fn on_device(&self) -> Option<OnDevice> {
        let fits = (1..=MAX_TOP_K).contains(&self.top_k) && self.temp > 0.0;
        (fits && self.logit_bias.is_empty() && !self.looks_back()).then(|| OnDevice {
            top_k: self.top_k as u32,
            top_p: if self.top_p < 1.0 { self.top_p } else { f32::INFINITY },
            floor: if self.min_p > 0.0 { self.min_p.ln() } else { f32::NEG_INFINITY },
            // Times zero it has to be zero, and times negative infinity that.
            scale: (std::f32::consts::LOG2_E / self.temp).clamp(f32::MIN_POSITIVE, f32::MAX),
        })
    }
}

impl Sampler {
    /// The draws for the next `n` tokens, in [0, 1). They are not used up.
    pub fn draws(&self, n: usize) -> Vec<f32> {
        let mut ahead = self.rng.clone();
        (0..n).map(|_| (ahead.next_f64() as f32).min(1.0 - f32::EPSILON / 2.0)).collect()
    }

    /// A token that a device chose, as its history has it. Uses up the draw.
    pub fn take(&mut self, entry: u32) -> Result<u32, SampleError> {
        match entry {
            NO_TOKEN => Err(SampleError::Nothing),
            _ if entry > NO_TOKEN => Err(SampleError::NotANumber(!entry)),
            _ => {
                if !self.params.is_greedy() {
                    self.rng.next_u64();
                }
                Ok(entry)
            }
        }
    }
}
