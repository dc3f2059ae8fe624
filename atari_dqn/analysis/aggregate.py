"""`make aggregate`: statistics of runs over games and seeds, with published agents: tables, CSV files, a plot."""

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atari_dqn.analysis import aggregate_tables, experiments, intervals, run_folders
from atari_dqn.analysis.experiments import Experiment
from atari_dqn.analysis.intervals import STATISTICS, Aggregates, Improvement
from atari_dqn.checkpoint import outputs
from atari_dqn.config.commands import AggregateConfig
from atari_dqn.data import scores
from atari_dqn.data.scores import MILLION
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing

GRID = 20  # points of a sample-efficiency curve
MARKS = (10, 40, 50, 100, 199, 200)  # million frames at which published curves are reported


class Compared(NamedTuple):
    """Our experiments, and published agents after as many frames."""

    own: list[Experiment]
    others: list[Experiment]

    def games(self, experiment: Experiment) -> list[str]:
        """Those of its games that count: where there are experiments of ours, the games of these."""
        ours = {game for one in self.own for game in one.games}
        return [game for game in experiment.games if not self.own or game in ours]

    @property
    def all(self) -> list[tuple[Experiment, list[str]]]:
        """Each experiment with its games; those without games are omitted."""
        return [(one, games) for one in (*self.own, *self.others) if (games := self.games(one))]


def load(asked: AggregateConfig, say: Callable[[str], None]) -> Compared:
    """The experiments to compare; reports excluded runs. Raises UserError if no requested run remains."""
    own = experiments.gather(run_folders.name_runs("runs", asked.runs).values() if asked.runs else [], asked.score, say)
    if asked.runs and not own:
        raise UserError(f"runs={asked.runs}: no run has a score={asked.score} yet; train longer, or choose another")
    for experiment in own:
        if few := sorted({*experiment.runs} - {*experiment.games}):
            say(f"note: excluded from {experiment.name}, because seeds or human scores are missing: {', '.join(few)}")
    own = [experiment for experiment in own if experiment.games]
    if asked.runs and not own:
        raise UserError(f"runs={asked.runs}: no game has a human score; {scores.SOURCE} lists those that do")
    frames = max((experiment.frames for experiment in own), default=None)
    return Compared(own, [experiments.published(agent, frames) for agent in asked.against])


def published_marks(agents: Iterable[str]) -> list[Experiment]:
    """Published agents after each of MARKS that they reached."""
    return [experiments.published(agent, million * MILLION) for agent in agents for million in _marks(agent)]


def _marks(agent: str) -> list[int]:
    """Million frames at which a published agent is reported; only the end if it has no curve."""
    curve = next((c for game in scores.random_and_human() if (c := scores.curve(agent, game))), None)
    length = len(curve.means) * curve.every_frames // MILLION if curve else MARKS[-1]
    return [m for m in MARKS if m <= length and (m != 199 or length == 199)] if curve else [length]


def improvements(compared: Compared, resamples: int) -> list[Improvement]:
    """Improvements of each of our experiments over the following ones and over the published agents."""
    pairs = itertools.chain(itertools.combinations(compared.own, 2), itertools.product(compared.own, compared.others))
    return [intervals.improvement(one, other, resamples) for one, other in pairs]


def profiles(compared: Compared, resamples: int) -> list[tuple[object, ...]]:
    """The share of runs above each human-normalised score, and its interval."""
    return [
        (experiment.name, *map(float, row))
        for experiment, games in compared.all
        for row in zip(intervals.TAUS, *intervals.profile(experiment.normalized(games), resamples), strict=True)
    ]


def efficiency(compared: Compared, resamples: int) -> list[tuple[object, ...]]:
    """IQM over frames, and its interval, of experiments with learning curves, as far as ours have come."""
    rows: list[tuple[object, ...]] = []
    for experiment, games in compared.all:
        curves = [run.training for game in games for run in experiment.runs[game]]
        if not all(curves):
            continue
        until = min([experiment.frames, *([max(one.frames for one in compared.own)] if compared.own else [])])
        grid = np.linspace(until / GRID, until, GRID)
        grid = grid[grid >= max(curve[0].frames for curve in curves)]
        middle, around = intervals.efficiency(experiment, games, grid, resamples)
        rows += [(experiment.name, round(f), m, lo, hi) for f, m, lo, hi in zip(grid, middle, *around, strict=True)]
    return rows


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


def write(
    output: Path, compared: Compared, rows: Sequence[Aggregates], better: Sequence[Improvement], resamples: int
) -> None:
    """The CSV files, and the picture that is drawn from them. Raises OSError."""
    from atari_dqn.analysis import aggregate_plot

    output.mkdir(parents=True, exist_ok=True)
    columns = [f"{name}{more}" for name in STATISTICS for more in ("", "_low", "_high")]
    _write(
        output / "aggregates.csv",
        ("name", "seeds", "games", "frames", *columns),
        [(r.name, r.seeds, r.games, r.frames, *np.stack([r.points, *r.intervals]).T.ravel().tolist()) for r in rows],
    )
    _write(output / "games.csv", *games_table(compared.own, compared.others))
    for e in compared.own:
        for kind, matrix in (("scores", e.raw(e.games)), ("normalised", e.normalized(e.games))):
            _write(output / f"{_file_name(e.name)}-{kind}.csv", e.games, matrix.tolist())
    _write(
        output / "profiles.csv",
        ("name", "human_normalised", "share_of_runs_above", "low", "high"),
        profiles(compared, resamples),
    )
    _write(output / "efficiency.csv", ("name", "frames", "iqm", "low", "high"), efficiency(compared, resamples))
    _write(
        output / "improvement.csv",
        ("name", "other", "games", "probability", "low", "high"),
        [(*row[:4], *map(float, row.interval)) for row in better],
    )
    aggregate_plot.draw(output, [e.name for e in compared.own])


def aggregate(asked: AggregateConfig, console: Console) -> None:
    """Aggregate runs: print tables, write CSV files and a plot."""
    intervals.rliable()
    compared = load(asked, console.say)
    output = Path(asked.output or run_folders.roots("runs", asked.runs or "runs")[0] / "aggregate")
    if not asked.output and output.is_symlink():
        raise UserError(f"{output} is a symbolic link; set output=PATH")
    if compared.own:
        title = f"score={asked.score}; published agents: means over seeds, same games"
        rows = intervals.aggregates(compared.all, asked.resamples)
    else:
        title = "published agents: means over seeds, all games of each"
        rows = intervals.aggregates(
            [(one, one.games) for one in published_marks(asked.against) if one.games], asked.resamples
        )
    console.print(aggregate_tables.table(title, rows))
    aggregate_tables.say_sources(asked, compared.own, console.say)
    better = improvements(compared, asked.resamples)
    if better:
        console.print(aggregate_tables.improvement_table(better))
    with outputs.writing(output):
        write(output, compared, rows, better, asked.resamples)
    console.say(f"written: {output}/ (CSV files: aggregates, games, profiles, efficiency, improvement, scores; a plot)")
