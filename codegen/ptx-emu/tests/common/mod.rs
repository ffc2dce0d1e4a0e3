//! What the tests share: the kernels, random numbers, and a one-instruction harness.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod wgmma;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use tilewright_ptx_emu::{Arg, Config, Device, Module, Options};

/// The kernels under `tests/ptx`, by name.
pub const KERNELS: &[(&str, &str)] = &[
    ("vector_add", include_str!("../ptx/vector_add.ptx")),
    ("reduce", include_str!("../ptx/reduce.ptx")),
    ("matmul", include_str!("../ptx/matmul.ptx")),
    ("matvec_bulk", include_str!("../ptx/matvec_bulk.ptx")),
    ("split_k", include_str!("../ptx/split_k.ptx")),
    ("chain", include_str!("../ptx/chain.ptx")),
];

pub fn kernel(name: &str) -> &'static str {
    KERNELS.iter().find(|(n, _)| *n == name).expect("a kernel of that name").1
}

pub fn parse(text: &str) -> Module {
    Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{}", text.lines().nth(e.line as usize - 1).unwrap_or("")))
}

pub fn seeded(seed: u64) -> Options {
    Options { seed, step_limit: 2_000_000, ..Options::default() }
}

/// Line, from 1, of the only line that holds `part`.
pub fn line_of(text: &str, part: &str) -> u32 {
    let hits: Vec<u32> =
        text.lines().enumerate().filter(|(_, l)| l.contains(part)).map(|(i, _)| i as u32 + 1).collect();
    assert_eq!(hits.len(), 1, "`{part}` stands on lines {hits:?}");
    hits[0]
}

/// The text with one line replaced; all other lines keep their numbers.
pub fn replaced(text: &str, part: &str, by: &str) -> String {
    let line = line_of(text, part) as usize;
    text.lines().enumerate().map(|(i, l)| if i + 1 == line { by.to_string() } else { l.to_string() } + "\n").collect()
}

/// Has NVIDIA's assembler read the text, if `PTXAS` names it. False if it does not.
pub fn assemble(name: &str, text: &str, archs: &[&str]) -> bool {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Some(ptxas) = std::env::var_os("PTXAS").filter(|p| !p.is_empty()) else { return false };
    let file = format!("tilewright-{}-{}-{name}.ptx", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(file);
    std::fs::write(&path, text).expect("a temporary file");
    for arch in archs {
        let out = Command::new(&ptxas).arg(format!("-arch={arch}")).arg("-o").arg("/dev/null").arg(&path).output();
        let out = out.expect("PTXAS names a program that runs");
        assert!(out.status.success(), "{name} for {arch}: {}\n{text}", String::from_utf8_lossy(&out.stderr));
    }
    std::fs::remove_file(&path).expect("the file just written");
    true
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1 .. 1, with few bits so that short sums are exact.
    pub fn small(&mut self) -> f32 {
        (self.bits() % 65) as f32 / 32.0 - 1.0
    }

    pub fn smalls(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.small()).collect()
    }
}

/// Runs `body` for every lane of as many threads as there are inputs. It finds its inputs in %a, %b, %c (64 bits each) and
/// leaves its result in %d (64 bits).
pub fn lanes(body: &str, inputs: &[[u64; 3]]) -> Vec<u64> {
    let text = format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .b64 %a, %b, %c, %d, %in, %out, %at;\n.reg .b32 %i, %x, %y, %z, %w;\n.reg .b16 %h, %g, %e, %o;\n\
         .reg .b8 %q;\n.reg .pred %p, %s, %t;\n\
         mov.u32 %i, %ctaid.x;\nshl.b32 %i, %i, 5;\nmov.u32 %x, %tid.x;\nadd.u32 %i, %i, %x;\n\
         ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\n\
         mad.wide.u32 %at, %i, 24, %in;\nld.global.b64 %a, [%at];\nld.global.b64 %b, [%at+8];\n\
         ld.global.b64 %c, [%at+16];\nmov.b64 %d, 0;\n{body}\n\
         mad.wide.u32 %at, %i, 8, %out;\nst.global.b64 [%at], %d;\nret;\n}}\n"
    );
    assemble("instruction", &text, &["sm_90"]);
    let module = parse(&text);
    let mut padded = inputs.to_vec();
    padded.resize(inputs.len().next_multiple_of(32), [0; 3]);
    let mut device = Device::new(Config::default());
    let (input, output) = (device.alloc("in", padded.len() * 24), device.alloc("out", padded.len() * 8));
    let bytes: Vec<u8> = padded.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    device.write(input, &bytes).expect("inputs");
    let args = [Arg::Ptr(input), Arg::Ptr(output)];
    let ctas = padded.len() as u32 / 32;
    let run = device.launch(&module, "k", [ctas, 1, 1], [32, 1, 1], 0, &args, &Options::default());
    run.unwrap_or_else(|f| panic!("{f}\n{text}"));
    let bytes = device.read(output, padded.len() * 8).expect("outputs");
    let words = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")));
    words.take(inputs.len()).collect()
}
