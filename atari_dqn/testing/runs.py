"""Whether whole small runs learn, and resume bit-identical."""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atari_dqn.checkpoint import checkpoints
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.loop import StepInfo
from atari_dqn.testing.probes import Chain, Memory
from atari_dqn.testing.tools import check, told
from atari_dqn.tracking.callback import Callback, Training
from atari_dqn.training import launch
from atari_dqn.training.run import Run
from atari_dqn.utils.console import Console

LEARN_CHAIN = (
    "total_steps=5_500", "replay.warmup_steps=500", "replay.capacity=4_000", "update.target_period_steps=100",
    "agent.discount=0.8", "exploration.end=0.6", "exploration.decay_steps=1_000", "optimizer.learning_rate=2e-3",
    "evaluation.episodes=2", "seed=3",
)  # fmt: skip
LEARN_MEMORY = (
    "total_steps=3_000", "replay.warmup_steps=200", "replay.capacity=4_000", "update.target_period_steps=100",
    "agent.discount=0.9", "exploration.end=0.2", "exploration.decay_steps=500", "optimizer.learning_rate=1e-3",
    "evaluation.episodes=2",
)  # fmt: skip
BRIEFLY = (
    "total_steps=800", "replay.warmup_steps=100", "replay.capacity=600", "update.target_period_steps=40",
    "checkpoint.every_steps=200", "evaluation.every_steps=10_000", "evaluation.episodes=2",
)  # fmt: skip


class Stop(Callback):
    def __init__(self, agent_steps: int) -> None:
        self._agent_steps = agent_steps

    def start(self, run: Training) -> None:
        self._run = run

    def step(self, info: StepInfo) -> None:
        if info.agent_steps >= self._agent_steps:
            self._run.stop()


def changed(config: TrainConfig, words: Sequence[str]) -> TrainConfig:
    """`config` with some settings changed."""
    changed = copy.deepcopy(config)
    for key, value in (word.split("=", 1) for word in words):
        part: Any = changed
        *path, last = key.split(".")
        for name in path:
            part = getattr(part, name)
        setattr(part, last, type(getattr(part, last))(float(value.replace("_", ""))))
    return changed


def resumes(config: TrainConfig, words: Sequence[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="atari_dqn-") as scratch:
        folders = [Path(scratch) / "untouched", Path(scratch) / "resumed"]
        runs = []
        for folder in folders:
            own = changed(config, words)
            own.run_dir = str(folder)
            with told():
                runs.append(launch.prepare(own, Console(quiet=True)))
        runs[0].go()
        runs[1].go(Stop(500))
        Run(runs[1].config, folders[1], Console(quiet=True), checkpoints.newest(folders[1], print)).go()
        one, other = (checkpoints.Checkpoint(folder / "checkpoints" / "latest.pt").content for folder in folders)
        parts = ("online", "target", "optimizer", "rule", "generators", "emulators", "agent_steps", "updates")
        differ = [part for part in parts if not equal(one[part], other[part])]
        check(not differ, f"a resumed run ends otherwise than an untouched one: {', '.join(differ)}")
    yield "a resumed run is bit-identical to an untouched one"


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def learns(config: TrainConfig) -> Iterator[str]:
    pictures = config.env.game.endswith(":Memory")
    with tempfile.TemporaryDirectory(prefix="atari_dqn-") as scratch:
        own = changed(config, LEARN_MEMORY if pictures else LEARN_CHAIN)
        own.run_dir = str(Path(scratch) / "run")
        run = launch.prepare(own, Console(quiet=True))
        run.go()
        online, stack = run.agent.online, config.env.frame_stack
    if pictures:
        size = config.env.screen_size
        blank, left, right = (torch.from_numpy(Memory.picture(side, size)) for side in (None, 0, 1))
        before = [torch.zeros_like(blank)] * (stack - 2)
        states = torch.stack([torch.stack([*before, bar, blank]) for bar in (left, right)])
        wanted, what = [0, 1], "on which side the bar was"
    else:
        eye = torch.eye(Chain.ROOMS).unsqueeze(1)
        states, what = eye.repeat(1, stack, 1), "the way out of the chain"
        wanted = [*Chain.optimal_values(own.agent.discount).argmax(1)]
    found = online.q_values(states).argmax(1).tolist()
    first = 0 if pictures else 1  # in the chain's first room both actions are worth the same
    check(found[first:] == [int(action) for action in wanted][first:], f"it does not learn {what}")
    yield f"it learns {what}"
