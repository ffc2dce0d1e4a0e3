//! What file tests cannot say of kernel IR: kernels from the builder, aliasing, kernels that have no text.

use tilewright_ir::kernel::interp::{self, InterpError, Pointer, Precision};
use tilewright_ir::kernel::{
    Block, Imm, Inst, Kernel, KernelBuilder, OP_TABLE, Opcode, Param, Pred, Scalar, Type, Value, parse, verify,
};

const N: usize = 64;

/// `y = f(x)` on [`N`] floats, 8 lanes at a time, and that its text is the same kernel.
fn map(f: impl Fn(&mut KernelBuilder, Value) -> Value) -> Kernel {
    let mut b = KernelBuilder::new("map");
    let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
    let (lo, hi) = (b.i64(0), b.i64(N as i64));
    b.for_(lo, hi, 8, &[], |b, i, _| {
        let (xp, yp) = (b.index(x, i, 4), b.index(y, i, 4));
        let v = b.load(Type::F32.x(8), xp, 0);
        let r = f(b, v);
        b.store(r, yp, 0);
        vec![]
    });
    let kernel = b.finish();
    verify(&kernel).unwrap();
    assert_eq!(parse(&kernel.to_string()).unwrap(), kernel);
    kernel
}

fn eval(kernel: &Kernel, precision: Precision, x: &[f32]) -> Vec<f32> {
    let mut buffers = [x.iter().flat_map(|v| v.to_le_bytes()).collect(), vec![0u8; 4 * N]];
    let pointers = [0, 1].map(|buffer| Pointer { buffer, offset: 0 });
    interp::run_at(kernel, precision, &mut buffers, &pointers, &[], 0).unwrap();
    buffers[1].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Largest error of `f` over `from..to`, relative to `max(|expected|, floor)`.
fn worst(
    f: impl Fn(&mut KernelBuilder, Value) -> Value,
    expected: impl Fn(f64) -> f64,
    (from, to): (f32, f32),
    floor: f64,
) -> f64 {
    let kernel = map(f);
    let mut worst = 0f64;
    for part in 0..64 {
        let at = |i: usize| from + (to - from) * ((part * N + i) as f32 / (64 * N - 1) as f32);
        let x: Vec<f32> = (0..N).map(at).collect();
        for precision in [Precision::F32, Precision::F64] {
            for (&x, y) in x.iter().zip(eval(&kernel, precision, &x)) {
                let e = expected(f64::from(x));
                worst = worst.max((f64::from(y) - e).abs() / e.abs().max(floor));
            }
        }
    }
    worst
}

#[test]
fn math_is_as_good_as_it_says() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
    let errors = [
        ("exp", worst(KernelBuilder::exp, f64::exp, (-87.0, 88.0), 0.0), 3e-7),
        ("exp near 0", worst(KernelBuilder::exp, f64::exp, (-1.0, 1.0), 0.0), 3e-7),
        ("sigmoid", worst(KernelBuilder::sigmoid, sigmoid, (-80.0, 80.0), 0.0), 6e-7),
        ("tanh", worst(KernelBuilder::tanh, f64::tanh, (-20.0, 20.0), 1.0), 3e-7),
        ("silu", worst(KernelBuilder::silu, |x| x * sigmoid(x), (-20.0, 20.0), 1.0), 1e-6),
        ("gelu", worst(KernelBuilder::gelu_tanh, gelu, (-10.0, 10.0), 1.0), 1e-6),
    ];
    for (name, error, limit) in errors {
        assert!(error < limit, "{name}: {error:e}");
    }
}

#[test]
fn exp_at_the_ends() {
    let mut x = [0f32; N];
    x[..6].copy_from_slice(&[-88.0, -1e30, f32::NEG_INFINITY, 0.0, 88.3, f32::INFINITY]);
    let y = eval(&map(KernelBuilder::exp), Precision::F32, &x);
    assert_eq!(&y[..4], &[0.0, 0.0, 0.0, 1.0]);
    assert!(y[4].is_finite() && y[4] > 2e38);
    assert_eq!(y[4], y[5], "saturates above");
}

#[test]
fn pointers_may_share_a_buffer() {
    let mut b = KernelBuilder::new("copy");
    let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
    let v = b.load(Type::I8.x(2), x, 0);
    b.store(v, y, 0);
    let mut buffers = [vec![1u8, 2, 3, 4]];
    let pointers = [Pointer { buffer: 0, offset: 0 }, Pointer { buffer: 0, offset: 1 }];
    interp::run_at(&b.finish(), Precision::F32, &mut buffers, &pointers, &[], 0).unwrap();
    assert_eq!(buffers[0], [1, 1, 2, 4]);
}

#[test]
fn wrong_arguments_are_errors() {
    let mut b = KernelBuilder::new("k");
    b.ptr_param("x");
    b.int_param("n");
    let kernel = b.finish();
    let mut one = [vec![0u8]];
    let message = interp::run(&kernel, &mut one, &[], 0).unwrap_err().to_string();
    assert_eq!(message, "@k takes 1 pointers and 1 scalars, got 1 and 0");
    let nowhere = [Pointer { buffer: 3, offset: 0 }];
    let error = interp::run_at(&kernel, Precision::F32, &mut one, &nowhere, &[0], 0).unwrap_err();
    assert!(matches!(error, InterpError::Arguments(_)));
}

fn rules(kernel: &Kernel) -> Vec<&'static str> {
    // Printing what is refused must not panic either.
    let _ = kernel.to_string();
    verify(kernel).map_or_else(|e| e.0.iter().map(|e| e.rule).collect(), |()| vec![])
}

/// Rule K22 has no text: the parser makes the blocks.
#[test]
fn blocks_are_counted() {
    let n = Param { name: "n".into(), value: Value(0) };
    let with = |op: Opcode, args: Vec<Value>, imm: Imm, blocks: Vec<Block>| {
        let inst = Inst { op, args, imm, results: vec![], blocks };
        let body = Block { insts: vec![inst], ..Block::default() };
        Kernel {
            name: "k".into(),
            params: vec![n.clone()],
            threads: 0,
            resident: 0,
            types: vec![Type::I64, Type::I64],
            body,
        }
    };
    let bounds = vec![Value(0), Value(0)];
    let block = |params: &[Value]| Block { params: params.to_vec(), ..Block::default() };
    assert_eq!(rules(&with(Opcode::For, bounds.clone(), Imm::Int(1), vec![])), ["K22"]);
    assert_eq!(rules(&with(Opcode::For, bounds.clone(), Imm::Int(1), vec![block(&[])])), ["K22"]);
    assert_eq!(rules(&with(Opcode::For, bounds.clone(), Imm::Int(1), vec![block(&[Value(1)])])), [""; 0]);
    assert_eq!(rules(&with(Opcode::For, bounds, Imm::None, vec![block(&[Value(1)])])), ["K09"]);
    assert_eq!(rules(&with(Opcode::Local, vec![], Imm::Int(4), vec![block(&[])])), ["K22", "K10"]);
    assert_eq!(rules(&with(Opcode::If, vec![], Imm::None, vec![block(&[])])), ["K22", "K06"]);
}

/// Every op with every number of operands of every type, results and immediates: errors, never a panic.
#[test]
fn nonsense_is_refused_without_a_panic() {
    let scalars = Scalar::TABLE.map(|row| Type { scalar: row.0, lanes: 1 });
    let types: Vec<Type> = scalars.iter().flat_map(|t| [*t, t.x(4), t.x(3), t.x(0)]).collect();
    let imms = [
        Imm::None,
        Imm::Int(-1),
        Imm::Int(i64::MAX),
        Imm::Float(f64::NAN),
        Imm::Pred(Pred::Ult),
        Imm::Tiles([0, 9, 9]),
    ];
    for row in OP_TABLE {
        for n in 0..5 {
            for (i, imm) in imms.iter().enumerate() {
                let name = |k: usize| Value(((k * 7 + i * 3 + n) % (types.len() + 2)) as u32);
                for shift in 0..types.len() {
                    let inst = Inst {
                        op: row.op,
                        args: (0..n).map(|k| name(k * shift)).collect(),
                        imm: *imm,
                        results: (0..n / 2).map(|k| name(k + shift)).collect(),
                        blocks: vec![Block::default(); n / 2],
                    };
                    let params = (0..types.len() as u32).map(|v| Param { name: format!("p{v}"), value: Value(v) });
                    let kernel = Kernel {
                        threads: 0,
                        resident: 0,
                        name: "k".into(),
                        params: params.collect(),
                        types: types.clone(),
                        body: Block { insts: vec![inst], ..Block::default() },
                    };
                    assert!(!rules(&kernel).is_empty());
                }
            }
        }
    }
}

/// Texts with a token dropped, doubled or swapped, or cut off: errors, never a panic, and what is still valid prints.
#[test]
fn broken_texts_do_not_panic() {
    let text = map(KernelBuilder::gelu_tanh).to_string();
    let words: Vec<&str> = text.split_inclusive([' ', '\n']).collect();
    let mut seed = 1u64;
    for _ in 0..3000 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (a, b) = ((seed >> 33) as usize % words.len(), (seed >> 17) as usize % words.len());
        let mut broken = words.clone();
        match seed >> 62 {
            0 => drop(broken.remove(a)),
            1 => broken.insert(a, words[b]),
            2 => broken.swap(a, b),
            _ => broken.truncate(a),
        }
        if let Ok(kernel) = parse(&broken.concat()) {
            let printed = kernel.to_string();
            if verify(&kernel).is_ok() {
                assert_eq!(parse(&printed).unwrap(), kernel);
            }
        }
    }
}
