//! A GGUF writer of a hundred lines, kept apart from the product's own reader and writer so that a mistake shared by both shows.

use std::io::Write;
use std::path::Path;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Meta {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl From<&str> for Meta {
    fn from(s: &str) -> Meta {
        Meta::Str(s.to_owned())
    }
}

/// A tensor: `shape` is row-major (rows first), as Hugging Face has it; the file wants it reversed.
#[derive(Clone, Debug)]
pub struct TensorOut {
    /// GGUF name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// GGUF type number.
    pub ggml_type: u32,
    /// The data.
    pub bytes: Vec<u8>,
}

/// What goes into a file, in this order.
#[derive(Clone, Debug, Default)]
pub struct GgufOut {
    /// Metadata.
    pub meta: Vec<(String, Meta)>,
    /// Tensors.
    pub tensors: Vec<TensorOut>,
}

const ALIGN: usize = 32;

impl GgufOut {
    /// Adds one metadata entry.
    pub fn set(&mut self, key: impl Into<String>, value: Meta) {
        self.meta.push((key.into(), value));
    }

    /// The metadata called `key`.
    pub fn get(&self, key: &str) -> Option<&Meta> {
        self.meta.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The file, version 3, little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut o = Vec::new();
        o.extend(b"GGUF");
        o.extend(3u32.to_le_bytes());
        o.extend((self.tensors.len() as u64).to_le_bytes());
        o.extend((self.meta.len() as u64).to_le_bytes());
        for (k, v) in &self.meta {
            string(&mut o, k);
            value(&mut o, v);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            string(&mut o, &t.name);
            o.extend((t.shape.len() as u32).to_le_bytes());
            for d in t.shape.iter().rev() {
                o.extend((*d as u64).to_le_bytes());
            }
            o.extend(t.ggml_type.to_le_bytes());
            o.extend(offset.to_le_bytes());
            offset += t.bytes.len().next_multiple_of(ALIGN) as u64;
        }
        o.resize(o.len().next_multiple_of(ALIGN), 0);
        for t in &self.tensors {
            o.extend(&t.bytes);
            o.resize(o.len().next_multiple_of(ALIGN), 0);
        }
        o
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::File::create(path)?.write_all(&self.encode())
    }
}

fn string(o: &mut Vec<u8>, s: &str) {
    o.extend((s.len() as u64).to_le_bytes());
    o.extend(s.as_bytes());
}

fn array(o: &mut Vec<u8>, of: u32, n: usize) {
    o.extend(9u32.to_le_bytes());
    o.extend(of.to_le_bytes());
    o.extend((n as u64).to_le_bytes());
}

fn scalar(o: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    o.extend(kind.to_le_bytes());
    o.extend(bytes);
}

fn value(o: &mut Vec<u8>, v: &Meta) {
    match v {
        Meta::U32(x) => scalar(o, 4, &x.to_le_bytes()),
        Meta::I32(x) => scalar(o, 5, &x.to_le_bytes()),
        Meta::F32(x) => scalar(o, 6, &x.to_le_bytes()),
        Meta::Bool(x) => scalar(o, 7, &[u8::from(*x)]),
        Meta::Str(s) => {
            o.extend(8u32.to_le_bytes());
            string(o, s);
        }
        Meta::Strings(l) => {
            array(o, 8, l.len());
            for s in l {
                string(o, s);
            }
        }
        Meta::I32s(l) => {
            array(o, 5, l.len());
            l.iter().for_each(|x| o.extend(x.to_le_bytes()));
        }
        Meta::F32s(l) => {
            array(o, 6, l.len());
            l.iter().for_each(|x| o.extend(x.to_le_bytes()));
        }
    }
}
