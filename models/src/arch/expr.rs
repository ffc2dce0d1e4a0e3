//! The expressions of architecture declarations.
//!
//! Numbers, `'words'`, `true`, `false`, names, `list[index]`, and from loosest to tightest: `c ? a : b`, `or`, `and`,
//! `not`, `== != < <= > >=`, `+ -`, `* / %`, unary `-`. Functions: `sqrt ln floor pow min max len`; `has(tensor)` says
//! whether the file has it and `rows(tensor)` how many rows; `pi` is a number. Types are checked while evaluating;
//! nothing converts silently.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, Visitor};

const MAX_CHARS: usize = 1024;
const MAX_DEPTH: usize = 32;

/// What an expression, a metadata key or a hyper-parameter is worth.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any number; integers are exact up to 2^53.
    Num(f64),
    /// Flag.
    Bool(bool),
    /// Word.
    Word(String),
    /// List.
    List(Arc<[Value]>),
}

impl Value {
    /// The number, if it is one.
    pub fn num(&self) -> Option<f64> {
        if let Value::Num(n) = self { Some(*n) } else { None }
    }

    /// The number, if it is an integer from 0 to 2^53.
    pub fn int(&self) -> Option<u64> {
        self.num().filter(|n| n.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(n)).map(|n| n as u64)
    }

    fn kind(&self) -> &'static str {
        match self {
            Value::Num(_) => "a number",
            Value::Bool(_) => "a flag",
            Value::Word(_) => "a word",
            Value::List(_) => "a list",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Num(n) => write!(f, "{n}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Word(w) => write!(f, "'{w}'"),
            Value::List(l) => write!(f, "a list of {}", l.len()),
        }
    }
}

/// What names mean where an expression is evaluated.
pub(crate) trait Env {
    /// A hyper-parameter or local name.
    fn name(&self, name: &str) -> Result<Value, String>;
    /// Whether the file has the tensor of that logical name.
    fn has(&self, tensor: &str) -> Result<bool, String>;
    /// Rows of that tensor.
    fn rows(&self, tensor: &str) -> Result<u64, String>;
}

/// What an expression mentions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mention<'a> {
    Name(&'a str),
    Tensor(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

/// Binary operators, loosest level first; a longer spelling stands before its prefix.
const LEVELS: &[&[(&str, Op)]] = &[
    &[("or", Op::Or)],
    &[("and", Op::And)],
    &[("==", Op::Eq), ("!=", Op::Ne), ("<=", Op::Le), (">=", Op::Ge), ("<", Op::Lt), (">", Op::Gt)],
    &[("+", Op::Add), ("-", Op::Sub)],
    &[("*", Op::Mul), ("/", Op::Div), ("%", Op::Rem)],
];
const COMPARE: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Sqrt,
    Ln,
    Floor,
    Pow,
    Min,
    Max,
    Len,
}

const CALLS: &[(&str, Call, usize)] = &[
    ("sqrt", Call::Sqrt, 1),
    ("ln", Call::Ln, 1),
    ("floor", Call::Floor, 1),
    ("pow", Call::Pow, 2),
    ("min", Call::Min, 2),
    ("max", Call::Max, 2),
    ("len", Call::Len, 1),
];

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Value(Value),
    Name(String),
    Index(String, Box<Node>),
    Has(String),
    Rows(String),
    Neg(Box<Node>),
    Not(Box<Node>),
    Binary(Op, Box<Node>, Box<Node>),
    Cond(Box<Node>, Box<Node>, Box<Node>),
    Call(Call, Vec<Node>),
}

/// A parsed expression.
#[derive(Clone, PartialEq)]
pub(crate) struct Expr {
    text: String,
    node: Node,
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.text)
    }
}

impl Expr {
    /// Parses; the error names the character.
    pub(crate) fn parse(text: &str) -> Result<Expr, String> {
        let fail = |at: usize, what: String| format!("the expression `{text}` is wrong at character {}: {what}", at + 1);
        if text.len() > MAX_CHARS || !text.is_ascii() {
            return Err(format!("an expression must be ASCII of at most {MAX_CHARS} characters"));
        }
        let mut p = Parser { text, pos: 0, depth: 0 };
        let node = p.cond().map_err(|w| fail(p.pos, w))?;
        p.space();
        if p.pos < text.len() {
            return Err(fail(p.pos, "expected an operator or the end".into()));
        }
        Ok(Expr { text: text.to_owned(), node })
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The name, if it is only a name.
    pub(crate) fn as_name(&self) -> Option<&str> {
        if let Node::Name(n) = &self.node { Some(n) } else { None }
    }

    /// The value, if it is a literal.
    pub(crate) fn as_literal(&self) -> Option<&Value> {
        if let Node::Value(v) = &self.node { Some(v) } else { None }
    }

    /// The value in `env`, or a sentence.
    pub(crate) fn eval(&self, env: &dyn Env) -> Result<Value, String> {
        self.node.eval(env).map_err(|e| format!("`{}`: {e}", self.text))
    }

    /// The flag it is.
    pub(crate) fn flag(&self, env: &dyn Env) -> Result<bool, String> {
        match self.eval(env)? {
            Value::Bool(b) => Ok(b),
            v => Err(format!("`{}` is {}, not a flag", self.text, v.kind())),
        }
    }

    /// The finite number it is.
    pub(crate) fn num(&self, env: &dyn Env) -> Result<f64, String> {
        match self.eval(env)? {
            Value::Num(n) if n.is_finite() => Ok(n),
            v => Err(format!("`{}` is {v}, not a finite number", self.text)),
        }
    }

    /// The integer ≥ 0 it is.
    pub(crate) fn int(&self, env: &dyn Env) -> Result<u64, String> {
        let v = self.eval(env)?;
        v.int().ok_or_else(|| format!("`{}` is {v}, not an integer from 0 up", self.text))
    }

    /// Every name and tensor it mentions.
    pub(crate) fn mentions(&self) -> Vec<Mention<'_>> {
        let mut out = vec![];
        self.node.mentions(&mut out);
        out
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Expr, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Expr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression")
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Expr, E> {
                Ok(Expr { text: v.to_string(), node: Node::Value(Value::Bool(v)) })
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Expr, E> {
                self.visit_f64(v as f64)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Expr, E> {
                self.visit_f64(v as f64)
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Expr, E> {
                if !v.is_finite() {
                    return Err(E::custom("an expression must be finite"));
                }
                Ok(Expr { text: v.to_string(), node: Node::Value(Value::Num(v)) })
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Expr, E> {
                Expr::parse(v).map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}

impl Node {
    fn mentions<'a>(&'a self, out: &mut Vec<Mention<'a>>) {
        match self {
            Node::Value(_) => {}
            Node::Name(n) => out.push(Mention::Name(n)),
            Node::Has(t) | Node::Rows(t) => out.push(Mention::Tensor(t)),
            Node::Index(n, e) => {
                out.push(Mention::Name(n));
                e.mentions(out);
            }
            Node::Neg(e) | Node::Not(e) => e.mentions(out),
            Node::Binary(_, a, b) => [a, b].into_iter().for_each(|e| e.mentions(out)),
            Node::Cond(c, a, b) => [c, a, b].into_iter().for_each(|e| e.mentions(out)),
            Node::Call(_, args) => args.iter().for_each(|e| e.mentions(out)),
        }
    }

    fn eval(&self, env: &dyn Env) -> Result<Value, String> {
        Ok(match self {
            Node::Value(v) => v.clone(),
            Node::Name(n) => env.name(n)?,
            Node::Has(t) => Value::Bool(env.has(t)?),
            Node::Rows(t) => Value::Num(env.rows(t)? as f64),
            Node::Index(n, e) => {
                let index = e.eval(env)?;
                match env.name(n)? {
                    Value::List(l) => {
                        let at = index.int().and_then(|i| l.get(i as usize));
                        at.cloned().ok_or_else(|| format!("`{n}` has {} elements, none at {index}", l.len()))?
                    }
                    v => return Err(format!("`{n}` is {}, not a list", v.kind())),
                }
            }
            Node::Neg(e) => Value::Num(-e.num(env)?),
            Node::Not(e) => Value::Bool(!e.flag(env)?),
            Node::Cond(c, a, b) => (if c.flag(env)? { a } else { b }).eval(env)?,
            Node::Binary(Op::Or, a, b) => Value::Bool(a.flag(env)? || b.flag(env)?),
            Node::Binary(Op::And, a, b) => Value::Bool(a.flag(env)? && b.flag(env)?),
            Node::Binary(op @ (Op::Eq | Op::Ne), a, b) => {
                let (a, b) = (a.eval(env)?, b.eval(env)?);
                if a.kind() != b.kind() {
                    return Err(format!("{a} is {} and {b} is {}", a.kind(), b.kind()));
                }
                Value::Bool((a == b) == (*op == Op::Eq))
            }
            Node::Binary(op, a, b) => arithmetic(*op, a.num(env)?, b.num(env)?)?,
            Node::Call(Call::Len, args) => match args[0].eval(env)? {
                Value::List(l) => Value::Num(l.len() as f64),
                v => return Err(format!("len of {}", v.kind())),
            },
            Node::Call(call, args) => {
                let a = args[0].num(env)?;
                let b = args.get(1).map_or(Ok(0.0), |b| b.num(env))?;
                Value::Num(match call {
                    Call::Sqrt => a.sqrt(),
                    Call::Ln => a.ln(),
                    Call::Floor => a.floor(),
                    Call::Pow => a.powf(b),
                    Call::Min => a.min(b),
                    Call::Max => a.max(b),
                    Call::Len => unreachable!("matched above"),
                })
            }
        })
    }

    fn num(&self, env: &dyn Env) -> Result<f64, String> {
        let v = self.eval(env)?;
        v.num().ok_or_else(|| format!("{v} is {}, where a number is needed", v.kind()))
    }

    fn flag(&self, env: &dyn Env) -> Result<bool, String> {
        match self.eval(env)? {
            Value::Bool(b) => Ok(b),
            v => Err(format!("{v} is {}, where a flag is needed", v.kind())),
        }
    }
}

fn arithmetic(op: Op, a: f64, b: f64) -> Result<Value, String> {
    Ok(match op {
        Op::Lt => Value::Bool(a < b),
        Op::Le => Value::Bool(a <= b),
        Op::Gt => Value::Bool(a > b),
        Op::Ge => Value::Bool(a >= b),
        Op::Add => Value::Num(a + b),
        Op::Sub => Value::Num(a - b),
        Op::Mul => Value::Num(a * b),
        Op::Div | Op::Rem if b == 0.0 => return Err("division by zero".into()),
        Op::Div => Value::Num(a / b),
        Op::Rem => Value::Num(a % b),
        Op::Or | Op::And | Op::Eq | Op::Ne => unreachable!("handled by the caller"),
    })
}

struct Parser<'a> {
    text: &'a str,
    pos: usize,
    depth: usize,
}

type Parsed = Result<Node, String>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.pos..]
    }

    fn space(&mut self) {
        self.pos += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let word = token.as_bytes()[0].is_ascii_alphabetic();
        let found = match self.rest().strip_prefix(token) {
            Some(after) => !word || !after.starts_with(is_word),
            None => false,
        };
        self.pos += if found { token.len() } else { 0 };
        found
    }

    fn want(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}`")) }
    }

    fn cond(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        let mut e = self.binary(0)?;
        if self.eat("?") {
            let a = self.cond()?;
            self.want(":")?;
            e = Node::Cond(Box::new(e), Box::new(a), Box::new(self.cond()?));
        }
        self.depth -= 1;
        Ok(e)
    }

    fn binary(&mut self, level: usize) -> Parsed {
        let Some(ops) = LEVELS.get(level) else { return self.unary() };
        if level == COMPARE && self.eat("not") {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(format!("nested deeper than {MAX_DEPTH}"));
            }
            let e = self.binary(level)?;
            self.depth -= 1;
            return Ok(Node::Not(Box::new(e)));
        }
        let mut e = self.binary(level + 1)?;
        while let Some((_, op)) = ops.iter().find(|(t, _)| self.eat(t)) {
            e = Node::Binary(*op, Box::new(e), Box::new(self.binary(level + 1)?));
            if level == COMPARE {
                break;
            }
        }
        Ok(e)
    }

    fn unary(&mut self) -> Parsed {
        if !self.eat("-") {
            return self.atom();
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        let e = self.unary()?;
        self.depth -= 1;
        Ok(Node::Neg(Box::new(e)))
    }

    fn atom(&mut self) -> Parsed {
        self.space();
        let rest = self.rest();
        if self.eat("(") {
            let e = self.cond()?;
            self.want(")")?;
            return Ok(e);
        }
        if self.eat("[") {
            self.want("]")?;
            return Ok(Node::Value(Value::List(Arc::new([]))));
        }
        if let Some(word) = rest.strip_prefix('\'') {
            let end = word.find('\'').ok_or("the word has no closing '")?;
            let word = word[..end].to_owned();
            self.pos += end + 2;
            return Ok(Node::Value(Value::Word(word)));
        }
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            return self.number();
        }
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if name.is_empty() {
            return Err("expected a number, a name, a 'word' or `(`".into());
        }
        let start = self.pos;
        self.pos += name.len();
        match name.as_str() {
            "true" | "false" => return Ok(Node::Value(Value::Bool(name == "true"))),
            "pi" => return Ok(Node::Value(Value::Num(std::f64::consts::PI))),
            "and" | "or" | "not" => {
                self.pos = start;
                return Err("expected a number, a name, a 'word' or `(`".into());
            }
            _ => {}
        }
        if self.eat("[") {
            let index = self.cond()?;
            self.want("]")?;
            return Ok(Node::Index(name, Box::new(index)));
        }
        if self.eat("(") {
            return self.call(&name, start);
        }
        Ok(Node::Name(name))
    }

    fn number(&mut self) -> Parsed {
        let rest = self.rest().as_bytes();
        let mut n = 0;
        while n < rest.len() {
            let sign = matches!(rest[n], b'+' | b'-') && matches!(rest[n - 1], b'e' | b'E');
            if !(sign || rest[n].is_ascii_alphanumeric() || rest[n] == b'.') {
                break;
            }
            n += 1;
        }
        let v: f64 = self.rest()[..n].parse().map_err(|_| "not a number")?;
        if !v.is_finite() {
            return Err("the number is too large".into());
        }
        self.pos += n;
        Ok(Node::Value(Value::Num(v)))
    }

    fn call(&mut self, name: &str, start: usize) -> Parsed {
        let mut args = vec![self.cond()?];
        while self.eat(",") {
            args.push(self.cond()?);
        }
        self.want(")")?;
        let end = std::mem::replace(&mut self.pos, start);
        let node = match (name, args.as_slice()) {
            ("has", [Node::Name(t)]) => Node::Has(t.clone()),
            ("rows", [Node::Name(t)]) => Node::Rows(t.clone()),
            ("has" | "rows", _) => return Err(format!("{name}() takes the name of a tensor")),
            _ => {
                let Some((_, call, n)) = CALLS.iter().find(|(t, ..)| *t == name) else {
                    let known: Vec<&str> = CALLS.iter().map(|(t, ..)| *t).chain(["has", "rows"]).collect();
                    return Err(format!("no function `{name}`; there are {}", known.join(", ")));
                };
                if args.len() != *n {
                    return Err(format!("{name}() takes {n} arguments, not {}", args.len()));
                }
                Node::Call(*call, args)
            }
        };
        self.pos = end;
        Ok(node)
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Env for Fixed {
        fn name(&self, name: &str) -> Result<Value, String> {
            Ok(match name {
                "heads" => Value::Num(9.0),
                "kind" => Value::Word("linear".into()),
                "types" => Value::List(vec![Value::Word("a".into()), Value::Word("b".into())].into()),
                _ => return Err(format!("no `{name}`")),
            })
        }
        fn has(&self, tensor: &str) -> Result<bool, String> {
            Ok(tensor == "bias")
        }
        fn rows(&self, _: &str) -> Result<u64, String> {
            Ok(320)
        }
    }

    fn eval(text: &str) -> String {
        match Expr::parse(text).and_then(|e| e.eval(&Fixed)) {
            Ok(v) => v.to_string(),
            Err(e) => e,
        }
    }

    #[test]
    fn values() {
        for (text, want) in [
            ("1 + 2 * 3 - -4", "11"),
            ("heads % 2 == 1 and not has(norm)", "true"),
            ("has(bias) ? rows(x) / 2 : 1 / 0", "160"),
            ("kind == 'linear' or nothing", "true"),
            ("types[heads - 8]", "'b'"),
            ("pow(2, 10) + sqrt(4) + min(3, max(1, 2)) + floor(2.5) + len([])", "1030"),
            ("1e-5 * 1E+5", "1"),
            ("false ? 1 : true ? 2 : 3", "2"),
            ("notes", "`notes`: no `notes`"),
            ("heads / 0", "`heads / 0`: division by zero"),
            ("heads + kind", "`heads + kind`: 'linear' is a word, where a number is needed"),
            ("types[2]", "`types[2]`: `types` has 2 elements, none at 2"),
            ("heads == 'x'", "`heads == 'x'`: 9 is a number and 'x' is a word"),
            ("heads *", "the expression `heads *` is wrong at character 8: expected a number, a name, a 'word' or `(`"),
            ("heads 3", "the expression `heads 3` is wrong at character 7: expected an operator or the end"),
            ("sqr(2)", "the expression `sqr(2)` is wrong at character 1: no function `sqr`; there are sqrt, ln, floor, pow, min, max, len, has, rows"),
            ("a < b < c", "the expression `a < b < c` is wrong at character 7: expected an operator or the end"),
        ] {
            assert_eq!(eval(text), want, "{text}");
        }
    }

    #[test]
    fn hostile_text_does_not_overflow_the_stack() {
        for t in ["(".repeat(900), "-".repeat(900), "not ".repeat(200), "1?".repeat(400), "'".into(), "é".into(), "x[".repeat(400)] {
            assert!(Expr::parse(&t).is_err());
        }
    }
}
