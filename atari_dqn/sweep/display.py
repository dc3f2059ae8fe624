"""The live table of a sweep."""

import collections
import math
import time
from typing import NamedTuple

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from atari_dqn.tracking.display import Seldom
from atari_dqn.utils.console import Console
from atari_dqn.utils.text import compact, hours

PLAIN_SECONDS = 60.0  # between two lines where the output is not a terminal
ROWS = 12  # of runs, at most


class Told(NamedTuple):
    """How far a run says that it is."""

    begun: int  # how often; more than once where a worker or a machine was lost
    machine: str
    agent_steps: int | None = None  # None until it has said
    frames_per_second: float = 0.0
    score: float = math.nan  # mean return of its last training games


class Outcome(NamedTuple):
    """How a run went."""

    word: str  # finished | stopped | failed
    text: str  # what it failed of
    seconds: float  # in Ray's worker, this time


class Scoreboard:
    """Runs done, running, failed; frames a second in all; time left. Where the output is not a terminal, lines.

    Args:
        total_steps: of each run, by its name.
    """

    def __init__(self, console: Console, total_steps: dict[str, int], frame_skip: int) -> None:
        self._console, self._total, self._skip = console, total_steps, frame_skip
        self._steps = dict.fromkeys(total_steps, 0)
        self._running: dict[str, Told] = {}
        self._ended: dict[str, Outcome] = {}
        self._started, self._seldom = time.monotonic(), Seldom(console, PLAIN_SECONDS)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Scoreboard":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.say(text)

    def of(self, word: str) -> list[str]:
        """The runs that ended so."""
        return [name for name, outcome in self._ended.items() if outcome.word == word]

    def told(self, board: dict[str, Told]) -> None:
        """What the runs tell of themselves."""
        for name, told in board.items():
            if name in self._ended:
                continue
            if told.begun > 1 and told.begun > self._running.get(name, told).begun:
                self.say(f"{name}: its worker or machine was lost; it is begun again on {told.machine}")
            self._running[name] = told
            if told.agent_steps is not None:
                self._steps[name] = told.agent_steps
        if self._seldom.is_due():
            self.say(self._line())

    def ended(self, name: str, outcome: "Outcome") -> None:
        self._running.pop(name, None)
        self._ended[name] = outcome
        if outcome.word == "finished":
            self._steps[name] = self._total[name]
        if outcome.seconds:
            self.say(f"{name}: {outcome.word} after {hours(outcome.seconds)}" + (outcome.text and f": {outcome.text}"))

    def _line(self) -> str:
        counts = collections.Counter(outcome.word for outcome in self._ended.values())
        rate = sum(told.frames_per_second for told in self._running.values())
        left = sum(self._total[name] - self._steps[name] for name in self._total if name not in self._ended)
        waiting = len(self._total) - len(self._ended) - len(self._running)
        words = [f"{counts['finished']} done", f"{len(self._running)} running", f"{waiting} waiting"]
        words += [f"{counts[word]} {word}" for word in ("failed", "stopped") if counts[word]]
        return (
            f"{len(self._total)} runs: {', '.join(words)}  {compact(rate)} frames/s in all"
            f"  left {hours(left * self._skip / rate) if rate else '?'}"
        )

    def _render(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("run", "steps", "", "frames/s", "return", "machine"):
            table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
        for name, told in [*self._running.items()][:ROWS]:
            done, total = self._steps[name], self._total[name]
            shown = "" if math.isnan(told.score) else f"{told.score:,.1f}"
            rate = compact(told.frames_per_second)
            table.add_row(name, compact(done), f"{done / total:.0%}", rate, shown, told.machine[:20])
        more = len(self._running) - ROWS
        lines = [Text(self._line(), no_wrap=True, overflow="ellipsis")]
        return Group(*lines, table, *([Text(f"and {more} more")] if more > 0 else []))

    def conclude(self) -> None:
        """The last line."""
        done = len(self.of("finished"))
        self.say(
            f"{done} of {len(self._total)} runs are done, after {hours(time.monotonic() - self._started)}"
            + ("" if done == len(self._total) else "; the same command does what is missing")
        )
