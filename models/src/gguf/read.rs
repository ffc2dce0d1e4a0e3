//! Parsing the header: everything before the tensor data.
//!
//! Rules: every count and size is compared with the bytes that remain before anything is allocated; arithmetic is checked,
//! in u64; the memory for metadata and tensor infos stays below four times the file (plus 1 MiB for small files).

use std::borrow::Cow;

use indexmap::IndexMap;

use super::{GgmlType, GgufProblem, MetaArray, MetaValue, Strings, TensorInfo};

type Result<T> = std::result::Result<T, GgufProblem>;

const MAX_KEY: u64 = 65_535;
const MAX_TENSOR_NAME: u64 = 1024;
const MAX_ARRAY_DEPTH: u32 = 4;
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
const MAX_ALIGNMENT: u64 = 1 << 16;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Smallest key-value pair: length, one byte of key, type, one byte of value.
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
/// Smallest tensor info: length, one byte of name, number of dimensions, one dimension, type, offset.
const MIN_INFO: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// What the header says.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub alignment: u64,
    pub metadata: IndexMap<String, MetaValue>,
    /// Offsets are from the start of the file.
    pub tensors: Vec<TensorInfo>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// Memory that may still be allocated.
    budget: u64,
    limit: u64,
}

macro_rules! number {
    ($reader:expr, $ty:ty, $what:expr) => {{
        let b = $reader.array::<{ size_of::<$ty>() }>($what)?;
        <$ty>::from_le_bytes(b)
    }};
}

macro_rules! numbers {
    ($reader:expr, $n:expr, $ty:ty, $key:expr) => {{
        let size = size_of::<$ty>();
        let bytes = $reader.items($n, size, $key)?;
        bytes.as_chunks::<{ size_of::<$ty>() }>().0.iter().map(|b| <$ty>::from_le_bytes(*b)).collect()
    }};
}

impl<'a> Reader<'a> {
    fn offset(&self) -> u64 {
        self.pos as u64
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    fn take(&mut self, n: u64, what: impl Fn() -> String) -> Result<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.pos.checked_add(n));
        match end.and_then(|end| Some((end, self.bytes.get(self.pos..end)?))) {
            Some((end, slice)) => {
                self.pos = end;
                Ok(slice)
            }
            None => Err(GgufProblem::Truncated { what: what(), offset: self.offset(), needed: n, left: self.left() }),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let slice = self.take(N as u64, || what.to_owned())?;
        let mut out = [0; N];
        out.copy_from_slice(slice);
        Ok(out)
    }

    /// Reserves memory out of the budget.
    fn spend(&mut self, bytes: u64) -> Result<()> {
        match self.budget.checked_sub(bytes) {
            Some(rest) => self.budget = rest,
            None => return Err(GgufProblem::Memory { offset: self.offset(), limit: self.limit }),
        }
        Ok(())
    }

    fn string(&mut self, what: impl Fn() -> String) -> Result<&'a str> {
        let len = number!(self, u64, &format!("the length of {}", what()));
        let offset = self.offset();
        let bytes = self.take(len, &what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufProblem::Utf8 { what: what(), offset })
    }

    fn name(&mut self, what: &'static str, limit: u64) -> Result<String> {
        let offset = self.offset();
        // A long name is refused by its length, before it is looked at.
        let len = self.bytes.get(self.pos..).and_then(|b| b.first_chunk::<8>()).map(|b| u64::from_le_bytes(*b));
        if let Some(len) = len
            && (len == 0 || (len > limit && len <= self.left()))
        {
            return Err(GgufProblem::NameLength { what, offset, len, limit });
        }
        let name = self.string(|| what.to_owned())?;
        self.spend(name.len() as u64 + 24)?;
        Ok(name.to_owned())
    }

    /// The bytes of `n` elements, checked and paid for.
    fn items(&mut self, n: u64, size: usize, key: &str) -> Result<&'a [u8]> {
        let bytes = n.saturating_mul(size as u64);
        let slice = self.take(bytes, || format!("the array `{key}` of {n} elements"))?;
        self.spend(bytes)?;
        Ok(slice)
    }

    fn boolean(&self, key: &str, offset: u64, value: u8) -> Result<bool> {
        if value > 1 {
            return Err(GgufProblem::Bool { key: key.to_owned(), offset, value });
        }
        Ok(value == 1)
    }

    fn value(&mut self, key: &str) -> Result<MetaValue> {
        let at = self.offset();
        let what = format!("the value of `{key}`");
        let ty = number!(self, u32, &what);
        let offset = self.offset();
        Ok(match ty {
            0 => MetaValue::U8(number!(self, u8, &what)),
            1 => MetaValue::I8(number!(self, i8, &what)),
            2 => MetaValue::U16(number!(self, u16, &what)),
            3 => MetaValue::I16(number!(self, i16, &what)),
            4 => MetaValue::U32(number!(self, u32, &what)),
            5 => MetaValue::I32(number!(self, i32, &what)),
            6 => MetaValue::F32(number!(self, f32, &what)),
            7 => MetaValue::Bool({
                let b = number!(self, u8, &what);
                self.boolean(key, offset, b)?
            }),
            8 => {
                let s = self.string(|| what.clone())?;
                self.spend(s.len() as u64)?;
                MetaValue::String(s.to_owned())
            }
            9 => MetaValue::Array(self.meta_array(key, 0)?),
            10 => MetaValue::U64(number!(self, u64, &what)),
            11 => MetaValue::I64(number!(self, i64, &what)),
            12 => MetaValue::F64(number!(self, f64, &what)),
            _ => return Err(GgufProblem::ValueType { key: key.to_owned(), offset: at, ty }),
        })
    }

    fn meta_array(&mut self, key: &str, depth: u32) -> Result<MetaArray> {
        let at = self.offset();
        if depth >= MAX_ARRAY_DEPTH {
            return Err(GgufProblem::Depth { key: key.to_owned(), offset: at, limit: MAX_ARRAY_DEPTH });
        }
        let what: Cow<str> = Cow::Owned(format!("the array `{key}`"));
        let ty = number!(self, u32, &what);
        let n = number!(self, u64, &what);
        Ok(match ty {
            0 => MetaArray::U8(self.items(n, 1, key)?.to_vec()),
            1 => MetaArray::I8(numbers!(self, n, i8, key)),
            2 => MetaArray::U16(numbers!(self, n, u16, key)),
            3 => MetaArray::I16(numbers!(self, n, i16, key)),
            4 => MetaArray::U32(numbers!(self, n, u32, key)),
            5 => MetaArray::I32(numbers!(self, n, i32, key)),
            6 => MetaArray::F32(numbers!(self, n, f32, key)),
            7 => {
                let offset = self.offset();
                let bytes = self.items(n, 1, key)?;
                MetaArray::Bool((offset..).zip(bytes).map(|(o, b)| self.boolean(key, o, *b)).collect::<Result<_>>()?)
            }
            8 => MetaArray::Strings(self.strings(n, key)?),
            9 => {
                let count = self.count("elements of a nested array", n, 12, u64::MAX)?;
                self.spend(n.saturating_mul(size_of::<MetaArray>() as u64))?;
                let mut out = Vec::with_capacity(count);
                for _ in 0..count {
                    out.push(self.meta_array(key, depth + 1)?);
                }
                MetaArray::Arrays(out)
            }
            10 => MetaArray::U64(numbers!(self, n, u64, key)),
            11 => MetaArray::I64(numbers!(self, n, i64, key)),
            12 => MetaArray::F64(numbers!(self, n, f64, key)),
            _ => return Err(GgufProblem::ValueType { key: key.to_owned(), offset: at, ty }),
        })
    }

    fn strings(&mut self, n: u64, key: &str) -> Result<Strings> {
        let count = self.count("strings in an array", n, 8, u64::MAX)?;
        self.spend(n.saturating_mul(8))?;
        let mut out = Strings::with_capacity(count);
        let mut i = 0u64;
        while out.len() < count {
            let s = self.string(|| format!("string {i} of `{key}`"))?;
            // A growing buffer may hold twice its text.
            self.spend((s.len() as u64).saturating_mul(2))?;
            out.push(s);
            i += 1;
        }
        Ok(out)
    }

    /// A count whose items need at least `min` bytes each.
    fn count(&self, what: &'static str, count: u64, min: u64, max: u64) -> Result<usize> {
        let limit = (self.left() / min).min(max);
        match usize::try_from(count) {
            Ok(n) if count <= limit => Ok(n),
            _ => Err(GgufProblem::Count { what, count, left: self.left(), limit }),
        }
    }

    fn tensor(&mut self) -> Result<TensorInfo> {
        let at = self.offset();
        let name = self.name("a tensor name", MAX_TENSOR_NAME)?;
        let what = format!("the info of tensor `{name}`");
        let n_dims = number!(self, u32, &what);
        if !(1..=4).contains(&n_dims) {
            return Err(GgufProblem::Dimensions { tensor: name, offset: at, n: n_dims });
        }
        let mut dims = Vec::with_capacity(4);
        for _ in 0..n_dims {
            dims.push(number!(self, u64, &what));
        }
        let ty = number!(self, u32, &what);
        let offset = number!(self, u64, &what);
        if let Some(axis) = dims.iter().position(|d| *d == 0) {
            return Err(GgufProblem::EmptyDimension { tensor: name, axis });
        }
        let Some(ty) = GgmlType::from_id(ty) else {
            return Err(GgufProblem::TensorType { tensor: name, ty });
        };
        let row = dims.first().copied().unwrap_or(1);
        if !row.is_multiple_of(ty.block()) {
            return Err(GgufProblem::Row { tensor: name, row, ty: ty.name(), block: ty.block() });
        }
        let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let Some(bytes) = elements.and_then(|n| ty.size(row, n)) else {
            return Err(GgufProblem::Overflow { tensor: name, dims });
        };
        Ok(TensorInfo { name, dims, ty, offset, bytes, shard: 0 })
    }
}

/// Parses and checks the header of a whole file.
pub(super) fn header(bytes: &[u8]) -> Result<Header> {
    let limit = (bytes.len() as u64).saturating_mul(4).saturating_add(1 << 20);
    let mut r = Reader { bytes, pos: 0, budget: limit, limit };
    let magic = bytes.get(..4).unwrap_or(bytes);
    if magic != b"GGUF" {
        return Err(GgufProblem::Magic { magic: magic.to_vec() });
    }
    r.pos = 4;
    let version = number!(r, u32, "the version");
    match version {
        2 | 3 => {}
        v if (1..=16).contains(&v.swap_bytes()) => return Err(GgufProblem::BigEndian),
        _ => return Err(GgufProblem::Version { version }),
    }
    let n_tensors = number!(r, u64, "the number of tensors");
    let n_keys = number!(r, u64, "the number of metadata keys");
    let n_tensors = r.count("tensors", n_tensors, MIN_INFO, MAX_TENSORS)?;
    let n_keys = r.count("metadata keys", n_keys, MIN_PAIR, MAX_KEYS)?;

    let mut metadata = IndexMap::new();
    for _ in 0..n_keys {
        let offset = r.offset();
        let key = r.name("a metadata key", MAX_KEY)?;
        if metadata.contains_key(&key) {
            return Err(GgufProblem::DuplicateKey { key, offset });
        }
        r.spend(size_of::<MetaValue>() as u64 + 40)?;
        let value = r.value(&key)?;
        metadata.insert(key, value);
    }
    let alignment = alignment(metadata.get("general.alignment"))?;

    // The count was compared with the bytes that were left before the metadata: do it again.
    r.count("tensors", n_tensors as u64, MIN_INFO, MAX_TENSORS)?;
    r.spend((n_tensors as u64).saturating_mul(size_of::<TensorInfo>() as u64 + 32))?;
    let mut tensors = Vec::with_capacity(n_tensors);
    for _ in 0..n_tensors {
        tensors.push(r.tensor()?);
    }
    place(&mut tensors, r.offset(), bytes.len() as u64, alignment)?;
    Ok(Header { version, alignment, metadata, tensors })
}

fn alignment(value: Option<&MetaValue>) -> Result<u64> {
    match value {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(MetaValue::U32(v)) if v.is_power_of_two() && u64::from(*v) <= MAX_ALIGNMENT => Ok((*v).into()),
        Some(MetaValue::U32(v)) => Err(GgufProblem::Alignment { value: v.to_string() }),
        Some(_) => Err(GgufProblem::Alignment { value: "not a u32".into() }),
    }
}

/// Checks where the data lie, and makes the offsets absolute.
fn place(tensors: &mut [TensorInfo], header_end: u64, file: u64, alignment: u64) -> Result<()> {
    let start = header_end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let available = file.saturating_sub(start);
    for t in tensors.iter() {
        if !t.offset.is_multiple_of(alignment) {
            return Err(GgufProblem::Misaligned { tensor: t.name.clone(), offset: t.offset, alignment });
        }
        if t.offset.checked_add(t.bytes).is_none_or(|end| end > available) {
            return Err(GgufProblem::OutOfFile { tensor: t.name.clone(), offset: t.offset, bytes: t.bytes, available });
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if let [a, b] = pair
            && b.offset < a.offset.saturating_add(a.bytes)
        {
            return Err(GgufProblem::Overlap { a: a.name.clone(), b: b.name.clone() });
        }
    }
    for t in tensors {
        t.offset = t.offset.saturating_add(start);
    }
    Ok(())
}
