//! Conversions between element types.

use iced_x86::{Mnemonic as M, Register};
use regalloc2::VReg;
use smallvec::smallvec;
use tilewright_ir::kernel::{Scalar, Type, Value};

use super::func::Opd;
use super::isa::{self, Kind};
use super::lower::{Lower, Pieces, Val, lane_bits, shape};
use super::scalar::gpr_kind;

/// Converts to nearest even, whatever the rounding mode is.
const TO_NEAREST: u8 = 0;

impl Lower<'_> {
    /// Integer lanes of `from` bits as lanes of `to` bits.
    pub(super) fn resize(&mut self, pieces: &[VReg], lanes: u16, from: u32, to: u32, signed: bool) -> Pieces {
        if from == to {
            return pieces.into();
        }
        let any = |s| Type { scalar: s, lanes };
        let (width_in, _) = shape(any(Scalar::I8), from, self.caps.width);
        let (width_out, n) = shape(any(Scalar::I8), to, self.caps.width);
        if to > from {
            let row = isa::WIDEN.iter().find(|r| (r.0, r.1) == (from, to)).expect("all pairs are in the table");
            let m = if signed { row.2 } else { row.3 };
            // Bits that one register of the result is made from.
            let grain = (u32::from(lanes) * to).min(width_out) / to * from;
            let one = |l: &mut Self, i: usize| {
                let at = i as u32 * grain;
                let part = l.part(pieces[(at / width_in) as usize], width_in, at % width_in, grain);
                l.v(m, width_out, &[Opd::Use(part, Kind::vector(grain.max(128)))])
            };
            return (0..n).map(|i| one(self, i)).collect();
        }
        if !self.caps.evex {
            return self.narrow_avx2(pieces, lanes, from, to);
        }
        let row = isa::NARROW.iter().find(|r| (r.0, r.1) == (from, to)).expect("all pairs are in the table");
        let grain = width_in / from * to;
        let parts: Pieces = pieces
            .iter()
            .map(|&p| {
                let d = self.vec();
                let k = Kind::vector(grain.max(128));
                self.vector_inst(row.2, &[Opd::Def(d, k), Opd::Use(p, Kind::vector(width_in))]);
                d
            })
            .collect();
        self.join(&parts, grain, width_out, n)
    }

    /// Parts of `grain` bits one after the other in registers of `width` bits.
    fn join(&mut self, parts: &[VReg], grain: u32, width: u32, n: usize) -> Pieces {
        if parts.len() == n {
            return parts.into();
        }
        let mut parts: Pieces = parts.into();
        let mut grain = grain;
        // Below 128 bits, pairs are interleaved.
        while grain < 128 && parts.len() > 1 {
            let m = match grain {
                16 => M::Vpunpcklwd,
                32 => M::Vpunpckldq,
                _ => M::Vpunpcklqdq,
            };
            let pair = |l: &mut Self, p: &[VReg]| {
                let (x, y) = (p[0], *p.last().unwrap_or(&p[0]));
                l.v(m, 128, &[Opd::Use(x, Kind::Xmm), Opd::Use(y, Kind::Xmm)])
            };
            let pairs: Vec<Pieces> = parts.chunks(2).map(Into::into).collect();
            parts = pairs.iter().map(|p| pair(self, p)).collect();
            grain *= 2;
        }
        let per = (width / grain) as usize;
        let groups: Vec<Pieces> = parts.chunks(per).map(Into::into).collect();
        let mut out = Pieces::new();
        for group in groups {
            let mut whole = group[0];
            for (i, &p) in group.iter().enumerate().skip(1) {
                whole = self.put_part(whole, width, p, grain, i as u32 * grain);
            }
            out.push(whole);
        }
        out
    }

    /// AVX2: the low bytes of lanes are shuffled together, 128 bits at a time.
    fn narrow_avx2(&mut self, pieces: &[VReg], lanes: u16, from: u32, to: u32) -> Pieces {
        let ty = Type { scalar: Scalar::I8, lanes };
        let (width_in, _) = shape(ty, from, self.caps.width);
        let (width_out, n) = shape(ty, to, self.caps.width);
        let (f, t) = (from as usize / 8, to as usize / 8);
        let mut order = [0x80u8; 16];
        for lane in 0..16 / f {
            for byte in 0..t {
                order[lane * t + byte] = (lane * f + byte) as u8;
            }
        }
        let table = self.bytes_constant(&order);
        let mut parts = Pieces::new();
        for &p in pieces {
            for at in (0..width_in).step_by(128) {
                let x = self.part(p, width_in, at, 128);
                parts.push(self.v(M::Vpshufb, 128, &[Opd::Use(x, Kind::Xmm), Opd::Use(table, Kind::Xmm)]));
            }
        }
        // A narrow vector is part of one register; what is beyond its lanes is of no interest.
        let grain = 128 / from * to;
        let wanted = (u32::from(lanes) * to).max(grain) / grain;
        parts.truncate(wanted as usize);
        self.join(&parts, grain, width_out, n)
    }

    pub(super) fn extend(&mut self, signed: bool, a: Value, to: Type) -> Val {
        let from = self.ty(a);
        if from.lanes == 1 {
            return self.scalar_extend(signed, a, to.scalar);
        }
        let bits = lane_bits(to.scalar);
        if from.scalar == Scalar::I1 {
            let (mask, (width, _)) = (self.mask(a, bits), shape(to, bits, self.caps.width));
            let one = self.pattern(bits, 1, width);
            let m = self.caps.pick(M::Vpand, M::Vpandd);
            let k = Kind::vector(width);
            return Val::Regs(mask.iter().map(|&p| self.v(m, width, &[Opd::Use(p, k), Opd::Use(one, k)])).collect());
        }
        let p = self.regs(a);
        Val::Regs(self.resize(&p, from.lanes, lane_bits(from.scalar), bits, signed))
    }

    pub(super) fn truncate(&mut self, a: Value, to: Type) -> Val {
        let from = self.ty(a);
        let p = self.regs(a);
        if from.lanes == 1 {
            return Val::Regs(p);
        }
        Val::Regs(self.resize(&p, from.lanes, lane_bits(from.scalar), lane_bits(to.scalar), false))
    }

    /// `d = m(part of a)` for each register of `to`: conversions that widen lanes.
    fn widen_with(&mut self, m: M, a: Value, to: Type) -> Pieces {
        let from = self.ty(a);
        let (from_bits, to_bits) = (lane_bits(from.scalar), lane_bits(to.scalar));
        let (width_in, _) = shape(from, from_bits, self.caps.width);
        let (width_out, n) = shape(to, to_bits, self.caps.width);
        let grain = (u32::from(to.lanes) * to_bits).min(width_out) / to_bits * from_bits;
        let waiting = match *self.val(a) {
            Val::Waiting(w) if !w.splat && grain >= 64 && u32::from(to.lanes) * to_bits >= width_out => {
                self.take_waiting(a)
            }
            _ => None,
        };
        if let Some(w) = waiting {
            return (0..n as i64)
                .map(|i| self.v(m, width_out, &[Opd::Mem(w.mem.plus(i * i64::from(grain / 8)))]))
                .collect();
        }
        let p = self.regs(a);
        let one = |l: &mut Self, i: usize| {
            let at = i as u32 * grain;
            let part = l.part(p[(at / width_in) as usize], width_in, at % width_in, grain);
            l.v(m, width_out, &[Opd::Use(part, Kind::vector(grain.max(128)))])
        };
        (0..n).map(|i| one(self, i)).collect()
    }

    /// `d = m(a, ...)` for each register of `a`, the results put together: conversions that narrow lanes.
    fn narrow_with(&mut self, m: M, a: Value, to: Type, control: Option<u8>) -> Pieces {
        let (from_bits, to_bits) = (lane_bits(self.ty(a).scalar), lane_bits(to.scalar));
        let (width_in, _) = self.shape_of(a);
        let (width_out, n) = shape(to, to_bits, self.caps.width);
        let grain = width_in / from_bits * to_bits;
        let p = self.regs(a);
        let mut parts = Pieces::new();
        for x in p {
            let d = self.vec();
            let mut opds = vec![Opd::Def(d, Kind::vector(grain.max(128))), Opd::Use(x, Kind::vector(width_in))];
            opds.extend(control.map(Opd::Control));
            self.vector_inst(m, &opds);
            parts.push(d);
        }
        self.join(&parts, grain, width_out, n)
    }

    pub(super) fn int_to_float(&mut self, a: Value, to: Type) -> Val {
        let from = self.ty(a);
        if from.lanes == 1 {
            let m = if to.scalar == Scalar::F32 { M::Vcvtsi2ss } else { M::Vcvtsi2sd };
            let r = self.reg(a);
            // Upper lanes come from a register without a past, so that nothing waits for it.
            let zero = self.zero(128);
            return Val::Regs(smallvec![self.v(
                m,
                128,
                &[Opd::Use(zero, Kind::Xmm), Opd::Use(r, gpr_kind(from.scalar))]
            )]);
        }
        match (from.scalar, to.scalar) {
            (Scalar::I32, Scalar::F32) => {
                let (width, p) = (self.shape_of(a).0, self.regs(a));
                let k = Kind::vector(width);
                Val::Regs(p.into_iter().map(|x| self.v(M::Vcvtdq2ps, width, &[Opd::Use(x, k)])).collect())
            }
            (Scalar::I32, _) => Val::Regs(self.widen_with(M::Vcvtdq2pd, a, to)),
            _ => {
                self.refuse("", "is for scalars only");
                Val::None
            }
        }
    }

    /// Towards zero; the instruction's answer is put right for what is too large (all ones below the sign) and for what
    /// is not a number (0).
    pub(super) fn float_to_int(&mut self, a: Value) -> Val {
        let scalar = self.ty(a).lanes == 1;
        if self.ty(a).scalar != Scalar::F32 {
            self.refuse("", "is for f32 only");
            return Val::None;
        }
        let (width, p) = (self.shape_of(a).0, self.regs(a));
        let k = Kind::vector(width);
        let limit = self.pattern(32, u64::from((2f32).powi(31).to_bits()), width);
        let mut out = Pieces::new();
        for x in p {
            let xo = Opd::Use(x, k);
            let r = if self.caps.evex {
                self.vector_inst(M::Vcmpps, &[Opd::Fixed(Register::K1), xo, xo, Opd::Control(7)]);
                let d = self.vec();
                let at = self.vector_inst(M::Vcvttps2dq, &[Opd::Def(d, k), xo]);
                self.masked(at, Register::K1, true);
                self.vector_inst(M::Vcmpps, &[Opd::Fixed(Register::K2), xo, Opd::Use(limit, k), Opd::Control(0x1d)]);
                // ~d where it is too large: the instruction gave the least integer.
                let new = self.vec();
                let flip = [Opd::Mod { old: d, new, kind: k }, Opd::Use(x, k), Opd::Use(x, k), Opd::Control(0x0f)];
                let at = self.vector_inst(M::Vpternlogd, &flip);
                self.masked(at, Register::K2, false);
                new
            } else {
                let number = self.v(M::Vcmpps, width, &[xo, xo, Opd::Control(7)]);
                let d = self.v(M::Vcvttps2dq, width, &[xo]);
                let large = self.v(M::Vcmpps, width, &[xo, Opd::Use(limit, k), Opd::Control(0x1d)]);
                let d = self.v(M::Vpxor, width, &[Opd::Use(d, k), Opd::Use(large, k)]);
                self.v(M::Vpand, width, &[Opd::Use(d, k), Opd::Use(number, k)])
            };
            out.push(r);
        }
        Val::Regs(if scalar { smallvec![self.gpr_of(out[0], Scalar::I32)] } else { out })
    }

    /// Scalars of 16 bits are in general registers, of 32 and 64 in vector registers.
    pub(super) fn float_extend(&mut self, a: Value, to: Type) -> Val {
        let from = self.ty(a);
        let one = from.lanes == 1;
        match from.scalar {
            Scalar::F16 if one => {
                let r = self.reg(a);
                let x = self.v(M::Vmovd, 128, &[Opd::Use(r, Kind::R32)]);
                Val::Regs(smallvec![self.v(M::Vcvtph2ps, 128, &[Opd::Use(x, Kind::Xmm)])])
            }
            Scalar::F16 => Val::Regs(self.widen_with(M::Vcvtph2ps, a, to)),
            Scalar::BF16 if one => {
                let (r, d) = (self.reg(a), self.gpr());
                self.scalar_inst(M::Shl, &[Opd::Mod { old: r, new: d, kind: Kind::R32 }, Opd::Control(16)]);
                Val::Regs(smallvec![self.v(M::Vmovd, 128, &[Opd::Use(d, Kind::R32)])])
            }
            Scalar::BF16 => {
                let width = shape(to, 32, self.caps.width).0;
                let p = self.widen_with(M::Vpmovzxwd, a, to);
                Val::Regs(p.into_iter().map(|x| self.shift_by(M::Vpslld, width, x, 16)).collect())
            }
            _ if one => {
                let x = Opd::Use(self.reg(a), Kind::Xmm);
                Val::Regs(smallvec![self.v(M::Vcvtss2sd, 128, &[x, x])])
            }
            _ => Val::Regs(self.widen_with(M::Vcvtps2pd, a, to)),
        }
    }

    pub(super) fn float_round(&mut self, a: Value, to: Type) -> Val {
        let one = to.lanes == 1;
        match to.scalar {
            Scalar::F16 if one => {
                let x = self.reg(a);
                let d = self.v(M::Vcvtps2ph, 128, &[Opd::Use(x, Kind::Xmm), Opd::Control(TO_NEAREST)]);
                Val::Regs(smallvec![self.gpr_of(d, Scalar::I32)])
            }
            Scalar::F16 => Val::Regs(self.narrow_with(M::Vcvtps2ph, a, to, Some(TO_NEAREST))),
            Scalar::BF16 => self.round_bf16(a, to),
            _ if one => {
                let x = Opd::Use(self.reg(a), Kind::Xmm);
                Val::Regs(smallvec![self.v(M::Vcvtsd2ss, 128, &[x, x])])
            }
            _ => Val::Regs(self.narrow_with(M::Vcvtpd2ps, a, to, None)),
        }
    }

    /// Adds half of the last place (a little less if it is even), and cuts off. The machine's own instruction takes
    /// denormals for zeros.
    fn round_bf16(&mut self, a: Value, to: Type) -> Val {
        let (width, p) = (self.shape_of(a).0, self.regs(a));
        let k = Kind::vector(width);
        let [one, half, quiet] = [1, 0x7fff, 0x0040_0000].map(|c| self.pattern(32, c, width));
        let (and, or) = (self.caps.pick(M::Vpand, M::Vpandd), self.caps.pick(M::Vpor, M::Vpord));
        let mut out = Pieces::new();
        for x in p {
            let xo = Opd::Use(x, k);
            let last = self.shift_by(M::Vpsrld, width, x, 16);
            let last = self.v(and, width, &[Opd::Use(last, k), Opd::Use(one, k)]);
            let up = self.v(M::Vpaddd, width, &[Opd::Use(last, k), Opd::Use(half, k)]);
            let up = self.v(M::Vpaddd, width, &[Opd::Use(up, k), xo]);
            let nan = self.v(or, width, &[xo, Opd::Use(quiet, k)]);
            let is_nan = self.unordered(xo, width);
            let r = self.blend(is_nan, nan, up, width);
            out.push(self.shift_by(M::Vpsrld, width, r, 16));
        }
        if to.lanes == 1 {
            return Val::Regs(smallvec![self.gpr_of(out[0], Scalar::I32)]);
        }
        Val::Regs(self.resize(&out, to.lanes, 32, 16, false))
    }

    /// Ones where a float is not a number.
    fn unordered(&mut self, x: Opd, width: u32) -> VReg {
        if !self.caps.evex {
            return self.v(M::Vcmpps, width, &[x, x, Opd::Control(3)]);
        }
        self.vector_inst(M::Vcmpps, &[Opd::Fixed(Register::K1), x, x, Opd::Control(3)]);
        self.v(M::Vpmovm2d, width, &[Opd::Fixed(Register::K1)])
    }
}
