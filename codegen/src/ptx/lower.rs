//! The walk over a kernel: each op goes to the file that knows it.

use std::fmt::Write;

use smallvec::smallvec;
use tilewright_ir::kernel::{Block, Imm, Inst, Kernel, Opcode, Scalar, Type, Value};

use super::demand::{Demand, Spaces};
use super::func::{Class, Func, Known, Opnd, Reg};
use super::int::Int;
use super::isa::Caps;
use super::memory::SHARED;
use super::value::{Val, Words, class, packed, replicate};
use super::warp::Wgmma;

/// A kernel on its way to text.
pub(super) struct Lower<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) caps: &'a mut Caps,
    pub(super) f: Func,
    pub(super) spaces: Spaces,
    /// Bytes of shared memory that have a place.
    pub(super) shared: u32,
    /// Size of each `local`.
    pub(super) locals: Vec<i64>,
    pub(super) demand: Demand,
    /// Products of four warps that follow each other: they run at the same time.
    pub(super) group: Vec<Wgmma>,
    values: Vec<Option<Val>>,
}

/// The entry of a kernel that the back end has checked. `caps` takes note of what it needs.
pub(super) fn entry(kernel: &Kernel, caps: &mut Caps) -> String {
    let mut l = Lower {
        kernel,
        caps,
        f: Func::default(),
        spaces: Spaces::of(kernel),
        shared: 0,
        locals: vec![],
        demand: Demand::of(kernel),
        group: vec![],
        values: vec![None; kernel.types.len()],
    };
    l.pointers();
    let top = super::top_wait(kernel);
    if top.is_none() {
        l.scalars();
    }
    for (i, inst) in kernel.body.insts.iter().enumerate() {
        l.inst(inst);
        if top == Some(i) {
            l.scalars();
        }
    }
    l.end_group();
    l.f.line("ret;".into());
    let mut out = String::new();
    let params: Vec<String> =
        (0..kernel.params.len()).map(|i| format!("\n    .param .u64 {}", param(kernel, i))).collect();
    let _ = writeln!(out, "\n.visible .entry {}({}\n)", kernel.name, params.join(","));
    let _ = writeln!(out, ".maxntid {}, 1, 1", kernel.threads);
    if kernel.resident > 0 {
        let _ = writeln!(out, ".minnctapersm {}", kernel.resident);
    }
    out.push_str("{\n");
    for (i, bytes) in l.locals.iter().enumerate() {
        let _ = writeln!(out, "    .local .align 64 .b8 local_{i}[{bytes}];");
    }
    out.push_str(&l.f.text());
    out.push_str("}\n");
    out
}

fn param(kernel: &Kernel, i: usize) -> String {
    format!("{}_param_{i}", kernel.name)
}

impl Lower<'_> {
    fn load_param(&mut self, i: usize) -> Reg {
        let r = self.f.fresh(Class::Double);
        let name = param(self.kernel, i);
        self.f.line(format!("ld.param.u64 {r}, [{name}];"));
        r
    }

    fn pointers(&mut self) {
        for (i, p) in self.kernel.params.iter().enumerate().filter(|(_, p)| self.kernel.ty(p.value) == Type::PTR) {
            let r = self.load_param(i);
            self.values[p.value.0 as usize] = Some(Val::Ptr(r, 0));
        }
    }

    fn scalars(&mut self) {
        for (i, p) in self.kernel.params.iter().enumerate().filter(|(_, p)| self.kernel.ty(p.value) == Type::I64) {
            let (at, r) = (self.load_param(i), self.f.fresh(Class::Double));
            self.f.line(format!("ld.global.b64 {r}, [{at}];"));
            self.values[p.value.0 as usize] = Some(Val::Int(Int::any(r.into())));
        }
    }

    pub(super) fn ty(&self, v: Value) -> Type {
        self.kernel.ty(v)
    }

    /// The value as it is.
    pub(super) fn val(&self, v: Value) -> Val {
        self.values[v.0 as usize].clone().expect("verified: defined before it is used")
    }

    pub(super) fn set_val(&mut self, v: Value, val: Val) {
        self.values[v.0 as usize] = Some(val);
    }

    /// The value as registers and constants.
    pub(super) fn words(&mut self, v: Value) -> Words {
        match self.val(v) {
            Val::Words(w) => w,
            Val::Int(i) => smallvec![self.f.bits(&i)],
            Val::Ptr(base, 0) => smallvec![base.into()],
            Val::Ptr(base, more) => smallvec![self.plus(base, more, "add.s64").into()],
            Val::Shared(base, more) => smallvec![self.shared_pointer(base, more).into()],
        }
    }

    /// A register plus bytes.
    pub(super) fn plus(&mut self, base: Reg, more: i64, name: &str) -> Reg {
        self.f.once(Known::Plus(base, more), |f| {
            let r = f.fresh(base.class);
            f.op_to(name, r, &[base.into(), Opnd::Imm(more as u64)]);
            r
        })
    }

    /// Where shared memory begins.
    pub(super) fn shared_base(&mut self) -> Reg {
        self.f.once(Known::Shared, |f| {
            let r = f.fresh(Class::Word);
            f.line(format!("mov.b32 {r}, {SHARED};"));
            r
        })
    }

    pub(super) fn shared_pointer(&mut self, base: Option<Reg>, more: i64) -> Reg {
        let base = base.unwrap_or_else(|| self.shared_base());
        if more == 0 { base } else { self.plus(base, more, "add.s32") }
    }

    /// The only register or constant of a scalar.
    pub(super) fn scalar(&mut self, v: Value) -> Opnd {
        self.words(v)[0]
    }

    pub(super) fn int(&self, v: Value) -> Int {
        match self.val(v) {
            Val::Int(i) => i,
            _ => unreachable!("verified: an i64"),
        }
    }

    /// Sets a value from registers.
    pub(super) fn set(&mut self, v: Value, words: Words) {
        let val = match self.ty(v) {
            Type::I64 => Val::Int(Int::any(words[0])),
            Type::PTR => Val::Ptr(self.f.reg(words[0], Class::Double), 0),
            Type::SHARED => Val::Shared(Some(self.f.reg(words[0], Class::Word)), 0),
            _ => Val::Words(words),
        };
        self.set_val(v, val);
    }

    pub(super) fn set_scalar(&mut self, v: Value, o: Opnd) {
        self.set(v, smallvec![o]);
    }

    /// The instructions of a block.
    pub(super) fn block(&mut self, block: &Block) {
        block.insts.iter().for_each(|inst| self.inst(inst));
        self.end_group();
    }

    fn inst(&mut self, inst: &Inst) {
        use Opcode::*;
        if !self.demand.wants(inst) {
            return;
        }
        if inst.op != WgmmaF16 {
            self.end_group();
        }
        match inst.op {
            Const => self.constant(inst),
            Add | Sub | Mul | Div | Fma | Neg | Abs | Sqrt | Floor | Nearest | Fmin | Fmax => self.arithmetic(inst),
            Smin | Smax | And | Or | Xor | Shl | ShrU | ShrS | DivS | RemS => self.arithmetic(inst),
            Cmp => self.cmp(inst),
            Select => self.select(inst),
            Sext | Zext | Trunc | IntToF | FToInt | Fext | Fround | Bitcast => self.convert(inst),
            Splat | Extract | Insert | Low | High | Swap | Swizzle => self.lanes(inst),
            Sum | MaxLane => self.reduce(inst),
            Dot4 | Dot4U7 => self.dot(inst),
            Exp2 => {
                let words = self.words(inst.args[0]);
                let words = words.iter().map(|&w| self.f.word("ex2.approx.ftz.f32", &[w])).collect();
                self.set(inst.results[0], words);
            }
            Load | LoadStream => self.load(inst),
            Store => self.store(inst),
            Prefetch => self.prefetch(inst),
            Offset => self.offset(inst),
            Local => self.local(inst),
            Shared => self.shared(inst),
            CopyAsync => self.copy_async(inst),
            CopyCommit | CopyWait => self.copy_group(inst),
            AtomicAdd => self.atomic(inst),
            ChunkId => self.special(inst, "%ctaid.x", i32::MAX.into()),
            ThreadId => self.special(inst, "%tid.x", i64::from(self.kernel.threads) - 1),
            Barrier | Fence | WaitPrior | LaunchNext => self.order(inst),
            Shuffle => self.shuffle(inst),
            LoadMatrix => self.load_matrix(inst),
            MmaF16 | MmaBf16 => self.mma(inst),
            WgmmaF16 => self.wgmma(inst),
            For => self.for_loop(inst),
            If => self.branch(inst),
            Dot2 | TileZero | TileLoad | TileStore | TileDot => unreachable!("checked"),
        }
    }

    fn constant(&mut self, inst: &Inst) {
        let ty = self.ty(inst.results[0]);
        let bits = match inst.imm {
            Imm::Float(v) if ty.scalar == Scalar::F32 => u64::from((v as f32).to_bits()),
            Imm::Float(v) => v.to_bits(),
            Imm::Int(v) => v as u64,
            _ => 0,
        };
        let mask = match class(ty.scalar) {
            Class::Pred => 1,
            Class::Double => u64::MAX,
            _ => u32::MAX.into(),
        };
        let bits = packed(ty.scalar).map_or(bits, |n| replicate(n, bits)) & mask;
        self.set(inst.results[0], smallvec![Opnd::Imm(bits); super::value::count(ty)]);
    }

    fn special(&mut self, inst: &Inst, name: &str, most: i64) {
        let r = self.f.fresh(Class::Word);
        self.f.line(format!("mov.u32 {r}, {name};"));
        self.set_val(inst.results[0], Val::Int(Int::narrow(r, 0, most)));
    }
}
