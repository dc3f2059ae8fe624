"""Writing files that are whole or not there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb", **how: Any) -> Iterator[IO[Any]]:
    """A file that takes the place of `path` when the block ends well, and leaves no trace where it does not.

    It has a temporary name meanwhile, and is on the disk before it gets its own: a kill or a power cut leaves the
    old file or the new one. Text is UTF-8, whatever the locale.
    """
    how = how if "b" in mode else {"encoding": "utf-8"} | how
    temporary = temporary_name(path)
    try:
        with open(temporary, mode, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not know it
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, of this process' own; see `sweep`. Its ending stays, for those who go by it."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk, too."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder` and its own folders; those of living processes stay."""
    for path in [*folder.glob(".*.tmp*"), *folder.glob("*/.*.tmp*")]:
        pid = path.name.rpartition(".tmp")[0].rpartition(".")[2]
        if path.is_file() and pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            path.unlink(missing_ok=True)
