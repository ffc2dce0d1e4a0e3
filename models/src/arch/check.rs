//! The rules of declarations that need no model. Each has a test in `tests.rs`.
//!
//! - The hyper-parameters of [`FACTS`] are there, and of kind `size`.
//! - An expression mentions what is in scope: hyper-parameters declared before it; `i` and `per_layer` names in a layer;
//!   `j`, `lets` and tensors of one dimension in a rotary table; `ctx`, the context compiled for, in both.
//! - A tensor has one or two dimensions and a name in GGUF or Hugging Face files; all of its names have `{i}` or none;
//!   `add` is for vectors; `else` names another tensor of that kind.
//! - An op has the operands and attributes of its row in the op table; operands are values made before, inputs
//!   (`tokens`, `pos`, and `kv` in a layer) or tensors, those of a layer only in a layer; no value hides a tensor.
//! - `post` makes `logits`.

use std::collections::BTreeSet;

use tilewright_ir::graph::{AttrKind, OpKind};

use super::decl::{Kind, Named, OpDecl};
use super::expr::{Expr, Mention, Value};
use super::locate::Step;
use super::{Arch, ArchError};

/// Hyper-parameters that every architecture declares.
pub(super) const FACTS: [&str; 8] = ["n_layers", "n_ctx", "vocab", "d_model", "d_ff", "heads", "kv_heads", "head_dim"];

const RESERVED: [&str; 9] = ["i", "j", "ctx", "pi", "true", "false", "tokens", "pos", "kv"];

/// What an expression may mention.
#[derive(Clone)]
struct Scope<'a> {
    names: BTreeSet<&'a str>,
    layer_tensors: bool,
}

type Checked = Result<(), ArchError>;

fn path(steps: &[&str]) -> Vec<Step> {
    steps.iter().map(|s| Step::from(*s)).collect()
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

impl Arch {
    pub(super) fn check(&self) -> Checked {
        let d = &self.decl;
        if !is_name(&d.name) {
            return Err(self.wrong(&path(&["name"]), format!("`{}` is no name; use a-z, 0-9 and _", d.name)));
        }
        if d.matches.gguf.is_empty() && d.matches.hf.is_empty() {
            return Err(self.wrong(&path(&["match"]), "matches nothing; give a list as `gguf` or `hf`"));
        }
        for fact in FACTS {
            if !d.hyper.get(fact).is_some_and(|h| h.kind == Kind::Size) {
                return Err(self.wrong(
                    &path(&["hyper"]),
                    format!(
                        "`{fact}` is missing or not of kind size; every architecture declares {}",
                        FACTS.join(", ")
                    ),
                ));
            }
        }
        let mut scope = Scope { names: BTreeSet::new(), layer_tensors: false };
        self.hyper(&mut scope)?;
        for (n, r) in d.require.iter().enumerate() {
            self.expr(&r.that, &["require".into(), n.into(), "that".into()], &scope)?;
        }
        self.tensors(&scope)?;
        self.ropes(&scope)?;
        scope.names.insert("ctx");
        let mut layer = Scope { layer_tensors: true, ..scope.clone() };
        layer.names.insert("i");
        self.expressions(&d.per_layer, &["per_layer".into()], &mut layer)?;

        let mut values = BTreeSet::from(["tokens", "pos"]);
        self.ops("pre", &d.pre, &mut values, &scope)?;
        let mut inner = values.clone();
        inner.insert("kv");
        self.ops("layer", &d.layer, &mut inner, &layer)?;
        self.ops("post", &d.post, &mut values, &scope)?;
        if !d.post.iter().any(|o| o.out == "logits") {
            return Err(self.wrong(&path(&["post"]), "no op has `out: logits`; the last one makes the logits"));
        }
        Ok(())
    }

    fn hyper<'a>(&'a self, scope: &mut Scope<'a>) -> Checked {
        for (name, h) in &self.decl.hyper.0 {
            let at = path(&["hyper", name]);
            self.fresh(name, &at, scope)?;
            for (key, e) in [("else", &h.otherwise), ("else_gguf", &h.else_gguf), ("else_hf", &h.else_hf)] {
                if let Some(e) = e {
                    self.expr(e, &path(&["hyper", name, key]), scope)?;
                }
            }
            if !h.one_of.is_empty() && h.kind != Kind::Word {
                return Err(self.wrong(&path(&["hyper", name, "one_of"]), "`one_of` is for `kind: word`"));
            }
            scope.names.insert(name);
        }
        Ok(())
    }

    fn tensors(&self, scope: &Scope<'_>) -> Checked {
        let all = &self.decl.tensors;
        for (name, t) in &all.0 {
            let at = |key: &str| path(&["tensors", name, key]);
            self.fresh(name, &path(&["tensors", name]), scope)?;
            let patterns = || t.gguf.0.iter().chain(&t.hf.0);
            if patterns().next().is_none() {
                return Err(self
                    .wrong(&path(&["tensors", name]), format!("`{name}` has no name in files; give `gguf` or `hf`")));
            }
            if let Some(odd) = patterns().find(|p| p.contains("{i}") != t.per_layer()) {
                return Err(self.wrong(
                    &path(&["tensors", name]),
                    format!("`{odd}` has no {{i}}, but another name of `{name}` has one"),
                ));
            }
            if !matches!(t.shape.len(), 1 | 2) {
                return Err(
                    self.wrong(&at("shape"), format!("`{name}` has {} dimensions; a weight has 1 or 2", t.shape.len()))
                );
            }
            for (n, e) in t.shape.iter().enumerate() {
                self.expr(e, &["tensors".into(), name.as_str().into(), "shape".into(), n.into()], scope)?;
            }
            for (n, e) in t.rows.iter().flatten().enumerate() {
                self.expr(e, &["tensors".into(), name.as_str().into(), "rows".into(), n.into()], scope)?;
            }
            if let Some(e) = &t.add {
                self.expr(e, &at("add"), scope)?;
                if t.shape.len() != 1 {
                    return Err(self.wrong(&at("add"), "`add` is for tensors of one dimension"));
                }
            }
            if let Some(other) = &t.otherwise
                && !all
                    .get(other)
                    .is_some_and(|o| o.per_layer() == t.per_layer() && o.otherwise.is_none() && other != name)
            {
                return Err(self.wrong(
                    &at("else"),
                    format!(
                        "`{other}` cannot take the place of `{name}`; name a tensor without `else`, with {{i}} as here"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn ropes<'a>(&'a self, outer: &Scope<'a>) -> Checked {
        for (name, r) in &self.decl.rope.0 {
            self.fresh(name, &path(&["rope", name]), outer)?;
            let mut scope = outer.clone();
            scope.names.insert("ctx");
            let at = |key: &str| path(&["rope", name, key]);
            self.expr(&r.dims, &at("dims"), &scope)?;
            self.expr(&r.theta, &at("theta"), &scope)?;
            if let Some(e) = &r.scale {
                self.expr(e, &at("scale"), &scope)?;
            }
            scope.names.insert("j");
            for (tensor, t) in &self.decl.tensors.0 {
                if t.shape.len() == 1 && !t.per_layer() {
                    scope.names.insert(tensor);
                }
            }
            self.expressions(&r.lets, &at("let"), &mut scope)?;
            if let Some(e) = &r.divide {
                self.expr(e, &at("divide"), &scope)?;
            }
        }
        Ok(())
    }

    /// Expressions that each may mention those before.
    fn expressions<'a>(&self, map: &'a Named<Expr>, at: &[Step], scope: &mut Scope<'a>) -> Checked {
        for (name, e) in &map.0 {
            let at: Vec<Step> = at.iter().cloned().chain([name.as_str().into()]).collect();
            self.fresh(name, &at, scope)?;
            self.expr(e, &at, scope)?;
            scope.names.insert(name);
        }
        Ok(())
    }

    fn fresh(&self, name: &str, at: &[Step], scope: &Scope<'_>) -> Checked {
        if !is_name(name) || RESERVED.contains(&name) {
            return Err(self.wrong(
                at,
                format!("`{name}` is no name; use a-z, A-Z, 0-9 and _, and none of {}", RESERVED.join(", ")),
            ));
        }
        if scope.names.contains(name) {
            return Err(self.wrong(at, format!("`{name}` is declared already; choose another name")));
        }
        Ok(())
    }

    fn expr(&self, e: &Expr, at: &[Step], scope: &Scope<'_>) -> Checked {
        for m in e.mentions() {
            match m {
                Mention::Name(n) if !scope.names.contains(n) => {
                    let known = list(scope.names.iter().copied());
                    return Err(self.wrong(
                        at,
                        format!("`{}` mentions `{n}`, which is not known here; there are {known}", e.text()),
                    ));
                }
                Mention::Tensor(t) => match self.decl.tensors.get(t) {
                    None => {
                        return Err(self.wrong(
                            at,
                            format!(
                                "no tensor `{t}`; there are {}",
                                list(self.decl.tensors.keys().map(String::as_str))
                            ),
                        ));
                    }
                    Some(d) if d.per_layer() && !scope.layer_tensors => {
                        return Err(self.wrong(
                            at,
                            format!("each layer has a `{t}`; it can be asked for in `layer` and `per_layer` only"),
                        ));
                    }
                    Some(_) => {}
                },
                Mention::Name(_) => {}
            }
        }
        Ok(())
    }

    fn ops<'a>(
        &'a self,
        section: &str,
        ops: &'a [OpDecl],
        values: &mut BTreeSet<&'a str>,
        scope: &Scope<'a>,
    ) -> Checked {
        for (n, o) in ops.iter().enumerate() {
            let at = |more: &[Step]| -> Vec<Step> {
                [section.into(), n.into()].into_iter().chain(more.iter().cloned()).collect()
            };
            let row = o.op.0.row();
            if o.operands.len() != row.operands.len() {
                let takes = row.operands.join(", ");
                return Err(self.wrong(
                    &at(&["in".into()]),
                    format!("{} takes {} operands ({takes}), not {}", row.name, row.operands.len(), o.operands.len()),
                ));
            }
            for (k, operand) in o.operands.iter().enumerate() {
                let here = || at(&["in".into(), k.into()]);
                match self.decl.tensors.get(operand) {
                    Some(t) if t.per_layer() && section != "layer" => {
                        return Err(self
                            .wrong(&here(), format!("each layer has a `{operand}`; it can be used in `layer` only")));
                    }
                    Some(_) => {}
                    None if values.contains(operand.as_str()) => {}
                    None => {
                        let tensors = list(self.decl.tensors.keys().map(String::as_str));
                        return Err(self.wrong(
                            &here(),
                            format!(
                                "`{operand}` is neither a value made before ({}) nor a tensor ({tensors})",
                                list(values.iter().copied())
                            ),
                        ));
                    }
                }
            }
            self.attrs(o, &at, scope)?;
            if let Some(e) = &o.when {
                self.expr(e, &at(&["when".into()]), scope)?;
            }
            let rebinds = matches!(o.out.as_str(), "tokens" | "pos");
            if !is_name(&o.out) || rebinds || self.decl.tensors.contains_key(&o.out) {
                return Err(self.wrong(
                    &at(&["out".into()]),
                    format!("`{}` cannot name a value: it is no name, an input or a tensor", o.out),
                ));
            }
            values.insert(&o.out);
        }
        Ok(())
    }

    fn attrs(&self, o: &OpDecl, at: &dyn Fn(&[Step]) -> Vec<Step>, scope: &Scope<'_>) -> Checked {
        let row = o.op.0.row();
        for (key, e) in &o.attrs.0 {
            let here = at(&["attrs".into(), key.as_str().into()]);
            let Some((_, kind)) = row.attrs.iter().find(|(n, _)| n == key) else {
                let known = list(row.attrs.iter().map(|(n, _)| *n));
                return Err(self.wrong(
                    &here,
                    format!(
                        "{} has no attribute `{key}`; it has {}",
                        row.name,
                        if known.is_empty() { "none" } else { &known }
                    ),
                ));
            };
            match (kind, e.as_name(), e.as_literal()) {
                (AttrKind::OneOf(words), Some(w), _) if words.contains(&w) => {}
                (AttrKind::OneOf(words), name, _) if name.is_none_or(|n| !scope.names.contains(n)) => {
                    return Err(self.wrong(
                        &here,
                        format!(
                            "`{key}` is {} or a word of the hyper-parameters, not {}",
                            words.join(" or "),
                            e.text()
                        ),
                    ));
                }
                (AttrKind::IntOr(_), Some(table), _) if o.op.0 == OpKind::RopeAngles => {
                    if !self.decl.rope.contains_key(table) {
                        return Err(self.wrong(
                            &here,
                            format!(
                                "no rotary table `{table}`; there are {}",
                                list(self.decl.rope.keys().map(String::as_str))
                            ),
                        ));
                    }
                }
                (AttrKind::Int | AttrKind::IntOr(_), _, Some(v)) if v.int().is_none() => {
                    return Err(self.wrong(&here, format!("`{key}` is an integer from 0 up, not {v}")));
                }
                (AttrKind::Float | AttrKind::FloatOr(_), _, Some(v)) if v.num().is_none() => {
                    return Err(self.wrong(&here, format!("`{key}` is a number, not {v}")));
                }
                (AttrKind::Flag, _, Some(v)) if !matches!(v, Value::Bool(_)) => {
                    return Err(self.wrong(&here, format!("`{key}` is true or false, not {v}")));
                }
                _ => self.expr(e, &here, scope)?,
            }
        }
        for (name, kind) in row.attrs {
            if matches!(kind, AttrKind::Int | AttrKind::Float) && !o.attrs.contains_key(*name) {
                return Err(self.wrong(&at(&[]), format!("{} needs the attribute `{name}`", row.name)));
            }
        }
        Ok(())
    }
}

fn is_name(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
