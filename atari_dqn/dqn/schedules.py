"""Learning-rate schedules: constant, linear, cosine, and torch's own."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from atari_dqn.config.schema import Optimizer
from atari_dqn.dqn.optimizers import can_be_recorded

BY_STEPS = ("linear", "cosine")  # functions of the agent step
MOST_UPDATES = 1 << 16  # in a turn, at the very most


def learning_rate_at(step: int, optimizer: Optimizer) -> float:
    """The learning rate at an agent step, from `learning_rate` (a) to `final_learning_rate` (b) over `schedule_steps`.

    With x = min(1, step / schedule_steps), linear: a + x (b - a); cosine: b + (a - b) (1 + cos(pi x)) / 2
    (Loshchilov and Hutter 2017, eq. 5, without restarts).
    """
    assert optimizer.schedule_steps
    done = min(1.0, step / optimizer.schedule_steps)
    if optimizer.schedule == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return optimizer.learning_rate + done * (optimizer.final_learning_rate - optimizer.learning_rate)


class Rule(Protocol):
    """A learning rate by the agent steps and updates so far."""

    def __call__(self, agent_steps: int, updates: int) -> float: ...


class Torchs:
    """A scheduler of torch.optim.lr_scheduler, stepped once per update.

    It changes the learning rate of an optimizer of its own, in float64 on the host, so a CUDA graph never sees it.

    Args:
        make: a scheduler of an optimizer.
    """

    def __init__(self, make: Callable[[torch.optim.Optimizer], LRScheduler], learning_rate: float) -> None:
        optimizer = torch.optim.SGD([torch.zeros(())], learning_rate)
        self._group, self._scheduler = optimizer.param_groups[0], make(optimizer)
        optimizer.step()  # else torch warns that it never was
        self._most = getattr(self._scheduler, "total_steps", math.inf) - 1  # OneCycleLR refuses to go further

    def __call__(self, agent_steps: int, updates: int) -> float:
        """Raises ValueError if the learning rate cannot be one."""
        behind = min(updates, self._most) - self._scheduler.last_epoch
        if not 0 <= behind < MOST_UPDATES:
            raise ValueError("the learning-rate schedule is not where the run is")
        for _ in range(int(behind)):
            self._scheduler.step()
        rate = float(self._group["lr"])
        if not 0 <= rate < math.inf:
            raise ValueError(f"{type(self._scheduler).__name__} gives a learning rate of {rate:g} at update {updates}")
        return rate

    def state(self) -> dict[str, float]:
        """The scheduler's numbers, for a checkpoint."""
        own = {key: value for key, value in vars(self._scheduler).items() if type(value) in (int, float)}
        return own | {"lr": self._group["lr"]}

    def restore(self, state: dict[str, float]) -> None:
        """Restore a `state`. Raises ValueError or KeyError if it does not fit."""
        own = {key: state[key] for key in self.state()}
        if any(type(value) not in (int, float) for value in own.values()):
            raise ValueError("the learning-rate schedule's numbers are none")
        self._group["lr"] = own.pop("lr")
        vars(self._scheduler).update(own)


class Schedule:
    """Sets an optimizer's learning rate once a turn.

    Args:
        rule: the learning rate at a turn's start; None: it is constant.

    Attributes:
        learning_rate: of the last update; before the first one, of the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rule: Rule | None = None) -> None:
        self._optimizer, self._rule = optimizer, rule
        self.learning_rate = float(optimizer.param_groups[0]["lr"])
        device = optimizer.param_groups[0]["params"][0].device
        if rule and device.type == "cuda" and can_be_recorded(optimizer):  # a graph would freeze a number
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(self.learning_rate, device=device)

    def begin_turn(self, agent_steps: int, updates: int) -> None:
        """Set the learning rate of all updates of a turn, by the agent steps and updates at its start."""
        if self._rule:
            self._set(self._rule(agent_steps, updates))

    def _set(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; nothing of a constant."""
        if self._rule is None:
            return {}
        own = {"torch": self._rule.state()} if isinstance(self._rule, Torchs) else {}
        return {"learning_rate": self.learning_rate, **own}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`. Raises ValueError, KeyError or TypeError if it does not fit."""
        if self._rule is None:
            return
        if isinstance(self._rule, Torchs):
            self._rule.restore(state["torch"])
        self._set(float(state["learning_rate"]))
