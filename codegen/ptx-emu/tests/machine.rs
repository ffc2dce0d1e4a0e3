//! What the arithmetic tests leave out: memory spaces, atomics, copies, barriers, and mutated kernels that still parse.

mod common;

use common::{KERNELS, Random, assemble, lanes, parse, seeded};
use tilewright_ptx_emu::{Arg, Config, Device, FaultKind, Module, Options};

/// Runs a kernel of one CTA that leaves a word for each thread at %out, which its first instructions find.
fn run(threads: u32, declare: &str, body: &str, input: &[u32], seed: u64) -> Vec<u32> {
    let text = format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n{declare}\n.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .b64 %in, %out, %at, %t;\n.reg .b32 %i, %a, %b, %c, %d, %s, %m;\n.reg .pred %p, %q;\n\
         ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %i, %tid.x;\n\
         mad.wide.u32 %at, %i, 4, %in;\nmad.wide.u32 %out, %i, 4, %out;\n{body}\nst.global.u32 [%out], %d;\nret;\n}}\n"
    );
    assemble("machine", &text, &["sm_90"]);
    let module = parse(&text);
    let mut device = Device::new(Config::default());
    let (pi, po) = (device.alloc("in", 4 * input.len()), device.alloc("out", 4 * threads as usize));
    device.write(pi, &input.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let args = [Arg::Ptr(pi), Arg::Ptr(po)];
    let done = device.launch(&module, "k", [1, 1, 1], [threads, 1, 1], 0, &args, &seeded(seed));
    done.unwrap_or_else(|f| panic!("{f}\n{text}"));
    let bytes = device.read(po, 4 * threads as usize).unwrap();
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn memory_spaces() {
    let table = ".const .align 4 .u32 table[4] = {5, 0x10, 7, 4294967295};";
    let body =
        "and.b32 %a, %i, 3;\nshl.b32 %a, %a, 2;\nmov.u32 %s, table;\nadd.u32 %s, %s, %a;\nld.const.u32 %d, [%s];";
    assert_eq!(run(64, table, body, &[0], 0)[..5], [5, 16, 7, u32::MAX, 5]);
    let body = ".local .align 8 .b8 mine[16];\nst.local.v2.u32 [mine+8], {%i, 7};\nld.local.u32 %a, [mine+8];\n\
        mov.u64 %t, mine;\ncvta.local.u64 %t, %t;\nld.u32 %b, [%t+12];\nmad.lo.u32 %d, %a, 10, %b;";
    assert_eq!(run(40, "", body, &[0], 0), (0..40).map(|i| i * 10 + 7).collect::<Vec<_>>());
    let body = ".shared .align 4 .b8 s[256];\nmov.u64 %t, s;\ncvta.shared.u64 %t, %t;\nmad.wide.u32 %t, %i, 4, %t;\nst.u32 [%t], %i;\n\
        mov.u32 %s, s;\nmad.lo.u32 %s, %i, 4, %s;\nld.shared.u32 %d, [%s];";
    assert_eq!(run(64, "", body, &[0], 0), (0..64).collect::<Vec<_>>());
    // Narrow loads extend to the register, by their sign.
    let body = "ld.global.s8 %a, [%in];\nld.global.u8 %b, [%in];\nsub.s32 %d, %b, %a;";
    assert_eq!(run(32, "", body, &[0x80], 0)[0], 256);
}

#[test]
fn atomics() {
    for seed in 0..20 {
        let count = |op: &str, start: u32| {
            let body = format!(
                ".shared .align 4 .u32 s;\nsetp.ne.u32 %p, %i, 0;\n@%p bra R;\nst.shared.u32 [s], {start};\nR:\nbar.sync 0;\n\
                 add.u32 %a, %i, 1;\n{op}\nbar.sync 0;\nld.shared.u32 %d, [s];"
            );
            run(96, "", &body, &[0], seed)[95]
        };
        assert_eq!(count("atom.shared.add.u32 %b, [s], %a;", 1), 1 + 96 * 97 / 2);
        assert_eq!(count("red.shared.max.u32 [s], %a;", 7), 96);
        assert_eq!(count("atom.shared.min.s32 %b, [s], %a;", 50), 1);
        assert_eq!(count("atom.shared.inc.u32 %b, [s], 9;", 0), 96 % 10);
        assert_eq!(count("atom.shared.cta.cas.b32 %b, [s], 3, 11;", 3), 11);
        assert_eq!(count("red.shared.or.b32 [s], %a;", 0), 127);
        let mut tickets = run(32, "", "atom.global.relaxed.gpu.add.u32 %d, [%in], 1;", &[100], seed);
        tickets.sort_unstable();
        assert_eq!(tickets, (100..132).collect::<Vec<_>>());
    }
}

#[test]
fn copies_fill_with_zeros_and_wait_by_group() {
    let input: Vec<u32> = (1..=256).collect();
    for seed in 0..20 {
        // Two groups; the first is waited for alone. Its threads take 0, 4, 8 or 12 of 16 bytes.
        let body = ".shared .align 16 .b8 s[2048];\nmov.u32 %s, s;\nmad.lo.u32 %s, %i, 16, %s;\nmad.wide.u32 %t, %i, 12, %at;\n\
            and.b32 %a, %i, 3;\nshl.b32 %a, %a, 2;\ncp.async.cg.shared.global [%s], [%t], 16, %a;\ncp.async.commit_group;\n\
            cp.async.ca.shared.global [%s+1024], [%t], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.u32 %a, [%s];\n\
            ld.shared.u32 %b, [%s+8];\ncp.async.wait_all;\nld.shared.u32 %c, [%s+1024];\nmad.lo.u32 %d, %a, 1000, %b;\n\
            mad.lo.u32 %d, %c, 1000000, %d;";
        let got = run(64, "", body, &input, seed);
        for (i, got) in got.iter().enumerate() {
            let first = 4 * i as u32 + 1;
            let (word0, word2) = (if i % 4 > 0 { first } else { 0 }, if i % 4 > 2 { first + 2 } else { 0 });
            assert_eq!(*got, word0 * 1000 + word2 + first * 1_000_000, "thread {i}");
        }
    }
}

#[test]
fn bulk_stores() {
    let text = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n.reg .b64 %o;\n.reg .b32 %i, %s, %a;\n\
        .reg .pred %p;\n.shared .align 16 .b8 s[128];\nld.param.u64 %o, [out];\nmov.u32 %i, %tid.x;\nmov.u32 %s, s;\n\
        mad.lo.u32 %a, %i, 4, %s;\nst.shared.u32 [%a], %i;\nfence.proxy.async.shared::cta;\nbar.sync 0;\nsetp.ne.u32 %p, %i, 0;\n@%p exit;\n\
        cp.async.bulk.global.shared::cta.bulk_group [%o], [%s], 128;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nret;\n}\n";
    assemble("bulk_store", text, &["sm_90"]);
    let mut device = Device::new(Config::default());
    let out = device.alloc("out", 128);
    device.launch(&parse(text), "k", [1; 3], [32, 1, 1], 0, &[Arg::Ptr(out)], &Options::default()).unwrap();
    assert_eq!(device.read(out, 128).unwrap()[..8], [0, 0, 0, 0, 1, 0, 0, 0]);
    // The fence is gone.
    let wrong = parse(&text.replace("fence.proxy.async.shared::cta;", ""));
    for seed in 0..50 {
        let options = Options { seed, ..Options::default() };
        let fault = device.launch(&wrong, "k", [1; 3], [32, 1, 1], 0, &[Arg::Ptr(out)], &options).unwrap_err();
        assert_eq!(fault.kind, FaultKind::MissingFence, "seed {seed}: {fault}");
    }
}

#[test]
fn barriers_with_names_counts_and_reductions() {
    for seed in 0..20 {
        // Warps 0 and 1 produce and do not wait; warps 2 and 3 wait for them at barrier 1.
        let body = ".shared .align 4 .b8 s[256];\nmov.u32 %s, s;\nmov.u32 %d, 0;\nsetp.ge.u32 %p, %i, 64;\n@%p bra C;\n\
            mad.lo.u32 %a, %i, 4, %s;\nst.shared.u32 [%a], %i;\nbar.arrive 1, 128;\nbra E;\nC:\nbar.sync 1, 128;\nsub.u32 %a, %i, 64;\n\
            xor.b32 %a, %a, 63;\nmad.lo.u32 %a, %a, 4, %s;\nld.shared.u32 %d, [%a];\nE:\n";
        let got = run(128, "", body, &[0], seed);
        assert_eq!(got[64..], (0..64).rev().collect::<Vec<_>>());
        let body = "and.b32 %a, %i, 7;\nsetp.eq.u32 %p, %a, 0;\nbar.red.popc.u32 %d, 0, %p;";
        assert_eq!(run(96, "", body, &[0], seed), [12; 96]);
    }
}

#[test]
fn stored_matrices_come_back() {
    let body = ".shared .align 16 .b8 s[512];\nmov.u32 %s, s;\nmad.lo.u32 %s, %i, 16, %s;\nmul.lo.u32 %a, %i, 77;\nadd.u32 %b, %a, 1;\n\
        stmatrix.sync.aligned.m8n8.x2.shared.b16 [%s], {%a, %b};\n\
        ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%c, %d}, [%s];\n\
        stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%s], {%c, %d};\n\
        ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%c, %d}, [%s];\nsub.u32 %c, %c, %a;\nsub.u32 %d, %d, %b;\nor.b32 %d, %c, %d;";
    assert_eq!(run(32, "", body, &[0], 0), [0; 32]);
    // The transposed fragment: element (row, column) and its neighbour are below each other.
    let body = ".shared .align 16 .b8 s[512];\nmov.u32 %s, s;\nmad.lo.u32 %s, %i, 16, %s;\nshl.b32 %a, %i, 1;\nadd.u32 %b, %a, 1;\n\
        shl.b32 %b, %b, 16;\nor.b32 %a, %a, %b;\nstmatrix.sync.aligned.m8n8.x1.shared.b16 [%s], {%a};\n\
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%d}, [%s];";
    let want = (0..32).map(|l| {
        let (r, c) = (l / 4, l % 4 * 2);
        (c * 8 + r) | ((c + 1) * 8 + r) << 16
    });
    assert_eq!(run(32, "", body, &[0], 0), want.collect::<Vec<u32>>());
}

#[test]
fn wrong_launches_are_refused() {
    let module = parse(common::kernel("reduce"));
    let mut device = Device::new(Config::default());
    let p = Arg::Ptr(device.alloc("p", 4));
    let mut refused = |name: &str, block: u32, shared: usize, args: &[Arg]| {
        let fault = device.launch(&module, name, [1; 3], [block, 1, 1], shared, args, &Options::default()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Launch);
        fault.message
    };
    assert_eq!(refused("reduc", 256, 0, &[]), "the module has no kernel `reduc`");
    assert_eq!(refused("reduce", 256, 0, std::slice::from_ref(&p)), "1 arguments for 2 parameters");
    assert_eq!(
        refused("reduce", 256, 0, &[p.clone(), Arg::U32(1)]),
        "parameter `reduce_out` has 8 bytes, its argument 4"
    );
    assert_eq!(refused("reduce", 512, 0, &[p.clone(), p.clone()]), "512 threads, where the kernel declares 256");
    assert!(refused("reduce", 256, 300_000, &[p.clone(), p]).contains("300032 bytes of shared memory"));
}

#[test]
fn equal_seeds_run_equally() {
    let clock = "mov.u32 %w, %clock;\ncvt.u64.u32 %d, %w;";
    assert_eq!(lanes(clock, &[[0; 3]; 256]), lanes(clock, &[[0; 3]; 256]));
}

/// Numbers and registers of kernels are exchanged: those that still parse must end or be at fault, and never panic.
#[test]
fn mutated_kernels_do_not_panic() {
    let mut random = Random(11);
    let mut ran = 0;
    for i in 0..3000 {
        let (name, text) = KERNELS[i % KERNELS.len()];
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        for _ in 0..1 + random.bits() % 3 {
            let (a, b) = (random.bits() as usize % lines.len(), random.bits() as usize % lines.len());
            match random.bits() % 4 {
                0 => lines.swap(a, b),
                1 => lines[a].clear(),
                2 => lines[a] = lines[b].clone(),
                _ => {
                    let number =
                        ["0", "-1", "4294967295", "0x7fffffffffffffff", "33", "16"][random.bits() as usize % 6];
                    let digits = ["16", "32", "4", "2", "1", "31"][random.bits() as usize % 6];
                    lines[a] = lines[a].replacen(&format!(" {digits}"), &format!(" {number}"), 1);
                }
            }
        }
        let Ok(module) = Module::parse(&lines.join("\n")) else { continue };
        let mut device = Device::new(Config::default());
        let memory = device.alloc("memory", 1 << 16);
        device.write(memory, &vec![0; 1 << 16]).unwrap();
        let (args, threads): (Vec<Arg>, u32) = match name {
            "vector_add" => (vec![Arg::Ptr(memory), Arg::Ptr(memory), Arg::Ptr(memory), Arg::U32(600)], 128),
            "reduce" => (vec![Arg::Ptr(memory); 2], 256),
            "matmul" => (vec![Arg::Ptr(memory), Arg::Ptr(memory), Arg::Ptr(memory), Arg::U32(64)], 64),
            "matvec_bulk" => (vec![Arg::Ptr(memory); 3], 160),
            "split_k" => {
                (vec![Arg::Ptr(memory), Arg::Ptr(memory), Arg::Ptr(memory), Arg::Ptr(memory), Arg::U32(2)], 32)
            }
            _ => (vec![Arg::Ptr(memory); 3], 32),
        };
        let options = Options { seed: i as u64, step_limit: 20_000, ..Options::default() };
        ran += 1;
        let _ = device.launch(&module, name, [2, 1, 1], [threads, 1, 1], 8192, &args, &options);
    }
    assert!(ran > 1000, "only {ran} of 3000 mutations parse");
}
