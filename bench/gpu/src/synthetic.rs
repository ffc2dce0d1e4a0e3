//! Models that are only shapes: an architecture's declaration read with made-up facts, and no file.

use anyhow::Result;
use tilewright_models::arch::{ArchSet, Container, Reading, Source, Value};

/// A model of the llama kind whose matrices are all of one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Name in the results.
    pub name: &'static str,
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub d_model: u64,
    /// Width of the feed-forward block.
    pub d_ff: u64,
    /// Query heads.
    pub heads: u64,
    /// K/V heads.
    pub kv_heads: u64,
    /// Elements of a head.
    pub head_dim: u64,
    /// Tokens.
    pub vocab: u64,
    /// Whether the embedding is the head.
    pub tied: bool,
}

/// Llama-3.2-1B.
pub const LLAMA_1B: Shape = Shape {
    name: "llama-3.2-1b",
    layers: 16,
    d_model: 2048,
    d_ff: 8192,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    vocab: 128_256,
    tied: true,
};

/// Llama-3.1-8B.
pub const LLAMA_8B: Shape = Shape {
    name: "llama-3.1-8b",
    layers: 32,
    d_model: 4096,
    d_ff: 14_336,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    vocab: 128_256,
    tied: false,
};

/// What an emulator runs in a second.
pub const TINY: Shape = Shape {
    name: "tiny",
    layers: 2,
    d_model: 64,
    d_ff: 96,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    vocab: 320,
    tied: true,
};

/// Longest context of all of them.
const CONTEXT: u64 = 131_072;

impl Shape {
    /// Its declaration, read with all matrices in `format`.
    pub fn read(&self, format: &str) -> Result<Reading> {
        Ok(ArchSet::builtin().read(&Described { shape: *self, format })?)
    }
}

struct Described<'a> {
    shape: Shape,
    format: &'a str,
}

impl Described<'_> {
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let Shape { layers, d_model, d_ff, heads, kv_heads, head_dim, vocab, tied, .. } = self.shape;
        let mut all = vec![("token_embd".to_string(), vec![vocab, d_model]), ("output_norm".into(), vec![d_model])];
        if !tied {
            all.push(("output".into(), vec![vocab, d_model]));
        }
        for i in 0..layers {
            let of_layer = [
                ("attn_norm", vec![d_model]),
                ("attn_q", vec![heads * head_dim, d_model]),
                ("attn_k", vec![kv_heads * head_dim, d_model]),
                ("attn_v", vec![kv_heads * head_dim, d_model]),
                ("attn_output", vec![d_model, heads * head_dim]),
                ("ffn_norm", vec![d_model]),
                ("ffn_gate", vec![d_ff, d_model]),
                ("ffn_up", vec![d_ff, d_model]),
                ("ffn_down", vec![d_model, d_ff]),
            ];
            all.extend(of_layer.map(|(name, shape)| (format!("blk.{i}.{name}"), shape)));
        }
        all.into_iter().map(|(name, shape)| (name + ".weight", shape)).collect()
    }
}

impl Source for Described<'_> {
    fn label(&self) -> String {
        self.shape.name.into()
    }

    fn container(&self) -> Container {
        Container::Gguf
    }

    fn key(&self, key: &str) -> Option<Value> {
        let Shape { layers, d_model, d_ff, heads, kv_heads, head_dim, .. } = self.shape;
        let number = |n: u64| Some(Value::Num(n as f64));
        match key {
            "general.architecture" => Some(Value::Word("llama".into())),
            "llama.block_count" => number(layers),
            "llama.context_length" => number(CONTEXT),
            "llama.embedding_length" => number(d_model),
            "llama.feed_forward_length" => number(d_ff),
            "llama.attention.head_count" => number(heads),
            "llama.attention.head_count_kv" => number(kv_heads),
            "llama.attention.key_length" | "llama.attention.value_length" => number(head_dim),
            "llama.attention.layer_norm_rms_epsilon" => Some(Value::Num(1e-5)),
            "llama.rope.freq_base" => number(500_000),
            _ => None,
        }
    }

    fn tensor(&self, name: &str) -> Option<(Vec<u64>, String)> {
        let shape = self.tensors().into_iter().find(|(n, _)| n == name)?.1;
        let format = if shape.len() == 1 { "f32" } else { self.format };
        Some((shape, format.into()))
    }

    fn tensor_names(&self) -> Vec<String> {
        self.tensors().into_iter().map(|(name, _)| name).collect()
    }

    fn floats(&self, tensor: &str) -> Result<Vec<f32>, String> {
        Err(format!("{tensor} has no elements: the model is only a shape"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_parameters_as_the_real_ones() {
        let elements = |shape: Shape| shape.read("bf16").unwrap().elements();
        assert_eq!(elements(LLAMA_1B), 1_235_814_400);
        assert_eq!(elements(LLAMA_8B), 8_030_261_248);
    }
}
