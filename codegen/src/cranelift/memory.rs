//! Loads, stores and private memory. No access goes beyond the bytes of its type: memory may end there.

use cranelift_codegen::ir::{self, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, types};
use tilewright_ir::kernel::{Type, Value};

use super::lower::{Lower, Pieces, lane_type, vector_type};

/// Any address, and no reports of faults.
const FLAGS: MemFlagsData = MemFlagsData::new().with_notrap();

impl Lower<'_, '_> {
    /// Pointer and displacement, the latter with room for the pieces of a vector.
    fn address(&mut self, pointer: Value, bytes: i64) -> (ir::Value, i32) {
        let p = self.scalar(pointer);
        match i32::try_from(bytes) {
            Ok(small) if small < i32::MAX / 2 => (p, small),
            _ => {
                let by = self.b.ins().iconst(types::I64, bytes);
                (self.b.ins().iadd(p, by), 0)
            }
        }
    }

    pub(super) fn load(&mut self, pointer: Value, bytes: i64, ty: Type) -> Pieces {
        let (p, at) = self.address(pointer, bytes);
        if ty.lanes == 1 {
            return vec![self.b.ins().load(lane_type(ty.scalar), FLAGS, p, at)];
        }
        let vector = vector_type(ty.scalar);
        // A part of a vector comes as a scalar.
        let part = match ty.bytes() {
            2 => {
                let v = self.b.ins().uload16(types::I32, FLAGS, p, at);
                Some(self.b.ins().scalar_to_vector(types::I32X4, v))
            }
            4 => {
                let v = self.b.ins().load(types::I32, FLAGS, p, at);
                Some(self.b.ins().scalar_to_vector(types::I32X4, v))
            }
            8 => {
                let v = self.b.ins().load(types::I64, FLAGS, p, at);
                Some(self.b.ins().scalar_to_vector(types::I64X2, v))
            }
            _ => None,
        };
        match part {
            Some(v) => vec![self.cast(v, vector)],
            None => {
                let pieces = ty.bytes() as i32 / 16;
                (0..pieces).map(|i| self.b.ins().load(vector, FLAGS, p, at + 16 * i)).collect()
            }
        }
    }

    /// A scalar load for a splat: a 32-bit integer comes as a float, which spares the way through a general register.
    pub(super) fn load_to_splat(&mut self, pointer: Value, bytes: i64, ty: Type) -> ir::Value {
        let (p, at) = self.address(pointer, bytes);
        let lane = match lane_type(ty.scalar) {
            types::I32 => types::F32,
            types::I64 => types::F64,
            lane => lane,
        };
        self.b.ins().load(lane, FLAGS, p, at)
    }

    pub(super) fn store(&mut self, value: Value, pointer: Value, bytes: i64) {
        let ty = self.ty(value);
        let (p, at) = self.address(pointer, bytes);
        let pieces = self.get(value);
        let part = match ty.bytes() {
            _ if ty.lanes == 1 => None,
            2 => Some(types::I16X8),
            // A float's lane 0 is stored from its vector register.
            4 => Some(types::F32X4),
            8 => Some(types::F64X2),
            _ => None,
        };
        if let Some(vector) = part {
            let v = self.cast(pieces[0], vector);
            let v = self.b.ins().extractlane(v, 0);
            self.b.ins().store(FLAGS, v, p, at);
            return;
        }
        for (i, v) in (0..).zip(pieces) {
            self.b.ins().store(FLAGS, v, p, at + 16 * i);
        }
    }

    /// Address of private memory, aligned by hand: the stack is aligned to 16 bytes only.
    pub(super) fn local(&mut self, bytes: i64) -> ir::Value {
        let size = u32::try_from(bytes.saturating_add(48)).unwrap_or(u32::MAX);
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4));
        let address = self.b.ins().stack_addr(types::I64, slot, 0);
        let up = self.b.ins().iadd_imm_s(address, 63);
        self.b.ins().band_imm_s(up, -64)
    }
}
