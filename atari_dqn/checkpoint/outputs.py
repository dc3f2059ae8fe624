"""Where a command's result goes, found out before the work is done.

One rule for all commands, with output= or without. What took games to make (an evaluation, a film) is never replaced:
where its name is taken it gets the next free one, e-2.json, e-3.json, and says so. What is drawn anew from files that
are still there (a report, a comparison, statistics) replaces the one before. Only regular files are replaced.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from atari_dqn.checkpoint import folders
from atari_dqn.utils import console, files
from atari_dqn.utils.errors import UserError


def choose(asked: str | None, default: Path, endings: tuple[str, ...], is_kept: bool = False) -> Path:
    """Where a result goes. Raises UserError where it cannot be written, or should not be.

    Args:
        default: where it goes without output=; its folder is a run's, or one that a person named.
        endings: of the kinds of file that a command can write.
        is_kept: whether what is there already took games to make.
    """
    path = Path(asked) if asked else default
    if path.suffix.lower() not in endings and not path.is_dir():
        raise UserError(f"output={path}: must end with {' or '.join(endings)}")
    if not asked and path.parent.name in folders.PARTS and path.parent.is_symlink():
        raise UserError(f"{path.parent} is a link to elsewhere; set output=PATH")
    _make_folder(path)
    try:
        files.check_replaceable(path)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; set output=PATH to another one") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write to {path}; set output=PATH to a file in a folder of yours")
    if is_kept and path.exists():
        free = next(new for i in range(2, 1_000_000) if not os.path.lexists(new := _numbered(path, i)))
        console.say(f"{path} is there already; the new one will be {free}")
        return free
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UserError where a result cannot be written after all."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; set output=PATH") from None


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: cannot make the folder {path.parent}: {error.strerror}; set output=PATH"
        ) from None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
