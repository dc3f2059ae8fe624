"""Where a sweep keeps its runs: a folder that all machines see, or a URL that fsspec knows."""

import time
from collections.abc import Callable
from pathlib import Path

import fsspec

from atari_dqn.tracking.display import Tracker
from atari_dqn.utils import files
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line

LAST = ("checkpoints/previous.pt", "checkpoints/latest.pt")  # they name files that must be there before them
MOST_BYTES = 1_000_000  # of a text file that is read
NOT_KEPT = (".lock",)


class Store:
    """A folder or a URL. Raises UserError where fsspec does not know it, or lacks a package for it."""

    def __init__(self, where: str) -> None:
        self.where = where.rstrip("/")
        self.is_folder = "://" not in where
        if self.is_folder:
            self.where = self.root = str(Path(where).absolute())
            self.files = fsspec.filesystem("file")  # whatever signs are in the path
            return
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.where)
        except (ImportError, ValueError) as error:
            raise UserError(f"sweep.storage={where}: {one_line(error, 150)}") from None

    def make(self) -> None:
        """Raises UserError where the folder cannot be made."""
        try:
            self.files.makedirs(self.root, exist_ok=True)
        except Exception as error:
            raise UserError(
                f"cannot make {self.where}: {one_line(error, 150)}; set sweep.storage (STORAGE=...)"
            ) from None

    def read(self, name: str) -> str | None:
        """A text file's content; None where there is no such file. Raises UserError where the store does not answer."""
        try:
            if self.is_folder:
                return files.text(Path(self.where) / name)
            return str(self.files.cat_file(f"{self.root}/{name}", end=MOST_BYTES).decode("utf-8", "replace"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            why = getattr(error, "strerror", None) or one_line(error, 150)
            raise UserError(f"cannot read {self.where}/{name}: {why}") from None


class Mirror(Tracker):
    """A run's folder on this machine, and its copy in a store, whole after each checkpoint.

    A copy that breaks off in the middle leaves the checkpoint before it, with all its files: what a checkpoint names
    is copied before it, and what none needs any more is removed after it.
    """

    def __init__(self, store: Store, name: str, folder: Path, say: Callable[[str], None]) -> None:
        self._files, self._root, self._folder, self._say = store.files, f"{store.root}/{name}", folder, say
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of change

    def _here(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and ".tmp" not in path.name and path.name not in NOT_KEPT:
                found[str(path.relative_to(self._folder))] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def pull(self) -> None:
        """Fetch what the store has of the run. Raises OSError and whatever else the store raises."""
        self._files.makedirs(self._root, exist_ok=True)  # what cannot be kept is not begun
        if self._files.exists(f"{self._root}/config.yaml"):
            for name in self._files.find(self._root):
                if ".." in name.removeprefix(self._root).replace("\\", "/").split("/"):
                    raise UserError(f"{self._root} holds {name!r}, which leads out of the run's folder")
            self._files.get(f"{self._root}/", f"{self._folder}/", recursive=True)
            self._copied = self._here()

    def push(self) -> None:
        """Copy what has changed. Raises OSError and whatever else the store raises."""
        here = self._here()
        changed = [name for name, stamp in here.items() if self._copied.get(name) != stamp]
        for name in sorted(changed, key=lambda name: (LAST.index(name) if name in LAST else -1, name)):
            self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(self._folder / name), f"{self._root}/{name}")
            self._copied[name] = here[name]
        for name in [*self._copied.keys() - here.keys()]:
            self._files.rm_file(f"{self._root}/{name}")
            del self._copied[name]

    def saved(self) -> None:
        began = time.perf_counter()
        try:
            self.push()
        except Exception as error:  # the next checkpoint tries again; the run's end insists
            text = one_line(error)
            self._say(f"could not be copied to its store after {time.perf_counter() - began:.0f} s: {text}")
