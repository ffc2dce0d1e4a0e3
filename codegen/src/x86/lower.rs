//! From kernel IR to machine instructions: values, constants, folded loads and control flow. The ops themselves are in
//! [`super::scalar`], [`super::vector`], [`super::convert`], [`super::memory`] and [`super::tile`].
//!
//! A vector becomes pieces of the widest register, or one narrower piece; a vector of truth values has lanes of ones or
//! zeros. Program order is kept, with one exception: a load that is used once waits for its use, so that it can become
//! the memory operand there (a broadcast, if it was splatted). Whatever may write memory forces it first.

mod control;

use iced_x86::{Mnemonic, Register};
use regalloc2::{RegClass, VReg};
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use tilewright_ir::kernel::{Block, Imm, Kernel, Opcode, Scalar, Type, Value};

use super::dot::Pairs;
use super::func::{Action, Base, Func, MInst, Mem, Opd, Pinned};
use super::isa::{self, Caps, Kind};
use super::regs;
use crate::backend::Unsupported;

/// Registers of a value: a scalar, or vectors in order of lanes. Lanes beyond the type's are arbitrary.
pub(super) type Pieces = SmallVec<[VReg; 4]>;

/// A load that waits for its use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) mem: Mem,
    /// Type of what lies in memory.
    pub(super) ty: Type,
    /// Goes to every lane.
    pub(super) splat: bool,
}

/// What is known of an IR value.
#[derive(Clone, Debug, Default)]
pub(super) enum Val {
    #[default]
    None,
    /// In registers.
    Regs(Pieces),
    /// A vector of truth values in lanes of so many bits.
    Mask(Pieces, u32),
    /// Bits of every lane.
    Const(u64),
    /// An address that loads can use as it is.
    Address(Mem),
    /// A load that was not yet made.
    Waiting(Waiting),
    /// Sums of products that were not yet brought to 32 bits.
    Pairs(Pairs),
}

/// Vector constants of loops that are kept in registers.
fn hoisted_constants(caps: &Caps) -> usize {
    if caps.evex { 8 } else { 2 }
}

pub(super) struct Lower<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) caps: Caps,
    pub(super) f: Func,
    pub(super) pool: Pool,
    pub(super) frame: i64,
    pub(super) unsupported: Vec<Unsupported>,
    values: Vec<Val>,
    uses: Vec<u32>,
    /// Used in another block than its own.
    crosses: Vec<bool>,
    /// Used as a look-up table.
    tables: Vec<bool>,
    /// Tables in every 128 bits of a register.
    pub(super) wide_tables: FxHashMap<Value, VReg>,
    waiting: Vec<Value>,
    /// Constants in registers: bits of a lane, lane.
    hoisted: FxHashMap<(u32, u64), VReg>,
    /// Constants of the lowering itself in this block.
    patterns: FxHashMap<(u32, u64), VReg>,
    /// Products by constants in this block.
    pub(super) products: FxHashMap<(VReg, i64), VReg>,
    /// Even and odd bytes of registers in this block, signed or not.
    pub(super) splits: FxHashMap<(VReg, bool), [VReg; 2]>,
    /// Bits that may be set in some byte of a value.
    pub(super) bits: Vec<u8>,
    chunk: Option<VReg>,
    /// The kernel uses tiles.
    pub(super) tiles: bool,
}

/// Constants in memory.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) bytes: Vec<u8>,
    places: FxHashMap<(u64, u32, u32), i64>,
}

impl Pool {
    /// Offset of `bytes` bytes that repeat the low `lane` bits of `v`.
    pub(super) fn place(&mut self, v: u64, lane: u32, bytes: u32) -> i64 {
        let end = &mut self.bytes;
        *self.places.entry((v, lane, bytes)).or_insert_with(|| {
            end.resize(end.len().next_multiple_of(bytes as usize), 0);
            let at = end.len();
            let lane = &v.to_le_bytes()[..lane as usize / 8];
            end.extend(lane.iter().cycle().take(bytes as usize));
            at as i64
        })
    }
}

impl Pool {
    /// Offset of these bytes, a multiple of their number.
    pub(super) fn block(&mut self, bytes: &[u8]) -> i64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(bytes.len()), 0);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        at as i64
    }
}

/// Bits of a vector's pieces, and how many there are.
pub(super) fn shape(ty: Type, lane_bits: u32, width: u32) -> (u32, usize) {
    let bits = u32::from(ty.lanes) * lane_bits;
    if bits <= width { (bits.next_power_of_two().max(128), 1) } else { (width, (bits / width) as usize) }
}

/// Bits of a lane in a register.
pub(super) fn lane_bits(s: Scalar) -> u32 {
    if s == Scalar::I1 { 32 } else { 8 * s.bytes() }
}

/// True if scalars of the type are in vector registers.
pub(super) fn in_vector(s: Scalar) -> bool {
    matches!(s, Scalar::F32 | Scalar::F64)
}

impl<'k> Lower<'k> {
    /// Lowers `kernel`, which the verifier has passed.
    pub(super) fn run(kernel: &'k Kernel, caps: Caps) -> Lower<'k> {
        let n = kernel.types.len();
        let mut l = Lower {
            kernel,
            caps,
            f: Func::default(),
            pool: Pool::default(),
            frame: 0,
            unsupported: vec![],
            values: vec![Val::None; n],
            uses: vec![0; n],
            crosses: vec![false; n],
            tables: vec![false; n],
            wide_tables: FxHashMap::default(),
            waiting: vec![],
            hoisted: FxHashMap::default(),
            patterns: FxHashMap::default(),
            products: FxHashMap::default(),
            splits: FxHashMap::default(),
            bits: vec![0xff; n],
            chunk: None,
            tiles: false,
        };
        let mut home = vec![0; n];
        l.scan(&kernel.body, &mut 0, &mut home);
        l.f.vector_slot = l.caps.width as usize / 64;
        let entry = l.f.label();
        l.f.begin(entry, vec![]);
        l.arguments();
        l.configure_tiles();
        l.hoist();
        l.block(&kernel.body);
        l.force_waiting();
        l.release_tiles();
        l.f.push(MInst::new(Action::Return));
        l.f.finish();
        l
    }

    /// Counts uses, and finds values that leave their block.
    fn scan(&mut self, block: &Block, next: &mut u32, home: &mut [u32]) {
        let me = *next;
        let see = |l: &mut Self, v: Value, home: &[u32]| {
            l.uses[v.0 as usize] += 1;
            l.crosses[v.0 as usize] |= home[v.0 as usize] != me;
        };
        block.params.iter().for_each(|p| home[p.0 as usize] = me);
        for inst in &block.insts {
            inst.args.iter().for_each(|&a| see(self, a, home));
            self.tiles |= matches!(inst.op, Opcode::TileZero | Opcode::TileLoad);
            if inst.op == Opcode::Swizzle {
                self.tables[inst.args[0].0 as usize] = true;
            }
            inst.results.iter().for_each(|r| home[r.0 as usize] = me);
            for b in &inst.blocks {
                *next += 1;
                self.scan(b, next, home);
            }
        }
        block.yields.iter().for_each(|&y| see(self, y, home));
    }

    fn arguments(&mut self) {
        let regs: [VReg; 3] = std::array::from_fn(|_| self.gpr());
        let mut inst = MInst::new(Action::Args);
        for (reg, at) in regs.into_iter().zip(regs::arguments()) {
            inst.pinned.push(Pinned { reg, at, def: true });
        }
        self.f.push(inst);
        self.chunk = Some(regs[2]);
        let mut next = [0i64; 2];
        for p in &self.kernel.params {
            let k = usize::from(self.ty(p.value) != Type::PTR);
            let d = self.gpr();
            let mem = Mem::at(Base::Reg(regs[k]), 8 * next[k]);
            self.scalar_inst(Mnemonic::Mov, &[Opd::Def(d, Kind::R64), Opd::Mem(mem)]);
            next[k] += 1;
            self.set(p.value, Val::Regs(smallvec![d]));
        }
    }

    /// Counts the vector constants of loops: those of the kernel, and what the lowering itself needs for products.
    fn loop_constants(&self, block: &Block, inside: bool, found: &mut Vec<((u32, u64), usize)>) {
        for inst in &block.insts {
            let ty = inst.results.first().map_or(Type::I64, |&r| self.ty(r));
            let key = match inst.op {
                Opcode::Const if ty.lanes > 1 && ty.scalar != Scalar::I1 => {
                    Some(widest_lane(lane_bits(ty.scalar), const_bits(ty.scalar, inst.imm)))
                }
                Opcode::Dot4 if !self.caps.vnni => Some(widest_lane(16, 0xff)),
                Opcode::Dot4U7 if !self.caps.vnni => Some(widest_lane(16, 1)),
                _ => None,
            };
            if let Some(key) = key.filter(|k| inside && k.1 != 0) {
                match found.iter_mut().find(|(f, _)| *f == key) {
                    Some((_, n)) => *n += 1,
                    None => found.push((key, 1)),
                }
            }
            inst.blocks.iter().for_each(|b| self.loop_constants(b, true, found));
        }
    }

    /// Loads the vector constants that loops use most.
    fn hoist(&mut self) {
        let mut found: Vec<((u32, u64), usize)> = vec![];
        self.loop_constants(&self.kernel.body, false, &mut found);
        found.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        for (key, _) in found.into_iter().take(hoisted_constants(&self.caps)) {
            let reg = self.load_constant(key, self.caps.width);
            self.hoisted.insert(key, reg);
        }
    }

    /// A register with the constant in every lane.
    fn load_constant(&mut self, (lane, v): (u32, u64), bits: u32) -> VReg {
        let (d, k) = (self.vec(), Kind::vector(bits));
        if v == 0 {
            return self.zero(bits);
        }
        let at = self.pool.place(v, lane, lane / 8);
        let mem = Opd::Mem(Mem::at(Base::Pool, at));
        let m = match lane {
            32 => Mnemonic::Vpbroadcastd,
            _ => Mnemonic::Vpbroadcastq,
        };
        self.vector_inst(m, &[Opd::Def(d, k), mem]);
        d
    }

    /// The register that loops share for a constant.
    pub(super) fn hoisted(&self, key: (u32, u64)) -> Option<VReg> {
        self.hoisted.get(&key).copied()
    }

    /// The constant in a register: the one that loops share, one of this block, or a new one.
    pub(super) fn constant_reg(&mut self, key: (u32, u64), width: u32) -> VReg {
        if let Some(&r) = self.hoisted.get(&key).or_else(|| self.patterns.get(&key)) {
            return r;
        }
        let r = self.load_constant(key, self.caps.width.max(width));
        self.patterns.insert(key, r);
        r
    }

    // Registers and instructions.

    pub(super) fn gpr(&mut self) -> VReg {
        self.f.vreg(RegClass::Int)
    }

    pub(super) fn vec(&mut self) -> VReg {
        self.f.vreg(RegClass::Float)
    }

    /// Appends the instruction of `mnemonic` for these operands.
    pub(super) fn inst(&mut self, mnemonic: Mnemonic, encoding: iced_x86::EncodingKind, opds: &[Opd]) -> usize {
        let mut kinds: SmallVec<[Kind; 4]> = opds.iter().map(Opd::kind).collect();
        let mut code = isa::code(mnemonic, encoding, &kinds);
        for wider in [Kind::Imm32, Kind::Imm64] {
            if code.is_none()
                && let Some(k) = kinds.iter_mut().find(|k| matches!(k, Kind::Imm8 | Kind::Imm32))
            {
                *k = wider;
                code = isa::code(mnemonic, encoding, &kinds);
            }
        }
        // Every row of the tables is encoded by a test; what is missing here is a bug of the lowering.
        let Some(code) = code else {
            self.refuse(&format!("{mnemonic:?} {kinds:?}"), "has no such encoding");
            return self.f.insts.len() - 1;
        };
        let mut inst = MInst::new(Action::Code(code));
        inst.opds.extend_from_slice(opds);
        self.f.push(inst);
        self.f.insts.len() - 1
    }

    pub(super) fn scalar_inst(&mut self, m: Mnemonic, opds: &[Opd]) -> usize {
        self.inst(m, iced_x86::EncodingKind::Legacy, opds)
    }

    pub(super) fn vector_inst(&mut self, m: Mnemonic, opds: &[Opd]) -> usize {
        self.inst(m, self.caps.encoding(), opds)
    }

    pub(super) fn masked(&mut self, at: usize, mask: Register, zero: bool) {
        self.f.insts[at].mask = Some((mask, zero));
    }

    /// `d = m(a, ...)` on vectors of `bits` bits.
    pub(super) fn v(&mut self, m: Mnemonic, bits: u32, sources: &[Opd]) -> VReg {
        let d = self.vec();
        let mut opds: SmallVec<[Opd; 4]> = smallvec![Opd::Def(d, Kind::vector(bits))];
        opds.extend_from_slice(sources);
        self.vector_inst(m, &opds);
        d
    }

    /// `d = m(d, ...)`: a vector instruction that adds to its first operand.
    pub(super) fn v_mod(&mut self, m: Mnemonic, bits: u32, old: VReg, sources: &[Opd]) -> VReg {
        let new = self.vec();
        let mut opds: SmallVec<[Opd; 4]> = smallvec![Opd::Mod { old, new, kind: Kind::vector(bits) }];
        opds.extend_from_slice(sources);
        self.vector_inst(m, &opds);
        new
    }

    pub(super) fn zero(&mut self, bits: u32) -> VReg {
        let d = self.vec();
        let k = Kind::vector(bits.min(if self.caps.evex { 512 } else { 256 }));
        let m = self.caps.pick(Mnemonic::Vpxor, Mnemonic::Vpxord);
        // The register is read in name only.
        self.vector_inst(m, &[Opd::Def(d, k), Opd::Again(k), Opd::Again(k)]);
        d
    }

    /// Notes what cannot be lowered; code that is never used goes on.
    pub(super) fn refuse(&mut self, inst: &str, reason: &str) {
        let (kernel, inst, reason) = (self.kernel.name.clone(), inst.to_string(), reason.to_string());
        self.unsupported.push(Unsupported { kernel, inst, reason });
    }

    // Values.

    pub(super) fn ty(&self, v: Value) -> Type {
        self.kernel.ty(v)
    }

    pub(super) fn set(&mut self, v: Value, val: Val) {
        self.values[v.0 as usize] = val;
    }

    pub(super) fn val(&self, v: Value) -> &Val {
        &self.values[v.0 as usize]
    }

    pub(super) fn used_once(&self, v: Value) -> bool {
        self.uses[v.0 as usize] == 1
    }

    pub(super) fn leaves(&self, v: Value) -> bool {
        self.crosses[v.0 as usize]
    }

    /// The constant, if it is one: bits of a lane.
    pub(super) fn constant(&self, v: Value) -> Option<u64> {
        match self.val(v) {
            Val::Const(bits) => Some(*bits),
            _ => None,
        }
    }

    /// A scalar integer constant with its sign.
    pub(super) fn int_constant(&self, v: Value) -> Option<i64> {
        let up = 64 - lane_bits(self.ty(v).scalar);
        self.constant(v).map(|bits| (bits << up) as i64 >> up)
    }

    pub(super) fn wait(&mut self, v: Value, w: Waiting) {
        self.set(v, Val::Waiting(w));
        self.waiting.push(v);
    }

    /// The load that waits, if it does; it is taken by the caller.
    pub(super) fn take_waiting(&mut self, v: Value) -> Option<Waiting> {
        let Val::Waiting(w) = *self.val(v) else { return None };
        self.waiting.retain(|&x| x != v);
        self.set(v, Val::None);
        Some(w)
    }

    fn force_waiting(&mut self) {
        for v in std::mem::take(&mut self.waiting) {
            self.regs(v);
        }
    }

    /// The value in registers.
    pub(super) fn regs(&mut self, v: Value) -> Pieces {
        let ty = self.ty(v);
        match self.val(v).clone() {
            Val::Regs(p) | Val::Mask(p, _) => p,
            Val::None => {
                // Only after a refusal.
                let n = shape(ty, lane_bits(ty.scalar), self.caps.width).1;
                (0..n)
                    .map(|_| if ty.lanes > 1 || in_vector(ty.scalar) { self.zero(128) } else { self.small(0) })
                    .collect()
            }
            Val::Const(bits) => self.const_regs(ty, bits),
            Val::Address(mem) => {
                let d = self.address_reg(mem);
                // A register made here may not reach the other blocks that use the value.
                if !self.leaves(v) {
                    self.set(v, Val::Regs(smallvec![d]));
                }
                smallvec![d]
            }
            Val::Pairs(p) => {
                let p = self.finish_pairs(&p, shape(ty, lane_bits(ty.scalar), self.caps.width).0);
                self.set(v, Val::Regs(p.clone()));
                p
            }
            Val::Waiting(w) => {
                self.waiting.retain(|&x| x != v);
                let p = self.load_now(w, ty);
                self.set(v, Val::Regs(p.clone()));
                p
            }
        }
    }

    pub(super) fn reg(&mut self, v: Value) -> VReg {
        self.regs(v)[0]
    }

    fn const_regs(&mut self, ty: Type, bits: u64) -> Pieces {
        let lane = lane_bits(ty.scalar);
        if ty.lanes == 1 {
            if in_vector(ty.scalar) {
                if bits == 0 {
                    return smallvec![self.zero(128)];
                }
                let at = self.pool.place(bits, lane, lane / 8);
                let m = if lane == 32 { Mnemonic::Vmovss } else { Mnemonic::Vmovsd };
                return smallvec![self.v(m, 128, &[Opd::Mem(Mem::at(Base::Pool, at))])];
            }
            return smallvec![self.small(bits as i64)];
        }
        let bits = if ty.scalar == Scalar::I1 { bits.wrapping_neg() } else { bits };
        let (width, n) = shape(ty, lane, self.caps.width);
        let key = widest_lane(lane, bits);
        if let Some(&r) = self.hoisted.get(&key) {
            return smallvec![r; n];
        }
        // Zeros are made anew each time: they are about to be added to.
        (0..n).map(|_| self.load_constant(key, width)).collect()
    }

    /// A general register with a constant.
    pub(super) fn small(&mut self, v: i64) -> VReg {
        let d = self.gpr();
        let k = if u32::try_from(v).is_ok() { Kind::R32 } else { Kind::R64 };
        let v = if k == Kind::R32 { i64::from(v as u32 as i32) } else { v };
        self.scalar_inst(Mnemonic::Mov, &[Opd::Def(d, k), Opd::Imm(v)]);
        d
    }

    /// Piece `i` of a vector, or a scalar in a vector register, as an operand that may be memory; `grain` is the size of
    /// the elements that the instruction can broadcast, 0 if it cannot.
    pub(super) fn operand(&mut self, v: Value, i: usize, grain: u32) -> Opd {
        let ty = self.ty(v);
        let lane = lane_bits(ty.scalar);
        let (width, n) = shape(ty, lane, self.caps.width);
        let kind = Kind::vector(width);
        match self.val(v).clone() {
            Val::Const(bits) if ty.lanes == 1 && bits != 0 => {
                let at = self.pool.place(bits, lane, lane / 8);
                Opd::Mem(Mem::at(Base::Pool, at))
            }
            Val::Const(bits) if ty.lanes > 1 && bits != 0 && ty.scalar != Scalar::I1 => {
                let key = widest_lane(lane, bits);
                if let Some(&r) = self.hoisted.get(&key) {
                    return Opd::Use(r, kind);
                }
                if self.caps.evex && key.0 == grain {
                    let at = self.pool.place(key.1, grain, grain / 8);
                    return Opd::Mem(Mem { broadcast: true, ..Mem::at(Base::Pool, at) });
                }
                if self.caps.evex && key.0 == 32 && grain == 64 {
                    let at = self.pool.place(key.1 | key.1 << 32, 64, 8);
                    return Opd::Mem(Mem { broadcast: true, ..Mem::at(Base::Pool, at) });
                }
                let at = self.pool.place(key.1, key.0, width / 8);
                Opd::Mem(Mem::at(Base::Pool, at))
            }
            Val::Waiting(w) if w.splat => {
                if self.caps.evex && grain == 8 * w.ty.scalar.bytes() && n <= 2 {
                    if i + 1 == n {
                        self.take_waiting(v);
                    }
                    return Opd::Mem(Mem { broadcast: true, ..w.mem });
                }
                Opd::Use(self.regs(v)[i], kind)
            }
            Val::Waiting(w) if w.ty.bytes() >= 16 || ty.lanes == 1 && w.ty.lanes == 1 => {
                if i + 1 == n {
                    self.take_waiting(v);
                }
                Opd::Mem(w.mem.plus(i64::from(width / 8) * i as i64))
            }
            _ => Opd::Use(self.regs(v)[i], kind),
        }
    }

    /// A mask in lanes of `bits` bits.
    pub(super) fn mask(&mut self, v: Value, bits: u32) -> Pieces {
        let lanes = self.ty(v).lanes;
        match self.val(v).clone() {
            Val::Mask(p, now) if now == bits => p,
            Val::Mask(p, now) => self.resize(&p, lanes, now, bits, true),
            Val::Const(c) => {
                let ty = Type { scalar: Scalar::I8, lanes };
                let (width, n) = shape(ty, bits, self.caps.width);
                let key = widest_lane(bits, if c != 0 { u64::MAX >> (64 - bits) } else { 0 });
                (0..n).map(|_| self.load_constant(key, width)).collect()
            }
            _ => self.regs(v),
        }
    }

    /// Width in which a mask is held; that of constants is free.
    pub(super) fn mask_bits(&self, v: Value) -> Option<u32> {
        match self.val(v) {
            Val::Mask(_, bits) => Some(*bits),
            _ => None,
        }
    }
}

/// The same pattern in lanes of at least 32 bits.
pub(super) fn widest_lane(lane: u32, v: u64) -> (u32, u64) {
    let v = v & (u64::MAX >> (64 - lane));
    match lane {
        8 => (32, v * 0x0101_0101),
        16 => (32, v * 0x0001_0001),
        _ => (lane, v),
    }
}

/// Bits of a lane of a constant.
pub(super) fn const_bits(s: Scalar, imm: Imm) -> u64 {
    match (s, imm) {
        (Scalar::F32, Imm::Float(v)) => u64::from((v as f32).to_bits()),
        (Scalar::F64, Imm::Float(v)) => v.to_bits(),
        (Scalar::I1, Imm::Int(v)) => v as u64 & 1,
        (s, Imm::Int(v)) => v as u64 & (u64::MAX >> (64 - lane_bits(s))),
        _ => 0,
    }
}
