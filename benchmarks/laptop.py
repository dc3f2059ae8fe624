"""Benchmark the laptop preset: minutes until Pong is solved, and its scores in other games, with Nature's, after 15.

    make -C benchmarks laptop                                    # pong, games and draw: up to 100 minutes
    benchmarks/laptop.py pong --seeds 1 2 3        # sequentially, on two cores each
    benchmarks/laptop.py games                     # Breakout, Boxing, Freeway: laptop and nature at the same time, on
                                                   # a core each, for 15 minutes; then 30 games each
    benchmarks/laptop.py cleanrl --cleanrl PATH --cleanrl-python PYTHON --minutes 15
    benchmarks/laptop.py draw                      # from the runs in runs/laptop

Minutes are wall-clock time of the whole command, including loading, warm-up and logging. Solved means a mean raw return
of 18 over 20 consecutive training games. Writes benchmarks/results/laptop*.csv and laptop.png, and the preset's
reference curves to atari_dqn/data/curves.csv.
"""

import argparse
import collections
import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from atari_dqn.data import scores
from atari_dqn.tracking import curves
from atari_dqn.tracking.curves import read as rows

ROOT = Path(__file__).parent.parent
RUNS, RESULTS = ROOT / "runs" / "laptop", Path(__file__).parent / "results"
GAMES_TO_SOLVE, SOLVED = 20, 18
GOAL = f"env.goals=[{{score: {SOLVED}, games: {GAMES_TO_SOLVE}, note: solved, stop: true}}]"
CORES = sorted(os.sched_getaffinity(0))[:2]


def folder(game: str, preset: str, seed: int) -> Path:
    return RUNS / f"{game}-{preset}-seed{seed}"


def start(words: Sequence[str], cores: Iterable[int], log: Path, **variables: str) -> subprocess.Popen[str]:
    """Run a command on the given cores, with its output in `log`."""
    cores = set(cores)
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(
            words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(len(cores)), **variables},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip


def train(game: str, preset: str, seed: int, cores: Iterable[int], *more: str) -> subprocess.Popen[str]:
    run = folder(game, preset, seed)
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    words = [f"env.game={game}", f"preset={preset}", f"seed={seed}", f"run_dir={run}", "logger.wandb=off", *more]
    return start([sys.executable, "-m", "atari_dqn", "train", *words], cores, run.with_suffix(".log"))


def add(path: Path, keys: Sequence[str], row: dict[str, object]) -> None:
    """Write a row to a CSV file, replacing one with the same `keys`, and print it."""
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    kept = [old for old in rows(path) if any(old[key] != str(row[key]) for key in keys)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        writer.writeheader()
        writer.writerows(sorted([*kept, row], key=lambda each: [str(each[key]) for key in keys]))


def pong(seeds: Sequence[int], minutes: float) -> None:
    for seed in seeds:
        began = time.perf_counter()
        process, run = train("Pong", "laptop", seed, CORES, GOAL), folder("Pong", "laptop", seed)
        solved = None
        while process.poll() is None and solved is None and time.perf_counter() - began < 60 * minutes:
            time.sleep(0.25)
            if "solved: mean return" in run.with_suffix(".log").read_text():
                solved = (time.perf_counter() - began) / 60
        if solved is None:
            process.send_signal(signal.SIGINT)
        process.wait()
        last = rows(run / "episodes.csv")[-1]
        returns = [float(row["return"]) for row in rows(run / "episodes.csv")]
        final = [row for row in rows(run / "evaluations.csv") if row["network"] == "current"]
        add(
            RESULTS / "laptop-pong.csv",
            ["seed"],
            {
                "seed": seed,
                "minutes_to_18": f"{solved:.2f}" if solved else "",
                "agent_steps": last["agent_steps"],
                "updates": last["updates"],
                "return_mean_20": f"{statistics.fmean(returns[-GAMES_TO_SOLVE:]):.2f}",
                "evaluation_mean": final[-1]["mean"] if final else "",
                "evaluation_games": final[-1]["episodes"] if final else "",
            },
        )


def games(
    names: Sequence[str], presets: Sequence[str], more: Sequence[str], seed: int, minutes: float, episodes: int
) -> None:
    """Train two runs in parallel, on a core each, then evaluate them. `more`: additional settings."""
    jobs = [(game, preset) for game in names for preset in presets]
    for pair in (jobs[i : i + 2] for i in range(0, len(jobs), 2)):
        cores = dict(zip(pair, ([core] for core in CORES), strict=False))
        began = time.perf_counter()
        processes = [
            train(*job, seed, cores[job], "total_steps=50_000_000", "evaluation.every_steps=1_000_000_000", *more)
            for job in pair
        ]
        time.sleep(max(0.0, 60 * minutes - (time.perf_counter() - began)))
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()
        judged = {}
        for job in pair:
            run = folder(*job, seed)
            words = ["evaluate", f"checkpoint={run}", "protocol=nature", f"evaluation.episodes={episodes}"]
            words += [f"output={run}.json", "seed=1000"]
            judged[job] = start([sys.executable, "-m", "atari_dqn", *words], cores[job], Path(f"{run}.eval.log"))
        for (game, preset), process in judged.items():
            process.wait()
            run = folder(game, preset, seed)
            last = rows(run / "metrics.csv")[-1]
            result = json.loads(Path(f"{run}.json").read_text(encoding="utf-8"))["summary"]
            add(
                RESULTS / "laptop-games.csv",
                ["game", "preset", "seed"],
                {
                    "game": game,
                    "preset": " ".join([preset, *more]),
                    "seed": seed,
                    "minutes": f"{minutes:g}",
                    "agent_steps": last["agent_steps"],
                    "updates": last["updates"],
                    "mean": f"{result['mean']:.2f}",
                    "sd": f"{result['sd']:.2f}",
                    "games": result["episodes"],
                },
            )


def cleanrl(source: Path, python: Path, minutes: float) -> None:
    """Run CleanRL's dqn_atari.py with its defaults for the given minutes.

    Its replay of 1M transitions allocates 26.3 GiB at once, more than a laptop has. It gets half: at 138 steps per
    second an hour fills no more, so the result is the same.
    """
    log = RUNS / "cleanrl.log"
    RUNS.mkdir(parents=True, exist_ok=True)
    games_too = "import ale_py, runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    words = [str(python), "-c", games_too, str(source.resolve() / "cleanrl" / "dqn_atari.py")]
    words += ["--env-id", "PongNoFrameskip-v4", "--seed", "1", "--buffer-size", "500000"]
    process = start(words, CORES, log, PYTHONPATH=str(source.resolve()))
    stop = threading.Timer(60 * minutes, process.kill)
    stop.start()
    process.wait()
    stop.cancel()
    found = [(int(step), float(score)) for step, score in re.findall(
        r"global_step=(\d+), episodic_return=\[?(-?[\d.]+)", log.read_text()
    )]  # fmt: skip
    if not found:
        raise SystemExit(f"CleanRL finished no game; see its output in {log}")
    last = [score for _, score in found[-GAMES_TO_SOLVE:]]
    add(
        RESULTS / "laptop-cleanrl.csv",
        ["minutes"],
        {
            "minutes": f"{minutes:g}",
            "agent_steps": found[-1][0],
            "return_mean_20": f"{statistics.fmean(last):.2f}",
            "best_game": max(score for _, score in found),
        },
    )


def expect() -> None:
    """Write the runs' mean training returns per 100,000 frames as the preset's published curve.

    A solved run ends and is extended with its last value. Games with fewer runs than data/agents.csv states are left
    out.
    """
    data, every_frames = ROOT / "atari_dqn" / "data" / "curves.csv", int(scores.agents()["laptop"].every_frames)
    runs_of = collections.Counter(run.name.split("-")[0] for run in RUNS.glob("*-laptop-seed*/"))
    played = sorted(game for game, runs in runs_of.items() if runs >= int(scores.agents()["laptop"].seeds))
    known = [row for row in rows(data) if row["agent"] != "laptop" or row["game"] not in played]
    for game in played:
        runs = [curves.training(rows(run / "episodes.csv"), every_frames) for run in RUNS.glob(f"{game}-laptop-seed*/")]
        whole = [[point.mean for point in points[:-1]] for points in runs]  # the last interval is incomplete
        longest = max(map(len, whole))
        parts = list(zip(*(means + means[-1:] * (longest - len(means)) for means in whole), strict=True))
        spreads = [statistics.stdev(part) if len(part) > 1 else 0.0 for part in parts]
        means = " ".join(f"{statistics.fmean(part):.4g}" for part in parts)
        known.append({"agent": "laptop", "game": game, "means": means, "sds": " ".join(f"{sd:.4g}" for sd in spreads)})
    with open(data, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, known[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(known, key=lambda row: (row["agent"], row["game"])))


def draw() -> None:
    """Plot each seed's mean return of the last 20 games against minutes."""
    runs = sorted(RUNS.glob("Pong-laptop-seed*/"))
    if not runs:
        raise SystemExit(f"no run of Pong in {RUNS}; create some with `make -C benchmarks laptop ARGS=pong`")
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for run in runs:
        played = rows(run / "episodes.csv")
        returns = [float(row["return"]) for row in played]
        minutes = [float(row["seconds"]) / 60 for row in played]
        means = [statistics.fmean(returns[max(0, i - GAMES_TO_SOLVE) : i]) for i in range(1, len(returns) + 1)]
        axes.plot(minutes, means, label=run.name.removeprefix("Pong-laptop-").replace("seed", "seed "))
    axes.axhline(SOLVED, color="gray", linestyle="--", linewidth=1)
    axes.set_xlabel("minutes on two CPU cores")
    axes.set_ylabel("Pong: mean raw return of the last 20 games")
    axes.set_title("make train GAME=Pong PRESET=laptop, until solved")
    axes.set_xlim(0)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(RESULTS / "laptop.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=["all", "pong", "games", "cleanrl", "draw"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--games", nargs="+", default=["Breakout", "Boxing", "Freeway"])
    parser.add_argument("--presets", nargs="+", default=["laptop", "nature"])
    parser.add_argument("--more", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--cleanrl", type=Path)
    parser.add_argument("--cleanrl-python", type=Path)
    asked = parser.parse_args()
    if asked.what in ("all", "pong"):
        pong(asked.seeds, asked.minutes)
    if asked.what in ("all", "games"):
        games(asked.games, asked.presets, asked.more, asked.seeds[0], asked.minutes, asked.episodes)
    if asked.what in ("all", "cleanrl") and asked.cleanrl:
        cleanrl(asked.cleanrl, asked.cleanrl_python, asked.minutes)
    if asked.what in ("all", "draw"):
        draw()
        expect()


if __name__ == "__main__":
    main()
