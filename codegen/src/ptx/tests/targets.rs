//! What a target decides: refusals, versions, launches; and what the assembler makes of the text.

use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Type};
use tilewright_ptx_emu::{Arg, Config, Device, Launch, Module, Options};
use tilewright_runtime::plan;

use super::{assembler, target, text};
use crate::backend::{self, Backend};
use crate::ptx::{Ptx, launch, names};
use crate::target::Target;

fn of(threads: u32, resident: u32, f: impl FnOnce(&mut KernelBuilder)) -> Kernel {
    let mut b = KernelBuilder::of_blocks("k", threads, resident);
    f(&mut b);
    b.finish()
}

fn why(kernel: &Kernel, name: &str) -> String {
    let found = Ptx.check(kernel, &target(name)).err().unwrap_or_default();
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The version that a module says it needs.
fn version(kernel: &Kernel, name: &str) -> String {
    text(std::slice::from_ref(kernel), &target(name)).lines().next().unwrap_or_default().into()
}

#[test]
fn refusals() {
    let bf16 = of(32, 0, |b| {
        let p = b.ptr_param("p");
        let v = b.load(Type::BF16.x(2), p, 0);
        let s = b.add(v, v);
        b.store(s, p, 0);
    });
    assert!(why(&bf16, "sm_75").contains("needs sm_80"));
    assert_eq!(why(&bf16, "sm_80"), "");
    let large = of(32, 0, |b| {
        let s = b.shared(120 * 1024);
        let v = b.int(Type::I32, 1);
        b.store(v, s, 0);
    });
    assert!(why(&large, "sm_86").contains("122880 bytes, but a block on sm_86 has at most 101376"));
    assert_eq!(why(&large, "sm_90"), "");
    let many = of(1024, 2, |_| {});
    assert!(why(&many, "sm_89").contains("holds 1 blocks of 1024 threads"));
    assert_eq!(why(&many, "sm_80"), "");
    let early = of(32, 0, |b| {
        let (p, n) = (b.ptr_param("p"), b.int_param("n"));
        let q = b.offset(p, n);
        b.wait_prior();
        let v = b.int(Type::I32, 1);
        b.store(v, q, 0);
    });
    assert!(why(&early, "sm_90").contains("before `wait_prior`"));
    let hidden = of(32, 0, |b| {
        let (p, n) = (b.ptr_param("p"), b.int_param("n"));
        let c = b.cmp(Pred::Eq, n, n);
        b.when(c, |b| b.wait_prior());
        b.store(n, p, 0);
    });
    assert!(why(&hidden, "sm_90").contains("at its top level"));
    let mut named = of(32, 0, |_| {});
    named.name = "add".into();
    assert!(why(&named, "sm_90").contains("is a word of PTX"));
    let cpu = KernelBuilder::new("k").finish();
    assert!(why(&cpu, "sm_90").contains("of one thread"));
    let block = of(32, 0, |_| {});
    assert!(why(&block, "x86-64-v3").contains("there is no such NVIDIA GPU"));
}

#[test]
fn back_ends_keep_to_their_targets() {
    let (cpu, block) = (KernelBuilder::new("k").finish(), of(32, 0, |_| {}));
    for t in Target::all() {
        let serving: Vec<&str> = backend::for_target(t).map(|b| b.name()).collect();
        let (kernel, other) = if t.gpu().is_some() { (&block, &cpu) } else { (&cpu, &block) };
        let chosen = backend::default_for(kernel, t).unwrap_or_else(|e| panic!("{}: {e}", t.name));
        assert!(serving.contains(&chosen.name()), "{}: {}", t.name, chosen.name());
        for b in backend::all() {
            assert_eq!(b.check(kernel, t).is_ok(), b.check(kernel, t).is_ok() && serving.contains(&b.name()));
            assert!(b.check(other, t).is_err(), "{} for {}", b.name(), t.name);
        }
    }
}

#[test]
fn versions_are_the_lowest() {
    let plain = of(32, 0, |b| {
        let p = b.ptr_param("p");
        let v = b.load(Type::F32, p, 0);
        b.store(v, p, 4);
    });
    let wanted = ["6.3", "7.0", "7.1", "7.8", "7.8", "8.0", "8.6", "8.7"];
    let gpus = Target::all().iter().filter(|t| t.gpu().is_some());
    for (t, wanted) in gpus.zip(wanted) {
        assert_eq!(version(&plain, &t.name), format!(".version {wanted}"), "{}", t.name);
    }
    let stream = of(32, 0, |b| {
        let p = b.ptr_param("p");
        let v = b.load_stream(Type::F32.x(4), p, 0);
        b.store(v, p, 16);
    });
    assert_eq!(version(&stream, "sm_80"), ".version 7.4");
    assert_eq!(
        Ptx.object(std::slice::from_ref(&plain), &target("sm_80")).unwrap(),
        Ptx.object(&[plain], &target("sm_80")).unwrap()
    );
}

#[test]
fn launches() {
    let k = of(96, 0, |b| {
        b.wait_prior();
        let (s, t) = (b.shared(1), b.shared(200));
        let v = b.int(Type::I8, 1);
        b.store(v, s, 0);
        b.store(v, t, 0);
    });
    let wanted = plan::Launch { threads: 96, shared_bytes: 128 + 256, waits: true };
    assert_eq!(launch(&k, &target("sm_90")), wanted);
    assert_eq!(launch(&k, &target("sm_80")), plan::Launch { waits: false, ..wanted });
}

/// The words that PTX keeps are those that the assembler refuses.
#[test]
fn reserved_words() {
    let Some(assembler) = assembler() else { return };
    for word in ["add", "ld", "mma", "fence", "k", "generic", "sum", "exp", "norm", "matmul", "relu"] {
        let text = format!(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry {word}()\n{{\nret;\n}}\n");
        let refused = assembler.assemble(text.as_bytes(), "sm_80").is_err();
        assert!(names::is_reserved(word) || !refused, "{word}");
    }
}

/// The second kernel begins before the first is over, and reads what it writes only after its wait.
#[test]
fn a_kernel_waits_for_the_one_before() {
    let write = of(32, 0, |b| {
        let (p, n) = (b.ptr_param("p"), b.ptr_param("n"));
        b.launch_next();
        let thread = b.thread_id();
        let p = b.index(p, thread, 8);
        b.store(thread, p, 0);
        let five = b.i64(5);
        b.store(five, n, 0);
    });
    let read = |waits: bool| {
        let mut b = KernelBuilder::of_blocks("read", 32, 0);
        let (p, y, n) = (b.ptr_param("p"), b.ptr_param("y"), b.int_param("n"));
        if waits {
            b.wait_prior();
        }
        let thread = b.thread_id();
        let (p, y) = (b.index(p, thread, 8), b.index(y, thread, 8));
        let v = b.load(Type::I64, p, 0);
        let v = b.add(v, n);
        b.store(v, y, 0);
        b.finish()
    };
    for waits in [true, false] {
        let read = read(waits);
        let dependent = launch(&read, &target("sm_90")).waits;
        assert_eq!(dependent, waits);
        let module = Module::parse(&text(&[write.clone(), read], &target("sm_90"))).unwrap();
        let mut device = Device::new(Config::default());
        let [p, y] = ["p", "y"].map(|name| device.alloc(name, 256));
        let n = device.alloc("n", 8);
        device.write(n, &[0; 8]).unwrap();
        let make = |kernel, args: Vec<Arg>, dependent| Launch {
            module: &module,
            kernel,
            grid: [1, 1, 1],
            block: [32, 1, 1],
            dynamic_shared: 0,
            args,
            dependent,
        };
        let launches = [
            make("k", vec![Arg::Ptr(p), Arg::Ptr(n)], false),
            make("read", vec![Arg::Ptr(p), Arg::Ptr(y), Arg::Ptr(n)], true),
        ];
        let run = device.stream(&launches, &Options::default());
        assert_eq!(run.is_ok(), waits, "{run:?}");
        if waits {
            let wanted: Vec<u8> = (0..32i64).flat_map(|i| (i + 5).to_le_bytes()).collect();
            assert_eq!(device.read(y, 256).unwrap(), wanted);
        }
    }
}

/// Sixteen loads of 16 bytes, all used behind the last of them.
fn streaming(resident: u32) -> Kernel {
    of(128, resident, |b| {
        let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
        let thread = b.thread_id();
        let chunk = b.chunk_id();
        let x = b.index(x, chunk, 16 * 128 * 16);
        let x = b.index(x, thread, 16);
        let loads: Vec<_> = (0..16).map(|i| b.load_stream(Type::I32.x(4), x, i * 128 * 16)).collect();
        let all = loads.into_iter().reduce(|a, v| b.xor(a, v)).unwrap();
        let y = b.index(y, chunk, 128 * 16);
        let y = b.index(y, thread, 16);
        b.store(all, y, 0);
    })
}

#[test]
fn machine_code_is_as_meant() {
    let Some(assembler) = assembler() else { return };
    let tiles = of(64, 1, |b| {
        let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
        let s = b.shared(64 * 16);
        let thread = b.thread_id();
        let (from, to) = (b.index(x, thread, 16), b.index(s, thread, 16));
        b.copy_async(to, from, 16);
        b.copy_commit();
        b.copy_wait(0);
        b.barrier();
        let (p, q) = (b.load_matrix(Type::F16.x(8), to, false), b.load_matrix(Type::F16.x(4), to, true));
        let zero = b.f32(4, 0.0);
        let c = b.mma(zero, p, q);
        let y = b.index(y, thread, 16);
        b.store(c, y, 0);
    });
    for name in ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120"] {
        for resident in [0, 4] {
            let text = text(&[streaming(resident)], &target(name));
            let made = assembler.assemble(text.as_bytes(), name).unwrap();
            assert_eq!((made.entries[0].spill_stores, made.entries[0].stack), (0, 0), "{name}: {:?}", made.entries);
            if assembler.disassembles() {
                let sass = assembler.disassemble(&made.cubin).unwrap().remove(0);
                assert_eq!(
                    (sass.loads_16, sass.loads_8, sass.loads_less, sass.local),
                    (16, 0, 0, 0),
                    "{name}: {sass:?}"
                );
                if resident > 0 {
                    assert_eq!(sass.loads_in_flight, 16, "{name}: {sass:?}\n{text}");
                }
            }
        }
        let text = text(std::slice::from_ref(&tiles), &target(name));
        let made = assembler.assemble(text.as_bytes(), name).unwrap();
        if assembler.disassembles() {
            let sass = assembler.disassemble(&made.cubin).unwrap().remove(0);
            assert_eq!((sass.copies, sass.mma, sass.loads_16), (1, 1, 0), "{name}: {sass:?}");
        }
    }
}
