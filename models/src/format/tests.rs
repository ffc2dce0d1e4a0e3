use std::time::Instant;

use super::bits::CodePlan;
use super::decl::load;
use super::*;

const GOLDENS: &[u8] = include_bytes!("../../formats/goldens/goldens.bin");

/// (name, raw blocks, values) of the next golden.
fn next_golden(data: &mut &'static [u8]) -> Option<(&'static str, &'static [u8], Vec<f32>)> {
    fn take(data: &mut &'static [u8], n: usize) -> &'static [u8] {
        data.split_off(..n).expect("goldens.bin is whole")
    }
    fn len(data: &mut &'static [u8]) -> usize {
        u32::from_le_bytes(*take(data, 4).first_chunk().unwrap()) as usize
    }
    let n = *data.first()? as usize;
    take(data, 1);
    let name = std::str::from_utf8(take(data, n)).unwrap();
    let n = len(data);
    let raw = take(data, n);
    let n = len(data) * 4;
    let values = take(data, n).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Some((name, raw, values))
}

#[test]
fn every_builtin_declaration_loads_and_is_fast() {
    for (file, text) in FormatSet::builtin_sources() {
        let f = load(text, file).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(format!("{}.yaml", f.name), *file);
        if let Some(q) = f.quant() {
            assert!(matches!(q.codes, CodePlan::Gather { .. }), "{file} falls back to the expression tree");
        }
    }
    assert_eq!(FormatSet::builtin().iter().count(), FormatSet::builtin_sources().len());
}

#[test]
fn decodes_like_the_gguf_package() {
    let mut data = GOLDENS;
    let mut seen = 0;
    while let Some((name, raw, want)) = next_golden(&mut data) {
        let f = FormatSet::builtin().get(name).unwrap();
        let mut got = vec![0f32; want.len()];
        f.dequantize(raw, &mut got).unwrap();
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert_eq!(g.to_bits(), w.to_bits(), "{name}: element {i}: {g:e}, not {w:e}");
        }
        seen += 1;
    }
    assert_eq!(seen, FormatSet::builtin_sources().len(), "every format has a golden");
}

#[test]
fn parts_recompose_and_stay_in_range() {
    let mut data = GOLDENS;
    while let Some((name, raw, want)) = next_golden(&mut data) {
        let f = FormatSet::builtin().get(name).unwrap();
        let Some(q) = f.quant() else { continue };
        let mut p = Decomposed::default();
        for (block, want) in raw.chunks_exact(f.bytes).zip(want.chunks_exact(f.block)) {
            f.decompose(block, &mut p);
            assert_eq!(p.codes.len(), f.block);
            assert_eq!(p.scale_sub.len(), if q.scale.has_sub { f.block / q.group } else { 0 });
            let (low, high) = q.scale.sub_range;
            assert!(p.scale_sub.iter().all(|s| (low..=high).contains(s)), "{name}");
            for (i, w) in want.iter().enumerate() {
                let value = match &q.decode {
                    CodeValue::Zero(z) => (i32::from(p.codes[i]) + z) as f32,
                    CodeValue::Table(t) => f32::from(t[usize::from(p.codes[i])]),
                };
                let scale = p.scale_sub.get(i / q.group).map_or(p.scale_super, |s| p.scale_super * *s as f32);
                let min = p.min_sub.get(i / q.group).map_or(p.min_super, |s| p.min_super * *s as f32);
                let x = if q.min.is_some() { scale * value + min } else { scale * value };
                assert_eq!(x.to_bits(), w.to_bits(), "{name} {i}");
            }
        }
    }
}

#[test]
fn sub_ranges_are_exact() {
    let range = |name: &str| {
        let q = FormatSet::builtin().get(name).unwrap().quant().unwrap();
        (q.scale.sub_range, q.min.as_ref().map(|m| m.sub_range))
    };
    assert_eq!(range("q4_k"), ((0, 63), Some((0, 63))));
    assert_eq!(range("q2_k"), ((0, 15), Some((0, 15))));
    assert_eq!(range("q3_k"), ((-32, 31), None));
    assert_eq!(range("q6_k"), ((-128, 127), None));
    assert_eq!(range("q4_1"), ((1, 1), Some((1, 1))));
}

#[test]
fn sizes() {
    let q4k = FormatSet::builtin().by_ggml(12).unwrap();
    assert_eq!((q4k.row_bytes(512), q4k.row_bytes(576), q4k.bits_per_weight()), (Some(288), None, 4.5));
    assert!(q4k.dequantize(&[0; 144], &mut [0.0; 255]).unwrap_err().to_string().contains("do not hold 255"));
}

/// Ternary digits are products, not picks of bits: the expression tree decodes them.
#[test]
fn what_is_no_bit_pick_uses_the_tree() {
    let text = "name: t5\nblock: 5\nbytes: 3\nfields:\n  b: {at: 0, type: u8}\n  d: {at: 1, type: bf16}\ncode:\n  bits: 2\n  \
        expr: \"(((b * (i == 0 ? 1 : i == 1 ? 3 : i == 2 ? 9 : i == 3 ? 27 : 81)) & 255) * 3) >> 8\"\n  zero: -1\n\
        scale: {group: 5, super: \"d * 0.5\", store: bf16}\n";
    let set = FormatSet::builtin().with_text("t5.yaml", text).unwrap();
    let f = set.get("t5").unwrap();
    let mut x = [0f32; 5];
    f.dequantize(&[0xFF, 0x00, 0x40], &mut x).unwrap(); // d = 2
    assert_eq!(x, [1.0; 5]);
    f.dequantize(&[0, 0x00, 0x40], &mut x).unwrap();
    assert_eq!(x, [-1.0; 5]);
}

/// (what to replace in q4_k.yaml, by what, place of the error, part of its message)
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("block: 256\n", "block: 256\ncolour: red\n", "q4_k.yaml:", "unknown field `colour`"),
    ("bits: 4", "bits: 9", "q4_k.yaml:15:9:", "1 to 8 bits"),
    ("bits: 4", "bits: four", "q4_k.yaml:15:9:", "invalid type"),
    ("block: 256", "block: 512", "q4_k.yaml:6:12:", "GGUF type 12 is Q4_K"),
    ("count: 128", "count: 129", "q4_k.yaml:13:11:", "does not fit"),
    ("qs[i / 64", "qt[i / 64", "q4_k.yaml:16:11:", "unknown name `qt`"),
    ("qs[i / 64 * 32", "qs[i / 32 * 32", "q4_k.yaml:16:9:", "`qs[128]` is outside"),
    ("& 15\"\n  zero", "& \"\n  zero", "q4_k.yaml:16:60:", "expected a number"),
    ("zero: 0 ", "table: [1, 2] ", "q4_k.yaml:17:10:", "has 2 entries; 4 bits need 16"),
    ("group: 32", "group: 24", "q4_k.yaml:19:10:", "must divide"),
    ("super: \"d\"", "super: \"d / 3\"", "q4_k.yaml:20:10:", "store: f16"),
    ("super: \"d\"", "super: \"scales\"", "q4_k.yaml:20:11:", "several values"),
    ("(scales[s + 4] & 15) |", "(scales[s + 4] << 4) |", "q4_k.yaml:21:8:", "mask it"),
    ("name: q4_k", "name: Q4 K", "q4_k.yaml:5:7:", "a-z"),
    ("code:  ", "float: f32\ncode:  ", "q4_k.yaml:1:1:", "either `float`, or `code`"),
];

#[test]
fn mistakes_name_the_place_and_the_remedy() {
    let (_, text) = FormatSet::builtin_sources().iter().find(|(f, _)| *f == "q4_k.yaml").unwrap();
    let mut wrong = String::new();
    for (from, to, place, part) in WRONG {
        assert!(text.contains(from), "{from}");
        let error = load(&text.replacen(from, to, 1), "q4_k.yaml").unwrap_err().to_string();
        if !(error.starts_with(place) && error.contains(part)) {
            wrong.push_str(&format!("{to:?} gives {error:?}, not {place} … {part}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn hostile_expressions_are_refused() {
    let try_expr = |e: &str| super::parse::parse(e, &[], Some("i")).map_err(|e| e.message);
    assert!(try_expr(&"(".repeat(1000)).unwrap_err().contains("nested"));
    assert!(try_expr(&"1?".repeat(400)).unwrap_err().contains("nested"));
    assert!(try_expr(&"1+".repeat(500)).unwrap_err().contains("operations"));
    assert!(try_expr(&"1".repeat(2000)).unwrap_err().contains("characters"));
    assert!(try_expr("ä").unwrap_err().contains("ASCII"));
    for (e, want) in [
        ("1 / (i - i)", 0),
        ("1 << 64", 0),
        ("-9223372036854775807 - 2", i64::MAX),
        ("7 & 3 == 3", 1),
        ("2 + 3 * 4 % 5", 4),
    ] {
        assert_eq!(try_expr(e).unwrap().eval(&[], 1, &[]).int(), want, "{e}");
    }
}

/// Cut or altered declarations give an error or a format that decodes; nothing panics.
#[test]
fn mutations_never_panic() {
    let mut state = 7u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut good = 0;
    for round in 0..4000 {
        let (file, text) = FormatSet::builtin_sources()[round % FormatSet::builtin_sources().len()];
        let mut text = text.as_bytes().to_vec();
        for _ in 0..1 + random(3) {
            let at = random(text.len());
            let letters = b"0123456789+-*/%<>&|^()[]?:is \n\"{},~";
            text[at] = letters[random(letters.len())];
        }
        if round % 7 == 0 {
            text.truncate(random(text.len()));
        }
        let Ok(f) = load(&String::from_utf8_lossy(&text), file) else { continue };
        good += 1;
        let raw: Vec<u8> = (0..f.bytes).map(|_| random(256) as u8).collect();
        let mut x = vec![0.0; f.block];
        f.dequantize(&raw, &mut x).unwrap();
        f.decompose(&raw[..f.bytes / 2], &mut Decomposed::default());
    }
    assert!(good > 100, "{good}");
}

#[test]
fn a_folder_adds_and_overrides() {
    let dir = std::env::temp_dir().join(format!("tilewright-formats-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let text = FormatSet::builtin_sources().iter().find(|(f, _)| *f == "q4_0.yaml").unwrap().1;
    std::fs::write(dir.join("q4_0.yaml"), text.replace("zero: -8", "zero: -7")).unwrap();
    std::fs::write(dir.join("mine.yaml"), text.replace("name: q4_0\nggml_type: 2", "name: mine")).unwrap();
    let set = FormatSet::builtin().with_folder(&dir).unwrap();
    assert!(set.get("mine").is_some());
    assert!(matches!(set.by_ggml(2).unwrap().quant().unwrap().decode, CodeValue::Zero(-7)));
    std::fs::write(dir.join("zz.yaml"), text).unwrap();
    assert!(FormatSet::builtin().with_folder(&dir).unwrap_err().to_string().contains("declared in"));
    std::fs::remove_dir_all(&dir).unwrap();
}

/// `cargo test --release -p tilewright-models speed -- --ignored --nocapture` prints elements per second.
#[test]
#[ignore = "prints speeds"]
fn speed() {
    for f in FormatSet::builtin().iter().filter(|f| f.quant().is_some()) {
        let blocks = (1 << 24) / f.block;
        let raw: Vec<u8> = (0..blocks * f.bytes).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
        let mut p = Decomposed::default();
        let mut sum = 0u64;
        let start = Instant::now();
        for b in raw.chunks_exact(f.bytes) {
            f.decompose(b, &mut p);
            sum += u64::from(p.codes[7]);
        }
        let decompose = start.elapsed();
        let mut x = vec![0f32; blocks * f.block];
        let start = Instant::now();
        f.dequantize(&raw, &mut x).unwrap();
        let rate = |t: std::time::Duration| (blocks * f.block) as f64 / t.as_secs_f64() / 1e6;
        println!(
            "{:8} decompose {:6.0} M/s  dequantize {:6.0} M/s  ({sum})",
            f.name,
            rate(decompose),
            rate(start.elapsed())
        );
    }
}
