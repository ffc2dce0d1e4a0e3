//! Parser of the text form that [`super::print`] writes.
//!
//! It takes anything of the right form, so that [`super::verify`] can say what is wrong with its meaning; what it
//! refuses is a use of a name not yet defined, whose type it would not know. Numeric names keep their numbers where
//! that is possible, so that parsing what was printed gives the same kernel, value for value.
//!
//! ```
//! use tilewright_ir::kernel::{parse, verify};
//! let text = "kernel @answer(%p: ptr) {\n  %1 = const 42 : i32\n  store %1, %p + 0\n}\n";
//! let kernel = parse(text).unwrap();
//! verify(&kernel).unwrap();
//! assert_eq!(kernel.to_string(), text);
//! assert_eq!(parse("kernel @k() { %1 = ad %2 }").unwrap_err().to_string(), "1:20: `ad` is not an op");
//! ```

use rustc_hash::FxHashMap;

use super::{Block, Imm, Inst, Kernel, OP_TABLE, Opcode, Param, Pred, ResultRule, Scalar, Type, Value};
use crate::text::{Cursor, Pos, TextError, Token};

/// Deepest nesting the parser follows; the verifier allows less.
const MAX_NESTING: usize = 200;

/// Reads one kernel.
pub fn parse(text: &str) -> Result<Kernel, TextError> {
    let mut kernels = parse_all(text)?;
    match (kernels.pop(), kernels.is_empty()) {
        (Some(kernel), true) => Ok(kernel),
        _ => Err(TextError { pos: Pos { line: 1, col: 1 }, message: "expected one kernel".into() }),
    }
}

/// Reads any number of kernels.
pub fn parse_all(text: &str) -> Result<Vec<Kernel>, TextError> {
    let mut cursor = Cursor::new(text)?;
    let mut kernels = vec![];
    while !cursor.at_end() {
        let parser = Parser { c: &mut cursor, names: FxHashMap::default(), types: vec![], depth: 0 };
        kernels.push(parser.kernel()?);
    }
    Ok(kernels)
}

struct Parser<'a> {
    c: &'a mut Cursor,
    names: FxHashMap<String, Value>,
    types: Vec<Type>,
    depth: usize,
}

impl Parser<'_> {
    fn kernel(mut self) -> Result<Kernel, TextError> {
        self.c.expect_word("kernel")?;
        let name = self.c.symbol("the kernel's `@name`")?;
        self.c.expect("(")?;
        let mut params = vec![];
        while !self.c.is(")") {
            let name = self.c.percent("a parameter or `)`")?;
            self.c.expect(":")?;
            let ty = self.ty()?;
            let value = self.fresh(ty);
            self.names.insert(name.clone(), value);
            params.push(Param { name, value });
            if !self.c.eat(",") {
                break;
            }
        }
        self.c.expect(")")?;
        let mut block = [("threads", 0), ("resident", 0)];
        for (word, n) in &mut block {
            if self.c.eat_word(word) {
                // A number out of range is left to the verifier.
                *n = u32::try_from(self.c.int("a number of them")?).unwrap_or(u32::MAX);
            }
        }
        let [(_, threads), (_, resident)] = block;
        let body = self.block(vec![])?;
        let mut kernel = Kernel { name, params, threads, resident, types: self.types, body };
        renumber(&mut kernel, &self.names);
        Ok(kernel)
    }

    fn fresh(&mut self, ty: Type) -> Value {
        self.types.push(ty);
        Value(self.types.len() as u32 - 1)
    }

    /// A second definition gives the same value, for the verifier to find.
    fn define(&mut self, name: String, ty: Type) -> Value {
        if let Some(&v) = self.names.get(&name) {
            return v;
        }
        let value = self.fresh(ty);
        self.names.insert(name, value);
        value
    }

    fn used(&mut self) -> Result<Value, TextError> {
        let pos = self.c.pos();
        let name = self.c.percent("a value")?;
        let unknown = || TextError { pos, message: format!("%{name} is not defined before this") };
        self.names.get(&name).copied().ok_or_else(unknown)
    }

    fn ty(&mut self) -> Result<Type, TextError> {
        let pos = self.c.pos();
        let name = self.c.word("a type")?;
        let unknown = || TextError { pos, message: format!("`{name}` is not a type") };
        Type::from_name(&name).ok_or_else(unknown)
    }

    /// `{ … }`; `params` are already defined.
    fn block(&mut self, params: Vec<Value>) -> Result<Block, TextError> {
        if self.depth == MAX_NESTING {
            let message = format!("blocks nest more than {MAX_NESTING} deep");
            return Err(TextError { pos: self.c.pos(), message });
        }
        self.depth += 1;
        self.c.expect("{")?;
        let mut block = Block { params, ..Block::default() };
        while !self.c.is("}") && !self.c.is_word("yield") {
            let inst = self.inst()?;
            block.insts.push(inst);
        }
        if self.c.eat_word("yield") {
            loop {
                block.yields.push(self.used()?);
                if !self.c.eat(",") {
                    break;
                }
            }
        }
        self.c.expect("}")?;
        self.depth -= 1;
        Ok(block)
    }

    fn inst(&mut self) -> Result<Inst, TextError> {
        let mut results = vec![];
        while matches!(self.c.peek(), Token::Percent(_)) {
            results.push(self.c.percent("a result")?);
            if !self.c.eat(",") {
                self.c.expect("=")?;
                break;
            }
        }
        let pos = self.c.pos();
        let name = self.c.word("an instruction, `yield` or `}`")?;
        let row = OP_TABLE.iter().find(|row| row.name == name);
        let row = row.ok_or_else(|| TextError { pos, message: format!("`{name}` is not an op") })?;
        let mut inst = Inst { op: row.op, args: vec![], imm: Imm::None, results: vec![], blocks: vec![] };
        let types = match row.op {
            Opcode::For => self.for_loop(&mut inst)?,
            Opcode::If => self.branch(&mut inst)?,
            Opcode::Const => self.constant(&mut inst)?,
            _ => self.plain(&mut inst, pos.line)?,
        };
        for (i, name) in results.into_iter().enumerate() {
            // Results in excess get some type; the verifier counts them.
            let ty = types.get(i).copied().unwrap_or(Type::I64);
            let value = self.define(name, ty);
            inst.results.push(value);
        }
        Ok(inst)
    }

    /// Operands begin on the line of the op: `chunk_id` has none, whatever the next line begins with.
    fn plain(&mut self, inst: &mut Inst, line: u32) -> Result<Vec<Type>, TextError> {
        let info = inst.op.info();
        if info.imm == "pred" {
            let pos = self.c.pos();
            let word = self.c.word("a predicate")?;
            let row = Pred::TABLE.iter().find(|(_, name)| *name == word);
            let known = Pred::TABLE.map(|(_, name)| name).join(", ");
            let message = format!("`{word}` is not a predicate; there are {known}");
            inst.imm = Imm::Pred(row.ok_or(TextError { pos, message })?.0);
        }
        if info.imm == "tiles" {
            let mut tiles = [0; 3];
            for (i, tile) in tiles.iter_mut().enumerate() {
                if i > 0 {
                    self.c.expect(",")?;
                }
                // Numbers that are too large are left to the verifier.
                *tile = u8::try_from(self.c.int("a tile")?).unwrap_or(u8::MAX);
            }
            inst.imm = Imm::Tiles(tiles);
            return Ok(vec![]);
        }
        let mut more = self.c.pos().line == line;
        while more {
            if matches!(self.c.peek(), Token::Percent(_)) {
                inst.args.push(self.used()?);
            } else if self.c.is_int() {
                inst.imm = Imm::Int(self.c.int("an immediate")?);
            } else if !inst.args.is_empty() {
                return Err(self.c.expected("a value or an immediate"));
            } else {
                break;
            }
            more = self.c.eat(",");
        }
        if self.c.eat("+") {
            inst.imm = Imm::Int(self.c.int("a byte offset")?);
        }
        let arg = |i: usize| inst.args.get(i).map_or(Type::I64, |&a: &Value| self.types[a.0 as usize]);
        Ok(match info.result {
            ResultRule::None | ResultRule::Yields => vec![],
            ResultRule::Same => vec![arg(0)],
            ResultRule::Second => vec![arg(1)],
            ResultRule::Bool => vec![arg(0).with(Scalar::I1)],
            ResultRule::Element => vec![arg(0).x(1)],
            ResultRule::Ptr => vec![Type::PTR],
            ResultRule::Shared => vec![Type::SHARED],
            ResultRule::I32 => vec![Type::I32],
            ResultRule::I64 => vec![Type::I64],
            ResultRule::Stated => {
                self.c.expect(":")?;
                vec![self.ty()?]
            }
        })
    }

    /// `const 1.5 : f32x4`; the type says how the number is read.
    fn constant(&mut self, inst: &mut Inst) -> Result<Vec<Type>, TextError> {
        let number = self.c.mark();
        self.c.float("a number")?;
        self.c.expect(":")?;
        let ty = self.ty()?;
        let end = self.c.mark();
        self.c.rewind(number);
        // A float where an integer belongs is left to the verifier.
        let int = !ty.scalar.is_float() && self.c.is_int();
        inst.imm = if int { Imm::Int(self.c.int("an integer")?) } else { Imm::Float(self.c.float("a number")?) };
        self.c.rewind(end);
        Ok(vec![ty])
    }

    /// `for %i = %lo to %hi step 1 (%acc = %init) { … }`.
    fn for_loop(&mut self, inst: &mut Inst) -> Result<Vec<Type>, TextError> {
        let index = self.c.percent("the loop variable")?;
        self.c.expect("=")?;
        inst.args.push(self.used()?);
        self.c.expect_word("to")?;
        inst.args.push(self.used()?);
        self.c.expect_word("step")?;
        inst.imm = Imm::Int(self.c.int("the step")?);
        let mut carried = vec![];
        if self.c.eat("(") {
            while !self.c.is(")") {
                let name = self.c.percent("a carried value or `)`")?;
                self.c.expect("=")?;
                let init = self.used()?;
                inst.args.push(init);
                carried.push((name, self.types[init.0 as usize]));
                if !self.c.eat(",") {
                    break;
                }
            }
            self.c.expect(")")?;
        }
        let types: Vec<Type> = carried.iter().map(|(_, ty)| *ty).collect();
        let mut params = vec![self.define(index, Type::I64)];
        for (name, ty) in carried {
            params.push(self.define(name, ty));
        }
        inst.blocks.push(self.block(params)?);
        Ok(types)
    }

    /// `if %c { … } else { … }`; a missing `else` is empty.
    fn branch(&mut self, inst: &mut Inst) -> Result<Vec<Type>, TextError> {
        inst.args.push(self.used()?);
        let then = self.block(vec![])?;
        let types = then.yields.iter().map(|v| self.types[v.0 as usize]).collect();
        let otherwise = if self.c.eat_word("else") { self.block(vec![])? } else { Block::default() };
        inst.blocks = vec![then, otherwise];
        Ok(types)
    }
}

/// Gives values with a numeric name that number; the others, parameters among them, fill the gaps in order.
fn renumber(kernel: &mut Kernel, names: &FxHashMap<String, Value>) {
    let n = kernel.types.len();
    let mut new: Vec<Option<u32>> = vec![None; n];
    let mut taken = vec![false; n];
    for (name, v) in names {
        let canonical = name == "0" || !name.starts_with('0');
        let number = name.parse::<u32>().ok().filter(|&k| canonical && (k as usize) < n);
        if let Some(k) = number
            && kernel.params.iter().all(|p| p.value != *v)
        {
            new[v.0 as usize] = Some(k);
            taken[k as usize] = true;
        }
    }
    let mut free = (0..n as u32).filter(|&k| !taken[k as usize]);
    // As many numbers are free as values lack one.
    let new: Vec<Value> = new.into_iter().map(|k| Value(k.or_else(|| free.next()).unwrap_or(0))).collect();
    let old = kernel.types.clone();
    for (from, ty) in old.into_iter().enumerate() {
        kernel.types[new[from].0 as usize] = ty;
    }
    for p in &mut kernel.params {
        p.value = new[p.value.0 as usize];
    }
    renumber_block(&mut kernel.body, &new);
}

fn renumber_block(block: &mut Block, new: &[Value]) {
    let renamed = |v: &mut Value| *v = new[v.0 as usize];
    block.params.iter_mut().chain(&mut block.yields).for_each(renamed);
    for inst in &mut block.insts {
        inst.args.iter_mut().chain(&mut inst.results).for_each(renamed);
        inst.blocks.iter_mut().for_each(|b| renumber_block(b, new));
    }
}
