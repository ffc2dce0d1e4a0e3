//! What kernels of thread blocks share: who a thread is, its places in a row, and sums and maxima of many threads.

use super::super::Params;
use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value, WARP};

/// A parameter; 1 where a space does not have it.
pub(super) fn param(p: &Params, name: &str) -> u64 {
    p.get(name).map_or(1, |&v| v.max(1) as u64)
}

/// Who a thread is.
#[derive(Clone, Copy)]
pub(super) struct Thread {
    /// Its number in the block.
    pub id: Value,
    /// Its warp's number in the block.
    pub warp: Value,
    /// Its number in the warp.
    pub lane: Value,
}

impl Thread {
    /// Opens a kernel: who this is. The kernel before has ended afterwards, and the next one may be launched.
    pub fn start(b: &mut KernelBuilder) -> Thread {
        b.wait_prior();
        b.launch_next();
        Thread::here(b)
    }

    /// Who this is.
    pub fn here(b: &mut KernelBuilder) -> Thread {
        let id = b.thread_id();
        let (count, mask) = (b.int(Type::I32, i64::from(WARP.trailing_zeros())), b.i64(i64::from(WARP) - 1));
        Thread { id, warp: b.shr_u(id, count), lane: b.and(id, mask) }
    }
}

/// Runs `then` in the thread, or the lanes, whose number `of` is 0.
pub(super) fn when_first(b: &mut KernelBuilder, of: Value, then: impl FnOnce(&mut KernelBuilder)) {
    let zero = b.i64(0);
    let first = b.cmp(Pred::Eq, of, zero);
    b.when(first, then);
}

/// Quotient and remainder of a number in `0 .. 2^31`. In 32 bits: longer division is a long routine on a GPU.
pub(super) fn div_rem(b: &mut KernelBuilder, a: Value, by: u64) -> (Value, Value) {
    if by == 1 {
        let zero = b.i64(0);
        return (a, zero);
    }
    if by.is_power_of_two() {
        let count = b.int(Type::I32, i64::from(by.trailing_zeros()));
        let mask = b.i64(by as i64 - 1);
        return (b.shr_u(a, count), b.and(a, mask));
    }
    let a = b.trunc(a, Scalar::I32);
    let by = b.int(Type::I32, by as i64);
    let (quotient, remainder) = (b.div_s(a, by), b.rem_s(a, by));
    (b.zext(quotient, Scalar::I64), b.zext(remainder, Scalar::I64))
}

/// Widest vector of f32, up to `most`, that all these numbers of bytes are multiples of. Memory begins at multiples of 16.
pub(super) fn lanes(bytes: &[u64], most: u16) -> u16 {
    let fits = |l: &u16| bytes.iter().all(|n| n.is_multiple_of(u64::from(*l) * 4));
    [4, 2].into_iter().filter(|&l| l <= most).find(fits).unwrap_or(1)
}

/// As [`lanes`], but not so wide that lanes of a warp have nothing to do in a row of `n` elements.
pub(super) fn lanes_of_warp(n: u64, bytes: &[u64]) -> u16 {
    let most = if n >= 128 {
        4
    } else if n >= 64 {
        2
    } else {
        1
    };
    lanes(bytes, most)
}

/// Some elements of a row that a thread takes care of.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The first, but for `more`. If this is not `live`, 0.
    at: Value,
    more: i64,
    /// How many.
    lanes: u16,
    /// Whether there are such elements; `None` if there always are.
    live: Option<Value>,
}

impl Place {
    /// The places of thread `who` of `count` in a row of `n` elements, `lanes` in each.
    pub fn all(b: &mut KernelBuilder, who: Value, count: u64, n: u64, lanes: u16) -> Vec<Place> {
        let items = n / u64::from(lanes);
        let zero = b.i64(0);
        let first = b.mul_imm(who, i64::from(lanes));
        let round = |b: &mut KernelBuilder, r: u64| {
            let more = (r * count * u64::from(lanes)) as i64;
            if (r + 1) * count <= items {
                return Place { at: first, more, lanes, live: None };
            }
            let end = b.i64((items - r * count) as i64);
            let live = b.cmp(Pred::Slt, who, end);
            Place { at: b.select(live, first, zero), more, lanes, live: Some(live) }
        };
        (0..items.div_ceil(count)).map(|r| round(b, r)).collect()
    }

    /// The same place `elements` further on.
    pub fn further(self, elements: u64) -> Place {
        Place { more: self.more + elements as i64, ..self }
    }

    /// The same place in a row whose elements are `times` as many.
    pub fn times(self, b: &mut KernelBuilder, times: u16) -> Place {
        if times == 1 {
            return self;
        }
        let by = i64::from(times);
        Place { at: b.mul_imm(self.at, by), more: self.more * by, lanes: self.lanes * times, ..self }
    }

    /// The f32 of the row at `p`; zeros if there are none.
    pub fn load(self, b: &mut KernelBuilder, p: Value) -> Value {
        self.load_or(b, p, 0.0)
    }

    /// The f32 of the row at `p`; so many `none` if there are none.
    pub fn load_or(self, b: &mut KernelBuilder, p: Value, none: f64) -> Value {
        let ty = Type::F32.x(self.lanes);
        let at = b.index(p, self.at, 4);
        let v = b.load(ty, at, self.more * 4);
        match self.live {
            None => v,
            Some(live) => {
                let none = b.float(ty, none);
                b.select(live, v, none)
            }
        }
    }

    /// Stores elements of any type in the row at `p`.
    pub fn store(self, b: &mut KernelBuilder, v: Value, p: Value) {
        let bytes = i64::from(b.ty(v).scalar.bytes());
        self.if_live(b, |b| {
            let at = b.index(p, self.at, bytes);
            b.store(v, at, self.more * bytes);
        });
    }

    /// Does something with the number of its first element, if there is one.
    pub fn when(self, b: &mut KernelBuilder, then: impl FnOnce(&mut KernelBuilder, Value)) {
        self.if_live(b, |b| {
            let at = b.add_imm(self.at, self.more);
            then(b, at);
        });
    }

    fn if_live(self, b: &mut KernelBuilder, then: impl FnOnce(&mut KernelBuilder)) {
        match self.live {
            None => then(b),
            Some(live) => b.when(live, then),
        }
    }
}

/// How two values of each thread become one.
pub(super) type Merge = fn(&mut KernelBuilder, &[Value], &[Value]) -> Vec<Value>;

/// Sum.
pub(super) fn plus(b: &mut KernelBuilder, x: &[Value], y: &[Value]) -> Vec<Value> {
    x.iter().zip(y).map(|(&x, &y)| b.add(x, y)).collect()
}

/// Maximum of floats.
pub(super) fn larger(b: &mut KernelBuilder, x: &[Value], y: &[Value]) -> Vec<Value> {
    x.iter().zip(y).map(|(&x, &y)| b.fmax(x, y)).collect()
}

/// The larger of two numbers with their places, i32; of equals the first.
pub(super) fn likelier(b: &mut KernelBuilder, x: &[Value], y: &[Value]) -> Vec<Value> {
    let more = b.cmp(Pred::Sgt, y[0], x[0]);
    let equal = b.cmp(Pred::Eq, y[0], x[0]);
    let before = b.cmp(Pred::Slt, y[1], x[1]);
    let tie = b.and(equal, before);
    let take = b.or(more, tie);
    x.iter().zip(y).map(|(&x, &y)| b.select(take, y, x)).collect()
}

/// Merges values of 32 bits of `width` neighbouring lanes, a power of two; all of them get the result.
pub(super) fn of_lanes(b: &mut KernelBuilder, values: &[Value], width: u32, merge: Merge) -> Vec<Value> {
    let distances = (0..width.trailing_zeros()).map(|k| 1 << k);
    distances.fold(values.to_vec(), |values, distance| {
        let others: Vec<Value> = values.iter().map(|&v| b.shuffle_xor(v, distance)).collect();
        merge(b, &values, &others)
    })
}

/// [`of_lanes`] of one value of a warp.
pub(super) fn of_warp(b: &mut KernelBuilder, value: Value, merge: Merge) -> Value {
    of_lanes(b, &[value], WARP, merge)[0]
}

/// Memory by which the warps of a block merge values.
#[derive(Clone, Copy)]
pub(super) struct Exchange {
    memory: Value,
    warps: u32,
}

impl Exchange {
    /// For `values` values at once; at the top level of a kernel.
    pub fn new(b: &mut KernelBuilder, values: u32) -> Exchange {
        let warps = b.threads() / WARP;
        Exchange { memory: b.shared(i64::from(warps * values * 4)), warps }
    }

    /// Merges values of 32 bits of all threads of the block; all get the same result.
    pub fn merge(self, b: &mut KernelBuilder, t: Thread, values: &[Value], merge: Merge) -> Vec<Value> {
        let mine = of_lanes(b, values, WARP, merge);
        if self.warps == 1 {
            return mine;
        }
        let stride = values.len() as i64 * 4;
        when_first(b, t.lane, |b| {
            let p = b.index(self.memory, t.warp, stride);
            for (&v, at) in mine.iter().zip((0..).step_by(4)) {
                b.store(v, p, at);
            }
        });
        b.barrier();
        let of_one = |b: &mut KernelBuilder, warp: u32| -> Vec<Value> {
            let at = i64::from(warp) * stride;
            let tys: Vec<Type> = mine.iter().map(|&v| b.ty(v)).collect();
            tys.iter().zip((at..).step_by(4)).map(|(&ty, at)| b.load(ty, self.memory, at)).collect()
        };
        let mut all = of_one(b, 0);
        for warp in 1..self.warps {
            let next = of_one(b, warp);
            all = merge(b, &all, &next);
        }
        // Who reads later must not see what a faster warp writes next.
        b.barrier();
        all
    }
}

/// Sum of the lanes of `vectors` of one thread; of their squares, or what `of` makes of them.
pub(super) fn sum_of_squares(b: &mut KernelBuilder, vectors: &[Value]) -> Value {
    let mut sum = b.float(b.ty(vectors[0]), 0.0);
    for &v in vectors {
        sum = b.fma(v, v, sum);
    }
    if b.ty(sum).lanes > 1 { b.sum(sum) } else { sum }
}

/// Largest magnitude of the lanes of `vectors` of one thread.
pub(super) fn largest(b: &mut KernelBuilder, vectors: &[Value]) -> Value {
    let mut top = b.abs(vectors[0]);
    for &v in &vectors[1..] {
        let v = b.abs(v);
        top = b.fmax(v, top);
    }
    if b.ty(top).lanes > 1 { b.max_lane(top) } else { top }
}

/// `1 / sqrt(sum / n + eps)`: the factor of an RMS norm of `n` elements.
pub(super) fn rms_factor(b: &mut KernelBuilder, sum_of_squares: Value, n: u64, eps: f32) -> Value {
    let k = b.f32(1, 1.0 / n as f64);
    let eps = b.f32(1, f64::from(eps));
    let mean = b.fma(sum_of_squares, k, eps);
    let root = b.sqrt(mean);
    let one = b.f32(1, 1.0);
    b.div(one, root)
}

/// Binary digits before the point of the largest number of an f16 row: sums of products stay far from f16's limits, and
/// numbers 2^-28 as large as the largest are still normal.
pub(super) const TOP_BITS: i64 = 13;

/// The power of two by which to divide a row whose largest magnitude is `top`, so that it comes into
/// [2^[`TOP_BITS`], 2^([`TOP_BITS`] + 1)), and its inverse; 1 for a row of zeros. Both are exact.
pub(super) fn power_scale(b: &mut KernelBuilder, top: Value) -> (Value, Value) {
    let bits = b.bitcast(top, Type::I32);
    let count = b.int(Type::I32, 23);
    let exponent = b.shr_u(bits, count);
    let scale = b.add_imm(exponent, -TOP_BITS);
    let (least, one) = (b.int(Type::I32, 1), b.int(Type::I32, 127));
    let scale = b.smax(scale, least);
    let zero = b.f32(1, 0.0);
    let some = b.cmp(Pred::Sgt, top, zero);
    let scale = b.select(some, scale, one);
    let all = b.int(Type::I32, 254);
    let inverse = b.sub(all, scale);
    let [scale, inverse] = [scale, inverse].map(|e| {
        let bits = b.shl(e, count);
        b.bitcast(bits, Type::F32)
    });
    (scale, inverse)
}

/// `x`, f32, as the sum of `terms` f16: what one leaves over, the next one rounds.
pub(super) fn f16_terms(b: &mut KernelBuilder, x: Value, terms: u64) -> Vec<Value> {
    let mut rest = x;
    let mut out = vec![];
    for term in 0..terms {
        let half = b.fround(rest, Scalar::F16);
        out.push(half);
        if term + 1 < terms {
            let back = b.fext(half, Scalar::F32);
            rest = b.sub(rest, back);
        }
    }
    out
}
