//! The integers of groups: small signed or unsigned numbers, each a pick of bits plus a constant.

use super::bits::{Bit, Sym, Term, ZERO, const_bits, sym, terms};
use super::expr::{Expr, Field, sample_blocks};

/// One group's integer as a pick of bits: sign-extended from `width` if signed, then `plus` added.
#[derive(Debug, Clone)]
struct SubBits {
    terms: Vec<Term>,
    flip: u8,
    width: u32,
    signed: bool,
    plus: i32,
}

/// How the integers of groups are read.
#[derive(Debug, Clone)]
pub(crate) struct SubPlan {
    kind: SubKind,
    /// Smallest and largest value that any block can give.
    pub range: (i32, i32),
}

#[derive(Debug, Clone)]
enum SubKind {
    Gather(Vec<SubBits>),
    /// The expression for each group, clamped to the limits (loading tries samples, which is no proof).
    Tree(Expr),
}

/// Why a sub expression cannot be used.
#[derive(Debug)]
pub(crate) enum SubError {
    Index(usize, i64),
    Range,
}

impl SubPlan {
    /// Smallest and largest integer of a group.
    pub(crate) const LIMITS: (i32, i32) = (-128, 255);

    /// Plans the integers of `groups` groups.
    pub(crate) fn new(expr: Expr, fields: &[Field], groups: usize) -> Result<SubPlan, SubError> {
        let mut list = Vec::new();
        let (mut low, mut high) = (i64::MAX, i64::MIN);
        for s in 0..groups {
            let sym = sym(&expr, fields, i64::try_from(s).unwrap_or(0)).map_err(|(f, i)| SubError::Index(f, i))?;
            let (bits, plus) = match sym {
                Sym::Const(v) => (const_bits(0), v),
                Sym::Bits { bits, plus } => (bits, plus),
                Sym::Opaque => continue,
            };
            // Equal bits at the top are the sign.
            let sign = bits[63];
            let signed = sign != ZERO;
            let body = bits.iter().rposition(|b| *b != sign).map_or(0, |p| p + 1);
            let width = body + usize::from(signed);
            let Some(width) = u32::try_from(width).ok().filter(|w| *w <= 8) else {
                return Err(SubError::Range);
            };
            // Bounds bit by bit: exact when the bits are different ones, else a little wide.
            let (mut min, mut max) = (plus, plus);
            for (k, bit) in (0..width).zip(bits.iter()) {
                let weight = if signed && k + 1 == width { -(1i64 << k) } else { 1i64 << k };
                let (w0, w1) = match bit {
                    Bit::Const(c) => (weight * i64::from(*c), weight * i64::from(*c)),
                    Bit::Source { .. } => (weight.min(0), weight.max(0)),
                };
                min = min.saturating_add(w0);
                max = max.saturating_add(w1);
            }
            (low, high) = (low.min(min), high.max(max));
            let (terms, flip) = terms(&bits, width as usize);
            list.push(SubBits { terms, flip, width, signed, plus: i32::try_from(plus).unwrap_or(0) });
        }
        if list.len() < groups {
            let limits = i64::from(Self::LIMITS.0)..=i64::from(Self::LIMITS.1);
            let fits =
                |block: Vec<u8>| (0i64..).take(groups).all(|s| limits.contains(&expr.eval(fields, s, &block).int()));
            if !sample_blocks(fields).all(fits) {
                return Err(SubError::Range);
            }
            return Ok(SubPlan { kind: SubKind::Tree(expr), range: Self::LIMITS });
        }
        match (i32::try_from(low), i32::try_from(high)) {
            (Ok(low), Ok(high)) if low >= Self::LIMITS.0 && high <= Self::LIMITS.1 => {
                Ok(SubPlan { kind: SubKind::Gather(list), range: (low, high) })
            }
            _ => Err(SubError::Range),
        }
    }

    /// Writes one integer per group of `out`.
    pub(crate) fn read(&self, fields: &[Field], block: &[u8], out: &mut [i32]) {
        match &self.kind {
            SubKind::Gather(list) => {
                for (o, sub) in out.iter_mut().zip(list) {
                    let mut v = 0u8;
                    for t in &sub.terms {
                        v |= t.take(block.get(t.byte as usize).copied().unwrap_or(0));
                    }
                    let v = i32::from(v ^ sub.flip);
                    let free = 32 - sub.width;
                    *o = if sub.signed { v.wrapping_shl(free) >> free.min(31) } else { v } + sub.plus;
                }
            }
            SubKind::Tree(expr) => {
                for (s, o) in (0i64..).zip(out.iter_mut()) {
                    let v = expr.eval(fields, s, block).int();
                    *o = i32::try_from(v.clamp(Self::LIMITS.0.into(), Self::LIMITS.1.into())).unwrap_or(0);
                }
            }
        }
    }
}
