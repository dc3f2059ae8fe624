"""Any Gymnasium environment with discrete actions, as the network sees it."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from atari_dqn.config import schema
from atari_dqn.envs import wrappers
from atari_dqn.envs.base import NEVER, Emulators, Scoreboard, VectorStep, flags_of
from atari_dqn.registry import environments
from atari_dqn.utils.errors import UserError


def make_single(env: schema.Env, on_frame: Callable[[], None] | None = None, **kwargs: Any) -> gymnasium.Env:
    """One Gymnasium environment whose frames a network can see.

    Raises UserError if it has none, has no discrete actions, or would skip frames twice.
    """
    return as_seen(env, environments.make(env.game, env.arguments, **kwargs), on_frame)


def as_seen(env: schema.Env, single: gymnasium.Env, on_frame: Callable[[], None] | None = None) -> gymnasium.Env:
    """`single`, an unprocessed `env.game`, as a network sees it: single frames. Raises UserError as `make_single`."""
    space, actions = single.observation_space, single.action_space
    environments.own(single).check(env.game, env.frame_skip)
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise UserError(f"{env.game} has actions of kind {actions}; DQN needs discrete ones")
    if actions.n > 256:  # the replay keeps them as bytes
        raise UserError(f"{env.game} has {actions.n} actions; at most 256 can be learned")
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) > 3 or not space.shape or 0 in space.shape:
        raise UserError(
            f"{env.game} shows {str(space)[:100]}; only vectors and pictures can be learned from, each a "
            f"gymnasium.spaces.Box of 1 to 3 dimensions"
        )
    single = gymnasium.wrappers.TimeLimit(single, env.max_frames)
    if len(space.shape) == 3:
        return wrappers.pixels(single, env.game, env.frame_skip, env.screen_size, on_frame)
    if space.dtype == np.uint8 and not wrappers.is_screen(space) and (space.high < 255).all():
        single = gymnasium.wrappers.DtypeObservation(single, np.float32)  # counts and flags: no bytes to be scaled
    return wrappers.FrameSkip(single, env.frame_skip, on_frame) if env.frame_skip > 1 or on_frame else single


def cut_after(env: schema.Env, single: gymnasium.Env) -> int:
    """Frames after which a game is cut off; NEVER where its own time limit comes first.

    Args:
        single: as make_single or wrappers.atari makes it.
    """
    limits = []
    while isinstance(single, gymnasium.Wrapper):
        limits += [single._max_episode_steps] if isinstance(single, gymnasium.wrappers.TimeLimit) else []
        single = single.env
    return NEVER if any(own <= env.max_frames for own in limits[1:]) else env.max_frames  # the outermost is ours


class GymnasiumEmulators(Emulators):
    """Any Gymnasium environment with discrete actions, one after another in this thread."""

    def __init__(self, env: schema.Env, num_envs: int) -> None:
        self._envs = SyncVectorEnv(
            [functools.partial(make_single, env) for _ in range(num_envs)], autoreset_mode=AutoresetMode.NEXT_STEP
        )
        space = self._envs.single_observation_space
        assert isinstance(space, gymnasium.spaces.Box) and space.shape is not None
        assert isinstance(self._envs.single_action_space, gymnasium.spaces.Discrete)
        self.num_envs = num_envs
        self.frame_shape = space.shape
        self.frame_dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
        self.actions = tuple(f"ACTION{i}" for i in range(int(self._envs.single_action_space.n)))
        self._first_action = int(self._envs.single_action_space.start)
        self._scoreboard = Scoreboard(num_envs, env.frame_skip)
        self._cut_after = cut_after(env, self._envs.envs[0])

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        which = np.ones(self.num_envs, bool) if which is None else which
        frames, _ = self._envs.reset(seed=list(seeds), options={"reset_mask": which})
        self._scoreboard.begin(which)
        return frames.astype(self.frame_dtype)

    def played(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        return actions + self._first_action

    def send(self, actions: NDArray[np.int64]) -> None:
        self._actions = self.played(actions)

    def recv(self) -> VectorStep:
        frames, rewards, terminated, truncated, _ = self._envs.step(self._actions)
        cut = truncated & ~terminated & (self._scoreboard.step(rewards) >= self._cut_after)
        games = self._scoreboard.end(terminated | truncated, cut)
        return VectorStep(
            frames.astype(self.frame_dtype), rewards.astype(np.float32), flags_of(terminated, truncated), games
        )

    def close(self) -> None:
        self._envs.close()
