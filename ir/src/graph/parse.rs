//! Parser of the text form that [`super::print`] describes.
//!
//! ```text
//! graph  = "graph" symbol "{" { rope | weight | node } "return" [ref {"," ref}] "}"
//! rope   = "rope" int "=" "scale" float "[" [float {"," float}] "]"
//! weight = "weight" symbol ":" type ["=" ("none" | part {"," part})]
//! part   = "rows" int "+" int "of" symbol ["add" float]
//! node   = %name "=" op [ref {"," ref}] ["{" attr {"," attr} "}"] [":" type] [string]
//! attr   = word ["=" (int | float | "true" | "false" | word)]
//! ref    = %name | symbol
//! symbol = @name | string
//! type   = ("f32" | "i32" | "q8" | "bf16" | "f16" | "f16x2" | "kv" | symbol) "[" ("T" | int) {"," ("T" | int)} "]"
//! ```
//!
//! Operands and attributes must fit the op; a type that is left out is inferred. One that is wrong is kept, for
//! the verifier to see: parsing is not verifying.

use super::op::{Attr, AttrKind, Attrs, GRAPH_OPS, OpKind, OpRow};
use super::types::{Dim, ELEMS, Elem, Part, RopeSpec, TensorType, Weight};
use super::{Graph, NodeId};
use crate::text::{Cursor, Pos, TextError, Token};
use std::collections::HashMap;

/// Parses one graph.
pub fn parse(text: &str) -> Result<Graph, TextError> {
    let mut p =
        Parser { c: Cursor::new(text)?, graph: Graph::new(""), values: HashMap::new(), weights: HashMap::new() };
    p.graph()?;
    Ok(p.graph)
}

struct Parser {
    c: Cursor,
    graph: Graph,
    values: HashMap<String, NodeId>,
    weights: HashMap<String, NodeId>,
}

fn fail<T>(pos: Pos, message: impl Into<String>) -> Result<T, TextError> {
    Err(TextError { pos, message: message.into() })
}

impl Parser {
    fn graph(&mut self) -> Result<(), TextError> {
        self.c.expect_word("graph")?;
        self.graph.name = self.symbol("the graph's @name")?;
        self.c.expect("{")?;
        loop {
            if self.c.eat_word("rope") {
                self.rope()?;
            } else if self.c.eat_word("weight") {
                self.weight()?;
            } else if matches!(self.c.peek(), Token::Percent(_)) {
                self.node()?;
            } else if self.c.eat_word("return") {
                break;
            } else {
                return Err(self.c.expected("`rope`, `weight`, a %name or `return`"));
            }
        }
        let mut outputs = vec![];
        while !self.c.is("}") {
            if !outputs.is_empty() {
                self.c.expect(",")?;
            }
            outputs.push(self.reference()?);
        }
        self.graph.set_outputs(&outputs);
        self.c.expect("}")?;
        if self.c.at_end() { Ok(()) } else { Err(self.c.expected("the end of the text")) }
    }

    fn symbol(&mut self, what: &str) -> Result<String, TextError> {
        match self.c.peek() {
            Token::Str(_) => self.c.string(what),
            _ => self.c.symbol(what),
        }
    }

    fn count(&mut self, what: &str) -> Result<u64, TextError> {
        match *self.c.peek() {
            Token::Int(v) => {
                self.c.bump();
                Ok(v)
            }
            _ => Err(self.c.expected(what)),
        }
    }

    fn rope(&mut self) -> Result<(), TextError> {
        let pos = self.c.pos();
        let index = self.count("the table's number")?;
        if index != self.graph.rope.len() as u64 {
            return fail(pos, format!("this is rope {}: tables are numbered in order", self.graph.rope.len()));
        }
        self.c.expect("=")?;
        self.c.expect_word("scale")?;
        let scale = self.c.float("the factor on cosines and sines")? as f32;
        self.c.expect("[")?;
        let mut inv_freq = vec![];
        while !self.c.eat("]") {
            if !inv_freq.is_empty() {
                self.c.expect(",")?;
            }
            inv_freq.push(self.c.float("a frequency")? as f32);
        }
        self.graph.rope.push(RopeSpec { inv_freq, scale });
        Ok(())
    }

    fn weight(&mut self) -> Result<(), TextError> {
        let pos = self.c.pos();
        let name = self.symbol("the weight's @name")?;
        if self.weights.contains_key(&name) {
            return fail(pos, format!("weight `{name}` is already there"));
        }
        self.c.expect(":")?;
        let pos = self.c.pos();
        let ty = self.ty()?;
        let (Elem::Format(_), Some(Dim::N(rows))) = (&ty.elem, ty.shape.first()) else {
            return fail(pos, format!("{ty} is no type of a weight"));
        };
        let mut parts = vec![Part { tensor: name.clone(), rows: (0, *rows), add: 0.0 }];
        if self.c.eat("=") {
            parts.clear();
            if !self.c.eat_word("none") {
                parts.push(self.part()?);
                while self.c.eat(",") {
                    parts.push(self.part()?);
                }
            }
        }
        let id = self.graph.weight(Weight { name: name.clone(), ty, parts });
        self.weights.insert(name, id);
        Ok(())
    }

    fn part(&mut self) -> Result<Part, TextError> {
        self.c.expect_word("rows")?;
        let first = self.count("the first row")?;
        self.c.expect("+")?;
        let rows = (first, self.count("how many rows")?);
        self.c.expect_word("of")?;
        let tensor = self.symbol("the @name of a tensor")?;
        let add = if self.c.eat_word("add") { self.c.float("what is added")? as f32 } else { 0.0 };
        Ok(Part { tensor, rows, add })
    }

    fn ty(&mut self) -> Result<TensorType, TextError> {
        let elem = match self.c.peek().clone() {
            Token::Symbol(_) | Token::Str(_) => Elem::Format(self.symbol("a format")?.into()),
            Token::Word(w) => {
                let Some(elem) = Elem::named(&w) else {
                    let known: Vec<&str> = ELEMS.iter().map(|e| e.0).collect();
                    return Err(self.c.expected(&format!("{} or an @format", known.join(", "))));
                };
                self.c.bump();
                elem
            }
            _ => return Err(self.c.expected("a type")),
        };
        self.c.expect("[")?;
        let mut shape = vec![self.dim()?];
        while self.c.eat(",") {
            shape.push(self.dim()?);
        }
        self.c.expect("]")?;
        Ok(TensorType { elem, shape })
    }

    fn dim(&mut self) -> Result<Dim, TextError> {
        if self.c.eat_word("T") { Ok(Dim::T) } else { Ok(Dim::N(self.count("`T` or a number")?)) }
    }

    fn reference(&mut self) -> Result<NodeId, TextError> {
        let pos = self.c.pos();
        let (found, text) = match self.c.peek().clone() {
            Token::Percent(name) => (self.values.get(&name), format!("no value `%{name}` before this")),
            Token::Symbol(name) | Token::Str(name) => {
                (self.weights.get(&name), format!("no weight `{name}` before this"))
            }
            _ => return Err(self.c.expected("a %value or a @weight")),
        };
        let Some(&id) = found else { return fail(pos, text) };
        self.c.bump();
        Ok(id)
    }

    fn node(&mut self) -> Result<(), TextError> {
        let pos = self.c.pos();
        let value = self.c.percent("a %name")?;
        if self.values.contains_key(&value) {
            return fail(pos, format!("value `%{value}` is already there"));
        }
        self.c.expect("=")?;
        let op_pos = self.c.pos();
        let word = self.c.word("an operation")?;
        let Some(row) = GRAPH_OPS.iter().find(|r| r.name == word && r.op != OpKind::Weight) else {
            return fail(op_pos, format!("no operation `{word}`"));
        };
        let mut operands = vec![];
        if matches!(self.c.peek(), Token::Percent(_) | Token::Symbol(_) | Token::Str(_)) && row.op != OpKind::Input {
            operands.push(self.reference()?);
            while self.c.eat(",") {
                operands.push(self.reference()?);
            }
        }
        let attrs = if self.c.eat("{") { self.attrs(row)? } else { Attrs::new() };
        let type_pos = self.c.pos();
        let ty = if self.c.eat(":") { Some(self.ty()?) } else { None };
        let mut name = if value.bytes().all(|c| c.is_ascii_digit()) { String::new() } else { value.clone() };
        if matches!(self.c.peek(), Token::Str(_)) {
            name = self.c.string("the node's name")?;
        }
        let id = match (row.op, ty) {
            (OpKind::Input, Some(ty)) => self.graph.input(&name, ty),
            (OpKind::Input, None) => return fail(type_pos, "an input needs `: type`"),
            (op, ty) => {
                let pushed = self.graph.push_named(op, &operands, attrs, &name);
                let id = pushed.or_else(|e| fail(op_pos, format!("{}: {}", e.op, e.message)))?;
                if let Some(ty) = ty {
                    self.graph.node_mut(id).ty = ty;
                }
                id
            }
        };
        self.values.insert(value, id);
        Ok(())
    }

    fn attrs(&mut self, row: &OpRow) -> Result<Attrs, TextError> {
        let mut attrs = Attrs::new();
        loop {
            let pos = self.c.pos();
            let name = self.c.word("an attribute")?;
            let kind = row.attrs.iter().find(|a| a.0 == name).map(|a| a.1);
            let kind = kind.or_else(|| row.optional.contains(&name.as_str()).then_some(AttrKind::Flag));
            let Some(kind) = kind else {
                let names: Vec<&str> = row.attrs.iter().map(|a| a.0).chain(row.optional.iter().copied()).collect();
                return fail(pos, format!("{} has no attribute `{name}`; it has: {}", row.name, names.join(", ")));
            };
            let value = if self.c.eat("=") { self.value(kind)? } else { Attr::Bool(true) };
            if (kind == AttrKind::Flag) != matches!(value, Attr::Bool(_)) {
                return fail(pos, format!("attribute `{name}` needs `= value`"));
            }
            if attrs.insert(name.clone(), value).is_some() {
                return fail(pos, format!("attribute `{name}` is already there"));
            }
            if !self.c.eat(",") {
                self.c.expect("}")?;
                return Ok(attrs);
            }
        }
    }

    fn value(&mut self, kind: AttrKind) -> Result<Attr, TextError> {
        Ok(match kind {
            AttrKind::Int | AttrKind::IntOr(_) => Attr::Int(self.c.int("an integer")?),
            AttrKind::Float | AttrKind::FloatOr(_) => Attr::Float(self.c.float("a number")?),
            AttrKind::Flag if self.c.eat_word("true") => Attr::Bool(true),
            AttrKind::Flag if self.c.eat_word("false") => Attr::Bool(false),
            AttrKind::Flag => return Err(self.c.expected("`true` or `false`")),
            AttrKind::OneOf(words) => match self.c.peek() {
                Token::Word(w) if words.contains(&w.as_str()) => Attr::Str(self.c.word("a word")?),
                _ => return Err(self.c.expected(&words.join(" or "))),
            },
        })
    }
}
