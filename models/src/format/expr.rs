//! The expression language of block formats.
//!
//! Integers, floats, the variable `i` (element) or `s` (group), fields with an index, and, from loosest to tightest:
//! `c ? a : b`, `|`, `^`, `&`, `== !=`, `< <= > >=`, `<< >>`, `+ -`, `* / %`, unary `-`; calls: `exp2(e)`.
//! Integers are 64 bits and wrap; division by zero and shifts outside 0..=63 give 0, so that no block can stop a decoder.

use super::FloatKind;

const MAX_CHARS: usize = 1024;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 256;

/// Type of a field in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FieldType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F16,
    BF16,
    F32,
}

impl FieldType {
    pub(crate) fn bytes(self) -> usize {
        match self {
            FieldType::U8 | FieldType::I8 => 1,
            FieldType::U16 | FieldType::I16 | FieldType::F16 | FieldType::BF16 => 2,
            FieldType::U32 | FieldType::I32 | FieldType::F32 => 4,
        }
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, FieldType::I8 | FieldType::I16 | FieldType::I32)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, FieldType::F16 | FieldType::BF16 | FieldType::F32)
    }
}

/// A field: `count` values of type `ty`, from byte `at` on, little-endian.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub name: String,
    pub at: usize,
    pub ty: FieldType,
    pub count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Or,
    Xor,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Shl,
    Shr,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Int(i64),
    Float(f64),
    Var,
    Field(usize, Option<Box<Expr>>),
    Neg(Box<Expr>),
    Exp2(Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    Cond(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// A number while evaluating.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Num {
    I(i64),
    F(f64),
}

impl Num {
    pub(crate) fn int(self) -> i64 {
        match self {
            Num::I(v) => v,
            Num::F(v) => v as i64, // saturates
        }
    }

    pub(crate) fn float(self) -> f64 {
        match self {
            Num::I(v) => v as f64,
            Num::F(v) => v,
        }
    }
}

/// What is wrong with an expression, and at which character.
#[derive(Debug)]
pub(crate) struct ExprError {
    pub at: usize,
    pub message: String,
}

pub(crate) fn int_op(op: Op, a: i64, b: i64) -> i64 {
    let shift = u32::try_from(b).ok().filter(|n| *n < 64);
    match op {
        Op::Or => a | b,
        Op::Xor => a ^ b,
        Op::And => a & b,
        Op::Eq => i64::from(a == b),
        Op::Ne => i64::from(a != b),
        Op::Lt => i64::from(a < b),
        Op::Le => i64::from(a <= b),
        Op::Gt => i64::from(a > b),
        Op::Ge => i64::from(a >= b),
        Op::Shl => shift.map_or(0, |n| a.wrapping_shl(n)),
        Op::Shr => shift.map_or(0, |n| a >> n),
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Rem => a.checked_rem(b).unwrap_or(0),
    }
}

fn float_op(op: Op, a: f64, b: f64) -> Num {
    let truth = |b: bool| Num::I(i64::from(b));
    match op {
        Op::Add => Num::F(a + b),
        Op::Sub => Num::F(a - b),
        Op::Mul => Num::F(a * b),
        Op::Div => Num::F(a / b),
        Op::Rem => Num::F(a % b),
        Op::Eq => truth(a == b),
        Op::Ne => truth(a != b),
        Op::Lt => truth(a < b),
        Op::Le => truth(a <= b),
        Op::Gt => truth(a > b),
        Op::Ge => truth(a >= b),
        Op::Or | Op::Xor | Op::And | Op::Shl | Op::Shr => Num::I(int_op(op, a as i64, b as i64)),
    }
}

/// Value `index` of a field; 0 beyond its end (loading refuses such indices).
pub(crate) fn read_field(field: &Field, index: i64, block: &[u8]) -> Num {
    let bytes = usize::try_from(index)
        .ok()
        .filter(|i| *i < field.count)
        .map(|i| field.at + i * field.ty.bytes())
        .and_then(|at| block.get(at..at + field.ty.bytes()));
    let Some(b) = bytes else { return Num::I(0) };
    match (field.ty, b) {
        (FieldType::U8, [a]) => Num::I(i64::from(*a)),
        (FieldType::I8, [a]) => Num::I(i64::from(a.cast_signed())),
        (FieldType::U16, [a, b]) => Num::I(i64::from(u16::from_le_bytes([*a, *b]))),
        (FieldType::I16, [a, b]) => Num::I(i64::from(i16::from_le_bytes([*a, *b]))),
        (FieldType::F16, [a, b]) => Num::F(half::f16::from_le_bytes([*a, *b]).to_f64()),
        (FieldType::BF16, [a, b]) => Num::F(half::bf16::from_le_bytes([*a, *b]).to_f64()),
        (FieldType::U32, [a, b, c, d]) => Num::I(i64::from(u32::from_le_bytes([*a, *b, *c, *d]))),
        (FieldType::I32, [a, b, c, d]) => Num::I(i64::from(i32::from_le_bytes([*a, *b, *c, *d]))),
        (FieldType::F32, [a, b, c, d]) => Num::F(f64::from(f32::from_le_bytes([*a, *b, *c, *d]))),
        _ => Num::I(0),
    }
}

impl Expr {
    /// Evaluates on one block.
    pub(crate) fn eval(&self, fields: &[Field], var: i64, block: &[u8]) -> Num {
        match self {
            Expr::Int(v) => Num::I(*v),
            Expr::Float(v) => Num::F(*v),
            Expr::Var => Num::I(var),
            Expr::Field(f, index) => {
                let index = index.as_ref().map_or(0, |e| e.eval(fields, var, block).int());
                fields.get(*f).map_or(Num::I(0), |f| read_field(f, index, block))
            }
            Expr::Neg(e) => match e.eval(fields, var, block) {
                Num::I(v) => Num::I(v.wrapping_neg()),
                Num::F(v) => Num::F(-v),
            },
            Expr::Exp2(e) => Num::F(e.eval(fields, var, block).float().exp2()),
            Expr::Binary(op, a, b) => match (a.eval(fields, var, block), b.eval(fields, var, block)) {
                (Num::I(a), Num::I(b)) => Num::I(int_op(*op, a, b)),
                (a, b) => float_op(*op, a.float(), b.float()),
            },
            Expr::Cond(c, a, b) => {
                if c.eval(fields, var, block).float() != 0.0 { a.eval(fields, var, block) } else { b.eval(fields, var, block) }
            }
        }
    }

    /// Whether the result can be other than an integer.
    pub(crate) fn is_float(&self, fields: &[Field]) -> bool {
        match self {
            Expr::Int(_) | Expr::Var => false,
            Expr::Float(_) | Expr::Exp2(_) => true,
            Expr::Field(f, _) => fields.get(*f).is_some_and(|f| f.ty.is_float()),
            Expr::Neg(e) => e.is_float(fields),
            Expr::Binary(op, a, b) => {
                matches!(op, Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Rem) && (a.is_float(fields) || b.is_float(fields))
            }
            Expr::Cond(_, a, b) => a.is_float(fields) || b.is_float(fields),
        }
    }

    fn reads_field(&self) -> bool {
        match self {
            Expr::Int(_) | Expr::Float(_) | Expr::Var => false,
            Expr::Field(..) => true,
            Expr::Neg(e) | Expr::Exp2(e) => e.reads_field(),
            Expr::Binary(_, a, b) => a.reads_field() || b.reads_field(),
            Expr::Cond(c, a, b) => c.reads_field() || a.reads_field() || b.reads_field(),
        }
    }
}

/// Parses `text`; `var` is the name of the variable, if one is allowed.
pub(crate) fn parse(text: &str, fields: &[Field], var: Option<&str>) -> Result<Expr, ExprError> {
    let fail = |at, message: String| Err(ExprError { at, message });
    if text.len() > MAX_CHARS {
        return fail(0, format!("the expression has {} characters; at most {MAX_CHARS} are allowed", text.len()));
    }
    if let Some(at) = text.find(|c: char| !c.is_ascii()) {
        return fail(at, "only ASCII is allowed in an expression".into());
    }
    let mut p = Parser { text: text.as_bytes(), pos: 0, fields, var, nodes: 0, depth: 0 };
    let e = p.cond()?;
    p.space();
    if p.pos < p.text.len() {
        return p.fail("expected an operator or the end");
    }
    Ok(e)
}

struct Parser<'a> {
    text: &'a [u8],
    pos: usize,
    fields: &'a [Field],
    var: Option<&'a str>,
    nodes: usize,
    depth: usize,
}

/// Binary operators, loosest level first; a longer spelling stands before its prefix.
const LEVELS: &[&[(&str, Op)]] = &[
    &[("|", Op::Or)],
    &[("^", Op::Xor)],
    &[("&", Op::And)],
    &[("==", Op::Eq), ("!=", Op::Ne)],
    &[("<=", Op::Le), (">=", Op::Ge), ("<", Op::Lt), (">", Op::Gt)],
    &[("<<", Op::Shl), (">>", Op::Shr)],
    &[("+", Op::Add), ("-", Op::Sub)],
    &[("*", Op::Mul), ("/", Op::Div), ("%", Op::Rem)],
];

impl Parser<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ExprError> {
        Err(ExprError { at: self.pos, message: message.into() })
    }

    fn space(&mut self) {
        while self.text.get(self.pos).is_some_and(u8::is_ascii_whitespace) {
            self.pos += 1;
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.text.get(self.pos..).is_some_and(|t| t.starts_with(token.as_bytes()));
        if found {
            self.pos += token.len();
        }
        found
    }

    fn want(&mut self, token: &str) -> Result<(), ExprError> {
        if self.eat(token) { Ok(()) } else { self.fail(format!("expected `{token}`")) }
    }

    fn node(&mut self, e: Expr) -> Result<Expr, ExprError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { self.fail(format!("more than {MAX_NODES} operations; split the format")) } else { Ok(e) }
    }

    fn cond(&mut self) -> Result<Expr, ExprError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("nested deeper than {MAX_DEPTH}; use fewer parentheses"));
        }
        let mut e = self.binary(0)?;
        if self.eat("?") {
            let a = self.cond()?;
            self.want(":")?;
            let b = self.cond()?;
            e = self.node(Expr::Cond(Box::new(e), Box::new(a), Box::new(b)))?;
        }
        self.depth -= 1;
        Ok(e)
    }

    fn operator(&mut self, level: &[(&str, Op)]) -> Option<Op> {
        self.space();
        let rest = self.text.get(self.pos..)?;
        let (token, op) = level.iter().find(|(t, _)| rest.starts_with(t.as_bytes()))?;
        // `<` must not take the first half of `<<`.
        if matches!(op, Op::Lt | Op::Gt) && rest.get(1) == rest.first() {
            return None;
        }
        self.pos += token.len();
        Some(*op)
    }

    fn binary(&mut self, level: usize) -> Result<Expr, ExprError> {
        let Some(ops) = LEVELS.get(level) else { return self.unary() };
        let mut e = self.binary(level + 1)?;
        while let Some(op) = self.operator(ops) {
            let right = self.binary(level + 1)?;
            e = self.node(Expr::Binary(op, Box::new(e), Box::new(right)))?;
        }
        Ok(e)
    }

    fn unary(&mut self) -> Result<Expr, ExprError> {
        let mut negative = false;
        while self.eat("-") {
            negative = !negative;
        }
        let e = self.primary()?;
        if negative { self.node(Expr::Neg(Box::new(e))) } else { Ok(e) }
    }

    fn word(&mut self, more: impl Fn(u8) -> bool) -> String {
        let start = self.pos;
        while self.text.get(self.pos).is_some_and(|c| more(*c)) {
            self.pos += 1;
        }
        String::from_utf8_lossy(self.text.get(start..self.pos).unwrap_or_default()).into_owned()
    }

    fn primary(&mut self) -> Result<Expr, ExprError> {
        if self.eat("(") {
            let e = self.cond()?;
            self.want(")")?;
            return Ok(e);
        }
        self.space();
        let start = self.pos;
        let e = match self.text.get(self.pos) {
            Some(c) if c.is_ascii_digit() => {
                let word = self.word(|c| c.is_ascii_alphanumeric() || c == b'.');
                let int = word.strip_prefix("0x").map_or_else(|| word.parse::<i64>().ok(), |hex| i64::from_str_radix(hex, 16).ok());
                match (int, word.parse::<f64>()) {
                    (Some(v), _) => Expr::Int(v),
                    (None, Ok(v)) => Expr::Float(v),
                    _ => return Err(ExprError { at: start, message: format!("`{word}` is not a number") }),
                }
            }
            Some(c) if c.is_ascii_alphabetic() || *c == b'_' => {
                let word = self.word(|c| c.is_ascii_alphanumeric() || c == b'_');
                return self.name(&word, start);
            }
            _ => return self.fail("expected a number, a field, `-` or `(`"),
        };
        self.node(e)
    }

    fn name(&mut self, word: &str, start: usize) -> Result<Expr, ExprError> {
        if self.var == Some(word) {
            return self.node(Expr::Var);
        }
        if word == "exp2" {
            self.want("(")?;
            let e = self.cond()?;
            self.want(")")?;
            return self.node(Expr::Exp2(Box::new(e)));
        }
        let Some(f) = self.fields.iter().position(|f| f.name == word) else {
            let known: Vec<&str> = self.fields.iter().map(|f| f.name.as_str()).chain(self.var).collect();
            return Err(ExprError { at: start, message: format!("unknown name `{word}`; known here: {}", known.join(", ")) });
        };
        let index = if self.eat("[") {
            let e = self.cond()?;
            self.want("]")?;
            if e.reads_field() || e.is_float(self.fields) {
                return Err(ExprError { at: start, message: format!("the index of `{word}` may use only integers and the variable") });
            }
            Some(Box::new(e))
        } else {
            None
        };
        if index.is_none() && self.fields.get(f).is_some_and(|f| f.count > 1) {
            return Err(ExprError { at: start, message: format!("`{word}` has several values; write `{word}[…]`") });
        }
        self.node(Expr::Field(f, index))
    }
}

/// Whether `v` survives being stored as `kind`.
pub(crate) fn fits(kind: FloatKind, v: f32) -> bool {
    let back = match kind {
        FloatKind::F32 => v,
        FloatKind::F16 => half::f16::from_f32(v).to_f32(),
        FloatKind::BF16 => half::bf16::from_f32(v).to_f32(),
    };
    back == v || !v.is_finite()
}

/// A block of zeros, one of ones, and seeded noise: what a declaration is tried on where nothing can be proved.
pub(crate) fn sample_blocks(fields: &[Field]) -> impl Iterator<Item = Vec<u8>> {
    let len = fields.iter().map(|f| f.at + f.ty.bytes() * f.count).max().unwrap_or(0);
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..64u8).map(move |round| {
        let noise = (0..len).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if round < 2 { round } else { state.to_le_bytes()[7] }
        });
        noise.collect()
    })
}
