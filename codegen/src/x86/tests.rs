//! The tables, and the bytes of what schedules become: features, spills and products, seen by a disassembler.

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, Mnemonic as M};
use iced_x86::{OpKind, Register};
use tilewright_ir::kernel::Kernel;
use tilewright_models::format::FormatSet;

use super::isa::{self, Kind};
use super::{compile, regs};
use crate::pack::Layout;
use crate::schedules::{
    Activation, Activations, Attention, Embed, Glu, HeadPrep, KvWrite, Matmul, Quantize, RopeStyle, Rounding, Rowwise,
    RowwiseOp, Schedule, defaults,
};
use crate::target::Target;

// Tables.

/// An instruction with registers from `first` on, memory at rax, the number 3.
fn instruction(code: Code, kinds: &[Kind], first: usize) -> Instruction {
    let mut out = Instruction::default();
    out.set_code(code);
    for (n, &k) in (0u32..).zip(kinds) {
        match k {
            Kind::Mem => {
                out.set_op_kind(n, OpKind::Memory);
                out.set_memory_base(Register::RAX);
            }
            Kind::Imm8 => {
                out.set_op_kind(n, OpKind::Immediate8);
                out.set_immediate8(3);
            }
            k => {
                out.set_op_kind(n, OpKind::Register);
                out.set_op_register(
                    n,
                    regs::name(regalloc2::PReg::new(first + n as usize, regalloc2::RegClass::Float), k),
                );
            }
        }
    }
    out
}

/// There is such an instruction, and its bytes say the same again.
fn encodes(m: M, encoding: EncodingKind, kinds: &[Kind]) {
    let code = isa::code(m, encoding, kinds).unwrap_or_else(|| panic!("{m:?} {encoding:?} {kinds:?}: no such code"));
    for first in if encoding == EncodingKind::EVEX { [1, 20] } else { [1, 9] } {
        let inst = instruction(code, kinds, first);
        let mut encoder = Encoder::new(64);
        encoder.encode(&inst, 0).unwrap_or_else(|e| panic!("{code:?} {kinds:?}: {e}"));
        let bytes = encoder.take_buffer();
        let again = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
        assert_eq!(again.code(), code, "{kinds:?}");
        for n in 0..kinds.len() as u32 {
            assert_eq!(again.op_kind(n), inst.op_kind(n), "{code:?}");
            if inst.op_kind(n) == OpKind::Register {
                assert_eq!(again.op_register(n), inst.op_register(n), "{code:?}");
            }
        }
    }
}

/// Encoding spaces and the widths they have.
const SPACES: [(EncodingKind, &[u32]); 2] = [(EncodingKind::VEX, &[128, 256]), (EncodingKind::EVEX, &[128, 256, 512])];

fn each_width(mut f: impl FnMut(EncodingKind, u32)) {
    for (space, widths) in SPACES {
        widths.iter().for_each(|&w| f(space, w));
    }
}

fn rows(table: &[isa::Row], mut f: impl FnMut(M, EncodingKind, Kind)) {
    for row in table {
        each_width(|space, width| {
            let m = if space == EncodingKind::VEX { row.vex } else { row.evex };
            if m != M::INVALID {
                f(m, space, Kind::vector(width));
            }
        });
    }
}

#[test]
fn every_row_of_the_tables_encodes() {
    rows(isa::OPS, |m, space, v| {
        encodes(m, space, &[v, v, v]);
        encodes(m, space, &[v, v, Kind::Mem]);
    });
    for row in isa::OPS.iter().filter(|r| r.one != M::INVALID) {
        for (space, _) in SPACES {
            encodes(row.one, space, &[Kind::Xmm, Kind::Xmm, Kind::Xmm]);
            encodes(row.one, space, &[Kind::Xmm, Kind::Xmm, Kind::Mem]);
        }
    }
    rows(isa::SHIFTS, |m, space, v| {
        encodes(m, space, &[v, v, Kind::Imm8]);
        encodes(m, space, &[v, v, Kind::Xmm]);
    });
    for &(from, to, signed, unsigned) in isa::WIDEN {
        each_width(|space, width| {
            for m in [signed, unsigned] {
                encodes(m, space, &[Kind::vector(width), Kind::vector((width / to * from).max(128))]);
                encodes(m, space, &[Kind::vector(width), Kind::Mem]);
            }
        });
    }
    for &(from, to, m) in isa::NARROW {
        for width in [128, 256, 512] {
            encodes(m, EncodingKind::EVEX, &[Kind::vector((width / from * to).max(128)), Kind::vector(width)]);
        }
    }
}

#[test]
fn no_op_has_two_rows() {
    for table in [isa::OPS, isa::SHIFTS] {
        for (i, a) in table.iter().enumerate() {
            assert!(table[..i].iter().all(|b| (a.op, a.scalar) != (b.op, b.scalar)), "{:?} {:?}", a.op, a.scalar);
        }
    }
}

// Schedules.

fn layout(format: &str) -> Layout {
    Layout::of(FormatSet::builtin().get(format).expect("a declared format")).expect("it can be packed")
}

fn activations(layout: &Layout, cols: u64) -> Activations {
    if layout.takes_q8() { Activations::Q8 } else { Activations::F32 { stride: cols * 4 } }
}

fn matmul(format: &str, tokens: u32) -> Matmul {
    let (layout, rows, cols) = (layout(format), 896, 4864);
    let x = activations(&layout, cols);
    Matmul { layout, rows, cols, x, bias: true, residual: Some(3584), out_stride: 3584, max_tokens: tokens }
}

/// One of each schedule, with each format where it has weights.
fn schedules(tokens: u32) -> Vec<Box<dyn Schedule>> {
    let mut out: Vec<Box<dyn Schedule>> = vec![];
    for format in FormatSet::builtin().iter().map(|f| f.name.as_str()) {
        let (layout, cols) = (layout(format), 512);
        let x = activations(&layout, cols);
        out.push(Box::new(matmul(format, tokens)));
        out.push(Box::new(Matmul { x: Activations::F32 { stride: 4864 * 4 }, ..matmul(format, tokens) }));
        out.push(Box::new(Embed { layout: layout.clone(), cols, out_stride: 2048, max_tokens: tokens }));
        out.push(Box::new(Glu {
            gate: layout.clone(),
            up: layout.clone(),
            rows: 512,
            cols,
            x,
            function: Activation::GeluTanh,
            out_stride: None,
            max_tokens: tokens,
        }));
    }
    for (width, norm) in [(512, None), (576, Some(1e-5))] {
        out.push(Box::new(Quantize { width, x_stride: width * 4, norm, to: Rounding::Q8, max_tokens: tokens }));
    }
    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
        let prep = HeadPrep { norm: Some(1e-6), rope: Some((32, style)) };
        out.push(Box::new(KvWrite { heads: 2, head_dim: 64, k_stride: 512, v_stride: 512, prep, max_tokens: tokens }));
        let attention = Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            q_stride: 1024,
            prep,
            scale: 0.125,
            window: 5,
            softcap: 20.0,
            out_stride: None,
            max_tokens: tokens,
        };
        out.extend(attention.combine(&defaults(&attention.space())).map(|c| Box::new(c) as Box<dyn Schedule>));
        out.push(Box::new(attention));
    }
    let ops = [
        RowwiseOp::RmsNorm { group: 64, eps: 1e-5 },
        RowwiseOp::Add(2048),
        RowwiseOp::Mul(2048),
        RowwiseOp::Scale(0.5),
        RowwiseOp::Softcap(30.0),
        RowwiseOp::Act(Activation::Silu),
        RowwiseOp::Slice(64),
    ];
    for op in ops {
        out.push(Box::new(Rowwise { op, width: 512, x_stride: 2048, out_stride: 2048, max_tokens: tokens }));
    }
    out
}

/// The instructions of a kernel, from its bytes.
fn decoded(kernel: &Kernel, target: &Target) -> Vec<Instruction> {
    let code = compile(kernel, target).unwrap_or_else(|e| panic!("{e}"));
    let out: Vec<Instruction> = Decoder::new(64, &code.bytes[code.entry..], DecoderOptions::NONE).into_iter().collect();
    assert!(out.iter().all(|i| !i.is_invalid()), "{}", kernel.name);
    out
}

/// What every x86-64 machine has.
fn is_base(f: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(f, INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | X64 | CMOV | SSE | SSE2)
}

#[test]
fn code_stays_within_the_features_of_its_target() {
    use CpuidFeature::*;
    let avx2 = [AVX, AVX2, FMA, F16C];
    let avx512 = [AVX512F, AVX512VL, AVX512BW, AVX512DQ, AVX512_VNNI];
    for (name, allowed) in [("x86-64-v3", &avx2[..]), ("x86-64-v4-vnni", &[&avx2[..], &avx512].concat())] {
        let target = Target::get(name).unwrap();
        let mut seen = 0;
        for schedule in [1, 64].into_iter().flat_map(schedules) {
            let kernel = schedule.build("k", &defaults(&schedule.space()));
            for inst in decoded(&kernel, &target) {
                let beyond = inst.cpuid_features().iter().find(|f| !is_base(**f) && !allowed.contains(f));
                assert_eq!(beyond, None, "{name}: {:?} in {}", inst.code(), schedule.signature());
                seen += usize::from(inst.cpuid_features().contains(allowed.last().unwrap()));
            }
        }
        assert!(seen > 100, "{name} is hardly made use of: {seen}");
    }
}

/// The instructions of loops that have no other loop inside.
fn innermost(code: &[Instruction]) -> Vec<&[Instruction]> {
    let at = |ip: u64| code.iter().position(|i| i.ip() == ip).expect("branches go to instructions");
    let back = |i: &Instruction| i.op0_kind() == OpKind::NearBranch64 && i.near_branch64() <= i.ip();
    let loops: Vec<(usize, usize)> =
        code.iter().enumerate().filter(|(_, i)| back(i)).map(|(end, i)| (at(i.near_branch64()), end)).collect();
    let inside = |a: &(usize, usize), b: &(usize, usize)| a != b && a.0 >= b.0 && a.1 <= b.1;
    let inner = loops.iter().filter(|l| !loops.iter().any(|other| inside(other, l)));
    inner.map(|&(from, to)| &code[from..=to]).collect()
}

fn count(code: &[Instruction], f: impl Fn(&Instruction) -> bool) -> usize {
    code.iter().filter(|i| f(i)).count()
}

/// Decoding at defaults: accesses to the stack and products in the innermost loop. 32 values are multiplied 4 a lane by 16
/// rows; one vector has 8 or 16 rows. AVX2 has 16 registers, of which K-quants want more.
#[test]
fn hot_loops_do_not_spill() {
    for (format, target, stack, mnemonic, products) in [
        ("q4_1", "x86-64-v3", 0, M::Vpmaddubsw, 16),
        ("q4_k", "x86-64-v3", 2, M::Vpmaddubsw, 16),
        ("q6_k", "x86-64-v3", 14, M::Vpmaddubsw, 16),
        ("q8_0", "x86-64-v3", 0, M::Vpmaddwd, 32),
        ("q4_1", "x86-64-v4-vnni", 0, M::Vpdpbusd, 8),
        ("q4_k", "x86-64-v4-vnni", 0, M::Vpdpbusd, 8),
        ("q6_k", "x86-64-v4-vnni", 0, M::Vpdpbusd, 8),
        ("q8_0", "x86-64-v4-vnni", 0, M::Vpdpbusd, 8),
    ] {
        let schedule = matmul(format, 1);
        let kernel = schedule.build("k", &defaults(&schedule.space()));
        let code = decoded(&kernel, &Target::get(target).unwrap());
        let loops = innermost(&code);
        let [hot] = loops[..] else { panic!("{format}: {} loops", loops.len()) };
        let spills = count(hot, |i| matches!(i.memory_base(), Register::RSP | Register::RBP));
        assert!(spills <= stack, "{format} for {target}: {spills} accesses to the stack");
        assert_eq!(count(hot, |i| i.mnemonic() == mnemonic), products, "{format} for {target}");
        // Sums of small codes come to 32 bits once for the two products of an int8 block.
        if mnemonic == M::Vpmaddubsw {
            assert_eq!(count(hot, |i| i.mnemonic() == M::Vpmaddwd), products / 2, "{format} for {target}");
        }
    }
}
