"""Runs of many games and seeds as the statistics of Agarwal et al. 2021, by rliable, beside published agents."""

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from atari_dqn import curves, logbook, scores, settings
from atari_dqn.config import AggregateConfig
from atari_dqn.display import compact
from atari_dqn.errors import UserError
from atari_dqn.files import replacing
from atari_dqn.scores import MILLION

Matrix = NDArray[np.float64]
STATISTICS = ("iqm", "median", "mean", "optimality_gap")  # of human-normalised scores
TAUS = np.linspace(0, 8, 161)  # human-normalised scores that a profile is drawn at
LONGEST = 34  # signs in the name of an experiment
GRID = 20  # points of a sample-efficiency curve
MARKS = (10, 40, 50, 100, 199, 200)  # million frames at which published curves are told


class Run(NamedTuple):
    """What counts of a run."""

    seed: int
    score: float  # raw
    frames: int
    training: list[curves.Point]  # its learning curve


class Experiment(NamedTuple):
    """Runs that differ in game and seed alone, or a published agent."""

    name: str
    runs: dict[str, list[Run]]  # of each game, one of each seed

    @property
    def seeds(self) -> int:
        """As most games have. Games with fewer are no part of the statistics; of more, the first ones are."""
        counts = [len(found) for found in self.runs.values()]
        return max(counts, key=lambda count: (counts.count(count), count))

    @property
    def games(self) -> list[str]:
        """Those with all seeds, and with a human's score."""
        return sorted(
            game
            for game, found in self.runs.items()
            if len(found) >= self.seeds and scores.human_normalised(game, 0) is not None
        )

    @property
    def frames(self) -> int:
        """That the shortest run has come to."""
        return min(run.frames for found in self.runs.values() for run in found)

    def raw(self, games: Sequence[str]) -> Matrix:
        """Scores, [seeds, games]."""
        return np.array([[run.score for run in self.runs[game][: self.seeds]] for game in games]).T

    def normalised(self, games: Sequence[str]) -> Matrix:
        """Human-normalised scores, [seeds, games]."""
        return human_normalised(self.raw(games), games)


def human_normalised(raw: Matrix, games: Sequence[str]) -> Matrix:
    """Of raw scores [..., games]."""
    random, human = np.array([scores.random_and_human()[game] for game in games]).T
    return (raw - random) / (human - random)


def _rliable() -> Any:
    """rliable's library. Raises UserError where it is not installed."""
    try:
        from rliable import library
    except ImportError:
        raise UserError("rliable is not installed: pip install 'atari-dqn[aggregate]'") from None
    return library


def four(matrix: Matrix) -> Matrix:
    """STATISTICS of human-normalised scores [seeds, games]."""
    from rliable import metrics

    return np.array([getattr(metrics, f"aggregate_{name}")(matrix) for name in STATISTICS])


def interval(
    matrices: Matrix | tuple[Matrix, Matrix], statistic: Callable[..., Matrix], resamples: int
) -> tuple[Matrix, Matrix]:
    """A statistic and its 95% interval [2, ...] by the stratified bootstrap: seeds are drawn, game by game.

    The interval of single runs is nan.
    """
    parts = matrices if isinstance(matrices, tuple) else (matrices,)
    if all(len(part) == 1 for part in parts):
        point = statistic(*parts)
        return point, np.full((2, *point.shape), np.nan)
    before = np.random.get_state()
    np.random.seed(0)  # rliable draws from NumPy's own generator, whatever random_state says
    try:
        points, found = _rliable().get_interval_estimates({"it": matrices}, statistic, reps=resamples)
    finally:
        np.random.set_state(before)
    return points["it"], found["it"]


# ---------------------------------------------------------------------------------------------------- what there is


def gather(folders: Iterable[Path], score: str, say: Callable[[str], None]) -> list[Experiment]:
    """The experiments that some runs are of; says which of them do not count."""
    found: dict[tuple[str, ...], dict[str, dict[int, Run]]] = {}  # by preset and changes
    for folder in folders:
        try:
            config, departures = logbook.settings_of(folder)
            mean = curves.score(folder, score)
            episodes = curves.read(folder / "episodes.csv")
            frames = int((curves.read(folder / "metrics.csv") or [{}])[-1].get("frames") or 0)
            training = curves.training(episodes, logbook.part_frames(config, frames)) if episodes else []
        except (UserError, ValueError, KeyError) as error:
            say(f"note: {folder} cannot be read: {' '.join(str(error).split())[:150]}")
            continue
        if mean is None or not np.isfinite(mean):
            say(f"note: {folder} has no score={score} yet")
            continue
        if frames < 0.99 * config.total_steps * config.env.frame_skip:
            say(f"note: {folder} counts as it is, after {compact(frames)} frames")
        key = (config.preset, *logbook.changes(departures))
        seeds = found.setdefault(key, {}).setdefault(config.env.game, {})
        if config.seed not in seeds or seeds[config.seed].frames < frames:  # a seed that was run twice counts once
            seeds[config.seed] = Run(config.seed, mean, frames, training)
    return [
        Experiment(name, {game: [seeds[seed] for seed in sorted(seeds)] for game, seeds in found[key].items()})
        for key, name in names([*found], say).items()
    ]


def names(keys: Sequence[tuple[str, ...]], say: Callable[[str], None]) -> dict[tuple[str, ...], str]:
    """Short names of experiments, each (preset, changes ...); says what they leave out."""
    common = set.intersection(*(set(changes) for _, *changes in keys)) if keys else set()
    if common:
        say(f"all with {', '.join(sorted(common))}")
    made = {}
    for i, key in enumerate(sorted(keys)):
        preset, *changes = key
        own = [change for change in changes if change not in common]
        made[key] = " ".join([preset, *(["with", ", ".join(own)] if own else [])])
        if len(made[key]) > LONGEST:
            made[key], whole = f"{preset} {chr(ord('A') + i) if i < 26 else i}", made[key]
            say(f"{made[key]}: {whole}")
    return made


def published(agent: str, frames: int | None = None) -> Experiment:
    """A published agent as means over its seeds: at its end, or after so many frames where it has a learning curve.

    Raises UserError where there is none.
    """
    settings.one_of("against", agent, tuple(name for name, by in scores.agents().items() if by.measure != "final"))
    runs = {}
    for game in scores.random_and_human():
        if curve := scores.curve(agent, game):
            at = min(frames or len(curve.means) * curve.every_frames, len(curve.means) * curve.every_frames)
            points = [curves.Point((i + 1) * curve.every_frames, mean, 0.0, 0) for i, mean in enumerate(curve.means)]
            runs[game] = [Run(0, curve.at(at / MILLION)[0], at, points)]
    if not runs:
        for game in scores.random_and_human():
            for score in scores.published(game):
                if score.by.agent == agent:
                    runs[game] = [Run(0, score.mean, score.frames or 0, [])]
    return Experiment(scores.agents()[agent].title, runs)


# ------------------------------------------------------------------------------------------------------- statistics


def at_frames(experiment: Experiment, games: Sequence[str], grid: Matrix) -> Matrix:
    """Human-normalised training returns on a grid of frames, [seeds, games, grid]; between two values, linearly."""
    values = [
        [
            np.interp(grid, [p.frames for p in run.training], [p.mean for p in run.training])
            for run in experiment.runs[g][: experiment.seeds]
        ]
        for g in games
    ]
    return np.moveaxis(human_normalised(np.moveaxis(np.array(values), 0, -1), games), -1, 1)


def profile(matrix: Matrix, resamples: int) -> tuple[Matrix, Matrix, Matrix]:
    """The share of runs above each of TAUS, and its interval's low and high end; nan for single runs."""

    def above(values: Matrix) -> Matrix:
        return np.array([(values > tau).mean() for tau in TAUS])

    share, (low, high) = interval(matrix, above, resamples)
    return share, low, high


def efficiency(experiment: Experiment, games: Sequence[str], grid: Matrix, resamples: int) -> tuple[Matrix, Matrix]:
    """IQM at each of the grid's frames and its interval [2, grid]."""
    from rliable import metrics

    def over_frames(values: Matrix) -> Matrix:
        return np.array([metrics.aggregate_iqm(values[..., i]) for i in range(values.shape[-1])])

    return interval(at_frames(experiment, games, grid), over_frames, resamples)


def beats(x: Matrix, y: Matrix) -> Matrix:
    """P(X > Y) of scores [seeds, games], over all pairs of seeds and then over games; a tie is a half. [1].

    rliable's own value, without its statistical test for each game, which takes minutes of a bootstrap.
    """
    pairs = x[:, None], y[None]
    return np.array([(pairs[0] > pairs[1]).mean() + 0.5 * (pairs[0] == pairs[1]).mean()])


def improvement(one: Experiment, other: Experiment, resamples: int) -> tuple[int, float, Matrix]:
    """Games in common; the probability that a run of `one` scores higher than one of `other`; its interval [2]."""
    games = [game for game in one.games if game in other.games]
    if not games:
        return 0, np.nan, np.full(2, np.nan)
    pair = one.normalised(games), other.normalised(games)
    point, around = interval(pair, beats, resamples)
    return len(games), float(point[0]), around[:, 0]


class Told(NamedTuple):
    """A row of the table of aggregates."""

    name: str
    seeds: int
    games: int
    frames: int
    points: Matrix  # [4]
    intervals: Matrix  # [2, 4]


def told(experiments: Iterable[tuple[Experiment, Sequence[str]]], resamples: int) -> list[Told]:
    """The four statistics of experiments, each over its games."""
    rows = []
    for experiment, games in experiments:
        if games:
            points, around = interval(experiment.normalised(games), four, resamples)
            rows.append(Told(experiment.name, experiment.seeds, len(games), experiment.frames, points, around))
    return rows


# ----------------------------------------------------------------------------------------------------------- output


def _value(point: float, low: float, high: float) -> str:
    """Two lines: a number, and its interval without the noughts before its points."""
    ends = [f"{end:.2f}".replace("0.", ".", 1) if abs(end) < 1 else f"{end:.2f}" for end in (low, high)]
    return f"{point:.2f}" if np.isnan(low) else f"{point:.2f}\n{ends[0]} {ends[1]}"


def table(title: str, rows: Sequence[Told]) -> Table:
    """For a person, 80 columns wide at most."""
    caption = "of human-normalised scores, and 95% intervals; runs x games"
    view = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "runs", "frames", "IQM", "median", "mean", "gap"):
        view.add_column(column, justify="right" if column else "left", overflow="fold", no_wrap=bool(column))
    for row in rows:
        values = [_value(p, lo, hi) for p, lo, hi in zip(row.points, *row.intervals, strict=True)]
        view.add_row(row.name, f"{row.seeds}x{row.games}", compact(row.frames) if row.frames else "", *values)
    return view


def improvement_table(better: Sequence[tuple[str, str, int, float, Matrix]]) -> Table:
    """For a person, 80 columns wide at most."""
    view = Table(title="probability that a run of the one scores higher than one of the other", title_justify="left")
    for column in ("the one", "the other", "games", "probability"):
        view.add_column(column, justify="left" if column.startswith("the") else "right", overflow="fold")
    for name, other, count, point, around in better:
        if count:
            view.add_row(name, other, str(count), _value(point, *around).replace("\n", "  "))
    return view


def games_table(experiments: Sequence[Experiment], against: Sequence[Experiment]) -> tuple[list[str], list[list[str]]]:
    """Mean raw scores of each game; for each of ours its human-normalised one as well."""
    columns = ["game", *(f"{e.name}{more}" for e in experiments for more in ("", ", seeds", ", human-normalised"))]
    columns += [e.name for e in against]
    rows = []
    for game in sorted({game for e in experiments or against for game in e.runs}):
        row = [game]
        for e in experiments:
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
    """Put runs together: print tables, write CSV files and a picture."""
    settings.one_of("score", asked.score, ("last", "best", "training"))
    settings.between("resamples", asked.resamples, 100, 100_000)
    _rliable()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    own = gather(logbook.name_runs("runs", asked.runs).values() if asked.runs else [], asked.score, say)
    if asked.runs and not own:
        raise UserError(f"runs={asked.runs}: no run there has a score={asked.score}; train longer, or choose another")
    for experiment in own:
        if few := sorted({*experiment.runs} - {*experiment.games}):
            say(f"note: left out of {experiment.name}'s statistics, for seeds or a human's score are missing: {few}")
    own = [experiment for experiment in own if experiment.games]
    if asked.runs and not own:
        raise UserError(f"runs={asked.runs}: no game there has a human's score; {scores.SOURCE} has 57")
    games = sorted({game for experiment in own for game in experiment.games})
    frames = max((experiment.frames for experiment in own), default=None)
    others = [published(agent, frames) for agent in asked.against]
    if own:
        rows = told([(e, e.games) for e in own], asked.resamples)
        rows += told([(e, [game for game in e.games if game in games]) for e in others], asked.resamples)
        console.print(table(f"score={asked.score}; published agents on the same games, means of their seeds", rows))
    else:
        marks = [published(agent, million * MILLION) for agent in asked.against for million in _marks(agent)]
        rows = told([(e, e.games) for e in marks], asked.resamples)
        console.print(table("published agents, each on all its games; means of their seeds", rows))
    say(f"human: by {scores.SOURCE}; gap: optimality gap, how far below a human's on average")
    if "nature_2015" in asked.against and not own:
        paper = np.array(scores.by_its_own_human())
        say(
            f"{others[asked.against.index('nature_2015')].name} by its own paper's human, {len(paper)} games: median "
            f"{np.median(paper):.1%}, mean {paper.mean():.1%}, as van Hasselt et al. 2016, Table 1"
        )
    for agent in asked.against:
        by = scores.agents()[agent]
        say(f"{by.title}: {by.protocol}; {by.seeds} seeds; {by.source}")
    better = [
        (one.name, other.name, *improvement(one, other, asked.resamples))
        for one, other in itertools.chain(itertools.combinations(own, 2), itertools.product(own, others))
    ]
    if own:
        console.print(improvement_table(better))
    output = Path(asked.output or logbook.roots(asked.runs or "runs")[0] / "aggregate")
    try:
        output.mkdir(parents=True, exist_ok=True)
        _write_all(output, own, others, rows, better, games, asked.resamples)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}; set output=PATH") from None
    say(f"written: {output}/ (aggregates, games, profiles, efficiency, improvement, scores of runs x games; a picture)")


def _marks(agent: str) -> list[int]:
    """Million frames at which a published agent is told; its end alone where it has no curve."""
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
    from atari_dqn import aggregate_picture

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
            for row in zip(TAUS, *profile(e.normalised(on), min(resamples, 2000)), strict=True)
        ],
    )
    curve = []
    for e, on in shown:
        if all(run.training for game in on for run in e.runs[game]):
            until = min(e.frames, max(o.frames for o in own)) if own else e.frames
            first = max(run.training[0].frames for game in on for run in e.runs[game])
            grid = np.linspace(until / GRID, until, GRID)
            grid = grid[grid >= first]
            middle, around = efficiency(e, on, grid, min(resamples, 1000))
            curve += [(e.name, round(f), m, lo, hi) for f, m, lo, hi in zip(grid, middle, *around, strict=True)]
    _write(output / "efficiency.csv", ("name", "frames", "iqm", "low", "high"), curve)
    _write(
        output / "improvement.csv",
        ("name", "other", "games", "probability", "low", "high"),
        [(name, other, count, point, *map(float, around)) for name, other, count, point, around in better],
    )
    aggregate_picture.draw(output, [e.name for e in own])
