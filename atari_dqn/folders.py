"""A run's folder: making it, finding it, and having it to oneself."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from atari_dqn.config import TrainConfig
from atari_dqn.errors import UserError
from atari_dqn.files import replacing, sweep
from atari_dqn.settings import to_yaml

PARTS = ("checkpoints", "videos")


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


def find(config: TrainConfig) -> Path | None:
    """The folder that resume= means; None where resume=auto finds nothing to go on with."""
    if config.resume != "auto":
        folder = Path(config.resume or "")
        if not (folder / "config.yaml").is_file():
            raise UserError(f"resume={folder}: not a run's folder (there is no config.yaml in it)")
        return folder
    candidates = [Path(config.run_dir)] if config.run_dir else sorted(Path("runs").glob(f"{_prefix(config)}*"))
    return next((folder for folder in reversed(candidates) if (folder / "config.yaml").is_file()), None)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others out of a run's folder. Raises UserError where a living process is in it, or nothing can be written.

    The lock ends with the process that holds it, however that ends. What a killed one left half-written is removed.
    """
    lock, note = filelock.FileLock(folder / ".lock"), folder / "process.json"
    for part in (*PARTS, "replay", "config.yaml", ".lock"):
        if (folder / part).is_symlink():  # what is written and removed in a run's folder stays in it
            raise UserError(f"{folder / part} is a link to elsewhere; put what it leads to in its place")
    try:
        lock.acquire(timeout=0)
        sweep(folder)
        with replacing(note, "w") as file:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now}, file)
    except filelock.Timeout:
        raise UserError(f"{folder} is in use{_who(note)}; wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _who(note: Path) -> str:
    try:
        process = json.loads(note.read_text())
        return f" by process {int(process['pid'])} on {process['host']:.60s} since {process['since']:.25s}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"
