//! Which block of a grid is the last: it finishes what the others have begun.

use super::block::{self, Thread};
use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value};

/// Memory by which a block tells its threads whether it is the last.
#[derive(Clone, Copy)]
pub(super) struct Last {
    flag: Value,
}

impl Last {
    /// At the top level of a kernel.
    pub fn new(b: &mut KernelBuilder) -> Last {
        Last { flag: b.shared(4) }
    }

    /// Runs `then` in the last of `all` blocks that get here with this `counter`, an i32 that is 0 before and after. It sees
    /// what all of them wrote before they came here. All threads of a block come here together.
    pub fn when(
        self,
        b: &mut KernelBuilder,
        t: Thread,
        counter: Value,
        all: Value,
        then: impl FnOnce(&mut KernelBuilder),
    ) {
        b.fence();
        b.barrier();
        block::when_first(b, t.id, |b| {
            let one = b.int(Type::I32, 1);
            let before = b.atomic_add(counter, one);
            b.store(before, self.flag, 0);
        });
        b.barrier();
        let before = b.load(Type::I32, self.flag, 0);
        let all = b.trunc(all, Scalar::I32);
        let all = b.add_imm(all, -1);
        let is_last = b.cmp(Pred::Eq, before, all);
        b.when(is_last, |b| {
            b.fence();
            block::when_first(b, t.id, |b| {
                let zero = b.int(Type::I32, 0);
                b.store(zero, counter, 0);
            });
            then(b);
        });
    }
}

/// Copies `n` f32, by the threads of a block.
pub(super) fn copy(b: &mut KernelBuilder, thread: Value, from: Value, to: Value, n: u64) {
    let lanes = block::lanes(&[n * 4], 4);
    let bytes = i64::from(lanes) * 4;
    let end = b.i64((n / u64::from(lanes)) as i64);
    let count = i64::from(b.threads());
    b.for_(thread, end, count, &[], |b, i, _| {
        let [from, to] = [from, to].map(|p| b.index(p, i, bytes));
        let v = b.load(Type::F32.x(lanes), from, 0);
        b.store(v, to, 0);
        vec![]
    });
}
