//! A small writer of GGUF version 3, for tests and tools.

use super::{GgmlType, MetaArray, MetaValue};

/// Collects metadata and tensors, then gives the bytes of a file.
///
/// Nothing is checked: tests use it to make files that must be refused.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    keys: Vec<(String, MetaValue)>,
    tensors: Vec<(String, Vec<u64>, GgmlType, Vec<u8>)>,
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> GgufWriter {
        GgufWriter::default()
    }

    /// Adds a metadata pair.
    pub fn key(mut self, key: &str, value: impl Into<MetaValue>) -> GgufWriter {
        self.keys.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor; `dims[0]` is the row length.
    pub fn tensor(mut self, name: &str, dims: &[u64], ty: GgmlType, data: &[u8]) -> GgufWriter {
        self.tensors.push((name.to_owned(), dims.to_vec(), ty, data.to_vec()));
        self
    }

    /// The file.
    pub fn finish(&self) -> Vec<u8> {
        let alignment = self
            .keys
            .iter()
            .find(|(k, _)| k == "general.alignment")
            .and_then(|(_, v)| v.as_u64())
            .and_then(|v| usize::try_from(v).ok())
            .filter(|v| (1..=1 << 16).contains(v))
            .unwrap_or(32);
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            string(&mut out, key);
            self::value(&mut out, value);
        }
        let mut offset = 0usize;
        for (name, dims, ty, data) in &self.tensors {
            string(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(ty.id().to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += data.len().next_multiple_of(alignment);
        }
        for (_, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(alignment), 0);
            out.extend(data);
        }
        out
    }
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn value(out: &mut Vec<u8>, value: &MetaValue) {
    let mut put = |ty: u32, bytes: &[u8]| {
        out.extend(ty.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        MetaValue::U8(v) => put(0, &v.to_le_bytes()),
        MetaValue::I8(v) => put(1, &v.to_le_bytes()),
        MetaValue::U16(v) => put(2, &v.to_le_bytes()),
        MetaValue::I16(v) => put(3, &v.to_le_bytes()),
        MetaValue::U32(v) => put(4, &v.to_le_bytes()),
        MetaValue::I32(v) => put(5, &v.to_le_bytes()),
        MetaValue::F32(v) => put(6, &v.to_le_bytes()),
        MetaValue::Bool(v) => put(7, &[u8::from(*v)]),
        MetaValue::String(s) => {
            put(8, &[]);
            string(out, s);
        }
        MetaValue::Array(a) => {
            put(9, &[]);
            array(out, a);
        }
        MetaValue::U64(v) => put(10, &v.to_le_bytes()),
        MetaValue::I64(v) => put(11, &v.to_le_bytes()),
        MetaValue::F64(v) => put(12, &v.to_le_bytes()),
    }
}

fn array(out: &mut Vec<u8>, a: &MetaArray) {
    let ty: u32 = match a {
        MetaArray::U8(_) => 0,
        MetaArray::I8(_) => 1,
        MetaArray::U16(_) => 2,
        MetaArray::I16(_) => 3,
        MetaArray::U32(_) => 4,
        MetaArray::I32(_) => 5,
        MetaArray::F32(_) => 6,
        MetaArray::Bool(_) => 7,
        MetaArray::Strings(_) => 8,
        MetaArray::Arrays(_) => 9,
        MetaArray::U64(_) => 10,
        MetaArray::I64(_) => 11,
        MetaArray::F64(_) => 12,
    };
    out.extend(ty.to_le_bytes());
    out.extend((a.len() as u64).to_le_bytes());
    match a {
        MetaArray::U8(v) => out.extend(v),
        MetaArray::I8(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::U16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::I16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::U32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::I32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::U64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::I64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::F32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::F64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        MetaArray::Bool(v) => v.iter().for_each(|v| out.push(u8::from(*v))),
        MetaArray::Strings(s) => s.iter().for_each(|s| string(out, s)),
        MetaArray::Arrays(v) => v.iter().for_each(|a| array(out, a)),
    }
}
