"""Evaluation during training: full games on separate emulators, the best network, videos."""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.loop import due
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.envs.atari import atari_actions
from atari_dqn.envs.base import Game
from atari_dqn.evaluation import evaluate, rollout
from atari_dqn.evaluation.player import Player
from atari_dqn.evaluation.protocol import counted, environment
from atari_dqn.evaluation.rollout import EvalEnvs, held_out, mean_max_q
from atari_dqn.tracking import curves
from atari_dqn.utils import extras, seeding
from atari_dqn.viewing import video


class Evaluator:
    """Evaluates the online network every `evaluation.every_steps`, and the best network again at the end of the run.

    Attributes:
        evaluated_steps: agent steps at the last evaluation.
        best_score: the best mean return so far.
        confirmed: whether the best network was evaluated again at the end.
        last: the last evaluation's row, if it was made by this process.
    """

    def __init__(
        self,
        config: TrainConfig,
        online: QNetwork,
        actions: tuple[str, ...],
        stop: Callable[[], bool],
        tell: Callable[[str, int, int], None] = lambda what, played, episodes: None,
    ) -> None:
        """
        Args:
            tell: called at each step of an evaluation with its title, finished games and total games.
        """
        self._config, self._learned, self._stop, self._tell = config, actions, stop, tell
        self._env = environment(config.env, config.protocol, None)
        self._actions = actions  # the evaluation games' actions, possibly a superset
        if config.env.kind == "atari":
            self._actions = atari_actions(self._env.game, self._env.full_action_space)
        self._player = Player(online, actions, self._actions)
        self._films = config.evaluation.video_seconds > 0 and extras.there("av")
        self._filmed = self._film_seconds = 0.0  # when the last video was finished, and how long it took
        self.evaluated_steps = 0
        self.best_score: float | None = None
        self.confirmed = False
        self.last: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "examined_steps": self.evaluated_steps,
            "confirmed": self.confirmed,
            "best_score": self.best_score,
        }

    def restore(self, state: dict[str, Any], over: bool) -> None:
        """Restore a `state`, of a run that is over or not. Raises KeyError, TypeError or ValueError."""
        self.evaluated_steps = int(state["examined_steps"])
        self.confirmed = over and bool(state.get("confirmed"))
        self.best_score = None if state["best_score"] is None else float(state["best_score"])

    def is_due(self, agent_steps: int) -> bool:
        """Whether an evaluation is due, including one that a request to stop interrupted."""
        return due(self._config.evaluation.every_steps, self.evaluated_steps, agent_steps) > 0

    def _seed(self, agent_steps: int, stream: str = "evaluation") -> int:
        return seeding.derive(self._config.seed, stream, agent_steps)[0]

    @functools.cached_property
    def _held_out(self) -> Tensor | None:
        """States of random play. They depend only on the run's seed, so a resumed run has the same."""
        states, seed = self._config.evaluation.held_out_states, self._seed(0, "held-out states")
        if not states:
            return None
        return held_out(self._games, len(self._actions), states, seed)

    @functools.cached_property
    def _games(self) -> EvalEnvs:
        """The emulators, shared by all evaluations."""
        asked = self._config.evaluation
        return EvalEnvs(self._env, min(asked.num_envs, asked.episodes), self._player.device)

    def _play(self, player: Player, seed: int) -> list[Game]:
        epsilon, episodes = self._config.protocol.epsilon, self._config.evaluation.episodes
        what = "evaluation" if player is self._player else "evaluation of the best network"
        self._tell(what, 0, episodes)  # before the games are created, which takes a while

        def tell(played: list[Game]) -> None:
            self._tell(what, len(played), episodes)

        return rollout.play(player, self._games, epsilon, episodes, seed, tell, self._stop)

    def close(self) -> None:
        """Close the evaluation games."""
        if "_games" in vars(self):
            self._games.close()

    def _row(self, played: list[Game], network: str, best: bool, held_out_q: float) -> dict[str, Any]:
        return {
            "protocol": self._config.protocol.name,
            "network": network,
            "best": int(best),
            "held_out_q": held_out_q,
        } | evaluate.summary(self._env.game, played)

    def evaluate(self, agent_steps: int, episodes: Path) -> dict[str, Any] | None:
        """Evaluate the online network under the protocol; returns a row for evaluations.csv.

        None if the run was asked to stop meanwhile, or the protocol scores training games and none has finished.

        Args:
            episodes: the run's episodes.csv, for protocols that score training games.
        """
        protocol = self._config.protocol
        if protocol.source == "training":
            rows = curves.window(curves.read(episodes), protocol, agent_steps * self._config.env.frame_skip)
            played = counted(rows, self._config.env)
        else:
            played = self._play(self._player, self._seed(agent_steps))
            if self._stop():  # an incomplete set would favor short games
                return None
        self.evaluated_steps = agent_steps
        if not played:
            return None
        mean = sum(game.score for game in played) / len(played)
        best = self.best_score is None or mean > self.best_score
        if best:
            self.best_score = mean
        states = self._held_out
        held_out_q = math.nan if states is None else mean_max_q(self._player.network, states)
        self.last = self._row(played, "current", best, held_out_q)
        return self.last

    def confirm(self, best: QNetwork, agent_steps: int) -> dict[str, Any] | None:
        """Evaluate the best network again with fresh seeds: the maximum of many scores is biased upward.

        None if the run was asked to stop meanwhile, or if the protocol scores training games, which are over.
        """
        if self._config.protocol.source == "training":
            return None
        played = self._play(Player(best, self._learned, self._actions), self._seed(agent_steps, "fresh evaluation"))
        return None if self._stop() else self._row(played, "best", False, math.nan)

    def film(self, agent_steps: int, path: Path, last: bool, say: Callable[[str], None]) -> bool:
        """Film one more game, if videos are enabled; returns whether a video was written.

        On a fast GPU, filming could take longer than training between evaluations. A video is skipped if it would
        exceed evaluation.video_share of the time since the last one; the last evaluation is always filmed.
        """
        began = time.perf_counter()
        share = self._config.evaluation.video_share * (began - self._filmed)
        if not self._films or (self._film_seconds > share and not last):
            return False
        seconds, epsilon = self._config.evaluation.video_seconds, self._config.protocol.epsilon
        try:
            video.film(self._player, self._env, epsilon, self._seed(agent_steps), path, seconds, stop=self._stop)
        except Exception as error:  # a video must not stop a run
            self._films = False
            say(f"no videos for the rest of this run; training continues ({str(error) or repr(error):.200})")
            return False
        self._filmed = time.perf_counter()
        self._film_seconds = self._filmed - began
        return True
