//! The expressions of architecture declarations.
//!
//! Numbers, `'words'`, `true`, `false`, names, `list[index]`, and from loosest to tightest: `c ? a : b`, `or`, `and`,
//! `not`, `== != < <= > >=`, `+ -`, `* / %`, unary `-`. Functions: `sqrt ln floor pow min max len`; `has(tensor)` says
//! whether the file has it and `rows(tensor)` how many rows; `pi` is a number. Types are checked while evaluating;
//! nothing converts silently.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, Visitor};

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
pub(super) enum Op {
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

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Call {
    Sqrt,
    Ln,
    Floor,
    Pow,
    Min,
    Max,
    Len,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
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
    pub(super) text: String,
    pub(super) node: Node,
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.text)
    }
}

impl Expr {
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
            (
                "sqr(2)",
                "the expression `sqr(2)` is wrong at character 1: no function `sqr`; there are sqrt, ln, floor, pow, min, max, len, has, rows",
            ),
            ("a < b < c", "the expression `a < b < c` is wrong at character 7: expected an operator or the end"),
        ] {
            assert_eq!(eval(text), want, "{text}");
        }
    }

    #[test]
    fn hostile_text_does_not_overflow_the_stack() {
        for t in [
            "(".repeat(900),
            "-".repeat(900),
            "not ".repeat(200),
            "1?".repeat(400),
            "'".into(),
            "é".into(),
            "x[".repeat(400),
        ] {
            assert!(Expr::parse(&t).is_err());
        }
    }
}
