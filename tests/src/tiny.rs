//! Tiny random-weight models with known logits, one or more of each architecture.
//!
//! `tests/goldens/arch/*.json` were made with Hugging Face `transformers` (see `make.py` there). They hold a config, token ids
//! and logits, but no weights: those are a pure function of tensor name and element number, [`values`]. From a golden
//! come the same model as a Hugging Face folder and as a GGUF file, as llama.cpp's converter would write it.
//!
//! ```
//! use tilewright_tests::{quant::Quant, tiny::{Golden, HfStyle}};
//! let g = Golden::load("qwen2").unwrap();
//! let dir = tempfile::tempdir().unwrap();
//! g.write_hf(&dir.path().join("hf"), HfStyle::Classic, Quant::F32).unwrap();
//! g.write_gguf(&dir.path().join("model.gguf"), Quant::F32).unwrap();
//! assert_eq!(g.logits.len(), g.positions.len());
//! ```

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::gguf_out::{GgufOut, Meta, TensorOut};
use crate::quant::Quant;

/// The finaliser of SplitMix64.
pub fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a of a string, 64 bits.
pub fn fnv1a64(s: &str) -> u64 {
    s.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

/// The weights of the Hugging Face tensor `name` of a model whose `model_type` is `arch`, row-major.
pub fn values(arch: &str, name: &str, shape: &[usize]) -> Vec<f32> {
    let (amp, base) = if name.ends_with("bias") {
        (0.5, 0.0)
    } else if shape.len() == 1 {
        // gemma stores its norm weights less one
        (0.5, if arch.starts_with("gemma") { 0.0 } else { 1.0 })
    } else if name.contains("embed_tokens") {
        (1.0, 0.0)
    } else {
        ((1.7 / (*shape.last().unwrap() as f64).sqrt()) as f32, 0.0)
    };
    let seed = fnv1a64(name);
    (0..shape.iter().product::<usize>() as u64)
        .map(|k| {
            let u = (splitmix64(seed.wrapping_add(k)) >> 40) as f32 / (1u32 << 24) as f32;
            (u * 2.0 - 1.0) * amp + base
        })
        .collect()
}

/// How `config.json` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HfStyle {
    /// As `transformers` 5 saves it: `rope_parameters`, `layer_types`, `dtype`.
    Saved,
    /// As the models on the hub have it: `rope_theta`, `rope_scaling`, `sliding_window_pattern`, `torch_dtype`.
    Classic,
}

/// One golden.
#[derive(Clone, Debug)]
pub struct Golden {
    /// File name without extension.
    pub name: String,
    /// Hugging Face `model_type`: `llama`, `gemma3_text`, …
    pub arch: String,
    /// `config.json` as `transformers` 5 saves it.
    pub config: Value,
    /// Names and row-major shapes, in the model's order. A tied `lm_head` is not listed.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// First and last value of each tensor, as Python computed them.
    pub probe: BTreeMap<String, [f32; 2]>,
    /// The tokens.
    pub ids: Vec<u32>,
    /// Positions whose logits are stored.
    pub positions: Vec<usize>,
    /// Arg-max of the logits at every position of `ids`.
    pub argmax: Vec<u32>,
    /// Largest difference between the logits in f32 and in f64, both by `transformers`.
    pub f32_noise: f32,
    /// Logits (f32), one row for each of `positions`.
    pub logits: Vec<Vec<f32>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/arch")
}

fn list<T>(v: &Value, key: &str, f: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
    let a = v[key].as_array().with_context(|| format!("no array {key}"))?;
    a.iter().map(|x| f(x).with_context(|| format!("bad element in {key}"))).collect()
}

impl Golden {
    /// Names of all goldens, sorted.
    pub fn names() -> Vec<String> {
        let mut v: Vec<String> = std::fs::read_dir(folder())
            .expect("tests/goldens/arch")
            .filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
            .collect();
        v.sort();
        v
    }

    /// The golden called `name`.
    pub fn load(name: &str) -> Result<Golden> {
        let path = folder().join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let v: Value = serde_json::from_str(&text)?;
        let usizes = |x: &Value| x.as_array()?.iter().map(|d| Some(d.as_u64()? as usize)).collect::<Option<Vec<_>>>();
        let floats = |x: &Value| x.as_array()?.iter().map(|d| Some(d.as_f64()? as f32)).collect::<Option<Vec<_>>>();
        let object = |key: &str| v[key].as_object().with_context(|| format!("no object {key}"));
        Ok(Golden {
            name: name.to_owned(),
            arch: v["arch"].as_str().context("no arch")?.to_owned(),
            config: v["config"].clone(),
            tensors: object("tensors")?
                .iter()
                .map(|(k, s)| Ok((k.clone(), usizes(s).context("bad shape")?)))
                .collect::<Result<_>>()?,
            probe: object("probe")?
                .iter()
                .map(|(k, p)| Ok((k.clone(), floats(p).and_then(|p| p.try_into().ok()).context("bad probe")?)))
                .collect::<Result<_>>()?,
            ids: list(&v, "ids", |x| Some(x.as_u64()? as u32))?,
            positions: list(&v, "positions", |x| Some(x.as_u64()? as usize))?,
            argmax: list(&v, "argmax", |x| Some(x.as_u64()? as u32))?,
            f32_noise: v["f32_noise"].as_f64().context("no f32_noise")? as f32,
            logits: list(&v, "logits", floats)?,
        })
    }

    /// The weights of the Hugging Face tensor `name`.
    pub fn values(&self, name: &str) -> Option<Vec<f32>> {
        let (_, shape) = self.tensors.iter().find(|(n, _)| n == name)?;
        Some(values(&self.arch, name, shape))
    }

    /// `general.architecture` of the GGUF.
    pub fn gguf_arch(&self) -> &str {
        match self.arch.as_str() {
            "mistral" => "llama",
            "gemma3_text" => "gemma3",
            a => a,
        }
    }

    /// Whether GGUF metadata can say all that the logits depend on. It has no key for gemma's `query_pre_attn_scalar`: readers
    /// take head_dim in its place.
    pub fn gguf_says_all(&self) -> bool {
        self.num("query_pre_attn_scalar").is_none_or(|q| q == self.head_dim() as f64)
    }

    /// Whether llama.cpp, given the GGUF, computes these logits. It ignores the sliding window of mistral and phi3
    /// (its converter writes no such key for mistral, and its reader switches it off for phi3). Where it agrees, it does so to 4e-6 of
    /// logits with deviation 1, and to 4e-3 for gemma, whose GELU it looks up in a table of halves.
    pub fn llama_cpp_agrees(&self) -> bool {
        let windowed = self.num("sliding_window").is_some();
        self.gguf_says_all() && !(windowed && matches!(self.arch.as_str(), "mistral" | "phi3"))
    }

    fn num(&self, key: &str) -> Option<f64> {
        self.config[key].as_f64()
    }

    fn size(&self, key: &str) -> Result<usize> {
        Ok(self.config[key].as_u64().with_context(|| format!("no {key} in the config"))? as usize)
    }

    fn head_dim(&self) -> usize {
        let get = |k: &str| self.config[k].as_u64().map(|v| v as usize);
        get("head_dim").unwrap_or_else(|| get("hidden_size").unwrap() / get("num_attention_heads").unwrap())
    }

    /// RoPE parameters of the global layers.
    fn rope(&self) -> &Value {
        let r = &self.config["rope_parameters"];
        r.get("full_attention").unwrap_or(r)
    }

    /// Every how many layers one is global, where layers differ.
    fn pattern(&self) -> Result<Option<usize>> {
        let Some(types) = self.config["layer_types"].as_array() else {
            return Ok(None);
        };
        let full: Vec<bool> = types.iter().map(|t| t == "full_attention").collect();
        if full.iter().all(|f| *f == full[0]) {
            return Ok(None);
        }
        let p = full.iter().position(|f| *f).unwrap() + 1;
        if full.iter().enumerate().any(|(i, f)| *f != (i % p == p - 1)) {
            bail!("layer_types of {} have no period", self.name);
        }
        Ok(Some(p))
    }

    /// `config.json` in the given style.
    pub fn config(&self, style: HfStyle) -> Result<Value> {
        let mut c = self.config.as_object().context("config is no object")?.clone();
        if style == HfStyle::Saved {
            return Ok(Value::Object(c));
        }
        let rope = self.rope().clone();
        let local = self.config["rope_parameters"]["sliding_attention"]["rope_theta"].clone();
        let pattern = self.pattern()?;
        for k in ["rope_parameters", "layer_types", "_sliding_window_pattern", "dtype"] {
            c.shift_remove(k);
        }
        c.insert("torch_dtype".into(), "float32".into());
        c.insert("rope_theta".into(), rope["rope_theta"].clone());
        if local.is_number() {
            c.insert("rope_local_base_freq".into(), local);
        }
        if let (Some(p), "gemma3_text") = (pattern, self.arch.as_str()) {
            c.insert("sliding_window_pattern".into(), p.into());
        }
        match rope["partial_rotary_factor"].as_f64() {
            Some(f) if f != 1.0 => drop(c.insert("partial_rotary_factor".into(), f.into())),
            _ => {}
        }
        let scaling = if rope["rope_type"] == "default" {
            Value::Null
        } else {
            let mut s: Map<String, Value> = rope.as_object().context("no rope parameters")?.clone();
            s.retain(|k, _| k != "rope_theta" && k != "partial_rotary_factor");
            if self.arch == "phi3" {
                // phi3 says `type`, and the original context outside
                let kind = s.shift_remove("rope_type").unwrap();
                s.insert("type".into(), kind);
                s.shift_remove("original_max_position_embeddings");
            }
            Value::Object(s)
        };
        c.insert("rope_scaling".into(), scaling);
        Ok(Value::Object(c))
    }

    /// Weights as `through` leaves them: only matrices are rounded.
    fn rounded(&self, name: &str, shape: &[usize], through: Quant) -> Vec<f32> {
        let v = values(&self.arch, name, shape);
        if shape.len() < 2 { v } else { through.round_trip(&v) }
    }

    /// Writes `config.json`, `model.safetensors` (f32), `tokenizer.json` and `tokenizer_config.json` into `dir`, which is made.
    /// Matrices go through `through` and back, so that the folder is the exact twin of the GGUF that stores them so.
    pub fn write_hf(&self, dir: &Path, style: HfStyle, through: Quant) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("config.json"), serde_json::to_string_pretty(&self.config(style)?)?)?;
        std::fs::write(dir.join("tokenizer.json"), serde_json::to_string(&tokenizer_json())?)?;
        let tc = json!({
            "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": false, "add_bos_token": false, "clean_up_tokenization_spaces": false,
            "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0], "unk_token": null,
        });
        std::fs::write(dir.join("tokenizer_config.json"), serde_json::to_string_pretty(&tc)?)?;
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(n, s)| (n.clone(), s.clone(), Quant::F32.encode(&self.rounded(n, s, through))))
            .collect();
        let views = data
            .iter()
            .map(|(n, s, b)| Ok((n, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, s.clone(), b)?)))
            .collect::<Result<Vec<_>>>()?;
        let info = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, Some(info))?)?;
        Ok(())
    }

    /// The model as a GGUF, matrices stored as `quant`, norms and biases as f32.
    pub fn gguf(&self, quant: Quant) -> Result<GgufOut> {
        let mut out = GgufOut::default();
        self.metadata(&mut out, quant)?;
        vocabulary(&mut out);
        let (heads, kv_heads) = (self.size("num_attention_heads")?, self.size("num_key_value_heads")?);
        for (name, factors) in self.rope_tensors()? {
            out.tensors.push(TensorOut {
                name: name.into(),
                shape: vec![factors.len()],
                ggml_type: 0,
                bytes: Quant::F32.encode(&factors),
            });
        }
        for (name, shape) in &self.tensors {
            let mut v = values(&self.arch, name, shape);
            if self.gguf_arch() == "llama" && name.contains("q_proj") {
                v = interleave(&v, heads, self.head_dim());
            } else if self.gguf_arch() == "llama" && name.contains("k_proj") {
                v = interleave(&v, kv_heads, self.head_dim());
            } else if self.arch.starts_with("gemma") && name.ends_with("norm.weight") {
                v.iter_mut().for_each(|x| *x += 1.0);
            }
            let q = if shape.len() < 2 { Quant::F32 } else { quant };
            out.tensors.push(TensorOut {
                name: self.gguf_name(name)?,
                shape: shape.clone(),
                ggml_type: q.ggml_type(),
                bytes: q.encode(&v),
            });
        }
        Ok(out)
    }

    /// Writes [`Golden::gguf`] to a file.
    pub fn write_gguf(&self, path: &Path, quant: Quant) -> Result<()> {
        self.gguf(quant)?.write(path).with_context(|| path.display().to_string())
    }

    fn gguf_name(&self, hf: &str) -> Result<String> {
        let gemma = self.arch.starts_with("gemma");
        let Some(rest) = hf.strip_prefix("model.layers.") else {
            return Ok(match hf {
                "model.embed_tokens.weight" => "token_embd.weight",
                "model.norm.weight" => "output_norm.weight",
                "lm_head.weight" => "output.weight",
                _ => bail!("no GGUF name for {hf}"),
            }
            .into());
        };
        let (layer, rest) = rest.split_once('.').context("no layer number")?;
        let (stem, kind) = rest.rsplit_once('.').context("no kind")?;
        let stem = match stem {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "self_attn.qkv_proj" => "attn_qkv",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "post_attention_layernorm" if gemma => "post_attention_norm",
            "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => bail!("no GGUF name for {hf}"),
        };
        Ok(format!("blk.{layer}.{stem}.{kind}"))
    }

    /// Frequency divisors that llama.cpp's converter stores as tensors.
    fn rope_tensors(&self) -> Result<Vec<(&'static str, Vec<f32>)>> {
        let r = self.rope();
        let get = |k: &str| r[k].as_f64().with_context(|| format!("no {k} in rope_parameters"));
        match r["rope_type"].as_str() {
            Some("llama3") => {
                let (base, factor, orig) =
                    (get("rope_theta")?, get("factor")?, get("original_max_position_embeddings")?);
                let (low, high) = (get("low_freq_factor")?, get("high_freq_factor")?);
                let dim = self.head_dim();
                let f = (0..dim / 2).map(|i| {
                    let wave = 2.0 * PI * base.powf(2.0 * i as f64 / dim as f64);
                    if wave < orig / high {
                        1.0
                    } else if wave > orig / low {
                        factor
                    } else {
                        let smooth = (orig / wave - low) / (high - low);
                        1.0 / ((1.0 - smooth) / factor + smooth)
                    }
                });
                Ok(vec![("rope_freqs.weight", f.map(|v| v as f32).collect())])
            }
            Some("longrope") => {
                let floats = |k: &str| list(r, k, |x| Some(x.as_f64()? as f32));
                Ok(vec![
                    ("rope_factors_long.weight", floats("long_factor")?),
                    ("rope_factors_short.weight", floats("short_factor")?),
                ])
            }
            _ => Ok(vec![]),
        }
    }

    fn metadata(&self, out: &mut GgufOut, quant: Quant) -> Result<()> {
        let a = self.gguf_arch().to_owned();
        let u = |n: usize| Meta::U32(n as u32);
        let f = |x: f64| Meta::F32(x as f32);
        let rope = self.rope();
        out.set("general.architecture", a.as_str().into());
        out.set("general.type", "model".into());
        // not the golden's name: llama.cpp treats the vocabulary of a model with "phi3" in its name specially, and dies of this one
        out.set("general.name", "tiny random weights".into());
        out.set("general.file_type", Meta::U32(quant.file_type()));
        out.set("general.quantization_version", Meta::U32(2));
        let mut set = |k: &str, v: Meta| out.set(format!("{a}.{k}"), v);
        set("block_count", u(self.size("num_hidden_layers")?));
        set("context_length", u(self.size("max_position_embeddings")?));
        set("embedding_length", u(self.size("hidden_size")?));
        set("feed_forward_length", u(self.size("intermediate_size")?));
        set("attention.head_count", u(self.size("num_attention_heads")?));
        set("attention.head_count_kv", u(self.size("num_key_value_heads")?));
        set("attention.layer_norm_rms_epsilon", f(self.num("rms_norm_eps").context("no rms_norm_eps")?));
        if self.config["head_dim"].is_u64() {
            set("attention.key_length", u(self.head_dim()));
            set("attention.value_length", u(self.head_dim()));
        }
        if a != "gemma2" {
            // the converter leaves it out there, and readers take 10000
            set("rope.freq_base", f(rope["rope_theta"].as_f64().context("no rope_theta")?));
        }
        if let Some(local) = self.config["rope_parameters"]["sliding_attention"]["rope_theta"].as_f64() {
            set("rope.freq_base_swa", f(local));
        }
        if rope["rope_type"] == "linear" {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", f(rope["factor"].as_f64().context("no factor")?));
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(v) = self.num(key) {
                set(key, f(v));
            }
        }
        match self.num("sliding_window") {
            // the converter writes none for mistral; here it is, for readers that do better
            Some(w) => set("attention.sliding_window", u(w as usize)),
            None if a == "phi3" => set("attention.sliding_window", u(0)),
            None => {}
        }
        match self.pattern()? {
            Some(p) if a == "gemma3" && p != 6 => set("attention.sliding_window_pattern", u(p)),
            _ => {}
        }
        if a == "llama" {
            set("vocab_size", u(self.size("vocab_size")?));
            set("rope.dimension_count", u(self.head_dim()));
        }
        if a == "phi3" {
            let part = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0);
            set("rope.dimension_count", u((part * self.head_dim() as f64) as usize));
            let orig = self.size("original_max_position_embeddings")?;
            set("rope.scaling.original_context_length", u(orig));
            if rope["rope_type"] == "longrope" {
                let scale = self.size("max_position_embeddings")? as f64 / orig as f64;
                set("rope.scaling.attn_factor", f((1.0 + scale.ln() / (orig as f64).ln()).sqrt()));
            }
        }
        Ok(())
    }
}

/// Rows of Q or K from Hugging Face's order (the halves of a head rotate together) to llama.cpp's (neighbours do).
fn interleave(v: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let width = v.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(v.len());
    for row in 0..heads * head_dim {
        let (head, j) = (row / head_dim, row % head_dim);
        let from = head * head_dim + (j % 2) * head_dim / 2 + j / 2;
        out.extend(&v[from * width..(from + 1) * width]);
    }
    out
}

/// Pad, begin and end of text: tokens 0, 1 and 2. Tokens 3 … 258 are the bytes, and after them comes one token for every merge.
pub const SPECIAL: [&str; 3] = ["<|pad|>", "<|bos|>", "<|eos|>"];

/// Merges in order of rank, as GGUF and `tokenizer.json` spell them.
pub const MERGES: [&str; 61] = [
    "Ġ t", "h e", "Ġ a", "i n", "Ġt he", "Ġ s", "Ġ o", "Ġ w", "r e", "h a", "n d", "e r", "Ġ b", "i s", "in g", "l e",
    "o u", "i t", "â Ģ", "Ġ m", "e d", "Ġ f", "Ġ c", "Ġo f", "o n", "e n", "a r", "o r", "Ġa nd", "Ġ in", "l l", "Ġ h",
    "s t", "a n", "Ġt o", "a t", "Ġ d", "Ġ p", "e s", "o m", "ha t", "Ġ l", "Ġ n", "o w", "Ġt h", "a s", "Ġ he", "u t",
    "l y", "Ġ ha", "Ġb e", "i m", "s e", "i c", "Ġ g", "Ġt hat", "g h", "âĢ Ļ", "Ġ e", "o t", "Ġ it",
];

/// GPT-2's printable stand-in for a byte.
fn byte_char(b: u8) -> char {
    let plain = |b: u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if plain(b) { char::from(b) } else { char::from_u32(256 + (0..b).filter(|x| !plain(*x)).count() as u32).unwrap() }
}

/// The 320 tokens.
pub fn tokens() -> Vec<String> {
    let bytes = (0..=255u8).map(|b| byte_char(b).to_string());
    SPECIAL.iter().map(|s| (*s).to_owned()).chain(bytes).chain(MERGES.iter().map(|m| m.replace(' ', ""))).collect()
}

fn vocabulary(out: &mut GgufOut) {
    let all = tokens();
    // 3: control, 1: normal
    let kinds = (0..all.len()).map(|i| if i < SPECIAL.len() { 3 } else { 1 }).collect();
    out.set("tokenizer.ggml.model", "gpt2".into());
    out.set("tokenizer.ggml.pre", "gpt-2".into());
    out.set("tokenizer.ggml.tokens", Meta::Strings(all));
    out.set("tokenizer.ggml.token_type", Meta::I32s(kinds));
    out.set("tokenizer.ggml.merges", Meta::Strings(MERGES.iter().map(|m| (*m).to_owned()).collect()));
    out.set("tokenizer.ggml.bos_token_id", Meta::U32(1));
    out.set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    out.set("tokenizer.ggml.padding_token_id", Meta::U32(0));
    out.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    if out.get("general.architecture") == Some(&"llama".into()) {
        out.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    }
}

fn tokenizer_json() -> Value {
    let all = tokens();
    let vocab: Map<String, Value> = all.iter().enumerate().map(|(i, t)| (t.clone(), i.into())).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, s)| {
            json!({"id": id, "content": s, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": MERGES.as_slice()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_equals_the_one_in_python() {
        assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(fnv1a64("model.norm.weight"), 0xD6D6_E5AF_D116_04E4);
        assert_eq!(splitmix64(fnv1a64("lm_head.weight") + 5), 0xE327_D65D_5F9D_8B4B);
        let v = values("llama", "lm_head.weight", &[320, 96]);
        assert_eq!((v[0].to_bits(), v[30719].to_bits()), (1043274408, 3163267329));
        let v = values("gemma2", "model.norm.weight", &[96]);
        assert_eq!((v[0].to_bits(), v[1].to_bits()), (3202814564, 3191274676));
        let v = values("llama", "model.layers.0.mlp.down_proj.weight", &[96, 160]);
        assert_eq!((v[0].to_bits(), v[1].to_bits()), (3163619155, 1039277904));
    }

    #[test]
    fn every_golden_loads_and_its_weights_are_python_s() {
        let names = Golden::names();
        assert!(names.len() >= 16, "{names:?}");
        for n in names {
            let g = Golden::load(&n).unwrap();
            assert_eq!(g.logits.len(), g.positions.len());
            assert!(g.logits.iter().all(|r| r.len() == 320));
            assert_eq!(g.argmax.len(), g.ids.len());
            assert_eq!(g.tensors.len(), g.probe.len());
            for (t, shape) in &g.tensors {
                let v = values(&g.arch, t, shape);
                assert_eq!([v[0], v[v.len() - 1]], g.probe[t], "{n}: {t}");
            }
            for (row, &p) in g.logits.iter().zip(&g.positions) {
                let best = (0..320).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
                assert_eq!(best as u32, g.argmax[p], "{n} at {p}");
            }
        }
    }

    #[test]
    fn interleave_pairs_the_halves_of_each_head() {
        let v: Vec<f32> = (0..8).map(|i| i as f32).collect();
        assert_eq!(interleave(&v, 2, 4), [0., 2., 1., 3., 4., 6., 5., 7.]);
        assert_eq!(interleave(&v, 1, 4), [0., 1., 4., 5., 2., 3., 6., 7.]);
    }

    #[test]
    fn the_vocabulary_is_complete() {
        let t = tokens();
        assert_eq!(t.len(), 320);
        let set: std::collections::HashSet<_> = t.iter().collect();
        assert_eq!(set.len(), 320, "tokens repeat");
        assert_eq!(t[3 + 32], "Ġ");
        for m in MERGES {
            assert!(m.split(' ').all(|p| set.contains(&p.to_owned())), "{m}");
        }
    }

    #[test]
    fn both_containers_hold_the_same_weights() {
        for n in Golden::names() {
            let g = Golden::load(&n).unwrap();
            let dir = tempfile::tempdir().unwrap();
            g.write_hf(dir.path(), HfStyle::Saved, Quant::Q8_0).unwrap();
            let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
            let st = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let gg = g.gguf(Quant::Q8_0).unwrap();
            for (name, shape) in &g.tensors {
                let a = Quant::F32.decode(st.tensor(name).unwrap().data());
                let t = gg.tensors.iter().find(|t| t.name == g.gguf_name(name).unwrap()).unwrap();
                assert_eq!(&t.shape, shape);
                let q = if shape.len() < 2 { Quant::F32 } else { Quant::Q8_0 };
                let (mut a, mut b) = (a, q.decode(&t.bytes));
                if g.arch.starts_with("gemma") && name.ends_with("norm.weight") {
                    a.iter_mut().for_each(|x| *x += 1.0);
                }
                // Q and K differ in the order of rows only
                a.sort_by(f32::total_cmp);
                b.sort_by(f32::total_cmp);
                assert_eq!(a, b, "{n}: {name}");
            }
        }
    }

    #[test]
    fn classic_configs_carry_the_same_facts() {
        let c = |n: &str| Golden::load(n).unwrap().config(HfStyle::Classic).unwrap();
        let g = c("gemma3_linear");
        assert_eq!(
            (&g["rope_theta"], &g["rope_local_base_freq"], &g["sliding_window_pattern"]),
            (&json!(1e6), &json!(1e4), &json!(2))
        );
        assert_eq!(g["rope_scaling"], json!({"factor": 8.0, "rope_type": "linear"}));
        assert_eq!(c("phi3_partial")["partial_rotary_factor"], json!(0.75));
        assert_eq!(c("phi3_longrope")["rope_scaling"]["type"], "longrope");
        assert_eq!(c("llama3_rope")["rope_scaling"]["low_freq_factor"], json!(1.0));
        assert!(c("llama").get("rope_parameters").is_none());
    }
}
