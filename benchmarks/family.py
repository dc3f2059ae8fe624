"""Compare the DQN variants: learning curves, speed, lines of code.

    make -C benchmarks family                                  # all three, about 2 hours
    benchmarks/family.py learn --games Assault Breakout --steps 300000 --seed 1   # 6 variants, sequentially
    benchmarks/family.py speed                   # 5 minutes
    benchmarks/family.py draw                    # from the runs of `learn` in runs/family

All variants share conf/train.yaml with the changes in COMMON; each only adds its own settings.
Writes benchmarks/results/family-<game>.csv, family.png and family-speed.csv.
"""

import argparse
import contextlib
import csv
import inspect
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.table import Table
from speed import wait

from atari_dqn.config import compose
from atari_dqn.dqn import agent, bootstrap, heads, layers, networks, prioritized, replay, targets
from atari_dqn.dqn.loop import StepInfo, training_loop
from atari_dqn.tracking import curves
from atari_dqn.training import launch
from atari_dqn.utils import machine
from atari_dqn.utils.console import Console

ROOT = Path(__file__).parent.parent
RUNS, RESULTS = ROOT / "runs" / "family", Path(__file__).parent / "results"
COMMON = [
    "network=small_cnn", "protocol=training", "optimizer.learning_rate=3e-4", "exploration.decay_steps=50_000",
    "evaluation.every_steps=10_000", "evaluation.video_seconds=0", "logger.wandb=off", "logger.tensorboard=false",
]  # fmt: skip


class Variant(NamedTuple):
    switches: list[str]
    adds: str
    parts: Sequence[Any] = ()  # functions, classes and files used by this variant only
    also: str = "(?!)"  # and lines with this pattern


def code(source: str) -> list[str]:
    """Source lines, without blank lines, comments and docstrings."""
    kept: set[int] = set()
    after, source = tokenize.NEWLINE, inspect.cleandoc(source) + "\n"
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and after in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        if token.type not in blank and not docstring:
            kept.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            after = token.type
    return [line for number, line in enumerate(source.splitlines(), 1) if number in kept]


PRIORITIZED = ["replay.prioritized=true", "replay.importance_steps={steps}"]
NOISY = ["agent.noisy=true", "exploration.start=0", "exploration.end=0"]
QUANTILES = [heads.Quantiles, targets.quantile_huber]
VARIANTS = {
    "DQN": Variant([], "the baseline: hard target copies, uniform replay"),
    "Double": Variant(["agent.double=true"], "the online network selects the target's action", [bootstrap.Double]),
    "Dueling": Variant(
        ["agent.dueling=true"], "separate streams for value and advantages",
        also=r"self\.value\b|dueling|branch_scale|v\.unsqueeze",
    ),
    "Prioritized": Variant(PRIORITIZED, "samples by TD error, with importance weights", [prioritized]),
    "3-step": Variant(
        ["agent.n_step=3"], "three rewards before bootstrapping", also=r"\balive\b|\btaken\b|torch.arange\(n_step"
    ),
    "Noisy": Variant(
        NOISY, "noisy weights for exploration", [layers.NoisyDense, networks.QNetwork.draw_noise],
        also=r"noise_size|noise is None|layer\.sizes|draw_noise\(|agent\.noisy",
    ),
    "C51": Variant(
        ["head=c51"], "return distribution over 51 atoms",
        [heads.Categorical, targets.categorical, targets.divergence],
    ),
    "QR-DQN": Variant(["head=qr"], "200 quantiles of the return", QUANTILES),
    "IQN": Variant(
        ["head=iqn"], "randomly sampled quantiles",
        [*QUANTILES, heads.ImplicitQuantiles, networks.QNetwork._asked], also=r"embedding|values\.draw",
    ),
    "Munchausen": Variant(
        ["agent.munchausen=true"], "softmax policy, its log-probability added to rewards",
        [bootstrap.Munchausen, targets.munchausen],
    ),
    "Rainbow": Variant(
        ["head=c51", "agent.double=true", "agent.dueling=true", "agent.n_step=3", *NOISY, *PRIORITIZED,
         "replay.priority_exponent=0.5"],
        "Double, Dueling, Prioritized, 3-step, Noisy, C51",
    ),
}  # fmt: skip
LEARNT = ("DQN", "Double", "Dueling", "Prioritized", "3-step", "Rainbow")
COLOURS = dict(zip(LEARNT, ("#000000", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00"), strict=True))


def lines(name: str) -> int:
    """Lines of code added by a variant."""
    variant = VARIANTS[name]
    kept = {(part.__name__, line) for part in variant.parts for line in code(inspect.getsource(part))}
    own = {line for _, line in kept}
    for module in (layers, networks, agent, bootstrap, replay):
        found = [line for line in code(inspect.getsource(module)) if re.search(variant.also, line)]
        kept |= {(module.__name__, line) for line in found if line.strip() not in {one.strip() for one in own}}
    return len(kept)


def overrides(name: str, steps: int) -> list[str]:
    return [*COMMON, *(word.format(steps=steps) for word in VARIANTS[name].switches)]


def folder(game: str, name: str, seed: int) -> Path:
    return RUNS / f"{game}-{name}-seed{seed}"


def learn(games: list[str], steps: int, seed: int) -> None:
    """Train all variants on every game; interrupted runs are resumed."""
    for game in games:
        for name in LEARNT:
            run = folder(game, name, seed)
            words = [f"env.game={game}", f"total_steps={steps}", f"replay.capacity={steps}", f"seed={seed}"]
            words += [f"run_dir={run}", *overrides(name, steps)]
            if (run / "config.yaml").exists():
                words = [f"resume={run}", f"total_steps={steps}"]
            if subprocess.run([sys.executable, "-m", "atari_dqn", "train", *words], cwd=ROOT).returncode:
                sys.exit(f"{name} on {game} failed")


class Contestant:
    """A run that can be advanced for some seconds at a time."""

    def __init__(self, name: str, network: str, at: Path) -> None:
        words = [*overrides(name, 10**6), f"network={network}", "env.game=Breakout", "total_steps=1_000_000_000",
                 "replay.capacity=20_000", "replay.warmup_steps=2_000", f"run_dir={at}", "evaluation.held_out_states=0",
                 "exploration.decay_steps=1", "env.noop_max=0"]  # fmt: skip
        config = compose.to_train_config(compose.compose("train", words))
        self.run = launch.prepare(config, Console(quiet=True))
        self._loop = training_loop(self.run.emulators, self.run.replay, self.run.agent, config, self.run.streams)
        self._until(lambda record: record.updates >= 20)
        self.rates: list[float] = []

    def _until(self, enough: Callable[[StepInfo], bool]) -> int:
        for record in self._loop:
            if enough(record):
                return record.agent_steps
        raise AssertionError

    def drive(self, seconds: float) -> None:
        """Measure agent steps per second and append them to `rates`."""
        before, start = next(self._loop).agent_steps, time.perf_counter()
        after = self._until(lambda record: time.perf_counter() - start >= seconds)
        wait(self.run.device)
        self.rates.append((after - before) / (time.perf_counter() - start))


def speed(rounds: int, seconds: float, network_names: list[str]) -> None:
    """Measure all variants in one process, alternating; prints medians."""
    measured: dict[str, dict[str, float]] = {name: {} for name in VARIANTS}
    for network in network_names:
        with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
            contestants = {name: Contestant(name, network, Path(temporary) / name) for name in VARIANTS}
            for contestant in contestants.values():
                stack.callback(contestant.run.emulators.close)
            for _ in range(rounds):
                for contestant in contestants.values():
                    contestant.drive(seconds)
            for name, contestant in contestants.items():
                measured[name][network] = statistics.median(contestant.rates)
    view = Table("variant", "adds", "lines", *(f"{n}: steps/s" for n in network_names), "time per step")
    with open(RESULTS / "family-speed.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "adds", "switches", "lines_of_code"]
                        + [f"{n}_steps_per_second" for n in network_names]
                        + [f"{n}_time_per_step_of_dqn" for n in network_names])  # fmt: skip
        for name, variant in VARIANTS.items():
            rates = [measured[name][network] for network in network_names]
            ratios = [measured["DQN"][n] / rate for n, rate in zip(network_names, rates, strict=True)]
            switches = " ".join(word for word in variant.switches if "{" not in word)
            writer.writerow([name, variant.adds, switches, lines(name), *(f"{r:.0f}" for r in rates),
                             *(f"{r:.2f}" for r in ratios)])  # fmt: skip
            view.add_row(name, variant.adds, str(lines(name)), *(f"{r:.0f}" for r in rates),
                         " / ".join(f"{r:.2f}" for r in ratios))  # fmt: skip
    Console(width=140).print(view)
    print(f"{torch.get_num_threads()} threads of {machine.cpus()} cores; medians of {rounds} x {seconds:g} s")


BIN_FRAMES = 80_000  # 20,000 agent steps


def draw(games: list[str], seeds: list[int], steps: int) -> None:
    """Write all runs' training returns and held-out Q-values up to `steps` as CSV, and a plot."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, len(games), squeeze=False)
    for column, game in enumerate(games):
        rows: list[list[Any]] = []
        for name in LEARNT:
            for seed in seeds:
                run = folder(game, name, seed)
                points = curves.training(curves.read(run / "episodes.csv"), BIN_FRAMES)
                points = [point for point in points if point.frames <= 4 * steps]
                held_out = {
                    int(row["frames"]): float(row["held_out_q"])
                    for row in curves.read(run / "evaluations.csv")
                    if row["network"] == "current" and int(row["agent_steps"]) <= steps
                }
                for point in points:
                    q = held_out.get(point.frames)
                    rows.append([name, seed, point.frames, point.frames // 4, f"{point.mean:.6g}", f"{point.sd:.6g}",
                                 point.games, "" if q is None else f"{q:.6g}"])  # fmt: skip
                style: dict[str, Any] = {"color": COLOURS[name], "linewidth": 2 if name in ("DQN", "Rainbow") else 1.4}
                label = name if seed == seeds[0] else None
                axes[0][column].plot([p.frames / 4e3 for p in points], [p.mean for p in points], label=label, **style)
                axes[1][column].plot([f / 4e3 for f in held_out], list(held_out.values()), label=label, **style)
        with open(RESULTS / f"family-{game}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["variant", "seed", "frames", "agent_steps", "return_mean", "return_sd", "games", "held_out_q"]
            )
            writer.writerows(rows)
        axes[0][column].set_title(game)
        axes[0][column].set_ylabel("mean raw return of training games\nper 20,000 steps")
        axes[1][column].set_ylabel("mean max Q-value on held-out states")
        for row in axes:
            row[column].set_xlabel("thousand agent steps (of 4 frames)")
            row[column].grid(alpha=0.25)
            row[column].set_xlim(0, 1.02 * steps / 1000)
    axes[0][0].legend(frameon=False)
    figure.savefig(RESULTS / "family.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["learn", "speed", "draw"], nargs="*", default=["learn", "speed", "draw"])
    parser.add_argument("--games", nargs="+", default=["Assault", "Breakout"])
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--networks", nargs="+", default=["small_cnn", "nature_cnn"])
    args = parser.parse_args()
    if "learn" in args.what:
        for seed in args.seed:
            learn(args.games, args.steps, seed)
    if "speed" in args.what:
        speed(args.rounds, args.seconds, args.networks)
    if "draw" in args.what:
        draw(args.games, args.seed, args.steps)


if __name__ == "__main__":
    main()
