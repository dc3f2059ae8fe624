"""What the checks share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atari_dqn.config import compose
from atari_dqn.config.schema import TrainConfig
from atari_dqn.registry import own_modules, plugins
from atari_dqn.utils.errors import UserError

QUIET = (
    "device=cpu", "logger.wandb=off", "logger.tensorboard=false", "evaluation.video_seconds=0",
    "evaluation.held_out_states=0", "evaluation.num_envs=2", "num_envs=4",
)  # fmt: skip


class CheckFailed(AssertionError):
    """A check failed; the message says which, and what was found."""


def check(holds: object, what: str) -> None:
    if not holds:
        raise CheckFailed(what)


class told:
    """What the program says of wrong input, as CheckFailed."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise CheckFailed(str(error)) from None


def named(kind: plugins.Kind, thing: type | str, arguments: Mapping[str, Any] | None) -> str:
    """The name to type for a class or an import path, trusted from now on."""
    own_modules.allow_texts(dict(arguments or {}))
    with told():
        if isinstance(thing, str):
            plugins.allow(kind, thing)
            return thing
        return plugins.path_of(thing)


def configured(*words: str) -> TrainConfig:
    with told():
        composed = compose.compose("train", [*QUIET, *words])
        own_modules.allow(str(composed.env.game))
        return compose.to_train_config(composed)


def states_like(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    if len(shape) > 3:
        return torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)
    return torch.rand(*shape, generator=generator)
