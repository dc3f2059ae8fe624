"""Lock a directory for one process: with a file lock, and with the process' identity where locks are unsupported."""

import datetime
import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from atari_dqn.utils.files import SAFELY, check_regular

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # EACCES on NFS
CLOCK_SECONDS = 2.0  # tolerance when comparing a process' start times


class Taken(Exception):
    """Another process holds the lock."""


def take(path: Path, seconds: float) -> int | None:
    """Lock a file, creating it if missing. Returns a file descriptor that holds the lock until it is closed.

    None if the file system does not support locks. Raises Taken after `seconds`, OSError if the file cannot be created.
    """
    until = time.monotonic() + seconds
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | SAFELY, 0o666)
        try:
            there = os.fstat(handle)
            check_regular(path, there.st_mode)
            locked = _lock(handle)
            if locked is None:
                os.close(handle)
                return None
            if locked and os.path.lexists(path) and os.path.samestat(there, os.lstat(path)):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not locked and time.monotonic() > until:
            raise Taken
        time.sleep(0.01)


def _lock(handle: int, shared: bool = False) -> bool | None:
    """Whether a file could be locked; None if the file system does not support locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True


def is_taken(path: Path) -> bool:
    """Whether a process has locked a file, as far as the file system reports. Neither writes nor blocks others.

    (A shared lock fails while another process holds the exclusive one, and is released at once.)
    """
    try:
        handle = os.open(path, os.O_RDONLY | SAFELY)
    except OSError:
        return False
    try:
        return _lock(handle, shared=True) is False
    finally:
        os.close(handle)


def own() -> dict[str, Any]:
    """This process' identity, for `is_alive`."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    started = psutil.Process().create_time()
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "started": started}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether another process on this machine is still running: the same process, not a later one with its PID.

    Args:
        process: what its `own` returned.
    """
    try:
        if process.get("host", socket.gethostname()) != socket.gethostname() or int(process["pid"]) == os.getpid():
            return False
        found = psutil.Process(int(process["pid"]))
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(found.create_time() - float(process["started"])) < CLOCK_SECONDS
    except (psutil.Error, ValueError, KeyError, TypeError, OverflowError):
        return False
