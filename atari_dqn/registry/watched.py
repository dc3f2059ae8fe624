"""Somebody's environment, watched for mistakes."""

import contextlib
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Space

from atari_dqn.utils import extras
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.text import one_line


def where(error: BaseException) -> str:
    """An error of somebody's own code in a line, with the place: `KeyError: 'x' (my_module.py, line 7)`."""
    text = one_line(str(error))
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
            if "pygame" in str(error):  # which Gymnasium's message would install from another package
                extras.need(f"a picture of {self._name}", "pygame")
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
