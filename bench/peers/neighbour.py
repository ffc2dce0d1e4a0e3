"""What a busy neighbour costs: decoding alone and beside a busy loop, in turn.

    python neighbour.py -m model.gguf [-t 2] [-n 64] [--rounds 7] [--neighbours 1] [--ours path/to/compile-model]

The neighbour is one process that computes for ever, at normal priority and pinned nowhere. Each round runs `compile-model
bench -o json` without it and with it, in alternating order. Printed are speeds, the ratio busy : quiet within a round, and the
slowest token against the median token of the same process. `--least 0.35 --most 20` are the limits; it exits with 1 beyond them.

The neighbour starts in this process's session, with `--apart` in one of its own: where the scheduler groups processes by session
(`sched_autogroup_enabled`), it then divides the cores among groups and not among threads, which is harder on us.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from compare import call, quartiles

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LOOP = "while True: pass"


def main():
    p = argparse.ArgumentParser(description="decoding beside a busy process")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-t", "--threads", default=str(os.cpu_count()))
    p.add_argument("-n", "--n-gen", default="64")
    p.add_argument("-r", "--repetitions", default="3")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--neighbours", type=int, default=1)
    p.add_argument("--apart", action="store_true", help="start the neighbour in a session of its own")
    p.add_argument("--ours", default=str(ROOT / "target" / "release" / "compile-model"))
    p.add_argument("--ours-args", default="", help="more arguments for `compile-model bench`")
    p.add_argument("--least", type=float, default=0.35, help="smallest ratio busy : quiet")
    p.add_argument("--most", type=float, default=20, help="slowest token over the median, beside the neighbour")
    p.add_argument("--json", help="write every sample to this file")
    a = p.parse_args()
    cmd = [a.ours, "bench", "-m", a.model, "-t", a.threads, "-p", "0", "-n", a.n_gen, "-r", a.repetitions, "-o", "json"]
    cmd += a.ours_args.split()
    rows, why = call(cmd)  # compiles the model if need be
    if rows is None:
        sys.exit(why)
    speed, slowest, others, log = {False: [], True: []}, {False: [], True: []}, [], []
    for rnd in range(a.rounds):
        for busy in (False, True) if rnd % 2 == 0 else (True, False):
            loops = [subprocess.Popen([sys.executable, "-c", LOOP], start_new_session=a.apart) for _ in range(a.neighbours if busy else 0)]
            try:
                rows, other = call(cmd)
            finally:
                for loop in loops:
                    loop.kill()
                for loop in loops:
                    loop.wait()
            tokens = rows[0]["samples_token_ns"]
            speed[busy].append(statistics.median(rows[0]["samples_ts"]))
            slowest[busy].append(max(tokens) / statistics.median(tokens))
            if not busy and other is not None:
                others.append(other)
            log.append({"round": rnd, "busy": busy, "others": other, "rows": rows})
        print(f"round {rnd + 1}/{a.rounds}", file=sys.stderr)
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(log, indent=1))
    ratio = [b / q for q, b in zip(speed[False], speed[True])]
    print("| | tok/s | slowest token : median token, median and worst of the rounds |")
    print("|---|---|---|")
    for busy, name in ((False, "quiet"), (True, f"{a.neighbours} busy")):
        print(f"| {name} | {statistics.median(speed[busy]):.1f} | {statistics.median(slowest[busy]):.1f}, {max(slowest[busy]):.1f} |")
    lo, hi = quartiles(ratio)
    print(f"\nbusy : quiet **{statistics.median(ratio):.2f}** ({lo:.2f}–{hi:.2f})")
    if others:
        print(f"others in the quiet runs: {100 * statistics.median(others):.0f} % of the machine, at most {100 * max(others):.0f} %")
    failed = statistics.median(ratio) < a.least or max(slowest[True]) > a.most
    print("beyond the limits" if failed else "within the limits", f"({a.least} and {a.most})")
    sys.exit(failed)


if __name__ == "__main__":
    main()
