//! Line and column of a place in a YAML text, given its path.
//!
//! The YAML reader tells positions only in its errors. So the text is read once more by a reader that walks the path and
//! fails on purpose when it has arrived.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Step {
        Step::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Step {
        Step::Index(index)
    }
}

/// Line and column, from 1, of the value at `path`, or of the deepest part of the path that exists.
pub(crate) fn locate(text: &str, path: &[Step]) -> (usize, usize) {
    for n in (0..=path.len()).rev() {
        let error = match Walk(&path[..n]).deserialize(serde_yaml::Deserializer::from_str(text)) {
            Ok(()) => continue,
            Err(e) => e,
        };
        if let (true, Some(at)) = (error.to_string().contains(ARRIVED), error.location()) {
            return (at.line(), at.column());
        }
    }
    (1, 1)
}

const ARRIVED: &str = "arrived at the place looked for";

struct Walk<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { ARRIVED } else { "a mapping or a list" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(de::Error::custom(ARRIVED)) };
        while let Some(key) = map.next_key::<String>()? {
            if *step == Step::Key(key) {
                map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(de::Error::custom(ARRIVED)) };
        let mut at = 0;
        loop {
            let more = if *step == Step::Index(at) {
                seq.next_element_seed(Walk(rest))?.is_some()
            } else {
                seq.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_scalars_flows_and_missing_keys() {
        let text = "name: x\nlayer:\n  - op: add\n    in: [a, bb, c]\n  - {op: mul, attrs: {eps: e}}\n";
        let at = |path: &[Step]| locate(text, path);
        assert_eq!(at(&["name".into()]), (1, 7));
        assert_eq!(at(&["layer".into(), 0.into(), "in".into(), 1.into()]), (4, 13));
        assert_eq!(at(&["layer".into(), 1.into(), "attrs".into(), "eps".into()]), (5, 28));
        assert_eq!(at(&["layer".into(), 1.into(), "gone".into()]).0, 5);
        assert_eq!(at(&["nothing".into()]).0, 1);
    }
}
