"""Games that are recorded while they are played: frames on disk, and all else in memory."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atari_dqn.config.schema import Env
from atari_dqn.envs.base import ORDINARY, Game
from atari_dqn.evaluation.rollout import EvalEnvs


class Episode:
    """A game in play. Its frames are on disk: a game of 30 minutes has 190 MB of them."""

    def __init__(self, folder: Path, frame: NDArray[Any], infos: dict[str, Any]) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self._shape, self._dtype = frame.shape, frame.dtype
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.infos: dict[str, list[Any]] = {key: [] for key in infos}
        self._observe(frame, infos)

    def _observe(self, frame: NDArray[Any], infos: dict[str, Any]) -> None:
        self._file.write(frame.tobytes())
        for key, value in infos.items():
            self.infos[key].append(value)

    def add(self, action: int, reward: float, frame: NDArray[Any], infos: dict[str, Any]) -> None:
        """One agent step: the action, and what the game answered."""
        self.actions.append(action)
        self.rewards.append(reward)
        self._observe(frame, infos)

    def frames(self) -> NDArray[Any]:
        """All frames, [steps + 1, *frame]; on disk."""
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r", shape=(len(self.actions) + 1, *self._shape))

    def close(self) -> None:
        self._file.close()


class Recorder(EvalEnvs):
    """Games side by side that are recorded, each until it ends.

    Args:
        folder: for the frames of games in play.
        keep: called with each finished episode, the flag of its last state, and its game.
    """

    def __init__(
        self, env: Env, num_envs: int, device: torch.device, folder: Path, keep: Callable[[Episode, int, Game], None]
    ) -> None:
        super().__init__(env, num_envs, device)
        self._folder, self._keep = folder, keep
        self._episodes: dict[int, Episode] = {}

    def begin(self, seed: int) -> None:
        super().begin(seed)
        for i in self.all:
            self._start(i)

    def _start(self, i: int) -> None:
        self._episodes[i] = Episode(self._folder, self._frames[i].numpy(), self._envs[i].infos())

    def step(self, which: Sequence[int], actions: Tensor) -> list[Game]:
        played = {i: int(self._envs[i].played(actions[i : i + 1].numpy())[0]) for i in which}
        ended = super().step(which, actions)
        games = {game.env: game for game in ended}
        for i in which:
            if i not in self._episodes:  # its game was over: this is the next one's first frame
                self._start(i)
                continue
            episode, flag = self._episodes[i], int(self._flags[i])
            episode.add(played[i], float(self._rewards[i]), self._frames[i].numpy(), self._envs[i].infos())
            if flag != ORDINARY:
                with contextlib.closing(self._episodes.pop(i)):
                    self._keep(episode, flag, games[i])
        return ended

    def close(self) -> None:
        super().close()
        for episode in self._episodes.values():
            episode.close()
