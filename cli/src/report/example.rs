//! A small report for tests.

use super::facts::{Choice, Facts, Format, Kernel, Program, Roofs, Source, Timing, Work};
use super::fold;
use std::collections::BTreeMap;
use tilewright_autotune::record::Trial;
use tilewright_codegen::schedules::Math;
use tilewright_ir::graph::Graph;
use tilewright_runtime::plan::ModelFacts;

/// A kernel with a record.
pub fn kernel(name: &str, op: &str, ns: f64, work: Work) -> Kernel {
    let params = BTreeMap::from([("panels".to_string(), 4)]);
    let trial = |round, ns| Trial { params: params.clone(), backend: "x86".into(), ns, mad_ns: ns / 20.0, round };
    let timing = Timing {
        ns,
        mad_ns: ns / 50.0,
        default_ns: ns * 1.25,
        floor_ns: ns / 2.0,
        tried: 40,
        rejected: 1,
        search: "halving".into(),
        layer: "user".into(),
        date: "2026-01-31T12:00:00Z".into(),
        history: vec![trial(2, ns), trial(1, ns * 1.1), trial(0, ns * 1.2), trial(0, ns * 6.0)],
        winner: (params.clone(), "x86".into()),
    };
    Kernel {
        name: name.into(),
        op: op.into(),
        what: vec![format!("{op}_of_{name}")],
        types: vec!["q4_1[576, 1536]".into()],
        calls: 30,
        counted: 30,
        backend: "x86".into(),
        params: "panels=4".into(),
        work,
        timing: Some(timing),
        reason: String::new(),
    }
}

/// A small report.
pub fn facts() -> Facts {
    let decode = Work { bytes: 5e5, macs: 8e5, math: Math::Int8 };
    let prefill = Work { macs: 5e7, ..decode };
    let quiet = Kernel { timing: None, reason: "nothing to choose".into(), ..kernel("k1_add", "add", 1.0, decode) };
    let programs = vec![
        Program { max_tokens: 1, kernels: vec![kernel("k0_matmul", "matmul", 2e4, decode), quiet] },
        Program { max_tokens: 64, kernels: vec![kernel("k2_matmul", "matmul", 5e5, prefill)] },
    ];
    Facts {
        model: ModelFacts {
            name: "Model".into(),
            arch: "llama".into(),
            vocab: 100,
            n_ctx: 2048,
            parameters: 135_000_000,
            file_bytes: 90_000_000,
            bytes_per_token: 80_000_000,
            macs_per_token: 130_000_000,
        },
        target: "x86-64-v3".into(),
        device: "model       A processor\ncores       2\n".into(),
        threads: Some(2),
        date: "2026-02-01T10:00:00Z".into(),
        tune: "compile-model tune -m model.gguf".into(),
        roofs: Some(Roofs { bandwidth: 4e10, peaks: [4e11, 0.0, 0.0, 1e11], source: Source::Measured }),
        programs,
        passes: vec![Choice { what: "fuse-glu".into(), choice: "30".into(), why: "gate and up".into() }],
        choices: vec![Choice { what: "activations".into(), choice: "Q8".into(), why: "int8".into() }],
        formats: vec![Format { name: "q4_1".into(), weights: 210, bytes: 80_000_000 }],
        picture: fold::fold(&Graph::new("g")),
    }
}
