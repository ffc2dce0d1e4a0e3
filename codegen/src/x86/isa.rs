//! The instruction tables: which machine instruction an op on an element type is, and which of its encodings fits.
//!
//! An instruction is named by its mnemonic; the encoding follows from the operands. [`code`] finds it in the
//! assembler's own tables: of the codes of that mnemonic, the first whose operands are of the kinds asked for, in the
//! encoding space of the target (EVEX where it has AVX-512, else VEX; general registers use the legacy one).

use std::cell::RefCell;
use std::sync::LazyLock;

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeOperandKind};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tilewright_ir::kernel::{Opcode, Scalar};

use crate::target::Target;

/// What stands in an operand's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    R8,
    R16,
    R32,
    R64,
    Xmm,
    Ymm,
    Zmm,
    Tmm,
    K,
    Mem,
    Imm8,
    Imm32,
    Imm64,
    Cl,
}

impl Kind {
    /// The vector register of that many bits.
    pub(super) fn vector(bits: u32) -> Kind {
        match bits {
            512 => Kind::Zmm,
            256 => Kind::Ymm,
            _ => Kind::Xmm,
        }
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// What the kinds of an operand in the assembler's table accept.
fn accepts(kind: OpCodeOperandKind) -> u16 {
    let name = format!("{kind:?}");
    let mut set = 0;
    let mut add = |yes: bool, k: Kind| set |= if yes { k.bit() } else { 0 };
    add(name == "mem" || name == "sibmem" || name.ends_with("_or_mem"), Kind::Mem);
    let (head, _) = name.split_once('_').unwrap_or((&name, ""));
    for (text, kind) in [
        ("r8", Kind::R8),
        ("r16", Kind::R16),
        ("r32", Kind::R32),
        ("r64", Kind::R64),
        ("xmm", Kind::Xmm),
        ("ymm", Kind::Ymm),
        ("zmm", Kind::Zmm),
        ("tmm", Kind::Tmm),
        ("k", Kind::K),
        ("imm8", Kind::Imm8),
        ("imm8sex32", Kind::Imm8),
        ("imm8sex64", Kind::Imm8),
        ("imm32", Kind::Imm32),
        ("imm32sex64", Kind::Imm32),
        ("imm64", Kind::Imm64),
        ("cl", Kind::Cl),
    ] {
        // The short form of "by one" says nothing more than the general one.
        add(head == text && !name.contains("const"), kind);
    }
    set
}

struct Entry {
    code: Code,
    encoding: EncodingKind,
    operands: SmallVec<[u16; 4]>,
}

static CODES: LazyLock<FxHashMap<Mnemonic, Vec<Entry>>> = LazyLock::new(|| {
    let mut out: FxHashMap<Mnemonic, Vec<Entry>> = FxHashMap::default();
    let kinds: FxHashMap<OpCodeOperandKind, u16> = OpCodeOperandKind::values().map(|k| (k, accepts(k))).collect();
    for code in Code::values() {
        let info = code.op_code();
        let encoding = info.encoding();
        let wanted = matches!(encoding, EncodingKind::Legacy | EncodingKind::VEX | EncodingKind::EVEX);
        if !wanted || !info.is_instruction() || !info.mode64() {
            continue;
        }
        let operands = info.op_kinds().iter().map(|k| kinds[k]).collect();
        out.entry(code.mnemonic()).or_default().push(Entry { code, encoding, operands });
    }
    out
});

type Key = (Mnemonic, EncodingKind, SmallVec<[Kind; 4]>);

thread_local! {
    static FOUND: RefCell<FxHashMap<Key, Option<Code>>> = RefCell::default();
}

/// The code of `mnemonic` for operands of these kinds.
pub(super) fn code(mnemonic: Mnemonic, encoding: EncodingKind, kinds: &[Kind]) -> Option<Code> {
    FOUND.with_borrow_mut(|found| {
        let search = || {
            let fits = |e: &&Entry| {
                e.encoding == encoding
                    && e.operands.len() == kinds.len()
                    && e.operands.iter().zip(kinds).all(|(set, k)| set & k.bit() != 0)
            };
            CODES.get(&mnemonic)?.iter().find(fits).map(|e| e.code)
        };
        *found.entry((mnemonic, encoding, kinds.into())).or_insert_with(search)
    })
}

/// What the lowering chooses by.
#[derive(Clone, Debug)]
pub(super) struct Caps {
    /// EVEX encodings of all widths: 32 registers, masks, broadcasts from memory.
    pub(super) evex: bool,
    /// Bits of the widest vector.
    pub(super) width: u32,
    /// A dot product of bytes.
    pub(super) vnni: bool,
    /// A dot product of pairs of bf16.
    pub(super) bf16: bool,
    /// Tiles and their bf16 product.
    pub(super) tiles: bool,
}

impl Caps {
    pub(super) fn of(target: &Target) -> Caps {
        let evex = ["avx512f", "avx512vl", "avx512bw", "avx512dq"].iter().all(|f| target.has(f));
        let vnni = if evex { target.has("avx512vnni") } else { target.has("avxvnni") };
        let width = if evex { target.vector_bits.clamp(256, 512) } else { 256 };
        let bf16 = evex && target.has("avx512bf16");
        let tiles = ["amx-tile", "amx-bf16"].iter().all(|f| target.has(f));
        Caps { evex, width, vnni, bf16, tiles }
    }

    /// The encoding space of vector instructions.
    pub(super) fn encoding(&self) -> EncodingKind {
        if self.evex { EncodingKind::EVEX } else { EncodingKind::VEX }
    }

    /// The mnemonic of the encoding space.
    pub(super) fn pick(&self, vex: Mnemonic, evex: Mnemonic) -> Mnemonic {
        if self.evex { evex } else { vex }
    }
}

/// Target features and what the assembler calls them.
const FEATURES: &[(CpuidFeature, &[&str])] = &[
    (CpuidFeature::INTEL8086, &[]),
    (CpuidFeature::INTEL186, &[]),
    (CpuidFeature::INTEL286, &[]),
    (CpuidFeature::INTEL386, &[]),
    (CpuidFeature::INTEL486, &[]),
    (CpuidFeature::X64, &[]),
    (CpuidFeature::CMOV, &[]),
    (CpuidFeature::MULTIBYTENOP, &[]),
    (CpuidFeature::PREFETCHW, &[]),
    (CpuidFeature::SSE, &[]),
    (CpuidFeature::SSE2, &[]),
    (CpuidFeature::CLFSH, &[]),
    (CpuidFeature::AVX, &["avx"]),
    (CpuidFeature::AVX2, &["avx2"]),
    (CpuidFeature::FMA, &["fma"]),
    (CpuidFeature::F16C, &["f16c"]),
    (CpuidFeature::BMI2, &["bmi2"]),
    (CpuidFeature::AVX_VNNI, &["avxvnni"]),
    (CpuidFeature::AVX512F, &["avx512f"]),
    (CpuidFeature::AVX512VL, &["avx512vl"]),
    (CpuidFeature::AVX512BW, &["avx512bw"]),
    (CpuidFeature::AVX512DQ, &["avx512dq"]),
    (CpuidFeature::AVX512_VNNI, &["avx512vnni"]),
    (CpuidFeature::AVX512_BF16, &["avx512bf16"]),
    (CpuidFeature::AMX_TILE, &["amx-tile"]),
    (CpuidFeature::AMX_BF16, &["amx-bf16"]),
    (CpuidFeature::AVX512_VBMI, &["avx512vbmi"]),
];

/// A feature that `code` needs and `target` lacks.
pub(super) fn missing(code: Code, target: &Target) -> Option<String> {
    code.cpuid_features().iter().find_map(|f| match FEATURES.iter().find(|(known, _)| known == f) {
        Some((_, names)) => names.iter().find(|n| !target.has(n)).map(ToString::to_string),
        None => Some(format!("{f:?}")),
    })
}

/// One row of [`OPS`]: the mnemonics of an op on lanes of a type.
pub(super) struct Row {
    pub(super) op: Opcode,
    pub(super) scalar: Scalar,
    /// With the VEX prefix, on vectors.
    pub(super) vex: Mnemonic,
    /// With the EVEX prefix, on vectors.
    pub(super) evex: Mnemonic,
    /// On one lane of an xmm register; `INVALID` where a general register holds scalars.
    pub(super) one: Mnemonic,
}

const fn row(op: Opcode, scalar: Scalar, vex: Mnemonic, evex: Mnemonic, one: Mnemonic) -> Row {
    Row { op, scalar, vex, evex, one }
}

use Mnemonic as M;
use Opcode as O;
use Scalar::{F32, F64, I8, I16, I32, I64};
const NO: Mnemonic = Mnemonic::INVALID;

/// Ops that are one instruction of the form `d = op(a, b)`.
pub(super) const OPS: &[Row] = &[
    row(O::Add, F32, M::Vaddps, M::Vaddps, M::Vaddss),
    row(O::Add, F64, M::Vaddpd, M::Vaddpd, M::Vaddsd),
    row(O::Add, I8, M::Vpaddb, M::Vpaddb, NO),
    row(O::Add, I16, M::Vpaddw, M::Vpaddw, NO),
    row(O::Add, I32, M::Vpaddd, M::Vpaddd, NO),
    row(O::Add, I64, M::Vpaddq, M::Vpaddq, NO),
    row(O::Sub, F32, M::Vsubps, M::Vsubps, M::Vsubss),
    row(O::Sub, F64, M::Vsubpd, M::Vsubpd, M::Vsubsd),
    row(O::Sub, I8, M::Vpsubb, M::Vpsubb, NO),
    row(O::Sub, I16, M::Vpsubw, M::Vpsubw, NO),
    row(O::Sub, I32, M::Vpsubd, M::Vpsubd, NO),
    row(O::Sub, I64, M::Vpsubq, M::Vpsubq, NO),
    row(O::Mul, F32, M::Vmulps, M::Vmulps, M::Vmulss),
    row(O::Mul, F64, M::Vmulpd, M::Vmulpd, M::Vmulsd),
    row(O::Mul, I16, M::Vpmullw, M::Vpmullw, NO),
    row(O::Mul, I32, M::Vpmulld, M::Vpmulld, NO),
    row(O::Mul, I64, NO, M::Vpmullq, NO),
    row(O::Div, F32, M::Vdivps, M::Vdivps, M::Vdivss),
    row(O::Div, F64, M::Vdivpd, M::Vdivpd, M::Vdivsd),
    row(O::Fmin, F32, M::Vminps, M::Vminps, M::Vminss),
    row(O::Fmin, F64, M::Vminpd, M::Vminpd, M::Vminsd),
    row(O::Fmax, F32, M::Vmaxps, M::Vmaxps, M::Vmaxss),
    row(O::Fmax, F64, M::Vmaxpd, M::Vmaxpd, M::Vmaxsd),
    row(O::Smin, I8, M::Vpminsb, M::Vpminsb, NO),
    row(O::Smin, I16, M::Vpminsw, M::Vpminsw, NO),
    row(O::Smin, I32, M::Vpminsd, M::Vpminsd, NO),
    row(O::Smin, I64, NO, M::Vpminsq, NO),
    row(O::Smax, I8, M::Vpmaxsb, M::Vpmaxsb, NO),
    row(O::Smax, I16, M::Vpmaxsw, M::Vpmaxsw, NO),
    row(O::Smax, I32, M::Vpmaxsd, M::Vpmaxsd, NO),
    row(O::Smax, I64, NO, M::Vpmaxsq, NO),
];

/// Shifts: by a constant, or by the low 64 bits of an xmm register.
pub(super) const SHIFTS: &[Row] = &[
    row(O::Shl, I16, M::Vpsllw, M::Vpsllw, NO),
    row(O::Shl, I32, M::Vpslld, M::Vpslld, NO),
    row(O::Shl, I64, M::Vpsllq, M::Vpsllq, NO),
    row(O::ShrU, I16, M::Vpsrlw, M::Vpsrlw, NO),
    row(O::ShrU, I32, M::Vpsrld, M::Vpsrld, NO),
    row(O::ShrU, I64, M::Vpsrlq, M::Vpsrlq, NO),
    row(O::ShrS, I16, M::Vpsraw, M::Vpsraw, NO),
    row(O::ShrS, I32, M::Vpsrad, M::Vpsrad, NO),
    row(O::ShrS, I64, NO, M::Vpsraq, NO),
];

/// The row's mnemonic for a vector or, with `one`, a scalar in a vector register.
pub(super) fn find(rows: &[Row], op: Opcode, scalar: Scalar, caps: &Caps, one: bool) -> Option<Mnemonic> {
    let row = rows.iter().find(|r| r.op == op && r.scalar == scalar)?;
    let m = if one { row.one } else { caps.pick(row.vex, row.evex) };
    (m != NO).then_some(m)
}

/// Widening moves of integer lanes: from bits, to bits, signed, unsigned.
pub(super) const WIDEN: &[(u32, u32, Mnemonic, Mnemonic)] = &[
    (8, 16, M::Vpmovsxbw, M::Vpmovzxbw),
    (8, 32, M::Vpmovsxbd, M::Vpmovzxbd),
    (8, 64, M::Vpmovsxbq, M::Vpmovzxbq),
    (16, 32, M::Vpmovsxwd, M::Vpmovzxwd),
    (16, 64, M::Vpmovsxwq, M::Vpmovzxwq),
    (32, 64, M::Vpmovsxdq, M::Vpmovzxdq),
];

/// Narrowing moves of integer lanes, AVX-512 only: from bits, to bits.
pub(super) const NARROW: &[(u32, u32, Mnemonic)] = &[
    (16, 8, M::Vpmovwb),
    (32, 8, M::Vpmovdb),
    (64, 8, M::Vpmovqb),
    (32, 16, M::Vpmovdw),
    (64, 16, M::Vpmovqw),
    (64, 32, M::Vpmovqd),
];
