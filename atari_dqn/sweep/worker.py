"""A sweep's part in a Ray worker: one run, and what it reports."""

import socket
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from atari_dqn.checkpoint import folders
from atari_dqn.config import compose
from atari_dqn.config.schema import TrainConfig
from atari_dqn.registry import own_modules
from atari_dqn.sweep.display import Outcome, Told
from atari_dqn.sweep.storage import Mirror, Store
from atari_dqn.tracking.callback import Callback, Row
from atari_dqn.training import launch
from atari_dqn.utils.console import Console, appended, visible
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.text import one_line

WAIT_SECONDS = 120.0  # for a lost worker's process to release the run directory
TOLD_SECONDS = 2.0  # between progress reports of a run


class Job(NamedTuple):
    """One run of a sweep."""

    name: str  # <game>-seed<k>
    config: TrainConfig
    typed: list[str]  # the settings that were typed


class Teller(Callback):
    """Reports a run's progress to the board."""

    def __init__(self, name: str, board: Any) -> None:
        self._name, self._board, self._told = name, board, 0.0

    def metrics(self, row: Row) -> None:
        if time.monotonic() - self._told >= TOLD_SECONDS:
            self._told = time.monotonic()
            self._board.tell.remote(self._name, row["agent_steps"], row["frames_per_second"], row["return_mean"])


class Board:
    """The runs' latest reports: a Ray actor on the sweep's own machine."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}

    def begin(self, name: str, machine: str) -> None:
        begun = self._told[name].begun if name in self._told else 0
        self._told[name] = Told(begun + 1, machine)

    def tell(self, name: str, agent_steps: int, frames_per_second: float, score: float) -> None:
        self._told[name] = self._told[name]._replace(
            agent_steps=agent_steps, frames_per_second=frames_per_second, score=score
        )

    def all(self) -> dict[str, "Told"]:
        return self._told


def work(job: Job, where: str, board: Any) -> Outcome:
    """Start or resume a run in a Ray worker."""
    began = time.monotonic()
    board.begin.remote(job.name, socket.gethostname())

    def outcome(word: str, text: str = "") -> Outcome:
        return Outcome(word, one_line(text, 400), time.monotonic() - began)

    try:
        own_modules.allow(job.config.env.game, job.config.env.arguments)  # typed on the command line of the sweep
        compose.allow_plugins(job.config)
        store = Store(where)
        if store.is_folder:
            return outcome(_train(job, Path(where), [Teller(job.name, board)]))
        with tempfile.TemporaryDirectory(prefix="atari_dqn-", ignore_cleanup_errors=True) as scratch:
            return outcome(_train_away(job, store, Path(scratch), [Teller(job.name, board)]))
    except (UserError, RunFailed) as error:
        return outcome("failed", str(error))
    except Exception as error:  # must not affect the other runs
        return outcome("failed", f"{type(error).__name__}: {error}")


def _train(job: Job, parent: Path, watchers: list[Callback]) -> str:
    """Train in `parent`; returns the run's outcome."""
    folder = parent / job.name
    until = time.monotonic() + WAIT_SECONDS
    while folders.is_held(folder) and time.monotonic() < until:  # a lost worker may hold it for a moment
        time.sleep(0.5)
    parent.mkdir(parents=True, exist_ok=True)
    with appended(parent / f"{job.name}.log") as file:
        console = Console(file=file, width=120)
        job.config.run_dir = str(folder)
        try:
            run = launch.train(job.config, job.typed, console, watchers)
        except (UserError, RunFailed) as error:
            console.say(str(error))
            raise
    return run.outcome if run else "finished"


def _train_away(job: Job, store: Store, scratch: Path, watchers: list[Callback]) -> str:
    """Train on a local disk and mirror the run to a store."""
    log = scratch / f"{job.name}.log"

    def say(text: str) -> None:
        with appended(log) as file:
            file.write(f"{visible(text)}\n")

    mirror = Mirror(store, job.name, scratch / job.name, say)
    mirror.pull()
    try:
        return _train(job, scratch, [*watchers, mirror])
    finally:
        mirror.push()
        store.files.put_file(str(log), f"{store.root}/{job.name}.log")
