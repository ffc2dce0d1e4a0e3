//! The weights' side of a product: what a lane loads of a unit, and how that becomes fragments.
//!
//! Codes turn into f16 without a conversion: `0x6400 | code` is 1024 + code for codes up to 10 bits, and subtracting
//! 1024 - zero is exact. Two at a time, that is one `and`, one `or` and one subtraction for two weights. Scales are applied to
//! sums: the products of a group are added up exactly as integers times activations, and then multiplied once.

use super::super::block::div_rem;
use crate::pack::{FragmentQuant, Fragments, Store, UNIT_K, piece};
use tilewright_ir::kernel::{KernelBuilder, Scalar, Type, Value};

/// The units of panels in one layout, as one lane reads them.
pub(in crate::schedules::gpu) struct Weights<'a> {
    layout: &'a Fragments,
    /// Bytes of a panel.
    panel: u64,
    /// Offset of this lane's part: of 16, 8 and 4 bytes, and of the upper and sub levels.
    pieces: [Value; 3],
    levels: [Value; 2],
}

impl<'a> Weights<'a> {
    pub(in crate::schedules::gpu) fn new(
        b: &mut KernelBuilder,
        layout: &'a Fragments,
        cols: u64,
        lane: Value,
    ) -> Weights<'a> {
        let (g, _) = div_rem(b, lane, 4);
        let (tops, subs) = match layout {
            Fragments::Float { .. } => (0, 0),
            Fragments::Quant(q) => (q.tops_bytes(), q.subs_bytes()),
        };
        Weights {
            layout,
            panel: layout.panel_bytes(cols),
            pieces: [16, 8, 4].map(|bytes| b.mul_imm(lane, bytes)),
            levels: [tops, subs].map(|bytes| b.mul_imm(g, bytes as i64)),
        }
    }

    /// Start of panel `panel` of the weight at `w`.
    pub(in crate::schedules::gpu) fn panel(&self, b: &mut KernelBuilder, w: Value, panel: Value) -> Value {
        b.index(w, panel, self.panel as i64)
    }

    /// The factor on row `row` of the panel at `panel`, if rows have one.
    pub(in crate::schedules::gpu) fn row_scale(
        &self,
        b: &mut KernelBuilder,
        panel: Value,
        row: Value,
    ) -> Option<Value> {
        if !matches!(self.layout, Fragments::Float { scaled: true, .. }) {
            return None;
        }
        let p = b.index(panel, row, 4);
        Some(b.load(Type::F32, p, 0))
    }

    /// Loads this lane's part of unit `unit` of the panel at `panel`.
    pub(in crate::schedules::gpu) fn load(&self, b: &mut KernelBuilder, panel: Value, unit: Value) -> Vec<Value> {
        let q = match self.layout {
            Fragments::Float { terms, .. } => {
                let p = b.index(panel, unit, *terms as i64 * 2048);
                let p = b.offset(p, self.pieces[0]);
                let head = self.layout.head_bytes() as i64;
                return (0..4 * *terms as i64).map(|i| b.load_stream(Type::I32.x(4), p, head + i * 512)).collect();
            }
            Fragments::Quant(q) => q,
        };
        let (block, unit) = div_rem(b, unit, q.units());
        let block = b.index(panel, block, q.bytes() as i64);
        let mut raw = vec![];
        let kinds = 1 + u16::from(q.has_min);
        let p = b.offset(block, self.levels[0]);
        let ty = Type { scalar: scalar(q.store), lanes: 2 * q.blocks() as u16 * kinds };
        raw.push(b.load_stream(ty, p, 0));
        let start = b.index(block, unit, q.unit_bytes() as i64);
        let tops = 8 * q.tops_bytes() as i64;
        if q.subs_bytes() > 0 {
            let p = b.offset(start, self.levels[1]);
            raw.push(b.load_stream(Type::I8.x(q.subs_bytes() as u16), p, tops));
        }
        for (plane, &w) in q.planes.iter().enumerate() {
            let bytes = piece(w);
            let p = b.offset(start, self.pieces[(4 - bytes.ilog2()) as usize]);
            for i in 0..u64::from(w).div_ceil(4) {
                let at = tops + (q.plane_at(plane) + i * bytes * 32) as i64;
                raw.push(b.load_stream(Type::I32.x(bytes as u16 / 4), p, at));
            }
        }
        raw
    }

    /// Number of values that [`Weights::load`] gives.
    pub(in crate::schedules::gpu) fn loads(&self) -> usize {
        match self.layout {
            Fragments::Float { terms, .. } => 4 * *terms as usize,
            Fragments::Quant(q) => {
                let pieces: u64 = q.planes.iter().map(|&w| u64::from(w).div_ceil(4)).sum();
                1 + usize::from(q.subs_bytes() > 0) + pieces as usize
            }
        }
    }

    /// Adds the products of a unit to `sums[panel][n]`, n counting blocks of 8 tokens; `raw` is the unit of each panel.
    /// `x(j, n)` is the terms of the activations of tile `j` as `f16x4`, the largest first.
    pub(in crate::schedules::gpu) fn multiply(
        &self,
        b: &mut KernelBuilder,
        raw: &[&[Value]],
        x: &mut dyn FnMut(&mut KernelBuilder, usize, usize) -> Vec<Value>,
        sums: &mut [Vec<Value>],
    ) {
        let tokens = sums[0].len();
        let q = match self.layout {
            Fragments::Float { terms, .. } => {
                for j in 0..4 {
                    let of = |b: &mut KernelBuilder, raw: &[Value]| -> Vec<Value> {
                        (0..*terms as usize).map(|t| b.bitcast(raw[t * 4 + j], Type::F16.x(8))).collect()
                    };
                    let panels: Vec<Vec<Value>> = raw.iter().map(|raw| of(b, raw)).collect();
                    for n in 0..tokens {
                        let x = x(b, j, n);
                        for (sums, terms) in sums.iter_mut().zip(&panels) {
                            for (t, &a) in terms.iter().enumerate() {
                                // The product of two small terms is below what the sum of both can hold.
                                for &x in x.iter().take(if t == 0 { x.len() } else { 1 }) {
                                    sums[n] = b.mma(sums[n], a, x);
                                }
                            }
                        }
                    }
                }
                return;
            }
            Fragments::Quant(q) => q,
        };
        let Unit { codes, scales, mins, ones } = &Unit::new(b, q, raw);
        let zero = b.f32(4, 0.0);
        let tiles = (q.group / 16) as usize;
        for group in 0..(UNIT_K / q.group) as usize {
            let group_tiles = group * tiles..(group + 1) * tiles;
            let fragment = |b: &mut KernelBuilder, c: &Codes<'_>| -> Vec<Value> {
                group_tiles.clone().map(|j| c.fragment(b, j)).collect()
            };
            let fragments: Vec<Vec<Value>> = codes.iter().map(|c| fragment(b, c)).collect();
            for n in 0..tokens {
                let x: Vec<Vec<Value>> = group_tiles.clone().map(|j| x(b, j, n)).collect();
                let product = |b: &mut KernelBuilder, a: &dyn Fn(usize) -> Value| {
                    let terms = x.iter().enumerate().flat_map(|(j, terms)| terms.iter().map(move |&x| (j, x)));
                    terms.fold(zero, |sum, (j, x)| b.mma(sum, a(j), x))
                };
                let total = mins.as_ref().map(|_| product(b, &|_| *ones));
                for (p, sums) in sums.iter_mut().enumerate() {
                    let v = product(b, &|j| fragments[p][j]);
                    sums[n] = b.fma(scales[p][group], v, sums[n]);
                    if let (Some(mins), Some(total)) = (mins, total) {
                        sums[n] = b.fma(mins[p][group], total, sums[n]);
                    }
                }
            }
        }
    }

    /// True if sums need no scales while they grow.
    pub(in crate::schedules::gpu) fn is_exact(&self) -> bool {
        matches!(self.layout, Fragments::Float { .. })
    }

    /// [`Weights::multiply`] by four warps together: `columns` are the terms of the activations of all tokens in shared memory,
    /// as `wgmma_f16` wants them. With [`Weights::is_exact`] a panel has one vector of sums, otherwise one for 8 tokens each.
    pub(in crate::schedules::gpu) fn multiply_grouped(
        &self,
        b: &mut KernelBuilder,
        raw: &[&[Value]],
        columns: &[Value],
        sums: &mut [Vec<Value>],
    ) {
        let q = match self.layout {
            Fragments::Float { terms, .. } => {
                let of = |raw: &&[Value], b: &mut KernelBuilder| -> Vec<Value> {
                    raw.iter().map(|&v| b.bitcast(v, Type::F16.x(8))).collect()
                };
                let panels: Vec<Vec<Value>> = raw.iter().map(|raw| of(raw, b)).collect();
                for (sums, a) in sums.iter_mut().zip(&panels) {
                    for (i, &a) in a.iter().enumerate() {
                        let (term, j) = (i / 4, i % 4);
                        debug_assert!(term < *terms as usize);
                        for &x in columns.iter().take(if term == 0 { columns.len() } else { 1 }) {
                            sums[0] = b.wgmma(sums[0], a, x, j as i64);
                        }
                    }
                }
                return;
            }
            Fragments::Quant(q) => q,
        };
        let Unit { codes, scales, mins, ones } = &Unit::new(b, q, raw);
        let zero = b.f32(4 * sums[0].len() as u16, 0.0);
        let tiles = (q.group / 16) as usize;
        for group in 0..(UNIT_K / q.group) as usize {
            let tiles: Vec<usize> = (group * tiles..(group + 1) * tiles).collect();
            let fragments: Vec<Vec<Value>> =
                codes.iter().map(|c| tiles.iter().map(|&j| c.fragment(b, j)).collect()).collect();
            let product = |b: &mut KernelBuilder, a: &dyn Fn(usize) -> Value| {
                let steps = tiles.iter().enumerate().flat_map(|(i, &j)| columns.iter().map(move |&x| (i, j, x)));
                steps.fold(zero, |sum, (i, j, x)| b.wgmma(sum, a(i), x, j as i64))
            };
            // All that is multiplied at the same time, before anything is read.
            let total = mins.as_ref().map(|_| product(b, &|_| *ones));
            let products: Vec<Value> = fragments.iter().map(|a| product(b, &|i| a[i])).collect();
            let total = total.map(|t| fours(b, t));
            for (p, sums) in sums.iter_mut().enumerate() {
                let products = fours(b, products[p]);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = b.fma(scales[p][group], products[n], *sum);
                    if let (Some(mins), Some(total)) = (mins, &total) {
                        *sum = b.fma(mins[p][group], total[n], *sum);
                    }
                }
            }
        }
    }

    /// The weights of a unit that this lane holds, as numbers: for tile `j` those of row `g`, and of row `g + 8`.
    pub(in crate::schedules::gpu) fn numbers(&self, b: &mut KernelBuilder, raw: &[Value], j: usize) -> [Value; 2] {
        // Elements of a fragment by row: 0 and 1, 4 and 5; the others are 8 rows further down.
        let halves = |b: &mut KernelBuilder, a: Value| {
            let pairs = [0, 1, 2, 3].map(|i| {
                let words = b.bitcast(a, Type::I32.x(4));
                b.extract(words, i)
            });
            [0, 1].map(|h: usize| {
                let mut two = b.int(Type::I32.x(2), 0);
                two = b.insert(two, pairs[h], 0);
                two = b.insert(two, pairs[h + 2], 1);
                let four = b.bitcast(two, Type::F16.x(4));
                b.fext(four, Scalar::F32)
            })
        };
        match self.layout {
            Fragments::Float { terms, .. } => {
                let mut out: Option<[Value; 2]> = None;
                for term in 0..*terms as usize {
                    let a = b.bitcast(raw[term * 4 + j], Type::F16.x(8));
                    let v = halves(b, a);
                    out = Some(out.map_or(v, |o| [b.add(o[0], v[0]), b.add(o[1], v[1])]));
                }
                out.expect("one term at least")
            }
            Fragments::Quant(q) => {
                let codes = Codes::new(b, q, raw);
                let a = codes.fragment(b, j);
                let group = j * 16 / q.group as usize;
                let scale = codes.level(b, 0)[group];
                let min = q.has_min.then(|| codes.level(b, 1)[group]);
                let mut v = halves(b, a);
                for (h, v) in v.iter_mut().enumerate() {
                    let of_row = |b: &mut KernelBuilder, level: Value| {
                        let one = b.extract(level, 2 * h as i64);
                        b.splat(one, 4)
                    };
                    let s = of_row(b, scale);
                    *v = b.mul(*v, s);
                    if let Some(m) = min {
                        let m = of_row(b, m);
                        *v = b.add(*v, m);
                    }
                }
                v
            }
        }
    }
}

/// The lanes of a vector, four by four.
pub(super) fn fours(b: &mut KernelBuilder, v: Value) -> Vec<Value> {
    if b.ty(v).lanes == 4 {
        return vec![v];
    }
    let halves = [b.low(v), b.high(v)];
    halves.into_iter().flat_map(|half| fours(b, half)).collect()
}

fn scalar(store: Store) -> Scalar {
    match store {
        Store::F32 => Scalar::F32,
        Store::F16 => Scalar::F16,
        Store::BF16 => Scalar::BF16,
    }
}

/// A unit of some panels.
struct Unit<'a> {
    codes: Vec<Codes<'a>>,
    /// Of each panel and group.
    scales: Vec<Vec<Value>>,
    mins: Option<Vec<Vec<Value>>>,
    /// A fragment whose product is the sum of the columns, which mins are multiplied with.
    ones: Value,
}

impl<'a> Unit<'a> {
    fn new(b: &mut KernelBuilder, q: &'a FragmentQuant, raw: &[&[Value]]) -> Unit<'a> {
        let codes: Vec<Codes<'_>> = raw.iter().map(|raw| Codes::new(b, q, raw)).collect();
        let mut levels = |kind: usize| codes.iter().map(|c| c.level(b, kind)).collect();
        let (scales, mins) = (levels(0), q.has_min.then(|| levels(1)));
        let one = b.int(Type::I32.x(4), 0x3c00_3c00);
        let ones = b.bitcast(one, Type::F16.x(8));
        Unit { codes, scales, mins, ones }
    }
}

/// A unit of codes in registers.
struct Codes<'a> {
    q: &'a FragmentQuant,
    tops: Value,
    subs: Option<Value>,
    /// Dwords of each plane.
    planes: Vec<Vec<Value>>,
    table: Option<Value>,
}

impl<'a> Codes<'a> {
    fn new(b: &mut KernelBuilder, q: &'a FragmentQuant, raw: &[Value]) -> Codes<'a> {
        let mut raw = raw.iter().copied();
        let mut next = || raw.next().expect("as many as were loaded");
        let tops = next();
        let subs = (q.subs_bytes() > 0).then(&mut next);
        let planes = q.planes.iter().map(|&w| {
            let mut dwords = vec![];
            for _ in 0..u64::from(w).div_ceil(4) {
                let v = next();
                let lanes = b.ty(v).lanes;
                dwords.extend((0..lanes).map(|i| if lanes == 1 { v } else { b.extract(v, i.into()) }));
            }
            dwords
        });
        let planes = planes.collect();
        let table = q.table.as_ref().map(|t| {
            let mut words = b.int(Type::I32.x(4), 0);
            for (i, four) in t.chunks_exact(4).enumerate() {
                let word = b.int(Type::I32, i32::from_le_bytes([four[0], four[1], four[2], four[3]]).into());
                words = b.insert(words, word, i as i64);
            }
            b.bitcast(words, Type::I8.x(16))
        });
        Codes { q, tops, subs, planes, table }
    }

    /// Scales (0) or mins (1) of each group: `f32x4` as sums have rows, two of `g`, two of `g + 8`.
    fn level(&self, b: &mut KernelBuilder, kind: usize) -> Vec<Value> {
        let q = self.q;
        let tops = if q.store == Store::F32 { self.tops } else { b.fext(self.tops, Scalar::F32) };
        let before = if kind == 1 && q.subs[0] { q.sub_bytes() } else { 0 };
        let subs = self.subs.filter(|_| q.subs[kind]).map(|subs| {
            let wide = b.sext(subs, Scalar::I32);
            b.int_to_f(wide, Scalar::F32)
        });
        (0..UNIT_K / q.group)
            .map(|group| {
                let block = group * q.group / q.block;
                let rows = [0, 1].map(|h| {
                    let top = b.extract(tops, ((kind as u64 * q.blocks() + block) * 2 + h) as i64);
                    match subs {
                        Some(subs) => {
                            let sub = b.extract(subs, (before + group * 2 + h) as i64);
                            b.mul(top, sub)
                        }
                        None => top,
                    }
                });
                let mut v = b.splat(rows[0], 4);
                v = b.insert(v, rows[1], 2);
                b.insert(v, rows[1], 3)
            })
            .collect()
    }

    /// The pair `p`: two codes in the halves of an `i32`.
    fn pair(&self, b: &mut KernelBuilder, p: usize) -> Value {
        let mut low = 0;
        let mut out: Option<Value> = None;
        for (&w, dwords) in self.q.planes.iter().zip(&self.planes) {
            let of_dword = 16 / w as usize;
            let v = dwords[p / of_dword];
            // To where the plane's bits belong, then without the others.
            let shift = (p % of_dword) as i64 * i64::from(w) - low;
            let count = b.int(Type::I32, shift.abs());
            let v = match shift {
                0 => v,
                1.. => b.shr_u(v, count),
                _ => b.shl(v, count),
            };
            let mask = b.int(Type::I32, (((1i64 << w) - 1) << low) * 0x0001_0001);
            let v = b.and(v, mask);
            out = Some(out.map_or(v, |o| b.or(o, v)));
            low += i64::from(w);
        }
        out.expect("one plane at least")
    }

    /// Tile `j` as `f16x8`.
    fn fragment(&self, b: &mut KernelBuilder, j: usize) -> Value {
        let mut pairs = [0, 1, 2, 3].map(|i| self.pair(b, 4 * j + i));
        if let Some(table) = self.table {
            for two in pairs.chunks_exact_mut(2) {
                // Four indices in four bytes, those of the second pair between those of the first.
                let eight = b.int(Type::I32, 8);
                let second = b.shl(two[1], eight);
                let indices = b.or(two[0], second);
                let indices = b.bitcast(indices, Type::I8.x(4));
                let values = b.swizzle(table, indices);
                let values = b.bitcast(values, Type::I32);
                let mask = b.int(Type::I32, 0x00ff_00ff);
                two[0] = b.and(values, mask);
                let second = b.shr_u(values, eight);
                two[1] = b.and(second, mask);
            }
        }
        let mut words = b.int(Type::I32.x(4), 0);
        for (i, &pair) in pairs.iter().enumerate() {
            let magic = b.int(Type::I32, 0x6400_6400);
            let v = b.or(pair, magic);
            words = b.insert(words, v, i as i64);
        }
        let a = b.bitcast(words, Type::F16.x(8));
        let zero = half::f16::from_f32(1024.0 - self.q.zero as f32).to_bits();
        let zero = b.int(Type::I32.x(4), i64::from(zero) * 0x0001_0001);
        let zero = b.bitcast(zero, Type::F16.x(8));
        b.sub(a, zero)
    }
}
