//! A model: its file read through its architecture.
//!
//! ```no_run
//! use tilewright_models::model::Model;
//! let model = Model::open("model.gguf")?;
//! println!("{}: {} layers of {}", model.name(), model.hyper().n_layers, model.hyper().d_model);
//! let graph = model.graph()?;
//! assert_eq!(graph.outputs().len(), 1);
//! # Ok::<(), tilewright_models::model::ModelError>(())
//! ```

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use tilewright_ir::graph::interp::WeightSource;
use tilewright_ir::graph::{Graph, Part, Weight};

use crate::arch::{Arch, ArchError, ArchSet, Container, Reading, Source, Value};
use crate::error::Error;
use crate::format::{BlockFormat, FormatSet};
use crate::gguf::{GgufFile, MetaValue};
use crate::tokenizer::{GgufTokenizer, TokenizerError, TokenizerImport, from_gguf, from_hf_folder};
use crate::weights::WeightFile;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] Error),
    /// The file and its architecture do not fit.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// The tokenizer cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The model.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// A tensor cannot be used.
    #[error("{}: tensor `{tensor}` {message}", path.display())]
    Tensor {
        /// The model.
        path: PathBuf,
        /// Name in the file.
        tensor: String,
        /// Why, and what to do.
        message: String,
    },
}

/// Facts that every model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hyper {
    /// Layers.
    pub n_layers: u64,
    /// Longest context the model was trained for.
    pub n_ctx: u64,
    /// Tokens of the vocabulary: rows of the embedding.
    pub vocab: u64,
    /// Width of the residual stream.
    pub d_model: u64,
    /// Width of the feed-forward block.
    pub d_ff: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Elements of a head.
    pub head_dim: u64,
    /// Elements of all tensors in use.
    pub parameters: u64,
    /// Bytes of all tensors of the file.
    pub file_bytes: u64,
}

impl Hyper {
    /// The facts of a model whose file has so many bytes.
    pub fn of(reading: &Reading, file_bytes: u64) -> Hyper {
        Hyper {
            n_layers: reading.size("n_layers"),
            n_ctx: reading.size("n_ctx"),
            vocab: reading.size("vocab"),
            d_model: reading.size("d_model"),
            d_ff: reading.size("d_ff"),
            heads: reading.size("heads"),
            kv_heads: reading.size("kv_heads"),
            head_dim: reading.size("head_dim"),
            parameters: reading.elements(),
            file_bytes,
        }
    }
}

/// An open model. Its files stay mapped and must not be shortened meanwhile.
#[derive(Debug)]
pub struct Model {
    weights: WeightFile,
    reading: Reading,
    hyper: Hyper,
    name: String,
}

impl Model {
    /// Opens a GGUF file (of a split model any part) or a Hugging Face folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, ModelError> {
        Self::open_with(path, ArchSet::builtin(), FormatSet::builtin())
    }

    /// [`Model::open`] with other architectures and formats.
    pub fn open_with(path: impl AsRef<Path>, archs: &ArchSet, formats: &FormatSet) -> Result<Model, ModelError> {
        Self::from_weights(WeightFile::open_with(path, formats)?, archs)
    }

    /// The model of an open file.
    pub fn from_weights(weights: WeightFile, archs: &ArchSet) -> Result<Model, ModelError> {
        let reading = archs.read(&weights)?;
        for part in reading.weights().flat_map(|w| &w.parts) {
            block_format(&weights, &part.tensor)?;
        }
        let mut file_bytes = 0u64;
        for t in weights.tensors() {
            file_bytes = file_bytes.saturating_add(weights.data(&t.name)?.len() as u64);
        }
        let hyper = Hyper::of(&reading, file_bytes);
        let name = name_of(&weights);
        Ok(Model { weights, reading, hyper, name })
    }

    /// What the file calls the model, else the file's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        self.weights.path()
    }

    /// Its architecture.
    pub fn arch(&self) -> &Arch {
        self.reading.arch()
    }

    /// The facts that every model has.
    pub fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    /// Everything that the architecture read: all hyper-parameters and weights.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// The file.
    pub fn weights(&self) -> &WeightFile {
        &self.weights
    }

    /// The unfused graph for the longest context of the model.
    pub fn graph(&self) -> Result<Graph, ModelError> {
        self.graph_for(self.hyper.n_ctx)
    }

    /// The unfused graph for contexts of up to `ctx` tokens. It differs from [`Model::graph`] only for models that
    /// turn their rotary tables differently for long contexts (phi3): for them give the context compiled for.
    pub fn graph_for(&self, ctx: u64) -> Result<Graph, ModelError> {
        Ok(self.reading.graph(ctx)?)
    }

    /// The tokenizer, its ids checked against the vocabulary. Takes a moment: keep the result.
    pub fn tokenizer(&self) -> Result<TokenizerImport, ModelError> {
        let wrong = |source| ModelError::Tokenizer { path: self.path().to_owned(), source };
        let import = match self.weights.gguf() {
            Some(file) => gguf_tokenizer(file, self.hyper.vocab),
            None => from_hf_folder(self.path()),
        };
        let import = import.map_err(wrong)?;
        let beyond = import.bos.iter().chain(&import.eos).find(|id| u64::from(**id) >= self.hyper.vocab);
        match beyond {
            Some(id) => Err(wrong(TokenizerError::Key {
                key: "a special token".into(),
                why: format!("has the id {id}; the vocabulary has {}", self.hyper.vocab),
            })),
            None => Ok(import),
        }
    }

    /// The encoded rows of a weight, one piece a part, in order: blocks as the file has them, or f32 where the weight
    /// is f32 and the file's tensor is not, or has something added.
    pub fn weight_bytes(&self, weight: &Weight) -> Result<Vec<Cow<'_, [u8]>>, ModelError> {
        weight.parts.iter().map(|part| self.part_bytes(part, weight.format())).collect()
    }

    fn part_bytes(&self, part: &Part, format: &str) -> Result<Cow<'_, [u8]>, ModelError> {
        let stored = block_format(&self.weights, &part.tensor)?;
        if stored.name == format && part.add == 0.0 {
            return Ok(Cow::Borrowed(self.rows(part, stored)?));
        }
        if format != "f32" {
            let message = format!("is stored as {}; it cannot be had as {format}", stored.name);
            return Err(self.wrong(&part.tensor, message));
        }
        Ok(Cow::Owned(self.part_floats(part)?.iter().flat_map(|v| v.to_le_bytes()).collect()))
    }

    fn wrong(&self, tensor: &str, message: String) -> ModelError {
        ModelError::Tensor { path: self.path().to_owned(), tensor: tensor.to_owned(), message }
    }

    /// Elements of a row of the tensor that a part takes rows of; a vector's rows are its elements.
    fn width(&self, tensor: &str) -> Option<usize> {
        let shape = &self.weights.tensor(tensor)?.shape;
        let row = shape.get(1..)?.iter().try_fold(1u64, |a, b| a.checked_mul(*b))?;
        usize::try_from(row).ok()
    }

    fn rows(&self, part: &Part, stored: &BlockFormat) -> Result<&[u8], ModelError> {
        let data = self.weights.data(&part.tensor)?;
        let range = || {
            let row = stored.row_bytes(self.width(&part.tensor)?)?;
            let first = usize::try_from(part.rows.0).ok()?.checked_mul(row)?;
            let len = usize::try_from(part.rows.1).ok()?.checked_mul(row)?;
            data.get(first..first.checked_add(len)?)
        };
        range().ok_or_else(|| {
            let message = format!("has no rows {} + {} of whole {} blocks", part.rows.0, part.rows.1, stored.name);
            self.wrong(&part.tensor, message)
        })
    }

    fn part_floats(&self, part: &Part) -> Result<Vec<f32>, ModelError> {
        let stored = block_format(&self.weights, &part.tensor)?;
        let bytes = self.rows(part, stored)?;
        let mut out = vec![0.0; bytes.len() / stored.bytes * stored.block];
        stored.dequantize(bytes, &mut out).map_err(|e| self.wrong(&part.tensor, e.to_string()))?;
        if part.add != 0.0 {
            out.iter_mut().for_each(|v| *v += part.add);
        }
        Ok(out)
    }

    /// The weight as dense rows: decoded, one part after the other.
    pub fn weight_floats(&self, weight: &Weight) -> Result<Vec<f32>, ModelError> {
        let mut out = vec![];
        for part in &weight.parts {
            out.append(&mut self.part_floats(part)?);
        }
        Ok(out)
    }
}

impl WeightSource for Model {
    fn load(&self, weight: &Weight) -> Result<Vec<f32>, String> {
        self.weight_floats(weight).map_err(|e| e.to_string())
    }
}

fn block_format<'a>(weights: &'a WeightFile, tensor: &str) -> Result<&'a BlockFormat, ModelError> {
    let wrong = |message| ModelError::Tensor { path: weights.path().to_owned(), tensor: tensor.to_owned(), message };
    let info = weights.tensor(tensor).ok_or_else(|| wrong("is missing".into()))?;
    match info.format.block() {
        Some(f) => Ok(f),
        None => Err(wrong(format!(
            "is stored as {}, which no declared format decodes; add a format file, or take the model in another type",
            info.format.name()
        ))),
    }
}

fn name_of(weights: &WeightFile) -> String {
    let said = match Source::key(weights, "general.name").or_else(|| Source::key(weights, "_name_or_path")) {
        Some(Value::Word(w)) => w,
        _ => String::new(),
    };
    let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
    if !said.trim().is_empty() {
        return said.trim().to_owned();
    }
    let path = weights.path();
    let stem = if weights.gguf().is_some() { path.file_stem() } else { path.file_name() };
    stem.map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned())
}

impl Source for WeightFile {
    fn label(&self) -> String {
        self.path().display().to_string()
    }

    fn container(&self) -> Container {
        if self.gguf().is_some() { Container::Gguf } else { Container::Hf }
    }

    fn key(&self, key: &str) -> Option<Value> {
        if let Some(file) = self.gguf() {
            return file.get(key).and_then(gguf_value);
        }
        let config = self.folder()?.config();
        json_value(key.split('.').try_fold(config, |v, k| v.get(k))?)
    }

    fn tensor(&self, name: &str) -> Option<(Vec<u64>, String)> {
        let t = WeightFile::tensor(self, name)?;
        Some((t.shape.clone(), t.format.name().to_owned()))
    }

    fn tensor_names(&self) -> Vec<String> {
        self.tensors().map(|t| t.name.clone()).collect()
    }

    fn floats(&self, tensor: &str) -> Result<Vec<f32>, String> {
        let format = block_format(self, tensor).map_err(|e| e.to_string())?;
        let bytes = self.data(tensor).map_err(|e| e.to_string())?;
        let mut out = vec![0.0; bytes.len() / format.bytes * format.block];
        format.dequantize(bytes, &mut out).map_err(|e| e.to_string())?;
        Ok(out)
    }
}

fn gguf_value(v: &MetaValue) -> Option<Value> {
    Some(match v {
        // 1e-5 as f32 means 1e-5, not the nearest f32's 17 digits.
        MetaValue::F32(x) => Value::Num(x.to_string().parse().unwrap_or(f64::from(*x))),
        MetaValue::Bool(b) => Value::Bool(*b),
        MetaValue::String(s) => Value::Word(s.clone()),
        MetaValue::Array(a) => Value::List((0..a.len()).filter_map(|i| gguf_value(&a.get(i)?)).collect()),
        _ => Value::Num(v.as_f64()?),
    })
}

fn json_value(v: &serde_json::Value) -> Option<Value> {
    Some(match v {
        serde_json::Value::Null | serde_json::Value::Object(_) => return None,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => Value::Num(n.as_f64()?),
        serde_json::Value::String(s) => Value::Word(s.clone()),
        serde_json::Value::Array(a) => Value::List(a.iter().filter_map(json_value).collect()),
    })
}

fn gguf_tokenizer(file: &GgufFile, vocab: u64) -> Result<TokenizerImport, TokenizerError> {
    let get = |key: &str| file.get(&format!("tokenizer.ggml.{key}"));
    let bad = |key: &str, why: String| TokenizerError::Key { key: format!("tokenizer.ggml.{key}"), why };
    let strings = |key: &str| get(key).and_then(MetaValue::as_array).and_then(|a| a.as_strings());
    let id = |key: &str| match get(key) {
        None => Ok(None),
        Some(v) => {
            let id = v.as_u64().filter(|&n| n < vocab).and_then(|n| u32::try_from(n).ok());
            id.map(Some).ok_or_else(|| bad(key, format!("is no token of a vocabulary of {vocab}")))
        }
    };
    let tokens = strings("tokens").ok_or_else(|| bad("tokens", "is missing or no list of strings".into()))?;
    if tokens.len() as u64 > vocab {
        return Err(bad("tokens", format!("has {} tokens; the embedding has {vocab} rows", tokens.len())));
    }
    let tokens: Vec<&str> = tokens.iter().collect();
    let merges: Vec<&str> = strings("merges").map(|m| m.iter().collect()).unwrap_or_default();
    let scores = get("scores").and_then(MetaValue::as_array).and_then(|a| a.to_f32s());
    let kinds = get("token_type").and_then(MetaValue::as_array).and_then(|a| a.to_i32s());
    let flag = |key: &str| get(key).and_then(MetaValue::as_bool);
    from_gguf(&GgufTokenizer {
        model: get("model").and_then(MetaValue::as_str).unwrap_or_default(),
        pre: get("pre").and_then(MetaValue::as_str),
        tokens: &tokens,
        scores: scores.as_deref(),
        token_types: kinds.as_deref(),
        merges: &merges,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        chat_template: file.get("tokenizer.chat_template").and_then(MetaValue::as_str),
    })
}
