"""The readable single-game stack: skip, max, grey, resize, stack; one wrapper a line.

It is used where a game must be seen (videos, windows), for pixel environments that are not the ALE's, and as the oracle
that the ALE's own C++ path is compared with, frame by frame.
"""

import contextlib
import math
import traceback
from collections.abc import Callable
from pathlib import Path
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
    TransformObservation,
)

from atari_dqn.utils.errors import RunFailed, UserError


def is_screen(space: Space) -> bool:
    """Whether observations are pictures. Vectors of bytes, as an Atari's RAM, are not."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1


def where(error: BaseException) -> str:
    """An error of somebody's own code in a line, with the place: `KeyError: 'x' (my_module.py, line 7)`."""
    text = " ".join(str(error).split())[:200]
    at = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    ours = Path(__file__).parent.parent
    at = [frame for frame in at if ours not in Path(frame.filename).parents and frame.filename[0] != "<"]
    place = f" ({Path(at[-1].filename).name}, line {at[-1].lineno})" if at and "line" not in text else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


LARGEST_SIDE = 8192  # pixels of a picture that H.264 takes, also when it is enlarged
FLOAT32_MAX = float(np.finfo(np.float32).max)
RESET = "reset(self, *, seed=None, options=None) must return (observation, info)"
STEP = "step(self, action) must return (observation, reward, terminated, truncated, info)"


class Watched(gymnasium.Wrapper):
    """Somebody's environment, whose mistakes end a command with a sentence: RunFailed from reset and step, UserError
    from render. Without it a NaN would be taken for divergence, and other mistakes for ours.

    Args:
        name: as people type it.
    """

    def __init__(self, env: gymnasium.Env, name: str) -> None:
        super().__init__(env)
        self._name = name
        for part in ("observation_space", "action_space"):
            if not isinstance(getattr(env, part, None), Space):
                raise UserError(f"{name} has no {part}, which must be one of gymnasium.spaces")
        space = env.observation_space
        self._box = space if isinstance(space, Box) else None

    def _answer(self, method: Callable[..., Any], wanted: str, length: int, *args: Any, **kwargs: Any) -> list[Any]:
        try:
            answer = method(*args, **kwargs)
        except (UserError, RunFailed):
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and a panic in Rust
            is_shape = "unpack" in str(error) or "unexpected keyword argument" in str(error)
            raise self._failed(f"{where(error)}{f'; {wanted}' if is_shape else ''}", wanted) from error
        if not isinstance(answer, tuple) or len(answer) != length:
            raise self._failed(wanted, wanted)
        return [self._seen(answer[0], wanted), *answer[1:]]

    def _failed(self, text: str, wanted: str) -> RunFailed:
        return RunFailed(f"{self._name} failed in {wanted.partition('(')[0]}(): {text}")

    def _seen(self, observation: Any, wanted: str) -> Any:
        if self._box is None:
            return observation
        try:
            seen = np.asarray(observation)
        except ValueError:
            raise self._failed("the observation is no array", wanted) from None
        if seen.shape != self._box.shape or not np.can_cast(seen.dtype, self._box.dtype, "same_kind"):
            raise self._failed(
                f"the observation is {seen.dtype} {seen.shape}, and observation_space says {self._box.dtype} "
                f"{self._box.shape}",
                wanted,
            )
        if seen.dtype.kind == "f":
            with np.errstate(over="ignore"):
                is_finite = np.isfinite(np.asarray(seen, np.float32)).all()
            if not is_finite:
                raise self._failed("the observation has NaN, infinity or a number beyond float32 in it", wanted)
        return seen

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, _ = self._answer(self.env.reset, RESET, 2, **kwargs)
        return observation, {}  # nobody reads the info, and Gymnasium cannot put all together that may be in one

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self._answer(self.env.step, STEP, 5, action)
        try:
            number = float(reward)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= FLOAT32_MAX:
            raise self._failed(f"the reward is {reward!r:.60}", STEP)
        try:
            over, cut = bool(terminated), bool(truncated)
        except ValueError:  # an array of several
            raise self._failed(f"terminated is {terminated!r:.60} and truncated {truncated!r:.60}", STEP) from None
        return observation, number, over, cut, {}

    def render(self) -> np.ndarray:
        try:
            picture: Any = self.env.render()
        except NotImplementedError:
            raise UserError(f"{self._name} cannot be shown: it has no render()") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise UserError(f"{self._name} cannot be shown: render() failed: {where(error)}") from None
        is_picture = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,)
        if not is_picture or not all(1 <= side <= LARGEST_SIDE for side in picture.shape[:2]):
            what = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
            raise UserError(
                f"{self._name} cannot be shown: with render_mode='rgb_array', render() must return a picture, uint8 "
                f"(height, width, 3) of at most {LARGEST_SIDE} pixels each way, not {what}"
            )
        return picture

    def close(self) -> None:
        with contextlib.suppress(Exception, SystemExit):  # what was computed is kept all the same
            self.env.close()


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
    env: gymnasium.Env, name: str, frame_skip: int, screen_size: int, on_frame: Callable[[], None] | None = None
) -> gymnasium.Env:
    """Any environment that shows pictures, as single gray frames uint8 [screen_size, screen_size].

    Raises UserError where they are neither gray nor RGB nor RGBA.
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
