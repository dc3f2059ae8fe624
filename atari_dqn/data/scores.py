"""Published scores and learning curves; human-normalized scores. Numbers and sources are in the CSV files here."""

import csv
import functools
import importlib.resources
import math
from typing import NamedTuple

SOURCE = "Wang et al. 2016, Table 2 (57 games, no-op starts)"
HUMAN_FRAMES = 18_000  # longest game of the human player: 5 minutes (Mnih et al. 2015, Methods)
MILLION = 1_000_000  # frames


def _rows(name: str) -> list[dict[str, str]]:
    text = importlib.resources.files("atari_dqn").joinpath(f"data/{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@functools.cache
def random_and_human() -> dict[str, tuple[float, float]]:
    """Game -> mean raw scores of a random and a human player, from SOURCE."""
    return {row["game"]: (float(row["random"]), float(row["human"])) for row in _rows("atari57_random_human")}


def human_normalised(game: str, score: float) -> float | None:
    """(score - random) / (human - random): 0 is random play, 1 is human level. None if the game has no human score."""
    if game not in random_and_human():
        return None
    random, human = random_and_human()[game]
    return (score - random) / (human - random)


def percent(share: float) -> str:
    """A whole percentage; zero without a minus sign."""
    return f"{round(100 * share) + 0:d}%"


def human(game: str, score: float, whole: bool = True) -> str:
    """`" (27% of a human)"`; empty if the game has no human score or `score` is nan.

    Args:
        whole: whether the games are comparable with a human's; see emulators.Game.
    """
    normalized = human_normalised(game, score)
    return f" ({percent(normalized)} of a human)" if whole and normalized is not None and not math.isnan(score) else ""


def place(value: float, low: float, high: float) -> str:
    """inside, above or below: where a value lies relative to a range."""
    return "inside" if low <= value <= high else "above" if value > high else "below"


class Published(NamedTuple):
    """A published agent and how its scores were measured."""

    agent: str
    title: str
    preset: str  # our preset with the same constants; "" if there is none
    measure: str  # training | evaluation: learning curve of these returns; best | final: scores at the end
    seeds: str
    spread: str  # what sd is of: sample or population over seeds, games, seeds
    protocol: str
    source: str
    every_frames: str  # frames between values of a learning curve


@functools.cache
def agents() -> dict[str, Published]:
    """All published agents by key."""
    return {row["agent"]: Published(**row) for row in _rows("agents")}


LEARNING_CURVES = ("dopamine_jax_2024", "dopamine_jax_2021", "dopamine_tf", "nnabla", "laptop")


class Curve(NamedTuple):
    """A learning curve: value i covers frames i * every_frames to (i + 1) * every_frames."""

    by: Published
    game: str
    means: tuple[float, ...]
    sds: tuple[float, ...]

    @property
    def every_frames(self) -> int:
        return int(self.by.every_frames)

    def allowed(self, million: float) -> tuple[float, float]:
        """The tolerance band after `million` million frames: mean +- max(3 sd, 20% of the mean)."""
        mean, sd = self.at(million)
        width = max(3 * sd, 0.2 * abs(mean))
        return mean - width, mean + width

    def at(self, million: float) -> tuple[float, float]:
        """Mean and sd after `million` million frames: linearly interpolated, constant beyond both ends."""
        last = len(self.means)
        here = min(max(million * MILLION / self.every_frames, 1.0), float(last))
        before = min(int(here), last - 1) if last > 1 else 1
        share = here - before
        return tuple(  # type: ignore[return-value]
            values[before - 1] + share * (values[min(before, last - 1)] - values[before - 1])
            for values in (self.means, self.sds)
        )


@functools.cache
def curve(agent: str, game: str) -> Curve | None:
    """The learning curve of a published agent on a game; None if there is none."""
    for row in _rows("curves"):
        if (row["agent"], row["game"]) == (agent, game):
            means, sds = (tuple(map(float, row[key].split())) for key in ("means", "sds"))
            return Curve(agents()[agent], game, means, sds)
    return None


class Score(NamedTuple):
    """A published score at the end of training."""

    by: Published
    frames: int | None
    mean: float
    sd: float


def published(game: str) -> list[Score]:
    """All published scores of a game at the end of training."""
    return [
        Score(
            agents()[row["agent"]],
            int(row["frames"]) if row["frames"] else None,
            float(row["mean"]),
            float(row["sd"]) if row["sd"] else math.nan,
        )
        for row in _rows("scores")
        if row["game"] == game
    ]


@functools.cache
def finals(agent: str) -> dict[str, float]:
    """Game -> mean score of a published agent at the end of training."""
    return {row["game"]: float(row["mean"]) for row in _rows("scores") if row["agent"] == agent}


def by_its_own_human(agent: str = "nature_2015") -> list[float]:
    """Human-normalized score of each game, using the human and random scores of the agent's own paper.

    For the 49 games of Mnih et al. 2015, median 93.5% and mean 241.1% match van Hasselt et al. 2016, Table 1.
    """
    human, random = finals(f"{agent}_human"), finals(f"{agent}_random")
    return [(mean - random[game]) / (human[game] - random[game]) for game, mean in finals(agent).items()]


@functools.cache
def dqn_zoo_medians() -> dict[str, list[tuple[float, float]]]:
    """DQN Zoo agent -> (million frames, median human-normalized score over 57 games), read off its figure.

    Source: google-deepmind/dqn_zoo:plot_atari_summary.svg@45061f4bbbcf, digitized; points are not evenly spaced.
    """
    medians: dict[str, list[tuple[float, float]]] = {}
    for row in _rows("dqn_zoo_medians"):
        point = float(row["millions_of_frames"]), float(row["median_human_normalised"])
        medians.setdefault(row["agent"], []).append(point)
    return medians


@functools.cache
def atari100k(agent: str) -> dict[str, tuple[float, ...]]:
    """Game -> the score of each published run of an agent on Atari-100k: the mean of 100 games after 100,000 steps.

    Sources: the raw scores that accompany Agarwal et al. 2021, as copied in eloialonso/iris at 24326aa: results/data/;
    100 runs of each game, 5 of SimPLe. DER's 100 runs are read off the histograms in google-research/rliable at
    3ccd9f4: deep_rl_precipice_colab.ipynb, and so accurate to a bar, a twentieth of their range.
    """
    rows = [row for row in _rows("atari100k") if row["agent"] == agent]
    return {row["game"]: tuple(map(float, row["scores"].split())) for row in rows}


ATARI100K = ("DrQ(eps)", "DER", "SPR", "SimPLe")  # agents with published runs on Atari-100k
