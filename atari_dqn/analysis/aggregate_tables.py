"""What `make aggregate` prints."""

from collections.abc import Callable, Sequence

import numpy as np
from rich import box
from rich.table import Table

from atari_dqn.analysis.experiments import Experiment
from atari_dqn.analysis.intervals import Aggregates, Improvement
from atari_dqn.config.commands import AggregateConfig
from atari_dqn.data import scores
from atari_dqn.utils.text import compact


def _value(point: float, low: float, high: float) -> str:
    """Two lines: a number, and its interval without leading zeros."""
    ends = [f"{end:.2f}".replace("0.", ".", 1) if abs(end) < 1 else f"{end:.2f}" for end in (low, high)]
    return f"{point:.2f}" if np.isnan(low) else f"{point:.2f}\n{ends[0]} {ends[1]}"


def table(title: str, rows: Sequence[Aggregates]) -> Table:
    """A printable table, at most 80 columns wide."""
    caption = "human-normalized scores with 95% intervals; runs x games"
    view = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "runs", "frames", "IQM", "median", "mean", "gap"):
        view.add_column(column, justify="right" if column else "left", overflow="fold", no_wrap=bool(column))
    for row in rows:
        values = [_value(p, lo, hi) for p, lo, hi in zip(row.points, *row.intervals, strict=True)]
        view.add_row(row.name, f"{row.seeds}x{row.games}", compact(row.frames) if row.frames else "", *values)
    return view


def improvement_table(better: Sequence[Improvement]) -> Table:
    """A printable table, at most 80 columns wide."""
    view = Table(title="probability of improvement: a run of A scores higher than a run of B", title_justify="left")
    for column in ("A", "B", "games", "probability"):
        view.add_column(column, justify="left" if len(column) == 1 else "right", overflow="fold")
    for row in better:
        if row.games:
            probability = _value(row.probability, *row.interval).replace("\n", "  ")
            view.add_row(row.name, row.other, str(row.games), probability)
    return view


def say_sources(asked: AggregateConfig, own: Sequence[Experiment], say: Callable[[str], None]) -> None:
    """Print the sources of the human and published scores."""
    say(f"human scores: {scores.SOURCE}; gap: optimality gap, the mean shortfall from human level")
    if "nature_2015" in asked.against and not own:
        paper = np.array(scores.by_its_own_human())
        say(
            f"{scores.agents()['nature_2015'].title} with its own paper's human scores, {len(paper)} games: "
            f"median {np.median(paper):.1%}, mean {paper.mean():.1%}, as in van Hasselt et al. 2016, Table 1"
        )
    for agent in asked.against:
        by = scores.agents()[agent]
        say(f"{by.title}: {by.protocol}; {by.seeds} seeds; {by.source}")
