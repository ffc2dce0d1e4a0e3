//! One instruction as written: guard, name, modifiers, operands with their names resolved.

use super::Cursor;
use super::lex::Kind;
use super::module::Scope;
use crate::ParseError;

/// Index of a register of a kernel.
pub(crate) type RegId = u32;

/// Special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    Clock,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskEq,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSharedSize,
    TotalSharedSize,
    Zero,
    One,
}

const SPECIALS: &[(&str, Special)] = &[
    ("%tid.x", Special::Tid(0)),
    ("%tid.y", Special::Tid(1)),
    ("%tid.z", Special::Tid(2)),
    ("%ntid.x", Special::Ntid(0)),
    ("%ntid.y", Special::Ntid(1)),
    ("%ntid.z", Special::Ntid(2)),
    ("%ctaid.x", Special::Ctaid(0)),
    ("%ctaid.y", Special::Ctaid(1)),
    ("%ctaid.z", Special::Ctaid(2)),
    ("%nctaid.x", Special::Nctaid(0)),
    ("%nctaid.y", Special::Nctaid(1)),
    ("%nctaid.z", Special::Nctaid(2)),
    ("%laneid", Special::LaneId),
    ("%warpid", Special::WarpId),
    ("%nwarpid", Special::NWarpId),
    ("%smid", Special::SmId),
    ("%clock", Special::Clock),
    ("%clock64", Special::Clock),
    ("%globaltimer", Special::Clock),
    ("%lanemask_lt", Special::LaneMaskLt),
    ("%lanemask_le", Special::LaneMaskLe),
    ("%lanemask_eq", Special::LaneMaskEq),
    ("%lanemask_gt", Special::LaneMaskGt),
    ("%lanemask_ge", Special::LaneMaskGe),
    ("%dynamic_smem_size", Special::DynamicSharedSize),
    ("%total_smem_size", Special::TotalSharedSize),
    // Clusters are of one CTA here.
    ("%cluster_ctarank", Special::Zero),
    ("%cluster_nctarank", Special::One),
];

/// Memory spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A constant; what its bits are depends on the type that the instruction wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Imm {
    Int(i128),
    F32(u32),
    F64(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Reg(RegId),
    Special(Special),
    Imm(Imm),
    /// A variable: its space and its offset there.
    Sym(Space, u64),
    /// A name that is none of these: a label, or a mistake.
    Name(String),
    Addr(Box<Operand>, i64),
    Vector(Vec<Operand>),
    Pair(Box<Operand>, Box<Operand>),
    Not(RegId),
    Sink,
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub line: u32,
    /// Register and whether it is negated.
    pub guard: Option<(RegId, bool)>,
    pub name: String,
    pub ops: Vec<Operand>,
}

/// Decimal, `0x`, `0b` and octal integers, with or without `U`.
pub(crate) fn integer(text: &str) -> Option<u64> {
    let t = text.strip_suffix('U').unwrap_or(text);
    if let Some(h) = t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        return u64::from_str_radix(h, 16).ok();
    }
    if let Some(h) = t.strip_prefix("0b").or_else(|| t.strip_prefix("0B")) {
        return u64::from_str_radix(h, 2).ok();
    }
    match t.strip_prefix('0') {
        Some(o) if !o.is_empty() => u64::from_str_radix(o, 8).ok(),
        _ => t.parse().ok(),
    }
}

/// Any constant without its sign.
pub(crate) fn constant(text: &str) -> Option<Imm> {
    let hex = |n| text.get(n..).and_then(|h| u64::from_str_radix(h, 16).ok());
    match text.get(..2) {
        Some("0f" | "0F") if text.len() == 10 => return hex(2).map(|v| Imm::F32(v as u32)),
        Some("0d" | "0D") if text.len() == 18 => return hex(2).map(Imm::F64),
        _ => {}
    }
    if let Some(n) = integer(text) {
        return Some(Imm::Int(n.into()));
    }
    let decimal = text.contains('.') && !text.starts_with("0x");
    if decimal { text.parse::<f64>().ok().map(|v| Imm::F64(v.to_bits())) } else { None }
}

fn signed(c: &mut Cursor<'_>) -> Result<Imm, ParseError> {
    let minus = c.eat("-");
    let t = c.peek();
    let value = if t.kind == Kind::Number { constant(t.text) } else { None };
    let Some(value) = value else {
        return Err(c.error(format!("expected a constant, found `{}`", t.text)));
    };
    c.next();
    Ok(match value {
        Imm::Int(n) if minus => Imm::Int(-n),
        Imm::F32(b) if minus => Imm::F32(b ^ 1 << 31),
        Imm::F64(b) if minus => Imm::F64(b ^ 1 << 63),
        v => v,
    })
}

fn named(c: &mut Cursor<'_>, scope: &Scope<'_>) -> Result<Operand, ParseError> {
    let name = c.word()?;
    if name == "_" {
        return Ok(Operand::Sink);
    }
    if let Some(r) = scope.reg(name) {
        return Ok(Operand::Reg(r));
    }
    if let Some((space, offset)) = scope.symbol(name) {
        return Ok(Operand::Sym(space, offset));
    }
    if let Some((_, s)) = SPECIALS.iter().find(|(n, _)| *n == name) {
        return Ok(Operand::Special(*s));
    }
    if name.starts_with('%') {
        return Err(c.error(format!("register `{name}` is not declared, nor is it a special register that we know")));
    }
    Ok(Operand::Name(name.into()))
}

fn address(c: &mut Cursor<'_>, scope: &Scope<'_>) -> Result<Operand, ParseError> {
    let base = if c.peek().kind == Kind::Word { named(c, scope)? } else { Operand::Imm(signed(c)?) };
    let mut offset = 0i64;
    while c.peek().text != "]" {
        let plus = c.eat("+");
        if !plus && c.peek().text != "-" {
            return Err(c.error(format!("expected `+`, `-` or `]`, found `{}`", c.peek().text)));
        }
        let Imm::Int(n) = signed(c)? else { return Err(c.error("an offset is an integer")) };
        let n = i64::try_from(n).ok().and_then(|n| offset.checked_add(n));
        offset = n.ok_or_else(|| c.error("this offset is too large"))?;
    }
    c.expect("]")?;
    Ok(Operand::Addr(Box::new(base), offset))
}

fn operand(c: &mut Cursor<'_>, scope: &Scope<'_>) -> Result<Operand, ParseError> {
    if c.eat("[") {
        return address(c, scope);
    }
    if c.eat("{") {
        let mut list = Vec::new();
        loop {
            // No vectors in vectors: depth is bounded whatever the text.
            list.push(if c.peek().kind == Kind::Word { named(c, scope)? } else { Operand::Imm(signed(c)?) });
            if !c.eat(",") {
                break;
            }
        }
        c.expect("}")?;
        return Ok(Operand::Vector(list));
    }
    if c.eat("!") {
        return match named(c, scope)? {
            Operand::Reg(r) => Ok(Operand::Not(r)),
            _ => Err(c.error("`!` stands before a predicate register")),
        };
    }
    if c.peek().kind != Kind::Word {
        return Ok(Operand::Imm(signed(c)?));
    }
    let first = named(c, scope)?;
    if c.eat("|") {
        return Ok(Operand::Pair(Box::new(first), Box::new(named(c, scope)?)));
    }
    if let (Operand::Sym(space, base), "+") = (&first, c.peek().text) {
        let (space, base) = (*space, *base);
        c.next();
        return Ok(Operand::Sym(space, base.wrapping_add(c.number()?)));
    }
    Ok(first)
}

/// An instruction, its guard first, up to its semicolon.
pub(crate) fn instruction(c: &mut Cursor<'_>, scope: &Scope<'_>) -> Result<Raw, ParseError> {
    let mut guard = None;
    if c.eat("@") {
        let negated = c.eat("!");
        guard = match named(c, scope)? {
            Operand::Reg(r) => Some((r, negated)),
            _ => return Err(c.error("a guard is a predicate register")),
        };
    }
    let line = c.peek().line;
    let name = c.word()?.to_string();
    let mut ops = Vec::new();
    while !c.eat(";") {
        if !ops.is_empty() {
            c.expect(",")?;
        }
        ops.push(operand(c, scope)?);
    }
    Ok(Raw { line, guard, name, ops })
}
