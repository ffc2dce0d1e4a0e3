//! Weights of any format as pairs of bf16, in the order in which products of pairs read them.

use super::panel::{Codes, code_table, scalar, sub, top, unit_bytes};
use crate::pack::{Layout, LevelLayout, QuantLayout, ROWS, UNIT};
use tilewright_ir::kernel::{KernelBuilder, Scalar, Type, Value};

/// Bytes of a line: a pair of elements of each row of the panel.
const LINE: i64 = ROWS as i64 * 4;

/// Writes the units `u0..u1` (runs of 32 elements) of a packed panel to `to`, a line each two elements.
pub(super) fn expand(b: &mut KernelBuilder, layout: &Layout, panel: Value, u0: Value, u1: Value, to: Value) {
    let table = if let Layout::Quant(q) = layout { code_table(b, q) } else { None };
    b.for_(u0, u1, 1, &[], |b, unit, _| {
        let i = b.sub(unit, u0);
        let to = b.index(to, i, UNIT as i64 / 2 * LINE);
        match layout {
            Layout::Float(store) => {
                let size = store.bytes() as i64;
                let from = b.index(panel, unit, UNIT as i64 * ROWS as i64 * size);
                for line in 0..UNIT as i64 / 2 {
                    let [low, high] = [0, 1]
                        .map(|e| b.load_f32(scalar(*store), ROWS as u16, from, (2 * line + e) * ROWS as i64 * size));
                    let v = pair(b, low, high);
                    b.store(v, to, line * LINE);
                }
            }
            Layout::Quant(q) => quantised(b, q, table, panel, unit, to),
            Layout::Fragments(_) => unreachable!("kernels for CPUs read panels"),
        }
        vec![]
    });
}

fn quantised(b: &mut KernelBuilder, q: &QuantLayout, table: Option<Value>, panel: Value, unit: Value, to: Value) {
    let lanes = ROWS as u16;
    let units = q.block / UNIT;
    let (block, u) = if units == 1 {
        (unit, None)
    } else {
        let n = b.i64(units as i64);
        (b.div_s(unit, n), Some(b.rem_s(unit, n)))
    };
    let base = b.index(panel, block, q.bytes as i64);
    // Groups of a unit: each has scales of its own where the format has two levels.
    let groups = UNIT / q.group;
    let (codes, subs) = match u {
        Some(u) => (b.index(base, u, unit_bytes(q) as i64), b.index(base, u, (groups * ROWS) as i64)),
        None => (base, base),
    };
    let codes = b.index_bytes(codes, q.codes);
    let upper = |b: &mut KernelBuilder, l: &LevelLayout| top(b, l, base, 0, lanes);
    let scale = upper(b, &q.scale);
    let min = q.min.as_ref().map(|l| upper(b, l));
    let level = |b: &mut KernelBuilder, l: &LevelLayout, upper: Value, g: u64| match l.sub {
        Some(at) => {
            let v = sub(b, subs, at + g * ROWS, lanes);
            b.mul(v, upper)
        }
        None => upper,
    };
    let scales: Vec<Value> = (0..groups).map(|g| level(b, &q.scale, scale, g)).collect();
    let mins: Vec<Option<Value>> =
        (0..groups).map(|g| q.min.as_ref().zip(min).map(|(l, min)| level(b, l, min, g))).collect();
    let ints = Type::I32.x(lanes);
    let (zero, byte) = (b.int(ints, q.zero.into()), b.int(ints, 255));
    let mut dwords = Codes::new(q, codes, 0, lanes, table);
    for t in Codes::order(q) {
        let g = (t * 4 / q.group) as usize;
        let c = dwords.dword(b, t);
        let c = b.bitcast(c, ints);
        let values: Vec<Value> = (0..4)
            .map(|e| {
                let mut v = c;
                if e > 0 {
                    let by = b.int(Type::I32, 8 * e);
                    v = b.shr_u(v, by);
                }
                if e < 3 {
                    v = b.and(v, byte);
                }
                if q.zero != 0 {
                    v = b.add(v, zero);
                }
                let v = b.int_to_f(v, Scalar::F32);
                match mins[g] {
                    Some(m) => b.fma(v, scales[g], m),
                    None => b.mul(v, scales[g]),
                }
            })
            .collect();
        for (i, v) in (0..).zip(values.chunks_exact(2)) {
            let v = pair(b, v[0], v[1]);
            b.store(v, to, (2 * t as i64 + i) * LINE);
        }
    }
}

/// Rounds both to bf16, to nearest even, and puts them next to each other. They are finite.
fn pair(b: &mut KernelBuilder, low: Value, high: Value) -> Value {
    let ints = b.ty(low).with(Scalar::I32);
    let by = b.int(Type::I32, 16);
    let (one, half) = (b.int(ints, 1), b.int(ints, 0x7fff));
    let [low, high] = [low, high].map(|v| {
        let v = b.bitcast(v, ints);
        // Half of the last place, a little less if it is even: a tie goes to even.
        let last = b.shr_u(v, by);
        let last = b.and(last, one);
        let up = b.add(last, half);
        b.add(v, up)
    });
    let low = b.shr_u(low, by);
    let upper = b.int(ints, 0xffff_0000);
    let high = b.and(high, upper);
    b.or(low, high)
}
