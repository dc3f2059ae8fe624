"""Environments so small that their optimal values can be computed."""

from typing import Any

import gymnasium
import numpy as np


class Chain(gymnasium.Env):
    """Five rooms in a row, seen as one-hot vectors. Left or right; a step pays 0.1 in room 0, and leaving through the
    right end pays 1 and ends the game. It is cut off after 7 steps, which says nothing of the rooms: an agent that took
    the cut for an end would value room 0 far too low."""

    ROOMS = 5
    observation_space = gymnasium.spaces.Box(0, 1, (ROOMS,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    @classmethod
    def outcome(cls, room: int, action: int) -> tuple[int, float, bool]:
        """(next room, reward, end)"""
        if room == cls.ROOMS - 1 and action == 1:
            return room, 1.0, True
        return max(0, room + (1 if action else -1)), 0.1 if room == 0 else 0.0, False

    def _see(self) -> np.ndarray:
        return np.eye(self.ROOMS, dtype=np.float32)[self.room]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.room, self.steps = int(self.np_random.integers(self.ROOMS)), 0
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.room, reward, end = self.outcome(self.room, int(action))
        self.steps += 1
        return self._see(), reward, end, not end and self.steps == 7, {}

    @classmethod
    def optimal_values(cls, discount: float) -> np.ndarray:
        """Q*[room, action] by value iteration, as if there were no cut."""
        q = np.zeros((cls.ROOMS, 2))
        for _ in range(2000):
            for room in range(cls.ROOMS):
                for action in range(2):
                    after, reward, end = cls.outcome(room, action)
                    q[room, action] = reward + (0 if end else discount * q[after].max())
        return q


class Memory(gymnasium.Env):
    """Pictures of `size` x `size` pixels: first a bar on the left or the right, then a blank. In the blank, action 0 is
    right for a left bar and 1 for a right one; only who stacks frames can know. Right pays 1, wrong -1, and the game
    ends."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size: int = 36) -> None:
        self.size = size
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size), np.uint8)

    @staticmethod
    def picture(side: int | None, size: int = 36) -> np.ndarray:
        frame = np.full((size, size), 30, np.uint8)
        if side is not None:
            frame[:, side * (size // 2) : (side + 1) * (size // 2)] = 250
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.side, self.blank = int(self.np_random.integers(2)), False
        return self.picture(self.side, self.size), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.blank:
            return self.picture(None, self.size), 1.0 if action == self.side else -1.0, True, False, {}
        self.blank = True
        return self.picture(None, self.size), 0.0, False, False, {}
