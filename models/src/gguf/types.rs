//! The closed table of tensor types.

/// A tensor type of GGUF files; one of a closed table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GgmlType {
    id: u32,
    name: &'static str,
    block: u32,
    bytes: u32,
}

/// id, name, elements of a block, bytes of a block. Ids 4, 5, 31-33 and 36-38 were withdrawn.
const TABLE: &[(u32, &str, u32, u32)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

impl GgmlType {
    /// The type of an id in a file.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        Self::all().find(|t| t.id == id)
    }

    /// Every type known.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TABLE.iter().map(|&(id, name, block, bytes)| GgmlType { id, name, block, bytes })
    }

    /// Id in files.
    pub fn id(self) -> u32 {
        self.id
    }

    /// Name in upper case, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Elements of a block.
    pub fn block(self) -> u64 {
        self.block.into()
    }

    /// Bytes of a block.
    pub fn bytes(self) -> u64 {
        self.bytes.into()
    }

    /// Bytes of rows of `ne0` elements, `elements` in all; None if a row is not whole blocks or the size overflows.
    pub(crate) fn size(self, ne0: u64, elements: u64) -> Option<u64> {
        if !ne0.is_multiple_of(self.block()) {
            return None;
        }
        (elements / self.block()).checked_mul(self.bytes())
    }
}
