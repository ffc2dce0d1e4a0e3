"""Times OpenVINO GenAI's LLMPipeline on the CPU and prints llama-bench's rows as JSON.

    python openvino_bench.py -m model.gguf|folder -t 1,2 -p 512 -n 128 [-d 0] [-r 5]

`ppN`: N random tokens to the first new token, head and greedy choice included. `tgN`: N tokens after the first new one, behind a
prompt of `-d` tokens (one at least). Both by the pipeline's own clock, so that Python is not counted. The prompt is other tokens in
each repetition: pipelines remember prompts.

It reads some GGUF files (tried: SmolLM2 Q4_1 yes; Qwen2.5-Coder 0.5B Q4_K_M no), or a folder made by `optimum-cli export openvino`
(not tried). What it cannot read ends with exit status 3.
"""

import argparse
import json
import os
import random
import statistics
import sys

import numpy as np
import openvino
import openvino_genai as G


def generate(pipe, vocab, n_prompt, n_new):
    """Milliseconds at which each new token was there; the first counts from the start."""
    ids = np.array([[random.randrange(vocab) for _ in range(n_prompt)]], dtype=np.int64)
    inputs = G.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
    config = G.GenerationConfig(max_new_tokens=n_new, min_new_tokens=n_new, ignore_eos=True, do_sample=False)
    metrics = pipe.generate(inputs, config).perf_metrics
    times = metrics.raw_metrics.m_new_token_times
    if len(times) != n_new:
        sys.exit(f"{len(times)} tokens in place of {n_new}")
    return metrics.get_ttft().mean, times


def run(pipe, vocab, path, threads, n_prompt, n_gen, depth, repetitions):
    ns = []
    for repetition in range(repetitions + 1):
        if n_prompt:
            first, _ = generate(pipe, vocab, depth + n_prompt, 1)
            took = first * 1e6
        else:
            _, times = generate(pipe, vocab, max(depth, 1), n_gen + 1)
            took = (times[-1] - times[0]) * 1e6
        if repetition > 0:  # the first one warms up
            ns.append(took)
    ts = [1e9 * (n_prompt + n_gen) / t for t in ns]
    return {
        "build_commit": f"openvino {openvino.get_version()}", "backends": "CPU", "model_filename": os.path.basename(path),
        "n_threads": threads, "n_prompt": n_prompt, "n_gen": n_gen, "n_depth": depth,
        "avg_ns": int(statistics.fmean(ns)), "avg_ts": statistics.fmean(ts),
        "stddev_ts": statistics.stdev(ts) if len(ts) > 1 else 0.0, "samples_ns": [int(t) for t in ns], "samples_ts": ts,
    }


def main():
    def ints(s):
        return [int(v) for v in s.split(",")]

    p = argparse.ArgumentParser(description="OpenVINO GenAI in llama-bench's rows; JSON on stdout")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-t", "--threads", type=ints, default=[os.cpu_count()])
    p.add_argument("-p", "--n-prompt", type=ints, default=[512])
    p.add_argument("-n", "--n-gen", type=ints, default=[128])
    p.add_argument("-d", "--n-depth", type=ints, default=[0])
    p.add_argument("-r", "--repetitions", type=int, default=5)
    p.add_argument("--attention", choices=["PA", "SDPA"], help="attention back end; left out, OpenVINO decides")
    p.add_argument("--kv", choices=["u8", "f16", "f32"], help="KV cache precision; left out, OpenVINO decides")
    a = p.parse_args()
    if any(a.n_prompt) and any(a.n_depth):
        sys.exit("it has no way to time a prompt behind another one: -p with -d is not possible")
    tests = [(n, 0) for n in a.n_prompt if n] + [(0, n) for n in a.n_gen if n]
    rows = []
    for threads in a.threads:
        properties = {"INFERENCE_NUM_THREADS": threads}
        if a.attention:
            properties["ATTENTION_BACKEND"] = a.attention
        if a.kv:
            properties["KV_CACHE_PRECISION"] = a.kv
        try:
            pipe = G.LLMPipeline(a.model, "CPU", **properties)
        except RuntimeError as e:
            print(f"OpenVINO cannot read it: {str(e).strip().splitlines()[-1]}", file=sys.stderr)
            sys.exit(3)
        vocab = len(pipe.get_tokenizer().get_vocab())
        for depth in a.n_depth:
            rows += [run(pipe, vocab, a.model, threads, pp, tg, depth, a.repetitions) for pp, tg in tests]
        del pipe
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
