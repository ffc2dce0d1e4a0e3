//! Memory of threads and blocks, copies, atomics, and what the emulator must find where a kernel lacks something.

use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value};

use super::{agree, emulate, target, text};
use crate::tests::{Case, Random};

/// A block turns the order of its elements around, through shared memory.
fn reverse(ty: Type, barrier: bool) -> KernelBuilder {
    let bytes = i64::from(ty.bytes());
    let mut b = KernelBuilder::of_blocks("reverse", 64, 0);
    let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
    let unused = b.shared(100);
    let tile = b.shared(64 * bytes);
    let (block, thread) = (b.chunk_id(), b.thread_id());
    let base = b.mul_imm(block, 64 * bytes);
    let (x, y) = (b.offset(x, base), b.offset(y, base));
    let from = b.index(x, thread, bytes);
    let v = b.load(ty, from, 0);
    let place = b.index(tile, thread, bytes);
    b.store(v, place, 0);
    let four = b.index(unused, thread, 1);
    let small = b.trunc(thread, Scalar::I8);
    b.store(small, four, 36);
    if barrier {
        b.barrier();
    }
    let last = b.i64(63);
    let other = b.sub(last, thread);
    let place = b.index(tile, other, bytes);
    let v = b.load(ty, place, 0);
    let to = b.index(y, thread, bytes);
    b.store(v, to, 0);
    b
}

#[test]
fn shared_memory_of_every_type() {
    let all = [Scalar::I8, Scalar::I16, Scalar::I32, Scalar::I64, Scalar::F16, Scalar::BF16, Scalar::F32, Scalar::F64];
    for scalar in all {
        for lanes in [1, 2, 8, 16] {
            let mut random = Random::new();
            let (ty, blocks) = (Type { scalar, lanes }, 2);
            let n = blocks * 64 * usize::from(lanes);
            let buffers = vec![random.fill(scalar, n), vec![0; n * scalar.bytes() as usize]];
            let kernel = reverse(ty, true).finish();
            let (chunks, seed) = (blocks as i64, random.seed);
            agree(&Case { kernel, buffers, scalars: vec![], chunks, result: scalar, seed });
        }
    }
}

#[test]
fn a_missing_barrier_is_found() {
    let kernel = reverse(Type::F32, false).finish();
    let text = text(std::slice::from_ref(&kernel), &target("sm_80"));
    let found = (0..4).filter(|&seed| {
        let mut buffers = vec![vec![1; 256], vec![0; 256]];
        emulate(&text, &kernel, &mut buffers, &[], 1, seed).is_err()
    });
    assert!(found.count() > 0);
}

/// Sums of columns, with tiles that come two rounds ahead.
fn pipeline(bytes: i64, wait: bool) -> KernelBuilder {
    let mut b = KernelBuilder::of_blocks("pipeline", 32, 2);
    let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
    let tiles = b.shared(3 * 32 * bytes);
    let thread = b.thread_id();
    let x = b.index(x, thread, bytes);
    let mine = b.index(tiles, thread, bytes);
    let copy = |b: &mut KernelBuilder, round: Value| {
        let three = b.i64(3);
        let stage = b.rem_s(round, three);
        let (to, from) = (b.index(mine, stage, 32 * bytes), b.index(x, round, 32 * bytes));
        b.copy_async(to, from, bytes);
    };
    for k in 0..2 {
        let k = b.i64(k);
        copy(&mut b, k);
        b.copy_commit();
    }
    let ty = Type::F32.x((bytes / 4) as u16);
    let (zero, ten, sum) = (b.i64(0), b.i64(10), b.f32(ty.lanes, 0.0));
    let sum = b.for_(zero, ten, 1, &[sum], |b, round, c| {
        let next = b.add_imm(round, 2);
        let more = b.cmp(Pred::Slt, next, ten);
        b.when(more, |b| copy(b, next));
        b.copy_commit();
        if wait {
            b.copy_wait(2);
        }
        b.barrier();
        let three = b.i64(3);
        let stage = b.rem_s(round, three);
        // Of the neighbour, so that the barrier matters.
        let one = b.i64(1);
        let other = b.xor(thread, one);
        let place = b.index(tiles, other, bytes);
        let place = b.index(place, stage, 32 * bytes);
        let v = b.load(ty, place, 0);
        let sum = b.add(c[0], v);
        b.barrier();
        vec![sum]
    });
    let y = b.index(y, thread, bytes);
    b.store(sum[0], y, 0);
    b
}

fn floats(random: &mut Random, n: usize) -> Vec<u8> {
    (0..n).flat_map(|_| ((random.next() % 4001) as f32 / 1000.0 - 2.0).to_le_bytes()).collect()
}

#[test]
fn asynchronous_copies() {
    for bytes in [4, 8, 16] {
        let mut random = Random::new();
        let n = 32 * bytes as usize / 4;
        let buffers = vec![floats(&mut random, 10 * n), vec![0; 4 * n]];
        let (kernel, seed) = (pipeline(bytes, true).finish(), random.seed);
        agree(&Case { kernel, buffers, scalars: vec![], chunks: 1, result: Scalar::F32, seed });
    }
}

#[test]
fn a_missing_wait_for_a_copy_is_found() {
    let kernel = pipeline(16, false).finish();
    let text = text(std::slice::from_ref(&kernel), &target("sm_80"));
    let mut buffers = vec![vec![1; 10 * 512], vec![0; 512]];
    let fault = emulate(&text, &kernel, &mut buffers, &[], 1, 1).unwrap_err();
    assert!(fault.contains("missing wait"), "{fault}");
}

/// Blocks leave parts; the last one adds them up, in order, and leaves the counter as it was.
#[test]
fn the_last_block_sums() {
    let mut random = Random::new();
    let blocks = 7;
    let mut b = KernelBuilder::of_blocks("last", 32, 0);
    let (x, parts, y, counter) = (b.ptr_param("x"), b.ptr_param("parts"), b.ptr_param("y"), b.ptr_param("counter"));
    let flag = b.shared(4);
    let (block, thread) = (b.chunk_id(), b.thread_id());
    let row = b.index(x, block, 128);
    let from = b.index(row, thread, 4);
    let v = b.load(Type::F32, from, 0);
    let double = b.add(v, v);
    let part = b.index(parts, block, 128);
    let part = b.index(part, thread, 4);
    b.store(double, part, 0);
    b.fence();
    b.barrier();
    let zero = b.i64(0);
    let first = b.cmp(Pred::Eq, thread, zero);
    b.when(first, |b| {
        let one = b.int(Type::I32, 1);
        let before = b.atomic_add(counter, one);
        b.store(before, flag, 0);
    });
    b.barrier();
    let before = b.load(Type::I32, flag, 0);
    let last = b.int(Type::I32, blocks - 1);
    let is_last = b.cmp(Pred::Eq, before, last);
    b.when(is_last, |b| {
        b.fence();
        let (all, start) = (b.i64(blocks), b.f32(1, 0.0));
        let column = b.index(parts, thread, 4);
        let sum = b.for_(zero, all, 1, &[start], |b, i, c| {
            let at = b.index(column, i, 128);
            let v = b.load(Type::F32, at, 0);
            vec![b.add(c[0], v)]
        });
        let to = b.index(y, thread, 4);
        b.store(sum[0], to, 0);
        b.when(first, |b| {
            let minus = b.int(Type::I32, -blocks);
            b.atomic_add(counter, minus);
        });
    });
    let n = 32 * blocks as usize;
    let buffers = vec![floats(&mut random, n), vec![0; 4 * n], vec![0; 128], vec![0; 4]];
    let (kernel, seed) = (b.finish(), random.seed);
    agree(&Case { kernel, buffers, scalars: vec![], chunks: blocks, result: Scalar::F32, seed });
}

/// Private memory, alone and where a pointer may point into either.
#[test]
fn private_memory() {
    for mixed in [false, true] {
        let mut random = Random::new();
        let mut b = KernelBuilder::of_blocks("private", 32, 0);
        let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
        let (mine, more) = (b.local(40), b.local(24));
        let thread = b.thread_id();
        let x = b.index(x, thread, 64);
        let four = b.i64(4);
        for (i, to) in [(0, mine), (16, mine), (32, more)] {
            let v = b.load(Type::I32.x(4), x, i);
            if i == 32 {
                let half = b.low(v);
                b.store(half, to, 8);
            } else {
                b.store(v, to, i);
            }
        }
        let (zero, two) = (b.i64(0), b.i64(2));
        let odd = b.rem_s(thread, two);
        let odd = b.cmp(Pred::Ne, odd, zero);
        let mut from = vec![mine, x];
        if mixed {
            from = b.if_(odd, |_| vec![mine, x], |_| vec![x, mine]);
            from.push(b.select(odd, x, mine));
        }
        let start = b.int(Type::I32, 0);
        let mut sum = start;
        for p in from {
            let walk = b.for_(zero, four, 1, &[sum, p], |b, _, c| {
                let v = b.load(Type::I32, c[1], 4);
                let by = b.int(Type::I32, 31);
                let s = b.mul(c[0], by);
                let s = b.add(s, v);
                vec![s, b.offset(c[1], four)]
            });
            sum = walk[0];
        }
        let last = b.load(Type::I32, more, 8);
        let sum = b.add(sum, last);
        let y = b.index(y, thread, 4);
        b.store(sum, y, 0);
        let buffers = vec![random.fill(Scalar::I32, 32 * 16), vec![0; 128]];
        let (kernel, seed) = (b.finish(), random.seed);
        agree(&Case { kernel, buffers, scalars: vec![], chunks: 1, result: Scalar::I32, seed });
    }
}

/// Streaming loads, far offsets, and a pointer that comes from behind.
#[test]
fn far_away() {
    let mut random = Random::new();
    let mut b = KernelBuilder::of_blocks("far", 32, 0);
    let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
    let thread = b.thread_id();
    const FAR: i64 = 5 << 20;
    let ahead = b.index_bytes(x, 2 * FAR as u64);
    let ahead = b.index(ahead, thread, 16);
    b.prefetch(ahead, -FAR);
    let one = b.load_stream(Type::I8.x(16), ahead, -FAR);
    let minus = b.i64(-2 * FAR);
    let back = b.offset(ahead, minus);
    let two = b.load_stream(Type::I32.x(4), back, 1024);
    let three = b.load_stream(Type::I16, back, 2);
    let words = b.bitcast(one, Type::I32.x(4));
    let sum = b.add(words, two);
    let three = b.sext(three, Scalar::I32);
    let three = b.splat(three, 4);
    let sum = b.add(sum, three);
    let y = b.index(y, thread, 16);
    b.store(sum, y, 0);
    let buffers = vec![random.fill(Scalar::I32, (FAR as usize + 512) / 4), vec![0; 512]];
    let (kernel, seed) = (b.finish(), random.seed);
    agree(&Case { kernel, buffers, scalars: vec![], chunks: 1, result: Scalar::I32, seed });
}
