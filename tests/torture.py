"""Kill a run with SIGKILL again and again, resume it each time, and compare what it leaves with an untouched run's.

Everything must be equal to the bit: both networks, the optimiser, the random generators, the replay, and every row of
the CSV files but for its times. A third of the kills hit at any moment of the start or the training, a third while a
checkpoint or a replay file is being written, a third right after one got its name.

    python tests/torture.py --kills 50 --csv benchmarks/results/torture.csv
"""

import argparse
import contextlib
import csv
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.replay_files import ReplayFiles, segments
from atari_dqn.dqn.replay import Replay, torch_dtype

ROOT = Path(__file__).parent.parent
GAMES = {
    "Pong": [
        "env.game=Pong", "num_envs=4", "replay.capacity=2500", "replay.warmup_steps=400", "checkpoint.every_steps=200",
        "checkpoint.cut_every_turns=375", "update.target_period_steps=300", "exploration.decay_steps=2000",
        "evaluation.every_steps=2500", "evaluation.episodes=1", "evaluation.held_out_states=20",
        "protocol.max_frames=400", "logger.every_steps=150", "env.max_frames=1500",
    ],
    "CartPole": [
        "env=cartpole", "env.goals=[]", "replay.capacity=6000", "checkpoint.every_steps=200",
        "checkpoint.cut_every_turns=500", "logger.every_steps=300", "evaluation.every_steps=9000",
        "evaluation.episodes=2",
    ],
}  # fmt: skip
TIMES = ("seconds", "frames_per_second", "time_")  # columns that no two runs share


class Outcome(NamedTuple):
    game: str
    agent_steps: int
    kills: int
    while_saving: int
    weights_sha256: str
    equal: bool
    seconds: float


def command(game: str, folder: Path, steps: int, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "atari_dqn", "train", *GAMES[game], f"total_steps={steps}", f"run_dir={folder}",
        "resume=auto", "logger.wandb=off", "logger.tensorboard=false", "evaluation.video_seconds=0", *more,
    ]  # fmt: skip


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=900)[0]
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}:\n{said}")
    return said


def saving(folder: Path) -> bool:
    for part in ("checkpoints", "replay"):
        with contextlib.suppress(FileNotFoundError):
            if any(name.startswith(".") and ".tmp" in name for name in os.listdir(folder / part)):
                return True
    return False


def digest(node: Any, into: Any) -> None:
    """Feed all numbers of nested plain data and tensors into a hash."""
    if isinstance(node, torch.Tensor):
        into.update(node.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(node, dict):
        for key in node:
            into.update(repr(key).encode())
            digest(node[key], into)
    else:
        into.update(repr(node).encode())


def left_behind(folder: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was killed; raises where a file is damaged or lost."""
    said: list[str] = []
    resumed = checkpoints.newest(folder, said.append)
    before = checkpoints.Checkpoint(folder / "checkpoints" / "previous.pt").content["replay"]["segments"]
    if lost := ReplayFiles(folder / "replay", segments(before)).drop_damaged():
        said.append(f"previous.pt lacks {lost}")
    if said or resumed is None:
        raise SystemExit(f"{folder}: {said or 'no checkpoint'}")
    content, config = resumed.checkpoint.content, resumed.checkpoint.config
    hashes = {}
    for part in (
        "online", "target", "optimizer", "sums", "generators", "emulators", "goals_reached", "best_score",
        "recent_returns", "examined_steps", "confirmed", "over", "gradient_norm",
    ):  # fmt: skip
        sha256 = hashlib.sha256()
        digest(content[part], sha256)
        hashes[part] = sha256.hexdigest()
    written = content["replay"]["written"]
    replay = Replay(
        -(-config.replay.capacity // config.num_envs) + 1,
        config.num_envs,
        resumed.checkpoint.frame_shape,
        torch_dtype(torch.zeros(0, dtype=getattr(torch, resumed.checkpoint.frame_dtype)).numpy().dtype),
        config.env.frame_stack,
    )
    resumed.files.load(replay, written, len(resumed.checkpoint.actions))
    sha256 = hashlib.sha256()
    digest(dict(enumerate(replay.read(max(0, written - replay.rows), written))), sha256)
    hashes["replay"] = sha256.hexdigest()
    for name in ("metrics", "episodes", "evaluations"):
        with open(folder / f"{name}.csv", newline="") as file:
            hashes[name] = [
                {key: value for key, value in row.items() if not key.startswith(TIMES)} for row in csv.DictReader(file)
            ]
    hashes["steps"] = [content[key] for key in ("agent_steps", "updates", "games", "events", "finished")]
    hashes["litter"] = sorted(path.name for path in folder.rglob(".*.tmp*"))
    return hashes


def torture(game: str, steps: int, kills: int, seed: int, parent: Path, *more: str, most_seconds: float = 8) -> Outcome:
    """Raises SystemExit where the killed run is not equal to the untouched one.

    Args:
        more: further settings.
        most_seconds: that a run lives which is killed at any moment.
    """
    began, chance = time.time(), random.Random(seed)
    untouched, tortured = parent / f"{game}-untouched", parent / f"{game}-tortured"
    finish(start(command(game, untouched, steps, *more)))
    lived = time.time() - began
    while_saving = done = 0
    while done < kills:
        process = start(command(game, tortured, steps, *more))
        way, patience = done % 3, chance.uniform(0, 2)
        if way == 0:  # at any moment
            time.sleep(chance.uniform(0, most_seconds))
        else:
            deadline = time.time() + 60
            while time.time() < deadline and process.poll() is None:
                if saving(tortured) and (patience := patience - 0.4) < 0:
                    if way == 2:
                        while saving(tortured):
                            time.sleep(0.0005)
                    else:
                        time.sleep(chance.uniform(0, 0.002))
                    break
                time.sleep(0.001)
        if process.poll() is not None:
            finish(process)
            raise SystemExit(f"{game}: finished after {done} kills; give more --steps")
        in_a_save = saving(tortured)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        while_saving += in_a_save or saving(tortured)
        done += 1
        print(f"\r{game}: killed {done} times, {while_saving} of them while saving ", end="", flush=True)
    print()
    finish(start(command(game, tortured, steps, *more)))
    expected, found = left_behind(untouched), left_behind(tortured)
    different = [key for key in expected if expected[key] != found[key]]
    outcome = Outcome(game, steps, kills, while_saving, found["online"][:16], not different, round(time.time() - began))
    print(f"{game}: {'equal to the bit' if not different else 'DIFFERENT in ' + ', '.join(different)}; {outcome}")
    print(f"(untouched: {lived:.0f} s, {len(expected['episodes'])} episodes)")
    if different or (kills >= 20 and not while_saving):
        raise SystemExit(1)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=list(GAMES), choices=list(GAMES))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, help="agent steps (Pong 12,000; CartPole 400,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="write the outcomes to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        outcomes = [
            torture(
                game, asked.steps or {"Pong": 12_000, "CartPole": 400_000}[game], asked.kills, asked.seed, Path(parent)
            )
            for game in asked.games
        ]
    if asked.csv:
        with open(asked.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Outcome._fields)
            writer.writerows(outcomes)


if __name__ == "__main__":
    main()
