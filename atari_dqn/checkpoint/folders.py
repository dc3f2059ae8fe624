"""Run directories: create, find and lock them."""

import contextlib
import datetime
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atari_dqn.config.compose import to_yaml
from atari_dqn.config.schema import TrainConfig
from atari_dqn.registry.environments import bare
from atari_dqn.utils import files, locks, machine
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing, sweep
from atari_dqn.utils.hints import hint
from atari_dqn.utils.text import one_line

PARTS = ("checkpoints", "videos")
LOOK_SECONDS = 1.0  # how long to retry a lock: is_held may hold it for a moment
SILENT_SECONDS = 600.0  # a run on another machine that has written nothing for longer counts as ended
HEARTBEAT = ("metrics.csv", "episodes.csv", "evaluations.csv", "process.json", "config.yaml")


def make(config: TrainConfig) -> Path:
    """Create the run directory. config.yaml is written last and atomically: it marks a directory as a run's."""
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        if folder.exists() and not _is_free(folder):
            raise UserError(
                f"run_dir={folder} already exists; choose another, or resume it with {hint('resume', RUN=folder)}"
            )
        folders = iter([folder])
    else:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"runs/{_prefix(config)}{stamp}"
        folders = (Path(name + (f"-{i}" if i > 1 else "")) for i in range(1, 1000))
    for folder in folders:
        there = folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=config.run_dir is not None)
            for part in PARTS:
                (folder / part).mkdir(exist_ok=True)
            with replacing(folder / "config.yaml", "w") as file:
                file.write(to_yaml(config))
        except FileExistsError:
            continue
        except OSError as error:
            for path in [*(folder / part for part in PARTS), *([] if there else [folder])]:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise UserError(f"cannot create the run directory {folder}: {error.strerror}; set run_dir=PATH") from None
        return folder
    raise UserError("no free name for the run directory; set run_dir=PATH")


def _is_free(folder: Path) -> bool:
    """Whether a directory is empty, apart from what a killed start leaves behind."""
    return folder.is_dir() and all(map(_is_of_a_killed_start, folder.iterdir()))


def _is_of_a_killed_start(path: Path) -> bool:
    if re.fullmatch(r"\.config\.\d+\.tmp\.yaml", path.name):
        return path.is_file() and not path.is_symlink()
    return path.name in PARTS and path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _prefix(config: TrainConfig) -> str:
    return f"{bare(config.env.game)}-{files.name(config.preset)}-seed{config.seed}-"


def of_job(config: TrainConfig) -> None:
    """Give a submitit job its own run directory, and resume the run there whenever the job is requeued."""
    if "SUBMITIT_EXECUTOR" in os.environ and config.run_dir is None and config.resume is None:
        import submitit

        config.run_dir = f"runs/{_prefix(config)}job{submitit.JobEnvironment().job_id}"
        config.resume = "auto"


def find(config: TrainConfig) -> Path | None:
    """The run directory that resume= selects; None if resume=auto finds nothing to resume."""
    if config.resume != "auto":
        folder = named("resume", config.resume or "")
        if not (folder / "config.yaml").is_file():
            raise UserError(f"resume={folder}: not a run directory (it has no config.yaml)")
        return folder
    candidates = [Path(config.run_dir)] if config.run_dir else Path("runs").glob(f"{_prefix(config)}*")
    there = [folder for folder in candidates if (folder / "config.yaml").is_file()]
    return max(there, key=lambda folder: (_begun(folder), _changed(folder)), default=None)


def named(key: str, where: str, needs: str = "config.yaml") -> Path:
    """The given path, or for `latest` the run below runs/ whose files changed last.

    Args:
        key: the setting, for error messages.
        needs: glob pattern of a file that the run must have.

    Raises:
        UserError: no run in runs/ has such a file.
    """
    if where != "latest" or Path(where).exists():
        return Path(where)
    configs = (path for pattern in ("*", "*/*", "*/*/*") for path in Path("runs").glob(f"{pattern}/config.yaml"))
    there = [path.parent for path in configs if any(path.parent.glob(needs))]
    if not there:
        raise UserError(f"{key}=latest: no run in runs/ has a {Path(needs).name.replace('*', '')} file")
    return max(there, key=lambda folder: (_changed(folder), _begun(folder)))


def _begun(folder: Path) -> float:
    """When the run's last process started, in seconds since 1970 (directory names only have an unzoned local time)."""
    try:
        return datetime.datetime.fromisoformat(note(folder)["since"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return _modified(folder / "config.yaml")


def _changed(folder: Path) -> float:
    """When the run last wrote a file. Viewing or evaluating a run does not count."""
    files = ("config.yaml", "process.json", "metrics.csv", "episodes.csv", "evaluations.csv", "checkpoints/latest.pt")
    return max(_modified(folder / name) for name in files)


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


class Process:
    """The process that works in a run directory, as recorded in process.json.

    Attributes:
        ended: finished, stopped, or failed with the reason; empty if the process is running or was killed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "process.json"
        self.ended = ""
        self._facts = locks.own() | {"machine": machine.facts(), "versions": machine.versions()}

    def end(self, how: str) -> None:
        """Record the outcome now; work that remains, such as uploads, does not change it."""
        self.ended = how
        with contextlib.suppress(OSError):  # a full disk must not hide the original error
            self.write()

    def write(self) -> None:
        more = {"until": _now(), "ended": self.ended} if self.ended else {}
        with replacing(self.path, "w") as file:
            json.dump(self._facts | more, file)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def links(folder: Path) -> Iterator[Path]:
    """Symbolic links among the files that a run and its trackers write."""
    for part in (folder, *(folder / part for part in (*PARTS, "replay", "tensorboard"))):
        try:
            yield from (Path(entry.path) for entry in os.scandir(part) if entry.is_symlink())
        except OSError:  # missing, or not a directory
            continue


def refuse_links(folder: Path) -> None:
    """Raise UserError if a run directory contains links, so that a run never touches files outside of it."""
    for path in links(folder):
        raise UserError(f"{path} is a symbolic link; replace it with its target")


def _check_writable(folder: Path) -> None:
    """Raise UserError if a run could not save its checkpoints, instead of failing hours later."""
    for path in (folder / "checkpoints", folder / "replay"):
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot write to {path}: not a directory; move it away")
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {path}: permission denied")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Process]:
    """Lock a run directory. Raises UserError if it is in use or not writable.

    The lock ends with its process, even if that is killed. Files that a killed process left half-written are removed.
    """
    refuse_links(folder)
    _check_writable(folder)
    handle: int | None = None
    try:
        handle = locks.take(folder / ".lock", LOOK_SECONDS)
        before = note(folder)
        if _is_alive(before):  # the lock file was removed, or locks are unsupported
            raise locks.Taken
        if handle is None and _is_elsewhere(before) and seconds_since(folder) < SILENT_SECONDS:
            raise UserError(
                f"{folder} may be in use{_who(before)}, and this file system does not support locks; wait for that "
                f"process, or remove {folder / 'process.json'} if it is gone"
            )
        sweep(folder)
        process = Process(folder)
        process.write()
    except BaseException as error:
        if handle is not None:
            os.close(handle)
        if isinstance(error, locks.Taken):
            raise UserError(f"{folder} is in use{_who(note(folder))}; wait for that process, or stop it") from None
        if isinstance(error, OSError):
            raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
        raise
    try:
        yield process
    except BaseException as error:
        process.ended = f"failed: {one_line(error, 400)}"
        if isinstance(error, UserError) and before:  # it did not resume: keep the previous outcome
            process.ended = ""
            with contextlib.suppress(OSError), replacing(process.path, "w") as file:
                json.dump(before, file)
        raise
    finally:
        if process.ended:
            process.end(process.ended)
        if handle is not None:
            os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a running process on this machine uses a run directory. Neither writes nor locks anything."""
    return locks.is_taken(folder / ".lock") or _is_alive(note(folder))


def note(folder: Path) -> dict[str, Any]:
    """The contents of process.json, on the run's last process; empty if it is missing or unreadable."""
    try:
        found = json.loads(files.text(folder / "process.json", 100_000))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def seconds_since(folder: Path) -> float:
    """Seconds since a run last wrote a row to its CSV files, or else its config.yaml or process.json.

    inf if none of these exist.
    """
    found = [-float("inf")]
    for name in HEARTBEAT:
        with contextlib.suppress(OSError):
            found.append(os.lstat(folder / name).st_mtime)
    return max(0.0, time.time() - max(found))


def disk_use(folder: Path) -> int:
    """Bytes of all regular files below a directory, hard links counted once; symbolic links are not followed."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(parent, name))
                if stat.S_ISREG(found.st_mode):
                    sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def _is_alive(process: dict[str, Any]) -> bool:
    return "until" not in process and locks.is_alive(process)


def _is_elsewhere(process: dict[str, Any]) -> bool:
    return "until" not in process and process.get("host", socket.gethostname()) != socket.gethostname()


def _who(process: dict[str, Any]) -> str:
    try:
        return f" by process {int(process['pid'])} on {process['host']:.60s} since {process['since']:.25s}"
    except (ValueError, KeyError, TypeError, OverflowError):
        return " by another process"
