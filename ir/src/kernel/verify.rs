//! Verifier of kernel IR. A kernel that passes is safe to hand to a back end: what is left to go wrong depends on data.
//!
//! The rules; each has a file test in `tests/ir/kernel/verify/` that breaks it:
//!
//! - K01 the kernel and its parameters are named by letters, digits and `_`, not beginning with a digit
//! - K02 parameters are `ptr` or `i64`, and their names differ
//! - K03 a value is defined once
//! - K04 a value is used after its definition, in the same block or inside of it
//! - K05 the number of lanes is a power of two up to 256; `ptr` has one lane
//! - K06 the number of operands is that of the op table
//! - K07 operands are of the op's class; `f16` and `bf16` are only moved and converted, `ptr` is no number
//! - K08 operand types agree with each other and with the op's fixed types (`dot4_us`, `dot2_bf16`, `swizzle`, `insert`, addresses)
//! - K09 the immediate is there where the op table wants one, of its kind, and nowhere else
//! - K10 the number of results and their types follow from the op table
//! - K11 `sext` and `zext` widen, `trunc` narrows, lanes kept
//! - K12 `int_to_f` and `f_to_int` convert the pairs in the op table, lanes kept; `exp2_approx` is of f32
//! - K13 `fext` and `fround` convert the pairs in the op table, lanes kept
//! - K14 `bitcast` keeps the size and has neither `i1` nor `ptr`
//! - K15 `splat` goes from one lane to several; `low` and `high` give half of the lanes; all keep the element
//! - K16 the lane of `extract` and `insert` exists; `swap_lanes` has lanes of 32 or 64 bits, and its distance is a power of
//!   two below their number
//! - K17 `div_s` and `rem_s` are on scalars
//! - K18 unsigned predicates compare integers
//! - K19 a constant shift count is at least 0 and below the lane's width
//! - K20 neither `i1` nor `ptr` is in memory
//! - K21 a constant is an integer that fits its `i1` to `i64` type, or a float of type `f32` or `f64`
//! - K22 `for` has one block, whose parameters are an `i64` and the carried values; `if` has two without parameters
//! - K23 blocks yield the types of the results: carried values in `for`, the same from both arms of `if`, none at the top
//! - K24 the step of a loop is positive
//! - K25 `local` is at the top level; each is at least 1 byte, all together, rounded up to 64, at most 256 KiB
//! - K26 blocks nest at most 64 deep
//! - K27 tiles are numbered from 0 to 7; the three of a product differ
//! - K28 a tile is zeroed or loaded before it is used, on every way there
//! - K29 the ops of thread blocks, `shared` pointers, and arithmetic on `f16` and `bf16` are in kernels that have threads: a
//!   multiple of 32 up to 1024; tiles are in kernels that have none
//! - K30 `shared` is at the top level; each is at least 1 byte, all together, rounded up to 128, at most 227 KiB
//! - K31 the distance of `shuffle_xor` is 1, 2, 4, 8 or 16, and its elements have 32 bits
//! - K32 `copy_async` copies 4, 8 or 16 bytes; `copy_wait` leaves 0 to 7 groups; `load_matrix` gives f16 or bf16, x2, x4 or x8,
//!   its immediate 0 or 1
//! - K33 the threads of a kernel with `wgmma_f16` are a multiple of 128, its sums `f32x4` to `f32x128`, its immediate 0 to 3

use std::fmt;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Block, Class, HALF_OPS, Imm, Inst, Kernel, Opcode, Operands, Pred, ResultRule, Scalar, THREAD_OPS, TILES, Type,
    Value, WARP, WARP_GROUP, inst_line,
};

/// Most bytes of `local` memory a kernel may have.
pub const MAX_LOCAL: i64 = 256 * 1024;
/// Most blocks inside each other.
pub const MAX_DEPTH: usize = 64;
/// Most bytes of `shared` memory a kernel may have; a target may have less.
pub const MAX_SHARED: i64 = 227 * 1024;
/// Most threads of a block.
pub const MAX_THREADS: u32 = 1024;
/// Most lanes of a vector.
pub const MAX_LANES: u16 = 256;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// `K01` to `K33`.
    pub rule: &'static str,
    /// The instruction by position, as in `body[3].for[0]`; for the kernel as a whole its name.
    pub path: String,
    /// The instruction in text form; empty for the kernel as a whole.
    pub inst: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.rule, self.path)?;
        if !self.inst.is_empty() {
            write!(f, "`{}`: ", self.inst)?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong with a kernel, in program order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            write!(f, "{}{e}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for VerifyErrors {}

/// Checks `kernel` against all rules.
pub fn verify(kernel: &Kernel) -> Result<(), VerifyErrors> {
    let mut c = Checker {
        kernel,
        state: vec![State::Undefined; kernel.types.len()],
        constants: FxHashMap::default(),
        locals: 0,
        shared: 0,
        tiles: 0,
        path: vec![],
        errors: vec![],
    };
    c.kernel_rules();
    if c.errors.is_empty() { Ok(()) } else { Err(VerifyErrors(c.errors)) }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Undefined,
    Visible,
    /// Its block has ended.
    Left,
}

struct Checker<'a> {
    kernel: &'a Kernel,
    state: Vec<State>,
    constants: FxHashMap<Value, i64>,
    locals: i64,
    shared: i64,
    /// Bit `t`: tile `t` holds something.
    tiles: u8,
    path: Vec<(&'static str, usize, &'a Inst)>,
    errors: Vec<VerifyError>,
}

impl<'a> Checker<'a> {
    fn fail(&mut self, rule: &'static str, message: impl Into<String>) {
        let inst = self.path.last().map_or(String::new(), |&(_, _, inst)| inst_line(self.kernel, inst));
        let steps: Vec<String> = self.path.iter().map(|(block, i, _)| format!("{block}[{i}]")).collect();
        let path = if steps.is_empty() { format!("@{}", self.kernel.name) } else { steps.join(".") };
        self.errors.push(VerifyError { rule, path, inst, message: message.into() });
    }

    fn check(&mut self, holds: bool, rule: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.fail(rule, message());
        }
    }

    fn ty(&self, v: Value) -> Option<Type> {
        self.kernel.types.get(v.0 as usize).copied()
    }

    fn kernel_rules(&mut self) {
        let kernel = self.kernel;
        self.check(is_name(&kernel.name), "K01", || format!("`{}` is not a name", kernel.name));
        let mut names = FxHashSet::default();
        for p in &kernel.params {
            self.check(is_name(&p.name), "K01", || format!("`{}` is not a name", p.name));
            self.check(names.insert(&p.name), "K02", || format!("two parameters named `{}`", p.name));
            self.define(p.value);
            if let Some(ty) = self.ty(p.value) {
                let ok = ty == Type::PTR || ty == Type::I64;
                self.check(ok, "K02", || format!("parameter `{}` is {ty}, not ptr or i64", p.name));
            }
        }
        let threads = kernel.threads.is_multiple_of(WARP) && kernel.threads <= MAX_THREADS;
        self.check(threads, "K29", || format!("{} threads", kernel.threads));
        let none = kernel.body.params.is_empty() && kernel.body.yields.is_empty();
        self.check(none, "K23", || "the top block has no parameters and yields nothing".into());
        self.block("body", &kernel.body);
    }

    fn define(&mut self, v: Value) {
        let Some(ty) = self.ty(v) else {
            return self.fail("K03", format!("%{} has no type", v.0));
        };
        if self.state[v.0 as usize] != State::Undefined {
            self.fail("K03", format!("%{} is defined a second time", v.0));
        }
        self.state[v.0 as usize] = State::Visible;
        let lanes = ty.lanes.is_power_of_two() && ty.lanes <= MAX_LANES;
        self.check(lanes, "K05", || format!("{ty}: lanes are a power of two up to {MAX_LANES}"));
        self.check(!ty.scalar.is_pointer() || ty.lanes == 1, "K05", || format!("{ty}: pointers have one lane"));
        let threads = ty.scalar != Scalar::Shared || self.kernel.threads > 0;
        self.check(threads, "K29", || format!("{ty} in a kernel without threads"));
    }

    /// True if `v` may be used here.
    fn usable(&mut self, v: Value) -> bool {
        let message = match self.state.get(v.0 as usize) {
            Some(State::Visible) => return true,
            Some(State::Left) => "is used outside of the block that defines it",
            Some(State::Undefined) | None => "is used before it is defined",
        };
        self.fail("K04", format!("%{} {message}", v.0));
        false
    }

    fn block(&mut self, name: &'static str, block: &'a Block) {
        if self.path.len() >= MAX_DEPTH {
            return self.fail("K26", format!("blocks nest more than {MAX_DEPTH} deep"));
        }
        for &p in &block.params {
            self.define(p);
        }
        let shown: Vec<Value> = block.params.clone();
        for (i, inst) in block.insts.iter().enumerate() {
            self.path.push((name, i, inst));
            self.inst(inst);
            self.path.pop();
        }
        for &v in &block.yields {
            self.usable(v);
        }
        for v in block.insts.iter().flat_map(|i| &i.results).chain(&shown) {
            if let Some(state) = self.state.get_mut(v.0 as usize) {
                *state = State::Left;
            }
        }
    }

    fn inst(&mut self, inst: &'a Inst) {
        // All operands are checked, so that each bad one is reported.
        let usable = inst.args.iter().map(|&a| self.usable(a)).fold(true, |all, ok| all & ok);
        let args: Vec<Type> = inst.args.iter().filter_map(|&a| self.ty(a)).collect();
        let results: Vec<Type> = inst.results.iter().filter_map(|&r| self.ty(r)).collect();
        self.immediate(inst);
        self.blocks(inst);
        if usable && self.operands(inst, &args) && self.results(inst, &args, &results) {
            self.op_rules(inst, &args, &results);
        }
        for &r in &inst.results {
            self.define(r);
        }
        if let (Opcode::Const, Imm::Int(v), Some(&r)) = (inst.op, inst.imm, inst.results.first()) {
            self.constants.insert(r, v);
        }
    }

    fn immediate(&mut self, inst: &Inst) {
        let kind = match inst.imm {
            Imm::None => "none",
            Imm::Int(_) => "int",
            Imm::Float(_) => "float",
            Imm::Pred(_) => "pred",
            Imm::Tiles(_) => "tiles",
        };
        let wants = inst.op.info().imm;
        let ok = kind == wants || wants == "const" && matches!(kind, "int" | "float");
        self.check(ok, "K09", || format!("the immediate is {kind}, {} wants {wants}", inst.op.info().name));
    }

    fn blocks(&mut self, inst: &'a Inst) {
        let names: &[&'static str] = match inst.op {
            Opcode::For => &["for"],
            Opcode::If => &["then", "else"],
            _ => &[],
        };
        let (n, wanted) = (inst.blocks.len(), names.len());
        self.check(n == wanted, "K22", || format!("{n} blocks instead of {wanted}"));
        // What holds after them: a loop may have no round, and one arm is left out.
        let before = self.tiles;
        let mut after = if inst.op == Opcode::For { before } else { u8::MAX };
        for (&name, block) in names.iter().zip(&inst.blocks) {
            let params: Vec<Type> = block.params.iter().filter_map(|&p| self.ty(p)).collect();
            let mut wanted = vec![];
            if inst.op == Opcode::For {
                let carried = inst.args.iter().skip(2).filter_map(|&a| self.ty(a));
                wanted = [Type::I64].into_iter().chain(carried).collect();
            }
            self.check(params == wanted, "K22", || {
                format!("block parameters are ({}), not ({})", list(&params), list(&wanted))
            });
            self.tiles = before;
            self.block(name, block);
            after &= self.tiles;
            let yields: Vec<Type> = block.yields.iter().filter_map(|&v| self.ty(v)).collect();
            let wanted: Vec<Type> = match inst.op {
                Opcode::For => wanted.split_off(1),
                _ => inst.results.iter().filter_map(|&r| self.ty(r)).collect(),
            };
            self.check(yields == wanted, "K23", || {
                format!("`{name}` yields ({}), not ({})", list(&yields), list(&wanted))
            });
        }
        if !inst.blocks.is_empty() {
            self.tiles = after;
        }
    }

    /// Rules K06 to K08; false if the types are not fit for further checks.
    fn operands(&mut self, inst: &Inst, args: &[Type]) -> bool {
        let before = self.errors.len();
        let operands = inst.op.info().operands;
        let count = match operands {
            Operands::None => 0,
            Operands::Unary(_) | Operands::Ptr | Operands::Shared | Operands::If => 1,
            Operands::Binary(_) | Operands::Shift | Operands::Swizzle | Operands::Store => 2,
            Operands::PtrInt | Operands::Insert | Operands::Tile | Operands::Copy | Operands::Atomic => 2,
            Operands::Ternary(_) | Operands::Select | Operands::Dot4 | Operands::Dot2 => 3,
            Operands::Mma(_) | Operands::Wgmma => 3,
            Operands::For => args.len().max(2),
        };
        if args.len() != count {
            self.fail("K06", format!("{} operands instead of {count}", args.len()));
            return false;
        }
        let class = match operands {
            Operands::Unary(c) | Operands::Binary(c) | Operands::Ternary(c) => Some(c),
            Operands::Shift => Some(Class::Int),
            Operands::Insert => Some(Class::Any),
            _ => None,
        };
        if let Some(class) = class {
            let half = self.kernel.threads > 0 && HALF_OPS.contains(&inst.op) && args[0].scalar.is_half();
            self.check(half || in_class(class, args[0].scalar), "K07", || {
                format!("{} is not allowed here ({class:?})", args[0])
            });
        }
        // What the types of the operands must be, given the others.
        let wanted: Vec<Type> = match operands {
            Operands::None | Operands::Unary(_) => args.to_vec(),
            Operands::Binary(_) | Operands::Ternary(_) => vec![args[0]; count],
            Operands::Shift => vec![args[0], Type::I32],
            Operands::Select => {
                let lanes = if args[0].lanes == 1 { 1 } else { args[1].lanes };
                vec![Type::I1.x(lanes), args[1], args[1]]
            }
            Operands::Dot4 => {
                let bytes = Type::I8.x(args[0].lanes.saturating_mul(4));
                vec![args[0].with(Scalar::I32), bytes, bytes]
            }
            Operands::Dot2 => {
                let pairs = Type::BF16.x(args[0].lanes.saturating_mul(2));
                vec![args[0].with(Scalar::F32), pairs, pairs]
            }
            Operands::Swizzle => vec![Type::I8.x(16), args[1].with(Scalar::I8)],
            Operands::Ptr => vec![pointer(args[0])],
            Operands::Store => vec![args[0], pointer(args[1])],
            Operands::PtrInt => vec![pointer(args[0]), Type::I64],
            Operands::Tile => vec![Type::PTR, Type::I64],
            Operands::Shared => vec![Type::SHARED],
            Operands::Copy => vec![Type::SHARED, Type::PTR],
            Operands::Atomic => vec![Type::PTR, Type::I32],
            Operands::Mma(s) => vec![Type::F32.x(4), Type { scalar: s, lanes: 8 }, Type { scalar: s, lanes: 4 }],
            Operands::Wgmma => vec![args[0].with(Scalar::F32), Type::F16.x(8), Type::SHARED],
            Operands::Insert => vec![args[0], args[0].x(1)],
            Operands::For => [Type::I64; 2].into_iter().chain(args[2..].iter().copied()).collect(),
            Operands::If => vec![Type::I1],
        };
        self.check(args == wanted, "K08", || format!("operands are ({}), not ({})", list(args), list(&wanted)));
        self.errors.len() == before
    }

    /// Rule K10; false if the types are not fit for further checks.
    fn results(&mut self, inst: &Inst, args: &[Type], results: &[Type]) -> bool {
        let wanted = match inst.op.info().result {
            ResultRule::None => vec![],
            ResultRule::Same => vec![args[0]],
            ResultRule::Second => vec![args[1]],
            ResultRule::Bool => vec![args[0].with(Scalar::I1)],
            ResultRule::Element => vec![args[0].x(1)],
            ResultRule::Ptr => vec![Type::PTR],
            ResultRule::Shared => vec![Type::SHARED],
            ResultRule::I32 => vec![Type::I32],
            ResultRule::I64 => vec![Type::I64],
            ResultRule::Stated => match results {
                [one] => vec![*one],
                _ => {
                    self.fail("K10", format!("{} results instead of 1", results.len()));
                    return false;
                }
            },
            ResultRule::Yields => match inst.op {
                Opcode::For => args[2..].to_vec(),
                // Rule K23 compares them with both arms.
                _ => results.to_vec(),
            },
        };
        self.check(results == wanted, "K10", || format!("results are ({}), not ({})", list(results), list(&wanted)));
        results == wanted
    }

    /// Rules of single ops; operands and results have the right number and class.
    fn op_rules(&mut self, inst: &Inst, args: &[Type], results: &[Type]) {
        use Scalar::*;
        let a = args.first().copied().unwrap_or(Type::I64);
        let r = results.first().copied().unwrap_or(Type::I64);
        let pair = (a.scalar, r.scalar);
        let imm = if let Imm::Int(v) = inst.imm { v } else { 0 };
        let lanes = a.lanes == r.lanes;
        let from_to = || format!("{a} to {r}");
        let threads = self.kernel.threads > 0;
        self.check(threads || !THREAD_OPS.contains(&inst.op), "K29", || "in a kernel without threads".into());
        match inst.op {
            Opcode::Sext | Opcode::Zext => {
                let widens = r.scalar.is_int() && (a.scalar == I1 || a.scalar.bytes() < r.scalar.bytes());
                self.check(widens && lanes, "K11", from_to);
            }
            Opcode::Trunc => {
                self.check(r.scalar.is_int() && r.scalar.bytes() < a.scalar.bytes() && lanes, "K11", from_to);
            }
            Opcode::IntToF => {
                let ok = matches!(pair, (I32, F32 | F64)) || matches!(pair, (I64, F32 | F64)) && a.lanes == 1;
                self.check(ok && lanes, "K12", from_to);
            }
            Opcode::FToInt => self.check(pair == (F32, I32) && lanes, "K12", from_to),
            Opcode::Fext => {
                let ok = matches!(pair, (F16 | BF16, F32) | (F32, F64));
                self.check(ok && lanes, "K13", from_to);
            }
            Opcode::Fround => {
                let ok = matches!(pair, (F32, F16 | BF16) | (F64, F32));
                self.check(ok && lanes, "K13", from_to);
            }
            Opcode::Bitcast => {
                let ok = ![pair.0, pair.1].iter().any(|s| *s == I1 || s.is_pointer());
                self.check(ok && a.bytes() == r.bytes(), "K14", from_to);
            }
            Opcode::Splat => self.check(a.lanes == 1 && r.lanes > 1 && pair.0 == pair.1, "K15", from_to),
            Opcode::Low | Opcode::High => {
                self.check(u32::from(r.lanes) * 2 == u32::from(a.lanes) && pair.0 == pair.1, "K15", from_to);
            }
            Opcode::Extract | Opcode::Insert => {
                self.check((0..i64::from(a.lanes)).contains(&imm), "K16", || format!("{a} has no lane {imm}"));
            }
            Opcode::Swap => {
                let fits = (1..i64::from(a.lanes)).contains(&imm) && imm & (imm - 1) == 0;
                let wide = a.scalar.bytes() >= 4;
                self.check(fits && wide, "K16", || format!("lanes of {a} cannot be swapped at distance {imm}"));
            }
            Opcode::DivS | Opcode::RemS => self.check(a.lanes == 1, "K17", || format!("{a} is a vector")),
            Opcode::Cmp => {
                let unsigned = matches!(inst.imm, Imm::Pred(Pred::Ult | Pred::Uge));
                self.check(!unsigned || a.scalar.is_int(), "K18", || format!("unsigned comparison of {a}"));
            }
            Opcode::Shl | Opcode::ShrU | Opcode::ShrS => {
                let width = 8 * i64::from(a.scalar.bytes());
                if let Some(&count) = self.constants.get(&inst.args[1]) {
                    self.check((0..width).contains(&count), "K19", || format!("{a} shifted by {count}"));
                }
            }
            Opcode::Exp2 => self.check(a.scalar == F32, "K12", || format!("{a}")),
            Opcode::Load | Opcode::LoadStream => {
                self.check(r.scalar != I1 && !r.scalar.is_pointer(), "K20", || format!("{r} in memory"))
            }
            Opcode::Store => self.check(a.scalar != I1 && !a.scalar.is_pointer(), "K20", || format!("{a} in memory")),
            Opcode::Const => {
                let ok = match inst.imm {
                    Imm::Float(_) => matches!(r.scalar, F32 | F64),
                    Imm::Int(v) => fits(r.scalar, v),
                    _ => true,
                };
                self.check(ok, "K21", || format!("no such constant of {r}"));
            }
            Opcode::For => self.check(imm > 0 || inst.imm == Imm::None, "K24", || format!("step {imm}")),
            Opcode::Local => {
                let size = imm.clamp(1, MAX_LOCAL + 1) as u64;
                self.locals = self.locals.saturating_add(size.next_multiple_of(64) as i64);
                self.check(self.path.len() == 1, "K25", || "not at the top level".into());
                self.check(imm > 0, "K25", || format!("{imm} bytes"));
                self.check(self.locals <= MAX_LOCAL, "K25", || format!("more than {MAX_LOCAL} bytes in all"));
            }
            Opcode::Shared => {
                let size = imm.clamp(1, MAX_SHARED + 1) as u64;
                self.shared = self.shared.saturating_add(size.next_multiple_of(128) as i64);
                self.check(self.path.len() == 1, "K30", || "not at the top level".into());
                self.check(imm > 0, "K30", || format!("{imm} bytes"));
                self.check(self.shared <= MAX_SHARED, "K30", || format!("more than {MAX_SHARED} bytes in all"));
            }
            Opcode::Shuffle => {
                let fits = a.scalar.bytes() == 4 && matches!(imm, 1 | 2 | 4 | 8 | 16);
                self.check(fits, "K31", || format!("{a} at distance {imm}"));
            }
            Opcode::CopyAsync => self.check(matches!(imm, 4 | 8 | 16), "K32", || format!("{imm} bytes")),
            Opcode::CopyWait => self.check((0..8).contains(&imm), "K32", || format!("{imm} groups")),
            Opcode::LoadMatrix => {
                let fits = r.scalar.is_half() && matches!(r.lanes, 2 | 4 | 8) && matches!(imm, 0 | 1);
                self.check(fits, "K32", || format!("matrices as {r}, immediate {imm}"));
            }
            Opcode::WgmmaF16 => {
                let threads = self.kernel.threads;
                let fits = threads.is_multiple_of(WARP_GROUP) && (4..=128).contains(&a.lanes) && (0..4).contains(&imm);
                self.check(fits, "K33", || format!("sums as {a}, immediate {imm}, {threads} threads"));
            }
            Opcode::TileZero | Opcode::TileLoad => self.tile(imm, true),
            Opcode::TileStore => self.tile(imm, false),
            Opcode::TileDot => {
                if let Imm::Tiles([c, x, y]) = inst.imm {
                    self.check(c != x && c != y && x != y, "K27", || format!("tiles {c}, {x} and {y}"));
                    [c, x, y].into_iter().for_each(|t| self.tile(t.into(), false));
                }
            }
            _ => {}
        }
    }

    /// Notes that a tile is written, or checks that it was.
    fn tile(&mut self, t: i64, written: bool) {
        self.check(self.kernel.threads == 0, "K29", || "tiles in a kernel with threads".into());
        if !(0..TILES).contains(&t) {
            return self.fail("K27", format!("there is no tile {t}"));
        }
        if written {
            self.tiles |= 1 << t;
        }
        self.check(self.tiles >> t & 1 == 1, "K28", || format!("tile {t} is used before it holds anything"));
    }
}

/// The pointer type that an address operand must have: its own, if it is one.
fn pointer(ty: Type) -> Type {
    if ty == Type::SHARED { ty } else { Type::PTR }
}

fn is_name(s: &str) -> bool {
    let word = s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    word && s.bytes().next().is_some_and(|c| !c.is_ascii_digit())
}

fn in_class(class: Class, s: Scalar) -> bool {
    let float = matches!(s, Scalar::F32 | Scalar::F64);
    match class {
        Class::Int => s.is_int(),
        Class::Float => float,
        Class::Number => s.is_int() || float,
        Class::Bits => s.is_int() || s == Scalar::I1,
        Class::Any => !s.is_pointer(),
    }
}

/// An integer fits as signed or as unsigned: both 255 and -1 are good `i8` constants.
fn fits(s: Scalar, v: i64) -> bool {
    match s {
        Scalar::I1 => v == 0 || v == 1,
        Scalar::I64 => true,
        Scalar::I8 | Scalar::I16 | Scalar::I32 => {
            let bits = 8 * s.bytes();
            (-(1i64 << (bits - 1))..1i64 << bits).contains(&v)
        }
        _ => false,
    }
}

fn list(types: &[Type]) -> String {
    types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ")
}
