"""A run's evaluations: what they report and keep."""

import contextlib
import math
import time
from collections.abc import Iterator

from atari_dqn.checkpoint import checkpoints
from atari_dqn.data import scores
from atari_dqn.tracking import curves
from atari_dqn.tracking.callback import Row
from atari_dqn.tracking.curves import is_whole
from atari_dqn.training.diagnostics import Meter
from atari_dqn.training.parts import Parts
from atari_dqn.training.saving import Saver
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import plural


class Evaluations:
    """Evaluates a run's online network on its way, and its best one at the end."""

    def __init__(self, parts: Parts, saver: Saver, meter: Meter) -> None:
        self._parts, self._saver, self._meter = parts, saver, meter

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time of a block as evaluation's, and not as the loop's."""
        began = time.perf_counter()
        yield
        self._parts.progress.evaluation_seconds += time.perf_counter() - began
        self._meter.skip()

    def evaluate(self) -> None:
        """Score the online network, film a game, and keep the network if it is the best so far."""
        parts, steps = self._parts, self._parts.progress.agent_steps
        with self._timed():
            numbers = parts.evaluator.evaluate(steps, parts.folder / "episodes.csv")
            if numbers is None:
                return
            row = parts.row(**numbers)
            parts.trackers.evaluation(row)
            if row["best"]:
                self._saver.save_best()
            best = ", best so far" if row["best"] else ""
            parts.say(f"evaluation at {steps:,} agent steps: {self._score(row)}{best}")
            film = parts.folder / "videos" / f"step{steps}.mp4"
            if parts.evaluator.film(steps, film, parts.progress.over, parts.say):
                parts.trackers.video(film, row)

    def confirm(self) -> None:
        """At the end: score the best of several networks again, and report the last and the best."""
        parts, evaluator = self._parts, self._parts.evaluator
        path, game = parts.folder / "checkpoints" / "best.pt", parts.config.env.game
        last, evaluated = evaluator.last, curves.evaluations(curves.read(parts.folder / "evaluations.csv"))
        with self._timed():
            try:
                best = checkpoints.Checkpoint(path, parts.device)
            except UserError as error:
                parts.say(f"cannot evaluate the best network again: {error}")
                evaluator.confirmed = True
                return
            if last and len(evaluated) == 1 and parts.config.protocol.source == "games":  # not the best of many
                evaluator.confirmed = True
                parts.trackers.evaluation(parts.row(**last | {"network": "best", "best": 0, "held_out_q": math.nan}))
                parts.say(f"best network: the last one, the only one evaluated: {self._score(last)}")
                return
            numbers = evaluator.confirm(best.network, parts.progress.agent_steps)
            if parts.stopped.is_set():
                return
            evaluator.confirmed = True
            row = parts.row(**numbers) if numbers else {}
            if row:
                parts.trackers.evaluation(row)
        if last:
            parts.say(f"last network: {self._score(last)}")
        chosen = evaluator.best_score or 0.0
        again = f"; {self._score(row)}, from fresh seeds" if row else ""
        human = scores.human(game, chosen, is_whole(parts.config))
        parts.say(
            f"best network, of {best.agent_steps:,} agent steps: mean {chosen:.1f}{human} when it was chosen{again}"
        )

    def _score(self, row: Row) -> str:
        human = scores.human(self._parts.config.env.game, row["mean"], row["human_normalised"] is not None)
        return f"mean {row['mean']:.1f}{human}, sd {row['sd']:.1f}, {plural(row['episodes'], 'game')}"
