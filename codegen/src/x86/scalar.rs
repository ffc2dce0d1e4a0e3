//! Integers in general registers. 8- and 16-bit values have arbitrary bits above; truth values are 0 or 1.

use iced_x86::Mnemonic as M;
use regalloc2::VReg;
use smallvec::smallvec;
use tilewright_ir::kernel::{Imm, Opcode, Pred, Scalar, Value};

use super::func::{Base, Mem, Opd, Pinned};
use super::isa::Kind;
use super::lower::{Lower, Val};
use super::regs;

/// The register of a scalar.
pub(super) fn gpr_kind(s: Scalar) -> Kind {
    if matches!(s, Scalar::I64 | Scalar::Ptr) { Kind::R64 } else { Kind::R32 }
}

impl Lower<'_> {
    /// `d = m(d, b)`.
    fn two(&mut self, m: M, kind: Kind, old: VReg, b: Opd) -> VReg {
        let new = self.gpr();
        self.scalar_inst(m, &[Opd::Mod { old, new, kind }, b]);
        new
    }

    /// The second operand: a small constant, or a register.
    fn right(&mut self, v: Value, kind: Kind) -> Opd {
        match self.int_constant(v).filter(|&c| i32::try_from(c).is_ok()) {
            Some(c) => Opd::Imm(c),
            None => Opd::Use(self.reg(v), kind),
        }
    }

    /// The value with its sign, or zeros, in the bits above 8 or 16.
    fn clean(&mut self, v: Value, signed: bool) -> VReg {
        let r = self.reg(v);
        let from = match self.ty(v).scalar {
            Scalar::I8 => Kind::R8,
            Scalar::I16 => Kind::R16,
            _ => return r,
        };
        let d = self.gpr();
        let m = if signed { M::Movsx } else { M::Movzx };
        self.scalar_inst(m, &[Opd::Def(d, Kind::R32), Opd::Use(r, from)]);
        d
    }

    pub(super) fn scalar_binary(&mut self, op: Opcode, a: Value, b: Value) -> Val {
        let kind = gpr_kind(self.ty(a).scalar);
        if let (Some(x), Some(y), Kind::R64) = (self.int_constant(a), self.int_constant(b), kind) {
            let folded = match op {
                Opcode::Add => Some(x.wrapping_add(y)),
                Opcode::Sub => Some(x.wrapping_sub(y)),
                Opcode::Mul => Some(x.wrapping_mul(y)),
                _ => None,
            };
            if let Some(v) = folded {
                return Val::Const(v as u64);
            }
        }
        let r = match op {
            Opcode::Add => self.sum(a, b, kind),
            Opcode::Mul => self.product(a, b, kind),
            Opcode::Sub | Opcode::And | Opcode::Or | Opcode::Xor => {
                let m = match op {
                    Opcode::Sub => M::Sub,
                    Opcode::And => M::And,
                    Opcode::Or => M::Or,
                    _ => M::Xor,
                };
                let old = self.reg(a);
                let right = self.right(b, kind);
                self.two(m, kind, old, right)
            }
            Opcode::Smin | Opcode::Smax => {
                let (x, y) = (self.clean(a, true), self.clean(b, true));
                self.scalar_inst(M::Cmp, &[Opd::Use(x, kind), Opd::Use(y, kind)]);
                let m = if op == Opcode::Smin { M::Cmovg } else { M::Cmovl };
                self.two(m, kind, x, Opd::Use(y, kind))
            }
            _ => return self.divide(op, a, b),
        };
        Val::Regs(smallvec![r])
    }

    fn sum(&mut self, a: Value, b: Value, kind: Kind) -> VReg {
        let (a, b) = if self.constant(a).is_some() { (b, a) } else { (a, b) };
        let x = self.reg(a);
        match self.right(b, kind) {
            Opd::Imm(0) => x,
            Opd::Imm(c) => self.lea(Mem::at(Base::Reg(x), c), kind),
            _ => {
                let index = Some(self.reg(b));
                self.lea(Mem { index, ..Mem::at(Base::Reg(x), 0) }, kind)
            }
        }
    }

    fn lea(&mut self, mem: Mem, kind: Kind) -> VReg {
        let d = self.gpr();
        self.scalar_inst(M::Lea, &[Opd::Def(d, kind), Opd::Mem(mem)]);
        d
    }

    /// An address in a register.
    pub(super) fn address_reg(&mut self, mem: Mem) -> VReg {
        match mem {
            Mem { base: Base::Reg(r), index: None, disp: 0, .. } => r,
            _ => self.lea(mem, Kind::R64),
        }
    }

    fn product(&mut self, a: Value, b: Value, kind: Kind) -> VReg {
        let (a, b) = if self.constant(a).is_some() { (b, a) } else { (a, b) };
        let x = self.reg(a);
        let Some(c) = self.int_constant(b).filter(|&c| i32::try_from(c).is_ok()) else {
            let y = self.reg(b);
            return self.two(M::Imul, kind, x, Opd::Use(y, kind));
        };
        // Indices times strides come again and again; the upper half of narrow registers is not part of the value.
        let key = (x, c);
        if let (Some(&r), Kind::R64) = (self.products.get(&key), kind) {
            return r;
        }
        let d = match c {
            1 => x,
            _ if c > 0 && c & (c - 1) == 0 => self.two(M::Shl, kind, x, Opd::Control(c.trailing_zeros() as u8)),
            _ => {
                let d = self.gpr();
                self.scalar_inst(M::Imul, &[Opd::Def(d, kind), Opd::Use(x, kind), Opd::Imm(c)]);
                d
            }
        };
        if kind == Kind::R64 {
            self.products.insert(key, d);
        }
        d
    }

    fn divide(&mut self, op: Opcode, a: Value, b: Value) -> Val {
        let s = self.ty(a).scalar;
        let kind = gpr_kind(s);
        let bits = if kind == Kind::R64 { 64 } else { 32 };
        if let Some(c) = self.int_constant(b).filter(|&c| c > 0 && c & (c - 1) == 0 && c < 1 << 30) {
            let x = self.clean(a, true);
            let log = c.trailing_zeros() as u8;
            if log == 0 {
                return if op == Opcode::DivS { Val::Regs(smallvec![x]) } else { Val::Const(0) };
            }
            // Towards zero: what is negative gets c - 1 added first.
            let sign = self.two(M::Sar, kind, x, Opd::Control(bits - 1));
            let bias = self.two(M::Shr, kind, sign, Opd::Control(bits - log));
            let up = self.lea(Mem { index: Some(bias), ..Mem::at(Base::Reg(x), 0) }, kind);
            let q = self.two(M::Sar, kind, up, Opd::Control(log));
            if op == Opcode::DivS {
                return Val::Regs(smallvec![q]);
            }
            let whole = self.two(M::Shl, kind, q, Opd::Control(log));
            let rest = self.two(M::Sub, kind, x, Opd::Use(whole, kind));
            return Val::Regs(smallvec![rest]);
        }
        let (x, y) = (self.clean(a, true), self.clean(b, true));
        let (high, low) = (self.gpr(), self.gpr());
        let extend = if kind == Kind::R64 { M::Cqo } else { M::Cdq };
        let copy = self.gpr();
        self.scalar_inst(M::Mov, &[Opd::Def(copy, kind), Opd::Use(x, kind)]);
        let at = self.scalar_inst(extend, &[]);
        self.pin(at, copy, regs::RAX, false);
        self.pin(at, high, regs::RDX, true);
        let rest = self.gpr();
        let at = self.scalar_inst(M::Idiv, &[Opd::Use(y, kind)]);
        self.pin(at, copy, regs::RAX, false);
        self.pin(at, high, regs::RDX, false);
        self.pin(at, low, regs::RAX, true);
        self.pin(at, rest, regs::RDX, true);
        Val::Regs(smallvec![if op == Opcode::DivS { low } else { rest }])
    }

    fn pin(&mut self, inst: usize, reg: VReg, at: regalloc2::PReg, def: bool) {
        self.f.insts[inst].pinned.push(Pinned { reg, at, def });
    }

    pub(super) fn scalar_shift(&mut self, op: Opcode, a: Value, count: Value) -> Val {
        let kind = gpr_kind(self.ty(a).scalar);
        let (x, m) = match op {
            Opcode::Shl => (self.reg(a), M::Shl),
            Opcode::ShrU => (self.clean(a, false), M::Shr),
            _ => (self.clean(a, true), M::Sar),
        };
        if let Some(c) = self.int_constant(count) {
            return Val::Regs(smallvec![self.two(m, kind, x, Opd::Control(c as u8))]);
        }
        let by = self.reg(count);
        let new = self.gpr();
        let at = self.scalar_inst(m, &[Opd::Mod { old: x, new, kind }, Opd::Fixed(iced_x86::Register::CL)]);
        self.pin(at, by, regs::RCX, false);
        Val::Regs(smallvec![new])
    }

    /// 0 or 1 from the flags.
    fn set_flag(&mut self, m: M) -> VReg {
        let (byte, d) = (self.gpr(), self.gpr());
        self.scalar_inst(m, &[Opd::Def(byte, Kind::R8)]);
        self.scalar_inst(M::Movzx, &[Opd::Def(d, Kind::R32), Opd::Use(byte, Kind::R8)]);
        d
    }

    pub(super) fn compare(&mut self, imm: Imm, a: Value, b: Value) -> Val {
        let Imm::Pred(p) = imm else { return Val::None };
        let ty = self.ty(a);
        if ty.lanes > 1 {
            return self.compare_vectors(p, a, b);
        }
        if ty.scalar.is_float() {
            return self.compare_floats(p, a, b);
        }
        let signed = !matches!(p, Pred::Ult | Pred::Uge);
        let kind = gpr_kind(ty.scalar);
        let x = self.clean(a, signed);
        let y = match self.int_constant(b).filter(|&c| signed && i32::try_from(c).is_ok()) {
            Some(c) => Opd::Imm(c),
            None => Opd::Use(self.clean(b, signed), kind),
        };
        self.scalar_inst(M::Cmp, &[Opd::Use(x, kind), y]);
        let m = match p {
            Pred::Eq => M::Sete,
            Pred::Ne => M::Setne,
            Pred::Slt => M::Setl,
            Pred::Sle => M::Setle,
            Pred::Sgt => M::Setg,
            Pred::Sge => M::Setge,
            Pred::Ult => M::Setb,
            Pred::Uge => M::Setae,
        };
        Val::Regs(smallvec![self.set_flag(m)])
    }

    /// Ordered comparisons: `a < b` is asked as `b > a`, whose flag is clear if either is not a number.
    fn compare_floats(&mut self, p: Pred, a: Value, b: Value) -> Val {
        let m = if self.ty(a).scalar == Scalar::F32 { M::Vucomiss } else { M::Vucomisd };
        let (x, y) = if matches!(p, Pred::Slt | Pred::Sle) { (b, a) } else { (a, b) };
        let (x, y) = (self.reg(x), self.reg(y));
        self.vector_inst(m, &[Opd::Use(x, Kind::Xmm), Opd::Use(y, Kind::Xmm)]);
        let r = match p {
            Pred::Slt | Pred::Sgt => self.set_flag(M::Seta),
            Pred::Sle | Pred::Sge => self.set_flag(M::Setae),
            // Equal is the zero flag without the parity flag, which says "not a number".
            Pred::Eq | Pred::Ne => {
                let eq = p == Pred::Eq;
                let zero = self.set_flag(if eq { M::Sete } else { M::Setne });
                let parity = self.set_flag(if eq { M::Setnp } else { M::Setp });
                self.two(if eq { M::And } else { M::Or }, Kind::R32, zero, Opd::Use(parity, Kind::R32))
            }
            Pred::Ult | Pred::Uge => unreachable!("verified"),
        };
        Val::Regs(smallvec![r])
    }

    /// `c ? a : b` in general registers.
    pub(super) fn select_scalar(&mut self, c: Value, a: Value, b: Value) -> Val {
        let kind = gpr_kind(self.ty(a).scalar);
        let (c, x, y) = (self.reg(c), self.reg(a), self.reg(b));
        self.scalar_inst(M::Test, &[Opd::Use(c, Kind::R32), Opd::Use(c, Kind::R32)]);
        Val::Regs(smallvec![self.two(M::Cmovne, kind, y, Opd::Use(x, kind))])
    }

    pub(super) fn scalar_neg(&mut self, a: Value) -> Val {
        let kind = gpr_kind(self.ty(a).scalar);
        let (old, new) = (self.reg(a), self.gpr());
        self.scalar_inst(M::Neg, &[Opd::Mod { old, new, kind }]);
        Val::Regs(smallvec![new])
    }

    /// Widens a scalar.
    pub(super) fn scalar_extend(&mut self, signed: bool, a: Value, to: Scalar) -> Val {
        let from = self.ty(a).scalar;
        if from == Scalar::I1 {
            return Val::Regs(self.regs(a));
        }
        let d = match (from, signed) {
            (Scalar::I32, _) => {
                let (r, d) = (self.reg(a), self.gpr());
                match signed {
                    true => self.scalar_inst(M::Movsxd, &[Opd::Def(d, Kind::R64), Opd::Use(r, Kind::R32)]),
                    false => self.scalar_inst(M::Mov, &[Opd::Def(d, Kind::R32), Opd::Use(r, Kind::R32)]),
                };
                d
            }
            _ => {
                let r = self.clean(a, signed);
                if !(signed && to == Scalar::I64) {
                    return Val::Regs(smallvec![r]);
                }
                let d = self.gpr();
                self.scalar_inst(M::Movsxd, &[Opd::Def(d, Kind::R64), Opd::Use(r, Kind::R32)]);
                d
            }
        };
        Val::Regs(smallvec![d])
    }

    /// Pointer plus bytes: kept as an address where every use is in this block.
    pub(super) fn offset(&mut self, r: Value, p: Value, bytes: Value) -> Val {
        let mut mem = match self.val(p).clone() {
            Val::Address(mem) => mem,
            _ => Mem::at(Base::Reg(self.reg(p)), 0),
        };
        match self.int_constant(bytes) {
            Some(c) if i32::try_from(mem.disp + c).is_ok() => mem.disp += c,
            _ => {
                if mem.index.is_some() {
                    mem = Mem::at(Base::Reg(self.address_reg(mem)), 0);
                }
                mem.index = Some(self.reg(bytes));
            }
        }
        if mem.index.is_some() && self.leaves(r) {
            return Val::Regs(smallvec![self.address_reg(mem)]);
        }
        Val::Address(mem)
    }
}
