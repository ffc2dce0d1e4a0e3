//! Interpreter of kernel IR: the meaning of the op table, written to be read.
//!
//! It checks what a back end leaves to luck: every access stays inside its buffer, `local` memory is written before it
//! is read, shift counts and table indices are in range, nothing is divided by zero. With [`Precision::F64`] it is the
//! oracle against which the rounding of schedules is measured.
//!
//! The threads of a block go through the body together, those that a branch or a loop leaves out waiting (`threads.rs`).
//! So a missing `barrier` or `copy_wait` goes unnoticed here; the emulator of machine code finds those.
//!
//! ```
//! use tilewright_ir::kernel::{KernelBuilder, Type, interp};
//! let mut b = KernelBuilder::new("twice");
//! let (x, y) = (b.ptr_param("x"), b.ptr_param("y"));
//! let v = b.load(Type::F32.x(2), x, 0);
//! let d = b.add(v, v);
//! b.store(d, y, 0);
//! let mut buffers = [[1f32, 2.5].map(f32::to_le_bytes).concat(), vec![0; 8]];
//! interp::run(&b.finish(), &mut buffers, &[], 0).unwrap();
//! assert_eq!(buffers[1], [2f32, 5.0].map(f32::to_le_bytes).concat());
//! ```

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use thiserror::Error;

mod lanes;
mod threads;
mod tiles;

use lanes::{Lanes, integer, mask, signed, width};
use threads::Threads;
use tiles::Tiles;

use super::{Block, Imm, Inst, Kernel, Opcode, Scalar, Type, Value, VerifyErrors, inst_line, verify};

/// How `f32` arithmetic is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the machine does it: each `f32` operation rounds to `f32`.
    #[default]
    F32,
    /// `f32` values are held as `f64`, constants too, and are rounded only where their bits show: at a store, a bitcast
    /// and a narrowing to `f16` or `bf16`.
    F64,
}

/// Where a pointer parameter points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Index of the buffer.
    pub buffer: usize,
    /// Bytes from its start.
    pub offset: usize,
}

/// Why a run stopped.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum InterpError {
    /// The kernel is not valid.
    #[error("{0}")]
    Invalid(#[from] VerifyErrors),
    /// The caller's arguments do not fit the kernel's parameters.
    #[error("{0}")]
    Arguments(String),
    /// An instruction did what it must not.
    #[error("`{inst}`: {fault}")]
    Fault {
        /// The instruction in text form.
        inst: String,
        /// What it did.
        fault: Fault,
    },
}

/// What an instruction did wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Access outside of the buffer.
    #[error("{bytes} bytes at {offset} are outside of {region}, which has {size} bytes")]
    OutOfBounds {
        /// The buffer or local memory.
        region: String,
        /// Where it began.
        offset: i64,
        /// How much it touched.
        bytes: usize,
        /// How much there is.
        size: usize,
    },
    /// Read of local memory never written.
    #[error("byte {offset} of {region} is read before it is written")]
    Uninitialised {
        /// The local memory.
        region: String,
        /// First such byte.
        offset: usize,
    },
    /// Integer division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// The smallest integer divided by -1.
    #[error("division overflows")]
    DivisionOverflow,
    /// Shift by the lane's width or more.
    #[error("shift count {0} is out of range")]
    ShiftCount(i64),
    /// Unsigned byte over 127 in `dot4_u7s`.
    #[error("unsigned byte {0} is over 127")]
    LargeByte(u64),
    /// Swizzle index over 15.
    #[error("table index {0} is out of range")]
    TableIndex(u64),
    /// An op of all threads, or of a warp, in a branch that some of them do not take.
    #[error("only {active} of the {all} threads that it needs are here")]
    Diverged {
        /// Threads that are here.
        active: usize,
        /// Threads it needs.
        all: usize,
    },
    /// Threads that should name the same place do not.
    #[error("threads {} and {} do not have the same address", .threads[0], .threads[1])]
    Apart {
        /// Two of them.
        threads: [u32; 2],
    },
    /// An access that must be aligned.
    #[error("offset {offset} of {region} is not a multiple of {bytes}")]
    Misaligned {
        /// The buffer or memory.
        region: String,
        /// Where it began.
        offset: i64,
        /// What it must be a multiple of.
        bytes: usize,
    },
    /// Pointer far outside of its buffer.
    #[error("pointer {0} bytes from its buffer")]
    PointerRange(i128),
}

/// Runs one chunk, pointer parameter `k` being the start of buffer `k`, in [`Precision::F32`].
pub fn run<B: AsMut<[u8]>>(kernel: &Kernel, buffers: &mut [B], scalars: &[i64], chunk: i64) -> Result<(), InterpError> {
    let pointers: Vec<Pointer> = (0..buffers.len()).map(|buffer| Pointer { buffer, offset: 0 }).collect();
    run_at(kernel, Precision::F32, buffers, &pointers, scalars, chunk)
}

/// Runs one chunk; pointer parameters may share a buffer.
pub fn run_at<B: AsMut<[u8]>>(
    kernel: &Kernel,
    precision: Precision,
    buffers: &mut [B],
    pointers: &[Pointer],
    scalars: &[i64],
    chunk: i64,
) -> Result<(), InterpError> {
    verify(kernel)?;
    let is_pointer = |v: Value| kernel.ty(v) == Type::PTR;
    let wanted = kernel.params.iter().filter(|p| is_pointer(p.value)).count();
    let given = (pointers.len(), scalars.len());
    if given != (wanted, kernel.params.len() - wanted) {
        return Err(InterpError::Arguments(format!(
            "@{} takes {wanted} pointers and {} scalars, got {} and {}",
            kernel.name,
            kernel.params.len() - wanted,
            given.0,
            given.1
        )));
    }
    if buffers.len() > MAX_BUFFERS {
        return Err(InterpError::Arguments(format!("more than {MAX_BUFFERS} buffers")));
    }
    let regions: Vec<Region> = buffers.iter_mut().map(|b| Region::Buffer(b.as_mut())).collect();
    let mut m = Machine {
        kernel,
        precision,
        chunk,
        regions,
        values: vec![Lanes::new(); kernel.types.len() * kernel.threads.max(1) as usize],
        thread: 0,
        shared: FxHashMap::default(),
        tiles: Tiles::default(),
    };
    let everyone: Threads = (0..kernel.threads.max(1)).collect();
    let (mut pointers, mut scalars) = (pointers.iter(), scalars.iter());
    for p in &kernel.params {
        let bits = if is_pointer(p.value) {
            let at = pointers.next().expect("counted above");
            let offset = i64::try_from(at.offset).ok().filter(|&o| o < OFFSET_LIMIT);
            match offset {
                Some(offset) if at.buffer < m.regions.len() => address(at.buffer, offset),
                _ => return Err(InterpError::Arguments(format!("%{} has no such place as {at:?}", p.name))),
            }
        } else {
            *scalars.next().expect("counted above") as u64
        };
        for &thread in &everyone {
            m.thread = thread;
            m.set(p.value, smallvec![bits]);
        }
    }
    m.block(&kernel.body, &everyone)
}

/// A pointer is a region in the high 16 bits and a signed offset in the low 48.
const OFFSET_BITS: u32 = 48;
const OFFSET_LIMIT: i64 = 1 << (OFFSET_BITS - 1);

/// Leaves numbers for local memories: the verifier allows 4096.
const MAX_BUFFERS: usize = 1 << (64 - OFFSET_BITS - 1);

fn address(region: usize, offset: i64) -> u64 {
    (region as u64) << OFFSET_BITS | offset as u64 & ((1 << OFFSET_BITS) - 1)
}

fn region_and_offset(address: u64) -> (usize, i64) {
    ((address >> OFFSET_BITS) as usize, (address << (64 - OFFSET_BITS)) as i64 >> (64 - OFFSET_BITS))
}

enum Region<'a> {
    Buffer(&'a mut [u8]),
    /// Bytes of local or shared memory, and which of them have been written.
    Local(Vec<u8>, Vec<bool>),
}

impl Region<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Region::Buffer(b) => b,
            Region::Local(b, _) => b,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Region::Buffer(b) => b,
            Region::Local(b, _) => b,
        }
    }
}

struct Machine<'a> {
    kernel: &'a Kernel,
    precision: Precision,
    chunk: i64,
    regions: Vec<Region<'a>>,
    /// The values of thread 0, then those of thread 1, and so on.
    values: Vec<Lanes>,
    /// Whose turn it is.
    thread: u32,
    /// Where the memory that each `shared` gave is.
    shared: FxHashMap<Value, u64>,
    tiles: Tiles,
}

impl Machine<'_> {
    fn slot(&self, v: Value) -> usize {
        self.thread as usize * self.kernel.types.len() + v.0 as usize
    }

    fn lanes(&self, v: Value) -> &Lanes {
        &self.values[self.slot(v)]
    }

    fn scalar(&self, v: Value) -> u64 {
        self.lanes(v)[0]
    }

    fn set(&mut self, v: Value, lanes: Lanes) {
        let slot = self.slot(v);
        self.values[slot] = lanes;
    }

    fn copy_all(&mut self, from: &[Value], to: &[Value]) {
        let lanes: SmallVec<[Lanes; 4]> = from.iter().map(|&v| self.lanes(v).clone()).collect();
        for (&v, lanes) in to.iter().zip(lanes) {
            self.set(v, lanes);
        }
    }

    /// Runs `block` for the threads `active`.
    fn block(&mut self, block: &Block, active: &Threads) -> Result<(), InterpError> {
        for inst in &block.insts {
            let kernel = self.kernel;
            let fault = |fault| InterpError::Fault { inst: inst_line(kernel, inst), fault };
            match inst.op {
                Opcode::For => self.for_loop(inst, active)?,
                Opcode::If => self.branch(inst, active)?,
                Opcode::Barrier | Opcode::Shuffle | Opcode::LoadMatrix => self.together(inst, active).map_err(fault)?,
                Opcode::MmaF16 | Opcode::MmaBf16 | Opcode::WgmmaF16 => self.together(inst, active).map_err(fault)?,
                _ => {
                    for &thread in active {
                        self.thread = thread;
                        let lanes = self.compute(inst).map_err(fault)?;
                        if let Some(&r) = inst.results.first() {
                            self.set(r, lanes);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Lanes of the result; none for a store and for tiles.
    fn compute(&mut self, inst: &Inst) -> Result<Lanes, Fault> {
        use Opcode::*;
        let (args, numbers) = (&inst.args, self.precision);
        let from = args.first().map(|&a| self.kernel.ty(a)).unwrap_or(Type::I64);
        let to = inst.results.first().map(|&r| self.kernel.ty(r)).unwrap_or(Type::I64);
        let get = |v: Value| self.lanes(v);
        Ok(match inst.op {
            Const => {
                let bits = match inst.imm {
                    Imm::Float(v) => numbers.put(to.scalar, v),
                    _ => int_imm(inst) as u64 & mask(to.scalar),
                };
                smallvec![bits; usize::from(to.lanes)]
            }
            Add | Sub | Mul | Div | Fma | Neg | Abs | Sqrt | Floor | Nearest | Fmin | Fmax
                if from.scalar.is_float() =>
            {
                let lane = |k: usize, i: usize| args.get(k).map_or(0, |&v| get(v)[i]);
                let n = usize::from(from.lanes);
                (0..n).map(|i| numbers.float(inst.op, from.scalar, lane(0, i), lane(1, i), lane(2, i))).collect()
            }
            Neg => get(args[0]).iter().map(|&a| a.wrapping_neg() & mask(from.scalar)).collect(),
            Add | Sub | Mul | Smin | Smax | And | Or | Xor | DivS | RemS => {
                let pairs = get(args[0]).iter().zip(get(args[1]));
                pairs.map(|(&a, &b)| integer(inst.op, from.scalar, a, b)).collect::<Result<_, _>>()?
            }
            Shl | ShrU | ShrS => {
                let count = signed(self.scalar(args[1]), Scalar::I32);
                if count < 0 || count >= i64::from(width(from.scalar)) {
                    return Err(Fault::ShiftCount(count));
                }
                let shift = |a: u64| match inst.op {
                    Shl => a << count & mask(from.scalar),
                    ShrU => a >> count,
                    _ => (signed(a, from.scalar) >> count) as u64 & mask(from.scalar),
                };
                get(args[0]).iter().map(|&a| shift(a)).collect()
            }
            Cmp => {
                let Imm::Pred(p) = inst.imm else { unreachable!("verified") };
                let pairs = get(args[0]).iter().zip(get(args[1]));
                pairs.map(|(&a, &b)| u64::from(numbers.compare(p, from.scalar, a, b))).collect()
            }
            Select => {
                let (c, a, b) = (get(args[0]), get(args[1]), get(args[2]));
                let holds = |i: usize| c[if c.len() == 1 { 0 } else { i }] != 0;
                (0..a.len()).map(|i| if holds(i) { a[i] } else { b[i] }).collect()
            }
            Sext => get(args[0]).iter().map(|&a| signed(a, from.scalar) as u64 & mask(to.scalar)).collect(),
            Zext => get(args[0]).clone(),
            Trunc => get(args[0]).iter().map(|&a| a & mask(to.scalar)).collect(),
            IntToF => get(args[0]).iter().map(|&a| numbers.int_to_float(to.scalar, signed(a, from.scalar))).collect(),
            // `as` has the wanted meaning: towards zero, saturating, NaN to 0.
            FToInt => get(args[0]).iter().map(|&a| u64::from(numbers.get(from.scalar, a) as i32 as u32)).collect(),
            Fext => get(args[0]).iter().map(|&a| numbers.put(to.scalar, numbers.get(from.scalar, a))).collect(),
            Fround => get(args[0]).iter().map(|&a| numbers.narrow(from.scalar, to.scalar, a)).collect(),
            Bitcast => numbers.unpack(to, &numbers.pack(from, get(args[0]))),
            Splat => smallvec![self.scalar(args[0]); usize::from(to.lanes)],
            Extract => smallvec![get(args[0])[int_imm(inst) as usize]],
            Insert => {
                let mut v = get(args[0]).clone();
                v[int_imm(inst) as usize] = self.scalar(args[1]);
                v
            }
            Low => get(args[0])[..usize::from(to.lanes)].into(),
            High => get(args[0])[usize::from(to.lanes)..].into(),
            Swizzle => {
                let table = get(args[0]);
                let look = |&i: &u64| table.get(i as usize).copied().ok_or(Fault::TableIndex(i));
                get(args[1]).iter().map(look).collect::<Result<_, _>>()?
            }
            Sum | MaxLane => {
                let mut v = get(args[0]).clone();
                while v.len() > 1 {
                    let half = v.len() / 2;
                    for i in 0..half {
                        v[i] = match inst.op {
                            MaxLane => numbers.float(Fmax, from.scalar, v[i], v[i + half], 0),
                            _ if from.scalar.is_float() => numbers.float(Add, from.scalar, v[i], v[i + half], 0),
                            _ => integer(Add, from.scalar, v[i], v[i + half])?,
                        };
                    }
                    v.truncate(half);
                }
                v
            }
            Swap => (0..usize::from(from.lanes)).map(|i| get(args[0])[i ^ int_imm(inst) as usize]).collect(),
            Prefetch => Lanes::new(),
            Dot4 | Dot4U7 => {
                let (acc, u, s) = (get(args[0]), get(args[1]), get(args[2]));
                if let (Dot4U7, Some(&large)) = (inst.op, u.iter().find(|&&u| u > 127)) {
                    return Err(Fault::LargeByte(large));
                }
                let product = |i: usize| (u[i] as i64).wrapping_mul(signed(s[i], Scalar::I8));
                let dot = |i: usize| (4 * i..4 * i + 4).map(product).sum::<i64>();
                (0..acc.len()).map(|i| acc[i].wrapping_add(dot(i) as u64) & mask(Scalar::I32)).collect()
            }
            Dot2 => {
                let (acc, x, y) = (get(args[0]), get(args[1]), get(args[2]));
                let dot = |i: usize| {
                    let sum = numbers.bf16_fma(numbers.get(Scalar::F32, acc[i]), x[2 * i + 1], y[2 * i + 1]);
                    numbers.put(Scalar::F32, numbers.bf16_fma(sum, x[2 * i], y[2 * i]))
                };
                (0..acc.len()).map(dot).collect()
            }
            Load | LoadStream => {
                self.access(args[0], int_imm(inst), to)?;
                numbers.unpack(to, self.read(args[0], int_imm(inst), to.bytes() as usize)?)
            }
            Exp2 => get(args[0]).iter().map(|&a| numbers.put(to.scalar, numbers.get(from.scalar, a).exp2())).collect(),
            Store => {
                self.access(args[1], int_imm(inst), from)?;
                let bytes = numbers.pack(from, get(args[0]));
                self.write(args[1], int_imm(inst), &bytes)?;
                Lanes::new()
            }
            TileZero | TileLoad | TileStore | TileDot => {
                self.tile(inst)?;
                Lanes::new()
            }
            Offset => {
                let (region, at) = region_and_offset(self.scalar(args[0]));
                let at = i128::from(at) + i128::from(self.scalar(args[1]) as i64);
                match i64::try_from(at) {
                    Ok(at) if (-OFFSET_LIMIT..OFFSET_LIMIT).contains(&at) => smallvec![address(region, at)],
                    _ => return Err(Fault::PointerRange(at)),
                }
            }
            Local => {
                let size = int_imm(inst) as usize;
                self.regions.push(Region::Local(vec![0; size], vec![false; size]));
                smallvec![address(self.regions.len() - 1, 0)]
            }
            ChunkId => smallvec![self.chunk as u64],
            ThreadId => smallvec![self.thread.into()],
            Shared => smallvec![self.shared_memory(inst.results[0], int_imm(inst) as usize)],
            CopyAsync => {
                let bytes = int_imm(inst) as usize;
                self.aligned(args[1], 0, bytes)?;
                self.aligned(args[0], 0, bytes)?;
                let data = self.read(args[1], 0, bytes)?.to_vec();
                self.write(args[0], 0, &data)?;
                Lanes::new()
            }
            AtomicAdd => {
                self.aligned(args[0], 0, 4)?;
                let old = self.read(args[0], 0, 4)?;
                let old = u32::from_le_bytes([old[0], old[1], old[2], old[3]]);
                let new = old.wrapping_add(self.scalar(args[1]) as u32);
                self.write(args[0], 0, &new.to_le_bytes())?;
                smallvec![old.into()]
            }
            CopyCommit | CopyWait | Fence | WaitPrior | LaunchNext => Lanes::new(),
            Barrier | Shuffle | LoadMatrix | MmaF16 | MmaBf16 | WgmmaF16 => unreachable!("ops of many threads"),
            For | If | Div | Fma | Abs | Sqrt | Floor | Nearest | Fmin | Fmax => unreachable!("verified"),
        })
    }

    fn region_name(&self, region: usize) -> String {
        let buffers = self.regions.iter().filter(|r| matches!(r, Region::Buffer(_))).count();
        let shared = self.shared.values().any(|&address| region_and_offset(address).0 == region);
        match region.checked_sub(buffers) {
            None => format!("buffer {region}"),
            Some(_) if shared => "shared memory".into(),
            Some(local) => format!("local memory {local}"),
        }
    }

    /// The bytes of a read of `bytes` bytes at `pointer + offset`.
    fn read(&self, pointer: Value, offset: i64, bytes: usize) -> Result<&[u8], Fault> {
        let (region, at) = self.span(pointer, offset, bytes)?;
        let range = at..at + bytes;
        if let Region::Local(_, written) = &self.regions[region]
            && let Some(gap) = written[range.clone()].iter().position(|w| !w)
        {
            return Err(Fault::Uninitialised { region: self.region_name(region), offset: at + gap });
        }
        Ok(&self.regions[region].bytes()[range])
    }

    fn write(&mut self, pointer: Value, offset: i64, bytes: &[u8]) -> Result<(), Fault> {
        let (region, at) = self.span(pointer, offset, bytes.len())?;
        self.regions[region].bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        if let Region::Local(_, written) = &mut self.regions[region] {
            written[at..at + bytes.len()].fill(true);
        }
        Ok(())
    }

    /// Region and start of an access of `bytes` bytes at `pointer + imm`.
    fn span(&self, pointer: Value, imm: i64, bytes: usize) -> Result<(usize, usize), Fault> {
        let (region, base) = region_and_offset(self.scalar(pointer));
        let offset = base.saturating_add(imm);
        let size = self.regions[region].bytes().len();
        match usize::try_from(offset) {
            Ok(at) if at.checked_add(bytes).is_some_and(|end| end <= size) => Ok((region, at)),
            _ => Err(Fault::OutOfBounds { region: self.region_name(region), offset, bytes, size }),
        }
    }
}

fn int_imm(inst: &Inst) -> i64 {
    match inst.imm {
        Imm::Int(v) => v,
        _ => unreachable!("verified"),
    }
}
