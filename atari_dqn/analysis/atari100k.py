"""Runs on Atari-100k beside published runs of the same agent: each game, and statistics over the games."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from atari_dqn.analysis import intervals
from atari_dqn.analysis.experiments import Matrix, human_normalised
from atari_dqn.data import scores
from atari_dqn.utils.files import replacing
from atari_dqn.utils.text import plural

SHOWN = {"iqm": "IQM", "median": "median", "mean": "mean"}  # the first of intervals.STATISTICS
RANGE = (5, 95)  # percentiles of the published runs within which a run of ours is expected nine times of ten
DRAWS = 10_000


class Game(NamedTuple):
    """A game's scores: of ours by seed, and of all published runs."""

    name: str
    own: dict[int, float]
    published: tuple[float, ...]

    @property
    def range(self) -> tuple[float, float]:
        """The 5th and the 95th percentile of the published runs."""
        low, high = np.percentile(self.published, RANGE)
        return float(low), float(high)

    def place(self, score: float) -> str:
        """inside, above or below the published range."""
        return scores.place(score, *self.range)


class Statistic(NamedTuple):
    """Of human-normalized scores over the games that we have.

    Attributes:
        own: of our runs, and its 95% interval by the stratified bootstrap; nan with one seed.
        published: of all published runs, likewise.
        drawn: 95% of what it is for as many seeds as ours, drawn from the published runs.
    """

    name: str
    own: float
    own_interval: tuple[float, float]
    published: float
    published_interval: tuple[float, float]
    drawn: tuple[float, float]


def games(found: Mapping[str, Mapping[int, float]], agent: str) -> list[Game]:
    """The published games, each with what we have of it."""
    return [
        Game(name, dict(sorted(found.get(name, {}).items())), runs) for name, runs in scores.atari100k(agent).items()
    ]


def counted(rows: Sequence[Game]) -> tuple[list[Game], int]:
    """The games that count in statistics, those with as many seeds as most have; and that number."""
    counts = [len(row.own) for row in rows if row.own]
    seeds = max(counts, key=lambda count: (counts.count(count), count), default=0)
    return [row for row in rows if row.own and len(row.own) >= seeds], seeds


def statistics(rows: Sequence[Game], seeds: int, resamples: int = 2000, draws: int = DRAWS) -> list[Statistic]:
    """Over games that all have at least so many seeds; of more, the first count."""
    names = [row.name for row in rows]
    own = human_normalised(np.array([[*row.own.values()][:seeds] for row in rows]).T, names)
    published = human_normalised(np.array([row.published for row in rows]).T, names)
    mine, mine_around = intervals.interval(own, intervals.four, resamples)
    theirs, theirs_around = intervals.interval(published, intervals.four, resamples)
    drawn = np.percentile(_drawn(published, seeds, draws), (2.5, 97.5), axis=0)

    def ends(around: Matrix, i: int) -> tuple[float, float]:
        return float(around[0, i]), float(around[1, i])

    return [
        Statistic(key, float(mine[i]), ends(mine_around, i), float(theirs[i]), ends(theirs_around, i), ends(drawn, i))
        for i, key in enumerate(SHOWN)
    ]


def _drawn(published: Matrix, seeds: int, draws: int) -> Matrix:
    """SHOWN of experiments with so many seeds: runs [runs, games] drawn for each game, [draws, 3]."""
    from scipy.stats import trim_mean

    rng, (runs, games) = np.random.default_rng(0), published.shape
    drawn = published[rng.integers(runs, size=(draws, seeds, games)), np.arange(games)]  # [draws, seeds, games]
    middle = trim_mean(drawn.reshape(draws, -1), 0.25, axis=1)
    return np.stack([middle, np.median(drawn.mean(1), axis=1), drawn.mean((1, 2))], axis=1)


def table(rows: Sequence[Game], agent: str) -> Table:
    """A printable table of the games, at most 80 columns wide."""
    view = Table(box=box.SIMPLE_HEAD, title=f"Atari-100k beside {len(rows[0].published)} published runs of {agent}")
    view.title_justify, view.padding = "left", (0, 1, 0, 0)
    for column in ("game", "ours", "", "published", "sd", "5% to 95%"):
        view.add_column(column, justify="left" if column in ("game", "") else "right", no_wrap=True)
    for row in rows:
        own = [*row.own.values()]
        places = [row.place(score) for score in own]
        verdict = "" if not own else places[0] if len(own) == 1 else f"{places.count('inside')}/{len(own)} inside"
        low, high = row.range
        view.add_row(
            row.name, _number(float(np.mean(own))) if own else "", verdict, _number(float(np.mean(row.published))),
            _number(float(np.std(row.published, ddof=1))), f"{_number(low)} to {_number(high)}",
        )  # fmt: skip
    return view


def statistics_table(found: Sequence[Statistic], games: int, seeds: int) -> Table:
    """A printable table of the statistics, at most 80 columns wide."""
    title = f"human-normalized scores: {plural(games, 'game')}, {plural(seeds, 'seed')} each"
    view = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    for column in ("", "ours", "published", "expected", ""):
        view.add_column(column, justify="right" if column else "left", no_wrap=True)
    for one in found:
        low, high = one.drawn
        view.add_row(
            SHOWN[one.name], _with_ends(one.own, one.own_interval), _with_ends(one.published, one.published_interval),
            f"{low:.3f} to {high:.3f}", scores.place(one.own, low, high),
        )  # fmt: skip
    return view


def write(folder: Path, rows: Sequence[Game], found: Sequence[Statistic], agent: str) -> None:
    """games.csv, statistics.csv and atari100k.png. Raises OSError."""
    from atari_dqn.analysis import atari100k_plot

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "games.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["game", "seed", "score", "published_mean", "published_sd", "low", "high", "place"])
        for row in rows:
            told = [f"{v:.6g}" for v in (np.mean(row.published), np.std(row.published, ddof=1), *row.range)]
            writer.writerows(
                [row.name, seed, f"{score:.6g}", *told, row.place(score)] for seed, score in row.own.items()
            )
    with replacing(folder / "statistics.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        ends = [f"{who}_{end}" for who in ("own", "published", "drawn") for end in ("low", "high")]
        writer.writerow(["statistic", "own", "published", *ends])
        for one in found:
            numbers = one.own, one.published, *one.own_interval, *one.published_interval, *one.drawn
            writer.writerow([one.name, *("" if np.isnan(v) else f"{v:.4f}" for v in numbers)])
    atari100k_plot.draw(folder / "atari100k.png", rows, found, len(counted(rows)[0]), agent)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}"


def _with_ends(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.3f}" if np.isnan(ends[0]) else f"{value:.3f} ({ends[0]:.2f} to {ends[1]:.2f})"
