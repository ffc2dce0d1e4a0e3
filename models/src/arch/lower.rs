//! The graph of a model: the ops of its declaration, one layer after the other.

use std::collections::{HashMap, HashSet};

use tilewright_ir::graph::{Attr, AttrKind, Attrs, Dim, Elem, Graph, NodeId, OpKind, RopeSpec, TensorType};

use super::ArchError;
use super::decl::{OpDecl, RopeDecl};
use super::expr::{Env, Expr, Value};
use super::locate::{Step, locate};
use super::read::{Reading, weight_name};

/// Names while one table, layer or section is written.
struct Scope<'a> {
    reading: &'a Reading,
    layer: Option<u64>,
    /// Values of local names, or why they have none.
    locals: HashMap<&'a str, Result<Value, String>>,
}

impl Env for Scope<'_> {
    fn name(&self, name: &str) -> Result<Value, String> {
        if let Some(v) = self.locals.get(name) {
            return v.clone();
        }
        let found = self.reading.values.get(name).or_else(|| self.reading.lists.get(name));
        found.cloned().ok_or_else(|| format!("the file has no `{name}`"))
    }
    fn has(&self, tensor: &str) -> Result<bool, String> {
        let per_layer = self.reading.arch.decl.tensors.get(tensor).is_some_and(|t| t.per_layer());
        Ok(self.reading.weights.contains_key(&weight_name(tensor, self.layer.filter(|_| per_layer))))
    }
    fn rows(&self, tensor: &str) -> Result<u64, String> {
        let w = self.reading.weight(tensor, self.layer);
        match w.and_then(|w| w.ty.shape.first().copied()) {
            Some(Dim::N(n)) => Ok(n),
            _ => Err(format!("the file has no `{tensor}`")),
        }
    }
}

impl Reading {
    /// The unfused graph for contexts of up to `ctx` tokens: inputs `tokens`, `pos` and `kv.{i}`, output logits. Some
    /// models turn their rotary tables differently when compiled for long contexts; for others `ctx` changes nothing.
    pub fn graph(&self, ctx: u64) -> Result<Graph, ArchError> {
        let decl = &self.arch.decl;
        let mut lower = Lower { reading: self, g: Graph::new(self.arch.name()), values: HashMap::new() };
        let mut scope = Scope { reading: self, layer: None, locals: HashMap::new() };
        scope.locals.insert("ctx", Ok(Value::Num(ctx as f64)));
        for (name, table) in &decl.rope.0 {
            let spec = self.rope(name, table, ctx)?;
            lower.g.rope.push(spec);
        }
        for input in ["tokens", "pos"] {
            let id = lower.g.input(input, TensorType::new(Elem::I32, [Dim::T]));
            lower.values.insert(input, id);
        }
        let kv_type = TensorType::new(Elem::Kv, [Dim::N(self.size("kv_heads")), Dim::N(self.size("head_dim"))]);
        let kv: Vec<NodeId> =
            (0..self.size("n_layers")).map(|i| lower.g.input(&format!("kv.{i}"), kv_type.clone())).collect();
        lower.section("pre", &decl.pre, &scope)?;
        let outer: HashSet<&str> = lower.values.keys().copied().collect();
        for (i, kv) in kv.into_iter().enumerate() {
            scope.layer = Some(i as u64);
            scope.locals.insert("i", Ok(Value::Num(i as f64)));
            for (name, e) in &decl.per_layer.0 {
                let v = e.eval(&scope);
                scope.locals.insert(name, v);
            }
            lower.values.insert("kv", kv);
            lower.section("layer", &decl.layer, &scope)?;
            lower.values.retain(|name, _| outer.contains(name));
        }
        scope.layer = None;
        lower.section("post", &decl.post, &scope)?;
        let Some(&logits) = lower.values.get("logits") else {
            return Err(self.value_error(&["post".into()], "no op made `logits`: its `when` is false".into()));
        };
        lower.g.set_outputs(&[logits]);
        for id in lower.g.order().to_vec().into_iter().rev() {
            if lower.g.node(id).op != OpKind::Input {
                lower.g.remove(id);
            }
        }
        Ok(lower.g)
    }

    fn value_error(&self, path: &[Step], message: String) -> ArchError {
        self.arch.value_error(&self.model, path, message)
    }

    fn rope(&self, name: &str, table: &RopeDecl, ctx: u64) -> Result<RopeSpec, ArchError> {
        let at = |key: &str, message| self.value_error(&["rope".into(), name.into(), key.into()], message);
        let mut scope = Scope { reading: self, layer: None, locals: HashMap::new() };
        scope.locals.insert("ctx", Ok(Value::Num(ctx as f64)));
        let dims = table.dims.int(&scope).map_err(|m| at("dims", m))?;
        if dims < 2 || dims % 2 != 0 || dims > self.size("head_dim") {
            let message = format!(
                "{dims} elements of a head are to rotate; it must be an even number up to head_dim = {}",
                self.size("head_dim")
            );
            return Err(at("dims", message));
        }
        let theta = table.theta.num(&scope).map_err(|m| at("theta", m))?;
        let scale = table.scale.as_ref().map_or(Ok(1.0), |e| e.num(&scope)).map_err(|m| at("scale", m))? as f32;
        let mut inv_freq = Vec::new();
        for j in 0..dims / 2 {
            scope.locals.insert("j", Ok(Value::Num(j as f64)));
            for (name, e) in &table.lets.0 {
                let v = e.eval(&scope);
                scope.locals.insert(name, v);
            }
            let divide = table.divide.as_ref().map_or(Ok(1.0), |e| e.num(&scope)).map_err(|m| at("divide", m))?;
            let f = (theta.powf(-2.0 * j as f64 / dims as f64) / divide) as f32;
            if !(f.is_finite() && f > 0.0 && scale.is_finite()) {
                return Err(at(
                    "theta",
                    format!("theta {theta}, divided by {divide}, gives no frequency for pair {j}"),
                ));
            }
            inv_freq.push(f);
        }
        Ok(RopeSpec { inv_freq, scale })
    }
}

struct Lower<'a> {
    reading: &'a Reading,
    g: Graph,
    values: HashMap<&'a str, NodeId>,
}

impl<'a> Lower<'a> {
    fn section(&mut self, section: &str, ops: &'a [OpDecl], scope: &Scope<'a>) -> Result<(), ArchError> {
        let reading = self.reading;
        for (n, o) in ops.iter().enumerate() {
            let at = |more: &[Step]| -> Vec<Step> {
                [section.into(), n.into()].into_iter().chain(more.iter().cloned()).collect()
            };
            let fail = |more: &[Step], message: String| reading.value_error(&at(more), message);
            if let Some(when) = &o.when
                && !when.flag(scope).map_err(|m| fail(&["when".into()], m))?
            {
                continue;
            }
            let mut operands = vec![];
            let mut tensor = None;
            for (k, name) in o.operands.iter().enumerate() {
                if let Some(&id) = self.values.get(name.as_str()) {
                    operands.push(id);
                    continue;
                }
                let Some(w) = reading.weight(name, scope.layer) else {
                    let message = format!(
                        "there is no `{name}`: the file lacks the tensor, or each op that makes the value has a `when` that is false"
                    );
                    return Err(fail(&["in".into(), k.into()], message));
                };
                operands.push(self.g.weight(w.clone()));
                tensor = Some(name);
            }
            let mut attrs = Attrs::new();
            for (key, e) in &o.attrs.0 {
                let v = self.attr(o, key, e, scope);
                if let Some(v) = v.map_err(|m| fail(&["attrs".into(), key.as_str().into()], m))? {
                    attrs.insert(key.clone(), v);
                }
            }
            let name = weight_name(o.name.as_ref().or(tensor).unwrap_or(&o.out), scope.layer);
            let id = self.g.push_named(o.op.0, &operands, attrs, &name).map_err(|source| {
                let (line, column) = locate(reading.arch.text(), &at(&[]));
                ArchError::Graph {
                    model: reading.model.clone(),
                    file: reading.arch.file.clone(),
                    line,
                    column,
                    source: Box::new(source),
                }
            })?;
            self.values.insert(&o.out, id);
        }
        Ok(())
    }

    /// The attribute, unless it has its default value.
    fn attr(&self, o: &OpDecl, key: &str, e: &Expr, scope: &Scope<'_>) -> Result<Option<Attr>, String> {
        let kind = o.op.0.row().attrs.iter().find(|(n, _)| *n == key).map(|(_, k)| *k);
        let kind = kind.ok_or_else(|| format!("no attribute `{key}`"))?;
        let table = || e.as_name().and_then(|n| self.reading.arch.decl.rope.get_index_of(n));
        let int = |v: u64| i64::try_from(v).map_err(|_| format!("{v} is too large"));
        Ok(match kind {
            AttrKind::IntOr(default) => {
                let v = match table() {
                    Some(index) if o.op.0 == OpKind::RopeAngles => index as i64,
                    _ => int(e.int(scope)?)?,
                };
                (v != default).then_some(Attr::Int(v))
            }
            AttrKind::Int => Some(Attr::Int(int(e.int(scope)?)?)),
            AttrKind::Float => Some(Attr::Float(e.num(scope)?)),
            AttrKind::FloatOr(default) => {
                let v = e.num(scope)?;
                (v != default).then_some(Attr::Float(v))
            }
            AttrKind::Flag => e.flag(scope)?.then_some(Attr::Bool(true)),
            AttrKind::OneOf(words) => {
                let w = match e.as_name() {
                    Some(w) if words.contains(&w) => w.to_owned(),
                    _ => match e.eval(scope)? {
                        Value::Word(w) => w,
                        v => return Err(format!("`{}` is {v}, not a word", e.text())),
                    },
                };
                if !words.contains(&w.as_str()) {
                    return Err(format!("`{key}` is '{w}', which is not one of {}", words.join(", ")));
                }
                (w != words[0]).then_some(Attr::Str(w))
            }
        })
    }
}
