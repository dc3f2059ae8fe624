"""Run a tracker in its own thread, so that a slow or broken tracker neither delays nor stops the run."""

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atari_dqn.tracking.callback import Callback, Row, Training

MOST_EVENTS = 100_000  # queue capacity, about 100 MB; a tracker further behind is treated as hung
QUIET_SECONDS = 2.0  # wait at the end before a message explains the delay
LAST_SECONDS = 15.0  # for an abandoned tracker to finish


def _nothing(*what: Any) -> None: ...


class Aside(Callback):
    """Forward events, in order, to a tracker in another thread; not single steps. A failure is reported once.

    Args:
        make: creates the tracker; called in its thread.
        seconds: how long `close` waits, at most, for the tracker to process its queue.
        abandon: called after that; makes whatever the tracker waits for fail.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Callback],
        seconds: float,
        abandon: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._name, self._make, self._seconds, self._abandon, self._say = name, make, seconds, abandon, say
        self._events: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(MOST_EVENTS)
        self._failed = False
        self._done = threading.Event()  # not join(): interrupted by Ctrl-C, it marks the thread as finished
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        tracker = None
        try:
            tracker = self._make()
            event = ""
            while event != "close" and not self._failed:
                event, what = self._events.get()
                getattr(tracker, event, _nothing)(*what)
            if event != "close":
                self._end(tracker)
        except (Exception, SystemExit) as error:  # the W&B client exits when its service does
            self._fail(repr(error))
            if tracker is not None and event != "close":
                self._end(tracker)
        finally:
            self._done.set()

    def _end(self, tracker: Callback) -> None:
        """Close a tracker that has failed."""
        try:
            tracker.close()
        except (Exception, SystemExit):
            self._abandon()

    def _fail(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            self._say(f"{self._name} failed and is disabled for the rest of this run; training continues ({why:.200})")

    def _tell(self, event: str, *what: Any) -> None:
        if self._failed:
            return
        try:
            self._events.put_nowait((event, what))
        except queue.Full:
            self._fail("it cannot keep up")
            self._abandon()

    def start(self, run: Training) -> None:
        self._tell("start", run)

    def metrics(self, row: Row) -> None:
        self._tell("metrics", row)

    def episode(self, row: Row) -> None:
        self._tell("episode", row)

    def evaluation(self, row: Row) -> None:
        self._tell("evaluation", row)

    def video(self, path: Path, row: Row) -> None:
        self._tell("video", path, row)

    def checkpoint(self, path: Path) -> None:
        self._tell("checkpoint", path)

    def close(self) -> None:
        """Wait until the tracker is done, `seconds` at most. Ctrl-C ends the wait but not the run."""
        self._tell("close")
        try:
            self._done.wait(QUIET_SECONDS)
            if not self._done.is_set() and not self._failed:
                self._say(f"{self._name}: finishing, at most {self._seconds:.0f} s (press Ctrl-C to skip)")
                self._done.wait(self._seconds)
        except KeyboardInterrupt:
            self._say(f"{self._name}: skipped")
        if not self._done.is_set():
            self._abandon()
            with contextlib.suppress(KeyboardInterrupt):
                self._done.wait(LAST_SECONDS)
