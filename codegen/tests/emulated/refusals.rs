//! What is refused, by whom, and in which words.

use std::fmt::Write;

use tilewright_codegen::emulated::{EmulatedDriver, EmulatedGpu};
use tilewright_runtime::artifact::{Artifact, ArtifactWriter, KERNELS, ManifestInfo, TOKENIZER, TargetInfo, cubin_of};
use tilewright_runtime::cuda::{Code, DeviceFacts, GpuDriver, GpuError};
use tilewright_runtime::error::{ArtifactError, RunError};
use tilewright_runtime::plan::{Arg, Call, Plan};
use tilewright_runtime::sampler::SampleError;
use tilewright_runtime::session::{Logits, Session, SessionOptions};

use crate::toy::{BAD_TOKEN, N_CTX, Random, Toy, fresh_seed, ptx_for, session};

/// One sentence with a remedy.
fn one_sentence(text: &str) {
    assert!(text.contains("; ") && !text.contains('\n') && !text.ends_with('.'), "{text}");
}

#[test]
fn too_large_contexts_name_the_largest() {
    let mut random = Random(fresh_seed());
    let mut toy = Toy::new(&mut random, "sm_90");
    toy.plan.model.n_ctx = 1 << 20;
    let artifact = toy.open();
    let gpu = EmulatedGpu { memory_bytes: 100_000 + random.below(100_000), ..EmulatedGpu::default() };
    let error = session(&artifact, 1 << 20, gpu.clone()).err().unwrap();
    let RunError::OutOfMemory { need, available, largest, .. } = error else { panic!("{error}") };
    assert!(need > available && available == gpu.memory_bytes && largest > 16, "{need} {available} {largest}");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().ends_with(&format!("-c {largest}")), "{error}");
    assert!(session(&artifact, largest + 1, gpu.clone()).is_err());
    // What was promised to fit does, and works to its end.
    let (mut small, _) = session(&artifact, largest, gpu.clone()).unwrap();
    let tokens = random.tokens(largest as usize);
    assert_eq!(small.eval(&tokens, Logits::Last).unwrap(), toy.logits(&tokens));
    let mut driver = EmulatedDriver::new(gpu.clone());
    driver.alloc("half", gpu.memory_bytes / 2 + 1).unwrap();
    let error = driver.alloc("the other half", gpu.memory_bytes / 2 + 1).unwrap_err();
    one_sentence(&error.to_string());
    assert!(error.to_string().contains("the other half") && error.exit_code() == 5, "{error}");
}

#[test]
fn wrong_kinds_of_gpus() {
    let mut random = Random(fresh_seed());
    for (target, sm, runs) in [
        ("sm_90a", 86, false),
        ("sm_90a", 100, false),
        ("sm_90", 89, false),
        ("sm_90", 120, true),
        ("sm_80", 75, false),
    ] {
        let toy = Toy::new(&mut random, target);
        match session(&toy.open(), 64, EmulatedGpu { sm, ..EmulatedGpu::default() }) {
            Ok((mut session, _)) => {
                assert!(runs, "{target} on sm_{sm}");
                assert_eq!(session.eval(&[3, 4], Logits::Last).unwrap(), toy.logits(&[3, 4]));
            }
            Err(e) => {
                assert!(!runs, "{e}");
                assert_eq!(e.exit_code(), 4);
                one_sentence(&e.to_string());
                assert!(e.to_string().contains(&format!("compiled for {target}, this is sm_{sm}")), "{e}");
            }
        }
    }
    let mut toy = Toy::new(&mut random, "sm_80");
    toy.plan.launches[1].shared_bytes = 150 << 10;
    let error = session(&toy.open(), 64, EmulatedGpu { sm: 86, ..EmulatedGpu::default() }).err().unwrap();
    assert!(matches!(error, RunError::Gpu(GpuError::SharedMemory { need: 153600, .. })), "{error}");
    one_sentence(&error.to_string());
    assert!(session(&toy.open(), 64, EmulatedGpu { sm: 80, ..EmulatedGpu::default() }).is_ok());
}

#[test]
fn machine_code_only_for_its_own_kind() {
    let toy = Toy::new(&mut Random(fresh_seed()), "sm_80");
    let (ninety, eighty_six) = (cubin_of("sm_90a"), cubin_of("sm_86"));
    let artifact = toy.try_open(&[(&ninety, b"code 90"), (&eighty_six, b"code 86")]).unwrap();
    let kernels = artifact.gpu_kernels().unwrap();
    assert_eq!(kernels.cubins().collect::<Vec<_>>(), ["sm_86", "sm_90a"]);
    let facts = EmulatedDriver::new(EmulatedGpu::default()).facts().clone();
    for (sm, takes_cubins, want) in [
        (86, true, Some(b"code 86")),
        (90, true, Some(b"code 90")),
        (90, false, None),
        (89, true, Some(b"code 86")),
        (100, true, None),
    ] {
        let codes = kernels.for_device(&DeviceFacts { sm, takes_cubins, ..facts.clone() }).unwrap();
        match (&codes[..], want) {
            ([Code::Cubin(code), Code::Ptx(text)], Some(want)) => assert_eq!((*code, *text), (&want[..], &*toy.ptx)),
            ([Code::Ptx(text)], None) => assert_eq!(*text, toy.ptx),
            (codes, want) => panic!("sm_{sm}: {codes:?} and not {want:?}"),
        }
    }
    let error = toy.try_open(&[("kernels.sm_9.cubin", b"code")]).unwrap_err();
    assert!(error.to_string().contains("kernels.sm_9.cubin"), "{error}");
}

#[test]
fn damaged_artifacts() {
    let mut random = Random(fresh_seed());
    let fresh = |random: &mut Random| Toy::new(random, "sm_90");
    let rejected = |toy: &Toy, part: &str| {
        let error = toy.try_open(&[]).unwrap_err();
        assert!(matches!(error, ArtifactError::Rejected { .. }) && error.exit_code() == 3, "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    };
    let mut toy = fresh(&mut random);
    toy.ptx = toy.ptx.replace(".visible .entry head", ".entry head");
    rejected(&toy, "\"head\" is not in the object");
    for target in ["", ".target", ".target hopper"] {
        toy.ptx = ptx_for("sm_90").replace(".target sm_90", target);
        rejected(&toy, "it names no .target");
    }
    type Change = fn(&mut Plan);
    let cases: [(Change, &str); 8] = [
        (|p| p.launches.clear(), "only one with a head on a GPU"),
        (
            |p| {
                let sampled = p.programs[0].next.clone().map(|call| Call { args: vec![Arg::Rope(1)], ..call });
                p.programs[0].sampled = sampled;
            },
            "Rope(1), the limit is 1",
        ),
        (|p| p.launches.truncate(2), "2 for 3 kernels"),
        (|p| p.launches[2].threads = 1025, "launch 2: 1025 threads"),
        (|p| p.programs[0].calls[1].chunks = 1 << 25, "are not in 1..=16777216"),
        (|p| p.programs[0].next.as_mut().unwrap().args[1] = Arg::Counters(8), "Counters(8), the limit is 8"),
        (|p| p.programs[0].next.as_mut().unwrap().args[5] = Arg::RopeAll(1), "RopeAll(1), the limit is 1"),
        (|p| (p.programs[1].next, p.programs[1].head_start) = (p.programs[0].next.clone(), 2), "only one with a head"),
    ];
    for (change, part) in cases {
        let mut toy = fresh(&mut random);
        change(&mut toy.plan);
        rejected(&toy, part);
    }
    let mut toy = fresh(&mut random);
    toy.plan.launches.clear();
    for program in &mut toy.plan.programs {
        program.next = None;
    }
    rejected(&toy, "it is for a CPU, the artifact for a GPU");
    toy.plan.programs[0].calls[0].args[1] = Arg::State;
    rejected(&toy, "only a plan for a GPU has");
    // No object with kernels for a CPU.
    toy.target.arch = "x86_64".into();
    let error = toy.try_open(&[]).unwrap_err();
    assert!(error.to_string().contains("kernels.o was not written"), "{error}");

    // What only the driver sees: text that is none.
    let toy = Toy { ptx: ptx_for("sm_90").replace("shl.b32 %odd", "shl.b33 %odd"), ..fresh(&mut random) };
    let error = session(&toy.open(), 64, EmulatedGpu::default()).err().unwrap();
    assert!(matches!(error, RunError::Gpu(GpuError::Refused { .. })) && error.exit_code() == 3, "{error}");
    one_sentence(&error.to_string());
    let line = toy.ptx.lines().position(|l| l.contains("b33")).unwrap() + 1;
    assert!(error.to_string().contains(&format!("line {line}")), "{error}");
}

#[test]
fn every_flipped_bit_of_the_kernels_is_found() {
    let mut random = Random(fresh_seed());
    let toy = Toy::new(&mut random, "sm_90");
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("toy");
    let artifact = toy.open();
    assert!(artifact.kernels().is_none());
    std::fs::create_dir(&dir).unwrap();
    let mut writer = ArtifactWriter::create(&dir).unwrap();
    writer.file("kernels.ptx", toy.ptx.as_bytes()).unwrap();
    writer.file(TOKENIZER, b"{}").unwrap();
    writer.plan(&toy.plan).unwrap();
    let mut weights = writer.weights().unwrap();
    std::io::Write::write_all(&mut weights, &[1]).unwrap();
    weights.finish().unwrap();
    writer.commit(ManifestInfo { target: toy.target.clone(), ..Default::default() }).unwrap();
    Artifact::open(&dir).unwrap();
    for _ in 0..50 {
        let mut bytes = toy.ptx.clone().into_bytes();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(dir.join("kernels.ptx"), bytes).unwrap();
        let error = Artifact::open(&dir).unwrap_err();
        assert!(error.to_string().contains("kernels.ptx") && error.exit_code() == 3, "byte {at}: {error}");
    }
}

#[test]
fn bugs_of_kernels_are_errors_of_the_step() {
    let mut random = Random(fresh_seed());
    let store_wait =
        "    griddepcontrol.launch_dependents;\n    ld.global.u32 %stride, [%pstride];\n    griddepcontrol.wait;\n";
    let cases = [
        (store_wait, "    ld.global.u32 %stride, [%pstride];\n", "before griddepcontrol.wait"),
        ("mad.wide.u32 %a, %at, 2, %k;", "mad.wide.u32 %a, %at, 200, %k;", "out of bounds"),
        ("mad.wide.u32 %a, %at, 2, %k;", "mad.wide.u32 %a, %at, 3, %k;", "misaligned"),
    ];
    for (from, to, kind) in cases {
        assert!(ptx_for("sm_90").contains(from));
        let toy = Toy { ptx: ptx_for("sm_90").replace(from, to), ..Toy::new(&mut random, "sm_90") };
        let (mut session, _) = session(&toy.open(), N_CTX, EmulatedGpu::default()).unwrap();
        let error = session.eval(&random.tokens(30), Logits::Last).unwrap_err();
        assert!(matches!(error, RunError::Gpu(GpuError::Kernel { .. })) && error.exit_code() == 1, "{error}");
        let mut text = String::new();
        write!(text, "{error}").unwrap();
        assert!(text.contains(kind), "{kind}: {text}");
        one_sentence(&text);
    }
}

#[test]
fn refusals_change_nothing() {
    let mut random = Random(fresh_seed());
    let toy = Toy::new(&mut random, "sm_90");
    let artifact = toy.open();
    for ctx in [0, N_CTX + 1] {
        assert!(matches!(session(&artifact, ctx, EmulatedGpu::default()), Err(RunError::BadContext { .. })));
    }
    let (mut session, _) = session(&artifact, 20, EmulatedGpu::default()).unwrap();
    let mut tokens = random.tokens(13);
    session.eval(&tokens, Logits::None).unwrap();
    assert!(matches!(session.eval(&[1; 8], Logits::None), Err(RunError::ContextFull { tokens: 8, .. })));
    assert!(matches!(session.eval(&[1, 32], Logits::None), Err(RunError::BadToken { token: 32, index: 1, .. })));
    assert!(matches!(session.decode_greedy(32, 3, |_| true), Err(RunError::BadToken { .. })));
    assert!(matches!(session.eval(&[], Logits::Last), Err(RunError::NoTokens)));
    assert_eq!(session.position(), 13);
    assert!(matches!(session.eval(&[BAD_TOKEN], Logits::Last), Err(RunError::Numerical { position: 13 })));
    session.truncate(13);
    assert!(matches!(session.decode_greedy(BAD_TOKEN, 3, |_| true), Err(RunError::Sample(SampleError::NotANumber(0)))));
    session.truncate(13);
    tokens.push(5);
    assert_eq!(session.eval(&[5], Logits::Last).unwrap(), toy.logits(&tokens));
}

/// A GPU artifact opens anywhere, and runs only where there is a GPU: no CPU takes its place.
#[test]
fn no_driver_is_one_sentence() {
    let toy = Toy::new(&mut Random(fresh_seed()), "sm_90a");
    match Session::new(toy.open(), SessionOptions { ctx: Some(64), ..SessionOptions::default() }) {
        Ok(session) => assert_eq!(session.device().unwrap().sm, 90),
        Err(e) => {
            assert!(matches!(e, RunError::Gpu(_)) && e.exit_code() == 4, "{e}");
            one_sentence(&e.to_string());
        }
    }
}

#[test]
fn a_cpu_artifact_wants_no_gpu() {
    let mut toy = Toy::new(&mut Random(fresh_seed()), "sm_90");
    let info = TargetInfo { name: "portable".into(), arch: std::env::consts::ARCH.into(), features: vec![] };
    let plan = &mut toy.plan;
    (plan.launches, plan.counters_bytes, plan.weights_bytes) = (vec![], 0, 4096);
    for program in &mut plan.programs {
        program.next = None;
        let simple = |c: &Call| Call { args: vec![Arg::Tokens], ..c.clone() };
        program.calls = program.calls.iter().map(simple).collect();
    }
    let kernel = |name: &str| tilewright_ir::kernel::KernelBuilder::new(name).finish();
    let kernels: Vec<_> = plan.kernels.iter().map(|name| kernel(name)).collect();
    let target = tilewright_codegen::target::Target::detect().unwrap();
    let object = tilewright_codegen::backend::find("cranelift").unwrap().object(&kernels, &target).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let mut writer = ArtifactWriter::create(temp.path().join("cpu")).unwrap();
    writer.file(KERNELS, &object).unwrap();
    writer.file(TOKENIZER, b"{}").unwrap();
    writer.plan(plan).unwrap();
    let mut weights = writer.weights().unwrap();
    std::io::Write::write_all(&mut weights, &[1]).unwrap();
    weights.finish().unwrap();
    writer.commit(ManifestInfo { target: info, ..Default::default() }).unwrap();
    let artifact = std::sync::Arc::new(Artifact::open(temp.path().join("cpu")).unwrap());
    let error = session(&artifact, 64, EmulatedGpu::default()).err().unwrap();
    assert!(matches!(error, RunError::NotForGpu { .. }) && error.exit_code() == 4, "{error}");
    one_sentence(&error.to_string());
}
