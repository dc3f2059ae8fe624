"""Export a checkpoint: write the file, compare it with the network on states of play, write the card beside it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atari_dqn.checkpoint import checkpoints, outputs
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.commands import ExportConfig
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.evaluation import rollout
from atari_dqn.evaluation.player import make_player
from atari_dqn.evaluation.rollout import EvalEnvs
from atari_dqn.exchange import card, metadata, onnx, safetensors
from atari_dqn.utils import extras, files
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed
from atari_dqn.utils.text import memory_size, plural

GAMES = 8  # side by side
PART = 100  # states in a call
TOLERANCE = {"onnx": 1e-4, "safetensors": 1e-4, "pt": 2e-2}  # relative to the state's largest Q-value
NEEDS: dict[str, tuple[str, ...]] = {"onnx": onnx.NEEDS, "safetensors": safetensors.NEEDS, "pt": ()}


class Difference(NamedTuple):
    """How an exported file's Q-values differ from the network's.

    Attributes:
        states: that were compared.
        same: those in which both choose the same action.
        largest: difference of a Q-value, relative to the state's largest.
    """

    states: int
    same: int
    largest: float

    def __str__(self) -> str:
        return (
            f"on {plural(self.states, 'state')} of play it chooses the same action as the checkpoint in "
            f"{self.same:,}; Q-values differ by {self.largest:.1e} at most, relative to the state's largest"
        )


def export(checkpoint: Checkpoint, asked: ExportConfig, console: Console) -> None:
    """Do what the command is asked. Raises RunFailed for a file that would play otherwise."""
    extras.need(f"format={asked.format}", *NEEDS[asked.format])
    ending = f".{asked.format}"
    default = checkpoint.path.with_suffix(ending)
    if default == checkpoint.path:
        default = default.with_stem(f"{default.stem}-small")
    output = outputs.choose(asked.output, default, (ending,), is_kept=True)
    beside = outputs.choose(None, card.beside(output), (".md",), is_kept=True)
    with console.status(f"writing {output.name}"):
        states = recorded(checkpoint, asked) if asked.states else None
        about = metadata.of(checkpoint)
        if asked.format == "onnx":
            shape = metadata.state_shape(checkpoint)
            content = onnx.save(checkpoint.network, shape, checkpoint.frame_dtype, about)
        elif asked.format == "pt":
            content = checkpoints.sealed(checkpoints.small(checkpoint))
        else:
            content = safetensors.save(checkpoint.network, about)
        told = ""
        with outputs.writing(output), files.replacing(output) as file:
            file.write(content)
            file.flush()
            if states is not None:
                found = difference(checkpoint.network, runner(asked.format, files.temporary_name(output)), states)
                told = str(found)
                allowed = TOLERANCE[asked.format]
                if not found.largest <= allowed:
                    raise RunFailed(f"{output.name} was not written: {found}, and {allowed:g} is allowed")
        with outputs.writing(beside), files.replacing(beside, "w") as file:
            file.write(card.write(checkpoint, asked.format, output.name, told and f"{told[0].upper()}{told[1:]}."))
    if told:
        console.say(f"compared: {told}")
    console.say(f"written: {output} ({memory_size(len(content))}), {beside}")


def recorded(checkpoint: Checkpoint, asked: ExportConfig) -> Tensor:
    """States [n, stack, *frame] of games that the checkpoint plays as its run evaluated it."""
    protocol = checkpoint.config.protocol
    env, player = make_player(checkpoint, protocol, asked.env.game, asked.env.arguments)
    with contextlib.closing(EvalEnvs(env, min(GAMES, asked.states), player.device)) as games:
        return rollout.visited(player, games, protocol.epsilon, asked.states, asked.seed)


def runner(kind: str, path: Path) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """An exported file's function from states to Q-values."""
    if kind == "onnx":
        return onnx.runner(path)
    network = Checkpoint(path).network if kind == "pt" else safetensors.load(path)
    return lambda states: network.q_values(torch.from_numpy(states)).numpy()


def difference(network: QNetwork, function: Callable[[NDArray[Any]], NDArray[Any]], states: Tensor) -> Difference:
    """Compare a function with a network on states [n, stack, *frame]."""
    same, largest = 0, 0.0
    for some in states.split(PART):
        wanted, found = network.q_values(some).numpy(), function(some.numpy())
        same += int((wanted.argmax(1) == found.argmax(1)).sum())
        scale = np.abs(wanted).max(1, keepdims=True) + np.finfo(np.float32).tiny
        largest = float(np.maximum(largest, (np.abs(wanted - found) / scale).max()))  # nan stays
    return Difference(len(states), same, largest)
