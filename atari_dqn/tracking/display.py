"""The terminal display of a running run."""

import math
import time
from collections.abc import Callable

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

from atari_dqn.data import scores
from atari_dqn.dqn.loop import StepInfo
from atari_dqn.tracking.callback import Callback, Row
from atari_dqn.tracking.curves import Pace
from atari_dqn.utils.console import Console
from atari_dqn.utils.machine import CpuShare
from atari_dqn.utils.text import compact, hours, plural

PLAIN_SECONDS = 30.0  # between two lines when the output is not a terminal


class Seldom:
    """Rate limit for plain progress lines when the output is not a terminal; on a terminal none is ever due."""

    def __init__(self, console: Console, seconds: float | None = None) -> None:
        self._console, self._spoke = console, time.monotonic()
        self._seconds = PLAIN_SECONDS if seconds is None else seconds

    def is_due(self) -> bool:
        if self._console.is_terminal or time.monotonic() - self._spoke < self._seconds:
            return False
        self._spoke = time.monotonic()
        return True


class TimeLeft(ProgressColumn):
    """Time left at the current speed; the time taken at the end; nothing during an evaluation."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"took {hours(task.finished_time or 0)}")
        if task.fields.get("evaluating"):
            return Text("")
        return Text("left -:--:--" if task.time_remaining is None else f"left {hours(task.time_remaining)}")


class Display(Callback):
    """A progress bar and three lines; a plain line every 30 seconds if the output is not a terminal."""

    def __init__(
        self,
        console: Console,
        game: str,
        total_steps: int,
        frame_skip: int,
        agent_steps: int = 0,
        pace: Pace | None = None,
        best: float | None = None,
        whole: tuple[bool, bool] = (True, True),
        time_used: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """
        Args:
            whole: whether the training games' mean return, and `best`, are comparable with a human score.
            time_used: how much of the run's time is over, from 0 to 1; 0 if it has no limit.
        """
        self._console, self._game, self._total, self._skip = console, game, total_steps, frame_skip
        self._steps, self._started, self._seldom = agent_steps, time.perf_counter(), Seldom(console)
        self._time_used = time_used
        self._began = self._done()
        self._row: Row = {}
        self._pace = pace
        self._whole = whole[0]
        self._best = "" if best is None else self._word(best, whole[1])
        self._updates = 0
        self._epsilon = 1.0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), TimeLeft(), console=console,
            expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task(game, total=1)
        self._bar.update(self._task, completed=self._began)
        self._share = CpuShare()
        self._busy = self._evaluation = ""
        self._ascii = not console.encoding.startswith("utf")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)
        if console.is_terminal:
            self._live.start()

    def _lines(self) -> list[str]:
        """Progress; the current score, also against the published one; the best score and where the time goes."""
        steps, row = self._steps, self._row
        shown = row.get("return_mean", math.nan)
        pace = self._pace.word(steps * self._skip) if self._pace else ""
        score = f"return {shown:.1f}{scores.human(self._game, shown, self._whole)}"
        return [
            f"{compact(steps)} steps {compact(steps * self._skip)} frames {compact(self._updates)} updates  "
            f"{row.get('frames_per_second', 0):,.0f} frames/s  {'epsilon' if self._ascii else 'ε'} {self._epsilon:.2f}",
            ("return: no game finished yet" if math.isnan(shown) else score) + (pace and f"  {pace}"),
            self._best + "time: " + " ".join(f"{stage} {share:.0%}" for stage, share in self._largest()),
            *filter(None, [self._busy, self._evaluation]),
        ]

    def _largest(self) -> list[tuple[str, float]]:
        """The two stages of a step that take the most time."""
        shares = {key.removeprefix("time_"): value for key, value in self._row.items() if key.startswith("time_")}
        return sorted(shares.items(), key=lambda item: -item[1])[:2]

    def _render(self) -> Group:
        lines = (Text(line, overflow="ellipsis", no_wrap=True) for line in self._lines())
        return Group(self._bar.get_renderable(), *lines)

    def step(self, info: StepInfo) -> None:
        self._steps = min(info.agent_steps, self._total)
        self._bar.update(self._task, completed=self._done(), evaluating=False)
        self._evaluation = ""
        self._updates, self._epsilon = info.updates, info.epsilon

    def _done(self) -> float:
        """The share of the run that is over, by its steps or by the time it has."""
        return min(1.0, max(self._steps / self._total, self._time_used()))

    def metrics(self, row: Row) -> None:
        self._row, self._busy = row, self._share.word()
        if self._seldom.is_due():
            done = self._done()
            left = (1 - done) * (time.perf_counter() - self._started) / max(done - self._began, 1e-9)
            self._say(f"{'  '.join(self._lines())}  left {hours(left)}")

    def _say(self, text: str) -> None:
        self._console.say(f"{self._done():4.0%}  {text}")

    def evaluating(self, what: str, played: int, episodes: int) -> None:
        if not self._evaluation:
            self._bar.update(self._task, evaluating=True)
        self._evaluation = f"{what}: {played} of {plural(episodes, 'game')} played"
        if self._seldom.is_due():
            self._say(self._evaluation)

    def episode(self, row: Row) -> None:
        if self._pace:
            self._pace.game(row["frames"], row["return"])

    def evaluation(self, row: Row) -> None:
        if self._pace and row["network"] == "current":
            self._pace.evaluation(row["frames"], row["mean"])
        if row["best"]:
            self._best = self._word(row["mean"], row.get("human_normalised", 0.0) is not None)

    def _word(self, best: float, whole: bool) -> str:
        return f"best {best:.1f}{scores.human(self._game, best, whole)}  "

    def close(self) -> None:
        self._live.stop()
