"""Shared by the benchmarks: time the training loop without logging."""

import tempfile
import time
from typing import NamedTuple

import psutil

from atari_dqn.config import compose
from atari_dqn.dqn.loop import training_loop
from atari_dqn.training import launch
from atari_dqn.utils.console import Console
from atari_dqn.utils.devices import wait


class Speed(NamedTuple):
    agent_steps: float  # per second
    updates: float  # per second
    resident_bytes: int
    stages: dict[str, float]  # seconds by stage


def measure(seconds: float, *overrides: str, settle_updates: int = 100) -> Speed:
    """Train with the network acting and learning, timed after `settle_updates` updates.

    Args:
        overrides: settings, e.g. "env.game=Pong".
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "total_steps=1_000_000_000", "replay.warmup_steps=2_000", "exploration.decay_steps=1", "logger.wandb=off",
            f"run_dir={folder}/run", *overrides,
        ]  # fmt: skip
        config = compose.to_train_config(compose.compose("train", words))
        run = launch.prepare(config, Console(quiet=True))
        loop = training_loop(run.emulators, run.replay, run.agent, config, run.streams, watch=run.watch)
        first = None
        for record in loop:
            if first is None and record.updates >= settle_updates:
                wait(run.device)
                first, start, before = record, time.perf_counter(), dict(run.watch.seconds)
            if first is not None and time.perf_counter() - start >= seconds:
                break
        wait(run.device)
        passed = time.perf_counter() - start
        run.emulators.close()
        return Speed(
            (record.agent_steps - first.agent_steps) / passed,
            (record.updates - first.updates) / passed,
            psutil.Process().memory_info().rss,
            run.watch.since(before),
        )
