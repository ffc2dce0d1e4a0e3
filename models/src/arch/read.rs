//! A model file held against its declaration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;
use tilewright_ir::graph::{Dim, Elem, Part, TensorType, Weight};

use super::decl::{HyperDecl, Kind, TensorDecl};
use super::expr::{Env, Expr, Mention, Value};
use super::locate::{Step, locate};
use super::{Arch, ArchError};

/// Kind of model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// GGUF: keys are metadata keys.
    Gguf,
    /// Hugging Face folder: keys are paths into `config.json`, with dots.
    Hf,
}

/// What a declaration needs to know of a model file.
pub trait Source {
    /// The file's name in errors.
    fn label(&self) -> String;
    /// Its kind.
    fn container(&self) -> Container;
    /// Value of a key; absent and null are the same.
    fn key(&self, key: &str) -> Option<Value>;
    /// Row-major shape and format name of a tensor.
    fn tensor(&self, name: &str) -> Option<(Vec<u64>, String)>;
    /// Every tensor.
    fn tensor_names(&self) -> Vec<String>;
    /// The elements of a small tensor.
    fn floats(&self, tensor: &str) -> Result<Vec<f32>, String>;
}

/// More layers than any model has; keeps a hostile count from costing time.
const MAX_LAYERS: u64 = 10_000;
/// Largest hyper-parameter of kind size or count: products of two stay exact and inside u64.
const MAX_SIZE: u64 = 1 << 31;

/// A model, as its declaration reads it: values of the hyper-parameters and all weights, checked.
#[derive(Clone, Debug)]
pub struct Reading {
    pub(super) arch: Arc<Arch>,
    pub(super) model: String,
    pub(super) values: IndexMap<String, Value>,
    pub(super) weights: BTreeMap<String, Weight>,
    /// Elements of the tensors that rotary tables read.
    pub(super) lists: BTreeMap<String, Value>,
    elements: u64,
}

/// Name of a weight in the graph.
pub(super) fn weight_name(tensor: &str, layer: Option<u64>) -> String {
    layer.map_or_else(|| tensor.to_owned(), |i| format!("blk.{i}.{tensor}"))
}

impl Reading {
    /// The declaration.
    pub fn arch(&self) -> &Arc<Arch> {
        &self.arch
    }

    /// Value of a hyper-parameter.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// All hyper-parameters in the order of the declaration.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Value of a hyper-parameter of kind size or count; 0 if there is none.
    pub fn size(&self, name: &str) -> u64 {
        self.values.get(name).and_then(Value::int).unwrap_or(0)
    }

    /// All weights by their name in the graph.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.weights.values()
    }

    /// Elements of all tensors of the file that are in use.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// The weight of the tensor, or of the one that takes its place.
    pub(super) fn weight(&self, tensor: &str, layer: Option<u64>) -> Option<&Weight> {
        let decl = self.arch.decl.tensors.get(tensor)?;
        let layer = layer.filter(|_| decl.per_layer());
        self.weights.get(&weight_name(tensor, layer)).or_else(|| {
            let other = decl.otherwise.as_ref()?;
            self.weights.get(&weight_name(other, layer))
        })
    }
}

/// The file during reading: hyper-parameters read so far.
struct Reader<'a> {
    arch: &'a Arc<Arch>,
    source: &'a dyn Source,
    values: IndexMap<String, Value>,
}

impl Env for Reader<'_> {
    fn name(&self, name: &str) -> Result<Value, String> {
        self.values.get(name).cloned().ok_or_else(|| format!("`{name}` has no value yet"))
    }
    fn has(&self, tensor: &str) -> Result<bool, String> {
        Ok(self.find(tensor, None).is_some())
    }
    fn rows(&self, tensor: &str) -> Result<u64, String> {
        let found = self.find(tensor, None).and_then(|n| self.source.tensor(&n));
        found.and_then(|(s, _)| s.first().copied()).ok_or_else(|| format!("the file has no `{tensor}`"))
    }
}

impl Reader<'_> {
    /// Name of the tensor in the file, if the file has it.
    fn find(&self, tensor: &str, layer: Option<u64>) -> Option<String> {
        let decl = self.arch.decl.tensors.get(tensor)?;
        file_names(decl, self.source.container(), layer).into_iter().find(|n| self.source.tensor(n).is_some())
    }

    fn value_error(&self, path: &[Step], message: String) -> ArchError {
        self.arch.value_error(&self.source.label(), path, message)
    }

    fn int(&self, e: &Expr, path: &[Step]) -> Result<u64, ArchError> {
        e.int(self).map_err(|m| self.value_error(path, m))
    }

    fn hyper(&self, name: &str, h: &HyperDecl) -> Result<Value, ArchError> {
        let (keys, own, own_key) = match self.source.container() {
            Container::Gguf => (&h.gguf.0, &h.else_gguf, "else_gguf"),
            Container::Hf => (&h.hf.0, &h.else_hf, "else_hf"),
        };
        let family = match self.source.key("general.architecture") {
            Some(Value::Word(w)) => w,
            _ => String::new(),
        };
        let keys: Vec<String> = keys.iter().map(|k| k.replace("{arch}", &family)).collect();
        for key in &keys {
            if let Some(v) = self.source.key(key) {
                fits(h, &v).map_err(|m| ArchError::Key { model: self.source.label(), key: key.clone(), message: m })?;
                return Ok(v);
            }
        }
        let (e, key) = match (own, &h.otherwise) {
            (Some(e), _) => (e, own_key),
            (None, Some(e)) => (e, "else"),
            (None, None) => {
                let message = format!(
                    "is missing; the architecture {} needs it for `{name}`: convert the model again",
                    self.arch.name()
                );
                let key = if keys.is_empty() { format!("`{name}`") } else { keys.join(" or ") };
                return Err(ArchError::Key { model: self.source.label(), key, message });
            }
        };
        let path = ["hyper".into(), name.into(), key.into()];
        let v = e.eval(self).map_err(|m| self.value_error(&path, m))?;
        fits(h, &v).map_err(|m| self.value_error(&path, format!("`{name}` = `{}` {m}", e.text())))?;
        Ok(v)
    }

    /// The weight, and the name and element count of the tensor of the file.
    fn weight(
        &self,
        name: &str,
        t: &TensorDecl,
        layer: Option<u64>,
    ) -> Result<Option<(Weight, String, u64)>, ArchError> {
        let Some(file_name) = self.find(name, layer) else {
            let names = file_names(t, self.source.container(), layer);
            if t.optional || t.otherwise.is_some() {
                return Ok(None);
            }
            let message =
                format!("is missing; the architecture {} needs it: fetch or convert the model again", self.arch.name());
            return Err(ArchError::Tensor { model: self.source.label(), tensor: names.join("` or `"), message });
        };
        let wrong =
            |message: String| ArchError::Tensor { model: self.source.label(), tensor: file_name.clone(), message };
        let (shape, format) = self.source.tensor(&file_name).ok_or_else(|| wrong("is missing".into()))?;
        let at = |key: &str, n: usize| [Step::from("tensors"), name.into(), key.into(), n.into()];
        let mut want = vec![];
        for (n, e) in t.shape.iter().enumerate() {
            want.push(self.int(e, &at("shape", n))?);
        }
        if shape != want || want.contains(&0) {
            let meaning: Vec<&str> = t.shape.iter().map(Expr::text).collect();
            return Err(wrong(format!(
                "has shape {shape:?}; the hyper-parameters say {want:?} ([{}]): the file is damaged or of another architecture",
                meaning.join(", ")
            )));
        }
        let mut rows = (0, want[0]);
        if let Some([first, count]) = &t.rows {
            rows = (self.int(first, &at("rows", 0))?, self.int(count, &at("rows", 1))?);
            if rows.1 == 0 || rows.0.checked_add(rows.1).is_none_or(|end| end > want[0]) {
                return Err(wrong(format!("has {} rows, not the rows {} + {} of `{name}`", want[0], rows.0, rows.1)));
            }
        }
        let add = match &t.add {
            Some(e) => e.num(self).map_err(|m| self.value_error(&["tensors".into(), name.into(), "add".into()], m))?,
            None => 0.0,
        };
        let format = if want.len() == 1 { "f32".to_owned() } else { format };
        let elements =
            want.iter().try_fold(1u64, |a, b| a.checked_mul(*b)).ok_or_else(|| wrong("is too large".into()))?;
        want[0] = rows.1;
        let weight = Weight {
            name: weight_name(name, layer),
            ty: TensorType::new(Elem::Format(format.into()), want.into_iter().map(Dim::N)),
            parts: vec![Part { tensor: file_name.clone(), rows, add: add as f32 }],
        };
        Ok(Some((weight, file_name, elements)))
    }
}

fn file_names(t: &TensorDecl, container: Container, layer: Option<u64>) -> Vec<String> {
    let patterns = match container {
        Container::Gguf => &t.gguf.0,
        Container::Hf => &t.hf.0,
    };
    patterns.iter().map(|p| layer.map_or_else(|| p.clone(), |i| p.replace("{i}", &i.to_string()))).collect()
}

fn fits(h: &HyperDecl, v: &Value) -> Result<(), String> {
    let ok = match h.kind {
        Kind::Size => v.int().is_some_and(|n| (1..=MAX_SIZE).contains(&n)),
        Kind::Count => v.int().is_some_and(|n| n <= MAX_SIZE),
        Kind::Float => v.num().is_some_and(f64::is_finite),
        Kind::Flag => matches!(v, Value::Bool(_)),
        Kind::Word => matches!(v, Value::Word(_)),
        Kind::List => matches!(v, Value::List(_)),
    };
    let need = match h.kind {
        Kind::Size => "an integer from 1 to 2^31",
        Kind::Count => "an integer from 0 to 2^31",
        Kind::Float => "a finite number",
        Kind::Flag => "true or false",
        Kind::Word => "a word",
        Kind::List => "a list",
    };
    if !ok {
        return Err(format!("is {v}, not {need}"));
    }
    match v {
        Value::Word(w) if !h.one_of.is_empty() && !h.one_of.contains(w) => {
            Err(format!("is '{w}'; this architecture knows {}", h.one_of.join(", ")))
        }
        _ => Ok(()),
    }
}

/// Whether `name` is what `pattern` means: `{i}` stands for digits, `*` for anything.
fn matches(pattern: &str, name: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix('*') {
        return (0..=name.len()).filter(|&k| name.is_char_boundary(k)).any(|k| matches(rest, &name[k..]));
    }
    if let Some(rest) = pattern.strip_prefix("{i}") {
        let digits = name.bytes().take_while(u8::is_ascii_digit).count();
        return digits > 0 && matches(rest, &name[digits..]);
    }
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some(a), Some(b)) if a == b => matches(&pattern[a.len_utf8()..], &name[b.len_utf8()..]),
        _ => false,
    }
}

impl Arch {
    pub(super) fn value_error(&self, model: &str, path: &[Step], message: String) -> ArchError {
        let (line, column) = locate(&self.text, path);
        ArchError::Value { model: model.to_owned(), file: self.file.clone(), line, column, message }
    }

    /// Reads hyper-parameters and weights from `source` and checks them.
    pub fn read(arch: &Arc<Arch>, source: &dyn Source) -> Result<Reading, ArchError> {
        let mut r = Reader { arch, source, values: IndexMap::new() };
        for (name, h) in &arch.decl.hyper.0 {
            let v = r.hyper(name, h)?;
            r.values.insert(name.clone(), v);
        }
        for (n, q) in arch.decl.require.iter().enumerate() {
            let path = ["require".into(), n.into(), "that".into()];
            if !q.that.flag(&r).map_err(|m| r.value_error(&path, m))? {
                let message = format!("{} (`{}` does not hold)", q.why, q.that.text());
                return Err(ArchError::Refused { model: source.label(), message });
            }
        }
        let layers = r.values.get("n_layers").and_then(Value::int).unwrap_or(0);
        if layers > MAX_LAYERS {
            let message = format!("has {layers} layers; at most {MAX_LAYERS} are read");
            return Err(ArchError::Refused { model: source.label(), message });
        }
        let (mut weights, mut used) = (BTreeMap::new(), BTreeMap::new());
        for (name, t) in &arch.decl.tensors.0 {
            let each: Vec<Option<u64>> = if t.per_layer() { (0..layers).map(Some).collect() } else { vec![None] };
            for layer in each {
                if let Some((weight, file_name, elements)) = r.weight(name, t, layer)? {
                    weights.insert(weight.name.clone(), weight);
                    used.insert(file_name, elements);
                }
            }
        }
        for name in source.tensor_names() {
            if !used.contains_key(&name) && !arch.decl.ignore.iter().any(|p| matches(p, &name)) {
                let message = format!(
                    "is not used by the architecture {}, so the result would be wrong; declare it, or list it under `ignore`, in an architecture file of your own",
                    arch.name()
                );
                return Err(ArchError::Tensor { model: source.label(), tensor: name, message });
            }
        }
        let lists = rope_lists(arch, source, &weights)?;
        let elements = used.values().fold(0u64, |a, b| a.saturating_add(*b));
        Ok(Reading { arch: arch.clone(), model: source.label(), values: r.values, weights, lists, elements })
    }
}

fn rope_lists(
    arch: &Arch,
    source: &dyn Source,
    weights: &BTreeMap<String, Weight>,
) -> Result<BTreeMap<String, Value>, ArchError> {
    let exprs = arch.decl.rope.values().flat_map(|r| r.lets.values().chain(&r.divide));
    let mentioned: BTreeSet<&str> =
        exprs.flat_map(Expr::mentions).filter_map(|m| if let Mention::Name(n) = m { Some(n) } else { None }).collect();
    let mut lists = BTreeMap::new();
    for (name, w) in mentioned.iter().filter_map(|n| Some((*n, weights.get(*n)?))) {
        let tensor = w.parts[0].tensor.clone();
        let values = source.floats(&tensor);
        let values = values.map_err(|message| ArchError::Tensor { model: source.label(), tensor, message })?;
        lists.insert(name.to_owned(), Value::List(values.into_iter().map(|v| Value::Num(f64::from(v))).collect()));
    }
    Ok(lists)
}
