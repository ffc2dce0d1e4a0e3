//! What instructions mean. [`table`] has a line for each; [`decode`] reads modifiers and operands for it; the rest is what
//! the arithmetic ones do to a lane.

pub(crate) mod convert;
mod decode;
mod float;
mod int;
mod memory;
mod scalar;
mod table;
mod warp;

use crate::num::Round;
pub(crate) use crate::parse::inst::{RegId, Space, Special};
use crate::ty::Ty;
pub(crate) use decode::{constant_bits, decode_all};

/// Where windows of generic addresses begin. Global allocations lie below all of them.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 56;
pub(crate) const CONST_WINDOW: u64 = 3 << 56;
pub(crate) const PARAM_WINDOW: u64 = 4 << 56;

/// Classes of instructions, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Class {
    Integer,
    Float,
    Convert,
    Move,
    Compare,
    Control,
    Load,
    Store,
    Atomic,
    AsyncCopy,
    Synchronise,
    Warp,
    Matrix,
}

/// Which half of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Low,
    High,
    Wide,
}

/// What the modifiers of an arithmetic instruction say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub ty: Ty,
    /// Type of the source, for conversions.
    pub from: Ty,
    pub round: Round,
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub finite: bool,
    pub relu: bool,
    pub nan: bool,
    pub half: Half,
    pub cmp: Cmp,
    /// A table, or flags of the one instruction.
    pub imm: u32,
    /// Base of an address space, for `cvta`.
    pub base: u64,
}

/// Comparisons of `setp`; the unordered ones are true for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cmp {
    pub less: bool,
    pub equal: bool,
    pub greater: bool,
    pub unordered: bool,
}

/// What an instruction does to one lane.
pub(crate) type LaneFn = fn(&Form, &[u64; 4]) -> u64;

/// A source of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Src {
    Reg(RegId),
    Imm(u64),
    Special(Special),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub base: Src,
    pub offset: i64,
    /// The base is a register of 32 bits: the sum wraps there, too.
    pub short: bool,
}

/// Memory order that an access asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub acquire: bool,
    pub release: bool,
    /// Relaxed, volatile and atomic accesses do not race with each other.
    pub strong: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exch,
    Cas,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarOp {
    Init,
    Inval,
    Arrive,
    /// Arrives and drops the count of later phases.
    ArriveDrop,
    ArriveExpect,
    Expect,
    /// Waits for a phase by its parity; `true` for `try_wait`.
    Parity(bool),
    State(bool),
    Pending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarOp {
    Sync,
    Arrive,
    And,
    Or,
    Popc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accumulator {
    F32,
    F16,
    S32,
}

/// `mma.sync.m16n8k…`: types and registers of a lane.
#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub k: usize,
    pub a_ty: Ty,
    pub b_ty: Ty,
    pub acc: Accumulator,
    pub saturate: bool,
    pub d: Vec<RegId>,
    pub a: Vec<RegId>,
    pub b: Vec<RegId>,
    pub c: Vec<Src>,
}

/// Where `wgmma` has its left matrix.
#[derive(Clone, Debug)]
pub(crate) enum Left {
    Regs(Vec<RegId>),
    /// A descriptor of shared memory.
    Shared(Src),
}

/// `wgmma.mma_async.m64nNk16`: D, of f32, = A · B, plus D where the predicate says so.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub n: usize,
    pub ty: Ty,
    pub d: Vec<RegId>,
    pub a: Left,
    /// Descriptor of the right matrix.
    pub b: Src,
    /// Whether D is added to, and whether the predicate is negated.
    pub add: (Src, bool),
    /// The product is subtracted.
    pub minus: bool,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Lane {
        f: LaneFn,
        form: Form,
        dst: Option<RegId>,
        dst2: Option<RegId>,
        src: [Src; 4],
        sources: u8,
    },
    Pack {
        dst: RegId,
        parts: Vec<Src>,
        bits: u32,
    },
    Unpack {
        dst: Vec<Option<RegId>>,
        src: Src,
        bits: u32,
    },
    Branch {
        target: usize,
        reconverge: usize,
    },
    Exit,
    Trap,
    Nop,
    /// Lets others run.
    Sleep,
    Load {
        space: Space,
        ty: Ty,
        dst: Vec<Option<RegId>>,
        addr: Addr,
        order: Order,
        constant: bool,
    },
    Store {
        space: Space,
        ty: Ty,
        src: Vec<Src>,
        addr: Addr,
        order: Order,
    },
    Atomic {
        space: Space,
        op: AtomOp,
        ty: Ty,
        dst: Option<RegId>,
        addr: Addr,
        b: Src,
        c: Src,
        order: Order,
    },
    CopyAsync {
        dst: Addr,
        src: Addr,
        size: u32,
        taken: Option<Src>,
    },
    Commit {
        bulk: bool,
    },
    WaitGroup {
        bulk: bool,
        left: Option<u32>,
    },
    BulkLoad {
        dst: Addr,
        src: Addr,
        size: Src,
        mbar: Addr,
    },
    BulkStore {
        dst: Addr,
        src: Addr,
        size: Src,
    },
    Mbar {
        op: MbarOp,
        addr: Addr,
        dst: Option<RegId>,
        a: Src,
        count: Src,
    },
    Shuffle {
        mode: ShflMode,
        dst: RegId,
        ok: Option<RegId>,
        a: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    Vote {
        mode: VoteMode,
        dst: RegId,
        pred: Src,
        negate: bool,
        mask: Src,
    },
    Reduce {
        op: AtomOp,
        ty: Ty,
        dst: RegId,
        a: Src,
        mask: Src,
    },
    Match {
        all: bool,
        dst: RegId,
        ok: Option<RegId>,
        a: Src,
        ty: Ty,
        mask: Src,
    },
    ActiveMask {
        dst: RegId,
    },
    Elect {
        dst: Option<RegId>,
        ok: RegId,
        mask: Src,
    },
    WarpBarrier {
        mask: Src,
    },
    LoadMatrix {
        trans: bool,
        dst: Vec<RegId>,
        addr: Addr,
    },
    StoreMatrix {
        trans: bool,
        src: Vec<RegId>,
        addr: Addr,
    },
    Mma(Box<Mma>),
    Barrier {
        op: BarOp,
        id: Src,
        count: Option<Src>,
        dst: Option<RegId>,
        pred: Src,
        negate: bool,
    },
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        left: u32,
    },
    Fence,
    /// Makes writes to shared memory visible to the proxy of asynchronous copies and of `wgmma`.
    ProxyFence,
    GridWait,
    GridLaunch,
}

impl Op {
    /// Is it a part of `wgmma`?
    pub fn needs_wgmma(&self) -> bool {
        matches!(self, Op::Wgmma(_) | Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. })
    }

    /// Does it have the asynchronous proxy read shared memory?
    pub fn reads_by_proxy(&self) -> bool {
        matches!(self, Op::Wgmma(_) | Op::BulkStore { .. })
    }
}

/// An instruction of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub line: u32,
    /// Register and whether it is negated.
    pub guard: Option<(RegId, bool)>,
    pub class: Class,
    pub op: Op,
}

impl Form {
    /// The form of an instruction that says nothing but its type.
    pub fn plain(ty: Ty) -> Form {
        let cmp = Cmp { less: false, equal: false, greater: false, unordered: false };
        Form {
            ty,
            from: ty,
            round: Round::Near,
            integral: false,
            ftz: false,
            sat: false,
            finite: false,
            relu: false,
            nan: false,
            half: Half::Low,
            cmp,
            imm: 0,
            base: 0,
        }
    }
}

/// What an atomic operation, or a reduction over a warp, leaves behind.
pub(crate) fn combine(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let f = Form::plain(ty);
    let float = ty.float();
    let v = [old, b, 0, 0];
    match op {
        AtomOp::Add if float => float::add(&f, &v),
        AtomOp::Min if float => float::min(&f, &v),
        AtomOp::Max if float => float::max(&f, &v),
        AtomOp::Add => int::add(&f, &v),
        AtomOp::Min => int::min(&f, &v),
        AtomOp::Max => int::max(&f, &v),
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}
