"""What watches the loop: progress display, CSV files, Weights & Biases, TensorBoard. The CSV files are the truth."""

import collections
import csv
import math
import netrc
import os
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from atari_dqn import scores
from atari_dqn.config import Goal
from atari_dqn.emulators import Game
from atari_dqn.training import Record

METRICS = (
    "frames", "agent_steps", "updates", "seconds", "epsilon", "loss", "q_mean", "grad_norm", "return_mean", "games",
    "frames_per_second",
)  # fmt: skip
EPISODES = ("frames", "agent_steps", "updates", "seconds", "return", "length_frames", "env")
EVALUATIONS = (
    "frames", "agent_steps", "updates", "seconds", "protocol", "episodes", "mean", "sd", "median", "min", "max",
    "human_normalised", "best",
)  # fmt: skip

Row = dict[str, Any]


class Tracker:
    """Sees everything that happens; does what it wants with it. Each row has frames, agent_steps, updates, seconds."""

    def turn(self, record: Record) -> None: ...
    def metrics(self, row: Row) -> None: ...
    def episode(self, row: Row) -> None: ...
    def evaluation(self, row: Row) -> None: ...
    def video(self, path: Path, row: Row) -> None: ...
    def close(self) -> None: ...


class Guarded(Tracker):
    """A tracker whose failures are told once, and never stop the run."""

    def __init__(self, name: str, make: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._inner: Tracker | None = None
        self._call(lambda: setattr(self, "_inner", make()))

    def _call(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            self._inner = None
            self._say(f"{self._name} failed and is off for the rest of this run; training goes on ({error!r:.200})")

    def metrics(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.metrics(row))

    def episode(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.episode(row))

    def evaluation(self, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.evaluation(row))

    def video(self, path: Path, row: Row) -> None:
        if inner := self._inner:
            self._call(lambda: inner.video(path, row))

    def close(self) -> None:
        if inner := self._inner:
            self._call(inner.close)


class CsvFile:
    """Rows appended to a file at once. On a resumed run, rows later than `keep_steps` agent steps are dropped first."""

    def __init__(self, path: Path, columns: tuple[str, ...], keep_steps: int) -> None:
        kept: list[Row] = []
        if path.exists():
            with open(path, newline="") as old:
                whole = [row for row in csv.DictReader(old) if None not in row and None not in row.values()]
            kept = [row for row in whole if int(row["agent_steps"]) <= keep_steps]
        temporary = path.with_name(f".{path.name}.tmp")
        with open(temporary, "w", newline="") as new:
            writer = csv.DictWriter(new, columns)
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(path)
        self._file = open(path, "a", newline="", buffering=1)  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, columns)

    def write(self, row: Row) -> None:
        self._writer.writerow({k: f"{v:.10g}" if isinstance(v, float) else v for k, v in row.items()})

    def close(self) -> None:
        self._file.close()


class CsvFiles(Tracker):
    """metrics.csv, episodes.csv and evaluations.csv in the run's folder."""

    def __init__(self, folder: Path, keep_steps: int = 0) -> None:
        self._metrics = CsvFile(folder / "metrics.csv", METRICS, keep_steps)
        self._episodes = CsvFile(folder / "episodes.csv", EPISODES, keep_steps)
        self._evaluations = CsvFile(folder / "evaluations.csv", EVALUATIONS, keep_steps)

    def metrics(self, row: Row) -> None:
        self._metrics.write(row)

    def episode(self, row: Row) -> None:
        self._episodes.write(row)

    def evaluation(self, row: Row) -> None:
        self._evaluations.write(row)

    def close(self) -> None:
        for file in (self._metrics, self._episodes, self._evaluations):
            file.close()


class TensorBoard(Tracker):
    """Scalars against environment frames, in tensorboard/."""

    def __init__(self, folder: Path, frames: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to load

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=frames or None)

    def _scalars(self, group: str, row: Row) -> None:
        for key, value in row.items():
            if isinstance(value, int | float) and key != "frames" and math.isfinite(value):
                self._writer.add_scalar(f"{group}/{key}", value, row["frames"])

    def metrics(self, row: Row) -> None:
        self._scalars("train", row)

    def episode(self, row: Row) -> None:
        self._scalars("episode", row)

    def evaluation(self, row: Row) -> None:
        self._scalars("evaluation", row)

    def close(self) -> None:
        self._writer.close()


def wandb_login() -> bool:
    """Whether a W&B key is at hand, in the environment or in ~/.netrc. It is not read further."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode(asked: str) -> str:
    """online, offline or off; the client's own WANDB_MODE counts where nothing else was asked."""
    own = {"offline": "offline", "dryrun": "offline", "disabled": "off"}.get(os.environ.get("WANDB_MODE", ""), "online")
    return own if asked == "online" else asked


class WandB(Tracker):
    """The real Weights & Biases client. Metrics are drawn against environment frames; videos are its mp4 files.

    Without a login, or where its server cannot be reached, it records offline and says how to upload later.
    """

    def __init__(self, folder: Path, mode: str, project: str, config: Row, say: Callable[[str], None]) -> None:
        import wandb  # slow to load

        self._wandb, self._say, self._offline = wandb, say, mode == "offline"
        if mode == "online" and not wandb_login():
            say("W&B: no login on this machine (`wandb login` makes one), so this run is recorded offline")
            self._offline = True
        id_file = folder / "wandb_id"
        run_id = id_file.read_text().strip() if id_file.exists() else secrets.token_hex(4)
        id_file.write_text(run_id + "\n")

        def init(offline: bool) -> Any:
            return wandb.init(
                project=project,
                dir=str(folder),
                name=folder.name,
                id=run_id,
                resume="allow",
                config=config,
                mode="offline" if offline else "online",
                settings=wandb.Settings(silent=True, console="off", init_timeout=60),
            )

        try:
            self._run = init(self._offline)
        except wandb.errors.Error as error:
            if self._offline:
                raise
            say(f"W&B: cannot reach the server ({str(error).splitlines()[0]:.100}), so this run is recorded offline")
            self._offline = True
            self._run = init(True)
        self._run.define_metric("frames")
        self._run.define_metric("*", step_metric="frames")
        if not self._offline:
            say(f"W&B: {self._run.url}")

    def _log(self, group: str, row: Row) -> None:
        self._run.log({"frames": row["frames"]} | {f"{group}/{k}": v for k, v in row.items() if k != "frames"})

    def metrics(self, row: Row) -> None:
        self._log("train", row)

    def episode(self, row: Row) -> None:
        self._log("episode", row)

    def evaluation(self, row: Row) -> None:
        self._log("evaluation", row)

    def video(self, path: Path, row: Row) -> None:
        self._run.log({"frames": row["frames"], "evaluation/video": self._wandb.Video(str(path), format="mp4")})

    def close(self) -> None:
        folder = Path(self._run.dir).parent
        self._run.finish()
        if self._offline:
            self._say(f"W&B: recorded offline; upload with `wandb sync {os.path.relpath(folder)}`")


def hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Display(Tracker):
    """A calm progress display of two lines; where the output is not a terminal, a plain line every 30 seconds."""

    PLAIN_SECONDS = 30.0

    def __init__(self, console: Console, game: str, total_steps: int, frame_skip: int, agent_steps: int = 0) -> None:
        self._console, self._game, self._total, self._skip = console, game, total_steps, frame_skip
        self._first, self._started, self._spoke = agent_steps, time.perf_counter(), time.perf_counter()
        self._row: Row = {}
        self._best = ""
        self._updates = 0
        self._epsilon = 1.0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True), console=console, expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task(game, total=total_steps, completed=agent_steps)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)
        if console.is_terminal:
            self._live.start()

    def _facts(self) -> list[str]:
        steps = int(self._bar.tasks[0].completed)
        row = self._row
        shown = row.get("return_mean", math.nan)
        normalised = scores.human_normalised(self._game, shown)
        human = f" ({normalised:.0%} human)" if normalised is not None and not math.isnan(shown) else ""
        return [
            f"{compact(steps)} steps {compact(steps * self._skip)} frames {compact(self._updates)} updates",
            f"{row.get('frames_per_second', 0):,.0f} frames/s",
            f"ε {self._epsilon:.2f}",
            f"return {shown:.1f}{human}{self._best}" if not math.isnan(shown) else "return: no game ended yet",
        ]

    def _render(self) -> Group:
        facts = self._facts()
        return Group(
            self._bar.get_renderable(),
            Text("  ".join(facts[:3]), overflow="ellipsis", no_wrap=True),
            Text(facts[3], overflow="ellipsis", no_wrap=True),
        )

    def turn(self, record: Record) -> None:
        self._bar.update(self._task, completed=min(record.agent_steps, self._total))
        self._updates, self._epsilon = record.updates, record.epsilon

    def metrics(self, row: Row) -> None:
        self._row = row
        now = time.perf_counter()
        if not self._console.is_terminal and now - self._spoke >= self.PLAIN_SECONDS:
            self._spoke = now
            done = row["agent_steps"] - self._first
            left = (self._total - row["agent_steps"]) * (now - self._started) / max(1, done)
            share = row["agent_steps"] / self._total
            self._console.print(f"{share:4.0%}  {'  '.join(self._facts())}  left {hours(left)}", soft_wrap=True)

    def evaluation(self, row: Row) -> None:
        if row["best"]:
            self._best = f"  best evaluation {row['mean']:.1f}"

    def close(self) -> None:
        self._live.stop()


def compact(number: float) -> str:
    """1234567 -> 1.23M"""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{suffix}" if number < limit * 999.5 else f"{number / limit:.0f}{suffix}"
    return f"{number:.0f}"


class Goals:
    """Watches the mean return of consecutive training games, and tells when a goal is reached.

    Attributes:
        recent: returns of the last games.
        reached: notes of the goals that were told of.
    """

    def __init__(self, goals: list[Goal]) -> None:
        self._goals = goals
        self.recent: collections.deque[float] = collections.deque(maxlen=max([100, *(goal.games for goal in goals)]))
        self.reached: list[str] = []

    @property
    def mean(self) -> float:
        """Mean raw return of the last 100 games at most; nan before the first."""
        last = list(self.recent)[-100:]
        return sum(last) / len(last) if last else math.nan

    def add(self, game: Game) -> list[tuple[Goal, float]]:
        """The goals that this game completes, each with the mean that did it."""
        self.recent.append(game.score)
        reached = []
        for goal in self._goals:
            last = list(self.recent)[-goal.games :]
            mean = sum(last) / goal.games
            if goal.note not in self.reached and len(last) == goal.games and mean >= goal.score:
                self.reached.append(goal.note)
                reached.append((goal, mean))
        return reached
