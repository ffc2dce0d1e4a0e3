//! From logits to the next token.
//!
//! The order is that of llama.cpp's default chain: logit bias, penalties, top-k, top-p, min-p, temperature, draw. The same
//! parameters, seed and logits give the same tokens on every machine, up to the rounding of `exp`.

mod device;

use std::cmp::Ordering;
use std::collections::HashMap;

pub use device::{MAX_TOP_K, OnDevice};

/// How a token is chosen. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerParams {
    /// Temperature; 0 or less takes the most likely token.
    pub temp: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divide (or, below zero, multiply) the logits of recent tokens by this; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many recent tokens the three penalties look at; 0 none, `usize::MAX` all.
    pub repeat_last_n: usize,
    /// Subtracted once for every recent occurrence.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurred recently.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens; negative infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draw.
    pub seed: u64,
}

impl SamplerParams {
    /// Whether the likeliest token is taken, and nothing but the logits says which that is.
    pub fn is_greedy(&self) -> bool {
        (self.temp <= 0.0 || self.top_k == 1) && self.logit_bias.is_empty() && !self.looks_back()
    }

    /// Whether the tokens before matter.
    pub fn looks_back(&self) -> bool {
        let penalised = self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0;
        penalised && self.repeat_last_n != 0
    }
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            temp: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// Why no token could be chosen.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SampleError {
    /// A parameter outside its range.
    #[error("sampling: {name} is {value}; it must be {must}")]
    Param {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        must: &'static str,
    },
    /// The model computed something that is not a number.
    #[error(
        "the model's logit of token {0} is not a number; its weights or a kernel are at fault: `compile-model logits --backend interp` tells which"
    )]
    NotANumber(u32),
    /// No token has a finite logit.
    #[error("no token is possible: every logit is negative infinity; look at --logit-bias")]
    Nothing,
}

/// xoshiro256**, seeded by splitmix64 (Blackman and Vigna): 256 bits of state, and the same numbers everywhere.
#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

impl Rng {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        Self(std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number in [0, 1) with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Chooses tokens, one after another.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplerParams,
    rng: Rng,
    /// Kept between calls, so that a step allocates nothing.
    order: Vec<u32>,
    weights: Vec<f64>,
}

/// Logits looked at together: scanning a vocabulary one by one took 4 % of a token of a small model.
const LANES: usize = 16;

/// The largest of numbers.
fn largest(logits: &[f32]) -> f32 {
    let mut top = [f32::NEG_INFINITY; LANES];
    for chunk in logits.chunks(LANES) {
        for (t, &l) in top.iter_mut().zip(chunk) {
            *t = if l > *t { l } else { *t };
        }
    }
    top.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

impl Sampler {
    /// Checks the parameters.
    pub fn new(params: SamplerParams) -> Result<Self, SampleError> {
        let check = |name, value: f32, must, ok: bool| {
            if ok { Ok(()) } else { Err(SampleError::Param { name, value: f64::from(value), must }) }
        };
        let p = &params;
        check("temp", p.temp, "finite", p.temp.is_finite())?;
        check("top_p", p.top_p, "between 0 and 1", (0.0..=1.0).contains(&p.top_p))?;
        check("min_p", p.min_p, "between 0 and 1", (0.0..=1.0).contains(&p.min_p))?;
        check("repeat_penalty", p.repeat_penalty, "above 0", p.repeat_penalty.is_finite() && p.repeat_penalty > 0.0)?;
        check("frequency_penalty", p.frequency_penalty, "finite", p.frequency_penalty.is_finite())?;
        check("presence_penalty", p.presence_penalty, "finite", p.presence_penalty.is_finite())?;
        for &(_, b) in &p.logit_bias {
            check("logit_bias", b, "a number, or negative infinity", !b.is_nan() && b < f32::INFINITY)?;
        }
        let rng = Rng::new(params.seed);
        Ok(Self { params, rng, order: Vec::new(), weights: Vec::new() })
    }

    /// Takes the likeliest token.
    pub fn greedy() -> Self {
        let params = SamplerParams::default();
        Self { rng: Rng::new(params.seed), params, order: Vec::new(), weights: Vec::new() }
    }

    /// The parameters.
    pub fn params(&self) -> &SamplerParams {
        &self.params
    }

    /// Chooses a token from the logits of a step, which are changed by bias and penalties. `history` is the tokens before it.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32, SampleError> {
        if !logits.chunks(LANES).all(|c| c.iter().fold(true, |good, &l| good & (l < f32::INFINITY))) {
            let bad = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY);
            return Err(SampleError::NotANumber(bad.unwrap_or(0) as u32));
        }
        self.adjust(logits, history);
        let top = largest(logits);
        // Of equal logits the first wins, as in every other engine.
        let best = logits.iter().position(|&l| l == top);
        let best = best.filter(|_| top > f32::NEG_INFINITY).ok_or(SampleError::Nothing)?;
        if self.params.temp <= 0.0 || self.params.top_k == 1 {
            return Ok(best as u32);
        }
        Ok(self.draw(logits, logits[best]))
    }

    fn adjust(&self, logits: &mut [f32], history: &[u32]) {
        let p = &self.params;
        for &(id, bias) in &p.logit_bias {
            if let Some(l) = logits.get_mut(id as usize) {
                *l += bias;
            }
        }
        if p.repeat_penalty == 1.0 && p.frequency_penalty == 0.0 && p.presence_penalty == 0.0 {
            return;
        }
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for &id in &history[history.len().saturating_sub(p.repeat_last_n)..] {
            *counts.entry(id).or_default() += 1;
        }
        for (id, n) in counts {
            if let Some(l) = logits.get_mut(id as usize) {
                *l = if *l > 0.0 { *l / p.repeat_penalty } else { *l * p.repeat_penalty };
                *l -= n as f32 * p.frequency_penalty + p.presence_penalty;
            }
        }
    }

    fn draw(&mut self, logits: &[f32], best: f32) -> u32 {
        let p = &self.params;
        let order = &mut self.order;
        order.clear();
        let floor = if p.min_p > 0.0 { best + p.min_p.ln() } else { f32::MIN };
        // Most of a vocabulary need never be sorted. What min-p drops may go first, unless top-p still has to count it;
        // then only what no sum can notice: exp(-40) is 4e-18.
        let early = if p.top_p < 1.0 { best - 40.0 } else { floor };
        order.extend(
            (0..logits.len() as u32).filter(|&i| logits[i as usize] >= early && logits[i as usize] > f32::NEG_INFINITY),
        );
        // Both zeros are equal, here as on a device; what is no number was refused.
        let larger = |a: f32, b: f32| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
        let descending = |a: &u32, b: &u32| larger(logits[*a as usize], logits[*b as usize]).then(a.cmp(b));
        if p.top_k > 0 && p.top_k < order.len() {
            order.select_nth_unstable_by(p.top_k - 1, descending);
            order.truncate(p.top_k);
        }
        order.sort_unstable_by(descending);
        let weights = &mut self.weights;
        weights.clear();
        weights.extend(order.iter().map(|&i| f64::from(logits[i as usize] - best).exp()));
        if p.top_p < 1.0 {
            let goal = weights.iter().sum::<f64>() * f64::from(p.top_p);
            let mut sum = 0.0;
            let reached = weights.iter().position(|w| {
                sum += w;
                sum >= goal
            });
            order.truncate(reached.map_or(order.len(), |i| i + 1));
        }
        let kept = order.iter().take_while(|&&i| logits[i as usize] >= floor).count().max(1);
        order.truncate(kept);
        weights.clear();
        weights.extend(order.iter().map(|&i| (f64::from(logits[i as usize] - best) / f64::from(p.temp)).exp()));
        let mut at = self.rng.next_f64() * weights.iter().sum::<f64>();
        for (&id, w) in order.iter().zip(weights.iter()) {
            at -= w;
            if at < 0.0 {
                return id;
            }
        }
        // Rounding can leave a hair's breadth; the last token with any weight is as good as its neighbour.
        order[weights.iter().rposition(|w| *w > 0.0).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests;
