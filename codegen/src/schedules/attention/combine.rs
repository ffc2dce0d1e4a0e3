//! Merging what the parts of a split attention found.

use super::split::record_bytes;
use super::{Output, Split};
use crate::schedules::{Operands, Params, Schedule, operands};
use tilewright_ir::kernel::{Kernel, KernelBuilder};

/// Second half of an attention with split keys, for one token. Arguments: partial results, out; scalars: past. One chunk:
/// nine heads are less work than waking a second worker.
///
/// Made by [`super::Attention::combine`].
#[derive(Clone, Debug)]
pub struct AttentionCombine {
    pub(super) split: Split,
    pub(super) output: Output,
    pub(super) heads: u64,
}

impl AttentionCombine {
    /// Bytes of the partial results.
    pub(in crate::schedules) fn scratch_bytes(&self) -> u64 {
        self.heads * self.split.splits * record_bytes(self.split.head_dim)
    }

    /// Elements of the result, and bytes from row to row if it is f32.
    pub(in crate::schedules) fn output(&self) -> (u64, Option<u64>) {
        (self.output.width, self.output.stride)
    }
}

impl Schedule for AttentionCombine {
    fn signature(&self) -> String {
        let Split { splits, window, head_dim } = self.split;
        format!("attention_combine h{} d{head_dim} n{splits} win{window} ys{:?}", self.heads, self.output.stride)
    }

    fn chunks(&self, _: &Params) -> u32 {
        1
    }

    fn operands(&self) -> Operands {
        operands::combine(self)
    }

    fn build(&self, name: &str, _: &Params) -> Kernel {
        let mut b = KernelBuilder::new(name);
        let parts = b.ptr_param("parts");
        let out = b.ptr_param("out");
        let past = b.int_param("past");
        let lanes = self.output.lanes();
        let live = self.split.live(&mut b, past);
        let (zero, one) = (b.i64(0), b.i64(1));
        let heads = b.i64(self.heads as i64);
        b.for_(zero, heads, 1, &[], |b, head, _| {
            // The first part always has keys.
            let first = self.split.load_max(b, parts, head, zero);
            let max = b.for_(one, live, 1, &[first], |b, part, max| {
                let m = self.split.load_max(b, parts, head, part);
                vec![b.fmax(m, max[0])]
            })[0];
            let none = b.f32(lanes, 0.0);
            let mut init = vec![b.f32(1, 0.0)];
            init.resize(1 + (self.split.head_dim / u64::from(lanes)) as usize, none);
            let sums = b.for_(zero, live, 1, &init, |b, part, sums| {
                let (acc, m, l) = self.split.load(b, parts, head, part, lanes);
                let d = b.sub(m, max);
                let weight = b.exp(d);
                let mut next = vec![b.fma(l, weight, sums[0])];
                let weight = b.splat(weight, lanes);
                next.extend(acc.into_iter().zip(&sums[1..]).map(|(v, &s)| b.fma(v, weight, s)));
                next
            });
            self.output.store(b, &sums[1..], sums[0], out, zero, head);
            vec![]
        });
        b.finish()
    }
}
