"""The interface of everything that watches a run: displays, files, trackers, your own callbacks."""

from pathlib import Path
from typing import Any, Protocol

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.loop import StepInfo

Row = dict[str, Any]


class Training(Protocol):
    """What a callback sees of the run.

    Attributes:
        config: its settings.
        folder: its directory.
        agent: the networks and the optimizer, while they learn.
        agent_steps: since the start of the run, over all games and resumes.
        updates: gradient steps so far.
    """

    @property
    def config(self) -> TrainConfig: ...
    @property
    def folder(self) -> Path: ...
    @property
    def agent(self) -> Agent: ...
    @property
    def agent_steps(self) -> int: ...
    @property
    def updates(self) -> int: ...

    def stop(self) -> None:
        """End the run after this turn. It is saved and can be resumed."""

    def say(self, text: str) -> None:
        """Print a line on the terminal."""


class Callback:
    """Receives every event of a run. Each method does nothing unless overridden.

    A row is a dict with `frames`, `agent_steps`, `updates` and `seconds`, and the other columns of the run's CSV file
    of that name. Callbacks are called in the loop's thread, in the order in which they were given; one that raises an
    error ends the run with its last checkpoint. See `atari_dqn.train` and the setting `callbacks`.
    """

    def start(self, run: Training) -> None:
        """Training is about to start or to resume; called once, after `restore`."""

    def step(self, info: StepInfo) -> None:
        """A turn is over: one agent step in each game."""

    def episode(self, row: Row) -> None:
        """A training game is over: a row of episodes.csv."""

    def metrics(self, row: Row) -> None:
        """Statistics are due: a row of metrics.csv."""

    def evaluating(self, what: str, played: int, episodes: int) -> None:
        """A step of an evaluation called `what`, in which `played` of `episodes` games are over."""

    def evaluation(self, row: Row) -> None:
        """A network was evaluated: a row of evaluations.csv."""

    def video(self, path: Path, row: Row) -> None:
        """A game was filmed at an evaluation."""

    def sync(self) -> None:
        """A checkpoint is about to be written, in a thread of its own: write earlier events to disk."""

    def checkpoint(self, path: Path) -> None:
        """A checkpoint was written to `path`, in a thread of its own."""

    def close(self) -> None:
        """The run has ended, however it did."""

    def state(self) -> dict[str, Any]:
        """What the next checkpoint keeps of this callback: numbers, strings, lists, dicts and tensors."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's `state`."""


def group(evaluation: Row) -> str:
    """Chart group of an evaluation: the best network's second evaluation, at the end, is not part of the curve."""
    return "evaluation" if evaluation["network"] == "current" else f"evaluation_{evaluation['network']}"
