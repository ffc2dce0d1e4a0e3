//! Keys and values of new tokens into the f16 cache, in the layout of [`tilewright_runtime::plan::KvLayer`].

use super::qk::{HeadPrep, lanes_of};
use super::{Operands, Params, Schedule, if_token, operands};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Scalar, Type, Value};
use tilewright_runtime::plan::KEY_BLOCK;

/// `kv_write`. Arguments: k cache, v cache, k, v, `[angles]`, `[gamma]`; scalars: tokens, past, capacity. One chunk a token.
#[derive(Clone, Debug)]
pub struct KvWrite {
    /// K/V heads.
    pub heads: u64,
    /// Elements a head.
    pub head_dim: u64,
    /// Bytes from row to row of k.
    pub k_stride: u64,
    /// Bytes from row to row of v.
    pub v_stride: u64,
    /// Norm and rotation of k.
    pub prep: HeadPrep,
    /// Most tokens of a run.
    pub max_tokens: u32,
}

impl Schedule for KvWrite {
    fn signature(&self) -> String {
        format!(
            "kv_write h{} d{} ks{} vs{} {:?} t{}",
            self.heads, self.head_dim, self.k_stride, self.v_stride, self.prep, self.max_tokens
        )
    }

    fn chunks(&self, _: &Params) -> u32 {
        self.max_tokens
    }

    fn build(&self, name: &str, _: &Params) -> Kernel {
        let mut b = KernelBuilder::new(name);
        let k_cache = b.ptr_param("k_cache");
        let v_cache = b.ptr_param("v_cache");
        let k = b.ptr_param("k");
        let v = b.ptr_param("v");
        let args = self.prep.params(&mut b);
        let tokens = b.int_param("tokens");
        let past = b.int_param("past");
        let capacity = b.int_param("capacity");
        let stage = b.local(self.head_dim as i64 * 4);
        let halves = b.local(self.head_dim as i64 * 2);
        let token = b.chunk_id();
        let hd = self.head_dim;
        if_token(&mut b, token, tokens, |b| {
            let k = b.index(k, token, self.k_stride as i64);
            let v = b.index(v, token, self.v_stride as i64);
            let position = b.add(past, token);
            let (low, high) = (b.i64(i64::from(KEY_BLOCK) - 1), b.i64(-i64::from(KEY_BLOCK)));
            let (lane, block) = (b.and(position, low), b.and(position, high));
            let (lo, hi) = (b.i64(0), b.i64(self.heads as i64));
            b.for_(lo, hi, 1, &[], |b, head, _| {
                let k = b.index(k, head, hd as i64 * 4);
                let v = b.index(v, head, hd as i64 * 4);
                self.prep.apply(b, args, hd, token, k, stage, 1.0);
                let head_row = b.mul(head, capacity);
                let row = b.add(head_row, block);
                let k_block = b.index(k_cache, row, hd as i64 * 2);
                let k_lane = b.index(k_block, lane, 2);
                narrow(b, hd, stage, halves);
                scatter(b, hd, halves, k_lane);
                let row = b.add(head_row, position);
                let v_row = b.index(v_cache, row, hd as i64 * 2);
                narrow(b, hd, v, v_row);
                vec![]
            });
        });
        b.finish()
    }

    fn operands(&self) -> Operands {
        operands::kv_write(self)
    }
}

/// `n` f32 at `src` to f16 at `dst`.
fn narrow(b: &mut KernelBuilder, n: u64, src: Value, dst: Value) {
    let lanes = lanes_of(n);
    let (lo, hi) = (b.i64(0), b.i64(n as i64));
    b.for_(lo, hi, i64::from(lanes), &[], |b, i, _| {
        let s = b.index(src, i, 4);
        let v = b.load(Type::F32.x(lanes), s, 0);
        let v = b.fround(v, Scalar::F16);
        let d = b.index(dst, i, 2);
        b.store(v, d, 0);
        vec![]
    });
}

/// `n` halves at `src` to one lane of a block of keys.
fn scatter(b: &mut KernelBuilder, n: u64, src: Value, dst: Value) {
    let unroll = i64::from(lanes_of(n).min(8));
    let (lo, hi) = (b.i64(0), b.i64(n as i64));
    b.for_(lo, hi, unroll, &[], |b, i, _| {
        let src = b.index(src, i, 2);
        let dst = b.index(dst, i, i64::from(KEY_BLOCK) * 2);
        for u in 0..unroll {
            let v = b.load(Type::I16, src, u * 2);
            b.store(v, dst, u * i64::from(KEY_BLOCK) * 2);
        }
        vec![]
    });
}
