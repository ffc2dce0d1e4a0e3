//! Builds kernels. Types follow from operands wherever the op table lets them, so a schedule reads like arithmetic.

use super::{Block, Imm, Inst, Kernel, Opcode, Param, Pred, ResultRule, Scalar, Type, Value};

/// Appends instructions to the innermost open block.
///
/// The builder does not check; [`super::verify`] does, and says where.
pub struct KernelBuilder {
    name: String,
    params: Vec<Param>,
    threads: u32,
    resident: u32,
    types: Vec<Type>,
    open: Vec<Block>,
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {$(
        #[doc = concat!("`", stringify!($op), "`: see the op table.")]
        pub fn $name(&mut self, a: Value) -> Value {
            self.op(Opcode::$op, vec![a], Imm::None, None)
        }
    )*};
}

macro_rules! binary {
    ($($name:ident $op:ident;)*) => {$(
        #[doc = concat!("`", stringify!($op), "`: see the op table.")]
        pub fn $name(&mut self, a: Value, b: Value) -> Value {
            self.op(Opcode::$op, vec![a, b], Imm::None, None)
        }
    )*};
}

macro_rules! stated {
    ($($name:ident $op:ident;)*) => {$(
        #[doc = concat!("`", stringify!($op), "` to the element type `to`, lanes kept.")]
        pub fn $name(&mut self, a: Value, to: Scalar) -> Value {
            let ty = self.ty(a).with(to);
            self.op(Opcode::$op, vec![a], Imm::None, Some(ty))
        }
    )*};
}

impl KernelBuilder {
    /// A kernel of that symbol name.
    pub fn new(name: impl Into<String>) -> Self {
        KernelBuilder {
            name: name.into(),
            params: vec![],
            threads: 0,
            resident: 0,
            types: vec![],
            open: vec![Block::default()],
        }
    }

    /// A kernel whose chunks are computed by blocks of `threads` threads, `resident` of them at once on a
    /// multiprocessor (0: as many as fit).
    pub fn of_blocks(name: impl Into<String>, threads: u32, resident: u32) -> Self {
        KernelBuilder { threads, resident, ..KernelBuilder::new(name) }
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Ends the kernel.
    pub fn finish(mut self) -> Kernel {
        let body = self.open.pop().expect("the top block is open until finish");
        assert!(self.open.is_empty(), "finish inside an open loop");
        let KernelBuilder { name, params, threads, resident, types, .. } = self;
        Kernel { name, params, threads, resident, types, body }
    }

    /// Type of `v`.
    pub fn ty(&self, v: Value) -> Type {
        self.types[v.0 as usize]
    }

    fn value(&mut self, ty: Type) -> Value {
        self.types.push(ty);
        Value(self.types.len() as u32 - 1)
    }

    fn push(&mut self, inst: Inst) {
        self.open.last_mut().expect("a block is open").insts.push(inst);
    }

    fn param(&mut self, name: &str, ty: Type) -> Value {
        let value = self.value(ty);
        self.params.push(Param { name: name.to_string(), value });
        value
    }

    /// A pointer parameter.
    pub fn ptr_param(&mut self, name: &str) -> Value {
        self.param(name, Type::PTR)
    }

    /// An `i64` parameter.
    pub fn int_param(&mut self, name: &str) -> Value {
        self.param(name, Type::I64)
    }

    /// Any op with at most one result; `stated` where the result rule is `Stated`.
    pub fn op(&mut self, op: Opcode, args: Vec<Value>, imm: Imm, stated: Option<Type>) -> Value {
        let ty = match op.info().result {
            ResultRule::Same => self.ty(args[0]),
            ResultRule::Second => self.ty(args[1]),
            ResultRule::Bool => self.ty(args[0]).with(Scalar::I1),
            ResultRule::Element => self.ty(args[0]).x(1),
            ResultRule::Ptr => Type::PTR,
            ResultRule::Shared => Type::SHARED,
            ResultRule::I32 => Type::I32,
            ResultRule::I64 => Type::I64,
            ResultRule::Stated => stated.expect("this op states its type"),
            ResultRule::None | ResultRule::Yields => unreachable!("{} has no single result", op.info().name),
        };
        let r = self.value(ty);
        self.push(Inst { op, args, imm, results: vec![r], blocks: vec![] });
        r
    }

    unary! { neg Neg; abs Abs; sqrt Sqrt; floor Floor; nearest Nearest; sum Sum; max_lane MaxLane; }
    binary! {
        add Add; sub Sub; mul Mul; div Div; fmin Fmin; fmax Fmax; smin Smin; smax Smax; and And; or Or; xor Xor;
        shl Shl; shr_u ShrU; shr_s ShrS; div_s DivS; rem_s RemS; swizzle Swizzle; offset Offset;
    }
    stated! { sext Sext; zext Zext; trunc Trunc; int_to_f IntToF; f_to_int FToInt; fext Fext; fround Fround; }

    /// Integer constant of type `ty`.
    pub fn int(&mut self, ty: Type, v: i64) -> Value {
        self.op(Opcode::Const, vec![], Imm::Int(v), Some(ty))
    }

    /// `i64` constant.
    pub fn i64(&mut self, v: i64) -> Value {
        self.int(Type::I64, v)
    }

    /// Float constant of type `ty`.
    pub fn float(&mut self, ty: Type, v: f64) -> Value {
        self.op(Opcode::Const, vec![], Imm::Float(v), Some(ty))
    }

    /// `f32` constant in `lanes` lanes.
    pub fn f32(&mut self, lanes: u16, v: f64) -> Value {
        self.float(Type::F32.x(lanes), v)
    }

    /// `a * b + c`.
    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        self.op(Opcode::Fma, vec![a, b, c], Imm::None, None)
    }

    /// Comparison.
    pub fn cmp(&mut self, p: Pred, a: Value, b: Value) -> Value {
        self.op(Opcode::Cmp, vec![a, b], Imm::Pred(p), None)
    }

    /// `c ? a : b`.
    pub fn select(&mut self, c: Value, a: Value, b: Value) -> Value {
        self.op(Opcode::Select, vec![c, a, b], Imm::None, None)
    }

    /// Same bits as `ty`.
    pub fn bitcast(&mut self, a: Value, ty: Type) -> Value {
        self.op(Opcode::Bitcast, vec![a], Imm::None, Some(ty))
    }

    /// Scalar to `lanes` lanes.
    pub fn splat(&mut self, a: Value, lanes: u16) -> Value {
        let ty = self.ty(a).x(lanes);
        if lanes == 1 { a } else { self.op(Opcode::Splat, vec![a], Imm::None, Some(ty)) }
    }

    /// Lane `lane` of `a`.
    pub fn extract(&mut self, a: Value, lane: i64) -> Value {
        self.op(Opcode::Extract, vec![a], Imm::Int(lane), None)
    }

    /// `a` with lane `lane` replaced by `s`.
    pub fn insert(&mut self, a: Value, s: Value, lane: i64) -> Value {
        self.op(Opcode::Insert, vec![a, s], Imm::Int(lane), None)
    }

    /// Lower half of the lanes.
    pub fn low(&mut self, a: Value) -> Value {
        let ty = self.ty(a);
        self.op(Opcode::Low, vec![a], Imm::None, Some(ty.x(ty.lanes / 2)))
    }

    /// Upper half of the lanes.
    pub fn high(&mut self, a: Value) -> Value {
        let ty = self.ty(a);
        self.op(Opcode::High, vec![a], Imm::None, Some(ty.x(ty.lanes / 2)))
    }

    /// `acc + dot of groups of four bytes`, `u` unsigned, `s` signed.
    pub fn dot4(&mut self, acc: Value, u: Value, s: Value) -> Value {
        self.op(Opcode::Dot4, vec![acc, u, s], Imm::None, None)
    }

    /// As [`KernelBuilder::dot4`] for unsigned bytes below 128.
    pub fn dot4_u7(&mut self, acc: Value, u: Value, s: Value) -> Value {
        self.op(Opcode::Dot4U7, vec![acc, u, s], Imm::None, None)
    }

    /// `acc + dot of pairs` of bf16.
    pub fn dot2(&mut self, acc: Value, x: Value, y: Value) -> Value {
        self.op(Opcode::Dot2, vec![acc, x, y], Imm::None, None)
    }

    /// An op without a result.
    pub fn effect(&mut self, op: Opcode, args: Vec<Value>, imm: Imm) {
        self.push(Inst { op, args, imm, results: vec![], blocks: vec![] });
    }

    /// Tile `t` becomes zeros.
    pub fn tile_zero(&mut self, t: u8) {
        self.effect(Opcode::TileZero, vec![], Imm::Int(t.into()));
    }

    /// Read tile `t` at `p`, rows `stride` bytes apart.
    pub fn tile_load(&mut self, t: u8, p: Value, stride: Value) {
        self.effect(Opcode::TileLoad, vec![p, stride], Imm::Int(t.into()));
    }

    /// Write tile `t` at `p`, rows `stride` bytes apart.
    pub fn tile_store(&mut self, t: u8, p: Value, stride: Value) {
        self.effect(Opcode::TileStore, vec![p, stride], Imm::Int(t.into()));
    }

    /// Adds the product of tiles `x` and `y` to tile `c`.
    pub fn tile_dot(&mut self, c: u8, x: u8, y: u8) {
        self.effect(Opcode::TileDot, vec![], Imm::Tiles([c, x, y]));
    }

    /// Lane `i` takes lane `i ^ distance`.
    pub fn swap_lanes(&mut self, a: Value, distance: i64) -> Value {
        self.op(Opcode::Swap, vec![a], Imm::Int(distance), None)
    }

    /// Hint that `p + bytes` is read soon.
    pub fn prefetch(&mut self, p: Value, bytes: i64) {
        self.push(Inst { op: Opcode::Prefetch, args: vec![p], imm: Imm::Int(bytes), results: vec![], blocks: vec![] });
    }

    /// Read a `ty` at `p + bytes`.
    pub fn load(&mut self, ty: Type, p: Value, bytes: i64) -> Value {
        self.op(Opcode::Load, vec![p], Imm::Int(bytes), Some(ty))
    }

    /// Read `lanes` floats of storage type `store` at `p + bytes` as f32.
    pub fn load_f32(&mut self, store: Scalar, lanes: u16, p: Value, bytes: i64) -> Value {
        let v = self.load(Type { scalar: store, lanes }, p, bytes);
        if store == Scalar::F32 { v } else { self.fext(v, Scalar::F32) }
    }

    /// Write `v` at `p + bytes`.
    pub fn store(&mut self, v: Value, p: Value, bytes: i64) {
        self.push(Inst { op: Opcode::Store, args: vec![v, p], imm: Imm::Int(bytes), results: vec![], blocks: vec![] });
    }

    /// Private memory.
    pub fn local(&mut self, bytes: i64) -> Value {
        self.op(Opcode::Local, vec![], Imm::Int(bytes), None)
    }

    /// This call's chunk.
    pub fn chunk_id(&mut self) -> Value {
        self.op(Opcode::ChunkId, vec![], Imm::None, None)
    }

    /// This thread's number in its block.
    pub fn thread_id(&mut self) -> Value {
        self.op(Opcode::ThreadId, vec![], Imm::None, None)
    }

    /// Memory of the block.
    pub fn shared(&mut self, bytes: i64) -> Value {
        self.op(Opcode::Shared, vec![], Imm::Int(bytes), None)
    }

    /// The block's threads meet.
    pub fn barrier(&mut self) {
        self.effect(Opcode::Barrier, vec![], Imm::None);
    }

    /// `a` of the lane `distance` away by xor.
    pub fn shuffle_xor(&mut self, a: Value, distance: i64) -> Value {
        self.op(Opcode::Shuffle, vec![a], Imm::Int(distance), None)
    }

    /// Read a `ty` at `p + bytes` that nobody writes and nobody reads again.
    pub fn load_stream(&mut self, ty: Type, p: Value, bytes: i64) -> Value {
        self.op(Opcode::LoadStream, vec![p], Imm::Int(bytes), Some(ty))
    }

    /// Two to the power of `a`, about.
    pub fn exp2_approx(&mut self, a: Value) -> Value {
        self.op(Opcode::Exp2, vec![a], Imm::None, None)
    }

    /// Begin to copy `bytes` bytes at `from` to `to` in shared memory.
    pub fn copy_async(&mut self, to: Value, from: Value, bytes: i64) {
        self.effect(Opcode::CopyAsync, vec![to, from], Imm::Int(bytes));
    }

    /// The copies begun become a group.
    pub fn copy_commit(&mut self) {
        self.effect(Opcode::CopyCommit, vec![], Imm::None);
    }

    /// Wait until at most `left` groups are under way.
    pub fn copy_wait(&mut self, left: i64) {
        self.effect(Opcode::CopyWait, vec![], Imm::Int(left));
    }

    /// Elements of matrices in shared memory, as `ty` says; each lane gives the address of a row.
    pub fn load_matrix(&mut self, ty: Type, row: Value, transposed: bool) -> Value {
        self.op(Opcode::LoadMatrix, vec![row], Imm::Int(transposed.into()), Some(ty))
    }

    /// `c + x * y` by a warp, of `f16` or `bf16` as `x` is.
    pub fn mma(&mut self, c: Value, x: Value, y: Value) -> Value {
        let op = if self.ty(x).scalar == Scalar::BF16 { Opcode::MmaBf16 } else { Opcode::MmaF16 };
        self.op(op, vec![c, x, y], Imm::None, None)
    }

    /// `c + x * y` by four warps, `y` being part `part` of columns in shared memory.
    pub fn wgmma(&mut self, c: Value, x: Value, y: Value, part: i64) -> Value {
        self.op(Opcode::WgmmaF16, vec![c, x, y], Imm::Int(part), None)
    }

    /// Add `n` to the `i32` at `p`; what was there.
    pub fn atomic_add(&mut self, p: Value, n: Value) -> Value {
        self.op(Opcode::AtomicAdd, vec![p, n], Imm::None, None)
    }

    /// Order of this thread's writes for the device.
    pub fn fence(&mut self) {
        self.effect(Opcode::Fence, vec![], Imm::None);
    }

    /// Wait for the kernel before.
    pub fn wait_prior(&mut self) {
        self.effect(Opcode::WaitPrior, vec![], Imm::None);
    }

    /// Let the next kernel be launched.
    pub fn launch_next(&mut self) {
        self.effect(Opcode::LaunchNext, vec![], Imm::None);
    }

    /// `a + k`.
    pub fn add_imm(&mut self, a: Value, k: i64) -> Value {
        let k = self.int(self.ty(a), k);
        self.add(a, k)
    }

    /// `a * k`.
    pub fn mul_imm(&mut self, a: Value, k: i64) -> Value {
        let k = self.int(self.ty(a), k);
        self.mul(a, k)
    }

    /// `p + index * stride` bytes.
    pub fn index(&mut self, p: Value, index: Value, stride: i64) -> Value {
        let bytes = self.mul_imm(index, stride);
        self.offset(p, bytes)
    }

    /// `p + bytes`.
    pub fn index_bytes(&mut self, p: Value, bytes: u64) -> Value {
        let n = self.i64(bytes as i64);
        self.offset(p, n)
    }

    /// `for i in (lo..hi).step_by(step)` with carried values; gives their last state.
    pub fn for_(
        &mut self,
        lo: Value,
        hi: Value,
        step: i64,
        init: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let mut args = vec![lo, hi];
        args.extend_from_slice(init);
        let mut params = vec![self.value(Type::I64)];
        for &v in init {
            let ty = self.ty(v);
            params.push(self.value(ty));
        }
        self.open.push(Block { params: params.clone(), ..Block::default() });
        let yields = body(self, params[0], &params[1..]);
        let mut block = self.open.pop().expect("opened above");
        block.yields = yields;
        let results: Vec<Value> = init.iter().map(|&v| self.value(self.ty(v))).collect();
        self.push(Inst { op: Opcode::For, args, imm: Imm::Int(step), results: results.clone(), blocks: vec![block] });
        results
    }

    /// `if cond { then } else { otherwise }`; both arms give values of the same types.
    pub fn if_(
        &mut self,
        cond: Value,
        then: impl FnOnce(&mut Self) -> Vec<Value>,
        otherwise: impl FnOnce(&mut Self) -> Vec<Value>,
    ) -> Vec<Value> {
        self.open.push(Block::default());
        let yields = then(self);
        let mut a = self.open.pop().expect("opened above");
        a.yields = yields;
        self.open.push(Block::default());
        let yields = otherwise(self);
        let mut b = self.open.pop().expect("opened above");
        b.yields = yields;
        let results: Vec<Value> = a.yields.iter().map(|&v| self.value(self.ty(v))).collect();
        self.push(Inst {
            op: Opcode::If,
            args: vec![cond],
            imm: Imm::None,
            results: results.clone(),
            blocks: vec![a, b],
        });
        results
    }

    /// `if cond { then }` for its effect.
    pub fn when(&mut self, cond: Value, then: impl FnOnce(&mut Self)) {
        self.if_(
            cond,
            |b| {
                then(b);
                vec![]
            },
            |_| vec![],
        );
    }
}
