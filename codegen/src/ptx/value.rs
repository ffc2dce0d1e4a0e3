//! How values lie in registers.

use smallvec::SmallVec;
use tilewright_ir::kernel::{Scalar, Type};

use super::func::{Class, Opnd, Reg};
use super::int::Int;

/// Registers and constants of a value, first lanes first.
pub(super) type Words = SmallVec<[Opnd; 8]>;

/// A value of the kernel.
#[derive(Clone, Debug)]
pub(super) enum Val {
    /// Anything but the following.
    Words(Words),
    /// A scalar `i64`.
    Int(Int),
    /// A pointer: a register and bytes behind it.
    Ptr(Reg, i64),
    /// A pointer to shared memory: bytes behind a register, or behind its beginning.
    Shared(Option<Reg>, i64),
}

/// Registers of an element. Lanes below 32 bits share one, the lowest lane in the lowest bits; if there are too few to fill
/// it, the rest of its bits may be anything.
pub(super) fn class(s: Scalar) -> Class {
    match s {
        Scalar::I1 => Class::Pred,
        Scalar::I64 | Scalar::F64 | Scalar::Ptr => Class::Double,
        _ => Class::Word,
    }
}

/// Bits of a lane where lanes share registers.
pub(super) fn packed(s: Scalar) -> Option<u32> {
    match s {
        Scalar::I8 => Some(8),
        Scalar::I16 | Scalar::F16 | Scalar::BF16 => Some(16),
        _ => None,
    }
}

/// Number of registers.
pub(super) fn count(ty: Type) -> usize {
    let lanes = usize::from(ty.lanes);
    packed(ty.scalar).map_or(lanes, |bits| lanes.div_ceil(32 / bits as usize))
}

/// The lane's bits in each lane of a register.
pub(super) fn replicate(bits: u32, v: u64) -> u64 {
    match bits {
        8 => (v & 0xff) * 0x0101_0101,
        16 => (v & 0xffff) * 0x0001_0001,
        _ => v,
    }
}
