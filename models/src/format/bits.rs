//! From expressions to bit gathers.
//!
//! Most codes only pick bits out of the block. Evaluating an expression with the *position* of every bit instead of its
//! value proves that, and tells where each bit comes from; elements then decode in runs of the same mask and shift, which
//! the compiler vectorises. What is not a pick of bits (ternary digits, products) keeps its expression tree.

use super::expr::{Expr, Field, Op, int_op, sample_blocks};

/// One bit of a 64-bit value: constant 0 or 1, or bit `n` of the block, possibly inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bit {
    Const(bool),
    Source { bit: u32, inverted: bool },
}

const ZERO: Bit = Bit::Const(false);

/// A value of which every bit is known by origin, plus a constant.
#[derive(Debug, Clone)]
enum Sym {
    Const(i64),
    Bits { bits: Box<[Bit; 64]>, plus: i64 },
    /// Depends on the block in another way.
    Opaque,
}

fn const_bits(v: i64) -> Box<[Bit; 64]> {
    Box::new(std::array::from_fn(|k| Bit::Const((v >> k) & 1 == 1)))
}

/// Evaluates with positions. `Err` names a field and the index outside it.
fn sym(e: &Expr, fields: &[Field], var: i64) -> Result<Sym, (usize, i64)> {
    Ok(match e {
        Expr::Int(v) => Sym::Const(*v),
        Expr::Var => Sym::Const(var),
        Expr::Float(_) => Sym::Opaque,
        Expr::Exp2(e) => {
            sym(e, fields, var)?;
            Sym::Opaque
        }
        Expr::Field(f, index) => {
            let i = index.as_ref().map_or(0, |e| e.eval(fields, var, &[]).int());
            let Some(field) = fields.get(*f) else { return Err((*f, i)) };
            let Some(n) = usize::try_from(i).ok().filter(|n| *n < field.count) else { return Err((*f, i)) };
            if field.ty.is_float() {
                return Ok(Sym::Opaque);
            }
            let width = field.ty.bytes() * 8;
            let first = (field.at + n * field.ty.bytes()) * 8;
            let bits = std::array::from_fn(|k| {
                if k >= width && !field.ty.is_signed() {
                    return ZERO;
                }
                u32::try_from(first + k.min(width - 1)).map_or(ZERO, |bit| Bit::Source { bit, inverted: false })
            });
            Sym::Bits { bits: Box::new(bits), plus: 0 }
        }
        Expr::Neg(e) => match sym(e, fields, var)? {
            Sym::Const(v) => Sym::Const(v.wrapping_neg()),
            _ => Sym::Opaque,
        },
        Expr::Cond(c, a, b) => match sym(c, fields, var)? {
            Sym::Const(0) => sym(b, fields, var)?,
            Sym::Const(_) => sym(a, fields, var)?,
            _ => {
                sym(a, fields, var)?;
                sym(b, fields, var)?;
                Sym::Opaque
            }
        },
        Expr::Binary(op, a, b) => combine(*op, sym(a, fields, var)?, sym(b, fields, var)?),
    })
}

fn combine(op: Op, a: Sym, b: Sym) -> Sym {
    match (op, a, b) {
        (_, Sym::Const(a), Sym::Const(b)) => Sym::Const(int_op(op, a, b)),
        (Op::Shl, Sym::Bits { bits, plus: 0 }, Sym::Const(n)) => shifted(&bits, n, false),
        (Op::Shr, Sym::Bits { bits, plus: 0 }, Sym::Const(n)) => shifted(&bits, n, true),
        (Op::Add, Sym::Bits { bits, plus }, Sym::Const(c)) | (Op::Add, Sym::Const(c), Sym::Bits { bits, plus }) => {
            Sym::Bits { bits, plus: plus.wrapping_add(c) }
        }
        (Op::Sub, Sym::Bits { bits, plus }, Sym::Const(c)) => Sym::Bits { bits, plus: plus.wrapping_sub(c) },
        (Op::Mul, Sym::Bits { bits, plus: 0 }, Sym::Const(c)) if c > 0 && c.count_ones() == 1 => {
            shifted(&bits, i64::from(c.trailing_zeros()), false)
        }
        (Op::Add, Sym::Bits { bits: a, plus: p }, Sym::Bits { bits: b, plus: q }) => {
            // No carries when at most one of the two is set at each position.
            match zip(Op::Or, &a, &b, true) {
                Some(bits) => Sym::Bits { bits, plus: p.wrapping_add(q) },
                None => Sym::Opaque,
            }
        }
        (Op::Or | Op::And | Op::Xor, a, b) => {
            let plain = |s: Sym| match s {
                Sym::Const(v) => Some(const_bits(v)),
                Sym::Bits { bits, plus: 0 } => Some(bits),
                _ => None,
            };
            match (plain(a), plain(b)) {
                (Some(a), Some(b)) => zip(op, &a, &b, false).map_or(Sym::Opaque, |bits| Sym::Bits { bits, plus: 0 }),
                _ => Sym::Opaque,
            }
        }
        _ => Sym::Opaque,
    }
}

fn shifted(bits: &[Bit; 64], n: i64, right: bool) -> Sym {
    let Some(n) = usize::try_from(n).ok().filter(|n| *n < 64) else { return Sym::Const(0) };
    let bits = std::array::from_fn(|k| {
        if right {
            bits[(k + n).min(63)] // arithmetic: the sign bit repeats
        } else if k < n {
            ZERO
        } else {
            bits[k - n]
        }
    });
    Sym::Bits { bits: Box::new(bits), plus: 0 }
}

fn zip(op: Op, a: &[Bit; 64], b: &[Bit; 64], disjoint: bool) -> Option<Box<[Bit; 64]>> {
    let mut out = [ZERO; 64];
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = match (op, *a, *b) {
            (_, x, y) if disjoint && x != ZERO && y != ZERO => return None,
            (Op::And, Bit::Const(false), _) | (Op::And, _, Bit::Const(false)) => ZERO,
            (Op::And, Bit::Const(true), x) | (Op::And, x, Bit::Const(true)) => x,
            (Op::Or, Bit::Const(true), _) | (Op::Or, _, Bit::Const(true)) => Bit::Const(true),
            (Op::Or | Op::Xor, Bit::Const(false), x) | (Op::Or | Op::Xor, x, Bit::Const(false)) => x,
            (Op::Xor, Bit::Const(true), Bit::Const(x)) => Bit::Const(!x),
            (Op::Xor, Bit::Const(true), Bit::Source { bit, inverted })
            | (Op::Xor, Bit::Source { bit, inverted }, Bit::Const(true)) => Bit::Source { bit, inverted: !inverted },
            (Op::And | Op::Or, x, y) if x == y => x,
            _ => return None,
        };
    }
    Some(Box::new(out))
}

/// Bits of one block byte, moved: `(byte & mask) << shift`, right if negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Term {
    mask: u8,
    shift: i8,
    byte: u32,
}

impl Term {
    fn take(self, b: u8) -> u8 {
        let v = b & self.mask;
        if self.shift >= 0 { v << self.shift.unsigned_abs() } else { v >> self.shift.unsigned_abs() }
    }
}

/// The low `width` (≤ 8) bits as terms and the constant to XOR.
fn terms(bits: &[Bit; 64], width: usize) -> (Vec<Term>, u8) {
    let (mut out, mut flip): (Vec<Term>, u8) = (Vec::new(), 0);
    for (k, bit) in (0i8..8).zip(bits.iter().take(width)) {
        match *bit {
            Bit::Const(true) => flip |= 1 << k,
            Bit::Const(false) => {}
            Bit::Source { bit, inverted } => {
                if inverted {
                    flip |= 1 << k;
                }
                let from = i8::try_from(bit % 8).unwrap_or(0);
                let (byte, mask, shift) = (bit / 8, 1u8 << from, k - from);
                match out.iter_mut().find(|t| t.byte == byte && t.shift == shift) {
                    Some(t) => t.mask |= mask,
                    None => out.push(Term { mask, shift, byte }),
                }
            }
        }
    }
    (out, flip)
}

/// The same term for `len` elements from `first`, of consecutive bytes.
#[derive(Debug, Clone, Copy)]
struct Run {
    term: Term,
    first: usize,
    len: usize,
}

/// How codes are read.
#[derive(Debug, Clone)]
pub(crate) enum CodePlan {
    /// Picks of bits; `flip` is empty when nothing is inverted.
    Gather { runs: Vec<RunPlan>, flip: Vec<u8> },
    /// The expression for each element, masked to the code's width.
    Tree { expr: Expr, mask: i64 },
}

/// Opaque outside this file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunPlan(Run);

impl CodePlan {
    /// Plans codes of `bits` bits for `block` elements. `Err`: (field, index) outside the field.
    pub(crate) fn new(expr: Expr, fields: &[Field], block: usize, bits: u32) -> Result<CodePlan, (usize, i64)> {
        let width = bits as usize;
        let mut all: Vec<(Term, usize)> = Vec::new();
        let mut flip = Vec::new();
        let mut gather = true;
        for i in 0..block {
            let bits = match sym(&expr, fields, i64::try_from(i).unwrap_or(0))? {
                Sym::Const(v) => const_bits(v),
                Sym::Bits { bits, plus: 0 } => bits,
                _ => {
                    gather = false;
                    continue;
                }
            };
            // A bit above the width would be cut off: keep the expression, which cuts it the same way.
            let (t, f) = terms(&bits, width);
            all.extend(t.into_iter().map(|t| (t, i)));
            flip.push(f);
        }
        if !gather {
            return Ok(CodePlan::Tree { expr, mask: (1i64 << bits) - 1 });
        }
        all.sort_by_key(|(t, i)| (t.mask, t.shift, *i));
        let mut runs: Vec<RunPlan> = Vec::new();
        for (term, i) in all {
            if let Some(RunPlan(r)) = runs.last_mut()
                && (r.term.mask, r.term.shift, r.first + r.len) == (term.mask, term.shift, i)
                && u32::try_from(r.len).is_ok_and(|n| r.term.byte + n == term.byte)
            {
                r.len += 1;
            } else {
                runs.push(RunPlan(Run { term, first: i, len: 1 }));
            }
        }
        if flip.iter().all(|f| *f == 0) {
            flip.clear();
        }
        Ok(CodePlan::Gather { runs, flip })
    }

    /// Writes one code per element of `out`.
    pub(crate) fn read(&self, fields: &[Field], block: &[u8], out: &mut [u8]) {
        match self {
            CodePlan::Gather { runs, flip } => {
                out.fill(0);
                for RunPlan(r) in runs {
                    let byte = r.term.byte as usize;
                    let (Some(from), Some(to)) = (block.get(byte..byte + r.len), out.get_mut(r.first..r.first + r.len)) else {
                        continue;
                    };
                    let (mask, n) = (r.term.mask, r.term.shift.unsigned_abs());
                    if r.len == 1 {
                        to[0] |= r.term.take(from[0]);
                    } else if r.term.shift >= 0 {
                        to.iter_mut().zip(from).for_each(|(t, f)| *t |= (f & mask) << n);
                    } else {
                        to.iter_mut().zip(from).for_each(|(t, f)| *t |= (f & mask) >> n);
                    }
                }
                out.iter_mut().zip(flip).for_each(|(o, f)| *o ^= f);
            }
            CodePlan::Tree { expr, mask } => {
                for (i, o) in (0i64..).zip(out.iter_mut()) {
                    *o = u8::try_from(expr.eval(fields, i, block).int() & mask).unwrap_or(0);
                }
            }
        }
    }
}

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
            let fits = |block: Vec<u8>| (0i64..).take(groups).all(|s| limits.contains(&expr.eval(fields, s, &block).int()));
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

/// Checks the indices of an expression that has no variable.
pub(crate) fn check_indices(expr: &Expr, fields: &[Field]) -> Result<(), (usize, i64)> {
    sym(expr, fields, 0).map(|_| ())
}
