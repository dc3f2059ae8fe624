"""A tracker in a thread of its own: however slow or broken it is, the run neither waits for it nor stops."""

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atari_dqn.tracking.display import Row, Tracker

MOST_EVENTS = 100_000  # that wait their turn, some 100 MB; a tracker further behind than that hangs
QUIET_SECONDS = 2.0  # of waiting at the end before a person is told why
LAST_SECONDS = 15.0  # that an abandoned tracker has for its last words


class Aside(Tracker):
    """Hands what happens to a tracker in another thread, in order. Its failure is told once.

    Args:
        make: makes the tracker, in its thread.
        seconds: how long `close` waits, at most, for it to deal with all that it was told.
        abandon: called after that; has whatever the tracker waits for fail.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Tracker],
        seconds: float,
        abandon: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._name, self._make, self._seconds, self._abandon, self._say = name, make, seconds, abandon, say
        self._events: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(MOST_EVENTS)
        self._failed = False
        self._done = threading.Event()  # a thread's join() that Ctrl-C ends takes it for ended
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        tracker = None
        try:
            tracker = self._make()
            event = ""
            while event != "close" and not self._failed:
                event, what = self._events.get()
                getattr(tracker, event)(*what)
            if event != "close":
                self._end(tracker)
        except (Exception, SystemExit) as error:  # the W&B client ends with its service
            self._fail(repr(error))
            if tracker is not None and event != "close":
                self._end(tracker)
        finally:
            self._done.set()

    def _end(self, tracker: Tracker) -> None:
        """Close a tracker that has failed."""
        try:
            tracker.close()
        except (Exception, SystemExit):
            self._abandon()

    def _fail(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            self._say(f"{self._name} failed and is off for the rest of this run; training goes on ({why:.200})")

    def _tell(self, event: str, *what: Any) -> None:
        if self._failed:
            return
        try:
            self._events.put_nowait((event, what))
        except queue.Full:
            self._fail("it does not keep up")
            self._abandon()

    def metrics(self, row: Row) -> None:
        self._tell("metrics", row)

    def episode(self, row: Row) -> None:
        self._tell("episode", row)

    def evaluation(self, row: Row) -> None:
        self._tell("evaluation", row)

    def video(self, path: Path, row: Row) -> None:
        self._tell("video", path, row)

    def close(self) -> None:
        """Wait until the tracker is done, `seconds` at most. Ctrl-C ends the wait, and not the run."""
        self._tell("close")
        try:
            self._done.wait(QUIET_SECONDS)
            if not self._done.is_set() and not self._failed:
                self._say(f"{self._name}: finishing, at most {self._seconds:.0f} s (Ctrl-C skips this)")
                self._done.wait(self._seconds)
        except KeyboardInterrupt:
            self._say(f"{self._name}: skipped")
        if not self._done.is_set():
            self._abandon()
            with contextlib.suppress(KeyboardInterrupt):
                self._done.wait(LAST_SECONDS)
