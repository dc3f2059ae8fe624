"""Where the time goes."""

import time
from collections.abc import Callable


class Stopwatch:
    """Seconds by stage. What a GPU was asked to do counts where it is waited for, unless `settle` waits at each lap.

    Args:
        settle: called before the clock is read, e.g. torch.cuda.synchronize.
    """

    def __init__(self, settle: Callable[[], object] | None = None) -> None:
        self._settle = settle
        self.restart()

    def restart(self) -> None:
        """Forget all laps; the next one begins now."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap as `stage`'s."""
        if self._settle:
            self._settle()
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def shares(self) -> dict[str, float]:
        """Each stage's part of the time, the largest first."""
        total = sum(self.seconds.values()) or 1.0
        return {stage: self.seconds[stage] / total for stage in sorted(self.seconds, key=lambda s: -self.seconds[s])}
