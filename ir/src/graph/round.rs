//! Rounding of activations: what each word of [`ROUNDINGS`](super::ROUNDINGS) makes of rows.
//!
//! Rows for tensor cores (`f16`, `f16x2`) have one scale each, so that no activation overflows f16 and a product takes
//! the scale out of its sum:
//!
//! ```text
//! s     = f16_scale(max |x|)                a power of two
//! f16   : s * hi         hi = f16(x / s)    11 bits
//! f16x2 : s * (hi + lo)  lo = f16(x / s - hi)  about 22 bits
//! ```
//!
//! All of it but the roundings is exact, so the interpreter keeps such rows as the values that they stand for.

use super::interp::Tensor;
use super::real::Real;
use super::types::Q8_BLOCK;

/// Rows rounded to `to`, a word of [`ROUNDINGS`](super::ROUNDINGS).
pub(super) fn rounded<R: Real>(to: &str, width: usize, x: &[R]) -> Tensor<R> {
    match to {
        "bf16" => Tensor::rows(width, x.iter().map(|v| v.through_bf16()).collect()),
        "f16" => scaled(width, x, |v| v.through_f16()),
        "f16x2" => scaled(width, x, |v| {
            let hi = v.through_f16();
            hi + (v - hi).through_f16()
        }),
        _ => q8(width, x),
    }
}

/// The scale of a row of f16 whose largest magnitude is `max`: the power of two that brings it into `2^13 .. 2^14`, 1 for a
/// row of zeros. It is never below `2^-126`, so that it and its inverse are normal f32 numbers: rows that are smaller than
/// `2^-113` are brought less far. Nothing is said of rows that are not finite.
///
/// In bits of f32: the exponent field of `max` less 13, at least 1.
pub fn f16_scale(max: f64) -> f64 {
    if max == 0.0 {
        return 1.0;
    }
    let exponent = (max.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    // The upper end is what an f32 infinity has.
    2f64.powi((exponent - 13).clamp(-126, 115))
}

/// Each row rounded by `f` in units of its scale.
fn scaled<R: Real>(width: usize, x: &[R], f: impl Fn(R) -> R) -> Tensor<R> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(width.max(1)) {
        let s = R::of_f64(f16_scale(largest(row).f64()));
        out.extend(row.iter().map(|&v| f(v / s) * s));
    }
    Tensor::rows(width, out)
}

/// Int8 blocks: `scale = max|x| / 127`, `code = x / scale` to the nearest, halves to even.
fn q8<R: Real>(width: usize, x: &[R]) -> Tensor<R> {
    let (mut codes, mut scales) = (Vec::with_capacity(x.len()), vec![]);
    for block in x.chunks(Q8_BLOCK as usize) {
        let scale = largest(block) / R::of(127.0);
        let code = |&v: &R| if scale > R::default() { (v / scale).round_even().f64() as i8 } else { 0 };
        codes.extend(block.iter().map(code));
        scales.push(scale);
    }
    Tensor::Q8 { rows: x.len() / width.max(1), width, codes, scales }
}

/// The largest magnitude.
fn largest<R: Real>(x: &[R]) -> R {
    x.iter().fold(R::default(), |m, v| if v.abs() > m { v.abs() } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// SplitMix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn seed() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.as_nanos() as u64)
    }

    /// A finite f32 of any exponent from `low` on.
    fn number(state: &mut u64, low: u32, high: u32) -> f32 {
        let r = random(state);
        let exponent = low + (r >> 32) as u32 % (high - low);
        f32::from_bits((r as u32 & 0x807f_ffff) | exponent << 23)
    }

    #[test]
    fn scales_bring_the_largest_between_two_powers() {
        assert_eq!(f16_scale(0.0), 1.0);
        assert_eq!((f16_scale(8192.0), f16_scale(16383.9), f16_scale(16384.0)), (1.0, 1.0, 2.0));
        assert_eq!((f16_scale(1.0), f16_scale(f32::MAX.into())), (2f64.powi(-13), 2f64.powi(114)));
        assert_eq!(f16_scale(1e-45), 2f64.powi(-126));
        let seed = seed();
        let mut state = seed;
        for _ in 0..10_000 {
            let v = number(&mut state, 0, 255).abs();
            let s = f16_scale(v.into());
            // The rule that kernels compute in bits.
            let bits = ((v.to_bits() >> 23).saturating_sub(13).max(1)) << 23;
            assert!(s as f32 == f32::from_bits(bits) || v == 0.0, "seed {seed:#x}: {v:e}");
            let unit = f64::from(v) / s;
            assert!(v < 2f32.powi(-113) || (8192.0..16384.0).contains(&unit), "seed {seed:#x}: {v:e} {unit}");
        }
    }

    /// `x` in units of `s` to the nearest f16 by search over all of them: the one meaning of "nearest, halves to even".
    fn nearest(v: f64) -> f64 {
        let all = |bits: u16| f16::from_bits(bits).to_f64();
        let (mut low, mut high) = (0u16, 0x7bff);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if all(middle) <= v.abs() { low = middle } else { high = middle }
        }
        let (down, up) = (v.abs() - all(low), all(high) - v.abs());
        let pick = if down < up || (down == up && low % 2 == 0) { low } else { high };
        all(pick).copysign(v)
    }

    #[test]
    fn rows_of_f16_are_the_nearest_in_units_of_their_scale() {
        let seed = seed();
        let mut state = seed;
        for case in 0..300 {
            let width = 1 + random(&mut state) as usize % 40;
            // From rows of like numbers to rows that span more than f16 does; from tiny ones to f32's largest.
            let high = 40 + random(&mut state) as u32 % 215;
            let low = high - 1 - random(&mut state) as u32 % 39;
            let x: Vec<f32> = (0..2 * width).map(|_| number(&mut state, low, high)).collect();
            let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            for to in ["f16", "f16x2"] {
                let got = rounded(to, width, &x).floats();
                let got_wide = rounded(to, width, &wide).floats();
                for (i, (&v, &g)) in wide.iter().zip(&got).enumerate() {
                    let row = &wide[i / width * width..][..width];
                    let s = f16_scale(row.iter().fold(0.0, |m, v| v.abs().max(m)));
                    let hi = nearest(v / s);
                    let want = if to == "f16" { s * hi } else { s * (hi + nearest(v / s - hi)) };
                    let what = format!("seed {seed:#x} case {case}: {to} of {v:e} in units of {s:e}");
                    assert_eq!(f64::from(g), want, "{what}");
                    assert_eq!(got_wide[i], want, "{what}");
                    let bound = if to == "f16" { 2f64.powi(-11) } else { 2f64.powi(-22) };
                    // Below 2^-14, or below 2^-3 with two terms, what is lost is of one size.
                    let lost = (want - v).abs();
                    assert!(lost <= bound * v.abs() || lost <= s * 2f64.powi(-25), "{what}: {want:e}");
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_and_rows_of_nothing_stay() {
        for to in ["f16", "f16x2"] {
            assert_eq!(rounded(to, 3, &[0.0f32, -0.0, 0.0]).floats(), [0.0; 3]);
            assert_eq!(rounded::<f64>(to, 3, &[]).floats(), [0.0; 0]);
        }
    }
}
