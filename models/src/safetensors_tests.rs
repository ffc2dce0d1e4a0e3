use std::fs;

use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::format::FormatSet;
use crate::weights::WeightFile;

/// A folder that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("tilewright-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.json"), r#"{"architectures": ["LlamaForCausalLM"]}"#).unwrap();
        Dir(dir)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Dir {
        fs::write(self.0.join(name), bytes).unwrap();
        self
    }

    fn error(&self) -> String {
        HfFolder::open(&self.0).unwrap_err().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shard(name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    serialize([(name, view)], None).unwrap()
}

fn index(entries: &[(&str, &str)]) -> String {
    let map: serde_json::Map<String, Value> = entries.iter().map(|(t, s)| (t.to_string(), Value::from(*s))).collect();
    serde_json::json!({ "weight_map": map }).to_string()
}

#[test]
fn one_file() {
    let dir = Dir::new("one");
    dir.put(SINGLE, shard("w", Dtype::BF16, &[2, 3], &[7; 12]));
    let f = WeightFile::open(&dir.0).unwrap();
    let t = f.tensor("w").unwrap();
    assert_eq!((t.shape.as_slice(), t.format.name()), (&[2u64, 3][..], "bf16"));
    assert_eq!(f.data("w").unwrap(), [7; 12]);
    assert!(f.data("x").unwrap_err().to_string().contains("no tensor named `x`"));
    assert_eq!(f.folder().unwrap().config()["architectures"][0], "LlamaForCausalLM");
    dir.put(SINGLE, shard("w", Dtype::I64, &[1], &[0; 8]));
    let f = WeightFile::open_with(&dir.0, FormatSet::builtin()).unwrap();
    assert_eq!(f.tensor("w").unwrap().format.to_string(), "I64 (unsupported)");
}

#[test]
fn shards() {
    let dir = Dir::new("shards");
    dir.put("a.safetensors", shard("a", Dtype::F32, &[1], &[1; 4]))
        .put("b.safetensors", shard("b", Dtype::F16, &[1], &[2; 2]));
    dir.put(INDEX, index(&[("a", "a.safetensors"), ("b", "b.safetensors")]));
    let f = HfFolder::open(&dir.0).unwrap();
    assert_eq!((f.data("a"), f.data("b")), (Some(&[1; 4][..]), Some(&[2; 2][..])));
    dir.put(INDEX, index(&[("a", "a.safetensors"), ("c", "b.safetensors")]));
    assert!(dir.error().contains("places tensor `c` in b.safetensors"));
    dir.put(INDEX, index(&[("a", "a.safetensors"), ("b", "gone.safetensors")]));
    assert!(dir.error().contains("does not exist"));
    dir.put("b.safetensors", shard("a", Dtype::F32, &[1], &[1; 4]));
    dir.put(INDEX, index(&[("a", "a.safetensors"), ("b", "b.safetensors")]));
    assert!(dir.error().contains("in two shards"));
}

#[test]
fn shard_names_stay_inside() {
    let dir = Dir::new("names");
    for name in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "a\\b.safetensors",
        "./a.safetensors",
        "x.bin",
    ] {
        dir.put(INDEX, index(&[("w", name)]));
        assert!(dir.error().contains("only plain file names"), "{name}: {}", dir.error());
    }
}

#[cfg(unix)]
#[test]
fn links_stay_inside() {
    let (dir, other) = (Dir::new("links"), Dir::new("links-other"));
    other.put("w.safetensors", shard("w", Dtype::F32, &[1], &[0; 4]));
    std::os::unix::fs::symlink(other.0.join("w.safetensors"), dir.0.join(SINGLE)).unwrap();
    assert!(dir.error().contains("leads out of the model's folder"));
    fs::remove_file(dir.0.join(SINGLE)).unwrap();
    fs::create_dir(dir.0.join(SINGLE)).unwrap();
    assert!(dir.error().contains("not a regular file"));

    // The Hugging Face cache links to its own blobs.
    let root = Dir::new("links-cache");
    let snapshot = root.0.join("snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(root.0.join("blobs")).unwrap();
    root.put("blobs/1", "{}").put("blobs/2", shard("w", Dtype::F32, &[1], &[0; 4]));
    std::os::unix::fs::symlink("../../blobs/1", snapshot.join("config.json")).unwrap();
    std::os::unix::fs::symlink("../../blobs/2", snapshot.join(SINGLE)).unwrap();
    assert!(HfFolder::open(&snapshot).unwrap().data("w").is_some());
}

#[test]
fn damage_and_absence() {
    let dir = Dir::new("damage");
    assert!(dir.error().contains("no model.safetensors here"));
    dir.put("pytorch_model.bin", "x");
    assert!(dir.error().contains("pickled (pytorch_model.bin)") && dir.error().contains("safe_serialization"));
    let whole = shard("w", Dtype::F32, &[2], &[0; 8]);
    for n in 0..whole.len() {
        dir.put(SINGLE, &whole[..n]);
        assert!(dir.error().contains("download the file again"), "{n}");
    }
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    dir.put(SINGLE, huge);
    assert!(dir.error().contains("download the file again"));
    dir.put(SINGLE, &whole).put("config.json", "[".repeat(100_000));
    assert!(dir.error().contains("recursion limit"), "{}", dir.error());
    fs::remove_file(dir.0.join("config.json")).unwrap();
    assert!(dir.error().contains("no config.json here"));
    let file = dir.0.join(SINGLE);
    assert!(WeightFile::open(&file).unwrap_err().to_string().contains("neither a GGUF file"));
}
