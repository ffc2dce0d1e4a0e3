//! Keys and values of new tokens into the f16 caches, both `[kv_heads][capacity][head_dim]`.

use super::super::{self as cpu, Axis, HeadPrep, Operands, Params, Schedule, Space};
use super::block::{self, Thread};
use super::head::Head;
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Scalar, Value, WARP};

/// [`cpu::KvWrite`] by a warp a token and head.
#[derive(Clone, Debug)]
pub struct KvWrite(pub cpu::KvWrite);

impl KvWrite {
    fn warps(p: &Params) -> u64 {
        (block::param(p, "threads") / u64::from(WARP)).max(1)
    }
}

impl Schedule for KvWrite {
    fn signature(&self) -> String {
        format!("gpu {}", self.0.signature())
    }

    fn space(&self) -> Space {
        // Few heads: each on a multiprocessor of its own.
        let values = if self.0.max_tokens == 1 { vec![32, 128] } else { vec![128, 32, 256] };
        vec![Axis { name: "threads", values }]
    }

    fn chunks(&self, p: &Params) -> u32 {
        let all = u64::from(self.0.max_tokens) * self.0.heads;
        all.div_ceil(KvWrite::warps(p)) as u32
    }

    fn operands(&self) -> Operands {
        self.0.operands()
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let op = &self.0;
        let (hd, warps) = (op.head_dim, KvWrite::warps(p));
        let mut b = KernelBuilder::of_blocks(name, warps as u32 * WARP, 0);
        let k_cache = b.ptr_param("k_cache");
        let v_cache = b.ptr_param("v_cache");
        let k = b.ptr_param("k");
        let v = b.ptr_param("v");
        let args = op.prep.params(&mut b);
        let tokens = b.int_param("tokens");
        let past = b.int_param("past");
        let capacity = b.int_param("capacity");
        let t = Thread::start(&mut b);
        let chunk = b.chunk_id();
        let first = b.mul_imm(chunk, warps as i64);
        let item = b.add(first, t.warp);
        let (token, head) = block::div_rem(&mut b, item, op.heads);
        let live = b.cmp(Pred::Slt, token, tokens);
        b.when(live, |b| {
            let position = b.add(past, token);
            let row = b.mul(head, capacity);
            let row = b.add(row, position);
            let of = |b: &mut KernelBuilder, p: Value, stride: u64| {
                let p = b.index(p, token, stride as i64);
                b.index(p, head, hd as i64 * 4)
            };
            let k = of(b, k, op.k_stride);
            let key = Head { prep: op.prep, args, hd };
            let value = Head { prep: HeadPrep::default(), ..key };
            let v = of(b, v, op.v_stride);
            for (head, from, cache) in [(key, k, k_cache), (value, v, v_cache)] {
                let to = b.index(cache, row, hd as i64 * 2);
                for part in head.load(b, t.lane, token, from) {
                    let half = b.fround(part.values, Scalar::F16);
                    part.place.store(b, half, to);
                }
            }
        });
        b.finish()
    }
}
