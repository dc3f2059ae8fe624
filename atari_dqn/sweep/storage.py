"""Storage of a sweep's runs: a directory shared by all machines, or a URL that fsspec supports."""

import time
from collections.abc import Callable
from pathlib import Path

from atari_dqn.tracking.callback import Callback
from atari_dqn.utils import extras, files
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line

LAST = ("checkpoints/previous.pt", "checkpoints/latest.pt")  # copied last: they refer to other files
MOST_BYTES = 1_000_000  # size limit when reading a text file
NOT_KEPT = (".lock",)


class Store:
    """A directory or a URL. Raises UserError if fsspec does not support it or lacks a package for it."""

    def __init__(self, where: str) -> None:
        fsspec = extras.load("fsspec", "a sweep")
        self.where = where.rstrip("/")
        self.is_folder = "://" not in where
        if self.is_folder:
            self.where = self.root = str(Path(where).absolute())
            self.files = fsspec.filesystem("file")  # the path may contain any characters
            return
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.where)
        except (ImportError, ValueError) as error:
            raise UserError(f"sweep.storage={where}: {one_line(error, 150)}") from None

    def make(self) -> None:
        """Create the directory. Raises UserError if that fails."""
        try:
            self.files.makedirs(self.root, exist_ok=True)
        except Exception as error:
            raise UserError(
                f"cannot create {self.where}: {one_line(error, 150)}; set sweep.storage (STORAGE=...)"
            ) from None

    def read(self, name: str) -> str | None:
        """Read a text file; None if it does not exist. Raises UserError if the store does not respond."""
        try:
            if self.is_folder:
                return files.text(Path(self.where) / name)
            return str(self.files.cat_file(f"{self.root}/{name}", end=MOST_BYTES).decode("utf-8", "replace"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            why = getattr(error, "strerror", None) or one_line(error, 150)
            raise UserError(f"cannot read {self.where}/{name}: {why}") from None


class Mirror(Callback):
    """Mirrors a local run directory to a store after each checkpoint.

    An interrupted copy leaves the previous checkpoint intact: files that a checkpoint refers to are copied before it,
    and files that are no longer needed are removed after it.
    """

    def __init__(self, store: Store, name: str, folder: Path, say: Callable[[str], None]) -> None:
        self._files, self._root, self._folder, self._say = store.files, f"{store.root}/{name}", folder, say
        self._copied: dict[str, tuple[int, int]] = {}  # size and modification time

    def _here(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and ".tmp" not in path.name and path.name not in NOT_KEPT:
                found[str(path.relative_to(self._folder))] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def pull(self) -> None:
        """Download the run from the store, if it is there. Raises OSError and the store's own exceptions."""
        self._files.makedirs(self._root, exist_ok=True)  # fail now if the store is not writable
        if self._files.exists(f"{self._root}/config.yaml"):
            for name in self._files.find(self._root):
                if ".." in name.removeprefix(self._root).replace("\\", "/").split("/"):
                    raise UserError(f"{self._root} contains {name!r}, a path outside of the run directory; remove it")
            self._files.get(f"{self._root}/", f"{self._folder}/", recursive=True)
            self._copied = self._here()

    def push(self) -> None:
        """Upload what has changed. Raises OSError and the store's own exceptions."""
        here = self._here()
        changed = [name for name, stamp in here.items() if self._copied.get(name) != stamp]
        for name in sorted(changed, key=lambda name: (LAST.index(name) if name in LAST else -1, name)):
            self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(self._folder / name), f"{self._root}/{name}")
            self._copied[name] = here[name]
        for name in [*self._copied.keys() - here.keys()]:
            self._files.rm_file(f"{self._root}/{name}")
            del self._copied[name]

    def checkpoint(self, path: Path) -> None:
        began = time.perf_counter()
        try:
            self.push()
        except Exception as error:  # the next checkpoint retries; at the end of the run, errors are raised
            text = one_line(error)
            self._say(f"copying to the store failed after {time.perf_counter() - began:.0f} s: {text}")
