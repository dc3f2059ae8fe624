"""Environments so small that their optimal values can be computed."""

from typing import Any

import gymnasium
import numpy as np

from atari_dqn.testing.probes import Chain, Memory  # noqa: F401  (registered by conftest.py)


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
