//! Which of the likeliest it is: top-k, top-p, min-p, temperature, draw, in the order and with the meaning of the host's
//! sampler.

use super::super::block::{self, Thread};
use super::ranks::{BYTES, ID};
use std::f64::consts::LOG2_E;
use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value, WARP};
use tilewright_runtime::sampler::MAX_TOP_K;

/// The parameters, in registers.
pub(super) struct Sampling {
    /// So many logits take part, i64 in 1 ..= [`MAX_TOP_K`].
    pub top_k: Value,
    top_p: Value,
    floor: Value,
    scale: Value,
    draw: Value,
}

/// Of the two logits that a lane takes care of.
type Pair = [Value; 2];

// A warp takes care of all of them.
const _: () = assert!(MAX_TOP_K as u32 == 2 * WARP);

impl Sampling {
    /// Loads those at `sampling`, as [`tilewright_runtime::sampler::OnDevice`] lays them out, and the draw for the token after
    /// position `past`.
    pub fn load(b: &mut KernelBuilder, sampling: Value, draws: Value, past: Value) -> Sampling {
        let top_k = b.load(Type::I32, sampling, 0);
        // More would be written behind what there is.
        let (least, most) = (b.int(Type::I32, 1), b.int(Type::I32, MAX_TOP_K as i64));
        let top_k = b.smax(top_k, least);
        let top_k = b.smin(top_k, most);
        let [top_p, floor, scale] = [4, 8, 12].map(|at| b.load(Type::F32, sampling, at));
        let p = b.index(draws, past, 4);
        let draw = b.load(Type::F32, p, 0);
        Sampling { top_k: b.zext(top_k, Scalar::I64), top_p, floor, scale, draw }
    }

    /// The id of one of the `top_k` logits in order at `top`. Each warp finds the same.
    pub fn draw(&self, b: &mut KernelBuilder, t: Thread, top: Value) -> Value {
        let zero = b.f32(1, 0.0);
        let first = b.mul_imm(t.lane, 2);
        let places = [first, b.add_imm(first, 1)];
        let live = places.map(|i| b.cmp(Pred::Slt, i, self.top_k));
        let none = b.i64(0);
        let logits: Pair = std::array::from_fn(|e| {
            let i = b.select(live[e], places[e], none);
            let p = b.index(top, i, BYTES);
            b.load(Type::F32, p, 0)
        });
        let best = b.load(Type::F32, top, 0);
        let behind = logits.map(|l| b.sub(l, best));
        let weights = |b: &mut KernelBuilder, kept: Pair, scale: Value| -> Pair {
            std::array::from_fn(|e| {
                let x = b.mul(behind[e], scale);
                let w = b.exp2_approx(x);
                b.select(kept[e], w, zero)
            })
        };

        // Those whose predecessors do not reach the goal; the first always. Those far enough behind it come last.
        let natural = b.f32(1, LOG2_E);
        let w = weights(b, live, natural);
        let (before, all) = sums(b, t, w);
        let goal = b.mul(all, self.top_p);
        let floor = b.add(best, self.floor);
        let kept: Pair = std::array::from_fn(|e| {
            let wanted = b.cmp(Pred::Slt, before[e], goal);
            let is_first = b.cmp(Pred::Eq, places[e], none);
            let wanted = b.or(wanted, is_first);
            let likely = b.cmp(Pred::Sge, logits[e], floor);
            let kept = b.and(wanted, likely);
            b.and(kept, live[e])
        });

        let w = weights(b, kept, self.scale);
        let (before, all) = sums(b, t, w);
        let at = b.mul(self.draw, all);
        let (never, not_yet) = (b.int(Type::I32, i64::from(i32::MAX)), b.int(Type::I32, 0));
        let found: Vec<[Value; 2]> = (0..2)
            .map(|e| {
                let place = b.trunc(places[e], Scalar::I32);
                let some = b.cmp(Pred::Sgt, w[e], zero);
                let end = b.add(before[e], w[e]);
                let passed = b.cmp(Pred::Sgt, end, at);
                let hit = b.and(some, passed);
                [b.select(hit, place, never), b.select(some, place, not_yet)]
            })
            .collect();
        let mine = nearest(b, &found[0], &found[1]);
        let place = block::of_lanes(b, &mine, WARP, nearest);
        // Rounding can leave a hair's breadth behind the last that has any weight.
        let missed = b.cmp(Pred::Eq, place[0], never);
        let place = b.select(missed, place[1], place[0]);
        let place = b.zext(place, Scalar::I64);
        let p = b.index(top, place, BYTES);
        b.load(Type::I32, p, ID)
    }
}

/// The first hit, and the last with any weight.
fn nearest(b: &mut KernelBuilder, x: &[Value], y: &[Value]) -> Vec<Value> {
    vec![b.smin(x[0], y[0]), b.smax(x[1], y[1])]
}

/// Sums of all that come before each of a warp's pairs, and of all.
fn sums(b: &mut KernelBuilder, t: Thread, x: Pair) -> (Pair, Value) {
    let mut all = b.add(x[0], x[1]);
    let mut before = b.f32(1, 0.0);
    let zero = b.i64(0);
    for k in 0..WARP.trailing_zeros() {
        let bit = b.i64(1 << k);
        let bit = b.and(t.lane, bit);
        let is_low = b.cmp(Pred::Eq, bit, zero);
        let other = b.shuffle_xor(all, 1 << k);
        let more = b.add(before, other);
        before = b.select(is_low, before, more);
        all = b.add(all, other);
    }
    ([before, b.add(before, x[0])], all)
}
