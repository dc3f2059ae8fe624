"""Compare a run's learning curve with a published one: table, CSV file, plot."""

import csv
import math
from pathlib import Path
from typing import Any

from rich.table import Table

from atari_dqn.checkpoint import folders, outputs
from atari_dqn.config import bounds, presets
from atari_dqn.config.commands import CompareConfig
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.data.scores import MILLION, Curve
from atari_dqn.tracking import csv_files
from atari_dqn.tracking.curves import Point, by_value, evaluations, has_measure, is_whole, read, training, verdict
from atari_dqn.training.launch import saved_config
from atari_dqn.utils import extras
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing
from atari_dqn.utils.text import compact

COLUMNS = (
    "million_frames", "ours", "sd", "games", "human_normalised", "published", "published_sd", "low", "high", "verdict",
)  # fmt: skip


def rows(curve: Curve, points: dict[int, Point], whole: bool = True) -> list[dict[str, Any]]:
    """A row per value of the curve: our score, the published mean and sd, the verdict.

    Args:
        whole: whether our score is comparable with a human's.
    """
    found = []
    for value, p in sorted(points.items()):
        here = p.frames / MILLION
        published, sd = curve.at(here)
        low, high = curve.allowed(here)
        known = value <= len(curve.means)
        found.append(
            {
                "million_frames": value * curve.every_frames / MILLION,
                "ours": p.mean,
                "sd": p.sd,
                "games": p.games,
                "human_normalised": scores.human_normalised(curve.game, p.mean) if whole else None,
                "published": published if known else None,
                "published_sd": sd if known else None,
                "low": low if known else None,
                "high": high if known else None,
                "verdict": verdict(curve, here, p.mean) if known else "",
            }
        )
    return found


def number(value: float) -> str:
    """Three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def table(title: str, found: list[dict[str, Any]]) -> Table:
    """A printable table of the rows, at most 80 columns wide."""
    view = Table(title=title, title_justify="left")
    for column in ("M frames", "ours", "games", "human", "published", "sd", "tolerance", ""):
        view.add_column(column, justify="right")
    for row in found:
        human, known = row["human_normalised"], row["published"] is not None
        view.add_row(
            f"{row['million_frames']:g}",
            number(row["ours"]),
            str(row["games"]),
            "" if human is None else scores.percent(human),
            number(row["published"]) if known else "",
            number(row["published_sd"]) if known else "",
            f"{number(row['low'])} to {number(row['high'])}" if known else "",
            row["verdict"],
        )
    return view


def draw(path: Path, title: str, curve: Curve, fine: list[Point], found: list[dict[str, Any]]) -> None:
    """Plot the run on the published band, as a PNG."""
    matplotlib = extras.load("matplotlib", "the plot")  # slow to load
    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # names may contain a literal $
    from matplotlib import pyplot

    last = max([3, *(p.frames / curve.every_frames for p in fine)])
    shown = min(len(curve.means), math.ceil(last * 1.1))
    millions = [value * curve.every_frames / MILLION for value in range(1, shown + 1)]
    bands = [curve.allowed(m) for m in millions]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes.fill_between(
        millions, [b[0] for b in bands], [b[1] for b in bands], color="#0072b2", alpha=0.12, linewidth=0,
        label="tolerance: mean ± max(3 sd, 20%)",
    )  # fmt: skip
    axes.errorbar(
        millions, curve.means[:shown], curve.sds[:shown], color="#0072b2", marker="s", markersize=4, capsize=3,
        label=f"{curve.by.title}, mean and sd of {curve.by.seeds} seeds",
    )  # fmt: skip
    axes.plot([p.frames / MILLION for p in fine], [p.mean for p in fine], color="#d55e00", alpha=0.5, linewidth=1)
    axes.plot(
        [row["million_frames"] for row in found], [row["ours"] for row in found], color="#d55e00", marker="o",
        label="this run",
    )  # fmt: skip
    axes.set_xlabel("million environment frames")
    axes.set_ylabel(f"mean {curve.by.measure} return, raw")
    axes.set_title(title)
    axes.set_xlim(0, max(millions[-1], *(p.frames / MILLION for p in fine)) * 1.02)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False)
    with replacing(path) as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)


def own_curve(folder: Path, curve: Curve, frame_skip: int) -> tuple[list[Point], list[Point], int]:
    """A run's points at the curve's resolution, the same at a finer one, and the frames trained."""
    frames = max([0, *(int(row["agent_steps"]) for row in read(folder / "metrics.csv"))]) * frame_skip
    if curve.by.measure == "training":
        episodes, every = read(folder / "episodes.csv"), curve.every_frames
        return training(episodes, every), training(episodes, max(every // 10, 50_000)), frames
    evaluated = evaluations(read(folder / "evaluations.csv"))
    return evaluated, evaluated, frames


def find_curve(asked: str | None, config: TrainConfig) -> Curve:
    """The curve given by name or by the run's config. Raises UserError if there is none."""
    name, game = asked or config.published, config.env.game
    if name is not None:
        bounds.one_of("published", name, scores.LEARNING_CURVES)
    curve = scores.curve(name, game) if name else None
    if curve is None:
        others = [other for other in scores.LEARNING_CURVES if scores.curve(other, game)]
        hint = f"choose published={' or '.join(others)}" if others else "nothing to compare with"
        raise UserError(f"no published curve for {game}{f' by {name}' if name else ''}; {hint}")
    return curve


def compare(asked: CompareConfig, console: Console) -> None:
    """Compare a run with a published curve: print a table, write compare.csv and compare.png."""
    extras.need("the plot", "matplotlib")
    folder = folders.named("run", asked.run)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"run={folder}: not a run directory (it has no config.yaml)")
    output = Path(asked.output) if asked.output else folder / "compare.png"
    if output.suffix.lower() != ".png":
        raise UserError(f"output={output}: must end with .png; the numbers are written to a .csv beside it")
    config = saved_config(folder)
    curve = find_curve(asked.published, config)
    if not has_measure(config, curve):
        raise UserError(
            f"{folder} is scored by its training games, but {curve.by.title}'s curve shows separate evaluation games; "
            f"choose a curve of training returns, e.g. published=dopamine_jax_2024"
        )
    if damage := csv_files.damage(folder):
        raise UserError(f"damaged CSV files in {folder}: {damage}; remove the damaged rows")
    points, fine, frames = own_curve(folder, curve, config.env.frame_skip)
    whole = is_whole(config, curve.by.measure == "training")
    found = rows(curve, by_value(points, frames, curve.every_frames), whole)
    if not found:
        raise UserError(
            f"{folder} has no {curve.by.measure} returns to compare yet: the curve starts at "
            f"{compact(curve.every_frames)} frames, the run has {frames:,} frames; train it longer"
        )
    title = f"{config.env.game}, preset {config.preset}, seed {config.seed}"
    console.print(table(f"{title}, against {curve.by.title}", found))
    console.say(f"published: {curve.by.protocol}; {curve.by.seeds} seeds; {curve.by.source}")
    console.say("tolerance: mean +- max(3 sd, 20% of the mean)")
    if found[0]["human_normalised"] is not None:
        console.say(f"human scores: {scores.SOURCE}")
    for score in scores.published(config.env.game):
        when = f"at {score.frames / MILLION:.0f}M frames: " if score.frames else ""
        console.say(f"{score.by.title}: {when}{score.mean:,.10g}{scores.human(config.env.game, score.mean)}")
    if curve.by.preset:
        departures = presets.departures(config, curve.by.preset)
        different = [d for d in departures if d.key not in ("total_steps", "protocol.name")]
        if different:
            console.print(presets.table(curve.by.preset, different))
            console.say(f"these settings differ from those of {curve.by.title}, so the curves may differ, too")
    output = outputs.choose(asked.output, output, (".png",))
    outputs.choose(None, output.with_suffix(".csv"), (".csv",))
    with outputs.writing(output):
        draw(output, title, curve, fine, found)
        with replacing(output.with_suffix(".csv"), "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in found:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    console.say(f"written: {output}, {output.with_suffix('.csv')}")
