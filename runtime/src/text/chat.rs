//! Chat templates: Jinja, rendered under bounds of time and memory.
//!
//! A template comes with the model file, so it is untrusted code. Three things hold it: the engine's fuel bounds the
//! instructions; a **budget of bytes** is charged by every operation that can copy or build a value ([`super::guard`]
//! makes operators ask for it, the filters and methods below do themselves); and no loader, `include` or Python object
//! exists.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests as checks};
use minijinja_contrib::pycompat;

use super::guard::guard;
use super::{TextError, Tokenizer};

const MAX_TEMPLATE: usize = 256 << 10;
const MAX_INPUT: u64 = 16 << 20;
/// Instructions of a rendering, and one more for every eight bytes of input.
const FUEL: u64 = 400_000;
const MAX_FUEL: u64 = 2_000_000;
/// Bytes that a rendering may handle whatever its input, and for each byte of it.
const BASE_BUDGET: u64 = 8 << 20;
const BUDGET_PER_BYTE: u64 = 256;
const MAX_BUDGET: u64 = 1 << 30;
const MAX_OUTPUT: u64 = 32 << 20;
const MAX_NESTING: usize = 64;

/// A chat template, checked and ready.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
}

/// What a template is rendered with.
#[derive(Debug, Clone, Default)]
pub struct ChatInput {
    /// The messages: an array of `{role, content, …}`.
    pub messages: serde_json::Value,
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Tools offered to the model.
    pub tools: Option<serde_json::Value>,
    /// Text of the beginning-of-text token.
    pub bos_token: String,
    /// Text of the end-of-text token.
    pub eos_token: String,
    /// More variables (`enable_thinking`, …).
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Seconds since 1970 for `strftime_now` (UTC); the clock when missing.
    pub now: Option<u64>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Where a special token's text in `text` came from a message, and so is not one.
    pub user_special: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Checks a template: its size, its syntax, and that it asks only for what is offered.
    pub fn new(source: &str) -> Result<Self, TextError> {
        if source.len() > MAX_TEMPLATE {
            return Err(TextError::Template(format!("has {} bytes (limit {MAX_TEMPLATE})", source.len())));
        }
        let source = guard(source)?;
        environment(&Arc::new(Meter::new(0)), FUEL, 0)
            .template_from_str(&source)
            .map_err(|e| TextError::Template(reason(&e)))?;
        Ok(Self { source })
    }

    /// Renders a conversation. The tokenizer is asked what its special tokens are, so that those written by a user can be
    /// told from the template's.
    pub fn render(&self, input: &ChatInput, tokenizer: Option<&Tokenizer>) -> Result<Rendered, TextError> {
        let all = [Some(&input.messages), input.tools.as_ref()].into_iter().flatten().chain(input.extra.values());
        let size = all.clone().map(|v| json_size(v, 0)).try_fold(0u64, |a, b| Some(a + b?));
        let size = size.filter(|&s| s <= MAX_INPUT).ok_or(TextError::Limit("16 MiB of messages, nested at most 64 deep"))?;
        // A character no input has marks the special tokens that users wrote, and is taken out again afterwards.
        let mark = match tokenizer {
            Some(t) if all.clone().any(|v| any_string(v, &mut |s| t.find_special(s, 0).is_some())) => {
                // Noncharacters: no text should have one, no text has all 32.
                let free = |c: &char| !self.source.contains(*c) && !all.clone().any(|v| any_string(v, &mut |s| s.contains(*c)));
                Some((t, ('\u{fdd0}'..='\u{fdef}').find(free).ok_or(TextError::Encode("it has every noncharacter".into()))?))
            }
            _ => None,
        };
        let value = |v: &serde_json::Value| to_value(v, mark);
        let mut vars = vec![
            ("messages".to_owned(), value(&input.messages)),
            ("add_generation_prompt".into(), Value::from(input.add_generation_prompt)),
            ("bos_token".into(), Value::from(input.bos_token.as_str())),
            ("eos_token".into(), Value::from(input.eos_token.as_str())),
        ];
        if let Some(t) = &input.tools {
            vars.push(("tools".into(), value(t)));
        }
        vars.extend(input.extra.iter().filter(|(k, _)| !k.starts_with("tw__")).map(|(k, v)| (k.clone(), value(v))));

        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let budget = BASE_BUDGET.saturating_add(size.saturating_mul(BUDGET_PER_BYTE)).min(MAX_BUDGET);
        let meter = Arc::new(Meter::new(budget));
        let env = environment(&meter, (FUEL + size / 8).min(MAX_FUEL), input.now.unwrap_or_else(clock));
        let root = Fields::value(vars);
        let render = || env.template_from_str(&self.source)?.render(root);
        let text = render().map_err(|e| meter.explain(&e))?;
        Ok(match mark {
            Some((t, c)) => unmark(&text, c, t),
            None => Rendered { text, user_special: Vec::new() },
        })
    }
}

/// Takes the marks out. A mark sits behind the first character of a special token's text.
fn unmark(marked: &str, mark: char, tokenizer: &Tokenizer) -> Rendered {
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

/// The budget of one rendering.
struct Meter {
    left: AtomicU64,
    printed: AtomicU64,
    refused: Mutex<Option<String>>,
    over: Mutex<Option<&'static str>>,
}

impl Meter {
    fn new(budget: u64) -> Self {
        Self { left: AtomicU64::new(budget), printed: AtomicU64::new(0), refused: Mutex::new(None), over: Mutex::new(None) }
    }

    fn limit(&self, what: &'static str) -> Error {
        if let Ok(mut o) = self.over.lock() {
            *o = Some(what);
        }
        Error::new(ErrorKind::InvalidOperation, what)
    }

    fn charge(&self, n: u64) -> Result<(), Error> {
        let left = self.left.load(Ordering::Relaxed);
        match left.checked_sub(n) {
            Some(l) => {
                self.left.store(l, Ordering::Relaxed);
                Ok(())
            }
            None => {
                self.left.store(0, Ordering::Relaxed);
                Err(self.limit("memory"))
            }
        }
    }

    /// Charges `factor` times the size of a whole value and returns that size. Walks no further than the budget reaches.
    fn whole(&self, v: &Value, factor: u64, depth: usize) -> Result<u64, Error> {
        if depth > MAX_NESTING {
            return Err(self.limit("64 levels of nesting"));
        }
        let own = v.as_str().map_or(16, |s| s.len() as u64 + 16);
        self.charge(own.saturating_mul(factor))?;
        let mut size = own;
        match v.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for x in v.try_iter()? {
                    size += self.whole(&x, factor, depth + 1)?;
                }
            }
            ValueKind::Map => {
                for k in v.try_iter()? {
                    size += self.whole(&k, factor, depth + 1)? + self.whole(&v.get_item(&k)?, factor, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(size)
    }

    fn explain(&self, e: &Error) -> TextError {
        if let Some(why) = self.refused.lock().ok().and_then(|mut r| r.take()) {
            return TextError::Refused(why);
        }
        if let Some(what) = self.over.lock().ok().and_then(|mut o| o.take()) {
            return TextError::Limit(what);
        }
        match e.kind() {
            ErrorKind::OutOfFuel => TextError::Limit("instructions"),
            _ => TextError::Template(reason(e)),
        }
    }
}

fn reason(e: &Error) -> String {
    let line = e.line().map_or(String::new(), |l| format!(" in line {l}"));
    format!("{}{line}", e.detail().map_or_else(|| e.kind().to_string(), str::to_owned))
}

fn environment(meter: &Arc<Meter>, fuel: u64, now: u64) -> Environment<'static> {
    let mut env = Environment::empty();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_fuel(Some(fuel));
    env.set_recursion_limit(100);
    let m = meter.clone();
    env.set_formatter(move |out, _: &mut State, v| {
        let size = m.whole(v, if v.as_str().is_some() { 1 } else { 6 }, 0)?;
        if m.printed.fetch_add(size, Ordering::Relaxed) > MAX_OUTPUT {
            return Err(m.limit("32 MiB of text"));
        }
        std::fmt::Write::write_fmt(out, format_args!("{v}")).map_err(Error::from)
    });
    guards(&mut env, meter);
    functions(&mut env, meter, now);
    add_filters(&mut env, meter);
    add_tests(&mut env, meter);
    let m = meter.clone();
    env.set_unknown_method_callback(move |state, v, name, args| {
        let size = m.whole(v, 3, 0)?;
        let mut sizes = Vec::new();
        for a in args {
            sizes.push(m.whole(a, 3, 0)?);
        }
        let text = v.as_str().unwrap_or_default();
        let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
        match name {
            "replace" => m.charge(grown(text, arg(0), arg(1)))?,
            "join" => m.charge(pieces_of(args.first(), &m)?.saturating_mul(text.len() as u64))?,
            // Every character is compared with every one to strip.
            "strip" | "lstrip" | "rstrip" => m.charge((text.len() as u64).saturating_mul(arg(0).len() as u64))?,
            "split" | "splitlines" => m.charge(64 * parts(text, args.first().and_then(Value::as_str)))?,
            // Widths and repeated fields.
            "format" => m.charge(formatted(text, sizes.iter().sum::<u64>()))?,
            "items" | "keys" | "values" => m.charge(size)?,
            _ => {}
        }
        pycompat::unknown_method_callback(state, v, name, args)
    });
    env
}

/// Upper bound of a replacement's length.
fn grown(text: &str, old: &str, new: &str) -> u64 {
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    (places as u64).saturating_mul(new.len() as u64).saturating_add(text.len() as u64)
}

/// How many pieces a split makes, at most.
fn parts(text: &str, separator: Option<&str>) -> u64 {
    1 + match separator {
        Some(s) if !s.is_empty() => text.matches(s).count() as u64,
        Some(_) => text.len() as u64,
        None => text.chars().filter(|c| c.is_whitespace()).count() as u64,
    }
}

/// Upper bound of a formatted text's length: every number in it might be a width, and every field the largest argument.
fn formatted(text: &str, args: u64) -> u64 {
    let widths = text.split(|c: char| !c.is_ascii_digit()).map(|d| if d.is_empty() { 0 } else { d.parse::<u64>().unwrap_or(u64::MAX) });
    let fields = text.bytes().filter(|b| matches!(b, b'{' | b'%')).count() as u64;
    widths.fold(fields.saturating_mul(args), u64::saturating_add)
}

fn pieces_of(v: Option<&Value>, m: &Meter) -> Result<u64, Error> {
    let Some(v) = v else { return Ok(0) };
    match v.len() {
        Some(n) => Ok(n as u64),
        None => m.whole(v, 1, 0),
    }
}

/// The functions that a rewritten template calls; see [`super::guard`].
fn guards(env: &mut Environment<'static>, meter: &Arc<Meter>) {
    let m = meter.clone();
    env.add_function("tw__g", move |v: Value, factor: u64| m.whole(&v, factor, 0).map(|_| v));
    let m = meter.clone();
    env.add_function("tw__k", move |v: Value| {
        m.whole(&v, 1, 0)?;
        match v.kind() {
            ValueKind::Plain | ValueKind::Iterable | ValueKind::Invalid => {
                Err(Error::new(ErrorKind::InvalidOperation, "only data can be stored in a namespace"))
            }
            _ => Ok(v),
        }
    });
    let m = meter.clone();
    env.add_function("tw__s", move |v: Value| m.charge(v.as_str().map_or(1, |s| s.len() as u64)).map(|()| v));
    let m = meter.clone();
    env.add_function("tw__c", move |v: Value| {
        let size = v.as_str().map(|s| s.len() as u64).or_else(|| v.len().map(|n| 32 * n as u64));
        m.charge(size.unwrap_or(1 << 20)).map(|()| v)
    });
    let m = meter.clone();
    env.add_function("tw__n", move |v: Value| match (v.as_str(), v.kind()) {
        (Some(s), _) if s.len() <= 64 => m.charge(s.len() as u64 * 65_536).map(|()| v),
        (None, ValueKind::Number) if v.as_i64().is_none_or(|n| n <= 65_536) => Ok(v),
        (None, ValueKind::Bool | ValueKind::Undefined | ValueKind::None) => Ok(v),
        _ => Err(m.limit("multiplication: numbers up to 65536 and strings up to 64 bytes")),
    });
    let m = meter.clone();
    env.add_function("tw__t", move |n: u64| m.charge(n).map(|()| ""));
}

fn functions(env: &mut Environment<'static>, meter: &Arc<Meter>, now: u64) {
    env.add_function("range", minijinja::functions::range);
    let m = meter.clone();
    let guarded = move |f: Value| {
        let m = m.clone();
        move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
let args = args.into_values();
            for a in args.iter() {
                m.whole(a, 2, 0)?;
            }
            f.call(state, &args)
        }
    };
    env.add_function("dict", guarded(Value::from_function(minijinja::functions::dict)));
    env.add_function("namespace", guarded(Value::from_function(minijinja::functions::namespace)));
    let m = meter.clone();
    env.add_function("raise_exception", move |why: String| -> Result<Value, Error> {
        let short: String = why.chars().take(1000).collect();
        if let Ok(mut r) = m.refused.lock() {
            *r = Some(short);
        }
        Err(Error::new(ErrorKind::InvalidOperation, "refused"))
    });
    let m = meter.clone();
    env.add_function("strftime_now", move |format: String| -> Result<String, Error> {
        m.charge(16 * format.len() as u64)?;
        Ok(strftime(&format, now))
    });
}

fn add_filters(env: &mut Environment<'static>, meter: &Arc<Meter>) {
    macro_rules! cheap {
        ($($name:literal: $f:ident),* $(,)?) => {$({
            let (m, f) = (meter.clone(), Value::from_function(filters::$f));
            env.add_filter($name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
let args = args.into_values();
                m.charge(16 + args.first().and_then(Value::as_str).map_or(0, |s| s.len() as u64))?;
                f.call(state, &args)
            });
        })*};
    }
    // The number: by how much a value can grow at most.
    macro_rules! costly {
        ($($name:literal: $f:ident $factor:literal),* $(,)?) => {$({
            let (m, f) = (meter.clone(), Value::from_function(filters::$f));
            env.add_filter($name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
let args = args.into_values();
                for a in args.iter() {
                    m.whole(a, $factor, 0)?;
                }
                let text = args.first().and_then(Value::as_str).unwrap_or_default();
                let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
                match $name {
                    "join" => m.charge(pieces_of(args.first(), &m)?.saturating_mul(arg(1).len() as u64))?,
                    "replace" => m.charge(grown(text, arg(1), arg(2)))?,
                    "trim" => m.charge((text.len() as u64).saturating_mul(arg(1).len() as u64))?,
                    "split" => m.charge(64 * parts(text, args.get(1).and_then(Value::as_str)))?,
                    "lines" => m.charge(64 * parts(text, Some("\n")))?,
                    "list" | "map" | "select" | "reject" | "sort" | "unique" | "min" | "max" => m.charge(64 * text.len() as u64)?,
                    _ => {}
                }
                f.call(state, &args)
            });
        })*};
    }
    cheap! {
        "length": length, "count": length, "first": first, "last": last, "default": default, "d": default, "bool": bool,
        "int": int, "float": float, "abs": abs, "round": round, "safe": safe, "attr": attr,
    }
    costly! {
        "items": items 2, "lower": lower 3, "upper": upper 3, "title": title 3, "capitalize": capitalize 3, "trim": trim 1,
        "escape": escape 6, "e": escape 6, "string": string 6, "reverse": reverse 2, "join": join 6, "replace": replace 1,
        "split": split 1, "lines": lines 1, "dictsort": dictsort 4, "list": list 2, "min": min 2, "max": max 2, "sort": sort 8,
        "unique": unique 8, "select": select 2, "reject": reject 2, "selectattr": selectattr 2, "rejectattr": rejectattr 2,
        "map": map 2, "groupby": groupby 4,
    }
    let m = meter.clone();
    let inner = Value::from_function(filters::indent);
    env.add_filter("indent", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
let args = args.into_values();
        let size = args.iter().try_fold(0, |n, a| m.whole(a, 1, 0).map(|s| n + s))?;
        let width = args.iter().skip(1).filter_map(|a| a.as_i64().or_else(|| a.get_attr("width").ok()?.as_i64())).max();
        if width.is_some_and(|w| w > 64) {
            return Err(m.limit("indent(64)"));
        }
        m.charge(size.saturating_mul(65))?;
        inner.call(state, &args)
    });
    let m = meter.clone();
    env.add_filter("tojson", move |v: Value, indent: Option<Value>, args: Kwargs| -> Result<Value, Error> {
        let named: Option<Value> = args.get("indent")?;
        let width = indent.or(named).filter(|v| !v.is_none() && !v.is_undefined()).map(|v| v.as_i64().unwrap_or(-1));
        if width.is_some_and(|w| !(0..=16).contains(&w)) {
            return Err(m.limit("tojson(indent=16)"));
        }
        let separators: Option<Value> = args.get("separators")?;
        let separator = |i: usize| separators.as_ref().and_then(|s| s.get_item(&Value::from(i)).ok()?.as_str().map(str::to_owned));
        let style = Json {
            indent: width.map(|w| w as usize),
            ascii: args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            sort: args.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
            comma: separator(0).unwrap_or_else(|| if width.is_some() { "," } else { ", " }.to_owned()),
            colon: separator(1).unwrap_or_else(|| ": ".to_owned()),
            meter: &m,
        };
        args.assert_all_used()?;
        let mut out = String::new();
        style.write(&v, 0, &mut out)?;
        Ok(Value::from_safe_string(out))
    });
}

/// Writes JSON as Python's `json.dumps` does.
struct Json<'a> {
    indent: Option<usize>,
    ascii: bool,
    sort: bool,
    comma: String,
    colon: String,
    meter: &'a Meter,
}

impl Json<'_> {
    fn write(&self, v: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_NESTING {
            return Err(self.meter.limit("64 levels of nesting"));
        }
        let fixed = (self.indent.unwrap_or(0) * depth + self.comma.len() + self.colon.len() + 16) as u64;
        self.meter.charge(fixed + v.as_str().map_or(0, |s| 6 * s.len() as u64))?;
        match v.kind() {
            ValueKind::Undefined | ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if v.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&v.to_string()),
            ValueKind::String | ValueKind::Bytes => self.string(v.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut n = 0;
                for x in v.try_iter()? {
                    self.next(n, depth, '[', out);
                    self.write(&x, depth + 1, out)?;
                    n += 1;
                }
                self.end(n, depth, "[]", out);
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = v.try_iter()?.collect();
                self.meter.charge(32 * keys.len() as u64)?;
                if self.sort {
                    keys.sort_by_key(Value::to_string);
                }
                for (n, k) in keys.iter().enumerate() {
                    self.next(n, depth, '{', out);
                    self.meter.whole(k, 6, 0)?;
                    match k.as_str() {
                        Some(s) => self.string(s, out),
                        None => self.string(&k.to_string(), out),
                    }
                    out.push_str(&self.colon);
                    self.write(&v.get_item(k)?, depth + 1, out)?;
                }
                self.end(keys.len(), depth, "{}", out);
            }
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "this value cannot be written as JSON")),
        }
        Ok(())
    }

    fn next(&self, n: usize, depth: usize, open: char, out: &mut String) {
        match n {
            0 => out.push(open),
            _ => out.push_str(&self.comma),
        }
        self.line(depth + 1, out);
    }

    fn end(&self, n: usize, depth: usize, empty: &str, out: &mut String) {
        if n == 0 {
            return out.push_str(empty);
        }
        self.line(depth, out);
        out.push_str(&empty[1..]);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(w) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', w * depth));
        }
    }

    fn string(&self, s: &str, out: &mut String) {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn add_tests(env: &mut Environment<'static>, meter: &Arc<Meter>) {
    env.add_test("defined", checks::is_defined);
    env.add_test("undefined", checks::is_undefined);
    env.add_test("none", checks::is_none);
    env.add_test("boolean", checks::is_boolean);
    env.add_test("true", checks::is_true);
    env.add_test("false", checks::is_false);
    env.add_test("odd", checks::is_odd);
    env.add_test("even", checks::is_even);
    env.add_test("divisibleby", checks::is_divisibleby);
    env.add_test("number", checks::is_number);
    env.add_test("integer", checks::is_integer);
    env.add_test("float", checks::is_float);
    env.add_test("string", checks::is_string);
    env.add_test("sequence", checks::is_sequence);
    env.add_test("iterable", checks::is_iterable);
    env.add_test("mapping", checks::is_mapping);
    macro_rules! costly {
        ($($name:literal: $f:ident),* $(,)?) => {$({
            let (m, f) = (meter.clone(), Value::from_function(checks::$f));
            env.add_test($name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<bool, Error> {
let args = args.into_values();
                for a in args.iter() {
                    m.whole(a, 1, 0)?;
                }
                f.call(state, &args).map(|v| v.is_true())
            });
        })*};
    }
    costly! {
        "eq": is_eq, "equalto": is_eq, "==": is_eq, "ne": is_ne, "!=": is_ne, "in": is_in, "startingwith": is_startingwith,
        "endingwith": is_endingwith,
    }
}

/// An object of the input, in the order it was written.
#[derive(Debug)]
struct Fields {
    keys: Vec<Value>,
    values: HashMap<String, Value>,
}

impl Fields {
    fn value(pairs: impl IntoIterator<Item = (String, Value)>) -> Value {
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
fn json_size(v: &serde_json::Value, depth: usize) -> Option<u64> {
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

fn any_string(v: &serde_json::Value, f: &mut dyn FnMut(&str) -> bool) -> bool {
    use serde_json::Value as J;
    match v {
        J::String(s) => f(s),
        J::Array(a) => a.iter().any(|x| any_string(x, f)),
        J::Object(o) => o.iter().any(|(k, x)| f(k) || any_string(x, f)),
        _ => false,
    }
}

fn to_value(v: &serde_json::Value, mark: Option<(&Tokenizer, char)>) -> Value {
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
fn marked(s: &str, mark: Option<(&Tokenizer, char)>) -> String {
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

/// The date of a second since 1970 in UTC, in the directives that templates use; others are left as they are.
fn strftime(format: &str, now: u64) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
    ];
    let leap = |y: u64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    let days = (now / 86_400).min(3_000_000);
    // Gregorian years repeat every 400, which are 146097 days.
    let (mut year, mut day) = (1970 + days / 146_097 * 400, days % 146_097);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = day + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (weekday, hour, minute, second) = (DAYS[(days % 7) as usize], now / 3600 % 24, now / 60 % 60, now % 60);
    let half = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let two = |n: u64| format!("{n:02}");
        let Some(d) = chars.next() else {
            out.push('%');
            break;
        };
        out.push_str(&match d {
            'Y' => year.to_string(),
            'y' => two(year % 100),
            'm' => two(month as u64 + 1),
            'd' => two(day + 1),
            'e' => format!("{:2}", day + 1),
            'B' => MONTHS[month].to_owned(),
            'b' | 'h' => MONTHS[month][..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => two(hour),
            'I' => two(half),
            'M' => two(minute),
            'S' => two(second),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'j' => format!("{of_year:03}"),
            'F' => format!("{year}-{:02}-{:02}", month + 1, day + 1),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        });
    }
    out
}

#[cfg(test)]
mod tests;
