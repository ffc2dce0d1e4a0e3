//! Random kernels: every op of the table on random types, in nested loops and branches, with loads that stores follow,
//! values used once, often and in other blocks, and more of them alive than there are registers.
//!
//! What is undefined is guarded (divisors, shift counts, table indices, places in memory). The payload of a NaN is free,
//! so floats become 0 in its place before their bits can be seen; everything else is compared bit for bit.

use std::cell::RefCell;

use tilewright_ir::kernel::{
    Class, Imm, Kernel, KernelBuilder, OP_TABLE, Opcode, Operands, Pred, Scalar, THREAD_OPS, Type, Value,
};

use super::Random;

/// Bytes of each buffer that one chunk reads and writes.
pub(super) const REGION: i64 = 4096;
/// Bytes of results of one chunk.
pub(super) const RESULTS: i64 = 1 << 15;
/// Longest value, in bytes: several of the widest registers.
const LONGEST: u32 = 256;
const DEPTH: usize = 3;
/// Rounds of a loop, at most.
const ROUNDS: i64 = 4;

pub(super) const STORED: [Scalar; 8] =
    [Scalar::I8, Scalar::I16, Scalar::I32, Scalar::I64, Scalar::F16, Scalar::BF16, Scalar::F32, Scalar::F64];

/// A pointer that is between 0 and `far` bytes behind the start of `size` bytes.
#[derive(Clone, Copy)]
struct Place {
    pointer: Value,
    far: i64,
    size: i64,
    writable: bool,
}

struct Generator<'r> {
    random: &'r mut Random,
    /// Values that can be used, with older ones first.
    values: Vec<Value>,
    places: Vec<Place>,
    /// Most vectors of a kernel have so many lanes.
    lanes: u16,
    /// Ops that not every target has are allowed.
    rare: bool,
    /// Places in memory are as GPUs want them.
    aligned: bool,
    depth: usize,
    /// Ops still to come.
    budget: usize,
}

impl Generator<'_> {
    fn below(&mut self, n: usize) -> usize {
        (self.random.next() >> 8) as usize % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn lanes(&mut self) -> u16 {
        match self.below(10) {
            0 | 1 => 1,
            2 => 1 << self.below(7),
            _ => self.lanes,
        }
    }

    /// A type whose element is one of `of`.
    fn ty(&mut self, of: &[Scalar]) -> Type {
        let (scalar, lanes) = (self.any(of), self.lanes());
        Type { scalar, lanes: lanes.min((LONGEST / scalar.bytes().max(1)) as u16) }
    }

    fn ty_in(&mut self, class: Class) -> Type {
        self.ty(match class {
            Class::Int => &STORED[..4],
            Class::Float => &STORED[6..],
            Class::Number => &[Scalar::I8, Scalar::I16, Scalar::I32, Scalar::I64, Scalar::F32, Scalar::F64],
            Class::Bits => &[Scalar::I1, Scalar::I8, Scalar::I16, Scalar::I32, Scalar::I64],
            Class::Any => &[
                Scalar::I1,
                Scalar::I8,
                Scalar::I16,
                Scalar::I32,
                Scalar::I64,
                Scalar::F16,
                Scalar::BF16,
                Scalar::F32,
                Scalar::F64,
            ],
        })
    }

    fn constant(&mut self, b: &mut KernelBuilder, ty: Type) -> Value {
        let any = self.random.next();
        match ty.scalar {
            Scalar::F32 | Scalar::F64 => {
                let v = self.any(&[0.0, 1.0, -0.5, 3.25, 1e9, -1e-3, f64::INFINITY]);
                b.float(ty, v)
            }
            Scalar::I1 => b.int(ty, (any & 1) as i64),
            s => {
                let up = 64 - 8 * s.bytes();
                let v = match self.below(3) {
                    0 => (any as i64) << up >> up,
                    1 => self.any(&[0, 1, -1, 2, 15, 64, 127, -128]),
                    _ => any as i64 % 100,
                };
                b.int(ty, v)
            }
        }
    }

    /// A place for `bytes` bytes and the offset from its pointer.
    fn place(&mut self, bytes: i64, write: bool) -> (Value, i64) {
        let fits = |p: &&Place| p.far + bytes <= p.size && (p.writable || !write);
        let fitting: Vec<Place> = self.places.iter().filter(fits).copied().collect();
        let p = self.any(&fitting);
        let room = (p.size - p.far - bytes) as usize;
        // Few places, so that loads and stores meet.
        let at = if self.chance(70) { self.below(room.min(256) + 1) & !15 } else { self.below(room + 1) };
        (p.pointer, (at - if self.aligned { at % bytes.min(16) as usize } else { 0 }) as i64)
    }

    fn load(&mut self, b: &mut KernelBuilder, ty: Type) -> Value {
        let (p, at) = self.place(i64::from(ty.bytes()), false);
        b.load(ty, p, at)
    }

    /// A value of the type: one there is, or a new one.
    fn take(&mut self, b: &mut KernelBuilder, ty: Type) -> Value {
        let there: Vec<Value> = self.values.iter().copied().filter(|&v| b.ty(v) == ty).collect();
        if !there.is_empty() && self.chance(75) {
            return self.any(&there);
        }
        let v = if ty.scalar == Scalar::I1 {
            let of = self.ty_in(Class::Int).x(ty.lanes.min(32));
            if ty.lanes > 32 || self.chance(10) { self.constant(b, ty) } else { self.compare(b, of) }
        } else if self.chance(25) && !matches!(ty.scalar, Scalar::F16 | Scalar::BF16) {
            self.constant(b, ty)
        } else if ty.lanes > 1 && self.chance(30) {
            let one = self.take(b, ty.x(1));
            b.splat(one, ty.lanes)
        } else {
            self.load(b, ty)
        };
        // Some are left to the one who asked, who may be the only one to use them.
        if self.chance(60) {
            self.values.push(v);
        }
        v
    }

    fn compare(&mut self, b: &mut KernelBuilder, ty: Type) -> Value {
        let (x, y) = (self.take(b, ty), self.take(b, ty));
        let known = if ty.scalar.is_float() { 6 } else { 8 };
        let p = Pred::TABLE[self.below(known)].0;
        b.cmp(p, x, y)
    }

    /// The value with 0 where it is not a number.
    fn number(&mut self, b: &mut KernelBuilder, v: Value) -> Value {
        let ty = b.ty(v);
        if !matches!(ty.scalar, Scalar::F32 | Scalar::F64) {
            return v;
        }
        let c = b.cmp(Pred::Eq, v, v);
        let zero = b.float(ty, 0.0);
        b.select(c, v, zero)
    }

    fn masked(&mut self, b: &mut KernelBuilder, ty: Type, mask: i64) -> Value {
        let (v, m) = (self.take(b, ty), b.int(ty, mask));
        b.and(v, m)
    }

    fn store(&mut self, b: &mut KernelBuilder, v: Value) {
        let v = self.seen(b, v);
        let (p, at) = self.place(i64::from(b.ty(v).bytes()), true);
        b.store(v, p, at);
    }

    /// The value as its bits may be seen in memory.
    fn seen(&mut self, b: &mut KernelBuilder, v: Value) -> Value {
        if b.ty(v).scalar == Scalar::I1 { b.zext(v, Scalar::I8) } else { self.number(b, v) }
    }

    /// False for what not every target has.
    fn common(op: Opcode, ty: Type) -> bool {
        use Opcode::*;
        let (s, many) = (ty.scalar, ty.lanes > 1);
        match op {
            Mul | Smin | Smax => !(many && s == Scalar::I64),
            Shl | ShrU => !(many && s == Scalar::I8),
            ShrS => !(many && matches!(s, Scalar::I8 | Scalar::I64)),
            _ => true,
        }
    }

    /// One more op; its result, if it has one.
    fn op(&mut self, b: &mut KernelBuilder, op: Opcode) -> Option<Value> {
        let imm = Imm::None;
        let v = match op.info().operands {
            Operands::None => match op {
                Opcode::ChunkId => b.chunk_id(),
                Opcode::Const => {
                    let ty = self.ty_in(Class::Number);
                    self.constant(b, ty)
                }
                // Memory of its own is there from the start.
                _ => return None,
            },
            Operands::Unary(class) => self.unary(b, op, class)?,
            Operands::Binary(class) => {
                let ty = self.ty_in(class);
                let ty = if matches!(op, Opcode::DivS | Opcode::RemS) { ty.x(1) } else { ty };
                if !self.rare && !Self::common(op, ty) {
                    return None;
                }
                match op {
                    Opcode::Cmp => self.compare(b, ty),
                    Opcode::DivS | Opcode::RemS => {
                        let x = self.take(b, ty);
                        let one = b.int(ty, 1);
                        let y = if self.chance(50) { self.masked(b, ty, 0x3f) } else { b.int(ty, 1 << self.below(6)) };
                        let y = if b.ty(y) == ty && self.chance(50) { b.or(y, one) } else { b.smax(y, one) };
                        b.op(op, vec![x, y], imm, None)
                    }
                    _ => {
                        let args = vec![self.take(b, ty), self.take(b, ty)];
                        b.op(op, args, imm, None)
                    }
                }
            }
            Operands::Ternary(class) => {
                let ty = self.ty_in(class);
                let args = (0..3).map(|_| self.take(b, ty)).collect();
                b.op(op, args, imm, None)
            }
            Operands::Shift => {
                let ty = self.ty_in(Class::Int);
                if !self.rare && !Self::common(op, ty) {
                    return None;
                }
                let last = 8 * i64::from(ty.scalar.bytes()) - 1;
                let x = self.take(b, ty);
                let n = if self.chance(60) {
                    b.int(Type::I32, self.below(last as usize + 1) as i64)
                } else {
                    self.masked(b, Type::I32, last)
                };
                b.op(op, vec![x, n], imm, None)
            }
            Operands::Select => {
                let ty = self.ty_in(Class::Any);
                let lanes = if self.chance(20) { 1 } else { ty.lanes };
                let c = self.take(b, Type::I1.x(lanes));
                let (x, y) = (self.take(b, ty), self.take(b, ty));
                b.select(c, x, y)
            }
            Operands::Dot4 => {
                let lanes = self.lanes();
                let mut acc = self.take(b, Type::I32.x(lanes));
                // Often several into one sum.
                for _ in 0..self.below(3) {
                    acc = self.dot(b, op, acc);
                }
                self.dot(b, op, acc)
            }
            Operands::Swizzle => {
                let table = self.take(b, Type::I8.x(16));
                let ty = self.ty(&[Scalar::I8]);
                let i = self.masked(b, ty, 15);
                b.swizzle(table, i)
            }
            Operands::Ptr if op == Opcode::Load => {
                let ty = self.ty(&STORED);
                self.load(b, ty)
            }
            Operands::Ptr => {
                let (p, at) = self.place(1, false);
                b.prefetch(p, at);
                return None;
            }
            Operands::Store => {
                let ty = self.ty(&STORED);
                let v = self.take(b, ty);
                self.store(b, v);
                return None;
            }
            Operands::PtrInt => {
                self.offset(b);
                return None;
            }
            Operands::Insert => {
                let ty = self.ty_in(Class::Any);
                let (v, s) = (self.take(b, ty), self.take(b, ty.x(1)));
                let lane = self.below(usize::from(ty.lanes));
                b.insert(v, s, lane as i64)
            }
            // What only some targets have is tested apart, in `ops.rs` and `tiles.rs`.
            Operands::Dot2 | Operands::Tile | Operands::Mma(_) | Operands::Wgmma => return None,
            Operands::Copy | Operands::Shared | Operands::Atomic => return None,
            Operands::For => {
                self.for_loop(b);
                return None;
            }
            Operands::If => {
                self.branch(b);
                return None;
            }
        };
        Some(v)
    }

    /// A product of bytes; the unsigned ones are often codes of a few bits.
    fn dot(&mut self, b: &mut KernelBuilder, op: Opcode, acc: Value) -> Value {
        let lanes = b.ty(acc).lanes;
        let bytes = Type::I8.x(4 * lanes);
        let u = match op {
            Opcode::Dot4U7 => {
                let mask = self.any(&[15, 31, 63, 127]);
                self.masked(b, bytes, mask)
            }
            _ => self.take(b, bytes),
        };
        // A word for all lanes, as products of matrices have it.
        let s = if self.chance(50) && lanes > 1 {
            let word = self.take(b, Type::I32);
            let words = b.splat(word, lanes);
            b.bitcast(words, bytes)
        } else {
            self.take(b, bytes)
        };
        b.op(op, vec![acc, u, s], Imm::None, None)
    }

    fn unary(&mut self, b: &mut KernelBuilder, op: Opcode, class: Class) -> Option<Value> {
        use Opcode::*;
        use Scalar::*;
        let ints = [I8, I16, I32, I64];
        let (from, to): (Scalar, Scalar) = match op {
            Sext | Trunc => {
                let (i, j) = (self.below(3), self.below(3));
                let (small, large) = (ints[i.min(j)], ints[i.max(j) + 1]);
                if op == Sext { (small, large) } else { (large, small) }
            }
            Zext => {
                let i = self.below(4);
                (if i == 0 { I1 } else { ints[i - 1] }, self.any(&ints[i..]))
            }
            IntToF if self.chance(30) => (I64, self.any(&[F32, F64])),
            IntToF => (I32, self.any(&[F32, F64])),
            FToInt => (F32, I32),
            Fext => self.any(&[(F16, F32), (BF16, F32), (F32, F64)]),
            Fround => self.any(&[(F32, F16), (F32, BF16), (F64, F32)]),
            Bitcast => (self.any(&STORED), self.any(&STORED)),
            Swap => {
                let s = self.any(&[I32, I64, F32, F64]);
                (s, s)
            }
            _ => {
                let s = self.ty_in(class).scalar;
                (s, s)
            }
        };
        let largest = from.bytes().max(to.bytes());
        let mut ty = self.ty(&[from]);
        ty.lanes = ty.lanes.min((LONGEST / largest) as u16);
        match op {
            IntToF if from == I64 => ty.lanes = 1,
            Splat => ty.lanes = 1,
            Low | High | Swap => ty.lanes = ty.lanes.max(2),
            _ => {}
        }
        let v = self.take(b, ty);
        let stated = match op {
            Bitcast => {
                let lanes = ty.bytes() / to.bytes();
                if !(1..=64).contains(&lanes) {
                    return None;
                }
                Some(to.into_type(lanes as u16))
            }
            Splat => Some(ty.x(1 << (1 + self.below(4)))),
            Low | High => Some(ty.x(ty.lanes / 2)),
            _ => Some(ty.with(to)),
        };
        let imm = match op {
            Extract => Imm::Int(self.below(usize::from(ty.lanes)) as i64),
            Swap => Imm::Int(1 << self.below(ty.lanes.trailing_zeros() as usize)),
            _ => Imm::None,
        };
        let bits_are_seen = matches!(op, Bitcast | Fround);
        let v = if bits_are_seen { self.number(b, v) } else { v };
        Some(b.op(op, vec![v], imm, stated))
    }

    /// A pointer behind another, by what a value says.
    fn offset(&mut self, b: &mut KernelBuilder) {
        let i = self.below(self.places.len());
        let from = self.places[i];
        let stride = self.any(if self.aligned { &[16, 32, 48, 64] } else { &[1, 4, 16, 24, 64] });
        let room = (from.size - from.far - i64::from(LONGEST)).max(0) / stride;
        let most = self.any(&[0, 1, 3, 7]);
        if most > room {
            return;
        }
        let index = if self.chance(20) { b.i64(most) } else { self.masked(b, Type::I64, most) };
        let pointer = b.index(from.pointer, index, stride);
        self.places.push(Place { pointer, far: from.far + most * stride, ..from });
    }

    /// Ops of an inner block, then values of these types.
    fn block(&mut self, b: &mut KernelBuilder, types: &[Type]) -> Vec<Value> {
        self.depth += 1;
        let n = self.below(12);
        self.ops(b, n);
        self.depth -= 1;
        types.iter().map(|&ty| self.take(b, ty)).collect()
    }

    fn types(&mut self) -> Vec<Type> {
        let most = if self.chance(20) { 14 } else { 4 };
        (0..self.below(most)).map(|_| self.ty_in(Class::Any)).collect()
    }

    fn branch(&mut self, b: &mut KernelBuilder) {
        let c = self.take(b, Type::I1);
        let types = self.types();
        let (values, places) = (self.values.len(), self.places.len());
        let me = RefCell::new(&mut *self);
        let arm = |b: &mut KernelBuilder| {
            let mut me = me.borrow_mut();
            let out = me.block(b, &types);
            me.values.truncate(values);
            me.places.truncate(places);
            out
        };
        let results = b.if_(c, arm, arm);
        self.values.extend(results);
    }

    fn for_loop(&mut self, b: &mut KernelBuilder) {
        let step = self.any(&[1, 1, 2, 3]);
        let bound = |g: &mut Self, b: &mut KernelBuilder| {
            if g.chance(60) { b.i64(g.below(ROUNDS as usize + 1) as i64) } else { g.masked(b, Type::I64, ROUNDS - 1) }
        };
        let (lo, hi) = (bound(self, b), bound(self, b));
        let mut types = self.types();
        let mut init: Vec<Value> = types.iter().map(|&ty| self.take(b, ty)).collect();
        // A pointer that goes on with each round.
        let from = self.below(self.places.len());
        let (from, by) = (self.places[from], self.any(&[0, if self.aligned { 16 } else { 4 }, 64]));
        let moved = Place { far: from.far + ROUNDS * by, ..from };
        let carries = self.chance(40) && moved.far + i64::from(LONGEST) <= moved.size;
        if carries {
            init.push(from.pointer);
        }
        let (values, places) = (self.values.len(), self.places.len());
        let mut results = b.for_(lo, hi, step, &init, |b, i, carried| {
            self.values.push(i);
            let (carried, pointer) = carried.split_at(types.len());
            self.values.extend(carried);
            self.places.extend(pointer.iter().map(|&pointer| Place { pointer, ..moved }));
            let mut out = self.block(b, &types);
            out.extend(pointer.iter().map(|&p| b.index_bytes(p, by as u64)));
            out
        });
        self.values.truncate(values);
        self.places.truncate(places);
        if carries {
            self.places.extend(results.pop().map(|pointer| Place { pointer, ..moved }));
        }
        types.clear();
        self.values.extend(results);
    }

    fn ops(&mut self, b: &mut KernelBuilder, n: usize) {
        for _ in 0..n {
            if self.budget == 0 {
                return;
            }
            self.budget -= 1;
            let op = OP_TABLE[self.below(OP_TABLE.len())].op;
            if matches!(op, Opcode::For | Opcode::If) && self.depth == DEPTH || THREAD_OPS.contains(&op) {
                continue;
            }
            let v = self.op(b, op);
            self.values.extend(v);
        }
    }
}

trait IntoType {
    fn into_type(self, lanes: u16) -> Type;
}

impl IntoType for Scalar {
    fn into_type(self, lanes: u16) -> Type {
        Type { scalar: self, lanes }
    }
}

/// A kernel of about `size` ops. Its buffers: one to read, one to read and write, the results.
pub(super) fn kernel(random: &mut Random, size: usize, rare: bool, aligned: bool) -> Kernel {
    let mut b = KernelBuilder::new("random");
    let pointers = ["x", "y", "z"].map(|name| b.ptr_param(name));
    let n = b.int_param("n");
    let chunk = b.chunk_id();
    let [x, y, z] = [0, 1, 2].map(|i| b.index(pointers[i], chunk, if i == 2 { RESULTS } else { REGION }));
    let lanes = 1 << ((random.next() >> 20) % 6);
    let mut g =
        Generator { random, values: vec![n, chunk], places: vec![], lanes, rare, aligned, depth: 0, budget: size };
    for (pointer, writable) in [(x, false), (y, true)] {
        g.places.push(Place { pointer, far: 0, size: REGION, writable });
    }
    if g.chance(40) {
        // Private memory is written before anything reads it.
        let size = 64 * (5 + g.below(8) as i64);
        let pointer = b.local(size - 8);
        for at in (0..size - 8).step_by(8) {
            let v = b.load(Type::I64, x, at);
            b.store(v, pointer, at);
        }
        g.places.push(Place { pointer, far: 0, size: size - 8, writable: true });
    }
    if g.chance(30) {
        // More vectors than registers, all of them used at the end.
        for _ in 0..20 + g.below(30) {
            let ty = g.ty(&STORED);
            let v = g.load(&mut b, ty);
            g.values.push(v);
        }
    }
    g.ops(&mut b, size);
    let mut at = 0;
    for v in std::mem::take(&mut g.values) {
        if g.chance(60) {
            let v = g.seen(&mut b, v);
            let bytes = i64::from(b.ty(v).bytes());
            let place = if aligned { (at + bytes.min(16) - 1) & -bytes.min(16) } else { at };
            if place + bytes <= RESULTS {
                b.store(v, z, place);
                at = place + bytes;
            }
        }
    }
    b.finish()
}
