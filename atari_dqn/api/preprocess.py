"""How an environment's raw frames become an agent's observations."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import DtypeObservation, FrameStackObservation, TransformAction, TransformObservation
from numpy.typing import NDArray

from atari_dqn.api.given import told
from atari_dqn.config import schema
from atari_dqn.envs import gym, wrappers
from atari_dqn.registry import environments
from atari_dqn.utils.errors import UserError

Look = Callable[[NDArray[Any]], NDArray[Any]]


class Preprocess:
    """How raw frames become observations, exactly as in training.

    Of an Atari game: the pixel-wise maximum of the last two of `frame_skip` frames, in the ALE's luminances, resized to
    `screen_size` x `screen_size` pixels (OpenCV's INTER_AREA); the last `frame_stack` of these are an observation, the
    newest last. Before a game's start there are zeros.

    Attributes:
        game: the game, e.g. "Pong" or "CartPole-v1".
        frame_skip: environment frames for which an action is repeated.
        frame_stack: frames in an observation.
        screen_size: width and height in pixels; None if observations are not pictures.
        shape: of an observation, e.g. (4, 84, 84).
        dtype: of an observation, uint8 or float32.
    """

    def __init__(self, env: schema.Env, actions: Sequence[str], frame_shape: tuple[int, ...], frame_dtype: str) -> None:
        self._env, self._actions = env, tuple(actions)
        self.game, self.frame_skip, self.frame_stack = env.game, env.frame_skip, env.frame_stack
        self.screen_size = env.screen_size if len(frame_shape) == 2 and frame_dtype == "uint8" else None
        self.shape = (env.frame_stack, *frame_shape)
        self.dtype = np.dtype(frame_dtype)

    def __repr__(self) -> str:
        size = "" if self.screen_size is None else f"screen_size={self.screen_size}, "
        return (
            f"Preprocess({self.game}: frame_skip={self.frame_skip}, frame_stack={self.frame_stack}, {size}"
            f"{self.dtype} {self.shape})"
        )

    @told
    def __call__(self, frames: Any) -> NDArray[Any]:
        """An observation of `shape` from raw frames.

        RGB becomes gray by 0.299 R + 0.587 G + 0.114 B, rounded, which equals the ALE's own luminance for each of its
        colors.

        Args:
            frames: those that 1 to `frame_stack` agent steps showed, oldest first: of an Atari game uint8 [k, H, W]
                gray or [k, H, W, 3] RGB, each the pixel-wise maximum of a step's last two frames; of other environments
                their observations [k, ...]. If there are fewer than `frame_stack`, a game began: zeros come before.

        Raises:
            UserError: frames of another shape or type.
        """
        try:
            given = np.asarray(frames)
        except ValueError:
            raise UserError("frames of several shapes; expected k frames of one shape, oldest first") from None
        self._check(given)
        seen = np.zeros(self.shape, self.dtype)
        for place, frame in enumerate(given, self.frame_stack - len(given)):
            for look in self._looks:
                frame = look(frame)
            seen[place] = frame
        return seen

    def _check(self, given: NDArray[Any]) -> None:
        raw = self._raw
        if raw is None:
            fits = (given.ndim == 3 and given.shape[-1] != 3) or (given.ndim == 4 and given.shape[-1] == 3)
            fits = fits and given.dtype == np.uint8 and 0 not in given.shape
            wanted = "uint8 (k, height, width), gray, or (k, height, width, 3), RGB"
        else:
            fits = given.shape[1:] == raw.shape and np.can_cast(given.dtype, raw.dtype, "same_kind")
            wanted = f"{raw.dtype} (k, {', '.join(map(str, raw.shape))})"
        if not fits or not 1 <= len(given) <= self.frame_stack:
            raise UserError(
                f"frames of {given.dtype} {given.shape}: expected {wanted}, with k from 1 to {self.frame_stack}"
            )

    @functools.cached_property
    def _chain(self) -> tuple[Box | None, list[Look]]:
        """What an environment shows (None for Atari's screens), and what is done with each frame."""
        if self._env.kind == "atari":
            size = (self._env.screen_size, self._env.screen_size)
            return None, [
                lambda frame: wrappers.gray(frame) if frame.ndim == 3 else frame,
                lambda frame: cv2.resize(frame, size, interpolation=cv2.INTER_AREA),
            ]
        with contextlib.closing(environments.make(self._env.game, self._env.arguments)) as single:
            looks: list[Look] = []
            layer = gym.as_seen(self._env, single)
            while isinstance(layer, gymnasium.Wrapper):
                looks += [layer.func] if isinstance(layer, TransformObservation) else []
                layer = layer.env
            assert isinstance(single.observation_space, Box)
            return single.observation_space, looks[::-1]

    @property
    def _raw(self) -> Box | None:
        return self._chain[0]

    @property
    def _looks(self) -> list[Look]:
        return self._chain[1]

    @told
    def wrap(self, env: gymnasium.Env) -> gymnasium.Env:
        """An unprocessed Gymnasium environment of the same game, preprocessed: `agent.act` takes its observations, and
        it takes the agent's actions.

        Frames are skipped and stacked, and games begin and are truncated as the run's evaluation protocol says; lives
        are ignored; rewards are raw. Sticky actions are up to `env`.

        Args:
            env: of an Atari game `gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)`.

        Raises:
            UserError: `env` skips frames by itself, shows something else, or has no such actions.
        """
        if not isinstance(env, gymnasium.Env):
            raise UserError(f"{type(env).__name__} is not a gymnasium.Env")
        own = self._env
        if own.kind != "atari":
            wrapped = stacked(gym.as_seen(own, env), own.frame_stack)
            if wrapped.observation_space.shape != self.shape or wrapped.action_space != Discrete(len(self._actions)):
                raise UserError(f"{env} is no unprocessed {self.game}; use atari_dqn.make_env(agent)")
            return wrapped
        space = env.observation_space
        shape = getattr(space, "shape", None) or ()
        if not hasattr(env.unwrapped, "ale") or not wrappers.is_screen(space) or shape[2:] not in ((), (3,)):
            raise UserError(
                f"{env} is no unprocessed Atari game; wrap gymnasium.make('ALE/{self.game}-v5', frameskip=1), or use "
                f"atari_dqn.make_env(agent)"
            )
        environments.own(env).check(self.game, own.frame_skip)
        names = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        if missing := [name for name in self._actions if name not in names]:
            raise UserError(f"{env} lacks the actions {', '.join(missing)}; make it with full_action_space=True")
        return wrappers.as_seen(
            env,
            self._actions,
            frame_skip=own.frame_skip,
            frame_stack=own.frame_stack,
            screen_size=own.screen_size,
            noop_max=own.noop_max,
            fire_reset=own.fire_reset and "FIRE" in names,
            max_frames=own.max_frames,
        )


def stacked(env: gymnasium.Env, frame_stack: int) -> gymnasium.Env:
    """Single frames, as gym.as_seen shows them, in stacks."""
    return offset(FrameStackObservation(env, frame_stack, padding_type="zero"))


def offset(env: gymnasium.Env) -> gymnasium.Env:
    """Actions counted from 0, and numbers as float32, as in training."""
    assert isinstance(env.action_space, Discrete)
    if first := int(env.action_space.start):
        env = TransformAction(env, lambda action: action + first, Discrete(int(env.action_space.n)))
    if env.observation_space.dtype not in (np.uint8, np.float32):
        env = DtypeObservation(env, np.float32)
    return env
