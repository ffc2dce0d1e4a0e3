//! Ops of a warp, arithmetic in 16 bits, and approximations.

use half::{bf16, f16};
use tilewright_ir::kernel::{Imm, Kernel, KernelBuilder, Opcode, Scalar, Type, Value, interp};

use super::{TARGETS, agree, emulate, target, text};
use crate::backend::Backend;
use crate::ptx::Ptx;
use crate::tests::{Case, Random};

/// A warp loads a value of each type a thread, does something with them, and stores the result.
fn warp(inputs: &[Type], f: impl FnOnce(&mut KernelBuilder, &[Value]) -> Value) -> Kernel {
    let mut b = KernelBuilder::of_blocks("warp", 64, 0);
    let pointers: Vec<Value> = (0..=inputs.len()).map(|i| b.ptr_param(&format!("p{i}"))).collect();
    let thread = b.thread_id();
    let mut args = vec![];
    for (&p, &ty) in pointers.iter().zip(inputs) {
        let p = b.index(p, thread, ty.bytes().into());
        args.push(b.load(ty, p, 0));
    }
    let r = f(&mut b, &args);
    let bytes = b.ty(r).bytes().into();
    let out = b.index(pointers[inputs.len()], thread, bytes);
    b.store(r, out, 0);
    b.finish()
}

/// Numbers with few bits: products and short sums of them are exact in every order.
fn small(random: &mut Random, ty: Type) -> Vec<u8> {
    let n = 64 * usize::from(ty.lanes);
    let number = |random: &mut Random| (random.next() % 65) as f32 / 8.0 - 4.0;
    let bytes = |v: f32| match ty.scalar {
        Scalar::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
        Scalar::BF16 => bf16::from_f32(v).to_le_bytes().to_vec(),
        _ => v.to_le_bytes().to_vec(),
    };
    (0..n).flat_map(|_| bytes(number(random))).collect()
}

fn run(inputs: &[Type], result: Type, any: bool, f: impl FnOnce(&mut KernelBuilder, &[Value]) -> Value) {
    let mut random = Random::new();
    let kernel = warp(inputs, f);
    let fill = |random: &mut Random, t: &Type| match any {
        true => random.fill(t.scalar, 64 * usize::from(t.lanes)),
        false => small(random, *t),
    };
    let mut buffers: Vec<Vec<u8>> = inputs.iter().map(|t| fill(&mut random, t)).collect();
    buffers.push(vec![0; 64 * result.bytes() as usize]);
    agree(&Case { kernel, buffers, scalars: vec![], chunks: 1, result: result.scalar, seed: random.seed });
}

#[test]
fn shuffles() {
    for ty in [Type::I32, Type::F32, Type::F32.x(4), Type::I32.x(2)] {
        for distance in [1, 2, 4, 8, 16] {
            run(&[ty], ty, true, |b, a| {
                let other = b.shuffle_xor(a[0], distance);
                b.add(a[0], other)
            });
        }
    }
}

#[test]
fn products_of_matrices() {
    for s in [Scalar::F16, Scalar::BF16] {
        let half = |lanes| Type { scalar: s, lanes };
        run(&[Type::F32.x(4), half(8), half(4)], Type::F32.x(4), false, |b, a| {
            let c = b.mma(a[0], a[1], a[2]);
            b.mma(c, a[1], a[2])
        });
    }
}

#[test]
fn matrices_from_shared_memory() {
    for s in [Scalar::F16, Scalar::BF16] {
        for lanes in [2, 4, 8] {
            for transposed in [false, true] {
                let ty = Type { scalar: s, lanes };
                run(&[Type::I8.x(16)], ty, true, |b, a| {
                    let tile = b.shared(64 * 16);
                    let (thread, warp) = (b.thread_id(), b.i64(31));
                    let place = b.index(tile, thread, 16);
                    b.store(a[0], place, 0);
                    b.barrier();
                    // Rows of the other warp.
                    let other = b.i64(32);
                    let other = b.xor(thread, other);
                    let row = b.index(tile, other, 16);
                    let v = b.load_matrix(ty, row, transposed);
                    let lane = b.and(thread, warp);
                    let _ = b.load_matrix(ty, row, !transposed);
                    let _ = lane;
                    v
                });
            }
        }
    }
}

#[test]
fn arithmetic_of_16_bits() {
    use Opcode::*;
    for scalar in [Scalar::F16, Scalar::BF16] {
        for lanes in [1, 2, 4, 8, 32] {
            let ty = Type { scalar, lanes };
            for op in [Add, Sub, Mul] {
                run(&[ty, ty], ty, true, |b, a| b.op(op, a.to_vec(), Imm::None, None));
            }
            run(&[ty, ty, ty], ty, false, |b, a| b.fma(a[0], a[1], a[2]));
            // A constant is one of f32 that is rounded.
            run(&[ty], ty, true, |b, a| {
                let k = b.f32(lanes, -1.375);
                let k = b.fround(k, scalar);
                let sum = b.add(a[0], k);
                b.mul(sum, a[0])
            });
        }
    }
}

/// Within so many of the largest result.
fn near(kernel: &Kernel, buffers: Vec<Vec<u8>>, seed: u64, relative: bool, tolerance: f32) {
    let mut wanted = buffers.clone();
    interp::run(kernel, &mut wanted, &[], 0).unwrap();
    let floats = |b: &[Vec<u8>]| -> Vec<f32> {
        let bytes = b.last().unwrap().chunks_exact(4);
        bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let wanted = floats(&wanted);
    let most = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
    for name in TARGETS.map(target).iter().filter(|t| Ptx.check(kernel, t).is_ok()) {
        let text = text(std::slice::from_ref(kernel), name);
        let mut got = buffers.clone();
        emulate(&text, kernel, &mut got, &[], 1, seed).unwrap_or_else(|e| panic!("{e}\n{text}"));
        for (g, w) in floats(&got).into_iter().zip(&wanted) {
            let scale = if relative { w.abs() } else { most };
            assert!((g - w).abs() <= tolerance * scale, "TILEWRIGHT_SEED={seed}: {g} instead of {w}");
        }
    }
}

#[test]
fn approximations() {
    let mut random = Random::new();
    let any = |random: &mut Random, n: usize| -> Vec<u8> {
        (0..n).flat_map(|_| ((random.next() % 200_000) as f32 / 1000.0 - 100.0).to_le_bytes()).collect()
    };
    let kernel = warp(&[Type::F32.x(4)], |b, a| b.exp2_approx(a[0]));
    let buffers = vec![any(&mut random, 256), vec![0; 1024]];
    near(&kernel, buffers, random.seed, true, 2f32.powi(-21));
    for s in [Scalar::F16, Scalar::BF16] {
        let kernel = warp(&[Type::F32.x(8), Type::F32.x(4)], |b, a| {
            let (x, y) = (b.fround(a[0], s), b.fround(a[1], s));
            let zero = b.f32(4, 0.0);
            b.mma(zero, x, y)
        });
        let buffers = vec![any(&mut random, 512), any(&mut random, 256), vec![0; 1024]];
        near(&kernel, buffers, random.seed, false, 1e-5);
    }
}
