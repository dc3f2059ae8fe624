"""Being asked to stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_signals(stopped: threading.Event) -> Iterator[None]:
    """SIGINT, SIGTERM, SIGUSR1, and SIGHUP unless it is ignored (nohup), set `stopped`. A second SIGINT interrupts."""

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    names = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    wanted = [getattr(signal, name) for name in names if hasattr(signal, name)]
    wanted = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT]
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
