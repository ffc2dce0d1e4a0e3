//! Driver of the lowering: values as pieces, constants, control flow, and the table from ops to their lowerings.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, BlockArg, ConstantData, Endianness, InstBuilder, MemFlagsData, types};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::FunctionBuilder;
use tilewright_ir::kernel::{Block, Imm, Inst, Kernel, Opcode, Scalar, Type, Value, inst_line};

use super::fold::{Folded, folded};
use super::{each_inst, internal};
use crate::backend::CodegenError;
use crate::target::Target;

/// CLIF values that make up one IR value: a scalar, or 128-bit vectors in order of lanes. Lanes beyond the type's are
/// arbitrary.
pub(super) type Pieces = Vec<ir::Value>;

/// Instructions of the target that the lowering chooses by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    pub(super) x86: bool,
    /// An instruction for the whole of `dot4_us`.
    pub(super) dot: bool,
}

impl Caps {
    pub(super) fn of(target: &Target) -> Caps {
        let x86 = target.arch() == "x86_64";
        let vnni = target.has("avxvnni") || target.has("avx512vnni") && target.has("avx512vl");
        Caps { x86, dot: if x86 { vnni } else { target.has("i8mm") } }
    }
}

/// Vector constants of loops that are loaded once, at function entry. More would cost registers that loops need.
const HOISTED: usize = 4;

type ConstKey = (ir::Type, u64);

/// What `dot4_us` without an instruction of its own masks with.
const LOW_BYTES: ConstKey = (types::I16X8, 0xff);

pub(super) struct Lower<'k, 'f> {
    pub(super) kernel: &'k Kernel,
    pub(super) b: FunctionBuilder<'f>,
    pub(super) caps: Caps,
    values: Vec<Pieces>,
    consts: HashMap<ConstKey, ir::Value>,
    chunk: ir::Value,
    /// Loads that are emitted at their splat.
    pub(super) folded: HashMap<Value, Folded>,
    /// 16-bit halves of bytes in the current block, see `arith::dot4`.
    pub(super) halves: HashMap<(ir::Value, bool), [ir::Value; 2]>,
}

/// Fills the function of `b` with the code of a verified kernel.
pub(super) fn lower(
    kernel: &Kernel,
    caps: Caps,
    mut b: FunctionBuilder<'_>,
    config: TargetFrontendConfig,
) -> Result<(), CodegenError> {
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let (pointers, scalars, chunk) = match b.block_params(entry) {
        &[p, s, c] => (p, s, c),
        _ => return Err(internal(&kernel.name, &"unexpected signature")),
    };
    let values = vec![vec![]; kernel.types.len()];
    let (consts, folded) = (HashMap::new(), folded(kernel));
    let mut l = Lower { kernel, b, caps, values, consts, chunk, folded, halves: HashMap::new() };
    let mut next = [0i32; 2];
    for p in &kernel.params {
        let (array, k) = if kernel.ty(p.value) == Type::PTR { (pointers, 0) } else { (scalars, 1) };
        let v = l.b.ins().load(types::I64, MemFlagsData::trusted(), array, next[k]);
        next[k] += 8;
        l.set(p.value, vec![v]);
    }
    l.hoist();
    l.insts(&kernel.body)?;
    l.b.ins().return_(&[]);
    l.b.seal_all_blocks();
    l.b.finalize(config);
    Ok(())
}

/// CLIF type of one lane.
pub(super) fn lane_type(s: Scalar) -> ir::Type {
    match s {
        Scalar::I1 | Scalar::I8 => types::I8,
        Scalar::I16 | Scalar::F16 | Scalar::BF16 => types::I16,
        Scalar::I32 | Scalar::Shared => types::I32,
        Scalar::I64 | Scalar::Ptr => types::I64,
        Scalar::F32 => types::F32,
        Scalar::F64 => types::F64,
    }
}

/// CLIF type of a full vector of such lanes. Truth values made from nothing have 32 bits.
pub(super) fn vector_type(s: Scalar) -> ir::Type {
    match s {
        Scalar::I1 => types::I32X4,
        _ => full(lane_type(s)),
    }
}

/// The 128-bit vector of `lane`.
pub(super) fn full(lane: ir::Type) -> ir::Type {
    lane.by(128 / lane.bits()).unwrap_or(types::I8X16)
}

/// Number of pieces that hold `lanes` lanes of `bits` bits.
pub(super) fn count(lanes: u16, bits: u32) -> usize {
    (usize::from(lanes) * bits as usize).div_ceil(128)
}

impl Lower<'_, '_> {
    pub(super) fn ty(&self, v: Value) -> Type {
        self.kernel.ty(v)
    }

    pub(super) fn get(&self, v: Value) -> Pieces {
        self.values[v.0 as usize].clone()
    }

    pub(super) fn scalar(&self, v: Value) -> ir::Value {
        self.values[v.0 as usize][0]
    }

    fn set(&mut self, v: Value, pieces: Pieces) {
        self.values[v.0 as usize] = pieces;
    }

    pub(super) fn clif_type(&self, v: ir::Value) -> ir::Type {
        self.b.func.dfg.value_type(v)
    }

    /// The same bits as another 128-bit type: no instruction.
    pub(super) fn cast(&mut self, v: ir::Value, to: ir::Type) -> ir::Value {
        if self.clif_type(v) == to {
            return v;
        }
        self.b.ins().bitcast(to, MemFlagsData::new().with_endianness(Endianness::Little), v)
    }

    pub(super) fn cast_all(&mut self, pieces: &[ir::Value], to: ir::Type) -> Pieces {
        pieces.iter().map(|&v| self.cast(v, to)).collect()
    }

    /// A vector of type `ty` with the low bits of `lane` in every lane.
    pub(super) fn splat_const(&mut self, ty: ir::Type, lane: u64) -> ir::Value {
        let bits = ty.lane_bits();
        let lane = lane & (u64::MAX >> (64 - bits));
        if let Some(&v) = self.consts.get(&(ty, lane)) {
            return v;
        }
        let bytes: Vec<u8> = lane.to_le_bytes()[..bits as usize / 8].iter().copied().cycle().take(16).collect();
        let handle = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(ty, handle)
    }

    /// Loads constants that loops use at function entry.
    fn hoist(&mut self) {
        let mut keys: Vec<(ConstKey, usize)> = vec![];
        let (kernel, dot) = (self.kernel, self.caps.dot);
        let mut visit = |inst: &Inst| {
            let key = match inst.op {
                Opcode::Dot4 if !dot => Some(LOW_BYTES),
                _ => const_key(kernel, inst),
            };
            let Some(key) = key else { return };
            match keys.iter_mut().find(|(k, _)| *k == key) {
                Some((_, n)) => *n += 1,
                None => keys.push((key, 1)),
            }
        };
        for inst in &kernel.body.insts {
            inst.blocks.iter().for_each(|b| each_inst(b, &mut visit));
        }
        keys.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        for ((ty, lane), _) in keys.into_iter().take(HOISTED) {
            let v = self.splat_const(ty, lane);
            self.consts.insert((ty, lane), v);
        }
    }

    fn constant(&mut self, ty: Type, imm: Imm) -> Pieces {
        let bits = const_bits(ty.scalar, imm);
        if ty.lanes > 1 {
            let vector = vector_type(ty.scalar);
            // All lanes of a true mask are ones.
            let lane = if ty.scalar == Scalar::I1 { bits.wrapping_neg() } else { bits };
            let v = self.splat_const(vector, lane);
            return vec![v; count(ty.lanes, vector.lane_bits())];
        }
        vec![match ty.scalar {
            Scalar::F32 => self.b.ins().f32const(f32::from_bits(bits as u32)),
            Scalar::F64 => self.b.ins().f64const(f64::from_bits(bits)),
            s => self.int(lane_type(s), bits as i64),
        }]
    }

    /// A scalar integer constant, cut to its type.
    pub(super) fn int(&mut self, ty: ir::Type, v: i64) -> ir::Value {
        self.b.ins().iconst(ty, (v as u64 & (u64::MAX >> (64 - ty.bits()))) as i64)
    }

    fn insts(&mut self, block: &Block) -> Result<(), CodegenError> {
        block.insts.iter().try_for_each(|inst| self.inst(inst))
    }

    fn enter(&mut self, block: ir::Block) {
        self.b.switch_to_block(block);
        self.halves.clear();
    }

    fn append_params(&mut self, block: ir::Block, like: &[Pieces]) -> Vec<Pieces> {
        let mut params = Vec::with_capacity(like.len());
        for pieces in like {
            let types: Vec<ir::Type> = pieces.iter().map(|&v| self.clif_type(v)).collect();
            params.push(types.into_iter().map(|t| self.b.append_block_param(block, t)).collect());
        }
        params
    }

    /// Values that leave a block as arguments of a jump; masks get the width of those in `like`.
    fn yields(&mut self, block: &Block, like: &[Pieces]) -> Vec<Pieces> {
        let same_type = |l: &mut Self, (&v, like): (&Value, &Pieces)| {
            let pieces = l.get(v);
            match (pieces.first(), like.first()) {
                (Some(&p), Some(&q)) if l.clif_type(p) != l.clif_type(q) => {
                    let lane = l.clif_type(q).lane_bits();
                    l.mask_width(pieces, l.ty(v).lanes, lane)
                }
                _ => pieces,
            }
        };
        block.yields.iter().zip(like).map(|pair| same_type(self, pair)).collect()
    }

    /// `for`: a test at the entry and one branch an iteration; or, where loads can fold into the body's instructions,
    /// a test at the head, because they fold into values used once only and two exits are two uses.
    fn for_loop(&mut self, inst: &Inst) -> Result<(), CodegenError> {
        let (lo, hi) = (self.scalar(inst.args[0]), self.scalar(inst.args[1]));
        let init: Vec<Pieces> = inst.args[2..].iter().map(|&v| self.get(v)).collect();
        let body = &inst.blocks[0];
        let fold = |r: &Value| self.folded.get(r).is_some_and(|f| f.once);
        let at_head = body.insts.iter().any(|i| i.results.iter().any(fold));
        let (head, exit) = (self.b.create_block(), self.b.create_block());
        let i = self.b.append_block_param(head, types::I64);
        let carried = self.append_params(head, &init);
        let results = if at_head { carried.clone() } else { self.append_params(exit, &init) };
        if at_head {
            self.b.ins().jump(head, &args(Some(lo), &init));
            self.enter(head);
            let body = self.b.create_block();
            let enters = self.b.ins().icmp(IntCC::SignedLessThan, i, hi);
            self.b.ins().brif(enters, body, &[], exit, &[]);
            self.enter(body);
        } else {
            let enters = self.b.ins().icmp(IntCC::SignedLessThan, lo, hi);
            self.b.ins().brif(enters, head, &args(Some(lo), &init), exit, &args(None, &init));
            self.enter(head);
        }
        self.set(body.params[0], vec![i]);
        for (&p, pieces) in body.params[1..].iter().zip(&carried) {
            self.set(p, pieces.clone());
        }
        self.insts(body)?;
        let yields = self.yields(body, &init);
        let step = if let Imm::Int(step) = inst.imm { step } else { 1 };
        let next = self.b.ins().iadd_imm_s(i, step);
        if at_head {
            self.b.ins().jump(head, &args(Some(next), &yields));
        } else {
            let again = self.b.ins().icmp(IntCC::SignedLessThan, next, hi);
            self.b.ins().brif(again, head, &args(Some(next), &yields), exit, &args(None, &yields));
        }
        self.enter(exit);
        for (&r, pieces) in inst.results.iter().zip(results) {
            self.set(r, pieces);
        }
        Ok(())
    }

    fn branch(&mut self, inst: &Inst) -> Result<(), CodegenError> {
        let condition = self.scalar(inst.args[0]);
        let [then, otherwise, join] = [(); 3].map(|()| self.b.create_block());
        self.b.ins().brif(condition, then, &[], otherwise, &[]);
        self.enter(then);
        self.insts(&inst.blocks[0])?;
        let like: Vec<Pieces> = inst.blocks[0].yields.iter().map(|&v| self.get(v)).collect();
        let results = self.append_params(join, &like);
        self.b.ins().jump(join, &args(None, &like));
        self.enter(otherwise);
        self.insts(&inst.blocks[1])?;
        let yields = self.yields(&inst.blocks[1], &like);
        self.b.ins().jump(join, &args(None, &yields));
        self.enter(join);
        for (&r, pieces) in inst.results.iter().zip(results) {
            self.set(r, pieces);
        }
        Ok(())
    }

    fn inst(&mut self, inst: &Inst) -> Result<(), CodegenError> {
        use Opcode::*;
        let a = &inst.args;
        let to = inst.results.first().map_or(Type::I64, |&r| self.ty(r));
        let pieces = match inst.op {
            For => return self.for_loop(inst),
            If => return self.branch(inst),
            Const => self.constant(to, inst.imm),
            ChunkId => vec![self.chunk],
            Add | Sub | Mul | Div | Fmin | Fmax | Smin | Smax | And | Or | Xor | DivS | RemS => {
                self.binary(inst.op, a[0], a[1])
            }
            Neg | Abs | Sqrt | Floor | Nearest => self.unary(inst.op, a[0]),
            Fma => self.fma(a[0], a[1], a[2]),
            Shl | ShrU | ShrS => self.shift(inst.op, a[0], a[1]),
            Cmp => self.compare(inst.imm, a[0], a[1]),
            Select => self.select(a[0], a[1], a[2]),
            Dot4 | Dot4U7 => self.dot4(a[0], a[1], a[2]),
            Swap => self.swap(a[0], int_imm(inst)),
            Prefetch => return Ok(()),
            Sext | Zext => self.extend(inst.op == Sext, a[0], to),
            Trunc => self.truncate(a[0], to),
            IntToF => self.int_to_float(a[0], to),
            FToInt => self.float_to_int(a[0]),
            Fext => self.widen_float(a[0], to),
            Fround => self.narrow_float(a[0], to),
            Bitcast => self.bitcast(a[0], to),
            Splat => self.splat(a[0], to),
            Extract => self.extract(a[0], int_imm(inst)),
            Insert => self.insert(a[0], a[1], int_imm(inst)),
            Low => self.half(a[0], false),
            High => self.half(a[0], true),
            Swizzle => self.swizzle(a[0], a[1]),
            Sum => self.reduce(Add, a[0]),
            MaxLane => self.reduce(Fmax, a[0]),
            Load if inst.results.first().is_some_and(|r| self.folded.contains_key(r)) => return Ok(()),
            Load => self.load(a[0], int_imm(inst), to),
            Store => {
                self.store(a[0], a[1], int_imm(inst));
                return Ok(());
            }
            Offset => {
                let (p, by) = (self.scalar(a[0]), self.scalar(a[1]));
                vec![self.b.ins().iadd(p, by)]
            }
            Local => vec![self.local(int_imm(inst))],
            // `check` has refused them.
            Dot2 | TileZero | TileLoad | TileStore | TileDot => vec![],
            ThreadId | Shared | Barrier | Shuffle | CopyAsync | CopyCommit | CopyWait | LoadMatrix | MmaF16
            | MmaBf16 | WgmmaF16 | LoadStream | Exp2 | AtomicAdd | Fence | WaitPrior | LaunchNext => vec![],
        };
        let (&[r], false) = (&inst.results[..], pieces.is_empty()) else {
            let message = format!("`{}` has no lowering", inst_line(self.kernel, inst));
            return Err(internal(&self.kernel.name, &message));
        };
        self.set(r, pieces);
        Ok(())
    }
}

fn int_imm(inst: &Inst) -> i64 {
    if let Imm::Int(v) = inst.imm { v } else { 0 }
}

fn args(first: Option<ir::Value>, pieces: &[Pieces]) -> Vec<BlockArg> {
    first.into_iter().chain(pieces.iter().flatten().copied()).map(BlockArg::Value).collect()
}

fn const_bits(s: Scalar, imm: Imm) -> u64 {
    match (s, imm) {
        (Scalar::F32, Imm::Float(v)) => u64::from((v as f32).to_bits()),
        (_, Imm::Float(v)) => v.to_bits(),
        (Scalar::I1, Imm::Int(v)) => u64::from(v != 0),
        (_, Imm::Int(v)) => v as u64,
        _ => 0,
    }
}

/// The vector constant an instruction makes, if it is worth a register: zeros and ones are made without a load.
fn const_key(kernel: &Kernel, inst: &Inst) -> Option<ConstKey> {
    let ty = kernel.ty(*inst.results.first()?);
    if inst.op != Opcode::Const || ty.lanes == 1 || ty.scalar == Scalar::I1 {
        return None;
    }
    let vector = vector_type(ty.scalar);
    let ones = u64::MAX >> (64 - vector.lane_bits());
    let lane = const_bits(ty.scalar, inst.imm) & ones;
    (lane != 0 && lane != ones).then_some((vector, lane))
}
