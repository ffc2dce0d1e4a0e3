//! Lanes of 8 and 16 bits, which share registers: arithmetic on them, and moving lanes of any size about.

use smallvec::smallvec;
use tilewright_ir::kernel::{Imm, Inst, Opcode, Type};

use super::arith::int_name;
use super::func::{Class, Opnd};
use super::lower::Lower;
use super::value::{Words, count, packed, replicate};

/// What stands above a lane's bits in a register of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extend {
    /// Anything.
    Any,
    Zeros,
    Sign,
}

impl Lower<'_> {
    /// `prmt`: bytes 0 to 3 are those of `a`, 4 to 7 those of `b`; a digit of `which` above 7 takes copies of the sign.
    pub(super) fn permute(&mut self, a: Opnd, b: Opnd, which: u64) -> Opnd {
        let a = self.f.reg(a, Class::Word);
        let b = if b == Opnd::Imm(0) { "0".into() } else { self.f.reg(b, Class::Word).to_string() };
        let r = self.f.fresh(Class::Word);
        self.f.line(format!("prmt.b32 {r}, {a}, {b}, {which:#06x};"));
        r.into()
    }

    /// Lane `i` in a register of its own.
    pub(super) fn lane(&mut self, words: &[Opnd], bits: u32, i: usize, how: Extend) -> Opnd {
        let per = 32 / bits as usize;
        let (word, at) = (words[i / per], i % per);
        if let Opnd::Imm(v) = word {
            let up = (v << (64 - bits as usize * (at + 1))) as i64;
            let v = if how == Extend::Sign { (up >> (64 - bits)) as u64 } else { up as u64 >> (64 - bits) };
            return Opnd::Imm(v & 0xffff_ffff);
        }
        if how == Extend::Any && at == 0 {
            return word;
        }
        let sign = how == Extend::Sign;
        let which = match bits {
            8 => at as u64 + if sign { (8 | at as u64) * 0x1110 } else { 0x4440 },
            _ => 0x10 + 0x22 * at as u64 + if sign { (9 + 2 * at as u64) * 0x1100 } else { 0x4400 },
        };
        self.permute(word, Opnd::Imm(0), which)
    }

    /// Lanes, each in the low bits of a register, put together.
    pub(super) fn pack(&mut self, bits: u32, lanes: &[Opnd]) -> Words {
        let one = |l: &mut Self, part: &[Opnd]| {
            let constant = |w: &Opnd| if let Opnd::Imm(v) = w { Some(*v) } else { None };
            if let Some(values) = part.iter().map(constant).collect::<Option<Vec<u64>>>() {
                let mask = u64::MAX >> (64 - bits);
                return Opnd::Imm(values.iter().rev().fold(0, |all, v| all << bits | v & mask));
            }
            match (part, bits) {
                (&[a], _) => a,
                (&[a, b], 8) => l.permute(a, b, 0x0040),
                (&[a, b, c, d], _) => {
                    let (low, high) = (l.permute(a, b, 0x0040), l.permute(c, d, 0x0040));
                    l.permute(low, high, 0x5410)
                }
                (part, _) => l.permute(part[0], part[1], 0x5410),
            }
        };
        lanes.chunks(32 / bits as usize).map(|part| one(self, part)).collect()
    }

    /// `a` where the lane's condition holds, `b` elsewhere.
    pub(super) fn blend(&mut self, bits: u32, conditions: &[Opnd], a: Opnd, b: Opnd) -> Opnd {
        let ones = u64::MAX >> (64 - bits);
        let (mut fixed, mut mask) = (0, None);
        for (i, &c) in conditions.iter().enumerate() {
            let lane = ones << (bits as usize * i);
            match c {
                Opnd::Imm(v) => fixed |= lane * (v & 1),
                c => {
                    let m = self.f.word("selp.b32", &[Opnd::Imm(lane), Opnd::Imm(0), c]);
                    mask = Some(match mask {
                        Some(so_far) => self.f.word("or.b32", &[so_far, m]),
                        None => m,
                    });
                }
            }
        }
        let mask = match (mask, fixed) {
            (Some(m), 0) => m,
            (Some(m), fixed) => self.f.word("or.b32", &[m, Opnd::Imm(fixed)]),
            (None, fixed) => Opnd::Imm(fixed),
        };
        self.mix(mask, a, b)
    }

    /// `a & mask | b & !mask`.
    fn mix(&mut self, mask: Opnd, a: Opnd, b: Opnd) -> Opnd {
        let [a, b, mask] = [a, b, mask].map(|w| self.f.reg(w, Class::Word).into());
        self.f.word("lop3.b32", &[a, b, mask, Opnd::Imm(0xe4)])
    }

    /// Integer arithmetic on lanes of 8 and 16 bits.
    pub(super) fn packed(&mut self, op: Opcode, ty: Type, args: &[Words]) -> Words {
        use Opcode::*;
        let bits = 8 * ty.scalar.bytes();
        let low = matches!(op, Add | Sub | Mul | Neg | Shl | And | Or | Xor);
        let each_word = matches!(op, And | Or | Xor) || ty.lanes == 1 && low;
        let shift = matches!(op, Shl | ShrU | ShrS);
        let words = |k: usize, i: usize| args[k][if shift && k == 1 { 0 } else { i }];
        let n = args[0].len();
        if each_word {
            let name = int_name(op, 32);
            let one = |i| (0..args.len()).map(|k| words(k, i)).collect::<Vec<Opnd>>();
            return (0..n).map(|i| self.f.word(&name, &one(i))).collect();
        }
        let mask = |v: u64| Opnd::Imm(replicate(bits, v));
        let ones = u64::MAX >> (64 - bits);
        match (op, args.get(1).map(|w| w[0])) {
            (Add, _) => (0..n).map(|i| self.sum_lanes(bits, words(0, i), words(1, i))).collect(),
            (Sub, _) => (0..n).map(|i| self.subtract_lanes(bits, words(0, i), words(1, i))).collect(),
            (Neg, _) => (0..n).map(|i| self.subtract_lanes(bits, Opnd::Imm(0), words(0, i))).collect(),
            (Shl | ShrU, Some(Opnd::Imm(k))) if ty.lanes > 1 => {
                let kept = if op == Shl { ones << k } else { ones >> k };
                let one = |l: &mut Self, i| {
                    let moved = l.f.word(&int_name(op, 32), &[words(0, i), Opnd::Imm(k)]);
                    l.f.word("and.b32", &[moved, mask(kept)])
                };
                (0..n).map(|i| one(self, i)).collect()
            }
            _ => {
                let how = match op {
                    ShrU => Extend::Zeros,
                    Mul | Shl => Extend::Any,
                    _ => Extend::Sign,
                };
                let one = |l: &mut Self, i: usize| {
                    let of = |l: &mut Self, k: usize| {
                        if shift && k == 1 { args[1][0] } else { l.lane(&args[k], bits, i, how) }
                    };
                    let lane: Vec<Opnd> = (0..args.len()).map(|k| of(l, k)).collect();
                    l.f.word(&int_name(op, 32), &lane)
                };
                let lanes: Vec<Opnd> = (0..usize::from(ty.lanes)).map(|i| one(self, i)).collect();
                self.pack(bits, &lanes)
            }
        }
    }

    /// Sums that do not carry from lane to lane: the highest bits are added apart.
    fn sum_lanes(&mut self, bits: u32, a: Opnd, b: Opnd) -> Opnd {
        let top = replicate(bits, 1 << (bits - 1));
        let rest = Opnd::Imm(!top & 0xffff_ffff);
        let (x, y) = (self.f.word("and.b32", &[a, rest]), self.f.word("and.b32", &[b, rest]));
        let sum = self.f.word("add.s32", &[x, y]);
        let sign = self.f.word("xor.b32", &[a, b]);
        let sign = self.f.word("and.b32", &[sign, Opnd::Imm(top)]);
        self.f.word("xor.b32", &[sum, sign])
    }

    /// Differences, likewise: the highest bit of the first is set, so that it lends.
    fn subtract_lanes(&mut self, bits: u32, a: Opnd, b: Opnd) -> Opnd {
        let top = replicate(bits, 1 << (bits - 1));
        let x = self.f.word("or.b32", &[a, Opnd::Imm(top)]);
        let y = self.f.word("and.b32", &[b, Opnd::Imm(!top & 0xffff_ffff)]);
        let difference = self.f.word("sub.s32", &[x, y]);
        let sign = self.f.word("xor.b32", &[a, b]);
        let sign = self.f.word("not.b32", &[sign]);
        let sign = self.f.word("and.b32", &[sign, Opnd::Imm(top)]);
        self.f.word("xor.b32", &[difference, sign])
    }

    /// Ops that move lanes.
    pub(super) fn lanes(&mut self, inst: &Inst) {
        let (from, to) = (self.ty(inst.args[0]), self.ty(inst.results[0]));
        let words = self.words(inst.args[0]);
        let lane = if let Imm::Int(i) = inst.imm { i as usize } else { 0 };
        let bits = packed(from.scalar);
        let out: Words = match (inst.op, bits) {
            (Opcode::Splat, bits) => {
                let word = match (bits, words[0]) {
                    (Some(bits), Opnd::Imm(v)) => Opnd::Imm(replicate(bits, v)),
                    (Some(8), w) => self.permute(w, Opnd::Imm(0), 0x0000),
                    (Some(_), w) => self.permute(w, Opnd::Imm(0), 0x1010),
                    (None, w) => w,
                };
                smallvec![word; count(to)]
            }
            (Opcode::Extract, Some(bits)) => smallvec![self.lane(&words, bits, lane, Extend::Any)],
            (Opcode::Extract, None) => smallvec![words[lane]],
            (Opcode::Insert, bits) => {
                let new = self.scalar(inst.args[1]);
                let per = bits.map_or(1, |bits| 32 / bits as usize);
                let (word, at) = (lane / per, lane % per);
                let mut out = words;
                out[word] = match bits {
                    Some(8) => self.insert(out[word], new, 0x3210 & !(0xf << (4 * at)) | 4 << (4 * at)),
                    Some(_) => self.insert(out[word], new, if at == 0 { 0x3254 } else { 0x5410 }),
                    None => new,
                };
                out
            }
            (Opcode::Low | Opcode::High, bits) => {
                let size = bits.unwrap_or(32) * u32::from(to.lanes);
                let high = inst.op == Opcode::High;
                match (size < 32 && bits.is_some(), high) {
                    (true, true) => smallvec![self.f.word("shr.u32", &[words[0], Opnd::Imm(size.into())])],
                    (true, false) => words,
                    (false, _) => words[if high { count(to) } else { 0 }..][..count(to)].into(),
                }
            }
            (Opcode::Swap, _) => (0..words.len()).map(|i| words[i ^ lane]).collect(),
            _ => {
                let indices = self.words(inst.args[1]);
                indices.iter().map(|&i| self.look_up(&words, i)).collect()
            }
        };
        self.set(inst.results[0], out);
    }

    fn insert(&mut self, word: Opnd, new: Opnd, which: u64) -> Opnd {
        // A constant zero is a register here, too: its bytes have numbers like any other's.
        let new = self.f.reg(new, Class::Word).into();
        self.permute(word, new, which)
    }

    /// Bytes of a table of 16 by four indices below 16.
    fn look_up(&mut self, table: &[Opnd], indices: Opnd) -> Opnd {
        // The indices as digits, the lowest first; a permutation reads three bits of each.
        let above = self.f.word("shr.u32", &[indices, Opnd::Imm(4)]);
        let pairs = self.f.word("or.b32", &[indices, above]);
        let digits = self.permute(pairs, Opnd::Imm(0), 0x4420);
        let digits = self.f.word("and.b32", &[digits, Opnd::Imm(0x7777)]);
        let half = |l: &mut Self, k: usize| {
            let [a, b] = [table[k], table[k + 1]].map(|w| l.f.reg(w, Class::Word).into());
            l.f.word("prmt.b32", &[a, b, digits])
        };
        let (low, high) = (half(self, 0), half(self, 2));
        // The fourth bit, as all bits of its byte, chooses between the halves.
        let top = self.f.word("shl.b32", &[indices, Opnd::Imm(4)]);
        let mask = self.permute(top, Opnd::Imm(0), 0xba98);
        self.mix(mask, high, low)
    }
}
