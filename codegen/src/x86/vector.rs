//! Vectors: arithmetic, comparison, selection and moving lanes. Floats of one lane are here too.

use iced_x86::{Mnemonic as M, Register};
use regalloc2::VReg;
use smallvec::smallvec;
use tilewright_ir::kernel::{Opcode, Pred, Scalar, Type, Value};

use super::func::{Base, Mem, Opd};
use super::isa::{self, Kind};
use super::lower::{Lower, Pieces, Val, Waiting, in_vector, lane_bits, shape, widest_lane};

/// Rounding controls of `vroundps` and `vrndscaleps`: without the precision exception, to nearest even or down.
const NEAREST: u8 = 8;
const DOWN: u8 = 9;

impl Lower<'_> {
    /// Bits of the pieces of a value and how many there are; of a float scalar, 128 and one.
    pub(super) fn shape_of(&self, v: Value) -> (u32, usize) {
        let ty = self.ty(v);
        shape(ty, lane_bits(ty.scalar), self.caps.width)
    }

    /// Size of the elements that an instruction on these lanes broadcasts from memory.
    fn grain(ty: Type) -> u32 {
        match lane_bits(ty.scalar) {
            bits @ (32 | 64) if ty.lanes > 1 => bits,
            _ => 0,
        }
    }

    fn one_lane(&self, v: Value) -> bool {
        self.ty(v).lanes == 1
    }

    pub(super) fn binary(&mut self, op: Opcode, a: Value, b: Value) -> Val {
        let ty = self.ty(a);
        if matches!(op, Opcode::And | Opcode::Or | Opcode::Xor) {
            return self.bitwise(op, a, b);
        }
        if op == Opcode::Mul && ty.scalar == Scalar::I8 {
            return self.multiply_bytes(a, b);
        }
        let Some(m) = isa::find(isa::OPS, op, ty.scalar, &self.caps, ty.lanes == 1) else {
            self.refuse("", "there is no such instruction for these lanes");
            return Val::None;
        };
        let (width, n) = self.shape_of(a);
        // A load that waits goes to the second place, where memory can be.
        let swap = matches!(op, Opcode::Add | Opcode::Mul)
            && matches!(self.val(a), Val::Waiting(_) | Val::Const(_))
            && !matches!(self.val(b), Val::Waiting(_) | Val::Const(_));
        let (a, b) = if swap { (b, a) } else { (a, b) };
        let x = self.regs(a);
        let grain =
            if in_vector(ty.scalar) || matches!(ty.scalar, Scalar::I32 | Scalar::I64) { Self::grain(ty) } else { 0 };
        let one = |l: &mut Self, i: usize| {
            let y = l.operand(b, i, grain);
            l.v(m, width, &[Opd::Use(x[i], Kind::vector(width)), y])
        };
        Val::Regs((0..n).map(|i| one(self, i)).collect())
    }

    pub(super) fn bitwise_mnemonic(&self, op: Opcode) -> M {
        match op {
            Opcode::And => self.caps.pick(M::Vpand, M::Vpandd),
            Opcode::Or => self.caps.pick(M::Vpor, M::Vpord),
            _ => self.caps.pick(M::Vpxor, M::Vpxord),
        }
    }

    fn bitwise(&mut self, op: Opcode, a: Value, b: Value) -> Val {
        let (ty, m) = (self.ty(a), self.bitwise_mnemonic(op));
        if ty.scalar == Scalar::I1 {
            let bits = self.mask_bits(a).or(self.mask_bits(b)).unwrap_or(32);
            let (x, y) = (self.mask(a, bits), self.mask(b, bits));
            let width = shape(ty, bits, self.caps.width).0;
            let k = Kind::vector(width);
            let p = x.iter().zip(&y).map(|(&x, &y)| self.v(m, width, &[Opd::Use(x, k), Opd::Use(y, k)])).collect();
            return Val::Mask(p, bits);
        }
        let (width, n) = self.shape_of(a);
        let (a, b) = if matches!(self.val(a), Val::Waiting(_) | Val::Const(_)) { (b, a) } else { (a, b) };
        let x = self.regs(a);
        let one = |l: &mut Self, i: usize| {
            let y = l.operand(b, i, 32);
            l.v(m, width, &[Opd::Use(x[i], Kind::vector(width)), y])
        };
        Val::Regs((0..n).map(|i| one(self, i)).collect())
    }

    /// Byte products: even and odd bytes as 16-bit lanes.
    fn multiply_bytes(&mut self, a: Value, b: Value) -> Val {
        let (width, n) = self.shape_of(a);
        let (x, y) = (self.regs(a), self.regs(b));
        let k = Kind::vector(width);
        let mut out = Pieces::new();
        for i in 0..n {
            let (x, y) = (Opd::Use(x[i], k), Opd::Use(y[i], k));
            let even = self.v(M::Vpmullw, width, &[x, y]);
            let even = self.shift_by(M::Vpsllw, width, even, 8);
            let even = self.shift_by(M::Vpsrlw, width, even, 8);
            let xo = self.v(M::Vpsrlw, width, &[x, Opd::Control(8)]);
            let yo = self.v(M::Vpsrlw, width, &[y, Opd::Control(8)]);
            let odd = self.v(M::Vpmullw, width, &[Opd::Use(xo, k), Opd::Use(yo, k)]);
            let odd = self.shift_by(M::Vpsllw, width, odd, 8);
            let m = self.bitwise_mnemonic(Opcode::Or);
            out.push(self.v(m, width, &[Opd::Use(even, k), Opd::Use(odd, k)]));
        }
        Val::Regs(out)
    }

    pub(super) fn shift_by(&mut self, m: M, width: u32, x: VReg, by: u8) -> VReg {
        self.v(m, width, &[Opd::Use(x, Kind::vector(width)), Opd::Control(by)])
    }

    pub(super) fn shift(&mut self, op: Opcode, a: Value, count: Value) -> Val {
        let Some(m) = isa::find(isa::SHIFTS, op, self.ty(a).scalar, &self.caps, false) else {
            self.refuse("", "there is no such shift of these lanes");
            return Val::None;
        };
        let (width, x) = (self.shape_of(a).0, self.regs(a));
        if let Some(c) = self.constant(count) {
            return Val::Regs(x.into_iter().map(|x| self.shift_by(m, width, x, c as u8)).collect());
        }
        let c = self.reg(count);
        let c = self.v(M::Vmovd, 128, &[Opd::Use(c, Kind::R32)]);
        let k = Kind::vector(width);
        Val::Regs(x.into_iter().map(|x| self.v(m, width, &[Opd::Use(x, k), Opd::Use(c, Kind::Xmm)])).collect())
    }

    /// `a * b + c`: the form whose third operand may come from memory and whose overwritten one is not needed again.
    pub(super) fn fma(&mut self, a: Value, b: Value, c: Value) -> Val {
        let ty = self.ty(a);
        let (width, n) = self.shape_of(a);
        let (one, double) = (ty.lanes == 1, ty.scalar == Scalar::F64);
        // Only EVEX broadcasts within an instruction.
        let from_memory = |l: &Self, v: Value| match l.val(v) {
            Val::Waiting(w) => !w.splat || l.caps.evex,
            Val::Const(_) => true,
            _ => false,
        };
        // 213: d = d * b + c, for constants to add; 231: d = a * b + d.
        let adds_memory = from_memory(self, c) && !(from_memory(self, a) || from_memory(self, b));
        let (m, old, mid, last) = if adds_memory {
            let (old, mid) = if self.used_once(b) && !self.used_once(a) { (b, a) } else { (a, b) };
            ([M::Vfmadd213ps, M::Vfmadd213pd, M::Vfmadd213ss, M::Vfmadd213sd], old, mid, c)
        } else {
            let (mid, last) = if from_memory(self, a) && !from_memory(self, b) { (b, a) } else { (a, b) };
            ([M::Vfmadd231ps, M::Vfmadd231pd, M::Vfmadd231ss, M::Vfmadd231sd], c, mid, last)
        };
        let m = m[usize::from(double) + 2 * usize::from(one)];
        let (x, y) = (self.regs(old), self.regs(mid));
        let grain = Self::grain(ty);
        let piece = |l: &mut Self, i: usize| {
            let z = l.operand(last, i, grain);
            l.v_mod(m, width, x[i], &[Opd::Use(y[i], Kind::vector(width)), z])
        };
        Val::Regs((0..n).map(|i| piece(self, i)).collect())
    }

    pub(super) fn unary(&mut self, op: Opcode, a: Value) -> Val {
        let ty = self.ty(a);
        if ty.scalar.is_int() && ty.lanes == 1 {
            return self.scalar_neg(a);
        }
        let (width, _) = self.shape_of(a);
        let k = Kind::vector(width);
        let double = ty.scalar == Scalar::F64;
        let x = self.regs(a);
        let (sign, rest) = if double { (1u64 << 63, u64::MAX >> 1) } else { (1 << 31, (1 << 31) - 1) };
        let lane = lane_bits(ty.scalar);
        if ty.scalar.is_int() {
            let m = isa::find(isa::OPS, Opcode::Sub, ty.scalar, &self.caps, false).unwrap_or(M::INVALID);
            let zero = self.zero(width);
            return Val::Regs(x.iter().map(|&x| self.v(m, width, &[Opd::Use(zero, k), Opd::Use(x, k)])).collect());
        }
        if matches!(op, Opcode::Neg | Opcode::Abs) {
            let (op, bits) = if op == Opcode::Neg { (Opcode::Xor, sign) } else { (Opcode::And, rest) };
            let c = self.pattern(lane, bits, width);
            let m = self.bitwise_mnemonic(op);
            return Val::Regs(x.iter().map(|&x| self.v(m, width, &[Opd::Use(x, k), Opd::Use(c, k)])).collect());
        }
        let pick = |table: [M; 4]| table[usize::from(double) + 2 * usize::from(ty.lanes == 1)];
        let (m, control) = match op {
            Opcode::Sqrt => (pick([M::Vsqrtps, M::Vsqrtpd, M::Vsqrtss, M::Vsqrtsd]), None),
            _ => {
                let m = if self.caps.evex {
                    pick([M::Vrndscaleps, M::Vrndscalepd, M::Vrndscaless, M::Vrndscalesd])
                } else {
                    pick([M::Vroundps, M::Vroundpd, M::Vroundss, M::Vroundsd])
                };
                (m, Some(Opd::Control(if op == Opcode::Floor { DOWN } else { NEAREST })))
            }
        };
        let one = |l: &mut Self, x: VReg| {
            let x = Opd::Use(x, k);
            // The scalar forms take the upper lanes from one more operand.
            let mut opds: Vec<Opd> = if ty.lanes == 1 { vec![x, x] } else { vec![x] };
            opds.extend(control);
            l.v(m, width, &opds)
        };
        Val::Regs(x.into_iter().map(|x| one(self, x)).collect())
    }

    /// A register with a bit pattern in every lane.
    pub(super) fn pattern(&mut self, lane: u32, bits: u64, width: u32) -> VReg {
        let key = widest_lane(lane, bits);
        self.constant_reg(key, width)
    }

    /// The same for an instruction that may read it from memory.
    pub(super) fn pattern_operand(&mut self, lane: u32, bits: u64, width: u32) -> Opd {
        let key = widest_lane(lane, bits);
        match self.hoisted(key) {
            Some(r) => Opd::Use(r, Kind::vector(width)),
            None => Opd::Mem(Mem::at(Base::Pool, self.pool.place(key.1, key.0, width / 8))),
        }
    }

    /// 16 bytes from the pool.
    pub(super) fn bytes_constant(&mut self, bytes: &[u8; 16]) -> VReg {
        let mem = Mem::at(Base::Pool, self.pool.block(bytes));
        self.v(M::Vmovups, 128, &[Opd::Mem(mem)])
    }

    pub(super) fn compare_vectors(&mut self, p: Pred, a: Value, b: Value) -> Val {
        let ty = self.ty(a);
        let (width, n) = self.shape_of(a);
        let k = Kind::vector(width);
        let lane = lane_bits(ty.scalar);
        let (x, y) = (self.regs(a), self.regs(b));
        let one = |l: &mut Self, i: usize| {
            let (x, y) = (Opd::Use(x[i], k), Opd::Use(y[i], k));
            if ty.scalar.is_float() {
                let m = if lane == 32 { M::Vcmpps } else { M::Vcmppd };
                // Quiet predicates; only "not equal" holds for what is not a number.
                let control = match p {
                    Pred::Eq => 0,
                    Pred::Ne => 4,
                    Pred::Slt => 0x11,
                    Pred::Sle => 0x12,
                    Pred::Sgt => 0x1e,
                    _ => 0x1d,
                };
                return l.compare_to_mask(m, width, lane, x, y, control);
            }
            if l.caps.evex {
                let unsigned = matches!(p, Pred::Ult | Pred::Uge);
                let m = match (lane, unsigned) {
                    (8, false) => M::Vpcmpb,
                    (8, true) => M::Vpcmpub,
                    (16, false) => M::Vpcmpw,
                    (16, true) => M::Vpcmpuw,
                    (32, false) => M::Vpcmpd,
                    (32, true) => M::Vpcmpud,
                    (_, false) => M::Vpcmpq,
                    (_, true) => M::Vpcmpuq,
                };
                let control = match p {
                    Pred::Eq => 0,
                    Pred::Slt | Pred::Ult => 1,
                    Pred::Sle => 2,
                    Pred::Ne => 4,
                    Pred::Sge | Pred::Uge => 5,
                    Pred::Sgt => 6,
                };
                return l.compare_to_mask(m, width, lane, x, y, control);
            }
            l.compare_avx2(p, lane, width, x, y)
        };
        Val::Mask((0..n).map(|i| one(self, i)).collect(), lane)
    }

    /// A comparison as lanes of ones and zeros.
    fn compare_to_mask(&mut self, m: M, width: u32, lane: u32, x: Opd, y: Opd, control: u8) -> VReg {
        if !self.caps.evex {
            return self.v(m, width, &[x, y, Opd::Control(control)]);
        }
        self.vector_inst(m, &[Opd::Fixed(Register::K1), x, y, Opd::Control(control)]);
        let spread = match lane {
            8 => M::Vpmovm2b,
            16 => M::Vpmovm2w,
            32 => M::Vpmovm2d,
            _ => M::Vpmovm2q,
        };
        self.v(spread, width, &[Opd::Fixed(Register::K1)])
    }

    /// AVX2 has "equal" and "greater" only.
    fn compare_avx2(&mut self, p: Pred, lane: u32, width: u32, x: Opd, y: Opd) -> VReg {
        let (eq, gt) = match lane {
            8 => (M::Vpcmpeqb, M::Vpcmpgtb),
            16 => (M::Vpcmpeqw, M::Vpcmpgtw),
            32 => (M::Vpcmpeqd, M::Vpcmpgtd),
            _ => (M::Vpcmpeqq, M::Vpcmpgtq),
        };
        let k = Kind::vector(width);
        let (mut x, mut y) = (x, y);
        if matches!(p, Pred::Ult | Pred::Uge) {
            let sign = self.pattern(lane, 1 << (lane - 1), width);
            let flip = |l: &mut Self, v: Opd| Opd::Use(l.v(M::Vpxor, width, &[v, Opd::Use(sign, k)]), k);
            (x, y) = (flip(self, x), flip(self, y));
        }
        let (m, a, b, not) = match p {
            Pred::Eq => (eq, x, y, false),
            Pred::Ne => (eq, x, y, true),
            Pred::Sgt => (gt, x, y, false),
            Pred::Slt | Pred::Ult => (gt, y, x, false),
            Pred::Sle => (gt, x, y, true),
            Pred::Sge | Pred::Uge => (gt, y, x, true),
        };
        let r = self.v(m, width, &[a, b]);
        if !not {
            return r;
        }
        let ones = self.pattern(32, 0xffff_ffff, width);
        self.v(M::Vpxor, width, &[Opd::Use(r, k), Opd::Use(ones, k)])
    }

    pub(super) fn select(&mut self, c: Value, a: Value, b: Value) -> Val {
        let ty = self.ty(a);
        if ty.lanes == 1 && !in_vector(ty.scalar) {
            return self.select_scalar(c, a, b);
        }
        let one_mask = self.ty(c).lanes == 1;
        let truth = ty.scalar == Scalar::I1;
        let lane = if truth {
            self.mask_bits(a).or(self.mask_bits(b)).or(self.mask_bits(c)).unwrap_or(32)
        } else {
            lane_bits(ty.scalar)
        };
        let (width, n) = shape(ty, lane, self.caps.width);
        let mask: Pieces = if one_mask {
            let r = self.reg(c);
            let (old, new) = (r, self.gpr());
            self.scalar_inst(M::Neg, &[Opd::Mod { old, new, kind: Kind::R32 }]);
            smallvec![self.broadcast_gpr(new, 32, width); n]
        } else {
            self.mask(c, lane)
        };
        let (x, y) = if truth { (self.mask(a, lane), self.mask(b, lane)) } else { (self.regs(a), self.regs(b)) };
        let p = (0..n).map(|i| self.blend(mask[i], x[i], y[i], width)).collect();
        if truth { Val::Mask(p, lane) } else { Val::Regs(p) }
    }

    /// Bits of `x` where the mask has ones, of `y` where it has zeros.
    pub(super) fn blend(&mut self, mask: VReg, x: VReg, y: VReg, width: u32) -> VReg {
        let k = Kind::vector(width);
        if self.caps.evex {
            // Truth table of m ? x : y over (m, x, y).
            return self.v_mod(M::Vpternlogd, width, mask, &[Opd::Use(x, k), Opd::Use(y, k), Opd::Control(0xca)]);
        }
        self.v(M::Vpblendvb, width, &[Opd::Use(y, k), Opd::Use(x, k), Opd::Use(mask, k)])
    }

    pub(super) fn dot2(&mut self, acc: Value, x: Value, y: Value) -> Val {
        if !self.caps.bf16 {
            self.refuse("", "there is no such instruction without avx512bf16");
            return Val::None;
        }
        let (width, n) = self.shape_of(acc);
        let (acc, x) = (self.regs(acc), self.regs(x));
        let piece = |l: &mut Self, i: usize| {
            let y = l.operand(y, i, 32);
            l.v_mod(M::Vdpbf16ps, width, acc[i], &[Opd::Use(x[i], Kind::vector(width)), y])
        };
        Val::Regs((0..n).map(|i| piece(self, i)).collect())
    }

    // Moving lanes.

    /// A general register to every lane of `lane` bits.
    pub(super) fn broadcast_gpr(&mut self, r: VReg, lane: u32, width: u32) -> VReg {
        let (m, kind) = match lane {
            8 => (M::Vpbroadcastb, Kind::R32),
            16 => (M::Vpbroadcastw, Kind::R32),
            32 => (M::Vpbroadcastd, Kind::R32),
            _ => (M::Vpbroadcastq, Kind::R64),
        };
        if self.caps.evex {
            return self.v(m, width, &[Opd::Use(r, kind)]);
        }
        let to = if lane == 64 { M::Vmovq } else { M::Vmovd };
        let x = self.v(to, 128, &[Opd::Use(r, kind)]);
        self.v(m, width, &[Opd::Use(x, Kind::Xmm)])
    }

    pub(super) fn splat(&mut self, r: Value, a: Value, to: Type) -> Val {
        let (width, n) = shape(to, lane_bits(to.scalar), self.caps.width);
        if let Some(bits) = self.constant(a) {
            return Val::Const(bits);
        }
        if let Some(w) = self.take_waiting(a) {
            let w = Waiting { splat: true, ..w };
            if self.used_once(r) && !self.leaves(r) {
                self.wait(r, w);
                return self.val(r).clone();
            }
            return Val::Regs(self.load_now(w, to));
        }
        let s = self.reg(a);
        if to.scalar == Scalar::I1 {
            let new = self.gpr();
            self.scalar_inst(M::Neg, &[Opd::Mod { old: s, new, kind: Kind::R32 }]);
            return Val::Mask(smallvec![self.broadcast_gpr(new, 32, width); n], 32);
        }
        if !in_vector(to.scalar) {
            return Val::Regs(smallvec![self.broadcast_gpr(s, lane_bits(to.scalar), width); n]);
        }
        let m = if to.scalar == Scalar::F32 { M::Vpbroadcastd } else { M::Vpbroadcastq };
        Val::Regs(smallvec![self.v(m, width, &[Opd::Use(s, Kind::Xmm)]); n])
    }

    pub(super) fn bitcast(&mut self, r: Value, a: Value, to: Type) -> Val {
        let from = self.ty(a);
        let may_wait = from.lanes > 1 && to.lanes > 1 && self.used_once(r) && !self.leaves(r) && self.used_once(a);
        if may_wait && let Some(w) = self.take_waiting(a) {
            self.wait(r, w);
            return Val::Waiting(w);
        }
        match (from.lanes == 1, to.lanes == 1) {
            (false, false) => Val::Regs(self.regs(a)),
            (true, true) => {
                let r = self.reg(a);
                match (in_vector(from.scalar), in_vector(to.scalar)) {
                    (true, false) => Val::Regs(smallvec![self.gpr_of(r, to.scalar)]),
                    (false, true) => Val::Regs(smallvec![self.xmm_of(r, from.scalar)]),
                    _ => Val::Regs(smallvec![r]),
                }
            }
            (true, false) => {
                let r = self.reg(a);
                Val::Regs(smallvec![if in_vector(from.scalar) { r } else { self.xmm_of(r, from.scalar) }])
            }
            (false, true) => {
                let r = self.reg(a);
                Val::Regs(smallvec![if in_vector(to.scalar) { r } else { self.gpr_of(r, to.scalar) }])
            }
        }
    }

    /// Lane 0 of a vector in a general register.
    pub(super) fn gpr_of(&mut self, r: VReg, s: Scalar) -> VReg {
        let d = self.gpr();
        let (m, kind) = if s.bytes() == 8 { (M::Vmovq, Kind::R64) } else { (M::Vmovd, Kind::R32) };
        self.vector_inst(m, &[Opd::Def(d, kind), Opd::Use(r, Kind::Xmm)]);
        d
    }

    fn xmm_of(&mut self, r: VReg, s: Scalar) -> VReg {
        let (m, kind) = if s.bytes() == 8 { (M::Vmovq, Kind::R64) } else { (M::Vmovd, Kind::R32) };
        self.v(m, 128, &[Opd::Use(r, kind)])
    }

    /// `bits` bits of a register of `width` bits, from bit `at` on, in the low bits of another.
    pub(super) fn part(&mut self, r: VReg, width: u32, at: u32, bits: u32) -> VReg {
        if at == 0 {
            return r;
        }
        if bits == 256 {
            return self.extract_part(M::Vextracti64x4, Kind::Ymm, r, width, (at / 256) as u8);
        }
        let mut x = r;
        if at >= 128 {
            x = if self.caps.evex {
                self.extract_part(M::Vextracti32x4, Kind::Xmm, r, width, (at / 128) as u8)
            } else {
                self.extract_part(M::Vextracti128, Kind::Xmm, r, width, (at / 128) as u8)
            };
        }
        if !at.is_multiple_of(128) {
            x = self.shift_by(M::Vpsrldq, 128, x, (at % 128 / 8) as u8);
        }
        x
    }

    fn extract_part(&mut self, m: M, kind: Kind, r: VReg, width: u32, at: u8) -> VReg {
        let d = self.vec();
        self.vector_inst(m, &[Opd::Def(d, kind), Opd::Use(r, Kind::vector(width)), Opd::Control(at)]);
        d
    }

    /// Puts 128 or 256 bits in place `at` of a register.
    pub(super) fn put_part(&mut self, r: VReg, width: u32, part: VReg, bits: u32, at: u32) -> VReg {
        let m = match (bits, self.caps.evex) {
            (256, _) => M::Vinserti64x4,
            (_, true) => M::Vinserti32x4,
            (_, false) => M::Vinserti128,
        };
        let (whole, part) = (Opd::Use(r, Kind::vector(width)), Opd::Use(part, Kind::vector(bits)));
        self.v(m, width, &[whole, part, Opd::Control((at / bits) as u8)])
    }

    /// 128 bits in every 128 bits of the widest register.
    pub(super) fn repeat_128(&mut self, r: VReg) -> VReg {
        let width = self.caps.width;
        let k = Kind::vector(width);
        if self.caps.evex {
            let m = M::Vshufi32x4;
            return self.v(m, width, &[Opd::Use(r, k), Opd::Use(r, k), Opd::Control(0)]);
        }
        self.put_part(r, width, r, 128, 128)
    }

    /// Register and lane in it.
    fn place(&self, ty: Type, lane: i64, bits: u32) -> (usize, u32) {
        let (width, _) = shape(ty, bits, self.caps.width);
        let per = i64::from(width / bits);
        ((lane / per) as usize, (lane % per) as u32)
    }

    pub(super) fn extract(&mut self, a: Value, lane: i64) -> Val {
        let ty = self.ty(a);
        if ty.lanes == 1 {
            return Val::Regs(self.regs(a));
        }
        if ty.scalar == Scalar::I1 {
            let p = self.mask(a, 32);
            let (i, at) = self.place(ty, lane, 32);
            let width = shape(ty, 32, self.caps.width).0;
            let x = self.part(p[i], width, at * 32, 32);
            let r = self.gpr_of(x, Scalar::I32);
            let new = self.gpr();
            self.scalar_inst(M::And, &[Opd::Mod { old: r, new, kind: Kind::R32 }, Opd::Imm(1)]);
            return Val::Regs(smallvec![new]);
        }
        let bits = lane_bits(ty.scalar);
        let (p, (width, _)) = (self.regs(a), self.shape_of(a));
        let (i, at) = self.place(ty, lane, bits);
        let x = self.part(p[i], width, at * bits, bits);
        Val::Regs(smallvec![if in_vector(ty.scalar) { x } else { self.gpr_of(x, ty.scalar) }])
    }

    pub(super) fn insert(&mut self, a: Value, s: Value, lane: i64) -> Val {
        let ty = self.ty(a);
        if ty.lanes == 1 {
            return Val::Regs(self.regs(s));
        }
        let mut from = self.reg(s);
        let truth = ty.scalar == Scalar::I1;
        let bits = if truth { 32 } else { lane_bits(ty.scalar) };
        if truth {
            let new = self.gpr();
            self.scalar_inst(M::Neg, &[Opd::Mod { old: from, new, kind: Kind::R32 }]);
            from = new;
        } else if in_vector(ty.scalar) {
            from = self.gpr_of(from, ty.scalar);
        }
        let mut p = if truth { self.mask(a, 32) } else { self.regs(a) };
        let (width, _) = shape(ty, bits, self.caps.width);
        let (i, at) = self.place(ty, lane, bits);
        let home = at * bits / 128 * 128;
        let low = self.part(p[i], width, home, 128);
        let (m, kind) = match bits {
            8 => (M::Vpinsrb, Kind::R32),
            16 => (M::Vpinsrw, Kind::R32),
            32 => (M::Vpinsrd, Kind::R32),
            _ => (M::Vpinsrq, Kind::R64),
        };
        let place = Opd::Control((at * bits % 128 / bits) as u8);
        let low = self.v(m, 128, &[Opd::Use(low, Kind::Xmm), Opd::Use(from, kind), place]);
        p[i] = if width == 128 { low } else { self.put_part(p[i], width, low, 128, home) };
        if truth { Val::Mask(p, 32) } else { Val::Regs(p) }
    }

    pub(super) fn half(&mut self, a: Value, high: bool) -> Val {
        let ty = self.ty(a);
        let lanes = ty.lanes / 2;
        if lanes <= 1 {
            return self.extract(a, i64::from(high));
        }
        let truth = ty.scalar == Scalar::I1;
        let bits = if truth { 32 } else { lane_bits(ty.scalar) };
        let p = if truth { self.mask(a, 32) } else { self.regs(a) };
        let (width, n) = shape(ty, bits, self.caps.width);
        let p: Pieces = if n > 1 {
            if high { p[n / 2..].into() } else { p[..n / 2].into() }
        } else if high {
            let half = u32::from(lanes) * bits;
            smallvec![self.part(p[0], width, half, half)]
        } else {
            p
        };
        if truth { Val::Mask(p, 32) } else { Val::Regs(p) }
    }

    /// Lane `i` takes lane `i ^ distance`: within 128 bits, by 128-bit places, or register by register.
    pub(super) fn swap(&mut self, a: Value, distance: i64) -> Val {
        let (width, n) = self.shape_of(a);
        let bits = distance as u32 * lane_bits(self.ty(a).scalar);
        let p = self.regs(a);
        if bits >= width {
            return Val::Regs((0..n).map(|i| p[i ^ (bits / width) as usize]).collect());
        }
        let k = Kind::vector(width);
        let one = |l: &mut Self, x: VReg| {
            let x = Opd::Use(x, k);
            match (bits, l.caps.evex, width) {
                (32, ..) => l.v(M::Vpshufd, width, &[x, Opd::Control(0b10_11_00_01)]),
                (64, ..) => l.v(M::Vpshufd, width, &[x, Opd::Control(0b01_00_11_10)]),
                (_, false, _) => l.v(M::Vperm2i128, width, &[x, x, Opd::Control(1)]),
                (_, true, 256) => l.v(M::Vshufi32x4, width, &[x, x, Opd::Control(1)]),
                (128, ..) => l.v(M::Vshufi32x4, width, &[x, x, Opd::Control(0b10_11_00_01)]),
                _ => l.v(M::Vshufi32x4, width, &[x, x, Opd::Control(0b01_00_11_10)]),
            }
        };
        Val::Regs(p.into_iter().map(|x| one(self, x)).collect())
    }

    /// Indices are below 16, so what the instruction does with others is of no interest.
    pub(super) fn swizzle(&mut self, table: Value, index: Value) -> Val {
        let wide = match self.wide_tables.get(&table) {
            Some(&wide) => wide,
            None => {
                let r = self.reg(table);
                self.repeat_128(r)
            }
        };
        let scalar = self.one_lane(index);
        let (width, mut p) = (self.shape_of(index).0, self.regs(index));
        if scalar {
            p = smallvec![self.xmm_of(p[0], Scalar::I32)];
        }
        let k = Kind::vector(width);
        let p: Pieces =
            p.into_iter().map(|i| self.v(M::Vpshufb, width, &[Opd::Use(wide, k), Opd::Use(i, k)])).collect();
        Val::Regs(if scalar { smallvec![self.gpr_of(p[0], Scalar::I8)] } else { p })
    }

    /// Halves are combined until one lane is left.
    pub(super) fn reduce(&mut self, op: Opcode, a: Value) -> Val {
        let ty = self.ty(a);
        let mut p = self.regs(a);
        if ty.lanes == 1 {
            return Val::Regs(p);
        }
        let Some(m) = isa::find(isa::OPS, op, ty.scalar, &self.caps, false) else {
            self.refuse("", "there is no such instruction for these lanes");
            return Val::None;
        };
        let (width, _) = self.shape_of(a);
        let both = |l: &mut Self, x: VReg, y: VReg, bits: u32| {
            let k = Kind::vector(bits);
            l.v(m, bits, &[Opd::Use(x, k), Opd::Use(y, k)])
        };
        while p.len() > 1 {
            let (low, high) = p.split_at(p.len() / 2);
            p = low.iter().zip(high).map(|(&x, &y)| both(self, x, y, width)).collect();
        }
        let mut bits = (u32::from(ty.lanes) * lane_bits(ty.scalar)).min(width);
        let (mut x, mut now) = (p[0], width);
        while bits > lane_bits(ty.scalar) {
            bits /= 2;
            let high = self.part(x, now, bits, bits);
            now = bits.max(128);
            x = both(self, x, high, now);
        }
        Val::Regs(smallvec![if in_vector(ty.scalar) { x } else { self.gpr_of(x, ty.scalar) }])
    }
}
