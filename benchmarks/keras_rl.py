"""Compare our agent with keras-rl's on CartPole, the experiment that this project started from, over 5,000 steps.

    benchmarks/keras_rl.py --seeds 10

Both play games of at most 200 steps, as in CartPole-v0, learn for 5,000 steps and then play 5 greedy test games. The
first is PRESET=keras_rl_cartpole. Writes benchmarks/results/keras-rl-cartpole.csv.
"""

import argparse
import csv
import io
import statistics
import tempfile
from pathlib import Path

from atari_dqn.config import compose
from atari_dqn.tracking import curves
from atari_dqn.training import launch
from atari_dqn.utils.console import Console

OUTPUT = Path(__file__).parent / "results" / "keras-rl-cartpole.csv"
SAME = [
    "env=cartpole", "total_steps=5_000", "env.max_frames=200", "env.goals=[]", "evaluation.every_steps=5_000",
    "evaluation.episodes=5", "evaluation.video_seconds=0", "logger.wandb=off", "logger.tensorboard=false",
]  # fmt: skip
AGENTS = {
    "keras-rl": ["preset=keras_rl_cartpole"],
    "ours": ["agent.n_step=5", "agent.double=true", "num_envs=1", "replay.warmup_steps=250", "update.period_steps=1",
             "update.batch_size=64", "update.target_period_steps=100", "exploration.decay_steps=2_000",
             "optimizer.learning_rate=1e-3"],
}  # fmt: skip


def play(agent: str, seed: int) -> tuple[float, float]:
    """Mean returns of the last 10 training games and of the 5 test games."""
    with tempfile.TemporaryDirectory() as temporary:
        words = [*SAME, *AGENTS[agent], f"seed={seed}", f"run_dir={temporary}/run"]
        run = launch.prepare(compose.to_train_config(compose.compose("train", words)), Console(file=io.StringIO()))
        run.go()
        games = [float(row["return"]) for row in curves.read(run.folder / "episodes.csv")]
        tests = curves.evaluations(curves.read(run.folder / "evaluations.csv"))
        return statistics.fmean(games[-10:]), tests[-1].mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS))
    args = parser.parse_args()
    with open(OUTPUT, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["agent", "seed", "last_10_training_games", "5_test_games"])
        for agent in args.agents:
            found = []
            for seed in range(1, args.seeds + 1):
                found.append(play(agent, seed))
                writer.writerow([agent, seed, *(f"{mean:.1f}" for mean in found[-1])])
                print(agent, seed, found[-1], flush=True)
            training, tests = zip(*found, strict=True)
            print(
                f"{agent}: training {statistics.fmean(training):.1f}; tests mean {statistics.fmean(tests):.1f}, median "
                f"{statistics.median(tests):.1f}, from {min(tests):.1f} to {max(tests):.1f}; {args.seeds} seeds"
            )


if __name__ == "__main__":
    main()
