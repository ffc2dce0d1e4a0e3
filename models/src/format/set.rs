//! The formats that are known: built-in ones and those of a folder.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use indexmap::IndexMap;

use super::decl::load;
use super::{BlockFormat, FormatError};
use crate::error::{Error, Result};

/// Built-in declarations: (file, text).
const BUILTIN: &[(&str, &str)] = &[
    ("f32.yaml", include_str!("../../formats/f32.yaml")),
    ("f16.yaml", include_str!("../../formats/f16.yaml")),
    ("bf16.yaml", include_str!("../../formats/bf16.yaml")),
    ("q4_0.yaml", include_str!("../../formats/q4_0.yaml")),
    ("q4_1.yaml", include_str!("../../formats/q4_1.yaml")),
    ("q5_0.yaml", include_str!("../../formats/q5_0.yaml")),
    ("q5_1.yaml", include_str!("../../formats/q5_1.yaml")),
    ("q8_0.yaml", include_str!("../../formats/q8_0.yaml")),
    ("q2_k.yaml", include_str!("../../formats/q2_k.yaml")),
    ("q3_k.yaml", include_str!("../../formats/q3_k.yaml")),
    ("q4_k.yaml", include_str!("../../formats/q4_k.yaml")),
    ("q5_k.yaml", include_str!("../../formats/q5_k.yaml")),
    ("q6_k.yaml", include_str!("../../formats/q6_k.yaml")),
    ("iq4_nl.yaml", include_str!("../../formats/iq4_nl.yaml")),
    ("mxfp4.yaml", include_str!("../../formats/mxfp4.yaml")),
];

static SET: LazyLock<FormatSet> = LazyLock::new(|| {
    let mut set = FormatSet::default();
    for (file, text) in BUILTIN {
        // A test loads every built-in declaration; a broken one is left out rather than a panic at run time.
        if let Ok(f) = load(text, file) {
            set.insert(f);
        }
    }
    set
});

/// Block formats by name and by GGUF type.
#[derive(Debug, Clone, Default)]
pub struct FormatSet {
    by_name: IndexMap<String, Arc<BlockFormat>>,
    by_ggml: IndexMap<u32, Arc<BlockFormat>>,
}

impl FormatSet {
    /// The formats compiled in.
    pub fn builtin() -> &'static FormatSet {
        &SET
    }

    /// The formats compiled in as (file name, YAML text), for listing and showing.
    pub fn builtin_sources() -> &'static [(&'static str, &'static str)] {
        BUILTIN
    }

    /// This set with the `*.yaml` files of a folder added; one of the same name or GGUF type replaces the older.
    pub fn with_folder(&self, folder: &Path) -> Result<FormatSet> {
        let io = |e| Error::io(folder, e);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut set = self.clone();
        let mut seen: IndexMap<String, String> = IndexMap::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
            let file = path.display().to_string();
            let format = load(&text, &file)?;
            let keys = [Some(format.name.clone()), format.ggml_type.map(|id| format!("ggml_type {id}"))];
            for key in keys.into_iter().flatten() {
                if let Some(other) = seen.insert(key.clone(), file.clone()) {
                    let message = format!("{key} is declared in {other} too; keep one of them");
                    return Err(FormatError { file, line: 1, column: 1, message }.into());
                }
            }
            set.insert(format);
        }
        Ok(set)
    }

    /// This set with one more declaration; `file` is for messages.
    pub fn with_text(&self, file: &str, text: &str) -> Result<FormatSet, FormatError> {
        let mut set = self.clone();
        set.insert(load(text, file)?);
        Ok(set)
    }

    fn insert(&mut self, format: BlockFormat) {
        let format = Arc::new(format);
        if let Some(id) = format.ggml_type {
            self.by_ggml.insert(id, format.clone());
        }
        if let Some(old) = self.by_name.insert(format.name.clone(), format.clone())
            && let Some(id) = old.ggml_type.filter(|id| format.ggml_type != Some(*id))
            && self.by_ggml.get(&id).is_some_and(|f| f.name == old.name)
        {
            self.by_ggml.shift_remove(&id);
        }
    }

    /// A format by name.
    pub fn get(&self, name: &str) -> Option<&Arc<BlockFormat>> {
        self.by_name.get(name)
    }

    /// A format by the type id of GGUF files.
    pub fn by_ggml(&self, id: u32) -> Option<&Arc<BlockFormat>> {
        self.by_ggml.get(&id)
    }

    /// All formats, built-in ones first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<BlockFormat>> {
        self.by_name.values()
    }
}
