"""A network at the controls of a game."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.schema import Env, Protocol
from atari_dqn.dqn.exploration import epsilon_greedy
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.envs import factory
from atari_dqn.evaluation.protocol import environment
from atari_dqn.utils.errors import UserError


class Player:
    """A network at the controls of a game: its actions are matched to the game's by their meaning, FIRE to FIRE.

    Attributes:
        learned: the names of the actions that the network knows.
        unmatched: actions that the network knows but the game lacks; never selected.
        unknown: actions of the game that the network does not know; never played.
    """

    def __init__(self, network: QNetwork, learned: Sequence[str], game: Sequence[str]) -> None:
        self.network, self.learned = network, tuple(learned)
        self.unmatched = tuple(name for name in learned if name not in game)
        self.unknown = tuple(name for name in game if name not in learned)
        if len(self.unmatched) == len(learned):
            raise UserError(f"none of the checkpoint's actions ({', '.join(learned)}) exists in this game")
        self.device = device = next(network.parameters()).device
        self._index = torch.tensor([game.index(name) if name in game else -1 for name in learned], device=device)

    @torch.no_grad()
    def q_values(self, states: Tensor) -> Tensor:
        """Q-values [N, A] of the network's actions; -inf for those that the game lacks."""
        return self.network.q_values(states).masked_fill(self._index < 0, -torch.inf)

    def act(self, states: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
        """The game's action numbers, int64 [N], for states [N, stack, *frame]."""
        return self.in_game(epsilon_greedy(self.q_values(states), epsilon, generator))

    def in_game(self, learned: Tensor) -> Tensor:
        """Convert the network's actions to the game's numbers."""
        return self._index[learned]

    def learned_as(self, action: int) -> int | None:
        """The network's number for one of the game's actions; None if the network does not know it."""
        return next((i for i, number in enumerate(self._index.tolist()) if number == action), None)


def make_player(
    checkpoint: Checkpoint, protocol: Protocol, game: str | None, arguments: Mapping[str, Any] | None = None
) -> tuple[Env, Player]:
    """A checkpoint's network at the controls of `game` (None: the one it learned), under a protocol.

    Args:
        arguments: as `environment` takes them.
    """
    env = environment(checkpoint.config.env, protocol, game, arguments)
    envs = factory.make_emulators(env, 1)
    envs.close()
    if (envs.frame_shape, envs.frame_dtype.name) != (checkpoint.frame_shape, checkpoint.frame_dtype):
        raise UserError(
            f"{checkpoint.path} was trained on frames {checkpoint.frame_shape}, not {env.game}'s {envs.frame_shape}"
        )
    return env, Player(checkpoint.network, checkpoint.actions, envs.actions)
