//! Scalar `i64` values: indices. Each carries the range of what it can be, and is computed in 32 bits where the range allows
//! it. Products with constants and sums with constants wait until they are needed, so that an address takes them in.

use tilewright_ir::kernel::{Opcode, Pred};

use super::func::{Class, Func, Known, Opnd, Reg};

/// An `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Int {
    form: Form,
    /// Least and largest value it can have.
    pub(super) lo: i64,
    pub(super) hi: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `lo`, which is `hi`.
    Const,
    /// `reg * scale + add`, the register's 32 bits being signed; neither product nor sum overflows 64 bits.
    Narrow { reg: Reg, scale: i64, add: i64 },
    /// `reg + add` modulo 2^64.
    Wide { reg: Reg, add: i64 },
}

use Form::*;

fn word(v: i64) -> Opnd {
    Opnd::Imm(v as u32 as u64)
}

fn double(v: i64) -> Opnd {
    Opnd::Imm(v as u64)
}

fn in_word(lo: i128, hi: i128) -> bool {
    lo >= i32::MIN.into() && hi <= i32::MAX.into()
}

impl Int {
    pub(super) fn constant(v: i64) -> Int {
        Int { form: Const, lo: v, hi: v }
    }

    /// A signed 32-bit register that lies between `lo` and `hi`.
    pub(super) fn narrow(reg: Reg, lo: i64, hi: i64) -> Int {
        Int { form: Narrow { reg, scale: 1, add: 0 }, lo, hi }.tidy()
    }

    /// A 64-bit register that lies between `lo` and `hi`.
    pub(super) fn wide(reg: Reg, lo: i64, hi: i64) -> Int {
        Int { form: Wide { reg, add: 0 }, lo, hi }.tidy()
    }

    /// Any 64 bits.
    pub(super) fn any(o: Opnd) -> Int {
        match o {
            Opnd::Imm(v) => Int::constant(v as i64),
            Opnd::Reg(reg) => Int::wide(reg, i64::MIN, i64::MAX),
        }
    }

    fn tidy(self) -> Int {
        if self.lo == self.hi { Int::constant(self.lo) } else { self }
    }

    /// The value, if it is the same in every run.
    pub(super) fn known(&self) -> Option<i64> {
        (self.form == Const).then_some(self.lo)
    }

    /// True if 32 bits with their sign hold it.
    pub(super) fn fits(&self) -> bool {
        in_word(self.lo.into(), self.hi.into())
    }

    fn add(&self) -> i64 {
        match self.form {
            Const => self.lo,
            Narrow { add, .. } | Wide { add, .. } => add,
        }
    }

    /// `reg`, `scale` and the range of their product, in 32 bits.
    fn product(&self) -> Option<(Reg, i64, i128, i128)> {
        let Narrow { reg, scale, add } = self.form else { return None };
        let (lo, hi) = (i128::from(self.lo) - i128::from(add), i128::from(self.hi) - i128::from(add));
        (in_word(lo, hi) && in_word(scale.into(), scale.into())).then_some((reg, scale, lo, hi))
    }

    /// The same plus a constant, if that does not wrap.
    fn plus(self, c: i64) -> Option<Int> {
        let (lo, hi) = (self.lo.checked_add(c)?, self.hi.checked_add(c)?);
        let form = match self.form {
            Const => Const,
            Narrow { reg, scale, add } => Narrow { reg, scale, add: add.checked_add(c)? },
            Wide { reg, add } => Wide { reg, add: add.wrapping_add(c) },
        };
        Some(Int { form, lo, hi })
    }

    /// The same times a constant, if it stays in this form.
    fn times(self, c: i64) -> Option<Int> {
        let (a, b) = (self.lo.checked_mul(c)?, self.hi.checked_mul(c)?);
        let form = match self.form {
            Const => Const,
            Narrow { reg, scale, add } => Narrow { reg, scale: scale.checked_mul(c)?, add: add.checked_mul(c)? },
            Wide { .. } => return (c == 1).then_some(self),
        };
        Some(Int { form, lo: a.min(b), hi: a.max(b) }.tidy())
    }

    /// The same divided by a constant that divides all it consists of.
    fn divided(self, c: i64) -> Option<Int> {
        let Narrow { reg, scale, add } = self.form else { return None };
        let exact = c > 0 && scale % c == 0 && add % c == 0;
        exact.then(|| Int { form: Narrow { reg, scale: scale / c, add: add / c }, lo: self.lo / c, hi: self.hi / c })
    }
}

/// The range of a sum, difference or product, if it does not wrap.
fn range(op: Opcode, a: &Int, b: &Int) -> Option<(i64, i64)> {
    let w = i128::from;
    let (lo, hi) = match op {
        Opcode::Add => (w(a.lo) + w(b.lo), w(a.hi) + w(b.hi)),
        Opcode::Sub => (w(a.lo) - w(b.hi), w(a.hi) - w(b.lo)),
        _ => {
            let all = [w(a.lo) * w(b.lo), w(a.lo) * w(b.hi), w(a.hi) * w(b.lo), w(a.hi) * w(b.hi)];
            all.iter().fold((i128::MAX, i128::MIN), |(l, h), &v| (l.min(v), h.max(v)))
        }
    };
    Some((lo.try_into().ok()?, hi.try_into().ok()?))
}

const ALL: (i64, i64) = (i64::MIN, i64::MAX);

/// All ones up to the highest bit of `v`.
fn ones(v: i64) -> i64 {
    if v <= 0 { 0 } else { (u64::MAX >> v.leading_zeros()) as i64 }
}

impl Func {
    /// The low 32 bits.
    pub(super) fn low(&mut self, a: &Int) -> Opnd {
        match a.form {
            Const => word(a.lo),
            Narrow { reg, scale: 1, add: 0 } => reg.into(),
            Narrow { reg, scale, add } => {
                let (scale, add) = (scale as i32, add as i32);
                let make = |f: &mut Func| {
                    let (s, n) = (word(scale.into()), word(add.into()));
                    let r = f.fresh(Class::Word);
                    match (scale, add) {
                        (1, _) => f.op_to("add.s32", r, &[reg.into(), n]),
                        (_, 0) if scale.count_ones() == 1 => {
                            f.op_to("shl.b32", r, &[reg.into(), word(scale.trailing_zeros().into())]);
                        }
                        (_, 0) => f.op_to("mul.lo.s32", r, &[reg.into(), s]),
                        _ => f.op_to("mad.lo.s32", r, &[reg.into(), s, n]),
                    }
                    r
                };
                self.once(Known::Low(reg, scale, add), make).into()
            }
            Wide { reg, add } => {
                let low = self.once(Known::Low(reg, 1, 0), |f| {
                    let r = f.fresh(Class::Word);
                    f.op_to("cvt.u32.u64", r, &[reg.into()]);
                    r
                });
                match add as i32 {
                    0 => low.into(),
                    n => self.word("add.s32", &[low.into(), word(n.into())]),
                }
            }
        }
    }

    /// All 64 bits but for the constant that [`Int::add`] gives.
    fn whole(&mut self, a: &Int) -> Opnd {
        match a.form {
            Const => Opnd::Imm(0),
            Wide { reg, .. } => reg.into(),
            Narrow { reg, scale, .. } => self
                .once(Known::Wide(reg, scale), |f| {
                    let r = f.fresh(Class::Double);
                    match i32::try_from(scale) {
                        Ok(1) => f.op_to("cvt.s64.s32", r, &[reg.into()]),
                        Ok(s) => f.op_to("mul.wide.s32", r, &[reg.into(), word(s.into())]),
                        Err(_) => {
                            let x = f.op("cvt.s64.s32", Class::Double, &[reg.into()]);
                            f.op_to("mul.lo.s64", r, &[x, double(scale)]);
                        }
                    }
                    r
                })
                .into(),
        }
    }

    /// All 64 bits.
    pub(super) fn bits(&mut self, a: &Int) -> Opnd {
        match (a.form, a.add()) {
            (Const, _) => double(a.lo),
            (_, 0) => self.whole(a),
            (_, add) => {
                let base = self.whole(a);
                let base = self.reg(base, Class::Double);
                self.once(Known::Plus(base, add), |f| {
                    let r = f.fresh(Class::Double);
                    f.op_to("add.s64", r, &[base.into(), double(add)]);
                    r
                })
                .into()
            }
        }
    }

    /// `base + a`: a register, and the bytes that are left to add.
    pub(super) fn address(&mut self, base: Reg, a: &Int) -> (Reg, i64) {
        let form = a.form;
        let register = match form {
            Const => base,
            Narrow { reg, scale, .. } if i32::try_from(scale).is_ok() => {
                let scale = scale as i32;
                self.once(Known::PlusProduct(base, reg, scale), |f| {
                    let r = f.fresh(Class::Double);
                    f.op_to("mad.wide.s32", r, &[reg.into(), word(scale.into()), base.into()]);
                    r
                })
            }
            _ => {
                let more = self.whole(a);
                let more = self.reg(more, Class::Double);
                self.once(Known::Sum(base, more), |f| {
                    let r = f.fresh(Class::Double);
                    f.op_to("add.s64", r, &[base.into(), more.into()]);
                    r
                })
            }
        };
        (register, a.add())
    }

    /// [`Func::address`] in shared memory, whose beginning is `base`: 32 bits are enough.
    pub(super) fn shared_address(&mut self, base: Reg, a: &Int) -> (Reg, i64) {
        let register = match a.form {
            Const => base,
            Narrow { reg, scale, .. } => {
                let scale = scale as i32;
                self.once(Known::PlusProduct(base, reg, scale), |f| {
                    let r = f.fresh(Class::Word);
                    match scale {
                        1 => f.op_to("add.s32", r, &[base.into(), reg.into()]),
                        _ => f.op_to("mad.lo.s32", r, &[reg.into(), word(scale.into()), base.into()]),
                    }
                    r
                })
            }
            Wide { reg, .. } => {
                let low = self.low(&Int::wide(reg, ALL.0, ALL.1));
                let r = self.fresh(Class::Word);
                self.op_to("add.s32", r, &[base.into(), low]);
                r
            }
        };
        (register, a.add())
    }

    fn in_32(&mut self, name: &str, a: &Int, b: &Int, (lo, hi): (i64, i64)) -> Int {
        let (x, y) = (self.low(a), self.low(b));
        let r = self.word(name, &[x, y]);
        let r = self.reg(r, Class::Word);
        Int::narrow(r, lo, hi)
    }

    fn in_64(&mut self, name: &str, a: &Int, b: &Int, (lo, hi): (i64, i64)) -> Int {
        let (x, y) = (self.bits(a), self.bits(b));
        let r = self.op(name, Class::Double, &[x, y]);
        let r = self.reg(r, Class::Double);
        Int::wide(r, lo, hi)
    }

    /// One op of integer arithmetic.
    pub(super) fn int(&mut self, op: Opcode, a: Int, b: Int) -> Int {
        match op {
            Opcode::Add => self.sum(a, b),
            Opcode::Sub => self.difference(a, b),
            Opcode::Mul => self.product(a, b),
            Opcode::DivS | Opcode::RemS => self.quotient(op, a, b),
            Opcode::Smin | Opcode::Smax => {
                let small = op == Opcode::Smin;
                let to = if small { (a.lo.min(b.lo), a.hi.min(b.hi)) } else { (a.lo.max(b.lo), a.hi.max(b.hi)) };
                match (a.fits() && b.fits(), small) {
                    (true, true) => self.in_32("min.s32", &a, &b, to),
                    (true, false) => self.in_32("max.s32", &a, &b, to),
                    (false, true) => self.in_64("min.s64", &a, &b, to),
                    (false, false) => self.in_64("max.s64", &a, &b, to),
                }
            }
            _ => self.logic(op, a, b),
        }
    }

    fn sum(&mut self, a: Int, b: Int) -> Int {
        let exact = range(Opcode::Add, &a, &b);
        if let (Some(x), Some(y)) = (a.known(), b.known()) {
            return Int::constant(x.wrapping_add(y));
        }
        if let Some(r) = b.known().and_then(|c| a.plus(c)).or_else(|| a.known().and_then(|c| b.plus(c))) {
            return r;
        }
        if let (Some((lo, hi)), Some((r, s, l, h)), Some((r2, s2, l2, h2)), Some(add)) =
            (exact, a.product(), b.product(), a.add().checked_add(b.add()))
            && in_word(l + l2, h + h2)
        {
            let scaled = |r: Opnd, scale| {
                let Opnd::Reg(reg) = r else { unreachable!("an instruction's result") };
                Int { form: Narrow { reg, scale, add }, lo, hi }.tidy()
            };
            let (one, two) = (r.into(), r2.into());
            return match () {
                _ if s == s2 => scaled(self.word("add.s32", &[one, two]), s),
                _ if s != 0 && s2 % s == 0 => scaled(self.word("mad.lo.s32", &[two, word(s2 / s), one]), s),
                _ if s2 != 0 && s % s2 == 0 => scaled(self.word("mad.lo.s32", &[one, word(s / s2), two]), s2),
                _ => {
                    let m = self.word("mul.lo.s32", &[one, word(s)]);
                    scaled(self.word("mad.lo.s32", &[two, word(s2), m]), 1)
                }
            };
        }
        let r = match (self.whole(&a), self.whole(&b)) {
            (Opnd::Imm(_), r) | (r, Opnd::Imm(_)) => r,
            (x, y) => self.op("add.s64", Class::Double, &[x, y]),
        };
        let (lo, hi) = exact.unwrap_or(ALL);
        let add = a.add().wrapping_add(b.add());
        Int { form: Wide { reg: self.reg(r, Class::Double), add }, lo, hi }
    }

    fn difference(&mut self, a: Int, b: Int) -> Int {
        match b.times(-1) {
            Some(minus) => self.sum(a, minus),
            None => {
                let to = range(Opcode::Sub, &a, &b).unwrap_or(ALL);
                self.in_64("sub.s64", &a, &b, to)
            }
        }
    }

    fn product(&mut self, a: Int, b: Int) -> Int {
        if let (Some(x), Some(y)) = (a.known(), b.known()) {
            return Int::constant(x.wrapping_mul(y));
        }
        if a.known() == Some(0) || b.known() == Some(0) {
            return Int::constant(0);
        }
        if let Some(r) = b.known().and_then(|c| a.times(c)).or_else(|| a.known().and_then(|c| b.times(c))) {
            return r;
        }
        let to = range(Opcode::Mul, &a, &b).unwrap_or(ALL);
        if a.fits() && b.fits() {
            if in_word(to.0.into(), to.1.into()) {
                return self.in_32("mul.lo.s32", &a, &b, to);
            }
            let (x, y) = (self.low(&a), self.low(&b));
            let r = self.op("mul.wide.s32", Class::Double, &[x, y]);
            return Int::wide(self.reg(r, Class::Double), to.0, to.1);
        }
        self.in_64("mul.lo.s64", &a, &b, to)
    }

    fn quotient(&mut self, op: Opcode, a: Int, b: Int) -> Int {
        let divide = op == Opcode::DivS;
        let by = b.known().filter(|&c| c > 0);
        if let Some(c) = by {
            if let Some(r) = a.divided(c) {
                return if divide { r } else { Int::constant(0) };
            }
            if c.count_ones() == 1 && a.lo >= 0 {
                let (mask, count) = (Int::constant(c - 1), Opnd::Imm(c.trailing_zeros().into()));
                return if divide { self.shift(Opcode::ShrS, a, count) } else { self.logic(Opcode::And, a, mask) };
            }
        }
        let (small, to) = (
            a.fits() && b.fits() && by.is_some() | (a.lo > i32::MIN.into()),
            match (by, divide) {
                (Some(c), true) => (a.lo / c, a.hi / c),
                (Some(c), false) => (if a.lo < 0 { 1 - c } else { 0 }, if a.hi > 0 { c - 1 } else { 0 }),
                (None, true) if a.lo > i64::MIN => {
                    let most = a.lo.abs().max(a.hi.saturating_abs());
                    (-most, most)
                }
                (None, true) => ALL,
                (None, false) => (a.lo.min(0), a.hi.max(0)),
            },
        );
        match (small, divide) {
            (true, true) => self.in_32("div.s32", &a, &b, to),
            (true, false) => self.in_32("rem.s32", &a, &b, to),
            (false, true) => self.in_64("div.s64", &a, &b, to),
            (false, false) => self.in_64("rem.s64", &a, &b, to),
        }
    }

    fn logic(&mut self, op: Opcode, a: Int, b: Int) -> Int {
        let name = match op {
            Opcode::And => "and",
            Opcode::Or => "or",
            _ => "xor",
        };
        if let (Some(x), Some(y)) = (a.known(), b.known()) {
            return Int::constant(match op {
                Opcode::And => x & y,
                Opcode::Or => x | y,
                _ => x ^ y,
            });
        }
        let positive = |i: &Int| i.lo >= 0;
        let to = match (op, positive(&a), positive(&b)) {
            (Opcode::And, true, true) => (0, a.hi.min(b.hi)),
            (Opcode::And, true, false) => (0, a.hi),
            (Opcode::And, false, true) => (0, b.hi),
            (Opcode::And, false, false) => ALL,
            (_, true, true) => (0, ones(a.hi | b.hi)),
            _ => ALL,
        };
        if op == Opcode::And {
            // What a mask of low ones does not change.
            for (x, mask) in [(a, b), (b, a)] {
                if mask.known().is_some_and(|m| m >= 0 && m & m.wrapping_add(1) == 0 && x.lo >= 0 && x.hi <= m) {
                    return x;
                }
            }
            if in_word(to.0.into(), to.1.into()) && (a.fits() || b.fits()) && to != ALL {
                // The one with a small range and no sign clears what the other has above 32 bits.
                return self.in_32("and.b32", &a, &b, to);
            }
        }
        if a.fits() && b.fits() {
            let to = (to.0.max(i32::MIN.into()), to.1.min(i32::MAX.into()));
            return self.in_32(&format!("{name}.b32"), &a, &b, to);
        }
        self.in_64(&format!("{name}.b64"), &a, &b, to)
    }

    /// A shift by an `i32`.
    pub(super) fn shift(&mut self, op: Opcode, a: Int, count: Opnd) -> Int {
        let k = match count {
            Opnd::Imm(k) => Some((k & 63) as u32),
            Opnd::Reg(_) => None,
        };
        if let (Some(k), Some(v)) = (k, a.known()) {
            return Int::constant(match op {
                Opcode::Shl => v << k,
                Opcode::ShrU => ((v as u64) >> k) as i64,
                _ => v >> k,
            });
        }
        if op == Opcode::Shl {
            if let Some(r) = k.filter(|&k| k < 63).and_then(|k| a.times(1 << k)) {
                return r;
            }
            let x = self.bits(&a);
            let r = self.op("shl.b64", Class::Double, &[x, count]);
            return Int::any(r);
        }
        let signed = op == Opcode::ShrS || a.lo >= 0;
        let to = match (signed, k) {
            (true, Some(k)) => (a.lo >> k, a.hi >> k),
            (true, None) => (a.lo.min(0), a.hi.max(0)),
            (false, Some(k)) if k > 0 => (0, (u64::MAX >> k) as i64),
            _ => ALL,
        };
        if signed && a.fits() {
            if let Some(r) = k.filter(|&k| k < 63).and_then(|k| a.divided(1 << k)) {
                return r;
            }
            // PTX takes a count of 32 or more as one that leaves only signs.
            let count = k.map_or(count, |k| Opnd::Imm(k.min(31).into()));
            let x = self.low(&a);
            let r = self.word("shr.s32", &[x, count]);
            return Int::narrow(self.reg(r, Class::Word), to.0, to.1);
        }
        let x = self.bits(&a);
        let r = self.op(if signed { "shr.s64" } else { "shr.u64" }, Class::Double, &[x, count]);
        Int::wide(self.reg(r, Class::Double), to.0, to.1)
    }

    /// A comparison; a constant where the ranges decide it.
    pub(super) fn compare(&mut self, p: Pred, a: &Int, b: &Int) -> Opnd {
        let unsigned = matches!(p, Pred::Ult | Pred::Uge);
        let ordered = if unsigned && (a.lo < 0 || b.lo < 0) { None } else { Some(()) };
        let decided = ordered.and_then(|()| match p {
            Pred::Slt | Pred::Ult | Pred::Sge | Pred::Uge => {
                let less = if a.hi < b.lo { Some(true) } else { (a.lo >= b.hi).then_some(false) };
                less.map(|l| l == matches!(p, Pred::Slt | Pred::Ult))
            }
            Pred::Sle | Pred::Sgt => {
                let most = if a.hi <= b.lo { Some(true) } else { (a.lo > b.hi).then_some(false) };
                most.map(|m| m == (p == Pred::Sle))
            }
            Pred::Eq | Pred::Ne => {
                let apart = a.hi < b.lo || a.lo > b.hi;
                let same = a.known().is_some() && a.known() == b.known();
                (apart || same).then_some(same == (p == Pred::Eq))
            }
        });
        if let Some(holds) = decided {
            return Opnd::Imm(holds.into());
        }
        let small = a.fits() && b.fits();
        let (x, y) = if small { (self.low(a), self.low(b)) } else { (self.bits(a), self.bits(b)) };
        let name = format!(
            "setp.{}{}{}",
            super::arith::predicate(p),
            if unsigned { ".u" } else { ".s" },
            if small { 32 } else { 64 }
        );
        self.op(&name, Class::Pred, &[x, y])
    }
}
