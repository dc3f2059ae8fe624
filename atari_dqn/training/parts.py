"""What a training run is made of, put together from its config."""

import contextlib
import functools
import threading
from pathlib import Path
from typing import Any

from atari_dqn.checkpoint.checkpoints import Resumed
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import networks, prioritized
from atari_dqn.dqn.replay import Replay, torch_dtype
from atari_dqn.envs.journal import Journal
from atari_dqn.tracking import mlflow_tracker
from atari_dqn.tracking.callback import Row
from atari_dqn.tracking.callbacks import Callbacks
from atari_dqn.tracking.goals import Goals
from atari_dqn.training import backend, capacity, fine_tuning, footprint
from atari_dqn.training.agents import make_agent
from atari_dqn.training.evaluator import Evaluator
from atari_dqn.training.progress import RunProgress
from atari_dqn.utils import devices, machine
from atari_dqn.utils.console import Console
from atari_dqn.utils.seeding import Streams
from atari_dqn.utils.stopwatch import Stopwatch


class Parts:
    """The parts of a run, fresh.

    Args:
        resumed: the checkpoint that will be restored, which says how much replay there is.
    """

    def __init__(self, config: TrainConfig, folder: Path, console: Console, resumed: Resumed | None = None) -> None:
        self.config, self.folder, self.console = config, folder, console
        mlflow_tracker.require(config.logger)
        self.device = devices.choose_device(config.device)
        networks.set_threads(config.network.name, self.device)
        machine.keep_freed_memory()
        devices.set_tf32(config.compute.tf32)
        devices.set_deterministic(config.compute.deterministic, self.device)
        self.progress, self.stopped, self.watch = RunProgress(), threading.Event(), Stopwatch()
        self.streams = Streams(self.device, config.seed)
        self.goals, self.trackers = Goals(config.env.goals), Callbacks()
        games = backend.make_emulators(config, self.say)
        with contextlib.ExitStack() as on_error:
            on_error.callback(games.close)
            self.emulators = Journal(games, keep=config.checkpoint.cut_every_turns is not None)
            begin = None
            if config.init is not None and resumed is None:
                begin = fine_tuning.beginning(config, games.frame_shape, games.actions, self.say)
            beside = footprint.check(config, games, self.device)
            self.agent = make_agent(config, games.frame_shape, len(games.actions), self.device, begin)
            self.evaluator = Evaluator(
                config, self.agent.online, games.actions, self.stopped.is_set, self.trackers.evaluating
            )
            self._replay_rows, self._replay_device = capacity.replay_room(
                config, self.emulators, resumed, self.device, self.say, beside
            )
            on_error.pop_all()

    @functools.cached_property
    def replay(self) -> Replay:
        """The replay memory, allocated at first use, after every check."""
        envs, stack = self.emulators, self.config.env.frame_stack
        dtype = torch_dtype(envs.frame_dtype)
        return prioritized.make_replay(
            self.config, self.progress.agent_steps, self._replay_rows, envs.num_envs, envs.frame_shape, dtype, stack,
            self._replay_device,
        )  # fmt: skip

    def say(self, text: str) -> None:
        """Print a line on the terminal."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def row(self, **more: Any) -> Row:
        """A row for the trackers, with the columns that all of them have."""
        return {
            "frames": self.progress.agent_steps * self.config.env.frame_skip,
            "agent_steps": self.progress.agent_steps,
            "updates": self.progress.updates,
            "seconds": round(self.progress.seconds, 3),
        } | more
