//! Arithmetic, comparison and selection.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, InstBuilder, types};
use tilewright_ir::kernel::{Imm, Opcode, Pred, Scalar, Value};

use super::lower::{Lower, Pieces, full};

impl Lower<'_, '_> {
    pub(super) fn binary(&mut self, op: Opcode, a: Value, b: Value) -> Pieces {
        let ty = self.ty(a);
        let (x, mut y) = (self.get(a), self.get(b));
        if ty.scalar == Scalar::I1 && ty.lanes > 1 {
            let width = self.clif_type(x[0]).lane_bits();
            y = self.mask_width(y, ty.lanes, width);
        }
        x.iter().zip(&y).map(|(&x, &y)| self.binary_piece(op, x, y)).collect()
    }

    /// One op on two scalars or two full vectors.
    pub(super) fn binary_piece(&mut self, op: Opcode, x: ir::Value, y: ir::Value) -> ir::Value {
        let ty = self.clif_type(x);
        let float = ty.lane_type().is_float();
        match op {
            Opcode::Fmin | Opcode::Fmax => return self.extremum(op, x, y),
            Opcode::Mul if ty == types::I8X16 => return self.mul_bytes(x, y),
            _ => {}
        }
        let i = self.b.ins();
        match op {
            Opcode::Add if float => i.fadd(x, y),
            Opcode::Sub if float => i.fsub(x, y),
            Opcode::Mul if float => i.fmul(x, y),
            Opcode::Div => i.fdiv(x, y),
            Opcode::Add => i.iadd(x, y),
            Opcode::Sub => i.isub(x, y),
            Opcode::Mul => i.imul(x, y),
            Opcode::Smin => i.smin(x, y),
            Opcode::Smax => i.smax(x, y),
            Opcode::And => i.band(x, y),
            Opcode::Or => i.bor(x, y),
            Opcode::DivS => i.sdiv(x, y),
            Opcode::RemS => i.srem(x, y),
            _ => i.bxor(x, y),
        }
    }

    /// `a < b ? a : b` and its mirror, in the form that becomes one `minps` or `maxps`.
    fn extremum(&mut self, op: Opcode, x: ir::Value, y: ir::Value) -> ir::Value {
        let ty = self.clif_type(x);
        if !ty.is_vector() {
            let vector = full(ty);
            let (vx, vy) = (self.b.ins().splat(vector, x), self.b.ins().splat(vector, y));
            let v = self.extremum(op, vx, vy);
            return self.b.ins().extractlane(v, 0);
        }
        let (p, q) = if op == Opcode::Fmin { (x, y) } else { (y, x) };
        let less = self.b.ins().fcmp(FloatCC::LessThan, p, q);
        let less = self.cast(less, ty);
        self.b.ins().bitselect(less, x, y)
    }

    /// Byte products: even and odd bytes as 16-bit lanes.
    fn mul_bytes(&mut self, x: ir::Value, y: ir::Value) -> ir::Value {
        let (x, y) = (self.cast(x, types::I16X8), self.cast(y, types::I16X8));
        let even = self.b.ins().imul(x, y);
        let low = self.splat_const(types::I16X8, 0xff);
        let even = self.b.ins().band(even, low);
        let (xo, yo) = (self.b.ins().ushr_imm_u(x, 8), self.b.ins().ushr_imm_u(y, 8));
        let odd = self.b.ins().imul(xo, yo);
        let odd = self.b.ins().ishl_imm_u(odd, 8);
        let v = self.b.ins().bor(even, odd);
        self.cast(v, types::I8X16)
    }

    pub(super) fn unary(&mut self, op: Opcode, a: Value) -> Pieces {
        let float = self.ty(a).scalar.is_float();
        let one = |l: &mut Self, x: ir::Value| match op {
            Opcode::Neg if float => l.b.ins().fneg(x),
            Opcode::Neg => l.b.ins().ineg(x),
            Opcode::Abs => l.b.ins().fabs(x),
            Opcode::Sqrt => l.b.ins().sqrt(x),
            Opcode::Floor => l.b.ins().floor(x),
            _ => l.b.ins().nearest(x),
        };
        self.get(a).into_iter().map(|x| one(self, x)).collect()
    }

    pub(super) fn fma(&mut self, a: Value, b: Value, c: Value) -> Pieces {
        let (a, b, c) = (self.get(a), self.get(b), self.get(c));
        a.iter().zip(&b).zip(&c).map(|((&a, &b), &c)| self.b.ins().fma(a, b, c)).collect()
    }

    pub(super) fn shift(&mut self, op: Opcode, a: Value, count: Value) -> Pieces {
        let n = self.scalar(count);
        let one = |l: &mut Self, x: ir::Value| match op {
            Opcode::Shl => l.b.ins().ishl(x, n),
            Opcode::ShrU => l.b.ins().ushr(x, n),
            _ => l.b.ins().sshr(x, n),
        };
        self.get(a).into_iter().map(|x| one(self, x)).collect()
    }

    pub(super) fn compare(&mut self, imm: Imm, a: Value, b: Value) -> Pieces {
        let Imm::Pred(pred) = imm else { return vec![] };
        let (int, float) = match pred {
            Pred::Eq => (IntCC::Equal, FloatCC::Equal),
            Pred::Ne => (IntCC::NotEqual, FloatCC::NotEqual),
            Pred::Slt => (IntCC::SignedLessThan, FloatCC::LessThan),
            Pred::Sle => (IntCC::SignedLessThanOrEqual, FloatCC::LessThanOrEqual),
            Pred::Sgt => (IntCC::SignedGreaterThan, FloatCC::GreaterThan),
            Pred::Sge => (IntCC::SignedGreaterThanOrEqual, FloatCC::GreaterThanOrEqual),
            Pred::Ult => (IntCC::UnsignedLessThan, FloatCC::LessThan),
            Pred::Uge => (IntCC::UnsignedGreaterThanOrEqual, FloatCC::GreaterThanOrEqual),
        };
        let is_float = self.ty(a).scalar.is_float();
        let (x, y) = (self.get(a), self.get(b));
        let one = |l: &mut Self, x, y| if is_float { l.b.ins().fcmp(float, x, y) } else { l.b.ins().icmp(int, x, y) };
        x.iter().zip(&y).map(|(&x, &y)| one(self, x, y)).collect()
    }

    pub(super) fn select(&mut self, c: Value, a: Value, b: Value) -> Pieces {
        let ty = self.ty(a);
        let (mut x, mut y) = (self.get(a), self.get(b));
        if self.ty(c).lanes == 1 {
            let c = self.scalar(c);
            if ty.scalar == Scalar::I1 && ty.lanes > 1 {
                let width = self.clif_type(x[0]).lane_bits();
                y = self.mask_width(y, ty.lanes, width);
            }
            return x.iter().zip(&y).map(|(&x, &y)| self.b.ins().select(c, x, y)).collect();
        }
        let mut mask = self.get(c);
        let width = self.clif_type(mask[0]).lane_bits();
        if ty.scalar == Scalar::I1 {
            (x, y) = (self.mask_width(x, ty.lanes, width), self.mask_width(y, ty.lanes, width));
        } else {
            let lane = self.clif_type(x[0]).lane_bits();
            mask = self.mask_width(mask, ty.lanes, lane);
        }
        (0..x.len()).map(|i| self.select_piece(mask[i], x[i], y[i])).collect()
    }

    /// Lanes of `x` where the mask is ones, of `y` where it is zeros.
    pub(super) fn select_piece(&mut self, mask: ir::Value, x: ir::Value, y: ir::Value) -> ir::Value {
        let ty = self.clif_type(x);
        let bytes = types::I8X16;
        let [m, a, b] = [mask, x, y].map(|v| self.cast(v, bytes));
        let v = if self.caps.x86 { self.b.ins().blendv(m, a, b) } else { self.b.ins().bitselect(m, a, b) };
        self.cast(v, ty)
    }

    pub(super) fn dot4(&mut self, acc: Value, unsigned: Value, signed: Value) -> Pieces {
        let scalar = self.ty(acc).lanes == 1;
        let (mut acc, u, s) = (self.get(acc), self.get(unsigned), self.get(signed));
        if scalar {
            acc = vec![self.b.ins().scalar_to_vector(types::I32X4, acc[0])];
        }
        let one = |l: &mut Self, i: usize| {
            if l.caps.dot { l.dot_by_pattern(acc[i], u[i], s[i]) } else { l.dot_by_halves(acc[i], u[i], s[i]) }
        };
        let sums = (0..acc.len()).map(|i| one(self, i)).collect();
        self.back_to_scalar(sums, scalar)
    }

    /// The tree that Cranelift recognises as one dot-product instruction, if the operands of `imul` come in the order
    /// of the machine's rule.
    fn dot_by_pattern(&mut self, acc: ir::Value, u: ir::Value, s: ir::Value) -> ir::Value {
        let x86 = self.caps.x86;
        let mut product = |high: bool| {
            let (us, ss) = if high {
                (self.b.ins().uwiden_high(u), self.b.ins().swiden_high(s))
            } else {
                (self.b.ins().uwiden_low(u), self.b.ins().swiden_low(s))
            };
            let p = if x86 { self.b.ins().imul(ss, us) } else { self.b.ins().imul(us, ss) };
            let (low, high) = (self.b.ins().swiden_low(p), self.b.ins().swiden_high(p));
            self.b.ins().iadd_pairwise(low, high)
        };
        let (low, high) = (product(false), product(true));
        let sums = self.b.ins().iadd_pairwise(low, high);
        self.b.ins().iadd(sums, acc)
    }

    /// Without such an instruction: even and odd bytes as 16-bit lanes, pairs multiplied and added to 32 bits
    /// (`pmaddwd`), so nothing saturates. The halves of an operand are shared by all products in a block.
    fn dot_by_halves(&mut self, acc: ir::Value, u: ir::Value, s: ir::Value) -> ir::Value {
        let us = self.byte_halves(u, false);
        let ss = self.byte_halves(s, true);
        let mut sum = acc;
        for (u, s) in us.into_iter().zip(ss) {
            let (ul, sl) = (self.b.ins().swiden_low(u), self.b.ins().swiden_low(s));
            let low = self.b.ins().imul(ul, sl);
            let (uh, sh) = (self.b.ins().swiden_high(u), self.b.ins().swiden_high(s));
            let high = self.b.ins().imul(uh, sh);
            let pairs = self.b.ins().iadd_pairwise(low, high);
            sum = self.b.ins().iadd(sum, pairs);
        }
        sum
    }

    fn byte_halves(&mut self, v: ir::Value, signed: bool) -> [ir::Value; 2] {
        if let Some(&halves) = self.halves.get(&(v, signed)) {
            return halves;
        }
        let words = self.cast(v, types::I16X8);
        let halves = if signed {
            let up = self.b.ins().ishl_imm_u(words, 8);
            [self.b.ins().sshr_imm_u(up, 8), self.b.ins().sshr_imm_u(words, 8)]
        } else {
            let low = self.splat_const(types::I16X8, 0xff);
            [self.b.ins().band(words, low), self.b.ins().ushr_imm_u(words, 8)]
        };
        self.halves.insert((v, signed), halves);
        halves
    }
}
