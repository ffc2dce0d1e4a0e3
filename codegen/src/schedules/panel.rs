//! The inner product of one panel of packed weights with a few rows of activations.
//!
//! Decoding is written once for all declared formats: planes are masked and merged into unsigned codes, looked up if the
//! format has a table, multiplied as unsigned x signed bytes, and the zero point enters through the sums of activations:
//! `sum((c + z) x) = sum(c x) + z sum(x)`.

use super::quantize::{BLOCK, Q8Rows};
use crate::pack::{Layout, LevelLayout, QuantLayout, ROWS, Store, UNIT};
use tilewright_ir::kernel::{KernelBuilder, Scalar, Type, Value};

pub(super) fn scalar(s: Store) -> Scalar {
    match s {
        Store::F32 => Scalar::F32,
        Store::F16 => Scalar::F16,
        Store::BF16 => Scalar::BF16,
    }
}

/// Activations of a panel product: one pointer a token.
pub(super) enum Rows<'a> {
    /// f32 rows.
    F32(&'a [Value]),
    /// int8 rows of this layout.
    Q8(&'a [Value], &'a Q8Rows),
}

/// `lanes` rows of each of `panels`, from row `first` on, times each token's row of `cols` elements:
/// one `f32 x lanes` a panel and token. Panels that are computed together share the reads of activations. With `ahead`,
/// the weights that far ahead (in bytes) are prefetched.
#[allow(clippy::too_many_arguments, reason = "all that a product is")]
pub(super) fn panel_dot(
    b: &mut KernelBuilder,
    layout: &Layout,
    cols: u64,
    panels: &[Value],
    first: u64,
    lanes: u16,
    x: &Rows<'_>,
    ahead: i64,
) -> Vec<Vec<Value>> {
    match (layout, x) {
        (Layout::Float(store), Rows::F32(x)) => {
            panels.iter().map(|&p| float_dot(b, *store, cols, p, first, lanes, x, ahead)).collect()
        }
        (Layout::Quant(q), Rows::Q8(x, rows)) => {
            let table = code_table(b, q);
            QuantDot { q, x, rows, first, lanes, table, ahead }.dot(b, cols, panels)
        }
        (Layout::Quant(q), Rows::F32(x)) => {
            panels.iter().map(|&p| quant_f32_dot(b, q, cols, p, first, lanes, x)).collect()
        }
        (Layout::Fragments(_), _) => unreachable!("kernels for CPUs read panels"),
        (Layout::Float(_), Rows::Q8(..)) => unreachable!("the planner keeps float weights on f32 activations"),
    }
}

#[allow(clippy::too_many_arguments, reason = "one kind of panel_dot")]
fn float_dot(
    b: &mut KernelBuilder,
    store: Store,
    cols: u64,
    panel: Value,
    first: u64,
    lanes: u16,
    x: &[Value],
    ahead: i64,
) -> Vec<Value> {
    let (size, step) = (store.bytes(), 4u64);
    let zero = b.f32(lanes, 0.0);
    let (lo, hi) = (b.i64(0), b.i64(cols as i64));
    let init = vec![zero; x.len()];
    let unroll = if cols.is_multiple_of(step) { step } else { 1 };
    b.for_(lo, hi, unroll as i64, &init, |b, k, acc| {
        let mut acc = acc.to_vec();
        let w = b.index(panel, k, (ROWS * size) as i64);
        prefetch(b, w, unroll * ROWS * size, ahead);
        let xs: Vec<Value> = x.iter().map(|&x| b.index(x, k, 4)).collect();
        for u in 0..unroll {
            let wv = b.load_f32(scalar(store), lanes, w, ((u * ROWS + first) * size) as i64);
            for (a, &x) in acc.iter_mut().zip(&xs) {
                let s = b.load(Type::F32, x, u as i64 * 4);
                let s = b.splat(s, lanes);
                *a = b.fma(wv, s, *a);
            }
        }
        acc
    })
}

/// Asks for the lines of `bytes` bytes at `p + ahead`.
fn prefetch(b: &mut KernelBuilder, p: Value, bytes: u64, ahead: i64) {
    if ahead > 0 {
        (0..bytes.div_ceil(LINE)).for_each(|line| b.prefetch(p, ahead + (line * LINE) as i64));
    }
}

/// Bytes of a cache line.
const LINE: u64 = 64;

/// One level of scales of a block, ready to be multiplied.
pub(super) fn top(b: &mut KernelBuilder, l: &LevelLayout, block: Value, first: u64, lanes: u16) -> Value {
    b.load_f32(scalar(l.store), lanes, block, (l.top + first * l.store.bytes()) as i64)
}

pub(super) fn sub(b: &mut KernelBuilder, at: Value, offset: u64, lanes: u16) -> Value {
    let s = b.load(Type::I8.x(lanes), at, offset as i64);
    let s = b.sext(s, Scalar::I32);
    b.int_to_f(s, Scalar::F32)
}

/// Loads the planes of a unit lazily and merges them into unsigned codes.
pub(super) struct Codes<'q> {
    q: &'q QuantLayout,
    unit: Value,
    first: u64,
    lanes: u16,
    table: Option<Value>,
    loaded: Vec<((usize, u64), Value)>,
}

impl<'q> Codes<'q> {
    /// Codes of the unit whose planes start at `unit`, rows `first..first + lanes` of the panel.
    pub(super) fn new(q: &'q QuantLayout, unit: Value, first: u64, lanes: u16, table: Option<Value>) -> Self {
        Codes { q, unit, first, lanes, table, loaded: vec![] }
    }

    /// Order of dwords in which each dword of the first plane is loaded once and dropped early.
    pub(super) fn order(q: &QuantLayout) -> Vec<u64> {
        let w = u64::from(q.planes[0]);
        (0..w).flat_map(|p| (0..8 / w).map(move |s| p + s * w)).collect()
    }

    /// Codes of dword `t`: `i8 x 4 lanes`, unsigned.
    pub(super) fn dword(&mut self, b: &mut KernelBuilder, t: u64) -> Value {
        let ints = Type::I32.x(self.lanes);
        let (mut at, mut low) = (0, 0i64);
        let mut merged: Option<Value> = None;
        for (i, &width) in self.q.planes.iter().enumerate() {
            let w = u64::from(width);
            let (p, shift) = (t % w, w as i64 * (t / w) as i64);
            let offset = at + (p * ROWS + self.first) * 4;
            let key = (i, p);
            let v = match self.loaded.iter().find(|(k, _)| *k == key) {
                Some((_, v)) => *v,
                None => {
                    let v = b.load(ints, self.unit, offset as i64);
                    self.loaded.push((key, v));
                    v
                }
            };
            let mut v = v;
            if width < 8 {
                // One shift brings the bits to their place in the code; the mask is there, too.
                let by = b.int(Type::I32, (shift - low).abs());
                if shift > low {
                    v = b.shr_u(v, by);
                } else if shift < low {
                    v = b.shl(v, by);
                }
                let byte = ((1i64 << width) - 1) << low;
                let mask = b.int(ints, i64::from((byte * 0x0101_0101) as u32 as i32));
                v = b.and(v, mask);
            }
            merged = Some(match merged {
                Some(m) => b.or(m, v),
                None => v,
            });
            at += w * ROWS * 4;
            low += i64::from(width);
        }
        let codes = b.bitcast(merged.expect("a code has a plane"), Type::I8.x(self.lanes * 4));
        match self.table {
            Some(table) => b.swizzle(table, codes),
            None => codes,
        }
    }
}

/// Bytes of the codes of one unit of a panel.
pub(super) fn unit_bytes(q: &QuantLayout) -> u64 {
    let bits: u32 = q.planes.iter().sum();
    ROWS * UNIT * u64::from(bits) / 8
}

/// The look-up table of a format that has one, in a register.
pub(super) fn code_table(b: &mut KernelBuilder, q: &QuantLayout) -> Option<Value> {
    let bytes = q.table.as_ref()?;
    let mut v = b.int(Type::I64.x(2), 0);
    for (lane, half) in bytes.chunks_exact(8).enumerate() {
        let word = b.i64(i64::from_le_bytes(half.try_into().expect("8 bytes")));
        v = b.insert(v, word, lane as i64);
    }
    Some(b.bitcast(v, Type::I8.x(16)))
}

/// A product of panels with int8 activations.
struct QuantDot<'a> {
    q: &'a QuantLayout,
    /// One row of activations a token.
    x: &'a [Value],
    rows: &'a Q8Rows,
    /// First row of each panel, and how many.
    first: u64,
    lanes: u16,
    table: Option<Value>,
    /// Bytes ahead to prefetch weights, 0 for not at all.
    ahead: i64,
}

impl QuantDot<'_> {
    /// The accumulators are in the order of panels, then tokens.
    fn dot(&self, b: &mut KernelBuilder, cols: u64, panels: &[Value]) -> Vec<Vec<Value>> {
        let q = self.q;
        let units = q.block / UNIT;
        let tokens = self.x.len();
        let n = tokens * panels.len();
        let zero = b.f32(self.lanes, 0.0);
        let two_level = q.scale.sub.is_some() || q.min.as_ref().is_some_and(|m| m.sub.is_some());
        let (lo, hi) = (b.i64(0), b.i64((cols / q.block) as i64));
        let sums = b.for_(lo, hi, 1, &vec![zero; n], |b, block, acc| {
            let bases: Vec<Value> = panels.iter().map(|&p| b.index(p, block, q.bytes as i64)).collect();
            if !two_level && units == 1 {
                return self.one_level(b, &bases, block, acc);
            }
            bases.iter().for_each(|&base| prefetch(b, base, q.codes, self.ahead));
            let unit0 = b.mul_imm(block, units as i64);
            let per = if q.min.is_some() { 2 } else { 1 };
            // Sums of the sub-scaled products, and of the sub-scaled mins, over the units of the block.
            let (u0, u1) = (b.i64(0), b.i64(units as i64));
            let sums = b.for_(u0, u1, 1, &vec![zero; n * per], |b, u, sums| self.two_levels(b, &bases, unit0, u, sums));
            let mut out = vec![];
            for (p, &base) in bases.iter().enumerate() {
                let scale = top(b, &q.scale, base, self.first, self.lanes);
                let min = q.min.as_ref().map(|m| top(b, m, base, self.first, self.lanes));
                for j in p * tokens..(p + 1) * tokens {
                    let mut a = b.fma(sums[j], scale, acc[j]);
                    if let Some(min) = min {
                        a = b.fma(sums[n + j], min, a);
                    }
                    out.push(a);
                }
            }
            out
        });
        sums.chunks(tokens).map(<[Value]>::to_vec).collect()
    }

    /// Products of unit `unit` of the row with the panels' units at `units`: for each group of weights, for each panel
    /// and token, `sum(code x)` as f32.
    ///
    /// The int8 blocks of activations are shorter than the groups: each gets an integer accumulator of its own, which
    /// its scale turns into f32.
    fn products(&self, b: &mut KernelBuilder, units: &[Value], unit: Value) -> Vec<Vec<Value>> {
        let (q, lanes, tokens) = (self.q, self.lanes, self.x.len());
        let dwords = BLOCK / 4;
        let n = tokens * units.len();
        let codes_ptr: Vec<Value> = self.x.iter().map(|&p| b.index(p, unit, UNIT as i64)).collect();
        let scales_ptr: Vec<Value> = self.x.iter().map(|&p| self.rows.scales_of(b, p, unit)).collect();
        let mut sums: Vec<Vec<Option<Value>>> = vec![vec![None; n]; (UNIT / q.group) as usize];
        let mut open: Vec<(u64, u64, Vec<Value>)> = vec![]; // block, dwords seen, accumulators
        let mut panels: Vec<Codes<'_>> = vec![];
        for &at in units {
            let at = b.index_bytes(at, q.codes);
            panels.push(Codes::new(q, at, self.first, lanes, self.table));
        }
        let bits: u32 = q.planes.iter().sum();
        let small = bits < 8 && q.table.is_none();
        for t in Codes::order(q) {
            let codes: Vec<Value> = panels.iter_mut().map(|c| c.dword(b, t)).collect();
            let block = t / dwords;
            let i = open.iter().position(|o| o.0 == block).unwrap_or_else(|| {
                let zero = b.int(Type::I32.x(lanes), 0);
                open.push((block, 0, vec![zero; n]));
                open.len() - 1
            });
            let (_, seen, accs) = &mut open[i];
            *seen += 1;
            for (j, &p) in codes_ptr.iter().enumerate() {
                let w = b.load(Type::I32, p, t as i64 * 4);
                let w = b.splat(w, lanes);
                let w = b.bitcast(w, Type::I8.x(lanes * 4));
                for (panel, &c) in codes.iter().enumerate() {
                    let a = &mut accs[panel * tokens + j];
                    *a = if small { b.dot4_u7(*a, c, w) } else { b.dot4(*a, c, w) };
                }
            }
            if *seen == dwords {
                let (_, _, accs) = open.swap_remove(i);
                let group = (t * 4 / q.group) as usize;
                for (j, &p) in scales_ptr.iter().enumerate() {
                    let s = b.load(Type::F32, p, self.rows.scale_at(block));
                    let s = b.splat(s, lanes);
                    for panel in 0..units.len() {
                        let k = panel * tokens + j;
                        let f = b.int_to_f(accs[k], Scalar::F32);
                        let sum = &mut sums[group][k];
                        *sum = Some(match *sum {
                            Some(sum) => b.fma(f, s, sum),
                            None => b.mul(f, s),
                        });
                    }
                }
            }
        }
        sums.into_iter().map(|g| g.into_iter().map(|s| s.expect("every block is summed")).collect()).collect()
    }

    /// `sum(x)` over group `g` of `groups` of a unit, in all lanes.
    fn sum(&self, b: &mut KernelBuilder, x: Value, unit: Value, g: usize, groups: usize) -> Value {
        let s = self.rows.load_sum(b, x, unit, (groups > 1).then_some(g as u64));
        b.splat(s, self.lanes)
    }

    /// `sum((code + zero) x)` from `sum(code x)` and `sum(x)`.
    fn with_zero(&self, b: &mut KernelBuilder, product: Value, sum: Option<Value>) -> Value {
        match sum {
            Some(sum) if self.q.zero != 0 => {
                let zero = b.f32(self.lanes, f64::from(self.q.zero));
                b.fma(zero, sum, product)
            }
            _ => product,
        }
    }

    /// A block of one unit with one level of scales: straight into the accumulators.
    fn one_level(&self, b: &mut KernelBuilder, bases: &[Value], unit: Value, acc: &[Value]) -> Vec<Value> {
        let q = self.q;
        bases.iter().for_each(|&base| prefetch(b, base, q.bytes, self.ahead));
        let products = self.products(b, bases, unit);
        let mut out = acc.to_vec();
        // Only now: scales in registers during the products would be spilled (0-7 % of the kernel).
        let scales: Vec<Value> = bases.iter().map(|&base| top(b, &q.scale, base, self.first, self.lanes)).collect();
        let min = |b: &mut KernelBuilder, &base: &Value| Some(top(b, q.min.as_ref()?, base, self.first, self.lanes));
        let mins: Vec<Option<Value>> = bases.iter().map(|base| min(b, base)).collect();
        for (j, &x) in self.x.iter().enumerate() {
            let sums: Vec<Option<Value>> =
                (0..products.len()).map(|g| (q.zero != 0).then(|| self.sum(b, x, unit, g, products.len()))).collect();
            let whole = q.min.is_some().then(|| self.sum(b, x, unit, 0, 1));
            for (panel, &scale) in scales.iter().enumerate() {
                let a = &mut out[panel * self.x.len() + j];
                for (product, &sum) in products.iter().zip(&sums) {
                    let v = self.with_zero(b, product[panel * self.x.len() + j], sum);
                    *a = b.fma(v, scale, *a);
                }
                if let (Some(min), Some(sum)) = (mins[panel], whole) {
                    *a = b.fma(min, sum, *a);
                }
            }
        }
        out
    }

    /// Unit `u` of a two-level block: adds to the sums of products, then to the sums of mins.
    fn two_levels(&self, b: &mut KernelBuilder, bases: &[Value], unit0: Value, u: Value, sums: &[Value]) -> Vec<Value> {
        let q = self.q;
        let (tokens, n) = (self.x.len(), self.x.len() * bases.len());
        let unit = b.add(unit0, u);
        let units: Vec<Value> = bases.iter().map(|&base| b.index(base, u, unit_bytes(q) as i64)).collect();
        units.iter().for_each(|&at| prefetch(b, at, unit_bytes(q), self.ahead));
        let products = self.products(b, &units, unit);
        let mut out = sums.to_vec();
        for (g, product) in products.iter().enumerate() {
            let needed = q.zero != 0 || q.min.is_some();
            let sums: Vec<Option<Value>> =
                self.x.iter().map(|&x| needed.then(|| self.sum(b, x, unit, g, products.len()))).collect();
            for (panel, &base) in bases.iter().enumerate() {
                let subs = b.index(base, u, (UNIT / q.group * ROWS) as i64);
                let at = |offset: u64| offset + g as u64 * ROWS + self.first;
                let scale = q.scale.sub.map(|o| sub(b, subs, at(o), self.lanes));
                let min = q.min.as_ref().and_then(|m| m.sub).map(|o| sub(b, subs, at(o), self.lanes));
                for (j, &sum) in sums.iter().enumerate() {
                    let i = panel * tokens + j;
                    let v = self.with_zero(b, product[i], sum);
                    out[i] = match scale {
                        Some(s) => b.fma(v, s, out[i]),
                        None => b.add(v, out[i]),
                    };
                    if let (Some(_), Some(sum)) = (&q.min, sum) {
                        out[n + i] = match min {
                            Some(m) => b.fma(m, sum, out[n + i]),
                            None => b.add(out[n + i], sum),
                        };
                    }
                }
            }
        }
        out
    }
}

/// Quantised weights with f32 activations: decodes each element to f32. The precise path, and the slow one.
fn quant_f32_dot(
    b: &mut KernelBuilder,
    q: &QuantLayout,
    cols: u64,
    panel: Value,
    first: u64,
    lanes: u16,
    x: &[Value],
) -> Vec<Value> {
    let table = code_table(b, q);
    let per_block = q.block / UNIT;
    let zero = b.f32(lanes, 0.0);
    let (lo, hi) = (b.i64(0), b.i64((cols / UNIT) as i64));
    b.for_(lo, hi, 1, &vec![zero; x.len()], |b, unit, acc| {
        let mut acc = acc.to_vec();
        let d = b.i64(per_block as i64);
        let block = b.div_s(unit, d);
        let u = b.rem_s(unit, d);
        let base = b.index(panel, block, q.bytes as i64);
        let at = b.index(base, u, unit_bytes(q) as i64);
        let at = b.index_bytes(at, q.codes);
        let per_unit = UNIT / q.group;
        let sub_rows = b.mul_imm(u, (per_unit * ROWS) as i64);
        let subs = b.offset(base, sub_rows);
        let scale = top(b, &q.scale, base, first, lanes);
        let min = q.min.as_ref().map(|m| top(b, m, base, first, lanes));
        let xs: Vec<Value> = x.iter().map(|&p| b.index(p, unit, UNIT as i64 * 4)).collect();
        let mut codes = Codes::new(q, at, first, lanes, table);
        let zero_point = b.int(Type::I32.x(lanes), i64::from(q.zero));
        let byte = b.int(Type::I32.x(lanes), 255);
        for g in 0..per_unit {
            let o = |offset: u64| offset + g * ROWS + first;
            let s = match q.scale.sub {
                Some(at) => {
                    let v = sub(b, subs, o(at), lanes);
                    b.mul(v, scale)
                }
                None => scale,
            };
            let m = q.min.as_ref().zip(min).map(|(l, min)| match l.sub {
                Some(at) => {
                    let v = sub(b, subs, o(at), lanes);
                    b.mul(v, min)
                }
                None => min,
            });
            for t in g * 8 / per_unit..(g + 1) * 8 / per_unit {
                let c = codes.dword(b, t);
                let c = b.bitcast(c, Type::I32.x(lanes));
                for e in 0..4u64 {
                    let by = b.int(Type::I32, 8 * e as i64);
                    let v = b.shr_u(c, by);
                    let v = b.and(v, byte);
                    let v = b.add(v, zero_point);
                    let v = b.int_to_f(v, Scalar::F32);
                    let v = match m {
                        Some(m) => b.fma(v, s, m),
                        None => b.mul(v, s),
                    };
                    for (a, &p) in acc.iter_mut().zip(&xs) {
                        let s = b.load(Type::F32, p, ((t * 4 + e) * 4) as i64);
                        let s = b.splat(s, lanes);
                        *a = b.fma(v, s, *a);
                    }
                }
            }
        }
        acc
    })
}
