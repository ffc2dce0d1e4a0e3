//! From an instruction as written to [`Op`]: modifiers are taken one by one, and one that nobody took is an error.

use super::table::TABLE;
use super::*;
use crate::ParseError;
use crate::num;
use crate::parse::inst::{Imm, Operand, Raw};
use crate::parse::module::{DYNAMIC_SHARED, Scope};
use std::collections::HashMap;

pub(super) type Res<T> = Result<T, String>;

/// Bits of a constant where a value of this type is wanted; `None` if it does not fit.
pub(crate) fn constant_bits(v: Imm, ty: Ty) -> Option<u64> {
    let limit = 1i128 << ty.bits();
    match (v, ty) {
        (Imm::Int(n), Ty::Pred) => (0..=1).contains(&n).then_some(n as u64),
        (Imm::Int(n), Ty::F64 | Ty::F32) => {
            let v = n as f64;
            Some(if ty == Ty::F64 { v.to_bits() } else { (v as f32).to_bits().into() })
        }
        (Imm::Int(n), _) => (-limit / 2 <= n && n < limit).then(|| ty.mask(n as u64)),
        (Imm::F32(b), Ty::F32 | Ty::B32 | Ty::TF32) => Some(b.into()),
        (Imm::F32(b), Ty::F64) => Some(f64::from(f32::from_bits(b)).to_bits()),
        (Imm::F64(b), Ty::F64 | Ty::B64) => Some(b),
        (Imm::F64(b), Ty::F32) => Some(num::F32.encode(f64::from_bits(b), Round::Near, false)),
        _ => None,
    }
}

/// The instruction being decoded.
pub(super) struct Dec<'a> {
    raw: &'a Raw,
    mods: Vec<&'a str>,
    pub ops: &'a [Operand],
    scope: &'a Scope<'a>,
    labels: &'a HashMap<String, usize>,
    dynamic: u64,
}

impl<'a> Dec<'a> {
    /// Takes a modifier if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.mods.iter().position(|m| *m == name);
        at.map(|i| self.mods.remove(i)).is_some()
    }

    /// Takes the modifiers that say nothing about the result.
    pub fn ignore(&mut self, names: &[&str]) {
        self.mods.retain(|m| !names.contains(m));
    }

    /// Takes cache operators, eviction priorities and prefetch sizes. True if a cache policy follows as an operand.
    pub fn cache(&mut self) -> bool {
        self.ignore(&["ca", "cg", "cs", "lu", "cv", "wb", "wt"]);
        let policy = self.flag("L2::cache_hint");
        self.mods.retain(|m| !m.starts_with("L1::") && !m.starts_with("L2::"));
        policy
    }

    /// Takes the first of these modifiers that is there.
    pub fn choose<T: Copy>(&mut self, list: &[(&str, T)]) -> Option<T> {
        list.iter().find(|(n, _)| self.flag(n)).map(|&(_, v)| v)
    }

    pub fn need<T: Copy>(&mut self, what: &str, list: &[(&str, T)]) -> Res<T> {
        self.choose(list).ok_or_else(|| format!("`{}` does not say {what}", self.raw.name))
    }

    /// Takes the first modifier that `read` understands.
    pub fn read<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (i, value) = self.mods.iter().enumerate().find_map(|(i, m)| Some((i, read(m)?)))?;
        self.mods.remove(i);
        Some(value)
    }

    /// Takes the first modifier that is a type.
    pub fn ty_opt(&mut self) -> Option<Ty> {
        let at = self.mods.iter().position(|m| Ty::named(m).is_some())?;
        Ty::named(self.mods.remove(at))
    }

    pub fn ty(&mut self) -> Res<Ty> {
        self.ty_opt().ok_or_else(|| format!("`{}` names no type that we know", self.raw.name))
    }

    pub fn round(&mut self) -> Option<Round> {
        self.choose(&[
            ("rn", Round::Near),
            ("rna", Round::Away),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
        ])
    }

    /// The form of an arithmetic instruction, with the flags that any of them can have.
    pub fn form(&mut self) -> Res<Form> {
        let round = self.round().unwrap_or(Round::Near);
        let (ftz, sat, relu, nan) = (self.flag("ftz"), self.flag("sat"), self.flag("relu"), self.flag("NaN"));
        let ty = self.ty()?;
        Ok(Form { round, ftz, sat, relu, nan, ..Form::plain(ty) })
    }

    pub fn space(&mut self) -> Space {
        // `shared::cta` and `shared::cluster` are the same here: a cluster has one CTA.
        self.choose(&[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Param),
            ("const", Space::Const),
        ])
        .unwrap_or(Space::Generic)
    }

    /// Order and scope of an access; scopes make no difference on one device.
    pub fn order(&mut self, strong: bool) -> Order {
        self.ignore(&["cta", "cluster", "gpu", "sys"]);
        let o = |acquire, release, strong| Order { acquire, release, strong };
        self.choose(&[
            ("acquire", o(true, false, true)),
            ("release", o(false, true, true)),
            ("acq_rel", o(true, true, true)),
            ("relaxed", o(false, false, true)),
            ("volatile", o(true, true, true)),
            ("weak", o(false, false, false)),
        ])
        .unwrap_or(o(false, false, strong))
    }

    /// Elements of `.v2`, `.v4`, `.v8`.
    pub fn vector(&mut self) -> usize {
        self.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
    }

    pub fn count(&self, min: usize, max: usize) -> Res<()> {
        let n = self.ops.len();
        if (min..=max).contains(&n) {
            return Ok(());
        }
        let range = if min == max { format!("{min}") } else { format!("{min} to {max}") };
        Err(format!("`{}` takes {range} operands, not {n}", self.raw.name))
    }

    fn at(&self, i: usize) -> Res<&'a Operand> {
        self.ops.get(i).ok_or_else(|| format!("`{}` lacks operand {}", self.raw.name, i + 1))
    }

    fn bad<T>(&self, o: &Operand, wanted: &str) -> Res<T> {
        Err(match o {
            Operand::Name(n) => format!("`{n}` is not declared"),
            _ => format!("an operand of `{}` is not {wanted}", self.raw.name),
        })
    }

    /// A register that holds exactly so many bytes; predicates only where one is wanted.
    fn fits(&self, r: RegId, ty: Ty) -> Res<RegId> {
        let have = self.scope.reg_type(r);
        if have.size() == ty.size() && (have == Ty::Pred) == (ty == Ty::Pred) {
            return Ok(r);
        }
        Err(format!("`{}` wants a register of type {}, not {}", self.raw.name, ty.name(), have.name()))
    }

    fn wide_enough(&self, r: RegId, ty: Ty) -> Res<RegId> {
        let have = self.scope.reg_type(r);
        if have.size() >= ty.size() && have != Ty::Pred { Ok(r) } else { self.fits(r, ty) }
    }

    pub fn reg_of(&self, o: &Operand, ty: Ty) -> Res<RegId> {
        match o {
            Operand::Reg(r) => self.fits(*r, ty),
            o => self.bad(o, "a register"),
        }
    }

    pub fn reg(&self, i: usize, ty: Ty) -> Res<RegId> {
        self.reg_of(self.at(i)?, ty)
    }

    pub fn source(&self, o: &Operand, ty: Ty) -> Res<Src> {
        Ok(match o {
            Operand::Reg(r) => Src::Reg(self.fits(*r, ty)?),
            Operand::Special(s) if ty.size() >= 4 => Src::Special(*s),
            Operand::Imm(v) => match constant_bits(*v, ty) {
                Some(b) => Src::Imm(b),
                None => return Err(format!("this constant does not fit type {}", ty.name())),
            },
            Operand::Sym(_, offset) if ty.integer() && ty.size() >= 4 => Src::Imm(self.variable(*offset)),
            o => return self.bad(o, "a source"),
        })
    }

    pub fn src(&self, i: usize, ty: Ty) -> Res<Src> {
        self.source(self.at(i)?, ty)
    }

    /// Dynamic shared memory begins behind the static one, whose size is known only now.
    fn variable(&self, offset: u64) -> u64 {
        if offset < DYNAMIC_SHARED { offset } else { offset - DYNAMIC_SHARED + self.dynamic }
    }

    /// A predicate, possibly behind `!`.
    pub fn pred(&self, i: usize) -> Res<(Src, bool)> {
        match self.at(i)? {
            Operand::Not(r) => Ok((Src::Reg(self.fits(*r, Ty::Pred)?), true)),
            o => Ok((self.source(o, Ty::Pred)?, false)),
        }
    }

    pub fn addr(&self, i: usize) -> Res<Addr> {
        let Operand::Addr(base, offset) = self.at(i)? else {
            return self.bad(self.at(i)?, "an address");
        };
        let base = match &**base {
            Operand::Reg(r) if matches!(self.scope.reg_type(*r).size(), 4 | 8) => Src::Reg(*r),
            Operand::Imm(Imm::Int(n)) => Src::Imm(*n as u64),
            Operand::Sym(_, at) => Src::Imm(self.variable(*at)),
            o => return self.bad(o, "an address"),
        };
        let short = matches!(base, Src::Reg(r) if self.scope.reg_type(r).size() == 4);
        Ok(Addr { base, offset: *offset, short })
    }

    /// Space of the variable that an address names, where it names one.
    pub fn addr_space(&self, i: usize) -> Option<Space> {
        match self.ops.get(i) {
            Some(Operand::Addr(b, _)) => match **b {
                Operand::Sym(space, _) => Some(space),
                _ => None,
            },
            Some(Operand::Sym(space, _)) => Some(*space),
            _ => None,
        }
    }

    /// The operands of `{…}`, or the one operand.
    pub fn list(&self, i: usize, n: usize) -> Res<&'a [Operand]> {
        let list = match self.at(i)? {
            Operand::Vector(v) => v.as_slice(),
            o => std::slice::from_ref(o),
        };
        if list.len() == n { Ok(list) } else { Err(format!("`{}` wants {n} registers here", self.raw.name)) }
    }

    pub fn regs(&self, i: usize, n: usize, ty: Ty) -> Res<Vec<RegId>> {
        self.list(i, n)?.iter().map(|o| self.reg_of(o, ty)).collect()
    }

    /// Destinations of a load: wider registers are allowed, `_` drops the value.
    pub fn load_dst(&self, i: usize, n: usize, ty: Ty) -> Res<Vec<Option<RegId>>> {
        let one = |o: &Operand| match o {
            Operand::Sink => Ok(None),
            Operand::Reg(r) => self.wide_enough(*r, ty).map(Some),
            o => self.bad(o, "a register"),
        };
        self.list(i, n)?.iter().map(one).collect()
    }

    pub fn store_src(&self, i: usize, n: usize, ty: Ty) -> Res<Vec<Src>> {
        let one = |o: &Operand| match o {
            Operand::Reg(r) => self.wide_enough(*r, ty).map(Src::Reg),
            o => self.source(o, ty),
        };
        self.list(i, n)?.iter().map(one).collect()
    }

    /// `a|b` as two registers, or one.
    pub fn pair(&self, i: usize, first: Ty) -> Res<(Option<RegId>, Option<RegId>)> {
        match self.at(i)? {
            Operand::Pair(a, b) => {
                let one = |o: &Operand, ty| if *o == Operand::Sink { Ok(None) } else { self.reg_of(o, ty).map(Some) };
                Ok((one(a, first)?, one(b, Ty::Pred)?))
            }
            o => Ok((Some(self.reg_of(o, first)?), None)),
        }
    }

    pub fn label(&self, i: usize) -> Res<usize> {
        match self.at(i)? {
            Operand::Name(n) => self.labels.get(n).copied().ok_or_else(|| format!("label `{n}` is not defined")),
            o => self.bad(o, "a label"),
        }
    }

    pub fn constant(&self, i: usize) -> Res<u64> {
        match self.src(i, Ty::B32)? {
            Src::Imm(n) => Ok(n),
            _ => self.bad(self.at(i)?, "a constant"),
        }
    }

    pub fn reg_type(&self, r: RegId) -> Ty {
        self.scope.reg_type(r)
    }

    /// An instruction of up to four sources of the same type.
    pub fn lane(&mut self, f: LaneFn, form: Form, sources: usize) -> Res<Op> {
        self.lane_of(f, form, form.ty, &[form.ty; 4][..sources])
    }

    /// An instruction with a type for each operand.
    pub fn lane_of(&mut self, f: LaneFn, form: Form, dst: Ty, types: &[Ty]) -> Res<Op> {
        self.count(types.len() + 1, types.len() + 1)?;
        let mut src = [Src::Imm(0); 4];
        for (i, ty) in types.iter().enumerate() {
            src[i] = self.src(i + 1, *ty)?;
        }
        let dst = Some(self.reg(0, dst)?);
        Ok(Op::Lane { f, form, dst, dst2: None, src, sources: types.len() as u8 })
    }
}

fn decode(raw: &Raw, scope: &Scope<'_>, labels: &HashMap<String, usize>, dynamic: u64) -> Res<Inst> {
    let mut words = raw.name.split('.');
    let root = words.next().unwrap_or_default();
    let unknown = || format!("instruction `{}` is not known to the emulator", raw.name);
    let entry = TABLE.iter().find(|e| e.root == root).ok_or_else(unknown)?;
    let mut d = Dec { raw, mods: words.collect(), ops: &raw.ops, scope, labels, dynamic };
    if let Some((r, _)) = raw.guard {
        d.fits(r, Ty::Pred)?;
    }
    let op = (entry.decode)(&mut d)?;
    if let Some(m) = d.mods.first() {
        return Err(format!("modifier `.{m}` of `{}` is not known to the emulator", raw.name));
    }
    // One name serves integers and floats, or products and waits for them; the counts keep them apart.
    let class = match &op {
        Op::Lane { form, .. } if matches!(entry.class, Class::Integer | Class::Float) => {
            if form.ty.float() {
                Class::Float
            } else {
                Class::Integer
            }
        }
        Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } => Class::Synchronise,
        _ => entry.class,
    };
    Ok(Inst { line: raw.line, guard: raw.guard, class, op })
}

/// Decodes a kernel. It ends in `ret`, so that no program counter runs over the end.
pub(crate) fn decode_all(
    raw: &[Raw],
    labels: &HashMap<String, usize>,
    scope: &Scope<'_>,
    dynamic: u64,
) -> Result<Vec<Inst>, ParseError> {
    let one = |r: &Raw| decode(r, scope, labels, dynamic).map_err(|message| ParseError { line: r.line, message });
    let mut code = raw.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let line = raw.last().map_or(0, |r| r.line);
    code.push(Inst { line, guard: None, class: Class::Control, op: Op::Exit });
    Ok(code)
}
