//! Loads, stores and addresses. No access goes beyond the bytes of its type: memory may end there.

use iced_x86::Mnemonic as M;
use smallvec::smallvec;
use tilewright_ir::kernel::{Type, Value};

use super::func::{Base, Mem, Opd};
use super::isa::Kind;
use super::lower::{Lower, Pieces, Val, Waiting, in_vector, lane_bits, shape};

impl Lower<'_> {
    /// The operand for `pointer + bytes`.
    pub(super) fn address(&mut self, pointer: Value, bytes: i64) -> Mem {
        let mem = match self.val(pointer).clone() {
            Val::Address(mem) => mem,
            _ => Mem::at(Base::Reg(self.reg(pointer)), 0),
        };
        // Room for the pieces of the longest vector.
        match i32::try_from(mem.disp.saturating_add(bytes).saturating_add(4096)) {
            Ok(_) => mem.plus(bytes),
            Err(_) => {
                let base = self.address_reg(mem);
                let far = self.small(bytes);
                Mem { index: Some(far), ..Mem::at(Base::Reg(base), 0) }
            }
        }
    }

    pub(super) fn load(&mut self, r: Value, pointer: Value, bytes: i64) {
        let (mem, ty) = (self.address(pointer, bytes), self.ty(r));
        let w = Waiting { mem, ty, splat: false };
        if self.used_once(r) && !self.leaves(r) {
            return self.wait(r, w);
        }
        let regs = self.load_now(w, ty);
        self.set(r, Val::Regs(regs));
    }

    /// Makes a load; `ty` is the type of the value, which a splat or bitcast may have changed.
    pub(super) fn load_now(&mut self, w: Waiting, ty: Type) -> Pieces {
        let mem = Opd::Mem(w.mem);
        if w.splat {
            let (width, n) = shape(ty, lane_bits(ty.scalar), self.caps.width);
            let m = match w.ty.scalar.bytes() {
                1 => M::Vpbroadcastb,
                2 => M::Vpbroadcastw,
                4 => M::Vpbroadcastd,
                _ => M::Vpbroadcastq,
            };
            return smallvec![self.v(m, width, &[mem]); n];
        }
        if ty.lanes == 1 && w.ty.lanes == 1 {
            if in_vector(ty.scalar) {
                let m = if ty.scalar.bytes() == 4 { M::Vmovss } else { M::Vmovsd };
                return smallvec![self.v(m, 128, &[mem])];
            }
            let d = self.gpr();
            match ty.scalar.bytes() {
                1 | 2 => self.narrow_load(d, w.mem, ty.scalar.bytes()),
                4 => self.scalar_inst(M::Mov, &[Opd::Def(d, Kind::R32), mem]),
                _ => self.scalar_inst(M::Mov, &[Opd::Def(d, Kind::R64), mem]),
            };
            return smallvec![d];
        }
        match w.ty.bytes() {
            2 => {
                let d = self.gpr();
                self.narrow_load(d, w.mem, 2);
                smallvec![self.v(M::Vmovd, 128, &[Opd::Use(d, Kind::R32)])]
            }
            4 => smallvec![self.v(M::Vmovd, 128, &[mem])],
            8 => smallvec![self.v(M::Vmovq, 128, &[mem])],
            _ => {
                let (width, n) = shape(ty, lane_bits(ty.scalar), self.caps.width);
                let step = i64::from(width / 8);
                (0..n as i64).map(|i| self.v(M::Vmovups, width, &[Opd::Mem(w.mem.plus(i * step))])).collect()
            }
        }
    }

    /// One or two bytes into a general register, zeros above.
    fn narrow_load(&mut self, d: regalloc2::VReg, mem: Mem, bytes: u32) -> usize {
        let code = if bytes == 1 { iced_x86::Code::Movzx_r32_rm8 } else { iced_x86::Code::Movzx_r32_rm16 };
        let mut inst = super::func::MInst::new(super::func::Action::Code(code));
        inst.opds.extend_from_slice(&[Opd::Def(d, Kind::R32), Opd::Mem(mem)]);
        self.f.push(inst);
        self.f.insts.len() - 1
    }

    pub(super) fn prefetch(&mut self, pointer: Value, bytes: i64) {
        let mem = self.address(pointer, bytes);
        self.scalar_inst(M::Prefetcht0, &[Opd::Mem(mem)]);
    }

    pub(super) fn store(&mut self, value: Value, pointer: Value, bytes: i64) {
        let ty = self.ty(value);
        let regs = self.regs(value);
        let mem = self.address(pointer, bytes);
        let to = Opd::Mem(mem);
        if ty.lanes == 1 && !in_vector(ty.scalar) {
            let kind = match ty.scalar.bytes() {
                1 => Kind::R8,
                2 => Kind::R16,
                4 => Kind::R32,
                _ => Kind::R64,
            };
            self.scalar_inst(M::Mov, &[to, Opd::Use(regs[0], kind)]);
            return;
        }
        let x = Opd::Use(regs[0], Kind::Xmm);
        match ty.bytes() {
            2 => {
                self.vector_inst(M::Vpextrw, &[to, x, Opd::Control(0)]);
            }
            4 => {
                self.vector_inst(M::Vmovss, &[to, x]);
            }
            8 => {
                self.vector_inst(M::Vmovq, &[to, x]);
            }
            _ => {
                let (width, _) = shape(ty, lane_bits(ty.scalar), self.caps.width);
                for (i, r) in (0..).zip(regs) {
                    let at = Opd::Mem(mem.plus(i * i64::from(width / 8)));
                    self.vector_inst(M::Vmovups, &[at, Opd::Use(r, Kind::vector(width))]);
                }
            }
        }
    }
}
