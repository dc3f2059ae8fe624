"""One process at a time in a folder: by a lock of the system's, and by a note of who it is where there are no locks."""

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

TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # the last one is NFS's
CLOCK_SECONDS = 2.0  # that two looks at a process' start may differ


class Taken(Exception):
    """Another process has the lock."""


def take(path: Path, seconds: float) -> int | None:
    """Lock a file, made where it is missing: a handle that keeps the lock until it is closed, however that happens.

    None where the file system has no locks. Raises Taken after `seconds`, and OSError where the file cannot be made.
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
    """Whether a file could be locked; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True


def is_taken(path: Path) -> bool:
    """Whether a process has a file locked, as far as the file system tells. Nothing is written, and nobody kept out.

    (A shared lock cannot be had while another has the exclusive one, and is given back at once.)
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
    """What tells this process from all others, as `is_alive` reads it."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    started = psutil.Process().create_time()
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "started": started}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether another process of this machine than this one still lives: the same, and not a later one of its number.

    Args:
        process: what `own` told then.
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
