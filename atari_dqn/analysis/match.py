"""Rank agents on one game under one protocol: a table, a picture, and a film of all of them side by side."""

import contextlib
import csv
import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from atari_dqn.checkpoint import outputs
from atari_dqn.config.schema import Env, Protocol
from atari_dqn.data import scores
from atari_dqn.envs.base import Game
from atari_dqn.evaluation import evaluate
from atari_dqn.evaluation.player import Player, make_player
from atari_dqn.evaluation.protocol import environment
from atari_dqn.evaluation.request import Request
from atari_dqn.utils import extras
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing
from atari_dqn.utils.text import compact, plural
from atari_dqn.viewing import video
from atari_dqn.viewing.screens import Film

RESAMPLES = 10_000
ENOUGH = 10  # games, below which the bootstrap's intervals are far too narrow
COLUMNS = (
    "rank", "checkpoint", "game", "trained_on", "preset", "agent_steps", "protocol", "epsilon", "seed", "games",
    "mean", "low", "high", "sd", "human_normalised", "ahead_of_next",
)  # fmt: skip


class Contestant(NamedTuple):
    """An agent and the games that it played.

    Attributes:
        result: see evaluate.evaluate.
        low, high: 95% interval of the mean score, by the percentile bootstrap over its games; nan for too few games.
        means: of the resamples.
    """

    name: str
    env: Env
    player: Player
    result: dict[str, Any]
    low: float
    high: float
    means: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.result["summary"]["mean"])


def names(paths: Sequence[Path]) -> list[str]:
    """Short names of checkpoints that differ: without what all paths share, nor `checkpoints/best.pt`."""
    short = []
    for path in paths:
        parts = list(path.parts)
        parts = parts[:-1] if parts[-1] in ("best.pt", "latest.pt") and len(parts) > 1 else parts
        short.append([part for part in parts if part != "checkpoints"])
    for length in range(1, 1 + max(map(len, short))):
        found = ["/".join(parts[-length:]) for parts in short]
        if len({*found}) == len(found):
            return found
    return [str(path) for path in paths]


def contest(
    requests: Sequence[Request],
    episodes: int,
    tell: Callable[[str], AbstractContextManager[Callable[[list[Game]], None]]],
) -> list[Contestant]:
    """Let each agent play `episodes` games from the same seed; the best comes first.

    Args:
        tell: given a contestant's name, yields what is called with its finished games at each step.
    """
    found = []
    for number, (name, (asked, checkpoint, protocol)) in enumerate(
        zip(names([request.checkpoint.path for request in requests]), requests, strict=True)
    ):
        games = min(asked.evaluation.num_envs, episodes)
        try:
            env, player = make_player(checkpoint, protocol, asked.env.game, asked.env.arguments)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        with tell(name) as on_step:
            result = evaluate.evaluate(checkpoint, protocol, env, player, episodes, games, asked.seed, on_step)
        returns = np.array(result["returns"])
        draw = np.random.default_rng([asked.seed, number])
        means = returns[draw.integers(len(returns), size=(RESAMPLES, len(returns)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5]) if len(returns) >= ENOUGH else (math.nan, math.nan)
        found.append(Contestant(name, env, player, result, float(low), float(high), means))
    return sorted(found, key=lambda one: -one.mean)


def ahead(one: Contestant, other: Contestant) -> float:
    """The share of resamples in which one's mean is higher than the other's; ties count half. nan for too few games."""
    if math.isnan(one.low) or math.isnan(other.low):
        return math.nan
    return float((one.means > other.means).mean() + 0.5 * (one.means == other.means).mean())


def table(ranked: Sequence[Contestant], protocol: Protocol) -> Table:
    first = ranked[0]
    games = plural(first.result["summary"]["episodes"], "game")
    title = f"{first.env.game}: {games} each, protocol {protocol.name} (epsilon {protocol.epsilon:g})"
    view = Table(title=title, title_justify="left")
    for column in ("", "agent", "steps", "mean", "95% interval", "sd", "human", "ahead"):
        view.add_column(column, justify="left" if column == "agent" else "right", overflow="fold")
    for rank, one in enumerate(ranked, 1):
        numbers = one.result["summary"]
        human = numbers["human_normalised"]
        view.add_row(
            str(rank),
            one.name,
            compact(one.result["trained_agent_steps"]),
            f"{one.mean:,.1f}",
            "-" if math.isnan(one.low) else f"{one.low:,.1f} to {one.high:,.1f}",
            f"{numbers['sd']:,.1f}",
            "-" if human is None else scores.percent(human),
            "" if rank == len(ranked) or math.isnan(lead := ahead(one, ranked[rank])) else f"{lead:.0%}",
        )
    return view


def draw(path: Path, ranked: Sequence[Contestant], protocol: Protocol) -> None:
    """Each agent's games, and its mean with the interval, as a PNG."""
    matplotlib = extras.load("matplotlib", "the picture")  # slow to load
    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # names may contain a literal $
    from matplotlib import pyplot

    game = ranked[0].env.game
    figure, axes = pyplot.subplots(figsize=(8, 1.4 + 0.5 * len(ranked)), dpi=120, layout="constrained")
    spread = np.random.default_rng(0)
    for y, one in enumerate(reversed(ranked)):
        returns = np.array(one.result["returns"])
        heights = y + spread.uniform(-0.18, 0.18, len(returns))
        axes.plot(returns, heights, "o", color="#0072b2", markersize=4, alpha=0.3, markeredgewidth=0)
        axes.plot([one.low, one.high], [y, y], color="#d55e00", linewidth=3)
        axes.plot([one.mean], [y], "o", color="#d55e00", markersize=7)
    axes.plot([], [], "o", color="#0072b2", markersize=4, alpha=0.5, label="a game")
    axes.plot([], [], "o-", color="#d55e00", linewidth=3, label="mean and its 95% interval")
    if game in scores.random_and_human():
        for value, name, style in zip(scores.random_and_human()[game], ("random", "human"), (":", "--"), strict=True):
            axes.axvline(value, color="gray", linestyle=style, linewidth=1, label=name)
    axes.set_yticks(range(len(ranked)), [one.name for one in reversed(ranked)])
    axes.set(xlabel="raw score", title=f"{game}, protocol {protocol.name}", ylim=(-0.6, len(ranked) - 0.4))
    axes.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    with replacing(path) as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)


def film(path: Path, ranked: Sequence[Contestant], epsilon: float, seed: int, max_seconds: int) -> None:
    """A game of each, side by side, from the same seed."""
    from atari_dqn.viewing.wall import Part, Wall

    def one_game(one: Contestant, stage: video.Stage, part: Part) -> None:
        part.end(stage.play(one.player, epsilon, seed, part).score)

    with contextlib.ExitStack() as at_the_end:  # closing a Gymnasium environment closes all pygame windows
        stages = [at_the_end.enter_context(contextlib.closing(video.Stage(one.env))) for one in ranked]
        for stage in stages:
            stage.rehearse(seed)
        with Film(path, max_seconds) as mp4:
            wall = Wall(mp4, [one.name for one in ranked])
            wall.play([functools.partial(one_game, one, stage) for one, stage in zip(ranked, stages, strict=True)])


def number(value: object) -> object:
    """A value in the CSV file; empty for nan."""
    return ("" if math.isnan(value) else f"{value:.10g}") if isinstance(value, float) else value


def write(path: Path, ranked: Sequence[Contestant], seed: int) -> None:
    with replacing(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for rank, one in enumerate(ranked, 1):
            result, numbers = one.result, one.result["summary"]
            row = {
                "rank": rank,
                "checkpoint": result["checkpoint"],
                "game": result["game"],
                "trained_on": result["trained_on"],
                "preset": result["preset"],
                "agent_steps": result["trained_agent_steps"],
                "protocol": result["protocol"]["name"],
                "epsilon": result["protocol"]["epsilon"],
                "seed": seed,
                "games": numbers["episodes"],
                "mean": one.mean,
                "low": one.low,
                "high": one.high,
                "sd": numbers["sd"],
                "human_normalised": numbers["human_normalised"],
                "ahead_of_next": ahead(one, ranked[rank]) if rank < len(ranked) else None,
            }
            writer.writerow({key: number(value) for key, value in row.items()})


def verdict(ranked: Sequence[Contestant]) -> str:
    """Whether the first is ahead of the second beyond chance."""
    one, other = ranked[:2]
    share, lead = ahead(one, other), one.mean - other.mean
    if lead == 0:
        return f"{one.name} is level with {other.name}"
    told = f"{one.name} leads {other.name} by {lead:,.1f}"
    if math.isnan(share):
        return f"{told}; too few games to tell whether that is chance: play at least {ENOUGH} (EPISODES=...)"
    if share < 0.975:
        return f"{told}, which may be chance ({share:.1%} of resamples agree): play more games (EPISODES=...)"
    return f"{told}, beyond chance ({share:.1%} of resamples agree)"


def check(requests: Sequence[Request]) -> None:
    """Raise UserError unless all play the same."""
    first = requests[0]
    if first.protocol.source == "training":
        raise UserError(
            f"protocol={first.protocol.name} scores games of training; choose one that plays, such as protocol=nature"
        )
    paths = [request.checkpoint.path for request in requests]
    for path in {path for path in paths if paths.count(path) > 1}:
        raise UserError(f"{path} is there twice")
    own = [
        environment(checkpoint.config.env, protocol, asked.env.game, asked.env.arguments)
        for asked, checkpoint, protocol in requests
    ]
    for path, env in zip(paths, own, strict=True):
        if env.arguments != own[0].arguments:
            raise UserError(
                f"{paths[0]} learned {env.game} with arguments {own[0].arguments}, {path} with {env.arguments}: their "
                f"scores cannot be compared; set env.arguments"
            )


def match(
    requests: Sequence[Request],
    episodes: int,
    folder: Path,
    tell: Callable[[str], AbstractContextManager[Callable[[list[Game]], None]]],
    console: Console,
) -> None:
    """Play, print the table, and write match.csv, match.png and match.mp4 to a folder."""
    extras.need("a match", "av", "matplotlib")
    check(requests)
    asked, _, protocol = requests[0]
    paths = [folder / f"match.{kind}" for kind in ("csv", "png", "mp4")]
    if there := [path for path in paths if path.exists()]:
        raise UserError(f"{there[0]} is there already; set output=PATH to another folder")
    paths = [outputs.choose(str(path), folder, (path.suffix,)) for path in paths]
    ranked = contest(requests, episodes, tell)
    console.print(table(ranked, protocol))
    console.say(verdict(ranked))
    if ranked[0].result["summary"]["human_normalised"] is not None:
        console.say(f"human scores: {scores.SOURCE}")
    with outputs.writing(paths[0]):
        write(paths[0], ranked, asked.seed)
        draw(paths[1], ranked, protocol)
    with console.status("filming"):
        film(paths[2], ranked, protocol.epsilon, asked.seed, asked.max_seconds)
    console.say(f"written: {', '.join(map(str, paths))}")
