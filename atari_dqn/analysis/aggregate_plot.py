"""The plot of `make aggregate`, drawn from its CSV files."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atari_dqn.data.scores import MILLION
from atari_dqn.utils import extras
from atari_dqn.utils.files import replacing

STATISTICS = {"median": "median", "iqm": "IQM", "mean": "mean", "optimality_gap": "optimality gap"}
MOST = 12  # probabilities of improvement shown
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def _rows(path: Path) -> list[dict[str, Any]]:
    """A CSV file's rows; numbers become floats, empty fields nan."""

    def number(text: str) -> Any:
        try:
            return float(text or "nan")
        except ValueError:
            return text

    with open(path, newline="", encoding="utf-8") as file:
        return [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def draw(folder: Path, own: Sequence[str]) -> None:
    """Draw aggregate.png: the four statistics, performance profiles, sample efficiency, probability of improvement."""
    matplotlib = extras.load("matplotlib", "the plot")  # slow to load
    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # names may contain a literal $
    from matplotlib import pyplot

    last = {row["name"]: row for row in _rows(folder / "aggregates.csv")}  # for a published curve, its end
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(last)}
    better = _rows(folder / "improvement.csv")
    figure = pyplot.figure(figsize=(12, 8), dpi=110, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.6])  # type: ignore[misc]
    panels = above.subplots(1, 4, sharey=True)
    for axes, (key, title) in zip(panels, STATISTICS.items(), strict=True):
        for y, (name, row) in enumerate(reversed(last.items())):
            middle, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
            if not math.isnan(low):
                axes.barh(y, high - low, left=low, height=0.6, color=color[name], alpha=0.35)
            axes.plot([middle, middle], [y - 0.3, y + 0.3], color=color[name], linewidth=3)
        axes.set_title(title)
        axes.set_yticks(range(len(last)), [*reversed(last)])
        axes.grid(alpha=0.25, axis="x")
        axes.margins(x=0.15)
    above.supxlabel("human-normalized score, 95% intervals; without interval: published means over seeds", fontsize=9)
    profile, efficiency, *rest = below.subplots(1, 3 if better else 2)
    rows = _rows(folder / "profiles.csv")
    _lines(profile, rows, "human_normalised", "share_of_runs_above", color)
    until = max([0.5, *(row["human_normalised"] for row in rows if row["share_of_runs_above"] > 0)])
    profile.set(
        xlabel="human-normalized score τ",
        ylabel="share of runs above τ",
        title="performance profile",
        xlim=(0, until),
        ylim=(0, 1),
    )
    rows = [row | {"million": row["frames"] / MILLION} for row in _rows(folder / "efficiency.csv")]
    _lines(efficiency, rows, "million", "iqm", color)
    efficiency.set(xlabel="million environment frames", ylabel="IQM of returns", title="sample efficiency")
    for axes in rest:
        several = len(own) > 1  # then compare ours with each other
        shown = [row for row in better if row["games"] and (row["other"] in own) == several][:MOST]
        for y, row in enumerate(reversed(shown)):
            if not math.isnan(row["low"]):
                edges = {"left": row["low"], "height": 0.6}
                axes.barh(y, row["high"] - row["low"], color=color[row["name"]], alpha=0.35, **edges)
            axes.plot([row["probability"]] * 2, [y - 0.3, y + 0.3], color=color[row["name"]], linewidth=3)
        words = [f"{row['name']}\n> {row['other']}" if several else f"> {row['other']}" for row in reversed(shown)]
        axes.set_yticks(range(len(shown)), words, fontsize=8 if len(shown) < MOST else 6)
        axes.axvline(0.5, color="gray", linewidth=1, linestyle=":")
        axes.set(xlim=(0, 1), title="probability of improvement" + ("" if several else f"\nof {own[0][:40]}"))
    handles, labels = profile.get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with replacing(folder / "aggregate.png") as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)


def _lines(axes: Any, rows: list[dict[str, Any]], x: str, y: str, color: dict[str, str]) -> None:
    """Draw a line for each name, with its band if it has one."""
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        at = [row[x] for row in mine]
        axes.plot(at, [row[y] for row in mine], color=color.get(name, "black"), label=name)
        if not math.isnan(mine[0]["low"]):
            edges = [row["low"] for row in mine], [row["high"] for row in mine]
            axes.fill_between(at, *edges, color=color.get(name, "black"), alpha=0.2, linewidth=0)
    axes.grid(alpha=0.25)
