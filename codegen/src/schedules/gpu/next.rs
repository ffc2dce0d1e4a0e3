//! The step between two steps: the likeliest token, and all that the next decode step reads of it.

use super::super::{Axis, Data, Operand, Operands, Params, Schedule, Space};
use super::block::{self, Exchange, Thread};
use super::last::{self, Last};
use super::rowwise::likeliest;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Type, Value};
use tilewright_runtime::plan::ScalarArg;

/// Takes the likeliest of the logits of one row (of equals the first; a NaN never), makes it the token of the next step and
/// moves the state on: `tokens[0]`, `history[past + 1]`, past, and the row of each rotary table for position past + 1. What
/// lies at or beyond the capacity is not written.
///
/// Arguments: logits, parts ([`Next::parts_bytes`]), counters ([`Next::counters_bytes`], zero and left so), state, tokens,
/// history, then for each table all its rows and the row of this step; scalars: past, capacity.
#[derive(Clone, Debug)]
pub struct Next {
    /// Logits.
    pub vocab: u64,
    /// Pairs of each rotary table.
    pub rope: Vec<u64>,
}

/// Threads of a block.
const THREADS: u32 = 256;
/// Where the number of past positions is in the state.
const PAST: i64 = 8;

impl Next {
    /// Bytes of what the blocks tell the last of them.
    pub fn parts_bytes(&self, p: &Params) -> u64 {
        u64::from(self.chunks(p)) * 8
    }

    /// Bytes of counters.
    pub fn counters_bytes(&self, _: &Params) -> u64 {
        4
    }
}

impl Schedule for Next {
    fn signature(&self) -> String {
        format!("gpu next v{} rope{:?}", self.vocab, self.rope)
    }

    fn space(&self) -> Space {
        vec![Axis { name: "blocks", values: vec![64, 32, 128, 16] }]
    }

    fn structural(&self) -> &'static [&'static str] {
        &["blocks"]
    }

    fn chunks(&self, p: &Params) -> u32 {
        // A block without a logit would be in the way only.
        let most = self.vocab.div_ceil(u64::from(THREADS)).max(1);
        block::param(p, "blocks").min(most) as u32
    }

    fn operands(&self) -> Operands {
        let p = super::super::defaults(&self.space());
        let mut pointers = vec![
            (Data::Vector(self.vocab), false),
            (Data::Scratch(self.parts_bytes(&p)), true),
            (Data::Counters(self.counters_bytes(&p)), true),
            (Data::Scratch(24), true),
            (Data::Ids { stride: 4, below: self.vocab }, true),
            // Of a context of any length: one position is there.
            (Data::Ids { stride: 4, below: self.vocab }, true),
        ];
        for &pairs in &self.rope {
            pointers.extend([(Data::Angles { pairs }, false), (Data::Angles { pairs }, true)]);
        }
        let pointers = pointers.into_iter().map(|(data, written)| Operand { data, written }).collect();
        Operands {
            together: self.chunks(&p),
            ..Operands::plain(1, pointers, vec![ScalarArg::Past, ScalarArg::Capacity])
        }
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let blocks = self.chunks(p);
        let mut b = KernelBuilder::of_blocks(name, THREADS, 1);
        let logits = b.ptr_param("logits");
        let parts = b.ptr_param("parts");
        let counters = b.ptr_param("counters");
        let state = b.ptr_param("state");
        let tokens = b.ptr_param("tokens");
        let history = b.ptr_param("history");
        let tables: Vec<(Value, Value, u64)> = (0..)
            .zip(&self.rope)
            .map(|(i, &pairs)| (b.ptr_param(&format!("rope_all{i}")), b.ptr_param(&format!("rope{i}")), pairs))
            .collect();
        let past = b.int_param("past");
        let capacity = b.int_param("capacity");
        let exchange = Exchange::new(&mut b, 2);
        let last = Last::new(&mut b);
        let t = Thread::start(&mut b);
        let chunk = b.chunk_id();
        let first = b.mul_imm(chunk, i64::from(THREADS));
        let who = b.add(first, t.id);
        let count = u64::from(blocks * THREADS);
        let found = likeliest(&mut b, logits, (who, count), self.vocab, block::lanes(&[self.vocab * 4], 4));
        let found = exchange.merge(&mut b, t, &found, block::likelier);
        block::when_first(&mut b, t.id, |b| {
            let part = b.index(parts, chunk, 8);
            b.store(found[0], part, 0);
            b.store(found[1], part, 4);
        });
        let all = b.i64(i64::from(blocks));
        last.when(&mut b, t, counters, all, |b| {
            let end = b.i64(i64::from(blocks));
            let (lowest, none) = (b.f32(1, f64::from(f32::MIN)), b.int(Type::I32, 0));
            let found = b.for_(t.id, end, i64::from(THREADS), &[lowest, none], |b, i, best| {
                let part = b.index(parts, i, 8);
                let other = [b.load(Type::F32, part, 0), b.load(Type::I32, part, 4)];
                block::likelier(b, best, &other)
            });
            let found = exchange.merge(b, t, &found, block::likelier);
            let position = b.add_imm(past, 1);
            let inside = b.cmp(Pred::Slt, position, capacity);
            block::when_first(b, t.id, |b| {
                b.store(found[1], tokens, 0);
                b.store(position, state, PAST);
                b.when(inside, |b| {
                    let p = b.index(history, position, 4);
                    b.store(found[1], p, 0);
                });
            });
            b.when(inside, |b| {
                for &(all, row, pairs) in &tables {
                    let from = b.index(all, position, pairs as i64 * 8);
                    last::copy(b, t.id, from, row, pairs * 2);
                }
            });
        });
        b.finish()
    }
}
