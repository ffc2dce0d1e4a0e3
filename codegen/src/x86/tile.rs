//! Tiles. The schedule names them, so they are no business of the allocator; what they hold lasts for the call.
//!
//! All tiles have one shape, set at the kernel's entry and given up before it returns: a thread that keeps tiles makes
//! every switch of threads dearer.

use iced_x86::{Code, EncodingKind, Mnemonic as M, Register};
use tilewright_ir::kernel::{Imm, Inst, Opcode, TILE_ROW_BYTES, TILE_ROWS, TILES};

use super::func::{Action, Base, MInst, Mem, Opd};
use super::lower::Lower;

fn name(t: u8) -> Opd {
    Opd::Fixed(Register::TMM0 + u32::from(t))
}

/// What `ldtilecfg` reads: palette 1, for each tile the bytes of a row from byte 16 on, the number of rows from byte 48 on.
fn configuration() -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for t in 0..TILES as usize {
        bytes[16 + 2 * t..][..2].copy_from_slice(&(TILE_ROW_BYTES as u16).to_le_bytes());
        bytes[48 + t] = TILE_ROWS as u8;
    }
    bytes
}

impl Lower<'_> {
    pub(super) fn configure_tiles(&mut self) {
        if self.tiles {
            let at = self.pool.block(&configuration());
            self.inst(M::Ldtilecfg, EncodingKind::VEX, &[Opd::Mem(Mem::at(Base::Pool, at))]);
        }
    }

    pub(super) fn release_tiles(&mut self) {
        if self.tiles {
            self.f.push(MInst::new(Action::Code(Code::VEX_Tilerelease)));
        }
    }

    pub(super) fn tile(&mut self, inst: &Inst) {
        if !self.caps.tiles {
            return self.refuse("", "there is no such instruction without amx-tile and amx-bf16");
        }
        let mut emit = |m: M, opds: &[Opd]| {
            self.inst(m, EncodingKind::VEX, opds);
        };
        let t = match inst.imm {
            Imm::Tiles([c, a, b]) => return emit(M::Tdpbf16ps, &[name(c), name(a), name(b)]),
            Imm::Int(t) => name(t as u8),
            _ => return,
        };
        if inst.op == Opcode::TileZero {
            return emit(M::Tilezero, &[t]);
        }
        // The index register is the stride; the address may have no other.
        let mut mem = self.address(inst.args[0], 0);
        if mem.index.is_some() {
            mem = Mem::at(Base::Reg(self.address_reg(mem)), 0);
        }
        let stride = self.reg(inst.args[1]);
        let mem = Opd::Mem(Mem { index: Some(stride), ..mem });
        let (m, opds) = if inst.op == Opcode::TileLoad { (M::Tileloadd, [t, mem]) } else { (M::Tilestored, [mem, t]) };
        self.inst(m, EncodingKind::VEX, &opds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, CodegenError};
    use crate::target::Target;
    use crate::x86::{X86, compile};
    use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Instruction, OpKind};
    use tilewright_ir::kernel::{Kernel, KernelBuilder};

    /// One step of a product, its tiles in order, in a loop of `n` rounds.
    fn product() -> Kernel {
        let mut b = KernelBuilder::new("product");
        let (x, w, out, n) = (b.ptr_param("x"), b.ptr_param("w"), b.ptr_param("out"), b.int_param("n"));
        let (stage, line) = (b.local(1024), b.i64(64));
        b.tile_zero(0);
        let zero = b.i64(0);
        b.for_(zero, n, 1, &[], |b, k, _| {
            let (x, w) = (b.index(x, k, 64), b.index(w, k, 1024));
            b.tile_load(4, x, n);
            b.tile_load(6, w, line);
            b.tile_dot(0, 4, 6);
            vec![]
        });
        b.tile_store(0, stage, line);
        b.tile_load(1, stage, line);
        b.tile_store(1, out, n);
        b.finish()
    }

    fn decoded(code: &[u8]) -> Vec<Instruction> {
        Decoder::with_ip(64, code, 0x4000, DecoderOptions::NONE).into_iter().collect()
    }

    #[test]
    fn the_bytes_are_the_instructions() {
        let target = Target::get("x86-64-v4-amx").unwrap();
        let made = compile(&product(), &target).unwrap();
        let code = decoded(&made.bytes[made.entry..]);
        let of_tiles = |i: &&Instruction| {
            i.cpuid_features().iter().any(|f| matches!(f, CpuidFeature::AMX_TILE | CpuidFeature::AMX_BF16))
        };
        let tiles: Vec<&Instruction> = code.iter().filter(of_tiles).collect();
        let text: Vec<String> = tiles.iter().map(|i| format!("{:?}", i.mnemonic()).to_lowercase()).collect();
        let wanted = [
            "ldtilecfg",
            "tilezero",
            "tileloadd",
            "tileloadd",
            "tdpbf16ps",
            "tilestored",
            "tileloadd",
            "tilestored",
            "tilerelease",
        ];
        assert_eq!(text, wanted);
        // The configuration is the constant the first one points to: 8 tiles of 16 rows of 64 bytes.
        assert!(tiles[0].is_ip_rel_memory_operand());
        let at = made.entry as i64 + tiles[0].ip_rel_memory_address() as i64 - 0x4000;
        let bytes = &made.bytes[at as usize..][..64];
        assert_eq!((bytes[0], &bytes[16..32], &bytes[48..56]), (1, &[64, 0].repeat(8)[..], &[16; 8][..]));
        assert!([1..16, 32..48, 56..64].into_iter().all(|r| bytes[r].iter().all(|&b| b == 0)));
        // c, a, b; memory with a base and the stride unscaled.
        let dot = tiles[4];
        let names = [dot.op0_register(), dot.op1_register(), dot.op2_register()];
        assert_eq!(names, [Register::TMM0, Register::TMM4, Register::TMM6]);
        for i in tiles.iter().filter(|i| matches!(i.mnemonic(), M::Tileloadd | M::Tilestored)) {
            assert!((0..2).any(|n| i.op_kind(n) == OpKind::Memory));
            assert!(i.memory_base() != Register::None && i.memory_index() != Register::None);
            assert_eq!(i.memory_index_scale(), 1);
        }
        // Set before everything else that touches tiles, given up last.
        let last = code.iter().rposition(|i| i.mnemonic() == M::Tilerelease).unwrap();
        assert!(code[last..].iter().any(|i| i.mnemonic() == M::Ret));
        assert!(code.iter().all(|i| crate::x86::isa::missing(i.code(), &target).is_none()));
    }

    #[test]
    fn other_targets_refuse() {
        for name in ["x86-64-v4-bf16", "x86-64-v3"] {
            let target = Target::get(name).unwrap();
            let found = X86.check(&product(), &target).unwrap_err();
            assert!(found.iter().all(|u| u.reason.contains("without amx-tile and amx-bf16")), "{found:?}");
            assert!(matches!(compile(&product(), &target), Err(CodegenError::Unsupported(_))));
        }
        assert!(crate::cranelift::Cranelift.check(&product(), &Target::get("x86-64-v4-amx").unwrap()).is_err());
        // Kernels without tiles leave their state alone.
        let made = compile(&KernelBuilder::new("nothing").finish(), &Target::get("x86-64-v4-amx").unwrap()).unwrap();
        assert!(decoded(&made.bytes[made.entry..]).iter().all(|i| i.mnemonic() != M::Tilerelease));
    }
}
