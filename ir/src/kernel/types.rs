//! Types of kernel values: scalars, short vectors of them, and pointers.

use std::fmt;

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// Truth value; never in memory.
    I1,
    /// 8-bit integer.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// IEEE half; only loaded, stored and converted, but in kernels of thread blocks.
    F16,
    /// bfloat16; only loaded, stored and converted, but in kernels of thread blocks.
    BF16,
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
    /// Byte address.
    Ptr,
    /// Byte address in the memory that a block of threads shares.
    Shared,
}

impl Scalar {
    /// All scalars with their text names.
    pub const TABLE: [(Scalar, &'static str, u32); 11] = [
        (Scalar::I1, "i1", 1),
        (Scalar::I8, "i8", 1),
        (Scalar::I16, "i16", 2),
        (Scalar::I32, "i32", 4),
        (Scalar::I64, "i64", 8),
        (Scalar::F16, "f16", 2),
        (Scalar::BF16, "bf16", 2),
        (Scalar::F32, "f32", 4),
        (Scalar::F64, "f64", 8),
        (Scalar::Ptr, "ptr", 8),
        (Scalar::Shared, "shared", 4),
    ];

    fn row(self) -> &'static (Scalar, &'static str, u32) {
        &Self::TABLE[self as usize]
    }

    /// Text name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Size in memory in bytes.
    pub fn bytes(self) -> u32 {
        self.row().2
    }

    /// True for the floating-point types, storage-only ones included.
    pub fn is_float(self) -> bool {
        matches!(self, Scalar::F16 | Scalar::BF16 | Scalar::F32 | Scalar::F64)
    }

    /// True for addresses.
    pub fn is_pointer(self) -> bool {
        matches!(self, Scalar::Ptr | Scalar::Shared)
    }

    /// True for the floats of 16 bits.
    pub fn is_half(self) -> bool {
        matches!(self, Scalar::F16 | Scalar::BF16)
    }

    /// True for `i8` to `i64` (not `i1`, not `ptr`).
    pub fn is_int(self) -> bool {
        matches!(self, Scalar::I8 | Scalar::I16 | Scalar::I32 | Scalar::I64)
    }
}

/// A scalar (`lanes == 1`) or a vector of `lanes` scalars, written `f32` and `f32x16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub scalar: Scalar,
    /// Number of lanes, a power of two up to 256.
    pub lanes: u16,
}

impl Type {
    /// Truth value.
    pub const I1: Type = Type::new(Scalar::I1);
    /// 8-bit integer.
    pub const I8: Type = Type::new(Scalar::I8);
    /// 16-bit integer.
    pub const I16: Type = Type::new(Scalar::I16);
    /// 32-bit integer.
    pub const I32: Type = Type::new(Scalar::I32);
    /// 64-bit integer.
    pub const I64: Type = Type::new(Scalar::I64);
    /// IEEE half.
    pub const F16: Type = Type::new(Scalar::F16);
    /// bfloat16.
    pub const BF16: Type = Type::new(Scalar::BF16);
    /// IEEE single.
    pub const F32: Type = Type::new(Scalar::F32);
    /// IEEE double.
    pub const F64: Type = Type::new(Scalar::F64);
    /// Byte address.
    pub const PTR: Type = Type::new(Scalar::Ptr);
    /// Byte address in shared memory.
    pub const SHARED: Type = Type::new(Scalar::Shared);

    const fn new(scalar: Scalar) -> Type {
        Type { scalar, lanes: 1 }
    }

    /// The same element in `lanes` lanes.
    pub const fn x(self, lanes: u16) -> Type {
        Type { scalar: self.scalar, lanes }
    }

    /// The same number of lanes of another element.
    pub const fn with(self, scalar: Scalar) -> Type {
        Type { scalar, lanes: self.lanes }
    }

    /// The type of that text name; any number of lanes, for the verifier to judge.
    pub fn from_name(name: &str) -> Option<Type> {
        let (scalar, lanes) = match name.split_once('x') {
            Some((scalar, lanes)) => (scalar, lanes.parse().ok()?),
            None => (name, 1),
        };
        let row = Scalar::TABLE.iter().find(|row| row.1 == scalar)?;
        Some(Type { scalar: row.0, lanes })
    }

    /// Size in memory in bytes.
    pub fn bytes(self) -> u32 {
        self.scalar.bytes() * u32::from(self.lanes)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scalar.name())?;
        if self.lanes != 1 { write!(f, "x{}", self.lanes) } else { Ok(()) }
    }
}
