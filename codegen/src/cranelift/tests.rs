//! What comes out: instructions, object files, errors.

use object::{Object, ObjectSection, ObjectSymbol};
use tilewright_ir::kernel::{Imm, Kernel, KernelBuilder, Opcode, Scalar, Type, Value};

use crate::backend::{Backend, CodegenError};
use crate::cranelift::Cranelift;
use crate::jit::Jit;
use crate::target::Target;

/// `n` of 16 rows of Q4_0, interleaved by dword, with f16 scales; the nibbles of a byte are 16 elements apart.
fn q4_rows(name: &str, n: u16) -> Kernel {
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

/// Lines of the disassembly that contain `what`.
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
    // Eight rows at a time fit in the registers.
    assert_eq!(count(&q4_rows("q4", 8), "x86-64-v4-vnni", "(%rsp)"), 0);
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

/// A scalar that is splatted for one product comes by a broadcast from memory, and no body value is copied.
#[test]
fn broadcasts_come_from_memory() {
    let mut b = KernelBuilder::new("dot");
    let (w, x, y, n) = (b.ptr_param("w"), b.ptr_param("x"), b.ptr_param("y"), b.int_param("n"));
    let (zero, sum) = (b.i64(0), b.f32(8, 0.0));
    let sum = b.for_(zero, n, 1, &[sum], |b, i, sum| {
        let (w, x) = (b.index(w, i, 32), b.index(x, i, 4));
        let wv = b.load(Type::F32.x(8), w, 0);
        let s = b.load(Type::F32, x, 0);
        let s = b.splat(s, 8);
        vec![b.fma(wv, s, sum[0])]
    });
    b.store(sum[0], y, 0);
    let kernel = b.finish();
    assert_eq!(count(&kernel, "x86-64-v3", "vbroadcastss ("), 2);
    assert_eq!(count(&kernel, "x86-64-v3", "vmovss"), 0);
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
    let small = Target { max_local_bytes: 65_536, ..target.clone() };
    let found = Cranelift.check(&b.finish(), &small).unwrap_err();
    assert!(found[0].to_string().contains("100032 bytes"), "{}", found[0]);

    if target.features_missing_on_host().is_empty() {
        let jit = Jit::compile(&Cranelift, &[kernel], &target).unwrap();
        // SAFETY: these calls do not get as far as the kernel.
        let calls = unsafe { [jit.call("x", &[], &[], 0), jit.call("k", &[], &[], 0)] };
        let text = calls.map(|c| c.unwrap_err().to_string());
        assert!(text[0].contains("no such kernel") && text[1].contains("takes 3 pointers and 1 scalars"), "{text:?}");
    }
}
