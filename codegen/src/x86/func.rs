//! Machine instructions on virtual registers, in basic blocks: what the lowering writes and the register allocator reads.

use iced_x86::{Code, Register};
use regalloc2::{Block, Function, Inst, InstRange, Operand, PReg, PRegSet, RegClass, VReg};
use smallvec::SmallVec;

use super::isa::Kind;

/// Where a memory operand starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Base {
    Reg(VReg),
    /// Private memory of the kernel.
    Frame,
    /// Constants of the kernel.
    Pool,
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mem {
    pub(super) base: Base,
    pub(super) index: Option<VReg>,
    pub(super) scale: u32,
    pub(super) disp: i64,
    /// One element, to every lane.
    pub(super) broadcast: bool,
}

impl Mem {
    pub(super) fn at(base: Base, disp: i64) -> Mem {
        Mem { base, index: None, scale: 1, disp, broadcast: false }
    }

    pub(super) fn plus(self, bytes: i64) -> Mem {
        Mem { disp: self.disp + bytes, ..self }
    }
}

/// An operand, in the assembler's order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opd {
    Use(VReg, Kind),
    Def(VReg, Kind),
    /// Read and written: `new` takes the register of `old`.
    Mod {
        old: VReg,
        new: VReg,
        kind: Kind,
    },
    /// The register of the first operand once more.
    Again(Kind),
    Mem(Mem),
    /// A number, in the shortest form that the instruction has.
    Imm(i64),
    /// The control byte of a vector instruction.
    Control(u8),
    /// A register by name: masks, `cl`.
    Fixed(Register),
}

impl Opd {
    pub(super) fn kind(&self) -> Kind {
        match *self {
            Opd::Use(_, k) | Opd::Def(_, k) | Opd::Again(k) | Opd::Mod { kind: k, .. } => k,
            Opd::Mem(_) => Kind::Mem,
            Opd::Control(_) => Kind::Imm8,
            Opd::Imm(v) if i8::try_from(v).is_ok() => Kind::Imm8,
            Opd::Imm(v) if i32::try_from(v).is_ok() => Kind::Imm32,
            Opd::Imm(_) => Kind::Imm64,
            Opd::Fixed(Register::CL) => Kind::Cl,
            Opd::Fixed(r) if r.is_tmm() => Kind::Tmm,
            Opd::Fixed(_) => Kind::K,
        }
    }
}

/// A basic block that is not yet placed; blocks are numbered in the order in which they are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label(pub(super) u32);

/// What an instruction does.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// A machine instruction.
    Code(Code),
    /// Defines the kernel's arguments; no code.
    Args,
    /// Goes to the block with its parameters.
    Jump(Label, Vec<VReg>),
    /// Conditional jump: code, where to if it holds, where to if not.
    Branch(Code, Label, Label),
    /// The end.
    Return,
}

/// A register that an instruction reads or writes besides its operands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinned {
    pub(super) reg: VReg,
    pub(super) at: PReg,
    pub(super) def: bool,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(super) struct MInst {
    pub(super) action: Action,
    pub(super) opds: SmallVec<[Opd; 4]>,
    pub(super) pinned: SmallVec<[Pinned; 2]>,
    /// Mask register and whether lanes outside of it become zero.
    pub(super) mask: Option<(Register, bool)>,
}

impl MInst {
    pub(super) fn new(action: Action) -> MInst {
        MInst { action, opds: SmallVec::new(), pinned: SmallVec::new(), mask: None }
    }
}

#[derive(Clone, Debug, Default)]
struct BlockData {
    first: usize,
    end: usize,
    params: Vec<VReg>,
    succs: Vec<Block>,
    preds: Vec<Block>,
}

/// A kernel as machine instructions. After [`Func::finish`] the allocator can read it.
#[derive(Clone, Debug, Default)]
pub(super) struct Func {
    pub(super) insts: Vec<MInst>,
    blocks: Vec<BlockData>,
    /// Block of each label.
    labels: Vec<Option<Block>>,
    /// Blocks in order of filling, with their labels.
    pub(super) order: Vec<Label>,
    vregs: usize,
    operands: Vec<SmallVec<[Operand; 6]>>,
    pub(super) vector_slot: usize,
}

impl Func {
    pub(super) fn vreg(&mut self, class: RegClass) -> VReg {
        self.vregs += 1;
        VReg::new(self.vregs - 1, class)
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() as u32 - 1)
    }

    /// Begins the block of `label`; the block before must have been ended by a jump, branch or return.
    pub(super) fn begin(&mut self, label: Label, params: Vec<VReg>) {
        let at = self.insts.len();
        self.labels[label.0 as usize] = Some(Block::new(self.blocks.len()));
        self.blocks.push(BlockData { first: at, end: at, params, ..BlockData::default() });
        self.order.push(label);
    }

    pub(super) fn push(&mut self, inst: MInst) {
        self.insts.push(inst);
        if let Some(block) = self.blocks.last_mut() {
            block.end = self.insts.len();
        }
    }

    pub(super) fn block(&self, label: Label) -> Block {
        self.labels[label.0 as usize].expect("every label is placed")
    }

    /// Links blocks and lists operands for the allocator.
    pub(super) fn finish(&mut self) {
        for b in 0..self.blocks.len() {
            let succs: Vec<Block> = match &self.insts[self.blocks[b].end - 1].action {
                Action::Jump(to, _) => vec![self.block(*to)],
                Action::Branch(_, yes, no) => vec![self.block(*yes), self.block(*no)],
                _ => vec![],
            };
            for s in &succs {
                self.blocks[s.index()].preds.push(Block::new(b));
            }
            self.blocks[b].succs = succs;
        }
        self.operands = self.insts.iter().map(operands).collect();
    }
}

/// Registers of an instruction in a fixed order, which [`super::emit`] walks again.
fn operands(inst: &MInst) -> SmallVec<[Operand; 6]> {
    let mut out = SmallVec::new();
    for opd in &inst.opds {
        match *opd {
            Opd::Use(r, _) => out.push(Operand::reg_use(r)),
            Opd::Def(r, _) => out.push(Operand::reg_def(r)),
            Opd::Mod { old, new, .. } => {
                out.push(Operand::reg_use(old));
                out.push(Operand::reg_reuse_def(new, out.len() - 1));
            }
            Opd::Mem(m) => {
                if let Base::Reg(r) = m.base {
                    out.push(Operand::reg_use(r));
                }
                out.extend(m.index.map(Operand::reg_use));
            }
            Opd::Again(_) | Opd::Imm(_) | Opd::Control(_) | Opd::Fixed(_) => {}
        }
    }
    for p in &inst.pinned {
        let new = if p.def { Operand::reg_fixed_def } else { Operand::reg_fixed_use };
        out.push(new(p.reg, p.at));
    }
    out
}

impl Function for Func {
    fn num_insts(&self) -> usize {
        self.insts.len()
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn entry_block(&self) -> Block {
        Block::new(0)
    }

    fn block_insns(&self, block: Block) -> InstRange {
        let b = &self.blocks[block.index()];
        InstRange::new(Inst::new(b.first), Inst::new(b.end))
    }

    fn block_succs(&self, block: Block) -> &[Block] {
        &self.blocks[block.index()].succs
    }

    fn block_preds(&self, block: Block) -> &[Block] {
        &self.blocks[block.index()].preds
    }

    fn block_params(&self, block: Block) -> &[VReg] {
        &self.blocks[block.index()].params
    }

    fn is_ret(&self, insn: Inst) -> bool {
        matches!(self.insts[insn.index()].action, Action::Return)
    }

    fn is_branch(&self, insn: Inst) -> bool {
        matches!(self.insts[insn.index()].action, Action::Jump(..) | Action::Branch(..))
    }

    fn branch_blockparams(&self, _: Block, insn: Inst, _: usize) -> &[VReg] {
        match &self.insts[insn.index()].action {
            Action::Jump(_, args) => args,
            _ => &[],
        }
    }

    fn inst_operands(&self, insn: Inst) -> &[Operand] {
        &self.operands[insn.index()]
    }

    fn inst_clobbers(&self, _: Inst) -> PRegSet {
        PRegSet::empty()
    }

    fn num_vregs(&self) -> usize {
        self.vregs
    }

    fn spillslot_size(&self, class: RegClass) -> usize {
        if class == RegClass::Float { self.vector_slot } else { 1 }
    }
}
