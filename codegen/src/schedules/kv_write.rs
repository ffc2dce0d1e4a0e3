//! Keys and values of new tokens into the f16 cache, `[heads][capacity][head_dim]` each.

use super::qk::{HeadPrep, lanes_of};
use super::{Operands, Params, Schedule, if_token, operands};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Scalar, Type, Value};

/// `kv_write`. Arguments: k cache, v cache, k, v, [angles], [gamma]; scalars: tokens, past, capacity. One chunk a token.
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
        let token = b.chunk_id();
        let hd = self.head_dim;
        if_token(&mut b, token, tokens, |b| {
            let k = b.index(k, token, self.k_stride as i64);
            let v = b.index(v, token, self.v_stride as i64);
            let position = b.add(past, token);
            let (lo, hi) = (b.i64(0), b.i64(self.heads as i64));
            b.for_(lo, hi, 1, &[], |b, head, _| {
                let k = b.index(k, head, hd as i64 * 4);
                let v = b.index(v, head, hd as i64 * 4);
                self.prep.apply(b, args, hd, token, k, stage, 1.0);
                let row = b.mul(head, capacity);
                let row = b.add(row, position);
                let k_row = b.index(k_cache, row, hd as i64 * 2);
                let v_row = b.index(v_cache, row, hd as i64 * 2);
                narrow(b, hd, stage, k_row);
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
    let lanes = lanes_of(n).min(8);
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
