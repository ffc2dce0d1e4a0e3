//! Numbers and loops under the interpreter: [`Real`], dot products, and threads over rows.
//!
//! Sums have a fixed order, however many tokens run together, so a run in chunks gives the same bits as one run.

use half::{bf16, f16};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};
use std::sync::Mutex;

/// What the interpreter computes in: `f32` or `f64`.
pub trait Real:
    Copy
    + Send
    + Sync
    + PartialEq
    + PartialOrd
    + std::fmt::Debug
    + Default
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + 'static
{
    /// From a weight.
    fn of(v: f32) -> Self;
    /// Rounded from f64.
    fn of_f64(v: f64) -> Self;
    /// Exactly, as f64.
    fn f64(self) -> f64;
    /// Rounded to f32, then to the nearest f16, halves to even, and back.
    fn through_f16(self) -> Self;
    /// Rounded to f32, then to the nearest bf16, halves to even, and back.
    fn through_bf16(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to this power.
    fn exp(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Magnitude.
    fn abs(self) -> Self;
    /// To the nearest integer, halves to the even one.
    fn round_even(self) -> Self;
}

macro_rules! real {
    ($t:ident, $f32:expr) => {
        impl Real for $t {
            #[inline(always)]
            fn of(v: f32) -> Self {
                v.into()
            }
            #[inline(always)]
            fn of_f64(v: f64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self.into()
            }
            fn through_f16(self) -> Self {
                f16::from_f32($f32(self)).into()
            }
            fn through_bf16(self) -> Self {
                bf16::from_f32($f32(self)).into()
            }
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            fn exp(self) -> Self {
                $t::exp(self)
            }
            fn tanh(self) -> Self {
                $t::tanh(self)
            }
            fn abs(self) -> Self {
                $t::abs(self)
            }
            fn round_even(self) -> Self {
                $t::round_ties_even(self)
            }
        }
    };
}
real!(f32, std::convert::identity);
// As kernels do, whose values are f32 where they are rounded further. `half` does so on some machines only.
real!(f64, |v| v as f32);

/// Terms that are added up before they join the sum: keeps the rounding error of long rows small.
const TERMS: usize = 64;
/// Tokens side by side: with 4 rows of W, two SSE registers each, half of the register file. Measured on one core of an
/// EPYC: 18 GMAC/s, where dot products of two rows with two tokens reach 8.
const TOKENS: usize = 8;
/// Rows of W, of which a block stays in the second-level cache while all tokens pass by.
const BLOCK: usize = 16;

/// Sums of `A` rows of W with `B` tokens side by side, each in one fixed order.
#[inline(always)]
fn tile<R: Real, const A: usize, const B: usize>(w: [&[f32]; A], x: &[[R; B]]) -> [[R; B]; A] {
    let mut sum = [[R::default(); B]; A];
    let w = w.map(|row| &row[..x.len()]);
    for from in (0..x.len()).step_by(TERMS) {
        let x = &x[from..x.len().min(from + TERMS)];
        let w = w.map(|row| &row[from..from + x.len()]);
        let mut part = [[R::default(); B]; A];
        for k in 0..x.len() {
            for a in 0..A {
                let v = R::of(w[a][k]);
                for b in 0..B {
                    part[a][b] += v * x[k][b];
                }
            }
        }
        for (sum, part) in sum.iter_mut().flatten().zip(part.iter().flatten()) {
            *sum += *part;
        }
    }
    sum
}

/// All rows of a block of W with `B` tokens: `put(row, sums)`.
fn rows<R: Real, const A: usize, const B: usize>(w: &[f32], x: &[[R; B]], mut put: impl FnMut(usize, [R; B])) {
    let n = x.len();
    let row = |i: usize| &w[i * n..][..n];
    let count = w.len() / n;
    let whole = count - count % A;
    for i in (0..whole).step_by(A) {
        let sums = tile::<R, A, B>(std::array::from_fn(|a| row(i + a)), x);
        sums.into_iter().enumerate().for_each(|(a, s)| put(i + a, s));
    }
    for i in whole..count {
        put(i, tile([row(i)], x)[0]);
    }
}

/// `x W^T` for `x` of rows of `n` and `w` of `m` rows of `n`; one row of the result per row of `x`.
pub(super) fn matmul<R: Real>(x: &[R], w: &[f32], m: usize, n: usize) -> Vec<R> {
    let t = x.len() / n;
    let mut columns = vec![R::default(); m * t];
    let packs = if t < TOKENS / 2 { vec![] } else { x.chunks(TOKENS * n).map(|c| pack(c, n)).collect() };
    each_chunk(&mut columns, BLOCK * t, m * n * t, |chunk, out| {
        let w = &w[chunk * BLOCK * n..][..out.len() / t * n];
        if packs.is_empty() {
            for (j, token) in x.chunks_exact(n).enumerate() {
                rows::<R, 8, 1>(w, token.as_chunks::<1>().0, |i, [s]| out[i * t + j] = s);
            }
        }
        for (p, pack) in packs.iter().enumerate() {
            rows::<R, 4, TOKENS>(w, pack, |i, sums| {
                let to = &mut out[i * t..][p * TOKENS..t.min((p + 1) * TOKENS)];
                to.copy_from_slice(&sums[..to.len()]);
            });
        }
    });
    if t == 1 {
        return columns;
    }
    let mut out = vec![R::default(); m * t];
    each_chunk(&mut out, m, m * t, |j, row| {
        for (i, o) in row.iter_mut().enumerate() {
            *o = columns[i * t + j];
        }
    });
    out
}

/// Up to [`TOKENS`] rows of `n` as `n` columns, the missing ones zero.
fn pack<R: Real>(rows: &[R], n: usize) -> Vec<[R; TOKENS]> {
    let mut out = vec![[R::default(); TOKENS]; n];
    for (b, row) in rows.chunks_exact(n).enumerate() {
        for (o, &v) in out.iter_mut().zip(row) {
            o[b] = v;
        }
    }
    out
}

/// Dot product of two rows of values: eight partial sums, then a tree.
pub(super) fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let (aa, bb) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut s = [R::default(); 8];
    for (a, b) in aa.0.iter().zip(bb.0) {
        for l in 0..8 {
            s[l] += a[l] * b[l];
        }
    }
    for ((s, &a), &b) in s.iter_mut().zip(aa.1).zip(bb.1) {
        *s += a * b;
    }
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

/// Work, in multiply-adds or so, below which threads cost more than they bring.
const WORTH_THREADS: usize = 1 << 19;

/// Calls `f(index, chunk)` for all chunks of `data`, on several threads if `work` is large.
pub(super) fn each_chunk<T: Send>(data: &mut [T], size: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let threads = if work < WORTH_THREADS { 1 } else { std::thread::available_parallelism().map_or(1, |n| n.get()) };
    let threads = threads.min(data.len().div_ceil(size.max(1)));
    let chunks = data.chunks_mut(size.max(1)).enumerate();
    if threads <= 1 {
        return chunks.for_each(|(i, c)| f(i, c));
    }
    let queue = Mutex::new(chunks);
    let worker = || {
        loop {
            let next = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
            match next {
                Some((i, c)) => f(i, c),
                None => return,
            }
        }
    };
    std::thread::scope(|s| {
        for _ in 1..threads {
            s.spawn(worker);
        }
        worker();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_together_give_the_bits_of_tokens_alone() {
        for (t, m, n) in [(1, 1, 1), (2, 3, 7), (3, 2, 8), (5, 33, 200), (4, 16, 64), (19, 21, 65)] {
            let number = |i: usize| ((i * 2654435761) % 1000) as f32 / 500.0 - 1.0;
            let x: Vec<f32> = (0..t * n).map(number).collect();
            let w: Vec<f32> = (0..m * n).map(|i| number(i + 77)).collect();
            let alone: Vec<f32> = x.chunks(n).flat_map(|x| matmul(x, &w, m, n)).collect();
            assert_eq!(matmul(&x, &w, m, n), alone, "{t} {m} {n}");
            let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            for (j, x) in wide.chunks(n).enumerate() {
                for (i, w) in w.chunks(n).enumerate() {
                    let exact: f64 = x.iter().zip(w).map(|(x, &w)| x * f64::from(w)).sum();
                    assert!((exact - f64::from(alone[j * m + i])).abs() < 1e-4, "{t} {m} {n}");
                }
            }
        }
    }

    #[test]
    fn halves_go_to_even_from_f32() {
        let (tie, bit) = (1.0 + 2f64.powi(-11), 2f64.powi(-23));
        assert_eq!([tie - bit, tie, tie + bit].map(Real::through_f16), [1.0, 1.0, 1.0 + 2f64.powi(-10)]);
        // Nearer to the tie than any f32 but the tie itself.
        assert_eq!((tie + 2f64.powi(-50)).through_f16(), 1.0);
        let tie = -1.0 - 2f64.powi(-8);
        assert_eq!([tie - bit, tie, tie + bit].map(Real::through_bf16), [-1.0 - 2f64.powi(-7), -1.0, -1.0]);
        assert_eq!(1e300.through_f16(), f64::INFINITY);
        assert_eq!([1e-300, -1e-300].map(Real::through_f16), [0.0; 2]);
        assert!(f64::NAN.through_f16().is_nan());
    }

    #[test]
    fn all_chunks_are_visited_once() {
        let mut data = vec![0usize; 1003];
        each_chunk(&mut data, 10, usize::MAX, |i, c| c.iter_mut().for_each(|v| *v += i + 1));
        assert!(data.iter().enumerate().all(|(i, v)| *v == i / 10 + 1));
    }

    /// `cargo test --release -p tilewright-ir graph::real -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn speed_of_matmul() {
        fn measure<R: Real>(what: &str) {
            for (t, m, n) in [(1, 4096, 1536), (64, 1536, 576), (256, 4864, 896), (256, 896, 4864)] {
                let x = vec![R::of(0.5); t * n];
                let w = vec![0.25f32; m * n];
                let start = std::time::Instant::now();
                let mut runs = 0;
                while start.elapsed().as_secs_f64() < 0.5 {
                    std::hint::black_box(matmul(&x, &w, m, n));
                    runs += 1;
                }
                let rate = (runs * t * m * n) as f64 / start.elapsed().as_secs_f64() / 1e9;
                println!("{what} {t} x {m} x {n}: {rate:.1} GMAC/s");
            }
        }
        measure::<f32>("f32");
        measure::<f64>("f64");
    }
}
