"""Whole games under a protocol, and what they scored."""

import copy
from collections.abc import Mapping
from os import PathLike
from typing import Any

from atari_dqn.api import given
from atari_dqn.api.agent import Agent, load
from atari_dqn.api.given import told
from atari_dqn.api.isolated import torch_settings
from atari_dqn.config import compose
from atari_dqn.evaluation import evaluate as evaluation
from atari_dqn.evaluation import request
from atari_dqn.evaluation.player import make_player


class Result:
    """What `atari_dqn.evaluate` found.

    Attributes:
        game: the game that was played.
        protocol: how it was played, e.g. {"name": "nature", "epsilon": 0.05, "seed": 1, ...}.
        returns: the raw score of each game, never clipped and over all lives.
        lengths_frames: of each game, in environment frames, without the no-op start.
        mean: of the returns.
        sd: standard deviation of the returns, with n - 1; 0 for a single game.
        median: of the returns.
        human_normalized: (mean - random) / (human - random); None if the game has no human score, or if the protocol's
            games end before a human's would.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        numbers = told["summary"]
        self.game: str = told["game"]
        self.protocol: dict[str, Any] = told["protocol"]
        self.returns: list[float] = told["returns"]
        self.lengths_frames: list[int] = told["lengths_frames"]
        self.mean: float = numbers["mean"]
        self.sd: float = numbers["sd"]
        self.median: float = numbers["median"]
        self.human_normalized: float | None = numbers["human_normalised"]

    def __repr__(self) -> str:
        human = "" if self.human_normalized is None else f", {self.human_normalized:.1%} of a human"
        return (
            f"Result({self.game}, protocol {self.protocol['name']}: mean {self.mean:,.1f}{human}, sd {self.sd:,.1f}, "
            f"median {self.median:,.1f}, {len(self.returns)} games)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to judge or repeat the numbers, as plain data: the JSON that `evaluate` writes."""
        return copy.deepcopy(self._told)


@told
def evaluate(
    agent_or_where: Agent | str | PathLike[str],
    *,
    game: str | None = None,
    protocol: str | Mapping[str, Any] | None = None,
    episodes: int | None = None,
    num_envs: int | None = None,
    seed: int | None = None,
) -> Result:
    """Play whole games, as the command `evaluate` does; the same seed gives the same scores.

    Nothing is written to a file.

    Args:
        agent_or_where: an agent, or what `load` takes.
        game: another game; None for the one it was trained on.
        protocol: its name, "nature"; or a dictionary of changes, {"epsilon": 0.01}; None for the run's own.
        episodes: whole games; None for as many as the protocol says, else 30.
        num_envs: games side by side; None for conf/evaluate.yaml's, 10.
        seed: of the games and the random actions; None for conf/evaluate.yaml's, 1.

    Raises:
        UserError: no such checkpoint, game or protocol, or a number out of range.
    """
    agent = agent_or_where if isinstance(agent_or_where, Agent) else load(agent_or_where, game=game)
    words = ["checkpoint=latest", *given.request(game, protocol, episodes, num_envs, seed)]
    composed, words = compose.typed("evaluate", words)
    with torch_settings():
        asked, checkpoint, rules = request.read(composed, words, agent.checkpoint)
        env, player = make_player(checkpoint, rules, asked.env.game, asked.env.arguments)
        count = request.episodes(asked.evaluation.episodes, rules)
        told = evaluation.evaluate(checkpoint, rules, env, player, count, asked.evaluation.num_envs, asked.seed)
    return Result(told)
