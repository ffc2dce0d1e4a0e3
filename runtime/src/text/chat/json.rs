//! `tojson`, as Python writes it.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::MAX_NESTING;
use super::meter::Meter;

/// Writes JSON as Python's `json.dumps` does.
pub(super) struct Json<'a> {
    pub indent: Option<usize>,
    pub ascii: bool,
    pub sort: bool,
    pub comma: String,
    pub colon: String,
    pub meter: &'a Meter,
}

impl Json<'_> {
    pub(super) fn write(&self, v: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
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
