"""Group runs into experiments, which are matrices of scores [seeds, games]; published agents, too."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atari_dqn.analysis import run_data
from atari_dqn.config import bounds
from atari_dqn.data import scores
from atari_dqn.data.scores import MILLION
from atari_dqn.tracking import csv_files, curves
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import compact, one_line

Matrix = NDArray[np.float64]
LONGEST = 34  # characters in the name of an experiment


class Run(NamedTuple):
    """A run's score and learning curve."""

    seed: int
    score: float  # raw
    frames: int
    training: list[curves.Point]  # its learning curve


class Experiment(NamedTuple):
    """Runs that differ only in game and seed, or a published agent."""

    name: str
    runs: dict[str, list[Run]]  # by game, one run per seed

    @property
    def seeds(self) -> int:
        """The most common number of seeds per game. Games with fewer are excluded; of more, the first are used."""
        counts = [len(found) for found in self.runs.values()]
        return max(counts, key=lambda count: (counts.count(count), count))

    @property
    def games(self) -> list[str]:
        """The games with all seeds and with a human score."""
        return sorted(
            game
            for game, found in self.runs.items()
            if len(found) >= self.seeds and scores.human_normalised(game, 0) is not None
        )

    @property
    def frames(self) -> int:
        """The frames of the shortest run."""
        return min(run.frames for found in self.runs.values() for run in found)

    def raw(self, games: Sequence[str]) -> Matrix:
        """Scores, [seeds, games]."""
        return np.array([[run.score for run in self.runs[game][: self.seeds]] for game in games]).T

    def normalized(self, games: Sequence[str]) -> Matrix:
        """Human-normalized scores, [seeds, games]."""
        return human_normalised(self.raw(games), games)


def human_normalised(raw: Matrix, games: Sequence[str]) -> Matrix:
    """Normalize raw scores [..., games]."""
    random, human = np.array([scores.random_and_human()[game] for game in games]).T
    return (raw - random) / (human - random)


def gather(folders: Iterable[Path], score: str, say: Callable[[str], None]) -> list[Experiment]:
    """Group runs into experiments; `say` reports runs that are skipped or incomplete."""
    found: dict[tuple[str, ...], dict[str, dict[int, Run]]] = {}  # by preset and changes
    for folder in folders:
        try:
            config, departures = run_data.settings_of(folder)
            mean = curves.score(folder, score)
            episodes = curves.read(folder / "episodes.csv")
            frames = int((curves.read(folder / "metrics.csv") or [{}])[-1].get("frames") or 0)
            training = curves.training(episodes, run_data.part_frames(config, frames)) if episodes else []
            damage = csv_files.damage(folder)
        except (UserError, ValueError, KeyError, OSError) as error:
            say(f"note: {folder} cannot be read: {one_line(error, 150)}")
            continue
        if damage:
            say(f"note: {folder}: {damage}")
        if mean is None or not np.isfinite(mean):
            say(f"note: {folder} has no score={score} yet")
            continue
        if frames < 0.99 * config.total_steps * config.env.frame_skip:
            say(f"note: {folder} is unfinished ({compact(frames)} frames) but included")
        if not curves.is_whole(config, score == "training"):
            say(f"note: {folder} is included, but its games were truncated before a human's 5 minutes")
        key = (config.preset, *run_data.changes(departures))
        seeds = found.setdefault(key, {}).setdefault(config.env.game, {})
        if config.seed not in seeds or seeds[config.seed].frames < frames:  # the longest run of each seed
            seeds[config.seed] = Run(config.seed, mean, frames, training)
    return [
        Experiment(name, {game: [seeds[seed] for seed in sorted(seeds)] for game, seeds in found[key].items()})
        for key, name in names([*found], say).items()
    ]


def names(keys: Sequence[tuple[str, ...]], say: Callable[[str], None]) -> dict[tuple[str, ...], str]:
    """Short names for experiments (preset, changes ...); `say` explains what the names omit."""
    common = set.intersection(*(set(changes) for _, *changes in keys)) if keys else set()
    if common:
        say(f"all runs with {', '.join(sorted(common))}")
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
    """A published agent (means over its seeds) at the end, or after `frames` frames if it has a learning curve.

    Raises UserError if there is no such agent.
    """
    bounds.one_of("against", agent, tuple(name for name, by in scores.agents().items() if by.measure != "final"))
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
