//! Packing: the order in which kernels read weights.
//!
//! Rows are taken in panels of [`ROWS`]; a vector lane is an output row, so no kernel sums across lanes. Inside a panel
//! everything a block needs lies together, block after block along a row:
//!
//! ```text
//! quantised formats, one block of a panel            float formats, one element of a panel
//!   scale      16 x f16|bf16                           16 x f32|f16|bf16
//!   min        16 x f16|bf16      if the format has one
//!   sub scales groups x 16 x i8   if it has two levels
//!   sub mins   groups x 16 x i8
//!   codes      32 elements at a time: for each plane of 8, 4, 2 or 1 bits, `width` x 16 x 4 bytes
//! ```
//!
//! The 32 elements of a unit are 8 dwords of 4 bytes, dword `t` being elements `4t..4t+4`. A plane of width `w` keeps bits
//! of all of them in `w` dwords: dword `t` is `plane[t % w] >> (w * (t / w))`, masked. The same size as the file's blocks,
//! but for sub-scales, which get a byte each. Rows are filled up with zeros to whole panels.
//!
//! Everything follows from a format's declaration; adding one needs no code here.
//!
//! That is the order for CPUs. GPUs have one of their own, in `fragment.rs`.

mod fragment;

pub use fragment::{FragmentQuant, Fragments, UNIT_K, piece};

use tilewright_models::format::{BlockFormat, CodeValue, Decomposed, Element, FloatKind, Level};

/// Rows of a panel.
pub const ROWS: u64 = 16;
/// Elements of a unit: the smallest run along a row that is packed together.
pub const UNIT: u64 = 32;

/// Where the parts of one block of a panel lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuantLayout {
    /// Elements a block.
    pub block: u64,
    /// Elements that share a sub-scale.
    pub group: u64,
    /// Plane widths in bits, low bits first; they add up to the code's bits.
    pub planes: Vec<u32>,
    /// `value = code + zero`, for table formats after the look-up of `table` (biased to be unsigned).
    pub zero: i32,
    /// Unsigned table.
    pub table: Option<Vec<u8>>,
    /// Scale level.
    pub scale: LevelLayout,
    /// Min level.
    pub min: Option<LevelLayout>,
    /// Byte offset of the codes.
    pub codes: u64,
    /// Bytes of a block of a panel.
    pub bytes: u64,
}

/// Where one level of scales lies inside a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LevelLayout {
    /// Storage of the upper level.
    pub store: Store,
    /// Byte offset of the upper level.
    pub top: u64,
    /// Byte offset of the sub level.
    pub sub: Option<u64>,
}

/// Storage type of packed floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// f32
    F32,
    /// f16
    F16,
    /// bf16
    BF16,
}

impl Store {
    /// Bytes an element.
    pub fn bytes(self) -> u64 {
        if self == Store::F32 { 4 } else { 2 }
    }

    fn of(kind: FloatKind) -> Store {
        match kind {
            FloatKind::F32 => Store::F32,
            FloatKind::F16 => Store::F16,
            FloatKind::BF16 => Store::BF16,
        }
    }

    fn write(self, v: f32, out: &mut [u8]) {
        match self {
            Store::F32 => out[..4].copy_from_slice(&v.to_le_bytes()),
            Store::F16 => out[..2].copy_from_slice(&half::f16::from_f32(v).to_le_bytes()),
            Store::BF16 => out[..2].copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
        }
    }
}

/// Packed layout of a weight's format.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Elements as they are, 16 rows interleaved.
    Float(Store),
    /// Codes and scales.
    Quant(QuantLayout),
    /// As tensor cores take it.
    Fragments(Fragments),
}

/// Whose order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// A lane of a vector is a row.
    Panels,
    /// A lane of a warp has its elements of each tile together.
    Fragments,
}

/// A weight that cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The row is no whole number of blocks.
    #[error("rows of {cols} elements are no whole number of {format} blocks")]
    Rows {
        /// Elements a row.
        cols: u64,
        /// Format.
        format: String,
    },
    /// The data has another size than format and shape say.
    #[error("{found} bytes of {format}, {expected} are needed")]
    Size {
        /// Format.
        format: String,
        /// Bytes needed.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// The declaration asks for what no layout holds.
    #[error("format {format}: {what}")]
    Format {
        /// Format.
        format: String,
        /// What.
        what: String,
    },
}

impl Layout {
    /// The packed layout of `format` in that order.
    pub fn in_order(format: &BlockFormat, order: Order) -> Result<Layout, PackError> {
        match order {
            Order::Panels => Layout::of(format),
            Order::Fragments => Fragments::of(format).map(Layout::Fragments),
        }
    }

    /// The packed layout of `format` for CPUs.
    pub fn of(format: &BlockFormat) -> Result<Layout, PackError> {
        let quant = match &format.element {
            Element::Float(kind) => return Ok(Layout::Float(Store::of(*kind))),
            Element::Quant(q) => q,
        };
        let fail = |what: String| PackError::Format { format: format.name.clone(), what };
        let (block, group) = (format.block as u64, quant.group as u64);
        if !block.is_multiple_of(UNIT) || !(group == 16 || group == 32) {
            return Err(fail(format!("blocks of {block} with groups of {group} do not fit units of {UNIT}")));
        }
        let planes = planes(quant.bits).ok_or_else(|| fail(format!("codes of {} bits", quant.bits)))?;
        let (zero, table) = code_value(&quant.decode).map_err(fail)?;
        let mut at = 0;
        let mut top = |level: &Level| {
            let offset = at;
            at += ROWS * Store::of(level.store).bytes();
            offset
        };
        let scale_top = top(&quant.scale);
        let min_top = quant.min.as_ref().map(&mut top);
        let mut sub = |level: &Level| {
            level.has_sub.then(|| {
                let offset = at;
                at += ROWS * (block / group);
                offset
            })
        };
        let scale = LevelLayout { store: Store::of(quant.scale.store), top: scale_top, sub: sub(&quant.scale) };
        let min = quant.min.as_ref().zip(min_top).map(|(level, top)| LevelLayout {
            store: Store::of(level.store),
            top,
            sub: sub(level),
        });
        let codes = at;
        let bytes = codes + ROWS * block * u64::from(quant.bits) / 8;
        Ok(Layout::Quant(QuantLayout { block, group, planes, zero, table, scale, min, codes, bytes }))
    }

    /// Bytes of one panel of `cols` elements a row.
    pub fn panel_bytes(&self, cols: u64) -> u64 {
        match self {
            Layout::Float(s) => cols * ROWS * s.bytes(),
            Layout::Quant(q) => cols / q.block * q.bytes,
            Layout::Fragments(f) => f.panel_bytes(cols),
        }
    }

    /// Bytes of a packed weight of `rows` rows.
    pub fn bytes(&self, rows: u64, cols: u64) -> u64 {
        rows.div_ceil(ROWS) * self.panel_bytes(cols)
    }

    /// True if activations may be int8 blocks for this layout.
    pub fn takes_q8(&self) -> bool {
        matches!(self, Layout::Quant(_))
    }
}

/// Plane widths that add up to `bits`, low bits first.
fn planes(bits: u32) -> Option<Vec<u32>> {
    let widths: Vec<u32> = [8, 4, 2, 1].into_iter().filter(|w| bits & w != 0).collect();
    (1..16).contains(&bits).then_some(widths)
}

/// `zero` and the unsigned table of a code's meaning.
fn code_value(decode: &CodeValue) -> Result<(i32, Option<Vec<u8>>), String> {
    match decode {
        CodeValue::Zero(z) => Ok((*z, None)),
        CodeValue::Table(t) if t.len() <= 16 => {
            let mut bytes: Vec<u8> = t.iter().map(|&v| (i16::from(v) + 128) as u8).collect();
            bytes.resize(16, 128);
            Ok((-128, Some(bytes)))
        }
        CodeValue::Table(t) => Err(format!("a table of {} entries; at most 16", t.len())),
    }
}

/// Packs panel `index` of a matrix whose rows are encoded in `format`, one after the other in `data`.
/// `out` has [`Layout::panel_bytes`] bytes.
pub fn pack_panel(
    format: &BlockFormat,
    layout: &Layout,
    data: &[u8],
    cols: u64,
    index: u64,
    out: &mut [u8],
) -> Result<(), PackError> {
    let row_bytes =
        format.row_bytes(cols as usize).ok_or_else(|| PackError::Rows { cols, format: format.name.clone() })?;
    let row = |r: u64| {
        let at = (index * ROWS + r) as usize * row_bytes;
        data.get(at..at + row_bytes)
    };
    out.fill(0);
    let rows = (0..ROWS).map_while(row);
    match layout {
        Layout::Fragments(f) => rows.enumerate().for_each(|(r, src)| f.put_row(format, src, r, out)),
        Layout::Float(store) => {
            let size = store.bytes() as usize;
            for (r, src) in rows.enumerate() {
                for (k, v) in src.chunks_exact(size).enumerate() {
                    let at = (k * ROWS as usize + r) * size;
                    out[at..at + size].copy_from_slice(v);
                }
            }
        }
        Layout::Quant(q) => {
            let mut d = Decomposed::default();
            // Rows beyond the matrix keep zero scales: they give 0 whatever the codes are.
            for (r, src) in rows.enumerate() {
                for (block, raw) in src.chunks_exact(format.bytes).enumerate() {
                    format.decompose(raw, &mut d);
                    let at = block * q.bytes as usize;
                    put_block(q, &d, r, &mut out[at..at + q.bytes as usize]);
                }
            }
        }
    }
    Ok(())
}

fn put_block(q: &QuantLayout, d: &Decomposed, row: usize, out: &mut [u8]) {
    let rows = ROWS as usize;
    let mut level = |l: &LevelLayout, top: f32, subs: &[i32]| {
        let size = l.store.bytes() as usize;
        l.store.write(top, &mut out[l.top as usize + row * size..]);
        if let Some(at) = l.sub {
            for (g, &s) in subs.iter().enumerate() {
                out[at as usize + g * rows + row] = s as i8 as u8;
            }
        }
    };
    level(&q.scale, d.scale_super, &d.scale_sub);
    if let Some(min) = &q.min {
        level(min, d.min_super, &d.min_sub);
    }
    let bits: u32 = q.planes.iter().sum();
    let unit_bytes = rows * UNIT as usize * bits as usize / 8;
    for (u, codes) in d.codes.chunks_exact(UNIT as usize).enumerate() {
        let mut at = q.codes as usize + u * unit_bytes;
        let mut low = 0;
        for &w in &q.planes {
            let w = w as usize;
            let mask = ((1u16 << w) - 1) as u8;
            for (i, &c) in codes.iter().enumerate() {
                let (t, b) = (i / 4, i % 4);
                let bits = ((c >> low) & mask) << (w * (t / w));
                out[at + (t % w * rows + row) * 4 + b] |= bits;
            }
            at += w * rows * 4;
            low += w;
        }
    }
}
