"""Measure a step of PRESET=drq_eps, an update after each, on a CPU: one run or two side by side, by turns.

    .venv/bin/python benchmarks/atari100k.py --rounds 3 --seconds 10

Prints a table, and writes a row per variant to --output: milliseconds for an agent step, and the hours that 26 games of
100,000 steps take at that rate, evaluations not included. "A target network of its own" is what Double DQN computes
where the target network is not copied after each update.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from race import machine, versions

ROOT = Path(__file__).parent.parent
# Multiplications and additions of an update of 32 with 11x11x64 features: two forward passes, and the gradients by all
# weights and by all inputs but the pictures.
GFLOP = 3.87
# name: processes, threads of each, settings
VARIANTS = {
    "float32, two runs": (2, 1, []),
    "float32, two runs, a target network of its own": (2, 1, ["update.target_period_steps=2"]),
    "float32, one run on one core": (1, 1, []),
    "float32, one run on two cores": (1, 2, []),
    "bf16, two runs": (2, 1, ["compute.precision=bf16"]),
    "bf16, one run on one core": (1, 1, ["compute.precision=bf16"]),
    "bf16, one run on two cores": (1, 2, ["compute.precision=bf16"]),
    "float32, two runs, no padding": (2, 1, ["network.padding=valid"]),
    "bf16, two runs, no padding": (2, 1, ["network.padding=valid", "compute.precision=bf16"]),
}  # fmt: skip
ONE = """
import sys
from speed import measure
print(1000 / measure(float(sys.argv[1]), *sys.argv[2:], settle_updates=50).agent_steps)
"""


def turn(name: str, seconds: float) -> float:
    """Milliseconds for an agent step; of several runs the mean."""
    processes, threads, more = VARIANTS[name]
    words = ["preset=drq_eps", "env.game=Pong", "replay.warmup_steps=200", "replay.capacity=20000", *more]
    started = []
    for cpu in range(processes):
        cpus = {cpu} if threads == 1 else {*range(threads)}
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", ONE, str(seconds), *words], stdout=subprocess.PIPE, text=True, env=env,
                preexec_fn=lambda cpus=cpus: os.sched_setaffinity(0, cpus),
            )
        )  # fmt: skip
    return statistics.fmean(float(one.communicate()[0].split()[-1]) for one in started)


def floor(dtype: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of a large matrix product on one core, which no update exceeds."""
    torch.set_num_threads(1)
    a, b = torch.rand(2, size, size).to(dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", default="", help="variants with these words")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/atari100k-speed.csv")
    args = parser.parse_args()
    names = [name for name in VARIANTS if args.only in name]
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1, args.rounds + 1):
        for name in names:
            found[name].append(turn(name, args.seconds))
            print(f"round {number}: {name}: {found[name][-1]:.1f} ms", flush=True)
    with open(args.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["variant", "ms_per_step", "least", "most", "hours_for_26_games", "rounds", "machine", "versions"]
        )
        for name, times in found.items():
            middle = statistics.median(times)
            hours = 26 * 100_000 * middle / 3.6e6 / VARIANTS[name][0]
            print(f"{name:48} {middle:5.1f} ms ({min(times):.1f} to {max(times):.1f}), 26 games {hours:.1f} hours")
            row = [f"{value:.4g}" for value in (middle, min(times), max(times), hours)]
            writer.writerow([name, *row, args.rounds, machine(), versions()])
    for dtype in (torch.float32, torch.bfloat16):
        speed = floor(dtype)
        hours = 26 * 100_000 * GFLOP / speed / 2 / 3600
        print(f"one core multiplies at {speed:.0f} GFLOP/s in {dtype}: on two cores at least {hours:.1f} hours")


if __name__ == "__main__":
    main()
