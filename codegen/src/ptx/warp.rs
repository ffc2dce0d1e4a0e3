//! Ops of a whole warp, or of four: shuffles, matrices from shared memory, and their products.

use tilewright_ir::kernel::{Imm, Inst, Opcode, Value, WGMMA_ALIGN};

use super::func::{Class, Opnd, Reg};
use super::isa;
use super::lower::Lower;
use super::value::{Words, count};

/// Upper half of what describes the right factor of `wgmma`: 8 columns take 1024 bytes, in which 16-byte pieces are swizzled
/// within 128 bytes (PTX ISA, "Matrix Descriptor Format").
const DESCRIPTOR: u64 = (WGMMA_ALIGN as u64 >> 4) | 1 << 30;
/// Its lower half without the address, which is counted in 16 bytes; the distance that it states is not used when swizzled.
const DESCRIPTOR_LOW: u64 = 1 << 16;

/// A product of four warps that has not begun.
pub(super) struct Wgmma {
    result: Value,
    sums: Vec<Reg>,
    left: Vec<Reg>,
    right: Reg,
    /// False if the sums start at zero.
    adds: bool,
}

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

    /// Products that follow each other run at the same time, until something else is to be done: [`Lower::end_group`].
    pub(super) fn wgmma(&mut self, inst: &Inst) {
        let (c, result) = (inst.args[0], inst.results[0]);
        let pending = self.group.iter().any(|g| g.result == c);
        // The sums are added to in place, which nobody else may see.
        let in_place = pending && self.demand.uses(c) == 1;
        if pending && !in_place {
            self.end_group();
        }
        let from = self.words(c);
        let adds = from.iter().any(|&w| w != Opnd::Imm(0));
        let sums: Vec<Reg> = from
            .iter()
            .map(|&w| match w {
                Opnd::Reg(r) if in_place => r,
                _ => {
                    let r = self.f.fresh(Class::Word);
                    if adds {
                        self.f.mov(r, w);
                    }
                    r
                }
            })
            .collect();
        let left = self.words(inst.args[1]).iter().map(|&w| self.f.reg(w, Class::Word)).collect();
        let Imm::Int(part) = inst.imm else { unreachable!("verified") };
        let at = self.words(inst.args[2])[0];
        let low = self.f.word("shr.u32", &[at, Opnd::Imm(4)]);
        // 16 elements are 32 bytes.
        let low = self.f.word("add.s32", &[low, Opnd::Imm(DESCRIPTOR_LOW + 2 * part as u64)]);
        let (low, high) = (self.f.reg(low, Class::Word), self.f.reg(Opnd::Imm(DESCRIPTOR), Class::Word));
        let right = self.f.fresh(Class::Double);
        self.f.line(format!("mov.b64 {right}, {{{low}, {high}}};"));
        self.set(result, sums.iter().map(|&r| r.into()).collect());
        self.group.push(Wgmma { result, sums, left, right, adds });
    }

    /// Begins the products that are pending, and waits for them.
    pub(super) fn end_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        if group.is_empty() {
            return;
        }
        self.caps.take(isa::WGMMA);
        let adds = [false, true].map(|adds| self.f.reg(Opnd::Imm(adds.into()), Class::Pred));
        self.f.line("wgmma.fence.sync.aligned;".into());
        for g in group {
            self.f.line(format!(
                "wgmma.mma_async.sync.aligned.m64n{}k16.f32.f16.f16 {}, {}, {}, {}, 1, 1, 0;",
                g.sums.len() * 2,
                list(&g.sums),
                list(&g.left),
                g.right,
                adds[usize::from(g.adds)]
            ));
        }
        self.f.line("wgmma.commit_group.sync.aligned;".into());
        self.f.line("wgmma.wait_group.sync.aligned 0;".into());
    }
}
