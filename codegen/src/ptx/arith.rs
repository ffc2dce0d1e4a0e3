//! Arithmetic, comparison, selection and sums over lanes.

use smallvec::smallvec;
use tilewright_ir::kernel::{Imm, Inst, Opcode, Pred, Scalar, Type};

use super::func::{Class, Opnd};
use super::int::Int;
use super::isa;
use super::lower::Lower;
use super::packed::Extend;
use super::value::{Val, Words, class, count, packed};

/// Float instructions that are an op; the type follows.
const FLOAT: [(Opcode, &str); 10] = [
    (Opcode::Add, "add.rn"),
    (Opcode::Sub, "sub.rn"),
    (Opcode::Mul, "mul.rn"),
    (Opcode::Div, "div.rn"),
    (Opcode::Fma, "fma.rn"),
    (Opcode::Neg, "neg"),
    (Opcode::Abs, "abs"),
    (Opcode::Sqrt, "sqrt.rn"),
    (Opcode::Floor, "cvt.rmi"),
    (Opcode::Nearest, "cvt.rni"),
];

/// Integer instructions that are an op; the number of bits follows.
const INT: [(Opcode, &str); 14] = [
    (Opcode::Add, "add.s"),
    (Opcode::Sub, "sub.s"),
    (Opcode::Mul, "mul.lo.s"),
    (Opcode::Neg, "neg.s"),
    (Opcode::Smin, "min.s"),
    (Opcode::Smax, "max.s"),
    (Opcode::And, "and.b"),
    (Opcode::Or, "or.b"),
    (Opcode::Xor, "xor.b"),
    (Opcode::Shl, "shl.b"),
    (Opcode::ShrU, "shr.u"),
    (Opcode::ShrS, "shr.s"),
    (Opcode::DivS, "div.s"),
    (Opcode::RemS, "rem.s"),
];

fn find(table: &[(Opcode, &'static str)], op: Opcode) -> &'static str {
    table.iter().find(|row| row.0 == op).expect("verified: an op of this class").1
}

/// The integer instruction for `op` on so many bits.
pub(super) fn int_name(op: Opcode, bits: u32) -> String {
    format!("{}{bits}", find(&INT, op))
}

/// The comparison as PTX calls it; whether without a sign is for the type to say.
pub(super) fn predicate(p: Pred) -> &'static str {
    match p {
        Pred::Eq => "eq",
        Pred::Ne => "ne",
        Pred::Slt | Pred::Ult => "lt",
        Pred::Sle => "le",
        Pred::Sgt => "gt",
        Pred::Sge | Pred::Uge => "ge",
    }
}

fn float_type(s: Scalar) -> &'static str {
    if s == Scalar::F64 { "f64" } else { "f32" }
}

impl Lower<'_> {
    pub(super) fn arithmetic(&mut self, inst: &Inst) {
        use Opcode::*;
        let (ty, op, r) = (self.ty(inst.args[0]), inst.op, inst.results[0]);
        if ty == Type::I64 {
            let a = self.int(inst.args[0]);
            let result = match op {
                Neg => self.f.int(Sub, Int::constant(0), a),
                Shl | ShrU | ShrS => {
                    let by = self.scalar(inst.args[1]);
                    self.f.shift(op, a, by)
                }
                _ => {
                    let b = self.int(inst.args[1]);
                    self.f.int(op, a, b)
                }
            };
            return self.set_val(r, Val::Int(result));
        }
        let args: Vec<Words> = inst.args.iter().map(|&a| self.words(a)).collect();
        let words = match ty.scalar {
            Scalar::F16 | Scalar::BF16 => self.half(op, ty.scalar, &args),
            Scalar::I8 | Scalar::I16 => self.packed(op, ty, &args),
            s => {
                let shift = matches!(op, Shl | ShrU | ShrS);
                let one = |l: &mut Self, i: usize| {
                    // All lanes are shifted by the same count.
                    let of = |(k, w): (usize, &Words)| w[if shift && k == 1 { 0 } else { i }];
                    let lane: Vec<Opnd> = args.iter().enumerate().map(of).collect();
                    l.lane_op(op, s, &lane)
                };
                (0..count(ty)).map(|i| one(self, i)).collect()
            }
        };
        self.set(r, words);
    }

    /// One lane of an element that has a register of its own.
    pub(super) fn lane_op(&mut self, op: Opcode, s: Scalar, a: &[Opnd]) -> Opnd {
        use Opcode::*;
        match s {
            Scalar::I1 => self.truth(op, a[0], a[1]),
            Scalar::F32 | Scalar::F64 => {
                let ty = float_type(s);
                match op {
                    Fmin | Fmax => {
                        let name = if op == Fmin { "lt" } else { "gt" };
                        let p = self.f.op(&format!("setp.{name}.{ty}"), Class::Pred, a);
                        self.f.op(&format!("selp.{}", class(s).bits()), class(s), &[a[0], a[1], p])
                    }
                    Floor | Nearest => {
                        let x = self.f.reg(a[0], class(s));
                        self.f.op(&format!("{}.{ty}.{ty}", find(&FLOAT, op)), class(s), &[x.into()])
                    }
                    _ => self.f.op(&format!("{}.{ty}", find(&FLOAT, op)), class(s), a),
                }
            }
            _ => self.f.op(&int_name(op, 8 * s.bytes()), class(s), a),
        }
    }

    /// `and`, `or` and `xor` of truth values.
    pub(super) fn truth(&mut self, op: Opcode, a: Opnd, b: Opnd) -> Opnd {
        let (x, v) = match (a, b) {
            (x, Opnd::Imm(v)) | (Opnd::Imm(v), x) => (x, v & 1),
            _ => return self.f.op(&find(&INT, op).replace(".b", ".pred"), Class::Pred, &[a, b]),
        };
        match (op, v, x) {
            (Opcode::And, 0, _) => Opnd::Imm(0),
            (Opcode::Or, 1, _) => Opnd::Imm(1),
            (Opcode::Xor, 1, Opnd::Imm(w)) => Opnd::Imm(w & 1 ^ 1),
            (Opcode::Xor, 1, x) => self.f.op("not.pred", Class::Pred, &[x]),
            _ => x,
        }
    }

    /// 16-bit floats, two at a time. A single one lets the other half be whatever comes out.
    fn half(&mut self, op: Opcode, s: Scalar, args: &[Words]) -> Words {
        let bf16 = s == Scalar::BF16;
        let pair = |v: u64| Opnd::Imm(v << 16 | v);
        let plain = !bf16 || op == Opcode::Fma || self.caps.take(isa::ADD_BF16);
        if bf16 {
            self.caps.take(isa::FMA_BF16);
        }
        let one = |l: &mut Self, i: usize| {
            let a: Vec<Opnd> = args.iter().map(|w| w[i]).collect();
            let (name, a) = match op {
                _ if plain => (find(&FLOAT, op), a),
                // The constants leave results as they are, signs of zeros included.
                Opcode::Add => ("fma.rn", vec![a[0], pair(0x3f80), a[1]]),
                Opcode::Sub => ("fma.rn", vec![a[1], pair(0xbf80), a[0]]),
                _ => ("fma.rn", vec![a[0], a[1], pair(0x8000)]),
            };
            let a: Vec<Opnd> = a.into_iter().map(|w| l.f.reg(w, Class::Word).into()).collect();
            l.f.word(&format!("{name}.{}", if bf16 { "bf16x2" } else { "f16x2" }), &a)
        };
        (0..args[0].len()).map(|i| one(self, i)).collect()
    }

    pub(super) fn cmp(&mut self, inst: &Inst) {
        let Imm::Pred(p) = inst.imm else { unreachable!("verified") };
        let (ty, r) = (self.ty(inst.args[0]), inst.results[0]);
        if ty == Type::I64 {
            let (a, b) = (self.int(inst.args[0]), self.int(inst.args[1]));
            let holds = self.f.compare(p, &a, &b);
            return self.set_scalar(r, holds);
        }
        let unsigned = matches!(p, Pred::Ult | Pred::Uge);
        let (a, b) = (self.words(inst.args[0]), self.words(inst.args[1]));
        let name = match ty.scalar {
            Scalar::F32 | Scalar::F64 if p == Pred::Ne => format!("setp.neu.{}", float_type(ty.scalar)),
            s @ (Scalar::F32 | Scalar::F64) => format!("setp.{}.{}", predicate(p), float_type(s)),
            s => {
                let bits = (8 * s.bytes()).max(32);
                format!("setp.{}.{}{bits}", predicate(p), if unsigned { "u" } else { "s" })
            }
        };
        let one = |l: &mut Self, i: usize| {
            let [x, y] = match packed(ty.scalar) {
                Some(bits) => {
                    let how = if unsigned { Extend::Zeros } else { Extend::Sign };
                    [&a, &b].map(|w| l.lane(w, bits, i, how))
                }
                None => [a[i], b[i]],
            };
            l.f.op(&name, Class::Pred, &[x, y])
        };
        let words = (0..usize::from(ty.lanes)).map(|i| one(self, i)).collect();
        self.set(r, words);
    }

    pub(super) fn select(&mut self, inst: &Inst) {
        let r = inst.results[0];
        let c = self.words(inst.args[0]);
        if let (1, Opnd::Imm(v)) = (c.len(), c[0]) {
            let v = self.val(inst.args[if v == 0 { 2 } else { 1 }]);
            return self.set_val(r, v);
        }
        let ty = self.ty(r);
        if ty == Type::I64 {
            let (a, b) = (self.int(inst.args[1]), self.int(inst.args[2]));
            if a.fits() && b.fits() {
                let (x, y) = (self.f.low(&a), self.f.low(&b));
                let w = self.f.word("selp.b32", &[x, y, c[0]]);
                let w = self.f.reg(w, Class::Word);
                return self.set_val(r, Val::Int(Int::narrow(w, a.lo.min(b.lo), a.hi.max(b.hi))));
            }
        }
        let (a, b) = (self.words(inst.args[1]), self.words(inst.args[2]));
        let lane = |i: usize| if c.len() == 1 { c[0] } else { c[i] };
        let one = |l: &mut Self, i: usize| match packed(ty.scalar) {
            Some(bits) if c.len() > 1 => {
                let per = 32 / bits as usize;
                let here = &c[i * per..c.len().min((i + 1) * per)];
                l.blend(bits, here, a[i], b[i])
            }
            _ => l.choose(ty.scalar, lane(i), a[i], b[i]),
        };
        let words = (0..count(ty)).map(|i| one(self, i)).collect();
        self.set(r, words);
    }

    /// `c ? a : b` of registers.
    fn choose(&mut self, s: Scalar, c: Opnd, a: Opnd, b: Opnd) -> Opnd {
        match (c, class(s)) {
            (Opnd::Imm(v), _) => {
                if v == 0 {
                    b
                } else {
                    a
                }
            }
            (c, Class::Pred) => {
                let not = self.truth(Opcode::Xor, c, Opnd::Imm(1));
                let (x, y) = (self.truth(Opcode::And, c, a), self.truth(Opcode::And, not, b));
                self.truth(Opcode::Or, x, y)
            }
            (c, class) => self.f.op(&format!("selp.{}", class.bits()), class, &[a, b, c]),
        }
    }

    pub(super) fn reduce(&mut self, inst: &Inst) {
        let ty = self.ty(inst.args[0]);
        if ty.lanes == 1 {
            let v = self.val(inst.args[0]);
            return self.set_val(inst.results[0], v);
        }
        let words = self.words(inst.args[0]);
        let op = if inst.op == Opcode::Sum { Opcode::Add } else { Opcode::Fmax };
        let (mut lanes, s): (Words, Scalar) = match packed(ty.scalar) {
            // What is carried beyond the lane's bits does no harm.
            Some(bits) => {
                let all = (0..usize::from(ty.lanes)).map(|i| self.lane(&words, bits, i, Extend::Any)).collect();
                (all, Scalar::I32)
            }
            None => (words, ty.scalar),
        };
        while lanes.len() > 1 {
            let half = lanes.len() / 2;
            lanes = (0..half).map(|i| self.lane_op(op, s, &[lanes[i], lanes[i + half]])).collect();
        }
        self.set(inst.results[0], lanes);
    }

    /// Products of unsigned and signed bytes, four to a sum.
    pub(super) fn dot(&mut self, inst: &Inst) {
        let [acc, u, s] = [0, 1, 2].map(|k| self.words(inst.args[k]));
        let mut out: Words = smallvec![];
        for ((&acc, &u), &s) in acc.iter().zip(&u).zip(&s) {
            let [acc, u, s] = [acc, u, s].map(|w| self.f.reg(w, Class::Word).into());
            out.push(self.f.word("dp4a.u32.s32", &[u, s, acc]));
        }
        self.set(inst.results[0], out);
    }
}
