"""What run directories contain, as plain data for reports. Nothing in them is changed or executed."""

import contextlib
import functools
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atari_dqn.analysis.run_folders import CSV_FILES
from atari_dqn.checkpoint import folders
from atari_dqn.checkpoint.folders import SILENT_SECONDS
from atari_dqn.config import presets
from atari_dqn.config.presets import Departure
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.tracking import csv_files, curves
from atari_dqn.training import launch
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint
from atari_dqn.utils.text import one_line

Data = dict[str, Any]

AXES = ("frames", "agent_steps", "seconds")
MEASURED = ("q_mean", "loss", "grad_norm", "epsilon", "learning_rate", "frames_per_second")
EVALUATED = ("mean", "sd", "held_out_q")
TRAINED = ("mean",)
PARTS = 60  # of a run, at most, that its training games are averaged in


class State(NamedTuple):
    """Running, finished, stopped, failed or died; what else there is to say; how long ago it wrote."""

    word: str
    detail: str
    seconds_since: float


def state(folder: Path) -> State:
    """By its lock, by what its process left behind, and by its heartbeat: the last row of its CSV files."""
    process, since = folders.note(folder), min(folders.seconds_since(folder), time.time())
    if folders.is_held(folder):
        return State("running", f"silent for {since / 60:.0f} minutes" if since > SILENT_SECONDS else "", since)
    if ended := str(process.get("ended", "")):
        word, _, detail = ended.partition(": ")
        return State(word if word in ("finished", "stopped", "failed") else "stopped", detail[:400], since)
    host = str(process.get("host", ""))
    if host not in ("", socket.gethostname()) and since < SILENT_SECONDS:  # another machine's locks may not be seen
        return State("running", f"on {host:.60s}", since)
    return State("died", f"it was killed, or its machine went down; {hint('resume', RUN='...')} resumes it", since)


def numbers(rows: Sequence[dict[str, str]], columns: Iterable[str]) -> dict[str, np.ndarray]:
    """Columns of a CSV file as floats; nan where one is empty or missing. Raises ValueError for other text."""
    return {name: np.array([float(row.get(name) or "nan") for row in rows]) for name in columns}


def plain(values: Iterable[float]) -> list[float | None]:
    """For JSON: seven digits, None for what is no number."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]


def number(value: object) -> float | None:
    """A CSV file's field, or a float, for JSON."""
    return plain([float(value or "nan")])[0]  # type: ignore[arg-type]


def thin(series: dict[str, np.ndarray], points: int) -> dict[str, np.ndarray]:
    """At most so many points: means of neighbors, each at the last one's place."""
    count = len(next(iter(series.values())))
    if count <= points:
        return series
    parts = np.array_split(np.arange(count), points)
    made: dict[str, np.ndarray] = {}
    for name, values in series.items():
        if name in AXES:
            made[name] = values[[part[-1] for part in parts]]
        else:
            known = [values[part][np.isfinite(values[part])] for part in parts]
            made[name] = np.array([some.mean() if len(some) else np.nan for some in known])
    return made


def _stamp(folder: Path, *names: str) -> tuple[tuple[str, int, int], ...]:
    """What changes when one of these files does."""
    found = []
    for name in names:
        with contextlib.suppress(OSError):
            there = os.lstat(folder / name)
            found.append((name, there.st_mtime_ns, there.st_size))
    return tuple(found)


@functools.lru_cache(maxsize=2000)
def _known(folder: Path, stamp: object) -> tuple[TrainConfig, list[Departure]]:
    config = launch.saved_config(folder)
    try:
        return config, presets.departures(config)
    except UserError:  # a preset that was renamed is no reason to hide what it led to
        return config, [Departure("preset", "not known any more", config.preset)]


def settings_of(folder: Path) -> tuple[TrainConfig, list[Departure]]:
    """A run's config, and its overrides of its preset. Raises UserError if it cannot be read."""
    return _known(folder, _stamp(folder, "config.yaml"))


def changes(departures: list[Departure]) -> tuple[str, ...]:
    """What makes a run another experiment than its preset: not its length, nor how it was watched and kept."""
    return tuple(f"{key}={presets.text(mine)}" for key, _, mine in departures if key != "total_steps")


def group(config: TrainConfig, departures: list[Departure]) -> str:
    """Runs of the same group are of the same game and experiment."""
    made = ", ".join(changes(departures))
    return f"{config.env.game}, {config.preset}" + (f" with {made}" if made else "")


def line(folder: Path) -> Data:
    """A run in a list: what it is, how it stands, how far it is. Its `error` says where it cannot be read."""
    try:
        told, stands = _progress(folder, _stamp(folder, "config.yaml", *CSV_FILES)), state(folder)
    except Exception as error:  # whatever is wrong with a run's files, the others are shown
        return _unreadable(error)
    rate = (told["frames_per_second"] or 0) / told["frame_skip"]
    left = (told["total_steps"] - told["agent_steps"]) / rate if stands.word == "running" and rate else math.nan
    left = min(left, max(0.0, 60 * (told["max_minutes"] or math.inf) - 3600 * told["hours"]))
    return told | {
        "state": stands.word,
        "detail": "; ".join(filter(None, (stands.detail, told["damage"]))),
        "seconds_since": round(stands.seconds_since),
        "seconds_left": number(left),
    }


def _unreadable(error: Exception) -> Data:
    return {"error": f"cannot be read: {one_line(error)}"}


@functools.lru_cache(maxsize=2000)
def _progress(folder: Path, stamp: object) -> Data:
    """A run's line but for its state."""
    config, departures = settings_of(folder)
    game, skip = config.env.game, config.env.frame_skip
    last = (curves.read(folder / "metrics.csv") or [{}])[-1]
    evaluations = curves.read(folder / "evaluations.csv")
    steps = int(last.get("agent_steps") or 0)
    best = max((point.mean for point in curves.evaluations(evaluations)), default=math.nan)
    now = float(last.get("return_mean") or "nan")
    pace = curves.pace(config, folder, steps)
    training = math.isnan(best)  # no evaluation yet
    return _sendable(
        {
            "game": game,
            "preset": config.preset,
            "seed": config.seed,
            "group": group(config, departures),
            "total_steps": config.total_steps,
            "max_minutes": config.max_minutes,
            "agent_steps": steps,
            "frames": steps * skip,
            "frame_skip": skip,
            "updates": int(last.get("updates") or 0),
            "hours": round(max(float(row.get("seconds") or 0) for row in (last, *evaluations[-1:])) / 3600, 5),
            "frames_per_second": number(last.get("frames_per_second")),
            "score": number(now),
            "best": number(best),
            "human_normalised": _human(game, now if training else best) if curves.is_whole(config, training) else None,
            "pace": pace.word(steps * skip) if pace else "",
            "damage": csv_files.damage(folder),
        }
    )


def _sendable(data: Data) -> Data:
    """`data`, if it can be written as JSON. Raises ValueError, so that it is this run that is not shown."""
    json.dumps(data, allow_nan=False)
    return data


def _human(game: str, score: float) -> float | None:
    share = scores.human_normalised(game, score)
    return None if share is None else number(share)


def entry(folder: Path, points: int) -> Data:
    """All that a page shows of a run but its videos; its series have `points` values at most."""
    told = line(folder)
    try:
        if "error" in told:
            return told
        shown = told | _series(folder, points, _stamp(folder, "config.yaml", *CSV_FILES))
        return shown | {"error": told["damage"]} if told["damage"] else shown
    except Exception as error:
        return _unreadable(error)


@functools.lru_cache(maxsize=500)
def _series(folder: Path, points: int, stamp: object) -> Data:
    config, departures = settings_of(folder)
    metrics = thin(numbers(curves.read(folder / "metrics.csv"), (*AXES, *MEASURED)), points)
    if config.optimizer.schedule == "constant":
        metrics["learning_rate"][:] = math.nan  # nothing to see
    rows = curves.read(folder / "evaluations.csv")
    current = [row for row in rows if (row.get("network") or "current") == "current"]
    episodes = curves.read(folder / "episodes.csv")
    every = part_frames(config, int(episodes[-1]["frames"]) if episodes else 0)
    process = folders.note(folder)
    facts = {key: process[key] for key in ("machine", "versions") if isinstance(process.get(key), dict)}
    return _sendable(
        {
            "departures": [[key, presets.text(own), presets.text(mine)] for key, own, mine in departures],
            "process": {key: {str(k)[:60]: str(v)[:200] for k, v in told.items()} for key, told in facts.items()},
            "every_frames": every,
            "trained": {key: plain(values) for key, values in trained(episodes, every).items()},
            "measured": {key: plain(values) for key, values in metrics.items()},
            "evaluated": {key: plain(values) for key, values in numbers(current, (*AXES, *EVALUATED)).items()},
            "evaluations": [
                {key: row.get(key, "") for key in ("agent_steps", "protocol", "episodes", "network")}
                | {key: number(row.get(key)) for key in ("mean", "sd", "median", "min", "max", "human_normalised")}
                for row in rows
            ],
            "published": published(config, int(metrics["frames"][-1]) if len(metrics["frames"]) else 0),
        }
    )


def part_frames(config: TrainConfig, frames: int) -> int:
    """Frames in which training games are averaged: 1, 2 or 5 times a power of ten; no more than a published curve's."""
    least = max(1000.0, frames / PARTS)
    power = 10 ** math.floor(math.log10(least))
    width = next(times * power for times in (1, 2, 5, 10) if times * power >= least)
    curve = scores.curve(config.published, config.env.game) if config.published else None
    return min(width, curve.every_frames) if curve is not None and curve.by.measure == "training" else width


def trained(episodes: Sequence[dict[str, str]], every_frames: int) -> dict[str, np.ndarray]:
    """Mean return of the training games that ended in each `every_frames`, where the last of them ended."""
    ends = {-(-int(row["frames"]) // every_frames): row for row in episodes}
    at = numbers([ends[part] for part in sorted(ends)], AXES)
    return at | {"mean": np.array([point.mean for point in curves.training(episodes, every_frames)])}


def published(config: TrainConfig, frames: int) -> Data | None:
    """The learning curve that a run names, a little further than it has come, and what is allowed around it."""
    curve = scores.curve(config.published, config.env.game) if config.published else None
    if curve is None or not curves.has_measure(config, curve):
        return None
    shown = min(len(curve.means), max(3, math.ceil(frames * 1.1 / curve.every_frames)))
    at = [value * curve.every_frames for value in range(1, shown + 1)]
    allowed = [curve.allowed(million) for million in (value / scores.MILLION for value in at)]
    return {
        "measure": curve.by.measure,
        "title": curve.by.title,
        "seeds": curve.by.seeds,
        "protocol": curve.by.protocol,
        "source": curve.by.source,
        "frames": at,
        "mean": list(curve.means[:shown]),
        "low": plain(low for low, _ in allowed),
        "high": plain(high for _, high in allowed),
    }


def final_scores(games: Iterable[str]) -> dict[str, list[Data]]:
    """What others published of games at the end of training."""
    return {
        game: [
            {
                "title": score.by.title,
                "protocol": score.by.protocol,
                "frames": score.frames,
                "mean": score.mean,
                "human_normalised": _human(game, score.mean),
            }
            for score in scores.published(game)
        ]
        for game in games
    }
