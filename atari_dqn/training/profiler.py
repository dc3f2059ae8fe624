"""Profile the training loop: time per stage, and torch's slowest operators."""

import shutil
import tempfile
from pathlib import Path

import torch
from rich.table import Table

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.loop import STAGES, StepInfo
from atari_dqn.tracking.callback import Callback
from atari_dqn.training import launch
from atari_dqn.training.run import Run
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.stopwatch import Stopwatch
from atari_dqn.utils.text import plural

SETTLE_UPDATES = 50  # warm-up, not measured: the first updates are slower
OPERATOR_TURNS = 10


class Profiler(Callback):
    """Measure the stages of a run, then torch's operators in its last steps."""

    def __init__(self, run: Run) -> None:
        self._run, self._turns_left = run, OPERATOR_TURNS
        self.turns = self.agent_steps = self.updates = 0
        self.seconds: dict[str, float] = {}
        self.operators: torch.profiler.profile | None = None

    def step(self, info: StepInfo) -> None:
        if info.updates < SETTLE_UPDATES:
            self._before, self._first = dict(self._run.watch.seconds), info
        elif info.agent_steps < self._run.config.total_steps - (OPERATOR_TURNS + 2) * self._run.config.num_envs:
            self.turns += 1
            self.agent_steps = info.agent_steps - self._first.agent_steps
            self.updates = info.updates - self._first.updates
            self.seconds = self._run.watch.since(self._before)
        elif not self.operators:
            self.operators = torch.profiler.profile()
            self.operators.start()
        else:
            self._turns_left -= 1
            if self.is_done:
                self.operators.stop()
                self._run.stop()  # without an evaluation

    @property
    def is_done(self) -> bool:
        """Whether everything was measured."""
        return not self._turns_left


def profile(config: TrainConfig) -> None:
    """Train for config.total_steps in a temporary directory and print where the time went."""
    console = Console()
    if not console.is_terminal:
        console.width = 80
    folder = Path(tempfile.mkdtemp(prefix="atari_dqn-"))
    config.run_dir = str(folder / "run")
    try:
        run = launch.prepare(config, Console(quiet=True))
        cuda = run.device.type == "cuda"

        def settle() -> None:
            if not torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize(run.device)

        run.watch = Stopwatch(settle if cuda else None)
        profiler = Profiler(run)
        run.go(profiler)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if run.outcome == "stopped" and not profiler.is_done:
        raise RunFailed(
            f"interrupted after {run.agent_steps:,} agent steps, before the profile was complete; nothing was saved"
        )
    if not profiler.turns or profiler.operators is None:
        raise UserError(f"total_steps={config.total_steps} is too short to profile; increase it")
    report(profiler, config, run, console)


def report(profiler: Profiler, config: TrainConfig, run: Run, console: Console) -> None:
    turns, steps, total = profiler.turns, profiler.agent_steps, sum(profiler.seconds.values())
    title = f"{config.env.game}, {plural(config.num_envs, 'game')}, {run.device}, {plural(turns, 'vector step')}"
    table = Table("stage", title=title)
    for heading in ("ms/vector step", "µs/agent step", "share"):
        table.add_column(heading, justify="right")
    for stage in sorted(STAGES, key=lambda name: -profiler.seconds.get(name, 0.0)):
        seconds = profiler.seconds.get(stage, 0.0)
        table.add_row(stage, f"{1e3 * seconds / turns:.2f}", f"{1e6 * seconds / steps:.0f}", f"{seconds / total:.1%}")
    table.add_section()
    table.add_row("total", f"{1e3 * total / turns:.2f}", f"{1e6 * total / steps:.0f}", "")
    console.print(table)
    console.print(
        f"{steps / total:,.0f} agent steps/s, {steps * config.env.frame_skip / total:,.0f} frames/s, "
        f"{profiler.updates / total:,.1f} updates/s"
    )
    assert profiler.operators is not None
    on_gpu = run.device.type == "cuda"

    def own_time(event: torch.autograd.profiler_util.FunctionEventAvg) -> float:
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    events = sorted(profiler.operators.key_averages(), key=own_time, reverse=True)
    operators = Table("torch operator", title=f"the ten slowest operators, over {OPERATOR_TURNS} more vector steps")
    for heading in ("ms/vector step", "calls/vector step"):
        operators.add_column(heading, justify="right")
    for event in events[:10]:
        operators.add_row(
            event.key[:50], f"{own_time(event) / 1e3 / OPERATOR_TURNS:.2f}", f"{event.count / OPERATOR_TURNS:.0f}"
        )
    console.print(operators)
    console.say(
        "emulators: time that the loop waits for them; they run while it learns."
        + (" With graphs, sampling counts as updating." if run.replay.frames.is_cuda and config.compute.graphs else "")
    )
