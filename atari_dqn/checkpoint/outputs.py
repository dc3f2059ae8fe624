"""Choose a command's output path before the work starts.

One rule for all commands, with or without output=. Results that took games to produce (an evaluation, a video) are
never overwritten: if the name is taken, the next free one is used (e-2.json, e-3.json) and reported. Results that can
be regenerated from files (a report, a comparison, statistics) are overwritten. Only regular files are overwritten.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from atari_dqn.checkpoint import folders
from atari_dqn.utils import console, files
from atari_dqn.utils.errors import UserError


def choose(asked: str | None, default: Path, endings: tuple[str, ...], is_kept: bool = False) -> Path:
    """The path to write a result to. Raises UserError if it cannot or must not be written.

    Args:
        asked: the output= setting.
        default: the path without output=, in a run directory or one that the user named.
        endings: file extensions that the command can write.
        is_kept: never overwrite an existing result.
    """
    path = Path(asked) if asked else default
    if path.suffix.lower() not in endings and not path.is_dir():
        raise UserError(f"output={path}: must end with {' or '.join(endings)}")
    if not asked and path.parent.name in folders.PARTS and path.parent.is_symlink():
        raise UserError(f"{path.parent} is a symbolic link; set output=PATH")
    _make_folder(path)
    try:
        files.check_replaceable(path)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; set output=PATH to another path") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write to {path}; permission denied; set output=PATH to a file in a writable directory")
    if is_kept and path.exists():
        free = next(new for i in range(2, 1_000_000) if not os.path.lexists(new := _numbered(path, i)))
        console.say(f"{path} already exists; writing to {free}")
        return free
    return path


@contextlib.contextmanager
def writing(path: Path, key: str = "output") -> Iterator[None]:
    """Raise UserError if a result cannot be written after all.

    Args:
        key: the setting that chose `path`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; set {key}=PATH") from None


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: cannot create the directory {path.parent}: {error.strerror}; set output=PATH"
        ) from None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
