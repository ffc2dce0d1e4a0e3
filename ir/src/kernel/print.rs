//! Text form of kernels, read back by [`super::parse`].
//!
//! ```text
//! kernel @twice(%x: ptr, %n: i64) {
//!   %2 = const 0 : i64
//!   for %3 = %2 to %n step 4 {
//!     %4 = const 4 : i64
//!     %5 = mul %3, %4
//!     %6 = offset %x, %5
//!     %7 = load %6 + 0 : f32x4
//!     %8 = add %7, %7
//!     store %8, %6 + 0
//!   }
//! }
//! ```
//!
//! Parameters keep their names, other values are their numbers. Printing never fails, so that the verifier can quote
//! the kernels it refuses.

use std::fmt::{self, Display, Write};

use super::{Block, Imm, Inst, Kernel, Opcode, ResultRule, Value};

/// Text of a kernel.
pub fn print(kernel: &Kernel) -> String {
    kernel.to_string()
}

impl Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel @{}(", self.name)?;
        for (i, p) in self.params.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            match self.types.get(p.value.0 as usize) {
                Some(ty) => write!(f, "{comma}%{}: {ty}", p.name)?,
                None => write!(f, "{comma}%{}: ?", p.name)?,
            }
        }
        f.write_str(")")?;
        for (word, n) in [("threads", self.threads), ("resident", self.resident)] {
            if n > 0 {
                write!(f, " {word} {n}")?;
            }
        }
        f.write_str(" {\n")?;
        Printer { kernel: self, names: names(self), out: &mut *f, indent: 1 }.block(&self.body)?;
        f.write_str("}\n")
    }
}

/// One instruction on one line, bodies left out; for messages.
pub fn inst_line(kernel: &Kernel, inst: &Inst) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = Printer { kernel, names: names(kernel), out: &mut out, indent: 0 }.head(inst);
    out
}

/// Name of each value that is a parameter.
fn names(kernel: &Kernel) -> Vec<Option<&str>> {
    let mut names = vec![None; kernel.types.len()];
    for p in &kernel.params {
        if let Some(name) = names.get_mut(p.value.0 as usize) {
            *name = Some(p.name.as_str());
        }
    }
    names
}

struct Printer<'a, W> {
    kernel: &'a Kernel,
    names: Vec<Option<&'a str>>,
    out: W,
    indent: usize,
}

impl<W: Write> Printer<'_, W> {
    fn value(&mut self, v: Value) -> fmt::Result {
        match self.names.get(v.0 as usize) {
            Some(Some(name)) => write!(self.out, "%{name}"),
            _ => write!(self.out, "%{}", v.0),
        }
    }

    fn values(&mut self, values: &[Value]) -> fmt::Result {
        for (i, &v) in values.iter().enumerate() {
            if i > 0 {
                self.out.write_str(", ")?;
            }
            self.value(v)?;
        }
        Ok(())
    }

    fn line(&mut self) -> fmt::Result {
        write!(self.out, "{:1$}", "", self.indent * 2)
    }

    fn block(&mut self, block: &Block) -> fmt::Result {
        for inst in &block.insts {
            self.line()?;
            self.head(inst)?;
            for (i, body) in inst.blocks.iter().enumerate() {
                let empty = body.insts.is_empty() && body.yields.is_empty();
                match (inst.op, i) {
                    (Opcode::If, 1) if empty => continue,
                    (Opcode::If, 1) => self.out.write_str(" else {\n")?,
                    _ => self.out.write_str(" {\n")?,
                }
                self.indent += 1;
                self.block(body)?;
                self.indent -= 1;
                self.line()?;
                self.out.write_str("}")?;
            }
            self.out.write_str("\n")?;
        }
        if !block.yields.is_empty() {
            self.line()?;
            self.out.write_str("yield ")?;
            self.values(&block.yields)?;
            self.out.write_str("\n")?;
        }
        Ok(())
    }

    /// The instruction up to its bodies.
    fn head(&mut self, inst: &Inst) -> fmt::Result {
        let info = inst.op.info();
        if !inst.results.is_empty() {
            self.values(&inst.results)?;
            self.out.write_str(" = ")?;
        }
        self.out.write_str(info.name)?;
        if inst.op == Opcode::For {
            return self.for_head(inst);
        }
        if let Imm::Pred(p) = inst.imm {
            write!(self.out, " {p}")?;
        }
        if !inst.args.is_empty() {
            self.out.write_str(" ")?;
            self.values(&inst.args)?;
        }
        let before = match inst.op {
            Opcode::Load | Opcode::LoadStream | Opcode::Store => " + ",
            _ if inst.args.is_empty() => " ",
            _ => ", ",
        };
        match inst.imm {
            Imm::Int(v) => write!(self.out, "{before}{v}")?,
            Imm::Float(v) if v.is_nan() => write!(self.out, "{before}nan")?,
            Imm::Float(v) => write!(self.out, "{before}{v:?}")?,
            Imm::Tiles([c, x, y]) => write!(self.out, "{before}{c}, {x}, {y}")?,
            Imm::None | Imm::Pred(_) => {}
        }
        if info.result == ResultRule::Stated
            && let Some(&r) = inst.results.first()
        {
            match self.kernel.types.get(r.0 as usize) {
                Some(ty) => write!(self.out, " : {ty}")?,
                None => self.out.write_str(" : ?")?,
            }
        }
        Ok(())
    }

    /// ` %i = %lo to %hi step 1 (%acc = %init)`, without parentheses where nothing is carried.
    fn for_head(&mut self, inst: &Inst) -> fmt::Result {
        let params = inst.blocks.first().map_or(&[][..], |b| &b.params);
        let arg = |i: usize| inst.args.get(i).copied();
        for (i, (word, v)) in [("", params.first().copied()), ("= ", arg(0)), ("to ", arg(1))].into_iter().enumerate() {
            write!(self.out, " {word}")?;
            match v {
                Some(v) => self.value(v)?,
                None => write!(self.out, "?{i}")?,
            }
        }
        match inst.imm {
            Imm::Int(step) => write!(self.out, " step {step}")?,
            _ => self.out.write_str(" step ?")?,
        }
        let carried = params.len().saturating_sub(1).max(inst.args.len().saturating_sub(2));
        for k in 0..carried {
            self.out.write_str(if k > 0 { ", " } else { " (" })?;
            match params.get(1 + k) {
                Some(&p) => self.value(p)?,
                None => self.out.write_str("?")?,
            }
            self.out.write_str(" = ")?;
            match arg(2 + k) {
                Some(a) => self.value(a)?,
                None => self.out.write_str("?")?,
            }
        }
        self.out.write_str(if carried > 0 { ")" } else { "" })
    }
}
