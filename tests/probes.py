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
    """Pictures of 36x36: first a bar on the left or the right, then a blank. In the blank, action 0 is right for a left
    bar and 1 for a right one; only who stacks frames can know. Right pays 1, wrong -1, and the game ends."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    @staticmethod
    def picture(side: int | None) -> np.ndarray:
        frame = np.full((36, 36), 30, np.uint8)
        if side is not None:
            frame[:, side * 18 : side * 18 + 18] = 250
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.side, self.blank = int(self.np_random.integers(2)), False
        return self.picture(self.side), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.blank:
            return self.picture(None), 1.0 if action == self.side else -1.0, True, False, {}
        self.blank = True
        return self.picture(None), 0.0, False, False, {}


class Uneven(gymnasium.Env):
    """Games of a length that each copy is given when it is made."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    @staticmethod
    def next_length() -> int:
        return 1

    def __init__(self) -> None:
        self.length = self.next_length()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, self.steps == self.length, False, {}


class Clock(gymnasium.Env):
    """Shows how many steps were taken and how many are left, which together are always `high`."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(
        self, dtype: str = "float32", shape: tuple[int, ...] = (2,), high: int = 255, render_mode: str | None = None
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(0, high, shape, np.dtype(dtype).type)
        self.render_mode = render_mode

    def _see(self) -> np.ndarray:
        seen = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        seen[0], seen[1] = self.steps, self.observation_space.high.flat[0] - self.steps
        return seen

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self._see(), 1.0, False, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((40, 40, 3), np.uint8)


class Dice(gymnasium.Env):
    """Three random numbers are seen, one of which the action takes as its reward beside a large random one; games end
    by chance. Actions count from 5. What one game shows depends on its seed and its length alone."""

    observation_space = gymnasium.spaces.Box(0, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def _see(self) -> np.ndarray:
        self.seen = self.np_random.random(3, np.float32)
        return self.seen

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = 3 * float(self.seen[int(action) - 5]) - 1 + float(self.np_random.normal())
        return self._see(), reward, bool(self.np_random.random() < 0.08), False, {}
