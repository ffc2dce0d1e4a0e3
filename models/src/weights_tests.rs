use std::time::Instant;

use super::*;
use crate::gguf::{GgmlType, GgufWriter};

#[test]
fn shapes_are_row_major_and_formats_named() {
    let ty = |id| GgmlType::from_id(id).unwrap();
    let bytes =
        GgufWriter::new().tensor("q", &[32, 3, 2], ty(8), &[0; 34 * 6]).tensor("x", &[256], ty(17), &[0; 74]).finish();
    let f = WeightFile::from_gguf(GgufFile::from_bytes("m.gguf", bytes).unwrap(), FormatSet::builtin());
    let q = f.tensor("q").unwrap();
    assert_eq!((q.shape.as_slice(), q.format.name()), (&[2u64, 3, 32][..], "q8_0"));
    assert_eq!(f.tensor("x").unwrap().format.to_string(), "IQ2_XS (unsupported)");
    assert!(f.tensor("x").unwrap().format.block().is_none());
    assert_eq!(f.data("q").unwrap().len(), 204);
    assert_eq!(f.tensors().count(), 2);
    assert!(f.gguf().is_some() && f.folder().is_none());
}

#[test]
fn what_is_no_model_is_said_so() {
    assert!(matches!(WeightFile::open("/nonexistent/x.gguf"), Err(Error::Io { .. })));
    let path = std::env::temp_dir().join(format!("tilewright-weights-{}.txt", std::process::id()));
    std::fs::write(&path, "hello").unwrap();
    assert!(matches!(WeightFile::open(&path), Err(Error::UnknownModel { .. })));
    std::fs::remove_file(&path).unwrap();
}

/// Decodes a whole model: `TILEWRIGHT_MODEL=m.gguf cargo test --release -p tilewright-models whole_model -- --ignored
/// --nocapture` prints, for each tensor, the sum of the f32 bit patterns, to be held against another decoder.
#[test]
#[ignore = "needs TILEWRIGHT_MODEL"]
fn whole_model() {
    let start = Instant::now();
    let f = WeightFile::open(std::env::var("TILEWRIGHT_MODEL").unwrap()).unwrap();
    eprintln!("opened in {:?}", start.elapsed());
    for t in f.tensors() {
        let n = usize::try_from(t.shape.iter().product::<u64>()).unwrap();
        let mut x = vec![0f32; n];
        t.format.block().unwrap().dequantize(f.data(&t.name).unwrap(), &mut x).unwrap();
        println!("{} {} {}", t.name, t.format, x.iter().map(|x| u64::from(x.to_bits())).sum::<u64>());
    }
    eprintln!("decoded in {:?}", start.elapsed());
}
