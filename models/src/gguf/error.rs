//! Why a GGUF file is refused.

/// A refused GGUF file.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct GgufError {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub problem: GgufProblem,
}

/// What is wrong with a GGUF file. Except where a variant says otherwise the file is damaged, incomplete or hostile.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum GgufProblem {
    #[error("this is not a GGUF file: it begins with {magic:02x?} and not \"GGUF\"; give a .gguf model")]
    Magic { magic: Vec<u8> },
    #[error("the file is big-endian, which is not supported; convert it with `gguf-convert-endian`")]
    BigEndian,
    /// Too old, or newer than this reader.
    #[error("GGUF version {version} is not supported, only 2 and 3; convert the model again with a current tool")]
    Version { version: u32 },
    #[error(
        "the file ends inside {what} at offset {offset}: {needed} bytes are needed and {left} are left; download it again"
    )]
    Truncated { what: String, offset: u64, needed: u64, left: u64 },
    #[error(
        "the header claims {count} {what}, more than the {left} bytes behind it could hold (limit {limit}); the file is damaged"
    )]
    Count { what: &'static str, count: u64, left: u64, limit: u64 },
    #[error("{what} at offset {offset} is not UTF-8; the file is damaged")]
    Utf8 { what: String, offset: u64 },
    #[error("{what} at offset {offset} has {len} bytes; 1 to {limit} are allowed")]
    NameLength { what: &'static str, offset: u64, len: u64, limit: u64 },
    #[error(
        "metadata key `{key}` at offset {offset} has the unknown value type {ty}; types are 0 to 12. A newer format, or damage"
    )]
    ValueType { key: String, offset: u64, ty: u32 },
    #[error(
        "metadata key `{key}` at offset {offset} holds the byte {value} as a truth value; only 0 and 1 are allowed"
    )]
    Bool { key: String, offset: u64, value: u8 },
    #[error("metadata key `{key}` at offset {offset} nests arrays deeper than {limit}; no known model needs that")]
    Depth { key: String, offset: u64, limit: u32 },
    #[error(
        "metadata at offset {offset} would need more than {limit} bytes of memory, four times the file; the file is hostile"
    )]
    Memory { offset: u64, limit: u64 },
    #[error("metadata key `{key}` occurs twice, again at offset {offset}; remove one")]
    DuplicateKey { key: String, offset: u64 },
    #[error("`general.alignment` is {value}; it must be a u32, a power of two and at most 65536")]
    Alignment { value: String },
    #[error("tensor `{tensor}` occurs twice; remove one")]
    DuplicateTensor { tensor: String },
    #[error("tensor `{tensor}` at offset {offset} has {n} dimensions; 1 to 4 are allowed")]
    Dimensions { tensor: String, offset: u64, n: u32 },
    #[error("tensor `{tensor}`: dimension {axis} is 0; every dimension is at least 1")]
    EmptyDimension { tensor: String, axis: usize },
    #[error("tensor `{tensor}` of shape {dims:?}: the number of elements or bytes overflows; the file is damaged")]
    Overflow { tensor: String, dims: Vec<u64> },
    /// Possibly a newer format.
    #[error(
        "tensor `{tensor}` has the unknown type {ty}; known are 0 to 41 without the withdrawn 4, 5, 31-33, 36-38. Requantise the model, for example to Q4_K or Q8_0"
    )]
    TensorType { tensor: String, ty: u32 },
    #[error("tensor `{tensor}`: rows of {row} elements are not whole blocks of {block}, as {ty} needs")]
    Row { tensor: String, row: u64, ty: &'static str, block: u64 },
    #[error("tensor `{tensor}`: its data at {offset} is not aligned to {alignment}")]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    #[error(
        "tensor `{tensor}`: its data, {bytes} bytes at {offset} of the data section, ends beyond the {available} bytes there; download the file again"
    )]
    OutOfFile { tensor: String, offset: u64, bytes: u64, available: u64 },
    #[error("tensors `{a}` and `{b}` overlap in the file")]
    Overlap { a: String, b: String },
    #[error("split file: {what}; put all parts into one folder under their original names (…-00001-of-000NN.gguf)")]
    Split { what: String },
}
