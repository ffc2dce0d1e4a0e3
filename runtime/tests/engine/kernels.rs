//! A small model without weights to speak of, and the objects and folders to hold it.

use std::path::Path;

use object::write::{Object, Relocation, StandardSection, Symbol, SymbolId, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, RelocationFlags, SymbolFlags, SymbolKind, SymbolScope};
use tilewright_runtime::artifact::{ArtifactWriter, Choice, KERNELS, ManifestInfo, TOKENIZER, TargetInfo};
use tilewright_runtime::error::ArtifactError;
use tilewright_runtime::loader::KernelFn;
use tilewright_runtime::plan::{Arg, Call, KvLayer, ModelFacts, Plan, Program, RopeTable, ScalarArg};

pub const VOCAB: u32 = 8;
/// Rows of logits have a gap of a quarter.
pub const STRIDE: u64 = 40;

/// An object under construction.
pub struct Builder {
    pub object: Object<'static>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder { object: Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little) }
    }

    pub fn symbol(&mut self, name: &str, section: StandardSection, data: &[u8]) -> SymbolId {
        let id = self.object.section_id(section);
        let value = self.object.append_section_data(id, data, 16);
        self.object.add_symbol(Symbol {
            name: name.into(),
            value,
            size: data.len() as u64,
            kind: if section == StandardSection::Text { SymbolKind::Text } else { SymbolKind::Data },
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(id),
            flags: SymbolFlags::None,
        })
    }

    pub fn text(&mut self, name: &str, code: &[u8]) -> SymbolId {
        self.symbol(name, StandardSection::Text, code)
    }

    /// `mov rax, kernel; jmp rax`
    pub fn jump(&mut self, name: &str, kernel: KernelFn) {
        let mut code = vec![0x48, 0xb8];
        code.extend((kernel as usize as u64).to_le_bytes());
        code.extend([0xff, 0xe0]);
        self.text(name, &code);
    }

    pub fn relocate(&mut self, offset: u64, symbol: SymbolId, kind: u32, addend: i64) {
        let section = self.object.section_id(StandardSection::Text);
        let flags = RelocationFlags::Elf { r_type: object::elf::RelocationType(kind) };
        self.object.add_relocation(section, Relocation { offset, symbol, addend, flags }).unwrap();
    }

    pub fn finish(self) -> Vec<u8> {
        self.object.write().unwrap()
    }
}

/// `K[past + t] = token`, for a chunk of four tokens.
unsafe extern "sysv64" fn store(args: *const *mut u8, scalars: *const i64, chunk: i64) {
    // SAFETY: the plan below passes (K, tokens) and (tokens, past).
    unsafe {
        let (k, ids) = (*args as *mut u16, *args.add(1) as *const i32);
        let (tokens, past) = (*scalars, *scalars.add(1));
        for t in chunk * 4..tokens.min(chunk * 4 + 4) {
            *k.offset((past + t) as isize) = *ids.offset(t as isize) as u16;
        }
    }
}

/// Logits of row t: sum of K up to its position, cosine, sine, tokens, past, capacity, a weight, NaN after token 7.
unsafe extern "sysv64" fn head(args: *const *mut u8, scalars: *const i64, _: i64) {
    // SAFETY: the plan below passes (logits, K, rope, weights) and (tokens, past, capacity).
    unsafe {
        let (out, k) = (*args as *mut f32, *args.add(1) as *const u16);
        let (rope, weight) = (*args.add(2) as *const f32, *args.add(3) as *const f32);
        let (tokens, past, capacity) = (*scalars, *scalars.add(1), *scalars.add(2));
        for t in 0..tokens {
            let seen = std::slice::from_raw_parts(k, (past + t + 1) as usize);
            let sum = seen.iter().map(|x| f32::from(*x)).sum();
            let (cos, sin) = (*rope.offset(4 * t as isize + 1), *rope.offset(4 * t as isize + 3));
            let mut row = [sum, cos, sin, tokens as f32, past as f32, capacity as f32, *weight, 0.0];
            if *seen.last().unwrap() == 7 {
                row = [f32::NAN; 8];
            }
            out.offset(10 * t as isize).cast::<[f32; 8]>().write(row);
        }
    }
}

pub fn call(kernel: u32, label: &str, args: &[Arg], scalars: &[ScalarArg], chunks: u32) -> Call {
    Call { kernel, label: label.into(), args: args.into(), scalars: scalars.into(), chunks }
}

fn program(max_tokens: u32) -> Program {
    use ScalarArg::{Capacity, Past, Tokens};
    let logits = 64;
    let store = call(0, "store", &[Arg::K(1), Arg::Tokens], &[Tokens, Past], max_tokens.div_ceil(4));
    let args = [Arg::Arena(logits), Arg::K(1), Arg::Rope(0), Arg::Weights(64)];
    let head = call(1, "head", &args, &[Tokens, Past, Capacity], 1);
    let arena_bytes = logits + u64::from(max_tokens) * STRIDE;
    Program {
        max_tokens,
        arena_bytes,
        calls: vec![store, head],
        head_start: 1,
        logits,
        logits_stride: STRIDE,
        next: None,
        sampled: None,
    }
}

pub fn plan() -> Plan {
    Plan {
        model: ModelFacts {
            name: "toy".into(),
            arch: "toy".into(),
            vocab: VOCAB,
            n_ctx: 100,
            parameters: 1,
            file_bytes: 1,
            bytes_per_token: 1,
            macs_per_token: 1,
        },
        kernels: vec!["store".into(), "head".into()],
        kv: vec![KvLayer { heads: 3, head_dim: 5 }, KvLayer { heads: 1, head_dim: 1 }],
        rope: vec![RopeTable { inv_freq: vec![1.0, 0.01], scale: 2.0 }],
        programs: vec![program(1), program(4), program(16)],
        weights_bytes: 4096,
        launches: vec![],
        counters_bytes: 0,
    }
}

pub fn object() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.jump("store", store);
    builder.jump("head", head);
    builder.finish()
}

pub fn info() -> ManifestInfo {
    ManifestInfo {
        compiler: "test 1".into(),
        target: TargetInfo { name: "any".into(), arch: "x86_64".into(), features: vec!["sse2".into()] },
        choices: vec![Choice { what: "gemv".into(), choice: "a".into(), why: serde_json::json!({ "us": 1.5 }) }],
        ..Default::default()
    }
}

/// Writes an artifact of the given parts, one weight of 2.5.
pub fn write_parts(dir: &Path, plan: &[u8], object: &[u8], info: ManifestInfo) -> Result<String, ArtifactError> {
    use std::io::Write;
    let mut writer = ArtifactWriter::create(dir)?;
    writer.file(KERNELS, object)?;
    writer.file(TOKENIZER, b"{}")?;
    writer.file("plan.json", plan)?;
    let mut weights = writer.weights()?;
    weights.write_all(&[1]).unwrap();
    assert_eq!(weights.align()?, 64);
    weights.write_all(&2.5f32.to_le_bytes()).unwrap();
    assert_eq!(weights.finish()?, 4096);
    writer.commit(info)
}

pub fn write(dir: &Path) -> String {
    write_parts(dir, &serde_json::to_vec(&plan()).unwrap(), &object(), info()).unwrap()
}
