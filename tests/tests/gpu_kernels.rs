//! Every kernel × format × target through NVIDIA's assembler: no spills, no more registers and shared memory than planned, the
//! loads of weights as wide and as many at once as planned, tensor cores where meant.
//!
//! What the assembler made of them is a table under version control, `tests/goldens/gpu/kernels.txt`: its diff is reviewed.
//! `BLESS=1` rewrites it. The assembler comes by `make cuda-tools`; without it this says SKIPPED, and fails where CI is set.

use rayon::prelude::*;
use std::fmt::Write;
use std::path::Path;
use tilewright_codegen::backend::Backend;
use tilewright_codegen::pack::Fragments;
use tilewright_codegen::ptx::{self, Ptx, assembler::Assembler};
use tilewright_codegen::schedules::gpu::{
    Attention, Choice, Embed, F16Rows, Input, KvWrite, Next, Product, Round, Rowwise,
};
use tilewright_codegen::schedules::{self, Activation, Finish, HeadPrep, RopeStyle, RowwiseOp, Schedule, params_for};
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::{Imm, Kernel, Opcode};
use tilewright_models::format::FormatSet;

/// Sizes of an 8B model, where every default is at its largest.
const WIDTH: u64 = 4096;

fn product(layout: &Fragments, x: Input, finish: Finish, max_tokens: u32) -> Product {
    let kinds = if matches!(finish, Finish::Glu(_)) { 2 } else { 1 };
    let weights = vec![layout.clone(); kinds];
    Product { weights, rows: WIDTH, cols: WIDTH, x, finish, out_stride: WIDTH * 4, max_tokens }
}

fn attention(head_dim: u64, max_tokens: u32, terms: u64) -> Attention {
    let prep = HeadPrep { norm: None, rope: Some((head_dim / 2, RopeStyle::Half)) };
    let (heads, stride) = (WIDTH / head_dim, WIDTH * 4);
    let op = schedules::Attention {
        heads,
        kv_heads: heads / 4,
        head_dim,
        q_stride: stride,
        prep,
        scale: 0.1,
        window: 0,
        softcap: 0.0,
        out_stride: Some(stride),
        max_tokens,
    };
    Attention::new(op, terms).expect("a shape that there is")
}

/// Kernels by the name under which they stand in the table.
fn cases() -> Vec<(String, Box<dyn Schedule>)> {
    let mut out: Vec<(String, Box<dyn Schedule>)> = vec![];
    let sum = Finish::Sum { bias: true, residual: Some(WIDTH * 4) };
    let rows = |terms: u64| Input::Rows { stride: WIDTH * 4, norm: Some(1e-5), terms };
    let rounded = |terms: u32| Input::Rounded(F16Rows { width: WIDTH, terms });
    let glu = Finish::Glu(Activation::Silu);
    for format in FormatSet::builtin().iter() {
        let layout = &Fragments::of(format).expect("a layout");
        let mut add = |what: &str, s: Box<dyn Schedule>| out.push((format!("{what}_{}", format.name), s));
        add("few1", Box::new(product(layout, rows(1), sum, 1)));
        add("few8x2", Box::new(product(layout, rows(2), sum, 8)));
        add("glu1", Box::new(product(layout, rows(1), glu, 1)));
        add("many", Box::new(product(layout, rounded(1), sum, 512)));
        add("manyx2", Box::new(product(layout, rounded(2), sum, 512)));
        add("manyglu", Box::new(product(layout, rounded(1), glu, 512)));
        let embed = Embed { layout: layout.clone(), cols: WIDTH, out_stride: WIDTH * 4, max_tokens: 8 };
        add("embed", Box::new(embed));
    }
    let mut add = |what: &str, s: Box<dyn Schedule>| out.push((what.to_string(), s));
    for (head_dim, terms) in [(64, 1), (64, 2), (128, 1), (128, 2), (256, 1)] {
        add(&format!("decode_d{head_dim}x{terms}"), Box::new(attention(head_dim, 1, terms)));
        add(&format!("prefill_d{head_dim}x{terms}"), Box::new(attention(head_dim, 512, terms)));
    }
    let prep = HeadPrep { norm: Some(1e-5), rope: Some((64, RopeStyle::Half)) };
    let kv = schedules::KvWrite { heads: 8, head_dim: 128, k_stride: WIDTH, v_stride: WIDTH, prep, max_tokens: 1 };
    add("kv_write", Box::new(KvWrite(kv)));
    for terms in [1, 2] {
        let round = Round { width: WIDTH, x_stride: WIDTH * 4, norm: Some(1e-5), terms, max_tokens: 512 };
        add(&format!("round{terms}"), Box::new(round));
    }
    let ops = [
        ("rms_norm", RowwiseOp::RmsNorm { group: WIDTH, eps: 1e-5 }),
        ("row_add", RowwiseOp::Add(WIDTH * 4)),
        ("silu", RowwiseOp::Act(Activation::Silu)),
        ("softcap", RowwiseOp::Softcap(30.0)),
        ("rope", RowwiseOp::Rope { heads: 32, pairs: 64, style: RopeStyle::Half }),
    ];
    for (name, op) in ops {
        let row = schedules::Rowwise { op, width: WIDTH, x_stride: WIDTH * 4, out_stride: WIDTH * 4, max_tokens: 8 };
        add(name, Box::new(Rowwise(row)));
    }
    for choice in [Choice::Likeliest, Choice::Sampled] {
        let next = Next { vocab: 128256, rope: vec![64], choice };
        add(next.label(), Box::new(next));
    }
    out
}

fn count(block: &tilewright_ir::kernel::Block, f: &dyn Fn(Opcode, &Imm) -> bool) -> usize {
    block.insts.iter().map(|i| usize::from(f(i.op, &i.imm)) + i.blocks.iter().map(|b| count(b, f)).sum::<usize>()).sum()
}

/// The lines of one target.
fn table(assembler: &Assembler, target: &Target, faults: &mut Vec<String>) -> String {
    let gpu = target.gpu().expect("a GPU");
    let kernels: Vec<(Kernel, String)> = cases()
        .into_iter()
        .filter_map(|(name, s)| {
            let kernel = s.build(&name, &params_for(s.as_ref(), target));
            match Ptx.check(&kernel, target) {
                Ok(()) => Some((kernel, name)),
                Err(why) => {
                    faults.push(format!("{} {name}: {}", target.name, why[0]));
                    None
                }
            }
        })
        .collect();
    let each: Vec<Kernel> = kernels.iter().map(|k| k.0.clone()).collect();
    let text = Ptx.object(&each, target).unwrap_or_else(|e| panic!("{}: {e}", target.name));
    let made = assembler.assemble(&text, &target.name).unwrap_or_else(|e| panic!("{}: {e}", target.name));
    let sass = assembler.disassemble(&made.cubin).unwrap_or_else(|e| panic!("{}: {e}", target.name));
    faults.extend(made.warnings.iter().map(|w| format!("{}: {w}", target.name)));
    let mut out = String::new();
    for (kernel, name) in &kernels {
        let entry = made.entries.iter().find(|e| e.name == *name).expect("an entry");
        let code = sass.iter().find(|s| s.name == *name).expect("its code");
        let launch = ptx::launch(kernel, target);
        let blocks = gpu.resident(launch.threads, launch.shared_bytes);
        writeln!(
            out,
            "{:8} {name:16} {:4} {:4} {:7} {:6} {:4} {:4} {:4} {:4} {:5} {:4}",
            target.name,
            launch.threads,
            entry.registers,
            launch.shared_bytes,
            code.instructions,
            code.loads_16,
            code.loads_8,
            code.loads_less,
            code.copies,
            code.mma,
            code.loads_in_flight
        )
        .expect("a string");
        let mut fault = |what: String| faults.push(format!("{} {name}: {what}", target.name));
        if entry.spill_stores + entry.spill_loads + entry.stack + code.local > 0 {
            fault(format!("{entry:?}, {} local", code.local));
        }
        let resident = kernel.resident.max(1);
        if entry.registers.next_multiple_of(8) * launch.threads * resident > gpu.registers || blocks < 1 {
            fault(format!("{} registers, {resident} blocks planned, {blocks} fit by shared memory", entry.registers));
        }
        let wide = count(&kernel.body, &|op, _| op == Opcode::LoadStream);
        if name.starts_with("few") && wide > 0 && code.loads_16 == 0 && !name.contains("q2_k") {
            fault("no load of 16 bytes".into());
        }
        let multiplies =
            count(&kernel.body, &|op, _| matches!(op, Opcode::MmaF16 | Opcode::MmaBf16 | Opcode::WgmmaF16)) > 0;
        if multiplies != (code.mma > 0) {
            fault(format!("{} products by tensor cores", code.mma));
        }
    }
    out
}

#[test]
fn what_the_assembler_makes_of_them() {
    let Some(assembler) = Assembler::find().filter(Assembler::disassembles) else {
        assert!(std::env::var_os("CI").is_none(), "ptxas is not installed: `make cuda-tools`");
        eprintln!("SKIPPED: ptxas and nvdisasm are not installed (`make cuda-tools`): no GPU kernel was assembled");
        return;
    };
    let targets: Vec<&Target> = Target::all().iter().filter(|t| t.gpu().is_some()).collect();
    let made: Vec<(String, Vec<String>)> = targets
        .par_iter()
        .map(|t| {
            let mut faults = vec![];
            (table(&assembler, t, &mut faults), faults)
        })
        .collect();
    let faults: Vec<String> = made.iter().flat_map(|m| m.1.clone()).collect();
    let mut text = "target   kernel           thr  reg  shared   instr  ld16  ld8  ld<  cpa   mma  fly\n".to_string();
    made.iter().for_each(|m| text.push_str(&m.0));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/gpu/kernels.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, &text).expect("the table");
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    let changed: Vec<String> =
        text.lines().zip(known.lines()).filter(|(a, b)| a != b).map(|(a, b)| format!("- {b}\n+ {a}")).collect();
    assert!(text == known, "kernels are other than in {}; BLESS=1 writes it:\n{}", file.display(), changed.join("\n"));
}
