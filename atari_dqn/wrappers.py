"""The readable single-game stack: skip, max, grey, resize, stack; one wrapper a line.

It is used where a game must be seen (videos, windows), for pixel environments that are not the ALE's, and as the oracle
that the ALE's own C++ path is compared with, frame by frame.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from ale_py import Action
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.wrappers import (
    FrameStackObservation,
    GrayscaleObservation,
    ResizeObservation,
    TimeLimit,
    TransformAction,
)


def is_screen(space: Space) -> bool:
    """Whether observations are pictures. Vectors of bytes, as an Atari's RAM, are not."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1


class FrameSkip(gymnasium.Wrapper):
    """Repeat each action for `skip` frames and sum the rewards; observe the last frame, or of screens the pixel-wise
    maximum of the last two.

    Sprites that an Atari draws on alternate frames only would flicker without the maximum. (Mnih et al. 2015, Methods.)
    Of two vectors it would be a state that never was.

    Args:
        on_frame: called after every single frame, e.g. to film it.
    """

    def __init__(self, env: gymnasium.Env, skip: int, on_frame: Callable[[], None] | None = None) -> None:
        super().__init__(env)
        self.skip, self.on_frame = skip, on_frame
        self._pooled = 2 if is_screen(env.observation_space) else 1  # frames

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        frames: list[Any] = []
        total = 0.0
        for _ in range(self.skip):
            frame, reward, terminated, truncated, info = self.env.step(action)
            frames.append(frame)
            total += float(reward)
            if self.on_frame:
                self.on_frame()
            if terminated or truncated:
                break
        return np.max(frames[-self._pooled :], axis=0), total, terminated, truncated, info


class NoopStart(gymnasium.Wrapper):
    """Begin each game with 0 to noop_max frames of doing nothing, drawn from the environment's own generator.

    Args:
        env: a game with all 18 actions.
        fire: press FIRE for a frame first, in place of one of them; some games wait for it.
    """

    def __init__(self, env: gymnasium.Env, noop_max: int, fire: bool = False) -> None:
        super().__init__(env)
        self.noop_max, self.fire = noop_max, fire

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(**kwargs)
        noops = int(self.np_random.integers(self.noop_max + 1))
        for action in [Action.FIRE] * self.fire + [Action.NOOP] * (noops - self.fire):
            frame, _, terminated, truncated, info = self.env.step(action.value)
            if terminated or truncated:
                frame, info = self.env.reset()
        return frame, info


class FireOnLifeLoss(gymnasium.Wrapper):
    """Press FIRE in place of the first action after a lost life. `env` is a game with all 18 actions."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.lives, self.lost = 0, False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(**kwargs)
        self.lives, self.lost = info["lives"], False
        return frame, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        frame, reward, terminated, truncated, info = self.env.step(Action.FIRE.value if self.lost else action)
        self.lost, self.lives = 0 < info["lives"] < self.lives, info["lives"]
        return frame, float(reward), terminated, truncated, info


def atari(
    name: str,
    *,
    frame_skip: int = 4,
    frame_stack: int = 4,
    screen_size: int = 84,
    repeat_action_probability: float = 0.0,
    noop_max: int = 30,
    fire_reset: bool = False,
    max_frames: int = 108_000,
    full_action_space: bool = False,
    render_mode: str | None = None,
    on_frame: Callable[[], None] | None = None,
) -> gymnasium.Env:
    """One Atari game by its CamelCase name; observations are uint8 [frame_stack, screen_size, screen_size].

    Stacks are padded with zeros at a game's start. Rewards are raw.
    """
    env = gymnasium.make(
        f"ALE/{name}-v5",
        obs_type="grayscale",  # the ALE's own palette of luminances
        frameskip=1,  # v5 would skip 4 by itself, without the maximum
        repeat_action_probability=repeat_action_probability,
        full_action_space=True,  # NOOP among them, which Backgammon's own set lacks; its own are chosen below
        max_num_frames_per_episode=0,  # no limit: it would count the no-ops
        render_mode=render_mode,
        disable_env_checker=True,
    )
    ale = env.unwrapped.ale  # type: ignore[attr-defined]
    actions = ale.getLegalActionSet() if full_action_space else ale.getMinimalActionSet()
    fire = fire_reset and Action.FIRE in actions
    env = NoopStart(env, noop_max, fire)
    env = TimeLimit(env, max_frames)
    env = FrameSkip(env, frame_skip, on_frame)
    if fire:
        env = FireOnLifeLoss(env)
    env = TransformAction(env, lambda action: actions[action].value, Discrete(len(actions)))
    env = ResizeObservation(env, (screen_size, screen_size))  # OpenCV's INTER_AREA
    return FrameStackObservation(env, frame_stack, padding_type="zero")


def pixels(
    env: gymnasium.Env, frame_skip: int, screen_size: int, on_frame: Callable[[], None] | None = None
) -> gymnasium.Env:
    """Any environment that shows RGB pictures, as single grey frames uint8 [screen_size, screen_size]."""
    env = FrameSkip(env, frame_skip, on_frame)
    env = GrayscaleObservation(env)
    return ResizeObservation(env, (screen_size, screen_size))
