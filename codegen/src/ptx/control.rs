//! Loops and branches.

use tilewright_ir::kernel::{Imm, Inst, Opcode, Value};

use super::func::{Class, Opnd, Reg};
use super::int::Int;
use super::lower::Lower;
use super::value::{Val, Words, class, count};

impl Lower<'_> {
    /// Registers for a value that differs by the way that leads to it.
    fn registers(&mut self, v: Value) -> Vec<Reg> {
        let ty = self.ty(v);
        (0..count(ty)).map(|_| self.f.fresh(class(ty.scalar))).collect()
    }

    fn set_registers(&mut self, v: Value, registers: &[Reg]) {
        let words: Words = registers.iter().map(|&r| r.into()).collect();
        self.set(v, words);
    }

    /// Moves all of these at once: what is read is what was there before.
    fn move_all(&mut self, to: &[Reg], from: &[Opnd]) {
        let mut from = from.to_vec();
        for i in 0..from.len() {
            let Opnd::Reg(r) = from[i] else { continue };
            if to[..i].contains(&r) {
                let saved = self.f.fresh(r.class);
                self.f.mov(saved, r.into());
                from[i] = saved.into();
            }
        }
        for (&to, &from) in to.iter().zip(&from) {
            self.f.mov(to, from);
        }
    }

    /// The test is made once before the loop, then at its end. A counter that fits 32 bits has 32.
    pub(super) fn for_loop(&mut self, inst: &Inst) {
        let Imm::Int(step) = inst.imm else { unreachable!("verified") };
        let body = &inst.blocks[0];
        let (lo, hi) = (self.int(inst.args[0]), self.int(inst.args[1]));
        let init = &inst.args[2..];
        let (last, never) = (hi.hi.saturating_sub(1), hi.hi <= lo.lo);
        // Whole rounds that are known to be none, or one.
        let once =
            lo.known().zip(hi.known()).is_some_and(|(a, b)| a < b && i128::from(b) - i128::from(a) <= step.into());
        if never || once {
            let mut results: Vec<Val> = init.iter().map(|&v| self.val(v)).collect();
            if once {
                self.set_val(body.params[0], Val::Int(lo));
                for (&p, v) in body.params[1..].iter().zip(results) {
                    self.set_val(p, v);
                }
                self.block(body);
                results = body.yields.iter().map(|&v| self.val(v)).collect();
            }
            for (&r, v) in inst.results.iter().zip(results) {
                self.set_val(r, v);
            }
            return;
        }
        let carried: Vec<Reg> = body.params[1..].iter().flat_map(|&p| self.registers(p)).collect();
        let start: Vec<Opnd> = init.iter().flat_map(|&v| self.words(v)).collect();
        self.move_all(&carried, &start);
        let small = lo.fits() && hi.fits() && hi.hi.saturating_add(step) <= i32::MAX.into();
        let size = if small { Class::Word } else { Class::Double };
        let (first, end) = match small {
            true => (self.f.low(&lo), self.f.low(&hi)),
            false => (self.f.bits(&lo), self.f.bits(&hi)),
        };
        let counter = self.f.fresh(size);
        let after = self.f.label();
        if lo.hi >= hi.lo {
            let name = if small { "setp.ge.s32" } else { "setp.ge.s64" };
            let none = self.f.op(name, Class::Pred, &[first, end]);
            let none = self.f.reg(none, Class::Pred);
            self.f.jump(Some((none, true)), after);
        }
        self.f.mov(counter, first);
        let again = self.f.label();
        self.f.place(again);
        let mark = self.f.enter();
        let i = if small { Int::narrow } else { Int::wide };
        self.set_val(body.params[0], Val::Int(i(counter, lo.lo, last)));
        let mut rest = carried.as_slice();
        for &p in &body.params[1..] {
            let (mine, others) = rest.split_at(count(self.ty(p)));
            self.set_registers(p, mine);
            rest = others;
        }
        self.block(body);
        let next: Vec<Opnd> = body.yields.iter().flat_map(|&v| self.words(v)).collect();
        self.move_all(&carried, &next);
        let more = if small {
            self.f.op_to("add.s32", counter, &[counter.into(), Opnd::Imm(step as u64)]);
            self.f.op("setp.lt.s32", Class::Pred, &[counter.into(), end])
        } else if hi.hi.checked_add(step).is_some() {
            self.f.op_to("add.s64", counter, &[counter.into(), Opnd::Imm(step as u64)]);
            self.f.op("setp.lt.s64", Class::Pred, &[counter.into(), end])
        } else {
            // The counter is below the end, so what is left is exact without a sign, and nothing wraps.
            let left = self.f.op("sub.s64", Class::Double, &[end, counter.into()]);
            self.f.op_to("add.s64", counter, &[counter.into(), Opnd::Imm(step as u64)]);
            self.f.op("setp.gt.u64", Class::Pred, &[left, Opnd::Imm(step as u64)])
        };
        let more = self.f.reg(more, Class::Pred);
        self.f.jump(Some((more, true)), again);
        self.f.leave(mark);
        self.f.place(after);
        let mut rest = carried.as_slice();
        for &r in &inst.results {
            let (mine, others) = rest.split_at(count(self.ty(r)));
            self.set_registers(r, mine);
            rest = others;
        }
    }

    pub(super) fn branch(&mut self, inst: &Inst) {
        let condition = match self.scalar(inst.args[0]) {
            Opnd::Imm(v) => {
                let arm = &inst.blocks[usize::from(v == 0)];
                self.block(arm);
                for (&r, &v) in inst.results.iter().zip(&arm.yields) {
                    let v = self.val(v);
                    self.set_val(r, v);
                }
                return;
            }
            Opnd::Reg(r) => r,
        };
        let [then, otherwise] = [&inst.blocks[0], &inst.blocks[1]];
        // Both arms are written before their results have registers: an i64 that fits 32 bits in both gets 32.
        let mut arms = vec![];
        for arm in [then, otherwise] {
            let (mark, from) = (self.f.enter(), self.f.here());
            self.block(arm);
            let values: Vec<Val> = arm.yields.iter().map(|&v| self.val(v)).collect();
            arms.push((values, self.f.cut(from)));
            self.f.leave(mark);
        }
        let mut registers = vec![];
        for (k, &r) in inst.results.iter().enumerate() {
            let ints = match (&arms[0].0[k], &arms[1].0[k]) {
                (Val::Int(a), Val::Int(b)) if a.fits() && b.fits() => Some((a.lo.min(b.lo), a.hi.max(b.hi))),
                _ => None,
            };
            match ints {
                Some((lo, hi)) => {
                    let reg = self.f.fresh(Class::Word);
                    registers.push(vec![reg]);
                    self.set_val(r, Val::Int(Int::narrow(reg, lo, hi)));
                }
                None => {
                    let mine = self.registers(r);
                    self.set_registers(r, &mine);
                    registers.push(mine);
                }
            }
        }
        let (else_, end) = (self.f.label(), self.f.label());
        let mut written = vec![];
        for (arm, (values, lines)) in [then, otherwise].into_iter().zip(arms) {
            let from = self.f.here();
            self.f.paste(lines);
            let mark = self.f.enter();
            for ((mine, value), &v) in registers.iter().zip(values).zip(&arm.yields) {
                let words: Words = match value {
                    Val::Int(i) if mine[0].class == Class::Word => [self.f.low(&i)].into_iter().collect(),
                    _ => self.words(v),
                };
                mine.iter().zip(words).for_each(|(&to, from)| self.f.mov(to, from));
            }
            self.f.leave(mark);
            written.push(self.f.cut(from));
        }
        let other = written.pop().unwrap_or_default();
        let first = written.pop().unwrap_or_default();
        match (first.is_empty(), other.is_empty()) {
            (true, true) => {}
            (false, true) => {
                self.f.jump(Some((condition, false)), end);
                self.f.paste(first);
            }
            (true, false) => {
                self.f.jump(Some((condition, true)), end);
                self.f.paste(other);
            }
            (false, false) => {
                self.f.jump(Some((condition, false)), else_);
                self.f.paste(first);
                self.f.jump(None, end);
                self.f.place(else_);
                self.f.paste(other);
            }
        }
        self.f.place(end);
    }

    /// Ops that only say in which order things happen.
    pub(super) fn order(&mut self, inst: &Inst) {
        // What threads wrote to shared memory is to be seen by `wgmma`, which reads it by another way.
        if inst.op == Opcode::Barrier && super::has(self.kernel, Opcode::WgmmaF16) {
            self.f.line("fence.proxy.async.shared::cta;".into());
        }
        let line = match inst.op {
            Opcode::Barrier => "bar.sync 0;",
            Opcode::Fence if self.caps.take(super::isa::FENCE) => "fence.acq_rel.gpu;",
            Opcode::WaitPrior if self.caps.take(super::isa::DEPENDENT) => "griddepcontrol.wait;",
            Opcode::LaunchNext if self.caps.take(super::isa::DEPENDENT) => "griddepcontrol.launch_dependents;",
            // Where kernels cannot overlap, there is nothing to wait for.
            _ => return,
        };
        self.f.line(line.into());
    }
}
