"""Emulators that can be restored by replaying their recorded actions."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atari_dqn.envs.base import Emulators, VectorStep


class Journal(Emulators):
    """Emulators that record each game's actions since it last started from its own seed, and so can be
    brought back to where they were. (The ALE's vector environment can neither save nor load its state, but answers the
    same to the same.)

    So that this does not become ever longer, `renew` gives each game a new seed, which it begins its next game with.
    No game is cut off for it: one that lasts longer would be lost more often, and scores with it.

    Args:
        keep: whether to write it down.
    """

    def __init__(self, inner: Emulators, keep: bool) -> None:
        self._inner, self._keep = inner, keep
        self.num_envs, self.frame_shape, self.frame_dtype = inner.num_envs, inner.frame_shape, inner.frame_dtype
        self.actions = inner.actions
        self._begin([0] * inner.num_envs)

    def _begin(self, seeds: list[int]) -> None:
        self._seeds = list(seeds)
        self._starts = np.zeros(self.num_envs, np.int64)  # turns recorded before a game started from its seed
        self._next: list[int] | None = None  # seeds that are waiting for a game's end,
        self._wait = np.zeros(self.num_envs, bool)  # and the games that still wait
        self._ended = np.zeros(self.num_envs, bool)  # with the last turn
        self._told = bytearray()  # an action of each game, turn by turn
        self._frames: NDArray[Any] = np.zeros(0)

    def reset(self, seeds: list[int], which: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        assert which is None
        self._begin(seeds)
        self._frames = self._inner.reset(seeds)
        return self._frames

    def renew(self, seeds: list[int]) -> None:
        """Have each game begin its next game with its own of N seeds."""
        self._next, self._wait = list(seeds), np.ones(self.num_envs, bool)

    def send(self, actions: NDArray[np.int64]) -> None:
        if self._keep:
            self._told += actions.astype(np.uint8).tobytes()
        self._inner.send(actions)

    def recv(self) -> VectorStep:
        turn = self._inner.recv()
        if (fresh := self._ended & self._wait).any():  # they have just restarted without a seed of their own
            turn = turn._replace(frames=self._renewed(fresh, turn.frames))
        self._ended[:] = False
        for game in turn.games:
            self._ended[game.env] = True
        self._frames = turn.frames
        return turn

    def _renewed(self, fresh: NDArray[np.bool_], frames: NDArray[Any]) -> NDArray[Any]:
        """Begin games again from their new seeds, and forget what no game needs any more; the frames then."""
        assert self._next is not None
        self._seeds = [new if is_new else old for new, old, is_new in zip(self._next, self._seeds, fresh, strict=True)]
        self._wait &= ~fresh
        self._starts[fresh] = len(self._told) // self.num_envs
        first = int(self._starts.min())
        self._starts -= first
        del self._told[: first * self.num_envs]
        return self._shown(fresh, frames)

    def _shown(self, fresh: NDArray[np.bool_], frames: NDArray[Any]) -> NDArray[Any]:
        firsts, frames = self._inner.reset(self._seeds, fresh), frames.copy()
        frames[fresh] = firsts[fresh]
        return frames

    def close(self) -> None:
        self._inner.close()

    def state(self) -> dict[str, Any] | None:
        """What `rewind` needs; None if it is not written down."""
        if not self._keep:
            return None
        told = torch.from_numpy(np.frombuffer(bytes(self._told), np.uint8).copy()).view(-1, self.num_envs)
        return {
            "seeds": self._seeds,
            "starts": self._starts.tolist(),
            "next_seeds": self._next,
            "waiting": self._wait.tolist(),
            "actions": told,
            "frames_crc": zlib.crc32(self._frames.tobytes()),
        }

    def rewind(self, state: dict[str, Any], stop: Callable[[], bool] = lambda: False) -> bool:
        """Replay the actions in `state` at full speed; returns whether the games then show the same pictures.

        Raises ValueError if `state` does not fit these emulators.
        """
        seeds, told = [int(seed) for seed in state["seeds"]], state["actions"]
        starts = np.array(state.get("starts", [0] * self.num_envs), np.int64)  # an older program's all began together
        waiting, upcoming = np.array(state.get("waiting", [False] * self.num_envs), bool), state.get("next_seeds")
        if len(seeds) != self.num_envs or told.dtype != torch.uint8 or tuple(told.shape[1:]) != (self.num_envs,):
            raise ValueError("the actions do not fit the number of games")
        if told.numel() and int(told.max()) >= len(self.actions):
            raise ValueError("it holds actions that the game does not have")
        if starts.shape != (self.num_envs,) or not ((starts >= 0) & (starts <= len(told))).all():
            raise ValueError("a game begins where no turn is")
        if waiting.shape != starts.shape or (waiting.any() and len(upcoming or ()) != self.num_envs):
            raise ValueError("the next seeds do not fit the number of games")
        self.reset(seeds)
        for turn, actions in enumerate([*told.numpy().astype(np.int64)], 1):
            if stop():
                return False
            self.send(actions)
            self.recv()  # nobody waits yet
            if (fresh := starts == turn).any():
                self._frames = self._shown(fresh, self._frames)
                self._ended &= ~fresh
        self._starts, self._wait = starts, waiting
        self._next = None if upcoming is None else [int(seed) for seed in upcoming]
        return zlib.crc32(self._frames.tobytes()) == state["frames_crc"]
