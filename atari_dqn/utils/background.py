"""A thread that works while the loop goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec

P = ParamSpec("P")


class Worker:
    """Does one thing at a time, in the order given, on a thread of its own.

    A failure is raised where the next thing is given, or waited for.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._job: Future[None] | None = None

    def do(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin `work` once what was given before is done, which this waits for."""
        self.wait()
        self._job = self._pool.submit(work, *args, **kwargs)

    def wait(self) -> None:
        """Until all is done."""
        job, self._job = self._job, None
        if job:
            job.result()

    def close(self) -> None:
        """End the thread, once all is done. A failure that nobody waited for is not raised."""
        self._pool.shutdown()
