//! Text of an expression to its tree. Length, nesting and the number of operations are limited.

use super::expr::{Expr, Field, Op};

const MAX_CHARS: usize = 1024;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 256;

/// What is wrong with an expression, and at which character.
#[derive(Debug)]
pub(crate) struct ExprError {
    pub at: usize,
    pub message: String,
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
        if self.nodes > MAX_NODES {
            self.fail(format!("more than {MAX_NODES} operations; split the format"))
        } else {
            Ok(e)
        }
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
                let int = word
                    .strip_prefix("0x")
                    .map_or_else(|| word.parse::<i64>().ok(), |hex| i64::from_str_radix(hex, 16).ok());
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
            return Err(ExprError {
                at: start,
                message: format!("unknown name `{word}`; known here: {}", known.join(", ")),
            });
        };
        let index = if self.eat("[") {
            let e = self.cond()?;
            self.want("]")?;
            if e.reads_field() || e.is_float(self.fields) {
                return Err(ExprError {
                    at: start,
                    message: format!("the index of `{word}` may use only integers and the variable"),
                });
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
