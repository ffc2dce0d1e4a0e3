//! The instruction set of kernel IR: one table, from which printer, parser, verifier and back ends read.

use super::Scalar;
use std::fmt;

/// Immediate operand of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Imm {
    /// None.
    None,
    /// Integer constant, byte offset, lane, size.
    Int(i64),
    /// Float constant.
    Float(f64),
    /// Comparison predicate.
    Pred(Pred),
    /// Tiles: the accumulator, the left and the right factor.
    Tiles([u8; 3]),
}

/// Comparison predicates. On floats the signed ones are ordered comparisons (false on NaN), `Ne` is true on NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pred {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less, signed.
    Slt,
    /// Less or equal, signed.
    Sle,
    /// Greater, signed.
    Sgt,
    /// Greater or equal, signed.
    Sge,
    /// Less, unsigned (integers only).
    Ult,
    /// Greater or equal, unsigned (integers only).
    Uge,
}

impl Pred {
    /// All predicates with their text names.
    pub const TABLE: [(Pred, &'static str); 8] = [
        (Pred::Eq, "eq"),
        (Pred::Ne, "ne"),
        (Pred::Slt, "slt"),
        (Pred::Sle, "sle"),
        (Pred::Sgt, "sgt"),
        (Pred::Sge, "sge"),
        (Pred::Ult, "ult"),
        (Pred::Uge, "uge"),
    ];
}

impl fmt::Display for Pred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Pred::TABLE[*self as usize].1)
    }
}

/// Number of tiles.
pub const TILES: i64 = 8;
/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Bytes of a row of a tile: 16 `f32`, or 32 `bf16`.
pub const TILE_ROW_BYTES: usize = 64;

/// What an op takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// Nothing.
    None,
    /// One value of the class.
    Unary(Class),
    /// Two values of one type of the class.
    Binary(Class),
    /// Three values of one type of the class.
    Ternary(Class),
    /// A value of the class and a scalar `i32` shift count, the same for all lanes; at least 0, below the lane's width.
    Shift,
    /// `i1` (scalar, or one per lane) and two values of one type.
    Select,
    /// Accumulator `i32xN`, unsigned `i8x4N`, signed `i8x4N`.
    Dot4,
    /// Accumulator `f32xN`, `bf16x2N` twice.
    Dot2,
    /// Pointer, `i64` bytes from row to row of a tile.
    Tile,
    /// Table `i8x16`, indices `i8xN` (values 0..=15).
    Swizzle,
    /// Pointer, global or shared.
    Ptr,
    /// Value, pointer, global or shared.
    Store,
    /// Pointer, global or shared, `i64` bytes.
    PtrInt,
    /// Pointer to shared memory, pointer.
    Copy,
    /// Pointer to shared memory.
    Shared,
    /// Pointer, `i32`.
    Atomic,
    /// Accumulator `f32x4`, the 16-bit floats `x8` and `x4`.
    Mma(Scalar),
    /// Accumulator `f32xL`, `f16x8`, pointer to shared memory.
    Wgmma,
    /// Vector, then a scalar of its element.
    Insert,
    /// `i64` lower bound, `i64` upper bound, initial carried values; one body block.
    For,
    /// `i1` condition; two blocks.
    If,
}

/// Class of element types an op accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `i8` to `i64`.
    Int,
    /// `f32`, `f64`.
    Float,
    /// Int, or `f32`/`f64`.
    Number,
    /// Int or `i1`.
    Bits,
    /// Anything but `ptr`.
    Any,
}

/// Type of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultRule {
    /// No result.
    None,
    /// The type of the first operand.
    Same,
    /// The type of the second operand (select).
    Second,
    /// `i1` with the lanes of the operands.
    Bool,
    /// The element type of the operand, one lane.
    Element,
    /// Stated in the text after `:`; the verifier checks it against the op.
    Stated,
    /// `ptr`.
    Ptr,
    /// `shared`.
    Shared,
    /// `i32`.
    I32,
    /// `i64`.
    I64,
    /// As many as the body yields.
    Yields,
}

/// One row of [`OP_TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct OpInfo {
    /// Opcode.
    pub op: Opcode,
    /// Name in the text form.
    pub name: &'static str,
    /// Operands.
    pub operands: Operands,
    /// Result.
    pub result: ResultRule,
    /// Immediate it needs: `none`, `int`, `const`, `pred`, `tiles`.
    pub imm: &'static str,
    /// Meaning.
    pub doc: &'static str,
}

macro_rules! ops {
    ($($op:ident $name:literal, $operands:expr, $result:ident, $imm:literal, $doc:literal;)*) => {
        /// Operation codes; [`OP_TABLE`] says what each takes and gives.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Opcode { $(#[doc = concat!("```text\n", $doc, "\n```")] $op,)* }

        /// The instruction set, one row an op, in the order of [`Opcode`].
        pub const OP_TABLE: &[OpInfo] = &[$(OpInfo {
            op: Opcode::$op, name: $name, operands: $operands, result: ResultRule::$result, imm: $imm, doc: $doc,
        },)*];
    };
}

use Class::*;
use Operands as O;
ops! {
    Const   "const",    O::None,           Stated,  "const", "Constant; a vector has it in every lane.";
    Add     "add",      O::Binary(Number), Same,    "none",  "Sum; integers wrap.";
    Sub     "sub",      O::Binary(Number), Same,    "none",  "Difference; integers wrap.";
    Mul     "mul",      O::Binary(Number), Same,    "none",  "Product; integers wrap.";
    Div     "div",      O::Binary(Float),  Same,    "none",  "Float quotient.";
    Fma     "fma",      O::Ternary(Float), Same,    "none",  "a * b + c, rounded once.";
    Neg     "neg",      O::Unary(Number),  Same,    "none",  "Negation.";
    Abs     "abs",      O::Unary(Float),   Same,    "none",  "Absolute value.";
    Sqrt    "sqrt",     O::Unary(Float),   Same,    "none",  "Square root.";
    Floor   "floor",    O::Unary(Float),   Same,    "none",  "Largest integer not above.";
    Nearest "nearest",  O::Unary(Float),   Same,    "none",  "Nearest integer, ties to even.";
    Fmin    "fmin",     O::Binary(Float),  Same,    "none",  "a < b ? a : b (b if either is NaN).";
    Fmax    "fmax",     O::Binary(Float),  Same,    "none",  "a > b ? a : b (b if either is NaN).";
    Smin    "smin",     O::Binary(Int),    Same,    "none",  "Smaller, signed.";
    Smax    "smax",     O::Binary(Int),    Same,    "none",  "Larger, signed.";
    And     "and",      O::Binary(Bits),   Same,    "none",  "Bitwise and.";
    Or      "or",       O::Binary(Bits),   Same,    "none",  "Bitwise or.";
    Xor     "xor",      O::Binary(Bits),   Same,    "none",  "Bitwise exclusive or.";
    Shl     "shl",      O::Shift,          Same,    "none",  "Shift left.";
    ShrU    "shr_u",    O::Shift,          Same,    "none",  "Shift right, zeros come in.";
    ShrS    "shr_s",    O::Shift,          Same,    "none",  "Shift right, copies of the sign come in.";
    DivS    "div_s",    O::Binary(Int),    Same,    "none",  "Quotient towards zero, scalars only; dividing by 0, or the least integer by -1, is an error.";
    RemS    "rem_s",    O::Binary(Int),    Same,    "none",  "Remainder with the sign of the dividend, scalars only.";
    Cmp     "cmp",      O::Binary(Number), Bool,    "pred",  "Comparison.";
    Select  "select",   O::Select,         Second,  "none",  "Second where the condition holds, third elsewhere.";
    Sext    "sext",     O::Unary(Int),     Stated,  "none",  "Widen integer lanes, sign kept.";
    Zext    "zext",     O::Unary(Bits),    Stated,  "none",  "Widen integer lanes with zeros; i1 gives 0 or 1.";
    Trunc   "trunc",    O::Unary(Int),     Stated,  "none",  "Keep the low bits of integer lanes.";
    IntToF  "int_to_f", O::Unary(Int),     Stated,  "none",  "Signed i32 to f32 or f64 (nearest), i64 scalar to f32 or f64.";
    FToInt  "f_to_int", O::Unary(Float),   Stated,  "none",  "f32 to i32 towards zero; out of range saturates, NaN gives 0.";
    Fext    "fext",     O::Unary(Any),     Stated,  "none",  "Widen a float: f16, bf16 to f32; f32 to f64. Exact, Inf and NaN included.";
    Fround  "fround",   O::Unary(Any),     Stated,  "none",  "Narrow a float to nearest even: f32 to f16 or bf16, f64 to f32.";
    Bitcast "bitcast",  O::Unary(Any),     Stated,  "none",  "Same bits, another type of the same size.";
    Splat   "splat",    O::Unary(Any),     Stated,  "none",  "Scalar to every lane.";
    Extract "extract",  O::Unary(Any),     Element, "int",   "One lane.";
    Insert  "insert",   O::Insert,         Same,    "int",   "Replace one lane.";
    Low     "low",      O::Unary(Any),     Stated,  "none",  "The lower half of the lanes.";
    High    "high",     O::Unary(Any),     Stated,  "none",  "The upper half of the lanes.";
    Swizzle "swizzle",  O::Swizzle,        Second,  "none",  "Lane i = table[index i].";
    Sum     "sum",      O::Unary(Number),  Element, "none",  "Sum of the lanes: halves are added until one is left.";
    MaxLane "max_lane", O::Unary(Float),   Element, "none",  "Largest lane, by fmax of halves as in sum; a NaN may be lost.";
    Dot4    "dot4_us",  O::Dot4,           Same,    "none",  "acc[i] + sum over 4 bytes of unsigned * signed; i32, no saturation.";
    Dot4U7  "dot4_u7s", O::Dot4,           Same,    "none",  "dot4_us whose unsigned bytes are below 128: two products fit 16 bits.";
    Dot2    "dot2_bf16", O::Dot2,          Same,    "none",  "acc[i] + a[2i+1] * b[2i+1], then + a[2i] * b[2i]: two fused steps, each to nearest even; denormals, read or made, are zeros.";
    TileZero "tile_zero", O::None,         None,    "int",   "Tile of that number, 16 rows of 64 bytes, becomes zeros.";
    TileLoad "tile_load", O::Tile,         None,    "int",   "Read a tile, row by row.";
    TileStore "tile_store", O::Tile,       None,    "int",   "Write a tile, row by row.";
    TileDot "tile_dot_bf16", O::None,      None,    "tiles", "c[m][n] += sum over k of a[m][2k] * b[k][2n], plus sum over k of a[m][2k+1] * b[k][2n+1]: c f32, a and b bf16; k rises from 0, each sum by fused steps from zero, then both are added, then c; rounding as in dot2_bf16.";
    Swap    "swap_lanes", O::Unary(Number), Same,   "int",   "Lane i takes lane i ^ immediate, a power of two; lanes of 32 or 64 bits.";
    Prefetch "prefetch", O::Ptr,           None,    "int",   "Hint that the line at pointer + immediate bytes is read soon; reads nothing.";
    Load    "load",     O::Ptr,            Stated,  "int",   "Read at pointer + immediate bytes. In kernels of thread blocks the address is a multiple of the size, or of 16 if that is less; elsewhere it may be any.";
    Store   "store",    O::Store,          None,    "int",   "Write at pointer + immediate bytes, aligned as for load.";
    Offset  "offset",   O::PtrInt,         Same,    "none",  "Pointer plus bytes.";
    Local   "local",    O::None,           Ptr,     "int",   "64-byte aligned private memory of that many bytes; top level only.";
    ChunkId "chunk_id", O::None,           I64,     "none",  "Which chunk of the operation this call computes.";
    ThreadId "thread_id", O::None,         I64,     "none",  "Which thread of the block this is; warp and lane follow from it.";
    Shared  "shared",   O::None,           Shared,  "int",   "128-byte aligned memory of that many bytes, one for all threads of a block; top level only.";
    Barrier "barrier",  O::None,           None,    "none",  "Every thread of the block arrives before one goes on, and sees what all wrote.";
    Shuffle "shuffle_xor", O::Unary(Number), Same,  "int",   "The value of the lane whose number is this one's ^ immediate, in the same warp; 32-bit elements.";
    LoadStream "load_stream", O::Ptr,      Stated,  "int",   "load of memory that nobody writes while the kernel runs, and that is read once: caches need not keep it.";
    Exp2    "exp2_approx", O::Unary(Float), Same,   "none",  "2 to that power, f32, by the machine's approximation: relative error up to 2^-22, denormals are zeros.";
    CopyAsync "copy_async", O::Copy,       None,    "int",   "Begin to copy 4, 8 or 16 bytes to shared memory; both aligned to the size.";
    CopyCommit "copy_commit", O::None,     None,    "none",  "This thread's copies begun since the last commit become a group.";
    CopyWait "copy_wait", O::None,         None,    "int",   "Wait until at most that many of this thread's newest groups are under way.";
    LoadMatrix "load_matrix", O::Shared,   Stated,  "int",   "Matrices of 8 rows of 16 bytes from shared memory, 2 elements of each for a lane, in order: f16 or bf16, x2 to x8 for 1 to 4 matrices. Lane l gives the address of row l % 8 of matrix l / 8, and gets elements 2(l % 4) and the next of row l / 4; with immediate 1 of column l / 4, transposed.";
    MmaF16  "mma_f16",  O::Mma(Scalar::F16), Same,  "none",  "Warp-wide c + a * b, 16x16 by 16x8, summed in f32 in any order. g = lane / 4, t = lane % 4: c[i] is row g + 8(i/2), column 2t + i%2; a[i] row g + 8(i/2%2), column 2t + i%2 + 8(i/4); b[i] row 2t + i%2 + 8(i/2), column g.";
    MmaBf16 "mma_bf16", O::Mma(Scalar::BF16), Same, "none",  "mma_f16 of bf16.";
    WgmmaF16 "wgmma_f16", O::Wgmma,        Same,    "int",   "c + a * b by four warps at once, 64x16 by 16xN, c f32xL with N = 2L, summed in f32 in any order. Warp w of them has rows 16w to 16w + 15 as mma_f16 has, c[4j + i] being its c[i] of columns 8j to 8j + 7. b lies in shared memory, at the same place for all threads and a multiple of 1024: for each column 128 bytes, 64 elements of which the immediate, 0 to 3, takes 16; their piece p of 16 bytes is at (p ^ column % 8) * 16.";
    AtomicAdd "atomic_add", O::Atomic,     I32,     "none",  "Add to an i32 in global memory at once; gives what was there before.";
    Fence   "fence",    O::None,           None,    "none",  "Others on the device see this thread's writes before it before those after it.";
    WaitPrior "wait_prior", O::None,       None,    "none",  "Wait until the kernel before this one has ended and its writes are seen; before this only weights may be read.";
    LaunchNext "launch_next", O::None,     None,    "none",  "The kernel after this one may be launched as far as this thread is concerned.";
    For     "for",      O::For,            Yields,  "int",   "Counted loop; the immediate is the step (> 0).";
    If      "if",       O::If,             Yields,  "none",  "Two-way branch.";
}

/// Ops that only kernels of thread blocks have.
pub const THREAD_OPS: &[Opcode] = &[
    Opcode::ThreadId,
    Opcode::Shared,
    Opcode::Barrier,
    Opcode::Shuffle,
    Opcode::LoadStream,
    Opcode::Exp2,
    Opcode::CopyAsync,
    Opcode::CopyCommit,
    Opcode::CopyWait,
    Opcode::LoadMatrix,
    Opcode::MmaF16,
    Opcode::MmaBf16,
    Opcode::WgmmaF16,
    Opcode::AtomicAdd,
    Opcode::Fence,
    Opcode::WaitPrior,
    Opcode::LaunchNext,
];

/// Threads that do a `wgmma_f16` together.
pub const WARP_GROUP: u32 = 128;
/// Bytes of a column of its right factor.
pub const WGMMA_COLUMN: usize = 128;
/// What the address of the right factor is a multiple of.
pub const WGMMA_ALIGN: usize = 1024;

/// Arithmetic that kernels of thread blocks also have on `f16` and `bf16`, each result rounded once.
pub const HALF_OPS: &[Opcode] = &[Opcode::Add, Opcode::Sub, Opcode::Mul, Opcode::Fma];

impl Opcode {
    /// This op's row of [`OP_TABLE`].
    pub fn info(self) -> &'static OpInfo {
        &OP_TABLE[self as usize]
    }
}
