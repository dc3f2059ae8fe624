"""A background thread that runs jobs in order."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec

P = ParamSpec("P")


class Worker:
    """Run jobs one at a time, in order, in a separate thread.

    An exception is raised by the next call of `do` or `wait`.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._job: Future[None] | None = None

    def do(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Wait for the previous job, then start `work`."""
        self.wait()
        self._job = self._pool.submit(work, *args, **kwargs)

    def wait(self) -> None:
        """Wait until the job is done."""
        job, self._job = self._job, None
        if job:
            job.result()

    def close(self) -> None:
        """End the thread after its job is done. A pending exception is not raised."""
        self._pool.shutdown()
