"""Benchmark a sweep of 3 games x 2 seeds on a local Ray cluster of several raylets, one of which is killed.

    python benchmarks/sweep.py kill     # compare the weights of an undisturbed sweep and of one that lost a node
    python benchmarks/sweep.py time     # six runs, two at a time against sequentially
    python benchmarks/sweep.py actors   # emulators in Ray actors against local ones

All processes of the killed node get SIGKILL, as in a power failure; its runs resume elsewhere from their checkpoints.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from atari_dqn.config import compose
from atari_dqn.envs import factory
from atari_dqn.envs.remote import RemoteEmulators
from atari_dqn.tracking import curves
from atari_dqn.utils import machine

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import torture  # noqa: E402
from clusters import command, environment, lose_a_node  # noqa: E402

GAMES, SEEDS = ("Pong", "Breakout", "Seaquest"), (1, 2)
SHORT = [
    "num_envs=4", "replay.capacity=4000", "replay.warmup_steps=400", "checkpoint.every_steps=500",
    "checkpoint.cut_every_turns=375", "update.target_period_steps=300", "exploration.decay_steps=2000",
    "evaluation.every_steps=100000", "evaluation.episodes=1", "evaluation.held_out_states=0",
    "protocol.max_frames=2000", "logger.every_steps=200", "logger.wandb=off", "logger.tensorboard=false",
    "evaluation.video_seconds=0",
]  # fmt: skip


def sweep(storage: Path, steps: int, *words: str, games: tuple[str, ...] = GAMES) -> list[str]:
    return command(
        "sweep", f"sweep.games={','.join(games)}", f"sweep.seeds={len(SEEDS)}", f"sweep.storage={storage}",
        *SHORT, f"total_steps={steps}", *words,
    )  # fmt: skip


def timed(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True, env=environment())
    return time.perf_counter() - began


def went_on(storage: Path) -> int:
    """How often runs of the sweep resumed from a checkpoint."""
    return sum(path.read_text().count("resuming ") for path in storage.glob("*.log"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kill", "time", "actors"))
    parser.add_argument("--steps", type=int, default=4000, help="agent steps per run")
    parser.add_argument("--folder", type=Path, default=Path("runs/sweep-proof"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    asked = parser.parse_args()
    rows = {"kill": prove, "time": measure, "actors": race_actors}[asked.what](asked)
    if asked.csv:
        with open(asked.csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def prove(asked: argparse.Namespace) -> list[dict[str, Any]]:
    whole, broken = asked.folder.absolute() / "undisturbed", asked.folder.absolute() / "node-killed"
    print(f"undisturbed: {timed(sweep(whole, asked.steps)):.1f} s")
    began = time.perf_counter()
    running = lose_a_node(broken, sweep(broken, asked.steps), asked.steps)
    print(f"with a node killed: {time.perf_counter() - began:.1f} s; {went_on(broken)} resumed from a checkpoint")
    rows = []
    for folder in sorted(whole.glob("*-seed?")):
        expected, found = torture.left_behind(folder), torture.left_behind(broken / folder.name)
        differ = [key for key in expected if expected[key] != found[key]]
        log = (broken / f"{folder.name}.log").read_text()
        rows.append(
            {
                "run": folder.name,
                "agent_steps": asked.steps,
                "steps_when_the_node_was_killed": running.get(folder.name, ""),
                "went_on_from_a_checkpoint": log.count("resuming "),
                "weights_sha256": found["online"][:16],
                "equal": not differ,
            }
        )
        print(f"{folder.name}: {'bit-identical' if not differ else f'DIFFERS in {differ}'}")
    if not all(row["equal"] for row in rows) or not went_on(broken):
        raise SystemExit("a run differs, or none was restarted")
    return rows


def measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Six runs, alternating: sequential commands on the whole machine; sequential in Ray; two at a time in Ray."""
    rows = []
    for round_ in range(asked.rounds):
        parent = asked.folder.absolute() / f"round{round_}"
        commands = sum(
            timed(
                command(
                    "train", *SHORT, f"total_steps={asked.steps}", f"env.game={game}", f"seed={seed}",
                    f"run_dir={parent / 'commands' / f'{game}-{seed}'}",
                )
            )
            for game in GAMES
            for seed in SEEDS
        )  # fmt: skip
        alone = timed(sweep(parent / "alone", asked.steps, f"sweep.cpus={machine.cpus()}"))
        together = timed(sweep(parent / "together", asked.steps, f"sweep.cpus={machine.cpus() // 2}"))
        rows.append(
            {
                "round": round_ + 1,
                "agent_steps": asked.steps,
                "commands_one_after_another_seconds": round(commands, 1),
                "ray_one_after_another_seconds": round(alone, 1),
                "ray_two_at_once_seconds": round(together, 1),
                "two_at_once_by_commands": round(together / commands, 3),
                "ray_seconds_per_run": round((alone - commands) / len(GAMES) / len(SEEDS), 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def race_actors(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Agent steps per second of 16 games of Pong, emulators only and while learning, alternating."""
    rows = []
    config = compose.to_train_config(compose.compose("train", ["env.game=Pong", "emulators=ray"]))
    games = {
        "local": factory.make_emulators(config.env, config.num_envs),
        "ray": RemoteEmulators(config.env, config.num_envs, config.emulators),
    }
    chance = np.random.default_rng(0)
    for round_ in range(asked.rounds):
        for name, envs in games.items():
            envs.reset([*range(config.num_envs)])
            began, turns = time.perf_counter(), 400
            for _ in range(turns):
                envs.send(chance.integers(len(envs.actions), size=config.num_envs))
                envs.recv()
            rate = turns * config.num_envs / (time.perf_counter() - began)
            rows.append({"round": round_ + 1, "what": "emulators alone", "emulators": name, "steps_per_second": rate})
    for envs in games.values():
        envs.close()
    for round_ in range(asked.rounds):
        for name in games:
            folder = asked.folder.absolute() / f"actors-{name}-{round_}"
            timed(command(
                "train", *SHORT, "env.game=Pong", "num_envs=16", f"emulators={name}", f"total_steps={asked.steps}",
                f"run_dir={folder}", "checkpoint.cut_every_turns=null",
            ))  # fmt: skip
            last = curves.read(folder / "metrics.csv")[5:]
            rate = statistics.median(float(row["frames_per_second"]) / config.env.frame_skip for row in last)
            rows.append({"round": round_ + 1, "what": "learning", "emulators": name, "steps_per_second": rate})
    for row in rows:
        row["steps_per_second"] = round(row["steps_per_second"])
    for what in ("emulators alone", "learning"):
        medians = {
            name: statistics.median(
                row["steps_per_second"] for row in rows if (row["what"], row["emulators"]) == (what, name)
            )
            for name in games
        }
        print(f"{what}, agent steps per second, medians: {medians}", flush=True)
    return rows


if __name__ == "__main__":
    main()
