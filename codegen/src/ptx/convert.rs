//! Conversions between element types.

use half::{bf16, f16};
use smallvec::smallvec;
use tilewright_ir::kernel::{Inst, Opcode, Scalar, Type};

use super::func::{Class, Opnd};
use super::int::Int;
use super::isa;
use super::lower::Lower;
use super::packed::Extend;
use super::value::{Val, Words, class, packed};

impl Lower<'_> {
    pub(super) fn convert(&mut self, inst: &Inst) {
        let (from, to) = (self.ty(inst.args[0]), self.ty(inst.results[0]));
        if from == Type::I64 && matches!(inst.op, Opcode::Trunc | Opcode::IntToF) {
            return self.narrow_index(inst, to.scalar);
        }
        let words = self.words(inst.args[0]);
        let out = match inst.op {
            Opcode::Sext | Opcode::Zext if to == Type::I64 => return self.widen_index(inst, from.scalar, words[0]),
            Opcode::Sext | Opcode::Zext => self.widen(inst.op == Opcode::Sext, from, to.scalar, &words),
            Opcode::Trunc => self.narrow(from, to.scalar, &words),
            Opcode::Bitcast => self.bitcast(class(from.scalar), class(to.scalar), &words),
            Opcode::Fext if from.scalar.is_half() => self.widen_half(from, &words),
            Opcode::Fround if to.scalar.is_half() => self.round_half(to.scalar, &words),
            op => {
                let name = match (op, to.scalar) {
                    (Opcode::IntToF, Scalar::F32) => "cvt.rn.f32.s32",
                    (Opcode::IntToF, _) => "cvt.rn.f64.s32",
                    (Opcode::FToInt, _) => "cvt.rzi.s32.f32",
                    (Opcode::Fext, _) => "cvt.f64.f32",
                    _ => "cvt.rn.f32.f64",
                };
                let one = |l: &mut Self, w: Opnd| {
                    let w = l.f.reg(w, class(from.scalar));
                    l.f.op(name, class(to.scalar), &[w.into()])
                };
                words.iter().map(|&w| one(self, w)).collect()
            }
        };
        self.set(inst.results[0], out);
    }

    /// A scalar `i64` to fewer bits, or to a float.
    fn narrow_index(&mut self, inst: &Inst, to: Scalar) {
        let i = self.int(inst.args[0]);
        let out = match (inst.op, i.fits()) {
            (Opcode::Trunc, _) => self.f.low(&i),
            (_, small) => {
                let (w, name) = if small { (self.f.low(&i), "s32") } else { (self.f.bits(&i), "s64") };
                let w = self.f.reg(w, if small { Class::Word } else { Class::Double });
                let ty = if to == Scalar::F32 { "f32" } else { "f64" };
                self.f.op(&format!("cvt.rn.{ty}.{name}"), class(to), &[w.into()])
            }
        };
        self.set_scalar(inst.results[0], out);
    }

    /// A scalar to `i64`, with the range that its type gives it.
    fn widen_index(&mut self, inst: &Inst, from: Scalar, w: Opnd) {
        let (sign, bits) = (inst.op == Opcode::Sext, 8 * from.bytes());
        let (lo, hi) = match (from, sign) {
            (Scalar::I1, _) => (0, 1),
            (_, true) => (-1 << (bits - 1), (1 << (bits - 1)) - 1),
            (_, false) => (0, (1i64 << bits) - 1),
        };
        let w = match (from, packed(from)) {
            (Scalar::I1, _) => self.truth_word(w, Class::Word),
            (_, Some(bits)) => self.lane(&[w], bits, 0, if sign { Extend::Sign } else { Extend::Zeros }),
            _ => w,
        };
        let int = match w {
            Opnd::Imm(v) if lo < 0 => Int::constant((v as u32 as i32).into()),
            Opnd::Imm(v) => Int::constant(v as i64),
            Opnd::Reg(r) if hi <= i32::MAX.into() => Int::narrow(r, lo, hi),
            Opnd::Reg(r) => {
                let d = self.f.fresh(Class::Double);
                self.f.op_to("cvt.u64.u32", d, &[r.into()]);
                Int::wide(d, lo, hi)
            }
        };
        self.set_val(inst.results[0], Val::Int(int));
    }

    /// 0 or 1.
    fn truth_word(&mut self, p: Opnd, size: Class) -> Opnd {
        match p {
            Opnd::Imm(v) => Opnd::Imm(v & 1),
            p => self.f.op(&format!("selp.{}", size.bits()), size, &[Opnd::Imm(1), Opnd::Imm(0), p]),
        }
    }

    fn widen(&mut self, sign: bool, from: Type, to: Scalar, words: &Words) -> Words {
        let how = if sign { Extend::Sign } else { Extend::Zeros };
        let n = usize::from(from.lanes);
        let longer = |l: &mut Self, w: Opnd| {
            let w = l.f.reg(w, Class::Word);
            l.f.op(if sign { "cvt.s64.s32" } else { "cvt.u64.u32" }, Class::Double, &[w.into()])
        };
        match (from.scalar, to) {
            (Scalar::I1, Scalar::I64) => words.iter().map(|&p| self.truth_word(p, Class::Double)).collect(),
            (Scalar::I1, _) => {
                let lanes: Words = words.iter().map(|&p| self.truth_word(p, Class::Word)).collect();
                packed(to).map_or(lanes.clone(), |bits| self.pack(bits, &lanes))
            }
            // A register of bytes to two of 16 bits: each byte, and what goes above it.
            (Scalar::I8, Scalar::I16) => {
                let which = if sign { [0x9180, 0xb3a2] } else { [0x4140, 0x4342] };
                let all: Vec<(Opnd, u64)> = words.iter().flat_map(|&w| which.map(|s| (w, s))).collect();
                all.into_iter().take(n.div_ceil(2)).map(|(w, which)| self.permute(w, Opnd::Imm(0), which)).collect()
            }
            (s, to) => {
                let one = |l: &mut Self, i: usize| {
                    let w = match packed(s) {
                        Some(bits) => l.lane(words, bits, i, how),
                        None => words[i],
                    };
                    if to == Scalar::I64 { longer(l, w) } else { w }
                };
                (0..n).map(|i| one(self, i)).collect()
            }
        }
    }

    fn narrow(&mut self, from: Type, to: Scalar, words: &Words) -> Words {
        let bits = 8 * to.bytes();
        match from.scalar {
            Scalar::I16 if from.lanes == 1 => words.clone(),
            // Every other byte of two registers.
            Scalar::I16 => {
                let one = |l: &mut Self, pair: &[Opnd]| {
                    let [a, b] = [pair[0], pair[pair.len() - 1]].map(|w| l.f.reg(w, Class::Word).into());
                    l.permute(a, b, 0x6420)
                };
                words.chunks(2).map(|pair| one(self, pair)).collect()
            }
            s => {
                let low = |l: &mut Self, w: Opnd| match (s, w) {
                    (Scalar::I64, Opnd::Reg(_)) => l.f.word("cvt.u32.u64", &[w]),
                    (_, Opnd::Imm(v)) => Opnd::Imm(v & 0xffff_ffff),
                    (_, w) => w,
                };
                let lanes: Words = words.iter().map(|&w| low(self, w)).collect();
                packed(to).map_or(lanes.clone(), |_| self.pack(bits, &lanes))
            }
        }
    }

    fn bitcast(&mut self, from: Class, to: Class, words: &Words) -> Words {
        match (from, to) {
            (Class::Word, Class::Double) => {
                let one = |l: &mut Self, pair: &[Opnd]| match *pair {
                    [Opnd::Imm(a), Opnd::Imm(b)] => Opnd::Imm(b << 32 | a),
                    _ => {
                        let [a, b] = [pair[0], pair[1]].map(|w| l.f.reg(w, Class::Word));
                        let d = l.f.fresh(Class::Double);
                        l.f.line(format!("mov.b64 {d}, {{{a}, {b}}};"));
                        d.into()
                    }
                };
                words.chunks(2).map(|pair| one(self, pair)).collect()
            }
            (Class::Double, Class::Word) => {
                let one = |l: &mut Self, w: Opnd| match w {
                    Opnd::Imm(v) => [Opnd::Imm(v & 0xffff_ffff), Opnd::Imm(v >> 32)],
                    Opnd::Reg(d) => {
                        let [a, b] = [l.f.fresh(Class::Word), l.f.fresh(Class::Word)];
                        l.f.line(format!("mov.b64 {{{a}, {b}}}, {d};"));
                        [a.into(), b.into()]
                    }
                };
                words.iter().flat_map(|&w| one(self, w)).collect()
            }
            _ => words.clone(),
        }
    }

    /// `f16` or `bf16` to `f32`.
    fn widen_half(&mut self, from: Type, words: &Words) -> Words {
        let mut out: Words = smallvec![];
        for &w in words {
            let pair: [Opnd; 2] = match (from.scalar, w) {
                (Scalar::F16, Opnd::Imm(v)) => {
                    [v, v >> 16].map(|v| Opnd::Imm(f16::from_bits(v as u16).to_f32().to_bits().into()))
                }
                (Scalar::F16, Opnd::Reg(w)) => {
                    let halves = [self.f.fresh(Class::Half), self.f.fresh(Class::Half)];
                    self.f.line(format!("mov.b32 {{{}, {}}}, {w};", halves[0], halves[1]));
                    halves.map(|h| self.f.word("cvt.f32.f16", &[h.into()]))
                }
                (_, Opnd::Imm(v)) => [v << 16 & 0xffff_0000, v & 0xffff_0000].map(Opnd::Imm),
                // A bf16 is the upper half of an f32.
                (_, w) => {
                    [self.f.word("shl.b32", &[w, Opnd::Imm(16)]), self.f.word("and.b32", &[w, Opnd::Imm(0xffff_0000)])]
                }
            };
            out.extend(pair.into_iter().take(usize::from(from.lanes) - out.len()));
        }
        out
    }

    /// `f32` to `f16` or `bf16`.
    fn round_half(&mut self, to: Scalar, words: &Words) -> Words {
        words.chunks(2).map(|pair| self.round_pair(to, pair[0], pair[pair.len() - 1])).collect()
    }

    fn round_pair(&mut self, to: Scalar, a: Opnd, b: Opnd) -> Opnd {
        let f16_wanted = to == Scalar::F16;
        if let (Opnd::Imm(a), Opnd::Imm(b)) = (a, b) {
            let [a, b] = [a, b].map(|v| f32::from_bits(v as u32));
            let bits = |v: f32| if f16_wanted { f16::from_f32(v).to_bits() } else { bf16::from_f32(v).to_bits() };
            return Opnd::Imm(u64::from(bits(b)) << 16 | u64::from(bits(a)));
        }
        let [a, b] = [a, b].map(|w| self.f.reg(w, Class::Word));
        if self.caps.take(isa::PAIR) {
            let name = if f16_wanted { "cvt.rn.f16x2.f32" } else { "cvt.rn.bf16x2.f32" };
            return self.f.word(name, &[b.into(), a.into()]);
        }
        if f16_wanted {
            let halves = [a, b].map(|w| self.f.op("cvt.rn.f16.f32", Class::Half, &[w.into()]));
            let halves = halves.map(|h| self.f.reg(h, Class::Half));
            let w = self.f.fresh(Class::Word);
            self.f.line(format!("mov.b32 {w}, {{{}, {}}};", halves[0], halves[1]));
            return w.into();
        }
        let [a, b] = [a, b].map(|w| self.round_bf16(w.into()));
        self.permute(a, b, 0x7632)
    }

    /// `f32` to `bf16` in the upper half, by integers: half of a unit less one is added, and one if the unit is odd.
    fn round_bf16(&mut self, w: Opnd) -> Opnd {
        let odd = self.f.word("shr.u32", &[w, Opnd::Imm(16)]);
        let odd = self.f.word("and.b32", &[odd, Opnd::Imm(1)]);
        let sum = self.f.word("add.s32", &[w, Opnd::Imm(0x7fff)]);
        let sum = self.f.word("add.s32", &[sum, odd]);
        // A NaN must neither become an infinity nor another number.
        let nan = self.f.word("or.b32", &[w, Opnd::Imm(0x0040_0000)]);
        let is_nan = self.f.op("setp.nan.f32", Class::Pred, &[w, w]);
        self.f.word("selp.b32", &[nan, sum, is_nan])
    }
}
