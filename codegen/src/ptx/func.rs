//! The text of a kernel as it grows: registers, instructions, labels, and what has been computed already.

use std::fmt::{self, Write};

use rustc_hash::FxHashMap;

/// Sizes of registers. They have no type beyond that: an instruction says what it takes them for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Class {
    /// A truth value.
    Pred,
    /// 16 bits, only on the way into and out of conversions.
    Half,
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

impl Class {
    /// Letter of the registers, and the type they are declared with.
    const TABLE: [(Class, &'static str, &'static str); 4] =
        [(Class::Pred, "p", "pred"), (Class::Half, "h", "b16"), (Class::Word, "r", "b32"), (Class::Double, "d", "b64")];

    /// The type that says no more than the size.
    pub(super) fn bits(self) -> &'static str {
        Class::TABLE[self as usize].2
    }
}

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reg {
    pub(super) class: Class,
    n: u32,
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}{}", Class::TABLE[self.class as usize].1, self.n)
    }
}

/// A register, or the bits of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Opnd {
    Reg(Reg),
    Imm(u64),
}

impl From<Reg> for Opnd {
    fn from(r: Reg) -> Opnd {
        Opnd::Reg(r)
    }
}

/// As the operand of an instruction of that type.
fn show(o: Opnd, ty: &str) -> String {
    let plain = |n: i64, hex: String| if n.abs() < 1 << 16 { n.to_string() } else { hex };
    match o {
        Opnd::Reg(r) => r.to_string(),
        Opnd::Imm(v) => match ty {
            "f32" => format!("0f{:08X}", v as u32),
            "f64" => format!("0d{v:016X}"),
            "b64" | "s64" | "u64" => plain((v as i64).max(-i64::MAX), format!("{v:#x}")),
            _ => plain(v as u32 as i32 as i64, format!("{:#x}", v as u32)),
        },
    }
}

/// A value that is computed once where the same is needed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Known {
    /// `reg * scale + add` in 32 bits.
    Low(Reg, i32, i32),
    /// `reg * scale` in 64 bits, the register's 32 bits with their sign.
    Wide(Reg, i64),
    /// The first plus so many bytes.
    Plus(Reg, i64),
    /// The first plus `reg * scale`, signed.
    PlusProduct(Reg, Reg, i32),
    /// The first plus the second.
    Sum(Reg, Reg),
    /// Where shared memory begins.
    Shared,
    /// A constant in a register.
    Constant(Class, u64),
}

/// A kernel's body.
#[derive(Debug, Default)]
pub(super) struct Func {
    lines: Vec<String>,
    counts: [u32; 4],
    labels: u32,
    known: FxHashMap<Known, Reg>,
    /// What became known since the beginning, for [`Func::leave`].
    log: Vec<Known>,
}

impl Func {
    /// A new register.
    pub(super) fn fresh(&mut self, class: Class) -> Reg {
        let n = self.counts[class as usize];
        self.counts[class as usize] += 1;
        Reg { class, n }
    }

    /// A line as it is.
    pub(super) fn line(&mut self, text: String) {
        self.lines.push(text);
    }

    /// `name dst, sources;` into a new register. Constants are written for the last type in the name.
    pub(super) fn op(&mut self, name: &str, class: Class, sources: &[Opnd]) -> Opnd {
        let dst = self.fresh(class);
        self.op_to(name, dst, sources);
        dst.into()
    }

    /// [`Func::op`] on 32 bits.
    pub(super) fn word(&mut self, name: &str, sources: &[Opnd]) -> Opnd {
        self.op(name, Class::Word, sources)
    }

    /// [`Func::op`] into that register.
    pub(super) fn op_to(&mut self, name: &str, dst: Reg, sources: &[Opnd]) {
        let ty = name.rsplit('.').next().unwrap_or_default();
        let sources: Vec<String> = sources.iter().map(|&s| show(s, ty)).collect();
        self.line(format!("{name} {dst}, {};", sources.join(", ")));
    }

    /// Copies into a register.
    pub(super) fn mov(&mut self, dst: Reg, from: Opnd) {
        if from != Opnd::Reg(dst) {
            self.op_to(&format!("mov.{}", dst.class.bits()), dst, &[from]);
        }
    }

    /// The operand as a register.
    pub(super) fn reg(&mut self, o: Opnd, class: Class) -> Reg {
        match o {
            Opnd::Reg(r) => r,
            Opnd::Imm(v) => self.once(Known::Constant(class, v), |f| {
                let r = f.fresh(class);
                f.mov(r, o);
                r
            }),
        }
    }

    /// The register that holds what `what` says, made by `f` if it is not there yet.
    pub(super) fn once(&mut self, what: Known, f: impl FnOnce(&mut Func) -> Reg) -> Reg {
        if let Some(&r) = self.known.get(&what) {
            return r;
        }
        let r = f(self);
        self.known.insert(what, r);
        self.log.push(what);
        r
    }

    /// Begins a block that may not run; what becomes known in it is forgotten by [`Func::leave`].
    pub(super) fn enter(&self) -> usize {
        self.log.len()
    }

    /// Ends the block that [`Func::enter`] began.
    pub(super) fn leave(&mut self, mark: usize) {
        for what in self.log.drain(mark..) {
            self.known.remove(&what);
        }
    }

    /// A label for [`Func::place`] and [`Func::jump`].
    pub(super) fn label(&mut self) -> u32 {
        self.labels += 1;
        self.labels
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: u32) {
        self.line(format!("L{label}:"));
    }

    /// Goes to a label, always or where the predicate is `wanted`.
    pub(super) fn jump(&mut self, guard: Option<(Reg, bool)>, label: u32) {
        let guard = guard.map_or(String::new(), |(p, wanted)| format!("@{}{p} ", if wanted { "" } else { "!" }));
        self.line(format!("{guard}bra L{label};"));
    }

    /// Number of lines so far, for [`Func::cut`].
    pub(super) fn here(&self) -> usize {
        self.lines.len()
    }

    /// Takes the lines since `from` away, to be put back later.
    pub(super) fn cut(&mut self, from: usize) -> Vec<String> {
        self.lines.split_off(from)
    }

    /// Puts lines back.
    pub(super) fn paste(&mut self, lines: Vec<String>) {
        self.lines.extend(lines);
    }

    /// Declarations of the registers, then all lines.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for (class, letter, ty) in Class::TABLE {
            let n = self.counts[class as usize];
            if n > 0 {
                let _ = writeln!(out, "    .reg .{ty} %{letter}<{n}>;");
            }
        }
        for line in &self.lines {
            let indent = if line.ends_with(':') { "" } else { "    " };
            let _ = writeln!(out, "{indent}{line}");
        }
        out
    }
}
