"""The picture of a table on Atari-100k."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atari_dqn.analysis.atari100k import SHOWN, Game, Statistic
from atari_dqn.analysis.experiments import human_normalised
from atari_dqn.utils import extras
from atari_dqn.utils.files import replacing
from atari_dqn.utils.text import plural

OURS, THEIRS = "#d55e00", "#0072b2"


def draw(path: Path, rows: Sequence[Game], found: Sequence[Statistic], games: int, agent: str) -> None:
    """Each game's published runs with ours among them, and the statistics over so many games."""
    matplotlib = extras.load("matplotlib", "the plot")  # slow to load
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 8), dpi=110, layout="constrained", width_ratios=[2.2, 1])
    names = [row.name for row in rows]
    for y, row in enumerate(reversed(rows)):
        name = [row.name]
        published = human_normalised(np.array(row.published)[:, None], name)[:, 0]
        low, high = human_normalised(np.array(row.range)[:, None], name)[:, 0]
        left.plot([low, high], [y, y], color=THEIRS, linewidth=7, alpha=0.25, solid_capstyle="butt")
        left.plot(published, np.full(len(published), y), "|", color=THEIRS, markersize=6, alpha=0.35)
        if row.own:
            own = human_normalised(np.array([*row.own.values()])[:, None], name)[:, 0]
            left.plot(own, np.full(len(own), y), "o", color=OURS, markersize=6)
    left.plot([], [], "|", color=THEIRS, label=f"a published run of {agent}")
    left.plot([], [], color=THEIRS, linewidth=7, alpha=0.25, label="5% to 95% of them")
    left.plot([], [], "o", color=OURS, label="a run of ours")
    left.set_yticks(range(len(names)), [*reversed(names)])
    left.set_xscale("symlog", linthresh=1.0)
    ticks = (-0.5, 0, 0.5, 1, 2, 5, 10)
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    left.set(xlabel="human-normalized score (logarithmic above 1)", title="Atari-100k: 100 games after 100,000 steps")
    left.grid(alpha=0.25, axis="x")
    left.margins(y=0.02)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    for y, one in enumerate(reversed(found)):
        low, high = one.drawn
        right.plot([low, high], [y, y], color=THEIRS, linewidth=14, alpha=0.25, solid_capstyle="butt")
        right.plot([one.published], [y], "|", color=THEIRS, markersize=20, markeredgewidth=3)
        right.plot([one.own], [y], "o", color=OURS, markersize=8)
    right.set_yticks(range(len(found)), [SHOWN[one.name] for one in reversed(found)])
    right.set(
        xlabel="human-normalized score",
        title=f"over {plural(games, 'game')}; band: 95% of\npublished with as many seeds as ours",
    )
    right.margins(y=0.4)
    right.grid(alpha=0.25, axis="x")
    with replacing(path) as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)
