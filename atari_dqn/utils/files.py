"""Read untrusted files safely, and write files atomically.

Files in run directories and downloaded checkpoints are read with `opened`, `read` or `text` and written with
`replacing`: regular files only, no links followed, no blocking on a FIFO, never without a size limit.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import psutil

MOST_BYTES = 64_000_000  # of a file that is read into memory
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # reserved names on Windows


def check_regular(path: Path, mode: int) -> None:
    """Raise OSError unless `mode` is that of a regular file."""
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise OSError(errno.EINVAL, f"{path.name} is {kind}, not a regular file", str(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading. Raises OSError for anything else."""
    check_regular(path, os.lstat(path).st_mode)
    with open(os.open(path, os.O_RDONLY | SAFELY), "rb") as file:
        check_regular(path, os.fstat(file.fileno()).st_mode)
        yield file


def read_id(path: Path) -> str:
    """The id of a tracker's run that a file holds; empty if there is none or it is not valid."""
    if path.is_symlink() or not path.is_file():
        return ""
    with open(path, "rb") as file:
        found = file.read(129).decode(errors="replace").strip()
    return found if re.fullmatch(r"[\w.-]{1,128}", found, re.ASCII) else ""


def read(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a regular file of at most `most` bytes. Raises OSError."""
    with opened(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length > most:
            raise OSError(errno.EFBIG, f"{path.name} is larger than {most / 1e6:g} MB", str(path))
        return file.read(length)


def text(path: Path, most: int = 1_000_000) -> str:
    """Read a file as text; invalid UTF-8 is replaced."""
    return read(path, most).decode("utf-8-sig", "replace")


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb", **how: Any) -> Iterator[IO[Any]]:
    """Yield a file that replaces `path` if the block succeeds and is removed if it raises.

    It has a temporary name and is synced to disk before the rename: after a kill or a power failure there is either the
    old file or the new one. Only a regular file is replaced. Text is UTF-8. Raises OSError.
    """
    if "b" not in mode:
        how.setdefault("encoding", "utf-8")
    temporary = temporary_name(path)
    try:
        check_replaceable(path)
        with open(create(temporary), mode, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not set it
        raise
    finally:
        if temporary.is_file():
            temporary.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Raise OSError if `path` exists and is not a regular file."""
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, os.lstat(path).st_mode)


def create(path: Path) -> int:
    """Create a new empty file and open it for writing; an old file is removed. Raises OSError for a directory."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFELY, 0o666)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[IO[str]]:
    """Open a text file for appending, creating it if missing. Raises OSError if it is not a regular file."""
    check_replaceable(path)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | SAFELY, 0o666)
    with open(handle, "a", newline="", encoding="utf-8") as file:
        check_regular(path, os.fstat(handle).st_mode)
        yield file


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, unique to this process; see `sweep`. The file extension is kept."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def sync_folder(folder: Path) -> None:
    """Sync a directory's entries to disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove temporary files of killed processes in `folder` and its subdirectories; running processes keep theirs."""
    for path in [*folder.glob(".*.tmp*"), *folder.glob("*/.*.tmp*")]:
        pid = path.name.rpartition(".tmp")[0].rpartition(".")[2]
        if path.is_file() and pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to an unused name, so that it can be inspected; returns the new name."""
    for i in range(1, 1000):
        aside = path.with_name(f"{path.name}.damaged{'' if i == 1 else f'-{i}'}")
        if not os.path.lexists(aside):
            os.rename(path, aside)
            return aside
    raise OSError(errno.EEXIST, f"too many {path.name}.damaged files; remove them", str(path))


def is_name(text: str) -> bool:
    """Whether `text` is safe as part of a file name: no separators, not hidden, not too long."""
    return (
        bool(re.fullmatch(r"\w[\w .+-]*", text))
        and len(text.encode("utf-8", "replace")) <= 100
        and not text.endswith((" ", "."))
        and not RESERVED.fullmatch(text)
    )


def name(text: str) -> str:
    """Convert `text` to a safe part of a file name; see `is_name`."""
    made = re.sub(r"[^\w.+-]+", "-", text.encode("utf-8", "replace").decode()).strip(".-")
    while len(made.encode()) > 100:
        made = made[:-1]
    return made.rstrip(".-") if is_name(made.rstrip(".-")) else f"x{made[:50].rstrip('.-')}"
