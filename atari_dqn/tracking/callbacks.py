"""Several callbacks as one, and a guard around a callback that only shows."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from atari_dqn.checkpoint.plain import plain
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.loop import StepInfo
from atari_dqn.registry import plugins
from atari_dqn.registry.watched import where
from atari_dqn.tracking.callback import Callback, Row, Training
from atari_dqn.utils.errors import RunFailed, UserError


def named(config: TrainConfig) -> list[Callback]:
    """The callbacks that a config names. Raises UserError if one cannot be made, or if there is no such tracker."""
    for name in config.trackers:
        plugins.find(plugins.TRACKER, name)
    made = {name: plugins.make(plugins.CALLBACK, name) for name in config.callbacks}
    for name, callback in made.items():
        if not isinstance(callback, Callback):
            raise UserError(f"callbacks={name} is no callback: derive its class from atari_dqn.Callback")
    return [*made.values()]


class Guarded(Callback):
    """A callback whose failure is reported once and never stops the run."""

    def __init__(self, name: str, make: Callable[[], Callback], say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._inner: Callback | None = None
        self._call(lambda: setattr(self, "_inner", make()))

    def _call(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            self._inner = None
            self._say(
                f"{self._name} failed and is disabled for the rest of this run; training continues ({error!r:.200})"
            )

    def metrics(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.metrics(row))

    def episode(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.episode(row))

    def evaluation(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.evaluation(row))

    def video(self, path: Path, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.video(path, row))

    def sync(self) -> None:
        if inner := self._inner:
            self._call(inner.sync)

    def close(self) -> None:
        if inner := self._inner:
            self._call(inner.close)


class Callbacks(Callback):
    """Several callbacks as one: the run's own, and the user's.

    Attributes:
        events: rows and films that they were told of, over all resumes.
    """

    def __init__(self) -> None:
        self._all: list[Callback] = []
        self._own: dict[str, Callback] = {}  # the user's, by the name under which a checkpoint keeps their state
        self._states: dict[str, Any] = {}  # of the last checkpoint
        self.events = 0

    def begin(self, run: Training, ours: Iterable[Callback], own: Iterable[Callback]) -> None:
        """Start all of them; each of the user's `own` continues from the checkpoint's state. Raises UserError."""
        for callback in own:
            if not isinstance(callback, Callback):
                raise UserError(f"{callback!r:.60} is no callback: derive its class from atari_dqn.Callback")
            self._own[self._name(callback)] = callback
        self._all = [*ours, *self._own.values()]
        for name, callback in self._own.items():
            if (state := self._states.pop(name, None)) is not None:
                self._tell_one(callback, "restore", state)
        if self._states:
            run.say(f"note: the checkpoint has the state of {', '.join(self._states)}, which this run lacks")
        self.start(run)

    def _name(self, callback: Callback) -> str:
        name = f"{type(callback).__module__}:{type(callback).__qualname__}"
        count = sum(own.partition("#")[0] == name for own in self._own)
        return f"{name}#{count + 1}" if count else name

    def _tell_one(self, callback: Callback, event: str, *what: Any) -> Any:
        try:
            return getattr(callback, event)(*what)
        except (Exception, SystemExit) as error:
            if callback not in self._own.values() or isinstance(error, UserError | RunFailed):
                raise
            raise RunFailed(f"the callback {type(callback).__name__} failed in {event}: {where(error)}") from error

    def _tell(self, event: str, *what: Any) -> None:
        for callback in self._all:
            self._tell_one(callback, event, *(dict(one) if isinstance(one, dict) else one for one in what))  # its own

    def start(self, run: Training) -> None:
        self._tell("start", run)

    def step(self, info: StepInfo) -> None:
        for callback in self._all:
            if type(callback).step is not Callback.step:  # most do not look at every step
                self._tell_one(callback, "step", info)

    def metrics(self, row: Row) -> None:
        self.events += 1
        self._tell("metrics", row)

    def episode(self, row: Row) -> None:
        self.events += 1
        self._tell("episode", row)

    def evaluating(self, what: str, played: int, episodes: int) -> None:
        self._tell("evaluating", what, played, episodes)

    def evaluation(self, row: Row) -> None:
        self.events += 1
        self._tell("evaluation", row)

    def video(self, path: Path, row: Row) -> None:
        self.events += 1
        self._tell("video", path, row)

    def sync(self) -> None:
        self._tell("sync")

    def checkpoint(self, path: Path) -> None:
        self._tell("checkpoint", path)

    def close(self) -> None:
        for callback in reversed(self._all):
            with contextlib.suppress(Exception):  # the others are closed all the same
                callback.close()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        states = dict(self._states)  # of those that this run lacks, for one that has them
        for name, callback in self._own.items():
            if state := self._tell_one(callback, "state"):
                states[name] = plain(state, f"the callback {type(callback).__name__}")
        return {"events": self.events, "callbacks": states}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a `state`. Raises KeyError, TypeError or ValueError."""
        self.events, self._states = int(state["events"]), dict(state.get("callbacks", {}))
        if self.events < 0:
            raise ValueError("a count below 0")
