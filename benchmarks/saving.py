"""Measure the cost of saving and loading a full replay of a real game: seconds, bytes on disk, memory.

The replay is filled by random play, which takes a few minutes, saved as in a run (first in full, then incrementally at
the next checkpoint), and loaded in a separate process.

    python benchmarks/saving.py --game Pong --capacity 1_000_000
"""

import argparse
import csv
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from atari_dqn.checkpoint import replay_files
from atari_dqn.checkpoint.replay_files import ReplayFiles
from atari_dqn.config import compose
from atari_dqn.dqn.replay import Replay
from atari_dqn.envs import factory
from atari_dqn.envs.base import Emulators
from atari_dqn.envs.journal import Journal
from atari_dqn.utils import machine

LATER = 50_000  # agent steps between two checkpoints, as in conf/train.yaml


class Peak(threading.Thread):
    """Peak resident memory of this process while the block runs, in bytes above its start."""

    def __enter__(self) -> "Peak":
        self._process, self._ended = psutil.Process(), threading.Event()
        self._first = self._most = self._process.memory_info().rss
        self.start()
        return self

    def run(self) -> None:
        while not self._ended.wait(0.002):
            self._most = max(self._most, self._process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()

    @property
    def bytes(self) -> int:
        return self._most - self._first


def play(games: Emulators, replay: Replay, agent_steps: int, chance: np.random.Generator) -> None:
    for _ in range(-(-agent_steps // games.num_envs)):
        actions = chance.integers(len(games.actions), size=games.num_envs)
        games.send(actions)
        turn = games.recv()
        parts = (torch.from_numpy(part) for part in (actions, turn.rewards, turn.frames, turn.flags))
        replay.write(*parts)


def digest(replay: Replay) -> str:
    sha256 = hashlib.sha256()
    for part in replay.parts():
        sha256.update(memoryview(part.view(-1).view(torch.uint8).numpy()))
    return sha256.hexdigest()


def empty(capacity: int, num_envs: int) -> Replay:
    return Replay(-(-capacity // num_envs) + 1, num_envs, (84, 84))


def load(folder: Path, num_envs: int, capacity: int) -> None:
    """Print the cost of loading; called in a separate process."""
    known = json.loads((folder / "listing.json").read_text())
    start = time.perf_counter()
    replay = empty(capacity, num_envs)
    taken = time.perf_counter()
    with Peak() as peak:
        files = ReplayFiles(folder, replay_files.segments(known["segments"]))
        damaged = files.drop_damaged()
        checked = time.perf_counter()
        files.load(replay, known["written"], 18)
        ended = time.perf_counter()
    print(json.dumps({
        "damaged": len(damaged), "allocate": taken - start, "check": checked - taken, "load": ended - checked,
        "extra_bytes": peak.bytes, "resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "sha256": digest(replay),
    }))  # fmt: skip


def measure(game: str, capacity: int, num_envs: int) -> dict[str, Any]:
    config = compose.to_train_config(compose.compose("train", [f"env.game={game}", f"num_envs={num_envs}"]))
    games, replay, chance = (
        factory.make_emulators(config.env, num_envs),
        empty(capacity, num_envs),
        np.random.default_rng(1),
    )
    games.reset([0] * num_envs)
    start = time.perf_counter()
    replay.begin(torch.from_numpy(games.reset(list(range(num_envs)))))
    begin = time.perf_counter() - start
    play(games, replay, capacity, chance)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as name:
        folder = Path(name) / "replay"
        files = ReplayFiles(folder)
        rows = replay_files.rows_in_a_file(replay)
        with Peak() as peak:
            start = time.perf_counter()
            files.write(replay, replay.written)
            whole = time.perf_counter() - start
        play(games, replay, LATER, chance)
        start = time.perf_counter()
        files.write(replay, replay.written)
        more = time.perf_counter() - start
        files.tidy(files.held(replay, replay.written))
        size = sum(segment.size for segment in files.segments)
        listing = {"written": replay.written, "segments": [list(segment) for segment in files.segments]}
        (folder / "listing.json").write_text(json.dumps(listing))
        loaded = json.loads(subprocess.run(
            [sys.executable, __file__, "--load", str(folder), "--envs", str(num_envs), "--capacity", str(capacity)],
            check=True, capture_output=True, text=True,
        ).stdout)  # fmt: skip
        start = time.perf_counter()
        told = Journal(games, keep=True)
        told.reset(list(range(num_envs)))
        for _ in range(2000):
            told.send(chance.integers(len(games.actions), size=num_envs))
            told.recv()
        state = told.state()
        start = time.perf_counter()
        assert state and told.rewind(state)
        rewind = 2000 * num_envs / (time.perf_counter() - start)
    games.close()
    assert loaded["sha256"] == digest(replay) and not loaded["damaged"]
    return {
        "game": game,
        "agent_steps": capacity,
        "raw_gb": replay.frames.nbytes / 1e9,
        "disk_mb": size / 1e6,
        "files": len(files.segments),
        "save_all_s": whole,
        "save_all_extra_mb": peak.bytes / 1e6,
        f"save_{LATER}_more_s": more,
        "rows_in_a_file": rows,
        "check_s": loaded["check"],
        "load_s": loaded["load"],
        "load_extra_mb": loaded["extra_bytes"] / 1e6,
        "load_resident_gb": loaded["resident_bytes"] / 1e9,
        "begin_games_s": begin,
        "rewind_steps_per_s": rewind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=["Pong"])
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        load(asked.load, asked.envs, asked.capacity)
        return
    machine.keep_freed_memory()
    outcomes = [measure(game, asked.capacity, asked.envs) for game in asked.games]
    for outcome in outcomes:
        print("\n".join(f"{k:>22} {v:.4g}" if isinstance(v, float) else f"{k:>22} {v}" for k, v in outcome.items()))
    if asked.csv:
        with open(asked.csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(outcomes[0]))
            writer.writeheader()
            for outcome in outcomes:
                writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in outcome.items()})


if __name__ == "__main__":
    main()
