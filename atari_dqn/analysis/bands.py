"""Combine the seeds of an experiment into one curve: mean or interquartile mean with a bootstrap interval."""

from collections.abc import Callable, Sequence

import numpy as np

from atari_dqn.analysis.run_data import EVALUATED, MEASURED, TRAINED, Data, plain

Statistic = Callable[..., np.ndarray]


def iqm(values: np.ndarray, axis: int) -> np.ndarray:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021). Equals the mean up to three seeds."""
    ranked = np.moveaxis(np.sort(values, axis=axis), axis, 0)
    cut = len(ranked) // 4
    return ranked[cut : len(ranked) - cut].mean(axis=0)


STATISTICS: dict[str, Statistic] = {"mean": np.mean, "iqm": iqm}


Band = tuple[np.ndarray, np.ndarray, np.ndarray]  # middle, low, high


def interval(values: np.ndarray, statistic: Statistic, resamples: int = 1000) -> Band:
    """A statistic over seeds of values [seeds, points], with its 95% percentile bootstrap interval."""
    picks = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(statistic(values[picks], axis=1), [2.5, 97.5], axis=0)
    return statistic(values, axis=0), low, high


def together(runs: Sequence[Data], points: int = 100) -> list[Data]:
    """Statistics over the runs of each group with at least two seeds, against frames and against seconds.

    Runs are interpolated linearly. A group's curve covers only the range in which all of its runs have values.
    """
    groups: dict[str, list[Data]] = {}
    for run in runs:
        if "trained" in run:
            groups.setdefault(run["group"], []).append(run)
    found = []
    for name, members in groups.items():
        longest = sorted(members, key=lambda run: run["agent_steps"])
        members = [*{run["seed"]: run for run in longest}.values()]  # the longest run of each seed
        if len(members) < 2:
            continue
        made: Data = {"group": name, "runs": [run["name"] for run in members], "curves": {}}
        for part, columns in (("trained", TRAINED), ("evaluated", EVALUATED), ("measured", MEASURED)):
            for column in columns:
                for axis in ("frames", "seconds"):
                    curve = _common([run[part] for run in members], axis, column, points)
                    if curve:
                        made["curves"][f"{part}.{column}.{axis}"] = curve
        found.append(made)
    return found


def _common(series: Sequence[Data], axis: str, column: str, points: int) -> Data | None:
    known = []
    for one in series:
        pairs = [(x, y) for x, y in zip(one[axis], one[column], strict=True) if x is not None and y is not None]
        if pairs:
            known.append(np.array(pairs).T)
    if len(known) < 2:
        return None
    first, last = max(xs[0] for xs, _ in known), min(xs[-1] for xs, _ in known)
    if first >= last:
        return None
    grid = np.linspace(first, last, points)
    values = np.stack([np.interp(grid, xs, ys) for xs, ys in known])
    made: Data = {"seeds": len(known), "x": plain(grid)}
    for name, statistic in STATISTICS.items():
        middle, low, high = interval(values, statistic)
        made[name] = {"middle": plain(middle), "low": plain(low), "high": plain(high)}
    return made
