//! Text form of graphs.
//!
//! ```text
//! graph @demo {
//!   rope 0 = scale 1.0 [1.0, 0.1]
//!   weight @token_embd : @q8_0[320, 96]
//!   weight @blk.0.attn_norm : @f32[96] = rows 0+96 of @model.norm add 1.0
//!   %tokens = input : i32[T]
//!   %x = embed %tokens, @token_embd : f32[T, 96]
//!   %0 = rms_norm %x, @blk.0.attn_norm {eps = 1e-5} : f32[T, 96] "x"
//!   return %0
//! }
//! ```
//!
//! A node's name is its `%name` if it can be written so and is the first of its kind; otherwise the node has a number,
//! and its name, if there is one, stands behind it in quotes. Names with odd characters are quoted everywhere:
//! `weight "my weight" : …`. What a weight is made of is left out if it is the whole tensor of its name. A flag that is
//! true is only named: `{bias, heads = 9}`.

use super::op::{Attr, OpKind};
use super::types::{Dim, Elem, TensorType, Weight};
use super::{Graph, NodeId};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = value_names(self);
        writeln!(f, "graph {} {{", symbol(&self.name))?;
        for (i, table) in self.rope.iter().enumerate() {
            let freq: Vec<String> = table.inv_freq.iter().map(|v| float32(*v)).collect();
            writeln!(f, "  rope {i} = scale {} [{}]", float32(table.scale), freq.join(", "))?;
        }
        for &n in self.order() {
            if let Some(w) = self.weight_of(n) {
                writeln!(f, "  {}", weight(w))?;
            }
        }
        for &n in self.order().iter().filter(|&&n| self.node(n).op != OpKind::Weight) {
            writeln!(f, "  {}", line(self, n, &values))?;
        }
        let outputs: Vec<String> = self.outputs().iter().map(|&o| reference(self, o, &values)).collect();
        let space = if outputs.is_empty() { "" } else { " " };
        writeln!(f, "  return{space}{}\n}}", outputs.join(", "))
    }
}

impl Graph {
    /// The name, without `%`, that the text form gives the value of `id`.
    pub fn value_name(&self, id: NodeId) -> String {
        value_names(self).remove(&id).unwrap_or_else(|| self.node(id).name.clone())
    }
}

/// All `%names`.
fn value_names(graph: &Graph) -> HashMap<NodeId, String> {
    let mut taken = HashSet::new();
    let mut numbers = 0..;
    let values = graph.order().iter().filter(|&&n| graph.node(n).op != OpKind::Weight);
    let name = |&n: &NodeId| {
        let name = &graph.node(n).name;
        let own = is_value_name(name) && taken.insert(name.as_str());
        (n, if own { name.clone() } else { numbers.next().unwrap_or(0u32).to_string() })
    };
    values.map(name).collect()
}

/// True if `%name` can be written and is not a number.
fn is_value_name(name: &str) -> bool {
    let word = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    name.split('.').all(word) && !name.bytes().all(|c| c.is_ascii_digit())
}

/// `@name`, in quotes if it cannot be written so.
pub(super) fn symbol(name: &str) -> String {
    let plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-{}".contains(&c));
    let lexed = crate::text::Cursor::new(&format!("@{name}")).and_then(|mut c| {
        let symbol = c.symbol("a name")?;
        Ok(c.at_end() && symbol == name)
    });
    if plain && lexed == Ok(true) { format!("@{name}") } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            _ => out.push(c),
        }
    }
    out + "\""
}

/// The shortest decimal that comes back through f64.
fn float32(v: f32) -> String {
    let short = format!("{v:?}");
    let back = short.parse::<f64>().map(|d| d as f32);
    if v.is_nan() || back == Ok(v) { short.to_lowercase() } else { format!("{:?}", f64::from(v)) }
}

/// A type as [`TensorType`] displays it, except that odd format names are quoted.
fn ty(t: &TensorType) -> String {
    let text = t.to_string();
    match &t.elem {
        Elem::Format(format) => symbol(format) + &text[1 + format.len()..],
        _ => text,
    }
}

fn weight(w: &Weight) -> String {
    let mut out = format!("weight {} : {}", symbol(&w.name), ty(&w.ty));
    let rows = match w.ty.shape.first() {
        Some(Dim::N(n)) => *n,
        _ => 0,
    };
    let whole = |p: &super::Part| p.tensor == w.name && p.rows == (0, rows) && p.add.to_bits() == 0;
    if w.parts.len() == 1 && whole(&w.parts[0]) {
        return out;
    }
    for (i, p) in w.parts.iter().enumerate() {
        let sep = if i == 0 { " =" } else { "," };
        let _ = write!(out, "{sep} rows {}+{} of {}", p.rows.0, p.rows.1, symbol(&p.tensor));
        if p.add.to_bits() != 0 {
            let _ = write!(out, " add {}", float32(p.add));
        }
    }
    if w.parts.is_empty() { out + " = none" } else { out }
}

fn reference(graph: &Graph, n: NodeId, values: &HashMap<NodeId, String>) -> String {
    match values.get(&n) {
        Some(name) => format!("%{name}"),
        None if graph.order().contains(&n) => symbol(&graph.node(n).name),
        None => "%removed".into(),
    }
}

fn line(graph: &Graph, n: NodeId, values: &HashMap<NodeId, String>) -> String {
    let node = graph.node(n);
    let mut out = format!("%{} = {}", values[&n], node.op.row().name);
    for (i, o) in graph.operands(n).into_iter().enumerate() {
        out.push_str(if i == 0 { " " } else { ", " });
        out.push_str(&reference(graph, o, values));
    }
    if !node.attrs.is_empty() {
        let attr = |(name, value): (&String, &Attr)| match value {
            Attr::Bool(true) => name.clone(),
            Attr::Bool(false) => format!("{name} = false"),
            Attr::Int(v) => format!("{name} = {v}"),
            Attr::Float(v) => format!("{name} = {}", format!("{v:?}").to_lowercase()),
            Attr::Str(s) => format!("{name} = {s}"),
        };
        let attrs: Vec<String> = node.attrs.iter().map(attr).collect();
        let _ = write!(out, " {{{}}}", attrs.join(", "));
    }
    let _ = write!(out, " : {}", ty(&node.ty));
    if values[&n] != node.name && !node.name.is_empty() {
        let _ = write!(out, " {}", quoted(&node.name));
    }
    out
}
