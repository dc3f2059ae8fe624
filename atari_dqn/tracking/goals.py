"""Mean returns worth reporting."""

import collections
import math
from typing import Any

from atari_dqn.config.schema import Goal
from atari_dqn.envs.base import Game


class Goals:
    """Watch the mean return of consecutive training games and report when a goal is reached.

    Attributes:
        recent: returns of the most recent games.
        reached: notes of the goals already reported.
    """

    def __init__(self, goals: list[Goal]) -> None:
        self._goals = goals
        self.recent: collections.deque[float] = collections.deque(maxlen=max([100, *(goal.games for goal in goals)]))
        self.reached: list[str] = []

    @property
    def mean(self) -> float:
        """Mean raw return of up to the last 100 games; nan before the first."""
        last = list(self.recent)[-100:]
        return sum(last) / len(last) if last else math.nan

    def add(self, game: Game) -> list[tuple[Goal, float]]:
        """Add a finished game; return the goals that it reaches, each with the mean return."""
        self.recent.append(game.score)
        reached = []
        for goal in self._goals:
            last = list(self.recent)[-goal.games :]
            mean = sum(last) / goal.games
            if goal.note not in self.reached and len(last) == goal.games and mean >= goal.score:
                self.reached.append(goal.note)
                reached.append((goal, mean))
        return reached

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"recent_returns": list(self.recent), "goals_reached": list(self.reached)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`. Raises KeyError, TypeError or ValueError."""
        self.reached = [str(note) for note in state["goals_reached"]]
        self.recent.extend(float(score) for score in state["recent_returns"])
