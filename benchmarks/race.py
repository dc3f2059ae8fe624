"""Agent steps per second while learning, side by side with peers on the same machine, in one run, by turns.

    .venv/bin/python benchmarks/race.py --peer-python PYTHON --cleanrl CHECKOUT --sb3 --rounds 2 --seconds 40

PYTHON is a Python with the peers' own versions (gymnasium 0.29.1, ale-py 0.10.1, stable-baselines3 2.3.2, tyro,
tensorboard, the same torch); CHECKOUT a clone of vwxyzjn/cleanrl. Settings are equal: the Nature CNN, batches of 32,
one update per 4 agent steps, epsilon 0.01, a replay of 50,000. Prints a table and adds to benchmarks/race.csv.
"""

import argparse
import csv
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

SB3 = """
import sys, time
import ale_py
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

class Told(BaseCallback):
    last = 0
    def _on_step(self):
        if self.num_timesteps > 1500 and self.num_timesteps // 200 > self.last // 200:
            print("STEPS", self.num_timesteps, flush=True)
        self.last = self.num_timesteps
        return True

n = int(sys.argv[2])
env = VecFrameStack(make_atari_env(sys.argv[1] + "NoFrameskip-v4", n_envs=n, seed=1), 4)
DQN("CnnPolicy", env, buffer_size=50_000, learning_rate=1e-4, batch_size=32, learning_starts=1000,
    target_update_interval=1000, train_freq=4 if n == 1 else (1, "step"), gradient_steps=1 if n == 1 else n // 4,
    exploration_fraction=1e-4, exploration_final_eps=0.01).learn(10_000_000, callback=Told())
"""


def commands(args: argparse.Namespace, folder: Path) -> dict[str, tuple[list[str], str, int]]:
    """Contestant -> (command, a pattern of its output, agent steps between two matches; 0: the match says)."""
    ours = [
        sys.executable, "-m", "atari_dqn", "train", f"env.game={args.game}", "total_steps=10M", "replay.capacity=50k",
        "replay.warmup_steps=1000", "exploration.decay_steps=1000", "logger.every_steps=200", "logger.wandb=off",
        "evaluation.every_steps=10M", "checkpoint.every_steps=10M", f"run_dir={folder}/run",
    ]  # fmt: skip
    entries = {"atari_dqn": (ours, "", 0)}
    if args.cleanrl:
        entries["CleanRL dqn_atari"] = (
            [
                args.peer_python, "-c",
                "import ale_py, runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')",
                f"{args.cleanrl}/cleanrl/dqn_atari.py", "--env-id", f"{args.game}NoFrameskip-v4",
                "--buffer-size", "50000", "--learning-starts", "1000", "--exploration-fraction", "0.0001",
            ], r"^SPS: ", 100,
        )  # fmt: skip
    for n in (1, 8) if args.sb3 else ():
        entries[f"SB3 DQN, {n} env{'s' * (n > 1)}"] = (
            [args.peer_python, "-c", SB3, args.game, str(n)],
            r"^STEPS (\d+)",
            0,
        )
    return entries


def ticks_of_output(command: list[str], pattern: str, stride: int, seconds: float, folder: Path, env: dict) -> Iterator:
    """(time, agent steps) at each matching line of a peer's output."""
    with open(folder / "errors.txt", "w") as errors:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
        first, steps = None, 0
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(pattern, line):
                now = time.perf_counter()
                steps = int(match[1]) if not stride else steps + stride
                first = first or now
                yield now, steps
                if now - first > seconds:
                    break
        process.kill()
        process.wait()
    if first is None:
        sys.exit(f"{command[0]} failed:\n{(folder / 'errors.txt').read_text()[-2000:]}")


def ticks_of_run(command: list[str], seconds: float, folder: Path, env: dict) -> list[tuple[float, int]]:
    """(time, agent steps) at each row of our metrics.csv after learning began."""
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    path, rows = folder / "run" / "metrics.csv", []
    while process.poll() is None and (len(rows) < 2 or rows[-1][0] - rows[0][0] < seconds):
        time.sleep(0.5)
        if path.exists():
            with open(path) as file:
                learning = [row for row in csv.DictReader(file) if int(row["updates"]) > 0]
            rows = [(float(row["seconds"]), int(row["agent_steps"])) for row in learning]
    process.kill()
    errors = process.communicate()[1]
    if not rows:
        sys.exit(f"our own run failed:\n{errors}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--cleanrl")
    parser.add_argument("--sb3", action="store_true")
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    speeds: dict[str, list[float]] = {}
    for number in range(1, args.rounds + 1):
        for name in commands(args, Path()):
            folder = Path(tempfile.mkdtemp(prefix="race-"))
            command, pattern, stride = commands(args, folder)[name]
            env = os.environ | {"PYTHONUNBUFFERED": "1"}
            if pattern:
                env["PYTHONPATH"] = args.cleanrl or ""
                ticks = list(ticks_of_output(command, pattern, stride, args.seconds, folder, env))
            else:
                ticks = ticks_of_run(command, args.seconds, folder, env)
            speed = (ticks[-1][1] - ticks[0][1]) / (ticks[-1][0] - ticks[0][0])
            speeds.setdefault(name, []).append(speed)
            print(f"round {number}  {name:<20} {speed:7.1f} agent steps/s", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    ours = statistics.median(speeds["atari_dqn"])
    with open(ROOT / "benchmarks" / "race.csv", "a", newline="") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(["game", "contestant", "median_steps_per_second", "min", "max", "ours_is_times", "cpus"])
        print(f"\n{args.game}, median of {args.rounds} rounds of {args.seconds:g} s, {os.cpu_count()} CPUs")
        for name, values in speeds.items():
            median = statistics.median(values)
            spread = f"{min(values):.1f} to {max(values):.1f}"
            print(f"{name:<20} {median:7.1f} agent steps/s ({spread}); ours is {ours / median:.2f} times")
            row = [f"{value:.1f}" for value in (median, min(values), max(values))]
            writer.writerow([args.game, name, *row, f"{ours / median:.2f}", os.cpu_count()])


if __name__ == "__main__":
    main()
