//! Everything that works row by row. What needs no more than its element is done by several blocks a row.

use super::super::qk::{RopeStyle, turn};
use super::super::{self as cpu, Axis, Operands, Params, RowwiseOp, Schedule, Space, if_token};
use super::block::{self, Exchange, Place, Thread};
use tilewright_ir::kernel::{Kernel, KernelBuilder, Pred, Scalar, Type, Value, WARP};

/// [`cpu::Rowwise`] by blocks of threads.
#[derive(Clone, Debug)]
pub struct Rowwise(pub cpu::Rowwise);

/// Most blocks of a row.
const MAX_PARTS: u64 = 64;

/// A row, as a block sees it.
struct Row {
    token: Value,
    x: Value,
    second: Option<Value>,
    out: Value,
    /// This thread among those of the row, and how many they are.
    who: Value,
    count: u64,
}

impl Row {
    /// The second operand's row.
    fn second(&self, b: &mut KernelBuilder, stride: u64) -> Value {
        let p = self.second.expect("declared for this op");
        if stride == 0 { p } else { b.index(p, self.token, stride as i64) }
    }
}

impl Schedule for Rowwise {
    fn signature(&self) -> String {
        format!("gpu {}", self.0.signature())
    }

    fn space(&self) -> Space {
        vec![Axis { name: "threads", values: vec![256, 128, 512] }]
    }

    fn chunks(&self, p: &Params) -> u32 {
        self.0.max_tokens * self.parts(p) as u32
    }

    fn operands(&self) -> Operands {
        self.0.operands()
    }

    fn build(&self, name: &str, p: &Params) -> Kernel {
        let op = &self.0;
        let threads = block::param(p, "threads").next_multiple_of(u64::from(WARP));
        let mut b = KernelBuilder::of_blocks(name, threads as u32, 0);
        let x = b.ptr_param("x");
        let two = matches!(op.op, RowwiseOp::RmsNorm { .. } | RowwiseOp::Add(_) | RowwiseOp::Mul(_))
            || matches!(op.op, RowwiseOp::Rope { .. });
        let second = two.then(|| b.ptr_param("y"));
        let out = b.ptr_param("out");
        let tokens = b.int_param("tokens");
        let exchange = Exchange::new(&mut b, 2);
        let t = Thread::start(&mut b);
        let chunk = b.chunk_id();
        let parts = self.parts(p);
        let (token, part) = block::div_rem(&mut b, chunk, parts);
        if_token(&mut b, token, tokens, |b| {
            let x = b.index(x, token, op.x_stride as i64);
            let out = b.index(out, token, op.out_stride as i64);
            let first = b.mul_imm(part, threads as i64);
            let who = b.add(first, t.id);
            let row = Row { token, x, second, out, who, count: parts * threads };
            self.row(b, t, exchange, &row);
        });
        b.finish()
    }
}

impl Rowwise {
    /// Elements of a vector.
    fn lanes(&self) -> u16 {
        let width = self.0.width;
        match self.0.op {
            RowwiseOp::RmsNorm { group, .. } => block::lanes(&[group * 4], 4),
            RowwiseOp::Slice(start) => block::lanes(&[width * 4, start * 4], 4),
            RowwiseOp::Rope { heads, pairs, style } => {
                let most = if style == RopeStyle::Half { 4 } else { 2 };
                block::lanes(&[pairs * 4, width / heads * 4], most)
            }
            _ => block::lanes(&[width * 4], 4),
        }
    }

    /// Blocks of a row.
    fn parts(&self, p: &Params) -> u64 {
        match self.0.op {
            RowwiseOp::RmsNorm { .. } | RowwiseOp::Argmax => 1,
            _ => {
                let items = self.0.width / u64::from(self.lanes());
                items.div_ceil(block::param(p, "threads")).clamp(1, MAX_PARTS)
            }
        }
    }

    fn row(&self, b: &mut KernelBuilder, t: Thread, exchange: Exchange, row: &Row) {
        match &self.0.op {
            RowwiseOp::RmsNorm { group, eps } if *group == self.0.width => {
                let count = u64::from(b.threads());
                let places = Place::all(b, t.id, count, *group, self.lanes());
                let gamma = row.second(b, 0);
                norm(b, &places, row.x, gamma, row.out, (*group, *eps), |b, sum| {
                    exchange.merge(b, t, &[sum], block::plus)[0]
                });
            }
            RowwiseOp::RmsNorm { group, eps } => {
                let places = Place::all(b, t.lane, u64::from(WARP), *group, self.lanes());
                let end = b.i64((self.0.width / group) as i64);
                let warps = i64::from(b.threads() / WARP);
                let gamma = row.second(b, 0);
                b.for_(t.warp, end, warps, &[], |b, g, _| {
                    let x = b.index(row.x, g, *group as i64 * 4);
                    let out = b.index(row.out, g, *group as i64 * 4);
                    norm(b, &places, x, gamma, out, (*group, *eps), |b, sum| block::of_warp(b, sum, block::plus));
                    vec![]
                });
            }
            RowwiseOp::Add(stride) => {
                let y = row.second(b, *stride);
                self.map(b, row, &[row.x, y], |b, v| b.add(v[0], v[1]));
            }
            RowwiseOp::Mul(stride) => {
                let y = row.second(b, *stride);
                self.map(b, row, &[row.x, y], |b, v| b.mul(v[0], v[1]));
            }
            RowwiseOp::Scale(k) => self.map(b, row, &[row.x], |b, v| {
                let k = b.float(b.ty(v[0]), f64::from(*k));
                b.mul(v[0], k)
            }),
            RowwiseOp::Softcap(cap) => self.map(b, row, &[row.x], |b, v| {
                let ty = b.ty(v[0]);
                let inverse = b.float(ty, 1.0 / f64::from(*cap));
                let x = b.mul(v[0], inverse);
                let x = b.tanh(x);
                let cap = b.float(ty, f64::from(*cap));
                b.mul(x, cap)
            }),
            RowwiseOp::Act(f) => self.map(b, row, &[row.x], |b, v| f.apply(b, v[0])),
            RowwiseOp::Slice(start) => {
                let x = b.index_bytes(row.x, start * 4);
                self.map(b, row, &[x], |_, v| v[0]);
            }
            RowwiseOp::Rope { heads, pairs, style } => self.rope(b, row, (*heads, *pairs, *style)),
            RowwiseOp::Argmax => {
                let found = likeliest(b, row.x, (row.who, row.count), self.0.width, self.lanes());
                let found = exchange.merge(b, t, &found, block::likelier);
                block::when_first(b, t.id, |b| b.store(found[1], row.out, 0));
            }
        }
    }

    /// `f` of the elements at the same place in each of `from`.
    fn map(&self, b: &mut KernelBuilder, row: &Row, from: &[Value], f: impl Fn(&mut KernelBuilder, &[Value]) -> Value) {
        let lanes = self.lanes();
        let bytes = i64::from(lanes) * 4;
        let items = b.i64((self.0.width / u64::from(lanes)) as i64);
        b.for_(row.who, items, row.count as i64, &[], |b, i, _| {
            let load = |b: &mut KernelBuilder, p: Value| {
                let p = b.index(p, i, bytes);
                b.load(Type::F32.x(lanes), p, 0)
            };
            let values: Vec<Value> = from.iter().map(|&p| load(b, p)).collect();
            let v = f(b, &values);
            let p = b.index(row.out, i, bytes);
            b.store(v, p, 0);
            vec![]
        });
    }

    /// A thread reads both of a pair before it writes them, so the result may be where x is.
    fn rope(&self, b: &mut KernelBuilder, row: &Row, (heads, pairs, style): (u64, u64, RopeStyle)) {
        let lanes = self.lanes();
        let hd = self.0.width / heads;
        let (rotated, ty, bytes) = (pairs / u64::from(lanes), Type::F32.x(lanes), i64::from(lanes) * 4);
        let per_head = rotated + (hd - 2 * pairs) / u64::from(lanes);
        let table = row.second(b, pairs * 8);
        let items = b.i64((heads * per_head) as i64);
        b.for_(row.who, items, row.count as i64, &[], |b, i, _| {
            let (head, i) = block::div_rem(b, i, per_head);
            let [x, out] = [row.x, row.out].map(|p| b.index(p, head, hd as i64 * 4));
            let end = b.i64(rotated as i64);
            let is_pair = b.cmp(Pred::Slt, i, end);
            let turn_pair = |b: &mut KernelBuilder| {
                let at = b.index(table, i, bytes);
                let (cos, sin) = (b.load(ty, at, 0), b.load(ty, at, pairs as i64 * 4));
                match style {
                    RopeStyle::Half => {
                        let far = pairs as i64 * 4;
                        let [x, out] = [x, out].map(|p| b.index(p, i, bytes));
                        let (x0, x1) = (b.load(ty, x, 0), b.load(ty, x, far));
                        let (y0, y1) = turn(b, x0, x1, cos, sin);
                        b.store(y0, out, 0);
                        b.store(y1, out, far);
                    }
                    RopeStyle::Interleaved => {
                        let [x, out] = [x, out].map(|p| b.index(p, i, 2 * bytes));
                        let both = b.load(ty.x(2 * lanes), x, 0);
                        let both = turn_neighbours(b, both, cos, sin);
                        b.store(both, out, 0);
                    }
                }
            };
            if hd == 2 * pairs {
                turn_pair(b);
                return vec![];
            }
            let copy = |b: &mut KernelBuilder| {
                // The first that is not rotated is `rotated` vectors after the first of second ones.
                let [x, out] = [x, out].map(|p| b.index(p, i, bytes));
                let v = b.load(ty, x, pairs as i64 * 4);
                b.store(v, out, pairs as i64 * 4);
            };
            let then = |b: &mut KernelBuilder| {
                turn_pair(b);
                vec![]
            };
            b.if_(is_pair, then, |b| {
                copy(b);
                vec![]
            });
            vec![]
        });
    }
}

/// Rotates pairs that lie side by side in `x`.
pub(super) fn turn_neighbours(b: &mut KernelBuilder, x: Value, cos: Value, sin: Value) -> Value {
    let lanes = b.ty(cos).lanes;
    let mut y = x;
    for i in 0..i64::from(lanes) {
        let [c, s] = [cos, sin].map(|v| if lanes == 1 { v } else { b.extract(v, i) });
        let (x0, x1) = (b.extract(x, 2 * i), b.extract(x, 2 * i + 1));
        let (y0, y1) = turn(b, x0, x1, c, s);
        y = b.insert(y, y0, 2 * i);
        y = b.insert(y, y1, 2 * i + 1);
    }
    y
}

/// RMS norm of what is at `x`, one or several threads a group; `all` adds up what each of them found.
fn norm(
    b: &mut KernelBuilder,
    places: &[Place],
    x: Value,
    gamma: Value,
    out: Value,
    (n, eps): (u64, f32),
    all: impl FnOnce(&mut KernelBuilder, Value) -> Value,
) {
    let values: Vec<Value> = places.iter().map(|p| p.load(b, x)).collect();
    let sum = block::sum_of_squares(b, &values);
    let sum = all(b, sum);
    let factor = block::rms_factor(b, sum, n, eps);
    for (place, &v) in places.iter().zip(&values) {
        let g = place.load(b, gamma);
        let f = b.splat(factor, b.ty(v).lanes);
        let v = b.mul(v, f);
        let v = b.mul(v, g);
        place.store(b, v, out);
    }
}

/// The largest of the f32 at `x` that thread `who` of `count` looks at, and its place, i32. The first of equals wins, a
/// NaN never does.
pub(super) fn likeliest(
    b: &mut KernelBuilder,
    x: Value,
    (who, count): (Value, u64),
    width: u64,
    lanes: u16,
) -> Vec<Value> {
    let best = b.f32(1, f64::from(f32::MIN));
    let none = b.int(Type::I32, 0);
    let items = b.i64((width / u64::from(lanes)) as i64);
    b.for_(who, items, count as i64, &[best, none], |b, i, best| {
        let p = b.index(x, i, i64::from(lanes) * 4);
        let v = b.load(Type::F32.x(lanes), p, 0);
        let first = b.mul_imm(i, i64::from(lanes));
        let first = b.trunc(first, Scalar::I32);
        let mut best = best.to_vec();
        for lane in 0..i64::from(lanes) {
            let v = if lanes == 1 { v } else { b.extract(v, lane) };
            let id = b.add_imm(first, lane);
            // Places rise, so the first of equals is the one found before.
            let more = b.cmp(Pred::Sgt, v, best[0]);
            best = vec![b.select(more, v, best[0]), b.select(more, id, best[1])];
        }
        best
    })
}
