"""Handle requests to stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_taken: list[int] = []  # signals that stopped the last run


@contextlib.contextmanager
def stop_signals(stopped: threading.Event) -> Iterator[None]:
    """Set `stopped` on SIGINT, SIGTERM, SIGUSR1/2, and SIGHUP unless ignored (nohup). A second SIGINT interrupts.

    Only the main thread receives signals; in another, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _taken.clear()

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        _taken.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    names = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
    wanted = [getattr(signal, name) for name in names if hasattr(signal, name)]
    wanted = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT]
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pass_on() -> None:
    """Forward the scheduler's signal that stopped the last run to the scheduler's handler, after the run is saved.

    submitit's handler requeues the job and ends the process.
    """
    for number in [*_taken]:
        if number in (getattr(signal, "SIGUSR1", 0), getattr(signal, "SIGUSR2", 0)) and callable(
            signal.getsignal(number)
        ):
            _taken.clear()
            signal.raise_signal(number)
