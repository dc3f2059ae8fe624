"""Score a checkpoint under a published protocol: raw scores, their summary, and all that others need to judge them."""

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ale_py
import cv2
import gymnasium
import torch
from rich.table import Table

import atari_dqn
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.schema import Env, Protocol
from atari_dqn.data import scores
from atari_dqn.envs.base import Game
from atari_dqn.evaluation import rollout
from atari_dqn.evaluation.player import Player
from atari_dqn.evaluation.protocol import played_as, training_games
from atari_dqn.evaluation.rollout import EvalEnvs
from atari_dqn.utils.console import Console
from atari_dqn.utils.files import replacing


def summary(game: str, played: Sequence[Game]) -> dict[str, Any]:
    """Mean, sd, median, min and max of raw scores, and the mean in terms of a human's where they can be compared."""
    results = [one.score for one in played]
    mean = statistics.fmean(results)
    return {
        "episodes": len(results),
        "mean": mean,
        "sd": statistics.stdev(results) if len(results) > 1 else 0.0,
        "median": statistics.median(results),
        "min": min(results),
        "max": max(results),
        "human_normalised": scores.human_normalised(game, mean) if all(one.whole for one in played) else None,
    }


def evaluate(
    checkpoint: Checkpoint,
    protocol: Protocol,
    env: Env,
    player: Player,
    episodes: int,
    num_envs: int,
    seed: int,
    on_step: Callable[[list[Game]], None] = lambda games: None,
) -> dict[str, Any]:
    """Evaluate a checkpoint whose player comes from `make_player`: everything needed to judge or repeat the numbers."""
    started = time.perf_counter()
    if protocol.source == "training":
        played = training_games(checkpoint, protocol, env)
    else:
        with contextlib.closing(EvalEnvs(env, min(num_envs, episodes), player.device)) as games:
            played = rollout.play(player, games, protocol.epsilon, episodes, seed, on_step)
    return {
        "game": env.game,
        "checkpoint": str(checkpoint.path),
        "trained_on": checkpoint.config.env.game,
        "trained_agent_steps": checkpoint.agent_steps,
        "trained_frames": checkpoint.agent_steps * env.frame_skip,
        "preset": checkpoint.config.preset,
        "protocol": dataclasses.asdict(protocol) | played_as(env) | {
            "terminal_on_life_loss": False, "seed": seed, "num_envs": min(num_envs, episodes)
        },
        "actions": list(checkpoint.actions),
        "actions_not_in_game": list(player.unmatched),
        "actions_never_learnt": list(player.unknown),
        "returns": [g.score for g in played],
        "lengths_frames": [g.length_frames for g in played],
        "cut_off": sum(g.cut for g in played),
        "summary": summary(env.game, played),
        "human_normalised_source": scores.SOURCE,
        "seconds": round(time.perf_counter() - started, 3),
        "versions": {
            "atari_dqn": atari_dqn.__version__, "torch": torch.__version__, "gymnasium": gymnasium.__version__,
            "ale_py": ale_py.__version__, "opencv": cv2.__version__,
        },
    }  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """The result as a table of one row, 80 columns wide at most."""
    numbers, protocol = result["summary"], result["protocol"]
    kind = "training games" if protocol["source"] == "training" else "games"
    epsilon = "" if protocol["source"] == "training" else f" (epsilon {protocol['epsilon']:g})"
    view = Table(title=f"{result['game']}: {numbers['episodes']} {kind}, protocol {protocol['name']}{epsilon}")
    for column in ("mean", "sd", "median", "min", "max", "human-normalized"):
        view.add_column(column, justify="right")
    normalised = numbers["human_normalised"]
    view.add_row(
        *(f"{numbers[key]:,.1f}" for key in ("mean", "sd", "median", "min", "max")),
        "-" if normalised is None else f"{normalised:.1%}",
    )
    return view


def report(result: dict[str, Any], output: Path, console: Console) -> None:
    """Print the table and what a reader must know beside it; write the JSON."""
    console.print(table(result))
    game, frames = result["game"], result["protocol"]["max_frames"]
    if result["summary"]["human_normalised"] is not None:
        console.say(f"human-normalized by {scores.SOURCE}")
    elif scores.human_normalised(game, 0) is not None:
        console.say(
            f"not human-normalized: games were truncated at {frames:,} frames, and a human's lasted up to "
            f"{scores.HUMAN_FRAMES:,}"
        )
    for key, text in (
        ("actions_not_in_game", "actions unavailable in this game (never selected)"),
        ("actions_never_learnt", "actions of this game unknown to the network (never played)"),
    ):
        if result[key]:
            console.say(f"{text}: {', '.join(result[key])}")
    if cut := result["cut_off"]:
        text = "1 game was cut off" if cut == 1 else f"{cut} games were cut off"
        console.say(f"{text} at {frames:,} frames; the score up to then counts")
    with replacing(output, "w") as file:
        file.write(json.dumps(result, indent=1) + "\n")
    console.say(f"written: {output}")
