"""A run's CSV files. Rows are validated one by one, so a damaged row costs no other, and written immediately."""

import csv
import math
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from atari_dqn.dqn.loop import STAGES
from atari_dqn.tracking.callback import Callback, Row
from atari_dqn.utils import files
from atari_dqn.utils.files import replacing
from atari_dqn.utils.text import plural

# Columns of the files that a run writes.
METRICS = (
    "frames", "agent_steps", "updates", "seconds", "epsilon", "learning_rate", "loss", "q_mean", "grad_norm",
    "return_mean", "games", "frames_per_second", *(f"time_{stage}" for stage in STAGES),
)  # fmt: skip
EPISODES = ("frames", "agent_steps", "updates", "seconds", "return", "length_frames", "env")
EVALUATIONS = (
    "frames", "agent_steps", "updates", "seconds", "protocol", "episodes", "mean", "sd", "median", "min", "max",
    "human_normalised", "best", "network", "held_out_q",
)  # fmt: skip

# Column types in a run's files; other columns are text.
COUNTS = ("frames", "agent_steps", "updates", "episodes", "length_frames", "env")  # whole numbers, never empty
NUMBERS = ("seconds", "return", "mean", "sd")  # finite, never empty
SCORES = ("median", "min", "max", "human_normalised", "games")  # finite, or empty
MEASURES = (  # nan until there is something to measure
    "epsilon", "learning_rate", "loss", "q_mean", "grad_norm", "return_mean", "frames_per_second", "held_out_q",
)  # fmt: skip
REQUIRED = {  # a file without these columns is rejected
    "metrics.csv": {"frames", "agent_steps"},
    "episodes.csv": {"frames", "return"},
    "evaluations.csv": {"frames", "mean", "sd", "episodes"},
}
LARGEST = 1e15  # largest valid number


class Rows(NamedTuple):
    """A file's valid rows, in order.

    Attributes:
        damaged: number of invalid rows, which were skipped.
    """

    rows: list[dict[str, str]]
    damaged: int = 0


def read(path: Path, required: Collection[str] = ()) -> Rows:
    """Read the rows of one of a run's CSV files; a missing file has none.

    A half-written last line does not count as damage. Raises OSError for a file that is not regular or too large.

    Args:
        required: further columns, besides REQUIRED, without which no row is valid.
    """
    try:
        content = files.text(path, files.MOST_BYTES)
    except FileNotFoundError:
        return Rows([])
    header, *lines = content.split("\n")
    columns = _fields(header) or []
    if len({*columns}) < len(columns) or not {*required, *REQUIRED.get(path.name, ())} <= {*columns}:
        return Rows([], sum(bool(line.strip()) for line in (header, *lines)))
    usual = re.compile(",".join(map(_usual, columns)) + "\r?")
    rows = [
        dict(zip(columns, line.rstrip("\r").split(","), strict=True))
        if usual.fullmatch(line)
        else _row(columns, line, path.name in REQUIRED)
        for line in lines
    ]
    damaged = sum(row is None and bool(line.strip()) for row, line in zip(rows[:-1], lines[:-1], strict=True))
    return Rows([row for row in rows if row], damaged)


def damage(folder: Path) -> str:
    """Describe the unreadable parts of a run's CSV files; empty if there are none."""
    found = []
    for name in REQUIRED:
        try:
            count = read(folder / name).damaged
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror or error}")
        else:
            found += [f"{plural(count, 'row')} of {name} cannot be read"] * (count > 0)
    return "; ".join(found)


def _fields(line: str) -> list[str] | None:
    line = line.removesuffix("\r")
    if '"' not in line and "\r" not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True), None)
    except csv.Error:
        return None


def _row(columns: list[str], line: str, is_checked: bool) -> dict[str, str] | None:
    fields = _fields(line)
    if fields is None or len(fields) != len(columns):
        return None
    row = dict(zip(columns, fields, strict=True))
    return row if not is_checked or all(_is_sound(column, value) for column, value in row.items()) else None


def _usual(column: str) -> str:
    """Regex for a column's usual values, which are always valid: three times as fast as the full check."""
    if column in COUNTS:
        return "[0-9]{1,14}"
    return ("" if column == "seconds" else "-?") + r"[0-9]{1,14}(?:\.[0-9]{1,20})?"


def _is_sound(column: str, value: str) -> bool:
    try:
        if column in COUNTS:
            return value.isascii() and value.isdecimal() and len(value) < 20 and int(value) < LARGEST
        if column in NUMBERS:
            number = float(value)
            return abs(number) < LARGEST and (column != "seconds" or number >= 0)
        if column in SCORES:
            return not value or abs(float(value)) < LARGEST
        if column in MEASURES or column.startswith("time_"):
            number = float(value or "nan")
            return math.isnan(number) or math.isinf(number) or abs(number) < 1e300
    except ValueError:
        return False
    return "\0" not in value and len(value) < 1000


class CsvFile:
    """Append rows to a file, line-buffered. On a resumed run, rows after `keep_steps` agent steps are dropped first.

    A damaged file is set aside, and its valid rows are kept.

    Args:
        again: selects rows at exactly that step that will be written again; they are dropped, too.
        say: receives a message about damage.
    """

    def __init__(
        self,
        path: Path,
        columns: tuple[str, ...],
        keep_steps: int,
        again: Callable[[dict[str, str]], bool] = lambda row: False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            found, why = read(path, ["agent_steps"]), ""
        except OSError as error:
            found, why = Rows([]), error.strerror or str(error)
        if found.damaged or why:
            lost = why or f"{plural(found.damaged, 'row')} cannot be read"
            kept_as = files.set_aside(path).name
            left = plural(len(found.rows), "row")
            say(f"{path}: {lost}; kept the other {left}; the damaged file is now {kept_as}")
        kept = [row for row in found.rows if int(row["agent_steps"]) <= keep_steps]
        kept = [row for row in kept if int(row["agent_steps"]) < keep_steps or not again(row)]
        with replacing(path, "w", newline="") as new:
            writer = csv.DictWriter(new, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        self._file = open(path, "a", newline="", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, columns)

    def write(self, row: dict[str, Any]) -> None:
        try:
            self._writer.writerow({k: f"{v:.10g}" if isinstance(v, float) else v for k, v in row.items()})
        except OSError as error:
            error.filename = self._file.name  # a failed write does not set it
            raise

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class CsvFiles(Callback):
    """Write metrics.csv, episodes.csv and evaluations.csv in the run directory."""

    def __init__(
        self,
        folder: Path,
        keep_steps: int = 0,
        confirmed: bool = True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._metrics = CsvFile(folder / "metrics.csv", METRICS, keep_steps, say=say)
        self._episodes = CsvFile(folder / "episodes.csv", EPISODES, keep_steps, say=say)
        self._evaluations = CsvFile(
            folder / "evaluations.csv",
            EVALUATIONS,
            keep_steps,
            again=lambda row: not confirmed and row.get("network") == "best",
            say=say,
        )

    def metrics(self, row: Row) -> None:
        self._metrics.write(row)

    def episode(self, row: Row) -> None:
        self._episodes.write(row)

    def evaluation(self, row: Row) -> None:
        self._evaluations.write(row)

    def sync(self) -> None:
        for file in (self._metrics, self._episodes, self._evaluations):
            file.sync()

    def close(self) -> None:
        for file in (self._metrics, self._episodes, self._evaluations):
            file.close()
