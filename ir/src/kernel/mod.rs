//! Kernel IR: the level at which code is generated.
//!
//! A [`Kernel`] is SSA with structured control flow (`for`, `if`) over scalars, short vectors and byte-addressed
//! pointers. A vector may have any power-of-two number of lanes; a back end whose registers are narrower splits it, one
//! whose registers are wider uses a part, so a schedule is written once for all widths.
//!
//! ```
//! use tilewright_ir::kernel::{KernelBuilder, Type};
//! // y[i] = 2 * x[i] for the 4 floats of this chunk
//! let mut b = KernelBuilder::new("twice");
//! let x = b.ptr_param("x");
//! let y = b.ptr_param("y");
//! let chunk = b.chunk_id();
//! let off = b.mul_imm(chunk, 16);
//! let (xp, yp) = (b.offset(x, off), b.offset(y, off));
//! let v = b.load(Type::F32.x(4), xp, 0);
//! let d = b.add(v, v);
//! b.store(d, yp, 0);
//! let kernel = b.finish();
//! assert_eq!(kernel.params.len(), 2);
//! ```
//!
//! On a CPU one thread computes a chunk. On a GPU a *block* of threads does, [`Kernel::threads`] of them, in warps of
//! [`WARP`] lanes: all run the same body, each with its own values and its own [`Opcode::ThreadId`]. They exchange data by
//! shared memory, `barrier`, and the ops of a whole warp (`shuffle_xor`, `mma`, `load_matrix`).

mod builder;
pub mod interp;
mod math;
mod op;
mod parse;
mod print;
mod types;
mod verify;

pub use builder::KernelBuilder;
pub use op::{
    Class, HALF_OPS, Imm, OP_TABLE, OpInfo, Opcode, Operands, Pred, ResultRule, THREAD_OPS, TILE_ROW_BYTES, TILE_ROWS,
    TILES, WARP_GROUP, WGMMA_ALIGN, WGMMA_COLUMN,
};
pub use parse::{parse, parse_all};
pub use print::{inst_line, print};
pub use types::{Scalar, Type};
pub use verify::{MAX_DEPTH, MAX_LANES, MAX_LOCAL, MAX_SHARED, MAX_THREADS, VerifyError, VerifyErrors, verify};

/// An SSA value: an index into [`Kernel::types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

/// A kernel parameter. Pointers and `i64` scalars are passed in two arrays, each in the order of declaration:
/// `extern "sysv64" fn(pointers: *const *mut u8, scalars: *const i64, chunk: i64)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name in the text form.
    pub name: String,
    /// The SSA value that holds it; its type is [`Type::PTR`] or [`Type::I64`].
    pub value: Value,
}

/// One instruction. `results` and nested `blocks` are empty for most.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    /// What it does.
    pub op: Opcode,
    /// Operands, as the op's row of [`OP_TABLE`] says.
    pub args: Vec<Value>,
    /// Immediate operand.
    pub imm: Imm,
    /// Values it defines.
    pub results: Vec<Value>,
    /// Bodies of `for` (one) and `if` (two).
    pub blocks: Vec<Block>,
}

/// A straight line of instructions. `params` are the loop variable and the carried values of a `for` body; `yields`
/// leave the block: next carried values of a `for`, results of an `if` arm, nothing at the top.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Values defined by entering the block.
    pub params: Vec<Value>,
    /// Instructions in program order.
    pub insts: Vec<Inst>,
    /// Values that leave the block.
    pub yields: Vec<Value>,
}

/// Threads of a warp.
pub const WARP: u32 = 32;

/// A function that computes one chunk of one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Symbol name: letters, digits and `_`.
    pub name: String,
    /// Parameters in declaration order.
    pub params: Vec<Param>,
    /// Threads that compute a chunk together: 0 on a CPU, where one does; on a GPU a multiple of [`WARP`].
    pub threads: u32,
    /// Blocks that a multiprocessor should hold at once, which bounds the registers of a thread; 0 leaves it open.
    pub resident: u32,
    /// Type of each value.
    pub types: Vec<Type>,
    /// The body.
    pub body: Block,
}

impl Kernel {
    /// Type of `v`.
    pub fn ty(&self, v: Value) -> Type {
        self.types[v.0 as usize]
    }
}
