//! Every op on every element type and number of lanes.

use tilewright_ir::kernel::{Imm, KernelBuilder, Opcode, Pred, Scalar, Type, Value};

use super::{FLOATS, INTS, LANES, Random, agree};

const CHUNKS: i64 = 6;

/// A kernel that loads the inputs, applies `f` and stores its result, truth values as bytes.
fn op(inputs: &[Type], f: impl FnOnce(&mut KernelBuilder, &[Value]) -> Value) {
    let mut random = Random::new();
    let mut b = KernelBuilder::new("op");
    let pointers: Vec<Value> = (0..=inputs.len()).map(|i| b.ptr_param(&format!("p{i}"))).collect();
    let chunk = b.chunk_id();
    let mut args = vec![];
    for (&p, &ty) in pointers.iter().zip(inputs) {
        let p = b.index(p, chunk, i64::from(ty.bytes()));
        args.push(b.load(ty, p, 0));
    }
    let mut r = f(&mut b, &args);
    if b.ty(r).scalar == Scalar::I1 {
        r = b.zext(r, Scalar::I8);
    }
    let ty = b.ty(r);
    let out = b.index(pointers[inputs.len()], chunk, i64::from(ty.bytes()));
    b.store(r, out, 0);
    let mut buffers: Vec<Vec<u8>> =
        inputs.iter().map(|t| random.fill(t.scalar, usize::from(t.lanes) * CHUNKS as usize)).collect();
    buffers.push(vec![0; ty.bytes() as usize * CHUNKS as usize]);
    agree(&b.finish(), &buffers, &[], CHUNKS, ty.scalar, random.seed);
}

fn each(types: &[Type], mut f: impl FnMut(Type)) {
    for &ty in types {
        LANES.iter().for_each(|&n| f(ty.x(n)));
    }
}

fn numbers() -> Vec<Type> {
    [&INTS[..], &FLOATS].concat()
}

fn masks(b: &mut KernelBuilder, v: Value) -> Value {
    let zero = match b.ty(v).scalar.is_float() {
        true => b.float(b.ty(v), 0.0),
        false => b.int(b.ty(v), 0),
    };
    b.cmp(Pred::Sgt, v, zero)
}

#[test]
pub(crate) fn arithmetic() {
    use Opcode::*;
    for code in [Add, Sub, Mul] {
        each(&numbers(), |t| op(&[t, t], |b, a| b.op(code, a.to_vec(), Imm::None, None)));
    }
    for code in [And, Or, Xor, Smin, Smax] {
        each(&INTS, |t| op(&[t, t], |b, a| b.op(code, a.to_vec(), Imm::None, None)));
    }
    for code in [Div, Fmin, Fmax] {
        each(&FLOATS, |t| op(&[t, t], |b, a| b.op(code, a.to_vec(), Imm::None, None)));
    }
    for code in [Abs, Sqrt, Floor, Nearest] {
        each(&FLOATS, |t| op(&[t], |b, a| b.op(code, a.to_vec(), Imm::None, None)));
    }
    each(&numbers(), |t| op(&[t], |b, a| b.neg(a[0])));
    each(&FLOATS, |t| op(&[t, t, t], |b, a| b.fma(a[0], a[1], a[2])));
    for t in INTS {
        for code in [DivS, RemS] {
            op(&[t, t], |b, a| {
                let (mask, one) = (b.int(t, 0x3f), b.int(t, 1));
                let d = b.and(a[1], mask);
                let d = b.or(d, one);
                b.op(code, vec![a[0], d], Imm::None, None)
            });
        }
    }
}

#[test]
pub(crate) fn shifts() {
    for code in [Opcode::Shl, Opcode::ShrU, Opcode::ShrS] {
        each(&INTS, |t| {
            let width = 8 * i64::from(t.scalar.bytes());
            for count in [0, 1, 4, width - 1] {
                op(&[t], |b, a| {
                    let n = b.int(Type::I32, count);
                    b.op(code, vec![a[0], n], Imm::None, None)
                });
            }
            op(&[t, Type::I32], |b, a| {
                let mask = b.int(Type::I32, width - 1);
                let n = b.and(a[1], mask);
                b.op(code, vec![a[0], n], Imm::None, None)
            });
        });
    }
}

#[test]
pub(crate) fn comparison_and_selection() {
    for (pred, _) in Pred::TABLE {
        each(&INTS, |t| op(&[t, t], |b, a| b.cmp(pred, a[0], a[1])));
        if !matches!(pred, Pred::Ult | Pred::Uge) {
            each(&FLOATS, |t| op(&[t, t], |b, a| b.cmp(pred, a[0], a[1])));
        }
    }
    let mut moved = numbers();
    moved.extend([Type::F16, Type::BF16]);
    each(&moved, |t| {
        // Masks of each width for each width of lanes, and one for all lanes.
        for by in [Type::I8, Type::I16, Type::F32, Type::I64] {
            op(&[by.x(t.lanes), t, t], |b, a| {
                let c = masks(b, a[0]);
                b.select(c, a[1], a[2])
            });
            op(&[by, t, t], |b, a| {
                let c = masks(b, a[0]);
                b.select(c, a[1], a[2])
            });
        }
    });
    each(&[Type::I8, Type::I16, Type::F32, Type::F64], |t| {
        let other = Type::I32.x(t.lanes);
        for code in [Opcode::And, Opcode::Or, Opcode::Xor] {
            op(&[t, other], |b, a| {
                let (x, y) = (masks(b, a[0]), masks(b, a[1]));
                b.op(code, vec![x, y], Imm::None, None)
            });
        }
        op(&[t, other, t], |b, a| {
            let (x, y, z) = (masks(b, a[0]), masks(b, a[1]), masks(b, a[2]));
            b.select(x, y, z)
        });
        for to in INTS {
            op(&[t], |b, a| {
                let m = masks(b, a[0]);
                b.zext(m, to.scalar)
            });
        }
    });
}

#[test]
pub(crate) fn conversions() {
    for (i, from) in INTS.into_iter().enumerate() {
        for to in &INTS[i + 1..] {
            each(&[from], |t| {
                op(&[t], |b, a| b.sext(a[0], to.scalar));
                op(&[t], |b, a| b.zext(a[0], to.scalar));
                op(&[to.x(t.lanes)], |b, a| b.trunc(a[0], from.scalar));
            });
        }
    }
    for to in [Scalar::F32, Scalar::F64] {
        each(&[Type::I32], |t| op(&[t], |b, a| b.int_to_f(a[0], to)));
        op(&[Type::I64], |b, a| b.int_to_f(a[0], to));
    }
    each(&[Type::F32], |t| {
        op(&[t], |b, a| b.f_to_int(a[0], Scalar::I32));
        for to in [Scalar::F16, Scalar::BF16] {
            op(&[t], |b, a| b.fround(a[0], to));
            op(&[t.with(to)], |b, a| b.fext(a[0], Scalar::F32));
        }
        op(&[t], |b, a| b.fext(a[0], Scalar::F64));
        op(&[t.with(Scalar::F64)], |b, a| b.fround(a[0], Scalar::F32));
    });
    let all = [Type::I8, Type::I16, Type::I32, Type::I64, Type::F16, Type::BF16, Type::F32, Type::F64];
    each(&all, |t| {
        for to in all {
            let lanes = t.bytes() / to.scalar.bytes();
            if (1..=256).contains(&lanes) {
                op(&[t], |b, a| b.bitcast(a[0], to.x(lanes as u16)));
            }
        }
    });
}

#[test]
pub(crate) fn lanes() {
    let mut all = numbers();
    all.extend([Type::F16, Type::BF16]);
    each(&all, |t| {
        let n = i64::from(t.lanes);
        for lane in [0, n / 2, n - 1] {
            op(&[t], |b, a| b.extract(a[0], lane));
            op(&[t, t.x(1)], |b, a| b.insert(a[0], a[1], lane));
            op(&[t.with(Scalar::I16), Type::I32], |b, a| {
                let (v, s) = (masks(b, a[0]), masks(b, a[1]));
                let first = b.extract(v, lane);
                let v = b.insert(v, s, n - 1 - lane);
                b.select(first, v, v)
            });
        }
        if n > 1 {
            op(&[t.x(1)], |b, a| b.splat(a[0], t.lanes));
            op(&[t], |b, a| b.low(a[0]));
            op(&[t], |b, a| b.high(a[0]));
            op(&[t.with(Scalar::I32), Type::I8], |b, a| {
                let (v, s) = (masks(b, a[0]), masks(b, a[1]));
                let s = b.splat(s, t.lanes / 2);
                let (low, high) = (b.low(v), b.high(v));
                let x = b.xor(low, high);
                b.xor(x, s)
            });
        }
    });
    each(&numbers(), |t| op(&[t], |b, a| b.sum(a[0])));
    each(&FLOATS, |t| op(&[t], |b, a| b.max_lane(a[0])));
    for t in [Type::I32, Type::I64, Type::F32, Type::F64] {
        for n in LANES {
            for distance in (0..5).map(|k| 1 << k).filter(|&d| d < i64::from(n)) {
                op(&[t.x(n)], |b, a| b.swap_lanes(a[0], distance));
            }
        }
    }
    each(&[Type::I8], |t| {
        op(&[Type::I8.x(16), t], |b, a| {
            let mask = b.int(t, 15);
            let i = b.and(a[1], mask);
            b.swizzle(a[0], i)
        });
        let acc = Type::I32.x(t.lanes);
        let bytes = Type::I8.x(4 * t.lanes);
        op(&[acc, bytes, bytes], |b, a| {
            let r = b.dot4(a[0], a[1], a[2]);
            // Again, with the operands the other way round, and with small ones.
            let r = b.dot4(r, a[2], a[1]);
            let low = b.int(bytes, 127);
            let small = b.and(a[1], low);
            b.prefetch(Value(0), 64);
            b.dot4_u7(r, small, a[2])
        });
    });
    for scalar in INTS {
        each(&[scalar], |t| {
            op(&[t], |b, a| {
                let k = b.int(t, -77);
                b.add(a[0], k)
            });
        });
    }
    each(&[Type::I32], |t| {
        op(&[t, t], |b, a| {
            let one = b.int(t.with(Scalar::I1), 1);
            let m = masks(b, a[0]);
            let m = b.xor(m, one);
            b.select(m, a[0], a[1])
        });
    });
}

/// Sums of the largest products, of codes of each width: nothing saturates on the way to 32 bits.
#[test]
pub(crate) fn chains_of_dot_products() {
    for lanes in [1, 4, 8, 32] {
        for bits in 1..=8 {
            for code in [Opcode::Dot4, Opcode::Dot4U7].into_iter().filter(|&c| bits < 8 || c == Opcode::Dot4) {
                let (ints, bytes) = (Type::I32.x(lanes), Type::I8.x(4 * lanes));
                let mut b = KernelBuilder::new("chain");
                let (u, s, out) = (b.ptr_param("u"), b.ptr_param("s"), b.ptr_param("out"));
                let chunk = b.chunk_id();
                let s = b.index(s, chunk, i64::from(bytes.bytes()));
                let out = b.index(out, chunk, 2 * i64::from(ints.bytes()));
                let mask = b.int(bytes, (1 << bits) - 1);
                let start = b.load(ints, u, 0);
                for (k, start) in [b.int(ints, 0), start].into_iter().enumerate() {
                    let mut acc = start;
                    for _ in 0..9 {
                        let (x, y) = (b.load(bytes, u, 0), b.load(bytes, s, 0));
                        let x = b.and(x, mask);
                        acc = b.op(code, vec![acc, x, y], Imm::None, None);
                    }
                    b.store(acc, out, k as i64 * i64::from(ints.bytes()));
                }
                let n = bytes.bytes() as usize;
                let largest = [vec![0x80; n], vec![0x7f; n]].concat();
                let buffers = [vec![0xff; n], largest, vec![0; 4 * n]];
                agree(&b.finish(), &buffers, &[], 2, Scalar::I32, 0);
            }
        }
    }
}

/// Against the instruction where the machine has it: any bits, and numbers whose products are about to be denormal.
#[test]
pub(crate) fn dot_of_bf16_pairs() {
    let run = |lanes: u16, tiny: bool| {
        let (acc, pairs) = (Type::F32.x(lanes), Type::BF16.x(2 * lanes));
        op(&[acc, pairs, pairs], |b, a| {
            let masked = |b: &mut KernelBuilder, v: Value, ints: Type, keep: i64, set: i64| {
                let ty = b.ty(v);
                let v = b.bitcast(v, ints);
                let (keep, set) = (b.int(ints, keep), b.int(ints, set));
                let v = b.and(v, keep);
                let v = b.or(v, set);
                b.bitcast(v, ty)
            };
            if !tiny {
                let r = b.dot2(a[0], a[1], a[2]);
                // Again with a factor from memory that is the same for all lanes.
                let w = b.load(Type::I32, Value(2), 0);
                let w = b.splat(w, lanes);
                let w = b.bitcast(w, pairs);
                return b.dot2(r, a[1], w);
            }
            // Exponents from -127, -71 and -63 on: sums on both sides of the least normal number.
            let acc = masked(b, a[0], Type::I32.x(lanes), 0x83ff_ffff, 0);
            let x = masked(b, a[1], Type::I16.x(2 * lanes), 0x87ff, 0x1c00);
            let y = masked(b, a[2], Type::I16.x(2 * lanes), 0x87ff, 0x2000);
            b.dot2(acc, x, y)
        });
    };
    for lanes in LANES {
        (0..20).for_each(|_| run(lanes, false));
        (0..20).for_each(|_| run(lanes, true));
    }
}

#[test]
pub(crate) fn functions() {
    each(&[Type::F32], |t| {
        op(&[t], |b, a| b.exp(a[0]));
        op(&[t], |b, a| b.tanh(a[0]));
        op(&[t], |b, a| b.gelu_tanh(a[0]));
    });
}
