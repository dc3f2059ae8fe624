"""How far a training run is: its counts and its clock."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.loop import Progress


def ends_alike(saved: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether a run's saved settings let it end where `config` does."""
    return (saved["total_steps"], saved.get("max_minutes")) == (config.total_steps, config.max_minutes)


def reached(agent_steps: int, seconds: float, config: TrainConfig) -> bool:
    """Whether a run of so many steps and seconds is over: at total_steps, or after max_minutes."""
    return agent_steps >= config.total_steps or seconds >= 60 * (config.max_minutes or math.inf)


@dataclass
class RunProgress(Progress):
    """The loop's counts, and what else a run counts."""

    games: int = 0  # training games that ended
    over: bool = False  # no more turns: total_steps, max_minutes or a goal is reached
    evaluation_seconds: float = 0.0  # of `seconds`
    _seconds_before: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Training time since step 0, over all resumes."""
        return self._seconds_before + time.perf_counter() - self._started

    def start_clock(self) -> None:
        self._started = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "agent_steps": self.agent_steps,
            "updates": self.updates,
            "seconds": self.seconds,
            "games": self.games,
            "over": self.over,
            "evaluation_seconds": self.evaluation_seconds,
        }

    def restore(self, state: dict[str, Any], config: TrainConfig) -> None:
        """Restore a checkpoint's `state`. Raises KeyError, TypeError or ValueError.

        Args:
            config: the run's now, which may let it train longer than before.
        """
        self.agent_steps, self.updates, self.games = (int(state[key]) for key in ("agent_steps", "updates", "games"))
        if min(self.agent_steps, self.updates, self.games) < 0:
            raise ValueError("a count below 0")
        self._seconds_before = float(state["seconds"])
        self.evaluation_seconds = float(state.get("evaluation_seconds", 0.0))
        was_over = bool(state["over"]) and ends_alike(state["config"], config)
        self.over = was_over or reached(self.agent_steps, self._seconds_before, config)
