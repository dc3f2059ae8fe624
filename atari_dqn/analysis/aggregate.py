"""`make aggregate`: statistics of runs over games and seeds, with published agents: tables, CSV files, a plot."""

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from atari_dqn.analysis import experiments, intervals, logbook
from atari_dqn.analysis.experiments import Experiment, Matrix
from atari_dqn.analysis.intervals import STATISTICS
from atari_dqn.config.schema import AggregateConfig
from atari_dqn.data import scores
from atari_dqn.data.scores import MILLION
from atari_dqn.tracking.display import compact
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing

GRID = 20  # points of a sample-efficiency curve
MARKS = (10, 40, 50, 100, 199, 200)  # million frames at which published curves are reported


class Told(NamedTuple):
    """A row of the table of aggregates."""

    name: str
    seeds: int
    games: int
    frames: int
    points: Matrix  # [4]
    intervals: Matrix  # [2, 4]


def told(shown: Iterable[tuple[Experiment, Sequence[str]]], resamples: int) -> list[Told]:
    """The four statistics of each experiment over the given games."""
    rows = []
    for experiment, games in shown:
        if games:
            points, around = intervals.interval(experiment.normalised(games), intervals.four, resamples)
            rows.append(Told(experiment.name, experiment.seeds, len(games), experiment.frames, points, around))
    return rows


def _value(point: float, low: float, high: float) -> str:
    """Two lines: a number, and its interval without leading zeros."""
    ends = [f"{end:.2f}".replace("0.", ".", 1) if abs(end) < 1 else f"{end:.2f}" for end in (low, high)]
    return f"{point:.2f}" if np.isnan(low) else f"{point:.2f}\n{ends[0]} {ends[1]}"


def table(title: str, rows: Sequence[Told]) -> Table:
    """A printable table, at most 80 columns wide."""
    caption = "human-normalized scores with 95% intervals; runs x games"
    view = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "runs", "frames", "IQM", "median", "mean", "gap"):
        view.add_column(column, justify="right" if column else "left", overflow="fold", no_wrap=bool(column))
    for row in rows:
        values = [_value(p, lo, hi) for p, lo, hi in zip(row.points, *row.intervals, strict=True)]
        view.add_row(row.name, f"{row.seeds}x{row.games}", compact(row.frames) if row.frames else "", *values)
    return view


def improvement_table(better: Sequence[tuple[str, str, int, float, Matrix]]) -> Table:
    """A printable table, at most 80 columns wide."""
    view = Table(title="probability of improvement: a run of A scores higher than a run of B", title_justify="left")
    for column in ("A", "B", "games", "probability"):
        view.add_column(column, justify="left" if len(column) == 1 else "right", overflow="fold")
    for name, other, count, point, around in better:
        if count:
            view.add_row(name, other, str(count), _value(point, *around).replace("\n", "  "))
    return view


def games_table(own: Sequence[Experiment], against: Sequence[Experiment]) -> tuple[list[str], list[list[str]]]:
    """Mean raw scores per game; for our experiments also the human-normalized score."""
    columns = ["game", *(f"{e.name}{more}" for e in own for more in ("", ", seeds", ", human-normalised"))]
    columns += [e.name for e in against]
    rows = []
    for game in sorted({game for e in own or against for game in e.runs}):
        row = [game]
        for e in own:
            found = [run.score for run in e.runs.get(game, [])]
            mean = float(np.mean(found)) if found else float("nan")
            share = scores.human_normalised(game, mean)
            row += [_field(mean), str(len(found)), "" if share is None else _field(share)]
        rows.append(row + [_field(e.runs[game][0].score) if game in e.runs else "" for e in against])
    return columns, rows


def _field(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_field(v) if isinstance(v, float) else v for v in row] for row in rows)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:80]


def aggregate(asked: AggregateConfig, console: Console) -> None:
    """Aggregate runs: print tables, write CSV files and a plot."""
    intervals.rliable()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    own = experiments.gather(logbook.name_runs("runs", asked.runs).values() if asked.runs else [], asked.score, say)
    if asked.runs and not own:
        raise UserError(f"runs={asked.runs}: no run has a score={asked.score} yet; train longer, or choose another")
    for experiment in own:
        if few := sorted({*experiment.runs} - {*experiment.games}):
            say(f"note: excluded from {experiment.name}, because seeds or human scores are missing: {', '.join(few)}")
    own = [experiment for experiment in own if experiment.games]
    if asked.runs and not own:
        raise UserError(f"runs={asked.runs}: no game has a human score; {scores.SOURCE} lists those that do")
    games = sorted({game for experiment in own for game in experiment.games})
    frames = max((experiment.frames for experiment in own), default=None)
    others = [experiments.published(agent, frames) for agent in asked.against]
    if own:
        rows = told([(e, e.games) for e in own], asked.resamples)
        rows += told([(e, [game for game in e.games if game in games]) for e in others], asked.resamples)
        console.print(table(f"score={asked.score}; published agents: means over seeds, same games", rows))
    else:
        marks = [
            experiments.published(agent, million * MILLION) for agent in asked.against for million in _marks(agent)
        ]
        rows = told([(e, e.games) for e in marks], asked.resamples)
        console.print(table("published agents: means over seeds, all games of each", rows))
    say(f"human scores: {scores.SOURCE}; gap: optimality gap, the mean shortfall from human level")
    if "nature_2015" in asked.against and not own:
        paper = np.array(scores.by_its_own_human())
        say(
            f"{others[asked.against.index('nature_2015')].name} with its own paper's human scores, {len(paper)} games: "
            f"median {np.median(paper):.1%}, mean {paper.mean():.1%}, as in van Hasselt et al. 2016, Table 1"
        )
    for agent in asked.against:
        by = scores.agents()[agent]
        say(f"{by.title}: {by.protocol}; {by.seeds} seeds; {by.source}")
    better = [
        (one.name, other.name, *intervals.improvement(one, other, asked.resamples))
        for one, other in itertools.chain(itertools.combinations(own, 2), itertools.product(own, others))
    ]
    if own:
        console.print(improvement_table(better))
    output = Path(asked.output or logbook.roots("runs", asked.runs or "runs")[0] / "aggregate")
    if not asked.output and output.is_symlink():
        raise UserError(f"{output} is a symbolic link; set output=PATH")
    try:
        output.mkdir(parents=True, exist_ok=True)
        _write_all(output, own, others, rows, better, games, asked.resamples)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}; set output=PATH") from None
    say(f"written: {output}/ (CSV files: aggregates, games, profiles, efficiency, improvement, scores; a plot)")


def _marks(agent: str) -> list[int]:
    """Million frames at which a published agent is reported; only the end if it has no curve."""
    curve = next((c for game in scores.random_and_human() if (c := scores.curve(agent, game))), None)
    length = len(curve.means) * curve.every_frames // MILLION if curve else MARKS[-1]
    return [m for m in MARKS if m <= length and (m != 199 or length == 199)] if curve else [length]


def _write_all(
    output: Path,
    own: Sequence[Experiment],
    others: Sequence[Experiment],
    rows: Sequence[Told],
    better: Sequence[tuple[str, str, int, float, Matrix]],
    games: Sequence[str],
    resamples: int,
) -> None:
    from atari_dqn.analysis import aggregate_plot

    columns = [f"{name}{more}" for name in STATISTICS for more in ("", "_low", "_high")]
    _write(
        output / "aggregates.csv",
        ("name", "seeds", "games", "frames", *columns),
        [(r.name, r.seeds, r.games, r.frames, *np.stack([r.points, *r.intervals]).T.ravel().tolist()) for r in rows],
    )
    _write(output / "games.csv", *games_table(own, others))
    for e in own:
        for kind, matrix in (("scores", e.raw(e.games)), ("normalised", e.normalised(e.games))):
            _write(output / f"{_file_name(e.name)}-{kind}.csv", e.games, matrix.tolist())
    shown = [(e, e.games) for e in own]
    shown += [(e, [game for game in e.games if not own or game in games]) for e in others]
    shown = [(e, on) for e, on in shown if on]
    _write(
        output / "profiles.csv",
        ("name", "human_normalised", "share_of_runs_above", "low", "high"),
        [
            (e.name, *map(float, row))
            for e, on in shown
            for row in zip(intervals.TAUS, *intervals.profile(e.normalised(on), resamples), strict=True)
        ],
    )
    curve = []
    for e, on in shown:
        if all(run.training for game in on for run in e.runs[game]):
            until = min(e.frames, max(o.frames for o in own)) if own else e.frames
            first = max(run.training[0].frames for game in on for run in e.runs[game])
            grid = np.linspace(until / GRID, until, GRID)
            grid = grid[grid >= first]
            middle, around = intervals.efficiency(e, on, grid, resamples)
            curve += [(e.name, round(f), m, lo, hi) for f, m, lo, hi in zip(grid, middle, *around, strict=True)]
    _write(output / "efficiency.csv", ("name", "frames", "iqm", "low", "high"), curve)
    _write(
        output / "improvement.csv",
        ("name", "other", "games", "probability", "low", "high"),
        [(name, other, count, point, *map(float, around)) for name, other, count, point, around in better],
    )
    aggregate_plot.draw(output, [e.name for e in own])
