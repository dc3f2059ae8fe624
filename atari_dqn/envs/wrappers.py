"""The readable single-game stack: skip, max, gray, resize, stack; one wrapper per line.

It is used where a game must be seen (videos, windows), for pixel environments that are not the ALE's, and as the oracle
that the ALE's own C++ path is compared with, frame by frame.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
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
    TransformObservation,
)

from atari_dqn.utils.errors import UserError


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
    actions: Sequence[str] = (),
    render_mode: str | None = None,
    on_frame: Callable[[], None] | None = None,
) -> gymnasium.Env:
    """One Atari game by its CamelCase name, as `as_seen` shows it.

    Args:
        actions: what each action number means, such as ("NOOP", "FIRE"); else the game's own, or all 18.
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
    own = ale.getLegalActionSet() if full_action_space else ale.getMinimalActionSet()
    return as_seen(
        env,
        actions or [action.name for action in own],
        frame_skip=frame_skip,
        frame_stack=frame_stack,
        screen_size=screen_size,
        noop_max=noop_max,
        fire_reset=fire_reset and Action.FIRE in own,
        max_frames=max_frames,
        on_frame=on_frame,
    )


def as_seen(
    env: gymnasium.Env,
    actions: Sequence[str],
    *,
    frame_skip: int,
    frame_stack: int,
    screen_size: int,
    noop_max: int,
    fire_reset: bool,
    max_frames: int,
    on_frame: Callable[[], None] | None = None,
) -> gymnasium.Env:
    """An Atari game as a network sees it: uint8 [frame_stack, screen_size, screen_size].

    Stacks are padded with zeros at a game's start. Rewards are raw.

    Args:
        env: the ALE's, which skips no frames and shows them gray or in RGB.
        actions: what each action number means, e.g. ("NOOP", "FIRE", "RIGHT", "LEFT").
        fire_reset: of a game that has FIRE.
    """
    if len(env.observation_space.shape or ()) == 3:
        shape = env.observation_space.shape[:2]  # type: ignore[index]
        env = TransformObservation(env, gray, Box(0, 255, shape, np.uint8))
    own = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    joystick = Action.__members__
    if len(own) < len(joystick):
        numbers = {joystick[name].value: number for number, name in enumerate(own)}
        env = TransformAction(env, lambda action: numbers.get(action, 0), Discrete(len(joystick)))
    env = NoopStart(env, noop_max, fire_reset)
    env = TimeLimit(env, max_frames)
    env = FrameSkip(env, frame_skip, on_frame)
    if fire_reset:
        env = FireOnLifeLoss(env)
    values = [joystick[name].value for name in actions]
    env = TransformAction(env, lambda action: values[action], Discrete(len(values)))
    env = ResizeObservation(env, (screen_size, screen_size))  # OpenCV's INTER_AREA
    return FrameStackObservation(env, frame_stack, padding_type="zero")


def gray(screen: np.ndarray) -> np.ndarray:
    """An Atari's screen in RGB, uint8 [H, W, 3], in the ALE's own luminances, [H, W]: 0.299 R + 0.587 G + 0.114 B."""
    return cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)


def pixels(
    env: gymnasium.Env, name: str, frame_skip: int, screen_size: int, on_frame: Callable[[], None] | None = None
) -> gymnasium.Env:
    """Any environment that shows pictures, as single gray frames uint8 [screen_size, screen_size].

    Raises UserError if they are neither gray nor RGB nor RGBA.
    """
    look, shape = picture(env.observation_space, name)
    env = TransformObservation(env, look, Box(0, 255, shape, np.uint8))
    env = FrameSkip(env, frame_skip, on_frame)
    env = GrayscaleObservation(env) if len(shape) == 3 else env
    return ResizeObservation(env, (screen_size, screen_size))


def picture(space: Space, name: str) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    """How observations become uint8 pictures [H, W] (gray) or [H, W, 3] (RGB), and the shape of these.

    Channels may come first or last; of RGBA the alpha is dropped. Values may be bytes, or floats up to 1 or 255.
    Raises UserError for what is no such picture.
    """
    assert isinstance(space, Box)
    shape, low, high = space.shape, float(space.low.min()), float(space.high.max())
    if shape[-1] in (1, 3, 4):
        height, width, channels = shape
    elif shape[0] in (1, 3):
        channels, height, width = shape
    else:
        stack = "; for frames that are stacked, show one and set env.frame_stack" * (shape[0] == 4)
        raise UserError(
            f"{name} shows {shape}, which is no picture: (height, width), or with 1, 3 (RGB) or 4 (RGBA) channels, as "
            f"(height, width, 3)" + stack
        )
    if low < 0 or high > 255 or space.dtype == bool:
        raise UserError(
            f"{name} shows pictures of {space.dtype} from {low:g} to {high:g}; they must be bytes from 0 to 255, or "
            f"floats from 0 to 1 or from 0 to 255"
        )
    first, scale = shape[-1] not in (1, 3, 4), 255 if high <= 1 else 1

    def look(seen: np.ndarray) -> np.ndarray:
        seen = np.moveaxis(seen, 0, -1) if first else seen
        seen = seen[..., 0] if channels == 1 else seen[..., :3]
        if seen.dtype != np.uint8 or scale != 1:
            seen = np.clip(np.rint(np.multiply(seen, scale, dtype=np.float32)), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(seen)

    return look, (height, width) if channels == 1 else (height, width, 3)
