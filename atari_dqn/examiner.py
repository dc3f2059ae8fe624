"""Evaluation while training: whole games on emulators of their own, the best network, a film."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from atari_dqn import evaluation, seeding, video
from atari_dqn.config import TrainConfig
from atari_dqn.evaluation import Player
from atari_dqn.training import due


class Examiner:
    """Examines the online network every `evaluation.every_steps`.

    Attributes:
        examined_steps: agent steps at the last evaluation.
        best_score: the best mean return so far.
    """

    def __init__(self, config: TrainConfig, player: Player, stop: Callable[[], bool]) -> None:
        self._config, self._player, self._stop = config, player, stop
        self._env = evaluation.environment(config.env, config.protocol, None)
        self._films = config.evaluation.video_seconds > 0
        self.examined_steps = 0
        self.best_score: float | None = None

    def is_due(self, agent_steps: int) -> bool:
        """Also where an evaluation was interrupted by a request to stop."""
        return due(self._config.evaluation.every_steps, self.examined_steps, agent_steps) > 0

    def _seed(self, agent_steps: int) -> int:
        return seeding.derive(self._config.seed, "evaluation", agent_steps)[0]

    def examine(self, agent_steps: int) -> dict[str, Any] | None:
        """Play; a row for evaluations.csv, or None where the run was asked to stop meanwhile."""
        config = self._config
        games = evaluation.play(
            self._player, self._env, config.protocol.epsilon, config.evaluation.episodes, config.evaluation.num_envs,
            self._seed(agent_steps), stop=self._stop,
        )  # fmt: skip
        if self._stop():  # a part of the games would favour short ones
            return None
        numbers = evaluation.summary(self._env.game, [game.score for game in games])
        best = self.best_score is None or numbers["mean"] > self.best_score
        if best:
            self.best_score = numbers["mean"]
        self.examined_steps = agent_steps
        return {"protocol": config.protocol.name, "best": int(best)} | numbers

    def film(self, agent_steps: int, path: Path, say: Callable[[str], None]) -> bool:
        """A film of one more game, if films are wanted; whether there is one now."""
        if not self._films:
            return False
        seconds, epsilon = self._config.evaluation.video_seconds, self._config.protocol.epsilon
        try:
            video.film(self._player, self._env, epsilon, self._seed(agent_steps), path, seconds, stop=self._stop)
        except Exception as error:  # a film is not worth a run
            self._films = False
            say(f"no videos for the rest of this run; training goes on ({error!r:.200})")
            return False
        return True
