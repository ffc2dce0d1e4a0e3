//! Ops of a whole warp: shuffles, matrices from shared memory, and their products.

use tilewright_ir::kernel::{Imm, Inst, Opcode};

use super::func::{Class, Opnd, Reg};
use super::isa;
use super::lower::Lower;
use super::value::{Words, count};

fn list(registers: &[Reg]) -> String {
    let names: Vec<String> = registers.iter().map(Reg::to_string).collect();
    format!("{{{}}}", names.join(", "))
}

impl Lower<'_> {
    pub(super) fn shuffle(&mut self, inst: &Inst) {
        let Imm::Int(distance) = inst.imm else { unreachable!("verified") };
        let mut out = Words::new();
        for w in self.words(inst.args[0]) {
            let (from, to) = (self.f.reg(w, Class::Word), self.f.fresh(Class::Word));
            self.f.line(format!("shfl.sync.bfly.b32 {to}, {from}, {distance}, 31, -1;"));
            out.push(to.into());
        }
        self.set(inst.results[0], out);
    }

    pub(super) fn load_matrix(&mut self, inst: &Inst) {
        // Every target has it.
        self.caps.take(isa::LOAD_MATRIX);
        let n = count(self.ty(inst.results[0]));
        let to: Vec<Reg> = (0..n).map(|_| self.f.fresh(Class::Word)).collect();
        let row = self.shared_row(inst.args[0]);
        let transposed = if inst.imm == Imm::Int(1) { ".trans" } else { "" };
        self.f.line(format!("ldmatrix.sync.aligned.m8n8.x{n}{transposed}.shared.b16 {}, {row};", list(&to)));
        self.set(inst.results[0], to.into_iter().map(Opnd::Reg).collect());
    }

    pub(super) fn mma(&mut self, inst: &Inst) {
        let [c, a, b] = [0, 1, 2].map(|k| {
            let words = self.words(inst.args[k]);
            words.iter().map(|&w| self.f.reg(w, Class::Word)).collect::<Vec<Reg>>()
        });
        let ty = if inst.op == Opcode::MmaF16 { "f16" } else { "bf16" };
        // Registers of a step: without the deep product, two of half the depth, one after the other.
        let steps: &[(&str, &[usize], &[usize])] = match self.caps.take(isa::MMA_K16) {
            true => &[("m16n8k16", &[0, 1, 2, 3], &[0, 1])],
            false => &[("m16n8k8", &[0, 1], &[0]), ("m16n8k8", &[2, 3], &[1])],
        };
        if steps.len() > 1 {
            self.caps.take(isa::MMA_K8);
        }
        let mut sum = c;
        for (shape, left, right) in steps {
            let d: Vec<Reg> = (0..4).map(|_| self.f.fresh(Class::Word)).collect();
            let pick = |of: &[Reg], which: &[usize]| list(&which.iter().map(|&i| of[i]).collect::<Vec<_>>());
            self.f.line(format!(
                "mma.sync.aligned.{shape}.row.col.f32.{ty}.{ty}.f32 {}, {}, {}, {};",
                list(&d),
                pick(&a, left),
                pick(&b, right),
                list(&sum)
            ));
            sum = d;
        }
        self.set(inst.results[0], sum.into_iter().map(Opnd::Reg).collect());
    }
}
