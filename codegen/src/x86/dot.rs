//! Products of bytes, summed by fours: one instruction with VNNI, else by way of 16-bit lanes.
//!
//! Without VNNI two products at a time are added to 16 bits (`vpmaddubsw`, which saturates) and then to 32. Where the
//! unsigned bytes are known to be small, sums of several products fit 16 bits, so the second step waits: a chain of
//! products into one accumulator takes it once ([`Val::Pairs`]). How small they are is seen from the masks that made
//! them ([`Lower::possible_bits`]). Bytes that may be large are split into 16-bit lanes, where nothing saturates; each
//! register is split once in a block.

use iced_x86::Mnemonic as M;
use regalloc2::VReg;
use smallvec::smallvec;
use tilewright_ir::kernel::{Imm, Inst, Opcode, Scalar, Value};

use super::func::Opd;
use super::isa::Kind;
use super::lower::{Lower, Pieces, Val, const_bits, lane_bits};

/// The largest magnitude of a sum of two products by an unsigned byte up to 1.
const PAIR: u32 = 2 * 128;

/// Sums of products that are still in 16-bit lanes.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    /// What they are added to; nothing if that is zero.
    acc: Option<Pieces>,
    sums: Pieces,
    /// No sum is larger, in magnitude.
    bound: u32,
}

impl Lower<'_> {
    /// `r = acc + products`; `small`: the unsigned bytes are below 128.
    pub(super) fn dot4(&mut self, r: Value, small: bool, acc: Value, u: Value, s: Value) -> Val {
        let (width, n) = self.shape_of(acc);
        if self.ty(acc).lanes == 1 {
            // Four bytes fill a quarter of a vector; the other sums are of no interest.
            let acc = self.reg(acc);
            let (u, s) = (self.reg(u), self.reg(s));
            let a = self.v(M::Vmovd, 128, &[Opd::Use(acc, Kind::R32)]);
            let d = if self.caps.vnni {
                self.v_mod(M::Vpdpbusd, 128, a, &[Opd::Use(u, Kind::Xmm), Opd::Use(s, Kind::Xmm)])
            } else {
                self.dot_wide(Some(a), u, s, 128)
            };
            return Val::Regs(smallvec![self.gpr_of(d, Scalar::I32)]);
        }
        let k = Kind::vector(width);
        if self.caps.vnni {
            let (a, u) = (self.regs(acc), self.regs(u));
            let piece = |l: &mut Self, i: usize| {
                let s = l.operand(s, i, 32);
                l.v_mod(M::Vpdpbusd, width, a[i], &[Opd::Use(u[i], k), s])
            };
            return Val::Regs((0..n).map(|i| piece(self, i)).collect());
        }
        let most = u32::from(self.possible_bits(u));
        let most = if small { most.min(127) } else { most };
        if most < 128 {
            return self.dot_pairs(r, most * PAIR, acc, u, s);
        }
        let a = if self.constant(acc) == Some(0) { None } else { Some(self.regs(acc)) };
        let (u, s) = (self.regs(u), self.regs(s));
        Val::Regs((0..n).map(|i| self.dot_wide(a.as_ref().map(|a| a[i]), u[i], s[i], width)).collect())
    }

    /// Products that fit 16 bits in pairs.
    fn dot_pairs(&mut self, r: Value, bound: u32, acc: Value, u: Value, s: Value) -> Val {
        let (width, n) = self.shape_of(acc);
        let k = Kind::vector(width);
        let u = self.regs(u);
        let product = |l: &mut Self, i: usize| {
            let s = l.operand(s, i, 32);
            l.v(M::Vpmaddubsw, width, &[Opd::Use(u[i], k), s])
        };
        let products: Pieces = (0..n).map(|i| product(self, i)).collect();
        let pairs = match self.val(acc).clone() {
            Val::Pairs(p) if p.bound + bound <= i16::MAX as u32 => {
                let sums = p.sums.iter().zip(&products);
                let sums = sums.map(|(&x, &y)| self.v(M::Vpaddw, width, &[Opd::Use(x, k), Opd::Use(y, k)])).collect();
                Pairs { sums, bound: p.bound + bound, ..p }
            }
            Val::Const(0) => Pairs { acc: None, sums: products, bound },
            _ => Pairs { acc: Some(self.regs(acc)), sums: products, bound },
        };
        // Only the next product of the chain may find it unfinished.
        if self.used_once(r) && !self.leaves(r) {
            Val::Pairs(pairs)
        } else {
            Val::Regs(self.finish_pairs(&pairs, width))
        }
    }

    /// The sums in 32-bit lanes.
    pub(super) fn finish_pairs(&mut self, p: &Pairs, width: u32) -> Pieces {
        let k = Kind::vector(width);
        let one = self.pattern_operand(16, 1, width);
        let mut out = Pieces::new();
        for (i, &x) in p.sums.iter().enumerate() {
            let d = self.v(M::Vpmaddwd, width, &[Opd::Use(x, k), one]);
            out.push(match &p.acc {
                Some(acc) => self.v(M::Vpaddd, width, &[Opd::Use(acc[i], k), Opd::Use(d, k)]),
                None => d,
            });
        }
        out
    }

    /// Any bytes: even and odd ones as 16-bit lanes, whose products are added to 32 bits.
    fn dot_wide(&mut self, acc: Option<VReg>, u: VReg, s: VReg, width: u32) -> VReg {
        let k = Kind::vector(width);
        let (u, s) = (self.split(u, false, width), self.split(s, true, width));
        let mut sum = acc;
        for (u, s) in u.into_iter().zip(s) {
            let p = self.v(M::Vpmaddwd, width, &[Opd::Use(u, k), Opd::Use(s, k)]);
            sum = Some(match sum {
                Some(sum) => self.v(M::Vpaddd, width, &[Opd::Use(sum, k), Opd::Use(p, k)]),
                None => p,
            });
        }
        sum.unwrap_or(u[0])
    }

    /// Even and odd bytes in 16-bit lanes.
    fn split(&mut self, x: VReg, signed: bool, width: u32) -> [VReg; 2] {
        if let Some(&halves) = self.splits.get(&(x, signed)) {
            return halves;
        }
        let halves = if signed {
            let even = self.shift_by(M::Vpsllw, width, x, 8);
            [self.shift_by(M::Vpsraw, width, even, 8), self.shift_by(M::Vpsraw, width, x, 8)]
        } else {
            let (k, low) = (Kind::vector(width), self.pattern(16, 0xff, width));
            let m = self.bitwise_mnemonic(Opcode::And);
            [self.v(m, width, &[Opd::Use(x, k), Opd::Use(low, k)]), self.shift_by(M::Vpsrlw, width, x, 8)]
        };
        self.splits.insert((x, signed), halves);
        halves
    }

    /// Bits that may be set in some byte of the value.
    pub(super) fn possible_bits(&self, v: Value) -> u8 {
        self.bits[v.0 as usize]
    }

    /// Notes the possible bits of an instruction's result.
    pub(super) fn note_bits(&mut self, inst: &Inst) {
        use Opcode::*;
        let Some(&r) = inst.results.first() else { return };
        let of = |i: usize| self.possible_bits(inst.args[i]);
        let bits = match (inst.op, inst.imm) {
            (Const, imm @ Imm::Int(_)) => {
                let s = self.ty(r).scalar;
                const_bits(s, imm).to_le_bytes()[..lane_bits(s) as usize / 8].iter().fold(0, |a, b| a | b)
            }
            (And, _) => of(0) & of(1),
            (Or | Xor, _) => of(0) | of(1),
            (Select, _) => of(1) | of(2),
            (Bitcast | Splat | Low | High, _) => of(0),
            _ => 0xff,
        };
        self.bits[r.0 as usize] = bits;
    }
}
