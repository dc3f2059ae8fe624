"""Emulators as a gymnasium.vector.VectorEnv."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from atari_dqn.api import given
from atari_dqn.config import schema
from atari_dqn.dqn.replay import Replay, torch_dtype
from atari_dqn.envs import factory
from atari_dqn.envs.base import CUT, TERMINAL
from atari_dqn.utils.errors import UserError

Infos = dict[str, Any]


class VectorGames(gymnasium.vector.VectorEnv):
    """Games side by side; observations are stacks, [N, frame_stack, *frame].

    Args:
        actions: what each action number means; the games' own if empty.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, env: schema.Env, actions: Sequence[str], num_envs: int) -> None:
        self._games = factory.make_emulators(env, num_envs)
        self.num_envs = num_envs
        self.actions = tuple(actions) or self._games.actions
        self._numbers = np.array([self._games.actions.index(name) for name in self.actions])
        dtype = np.dtype(self._games.frame_dtype)
        low, high = (0, 255) if dtype == np.uint8 else (-np.inf, np.inf)
        shape = (env.frame_stack, *self._games.frame_shape)
        self.single_observation_space = Box(low, high, shape, dtype.type)
        self.single_action_space = Discrete(len(self.actions))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        # A replay of a few rows stacks frames as in training.
        self._history = Replay(
            env.frame_stack + 1, num_envs, self._games.frame_shape, torch_dtype(dtype), env.frame_stack
        )
        self._started = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], Infos]:
        """Start all games, from seeds that follow from `seed`, or from one for each; their first observations.

        Raises UserError for other seeds, and for options.
        """
        if options:
            raise UserError(f"options={given.said(options)}: these games take none")
        one = None if seed is None or isinstance(seed, list | tuple) else given.whole("seed", seed, 0, 2**63 - 1)
        super().reset(seed=one)
        seeds = self.np_random.integers(2**31, size=self.num_envs).tolist()
        if isinstance(seed, list | tuple):
            if len(seed) != self.num_envs:
                raise UserError(f"seed={given.said(seed)}: expected a number, or a list of {self.num_envs}")
            own = [None if one is None else given.whole("seed", one, 0, 2**31 - 1) for one in seed]
            seeds = [drawn if one is None else one for one, drawn in zip(own, seeds, strict=True)]
        frames = self._games.reset(seeds)
        self._history.begin(torch.from_numpy(frames))
        self._started = True
        return self._observations(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Take an action in each game, [N]; observations, raw rewards, terminated, truncated [N], and no infos."""
        if not self._started:
            raise UserError("call reset() before step()")
        chosen, most = np.asarray(actions), len(self.actions) - 1
        fits = chosen.shape == (self.num_envs,) and chosen.dtype.kind in "iu"
        if not fits or not 0 <= chosen.min() <= chosen.max() <= most:
            raise UserError(f"actions={given.said(actions)}: expected {self.num_envs} whole numbers from 0 to {most}")
        numbers = self._numbers[chosen]
        self._games.send(numbers)
        turn = self._games.recv()
        self._history.write(
            torch.from_numpy(numbers), torch.from_numpy(turn.rewards), torch.from_numpy(turn.frames),
            torch.from_numpy(turn.flags),
        )  # fmt: skip
        rewards = turn.rewards.astype(np.float64)
        return self._observations(), rewards, turn.flags == TERMINAL, turn.flags == CUT, {}

    def _observations(self) -> NDArray[Any]:
        return self._history.newest_stack().numpy()

    def close_extras(self, **kwargs: Any) -> None:
        self._games.close()
