"""llama.cpp's llama-bench, for the library that the `llama-cpp-python` wheel builds (which has no tools).

    python llama_bench.py -m model.gguf -t 2 -p 512 -n 128 [-d 0] [-r 5] [--flash-attn 0] [--type-k f16] [--type-v f16]

Prints a JSON array of rows with llama-bench's field names. `-t`, `-p`, `-n` and `-d` take comma-separated lists.
As there, every prompt size and every generation size is a test of its own, done at every depth; tokens are
random; one untimed warm-up comes first; the cache is cleared between repetitions and filled to the depth, untimed.

Only `llama_decode` and `llama_synchronize` are between the two clock readings of a test, and for decoding also
the few microseconds in which Python calls them (below 0.1 % of a token of the smallest model we time).
"""

import argparse
import ctypes
import json
import os
import random
import statistics
import sys
import time

import llama_cpp as L

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}

_quiet = None


def quiet():
    """Drops llama.cpp's own log lines."""
    global _quiet
    _quiet = L.llama_log_callback(lambda level, text, data: None)
    L.llama_log_set(_quiet, ctypes.c_void_p(0))


def load(path, mmap=True):
    L.llama_backend_init()
    p = L.llama_model_default_params()
    p.n_gpu_layers = 0
    if hasattr(p, "use_mmap"):
        p.use_mmap = mmap
    model = L.llama_model_load_from_file(path.encode(), p)
    if not model:
        sys.exit(f"cannot load {path}")
    return model


def context(model, n_ctx, n_batch, n_ubatch, threads, flash, type_k, type_v):
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_ubatch = n_ctx, n_batch, n_ubatch
    p.n_threads = p.n_threads_batch = threads
    p.flash_attn_type = flash
    p.type_k, p.type_v = TYPES[type_k], TYPES[type_v]
    p.n_seq_max = 1
    p.no_perf = True
    ctx = L.llama_init_from_model(model, p)
    if not ctx:
        sys.exit("cannot make a context")
    return ctx


class Batch:
    """One reusable `llama_batch` for sequence 0."""

    def __init__(self, size):
        self.b = L.llama_batch_init(size, 0, 1)

    def fill(self, tokens, pos, logits):
        """`logits`: 'last' or 'none' or the first index that wants them."""
        b, n = self.b, len(tokens)
        b.n_tokens = n
        for i, t in enumerate(tokens):
            b.token[i] = t
            b.pos[i] = pos + i
            b.n_seq_id[i] = 1
            b.seq_id[i][0] = 0
            b.logits[i] = (logits == "last" and i == n - 1) or (isinstance(logits, int) and i >= logits)
        return b

    def free(self):
        L.llama_batch_free(self.b)


def decode(ctx, batch):
    rc = L.llama_decode(ctx, batch)
    if rc != 0:
        sys.exit(f"llama_decode: {rc}")


def prompt(ctx, batch, n, n_batch, n_vocab, first_pos=0):
    done = 0
    while done < n:
        k = min(n - done, n_batch)
        decode(ctx, batch.fill([random.randrange(n_vocab) for _ in range(k)], first_pos + done, "last"))
        done += k
    L.llama_synchronize(ctx)


def generate(ctx, batch, n, n_vocab, first_pos=0):
    for i in range(n):
        decode(ctx, batch.fill([random.randrange(n_vocab)], first_pos + i, "last"))
        L.llama_synchronize(ctx)


def run(model, path, threads, n_prompt, n_gen, depth, a):
    vocab = L.llama_model_get_vocab(model)
    n_vocab = L.llama_vocab_n_tokens(vocab)
    ctx = context(model, n_prompt + n_gen + depth, a.batch, a.ubatch, threads, a.flash_attn, a.type_k, a.type_v)
    mem = L.llama_get_memory(ctx)
    batch = Batch(max(a.batch, 1))
    if n_prompt:
        prompt(ctx, batch, n_prompt, a.batch, n_vocab)
    if n_gen:
        L.llama_memory_clear(mem, False)
        generate(ctx, batch, 1, n_vocab)
    ns = []
    for _ in range(a.repetitions):
        L.llama_memory_clear(mem, False)
        if depth:
            prompt(ctx, batch, depth, a.batch, n_vocab)
        t0 = time.perf_counter_ns()
        if n_prompt:
            prompt(ctx, batch, n_prompt, a.batch, n_vocab, depth)
        if n_gen:
            generate(ctx, batch, n_gen, n_vocab, depth + n_prompt)
        ns.append(time.perf_counter_ns() - t0)
    batch.free()
    L.llama_free(ctx)
    ts = [1e9 * (n_prompt + n_gen) / t for t in ns]
    desc = ctypes.create_string_buffer(128)
    L.llama_model_desc(model, desc, 128)

    def sd(v):
        return statistics.stdev(v) if len(v) > 1 else 0.0

    return {
        "build_commit": f"llama-cpp-python {L.__version__}", "cpu_info": L.llama_print_system_info().decode(), "backends": "CPU",
        "model_filename": os.path.basename(path), "model_type": desc.value.decode(), "model_size": L.llama_model_size(model),
        "model_n_params": L.llama_model_n_params(model), "n_batch": a.batch, "n_ubatch": a.ubatch, "n_threads": threads,
        "type_k": a.type_k, "type_v": a.type_v, "flash_attn": a.flash_attn,
        "n_prompt": n_prompt, "n_gen": n_gen, "n_depth": depth,
        "avg_ns": int(statistics.fmean(ns)), "stddev_ns": int(sd(ns)), "avg_ts": statistics.fmean(ts), "stddev_ts": sd(ts),
        "samples_ns": ns, "samples_ts": ts,
    }


def main():
    def ints(s):
        return [int(v) for v in s.split(",")]

    p = argparse.ArgumentParser(description="llama-bench over the bindings of llama-cpp-python; JSON on stdout")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-t", "--threads", type=ints, default=[os.cpu_count()])
    p.add_argument("-p", "--n-prompt", type=ints, default=[512])
    p.add_argument("-n", "--n-gen", type=ints, default=[128])
    p.add_argument("-d", "--n-depth", type=ints, default=[0])
    p.add_argument("-b", "--batch", type=int, default=2048)
    p.add_argument("-ub", "--ubatch", type=int, default=512)
    p.add_argument("-r", "--repetitions", type=int, default=5)
    p.add_argument("-fa", "--flash-attn", type=int, default=-1, choices=[-1, 0, 1], help="-1: llama.cpp decides")
    p.add_argument("-ctk", "--type-k", default="f16", choices=TYPES)
    p.add_argument("-ctv", "--type-v", default="f16", choices=TYPES)
    p.add_argument("-o", "--output", default="json", choices=["json"])
    a = p.parse_args()
    quiet()
    model = load(a.model)
    tests = [(n, 0) for n in a.n_prompt if n] + [(0, n) for n in a.n_gen if n]
    rows = [run(model, a.model, t, pp, tg, d, a) for t in a.threads for d in a.n_depth for pp, tg in tests]
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
