//! What a template may call: functions, filters, tests and methods, each of which charges for what it can make.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests as checks};
use minijinja_contrib::pycompat;

use super::date::strftime;
use super::json::Json;
use super::meter::Meter;

pub(super) fn environment(meter: &Arc<Meter>, fuel: u64, now: u64) -> Environment<'static> {
    let mut env = Environment::empty();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_fuel(Some(fuel));
    env.set_recursion_limit(100);
    let m = meter.clone();
    env.set_formatter(move |out, _: &mut State, v| {
        let size = m.whole(v, if v.as_str().is_some() { 1 } else { 6 }, 0)?;
        m.print(size)?;
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
    let widths = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|d| if d.is_empty() { 0 } else { d.parse::<u64>().unwrap_or(u64::MAX) });
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

/// The functions that a rewritten template calls; see [`crate::text::guard`].
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
        m.refuse(&why);
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
        let separator =
            |i: usize| separators.as_ref().and_then(|s| s.get_item(&Value::from(i)).ok()?.as_str().map(str::to_owned));
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
