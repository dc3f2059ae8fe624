"""The short way for a newcomer: learn a game for a quarter of an hour, score it, film it, draw the curve, say where all
is and what to try next."""

import contextlib
import statistics

from atari_dqn.analysis import compare
from atari_dqn.config.commands import CompareConfig
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.tracking import curves
from atari_dqn.training import launch
from atari_dqn.training.run import Run
from atari_dqn.utils import extras
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint
from atari_dqn.utils.text import hours, plural

NEXT = {"Pong": "Breakout"}  # a game to try after this one; Pong after all others


def demo(config: TrainConfig, overrides: list[str]) -> Run | None:
    """Train, then tell what was reached and what there is to look at, unless stopped.

    Returns: the run; None if it was finished before.
    """
    if config.env.kind != "atari":
        other = hint("train", GAME="CartPole" if config.env.kind == "cartpole" else config.env.game)
        raise UserError(f"the demo is of Atari games; for {config.env.game} type {other}")
    if config.env.game != "Pong" and not any(word.startswith("env.goals") for word in overrides):
        config.env.goals = []  # the file's is Pong's
    extras.need("the demo", "av", "matplotlib")
    run = launch.train(config, overrides)
    if run is None or run.stopped.is_set():
        return run
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
    run.say(_summary(run))
    return run


def _summary(run: Run) -> str:
    """What was reached, where the film is, and what to try next, in one line."""
    game, film = run.config.env.game, run.folder / "videos" / f"step{run.agent_steps}.mp4"
    told = []
    if returns := run.goals.recent:
        last = [*returns][-20:]
        told.append(f"{statistics.fmean(last):.1f} over the last {plural(len(last), 'training game')}")
    judged = [row for row in curves.read(run.folder / "evaluations.csv") if row["network"] == "current"]
    if judged:
        told.append(f"{float(judged[-1]['mean']):.1f} in evaluation")
    beside = ""
    if game in scores.random_and_human():
        random, human = scores.random_and_human()[game]
        beside = f" (random play {random:.1f}, a human {human:.1f})"
    took = f"after {run.agent_steps:,} agent steps in {hours(run.progress.seconds)}"
    seen = f"its film: {film}; " if film.is_file() else ""
    further = [hint("watch", CKPT=run.folder), hint("demo", GAME=NEXT.get(game, "Pong"))]
    if not any(goal.stop for goal in run.config.env.goals) or not run.goals.reached:
        more = 4 * (run.config.max_minutes or 15)
        steps = "" if run.config.total_steps >= 10_000_000 else " total_steps=10M"
        further.insert(1, hint("resume", RUN=run.folder, ARGS=f"max_minutes={more:g}{steps}"))
    return f"{game}: {', '.join(told) or 'no game finished'}{beside} {took}; {seen}try next: {', '.join(further)}"
