use super::*;

fn f32_type() -> GgmlType {
    GgmlType::from_id(0).unwrap()
}

fn q8() -> GgmlType {
    GgmlType::from_id(8).unwrap()
}

/// A valid file with two tensors.
fn sample() -> GgufWriter {
    GgufWriter::new()
        .key("general.architecture", "llama")
        .key("llama.block_count", 2u32)
        .tensor("a", &[2, 3], f32_type(), &[1; 24])
        .tensor("b", &[32, 2], q8(), &[2; 68])
}

fn refuse(bytes: Vec<u8>) -> GgufProblem {
    let error = GgufFile::from_bytes("bad.gguf", bytes).expect_err("must be refused");
    assert!(error.to_string().starts_with("bad.gguf: "), "{error}");
    error.problem
}

/// A header by hand, for what the writer cannot say.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, keys: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }

    fn u32(mut self, v: u32) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn bytes(mut self, b: &[u8]) -> Raw {
        self.0.extend(b);
        self
    }

    fn str(self, s: &str) -> Raw {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }

    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Raw {
        let r = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(r, |r, d| r.u64(*d)).u32(ty).u64(offset)
    }

    fn pad(self, n: usize) -> Vec<u8> {
        self.bytes(&vec![0; n]).0
    }
}

#[test]
fn what_is_written_is_read() {
    let arrays =
        MetaArray::Arrays(vec![MetaArray::U8(vec![1, 2]), MetaArray::Arrays(vec![]), MetaArray::F64(vec![0.5])]);
    let strings: Strings = ["", "ä", "token"].into_iter().collect();
    let values = vec![
        MetaValue::U8(1),
        MetaValue::I8(-1),
        MetaValue::U16(2),
        MetaValue::I16(-2),
        MetaValue::U32(3),
        MetaValue::I32(-3),
        MetaValue::F32(0.25),
        MetaValue::Bool(true),
        MetaValue::from("x"),
        MetaValue::U64(u64::MAX),
        MetaValue::I64(i64::MIN),
        MetaValue::F64(1e300),
        MetaValue::Array(arrays),
        MetaValue::Array(MetaArray::Strings(strings)),
        MetaValue::Array(MetaArray::I8(vec![-1])),
        MetaValue::Array(MetaArray::U16(vec![9])),
        MetaValue::Array(MetaArray::I16(vec![-9])),
        MetaValue::Array(MetaArray::U32(vec![9, 8])),
        MetaValue::Array(MetaArray::I32(vec![-9])),
        MetaValue::Array(MetaArray::U64(vec![9])),
        MetaValue::Array(MetaArray::I64(vec![-9])),
        MetaValue::Array(MetaArray::F32(vec![1.5])),
        MetaValue::Array(MetaArray::Bool(vec![true, false])),
    ];
    let mut w = sample();
    for (i, v) in values.iter().enumerate() {
        w = w.key(&format!("k{i}"), v.clone());
    }
    let f = GgufFile::from_bytes("x", w.finish()).unwrap();
    for (i, v) in values.iter().enumerate() {
        assert_eq!(f.get(&format!("k{i}")), Some(v));
    }
    assert_eq!(f.metadata().keys().next().map(String::as_str), Some("general.architecture"));
    assert_eq!((f.version(), f.alignment()), (3, 32));
    assert_eq!((f.data("a"), f.data("b").map(<[u8]>::len)), (Some(&[1u8; 24][..]), Some(68)));
    assert_eq!(f.tensor("b").unwrap().dims, [32, 2]);
    assert!(f.data("c").is_none());
    let mut v2 = w.finish();
    v2[4] = 2;
    assert_eq!(GgufFile::from_bytes("x", v2).unwrap().version(), 2);
}

#[test]
fn conversions_of_values() {
    assert_eq!(MetaValue::I8(-1).as_u64(), None);
    assert_eq!(MetaValue::U64(u64::MAX).as_i64(), None);
    assert_eq!(MetaValue::U32(7).as_f64(), Some(7.0));
    assert_eq!(MetaArray::U8(vec![1, 2]).to_i32s(), Some(vec![1, 2]));
    assert_eq!(MetaArray::U32(vec![u32::MAX]).to_i32s(), None);
    let s: Strings = ["a", "bc"].into_iter().collect();
    assert_eq!((s.get(1), s.get(2), s.iter().count()), (Some("bc"), None, 2));
}

#[test]
fn bad_beginnings() {
    assert_eq!(refuse(vec![]), GgufProblem::Magic { magic: vec![] });
    assert_eq!(refuse(b"GGML....".to_vec()), GgufProblem::Magic { magic: b"GGML".to_vec() });
    assert!(matches!(refuse(b"GGUF".to_vec()), GgufProblem::Truncated { offset: 4, .. }));
    assert_eq!(refuse(Raw(b"GGUF".to_vec()).u32(1).pad(64)), GgufProblem::Version { version: 1 });
    assert_eq!(refuse(Raw(b"GGUF".to_vec()).u32(4).pad(64)), GgufProblem::Version { version: 4 });
    assert_eq!(refuse(Raw(b"GGUF".to_vec()).bytes(&3u32.to_be_bytes()).pad(64)), GgufProblem::BigEndian);
}

#[test]
fn counts_that_the_file_cannot_hold() {
    for n in [5, 1 << 31, 1 << 61, u64::MAX] {
        assert!(matches!(refuse(Raw::new(n, 0).pad(100)), GgufProblem::Count { what: "tensors", .. }), "{n}");
        assert!(matches!(refuse(Raw::new(0, n).pad(20)), GgufProblem::Count { what: "metadata keys", .. }), "{n}");
    }
    let strings = |n: u64| Raw::new(0, 1).str("k").u32(9).u32(8).u64(n).pad(20);
    let nested = |n: u64| Raw::new(0, 1).str("k").u32(9).u32(9).u64(n).pad(20);
    let numbers = |n: u64| Raw::new(0, 1).str("k").u32(9).u32(10).u64(n).pad(20);
    for n in [3, 1 << 61, u64::MAX] {
        assert!(matches!(refuse(strings(n)), GgufProblem::Count { .. }), "{n}");
        assert!(matches!(refuse(nested(n)), GgufProblem::Count { .. }), "{n}");
        assert!(matches!(refuse(numbers(n)), GgufProblem::Truncated { left: 20, .. }), "{n}");
    }
}

#[test]
fn bad_strings() {
    for n in [21, u64::MAX, u64::MAX - 7] {
        assert!(matches!(refuse(Raw::new(0, 1).u64(n).pad(20)), GgufProblem::Truncated { .. }), "{n}");
        assert!(matches!(refuse(Raw::new(0, 1).str("k").u32(8).u64(n).pad(20)), GgufProblem::Truncated { .. }), "{n}");
    }
    assert!(matches!(refuse(Raw::new(0, 1).u64(0).pad(20)), GgufProblem::NameLength { len: 0, .. }));
    assert!(matches!(refuse(Raw::new(0, 1).u64(70_000).pad(80_000)), GgufProblem::NameLength { len: 70_000, .. }));
    assert!(matches!(refuse(Raw::new(0, 1).u64(1).bytes(&[0xFF]).pad(20)), GgufProblem::Utf8 { offset: 32, .. }));
    assert!(matches!(refuse(Raw::new(0, 1).str("k").u32(8).u64(1).bytes(&[0xFF]).pad(9)), GgufProblem::Utf8 { .. }));
}

#[test]
fn bad_metadata() {
    for ty in [13, u32::MAX] {
        let want = GgufProblem::ValueType { key: "k".into(), offset: 33, ty };
        assert_eq!(refuse(Raw::new(0, 1).str("k").u32(ty).pad(20)), want);
        assert!(matches!(refuse(Raw::new(0, 1).str("k").u32(9).u32(ty).u64(1).pad(20)), GgufProblem::ValueType { .. }));
    }
    assert!(matches!(refuse(Raw::new(0, 1).str("k").u32(7).bytes(&[2]).pad(0)), GgufProblem::Bool { value: 2, .. }));
    let deep = (0..100).fold(Raw::new(0, 1).str("k").u32(9), |r, _| r.u32(9).u64(1));
    assert!(matches!(refuse(deep.pad(64)), GgufProblem::Depth { .. }));
    let twice = GgufWriter::new().key("k", 1u32).key("k", 2u32).finish();
    assert!(matches!(refuse(twice), GgufProblem::DuplicateKey { .. }));
    for v in [0u32, 3, 1 << 17, u32::MAX] {
        let w = GgufWriter::new().key("general.alignment", v).finish();
        assert_eq!(refuse(w), GgufProblem::Alignment { value: v.to_string() });
    }
    assert!(matches!(refuse(GgufWriter::new().key("general.alignment", "32").finish()), GgufProblem::Alignment { .. }));
}

/// 12 bytes of file a piece must not cost more than 48 of memory.
#[test]
fn memory_is_bounded_by_the_file() {
    let n = 200_000u64;
    let many = (0..n).fold(Raw::new(0, 1).str("k").u32(9).u32(9).u64(n), |r, _| r.u32(0).u64(0));
    match GgufFile::from_bytes("x", many.pad(0)) {
        Ok(f) => assert_eq!(f.get("k").unwrap().as_array().unwrap().len() as u64, n),
        Err(e) => assert!(matches!(e.problem, GgufProblem::Memory { .. }), "{e}"),
    }
    let keys = (0..65_536u32).fold(Raw::new(0, 65_536), |r, i| r.str(&format!("{i:x}")).u32(0).bytes(&[0]));
    assert!(matches!(refuse(keys.pad(0)), GgufProblem::Memory { .. }));
}

#[test]
fn bad_tensor_shapes() {
    let with = |dims: &[u64], ty| refuse(Raw::new(1, 0).tensor("t", dims, ty, 0).pad(256));
    assert_eq!(with(&[], 0), GgufProblem::Dimensions { tensor: "t".into(), offset: 24, n: 0 });
    assert!(matches!(with(&[1; 5], 0), GgufProblem::Dimensions { n: 5, .. }));
    assert_eq!(with(&[4, 0], 0), GgufProblem::EmptyDimension { tensor: "t".into(), axis: 1 });
    assert!(matches!(with(&[1 << 32, 1 << 32], 0), GgufProblem::Overflow { .. }));
    assert!(matches!(with(&[1 << 62, 2], 0), GgufProblem::Overflow { .. })); // elements fit, bytes do not
    assert!(matches!(with(&[u64::MAX], 0), GgufProblem::Overflow { .. }));
    assert!(matches!(with(&[1 << 61, 1 << 61, 1 << 61, 4], 0), GgufProblem::Overflow { .. })); // wraps to 0
    assert_eq!(with(&[33], 8), GgufProblem::Row { tensor: "t".into(), row: 33, ty: "Q8_0", block: 32 });
    for ty in [4, 5, 31, 36, 42, u32::MAX] {
        assert_eq!(with(&[32], ty), GgufProblem::TensorType { tensor: "t".into(), ty });
    }
}

#[test]
fn bad_tensor_places() {
    let one = |offset, dims: &[u64]| refuse(Raw::new(1, 0).tensor("t", dims, 0, offset).pad(128));
    assert!(matches!(one(1, &[1]), GgufProblem::Misaligned { alignment: 32, .. }));
    for offset in [128, 1 << 40, u64::MAX - 31] {
        assert!(matches!(one(offset, &[1]), GgufProblem::OutOfFile { .. }), "{offset}");
    }
    assert!(matches!(one(0, &[1 << 20]), GgufProblem::OutOfFile { .. }));
    let two = |b, dims: &[u64]| Raw::new(2, 0).tensor("a", &[16], 0, 32).tensor("b", dims, 0, b).pad(256);
    assert_eq!(refuse(two(64, &[1])), GgufProblem::Overlap { a: "a".into(), b: "b".into() });
    assert!(matches!(refuse(two(32, &[1])), GgufProblem::Overlap { .. }));
    assert!(matches!(refuse(two(0, &[9])), GgufProblem::Overlap { .. }));
    assert!(GgufFile::from_bytes("x", two(96, &[1])).is_ok());
    let same = sample().tensor("a", &[1], f32_type(), &[0; 4]).finish();
    assert_eq!(refuse(same), GgufProblem::DuplicateTensor { tensor: "a".into() });
}

#[test]
fn every_truncation_is_refused() {
    let whole = sample().key("s", MetaValue::Array(MetaArray::Strings(["a", "b"].into_iter().collect()))).finish();
    for n in 0..whole.len() {
        refuse(whole[..n].to_vec());
    }
}

#[test]
fn mutations_never_panic() {
    let whole = sample()
        .key("s", MetaValue::Array(MetaArray::Strings(["a", "b"].into_iter().collect())))
        .key("n", MetaValue::Array(MetaArray::Arrays(vec![MetaArray::F32(vec![1.0])])))
        .finish();
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..50_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() % bytes.len();
            match random() % 3 {
                0 => bytes[at] = random() as u8,
                1 => bytes[at] ^= 1 << (random() % 8),
                _ => bytes[at..].iter_mut().take(8).for_each(|b| *b = 0xFF),
            }
        }
        if let Ok(f) = GgufFile::from_bytes("x", bytes) {
            assert!(f.tensors().all(|t| f.data(&t.name).is_some_and(|d| d.len() as u64 == t.bytes)));
        }
    }
}

fn part(no: u16, count: u16, tensor: &str) -> Vec<u8> {
    GgufWriter::new()
        .key("split.no", MetaValue::U16(no))
        .key("split.count", MetaValue::U16(count))
        .key("split.tensors.count", MetaValue::I32(2))
        .tensor(tensor, &[1], f32_type(), &[no as u8; 4])
        .finish()
}

#[test]
fn split_files() {
    let dir = std::env::temp_dir().join(format!("tilewright-split-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = |no: u32| dir.join(format!("m-{no:05}-of-00002.gguf"));
    let error = |no| GgufFile::open(path(no)).unwrap_err().to_string();
    std::fs::write(path(1), part(0, 2, "a")).unwrap();
    assert!(error(1).contains("part 2 of 2") && error(1).contains("is missing"), "{}", error(1));
    std::fs::write(path(2), part(1, 2, "b")).unwrap();
    let f = GgufFile::open(path(2)).unwrap();
    assert_eq!((f.data("a"), f.data("b")), (Some(&[0; 4][..]), Some(&[1; 4][..])));
    std::fs::write(path(2), part(1, 2, "a")).unwrap();
    assert!(error(1).contains("occurs twice"));
    std::fs::write(path(2), part(0, 2, "b")).unwrap();
    assert!(error(1).contains("says it is part 1 of 2"), "{}", error(1));
    let renamed = dir.join("alone.gguf");
    std::fs::write(&renamed, part(0, 2, "a")).unwrap();
    assert!(GgufFile::open(&renamed).unwrap_err().to_string().contains("original names"));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_type_table_agrees_with_the_declared_formats() {
    for f in crate::format::FormatSet::builtin().iter() {
        let ty = GgmlType::from_id(f.ggml_type.unwrap()).unwrap();
        assert_eq!(ty.name().to_lowercase(), f.name);
        assert_eq!((ty.block(), ty.bytes()), (f.block as u64, f.bytes as u64));
    }
}
