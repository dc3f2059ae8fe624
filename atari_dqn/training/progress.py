"""How far a training run is: its counts and its clock."""

import time
from dataclasses import dataclass, field
from typing import Any

from atari_dqn.dqn.loop import Progress


@dataclass
class RunProgress(Progress):
    """The loop's counts, and what else a run counts."""

    games: int = 0  # training games that ended
    over: bool = False  # no more turns: total_steps or a goal is reached
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

    def restore(self, state: dict[str, Any], total_steps: int) -> None:
        """Restore a checkpoint's `state`. Raises KeyError, TypeError or ValueError.

        Args:
            total_steps: of the run now, which may be longer than it was.
        """
        self.agent_steps, self.updates, self.games = (int(state[key]) for key in ("agent_steps", "updates", "games"))
        if min(self.agent_steps, self.updates, self.games) < 0:
            raise ValueError("a count below 0")
        self._seconds_before = float(state["seconds"])
        self.evaluation_seconds = float(state.get("evaluation_seconds", 0.0))
        same_end = state["config"]["total_steps"] == total_steps
        self.over = self.agent_steps >= total_steps or (bool(state["over"]) and same_end)
