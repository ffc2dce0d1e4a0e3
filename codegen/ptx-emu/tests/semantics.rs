//! Each arithmetic instruction against a reference in Rust, on random and on awkward inputs.

mod common;

use common::{Random, lanes};
use half::{bf16, f16};

type Reference = fn([u64; 3]) -> u64;

/// Inputs: corners against corners, then random bits.
fn inputs(corners: &[u64]) -> Vec<[u64; 3]> {
    let mut random = Random(corners.len() as u64);
    let mut out = Vec::new();
    for a in corners {
        for b in corners {
            out.push([*a, *b, corners[random.bits() as usize % corners.len()]]);
        }
    }
    out.extend((0..320).map(|_| [random.bits(), random.bits(), random.bits()]));
    out
}

const INTS: &[u64] = &[
    0,
    1,
    2,
    31,
    32,
    33,
    63,
    64,
    255,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];
const FLOATS: &[f32] = &[
    0.0,
    -0.0,
    1.0,
    -1.5,
    0.5,
    2.5,
    3.5,
    1e-40,
    -1e-45,
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    65504.0,
    65520.0,
    448.0,
    464.0,
    480.0,
    1.0 + 1.0 / 1024.0,
    1.0 + 1.0 / 2048.0,
    16777217.0,
    2147483648.0,
    4294967295.0,
    0.1,
    1e10,
    5.96e-8,
];

/// Bodies of 32-bit instructions: `OP` reads %x, %y, %z and writes %w.
fn words(op: &str) -> String {
    format!("cvt.u32.u64 %x, %a;\ncvt.u32.u64 %y, %b;\ncvt.u32.u64 %z, %c;\n{op}\ncvt.u64.u32 %d, %w;")
}

/// The same for 16 bits: %h, %g, %e to %o.
fn halves(op: &str) -> String {
    format!("cvt.u16.u64 %h, %a;\ncvt.u16.u64 %g, %b;\ncvt.u16.u64 %e, %c;\n{op}\ncvt.u64.u16 %d, %o;")
}

fn check(body: &str, inputs: &[[u64; 3]], same: impl Fn(u64, u64) -> bool, want: Reference) {
    for (input, got) in inputs.iter().zip(lanes(body, inputs)) {
        let want = want(*input);
        assert!(same(got, want), "{body}\ninput {input:x?}\ngot  {got:#x}\nwant {want:#x}");
    }
}

fn u(v: u64) -> u32 {
    v as u32
}

fn i(v: u64) -> i32 {
    v as i32
}

fn w(v: i32) -> u64 {
    v as u32 as u64
}

fn q(v: u32) -> u64 {
    v.into()
}

#[test]
fn integers_of_32_bits() {
    let table: &[(&str, Reference)] = &[
        ("add.u32 %w, %x, %y;", |[a, b, _]| q(u(a).wrapping_add(u(b)))),
        ("add.sat.s32 %w, %x, %y;", |[a, b, _]| w(i(a).saturating_add(i(b)))),
        ("sub.s32 %w, %x, %y;", |[a, b, _]| q(u(a).wrapping_sub(u(b)))),
        ("mul.lo.s32 %w, %x, %y;", |[a, b, _]| q(u(a).wrapping_mul(u(b)))),
        ("mul.hi.u32 %w, %x, %y;", |[a, b, _]| (u64::from(u(a)) * u64::from(u(b))) >> 32),
        ("mul.hi.s32 %w, %x, %y;", |[a, b, _]| w(((i64::from(i(a)) * i64::from(i(b))) >> 32) as i32)),
        ("mad.lo.u32 %w, %x, %y, %z;", |[a, b, c]| q(u(a).wrapping_mul(u(b)).wrapping_add(u(c)))),
        ("div.u32 %w, %x, %y;", |[a, b, _]| q(u(a).checked_div(u(b)).unwrap_or(u32::MAX))),
        ("div.s32 %w, %x, %y;", |[a, b, _]| if i(b) == 0 { q(u32::MAX) } else { w(i(a).wrapping_div(i(b))) }),
        ("rem.u32 %w, %x, %y;", |[a, b, _]| q(u(a).checked_rem(u(b)).unwrap_or(u(a)))),
        ("rem.s32 %w, %x, %y;", |[a, b, _]| if i(b) == 0 { q(u(a)) } else { w(i(a).wrapping_rem(i(b))) }),
        ("neg.s32 %w, %x;", |[a, ..]| w(i(a).wrapping_neg())),
        ("abs.s32 %w, %x;", |[a, ..]| w(i(a).wrapping_abs())),
        ("min.u32 %w, %x, %y;", |[a, b, _]| q(u(a).min(u(b)))),
        ("min.s32 %w, %x, %y;", |[a, b, _]| w(i(a).min(i(b)))),
        ("max.u32 %w, %x, %y;", |[a, b, _]| q(u(a).max(u(b)))),
        ("max.s32 %w, %x, %y;", |[a, b, _]| w(i(a).max(i(b)))),
        ("and.b32 %w, %x, %y;", |[a, b, _]| q(u(a) & u(b))),
        ("or.b32 %w, %x, %y;", |[a, b, _]| q(u(a) | u(b))),
        ("xor.b32 %w, %x, 0xF0F0;", |[a, ..]| q(u(a) ^ 0xf0f0)),
        ("not.b32 %w, %x;", |[a, ..]| q(!u(a))),
        ("shl.b32 %w, %x, %y;", |[a, b, _]| q(u(a).checked_shl(u(b)).unwrap_or(0))),
        ("shr.u32 %w, %x, %y;", |[a, b, _]| q(u(a).checked_shr(u(b)).unwrap_or(0))),
        ("shr.s32 %w, %x, %y;", |[a, b, _]| w(i(a) >> u(b).min(31))),
        ("shf.l.wrap.b32 %w, %x, %y, %z;", |[a, b, c]| ((b << 32 | u64::from(u(a))) << (c & 31)) >> 32),
        ("shf.r.clamp.b32 %w, %x, %y, %z;", |[a, b, c]| q(((b << 32 | u64::from(u(a))) >> u(c).min(32)) as u32)),
        ("bfe.u32 %w, %x, %y, %z;", |[a, b, c]| {
            (0..(c & 255).min(32)).filter(|n| n + (b & 255) < 32).fold(0, |r, n| r | (a >> (n + (b & 255)) & 1) << n)
        }),
        ("bfe.s32 %w, %x, %y, %z;", |[a, b, c]| {
            let (pos, len) = (b & 255, c & 255);
            let sign = if len == 0 { 0 } else { u64::from(u(a)) >> (pos + len - 1).min(31) & 1 };
            let bit = |n: u64| if n < len && pos + n <= 31 { u64::from(u(a)) >> (pos + n) & 1 } else { sign };
            (0..32).fold(0, |r, n| r | bit(n) << n)
        }),
        ("bfi.b32 %w, %x, %y, %z, 7;", |[a, b, c]| {
            let pos = c & 255;
            let bit = |n: u64| if n >= pos && n < pos + 7 { a >> (n - pos) & 1 } else { b >> n & 1 };
            (0..32).fold(0, |r, n| r | bit(n) << n)
        }),
        ("prmt.b32 %w, %x, %y, %z;", |[a, b, c]| {
            let bytes = [u(a).to_le_bytes(), u(b).to_le_bytes()].concat();
            let pick = |s: u64| {
                let v = bytes[s as usize & 7];
                if s & 8 == 0 {
                    v
                } else if v >= 128 {
                    255
                } else {
                    0
                }
            };
            (0..4).fold(0, |r, n| r | u64::from(pick(c >> (4 * n))) << (8 * n))
        }),
        ("lop3.b32 %w, %x, %y, %z, 0xEA;", |[a, b, c]| q((u(a) & u(b)) | u(c))),
        ("lop3.b32 %w, %x, %y, %z, 0x96;", |[a, b, c]| q(u(a) ^ u(b) ^ u(c))),
        ("popc.b32 %w, %x;", |[a, ..]| q(u(a).count_ones())),
        ("clz.b32 %w, %x;", |[a, ..]| q(u(a).leading_zeros())),
        ("brev.b32 %w, %x;", |[a, ..]| q(u(a).reverse_bits())),
        ("bfind.u32 %w, %x;", |[a, ..]| q(31u32.wrapping_sub(u(a).leading_zeros()))),
        ("dp4a.u32.u32 %w, %x, %y, %z;", |[a, b, c]| {
            (0..4).fold(u(c), |s, n| s.wrapping_add((u(a) >> (8 * n) & 255) * (u(b) >> (8 * n) & 255))).into()
        }),
        ("dp4a.s32.s32 %w, %x, %y, %z;", |[a, b, c]| {
            let s = |v: u64, n: u32| i32::from((v >> (8 * n)) as i8);
            w((0..4).fold(i(c), |t, n| t.wrapping_add(s(a, n) * s(b, n))))
        }),
        ("setp.lt.s32 %p, %x, %y;\nselp.b32 %w, %y, %z, %p;", |[a, b, c]| q(if i(a) < i(b) { u(b) } else { u(c) })),
        ("setp.hi.u32 %p|%s, %x, %y;\nsetp.eq.or.u32 %t, %x, %z, !%s;\nselp.u32 %w, 1, 0, %t;", |[a, b, c]| {
            u64::from(u(a) > u(b) || u(a) == u(c))
        }),
        ("mov.b32 {%h, %g}, %x;\nmov.b32 %w, {%g, %h};", |[a, ..]| q(u(a).rotate_left(16))),
        ("cvt.s8.s32 %w, %x;", |[a, ..]| w(i32::from(a as i8))),
        ("cvt.sat.u8.s32 %w, %x;", |[a, ..]| q(i(a).clamp(0, 255) as u32)),
        ("cvt.rn.f32.s32 %w, %x;", |[a, ..]| q((i(a) as f32).to_bits())),
        ("cvt.rn.f32.u32 %w, %x;", |[a, ..]| q((u(a) as f32).to_bits())),
        ("cvt.rz.f32.u32 %w, %x;", |[a, ..]| {
            let near = u(a) as f32;
            q(if f64::from(near) > f64::from(u(a)) { near.next_down() } else { near }.to_bits())
        }),
    ];
    let inputs = inputs(INTS);
    table.iter().for_each(|(op, want)| check(&words(op), &inputs, |a, b| a == b, *want));
}

#[test]
fn integers_of_64_and_16_bits() {
    let table: &[(&str, Reference)] = &[
        ("add.s64 %d, %a, %b;", |[a, b, _]| a.wrapping_add(b)),
        ("mul.lo.u64 %d, %a, %b;", |[a, b, _]| a.wrapping_mul(b)),
        ("mul.hi.u64 %d, %a, %b;", |[a, b, _]| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("mul.hi.s64 %d, %a, %b;", |[a, b, _]| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        ("mad.lo.s64 %d, %a, %b, %c;", |[a, b, c]| a.wrapping_mul(b).wrapping_add(c)),
        ("shr.s64 %d, %a, 7;", |[a, ..]| ((a as i64) >> 7) as u64),
        ("neg.s64 %d, %a;", |[a, ..]| a.wrapping_neg()),
        ("min.s64 %d, %a, %b;", |[a, b, _]| (a as i64).min(b as i64) as u64),
        ("cvt.u32.u64 %x, %a;\ncvt.u32.u64 %y, %b;\nmul.wide.s32 %d, %x, %y;", |[a, b, _]| {
            (i64::from(i(a)) * i64::from(i(b))) as u64
        }),
        ("cvt.u32.u64 %x, %a;\nmad.wide.u32 %d, %x, 12, %c;", |[a, _, c]| (u64::from(u(a)) * 12).wrapping_add(c)),
        ("cvt.u32.u64 %x, %a;\ncvt.s64.s32 %d, %x;", |[a, ..]| i64::from(i(a)) as u64),
        ("cvt.rn.f64.u64 %d, %a;", |[a, ..]| (a as f64).to_bits()),
        ("cvt.rn.f32.s64 %x, %a;\ncvt.u64.u32 %d, %x;", |[a, ..]| q((a as i64 as f32).to_bits())),
        ("clz.b64 %w, %a;\ncvt.u64.u32 %d, %w;", |[a, ..]| a.leading_zeros().into()),
        ("mov.b64 {%x, %y}, %a;\nmov.b64 %d, {%y, %x};", |[a, ..]| a.rotate_left(32)),
        ("cvta.shared.u64 %d, %a;\ncvta.to.shared.u64 %d, %d;", |[a, ..]| a),
    ];
    let inputs = inputs(INTS);
    table.iter().for_each(|(op, want)| check(op, &inputs, |a, b| a == b, *want));
    let table: &[(&str, Reference)] = &[
        ("add.u16 %o, %h, %g;", |[a, b, _]| u64::from((a as u16).wrapping_add(b as u16))),
        ("mul.lo.s16 %o, %h, %g;", |[a, b, _]| u64::from((a as u16).wrapping_mul(b as u16))),
        ("max.s16 %o, %h, %g;", |[a, b, _]| u64::from((a as i16).max(b as i16) as u16)),
        ("shr.s16 %o, %h, 3;", |[a, ..]| u64::from(((a as i16) >> 3) as u16)),
        ("mul.wide.s16 %w, %h, %g;\ncvt.u16.u32 %o, %w;", |[a, b, _]| u64::from((a as u16).wrapping_mul(b as u16))),
    ];
    table.iter().for_each(|(op, want)| check(&halves(op), &inputs, |a, b| a == b, *want));
}

fn float_inputs() -> Vec<[u64; 3]> {
    let corners: Vec<u64> = FLOATS.iter().map(|f| q(f.to_bits())).collect();
    let mut out = inputs(&corners);
    let mut random = Random(1);
    // Sums and products that round, as random bits rarely do.
    let mut near = || q((random.small() * (1.0 + random.small() * 1e-4)).to_bits());
    out.extend((0..640).map(|_| [near(), near(), near()]));
    out
}

fn f(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn r(v: f32) -> u64 {
    q(v.to_bits())
}

fn same_f32(a: u64, b: u64) -> bool {
    a == b || f(a).is_nan() && f(b).is_nan()
}

fn flushed(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}

/// Toward zero, from the value and the sign of what rounding to nearest added to it.
fn toward_zero(near: f32, exact: f64) -> f32 {
    if near.is_infinite() && exact.is_finite() {
        return f32::MAX.copysign(near);
    }
    if f64::from(near.abs()) > exact.abs() { f32::from_bits(near.to_bits() - 1) } else { near }
}

#[test]
fn floats_round_once() {
    let table: &[(&str, Reference)] = &[
        ("add.f32 %w, %x, %y;", |[a, b, _]| r(f(a) + f(b))),
        ("add.ftz.f32 %w, %x, %y;", |[a, b, _]| r(flushed(flushed(f(a)) + flushed(f(b))))),
        ("sub.rn.f32 %w, %x, %y;", |[a, b, _]| r(f(a) - f(b))),
        ("mul.f32 %w, %x, %y;", |[a, b, _]| r(f(a) * f(b))),
        ("mul.rz.f32 %w, %x, %y;", |[a, b, _]| r(toward_zero(f(a) * f(b), f64::from(f(a)) * f64::from(f(b))))),
        ("mul.sat.f32 %w, %x, %y;", |[a, b, _]| {
            let v = f(a) * f(b);
            r(if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) + 0.0 })
        }),
        ("fma.rn.f32 %w, %x, %y, %z;", |[a, b, c]| r(f(a).mul_add(f(b), f(c)))),
        ("div.rn.f32 %w, %x, %y;", |[a, b, _]| r(f(a) / f(b))),
        ("rcp.rn.f32 %w, %x;", |[a, ..]| r(1.0 / f(a))),
        ("sqrt.rn.f32 %w, %x;", |[a, ..]| r(f(a).sqrt())),
        ("neg.f32 %w, %x;", |[a, ..]| r(-f(a))),
        ("abs.f32 %w, %x;", |[a, ..]| r(f(a).abs())),
        ("min.f32 %w, %x, %y;", |[a, b, _]| match (f(a), f(b)) {
            (a, b) if a == b => r(if a.is_sign_negative() { a } else { b }),
            (a, b) => r(a.min(b)),
        }),
        ("max.f32 %w, %x, %y;", |[a, b, _]| match (f(a), f(b)) {
            (a, b) if a == b => r(if a.is_sign_negative() { b } else { a }),
            (a, b) => r(a.max(b)),
        }),
        ("max.NaN.f32 %w, %x, %y;", |[a, b, _]| match (f(a), f(b)) {
            (a, b) if a.is_nan() || b.is_nan() => r(f32::NAN),
            (a, b) if a == b => r(if a.is_sign_negative() { b } else { a }),
            (a, b) => r(a.max(b)),
        }),
        ("cvt.rni.s32.f32 %w, %x;", |[a, ..]| w(f(a).round_ties_even() as i32)),
        ("cvt.rzi.u32.f32 %w, %x;", |[a, ..]| q(f(a) as u32)),
        ("cvt.rmi.f32.f32 %w, %x;", |[a, ..]| r(f(a).floor())),
        ("cvt.rpi.s32.f32 %w, %x;", |[a, ..]| w(f(a).ceil() as i32)),
        ("setp.ltu.f32 %p, %x, %y;\nselp.u32 %w, 1, 0, %p;", |[a, b, _]| {
            u64::from(!matches!(f(a).partial_cmp(&f(b)), Some(o) if o.is_ge()))
        }),
        ("setp.ne.f32 %p, %x, %y;\nselp.u32 %w, 1, 0, %p;", |[a, b, _]| u64::from(f(a) < f(b) || f(a) > f(b))),
    ];
    let inputs = float_inputs();
    table.iter().for_each(|(op, want)| check(&words(op), &inputs, same_f32, *want));
    // Roundings in all directions enclose the exact value and are neighbours of the nearest.
    for op in ["add", "sub", "mul", "div"] {
        let run = |mode: &str| lanes(&words(&format!("{op}.{mode}.f32 %w, %x, %y;")), &inputs);
        let (near, zero, down, up) = (run("rn"), run("rz"), run("rm"), run("rp"));
        for n in 0..near.len() {
            let [near, zero, down, up] = [near[n], zero[n], down[n], up[n]].map(f);
            if near.is_nan() {
                assert!(zero.is_nan() && down.is_nan() && up.is_nan());
                continue;
            }
            assert!(
                down <= near && near <= up && (down == up || down.next_up() == up),
                "{op} {down:e} {near:e} {up:e}"
            );
            assert!(zero == if up <= 0.0 { up } else { down } || down < 0.0 && up > 0.0, "{op}: {zero:e}");
        }
    }
}

#[test]
fn approximations_are_close() {
    type Approx = (&'static str, fn(f64) -> f64);
    let table: &[Approx] = &[
        ("ex2.approx.f32", f64::exp2),
        ("lg2.approx.f32", f64::log2),
        ("rcp.approx.ftz.f32", |v| 1.0 / v),
        ("rsqrt.approx.f32", |v| 1.0 / v.sqrt()),
        ("sqrt.approx.f32", f64::sqrt),
        ("tanh.approx.f32", f64::tanh),
        ("sin.approx.f32", f64::sin),
        ("cos.approx.f32", f64::cos),
    ];
    let inputs: Vec<[u64; 3]> = (1..320).map(|n| [r(n as f32 * 0.05), 0, 0]).collect();
    for (op, want) in table {
        for (input, got) in inputs.iter().zip(lanes(&words(&format!("{op} %w, %x;")), &inputs)) {
            let want = want(f(input[0]).into());
            assert!(
                (f64::from(f(got)) - want).abs() <= want.abs() * 6.0e-8,
                "{op} {}: {} not {want}",
                f(input[0]),
                f(got)
            );
        }
    }
}

fn h(v: u64) -> f16 {
    f16::from_bits(v as u16)
}

fn b(v: u64) -> bf16 {
    bf16::from_bits(v as u16)
}

fn same_f16(x: u64, y: u64) -> bool {
    x == y || h(x).is_nan() && h(y).is_nan()
}

fn same_bf16(x: u64, y: u64) -> bool {
    x == y || b(x).is_nan() && b(y).is_nan()
}

#[test]
fn halves_and_packed_halves() {
    let f16s: Vec<u64> = FLOATS.iter().map(|v| u64::from(f16::from_f32(*v).to_bits())).collect();
    let bf16s: Vec<u64> = FLOATS.iter().map(|v| u64::from(bf16::from_f32(*v).to_bits())).collect();
    // Products and sums of two f16 are exact in f64, so one rounding is left.
    let table: &[(&str, Reference)] = &[
        ("add.f16 %o, %h, %g;", |[x, y, _]| f16::from_f64(h(x).to_f64() + h(y).to_f64()).to_bits().into()),
        ("mul.rn.f16 %o, %h, %g;", |[x, y, _]| f16::from_f64(h(x).to_f64() * h(y).to_f64()).to_bits().into()),
        ("neg.f16 %o, %h;", |[x, ..]| (x & 0xffff) ^ 0x8000),
        ("cvt.f32.f16 %w, %h;\ncvt.rn.f16.f32 %o, %w;", |[x, ..]| x & 0xffff),
        ("setp.gt.f16 %p, %h, %g;\nselp.b16 %o, 1, 0, %p;", |[x, y, _]| u64::from(h(x) > h(y))),
    ];
    table.iter().for_each(|(op, want)| check(&halves(op), &inputs(&f16s), same_f16, *want));
    let table: &[(&str, Reference)] = &[
        ("add.rn.bf16 %o, %h, %g;", |[x, y, _]| bf16::from_f32(b(x).to_f32() + b(y).to_f32()).to_bits().into()),
        ("cvt.f32.bf16 %w, %h;\ncvt.rn.bf16.f32 %o, %w;", |[x, ..]| x & 0xffff),
    ];
    let exact: Vec<[u64; 3]> = inputs(&bf16s)
        .into_iter()
        .filter(|[x, y, _]| {
            // References that round twice are only right where the first rounding is none.
            let (x, y) = (b(*x).to_f64(), b(*y).to_f64());
            !(x + y).is_finite() || f64::from((x + y) as f32) == x + y
        })
        .collect();
    table.iter().for_each(|(op, want)| check(&halves(op), &exact, same_bf16, *want));
    // Both halves of a pair, fused: one rounding of the exact value, which f64 holds for these exponents.
    let mut random = Random(3);
    let mut pair = |one: &dyn Fn(f32) -> u16| {
        let (x, y) = (one(random.small() * 3.0), one(random.small() * 0.37));
        u64::from(x) | u64::from(y) << 16
    };
    let f = |v: f32| f16::from_f32(v).to_bits();
    let g = |v: f32| bf16::from_f32(v).to_bits();
    let f16x2: Vec<[u64; 3]> = (0..400).map(|_| [pair(&f), pair(&f), pair(&f)]).collect();
    let bf16x2: Vec<[u64; 3]> = (0..400).map(|_| [pair(&g), pair(&g), pair(&g)]).collect();
    check(
        &words("fma.rn.f16x2 %w, %x, %y, %z;"),
        &f16x2,
        |x, y| x == y,
        |v| {
            let one = |n: u32| {
                let [x, y, z] = v.map(|v| h(v >> n).to_f64());
                u64::from(f16::from_f64(x * y + z).to_bits()) << n
            };
            one(0) | one(16)
        },
    );
    check(
        &words("fma.rn.bf16x2 %w, %x, %y, %z;"),
        &bf16x2,
        |x, y| x == y,
        |v| {
            let one = |n: u32| {
                let [x, y, z] = v.map(|v| b(v >> n).to_f64());
                u64::from(bf16::from_f64(x * y + z).to_bits()) << n
            };
            one(0) | one(16)
        },
    );
    check(
        &words("max.f16x2 %w, %x, %y;"),
        &f16x2,
        |x, y| x == y,
        |[x, y, _]| {
            let one = |n: u32| if h(x >> n) >= h(y >> n) { x >> n & 0xffff } else { y >> n & 0xffff };
            one(0) | one(16) << 16
        },
    );
}

#[test]
fn conversions_between_floats() {
    let inputs = float_inputs();
    check(&words("cvt.rn.f16.f32 %h, %x;\ncvt.u32.u16 %w, %h;"), &inputs, same_f16, |[a, ..]| {
        f16::from_f32(f(a)).to_bits().into()
    });
    check(&words("cvt.rn.bf16.f32 %h, %x;\ncvt.u32.u16 %w, %h;"), &inputs, same_bf16, |[a, ..]| {
        bf16::from_f32(f(a)).to_bits().into()
    });
    let finite: Vec<[u64; 3]> = inputs.into_iter().filter(|v| f(v[0]).is_finite() && f(v[1]).is_finite()).collect();
    check(
        &words("cvt.rn.bf16x2.f32 %w, %x, %y;"),
        &finite,
        |a, b| a == b,
        |[x, y, _]| u64::from(bf16::from_f32(f(x)).to_bits()) << 16 | u64::from(bf16::from_f32(f(y)).to_bits()),
    );
    check("cvt.u32.u64 %x, %a;\ncvt.f64.f32 %d, %x;", &finite, |a, b| a == b, |[a, ..]| f64::from(f(a)).to_bits());
    // Every e4m3 and e5m2 value goes through f16 and back; values between go to the nearest, too large ones to the largest.
    for (name, max) in [("e4m3x2", 448.0f32), ("e5m2x2", 57344.0)] {
        let all: Vec<[u64; 3]> = (0..256).map(|v| [v | (255 - v) << 8, 0, 0]).collect();
        let there = lanes(
            &halves(&format!("cvt.rn.f16x2.{name} %w, %h;\ncvt.u64.u32 %d, %w;\nmov.b16 %o, 0;"))
                .replace("cvt.u64.u16 %d, %o;", ""),
            &all,
        );
        let back = lanes(&halves(&format!("cvt.rn.f16x2.{name} %w, %h;\ncvt.rn.satfinite.{name}.f16x2 %o, %w;")), &all);
        for ((input, there), back) in all.iter().zip(&there).zip(&back) {
            for n in 0..2 {
                let (v, code) = (h(there >> (16 * n)), input[0] >> (8 * n) & 255);
                if v.is_nan() || v.is_infinite() {
                    assert!(code & 0x7c == 0x7c, "{name} {code:#x}");
                } else {
                    assert_eq!(back >> (8 * n) & 255, code, "{name}");
                }
            }
        }
        let body = words(&format!("cvt.rn.satfinite.{name}.f32 %h, %x, %y;\ncvt.rn.f16x2.{name} %w, %h;"));
        let values: Vec<f32> = there.iter().map(|v| h(*v).to_f32()).filter(|v| v.is_finite()).collect();
        for (input, got) in finite.iter().zip(lanes(&body, &finite)) {
            for (v, got) in [(f(input[0]), h(got >> 16)), (f(input[1]), h(got))] {
                let near = values.iter().map(|c| (c - v.clamp(-max, max)).abs()).fold(f32::MAX, f32::min);
                assert_eq!((got.to_f32() - v.clamp(-max, max)).abs(), near, "{name} {v}");
            }
        }
    }
}

/// Runs a body once in a warp; lane l has %x = l * 3 + 1.
fn warp(op: &str) -> Vec<u64> {
    let inputs: Vec<[u64; 3]> = (0..32).map(|l| [l * 3 + 1, l, 0]).collect();
    lanes(&words(op), &inputs)
}

#[test]
fn warp_wide() {
    let value = |l: u64| l * 3 + 1;
    let want = |f: &dyn Fn(u64) -> u64| (0..32).map(f).collect::<Vec<_>>();
    assert_eq!(warp("shfl.sync.idx.b32 %w, %x, 5, 31, -1;"), want(&|_| value(5)));
    assert_eq!(warp("shfl.sync.idx.b32 %w, %x, 2, 0x181f, -1;"), want(&|l| value(l / 8 * 8 + 2)));
    assert_eq!(warp("shfl.sync.up.b32 %w, %x, 3, 0, -1;"), want(&|l| value(if l < 3 { l } else { l - 3 })));
    assert_eq!(warp("shfl.sync.down.b32 %w, %x, 3, 31, -1;"), want(&|l| value(if l > 28 { l } else { l + 3 })));
    assert_eq!(warp("shfl.sync.bfly.b32 %w, %x, 7, 31, -1;"), want(&|l| value(l ^ 7)));
    let inside = "shfl.sync.down.b32 %w|%p, %x, 4, 0x181f, -1;\nselp.u32 %w, 1, 0, %p;";
    assert_eq!(warp(inside), want(&|l| u64::from(l % 8 < 4)));
    let odd = "and.b32 %z, %y, 1;\nsetp.eq.u32 %p, %z, 1;\n";
    assert_eq!(warp(&format!("{odd}vote.sync.ballot.b32 %w, %p, -1;")), want(&|_| 0xaaaa_aaaa));
    assert_eq!(warp(&format!("{odd}vote.sync.any.pred %s, !%p, -1;\nselp.u32 %w, 1, 0, %s;")), want(&|_| 1));
    assert_eq!(warp(&format!("{odd}vote.sync.all.pred %s, %p, -1;\nselp.u32 %w, 1, 0, %s;")), want(&|_| 0));
    assert_eq!(warp("redux.sync.add.u32 %w, %x, -1;"), want(&|_| (0..32).map(value).sum()));
    assert_eq!(warp("redux.sync.max.s32 %w, %x, -1;"), want(&|_| value(31)));
    assert_eq!(warp("shr.u32 %z, %y, 2;\nmatch.any.sync.b32 %w, %z, -1;"), want(&|l| 15 << (l / 4 * 4)));
    assert_eq!(warp("elect.sync %w|%p, -1;\nselp.u32 %w, %w, 99, %p;"), want(&|l| if l == 0 { 0 } else { 99 }));
    // Halves of a warp come by different ways and meet; the order of the ways is chance.
    let ways = format!(
        "{odd}@%p bra ODD;\nmov.u32 %w, 2;\nbra JOIN;\nODD:\nmov.u32 %w, 3;\nJOIN:\nactivemask.b32 %z;\n\
        popc.b32 %z, %z;\nmad.lo.u32 %w, %w, 100, %z;"
    );
    assert_eq!(warp(&ways), want(&|l| 232 + 100 * (l % 2)));
    // A loop that each lane leaves at another time.
    let sum = "mov.u32 %w, 0;\nLOOP:\nadd.u32 %w, %w, %y;\nsub.u32 %x, %x, 3;\nsetp.gt.s32 %p, %x, 0;\n@%p bra LOOP;\nactivemask.b32 %z;\n\
        setp.ne.u32 %p, %z, -1;\n@%p trap;";
    assert_eq!(warp(sum), want(&|l| (l + 1) * l));
}

/// `mma` with integers and tf32, whose fragments the matmul kernel does not cover.
#[test]
fn matrix_products() {
    type Shape = (&'static str, usize, usize);
    let shapes: &[Shape] = &[
        ("m16n8k32.row.col.s32.s8.s8.s32", 32, 1),
        ("m16n8k16.row.col.s32.u8.s8.s32", 16, 1),
        ("m16n8k8.row.col.f32.tf32.tf32.f32", 8, 4),
        ("m16n8k16.row.col.f32.f16.f16.f32", 16, 2),
    ];
    for (shape, k, size) in shapes {
        let float = *size > 1;
        let mut random = Random(*k as u64);
        let mut draw =
            |n: usize| (0..n).map(|_| (random.bits() % 16) as i32 - if float { 8 } else { 0 }).collect::<Vec<_>>();
        let (a, b) = (draw(16 * k), draw(8 * k));
        let code = |v: i32| match size {
            1 => v as u64 & 255,
            2 => f16::from_f32(v as f32).to_bits().into(),
            _ => q((v as f32).to_bits()),
        };
        // The manual's fragments: row = lane / 4 (+ 8), column = lane % 4 times elements a register, then the next 16 bytes.
        let per = 4 / size;
        let pack = |m: &[i32], row: usize, col: usize| {
            (0..per).fold(0, |r, e| r | code(m[row * k + col + e]) << (8 * size * e))
        };
        let regs = k / per / 4;
        let inputs: Vec<[u64; 3]> = (0..32)
            .map(|l| {
                let (g, t) = (l / 4, l % 4 * per);
                let part = |n: usize| pack(&a, g, t + 4 * per * n) | pack(&a, g + 8, t + 4 * per * n) << 32;
                let col = |n: usize| pack(&b, g, t + 4 * per * n);
                if regs == 2 { [part(0), part(1), col(0) | col(1) << 32] } else { [part(0), col(0), 0] }
            })
            .collect();
        let (ra, rb) = if regs == 2 { ("{%r0, %r1, %r2, %r3}", "{%r4, %r5}") } else { ("{%r0, %r1}", "{%r2}") };
        for half in 0..2 {
            let (lo, hi) = (2 * half, 2 * half + 1);
            let body = format!(
                ".reg .b32 %r<6>, %m<4>, %n<4>;\nmov.b64 {{%r0, %r1}}, %a;\nmov.b64 {{%r2, %r3}}, %b;\nmov.b64 {{%r4, %r5}}, %c;\n\
                 mov.b32 %n0, 0;\nmov.b32 %n1, 0;\nmov.b32 %n2, 0;\nmov.b32 %n3, 0;\n\
                 mma.sync.aligned.{shape} {{%m0, %m1, %m2, %m3}}, {ra}, {rb}, {{%n0, %n1, %n2, %n3}};\nmov.b64 %d, {{%m{lo}, %m{hi}}};"
            );
            for (l, got) in lanes(&body, &inputs).into_iter().enumerate() {
                for i in 0..2 {
                    let (row, col) = (l / 4 + 8 * half, l % 4 * 2 + i);
                    let want: i32 = (0..*k).map(|x| a[row * k + x] * b[col * k + x]).sum();
                    let got = u(got >> (32 * i));
                    assert_eq!(
                        if float { f32::from_bits(got) as i32 } else { got as i32 },
                        want,
                        "{shape} {row} {col}"
                    );
                }
            }
        }
    }
}

/// Addresses of 32 bits wrap, as those that the assembler folds into instructions do.
#[test]
fn short_addresses_wrap() {
    let body = ".shared .b32 s[64];\nsetp.eq.u32 %p, %i, 0;\nmov.b32 %x, s;\nsub.u32 %y, %x, 8;\nmov.u32 %w, 7;\n\
                @%p st.shared.u32 [%x], %w;\nbar.sync 0;\nld.shared.u32 %z, [%y+8];\ncvt.u64.u32 %d, %z;";
    assert_eq!(lanes(body, &[[0; 3]]), [7]);
}
