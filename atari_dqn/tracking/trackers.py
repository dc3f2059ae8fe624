"""The trackers that a run's config asks for."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from atari_dqn.config import compose
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.registry import plugins
from atari_dqn.tracking import curves, mlflow_tracker, wandb_client, wandb_tracker
from atari_dqn.tracking.aside import Aside
from atari_dqn.tracking.callback import Callback
from atari_dqn.tracking.callbacks import Guarded
from atari_dqn.tracking.csv_files import CsvFiles
from atari_dqn.tracking.display import Display
from atari_dqn.tracking.tensorboard import TensorBoard
from atari_dqn.utils import extras
from atari_dqn.utils.console import Console


def make_trackers(
    config: TrainConfig,
    folder: Path,
    agent_steps: int,
    events: int,
    confirmed: bool,
    outcome: Callable[[], str],
    clock: Callable[[], float],
    console: Console,
    say: Callable[[str], None],
) -> list[Callback]:
    """Build the trackers that a run's config asks for, starting at `agent_steps`. Raises UserError.

    Args:
        events: number of rows that W&B already has.
        confirmed: whether the best network was evaluated again at the end; see Evaluator.
        outcome: how the run has ended, once it has.
        clock: the seconds it has trained.
        say: prints a one-line message.
    """
    logger, skip = config.logger, config.env.frame_skip
    chosen: list[Callback] = [CsvFiles(folder, agent_steps, confirmed, say)]  # first: it sets damaged files aside
    past = curves.evaluations(curves.read(folder / "evaluations.csv"))
    best = max((point.mean for point in past if point.frames <= agent_steps * skip), default=None)
    if logger.tensorboard and extras.there("tensorboard"):
        chosen.append(
            Guarded("TensorBoard", lambda: TensorBoard(folder, agent_steps * skip, compose.to_yaml(config)), say)
        )
    known = {}
    if best is not None:
        share = scores.human_normalised(config.env.game, best) if curves.is_whole(config) else None
        known = {"best_return": best, "best_human_normalised": share}
    if watched := wandb_tracker.make_tracker(logger, folder, dataclasses.asdict(config), events, known, say):
        chosen.append(watched)
    if logged := mlflow_tracker.make_tracker(logger, folder, dataclasses.asdict(config), agent_steps, outcome, say):
        chosen.append(logged)
    seconds = logger.timeout_seconds or wandb_client.TIMEOUT_SECONDS
    for name in config.trackers:  # in threads of their own: what is shown must not slow down what is computed
        chosen.append(Aside(name, plugins.find(plugins.TRACKER, name), seconds, lambda: None, say))
    pace = curves.pace(config, folder, agent_steps)
    whole = curves.is_whole(config, training=True), curves.is_whole(config)
    limit = 60 * (config.max_minutes or math.inf)
    return [
        *chosen,
        Display(
            console, config.env.game, config.total_steps, skip, agent_steps, pace, best, whole,
            lambda: clock() / limit,
        ),
    ]  # fmt: skip
