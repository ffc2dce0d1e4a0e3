//! File tests of kernel IR.
//!
//! - `kernel-roundtrip`: prints what was parsed; also print → parse must give the same kernel
//! - `kernel-parse`: only the parser
//! - `kernel-verify`: the verifier's errors
//! - `kernel-run`: each `// run:` line runs the interpreter; faults are errors, the output is the buffers
//!
//! ```text
//! // run: chunk=1 n=8 precision=f64 x=f32[1, 2, 3*2] y=f32zero[4] z=@y+8 => y=f32[2, 4, 6, 6] ~1e-6
//! ```
//!
//! A pointer parameter is given a buffer of its own or `@` a place in an earlier one. In lists `v*n` repeats,
//! `a..b` counts, and a float in hex is its bits. Floats compare by bits (any NaN with any NaN), with `~e` up to
//! `e * max(1, |expected|)`.

use half::{bf16, f16};
use tilewright_ir::kernel::interp::{self, Pointer, Precision};
use tilewright_ir::kernel::{self, Kernel, Scalar, Type};

use super::{Case, Output};

/// Mode `kernel-roundtrip`.
pub fn roundtrip(case: &Case) -> Result<Output, String> {
    Ok(match kernel::parse(&case.source) {
        Ok(kernel) => Output { text: reprint(&kernel)?, errors: vec![] },
        Err(e) => Output { text: String::new(), errors: vec![e.to_string()] },
    })
}

/// Mode `kernel-parse`.
pub fn parse(case: &Case) -> Result<Output, String> {
    let errors = kernel::parse(&case.source).err().map(|e| e.to_string());
    Ok(Output { text: String::new(), errors: errors.into_iter().collect() })
}

/// Mode `kernel-verify`.
pub fn verify(case: &Case) -> Result<Output, String> {
    let kernel = kernel::parse(&case.source).map_err(|e| e.to_string())?;
    let errors = kernel::verify(&kernel).err().map_or(vec![], |e| e.0.iter().map(|e| e.to_string()).collect());
    let text = if errors.is_empty() { reprint(&kernel)? } else { String::new() };
    Ok(Output { text, errors })
}

/// Mode `kernel-run`.
pub fn run(case: &Case) -> Result<Output, String> {
    let kernel = kernel::parse(&case.source).map_err(|e| e.to_string())?;
    reprint(&kernel)?;
    let mut output = Output::default();
    for (i, line) in case.values("run").enumerate() {
        let at = |e: String| format!("run {}: {e}", i + 1);
        match run_line(&kernel, line, &mut output.text).map_err(at)? {
            Ok(()) => {}
            Err(fault) => output.errors.push(at(fault)),
        }
    }
    Ok(output)
}

/// The printed kernel; its parse must be the kernel again, and its print the same text.
fn reprint(kernel: &Kernel) -> Result<String, String> {
    let text = kernel.to_string();
    let again = kernel::parse(&text).map_err(|e| format!("the printed kernel does not parse: {e}\n{text}"))?;
    let same = again == *kernel || text.contains("nan");
    if again.to_string() != text || !same {
        return Err(format!("print → parse → print is not the identity:\n{text}\n{again}"));
    }
    Ok(text)
}

/// A failed comparison is the outer error, a fault of the kernel the inner one.
fn run_line(kernel: &Kernel, line: &str, log: &mut String) -> Result<Result<(), String>, String> {
    let (setup, wanted) = line.split_once("=>").unwrap_or((line, ""));
    let mut chunk = 0;
    let mut precision = Precision::F32;
    let mut buffers: Vec<(String, Scalar, Vec<u8>)> = vec![];
    let mut given: Vec<(String, Argument)> = vec![];
    for (name, value) in assignments(setup)? {
        let argument = match name.as_str() {
            "chunk" => {
                chunk = integer(&value)?;
                continue;
            }
            "precision" => {
                let known = [("f32", Precision::F32), ("f64", Precision::F64)];
                precision = known.iter().find(|k| k.0 == value).ok_or("precision is f32 or f64")?.1;
                continue;
            }
            _ if value.starts_with('@') => {
                let (of, offset) = value[1..].split_once('+').unwrap_or((&value[1..], "0"));
                let buffer = buffers.iter().position(|b| b.0 == of).ok_or(format!("no buffer `{of}`"))?;
                Argument::Pointer(Pointer { buffer, offset: integer(offset)? as usize })
            }
            _ if value.contains('[') => {
                let (scalar, bytes) = array(&value)?;
                buffers.push((name.clone(), scalar, bytes));
                Argument::Pointer(Pointer { buffer: buffers.len() - 1, offset: 0 })
            }
            _ => Argument::Int(integer(&value)?),
        };
        given.push((name, argument));
    }
    let (mut pointers, mut scalars) = (vec![], vec![]);
    for p in &kernel.params {
        match given.iter().find(|g| g.0 == p.name).map(|g| &g.1) {
            Some(Argument::Pointer(at)) if kernel.ty(p.value) == Type::PTR => pointers.push(*at),
            Some(Argument::Int(v)) if kernel.ty(p.value) == Type::I64 => scalars.push(*v),
            _ => return Err(format!("no fitting value for %{}", p.name)),
        }
    }
    let mut memory: Vec<&mut [u8]> = buffers.iter_mut().map(|b| b.2.as_mut_slice()).collect();
    if let Err(e) = interp::run_at(kernel, precision, &mut memory, &pointers, &scalars, chunk) {
        return Ok(Err(e.to_string()));
    }
    for (name, scalar, bytes) in &buffers {
        log.push_str(&format!("{name} = {}\n", show(*scalar, bytes)));
    }
    let (wanted, tolerance) = match wanted.split_once('~') {
        Some((wanted, e)) => (wanted, e.trim().parse::<f64>().map_err(|e| e.to_string())?),
        None => (wanted, 0.0),
    };
    for (name, value) in assignments(wanted)? {
        let (_, _, bytes) = buffers.iter().find(|b| b.0 == name).ok_or(format!("no buffer `{name}`"))?;
        let (scalar, wanted) = array(&value)?;
        if !same(scalar, bytes, &wanted, tolerance) {
            return Err(format!("{name} is\n  {}, not\n  {}", show(scalar, bytes), show(scalar, &wanted)));
        }
    }
    Ok(Ok(()))
}

enum Argument {
    Pointer(Pointer),
    Int(i64),
}

/// `name=value` separated by blanks; blanks in brackets do not count.
fn assignments(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut words = vec![String::new()];
    let mut inside = false;
    for c in text.chars() {
        inside = c == '[' || inside && c != ']';
        match c {
            _ if !c.is_whitespace() => words.last_mut().expect("never empty").push(c),
            _ if !inside => words.push(String::new()),
            _ => {}
        }
    }
    let pair = |w: String| w.split_once('=').map(|(a, b)| (a.into(), b.into())).ok_or(format!("`{w}` lacks `=`"));
    words.into_iter().filter(|w| !w.is_empty()).map(pair).collect()
}

fn integer(text: &str) -> Result<i64, String> {
    let (minus, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let v = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(|v| v as i64),
        None => digits.parse::<i128>().map(|v| v as i64),
    };
    let v = v.map_err(|_| format!("`{text}` is not an integer"))?;
    Ok(if minus { v.wrapping_neg() } else { v })
}

/// `f32[1, 2]` or `f32zero[2]` as bytes.
fn array(text: &str) -> Result<(Scalar, Vec<u8>), String> {
    let bad = || format!("`{text}` is not TYPE[…]");
    let (name, rest) = text.split_once('[').ok_or_else(bad)?;
    let list = rest.strip_suffix(']').ok_or_else(bad)?;
    let (name, zero) = name.strip_suffix("zero").map_or((name, false), |n| (n, true));
    let scalar = Type::from_name(name).ok_or_else(bad)?.scalar;
    let size = scalar.bytes() as usize;
    if zero {
        return Ok((scalar, vec![0; size * integer(list)? as usize]));
    }
    let mut out = vec![];
    let mut push = |bits: u64, n: usize| (0..n).for_each(|_| out.extend_from_slice(&bits.to_le_bytes()[..size]));
    for item in list.split(',').filter(|i| !i.is_empty()) {
        if let Some((a, b)) = item.split_once("..") {
            for v in integer(a)?..integer(b)? {
                push(bits(scalar, &v.to_string())?, 1);
            }
        } else {
            let (v, n) = item.split_once('*').unwrap_or((item, "1"));
            push(bits(scalar, v)?, integer(n)? as usize);
        }
    }
    Ok((scalar, out))
}

fn bits(scalar: Scalar, text: &str) -> Result<u64, String> {
    if !scalar.is_float() || text.starts_with("0x") {
        return Ok(integer(text)? as u64);
    }
    let v: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    Ok(match scalar {
        Scalar::F16 => u64::from(f16::from_f64(v).to_bits()),
        Scalar::BF16 => u64::from(bf16::from_f64(v).to_bits()),
        // Read as f32 at once: through f64 it would be rounded twice.
        Scalar::F32 => u64::from(text.parse::<f32>().unwrap_or(f32::NAN).to_bits()),
        _ => v.to_bits(),
    })
}

fn floats(scalar: Scalar, bytes: &[u8]) -> Vec<f64> {
    let value = |bits: u64| match scalar {
        Scalar::F16 => f16::from_bits(bits as u16).to_f64(),
        Scalar::BF16 => bf16::from_bits(bits as u16).to_f64(),
        Scalar::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    };
    words(scalar, bytes).map(value).collect()
}

fn words(scalar: Scalar, bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(scalar.bytes() as usize).map(|c| {
        let mut wide = [0; 8];
        wide[..c.len()].copy_from_slice(c);
        u64::from_le_bytes(wide)
    })
}

fn same(scalar: Scalar, got: &[u8], wanted: &[u8], tolerance: f64) -> bool {
    if got.len() != wanted.len() || !scalar.is_float() {
        return got == wanted;
    }
    floats(scalar, got).into_iter().zip(floats(scalar, wanted)).all(|(a, b)| {
        let near = (a - b).abs() <= tolerance * b.abs().max(1.0) && tolerance > 0.0;
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() || near
    })
}

fn show(scalar: Scalar, bytes: &[u8]) -> String {
    let items: Vec<String> = if scalar.is_float() {
        // An f32 is shown as itself: its shortest decimal is shorter than that of the same f64.
        let item = |v: f64| if scalar == Scalar::F64 { format!("{v:?}") } else { format!("{:?}", v as f32) };
        floats(scalar, bytes).into_iter().map(item).collect()
    } else {
        let up = 64 - 8 * scalar.bytes();
        words(scalar, bytes).map(|v| ((v << up) as i64 >> up).to_string()).collect()
    };
    format!("{}[{}]", scalar.name(), items.join(", "))
}
