"""The aggregate statistics of Agarwal et al. 2021 with confidence intervals, computed by rliable."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from atari_dqn.analysis.experiments import Experiment, Matrix, human_normalised
from atari_dqn.utils import extras

STATISTICS = ("iqm", "median", "mean", "optimality_gap")  # of human-normalized scores
TAUS = np.linspace(0, 8, 161)  # human-normalized scores at which profiles are evaluated


class Aggregates(NamedTuple):
    """A row of the table of aggregates."""

    name: str
    seeds: int
    games: int
    frames: int
    points: Matrix  # [4]
    intervals: Matrix  # [2, 4]


class Improvement(NamedTuple):
    """The probability that a run of the one scores higher than a run of the other."""

    name: str
    other: str
    games: int
    probability: float
    interval: Matrix  # [2]


def rliable() -> Any:
    """Import rliable. Raises UserError if it is not installed."""
    return extras.load("rliable.library", "aggregate")


def four(matrix: Matrix) -> Matrix:
    """STATISTICS of human-normalized scores [seeds, games]."""
    from rliable import metrics

    return np.array([getattr(metrics, f"aggregate_{name}")(matrix) for name in STATISTICS])


def interval(
    matrices: Matrix | tuple[Matrix, Matrix], statistic: Callable[..., Matrix], resamples: int
) -> tuple[Matrix, Matrix]:
    """A statistic and its 95% interval [2, ...] by the stratified bootstrap: seeds are resampled for each game.

    With a single seed, the interval is nan.
    """
    parts = matrices if isinstance(matrices, tuple) else (matrices,)
    if all(len(part) == 1 for part in parts):
        point = statistic(*parts)
        return point, np.full((2, *point.shape), np.nan)
    before = np.random.get_state()
    np.random.seed(0)  # rliable uses NumPy's global generator despite its random_state argument
    try:
        points, found = rliable().get_interval_estimates({"it": matrices}, statistic, reps=resamples)
    finally:
        np.random.set_state(before)
    return points["it"], found["it"]


def aggregates(shown: Iterable[tuple[Experiment, Sequence[str]]], resamples: int) -> list[Aggregates]:
    """The four statistics of each experiment over the given games."""
    rows = []
    for experiment, games in shown:
        points, around = interval(experiment.normalized(games), four, resamples)
        rows.append(Aggregates(experiment.name, experiment.seeds, len(games), experiment.frames, points, around))
    return rows


def at_frames(experiment: Experiment, games: Sequence[str], grid: Matrix) -> Matrix:
    """Human-normalized training returns, linearly interpolated on a grid of frames: [seeds, games, grid]."""
    values = [
        [
            np.interp(grid, [p.frames for p in run.training], [p.mean for p in run.training])
            for run in experiment.runs[g][: experiment.seeds]
        ]
        for g in games
    ]
    return np.moveaxis(human_normalised(np.moveaxis(np.array(values), 0, -1), games), -1, 1)


def profile(matrix: Matrix, resamples: int) -> tuple[Matrix, Matrix, Matrix]:
    """The share of runs above each of TAUS with its interval's lower and upper ends (nan for a single seed)."""

    def above(values: Matrix) -> Matrix:
        return np.array([(values > tau).mean() for tau in TAUS])

    share, (low, high) = interval(matrix, above, resamples)
    return share, low, high


def efficiency(experiment: Experiment, games: Sequence[str], grid: Matrix, resamples: int) -> tuple[Matrix, Matrix]:
    """IQM at each frame count of the grid, with its interval [2, grid]."""
    from rliable import metrics

    def over_frames(values: Matrix) -> Matrix:
        return np.array([metrics.aggregate_iqm(values[..., i]) for i in range(values.shape[-1])])

    return interval(at_frames(experiment, games, grid), over_frames, resamples)


def beats(x: Matrix, y: Matrix) -> Matrix:
    """P(X > Y) of scores [seeds, games], averaged over pairs of seeds, then games; ties count half. Shape [1].

    Equals rliable's value, without its significance test per game, which takes minutes in a bootstrap.
    """
    pairs = x[:, None], y[None]
    return np.array([(pairs[0] > pairs[1]).mean() + 0.5 * (pairs[0] == pairs[1]).mean()])


def improvement(one: Experiment, other: Experiment, resamples: int) -> Improvement:
    """Over the common games; NaN if there are none."""
    games = [game for game in one.games if game in other.games]
    if not games:
        return Improvement(one.name, other.name, 0, np.nan, np.full(2, np.nan))
    point, around = interval((one.normalized(games), other.normalized(games)), beats, resamples)
    return Improvement(one.name, other.name, len(games), float(point[0]), around[:, 0])
