//! The likeliest logits of a block, one after another.

use super::super::block::{self, Exchange, Place, Thread};
use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value};

/// Bytes of a logit, f32, and its id, i32.
pub(super) const BYTES: i64 = 8;
/// Where the id is in it.
pub(super) const ID: i64 = 4;

/// What a thread looks at, in registers: logits and ids. Whatever is no number, or infinite, counts as the likeliest of all:
/// the first of those comes out first.
pub(super) struct Ranks(Vec<[Value; 2]>);

impl Ranks {
    /// Those of `vocab` logits that thread `who` of `count` takes care of.
    pub fn of_logits(b: &mut KernelBuilder, logits: Value, (who, count): (Value, u64), vocab: u64) -> Ranks {
        let lanes = block::lanes(&[vocab * 4], 4);
        let limit = b.f32(1, f64::INFINITY);
        let first = b.mul_imm(who, i64::from(lanes));
        let first = b.trunc(first, Scalar::I32);
        let places = Place::all(b, who, count, vocab, lanes);
        let vectors: Vec<Value> = places.iter().map(|p| p.load_or(b, logits, f64::NEG_INFINITY)).collect();
        let mut all = vec![];
        for (v, round) in vectors.into_iter().zip(0..) {
            for lane in 0..i64::from(lanes) {
                let l = if lanes == 1 { v } else { b.extract(v, lane) };
                let good = b.cmp(Pred::Slt, l, limit);
                let l = b.select(good, l, limit);
                // Beyond the vocabulary there is negative infinity, and ids that come after all others.
                all.push([l, b.add_imm(first, round * (count * u64::from(lanes)) as i64 + lane)]);
            }
        }
        Ranks(all)
    }

    /// Those that thread `who` of a block takes care of among the first `found` of at most `most` at `parts`.
    pub fn of_parts(b: &mut KernelBuilder, parts: Value, who: Value, found: Value, most: u64) -> Ranks {
        let none = [b.f32(1, f64::NEG_INFINITY), b.int(Type::I32, i64::from(i32::MAX))];
        let zero = b.i64(0);
        let threads = u64::from(b.threads());
        let mut one = |round: u64| {
            let i = b.add_imm(who, (round * threads) as i64);
            let live = b.cmp(Pred::Slt, i, found);
            // The first is always there.
            let i = b.select(live, i, zero);
            let p = b.index(parts, i, BYTES);
            let pair = [b.load(Type::F32, p, 0), b.load(Type::I32, p, ID)];
            [b.select(live, pair[0], none[0]), b.select(live, pair[1], none[1])]
        };
        Ranks((0..most.div_ceil(threads)).map(&mut one).collect())
    }

    /// Puts the likeliest of all threads of the block, `rounds` of them, where `to` says: the first there, each so many times
    /// [`BYTES`] further on than the one before. All threads have to know before they read it.
    pub fn each(&self, b: &mut KernelBuilder, t: Thread, exchange: Exchange, rounds: Value, to: (Value, i64)) {
        let zero = b.i64(0);
        // Before all there can be.
        let start = [b.f32(1, f64::INFINITY), b.int(Type::I32, -1)];
        let mine = self.after(b, start);
        b.for_(zero, rounds, 1, &mine, |b, round, mine| {
            let found = exchange.merge(b, t, mine, block::likelier);
            block::when_first(b, t.id, |b| {
                let p = b.index(to.0, round, to.1 * BYTES);
                b.store(found[0], p, 0);
                b.store(found[1], p, ID);
            });
            let is_mine = b.cmp(Pred::Eq, found[1], mine[1]);
            b.if_(is_mine, |b| self.after(b, [found[0], found[1]]), |_| mine.to_vec())
        });
    }

    /// The likeliest that comes after `before`.
    fn after(&self, b: &mut KernelBuilder, before: [Value; 2]) -> Vec<Value> {
        let none = [b.f32(1, f64::NEG_INFINITY), b.int(Type::I32, i64::from(i32::MAX))];
        self.0.iter().fold(none.to_vec(), |best, &[l, id]| {
            let less = b.cmp(Pred::Slt, l, before[0]);
            let equal = b.cmp(Pred::Eq, l, before[0]);
            let behind = b.cmp(Pred::Sgt, id, before[1]);
            let tie = b.and(equal, behind);
            let after = b.or(less, tie);
            // Negative infinity of no id loses against everything.
            let l = b.select(after, l, none[0]);
            let id = b.select(after, id, none[1]);
            block::likelier(b, &best, &[l, id])
        })
    }
}
