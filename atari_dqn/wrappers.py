"""The readable single-game stack: skip, max, grey, resize, stack; one wrapper a line.

It is used where a game must be seen (videos, windows), for pixel environments that are not the ALE's, and as the oracle
that the ALE's own C++ path is compared with, frame by frame.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, ResizeObservation, TimeLimit


class FrameSkip(gymnasium.Wrapper):
    """Repeat each action for `skip` frames; observe the pixel-wise maximum of the last two, sum the rewards.

    Sprites that an Atari draws on alternate frames only would flicker without the maximum. (Mnih et al. 2015, Methods.)

    Args:
        on_frame: called after every single frame, e.g. to film it.
    """

    def __init__(self, env: gymnasium.Env, skip: int, on_frame: Callable[[], None] | None = None) -> None:
        super().__init__(env)
        self.skip, self.on_frame = skip, on_frame

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
        return np.max(frames[-2:], axis=0), total, terminated, truncated, info


def fire(env: gymnasium.Env) -> int | None:
    """The number of the action FIRE; None where a game has none."""
    meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    return meanings.index("FIRE") if "FIRE" in meanings else None


class NoopStart(gymnasium.Wrapper):
    """Begin each game with 0 to noop_max frames of doing nothing, drawn from the environment's own generator.

    Args:
        fire_reset: press FIRE for a frame first, in place of one of them; some games wait for it.
    """

    def __init__(self, env: gymnasium.Env, noop_max: int, fire_reset: bool = False) -> None:
        super().__init__(env)
        self.noop_max, self.fire = noop_max, fire(env) if fire_reset else None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(**kwargs)
        noops = int(self.np_random.integers(self.noop_max + 1))
        for action in ([] if self.fire is None else [self.fire]) + [0] * (noops - (self.fire is not None)):
            frame, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                frame, info = self.env.reset()
        return frame, info


class FireOnLifeLoss(gymnasium.Wrapper):
    """Press FIRE in place of the first action after a lost life."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.fire, self.lives, self.lost = fire(env), 0, False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(**kwargs)
        self.lives, self.lost = info["lives"], False
        return frame, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        pressed = self.fire if self.lost and self.fire is not None else action
        frame, reward, terminated, truncated, info = self.env.step(pressed)
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
        full_action_space=full_action_space,
        max_num_frames_per_episode=0,  # no limit: it would count the no-ops
        render_mode=render_mode,
        disable_env_checker=True,
    )
    env = NoopStart(env, noop_max, fire_reset)
    env = TimeLimit(env, max_frames)
    env = FrameSkip(env, frame_skip, on_frame)
    if fire_reset:
        env = FireOnLifeLoss(env)
    env = ResizeObservation(env, (screen_size, screen_size))  # OpenCV's INTER_AREA
    return FrameStackObservation(env, frame_stack, padding_type="zero")


def pixels(
    env: gymnasium.Env, frame_skip: int, screen_size: int, on_frame: Callable[[], None] | None = None
) -> gymnasium.Env:
    """Any environment that shows RGB pictures, as single grey frames uint8 [screen_size, screen_size]."""
    env = FrameSkip(env, frame_skip, on_frame)
    env = GrayscaleObservation(env)
    return ResizeObservation(env, (screen_size, screen_size))
