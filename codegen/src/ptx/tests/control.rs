//! Branches and loops of threads that do not agree, and `i64` values in all sizes.

use tilewright_ir::kernel::{Imm, KernelBuilder, Opcode, Pred, Scalar, Type, Value};

use super::agree;
use crate::tests::{Case, Random};

const THREADS: u32 = 64;
const BLOCKS: i64 = 3;

/// A kernel whose threads each have `i64` numbers from memory, and store numbers.
fn numbers(inputs: usize, outputs: usize, values: &[i64], f: impl FnOnce(&mut KernelBuilder, &[Value]) -> Vec<Value>) {
    let mut random = Random::new();
    let mut b = KernelBuilder::of_blocks("numbers", THREADS, 0);
    let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
    let (block, thread) = (b.chunk_id(), b.thread_id());
    let row = b.mul_imm(block, THREADS.into());
    let row = b.add(row, thread);
    let from = b.index(x, row, 8 * inputs as i64);
    let loaded: Vec<Value> = (0..inputs as i64).map(|i| b.load(Type::I64, from, 8 * i)).collect();
    let out = f(&mut b, &loaded);
    assert_eq!(out.len(), outputs);
    let to = b.index(y, row, 8 * outputs as i64);
    for (i, v) in out.into_iter().enumerate() {
        b.store(v, to, 8 * i as i64);
    }
    let rows = BLOCKS as usize * THREADS as usize;
    let input: Vec<u8> = (0..rows * inputs)
        .flat_map(|_| {
            let any = random.next();
            let v = if values.is_empty() { any as i64 } else { values[any as usize % values.len()] };
            v.to_le_bytes()
        })
        .collect();
    let buffers = vec![input, vec![0; rows * outputs * 8]];
    agree(&Case {
        kernel: b.finish(),
        buffers,
        scalars: vec![],
        chunks: BLOCKS,
        result: Scalar::I64,
        seed: random.seed,
    });
}

#[test]
fn loops_of_different_length() {
    let values: Vec<i64> = (-3..12).collect();
    for step in [1, 2, 5] {
        numbers(2, 3, &values, |b, x| {
            let (zero, one) = (b.i64(0), b.i64(1));
            // Carried values that change places, and a pointer would be no different.
            b.for_(x[0], x[1], step, &[zero, one, x[1]], |b, i, c| {
                let sum = b.add(c[0], c[1]);
                let mixed = b.mul_imm(c[2], 3);
                let mixed = b.xor(mixed, i);
                vec![c[1], sum, mixed]
            })
        });
    }
}

#[test]
fn loops_at_the_end_of_numbers() {
    let values = [i64::MAX, i64::MAX - 1, i64::MAX - 5, i64::MAX - 9];
    numbers(2, 1, &values, |b, x| {
        let zero = b.i64(0);
        b.for_(x[0], x[1], 4, &[zero], |b, _, c| vec![b.add_imm(c[0], 1)])
    });
    let values = [i64::MIN, i64::MIN + 3, i64::MIN + 9];
    numbers(2, 1, &values, |b, x| {
        let zero = b.i64(0);
        b.for_(x[0], x[1], 1, &[zero], |b, i, c| vec![b.sub(c[0], i)])
    });
}

#[test]
fn loops_of_known_length() {
    for (lo, hi, step) in
        [(0, 0, 1), (5, 2, 1), (0, 1, 1), (3, 5, 2), (3, 6, 2), (-4, 4, 3), (i64::MAX - 2, i64::MAX, 1)]
    {
        numbers(1, 2, &[], |b, x| {
            let (from, to, zero) = (b.i64(lo), b.i64(hi), b.i64(0));
            b.for_(from, to, step, &[x[0], zero], |b, i, c| {
                let next = b.add(c[0], i);
                vec![c[1], next]
            })
        });
    }
    // The thread's number as a bound: it is known to be small.
    numbers(1, 2, &[], |b, x| {
        let (thread, zero) = (b.thread_id(), b.i64(0));
        let mut out = b.for_(zero, thread, 3, &[x[0]], |b, i, c| {
            let s = b.mul(i, i);
            vec![b.add(c[0], s)]
        });
        let two = b.i64(2);
        let rest = b.op(Opcode::RemS, vec![thread, two], Imm::None, None);
        out.push(rest);
        out
    });
}

#[test]
fn branches_within_branches() {
    numbers(2, 4, &[-2, -1, 0, 1, 2, 1 << 40], |b, x| {
        let (zero, thread) = (b.i64(0), b.thread_id());
        let (first, second) = (b.cmp(Pred::Sgt, x[0], zero), b.cmp(Pred::Eq, x[1], zero));
        let small = b.if_(
            first,
            |b| {
                // Fits 32 bits in both arms.
                let inner = b.if_(second, |b| vec![b.mul_imm(thread, 4)], |b| vec![b.add_imm(thread, -9)]);
                vec![inner[0], x[1], second]
            },
            |b| vec![b.i64(-5), x[0], first],
        );
        let one = b.i64(1);
        let third = b.select(small[2], one, zero);
        let twice = b.add(small[0], small[0]);
        // Without results, and with nothing on one side.
        let none = b.if_(second, |_| vec![], |_| vec![]);
        assert!(none.is_empty());
        let other = b.if_(first, |_| vec![zero], |b| vec![b.add(x[0], x[1])]);
        vec![small[1], third, twice, other[0]]
    });
}

/// Every op on pairs of numbers whose ranges are known, or not.
#[test]
fn ranges() {
    use Opcode::*;
    let ops = [Add, Sub, Mul, And, Or, Xor, Smin, Smax, DivS, RemS];
    for op in ops {
        let edges = [0, 1, -1, 77, -77, 1 << 20, i32::MAX.into(), i32::MIN.into(), 1 << 31, -(1 << 31) - 1, 1 << 45];
        for values in [&edges[..], &[]] {
            numbers(2, 12, values, |b, x| {
                let thread = b.thread_id();
                let low = b.int(Type::I64, 0xff);
                let byte = b.and(x[0], low);
                let sixteen = b.trunc(x[1], Scalar::I16);
                let (signed, unsigned) = (b.sext(sixteen, Scalar::I64), b.zext(sixteen, Scalar::I64));
                let word = b.trunc(x[1], Scalar::I32);
                let (word, raw) = (b.sext(word, Scalar::I64), b.zext(word, Scalar::I64));
                let scaled = b.mul_imm(thread, 48);
                let scaled = b.add_imm(scaled, -700);
                let large = b.mul_imm(byte, 1 << 40);
                let all = [thread, byte, signed, unsigned, word, raw, scaled, large, x[0], x[1]];
                let mut out = vec![];
                for i in 0..12 {
                    let (p, mut q) = (all[i % 10], all[(i * 7 + 3) % 10]);
                    if matches!(op, DivS | RemS) {
                        // Neither 0 nor -1.
                        let (mask, two) = (b.i64(0x7fff), b.i64(2));
                        q = b.and(q, mask);
                        q = b.op(Smax, vec![q, two], Imm::None, None);
                    }
                    out.push(b.op(op, vec![p, q], Imm::None, None));
                }
                out
            });
            let constants = [1, 2, 3, 8, 4096, -1, 0xff, 0x7fff_ffff, 1 << 33];
            numbers(1, 9, values, |b, x| {
                let thread = b.thread_id();
                let chunk = b.chunk_id();
                let scaled = b.mul_imm(thread, 4096);
                let scaled = b.add(scaled, chunk);
                let mut out = vec![];
                for (i, c) in constants.into_iter().enumerate() {
                    let of = [thread, scaled, x[0]][i % 3];
                    let c = if matches!(op, DivS | RemS) && c == -1 { 7 } else { c };
                    let c = b.i64(c);
                    out.push(b.op(op, vec![of, c], Imm::None, None));
                }
                out
            });
        }
    }
}

#[test]
fn shifts_and_comparisons_of_ranges() {
    let values = [0, 1, -1, 5, 31, 32, 63, 1 << 31, -(1 << 31), 1 << 50, -(1 << 50), i64::MIN, i64::MAX];
    for op in [Opcode::Shl, Opcode::ShrU, Opcode::ShrS] {
        numbers(2, 9, &values, |b, x| {
            let (thread, mask) = (b.thread_id(), b.i64(63));
            let count = b.and(x[1], mask);
            let count = b.trunc(count, Scalar::I32);
            let scaled = b.mul_imm(thread, 192);
            let mut out = vec![];
            for of in [thread, scaled, x[0]] {
                out.push(b.op(op, vec![of, count], Imm::None, None));
                for k in [6, 40] {
                    let k = b.int(Type::I32, k);
                    out.push(b.op(op, vec![of, k], Imm::None, None));
                }
            }
            out
        });
    }
    for (p, _) in Pred::TABLE {
        numbers(2, 4, &values, |b, x| {
            let (thread, limit) = (b.thread_id(), b.i64(40));
            let negative = b.neg(thread);
            let pairs = [(thread, limit), (x[0], x[1]), (negative, x[0]), (negative, thread)];
            pairs
                .into_iter()
                .map(|(a, c)| {
                    let holds = b.cmp(p, a, c);
                    b.zext(holds, Scalar::I64)
                })
                .collect()
        });
    }
}

#[test]
fn numbers_become_floats() {
    let values = [0, -1, 1 << 24, (1 << 24) + 1, i64::MAX, i64::MIN, (1 << 53) + 1];
    numbers(1, 4, &values, |b, x| {
        let thread = b.thread_id();
        let mut out = vec![];
        for of in [thread, x[0]] {
            let (single, double) = (b.int_to_f(of, Scalar::F32), b.int_to_f(of, Scalar::F64));
            let bits = b.bitcast(single, Type::I32);
            out.push(b.zext(bits, Scalar::I64));
            out.push(b.bitcast(double, Type::I64));
        }
        out
    });
}

#[test]
fn parameters_are_read_from_memory() {
    for waits in [false, true] {
        let random = Random::new();
        let mut b = KernelBuilder::of_blocks("parameters", 32, 0);
        let (y, n, m) = (b.ptr_param("y"), b.int_param("n"), b.int_param("m"));
        let thread = b.thread_id();
        let y = b.index(y, thread, 8);
        if waits {
            b.launch_next();
            b.wait_prior();
        }
        let sum = b.for_(n, m, 1, &[thread], |b, i, c| vec![b.add(c[0], i)]);
        b.store(sum[0], y, 0);
        let (kernel, buffers) = (b.finish(), vec![vec![0; 256]]);
        agree(&Case { kernel, buffers, scalars: vec![-3, 9], chunks: 1, result: Scalar::I64, seed: random.seed });
    }
}
