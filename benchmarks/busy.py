"""Measure training speed on a busy machine, and the cost of letting idle threads sleep on an idle one.

Each round times every setting in turn: a single run, two parallel runs, and a run next to a process that keeps a core
busy. A run is Pong with the Nature network and 16 games; agent steps are counted over the same period in all processes.

    python benchmarks/busy.py --rounds 3
    python benchmarks/busy.py --settings spin sleep 1000 --csv benchmarks/results/busy.csv
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COLUMNS = ("network", "threads", "setting", "situation", "round", "steps_per_second")
START_SECONDS = 14.0  # for a process to start and fill its replay
LINGER_SECONDS = 2.0  # that a process continues afterwards, to keep competing with the other
RUN = """
import sys, time
from atari_dqn.config import compose
from atari_dqn.training import launch
from atari_dqn.utils.console import Console
begin, end, linger = map(float, sys.argv[1:4])
run = launch.prepare(compose.to_train_config(compose.compose("train", sys.argv[4:])), Console(quiet=True))
class Clock:
    first = None
    def step(self, info):
        now = time.time()
        if now >= begin and self.first is None:
            assert info.updates, "it was not yet learning"
            self.first = (info.agent_steps, now)
        if now < end:
            self.last = (info.agent_steps, now)
        if now > end + linger:
            run.stop()
    def __getattr__(self, name): return lambda *args: None
clock = Clock()
run.go(clock)
steps, seconds = (last - first for first, last in zip(clock.first, clock.last))
print(steps / seconds)
"""
BUSY = "while True: pass"
SITUATIONS = ("alone", "two side by side", "beside a busy process")


def environment(setting: str) -> dict[str, str]:
    """How long OpenMP's idle threads spin: `spin` (library default), `ours`, or a spin count for GOMP."""
    clean = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    if setting == "ours":
        return clean
    # By default, GOMP spins 300,000 times if there are as many threads as CPUs, and KMP spins for 200 ms.
    return clean | {"GOMP_SPINCOUNT": "300000" if setting == "spin" else setting, "KMP_BLOCKTIME": "200"}


def measure(setting: str, situation: str, network: str, seconds: float) -> list[float]:
    """Agent steps per second of each run."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.time() + START_SECONDS
        words = [
            "env.game=Pong", f"network={network}", "num_envs=16", "replay.capacity=20_000", "replay.warmup_steps=200",
            "exploration.decay_steps=1", "logger.wandb=off", "logger.tensorboard=false",
            "evaluation.every_steps=100_000_000", "evaluation.episodes=1", "evaluation.held_out_states=0",
            "evaluation.video_seconds=0", "protocol.max_frames=40", "checkpoint.every_steps=100_000_000",
            "checkpoint.replay=false",
        ]  # fmt: skip
        times = [str(begin), str(begin + seconds), str(LINGER_SECONDS)]
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", RUN, *times, *words, f"run_dir={folder}/run{i}"],
                cwd=ROOT, env=environment(setting), stdout=subprocess.PIPE, text=True,
            )
            for i in range(2 if situation == "two side by side" else 1)
        ]  # fmt: skip
        busy = subprocess.Popen([sys.executable, "-c", BUSY]) if situation == "beside a busy process" else None
        try:
            outputs = [run.communicate(timeout=10 * seconds + 120)[0] for run in runs]
        finally:
            for process in [*runs, *([busy] if busy else [])]:
                process.kill()
        if any(run.returncode for run in runs):
            sys.exit("a run failed")
        return [float(output.split()[-1]) for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--settings", nargs="+", default=["spin", "ours"], help="spin, ours, or counts for GOMP")
    parser.add_argument("--situations", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--network", default="nature_cnn")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    rows = []
    for number in range(1, args.rounds + 1):
        for situation in args.situations:
            for setting in args.settings:
                for rate in measure(setting, situation, args.network, args.seconds):
                    rows.append(
                        (args.network, len(os.sched_getaffinity(0)), setting, situation, number, round(rate, 1))
                    )
                    print(*rows[-1], flush=True)
    if args.csv:
        with open(args.csv, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    rates = {
        (setting, situation): [row[5] for row in rows if row[2:4] == (setting, situation)]
        for setting in args.settings
        for situation in args.situations
    }
    print("\nagent steps per second of each run: median, range, share of the same setting alone")
    for (setting, situation), values in rates.items():
        alone = statistics.median(rates.get((setting, "alone"), [float("nan")]))
        middle = statistics.median(values)
        print(
            f"{setting:>6}  {situation:22} {middle:6.0f}  {min(values):.0f} to {max(values):.0f}  {middle / alone:.0%}"
        )


if __name__ == "__main__":
    main()
