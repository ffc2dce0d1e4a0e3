//! The step between two steps: a token chosen from the logits, and all that the next decode step reads of it.
//!
//! | file | what |
//! |---|---|
//! | `ranks.rs` | the likeliest logits of a block, in their order |
//! | `draw.rs` | which of them it is: top-k, top-p, min-p, temperature, draw |

mod draw;
mod ranks;

use super::super::{Axis, Data, Operand, Operands, Params, Schedule, Space};
use super::block::{self, Exchange, Thread};
use super::last::{self, Last};
use draw::Sampling;
use ranks::Ranks;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Type, Value};
use tilewright_runtime::plan::{NO_TOKEN, ScalarArg};
use tilewright_runtime::sampler::MAX_TOP_K;

/// How [`Next`] chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The likeliest; of equals the first.
    Likeliest,
    /// One of the likeliest by chance, as the host's sampler would: see [`tilewright_runtime::sampler::OnDevice`].
    Sampled,
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Choice::Likeliest => "next",
            Choice::Sampled => "sample",
        }
    }

    /// So many logits it has to see in their order, at most.
    fn most(self) -> u64 {
        match self {
            Choice::Likeliest => 1,
            Choice::Sampled => MAX_TOP_K as u64,
        }
    }
}

/// Chooses a token by the logits of one row, makes it the token of the next step and moves the state on: `tokens[0]`,
/// `history[past + 1]`, past, and the row of each rotary table for position past + 1. The history and whole tables have a row
/// more than the capacity.
///
/// Where a logit is not a number, or none is above negative infinity, the history says so
/// ([`tilewright_runtime::plan::Arg::History`]), and the next step gets token 0.
///
/// Arguments: logits, parts ([`Next::parts_bytes`]), counters ([`Next::counters_bytes`], zero and left so), state, tokens,
/// history; if [`Choice::Sampled`], sampling and draws; then for each table all its rows and the row of this step. Scalar:
/// past.
#[derive(Clone, Debug)]
pub struct Next {
    /// Logits.
    pub vocab: u64,
    /// Pairs of each rotary table.
    pub rope: Vec<u64>,
    /// How it chooses.
    pub choice: Choice,
}

/// Threads of a block.
const THREADS: u32 = 256;
/// Most logits of a thread: they stay in its registers.
const MOST: u64 = 32;
/// Where the number of past positions is in the state.
const PAST: i64 = 8;

impl Next {
    /// What a label of its call says.
    pub fn label(&self) -> &'static str {
        self.choice.name()
    }

    /// Bytes of what the blocks tell the last of them.
    pub fn parts_bytes(&self, p: &Params) -> u64 {
        u64::from(self.chunks(p)) * self.choice.most() * ranks::BYTES as u64
    }

    /// Bytes of counters.
    pub fn counters_bytes(&self, _: &Params) -> u64 {
        4
    }
}

impl Schedule for Next {
    fn signature(&self) -> String {
        format!("gpu {} v{} rope{:?}", self.choice.name(), self.vocab, self.rope)
    }

    fn space(&self) -> Space {
        vec![Axis { name: "blocks", values: vec![64, 32, 128, 16] }]
    }

    fn structural(&self) -> &'static [&'static str] {
        &["blocks"]
    }

    fn chunks(&self, p: &Params) -> u32 {
        let blocks_of = |logits: u64| self.vocab.div_ceil(u64::from(THREADS) * logits).max(1);
        // A block without a logit would be in the way only.
        block::param(p, "blocks").max(blocks_of(MOST)).min(blocks_of(1)) as u32
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
        if self.choice == Choice::Sampled {
            pointers.extend([(Data::Vector(4), false), (Data::Vector(1), false)]);
        }
        for &pairs in &self.rope {
            pointers.extend([(Data::Angles { pairs }, false), (Data::Angles { pairs }, true)]);
        }
        let pointers = pointers.into_iter().map(|(data, written)| Operand { data, written }).collect();
        Operands { together: self.chunks(&p), ..Operands::plain(1, pointers, vec![ScalarArg::Past]) }
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let blocks = u64::from(self.chunks(p));
        let most = self.choice.most();
        let mut b = KernelBuilder::of_blocks(name, THREADS, 1);
        let logits = b.ptr_param("logits");
        let parts = b.ptr_param("parts");
        let counters = b.ptr_param("counters");
        let state = b.ptr_param("state");
        let tokens = b.ptr_param("tokens");
        let history = b.ptr_param("history");
        let sampled = (self.choice == Choice::Sampled).then(|| (b.ptr_param("sampling"), b.ptr_param("draws")));
        let tables: Vec<(Value, Value, u64)> = (0..)
            .zip(&self.rope)
            .map(|(i, &pairs)| (b.ptr_param(&format!("rope_all{i}")), b.ptr_param(&format!("rope{i}")), pairs))
            .collect();
        let past = b.int_param("past");
        let exchange = Exchange::new(&mut b, 2);
        let last = Last::new(&mut b);
        let top = b.shared(most as i64 * ranks::BYTES);
        let t = Thread::start(&mut b);
        let sampling = sampled.map(|(sampling, draws)| Sampling::load(&mut b, sampling, draws, past));
        let rounds = match &sampling {
            Some(sampling) => sampling.top_k,
            None => b.i64(1),
        };
        let chunk = b.chunk_id();
        let first = b.mul_imm(chunk, i64::from(THREADS));
        let who = b.add(first, t.id);
        let count = blocks * u64::from(THREADS);
        let ranks = Ranks::of_logits(&mut b, logits, (who, count), self.vocab);
        // By rank, then by block: what is there in all is side by side.
        let part = b.index(parts, chunk, ranks::BYTES);
        ranks.each(&mut b, t, exchange, rounds, (part, blocks as i64));
        let all = b.i64(blocks as i64);
        last.when(&mut b, t, counters, all, |b| {
            let found = b.mul(rounds, all);
            let ranks = Ranks::of_parts(b, parts, t.id, found, blocks * most);
            ranks.each(b, t, exchange, rounds, (top, 1));
            b.barrier();
            let chosen = match &sampling {
                Some(sampling) => sampling.draw(b, t, top),
                None => b.load(Type::I32, top, ranks::ID),
            };
            let (token, entry) = checked(b, top, chosen);
            let position = b.add_imm(past, 1);
            block::when_first(b, t.id, |b| {
                b.store(token, tokens, 0);
                b.store(position, state, PAST);
                let p = b.index(history, position, 4);
                b.store(entry, p, 0);
            });
            for &(all, row, pairs) in &tables {
                let from = b.index(all, position, pairs as i64 * 8);
                last::copy(b, t.id, from, row, pairs * 2);
            }
        });
        b.finish()
    }
}

/// The token that the next step runs, and what the history says: both `chosen`, unless the likeliest logit tells that nothing
/// can be chosen.
fn checked(b: &mut KernelBuilder, top: Value, chosen: Value) -> (Value, Value) {
    let (logit, id) = (b.load(Type::F32, top, 0), b.load(Type::I32, top, ranks::ID));
    let (above, below) = (b.f32(1, f64::INFINITY), b.f32(1, f64::NEG_INFINITY));
    let wrong = b.cmp(Pred::Eq, logit, above);
    let nothing = b.cmp(Pred::Eq, logit, below);
    let ones = b.int(Type::I32, -1);
    let not_a_number = b.xor(id, ones);
    let no_token = b.int(Type::I32, i64::from(NO_TOKEN as i32));
    let entry = b.select(wrong, not_a_number, chosen);
    let entry = b.select(nothing, no_token, entry);
    let zero = b.int(Type::I32, 0);
    (b.smax(entry, zero), entry)
}
