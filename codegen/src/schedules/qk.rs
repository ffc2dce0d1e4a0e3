//! What happens to a head of q or k before it is used: RMS norm with the head's gamma, rotation by position.

use super::quantize::rms_factor;
use tilewright_ir::kernel::{KernelBuilder, Scalar, Type, Value};

/// Layout of rotary pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Element i with i + pairs.
    Half,
    /// Element 2i with 2i + 1.
    Interleaved,
}

impl RopeStyle {
    /// From the attribute's word.
    pub fn from_word(word: &str) -> Option<RopeStyle> {
        match word {
            "half" => Some(RopeStyle::Half),
            "interleaved" => Some(RopeStyle::Interleaved),
            _ => None,
        }
    }
}

/// Steps before a head is used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadPrep {
    /// Epsilon of the per-head norm.
    pub norm: Option<f32>,
    /// Rotated pairs and their layout.
    pub rope: Option<(u64, RopeStyle)>,
}

/// Pointers that [`HeadPrep`] needs.
#[derive(Clone, Copy, Default)]
pub(super) struct PrepArgs {
    pub gamma: Option<Value>,
    pub angles: Option<Value>,
}

impl HeadPrep {
    /// Declares the kernel parameters, in the order angles, gamma.
    pub(super) fn params(self, b: &mut KernelBuilder) -> PrepArgs {
        let angles = self.rope.map(|_| b.ptr_param("angles"));
        let gamma = self.norm.map(|_| b.ptr_param("gamma"));
        PrepArgs { gamma, angles }
    }

    /// Copies the `hd` floats at `src`, normed, rotated for `token` and times `scale`, to `dst`.
    #[allow(clippy::too_many_arguments, reason = "one step, called from two kernels")]
    pub(super) fn apply(
        self,
        b: &mut KernelBuilder,
        args: PrepArgs,
        hd: u64,
        token: Value,
        src: Value,
        dst: Value,
        scale: f64,
    ) {
        let factor = self.norm.map(|eps| rms_factor(b, src, hd, eps));
        let lanes = lanes_of(hd);
        let (lo, hi) = (b.i64(0), b.i64(hd as i64));
        b.for_(lo, hi, i64::from(lanes), &[], |b, i, _| {
            let s = b.index(src, i, 4);
            let mut v = b.load(Type::F32.x(lanes), s, 0);
            if let (Some(f), Some(gamma)) = (factor, args.gamma) {
                let g = b.index(gamma, i, 4);
                let g = b.load(Type::F32.x(lanes), g, 0);
                let f = b.splat(f, lanes);
                let x = b.mul(v, f);
                v = b.mul(x, g);
            }
            let k = b.f32(lanes, scale);
            let v = b.mul(v, k);
            let d = b.index(dst, i, 4);
            b.store(v, d, 0);
            vec![]
        });
        if let (Some((pairs, style)), Some(angles)) = (self.rope, args.angles) {
            let table = b.index(angles, token, (pairs * 8) as i64);
            rotate(b, pairs, style, table, dst);
        }
    }
}

/// Rotates in place at `x`; `table` holds `pairs` cosines, then `pairs` sines.
pub(super) fn rotate(b: &mut KernelBuilder, pairs: u64, style: RopeStyle, table: Value, x: Value) {
    let lanes = lanes_of(pairs).min(8);
    let (lo, hi) = (b.i64(0), b.i64(pairs as i64));
    b.for_(lo, hi, i64::from(lanes), &[], |b, i, _| {
        let t = b.index(table, i, 4);
        let cos = b.load(Type::F32.x(lanes), t, 0);
        let sin = b.load(Type::F32.x(lanes), t, pairs as i64 * 4);
        match style {
            RopeStyle::Half => {
                let p = b.index(x, i, 4);
                let x0 = b.load(Type::F32.x(lanes), p, 0);
                let x1 = b.load(Type::F32.x(lanes), p, pairs as i64 * 4);
                let (y0, y1) = turn(b, x0, x1, cos, sin);
                b.store(y0, p, 0);
                b.store(y1, p, pairs as i64 * 4);
            }
            RopeStyle::Interleaved => {
                let p = b.index(x, i, 8);
                let both = b.load(Type::I64.x(lanes), p, 0);
                let (x0, x1) = halves(b, both);
                let (y0, y1) = turn(b, x0, x1, cos, sin);
                let both = join(b, y0, y1);
                b.store(both, p, 0);
            }
        }
        vec![]
    });
}

pub(super) fn turn(b: &mut KernelBuilder, x0: Value, x1: Value, cos: Value, sin: Value) -> (Value, Value) {
    let a = b.mul(x1, sin);
    let a = b.neg(a);
    let y0 = b.fma(x0, cos, a);
    let c = b.mul(x0, sin);
    (y0, b.fma(x1, cos, c))
}

/// Pairs of f32 as 64-bit lanes: the first and the second of each.
fn halves(b: &mut KernelBuilder, pairs: Value) -> (Value, Value) {
    let f32s = b.ty(pairs).with(Scalar::F32);
    let count = b.int(Type::I32, 32);
    let high = b.shr_u(pairs, count);
    let (low, high) = (b.trunc(pairs, Scalar::I32), b.trunc(high, Scalar::I32));
    (b.bitcast(low, f32s), b.bitcast(high, f32s))
}

/// Undoes [`halves`].
fn join(b: &mut KernelBuilder, first: Value, second: Value) -> Value {
    let i32s = b.ty(first).with(Scalar::I32);
    let (low, high) = (b.bitcast(first, i32s), b.bitcast(second, i32s));
    let (low, high) = (b.zext(low, Scalar::I64), b.zext(high, Scalar::I64));
    let count = b.int(Type::I32, 32);
    let high = b.shl(high, count);
    b.or(low, high)
}

/// Widest of 16, 8, 4, 2, 1 lanes that divides `n`.
pub(super) fn lanes_of(n: u64) -> u16 {
    [16u16, 8, 4, 2, 1].into_iter().find(|&l| n.is_multiple_of(u64::from(l))).unwrap_or(1)
}
