"""N games side by side behind one face: reset, send, recv."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from atari_dqn.data import scores

ORDINARY, TERMINAL, CUT = 0, 1, 2  # the flags of a state
NEVER = 2**31 - 1  # frames


class Game(NamedTuple):
    """A finished game: its raw score, never clipped and over all lives."""

    env: int
    score: float
    length_frames: int  # agent steps * frame skip; the no-op start not counted
    cut: bool  # by env.max_frames, not by the environment's own limit
    stopped: bool = False  # by the user, or at the end of a video

    @property
    def whole(self) -> bool:
        """Whether its score can be compared with a human's: it was played to its end, or for as long as a human's."""
        return not self.stopped and (not self.cut or self.length_frames >= scores.HUMAN_FRAMES)


class VectorStep(NamedTuple):
    """What the N games answered to one action each."""

    frames: NDArray[Any]  # [N, *frame], the newest frame only
    rewards: NDArray[np.float32]  # [N], raw
    flags: NDArray[np.uint8]  # [N], of the new state: ORDINARY, TERMINAL or CUT
    games: list[Game]  # those that ended with this step


class Emulators(Protocol):
    """N games. After a game's last state its next step ignores the action and shows the next game's first frame.

    Attributes:
        actions: the meaning of each action, e.g. ("NOOP", "FIRE", "RIGHT", "LEFT").
    """

    num_envs: int
    frame_shape: tuple[int, ...]
    frame_dtype: np.dtype
    actions: tuple[str, ...]

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Start games afresh, each from its own of N seeds; the frames that all games show then, [N, *frame].

        Args:
            which: the games to start, [N]; None for all. What the others show is not to be read.
        """

    def send(self, actions: NDArray[np.int64]) -> None:
        """Set the games moving with one action each, [N]; returns at once where they run on threads."""

    def recv(self) -> VectorStep:
        """Wait for what `send` set moving."""

    def close(self) -> None: ...

    def played(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The actions that `send` would have the games take for these, [N], in their own numbers."""
        return actions

    def infos(self) -> dict[str, int]:
        """What else is known of the newest state of the only game there is, N = 1, for recordings."""
        return {}


class Scoreboard:
    """Raw scores and lengths of N games in play; knows that the step after a game's end is the next game's first."""

    def __init__(self, num_envs: int, frame_skip: int) -> None:
        self._scores, self._steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        self._frame_skip = frame_skip

    def begin(self, which: NDArray[np.bool_]) -> None:
        """New games, of which nothing is counted yet."""
        self._scores[which], self._steps[which], self._ended[which] = 0, 0, False

    def step(self, rewards: NDArray[Any]) -> NDArray[np.int64]:
        """Count a step in each game; their lengths in frames."""
        self._scores = np.where(self._ended, 0, self._scores + rewards)
        self._steps = np.where(self._ended, 0, self._steps + 1)
        return self._steps * self._frame_skip

    def end(self, over: NDArray[np.bool_], cut: NDArray[np.bool_]) -> list[Game]:
        """The games that end with this step."""
        self._ended = over
        return [
            Game(int(i), float(self._scores[i]), int(self._steps[i]) * self._frame_skip, bool(cut[i]))
            for i in over.nonzero()[0]
        ]


def flags_of(terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(terminated, TERMINAL, np.where(truncated, CUT, ORDINARY)).astype(np.uint8)
