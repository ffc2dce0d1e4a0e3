//! The packed order for GPUs: what a lane of a warp multiplies, it loads, in as few and as wide loads as there can be.
//!
//! Kernels multiply by `mma` tiles of 16 rows and 16 elements ([`tilewright_ir::kernel::Opcode::MmaF16`]), four of them to a
//! unit of [`UNIT_K`] elements. With `g = lane / 4` and `c = lane % 4`, lane takes of tile `j` the elements
//! `k = 16 j + 4 c + 0..4` of the rows `g` and `g + 8`. They make four pairs, two elements side by side, numbered over the
//! unit `p = 4 j + h + 2 e` with `h` = 1 for row `g + 8` and `e` = 1 for the second two. The sum over k does not mind which of
//! the tile's own columns an element stands in, as long as the activations are read alike.
//!
//! ```text
//! quantised formats, a panel of 16 rows, a super-block of max(block, 64) elements
//!   tops       8 x (g)        [block][h] scale, then [block][h] min
//!   and for each unit
//!   sub scales 8 x (g)        [group][h] i8, then the same of the mins
//!   codes      for each plane of `width` bits: pieces of at most 16 bytes a lane, 32 lanes side by side;
//!              dword d of a lane holds 16 / width pairs, pair p = d * 16 / width + s at bits width * s and 16 + width * s
//!
//! float formats
//!   16 x f32   a scale for each row, a power of two
//!   and for each unit, for each of one or two terms
//!   4 x 32 x 16 bytes   tile j, lane: pairs of f16
//! ```
//!
//! `f16` is kept as it is. Tensor cores multiply `bf16` only by `bf16`, and not on all devices; so it becomes f16 times a power
//! of two for each row, which is exact but for elements below 2^-28 of the row's largest. `f32` becomes the sum of two such
//! terms: 22 bits.

use super::{PackError, ROWS, Store, code_value, planes};
use tilewright_models::format::{BlockFormat, Decomposed, Element, FloatKind, Level};

/// Elements of a unit.
pub const UNIT_K: u64 = 64;
const LANES: u64 = 32;

/// How a format is packed for tensor cores.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fragments {
    /// f16 terms with a scale for each row.
    Float {
        /// One, or two whose sum is the element.
        terms: u64,
        /// Whether the scales may differ from 1.
        scaled: bool,
    },
    /// Codes and scales.
    Quant(FragmentQuant),
}

/// Where the parts of a super-block lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FragmentQuant {
    /// Elements a block.
    pub block: u64,
    /// Elements that share a sub-scale, or a scale.
    pub group: u64,
    /// Plane widths in bits, low bits first.
    pub planes: Vec<u32>,
    /// `value = code + zero`, for table formats after the look-up.
    pub zero: i32,
    /// Unsigned table of 16.
    pub table: Option<Vec<u8>>,
    /// Storage of the upper level.
    pub store: Store,
    /// Whether scales, and mins if there are any, have a sub level.
    pub subs: [bool; 2],
    /// Whether there are mins.
    pub has_min: bool,
}

impl FragmentQuant {
    /// Units of a super-block.
    pub fn units(&self) -> u64 {
        (self.block / UNIT_K).max(1)
    }

    /// Blocks of a super-block.
    pub fn blocks(&self) -> u64 {
        (UNIT_K / self.block).max(1)
    }

    /// Bytes of one kind of upper level, for one g.
    pub fn top_bytes(&self) -> u64 {
        self.blocks() * 2 * self.store.bytes()
    }

    /// Bytes of the upper levels for one g.
    pub fn tops_bytes(&self) -> u64 {
        self.top_bytes() * (1 + u64::from(self.has_min))
    }

    /// Bytes of one kind of sub level of a unit, for one g.
    pub fn sub_bytes(&self) -> u64 {
        UNIT_K / self.group * 2
    }

    /// Bytes of the sub levels of a unit for one g.
    pub fn subs_bytes(&self) -> u64 {
        self.sub_bytes() * self.subs.iter().filter(|s| **s).count() as u64
    }

    /// Offset of a plane from the start of the unit.
    pub fn plane_at(&self, plane: usize) -> u64 {
        8 * self.subs_bytes() + self.planes[..plane].iter().map(|w| u64::from(*w) * 4 * LANES).sum::<u64>()
    }

    /// Bytes of a unit.
    pub fn unit_bytes(&self) -> u64 {
        self.plane_at(self.planes.len())
    }

    /// Bytes of a super-block.
    pub fn bytes(&self) -> u64 {
        8 * self.tops_bytes() + self.units() * self.unit_bytes()
    }

    fn put(&self, d: &Decomposed, block: u64, row: usize, out: &mut [u8]) {
        let (g, h) = (row as u64 % 8, row as u64 / 8);
        let start = block * self.block;
        // A super-block holds several blocks, or one.
        let at = start / (UNIT_K * self.units()) * self.bytes();
        let out = &mut out[at as usize..(at + self.bytes()) as usize];
        let size = self.store.bytes();
        let mut level = |kind: u64, top: f32, subs: &[i32]| {
            let at = g * self.tops_bytes() + kind * self.top_bytes() + (block % self.blocks() * 2 + h) * size;
            self.store.write(top, &mut out[at as usize..]);
            if !self.subs[kind as usize] {
                return;
            }
            let before = if kind == 1 && self.subs[0] { self.sub_bytes() } else { 0 };
            let groups = UNIT_K / self.group;
            for (i, &s) in subs.iter().enumerate() {
                let (unit, i) = (i as u64 / groups, i as u64 % groups);
                let at = 8 * self.tops_bytes() + unit * self.unit_bytes();
                let at = at + g * self.subs_bytes() + before + i * 2 + h;
                out[at as usize] = s as i8 as u8;
            }
        };
        level(0, d.scale_super, &d.scale_sub);
        if self.has_min {
            level(1, d.min_super, &d.min_sub);
        }
        for (i, &code) in d.codes.iter().enumerate() {
            let k = (start + i as u64) % (UNIT_K * self.units());
            let unit = 8 * self.tops_bytes() + k / UNIT_K * self.unit_bytes();
            let (lane, pair, high) = place(row, k % UNIT_K);
            let mut low = 0;
            for (plane, &w) in self.planes.iter().enumerate() {
                let of_dword = 16 / u64::from(w);
                let (dword, slot) = (pair / of_dword, pair % of_dword);
                let at = unit + self.plane_at(plane) + dword / 4 * 16 * LANES + lane * piece(w) + dword % 4 * 4;
                let bit = u64::from(w) * slot + 16 * high;
                let bits = (u32::from(code) >> low & ((1 << w) - 1)) << (bit % 8);
                // Nothing of a code crosses a byte: widths divide 8.
                out[(at + bit / 8) as usize] |= bits as u8;
                low += w;
            }
        }
    }
}

/// Bytes that a lane loads of a plane at a time.
pub fn piece(width: u32) -> u64 {
    (u64::from(width) * 4).min(16)
}

/// Lane, pair and place in the pair of element `k` of a unit in row `row` of the panel.
fn place(row: usize, k: u64) -> (u64, u64, u64) {
    let (g, h) = (row as u64 % 8, row as u64 / 8);
    let (j, c, e) = (k / 16, k % 16 / 4, k % 4);
    (4 * g + c, 4 * j + h + 2 * (e / 2), e % 2)
}

impl Fragments {
    /// The layout of `format`.
    pub fn of(format: &BlockFormat) -> Result<Fragments, PackError> {
        let quant = match &format.element {
            Element::Float(FloatKind::F16) => return Ok(Fragments::Float { terms: 1, scaled: false }),
            Element::Float(FloatKind::BF16) => return Ok(Fragments::Float { terms: 1, scaled: true }),
            Element::Float(FloatKind::F32) => return Ok(Fragments::Float { terms: 2, scaled: true }),
            Element::Quant(q) => q,
        };
        let fail = |what: String| PackError::Format { format: format.name.clone(), what };
        let (block, group) = (format.block as u64, quant.group as u64);
        let fits = block == 32 || block.is_multiple_of(UNIT_K);
        if !fits || !(group == 16 || group == 32) {
            return Err(fail(format!("blocks of {block} with groups of {group} do not fit units of {UNIT_K}")));
        }
        let planes = planes(quant.bits).ok_or_else(|| fail(format!("codes of {} bits", quant.bits)))?;
        let (zero, table) = code_value(&quant.decode).map_err(fail)?;
        if quant.bits > 8 || table.is_some() && quant.bits != 4 {
            return Err(fail(format!(
                "codes of {} bits{}",
                quant.bits,
                if table.is_some() { " and a table" } else { "" }
            )));
        }
        let sub = |level: &Level| level.has_sub;
        let of = |level: &Level| Store::of(level.store);
        let store = of(&quant.scale);
        // One load takes scales and mins of a block: they are stored alike.
        let same = quant.min.as_ref().is_none_or(|m| of(m) == store);
        Ok(Fragments::Quant(FragmentQuant {
            block,
            group,
            planes,
            zero,
            table,
            store: if same { store } else { Store::F32 },
            subs: [sub(&quant.scale), quant.min.as_ref().is_some_and(sub)],
            has_min: quant.min.is_some(),
        }))
    }

    /// Bytes that a lane loads of a unit.
    pub fn lane_bytes(&self) -> u64 {
        match self {
            Fragments::Float { terms, .. } => terms * 64,
            Fragments::Quant(q) => {
                q.tops_bytes() + q.subs_bytes() + q.planes.iter().map(|w| u64::from(*w) * 4).sum::<u64>()
            }
        }
    }

    /// Bytes in front of the units of a panel.
    pub fn head_bytes(&self) -> u64 {
        if matches!(self, Fragments::Float { .. }) { ROWS * 4 } else { 0 }
    }

    /// Bytes of a panel of `cols` elements a row.
    pub fn panel_bytes(&self, cols: u64) -> u64 {
        match self {
            Fragments::Float { terms, .. } => self.head_bytes() + cols.div_ceil(UNIT_K) * ROWS * UNIT_K * 2 * terms,
            Fragments::Quant(q) => cols.div_ceil(UNIT_K * q.units()) * q.bytes(),
        }
    }

    /// Writes row `row` of a panel, encoded in `format` at `src`; `out` is the panel, zeroed before its first row.
    pub(super) fn put_row(&self, format: &BlockFormat, src: &[u8], row: usize, out: &mut [u8]) {
        match self {
            Fragments::Float { terms, scaled } => {
                let mut x = vec![0f32; src.len() / format.bytes.max(1) * format.block];
                format.dequantize(src, &mut x).expect("a whole row of blocks");
                let scale = if *scaled { row_scale(&x) } else { 1.0 };
                out[row * 4..][..4].copy_from_slice(&scale.to_le_bytes());
                let head = self.head_bytes();
                for (k, &v) in x.iter().enumerate() {
                    let (unit, (lane, pair, high)) = (k as u64 / UNIT_K, place(row, k as u64 % UNIT_K));
                    let mut rest = v / scale;
                    for term in 0..*terms {
                        let half = half::f16::from_f32(rest);
                        rest -= half.to_f32();
                        let tile = (unit * terms + term) * 4 + pair / 4;
                        let at = head + tile * LANES * 16 + lane * 16 + pair % 4 * 4 + high * 2;
                        out[at as usize..][..2].copy_from_slice(&half.to_le_bytes());
                    }
                }
            }
            Fragments::Quant(q) => {
                let mut d = Decomposed::default();
                for (block, raw) in src.chunks_exact(format.bytes).enumerate() {
                    format.decompose(raw, &mut d);
                    q.put(&d, block as u64, row, out);
                }
            }
        }
    }
}

/// The power of two that brings the largest magnitude into `[2^13, 2^14)`: f16 goes up to 2^16, and down to 2^-24. 1 for zeros.
fn row_scale(x: &[f32]) -> f32 {
    let most = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    if most == 0.0 || !most.is_finite() {
        return 1.0;
    }
    let exponent = i32::from((most.to_bits() >> 23) as u16) - 127 - 13;
    f32::from_bits(((exponent.clamp(-126, 127) + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, Order, pack_panel};
    use super::*;
    use tilewright_models::format::FormatSet;

    /// Every format's layout holds as many bits as its codes need, and places no two elements at one place.
    #[test]
    fn every_element_has_its_place() {
        let mut seen = std::collections::HashSet::new();
        for row in 0..16 {
            for k in 0..UNIT_K {
                let (lane, pair, high) = place(row, k);
                assert!(lane < LANES && pair < 16 && high < 2);
                assert!(seen.insert((lane, pair, high)), "row {row} element {k}");
            }
        }
    }

    #[test]
    fn every_format_has_a_layout() {
        let mut n = 0;
        for f in FormatSet::builtin().iter() {
            let layout = Layout::in_order(f, Order::Fragments).unwrap_or_else(|e| panic!("{e}"));
            let cols = 256;
            let panel = layout.panel_bytes(cols);
            assert!(panel.is_multiple_of(32), "{}: {panel}", f.name);
            let row = f.row_bytes(cols as usize).expect("whole blocks");
            // Not above the size of the file by more than sub-scales of a byte each, and the scales of rows.
            assert!(panel <= 16 * row as u64 * 13 / 10, "{}: {panel} for {row} a row", f.name);
            let raw: Vec<u8> = (0..16 * row).map(|i| (i * 31 % 97) as u8).collect();
            let mut out = vec![0xa5; panel as usize];
            pack_panel(f, &layout, &raw, cols, 0, &mut out).unwrap_or_else(|e| panic!("{e}"));
            n += 1;
        }
        assert!(n >= 15);
    }

    #[test]
    fn scales_are_powers_of_two() {
        assert_eq!(row_scale(&[0.0, -1.5]), 2f32.powi(-13));
        assert_eq!(row_scale(&[0.0]), 1.0);
        assert_eq!(row_scale(&[40000.0]), 4.0);
    }
}
