//! The parser of the expressions.

use std::sync::Arc;

use super::expr::{Call, Expr, Node, Op, Value};

const MAX_CHARS: usize = 1024;
const MAX_DEPTH: usize = 32;

/// Binary operators, loosest level first; a longer spelling stands before its prefix.
const LEVELS: &[&[(&str, Op)]] = &[
    &[("or", Op::Or)],
    &[("and", Op::And)],
    &[("==", Op::Eq), ("!=", Op::Ne), ("<=", Op::Le), (">=", Op::Ge), ("<", Op::Lt), (">", Op::Gt)],
    &[("+", Op::Add), ("-", Op::Sub)],
    &[("*", Op::Mul), ("/", Op::Div), ("%", Op::Rem)],
];
const COMPARE: usize = 2;

const CALLS: &[(&str, Call, usize)] = &[
    ("sqrt", Call::Sqrt, 1),
    ("ln", Call::Ln, 1),
    ("floor", Call::Floor, 1),
    ("pow", Call::Pow, 2),
    ("min", Call::Min, 2),
    ("max", Call::Max, 2),
    ("len", Call::Len, 1),
];

impl Expr {
    /// Parses; the error names the character.
    pub(crate) fn parse(text: &str) -> Result<Expr, String> {
        let fail =
            |at: usize, what: String| format!("the expression `{text}` is wrong at character {}: {what}", at + 1);
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
