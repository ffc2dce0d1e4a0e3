//! The types of an architecture file. Unknown keys, keys given twice and malformed expressions are refused while
//! reading, so that the YAML reader names the line.

use std::fmt;
use std::marker::PhantomData;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use tilewright_ir::graph::{GRAPH_OPS, OpKind};

use super::expr::Expr;

/// One architecture.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decl {
    pub name: String,
    pub about: String,
    #[serde(rename = "match")]
    pub matches: Matches,
    pub hyper: Named<HyperDecl>,
    #[serde(default)]
    pub require: Vec<Require>,
    #[serde(default)]
    pub per_layer: Named<Expr>,
    pub rope: Named<RopeDecl>,
    pub tensors: Named<TensorDecl>,
    #[serde(default)]
    pub ignore: Vec<String>,
    pub pre: Vec<OpDecl>,
    pub layer: Vec<OpDecl>,
    pub post: Vec<OpDecl>,
}

/// Which model files are of this architecture.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matches {
    #[serde(default)]
    pub gguf: Vec<String>,
    #[serde(default)]
    pub hf: Vec<String>,
}

/// What kind of value a hyper-parameter has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Integer ≥ 1.
    #[default]
    Size,
    /// Integer ≥ 0.
    Count,
    Float,
    Flag,
    Word,
    List,
}

/// Where a hyper-parameter comes from: the first key that the file has, else the expression.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HyperDecl {
    #[serde(default)]
    pub kind: Kind,
    #[serde(default)]
    pub gguf: OneOrMore,
    #[serde(default)]
    pub hf: OneOrMore,
    #[serde(rename = "else")]
    pub otherwise: Option<Expr>,
    pub else_gguf: Option<Expr>,
    pub else_hf: Option<Expr>,
    /// Words allowed; empty = any.
    #[serde(default)]
    pub one_of: Vec<String>,
}

/// A condition on the hyper-parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Require {
    pub that: Expr,
    /// What to tell the user if it fails.
    pub why: String,
}

/// A rotary table: pair `j` of `dims / 2` turns by `theta^(-2j / dims) / divide` radians a position.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RopeDecl {
    pub dims: Expr,
    pub theta: Expr,
    /// Names for parts of `divide`; each may use those before it.
    #[serde(default, rename = "let")]
    pub lets: Named<Expr>,
    pub divide: Option<Expr>,
    /// Factor on cosines and sines.
    pub scale: Option<Expr>,
}

/// Rows of a tensor of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorDecl {
    #[serde(default)]
    pub gguf: OneOrMore,
    #[serde(default)]
    pub hf: OneOrMore,
    /// Shape of the tensor in the file, rows first.
    pub shape: Vec<Expr>,
    /// First row and count; all rows by default.
    pub rows: Option<[Expr; 2]>,
    /// Added to each element of a vector.
    pub add: Option<Expr>,
    #[serde(default)]
    pub optional: bool,
    /// The tensor that takes its place when the file lacks it.
    #[serde(rename = "else")]
    pub otherwise: Option<String>,
}

impl TensorDecl {
    /// Whether each layer has one.
    pub fn per_layer(&self) -> bool {
        self.gguf.0.iter().chain(&self.hf.0).any(|n| n.contains("{i}"))
    }
}

/// One operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpDecl {
    pub op: Op,
    #[serde(rename = "in")]
    pub operands: Vec<String>,
    pub out: String,
    #[serde(default)]
    pub attrs: Named<Expr>,
    pub when: Option<Expr>,
    pub name: Option<String>,
}

/// A row of the graph's op table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Op(pub OpKind);

impl<'de> Deserialize<'de> for Op {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Op, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Op;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an op")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Op, E> {
                let usable = || GRAPH_OPS.iter().filter(|r| !matches!(r.op, OpKind::Input | OpKind::Weight));
                usable().find(|r| r.name == name).map(|r| Op(r.op)).ok_or_else(|| {
                    let known: Vec<&str> = usable().map(|r| r.name).collect();
                    E::custom(format!("unknown op `{name}`; there are {}", known.join(", ")))
                })
            }
        }
        d.deserialize_str(V)
    }
}

/// A string or a list of strings.
#[derive(Debug, Default)]
pub(crate) struct OneOrMore(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<OneOrMore, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = OneOrMore;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![v.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMore, A::Error> {
                let mut out = vec![];
                while let Some(v) = seq.next_element::<String>()? {
                    out.push(v);
                }
                Ok(OneOrMore(out))
            }
        }
        d.deserialize_any(V)
    }
}

/// A mapping in the order of the file; a key given twice is an error.
#[derive(Debug)]
pub(crate) struct Named<T>(pub IndexMap<String, T>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(IndexMap::new())
    }
}

impl<T> std::ops::Deref for Named<T> {
    type Target = IndexMap<String, T>;
    fn deref(&self) -> &IndexMap<String, T> {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Named<T>, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = Named<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut out = IndexMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if out.contains_key(&key) {
                        return Err(de::Error::custom(format!("`{key}` is given twice; remove one")));
                    }
                    let value = map.next_value()?;
                    out.insert(key, value);
                }
                Ok(Named(out))
            }
        }
        d.deserialize_map(V(PhantomData))
    }
}
