"""compile-model against its peers, interleaved A B C A B C on one machine: a table of medians, spreads and ratios.

    python compare.py -m model.gguf -t 2 -p 512 -n 128 [-d 0] [--rounds 7] [--ours path/to/compile-model]
                      [--peer llama.cpp --peer openvino] [--python venv/bin/python] [--openvino-python venv/bin/python]

Every round runs each side once as a process of its own (`-r` timed repetitions in it), in the order given in even rounds and backwards
in odd ones, and takes the median of the process. A ratio is formed within a round, so that a machine that slows down slows all;
the table shows the median of the ratios and their quartiles. The floor is what reading the weights once a token takes, by
`compile-model explain --json`, measured before the first round and after the last; the faster counts. It says nothing of prompts.
Other work on the machine is shown as the share of CPU time that no side used: distrust rounds where it is not small.
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
CANNOT_READ = 3  # exit status of a peer that does not know the file


def cpu_times():
    try:
        f = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
    except OSError:
        return None
    return sum(f) - f[3] - f[4], sum(f)  # busy, all


def call(cmd):
    """Rows of one process, and the share of the machine that others used meanwhile; or None, and why it cannot read the model."""
    a, r0 = cpu_times(), os.times()
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    b, r1 = cpu_times(), os.times()
    if p.returncode == CANNOT_READ:
        return None, p.stderr.strip()
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


def spread(v):
    lo, hi = quartiles(v)
    return f"{lo:.1f}–{hi:.1f}"


def floors(a, target):
    """Milliseconds that a token takes at least, by number of threads; the smallest so far wins."""
    for t in a.threads.split(","):
        cmd = [a.ours, "explain", "-m", a.ours_model or a.model, "-t", t, "--json"]
        p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if p.returncode == 0:
            target[int(t)] = min(target.get(int(t), float("inf")), json.loads(p.stdout)["floor_ms"])


def table(got, peers, unreadable, floor):
    peers = [x for x in peers if x not in unreadable]
    columns = ["test", "tilewright tok/s", "spread", "of the floor"]
    for name in peers:
        columns += [f"{name} tok/s", "spread", "ratio", "quartiles"]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for k, sides in got.items():
        ours = sides.get("tilewright", [])
        if not ours:
            continue
        share = "–"
        if k[3] and not k[2] and k[0] in floor:
            share = f"{100 * statistics.median(ours) * floor[k[0]] / 1e3:.0f} %"
        cells = [label(k), f"{statistics.median(ours):.1f}", spread(ours), share]
        for name in peers:
            theirs = sides.get(name, [])
            if len(theirs) != len(ours):
                cells += ["–"] * 4
                continue
            ratio = [x / y for x, y in zip(ours, theirs)]
            lo, hi = quartiles(ratio)
            cells += [f"{statistics.median(theirs):.1f}", spread(theirs), f"**{statistics.median(ratio):.2f}**", f"{lo:.2f}–{hi:.2f}"]
        print("| " + " | ".join(cells) + " |")
    for name, why in unreadable.items():
        print(f"\n{name} has no columns: {why}")
    for t, ms in floor.items():
        print(f"\nfloor with {t} thread(s): {ms:.2f} ms a token, {1e3 / ms:.0f} tok/s")


def main():
    p = argparse.ArgumentParser(description="A/B of compile-model and its peers")
    p.add_argument("-m", "--model", required=True, help="the GGUF that llama.cpp reads")
    p.add_argument("--ours-model", help="what compile-model reads, where it differs (an artifact, say)")
    p.add_argument("--openvino-model", help="what OpenVINO reads, where it differs (an exported folder, say)")
    p.add_argument("-t", "--threads", default=str(os.cpu_count()), help="one count, or several with commas")
    p.add_argument("-p", "--n-prompt", default="512")
    p.add_argument("-n", "--n-gen", default="128")
    p.add_argument("-d", "--n-depth", default="0")
    p.add_argument("-r", "--repetitions", default="3")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--peer", action="append", choices=["llama.cpp", "openvino"], help="opponent, several by repeating [llama.cpp]")
    p.add_argument("--ours", default=str(ROOT / "target" / "release" / "compile-model"))
    p.add_argument("--ours-args", default="", help="more arguments for `compile-model bench`")
    p.add_argument("--python", default=sys.executable, help="a Python that has llama-cpp-python")
    p.add_argument("--openvino-python", default=sys.executable, help="a Python that has openvino-genai")
    p.add_argument("--peer-args", default="", help="more arguments for llama_bench.py, such as '-fa 0 -ctk q8_0 -ctv q8_0'")
    p.add_argument("--openvino-args", default="", help="more arguments for openvino_bench.py, such as '--kv u8'")
    p.add_argument("--json", help="write every sample to this file")
    a = p.parse_args()
    if a.rounds < 7:
        print("note: fewer than 7 rounds; the medians will be weak", file=sys.stderr)
    peers = list(dict.fromkeys(a.peer or ["llama.cpp"]))
    commands = {
        "tilewright": [a.ours, "bench", "-m", a.ours_model or a.model, "-o", "json", *a.ours_args.split()],
        "llama.cpp": [a.python, str(HERE / "llama_bench.py"), "-m", a.model, *a.peer_args.split()],
        "openvino": [a.openvino_python, str(HERE / "openvino_bench.py"), "-m", a.openvino_model or a.model, *a.openvino_args.split()],
    }
    common = ["-p", a.n_prompt, "-n", a.n_gen, "-r", a.repetitions]
    if a.n_depth != "0":
        common += ["-d", a.n_depth]
    got = {}  # key -> side -> one median a round
    others, log, unreadable, floor = [], [], {}, {}
    floors(a, floor)
    for rnd in range(a.rounds):
        for t in a.threads.split(","):
            order = ["tilewright", *peers]
            for side in order if rnd % 2 == 0 else order[::-1]:
                if side in unreadable:
                    continue
                rows, o = call([*commands[side], "-t", t, *common])
                if rows is None:
                    if side == "tilewright":
                        sys.exit(o)
                    unreadable[side] = o
                    continue
                if o is not None:
                    others.append(o)
                for r in rows:
                    got.setdefault(key(r), {}).setdefault(side, []).append(value(r))
                log.append({"round": rnd, "side": side, "others": o, "rows": rows, "time": time.time()})
        print(f"round {rnd + 1}/{a.rounds}", file=sys.stderr)
        if a.json:
            pathlib.Path(a.json).write_text(json.dumps(log, indent=1))
    floors(a, floor)
    table(got, peers, unreadable, floor)
    if others:
        print(f"\nothers used {100 * statistics.median(others):.0f} % of the machine, at most {100 * max(others):.0f} %")


if __name__ == "__main__":
    main()
