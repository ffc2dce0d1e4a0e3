//! Blocks, instructions and control flow: the walk over a kernel, loops and branches as basic blocks.
//!
//! A loop is `enter -> head .. -> back -> head`, `done`: the back edge has a block of its own for the moves of what is
//! carried, which vanishes where there are none. Bounds that are not constants get a test in front, and `exit` joins both.

use iced_x86::{Code, Mnemonic};
use regalloc2::VReg;
use smallvec::smallvec;
use tilewright_ir::kernel::{Block, Imm, Inst, Opcode, Scalar, Value, inst_line};

use super::{Lower, Pieces, Val, const_bits, in_vector, lane_bits, shape};
use crate::backend::Unsupported;
use crate::x86::func::{Action, Base, Label, MInst, Mem, Opd};
use crate::x86::isa::Kind;

impl Lower<'_> {
    pub(super) fn block(&mut self, block: &Block) {
        for inst in &block.insts {
            let before = self.unsupported.len();
            self.lower_inst(inst);
            self.note_bits(inst);
            if self.unsupported.len() > before {
                let line = inst_line(self.kernel, inst);
                let found = self.unsupported.split_off(before);
                self.unsupported.extend(found.into_iter().map(|u| Unsupported {
                    reason: if u.inst.is_empty() { u.reason } else { format!("{} {}", u.inst, u.reason) },
                    inst: line.clone(),
                    ..u
                }));
            }
            if let Some(&r) = inst.results.first()
                && self.tables[r.0 as usize]
            {
                let table = self.reg(r);
                let wide = self.repeat_128(table);
                self.wide_tables.insert(r, wide);
            }
        }
    }

    fn lower_inst(&mut self, inst: &Inst) {
        use Opcode::*;
        let a = |i: usize| inst.args[i];
        let imm = match inst.imm {
            Imm::Int(v) => v,
            _ => 0,
        };
        match inst.op {
            Store | TileStore | For | If => self.force_waiting(),
            _ => {}
        }
        let Some(&r) = inst.results.first() else {
            return match inst.op {
                Store => self.store(a(0), a(1), imm),
                Prefetch => self.prefetch(a(0), imm),
                TileZero | TileLoad | TileStore | TileDot => self.tile(inst),
                For => self.for_loop(inst),
                If => self.branch(inst),
                _ => {}
            };
        };
        let ty = self.ty(r);
        let val = match inst.op {
            Const => Val::Const(const_bits(ty.scalar, inst.imm)),
            For => return self.for_loop(inst),
            If => return self.branch(inst),
            Load => return self.load(r, a(0), imm),
            Store | Prefetch | TileZero | TileLoad | TileStore | TileDot => return,
            Offset => self.offset(r, a(0), a(1)),
            Local => {
                let mem = Mem::at(Base::Frame, self.frame);
                self.frame += (imm + 63) & !63;
                Val::Address(mem)
            }
            ChunkId => Val::Regs(smallvec![self.chunk.expect("set at entry")]),
            Bitcast => self.bitcast(r, a(0), ty),
            Splat => self.splat(r, a(0), ty),
            Low => self.half(a(0), false),
            High => self.half(a(0), true),
            Extract => self.extract(a(0), imm),
            Insert => self.insert(a(0), a(1), imm),
            Swizzle => self.swizzle(a(0), a(1)),
            Sum => self.reduce(Add, a(0)),
            MaxLane => self.reduce(Fmax, a(0)),
            Dot4 => self.dot4(r, false, a(0), a(1), a(2)),
            Dot4U7 => self.dot4(r, true, a(0), a(1), a(2)),
            Dot2 => self.dot2(a(0), a(1), a(2)),
            Swap => self.swap(a(0), imm),
            Sext | Zext => self.extend(inst.op == Sext, a(0), ty),
            Trunc => self.truncate(a(0), ty),
            IntToF => self.int_to_float(a(0), ty),
            FToInt => self.float_to_int(a(0)),
            Fext => self.float_extend(a(0), ty),
            Fround => self.float_round(a(0), ty),
            Cmp => self.compare(inst.imm, a(0), a(1)),
            Select => self.select(a(0), a(1), a(2)),
            Shl | ShrU | ShrS if ty.lanes == 1 => self.scalar_shift(inst.op, a(0), a(1)),
            Shl | ShrU | ShrS => self.shift(inst.op, a(0), a(1)),
            Fma => self.fma(a(0), a(1), a(2)),
            Neg | Abs | Sqrt | Floor | Nearest => self.unary(inst.op, a(0)),
            _ if ty.lanes == 1 && !in_vector(ty.scalar) => self.scalar_binary(inst.op, a(0), a(1)),
            _ => self.binary(inst.op, a(0), a(1)),
        };
        self.set(r, val);
    }

    fn jump(&mut self, to: Label, args: Vec<VReg>) {
        self.f.push(MInst::new(Action::Jump(to, args)));
    }

    fn begin(&mut self, label: Label, params: Vec<VReg>) {
        self.products.clear();
        self.splits.clear();
        self.patterns.clear();
        self.f.begin(label, params);
    }

    /// New registers like those of `v`, and the values made of them.
    fn like(&mut self, v: Value, mask_bits: Option<u32>) -> (Val, Pieces) {
        let ty = self.ty(v);
        let lane = mask_bits.unwrap_or(lane_bits(ty.scalar));
        let n = if ty.lanes == 1 { 1 } else { shape(ty, lane, self.caps.width).1 };
        let vector = ty.lanes > 1 || in_vector(ty.scalar);
        let p: Pieces = (0..n).map(|_| if vector { self.vec() } else { self.gpr() }).collect();
        (if ty.lanes > 1 && ty.scalar == Scalar::I1 { Val::Mask(p.clone(), lane) } else { Val::Regs(p.clone()) }, p)
    }

    /// Registers of values that a jump carries.
    fn carried(&mut self, values: &[Value], mask_bits: &[Option<u32>]) -> Vec<VReg> {
        let mut out = vec![];
        for (&v, bits) in values.iter().zip(mask_bits) {
            match bits {
                Some(bits) => out.extend(self.mask(v, *bits)),
                None => out.extend(self.regs(v)),
            }
        }
        out
    }

    fn bits_of_masks(&self, values: &[Value]) -> Vec<Option<u32>> {
        let is_mask = |v: Value| self.ty(v).scalar == Scalar::I1 && self.ty(v).lanes > 1;
        values.iter().map(|&v| is_mask(v).then(|| self.mask_bits(v).unwrap_or(32))).collect()
    }

    fn for_loop(&mut self, inst: &Inst) {
        let body = &inst.blocks[0];
        let (lo, hi, init) = (inst.args[0], inst.args[1], &inst.args[2..]);
        let Imm::Int(step) = inst.imm else { return };
        let bounds = self.int_constant(lo).zip(self.int_constant(hi));
        if let Some((from, to)) = bounds {
            if from >= to {
                for (&r, &v) in inst.results.iter().zip(init) {
                    self.settle(v);
                    let val = self.val(v).clone();
                    self.set(r, val);
                }
                return;
            }
            if i128::from(step) >= i128::from(to) - i128::from(from) {
                return self.once(inst, from);
            }
        }
        let masks = self.bits_of_masks(init);
        let start = self.carried(init, &masks);
        let first = self.reg(lo);
        let end =
            if self.int_constant(hi).is_some_and(|h| i32::try_from(h).is_ok()) { None } else { Some(self.reg(hi)) };
        let (head, back, done) = (self.f.label(), self.f.label(), self.f.label());
        let guard = bounds.is_none().then(|| (self.f.label(), self.f.label(), self.f.label()));
        if let Some((enter, skip, _)) = guard {
            self.compare_bound(first, hi, end);
            self.f.push(MInst::new(Action::Branch(Code::Jl_rel32_64, enter, skip)));
            self.begin(enter, vec![]);
        }
        self.jump(head, [&[first], &start[..]].concat());

        let counter = self.gpr();
        let mut params = vec![counter];
        self.set(body.params[0], Val::Regs(smallvec![counter]));
        for ((&p, &v), bits) in body.params[1..].iter().zip(init).zip(&masks) {
            let (val, regs) = self.like(v, *bits);
            self.set(p, val);
            params.extend(regs);
        }
        self.begin(head, params);
        self.block(body);
        self.force_waiting();
        let yields = self.carried(&body.yields, &masks);
        let next = self.gpr();
        self.scalar_inst(Mnemonic::Add, &[Opd::Mod { old: counter, new: next, kind: Kind::R64 }, Opd::Imm(step)]);
        self.compare_bound(next, hi, end);
        self.f.push(MInst::new(Action::Branch(Code::Jl_rel32_64, back, done)));
        self.begin(back, vec![]);
        self.jump(head, [&[next], &yields[..]].concat());
        self.begin(done, vec![]);
        let results = |l: &mut Self| {
            let mut params = vec![];
            for ((&r, &v), bits) in inst.results.iter().zip(init).zip(&masks) {
                let (val, regs) = l.like(v, *bits);
                l.set(r, val);
                params.extend(regs);
            }
            params
        };
        match guard {
            None => {
                let mut at = yields.into_iter();
                for ((&r, &v), bits) in inst.results.iter().zip(init).zip(&masks) {
                    let (val, regs) = self.like(v, *bits);
                    let taken: Pieces = at.by_ref().take(regs.len()).collect();
                    self.set(r, if let Val::Mask(_, b) = val { Val::Mask(taken, b) } else { Val::Regs(taken) });
                }
            }
            Some((_, skip, exit)) => {
                self.jump(exit, yields);
                self.begin(skip, vec![]);
                self.jump(exit, start);
                let params = results(self);
                self.begin(exit, params);
            }
        }
    }

    /// A loop with one round is its body.
    fn once(&mut self, inst: &Inst, from: i64) {
        let body = &inst.blocks[0];
        self.set(body.params[0], Val::Const(from as u64));
        for (&p, &v) in body.params[1..].iter().zip(&inst.args[2..]) {
            self.regs_unless_constant(v);
            let val = self.val(v).clone();
            self.set(p, val);
        }
        self.block(body);
        self.force_waiting();
        for (&r, &y) in inst.results.iter().zip(&body.yields) {
            self.settle(y);
            let val = self.val(y).clone();
            self.set(r, val);
        }
    }

    /// Finishes what only one user in this block may find unfinished.
    fn settle(&mut self, v: Value) {
        if matches!(self.val(v), Val::Pairs(_)) {
            self.regs(v);
        }
    }

    fn regs_unless_constant(&mut self, v: Value) {
        if !matches!(self.val(v), Val::Const(_) | Val::Mask(..)) {
            self.regs(v);
        }
    }

    fn compare_bound(&mut self, i: VReg, hi: Value, end: Option<VReg>) {
        let bound = match (end, self.int_constant(hi)) {
            (None, Some(h)) => Opd::Imm(h),
            (Some(r), _) => Opd::Use(r, Kind::R64),
            (None, None) => return,
        };
        self.scalar_inst(Mnemonic::Cmp, &[Opd::Use(i, Kind::R64), bound]);
    }

    fn branch(&mut self, inst: &Inst) {
        let (yes, no, join) = (self.f.label(), self.f.label(), self.f.label());
        let c = self.reg(inst.args[0]);
        self.scalar_inst(Mnemonic::Test, &[Opd::Use(c, Kind::R32), Opd::Use(c, Kind::R32)]);
        self.f.push(MInst::new(Action::Branch(Code::Jne_rel32_64, yes, no)));
        let mut masks = vec![];
        for (label, block) in [yes, no].into_iter().zip(&inst.blocks) {
            self.begin(label, vec![]);
            self.block(block);
            self.force_waiting();
            if label == yes {
                masks = self.bits_of_masks(&block.yields);
            }
            let args = self.carried(&block.yields, &masks);
            self.jump(join, args);
        }
        let mut params = vec![];
        for (&r, bits) in inst.results.iter().zip(&masks) {
            let (val, regs) = self.like(r, *bits);
            self.set(r, val);
            params.extend(regs);
        }
        self.begin(join, params);
    }
}
