//! The YAML form of a block format, and its checks.

use indexmap::IndexMap;
use serde::Deserialize;

use super::bits::{CodePlan, check_indices};
use super::expr::{Expr, Field, FieldType, fits, sample_blocks};
use super::parse::{ExprError, parse};
use super::subs::{SubError, SubPlan};
use super::{BlockFormat, CodeValue, Element, FloatKind, Level, Quant};
use crate::gguf::GgmlType;

/// A mistake in a declaration, with its place and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct FormatError {
    /// The declaration's file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

const MAX_TEXT: usize = 1 << 18;
const MAX_BLOCK: usize = 1 << 12;
const MAX_BYTES: usize = 1 << 15;
const MAX_FIELDS: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FormatDecl {
    name: String,
    ggml_type: Option<u32>,
    block: usize,
    bytes: usize,
    #[serde(default)]
    fields: IndexMap<String, FieldDecl>,
    float: Option<FloatKind>,
    code: Option<CodeDecl>,
    scale: Option<ScaleDecl>,
    min: Option<MinDecl>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldDecl {
    at: usize,
    #[serde(rename = "type")]
    ty: FieldType,
    #[serde(default = "one")]
    count: usize,
}

fn one() -> usize {
    1
}

fn f16() -> FloatKind {
    FloatKind::F16
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeDecl {
    bits: u32,
    expr: String,
    zero: Option<i32>,
    table: Option<Vec<i8>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleDecl {
    group: usize,
    #[serde(rename = "super")]
    base: String,
    sub: Option<String>,
    #[serde(default = "f16")]
    store: FloatKind,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MinDecl {
    #[serde(rename = "super")]
    base: String,
    sub: Option<String>,
    #[serde(default = "f16")]
    store: FloatKind,
}

struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

/// Byte behind `key:` for each key in turn, each searched from the last one on.
fn find_key(text: &str, path: &[&str]) -> usize {
    let mut pos = 0;
    // A key that a damaged file left empty is found nowhere: searching for it would never move on.
    for key in path.iter().filter(|k| !k.is_empty()) {
        let mut from = pos;
        while let Some(at) = text.get(from..).and_then(|t| t.find(key)).map(|n| n + from) {
            from = at + key.len();
            let line = text[..at].rfind('\n').map_or(0, |n| n + 1);
            let alone = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let colon = text[from..].trim_start_matches([' ', '"', '\'']).starts_with(':');
            if alone && colon && !text[line..at].contains('#') {
                pos = from + text[from..].find(':').map_or(0, |n| n + 1);
                break;
            }
        }
    }
    pos
}

impl Source<'_> {
    fn at(&self, byte: usize, message: String) -> FormatError {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        FormatError {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message,
        }
    }

    /// An error about the value of the key at `path`.
    fn fail(&self, path: &[&str], message: impl Into<String>) -> FormatError {
        self.at(self.value(path), message.into())
    }

    fn value(&self, path: &[&str]) -> usize {
        let pos = find_key(self.text, path);
        let rest = &self.text[pos..];
        pos + (rest.len() - rest.trim_start_matches(' ').len())
    }

    fn expr(&self, path: &[&str], text: &str, fields: &[Field], var: Option<&str>) -> Result<Expr, FormatError> {
        parse(text, fields, var).map_err(|ExprError { at, message }| {
            let value = self.value(path);
            let quote = usize::from(self.text[value..].starts_with(['"', '\'']));
            self.at(value + quote + at, message)
        })
    }

    fn index(&self, path: &[&str], fields: &[Field], (f, i): (usize, i64)) -> FormatError {
        let (name, count) = fields.get(f).map_or(("?", 0), |f| (f.name.as_str(), f.count));
        self.fail(
            path,
            format!(
                "`{name}[{i}]` is outside the field, which has {count} values; raise its `count` or change the index"
            ),
        )
    }
}

/// Reads one declaration.
pub(crate) fn load(text: &str, file: &str) -> Result<BlockFormat, FormatError> {
    let src = Source { file, text };
    if text.len() > MAX_TEXT {
        return Err(src.at(0, format!("the declaration has {} bytes; at most {MAX_TEXT} are read", text.len())));
    }
    let d: FormatDecl = serde_yaml::from_str(text).map_err(|e| {
        let place = e.location();
        let message = e.to_string();
        // The library repeats the place at the end of its message.
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        FormatError {
            file: file.to_owned(),
            line: place.as_ref().map_or(1, |p| p.line()),
            column: place.as_ref().map_or(1, |p| p.column()),
            message: format!("{message}; see models/formats/q4_k.yaml for a complete example"),
        }
    })?;

    if d.name.is_empty() || !d.name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_') {
        return Err(src.fail(&["name"], "the name may have only a-z, 0-9 and `_`"));
    }
    if !(1..=MAX_BLOCK).contains(&d.block) {
        return Err(src.fail(&["block"], format!("a block has 1 to {MAX_BLOCK} elements")));
    }
    if !(1..=MAX_BYTES).contains(&d.bytes) {
        return Err(src.fail(&["bytes"], format!("a block has 1 to {MAX_BYTES} bytes")));
    }
    if let Some(id) = d.ggml_type
        && let Some(ty) = GgmlType::from_id(id)
        && (ty.block() != d.block as u64 || ty.bytes() != d.bytes as u64)
    {
        return Err(src.fail(
            &["ggml_type"],
            format!(
                "GGUF type {id} is {}, with {} elements in {} bytes; correct `block` and `bytes`, or drop `ggml_type`",
                ty.name(),
                ty.block(),
                ty.bytes()
            ),
        ));
    }
    let fields = fields(&src, &d)?;
    let element = match (d.float, d.code, d.scale) {
        (Some(kind), None, None) if d.min.is_none() => {
            if d.block != 1 || d.bytes != kind.bytes() {
                return Err(src.fail(&["float"], format!("a float format has block: 1 and bytes: {}", kind.bytes())));
            }
            Element::Float(kind)
        }
        (None, Some(code), Some(scale)) => Element::Quant(quant(&src, &fields, d.block, code, scale, d.min)?),
        _ => return Err(src.at(0, "give either `float`, or `code` and `scale` (and optionally `min`)".into())),
    };
    Ok(BlockFormat { name: d.name, ggml_type: d.ggml_type, block: d.block, bytes: d.bytes, element, fields })
}

fn fields(src: &Source, d: &FormatDecl) -> Result<Vec<Field>, FormatError> {
    if d.fields.len() > MAX_FIELDS {
        return Err(src.fail(&["fields"], format!("at most {MAX_FIELDS} fields")));
    }
    let mut out = Vec::new();
    for (name, f) in &d.fields {
        let path = ["fields", name.as_str()];
        if matches!(name.as_str(), "i" | "s" | "exp2")
            || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            return Err(src.fail(
                &path,
                format!("`{name}` cannot name a field; use letters, digits and `_`, and not `i`, `s` or `exp2`"),
            ));
        }
        let end = f.ty.bytes().checked_mul(f.count).and_then(|n| n.checked_add(f.at));
        if f.count == 0 || end.is_none_or(|end| end > d.bytes) {
            return Err(src.fail(
                &path,
                format!("field `{name}` does not fit into {} bytes; check `at`, `count` and `bytes`", d.bytes),
            ));
        }
        out.push(Field { name: name.clone(), at: f.at, ty: f.ty, count: f.count });
    }
    Ok(out)
}

fn quant(
    src: &Source,
    fields: &[Field],
    block: usize,
    code: CodeDecl,
    scale: ScaleDecl,
    min: Option<MinDecl>,
) -> Result<Quant, FormatError> {
    if !(1..=8).contains(&code.bits) {
        return Err(src.fail(&["code", "bits"], "a code has 1 to 8 bits"));
    }
    let codes = 1usize << code.bits;
    let decode = match (code.zero, code.table) {
        (Some(zero), None) if (-256..=256).contains(&zero) => CodeValue::Zero(zero),
        (Some(_), None) => return Err(src.fail(&["code", "zero"], "`zero` lies within -256..=256")),
        (None, Some(t)) if t.len() == codes => CodeValue::Table(t),
        (None, Some(t)) => {
            return Err(src.fail(
                &["code", "table"],
                format!("the table has {} entries; {} bits need {codes}", t.len(), code.bits),
            ));
        }
        _ => return Err(src.fail(&["code"], "give either `zero` or `table`")),
    };
    let values = match &decode {
        CodeValue::Zero(zero) => (0..codes).zip(*zero..).map(|(_, v)| v as f32).collect(),
        CodeValue::Table(t) => t.iter().map(|v| f32::from(*v)).collect(),
    };
    if scale.group == 0 || !block.is_multiple_of(scale.group) {
        return Err(src.fail(&["scale", "group"], format!("the group must divide the block of {block}")));
    }
    let has_sub = scale.sub.is_some() || min.as_ref().is_some_and(|m| m.sub.is_some());
    if !has_sub && scale.group != block {
        return Err(src.fail(
            &["scale", "group"],
            format!("without a `sub` all groups are alike; write group: {block}, or give a `sub`"),
        ));
    }
    let path = ["code", "expr"];
    let expr = src.expr(&path, &code.expr, fields, Some("i"))?;
    if expr.is_float(fields) {
        return Err(src.fail(&path, "a code is an integer expression; leave out float fields, `exp2` and fractions"));
    }
    let codes = CodePlan::new(expr, fields, block, code.bits).map_err(|e| src.index(&path, fields, e))?;
    let groups = block / scale.group;
    let scale_level = level(src, "scale", fields, groups, &scale.base, scale.sub.as_deref(), scale.store)?;
    let min_level = min.map(|m| level(src, "min", fields, groups, &m.base, m.sub.as_deref(), m.store)).transpose()?;
    Ok(Quant { bits: code.bits, decode, group: scale.group, scale: scale_level, min: min_level, codes, values })
}

fn level(
    src: &Source,
    key: &str,
    fields: &[Field],
    groups: usize,
    base: &str,
    sub: Option<&str>,
    store: FloatKind,
) -> Result<Level, FormatError> {
    let path = [key, "super"];
    let base = src.expr(&path, base, fields, None)?;
    check_indices(&base, fields).map_err(|e| src.index(&path, fields, e))?;
    check_store(&base, fields, store).map_err(|v| {
        src.fail(
            &path,
            format!(
                "can be {v:e}, which `store: {}` does not hold exactly; write a wider `store`",
                format!("{store:?}").to_lowercase()
            ),
        )
    })?;
    let sub = match sub {
        None => None,
        Some(text) => {
            let path = [key, "sub"];
            let expr = src.expr(&path, text, fields, Some("s"))?;
            if expr.is_float(fields) {
                return Err(src.fail(&path, "a `sub` is an integer expression; put the float into `super`"));
            }
            let plan = SubPlan::new(expr, fields, groups).map_err(|e| match e {
                SubError::Index(f, i) => src.index(&path, fields, (f, i)),
                SubError::Range => {
                    src.fail(&path, format!("can leave {:?}, the range of a `sub`; mask it", SubPlan::LIMITS))
                }
            })?;
            Some(plan)
        }
    };
    let sub_range = sub.as_ref().map_or((1, 1), |s| s.range);
    Ok(Level { has_sub: sub.is_some(), store, sub_range, base, sub })
}

/// Tries the float on blocks of zeros, ones and seeded noise. `Err`: a value that the storage would round.
fn check_store(base: &Expr, fields: &[Field], store: FloatKind) -> Result<(), f32> {
    let mut values = sample_blocks(fields).map(|block| base.eval(fields, 0, &block).float() as f32);
    values.find(|v| !fits(store, *v)).map_or(Ok(()), Err)
}
