"""Seeds of one experiment as a curve with a band: mean or interquartile mean, and its bootstrap interval."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from atari_dqn.analysis.run_data import EVALUATED, MEASURED, TRAINED, Data, plain

Statistic = Callable[..., np.ndarray]


def iqm(values: np.ndarray, axis: int) -> np.ndarray:
    """Interquartile mean: of the middle half (Agarwal et al. 2021). Of three seeds or fewer it is the mean."""
    return stats.trim_mean(values, 0.25, axis=axis)


STATISTICS: dict[str, Statistic] = {"mean": np.mean, "iqm": iqm}


Band = tuple[np.ndarray, np.ndarray, np.ndarray]  # middle, low, high


def interval(values: np.ndarray, statistic: Statistic, resamples: int = 1000) -> Band:
    """A statistic over seeds and its 95% interval by the percentile bootstrap, from values [seeds, points]."""
    picks = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(statistic(values[picks], axis=1), [2.5, 97.5], axis=0)
    return statistic(values, axis=0), low, high


def together(runs: Sequence[Data], points: int = 100) -> list[Data]:
    """For each group of two runs or more: statistics of what they have in common, over frames and over seconds.

    Between two values of a run it is taken to be on the line between them; before the latest first and after the
    earliest last value of its runs a group has none.
    """
    groups: dict[str, list[Data]] = {}
    for run in runs:
        if "trained" in run:
            groups.setdefault(run["group"], []).append(run)
    found = []
    for name, members in groups.items():
        longest = sorted(members, key=lambda run: run["agent_steps"])
        members = [*{run["seed"]: run for run in longest}.values()]  # a seed that was run twice is no second one
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
