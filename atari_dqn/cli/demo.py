"""The short way for a newcomer: learn Pong until it is solved, evaluate, film, draw the curve, say where all is."""

import contextlib

from atari_dqn.analysis import compare
from atari_dqn.config.commands import CompareConfig
from atari_dqn.config.schema import TrainConfig
from atari_dqn.training import launch
from atari_dqn.utils import extras
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint


def demo(config: TrainConfig, overrides: list[str]) -> None:
    """Train, then list what there is to look at, unless stopped."""
    if config.env.game != "Pong":
        raise UserError(
            f"the demo is of Pong; for {config.env.game} type {hint('train', GAME=config.env.game, PRESET='laptop')}"
        )
    extras.need("the demo", "av", "matplotlib")
    run = launch.train(config, overrides)
    if run is None or run.stopped.is_set():
        return
    with contextlib.suppress(UserError):  # the run was too short for a curve
        compare.compare(CompareConfig(str(run.folder), published=None, output=None), Console(quiet=True))
    things = {
        f"videos/step{run.agent_steps}.mp4": "a game",
        "compare.png": "its curve",
        "episodes.csv": "every game's score",
        "checkpoints/best.pt": "the network",
    }
    there = [f"{path} ({what})" for path, what in things.items() if (run.folder / path).is_file()]
    run.say(f"all of it is in {run.folder}: {', '.join(there)}")
