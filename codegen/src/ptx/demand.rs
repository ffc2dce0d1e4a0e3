//! What a kernel needs of what it says: instructions whose results nobody uses are left out, and pointers get the space
//! they point into.

use tilewright_ir::kernel::{Block, Inst, Kernel, Opcode, Type, Value};

/// True if an instruction does something besides its results.
fn acts(inst: &Inst) -> bool {
    use Opcode::*;
    let op = matches!(
        inst.op,
        Store | Prefetch | Barrier | CopyAsync | CopyCommit | CopyWait | AtomicAdd | Fence | WaitPrior | LaunchNext
    );
    op || inst.blocks.iter().any(|b| b.insts.iter().any(acts))
}

/// How often values are used by something that matters.
pub(super) struct Demand(Vec<u32>);

impl Demand {
    pub(super) fn of(kernel: &Kernel) -> Demand {
        let mut d = Demand(vec![0; kernel.types.len()]);
        d.block(&kernel.body);
        d
    }

    /// True if the instruction is to be there.
    pub(super) fn wants(&self, inst: &Inst) -> bool {
        acts(inst) || inst.results.iter().any(|&r| self.uses(r) > 0)
    }

    /// Number of uses.
    pub(super) fn uses(&self, v: Value) -> u32 {
        self.0[v.0 as usize]
    }

    fn block(&mut self, block: &Block) {
        for inst in block.insts.iter().rev() {
            if self.wants(inst) {
                inst.blocks.iter().for_each(|b| self.mark(&b.yields));
                inst.blocks.iter().for_each(|b| self.block(b));
                self.mark(&inst.args);
            }
        }
    }

    fn mark(&mut self, values: &[Value]) {
        values.iter().for_each(|v| self.0[v.0 as usize] += 1);
    }
}

/// Where a pointer points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Space {
    /// Not seen yet.
    #[default]
    None,
    Global,
    Local,
    /// One or the other.
    Either,
}

impl Space {
    fn join(self, other: Space) -> Space {
        match (self, other) {
            (Space::None, s) | (s, Space::None) => s,
            (a, b) if a == b => a,
            _ => Space::Either,
        }
    }
}

/// The space of each `ptr` value.
pub(super) struct Spaces(Vec<Space>);

impl Spaces {
    pub(super) fn of(kernel: &Kernel) -> Spaces {
        let mut s = Spaces(vec![Space::None; kernel.types.len()]);
        kernel.params.iter().for_each(|p| s.0[p.value.0 as usize] = Space::Global);
        while s.block(kernel, &kernel.body) {}
        s
    }

    pub(super) fn get(&self, v: Value) -> Space {
        self.0[v.0 as usize]
    }

    /// True if a pointer may point into either space: then all pointers of the kernel are generic addresses.
    pub(super) fn mixed(&self) -> bool {
        self.0.contains(&Space::Either)
    }

    /// One round; true if something changed.
    fn block(&mut self, kernel: &Kernel, block: &Block) -> bool {
        let mut changed = false;
        for inst in &block.insts {
            match inst.op {
                Opcode::Local => changed |= self.flow(kernel, Space::Local, inst.results[0]),
                Opcode::Offset => changed |= self.flow(kernel, self.get(inst.args[0]), inst.results[0]),
                Opcode::Select => changed |= self.flows(kernel, &[inst.args[1], inst.args[2]], &[inst.results[0]; 2]),
                Opcode::For => {
                    let body = &inst.blocks[0];
                    changed |= self.flows(kernel, &inst.args[2..], &body.params[1..]);
                    changed |= self.block(kernel, body);
                    changed |= self.flows(kernel, &body.yields, &body.params[1..]);
                    changed |= self.flows(kernel, &body.params[1..], &inst.results);
                }
                Opcode::If => {
                    for arm in &inst.blocks {
                        changed |= self.block(kernel, arm);
                        changed |= self.flows(kernel, &arm.yields, &inst.results);
                    }
                }
                _ => {}
            }
        }
        changed
    }

    fn flows(&mut self, kernel: &Kernel, from: &[Value], to: &[Value]) -> bool {
        from.iter().zip(to).fold(false, |changed, (&a, &b)| self.flow(kernel, self.get(a), b) | changed)
    }

    fn flow(&mut self, kernel: &Kernel, space: Space, to: Value) -> bool {
        let new = self.get(to).join(space);
        let changed = kernel.ty(to) == Type::PTR && new != self.get(to);
        if changed {
            self.0[to.0 as usize] = new;
        }
        changed
    }
}
