//! A record as a line of text, with a checksum over it: `{"crc":"1c291ca3","record":{..}}`.
//!
//! ```
//! use tilewright_autotune::{line, record::Record};
//! let text = line::write(&Record::example());
//! assert_eq!(line::read(text.as_bytes()).unwrap(), Record::example());
//! let damaged = text.replace("1000.0", "1000.1");
//! assert_eq!(line::read(damaged.as_bytes()).unwrap_err().to_string(), "the checksum does not fit");
//! ```

use crate::record::{Record, SCHEMA};
use serde::Deserialize;
use std::sync::OnceLock;

/// Why a line is ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a line of this form, or a part of one: its writer was killed.
    #[error("it is no record, or only a part of one")]
    Form,
    /// Some of its bytes are not those that were written.
    #[error("the checksum does not fit")]
    Checksum,
    /// Of another version of this program.
    #[error("it has schema {0}, this program reads {SCHEMA}")]
    Schema(u32),
    /// A number or a word that no tuner writes.
    #[error("{0}")]
    Content(String),
    /// Measured on another machine.
    #[error("it was measured on another machine, {0}")]
    Device(String),
    /// Measured with kernels of another compiler.
    #[error("it was measured with another compiler, {0}")]
    Compiler(String),
}

const BEFORE: &[u8] = b"{\"crc\":\"";
const BETWEEN: &[u8] = b"\",\"record\":";

/// The line of a record, without an end.
pub fn write(record: &Record) -> String {
    // Maps with words as keys, numbers and words: nothing that JSON could refuse.
    let text = serde_json::to_string(record).unwrap_or_default();
    format!("{{\"crc\":\"{:08x}\",\"record\":{text}}}", crc32fast::hash(text.as_bytes()))
}

/// The record of a line without its end, whatever machine it is from.
pub fn read(line: &[u8]) -> Result<Record, Fault> {
    parse(checked(line)?)
}

/// The record's text, if it is as it was written.
fn checked(line: &[u8]) -> Result<&[u8], Fault> {
    let framed = || {
        let (crc, rest) = line.strip_prefix(BEFORE)?.split_at_checked(8)?;
        Some((crc, rest.strip_prefix(BETWEEN)?.strip_suffix(b"}")?))
    };
    let (crc, text) = framed().ok_or(Fault::Form)?;
    // The exact digits: a number may be written in several ways, but was in one.
    if crc == format!("{:08x}", crc32fast::hash(text)).as_bytes() { Ok(text) } else { Err(Fault::Checksum) }
}

fn parse(text: &[u8]) -> Result<Record, Fault> {
    match serde_json::from_slice::<Record>(text) {
        Ok(r) if r.schema == SCHEMA => r.check().map(|()| r).map_err(Fault::Content),
        Ok(r) => Err(Fault::Schema(r.schema)),
        // Another schema may have other fields.
        Err(e) => Err(match serde_json::from_slice::<Versioned>(text) {
            Ok(v) if v.schema != SCHEMA => Fault::Schema(v.schema),
            _ => Fault::Content(e.to_string()),
        }),
    }
}

/// A record whose history is parsed when it is first asked for: it is nine tenths of a line, and opening a store of a
/// thousand records with 64 trials each takes 64 ms with it and 7 without.
#[derive(Debug)]
pub struct Lazy {
    head: Record,
    line: Box<[u8]>,
    full: OnceLock<Record>,
}

/// Where the history starts. Within a word the quotes would have backslashes, and no other field has this name.
const HISTORY: &[u8] = b",\"history\":[";

impl Lazy {
    /// Like [`read`], but what is wrong within the history of a line whose checksum fits is found late.
    pub fn read(line: &[u8]) -> Result<Lazy, Fault> {
        let text = checked(line)?;
        let short = text.windows(HISTORY.len()).position(|w| w == HISTORY).map(|at| [&text[..at], b"}"].concat());
        // Fields may stand in another order in what another program wrote.
        let head = short.and_then(|s| parse(&s).ok()).map_or_else(|| parse(text), Ok)?;
        Ok(Lazy { head, line: line.into(), full: OnceLock::new() })
    }

    /// The record; its history may be absent.
    pub fn head(&self) -> &Record {
        &self.head
    }

    /// The record with its history, which stays empty if it is senseless: the rest does not depend on it.
    pub fn record(&self) -> &Record {
        self.full.get_or_init(|| read(&self.line).unwrap_or_else(|_| self.head.clone()))
    }
}

impl From<Record> for Lazy {
    fn from(record: Record) -> Lazy {
        Lazy { head: record.clone(), line: Box::default(), full: record.into() }
    }
}

#[derive(Deserialize)]
struct Versioned {
    schema: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(text: &str) -> String {
        format!("{{\"crc\":\"{:08x}\",\"record\":{text}}}", crc32fast::hash(text.as_bytes()))
    }

    #[test]
    fn times_keep_their_bits() {
        let mut bits = 0x3ff0_0000_0000_0001u64;
        for _ in 0..2000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let time = f64::from_bits(bits & !(1 << 63));
            if !(time.is_finite() && time > 0.0) {
                continue;
            }
            let r = Record { ns: time, error: time, ..Record::example() };
            assert_eq!(read(write(&r).as_bytes()), Ok(r));
        }
    }

    #[test]
    fn a_history_waits() {
        let trial = crate::record::Trial { ns: 7.5, backend: ",\"history\":[".into(), ..Default::default() };
        let r = Record { history: vec![trial], op: "a ,\"history\":[ b".into(), ..Record::example() };
        let lazy = Lazy::read(write(&r).as_bytes()).unwrap();
        assert_eq!((lazy.head(), lazy.record()), (&Record { history: vec![], ..r.clone() }, &r));
        let text = serde_json::to_string(&r).unwrap();
        // Another order, and a history that no tuner writes.
        let moved = text.replacen("\"schema\":1,", "", 1).replacen("}]}", "}],\"schema\":1}", 1);
        assert_eq!(Lazy::read(sealed(&moved).as_bytes()).unwrap().record(), &r);
        let lazy = Lazy::read(sealed(&text.replacen("7.5", "-7.5", 1)).as_bytes()).unwrap();
        assert_eq!(lazy.record(), &Record { history: vec![], ..r });
    }

    #[test]
    fn each_fault() {
        let good = write(&Record::example());
        let text = |from: &str, to: &str| {
            sealed(&good[good.find("\"record\":").unwrap() + 9..good.len() - 1].replace(from, to))
        };
        assert_eq!(read(text("", "").as_bytes()), Ok(Record::example()));
        assert_eq!(read(text("\"schema\":1", "\"schema\":2").as_bytes()), Err(Fault::Schema(2)));
        assert_eq!(read(sealed("{\"schema\":7,\"what\":[]}").as_bytes()), Err(Fault::Schema(7)));
        for (from, to) in [
            ("\"ns\":1000.0", "\"ns\":null"),
            ("1000.0", "-1.0"),
            ("\"op\"", "\"po\""),
            ("\"tried\":8", "\"tried\":-8"),
        ] {
            assert!(matches!(read(text(from, to).as_bytes()), Err(Fault::Content(_))), "{from} {to}");
        }
        for torn in 0..good.len() {
            assert!(matches!(read(&good.as_bytes()[..torn]), Err(Fault::Form | Fault::Checksum)), "{torn}");
        }
        // A record behind a torn one.
        assert_eq!(read(format!("{}{good}", &good[..40]).as_bytes()), Err(Fault::Checksum));
        assert_eq!(read("{\"crc\":\"0000000é\",\"record\":{}}".as_bytes()), Err(Fault::Form));
        assert_eq!(
            read(sealed(&"[".repeat(100_000)).as_bytes()).map_err(|e| matches!(e, Fault::Content(_))),
            Err(true)
        );
    }
}
