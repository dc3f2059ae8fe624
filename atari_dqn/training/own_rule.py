"""Somebody's rule, watched for mistakes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from atari_dqn.dqn.bootstrap import Minibatch, Rule
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import Batch
from atari_dqn.registry.watched import where
from atari_dqn.utils.errors import RunFailed, UserError


class OwnRule:
    """A user's Rule, whose mistakes end a run with a sentence. A wrong shape might else broadcast, unseen.

    Attributes:
        rule: the user's.
    """

    def __init__(self, rule: Rule, name: str) -> None:
        self.rule, self._name = rule, name
        self.bonus = float(getattr(rule, "bonus", 0.0))

    @contextmanager
    def _told(self, method: str) -> Iterator[None]:
        try:
            yield
        except (RunFailed, UserError):
            raise
        except (Exception, SystemExit) as error:
            raise RunFailed(f"rule={self._name} fails in {method}: {where(error)}") from error

    def _check(self, part: object, what: str, size: int, dims: int) -> None:
        shape = [*part.shape] if isinstance(part, Tensor) else type(part).__name__
        if not isinstance(part, Tensor) or part.ndim != dims or len(part) != size:
            raise RunFailed(f"rule={self._name}: {what} {shape}; expected [{size}{', n' * (dims - 1)}]")

    def begin(self, target: QNetwork) -> None:
        try:
            self.rule.begin(target)
        except Exception as error:
            raise UserError(f"rule={self._name} fails in begin: {where(error)}") from error

    def copying(self, target: QNetwork) -> None:
        with self._told("copying"):
            self.rule.copying(target)

    def precompute(self, target: QNetwork, batch: Batch, noise: Tensor, taus: Tensor) -> list[Tensor]:
        with self._told("precompute"):
            found: Any = self.rule.precompute(target, batch, noise, taus)
        if not isinstance(found, list | tuple) or len(found) not in (1, 2):
            raise RunFailed(f"rule={self._name}: precompute() must return a list of one or two tensors: z_t, and more")
        return [*found]

    def target(self, online: QNetwork, m: Minibatch) -> Tensor:
        with self._told("target"):
            y = self.rule.target(online, m)
        self._check(y, "target() returns", len(m.r_t), 2)
        return y

    def loss(self, online: QNetwork, z_tm1: Tensor, y: Tensor, m: Minibatch) -> tuple[Tensor, Tensor]:
        with self._told("loss"):
            found: Any = self.rule.loss(online, z_tm1, y, m)
        if not isinstance(found, tuple) or len(found) != 2:
            raise RunFailed(
                f"rule={self._name}: loss() returns {type(found).__name__}; expected a tuple of losses and errors"
            )
        for part, what in zip(found, ("losses", "errors"), strict=True):
            self._check(part, f"loss() returns {what}", len(m.r_t), 1)
        return found

    def state(self) -> dict[str, Any]:
        with self._told("state"):
            return self.rule.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.rule.restore(state)
