"""Learning curves: a run's own, read from its CSV files, and its progress against a published one."""

import collections
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from atari_dqn.config.schema import Protocol, TrainConfig
from atari_dqn.data import scores
from atari_dqn.data.scores import MILLION, Curve
from atari_dqn.tracking import csv_files
from atari_dqn.utils.errors import UserError


class Point(NamedTuple):
    """A run's mean score over a window of environment frames that ends at `frames`."""

    frames: int
    mean: float
    sd: float  # over games
    games: int


def read(path: Path) -> list[dict[str, str]]:
    """Read the valid rows of one of a run's CSV files, as csv_files.read does. Raises UserError."""
    try:
        return csv_files.read(path).rows
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def point(frames: int, returns: list[float]) -> Point:
    return Point(
        frames, statistics.fmean(returns), statistics.stdev(returns) if len(returns) > 1 else 0.0, len(returns)
    )


def training(episodes: Iterable[dict[str, str]], every_frames: int = MILLION) -> list[Point]:
    """Mean return of the training games that ended in each window of `every_frames`, as Dopamine reports it."""
    parts: dict[int, list[float]] = {}
    for row in episodes:
        parts.setdefault(-(-int(row["frames"]) // every_frames), []).append(float(row["return"]))
    return [point(part * every_frames, parts[part]) for part in sorted(parts)]


def evaluations(rows: Iterable[dict[str, str]]) -> list[Point]:
    """The evaluations of the network being trained (not of the best network)."""
    return [
        Point(int(row["frames"]), float(row["mean"]), float(row["sd"]), int(row["episodes"]))
        for row in rows
        if (row.get("network") or "current") == "current"  # skips the best network's second evaluation
    ]


def score(folder: Path, which: str) -> float | None:
    """A run's score; None if it has none yet. Raises ValueError for a malformed number.

    Args:
        which: last, the last evaluation; best, the best network evaluated again with fresh seeds; training, the mean
            return of the games that ended in the last tenth of the run, at most a million frames.
    """
    if which == "training":
        episodes = read(folder / "episodes.csv")
        last = int(episodes[-1]["frames"]) if episodes else 0
        past = [float(row["return"]) for row in episodes if int(row["frames"]) > last - min(MILLION, last / 10)]
        return sum(past) / len(past) if past else None
    wanted = {"last": "current", "best": "best"}[which]
    rows = [row for row in read(folder / "evaluations.csv") if (row.get("network") or "current") == wanted]
    return float(rows[-1]["mean"]) if rows else None


def objective(folder: Path) -> float | None:
    """The value that a sweeper maximizes: the last evaluation's mean, or else that of the last training games."""
    last = score(folder, "last")
    return score(folder, "training") if last is None else last


def window(episodes: Iterable[dict[str, str]], protocol: Protocol, frames: int) -> list[dict[str, str]]:
    """The training games that a protocol with source=training averages at `frames`."""
    past = [row for row in episodes if int(row["frames"]) <= frames]
    if protocol.window_frames is not None:
        past = [row for row in past if int(row["frames"]) > frames - protocol.window_frames]
    return past[-protocol.window_games :] if protocol.window_games else past


def by_value(points: list[Point], frames: int, every_frames: int = MILLION) -> dict[int, Point]:
    """The last point near each value of a curve, for the values that the run has reached, numbered from 1.

    (An evaluation happens at the first step at or after it is due.)
    """
    found = {round(p.frames / every_frames): p for p in points if p.frames > 0.9 * every_frames}
    return {value: p for value, p in found.items() if value * every_frames <= frames}


def verdict(curve: Curve, million: float, mean: float) -> str:
    """Return inside, above or below: where a mean lies relative to the curve's tolerance band (Curve.allowed)."""
    return scores.place(mean, *curve.allowed(million))


class Pace:
    """Track a running run against a published curve."""

    WORDS = {"inside": "on track", "above": "ahead", "below": "behind"}  # noqa: RUF012

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self._games: collections.deque[tuple[int, float]] = collections.deque()  # in the last every_frames
        self._evaluated: tuple[int, float] | None = None

    def game(self, frames: int, score: float) -> None:
        """Add a finished training game."""
        self._games.append((frames, score))

    def evaluation(self, frames: int, mean: float) -> None:
        self._evaluated = frames, mean

    def word(self, frames: int) -> str:
        """`on track (6.9, expected 7.1)`, or ahead, or behind; empty before the curve's first value."""
        while self._games and self._games[0][0] <= frames - self.curve.every_frames:
            self._games.popleft()
        if self.curve.by.measure == "training":
            at, mean = frames, statistics.fmean(score for _, score in self._games) if self._games else math.nan
        else:
            at, mean = self._evaluated or (0, math.nan)
        if at < self.curve.every_frames or math.isnan(mean):
            return ""
        million = at / MILLION
        expected = self.curve.at(million)[0]
        shown, wanted = (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" for value in (mean, expected))
        return f"{self.WORDS[verdict(self.curve, million, mean)]} ({shown}, expected {wanted})"


def has_measure(config: TrainConfig, curve: Curve) -> bool:
    """Whether a run measures what the curve shows: any run has training returns, not every run plays evaluations."""
    return curve.by.measure == "training" or config.protocol.source == "games"


def is_whole(config: TrainConfig, training: bool = False) -> bool:
    """Whether the scored games may last as long as a human's, so that a mean is comparable with a human score.

    Args:
        training: check the training games instead of the evaluations.
    """
    apart = not training and config.protocol.source == "games" and config.protocol.max_frames
    return (apart or config.env.max_frames) >= scores.HUMAN_FRAMES


def pace(config: TrainConfig, folder: Path, agent_steps: int) -> Pace | None:
    """The pace of a run from `agent_steps` on; None if its published curve does not include its game."""
    curve = scores.curve(config.published, config.env.game) if config.published else None
    if curve is None or not has_measure(config, curve):
        return None
    standing, until = Pace(curve), agent_steps * config.env.frame_skip
    for row in read(folder / "episodes.csv"):
        if int(row["frames"]) <= until:
            standing.game(int(row["frames"]), float(row["return"]))
    for p in evaluations(read(folder / "evaluations.csv")):
        if p.frames <= until:
            standing.evaluation(p.frames, p.mean)
    return standing
