//! The conversation as the template sees it, with a mark at every special token that a user wrote.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object};

use super::super::Tokenizer;
use super::{MAX_NESTING, Rendered};

/// An object of the input, in the order it was written.
#[derive(Debug)]
pub(super) struct Fields {
    keys: Vec<Value>,
    values: HashMap<String, Value>,
}

impl Fields {
    pub(super) fn value(pairs: impl IntoIterator<Item = (String, Value)>) -> Value {
        let mut f = Self { keys: Vec::new(), values: HashMap::new() };
        for (k, v) in pairs {
            f.keys.push(Value::from(k.as_str()));
            f.values.insert(k, v);
        }
        Value::from_object(f)
    }
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.values.get(key.as_str()?).cloned()
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.values.get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.keys.clone())
    }
}

/// Size of a JSON value in bytes, or nothing if it is nested too deeply.
pub(super) fn json_size(v: &serde_json::Value, depth: usize) -> Option<u64> {
    use serde_json::Value as J;
    if depth >= MAX_NESTING {
        return None;
    }
    let mut children = 0u64;
    match v {
        J::Array(a) => {
            for x in a {
                children += json_size(x, depth + 1)?;
            }
        }
        J::Object(o) => {
            for (k, x) in o {
                children += k.len() as u64 + json_size(x, depth + 1)?;
            }
        }
        J::String(s) => children = s.len() as u64,
        _ => {}
    }
    Some(children + 16)
}

pub(super) fn any_string(v: &serde_json::Value, f: &mut dyn FnMut(&str) -> bool) -> bool {
    use serde_json::Value as J;
    match v {
        J::String(s) => f(s),
        J::Array(a) => a.iter().any(|x| any_string(x, f)),
        J::Object(o) => o.iter().any(|(k, x)| f(k) || any_string(x, f)),
        _ => false,
    }
}

pub(super) fn to_value(v: &serde_json::Value, mark: Option<(&Tokenizer, char)>) -> Value {
    use serde_json::Value as J;
    match v {
        J::Null => Value::from(()),
        J::Bool(b) => Value::from(*b),
        J::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), ..) => Value::from(i),
            (_, Some(u), _) => Value::from(u),
            (.., f) => Value::from(f.unwrap_or(f64::NAN)),
        },
        J::String(s) => Value::from(marked(s, mark)),
        J::Array(a) => a.iter().map(|x| to_value(x, mark)).collect::<Vec<Value>>().into(),
        J::Object(o) => Fields::value(o.iter().map(|(k, x)| (marked(k, mark), to_value(x, mark)))),
    }
}

/// Puts the mark behind the first character of every special token's text.
pub(super) fn marked(s: &str, mark: Option<(&Tokenizer, char)>) -> String {
    let Some((t, c)) = mark else { return s.to_owned() };
    let (mut out, mut done, mut from) = (String::with_capacity(s.len()), 0, 0);
    while let Some((start, ..)) = t.find_special(s, from) {
        let first = start + s[start..].chars().next().map_or(1, char::len_utf8);
        out.push_str(&s[done..first]);
        out.push(c);
        (done, from) = (first, first);
    }
    out.push_str(&s[done..]);
    out
}

/// Takes the marks out. A mark sits behind the first character of a special token's text.
pub(super) fn unmark(marked: &str, mark: char, tokenizer: &Tokenizer) -> Rendered {
    let mut text = String::with_capacity(marked.len());
    let mut starts = Vec::new();
    for c in marked.chars() {
        if c == mark {
            starts.push(text.char_indices().next_back().map_or(0, |(i, _)| i));
        } else {
            text.push(c);
        }
    }
    let range = |s: usize| tokenizer.find_special(&text, s).filter(|f| f.0 == s).map(|f| s..s + f.1);
    let user_special = starts.into_iter().filter_map(range).collect();
    Rendered { text, user_special }
}
