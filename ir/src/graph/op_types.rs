//! The shape rules of the op table.

use super::op::{Attr, Attrs, OpKind};
use super::types::{Dim, Elem, Q8_UNIT, TensorType};

type Get<'a> = &'a dyn Fn(&str) -> Option<&'a TensorType>;

/// Result type of `op` for operands by role, or what is wrong.
pub(super) fn result_type<'a>(op: OpKind, get: Get<'a>, attrs: &Attrs) -> Result<TensorType, String> {
    let int = |n: &str| match attrs.get(n) {
        Some(Attr::Int(v)) => *v as u64,
        _ => 0,
    };
    let flag = |n: &str| attrs.get(n) == Some(&Attr::Bool(true));
    let rounded = || match attrs.get("to") {
        Some(Attr::Str(to)) => Elem::named(to).unwrap_or(Elem::Q8),
        _ => Elem::Q8,
    };
    let elem = |quantize: bool| if quantize { rounded() } else { Elem::F32 };
    match op {
        OpKind::Input | OpKind::Weight => Err("is made by Graph::input and Graph::weight".into()),
        OpKind::Embed => {
            tokens(get, "tokens")?;
            let [_, n] = matrix(get, "table")?;
            Ok(acts(Elem::F32, n))
        }
        OpKind::RmsNorm => {
            let x = f32_rows(get, "x")?;
            let g = vector(get, "gamma")?;
            divides(g, x, "gamma", "x")?;
            Ok(acts(Elem::F32, x))
        }
        OpKind::Matmul => {
            let x = factors(get, attrs)?;
            let [m, n] = matrix(get, "w")?;
            equal(x, n, "x", "w")?;
            if get("bias").is_some() {
                equal(vector(get, "bias")?, m, "bias", "rows of w")?;
            }
            if get("residual").is_some() {
                equal(f32_rows(get, "residual")?, m, "residual", "rows of w")?;
            }
            Ok(acts(Elem::F32, m))
        }
        OpKind::Add => {
            let a = f32_rows(get, "a")?;
            let b = match get("b") {
                Some(TensorType { elem: Elem::Format(_), .. }) => vector(get, "b")?,
                _ => f32_rows(get, "b")?,
            };
            equal(a, b, "a", "b")?;
            Ok(acts(Elem::F32, a))
        }
        OpKind::Mul => {
            let a = f32_rows(get, "a")?;
            equal(a, f32_rows(get, "b")?, "a", "b")?;
            Ok(acts(Elem::F32, a))
        }
        OpKind::Scale | OpKind::Softcap | OpKind::Act => Ok(acts(Elem::F32, f32_rows(get, "x")?)),
        OpKind::Slice => {
            let x = f32_rows(get, "x")?;
            let end = int("start").checked_add(int("len")).filter(|&e| e <= x && int("len") > 0);
            end.ok_or_else(|| format!("columns {}+{} of {x}", int("start"), int("len")))?;
            Ok(acts(Elem::F32, int("len")))
        }
        // The table's length is checked by the verifier, which sees the graph's tables.
        OpKind::RopeAngles => {
            tokens(get, "pos")?;
            Ok(TensorType::new(Elem::F32, [Dim::T, Dim::N(2)]))
        }
        OpKind::Rope => {
            let x = f32_rows(get, "x")?;
            angles(get)?;
            divides_count(int("heads"), x, "x")?;
            Ok(acts(Elem::F32, x))
        }
        OpKind::KvWrite => {
            let (kv, [heads, hd]) = cache(get)?;
            equal(f32_rows(get, "k")?, heads * hd, "k", "the cache")?;
            equal(f32_rows(get, "v")?, heads * hd, "v", "the cache")?;
            tokens(get, "pos")?;
            qk_extras(get, "k_norm", hd)?;
            Ok(kv.clone())
        }
        OpKind::Attention => {
            let (_, [kv_heads, hd]) = cache(get)?;
            let heads = int("heads");
            equal(f32_rows(get, "q")?, heads.saturating_mul(hd), "q", "heads * head_dim")?;
            divides_count(kv_heads, heads, "heads")?;
            tokens(get, "pos")?;
            qk_extras(get, "q_norm", hd)?;
            quantizable(flag("quantize"), heads * hd)?;
            Ok(acts(elem(flag("quantize")), heads * hd))
        }
        OpKind::Quantize => {
            let x = f32_rows(get, "x")?;
            if get("gamma").is_some() {
                equal(vector(get, "gamma")?, x, "gamma", "x")?;
            }
            quantizable(!rounded().is_f16(), x)?;
            Ok(acts(rounded(), x))
        }
        OpKind::Glu => {
            let x = factors(get, attrs)?;
            let [m, n] = matrix(get, "gate")?;
            equal(x, n, "x", "gate")?;
            if matrix(get, "up")? != [m, n] {
                return Err("gate and up differ in shape".into());
            }
            quantizable(flag("quantize"), m)?;
            Ok(acts(elem(flag("quantize")), m))
        }
        OpKind::Argmax => {
            f32_rows(get, "x")?;
            Ok(TensorType::new(Elem::I32, [Dim::T]))
        }
    }
}

fn acts(elem: Elem, n: u64) -> TensorType {
    TensorType::new(elem, [Dim::T, Dim::N(n)])
}

fn want<'a>(get: Get<'a>, role: &str) -> Result<&'a TensorType, String> {
    get(role).ok_or_else(|| format!("operand `{role}` is missing"))
}

fn tokens(get: Get<'_>, role: &str) -> Result<(), String> {
    let t = want(get, role)?;
    if *t == TensorType::new(Elem::I32, [Dim::T]) { Ok(()) } else { Err(format!("`{role}` is {t}, not i32[T]")) }
}

fn rows(get: Get<'_>, role: &str) -> Result<u64, String> {
    let t = want(get, role)?;
    match (&t.elem, t.shape.as_slice()) {
        (Elem::F32 | Elem::Q8 | Elem::BF16 | Elem::F16 | Elem::F16Pair, [Dim::T, Dim::N(n)]) => Ok(*n),
        _ => Err(format!("`{role}` is {t}, not f32[T, n] or rounded rows")),
    }
}

/// Width of the rows that a product reads, which it may round, and norm before that.
fn factors(get: Get<'_>, attrs: &Attrs) -> Result<u64, String> {
    let is_rounded = attrs.get("round").is_some_and(|to| *to != Attr::Str("none".into()));
    let x = if is_rounded { f32_rows(get, "x")? } else { rows(get, "x")? };
    match get("gamma") {
        Some(_) if is_rounded => equal(vector(get, "gamma")?, x, "gamma", "x")?,
        Some(_) => return Err("`gamma` norms what is rounded, but `round` is missing".into()),
        None => {}
    }
    Ok(x)
}

fn f32_rows(get: Get<'_>, role: &str) -> Result<u64, String> {
    let t = want(get, role)?;
    match (&t.elem, t.shape.as_slice()) {
        (Elem::F32, [Dim::T, Dim::N(n)]) => Ok(*n),
        _ => Err(format!("`{role}` is {t}, not f32[T, n]")),
    }
}

fn matrix(get: Get<'_>, role: &str) -> Result<[u64; 2], String> {
    let t = want(get, role)?;
    match (&t.elem, t.shape.as_slice()) {
        (Elem::Format(_), [Dim::N(m), Dim::N(n)]) => Ok([*m, *n]),
        _ => Err(format!("`{role}` is {t}, not a weight of two dimensions")),
    }
}

fn vector(get: Get<'_>, role: &str) -> Result<u64, String> {
    let t = want(get, role)?;
    match (&t.elem, t.shape.as_slice()) {
        (Elem::Format(f), [Dim::N(n)]) if &**f == "f32" => Ok(*n),
        _ => Err(format!("`{role}` is {t}, not an f32 weight of one dimension")),
    }
}

fn cache<'a>(get: Get<'a>) -> Result<(&'a TensorType, [u64; 2]), String> {
    let t = want(get, "kv")?;
    match (&t.elem, t.shape.as_slice()) {
        (Elem::Kv, [Dim::N(h), Dim::N(d)]) if *h > 0 && *d > 0 && h.checked_mul(*d).is_some() => Ok((t, [*h, *d])),
        _ => Err(format!("`kv` is {t}, not kv[heads, head_dim]")),
    }
}

fn angles(get: Get<'_>) -> Result<(), String> {
    let t = want(get, "angles")?;
    match (&t.elem, t.shape.as_slice()) {
        (Elem::F32, [Dim::T, Dim::N(2), ..]) => Ok(()),
        _ => Err(format!("`angles` is {t}, not the result of rope_angles")),
    }
}

fn qk_extras(get: Get<'_>, norm: &str, hd: u64) -> Result<(), String> {
    if get("angles").is_some() {
        angles(get)?;
    }
    if get(norm).is_some() {
        equal(vector(get, norm)?, hd, norm, "head_dim")?;
    }
    Ok(())
}

fn quantizable(quantize: bool, n: u64) -> Result<(), String> {
    if quantize && !n.is_multiple_of(Q8_UNIT) {
        return Err(format!("rows of {n} cannot be rounded to blocks of {Q8_UNIT}"));
    }
    Ok(())
}

fn equal(a: u64, b: u64, what: &str, other: &str) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("`{what}` has {a} elements, {other} {b}")) }
}

fn divides(d: u64, n: u64, what: &str, of: &str) -> Result<(), String> {
    if d > 0 && n.is_multiple_of(d) { Ok(()) } else { Err(format!("`{what}` ({d}) does not divide `{of}` ({n})")) }
}

fn divides_count(d: u64, n: u64, of: &str) -> Result<(), String> {
    if d > 0 && n > 0 && n.is_multiple_of(d) { Ok(()) } else { Err(format!("{d} heads do not divide `{of}` ({n})")) }
}
