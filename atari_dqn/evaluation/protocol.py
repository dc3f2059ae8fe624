"""What a published protocol says: which games are played and how, or which training games are counted."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.schema import Env, Protocol
from atari_dqn.config.validate import PLAYED, check_training, played_by
from atari_dqn.data.games import atari_name
from atari_dqn.envs.base import Game
from atari_dqn.registry.environments import check_arguments, named, own_of
from atari_dqn.tracking import curves
from atari_dqn.utils.errors import UserError


def environment(trained: Env, protocol: Protocol, game: str | None, arguments: Mapping[str, Any] | None = None) -> Env:
    """The games to evaluate on: preprocessing as trained, starts and ends as the protocol says, lives ignored.

    Args:
        arguments: of a Gymnasium environment, to change of those that it was trained with.
    """
    changes: dict[str, Any] = {"terminal_on_life_loss": False, "goals": []}
    for key in played_by(trained):
        if getattr(protocol, key) is not None:
            changes[key] = getattr(protocol, key)
    if game is not None:
        if trained.kind == "atari":
            changes["game"] = atari_name(game)
        elif named(game.rpartition(":")[2]).lower() != trained.game.rpartition(":")[2].lower():
            raise UserError(
                f"this checkpoint was trained on {trained.game}, not on Atari's screen; it cannot play {game}"
            )
        elif ":" in game:  # its module may have moved
            changes["game"] = game
    if arguments:
        changes["arguments"] = {**trained.arguments, **arguments}
        check_arguments(trained.kind, trained.game, arguments)
    return dataclasses.replace(trained, **changes)


def played_as(env: Env) -> dict[str, Any]:
    """How games are played, for the record: what `env` asks for, or what the game does by itself."""
    found = {key: getattr(env, key) if key in played_by(env) else None for key in PLAYED}
    if env.kind != "atari":
        own = own_of(env.game, env.arguments)
        found |= {"repeat_action_probability": own.stickiness, "own_frame_skip": list(own.frame_skip)}
        found |= {"arguments": env.arguments} if env.arguments else {}
    return found | {key: getattr(env, key) for key in ("frame_skip", "frame_stack", "screen_size")}


def counted(rows: Sequence[dict[str, str]], trained: Env) -> list[Game]:
    """The games that some rows of a run's episodes.csv are of."""
    lengths = [int(row["length_frames"]) for row in rows]
    return [
        Game(int(row["env"]), float(row["return"]), length, length >= trained.max_frames)
        for row, length in zip(rows, lengths, strict=True)
    ]


def training_games(checkpoint: Checkpoint, protocol: Protocol, env: Env) -> list[Game]:
    """The training games by which a protocol scores a checkpoint, from its run's episodes.csv."""
    trained, path = checkpoint.config.env, checkpoint.path.parent.parent / "episodes.csv"
    check_training(protocol, trained)
    if env.game != trained.game:
        raise UserError(f"protocol={protocol.name} scores training games, and there are none of {env.game}")
    rows = curves.window(curves.read(path), protocol, checkpoint.agent_steps * trained.frame_skip)
    if not rows:
        raise UserError(f"protocol={protocol.name} scores training games, and there are none for it in {path}")
    return counted(rows, trained)
