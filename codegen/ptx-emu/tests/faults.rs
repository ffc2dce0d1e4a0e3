//! Planted faults: each must be found, with every order, on the line that is to blame.

mod common;

use common::{Random, kernel, line_of, parse, replaced, seeded};
use tilewright_ptx_emu::{Arg, Config, Device, Fault, FaultKind, Launch, Module};

fn reduce(module: &Module, seed: u64, bytes: usize, offset: u64) -> Fault {
    let mut device = Device::new(Config::default());
    let (pi, po) = (device.alloc("in", bytes), device.alloc("out", 8));
    device.write_f32(pi, &Random(seed).smalls(bytes / 4)).unwrap();
    let args = [Arg::Ptr(pi.offset(offset)), Arg::Ptr(po)];
    device.launch(module, "reduce", [2, 1, 1], [256, 1, 1], 0, &args, &seeded(seed)).unwrap_err()
}

fn matmul(module: &Module, seed: u64) -> Fault {
    let mut device = Device::new(Config::default());
    let (pa, pb, pc) = (device.alloc("a", 32 * 256), device.alloc("bt", 16 * 256), device.alloc("c", 2048));
    device.write(pa, &[0; 32 * 256]).unwrap();
    device.write(pb, &[0; 16 * 256]).unwrap();
    let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::U32(128)];
    device.launch(module, "matmul", [1, 1, 1], [64, 1, 1], 8192, &args, &seeded(seed)).unwrap_err()
}

fn matvec(module: &Module, seed: u64) -> Fault {
    let mut device = Device::new(Config::default());
    let [pw, px, py] = [("w", 1024), ("x", 128), ("y", 8)].map(|(n, l)| device.alloc(n, 4 * l));
    for (p, n) in [(pw, 1024), (px, 128), (py, 8)] {
        device.write_f32(p, &vec![0.0; n]).unwrap();
    }
    let args = [Arg::Ptr(pw), Arg::Ptr(px), Arg::Ptr(py)];
    device.launch(module, "matvec_bulk", [1, 1, 1], [160, 1, 1], 0, &args, &seeded(seed)).unwrap_err()
}

/// Every seed finds `kind` on one of `lines`.
fn found(kind: FaultKind, lines: &[u32], run: impl Fn(u64) -> Fault) -> Fault {
    let mut last = None;
    for seed in 0..50 {
        let fault = run(seed);
        assert!(fault.kind == kind && lines.contains(&fault.line), "seed {seed}, want {kind:?} on {lines:?}: {fault}");
        last = Some(fault);
    }
    last.unwrap()
}

#[test]
fn out_of_bounds() {
    let text = kernel("reduce");
    let line = line_of(text, "ld.global.f32 %f1, [%rd4]");
    let fault = found(FaultKind::OutOfBounds, &[line], |seed| reduce(&parse(text), seed, 511 * 4, 0));
    assert_eq!((fault.cta, fault.warp, fault.lane), ([1, 0, 0], 7, Some(31)));
    assert!(fault.to_string().contains("4 bytes at offset 2044 of `in`, which has 2044"), "{fault}");
}

#[test]
fn misaligned() {
    let text = kernel("reduce");
    let line = line_of(text, "ld.global.f32 %f1, [%rd4]");
    found(FaultKind::Misaligned, &[line], |seed| reduce(&parse(text), seed, 4096, 2));
}

#[test]
fn missing_barrier() {
    // Whichever comes first is told: the read of what is not written yet, or the write of what was read.
    let text = replaced(kernel("reduce"), "bar.sync 0;", "// no barrier");
    let reads = [line_of(&text, "[partial];"), line_of(&text, "[partial+16];")];
    for seed in 0..50 {
        let fault = reduce(&parse(&text), seed, 2048, 0);
        let race = fault.kind == FaultKind::Race && (reads.contains(&fault.line) || fault.message.contains("reads it"));
        assert!(race || fault.kind == FaultKind::Uninitialised && reads.contains(&fault.line), "{fault}");
    }
}

#[test]
fn diverged_barrier() {
    // Lane 0 goes through the barrier, the others jump over it.
    let text = replaced(kernel("reduce"), "$L__stored:", "    bar.sync 0; // diverged\n$L__stored:");
    let line = line_of(&text, "// diverged");
    found(FaultKind::BarrierDivergence, &[line], |seed| reduce(&parse(&text), seed, 2048, 0));
    // Warp 7 leaves before the barrier.
    let leave = "setp.eq.u32 %p2, %r7, 7; @%p2 exit; setp.ne.u32 %p2, %r6, 0;";
    let text = replaced(kernel("reduce"), "setp.ne.u32 %p2, %r6, 0;", leave);
    let line = line_of(&text, "bar.sync 0;");
    let fault = found(FaultKind::BarrierDivergence, &[line], |seed| reduce(&parse(&text), seed, 2048, 0));
    assert!(fault.message.contains("warp 7 has exited"), "{fault}");
}

#[test]
fn missing_async_wait() {
    let text = replaced(kernel("matmul"), "cp.async.wait_group 1;", "    cp.async.wait_group 2;");
    let lines = [line_of(&text, "x4.shared.b16 {%r30, %r31, %r32, %r33}, [%r28];")];
    found(FaultKind::MissingWait, &lines, |seed| matmul(&parse(&text), seed));
}

#[test]
fn missing_mbarrier_wait() {
    let text = replaced(kernel("matvec_bulk"), "@!%p4 bra $L__full;", "    // no wait");
    let lines = [line_of(&text, "ld.shared.f32 %f2, [%r16];"), line_of(&text, "ld.shared.f32 %f3, [%r16+512];")];
    for seed in 0..50 {
        let fault = matvec(&parse(&text), seed);
        // If the consumer is faster than the producer, nothing has been asked for yet.
        let early = fault.kind == FaultKind::Uninitialised;
        assert!((early || fault.kind == FaultKind::MissingWait) && lines.contains(&fault.line), "seed {seed}: {fault}");
    }
}

#[test]
fn shared_race() {
    // The barrier after the use of a stage is gone: the next copy overwrites what the other warp still reads, or may.
    let text = replaced(kernel("matmul"), "bar.sync 0; // tile is used", "    // no barrier");
    let module = parse(&text);
    for seed in 0..50 {
        let fault = matmul(&module, seed);
        let named = text.lines().nth(fault.line as usize - 1).unwrap();
        let copy = fault.kind == FaultKind::Race && named.contains("cp.async");
        // Or the reader comes late and finds the next copy where its tile was.
        let read = fault.kind == FaultKind::MissingWait && named.contains("ldmatrix");
        assert!(copy || read, "seed {seed}: {fault}");
    }
}

#[test]
fn lanes_of_one_warp_race_too() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n.reg .b32 %a, %b, %c;\n\
        .shared .align 4 .b8 s[128];\nmov.u32 %a, %laneid;\nmov.u32 %c, s;\nshl.b32 %b, %a, 2;\nadd.u32 %c, %c, %b;\n\
        st.shared.u32 [%c], %a;\n// sync\nxor.b32 %c, %c, 4;\nld.shared.u32 %a, [%c]; // read\nret;\n}\n";
    let run = |text: &str, seed| {
        let mut device = Device::new(Config::default());
        device.launch(&parse(text), "k", [1, 1, 1], [32, 1, 1], 0, &[], &seeded(seed))
    };
    found(FaultKind::Race, &[line_of(text, "// read")], |seed| run(text, seed).unwrap_err());
    run(&replaced(text, "// sync", "bar.warp.sync -1;"), 0).unwrap();
}

#[test]
fn read_before_dependent_wait() {
    let text = replaced(kernel("chain"), "griddepcontrol.wait;", "    // no wait");
    let line = line_of(&text, "ld.global.f32 %f2, [%rd5];");
    let module = parse(&text);
    found(FaultKind::DependencyWait, &[line], |seed| {
        let mut device = Device::new(Config::default());
        let p = ["x", "w", "y", "z"].map(|n| device.alloc(n, 512));
        for q in &p[..3] {
            device.write_f32(*q, &[1.0; 128]).unwrap();
        }
        let step = |from: usize, to: usize| Launch {
            module: &module,
            kernel: "chain",
            grid: [4, 1, 1],
            block: [32, 1, 1],
            dynamic_shared: 0,
            args: vec![Arg::Ptr(p[from]), Arg::Ptr(p[1]), Arg::Ptr(p[to])],
            dependent: from > 0,
        };
        device.stream(&[step(0, 2), step(2, 3)], &seeded(seed)).unwrap_err()
    });
}

#[test]
fn uninitialised_read() {
    // Of an output: the kernel reads what nobody wrote.
    let text = kernel("reduce");
    let line = line_of(text, "ld.global.f32 %f1, [%rd4]");
    let module = parse(text);
    found(FaultKind::Uninitialised, &[line], |seed| {
        let mut device = Device::new(Config::default());
        let (pi, po) = (device.alloc("in", 2048), device.alloc("out", 8));
        device.write_f32(pi, &[0.0; 511]).unwrap();
        let args = [Arg::Ptr(pi), Arg::Ptr(po)];
        device.launch(&module, "reduce", [2, 1, 1], [256, 1, 1], 0, &args, &seeded(seed)).unwrap_err()
    });
    // Of shared memory, and of a register.
    let text = replaced(text, "st.shared.f32 [%r10], %f1;", "    // no store");
    let line = line_of(&text, "{%f3, %f4, %f5, %f6}, [partial];");
    found(FaultKind::Uninitialised, &[line], |seed| reduce(&parse(&text), seed, 2048, 0));
    let text = replaced(kernel("reduce"), "mov.u32 %r9, partial;", "");
    let line = line_of(&text, "add.u32 %r10, %r9, %r8;");
    let fault = found(FaultKind::Uninitialised, &[line], |seed| reduce(&parse(&text), seed, 2048, 0));
    assert!(fault.message.contains("register %r9"), "{fault}");
}

#[test]
fn endless_loops_and_waits_for_ctas_that_are_not_there() {
    // Each CTA waits for its successor: fine if all are resident, else it depends on the order.
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 flags)\n{\n.reg .b64 %p, %q;\n\
        .reg .b32 %a, %b;\n.reg .pred %c;\nld.param.u64 %p, [flags];\nmov.u32 %a, %ctaid.x;\n\
        mad.wide.u32 %q, %a, 4, %p;\nst.release.gpu.global.u32 [%q], 1;\nmov.u32 %b, %nctaid.x;\nsub.u32 %b, %b, 1;\n\
        setp.eq.u32 %c, %a, %b;\n@%c bra END;\nSPIN:\nld.acquire.gpu.global.u32 %b, [%q+4];\nsetp.eq.u32 %c, %b, 0; // spin\n\
        @%c bra SPIN;\nEND:\nret;\n}\n";
    let module = parse(text);
    let run = |seed, cooperative| {
        let mut device = Device::new(Config { resident_ctas: 1, ..Config::default() });
        let flags = device.alloc("flags", 32);
        device.write(flags, &[0; 32]).unwrap();
        let options = tilewright_ptx_emu::Options { step_limit: 100_000, cooperative, ..seeded(seed) };
        device.launch(&module, "k", [8, 1, 1], [1, 1, 1], 0, &[Arg::Ptr(flags)], &options)
    };
    for seed in 0..20 {
        run(seed, true).unwrap();
        assert_eq!(run(seed, false).unwrap_err().kind, FaultKind::StepLimit);
    }
}

#[test]
fn misused_mbarriers_and_collectives() {
    let head = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{\n.reg .b32 %a, %b;\n.reg .b64 %s;\n\
        .reg .pred %p;\n.shared .align 8 .b8 m[16];\nmov.u32 %a, m;\nmov.u32 %b, %laneid;\nsetp.ne.u32 %p, %b, 0;\n";
    let cases = [
        ("mbarrier.arrive.shared.b64 %s, [%a]; // here", FaultKind::Mbarrier),
        ("@%p bra X;\nmbarrier.init.shared.b64 [%a], 0; // here\nX:", FaultKind::Mbarrier),
        ("@%p bra X;\nmbarrier.init.shared.b64 [%a], 1;\nld.shared.b64 %s, [%a]; // here\nX:", FaultKind::Mbarrier),
        ("@%p bra X;\nshfl.sync.idx.b32 %b, %b, 0, 31, -1; // here\nX:", FaultKind::Collective),
        ("@%p bra X;\nshfl.sync.idx.b32 %b, %b, 5, 31, 1; // here\nX:", FaultKind::Collective),
        ("shfl.sync.idx.b32 %b, %b, 0, 31, 255; // here", FaultKind::Collective),
        ("@%p bra X;\ntrap; // here\nX:", FaultKind::Trap),
        ("ld.shared.u32 %b, [%a+16]; // here", FaultKind::OutOfBounds),
        ("atom.shared.add.u32 %b, [%a], 1; // here", FaultKind::Uninitialised),
    ];
    for (body, kind) in cases {
        let text = format!("{head}{body}\nret;\n}}\n");
        let line = line_of(&text, "// here");
        let module = parse(&text);
        let run = |seed| Device::new(Config::default()).launch(&module, "k", [1; 3], [32, 1, 1], 0, &[], &seeded(seed));
        found(kind, &[line], |seed| run(seed).expect_err(body));
    }
}
