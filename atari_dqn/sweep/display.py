"""The live status table of a sweep."""

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
from atari_dqn.utils.text import compact, hours, plural

PLAIN_SECONDS = 60.0  # between two lines when the output is not a terminal
ROWS = 12  # maximum number of runs shown


class Told(NamedTuple):
    """The progress that a run reported."""

    begun: int  # number of starts; more than one if a worker or machine was lost
    machine: str
    agent_steps: int | None = None  # None before the first report
    frames_per_second: float = 0.0
    score: float = math.nan  # mean return of the last training games


class Outcome(NamedTuple):
    """How a run ended."""

    word: str  # finished | stopped | failed
    text: str  # the reason, if it failed
    seconds: float  # in this Ray worker


class Scoreboard:
    """Status of all runs, total speed and time left; plain lines if the output is not a terminal.

    Args:
        total_steps: agent steps of each run, by name.
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
        """The runs that ended with this outcome."""
        return [name for name, outcome in self._ended.items() if outcome.word == word]

    def told(self, board: dict[str, Told]) -> None:
        """Update from the runs' reports."""
        for name, told in board.items():
            if name in self._ended:
                continue
            if told.begun > 1 and told.begun > self._running.get(name, told).begun:
                self.say(f"{name}: its worker or machine was lost; restarted on {told.machine}")
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
            f"{plural(len(self._total), 'run')}: {', '.join(words)}  {compact(rate)} frames/s in total"
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
        """Print the final line."""
        done = len(self.of("finished"))
        self.say(
            f"{done} of {plural(len(self._total), 'run')} done after {hours(time.monotonic() - self._started)}"
            + ("" if done == len(self._total) else "; run the same command again for the rest")
        )
