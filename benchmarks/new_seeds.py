"""Check that reseeding games does not bias which games are counted: compare the mean in episodes.csv with the truth.

Games last 20 or 225 steps with equal probability and pay 1 per step, so the true mean is 122.5. New seeds every 312
vector steps, 4 parallel games, 200,000 agent steps, no learning.

    python benchmarks/new_seeds.py --csv benchmarks/results/new-seeds.csv
    python benchmarks/new_seeds.py --code PATH --name before    (another checkout of this project)
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
LENGTHS = (20, 225)
COLUMNS = ("code", "seed", "games", "mean", "truth", "cut_every_turns")
RUN = """
import sys
import gymnasium, numpy as np
from atari_dqn.config import compose
from atari_dqn.training import launch
from atari_dqn.utils.console import Console
class Uneven(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.choice([20, 225]))
        return np.zeros(1, np.float32), {}
    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}
gymnasium.register("Uneven-v0", entry_point=Uneven)
launch.prepare(compose.to_train_config(compose.compose("train", sys.argv[1:])), Console(quiet=True)).go()
"""


def returns(code: Path, seed: int, every: str) -> list[float]:
    """The returns in a run's episodes.csv."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "env=gymnasium", "env.game=Uneven-v0", "network=mlp", f"seed={seed}", "num_envs=4", "total_steps=200_000",
            "replay.capacity=200_000", "replay.warmup_steps=199_000", f"checkpoint.cut_every_turns={every}",
            "checkpoint.replay=false", "checkpoint.every_steps=200_000", "evaluation.every_steps=200_000",
            "evaluation.episodes=1", "evaluation.held_out_states=0", "evaluation.video_seconds=0", "logger.wandb=off",
            "logger.tensorboard=false", f"run_dir={folder}/run",
        ]  # fmt: skip
        program, environment = [sys.executable, "-c", RUN, *words], os.environ | {"PYTHONPATH": str(code)}
        done = subprocess.run(program, env=environment, cwd=code, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        with open(f"{folder}/run/episodes.csv", encoding="utf-8") as file:
            return [float(row["return"]) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, default=ROOT)
    parser.add_argument("--name", default="after")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", default="312", help="vector steps, or null")
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    args = parser.parse_args()
    rows = []
    for seed in range(1, args.seeds + 1):
        found = returns(args.code, seed, args.every)
        rows.append(
            (args.name, seed, len(found), f"{statistics.mean(found):.1f}", statistics.mean(LENGTHS), args.every)
        )
        print(", ".join(f"{key} {value}" for key, value in zip(COLUMNS, rows[-1], strict=True)), flush=True)
    if args.csv:
        new = not args.csv.exists()
        with open(args.csv, "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows] if new else rows)


if __name__ == "__main__":
    main()
