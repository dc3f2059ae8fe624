"""What evaluate, video, watch and the Python API are asked: a checkpoint, and how its games are played."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose, unread, validate
from atari_dqn.config.commands import PlayConfig
from atari_dqn.config.schema import Env, Protocol, TrainConfig
from atari_dqn.dqn import networks
from atari_dqn.evaluation.protocol import environment
from atari_dqn.utils import console, devices
from atari_dqn.utils.errors import UserError


class Request(NamedTuple):
    """A checked request."""

    asked: Any  # PlayConfig, or a command's that is derived from it
    checkpoint: Checkpoint
    protocol: Protocol


def read(composed: Any, words: Sequence[str], checkpoint: Checkpoint | None = None) -> Request:
    """Check a request and load its checkpoint. Raises UserError.

    Reports what of the protocol has no effect, and what the environment does by itself.

    Args:
        words: the typed settings.
        checkpoint: the loaded one, if it is.
    """
    asked = compose.to_object(composed)
    if checkpoint is None:
        checkpoint = Checkpoint(checkpoints.find(asked.checkpoint), devices.choose_device(asked.device))
        if asked.checkpoint == "latest":
            console.say(f"checkpoint: {checkpoint.path}")
    networks.set_threads(checkpoint.config.network.name, next(checkpoint.network.parameters()).device)
    env, protocol = played(checkpoint.config, asked, words)
    env = dataclasses.replace(checkpoint.config.env, game=env.game, arguments=env.arguments)
    config = dataclasses.replace(checkpoint.config, protocol=protocol, env=env)
    for note in (*unread.notes(config, "protocol."), *validate.own_notes(env)):
        console.say(f"note: {note}")
    return Request(asked, checkpoint, protocol)


def read_several(composed: Any, words: Sequence[str]) -> list[Request]:
    """Like `read`, for two or more checkpoints with spaces between, all on the first one's game. Raises UserError."""
    asked = str(composed.checkpoint)
    try:
        paths = [asked] if Path(asked).exists() else shlex.split(asked)
    except ValueError as error:
        raise UserError(f"checkpoint={asked}: {str(error).lower()}") from None
    if len(paths) < 2:
        raise UserError(
            'a match needs at least two checkpoints, separated by spaces: CKPT="runs/A runs/B"; quotes around a path '
            "keep its own spaces"
        )
    found: list[Request] = []
    for path in paths:
        composed.checkpoint = path
        composed.env.game = composed.env.game or (found[0].checkpoint.config.env.game if found else None)
        try:
            found.append(read(composed, words))
        except UserError as error:
            raise UserError(str(error) if path in str(error) else f"{path}: {error}") from None
    return found


def episodes(typed: int | None, protocol: Protocol) -> int:
    """How many whole games are played: as many as the user says, else as the protocol says, else 30."""
    return typed or protocol.episodes or 30


def played(config: TrainConfig, asked: PlayConfig, words: Sequence[str]) -> tuple[Env, Protocol]:
    """The games that are asked for, of an agent that learned as `config` says, and their protocol. Raises UserError.

    Args:
        words: the typed settings.
    """
    protocol = compose.merge_protocol(asked.protocol, config.protocol)
    env = environment(config.env, protocol, asked.env.game, asked.env.arguments)
    own = dataclasses.replace(config.env, game=env.game, arguments=env.arguments)
    unread.refuse(dataclasses.replace(config, protocol=protocol, env=own), words, "protocol.")
    return env, protocol
