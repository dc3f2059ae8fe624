"""Runs: their settings, how they stand, and their curves."""

import math
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atari_dqn.analysis import run_data, run_folders
from atari_dqn.api import given
from atari_dqn.api.agent import Agent, load
from atari_dqn.api.given import told
from atari_dqn.config.schema import TrainConfig
from atari_dqn.tracking import csv_files, curves
from atari_dqn.training import launch
from atari_dqn.utils.errors import UserError

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]


class Columns(dict[str, list[Any]]):
    """A table: each column's name and its values, one for each row; text, int or float, nan where a number is missing.

    Libraries that take a dictionary of lists take it as it is.
    """

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a pandas DataFrame. Raises UserError if pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise UserError("pandas is not installed: pip install pandas") from None
        return pandas.DataFrame(dict(self))


class Run:
    """A run's folder: its settings, how it stands, its curves, its agent. Nothing in the folder is changed.

    Every access reads the files, so a run that is training can be followed.

    Attributes:
        folder: its folder, an absolute path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder: Path = folder.absolute()

    def __repr__(self) -> str:
        return f"Run({self.folder.name})"

    @property
    @told
    def config(self) -> TrainConfig:
        """Its settings. Raises UserError if config.yaml cannot be read."""
        return launch.saved_config(self.folder)

    @property
    @told
    def state(self) -> str:
        """ "running", "finished", "stopped" (on request; it can be resumed), "failed" or "died" (it was killed)."""
        return run_data.state(self.folder).word

    @property
    @told
    def detail(self) -> str:
        """What there is to say of its state, such as why it failed; often nothing."""
        return run_data.state(self.folder).detail

    @property
    @told
    def agent_steps(self) -> int:
        """Agent steps trained, by the last row of its metrics."""
        return int(self._last().get("agent_steps") or 0)

    @property
    @told
    def frames(self) -> int:
        """Environment frames trained, by the last row of its metrics."""
        return int(self._last().get("frames") or 0)

    def _last(self) -> Mapping[str, str]:
        return (curves.read(self.folder / "metrics.csv") or [{}])[-1]

    @told
    def metrics(self) -> Columns:
        """Its metrics, a row for each logging interval: frames, agent_steps, updates, seconds, epsilon, loss, q_mean,
        return_mean (of the last 100 training games), frames_per_second and more."""
        return _columns(self.folder / "metrics.csv")

    @told
    def episodes(self) -> Columns:
        """Its training games, a row each: frames, agent_steps, updates, seconds, return (raw), length_frames, env."""
        return _columns(self.folder / "episodes.csv")

    @told
    def evaluations(self) -> Columns:
        """Its evaluations, a row each: frames, agent_steps, mean, sd, median, human_normalised, network and more.

        `network` is "current", or "best" for the best network's second evaluation at the run's end.
        """
        return _columns(self.folder / "evaluations.csv")

    def load(self, *, device: str = "auto", seed: int = 0, network: str | Callable[..., Any] | None = None) -> Agent:
        """Its agent; see `atari_dqn.load`. Raises UserError if it has no checkpoint yet."""
        return load(self.folder, device=device, seed=seed, network=network)


def _columns(path: Path) -> Columns:
    """The valid rows of one of a run's CSV files."""
    rows = curves.read(path)
    return Columns({name: [_value(name, row[name]) for row in rows] for name in (rows[0] if rows else ())})


def _value(column: str, text: str) -> Any:
    """A field of a valid row. Numbers are nan where they are missing."""
    if column in csv_files.COUNTS:
        return int(text)
    if column == "best":
        return text == "1"
    if column in ("protocol", "network"):
        return text
    try:
        return float(text or math.nan)
    except ValueError:  # a column that only another version writes
        return text


@told
def runs(where: str | PathLike[str] = "runs/") -> list[Run]:
    """The runs in a folder and in its subfolders, those that wrote last first; none if there is no runs/ yet.

    Args:
        where: a folder of runs, a run's folder, or "latest".

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    asked = given.path("runs", where)
    if Path(asked) == Path("runs") and not (Path(asked).is_dir() and run_folders.find(Path(asked))):
        return []
    found = run_folders.name_runs("runs", asked)
    return [Run(folder) for folder in sorted(found.values(), key=run_data.folders.seconds_since)]
