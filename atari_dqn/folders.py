"""A run's folder: making it, finding it, and having it to oneself."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import psutil

from atari_dqn import machine
from atari_dqn.config import TrainConfig
from atari_dqn.errors import UserError
from atari_dqn.files import replacing, sweep
from atari_dqn.settings import to_yaml

PARTS = ("checkpoints", "videos")
LOOK_SECONDS = 1.0  # that a look at a lock, see is_held, may take at most


def make(config: TrainConfig) -> Path:
    """The run's own new folder. It is a run's from when its config.yaml is there, which comes last and whole."""
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        if folder.exists() and not _is_free(folder):
            raise UserError(
                f"run_dir={folder} is there already; choose another, or go on with it: `make resume RUN={folder}`"
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
            raise UserError(f"cannot make the run's folder {folder}: {error.strerror}; set run_dir=PATH") from None
        return folder
    raise UserError("no free name for the run's folder; set run_dir=PATH")


def _is_free(folder: Path) -> bool:
    """Whether a folder is empty but for what a start that was killed leaves."""
    return folder.is_dir() and all(
        path.name in PARTS and path.is_dir() and not any(path.iterdir()) for path in folder.iterdir()
    )


def _prefix(config: TrainConfig) -> str:
    return f"{config.env.game.replace('/', '-')}-{config.preset}-seed{config.seed}-"


def of_job(config: TrainConfig) -> None:
    """In a job of submitit's have the run go on in the job's own folder, whenever it is taken from the queue again."""
    if "SUBMITIT_EXECUTOR" in os.environ and config.run_dir is None and config.resume is None:
        import submitit

        config.run_dir = f"runs/{_prefix(config)}job{submitit.JobEnvironment().job_id}"
        config.resume = "auto"


def find(config: TrainConfig) -> Path | None:
    """The folder that resume= means; None where resume=auto finds nothing to go on with."""
    if config.resume != "auto":
        folder = named("resume", config.resume or "")
        if not (folder / "config.yaml").is_file():
            raise UserError(f"resume={folder}: not a run's folder (there is no config.yaml in it)")
        return folder
    candidates = [Path(config.run_dir)] if config.run_dir else Path("runs").glob(f"{_prefix(config)}*")
    there = [folder for folder in candidates if (folder / "config.yaml").is_file()]
    return max(there, key=lambda folder: (_begun(folder), _changed(folder)), default=None)


def named(key: str, where: str, needs: str = "config.yaml") -> Path:
    """The path that was typed; for `latest` the run below runs/ whose files changed last, whatever its name says.

    Args:
        key: what was set to it.
        needs: which of a run's files it must have; a pattern.

    Raises:
        UserError: there is no run in runs/.
    """
    if where != "latest" or Path(where).exists():
        return Path(where)
    configs = (path for pattern in ("*", "*/*", "*/*/*") for path in Path("runs").glob(f"{pattern}/config.yaml"))
    there = [path.parent for path in configs if any(path.parent.glob(needs))]
    if not there:
        raise UserError(f"{key}=latest: no run in runs/ has a {Path(needs).name.replace('*', '')} file")
    return max(there, key=lambda folder: (_changed(folder), _begun(folder)))


def _begun(folder: Path) -> float:
    """When the run's last process started, in seconds since 1970; a folder's name has the local time, in any zone."""
    try:
        return datetime.datetime.fromisoformat(note(folder)["since"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return _modified(folder / "config.yaml")


def _changed(folder: Path) -> float:
    """When something of a run was written last. Looking at a run, or evaluating it, is no change."""
    files = ("config.yaml", "process.json", "metrics.csv", "episodes.csv", "evaluations.csv", "checkpoints/latest.pt")
    return max(_modified(folder / name) for name in files)


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


class Process:
    """What process.json says of the process that works in a run's folder.

    Attributes:
        ended: how it went out: finished, stopped, or what it failed of; empty where it is at work, or was killed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "process.json"
        self.ended = ""
        self._facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        self._facts |= {"machine": machine.facts(), "versions": machine.versions()}

    def write(self) -> None:
        more = {"until": _now(), "ended": self.ended} if self.ended else {}
        with replacing(self.path, "w") as file:
            json.dump(self._facts | more, file)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Process]:
    """Keep others out of a run's folder. Raises UserError where a living process is in it, or nothing can be written.

    The lock ends with the process that holds it, however that ends. What a killed one left half-written is removed.
    """
    lock = filelock.FileLock(folder / ".lock")
    for part in (*PARTS, "replay", "config.yaml", ".lock"):
        if (folder / part).is_symlink():  # what is written and removed in a run's folder stays in it
            raise UserError(f"{folder / part} is a link to elsewhere; put what it leads to in its place")
    try:
        lock.acquire(timeout=LOOK_SECONDS, poll_interval=0.01)
        sweep(folder)
        process = Process(folder)
        before = process.path.read_bytes() if process.path.is_file() else b""
        process.write()
    except filelock.Timeout:
        raise UserError(f"{folder} is in use{_who(note(folder))}; wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from None
    try:
        yield process
    except BaseException as error:
        process.ended = f"failed: {' '.join(str(error).split())[:400] or type(error).__name__}"
        if isinstance(error, UserError) and before:  # it did not go on: what was said of it before holds
            process.ended = ""
            with contextlib.suppress(OSError), replacing(process.path) as file:
                file.write(before)
        raise
    finally:
        if process.ended:
            with contextlib.suppress(OSError):  # a full disk is no reason to hide what went wrong
                process.write()
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a living process of this machine works in a run's folder. Nothing is written, and nobody kept out.

    (A shared lock cannot be had while a run has the exclusive one, and is given back at once.)
    """
    try:
        import fcntl
    except ImportError:  # not on Windows, where what is locked cannot be opened
        return _is_alive(note(folder))
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return _is_alive(note(folder))
    finally:
        os.close(handle)


def note(folder: Path) -> dict[str, Any]:
    """What process.json says of the last process in a run's folder; empty where there is none that can be read."""
    try:
        found = json.loads((folder / "process.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _is_alive(process: dict[str, Any]) -> bool:
    try:
        return "until" not in process and psutil.pid_exists(int(process["pid"]))
    except (ValueError, KeyError, TypeError):
        return False


def _who(process: dict[str, Any]) -> str:
    try:
        return f" by process {int(process['pid'])} on {process['host']:.60s} since {process['since']:.25s}"
    except (ValueError, KeyError, TypeError):
        return " by another process"
