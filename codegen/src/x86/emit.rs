//! From allocated registers to bytes: frame, moves, branches, constants.
//!
//! A kernel is its constants, padded to 64 bytes, and its code behind them: position independent, without relocations.

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, Instruction, InstructionBlock, MemoryOperand, OpCodeOperandKind, OpKind,
    Register,
};
use regalloc2::{Allocation, Edit, Function, Inst, InstOrEdit, Output, PReg, RegClass};
use rustc_hash::FxHashMap;

use super::func::{Action, Base, Func, Label, MInst, Mem, Opd};
use super::isa::Kind;
use super::regs::{self, CALLEE_SAVED};

/// Where the code is while it is encoded; the constants end there.
const ORIGIN: u64 = 0x1000_0000;
const PAGE: i64 = 4096;

/// Code of a kernel.
pub(super) struct Emitted {
    /// Constants, then code.
    pub(super) bytes: Vec<u8>,
    /// Where the code begins, a multiple of 64.
    pub(super) entry: usize,
    /// The instructions, for checks and for people.
    pub(super) insts: Vec<Instruction>,
}

struct Emit<'a> {
    f: &'a Func,
    out: &'a Output,
    evex: bool,
    width: u32,
    pool: u64,
    /// Bytes of spill slots; private memory comes after.
    spills: i64,
    frame: i64,
    saved: Vec<Register>,
    insts: Vec<Instruction>,
    /// Labels that wait for the next instruction, and the number of each label's instruction.
    pending: Vec<Label>,
    places: FxHashMap<Label, u64>,
}

/// Encodes `f` with the registers of `out`; `frame` bytes of private memory, constants `pool`.
pub(super) fn emit(f: &Func, out: &Output, frame: i64, pool: &[u8], evex: bool, width: u32) -> Result<Emitted, String> {
    let mut constants = pool.to_vec();
    constants.resize(pool.len().next_multiple_of(64), 0);
    let spills = (out.num_spillslots as i64 * 8 + 63) & !63;
    let mut e = Emit {
        f,
        out,
        evex,
        width,
        pool: ORIGIN - constants.len() as u64,
        spills,
        frame: spills + frame,
        saved: saved(f, out),
        insts: vec![],
        pending: vec![],
        places: FxHashMap::default(),
    };
    e.prologue()?;
    e.blocks()?;
    e.resolve();
    let block = InstructionBlock::new(&e.insts, ORIGIN);
    let code = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE).map_err(|e| e.to_string())?;
    let entry = constants.len();
    constants.extend_from_slice(&code.code_buffer);
    Ok(Emitted { bytes: constants, entry, insts: e.insts })
}

/// Callee-saved registers that the code writes.
fn saved(f: &Func, out: &Output) -> Vec<Register> {
    let mut used = [false; 16];
    let mut see = |a: Allocation| {
        if let Some(r) = a.as_reg().filter(|r| r.class() == RegClass::Int) {
            used[r.hw_enc()] = true;
        }
    };
    (0..f.num_insts()).for_each(|i| out.inst_allocs(Inst::new(i)).iter().for_each(|&a| see(a)));
    out.edits.iter().for_each(|(_, Edit::Move { from, to })| [from, to].into_iter().for_each(|&a| see(a)));
    CALLEE_SAVED.into_iter().filter(|&n| used[n]).map(|n| regs::name(PReg::new(n, RegClass::Int), Kind::R64)).collect()
}

fn iced(e: iced_x86::IcedError) -> String {
    e.to_string()
}

impl Emit<'_> {
    fn push(&mut self, mut inst: Instruction) {
        if !self.pending.is_empty() {
            let place = self.places.len() as u64 + 1;
            inst.set_ip(place);
            for label in self.pending.drain(..) {
                self.places.insert(label, place);
            }
        }
        self.insts.push(inst);
    }

    fn prologue(&mut self) -> Result<(), String> {
        if self.frame > 0 {
            self.push(Instruction::with1(Code::Push_r64, Register::RBP).map_err(iced)?);
            self.push(Instruction::with2(Code::Mov_rm64_r64, Register::RBP, Register::RSP).map_err(iced)?);
        }
        for r in self.saved.clone() {
            self.push(Instruction::with1(Code::Push_r64, r).map_err(iced)?);
        }
        if self.frame > 0 {
            self.push(Instruction::with2(Code::Sub_rm64_imm32, Register::RSP, self.frame as i32).map_err(iced)?);
            self.push(Instruction::with2(Code::And_rm64_imm8, Register::RSP, -64).map_err(iced)?);
            // Pages of the stack in order, so that it grows.
            for at in (0..self.frame / PAGE).rev() {
                let m = MemoryOperand::with_base_displ(Register::RSP, at * PAGE);
                self.push(Instruction::with2(Code::Or_rm32_imm8, m, 0).map_err(iced)?);
            }
        }
        Ok(())
    }

    fn epilogue(&mut self) -> Result<(), String> {
        if self.frame > 0 {
            let m = MemoryOperand::with_base_displ(Register::RBP, -8 * self.saved.len() as i64);
            self.push(Instruction::with2(Code::Lea_r64_m, Register::RSP, m).map_err(iced)?);
        }
        for r in self.saved.clone().into_iter().rev() {
            self.push(Instruction::with1(Code::Pop_r64, r).map_err(iced)?);
        }
        if self.frame > 0 {
            self.push(Instruction::with1(Code::Pop_r64, Register::RBP).map_err(iced)?);
        }
        self.push(Instruction::with(Code::VEX_Vzeroupper));
        self.push(Instruction::with(Code::Retnq));
        Ok(())
    }

    /// A block that is one jump without moves: where it goes.
    fn thread(&self, label: Label) -> Label {
        let block = self.f.block(label);
        let mut steps = self.out.block_insts_and_edits(self.f, block);
        match (steps.next(), steps.next()) {
            (Some(InstOrEdit::Inst(i)), None) => match &self.f.insts[i.index()].action {
                Action::Jump(to, _) => self.thread(*to),
                _ => label,
            },
            _ => label,
        }
    }

    fn blocks(&mut self) -> Result<(), String> {
        // Blocks that are only a jump are passed over: whoever goes there goes on at once. The entry stays.
        let order: Vec<Label> = self.f.order.clone();
        let kept: Vec<Label> =
            order.iter().enumerate().filter(|&(i, &l)| i == 0 || self.thread(l) == l).map(|(_, &l)| l).collect();
        for (i, &label) in kept.iter().enumerate() {
            let next = kept.get(i + 1).copied();
            self.pending.push(label);
            let (f, out) = (self.f, self.out);
            for step in out.block_insts_and_edits(f, f.block(label)) {
                match step {
                    InstOrEdit::Edit(Edit::Move { from, to }) => self.mov(*from, *to)?,
                    InstOrEdit::Inst(i) => self.inst(i, next)?,
                }
            }
        }
        Ok(())
    }

    fn jump(&mut self, code: Code, to: Label) -> Result<(), String> {
        // The label's number for now; `resolve` puts in its place.
        self.push(Instruction::with_branch(code, u64::from(to.0)).map_err(iced)?);
        Ok(())
    }

    fn inst(&mut self, i: Inst, next: Option<Label>) -> Result<(), String> {
        let inst = &self.f.insts[i.index()];
        match &inst.action {
            Action::Args => Ok(()),
            Action::Code(code) => {
                let encoded = self.encode(*code, inst, self.out.inst_allocs(i))?;
                self.push(encoded);
                Ok(())
            }
            Action::Jump(to, _) => {
                let to = self.thread(*to);
                if Some(to) == next { Ok(()) } else { self.jump(Code::Jmp_rel32_64, to) }
            }
            Action::Branch(code, yes, no) => {
                let (yes, no) = (self.thread(*yes), self.thread(*no));
                if Some(yes) == next {
                    return self.jump(code.negate_condition_code(), no);
                }
                self.jump(*code, yes)?;
                if Some(no) == next { Ok(()) } else { self.jump(Code::Jmp_rel32_64, no) }
            }
            Action::Return => self.epilogue(),
        }
    }

    fn encode(&self, code: Code, inst: &MInst, allocs: &[Allocation]) -> Result<Instruction, String> {
        let mut out = Instruction::default();
        out.set_code(code);
        let mut allocs = allocs.iter();
        let mut reg = || -> Result<PReg, String> {
            allocs.next().and_then(|a| a.as_reg()).ok_or_else(|| format!("{code:?}: an operand has no register"))
        };
        let mut first = None;
        for (n, opd) in (0u32..).zip(&inst.opds) {
            match *opd {
                Opd::Use(_, k) | Opd::Def(_, k) | Opd::Mod { kind: k, .. } => {
                    let mut r = reg()?;
                    if matches!(opd, Opd::Mod { .. }) {
                        r = reg()?;
                    }
                    first = first.or(Some(r));
                    set_register(&mut out, n, regs::name(r, k));
                }
                Opd::Again(k) => {
                    let r = first.ok_or("nothing to repeat")?;
                    set_register(&mut out, n, regs::name(r, k));
                }
                Opd::Fixed(r) => set_register(&mut out, n, r),
                Opd::Mem(mem) => {
                    let base = if let Base::Reg(_) = mem.base { Some(reg()?) } else { None };
                    let index = if mem.index.is_some() { Some(reg()?) } else { None };
                    self.memory(&mut out, n, mem, base, index);
                }
                Opd::Control(v) => immediate(&mut out, code, n, i64::from(v))?,
                Opd::Imm(v) => immediate(&mut out, code, n, v)?,
            }
        }
        if let Some((k, zero)) = inst.mask {
            out.set_op_mask(k);
            out.set_zeroing_masking(zero);
        }
        Ok(out)
    }

    fn memory(&self, out: &mut Instruction, n: u32, mem: Mem, base: Option<PReg>, index: Option<PReg>) {
        out.set_op_kind(n, OpKind::Memory);
        let (base, disp) = match (mem.base, base) {
            (Base::Frame, _) => (Register::RSP, self.spills + mem.disp),
            (Base::Pool, _) => (Register::RIP, (self.pool as i64) + mem.disp),
            (_, Some(r)) => (regs::name(r, Kind::R64), mem.disp),
            _ => (Register::None, mem.disp),
        };
        out.set_memory_base(base);
        if let Some(r) = index {
            out.set_memory_index(regs::name(r, Kind::R64));
        }
        out.set_memory_index_scale(mem.scale);
        out.set_memory_displacement64(disp as u64);
        let size = if base == Register::RIP { 8 } else { u32::from(disp != 0) };
        out.set_memory_displ_size(size);
        out.set_is_broadcast(mem.broadcast);
    }

    /// A move that the allocator asks for. None of these touch the flags.
    fn mov(&mut self, from: Allocation, to: Allocation) -> Result<(), String> {
        let class = from.as_reg().or(to.as_reg()).ok_or("a move from stack to stack")?.class();
        let slot =
            |a: Allocation| a.as_stack().map(|s| MemoryOperand::with_base_displ(Register::RSP, 8 * s.index() as i64));
        let vector = class == RegClass::Float;
        let kind = if vector { Kind::vector(self.width) } else { Kind::R64 };
        let (load, store) = match (vector, self.evex) {
            (false, _) => (Code::Mov_r64_rm64, Code::Mov_rm64_r64),
            (true, true) if self.width == 512 => {
                (Code::EVEX_Vmovaps_zmm_k1z_zmmm512, Code::EVEX_Vmovaps_zmmm512_k1z_zmm)
            }
            (true, true) => (Code::EVEX_Vmovaps_ymm_k1z_ymmm256, Code::EVEX_Vmovaps_ymmm256_k1z_ymm),
            (true, false) => (Code::VEX_Vmovaps_ymm_ymmm256, Code::VEX_Vmovaps_ymmm256_ymm),
        };
        let name = |r: PReg| regs::name(r, kind);
        let inst = match (from.as_reg(), to.as_reg()) {
            (Some(f), Some(t)) => Instruction::with2(load, name(t), name(f)),
            (Some(f), None) => Instruction::with2(store, slot(to).ok_or("a move to nowhere")?, name(f)),
            (None, Some(t)) => Instruction::with2(load, name(t), slot(from).ok_or("a move from nowhere")?),
            (None, None) => return Err("a move from stack to stack".into()),
        };
        self.push(inst.map_err(iced)?);
        Ok(())
    }

    /// Turns labels in branches into the numbers of their instructions.
    fn resolve(&mut self) {
        for inst in &mut self.insts {
            if inst.op_count() == 1 && inst.op0_kind() == OpKind::NearBranch64 {
                let label = Label(inst.near_branch64() as u32);
                inst.set_near_branch64(self.places.get(&label).copied().unwrap_or(0));
            }
        }
    }
}

fn set_register(out: &mut Instruction, n: u32, r: Register) {
    out.set_op_kind(n, OpKind::Register);
    out.set_op_register(n, r);
}

fn immediate(out: &mut Instruction, code: Code, n: u32, v: i64) -> Result<(), String> {
    let kind = match code.op_code().op_kind(n) {
        OpCodeOperandKind::imm8 => OpKind::Immediate8,
        OpCodeOperandKind::imm8sex16 => OpKind::Immediate8to16,
        OpCodeOperandKind::imm8sex32 => OpKind::Immediate8to32,
        OpCodeOperandKind::imm8sex64 => OpKind::Immediate8to64,
        OpCodeOperandKind::imm32 => OpKind::Immediate32,
        OpCodeOperandKind::imm32sex64 => OpKind::Immediate32to64,
        OpCodeOperandKind::imm64 => OpKind::Immediate64,
        other => return Err(format!("{code:?}: an immediate where {other:?} is wanted")),
    };
    out.set_op_kind(n, kind);
    match kind {
        OpKind::Immediate8 => out.set_immediate8(v as u8),
        OpKind::Immediate32 => out.set_immediate32(v as u32),
        OpKind::Immediate64 => out.set_immediate64(v as u64),
        OpKind::Immediate8to16 => out.set_immediate8to16(v as i16),
        OpKind::Immediate8to32 => out.set_immediate8to32(v as i32),
        OpKind::Immediate8to64 => out.set_immediate8to64(v),
        _ => out.set_immediate32to64(v),
    }
    Ok(())
}
