"""Trackers of the training loop: CSV files (the source of truth), TensorBoard, goals; and how to build them all."""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atari_dqn.config import compose
from atari_dqn.config.schema import Goal, TrainConfig
from atari_dqn.data import scores
from atari_dqn.dqn.loop import STAGES, StepInfo
from atari_dqn.envs.base import Game
from atari_dqn.tracking import curves, wandb_tracker
from atari_dqn.tracking.csv_files import CsvFile
from atari_dqn.tracking.display import Display, Row, Tracker, group
from atari_dqn.utils.console import Console

METRICS = (
    "frames", "agent_steps", "updates", "seconds", "epsilon", "learning_rate", "loss", "q_mean", "grad_norm",
    "return_mean", "games", "frames_per_second", *(f"time_{stage}" for stage in STAGES),
)  # fmt: skip
EPISODES = ("frames", "agent_steps", "updates", "seconds", "return", "length_frames", "env")
EVALUATIONS = (
    "frames", "agent_steps", "updates", "seconds", "protocol", "episodes", "mean", "sd", "median", "min", "max",
    "human_normalised", "best", "network", "held_out_q",
)  # fmt: skip


class Guarded(Tracker):
    """A tracker whose failure is reported once and never stops the run."""

    def __init__(self, name: str, make: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._inner: Tracker | None = None
        self._call(lambda: setattr(self, "_inner", make()))

    def _call(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            self._inner = None
            self._say(
                f"{self._name} failed and is disabled for the rest of this run; training continues ({error!r:.200})"
            )

    def metrics(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.metrics(row))

    def episode(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.episode(row))

    def evaluation(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.evaluation(row))

    def video(self, path: Path, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.video(path, row))

    def sync(self) -> None:
        if inner := self._inner:
            self._call(inner.sync)

    def close(self) -> None:
        if inner := self._inner:
            self._call(inner.close)


class Trackers(Tracker):
    """Several trackers as one.

    Attributes:
        events: rows and films that they were told of, over all resumes.
    """

    def __init__(self) -> None:
        self._all: list[Tracker] = []
        self.events = 0

    def start(self, chosen: list[Tracker]) -> None:
        self._all = chosen

    def turn(self, info: StepInfo) -> None:
        for tracker in self._all:
            tracker.turn(info)

    def metrics(self, row: Row) -> None:
        self.events += 1
        for tracker in self._all:
            tracker.metrics(row)

    def episode(self, row: Row) -> None:
        self.events += 1
        for tracker in self._all:
            tracker.episode(row)

    def evaluating(self, what: str, played: int, episodes: int) -> None:
        for tracker in self._all:
            tracker.evaluating(what, played, episodes)

    def evaluation(self, row: Row) -> None:
        self.events += 1
        for tracker in self._all:
            tracker.evaluation(row)

    def video(self, path: Path, row: Row) -> None:
        self.events += 1
        for tracker in self._all:
            tracker.video(path, row)

    def sync(self) -> None:
        for tracker in self._all:
            tracker.sync()

    def saved(self) -> None:
        for tracker in self._all:
            tracker.saved()

    def close(self) -> None:
        for tracker in reversed(self._all):
            with contextlib.suppress(Exception):  # the others are closed all the same
                tracker.close()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"events": self.events}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`. Raises KeyError, TypeError or ValueError."""
        self.events = int(state["events"])
        if self.events < 0:
            raise ValueError("a count below 0")


class CsvFiles(Tracker):
    """Write metrics.csv, episodes.csv and evaluations.csv in the run directory."""

    def __init__(
        self,
        folder: Path,
        keep_steps: int = 0,
        confirmed: bool = True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._metrics = CsvFile(folder / "metrics.csv", METRICS, keep_steps, say=say)
        self._episodes = CsvFile(folder / "episodes.csv", EPISODES, keep_steps, say=say)
        self._evaluations = CsvFile(
            folder / "evaluations.csv",
            EVALUATIONS,
            keep_steps,
            again=lambda row: not confirmed and row.get("network") == "best",
            say=say,
        )

    def metrics(self, row: Row) -> None:
        self._metrics.write(row)

    def episode(self, row: Row) -> None:
        self._episodes.write(row)

    def evaluation(self, row: Row) -> None:
        self._evaluations.write(row)

    def sync(self) -> None:
        for file in (self._metrics, self._episodes, self._evaluations):
            file.sync()

    def close(self) -> None:
        for file in (self._metrics, self._episodes, self._evaluations):
            file.close()


# Shown last in TensorBoard, which sorts panels by name: progress and speed, not scores.
BOOKKEEPING = {
    "agent_steps", "updates", "seconds", "games", "frames_per_second", "length_frames", *(f"time_{s}" for s in STAGES),
}  # fmt: skip


class TensorBoard(Tracker):
    """Write scalars against environment frames, and the config as text, to tensorboard/."""

    def __init__(self, folder: Path, frames: int = 0, config: str = "") -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to load

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=frames + 1 if frames else None)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in config.splitlines()), frames)

    def _scalars(self, group: str, row: Row) -> None:
        beside = ("frames",) if group == "train" else wandb_tracker.BESIDE
        for key, value in row.items():
            if isinstance(value, int | float) and key not in beside and math.isfinite(value):
                tag = f"z_bookkeeping/{key}" if key in BOOKKEEPING else f"{group}/{key}"
                self._writer.add_scalar(tag, value, row["frames"])

    def metrics(self, row: Row) -> None:
        self._scalars("train", row)

    def episode(self, row: Row) -> None:
        self._scalars("episode", row)

    def evaluation(self, row: Row) -> None:
        self._scalars(group(row), row)

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Goals:
    """Watch the mean return of consecutive training games and report when a goal is reached.

    Attributes:
        recent: returns of the most recent games.
        reached: notes of the goals already reported.
    """

    def __init__(self, goals: list[Goal]) -> None:
        self._goals = goals
        self.recent: collections.deque[float] = collections.deque(maxlen=max([100, *(goal.games for goal in goals)]))
        self.reached: list[str] = []

    @property
    def mean(self) -> float:
        """Mean raw return of up to the last 100 games; nan before the first."""
        last = list(self.recent)[-100:]
        return sum(last) / len(last) if last else math.nan

    def add(self, game: Game) -> list[tuple[Goal, float]]:
        """Add a finished game; return the goals that it reaches, each with the mean return."""
        self.recent.append(game.score)
        reached = []
        for goal in self._goals:
            last = list(self.recent)[-goal.games :]
            mean = sum(last) / goal.games
            if goal.note not in self.reached and len(last) == goal.games and mean >= goal.score:
                self.reached.append(goal.note)
                reached.append((goal, mean))
        return reached

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"recent_returns": list(self.recent), "goals_reached": list(self.reached)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`. Raises KeyError, TypeError or ValueError."""
        self.reached = [str(note) for note in state["goals_reached"]]
        self.recent.extend(float(score) for score in state["recent_returns"])


def make_trackers(
    config: TrainConfig,
    folder: Path,
    agent_steps: int,
    events: int,
    confirmed: bool,
    console: Console,
    say: Callable[[str], None],
) -> list[Tracker]:
    """Build the trackers that a run's config asks for, starting at `agent_steps`.

    Args:
        events: number of rows that W&B already has.
        confirmed: whether the best network was evaluated again at the end; see Evaluator.
        say: prints a one-line message.
    """
    logger, skip = config.logger, config.env.frame_skip
    chosen: list[Tracker] = [CsvFiles(folder, agent_steps, confirmed, say)]  # first: it sets damaged files aside
    past = curves.evaluations(curves.read(folder / "evaluations.csv"))
    best = max((point.mean for point in past if point.frames <= agent_steps * skip), default=None)
    if logger.tensorboard:
        chosen.append(
            Guarded("TensorBoard", lambda: TensorBoard(folder, agent_steps * skip, compose.to_yaml(config)), say)
        )
    known = {}
    if best is not None:
        share = scores.human_normalised(config.env.game, best) if curves.is_whole(config) else None
        known = {"best_return": best, "best_human_normalised": share}
    if watched := wandb_tracker.make_tracker(logger, folder, dataclasses.asdict(config), events, known, say):
        chosen.append(watched)
    pace = curves.pace(config, folder, agent_steps)
    whole = curves.is_whole(config, training=True), curves.is_whole(config)
    return [*chosen, Display(console, config.env.game, config.total_steps, skip, agent_steps, pace, best, whole)]
