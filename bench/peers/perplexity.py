"""Perplexity of a text by llama.cpp, computed as its own perplexity tool does, through its KV cache.

    python perplexity.py -m model.gguf -f text.txt -c 512 --chunks 12 [-t 2] [--type-k f16] [--type-v f16] [--json]

As there: the text (less one final newline) becomes tokens once, with the special tokens that the model asks for; it is cut into
chunks of `-c` tokens; where the model asks for a BOS, the first token of every chunk is replaced by it; the log-likelihood
counts positions c/2 … c-2, each predicting its successor. The one difference: chunks are evaluated one after another and
not four sequences in a batch, which changes only how sums are grouped.
"""

import argparse
import ctypes
import json
import math
import os
import sys

import llama_cpp as L
import numpy as np

from llama_bench import TYPES, Batch, context, decode, load, quiet


def tokenize(vocab, text):
    data = text.encode()
    out = (L.llama_token * (len(data) + 8))()
    n = L.llama_tokenize(vocab, data, len(data), out, len(out), True, False)
    if n < 0:
        sys.exit("cannot tokenize")
    return list(out[:n])


def main():
    p = argparse.ArgumentParser(description="perplexity as llama.cpp's tool computes it")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-f", "--file", required=True)
    p.add_argument("-c", "--ctx", type=int, default=512)
    p.add_argument("--chunks", type=int, default=-1)
    p.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    p.add_argument("-ub", "--ubatch", type=int, default=512)
    p.add_argument("-fa", "--flash-attn", type=int, default=-1, choices=[-1, 0, 1])
    p.add_argument("-ctk", "--type-k", default="f16", choices=TYPES)
    p.add_argument("-ctv", "--type-v", default="f16", choices=TYPES)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    quiet()
    model = load(a.model)
    vocab = L.llama_model_get_vocab(model)
    n_vocab = L.llama_vocab_n_tokens(vocab)
    add_bos, bos = L.llama_vocab_get_add_bos(vocab), L.llama_vocab_bos(vocab)
    text = open(a.file, encoding="utf-8", newline="").read()
    if text.endswith("\n"):
        text = text[:-1]
    tokens = tokenize(vocab, text)
    c, first = a.ctx, a.ctx // 2
    if len(tokens) < 2 * c:
        sys.exit(f"the text has {len(tokens)} tokens; at least {2 * c} are needed")
    chunks = len(tokens) // c if a.chunks < 0 else min(a.chunks, len(tokens) // c)
    ctx = context(model, c, c, min(a.ubatch, c), a.threads, a.flash_attn, a.type_k, a.type_v)
    mem, batch = L.llama_get_memory(ctx), Batch(c)
    nll, nll2, count, per_chunk = 0.0, 0.0, 0, []
    for i in range(chunks):
        ids = tokens[i * c:(i + 1) * c]
        target = np.array(ids[first + 1:])
        if add_bos:
            ids[0] = bos
        L.llama_memory_clear(mem, True)
        decode(ctx, batch.fill(ids, 0, first))
        L.llama_synchronize(ctx)
        rows = np.ctypeslib.as_array(ctypes.cast(L.llama_get_logits(ctx), ctypes.POINTER(ctypes.c_float)), shape=(c - first, n_vocab))[:-1]
        top = rows.max(axis=1).astype(np.float64)
        # f32 exponentials summed in f64, as the tool
        lse = np.log(np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1, dtype=np.float64)) + top
        v = lse - rows[np.arange(len(target)), target]
        nll, nll2, count = nll + v.sum(), nll2 + (v * v).sum(), count + len(v)
        per_chunk.append(float(v.mean()))
        if not a.json:
            print(f"[{i + 1}]{math.exp(nll / count):.4f}", end=",", flush=True)
    mean = nll / count
    ppl = math.exp(mean)
    se = math.sqrt(max(nll2 / count - mean * mean, 0.0) / (count - 1)) * ppl
    if a.json:
        json.dump({"perplexity": ppl, "stderr": se, "n_ctx": c, "chunks": chunks, "n_tokens": len(tokens), "counted": count, "add_bos": bool(add_bos),
                   "type_k": a.type_k, "type_v": a.type_v, "chunk_nll": per_chunk}, sys.stdout)
        print()
    else:
        print(f"\nperplexity = {ppl:.4f} +/- {se:.4f}  ({chunks} chunks of {c}, {count} tokens counted, add_bos {bool(add_bos)})")


if __name__ == "__main__":
    main()
