"""A run's folder: making it, finding it, and having it to oneself."""

import contextlib
import datetime
import json
import os
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
LOOK_SECONDS = 1.0  # that a look at a lock, see is_held, may take at most
SILENT_SECONDS = 600.0  # without a row; a run of another machine that is silent for longer counts as ended
HEARTBEAT = ("metrics.csv", "episodes.csv", "evaluations.csv", "process.json", "config.yaml")


def make(config: TrainConfig) -> Path:
    """The run's own new folder. It is a run's from when its config.yaml is there, which comes last and whole."""
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        if folder.exists() and not _is_free(folder):
            raise UserError(
                f"run_dir={folder} is there already; choose another, or go on with it: {hint('resume', RUN=folder)}"
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
        path.name in PARTS and path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        for path in folder.iterdir()
    )


def _prefix(config: TrainConfig) -> str:
    return f"{bare(config.env.game)}-{files.name(config.preset)}-seed{config.seed}-"


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
        self._facts = locks.own() | {"machine": machine.facts(), "versions": machine.versions()}

    def end(self, how: str) -> None:
        """Say how it went out, now: what is still sent to others afterwards changes nothing of that."""
        self.ended = how
        with contextlib.suppress(OSError):  # a full disk is no reason to hide what went wrong
            self.write()

    def write(self) -> None:
        more = {"until": _now(), "ended": self.ended} if self.ended else {}
        with replacing(self.path, "w") as file:
            json.dump(self._facts | more, file)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def links(folder: Path) -> Iterator[Path]:
    """What in a run's folder is a link, among the names that a run and its trackers write to."""
    for part in (folder, *(folder / part for part in (*PARTS, "replay", "tensorboard"))):
        try:
            yield from (Path(entry.path) for entry in os.scandir(part) if entry.is_symlink())
        except OSError:  # missing, or no folder
            continue


def refuse_links(folder: Path) -> None:
    """Raise UserError where a run's folder has links in it: what is read, written and removed there stays there."""
    for path in links(folder):
        raise UserError(f"{path} is a link to elsewhere; put what it leads to in its place")


def _check_writable(folder: Path) -> None:
    """Raise UserError where a run could not save its checkpoints, which it would learn hours later."""
    for path in (folder / "checkpoints", folder / "replay"):
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot write in {path}: it is not a folder; move it away")
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"cannot write in {path}: permission denied")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Process]:
    """Keep others out of a run's folder. Raises UserError where a living process is in it, or nothing can be written.

    The lock ends with the process that holds it, however that ends. What a killed one left half-written is removed.
    """
    refuse_links(folder)
    _check_writable(folder)
    handle: int | None = None
    try:
        handle = locks.take(folder / ".lock", LOOK_SECONDS)
        before = note(folder)
        if _is_alive(before):  # its lock file was removed, or there are no locks
            raise locks.Taken
        if handle is None and _is_elsewhere(before) and seconds_since(folder) < SILENT_SECONDS:
            raise UserError(
                f"{folder} may be in use{_who(before)}, and this file system has no locks; wait for it, or remove "
                f"{folder / 'process.json'} if it is gone"
            )
        sweep(folder)
        process = Process(folder)
        process.write()
    except BaseException as error:
        if handle is not None:
            os.close(handle)
        if isinstance(error, locks.Taken):
            raise UserError(f"{folder} is in use{_who(note(folder))}; wait for it, or stop it") from None
        if isinstance(error, OSError):
            raise UserError(f"cannot write in {folder}: {error.strerror or error}") from None
        raise
    try:
        yield process
    except BaseException as error:
        process.ended = f"failed: {one_line(error, 400)}"
        if isinstance(error, UserError) and before:  # it did not go on: what was said of it before holds
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
    """Whether a living process of this machine works in a run's folder. Nothing is written, and nobody kept out."""
    return locks.is_taken(folder / ".lock") or _is_alive(note(folder))


def note(folder: Path) -> dict[str, Any]:
    """What process.json says of the last process in a run's folder; empty where there is none that can be read."""
    try:
        found = json.loads(files.text(folder / "process.json", 100_000))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def seconds_since(folder: Path) -> float:
    """How long ago a run has written: the age of the last row of its CSV files, or of what there is before the first.

    inf where there is nothing.
    """
    found = [-float("inf")]
    for name in HEARTBEAT:
        with contextlib.suppress(OSError):
            found.append(os.lstat(folder / name).st_mtime)
    return max(0.0, time.time() - max(found))


def disk_use(folder: Path) -> int:
    """Bytes of the regular files in a folder and below it, each once; links are not followed."""
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
