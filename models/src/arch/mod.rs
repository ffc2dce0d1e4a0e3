//! Architectures, declared in YAML (`models/arch/*.yaml`), and models read through them.
//!
//! Nothing here knows a family by name. A declaration has, in this order:
//!
//! | section | holds |
//! |---|---|
//! | `name`, `about`, `match` | `gguf`: values of `general.architecture`; `hf`: class names of `config.json` |
//! | `hyper` | name → `{kind, gguf, hf, else, else_gguf, else_hf, one_of}`: the first key that the file has, else an expression; `kind` is `size` (≥ 1, the default), `count`, `float`, `flag`, `word` or `list` |
//! | `require` | `{that, why}`: conditions on them |
//! | `per_layer` | name → expression over them and the layer's number `i` |
//! | `rope` | name → `{dims, theta, let, divide, scale}`: pair `j` turns by `theta^(-2j / dims) / divide` a position |
//! | `tensors` | name → `{gguf, hf, shape, rows, add, optional, else}`; names with `{i}` are of layers |
//! | `ignore` | tensors that are not needed, with `*` and `{i}`; any other that is not declared is refused |
//! | `pre`, `layer`, `post` | ops: `{op, in, out, attrs, when, name}`; operands are values made before, inputs or tensors |
//!
//! Expressions: see `expr.rs`. [`Arch::read`] holds a model file against its declaration and gives a [`Reading`]:
//! values and weights, checked. [`Reading::graph`] writes the graph.
//!
//! ```
//! use tilewright_models::arch::ArchSet;
//! let set = ArchSet::builtin();
//! assert_eq!(set.for_hf("MistralForCausalLM").unwrap().name(), "llama");
//! assert!(set.for_gguf("qwen2").is_some());
//! ```

mod check;
mod decl;
mod error;
mod expr;
mod expr_parse;
mod locate;
mod lower;
mod read;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use error::ArchError;
pub use expr::Value;
pub use read::{Container, Reading, Source};

use decl::Decl;
use locate::Step;

/// Built-in declarations: (file, text).
const BUILTIN: &[(&str, &str)] = &[
    ("llama.yaml", include_str!("../../arch/llama.yaml")),
    ("qwen2.yaml", include_str!("../../arch/qwen2.yaml")),
    ("qwen3.yaml", include_str!("../../arch/qwen3.yaml")),
    ("gemma2.yaml", include_str!("../../arch/gemma2.yaml")),
    ("gemma3.yaml", include_str!("../../arch/gemma3.yaml")),
    ("phi3.yaml", include_str!("../../arch/phi3.yaml")),
];

/// Largest architecture file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// One declared architecture.
#[derive(Debug)]
pub struct Arch {
    decl: Decl,
    file: String,
    text: String,
}

impl Arch {
    /// Reads and checks a declaration; `file` is its name in errors.
    pub fn parse(file: &str, text: &str) -> Result<Arch, ArchError> {
        let decl: Decl = serde_yaml::from_str(text).map_err(|e| {
            let (line, column) = e.location().map_or((1, 1), |l| (l.line(), l.column()));
            // The reader repeats the place in its sentence.
            let message = e.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            ArchError::Declaration { file: file.to_owned(), line, column, message }
        })?;
        let arch = Arch { decl, file: file.to_owned(), text: text.to_owned() };
        arch.check()?;
        Ok(arch)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.decl.name
    }

    /// One sentence about it.
    pub fn about(&self) -> &str {
        &self.decl.about
    }

    /// The file it was read from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The declaration as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Values of `general.architecture` that it matches.
    pub fn gguf(&self) -> &[String] {
        &self.decl.matches.gguf
    }

    /// Hugging Face class names that it matches.
    pub fn hf(&self) -> &[String] {
        &self.decl.matches.hf
    }

    fn wrong(&self, path: &[Step], message: impl Into<String>) -> ArchError {
        let (line, column) = locate::locate(&self.text, path);
        ArchError::Declaration { file: self.file.clone(), line, column, message: message.into() }
    }
}

/// Architectures to choose from; those added later are looked at first.
#[derive(Clone, Debug)]
pub struct ArchSet {
    all: Vec<Arc<Arch>>,
}

impl ArchSet {
    /// The built-in ones.
    pub fn builtin() -> &'static ArchSet {
        static SET: OnceLock<ArchSet> = OnceLock::new();
        SET.get_or_init(|| {
            let parse = |(file, text): &(&str, &str)| match Arch::parse(file, text) {
                Ok(arch) => Arc::new(arch),
                Err(e) => panic!("a built-in architecture is wrong: {e}"),
            };
            ArchSet { all: BUILTIN.iter().map(parse).collect() }
        })
    }

    /// This set with the `*.yaml` files of `folder` added; a file that declares a known name replaces that one.
    pub fn with_folder(&self, folder: &Path) -> Result<ArchSet, ArchError> {
        let io = |path: &Path, source| ArchError::Io { path: path.to_owned(), source };
        let mut set = self.clone();
        let mut paths = vec![];
        for entry in std::fs::read_dir(folder).map_err(|e| io(folder, e))? {
            let path = entry.map_err(|e| io(folder, e))?.path();
            if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let size = std::fs::metadata(&path).map_err(|e| io(&path, e))?.len();
            if size > MAX_BYTES {
                let source =
                    std::io::Error::other(format!("{size} bytes; an architecture file has at most {MAX_BYTES}"));
                return Err(io(&path, source));
            }
            let text = std::fs::read_to_string(&path).map_err(|e| io(&path, e))?;
            set.add(Arch::parse(&path.display().to_string(), &text)?);
        }
        Ok(set)
    }

    /// Adds `arch`, in place of the one of the same name.
    pub fn add(&mut self, arch: Arch) {
        self.all.retain(|a| a.name() != arch.name());
        self.all.push(Arc::new(arch));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Arch>> {
        self.all.iter()
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Arch>> {
        self.all.iter().find(|a| a.name() == name)
    }

    /// The one that matches a `general.architecture`.
    pub fn for_gguf(&self, architecture: &str) -> Option<&Arc<Arch>> {
        self.all.iter().rev().find(|a| a.gguf().iter().any(|n| n == architecture))
    }

    /// The one that matches a Hugging Face class name.
    pub fn for_hf(&self, class: &str) -> Option<&Arc<Arch>> {
        self.all.iter().rev().find(|a| a.hf().iter().any(|n| n == class))
    }

    /// Reads the model that `source` gives with the architecture that its file names.
    pub fn read(&self, source: &dyn Source) -> Result<Reading, ArchError> {
        let gguf = source.container() == Container::Gguf;
        let key = if gguf { "general.architecture" } else { "architectures" };
        let known = |a: &'_ Arc<Arch>| if gguf { a.gguf().to_vec() } else { a.hf().to_vec() };
        let found = words(source.key(key));
        let arch = self.all.iter().rev().find(|a| known(a).iter().any(|n| found.contains(n)));
        let Some(arch) = arch else {
            let found = if found.is_empty() { "missing".to_owned() } else { found.join(", ") };
            let known = self.all.iter().flat_map(known).collect();
            return Err(ArchError::Unknown { model: source.label(), key, found, known });
        };
        Arch::read(arch, source)
    }
}

fn words(value: Option<Value>) -> Vec<String> {
    match value {
        Some(Value::Word(w)) => vec![w],
        Some(Value::List(l)) => {
            l.iter().filter_map(|v| if let Value::Word(w) = v { Some(w.clone()) } else { None }).collect()
        }
        _ => vec![],
    }
}
