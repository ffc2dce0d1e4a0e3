//! Loops, branches, parameters and private memory; long runs over half precision.

use tilewright_ir::kernel::{KernelBuilder, Pred, Scalar, Type, Value};

use super::{Random, agree};

#[test]
pub(crate) fn loops_carry_values() {
    for (lo, hi, step) in [(0, 7, 1), (0, 8, 2), (3, 3, 1), (5, 2, 1), (-4, 5, 3)] {
        let mut random = Random::new();
        let mut b = KernelBuilder::new("loop_");
        let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
        let (from, to) = (b.int_param("from"), b.int_param("to"));
        let ty = Type::I32.x(8);
        let (a, c) = (b.load(ty, x, 0), b.load(ty, x, 32));
        let zero = b.int(Type::I64, 0);
        let out = b.for_(from, to, step, &[a, c, zero], |b, i, carried| {
            let k = b.int(ty, 12345);
            let s = b.add(carried[0], k);
            let inner = b.for_(carried[2], i, 1, &[s], |b, _, c| {
                let k = b.int(ty, 3);
                vec![b.mul(c[0], k)]
            });
            // Two values change places.
            vec![carried[1], inner[0], i]
        });
        b.store(out[0], y, 0);
        b.store(out[1], y, 32);
        b.store(out[2], y, 64);
        let buffers = [random.fill(Scalar::I32, 16), vec![0; 72]];
        agree(&b.finish(), &buffers, &[lo, hi], 1, Scalar::I8, random.seed);
    }
}

/// Masks of different widths meet at the ends of loops and branches.
#[test]
pub(crate) fn masks_cross_blocks() {
    for lanes in [1, 2, 8, 16] {
        let mut random = Random::new();
        let mut b = KernelBuilder::new("masks");
        let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
        let chunk = b.chunk_id();
        let x = b.index(x, chunk, 16 * i64::from(lanes));
        let y = b.index(y, chunk, 4 * i64::from(lanes));
        let ints = Type::I32.x(lanes);
        let test = |b: &mut KernelBuilder, ty: Type, at: i64| {
            let v = b.load(ty, x, at);
            let zero = b.int(ty, 0);
            b.cmp(Pred::Slt, v, zero)
        };
        let words = test(&mut b, ints, 0);
        let n = i64::from(lanes);
        let (lo, hi) = (b.i64(0), b.i64(3));
        let m = b.for_(lo, hi, 1, &[words], |b, i, m| {
            let one = b.i64(1);
            let odd = b.cmp(Pred::Eq, i, one);
            let bytes = test(b, Type::I8.x(lanes), 4 * n);
            let longs = b.if_(odd, |b| vec![test(b, Type::I64.x(lanes), 8 * n)], |_| vec![bytes]);
            let shorts = test(b, Type::I16.x(lanes), 6 * n);
            let m = b.xor(longs[0], m[0]);
            vec![b.xor(m, shorts)]
        });
        let (one, two) = (b.int(ints, 1), b.int(ints, -2));
        let r = b.select(m[0], one, two);
        b.store(r, y, 0);
        let n = usize::from(lanes);
        let buffers = [random.fill(Scalar::I8, 16 * n * 5), vec![0; 4 * n * 5]];
        agree(&b.finish(), &buffers, &[], 5, Scalar::I8, random.seed);
    }
}

#[test]
pub(crate) fn private_memory() {
    let mut random = Random::new();
    let mut b = KernelBuilder::new("local_");
    let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
    let (first, second) = (b.local(20_000), b.local(24));
    let ty = Type::I8.x(16);
    let (lo, hi) = (b.i64(0), b.i64(1250));
    let read = |b: &mut KernelBuilder, p: Value, i: Value| {
        let p = b.index(p, i, 16);
        (b.load(ty, p, 0), p)
    };
    b.for_(lo, hi, 1, &[], |b, i, _| {
        let (v, _) = read(b, x, i);
        let to = b.index(first, i, 16);
        b.store(v, to, 0);
        b.when_first(i, |b| {
            let v = b.load(Type::I64, x, 8);
            b.store(v, second, 16);
        });
        vec![]
    });
    b.for_(lo, hi, 1, &[], |b, i, _| {
        let (v, _) = read(b, first, i);
        let to = b.index(y, i, 16);
        b.store(v, to, 0);
        vec![]
    });
    let v = b.load(Type::I64, second, 16);
    b.store(v, y, 20_000);
    let buffers = [random.fill(Scalar::I8, 20_000), vec![0; 20_008]];
    agree(&b.finish(), &buffers, &[], 1, Scalar::I8, random.seed);
}

trait WhenFirst {
    fn when_first(&mut self, i: Value, f: impl FnOnce(&mut Self));
}

impl WhenFirst for KernelBuilder {
    fn when_first(&mut self, i: Value, f: impl FnOnce(&mut Self)) {
        let zero = self.i64(0);
        let first = self.cmp(Pred::Eq, i, zero);
        self.when(first, f);
    }
}

/// A loop that converts `n` elements, 16 at a time.
fn convert(from: Type, to: Type, data: &[u8], seed: u64) {
    let mut b = KernelBuilder::new("convert");
    let (x, y, n) = (b.ptr_param("x"), b.ptr_param("y"), b.int_param("n"));
    let zero = b.i64(0);
    b.for_(zero, n, 16, &[], |b, i, _| {
        let (x, y) = (b.index(x, i, i64::from(from.bytes())), b.index(y, i, i64::from(to.bytes())));
        let v = b.load(from.x(16), x, 0);
        let v = if to == Type::F32 { b.fext(v, to.scalar) } else { b.fround(v, to.scalar) };
        b.store(v, y, 0);
        vec![]
    });
    let n = data.len() / from.bytes() as usize;
    let out = vec![0; n * to.bytes() as usize];
    agree(&b.finish(), &[data.to_vec(), out], &[n as i64], 1, to.scalar, seed);
}

#[test]
pub(crate) fn every_half_widens() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    convert(Type::F16, Type::F32, &all, 0);
    convert(Type::BF16, Type::F32, &all, 0);
}

/// The points between neighbours, and those next to them.
#[test]
pub(crate) fn rounding_to_half_is_exact() {
    let mut random = Random::new();
    for to in [Type::F16, Type::BF16] {
        let float = |h: u16| match to {
            Type::F16 => half::f16::from_bits(h).to_f32(),
            _ => half::bf16::from_bits(h).to_f32(),
        };
        let mut bits: Vec<u32> = vec![];
        for h in 0..u16::MAX {
            let (a, b) = (float(h), float(h + 1));
            let middle = if a.is_finite() && b.is_finite() { (a / 2.0 + b / 2.0).to_bits() } else { a.to_bits() };
            bits.extend([a.to_bits(), middle.wrapping_sub(1), middle, middle.wrapping_add(1)]);
        }
        bits.extend((0..1 << 16).map(|_| random.next() as u32));
        bits.truncate(bits.len() / 16 * 16);
        let data: Vec<u8> = bits.into_iter().flat_map(u32::to_le_bytes).collect();
        convert(Type::F32, to, &data, random.seed);
    }
}
