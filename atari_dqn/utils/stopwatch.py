"""Measure the time spent per stage."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Seconds per stage. GPU work counts towards the stage that waits for it, unless `settle` synchronizes each lap.

    Args:
        settle: called before the clock is read, e.g. torch.cuda.synchronize.
    """

    def __init__(self, settle: Callable[[], object] | None = None) -> None:
        self._settle = settle
        self.seconds: dict[str, float] = {}
        self.skip()

    def skip(self) -> None:
        """Discard the time since the last lap; the next lap starts now."""
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        if self._settle:
            self._settle()
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def timed(self, stage: str, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, at whose end the time since the last lap counts as `stage`'s."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result = function(*args, **kwargs)
            self.lap(stage)
            return result

        return call

    def since(self, before: dict[str, float]) -> dict[str, float]:
        """Seconds per stage since `seconds` was `before`, largest first."""
        passed = {stage: total - before.get(stage, 0.0) for stage, total in self.seconds.items()}
        return dict(sorted(passed.items(), key=lambda item: -item[1]))
