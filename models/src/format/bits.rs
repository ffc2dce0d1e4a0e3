//! From expressions to bit gathers.
//!
//! Most codes only pick bits out of the block. Evaluating an expression with the *position* of every bit instead of its
//! value proves that, and tells where each bit comes from; elements then decode in runs of the same mask and shift, which
//! the compiler vectorises. What is not a pick of bits (ternary digits, products) keeps its expression tree.

use super::expr::{Expr, Field, Op, int_op};

/// One bit of a 64-bit value: constant 0 or 1, or bit `n` of the block, possibly inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bit {
    Const(bool),
    Source { bit: u32, inverted: bool },
}

pub(super) const ZERO: Bit = Bit::Const(false);

/// A value of which every bit is known by origin, plus a constant.
#[derive(Debug, Clone)]
pub(super) enum Sym {
    Const(i64),
    Bits {
        bits: Box<[Bit; 64]>,
        plus: i64,
    },
    /// Depends on the block in another way.
    Opaque,
}

pub(super) fn const_bits(v: i64) -> Box<[Bit; 64]> {
    Box::new(std::array::from_fn(|k| Bit::Const((v >> k) & 1 == 1)))
}

/// Evaluates with positions. `Err` names a field and the index outside it.
pub(super) fn sym(e: &Expr, fields: &[Field], var: i64) -> Result<Sym, (usize, i64)> {
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
pub(super) struct Term {
    mask: u8,
    shift: i8,
    pub(super) byte: u32,
}

impl Term {
    pub(super) fn take(self, b: u8) -> u8 {
        let v = b & self.mask;
        if self.shift >= 0 { v << self.shift.unsigned_abs() } else { v >> self.shift.unsigned_abs() }
    }
}

/// The low `width` (≤ 8) bits as terms and the constant to XOR.
pub(super) fn terms(bits: &[Bit; 64], width: usize) -> (Vec<Term>, u8) {
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
                    let (Some(from), Some(to)) = (block.get(byte..byte + r.len), out.get_mut(r.first..r.first + r.len))
                    else {
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

/// Checks the indices of an expression that has no variable.
pub(crate) fn check_indices(expr: &Expr, fields: &[Field]) -> Result<(), (usize, i64)> {
    sym(expr, fields, 0).map(|_| ())
}
