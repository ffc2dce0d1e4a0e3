//! What comes out: instructions, object files, errors.

use object::{Object, ObjectSection, ObjectSymbol};
use tilewright_ir::kernel::{Imm, Kernel, KernelBuilder, Opcode, Scalar, Type, Value};

use crate::backend::{Backend, CodegenError};
use crate::cranelift::{Cranelift, Jit};
use crate::target::Target;

/// 16 rows of Q4_0: nibbles of 16 rows interleaved by dword, 8 dwords a block, f16 scales.
pub(super) fn q4_rows(name: &str, n: u16) -> Kernel {
    let mut b = KernelBuilder::new(name);
    let (w, x, y, blocks) = (b.ptr_param("w"), b.ptr_param("x"), b.ptr_param("y"), b.int_param("blocks"));
    let (ints, bytes) = (Type::I32.x(n), Type::I8.x(4 * n));
    let (zero, sum) = (b.i64(0), b.f32(n, 0.0));
    let sum = b.for_(zero, blocks, 1, &[sum], |b, i, sum| {
        let (w, x) = (b.index(w, i, 288), b.index(x, i, 40));
        let start = b.load(Type::I32, x, 36);
        let mut low = b.splat(start, n);
        let mut high = b.int(ints, 0);
        for j in 0..4 {
            let (low_mask, high_mask) = (b.int(bytes, 0x0f), b.int(bytes, 0xf0));
            let q = b.load(bytes, w, 32 + 64 * j);
            let splat = |b: &mut KernelBuilder, at: i64| -> Value {
                let v = b.load(Type::I32, x, at);
                let v = b.splat(v, n);
                b.bitcast(v, bytes)
            };
            let (xl, xh) = (splat(b, 4 * j), splat(b, 4 * j + 16));
            let l = b.and(q, low_mask);
            low = b.dot4(low, l, xl);
            let h = b.and(q, high_mask);
            high = b.dot4(high, h, xh);
        }
        let four = b.int(Type::I32, 4);
        let high = b.shr_s(high, four);
        let acc = b.add(low, high);
        let acc = b.int_to_f(acc, Scalar::F32);
        let scale = b.load_f32(Scalar::F16, n, w, 0);
        let dx = b.load(Type::F32, x, 32);
        let dx = b.splat(dx, n);
        let scale = b.mul(scale, dx);
        vec![b.fma(acc, scale, sum[0])]
    });
    b.store(sum[0], y, 0);
    b.finish()
}

/// Lines of the disassembly that contain `what`, and lines that touch the stack.
fn count(kernel: &Kernel, target: &str, what: &str) -> usize {
    let text = Cranelift.disassemble(kernel, &Target::get(target).unwrap()).unwrap();
    text.lines().filter(|l| l.contains(what)).count()
}

#[test]
fn dot_is_one_instruction() {
    let kernel = q4_rows("q4", 16);
    for target in ["x86-64-v3-vnni", "x86-64-v4-vnni"] {
        assert_eq!(count(&kernel, target, "vpdpbusd"), 32, "{target}");
        assert_eq!(count(&kernel, target, "vpmaddwd"), 0, "{target}");
    }
    assert_eq!(count(&kernel, "x86-64-v3", "vpdpbusd"), 0);
    assert_eq!(count(&kernel, "x86-64-v3", "vpmaddwd"), 64);
}

#[test]
fn single_instructions() {
    let unary = |code: Opcode, ty: Type, args: usize| {
        let mut b = KernelBuilder::new("one");
        let p = b.ptr_param("p");
        let v: Vec<Value> = (0..args as i64).map(|i| b.load(ty, p, 16 * i)).collect();
        let v = b.op(code, v, Imm::None, None);
        b.store(v, p, 0);
        b.finish()
    };
    for (code, ty, args, name) in [
        (Opcode::Fmin, Type::F32.x(4), 2, "vminps"),
        (Opcode::Fmax, Type::F32.x(4), 2, "vmaxps"),
        (Opcode::Fmin, Type::F64.x(2), 2, "vminpd"),
        (Opcode::Swizzle, Type::I8.x(16), 2, "vpshufb"),
        (Opcode::Fma, Type::F32.x(4), 3, "vfmadd"),
        (Opcode::Sqrt, Type::F64.x(2), 1, "vsqrtpd"),
        (Opcode::Nearest, Type::F32.x(4), 1, "vroundps"),
    ] {
        assert_eq!(count(&unary(code, ty, args), "x86-64-v3", name), 1, "{name}");
    }
}

#[test]
fn object_stands_alone() {
    let kernels = [q4_rows("a", 16), q4_rows("b", 16)];
    for target in Target::all().iter().filter(|t| t.arch() == "x86_64") {
        let bytes = Cranelift.object(&kernels, target).unwrap();
        assert_eq!(bytes, Cranelift.object(&kernels, target).unwrap(), "two runs differ");
        let file = object::File::parse(&*bytes).unwrap();
        let mut names: Vec<&str> = file.symbols().filter(|s| s.is_global()).filter_map(|s| s.name().ok()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b"]);
        assert!(file.symbols().filter(|s| s.is_global()).all(|s| !s.is_undefined()));
        assert!(file.sections().all(|s| s.relocations().next().is_none()));
        assert!(file.section_by_name(".note.GNU-stack").is_some());
    }
}

#[test]
fn refusals_say_why() {
    let kernel = q4_rows("k", 16);
    let bare = Target { features: vec!["avx2".into()], ..Target::get("x86-64-v3").unwrap() };
    let found = Cranelift.check(&kernel, &bare).unwrap_err();
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(text[0].contains("lacks ssse3, sse4.1, sse4.2, avx"), "{text:?}");
    assert!(text[1].contains("fma"), "{text:?}");

    let target = Target::get("x86-64-v3").unwrap();
    let twice = Cranelift.object(&[kernel.clone(), kernel.clone()], &target);
    assert!(matches!(twice, Err(CodegenError::Duplicate(name)) if name == "k"));

    let mut invalid = kernel.clone();
    invalid.name = "no name".into();
    assert!(matches!(Cranelift.object(&[invalid], &target), Err(CodegenError::Invalid { .. })));

    let mut b = KernelBuilder::new("big");
    b.local(100_000);
    let found = Cranelift.check(&b.finish(), &target).unwrap_err();
    assert!(found[0].to_string().contains("100032 bytes"), "{}", found[0]);

    if target.features_missing_on_host().is_empty() {
        let jit = Jit::compile(&[kernel], &target).unwrap();
        // SAFETY: these calls do not get as far as the kernel.
        let calls = unsafe { [jit.call("x", &[], &[], 0), jit.call("k", &[], &[], 0)] };
        let text = calls.map(|c| c.unwrap_err().to_string());
        assert!(text[0].contains("no such kernel") && text[1].contains("takes 3 pointers and 1 scalars"), "{text:?}");
    }
}

#[test]
#[ignore]
fn show() {
    let t = Target::get(&std::env::var("T").unwrap()).unwrap();
    let n = std::env::var("N").unwrap().parse().unwrap();
    println!("{}", Cranelift.disassemble(&q4_rows("q4", n), &t).unwrap());
}
#[test]
#[ignore]
fn time() {
    for t in super::targets() {
    for lanes in [4, 8, 16] {
    let k = q4_rows("q4", lanes);
    let t0 = std::time::Instant::now();
    let jit = Jit::compile(&[k], t).unwrap();
    let c = t0.elapsed();
    let (rows, cols) = (576usize, 1536usize);
    let blocks = cols / 32;
    let mut w = vec![0x31u8; rows / 16 * blocks * 288];
    let mut x = vec![1u8; blocks * 40];
    for i in 0..blocks { x[i * 40 + 32..i * 40 + 36].copy_from_slice(&1.0f32.to_le_bytes()); }
    let mut y = vec![0u8; 64];
    let mut best = f64::MAX; 
    for _ in 0..3000 {
        let t0 = std::time::Instant::now();
        for g in 0..rows / 16 {
            for part in 0..16 / lanes as usize {
            unsafe { jit.call("q4", &[w.as_mut_ptr().wrapping_add(g * blocks * 288 + part * lanes as usize * 4), x.as_mut_ptr(), y.as_mut_ptr()], &[blocks as i64], 0).unwrap() };
            }
        }
        best = best.min(t0.elapsed().as_secs_f64());
    }
    println!("{} lanes {lanes} compile {c:?} {} bytes {:.2} us {:.1} GB/s", t.name, w.len(), best * 1e6, w.len() as f64 / best / 1e9);
    }
    }
}
