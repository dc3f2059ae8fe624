"""A learning-rate schedule by its name and arguments: ours, or one of torch's."""

import functools
import inspect
from typing import Any

import torch
from torch.optim import lr_scheduler

from atari_dqn.config import schema
from atari_dqn.dqn.schedules import BY_STEPS, Schedule, Torchs, learning_rate_at
from atari_dqn.training.optimizers import check_argument
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line, suggest

UNSUITED = {
    "LambdaLR": "needs a Python function",
    "MultiplicativeLR": "needs a Python function",
    "SequentialLR": "needs other schedules",
    "ChainedScheduler": "needs other schedules",
    "ReduceLROnPlateau": "needs a validation loss",
    "SWALR": "is for averaged weights",
}
NOT_SET = ("optimizer", "last_epoch", "scale_fn", "scale_mode", "cycle_momentum", "base_momentum", "max_momentum")
TRIED_UPDATES = 100


def make_schedule(config: schema.Optimizer, optimizer: torch.optim.Optimizer) -> Schedule:
    """The schedule that a config asks for. Raises UserError if it could not be followed."""
    name = config.schedule
    if name == "constant":
        return Schedule(optimizer)
    if config.name == "Rprop":
        raise UserError(f"optimizer.schedule={name} has no effect on Rprop, which finds its own step sizes")
    if name in BY_STEPS:
        return Schedule(optimizer, lambda agent_steps, updates: learning_rate_at(agent_steps, config))
    known = {
        key: value
        for key, value in vars(lr_scheduler).items()
        if isinstance(value, type)
        and issubclass(value, lr_scheduler.LRScheduler)
        and key not in ("LRScheduler", "_LRScheduler", *UNSUITED)
    }
    if name in UNSUITED:
        raise UserError(f"optimizer.schedule={name}: {name} {UNSUITED[name]}, which a setting cannot give")
    if name not in known:
        names = ["constant", *BY_STEPS, *sorted(known)]
        raise UserError(f"no schedule is called {name!r}{suggest(name, names)}; known: {', '.join(names)}")
    make = functools.partial(known[name], **_arguments(name, config.schedule_arguments, known[name]))
    try:
        tried = Torchs(make, config.learning_rate)
        for update in range(TRIED_UPDATES):
            tried(0, update)
        return Schedule(optimizer, Torchs(make, config.learning_rate))
    except Exception as error:  # torch's, of numbers out of range or missing
        text = one_line(error) or type(error).__name__
        raise UserError(f"optimizer.schedule_arguments do not suit {name}: {text}") from None


def _arguments(name: str, given: dict[str, Any], kind: type) -> dict[str, Any]:
    """The arguments of torch's scheduler. Raises UserError if one is unknown, missing, or of another type."""
    every = dict(inspect.signature(kind).parameters)
    options = {key: option for key, option in every.items() if key not in NOT_SET}
    for key, value in given.items():
        check_argument(f"optimizer.schedule_arguments.{key}", name, key, value, options)
    for key, option in options.items():
        if option.default is inspect.Parameter.empty and key not in given:
            raise UserError(f"optimizer.schedule={name} needs optimizer.schedule_arguments.{key}=...")
    fixed = {"cycle_momentum": False} if "cycle_momentum" in every else {}  # a CUDA graph would freeze the momentum
    return given | fixed
