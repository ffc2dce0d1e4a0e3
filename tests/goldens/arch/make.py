"""Makes the golden logits of tiny random-weight models, one JSON file an architecture.

    pip install torch transformers
    python tests/goldens/arch/make.py            # all
    python tests/goldens/arch/make.py gemma3     # the ones named

A golden stores a Hugging Face config, the token ids and the logits at a few positions, but no weights: those
are a pure function of tensor name and element number (`values` below), which `tests/src/tiny.rs` computes too.
Default initialisation would leave biases 0 and norm weights 1 and so hide mistakes; these weights do not.

Sizes are chosen to bite: three heads, grouped queries, head_dim * heads != hidden in some, rows that are no
multiple of 64 or 256, a sequence of 29 longer than the sliding window of 12.
"""

import json
import pathlib
import sys

import numpy as np

VOCAB = 320
SEQ = 29
POSITIONS = [0, 7, 14, 21, 28]
HERE = pathlib.Path(__file__).resolve().parent

BASE = dict(hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=1, vocab_size=VOCAB, max_position_embeddings=128,
            bos_token_id=1, eos_token_id=2, pad_token_id=0)
WIDE = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=32)  # 4 * 32 != 96


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


def longrope(original):
    return {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": original,
            "short_factor": [1.0 + 0.125 * i for i in range(16)], "long_factor": [1.0 + 0.5 * i for i in range(16)]}


GEMMA3 = {"sliding_attention": rope(10000.0), "full_attention": rope(1000000.0)}
GEMMA3_LINEAR = {"sliding_attention": rope(10000.0),
                 "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}}

# name: (model_type, class, config)
MODELS = {
    "llama": ("llama", "LlamaForCausalLM", dict(tie_word_embeddings=False, rope_parameters=rope(10000.0))),
    "llama_tied": ("llama", "LlamaForCausalLM", dict(WIDE, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=rope(100000.0))),
    # original_max_position_embeddings of 32 puts frequencies into all three bands of the scaling
    "llama3_rope": ("llama", "LlamaForCausalLM", dict(
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32})),
    "mistral": ("mistral", "MistralForCausalLM", dict(WIDE, sliding_window=12, tie_word_embeddings=False, rms_norm_eps=1e-5, rope_parameters=rope(10000.0))),
    "mistral_full": ("mistral", "MistralForCausalLM", dict(sliding_window=None, tie_word_embeddings=False, rms_norm_eps=1e-5, rope_parameters=rope(1000000.0))),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", dict(tie_word_embeddings=False, use_sliding_window=False, rope_parameters=rope(1000000.0))),
    "qwen2_tied": ("qwen2", "Qwen2ForCausalLM", dict(tie_word_embeddings=True, use_sliding_window=False, num_hidden_layers=3, rope_parameters=rope(1000000.0))),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", dict(WIDE, tie_word_embeddings=False, use_sliding_window=False, rope_parameters=rope(1000000.0))),
    "qwen3_tied": ("qwen3", "Qwen3ForCausalLM", dict(head_dim=64, tie_word_embeddings=True, use_sliding_window=False, rope_parameters=rope(1000000.0))),
    # soft-caps far below the published 50 and 30, so that they bend these logits
    "gemma2": ("gemma2", "Gemma2ForCausalLM", dict(
        WIDE, num_hidden_layers=3, sliding_window=12, query_pre_attn_scalar=32, attn_logit_softcapping=4.0,
        final_logit_softcapping=6.0, tie_word_embeddings=True, rope_parameters=rope(10000.0))),
    # the attention scale that GGUF cannot say (llama.cpp knows the 27B model by its layer count)
    "gemma2_scalar": ("gemma2", "Gemma2ForCausalLM", dict(
        WIDE, sliding_window=12, query_pre_attn_scalar=24, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
        tie_word_embeddings=True, rope_parameters=rope(10000.0))),
    # seven layers: five local, one global, one local, as published
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM", dict(
        WIDE, num_hidden_layers=7, sliding_window=12, query_pre_attn_scalar=32, tie_word_embeddings=True,
        layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"], rope_parameters=GEMMA3)),
    # every second layer global, the global ones with linear RoPE scaling (the 4B and larger)
    "gemma3_linear": ("gemma3_text", "Gemma3ForCausalLM", dict(
        WIDE, num_hidden_layers=4, sliding_window=12, query_pre_attn_scalar=32, tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention"] * 2, rope_parameters=GEMMA3_LINEAR)),
    "phi3": ("phi3", "Phi3ForCausalLM", dict(
        sliding_window=12, tie_word_embeddings=False, original_max_position_embeddings=128, rope_parameters=rope(10000.0))),
    # as Phi-4-mini: partial rotary (24 of 32), tied, no window
    "phi3_partial": ("phi3", "Phi3ForCausalLM", dict(
        sliding_window=None, tie_word_embeddings=True, original_max_position_embeddings=128,
        rope_parameters=rope(10000.0, partial_rotary_factor=0.75))),
    # longrope within the original context: the short factors count, and the attention factor
    "phi3_longrope": ("phi3", "Phi3ForCausalLM", dict(
        sliding_window=None, tie_word_embeddings=False, max_position_embeddings=2048, original_max_position_embeddings=512,
        rope_parameters=longrope(512))),
    # longrope beyond it: the long factors
    "phi3_longrope_long": ("phi3", "Phi3ForCausalLM", dict(
        sliding_window=None, tie_word_embeddings=False, original_max_position_embeddings=16, rope_parameters=longrope(16))),
}

M64 = (1 << 64) - 1


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & M64
    return h


def splitmix64(x):
    """`x`: array of u64."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def amp_base(name, shape, model_type):
    """Amplitude and centre, by kind of tensor."""
    if name.endswith("bias"):
        return np.float32(0.5), np.float32(0.0)
    if len(shape) == 1:  # norm weights; gemma stores gamma - 1
        return np.float32(0.5), np.float32(0.0 if model_type.startswith("gemma") else 1.0)
    if "embed_tokens" in name:
        return np.float32(1.0), np.float32(0.0)
    return np.float32(1.7 / np.sqrt(np.float64(shape[-1]))), np.float32(0.0)


def values(name, shape, model_type):
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        h = splitmix64(np.uint64(fnv1a64(name)) + np.arange(n, dtype=np.uint64))
    u = (h >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    amp, base = amp_base(name, shape, model_type)
    return ((u * np.float32(2) - np.float32(1)) * amp + base).reshape(shape)


def ids():
    with np.errstate(over="ignore"):
        h = splitmix64(np.uint64(fnv1a64("ids")) + np.arange(SEQ, dtype=np.uint64))
    return [int(v) for v in h % np.uint64(VOCAB)]


def short(x):
    return float(f"{float(x):.7g}")


def make(name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, cls, more = MODELS[name]
    cfg = AutoConfig.for_model(model_type, **{**BASE, **more})
    cfg._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    assert type(model).__name__ == cls, type(model).__name__
    tensors, probe = {}, {}
    with torch.no_grad():
        for key, p in model.named_parameters():  # a tied lm_head is not listed
            v = values(key, tuple(p.shape), model_type)
            p.copy_(torch.from_numpy(v))
            tensors[key] = list(p.shape)
            probe[key] = [float(v.flat[0]), float(v.flat[-1])]
        toks = ids()
        logits = model(torch.tensor([toks]), use_cache=False).logits[0].numpy()
        # the same in f64, as the measure of what f32 rounding alone does
        exact = model.double()(torch.tensor([toks]), use_cache=False).logits[0].numpy()
    noise = float(np.abs(logits - exact).max())
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = {k: v for k, v in config.items() if v is not None and k not in DROP}
    keep["architectures"] = [cls]
    keep["dtype"] = "float32"
    if "sliding_window" in config:
        keep["sliding_window"] = config["sliding_window"]
    out = {
        "name": name,
        "arch": model_type,
        "config": keep,
        "tensors": tensors,
        "probe": probe,
        "ids": toks,
        "positions": POSITIONS,
        "argmax": [int(a) for a in logits.argmax(axis=-1)],
        "f32_noise": short(noise),
        "logits": [[short(x) for x in logits[p]] for p in POSITIONS],
    }
    lines = ["{"]
    for i, (k, v) in enumerate(out.items()):
        comma = "," if i + 1 < len(out) else ""
        if k == "config":
            text = json.dumps(v, indent=1)
        elif k == "logits":
            text = "[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in v) + "\n]"
        else:
            text = json.dumps(v, separators=(",", ":"))
        lines.append(f"{json.dumps(k)}: {text}{comma}")
    lines.append("}")
    (HERE / f"{name}.json").write_text("\n".join(lines) + "\n")
    print(f"{name:16s} {cls:20s} logits std {logits.std():.3f}  max {np.abs(logits).max():.3f}  f32 noise {noise:.1e}")


# noise of the library, not of the model
DROP = {"transformers_version", "return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "id2label",
        "label2id", "problem_type", "is_encoder_decoder", "_name_or_path", "use_cache", "initializer_range", "embd_pdrop",
        "resid_pdrop", "attention_dropout", "pretraining_tp", "max_window_layers"}

if __name__ == "__main__":
    for n in sys.argv[1:] or MODELS:
        make(n)
