"""compile-model against llama.cpp, interleaved A B A B on one machine: a table of medians, spreads and ratios.

    python compare.py -m model.gguf -t 2 -p 512 -n 128 [-d 0] [--rounds 7] [--ours path/to/compile-model] [--python venv/bin/python]

Every round runs each side once as a process of its own (`-r` timed repetitions in it), ours first in even rounds and llama.cpp
first in odd ones, and takes the median of the process. A ratio is formed within a round, so that a machine that slows
down slows both; the table shows the median of the ratios and their quartiles. Other work on the machine is shown as the share
of CPU time that neither side used: distrust rounds where it is not small.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def cpu_times():
    try:
        f = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
    except OSError:
        return None
    return sum(f) - f[3] - f[4], sum(f)  # busy, all


def call(cmd):
    """Rows of one process, and the share of the machine that others used meanwhile."""
    a, r0 = cpu_times(), os.times()
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    b, r1 = cpu_times(), os.times()
    if p.returncode != 0:
        sys.exit(f"{' '.join(cmd)}\nfailed with {p.returncode}:\n{p.stderr[-2000:]}")
    rows = json.loads(p.stdout)
    others = None
    if a and b and b[1] > a[1]:
        own = (r1.children_user + r1.children_system - r0.children_user - r0.children_system) * os.sysconf("SC_CLK_TCK")
        others = max(0.0, (b[0] - a[0] - own) / (b[1] - a[1]))
    return rows, others


def key(row):
    return row["n_threads"], row.get("n_depth", 0), row["n_prompt"], row["n_gen"]


def value(row):
    s = row.get("samples_ts")
    return statistics.median(s) if s else row["avg_ts"]


def quartiles(v):
    if len(v) < 2:
        return v[0], v[0]
    q = statistics.quantiles(v, n=4, method="inclusive")
    return q[0], q[2]


def label(k):
    t, d, p, n = k
    return (f"pp{p}" if p else f"tg{n}") + (f" @ d{d}" if d else "") + f" t{t}"


def main():
    p = argparse.ArgumentParser(description="A/B of compile-model and llama.cpp")
    p.add_argument("-m", "--model", required=True, help="the GGUF that llama.cpp reads")
    p.add_argument("--ours-model", help="what compile-model reads, where it differs (an artifact, say)")
    p.add_argument("-t", "--threads", default=str(os.cpu_count()), help="one count, or several with commas")
    p.add_argument("-p", "--n-prompt", default="512")
    p.add_argument("-n", "--n-gen", default="128")
    p.add_argument("-d", "--n-depth", default="0")
    p.add_argument("-r", "--repetitions", default="3")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--ours", default=str(ROOT / "target" / "release" / "compile-model"))
    p.add_argument("--ours-args", default="", help="more arguments for `compile-model bench`")
    p.add_argument("--python", default=sys.executable, help="a Python that has llama-cpp-python")
    p.add_argument("--peer-args", default="", help="more arguments for llama_bench.py, such as '-fa 0'")
    p.add_argument("--json", help="write every sample to this file")
    a = p.parse_args()
    if a.rounds < 7:
        print("note: fewer than 7 rounds; the medians will be weak", file=sys.stderr)
    sides = {
        "tilewright": lambda t: [a.ours, "bench", "-m", a.ours_model or a.model, "-t", t, *common, "-o", "json", *a.ours_args.split()],
        "llama.cpp": lambda t: [a.python, str(HERE / "llama_bench.py"), "-m", a.model, "-t", t, *common, *a.peer_args.split()],
    }
    common = ["-p", a.n_prompt, "-n", a.n_gen, "-r", a.repetitions]
    if a.n_depth != "0":
        common += ["-d", a.n_depth]
    got = {}  # key -> side -> one median a round
    others, log = [], []
    for rnd in range(a.rounds):
        for t in a.threads.split(","):
            order = list(sides) if rnd % 2 == 0 else list(sides)[::-1]
            for side in order:
                rows, o = call(sides[side](t))
                if o is not None:
                    others.append(o)
                for r in rows:
                    got.setdefault(key(r), {}).setdefault(side, []).append(value(r))
                log.append({"round": rnd, "side": side, "others": o, "rows": rows, "time": time.time()})
        print(f"round {rnd + 1}/{a.rounds}", file=sys.stderr)
        if a.json:
            pathlib.Path(a.json).write_text(json.dumps(log, indent=1))
    print("| test | tilewright tok/s | spread | llama.cpp tok/s | spread | ratio | quartiles of the ratio |")
    print("|---|---|---|---|---|---|---|")
    for k, s in got.items():
        if len(s) != 2:
            print(f"| {label(k)} | only {', '.join(s)} has it | | | | | |")
            continue
        ours, peer = s["tilewright"], s["llama.cpp"]
        ratio = [x / y for x, y in zip(ours, peer)]
        lo, hi = quartiles(ratio)

        def spread(v):
            q = quartiles(v)
            return f"{q[0]:.1f}–{q[1]:.1f}"

        print(f"| {label(k)} | {statistics.median(ours):.1f} | {spread(ours)} | {statistics.median(peer):.1f} | {spread(peer)} "
              f"| **{statistics.median(ratio):.2f}** | {lo:.2f}–{hi:.2f} |")
    if others:
        print(f"\n{a.rounds} rounds of {a.repetitions}; share of the machine that others used: median {statistics.median(others):.0%}, worst {max(others):.0%}")


if __name__ == "__main__":
    main()
