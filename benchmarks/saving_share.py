"""Measure the share of time that saving takes in a fast training loop: in the loop's own thread, and in total.

The small network on Breakout with an update per 16 agent steps, 20,000 steps after the warm-up, a checkpoint every
5,000 steps, alternately with and without saving, each in a separate process.

    python benchmarks/saving_share.py --rounds 3
    python benchmarks/saving_share.py --code PATH --name before    (another checkout of this project)
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COLUMNS = ("code", "rounds", "seconds_without", "seconds_with", "saver_seconds", "saver_share", "slower")
RUN = """
import sys, time
from pathlib import Path
from atari_dqn.config import compose
from atari_dqn.training import launch, saving
from atari_dqn.utils.console import Console
spent = 0.0
def timed(method):
    def call(*args):
        global spent
        start = time.perf_counter()
        method(*args)
        spent += time.perf_counter() - start
    return call
for name in ("save", "save_ahead"):
    setattr(saving.Saver, name, timed(getattr(saving.Saver, name)))
config = compose.to_train_config(compose.compose("train", sys.argv[1:]))
run = launch.prepare(config, Console(quiet=True))
class Clock:
    began = None
    def step(self, info):
        global spent
        if self.began is None and info.agent_steps >= 2_000:
            self.began, spent = time.perf_counter(), 0.0
        self.ended = time.perf_counter()
    def __getattr__(self, name): return lambda *args: None
clock = Clock()
run.go(clock)
print(clock.ended - clock.began, spent)
"""


def measure(code: Path, saving: bool) -> tuple[float, float]:
    """Seconds of the loop, and the part of them spent in the saver's calls."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "env.game=Breakout", "network=small_cnn", "num_envs=16", "total_steps=22_000", "update.period_steps=16",
            "replay.capacity=50_000", "replay.warmup_steps=1_000", "exploration.decay_steps=1", "logger.wandb=off",
            "logger.tensorboard=false", "evaluation.every_steps=1_000_000", "evaluation.episodes=1",
            "evaluation.held_out_states=0", "evaluation.video_seconds=0", "protocol.max_frames=40",
            f"checkpoint.every_steps={5_000 if saving else 1_000_000}", f"checkpoint.replay={str(saving).lower()}",
            f"run_dir={folder}/run",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(code)}
        program = [sys.executable, "-c", RUN, *words]
        done = subprocess.run(program, env=environment, cwd=code, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        seconds, spent = done.stdout.split()[-2:]
        return float(seconds), float(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, default=ROOT)
    parser.add_argument("--name", default="after")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    args = parser.parse_args()
    without, with_saving, spent = [], [], []
    for number in range(args.rounds):
        without.append(measure(args.code, False)[0])
        seconds, saver = measure(args.code, True)
        with_saving.append(seconds)
        spent.append(saver)
        print(f"round {number + 1}: {without[-1]:.2f} s without, {seconds:.2f} s with, {saver:.3f} s in the saver")
    off, on, own = map(statistics.median, (without, with_saving, spent))
    row = (args.name, args.rounds, f"{off:.2f}", f"{on:.2f}", f"{own:.3f}", f"{own / on:.4f}", f"{on / off - 1:.4f}")
    print(", ".join(f"{key} {value}" for key, value in zip(COLUMNS, row, strict=True)))
    if args.csv:
        new = not args.csv.exists()
        with open(args.csv, "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, row] if new else [row])


if __name__ == "__main__":
    main()
