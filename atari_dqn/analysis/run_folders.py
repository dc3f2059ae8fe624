"""Which directories are runs, by what the user asks for, and their videos. Nothing in them is changed or executed."""

import os
from pathlib import Path

from atari_dqn.checkpoint import folders
from atari_dqn.utils.errors import UserError

CSV_FILES = ("metrics.csv", "episodes.csv", "evaluations.csv")


def find(root: Path) -> list[Path]:
    """Runs' folders up to three levels below `root`, or `root` itself where it is one; none that a link leads to."""
    if os.path.lexists(root / "config.yaml"):
        return [root]
    patterns = ("*/config.yaml", "*/*/config.yaml", "*/*/*/config.yaml")
    found = [path.parent for pattern in patterns for path in root.glob(pattern)]
    inside = root.resolve()
    return sorted(
        folder for folder in found if folder.resolve() == inside / folder.relative_to(root) and not _links(folder)
    )


def _links(folder: Path) -> list[str]:
    """What a page would read of a run, and is a link."""
    return [part for part in ("config.yaml", "process.json", "videos", *CSV_FILES) if (folder / part).is_symlink()]


def named(root: Path) -> dict[str, Path]:
    """The same by their names: the path from `root`, or its own name where it is the run."""
    return {folder.resolve().name if folder == root else str(folder.relative_to(root)): folder for folder in find(root)}


def roots(key: str, asked: str) -> list[Path]:
    """The folders that were asked for as `key`, with blanks between; `latest` is one."""
    return [folders.named(key, word) for word in ([asked] if Path(asked).exists() else asked.split())]


def name_runs(key: str, asked: str) -> dict[str, Path]:
    """The runs in what was asked for as `key`: runs' folders, or folders of those. Raises UserError for none."""
    found: dict[str, Path] = {}
    for root in roots(key, asked):
        if not root.is_dir():
            raise UserError(f"{key}={root}: there is no such folder")
        runs = named(root)
        if not runs:
            raise UserError(f"{key}={root}: not a run's folder, and none is in it (there is no config.yaml)")
        if parts := _links(root):
            raise UserError(f"{root / parts[0]} is a symbolic link; replace it with its target")
        known = {folder.resolve() for folder in found.values()}
        for name, folder in runs.items():
            if folder.resolve() not in known:
                found[name if name not in found else str(folder)] = folder
    return found


def videos(folder: Path) -> list[Path]:
    """A run's films, in the order of their steps; none that a link leads to."""

    def steps(path: Path) -> tuple[int, str]:
        digits = path.stem.removeprefix("step")
        return int(digits) if digits.isdecimal() else 1 << 62, path.name

    films = [path for path in (folder / "videos").glob("[!.]*.mp4") if path.is_file() and not path.is_symlink()]
    return sorted(films, key=steps)
