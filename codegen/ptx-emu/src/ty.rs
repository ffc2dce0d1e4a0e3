//! PTX types: what the last words of an instruction's name say about its operands.

/// A type of PTX. Untyped bits (`.b32`) are kept apart from integers, as some instructions take only one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    F32,
    F64,
    TF32,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
}

const NAMES: &[(&str, Ty)] = &[
    ("pred", Ty::Pred),
    ("b8", Ty::B8),
    ("b16", Ty::B16),
    ("b32", Ty::B32),
    ("b64", Ty::B64),
    ("u8", Ty::U8),
    ("u16", Ty::U16),
    ("u32", Ty::U32),
    ("u64", Ty::U64),
    ("s8", Ty::S8),
    ("s16", Ty::S16),
    ("s32", Ty::S32),
    ("s64", Ty::S64),
    ("f16", Ty::F16),
    ("f16x2", Ty::F16x2),
    ("bf16", Ty::BF16),
    ("bf16x2", Ty::BF16x2),
    ("f32", Ty::F32),
    ("f64", Ty::F64),
    ("tf32", Ty::TF32),
    ("e4m3", Ty::E4M3),
    ("e5m2", Ty::E5M2),
    ("e4m3x2", Ty::E4M3x2),
    ("e5m2x2", Ty::E5M2x2),
];

impl Ty {
    /// The type of that name, without its dot.
    pub(crate) fn named(name: &str) -> Option<Ty> {
        NAMES.iter().find(|(n, _)| *n == name).map(|&(_, t)| t)
    }

    /// Its name, without a dot.
    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, t)| *t == self).map_or("?", |&(n, _)| n)
    }

    /// Bytes of a value.
    pub(crate) fn size(self) -> usize {
        use Ty::*;
        match self {
            Pred | B8 | U8 | S8 | E4M3 | E5M2 => 1,
            B16 | U16 | S16 | F16 | BF16 | E4M3x2 | E5M2x2 => 2,
            B32 | U32 | S32 | F16x2 | BF16x2 | F32 | TF32 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    /// Bits of a value.
    pub(crate) fn bits(self) -> u32 {
        self.size() as u32 * 8
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// Integers and untyped bits.
    pub(crate) fn integer(self) -> bool {
        use Ty::*;
        matches!(self, B8 | B16 | B32 | B64 | U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
    }

    pub(crate) fn float(self) -> bool {
        !self.integer() && self != Ty::Pred
    }

    /// For packed pairs, the type of one of the two.
    pub(crate) fn half(self) -> Option<Ty> {
        Some(match self {
            Ty::F16x2 => Ty::F16,
            Ty::BF16x2 => Ty::BF16,
            Ty::E4M3x2 => Ty::E4M3,
            Ty::E5M2x2 => Ty::E5M2,
            _ => return None,
        })
    }

    /// Keeps the bits that a value of the type has.
    pub(crate) fn mask(self, v: u64) -> u64 {
        match self {
            Ty::Pred => v & 1,
            _ if self.bits() >= 64 => v,
            _ => v & ((1 << self.bits()) - 1),
        }
    }

    /// The value of an integer type, extended by its sign.
    pub(crate) fn extend(self, v: u64) -> i128 {
        let v = self.mask(v);
        match (self.signed(), self.bits()) {
            (true, n) => (((v << (64 - n)) as i64) >> (64 - n)) as i128,
            (false, _) => v as i128,
        }
    }
}
