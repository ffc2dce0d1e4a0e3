//! Numbers narrower than f64: bits to f64 (exact) and back with every rounding of PTX.
//!
//! Arithmetic of the narrow types is done in f64, rounded *to odd* where f64 is not exact: the last bit then remembers that
//! something was cut off, so the second rounding comes out as if there had been one. This holds while the target has at
//! least two bits less than f64, which f32 and all below do.

/// Roundings of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Near,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// A binary floating-point format of up to 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub exponent: u32,
    pub mantissa: u32,
    /// Bits of the largest finite value.
    pub max: u64,
    /// Whether there are infinities; e4m3 has none.
    pub infinite: bool,
    pub nan: u64,
}

pub(crate) const F32: Format = Format { exponent: 8, mantissa: 23, max: 0x7f7f_ffff, infinite: true, nan: 0x7fff_ffff };
pub(crate) const TF32: Format = Format { exponent: 8, mantissa: 10, max: 0x3fbff, infinite: true, nan: 0x3ffff };
pub(crate) const F16: Format = Format { exponent: 5, mantissa: 10, max: 0x7bff, infinite: true, nan: 0x7fff };
pub(crate) const BF16: Format = Format { exponent: 8, mantissa: 7, max: 0x7f7f, infinite: true, nan: 0x7fff };
pub(crate) const E4M3: Format = Format { exponent: 4, mantissa: 3, max: 0x7e, infinite: false, nan: 0x7f };
pub(crate) const E5M2: Format = Format { exponent: 5, mantissa: 2, max: 0x7b, infinite: true, nan: 0x7f };

impl Format {
    fn bias(&self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// The value of these bits.
    pub fn decode(&self, bits: u64) -> f64 {
        let sign = if bits >> (self.exponent + self.mantissa) & 1 == 1 { -1.0 } else { 1.0 };
        let magnitude = bits & ((1 << (self.exponent + self.mantissa)) - 1);
        if magnitude > self.max {
            let infinity = self.infinite && magnitude & ((1 << self.mantissa) - 1) == 0;
            return sign * if infinity { f64::INFINITY } else { f64::NAN };
        }
        let (e, m) = (magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1));
        let (e, m) = if e == 0 { (1, m) } else { (e, m | 1 << self.mantissa) };
        sign * m as f64 * power_of_two(e as i32 - self.bias() - self.mantissa as i32)
    }

    /// The bits nearest to a value. `finite` turns what is too large into the largest finite value.
    pub fn encode(&self, x: f64, round: Round, finite: bool) -> u64 {
        let negative = x.is_sign_negative();
        let sign = u64::from(negative) << (self.exponent + self.mantissa);
        if x.is_nan() {
            return self.nan;
        }
        let infinity = if self.infinite && !finite {
            ((1 << self.exponent) - 1) << self.mantissa
        } else if finite {
            self.max
        } else {
            self.nan
        };
        if x.is_infinite() {
            return sign | infinity;
        }
        let bits = x.abs().to_bits();
        let (e, m) = (bits >> 52, bits & ((1 << 52) - 1));
        let (m, e) = if e == 0 { (m, -1074) } else { (m | 1 << 52, e as i32 - 1075) };
        if m == 0 {
            return sign;
        }
        let top = (e + 63 - m.leading_zeros() as i32).max(1 - self.bias());
        let shift = top - self.mantissa as i32 - e;
        let (mut q, rest, half) = match shift {
            ..=0 => (m << -shift, 0, 1),
            1..=63 => (m >> shift, m & ((1 << shift) - 1), 1 << (shift - 1)),
            _ => (0, 1, 2),
        };
        q += u64::from(match round {
            Round::Near => rest > half || rest == half && q & 1 == 1,
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => negative && rest > 0,
            Round::Up => !negative && rest > 0,
        });
        // The leading one of a normal number adds one to its exponent; a subnormal number has none.
        let magnitude = (((top + self.bias() - 1) as u64) << self.mantissa) + q;
        if magnitude <= self.max {
            return sign | magnitude;
        }
        let inward = match round {
            Round::Near | Round::Away => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        sign | if inward { self.max } else { infinity }
    }
}

/// 2^n for exponents of normal f64.
fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// `value + rest` rounded to odd, for a `rest` smaller than an ulp.
fn to_odd(value: f64, rest: f64) -> f64 {
    let bits = value.to_bits();
    if !value.is_finite() || rest == 0.0 || bits & 1 == 1 {
        return value;
    }
    f64::from_bits(if (rest > 0.0) == (value > 0.0) { bits + 1 } else { bits - 1 })
}

/// Sum, to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let bb = s - a;
    to_odd(s, (a - (s - bb)) + (b - bb))
}

/// `a * b + c` for factors of up to 24 bits each, to odd.
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// Quotient of values of up to 24 bits, to odd.
pub(crate) fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if q == 0.0 || !q.is_finite() {
        return q;
    }
    // The remainder tells on which side of `q` the true quotient lies.
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b > 0.0 { rest } else { -rest })
}

/// Square root of a value of up to 24 bits, to odd.
pub(crate) fn sqrt_odd(a: f64) -> f64 {
    let r = a.sqrt();
    if r == 0.0 || !r.is_finite() { r } else { to_odd(r, (-r).mul_add(r, a)) }
}

/// f16 to f32, exact and fast: matrices are made of these.
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let (sign, e, m) = ((h as u32 & 0x8000) << 16, h as u32 >> 10 & 31, h as u32 & 0x3ff);
    match e {
        0 => f32::from_bits(sign | (m as f32 * f32::from_bits(0x3380_0000)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | m << 13),
        _ => f32::from_bits(sign | (e + 112) << 23 | m << 13),
    }
}

/// bf16 to f32.
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}
