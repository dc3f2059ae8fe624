"""What a run measures of itself, and what it leaves behind when it fails."""

import time

from atari_dqn.checkpoint import checkpoints
from atari_dqn.dqn.loop import STAGES
from atari_dqn.registry import plugins
from atari_dqn.registry.watched import where
from atari_dqn.training.parts import Parts
from atari_dqn.utils.errors import DIVERGED
from atari_dqn.utils.hints import hint
from atari_dqn.utils.text import one_line

MOST_ROWS = 10_000  # of metrics.csv, where its interval is not given: about so many are seen in a picture


class Meter:
    """Makes the rows of metrics.csv."""

    def __init__(self, parts: Parts) -> None:
        config = parts.config
        self._parts, self._warned = parts, False
        self.every_steps = config.logger.every_steps or max(1_000, config.total_steps // MOST_ROWS)

    def start(self) -> None:
        """The first interval begins now."""
        self._laps: dict[str, float] = {}
        self.measured_steps = self._parts.progress.agent_steps
        self.skip()

    def skip(self) -> None:
        """Leave out the time since the last measurement, such as an evaluation, from the loop's speed."""
        self._since = (self._parts.progress.agent_steps, time.perf_counter())
        self._parts.watch.skip()

    def measure(self, epsilon: float) -> None:
        """Report the interval since the last call to the trackers."""
        parts, losses = self._parts, self._parts.agent.losses()
        self._warn_of_impossible(losses.q_mean)
        (steps, then), now = self._since, time.perf_counter()
        self._since, self.measured_steps = (parts.progress.agent_steps, now), parts.progress.agent_steps
        times = parts.watch.since(self._laps)
        self._laps = dict(parts.watch.seconds)
        total = sum(times.values()) or 1.0
        frames = (parts.progress.agent_steps - steps) * parts.config.env.frame_skip
        parts.trackers.metrics(
            parts.row(
                epsilon=epsilon,
                learning_rate=parts.agent.schedule.learning_rate,
                loss=losses.loss,
                q_mean=losses.q_mean,
                grad_norm=parts.agent.gradient_norm(),
                return_mean=parts.goals.mean,
                games=parts.progress.games,
                frames_per_second=frames / (now - then),
                **{f"time_{stage}": times.get(stage, 0.0) / total for stage in STAGES},
            )
        )

    def _warn_of_impossible(self, q_mean: float) -> None:
        """No discounted sum of rewards clipped to c is larger than c / (1 - discount)."""
        clip, discount = self._parts.config.agent.reward_clip, self._parts.config.agent.discount
        if self._warned or clip is None or discount == 1:
            return
        clip += self._parts.agent.rule.bonus
        if not abs(q_mean) > clip / (1 - discount):
            return
        self._warned = True
        self._parts.say(
            f"warning: at {self._parts.progress.agent_steps:,} agent steps the mean Q-value is {q_mean:.4g}, but "
            f"rewards clipped to {clip:g} allow at most {clip / (1 - discount):.4g}: {DIVERGED}"
        )


def dump_batch(parts: Parts) -> str:
    """Save the last update's batch for inspection; returns half a sentence about it."""
    batch = parts.agent.batch
    if batch is None:
        return ""
    tensors = {name: part.cpu() for name, part in batch._asdict().items()}
    bad = [name for name, part in tensors.items() if not part.isfinite().all()]
    path, progress = parts.folder / "not_finite.pt", parts.progress
    try:
        checkpoints.write(path, {"agent_steps": progress.agent_steps, "updates": progress.updates, "batch": tensors})
        kept = f"the batch is in {path}"
    except OSError as error:
        kept = f"the batch could not be written: {error.strerror}"
    return f" ({', '.join(bad) or 'nothing'} in its batch is not finite either; {kept})"


def failure(parts: Parts, error: Exception) -> str:
    """Why a run failed, and from where it can be resumed."""
    kept = "no checkpoint was written yet"
    if (parts.folder / "checkpoints" / "latest.pt").exists():
        kept = (
            f"resume from its last checkpoint with {hint('resume', RUN=parts.folder, ARGS=plugins.words(parts.config))}"
        )
    own = ":" in parts.config.network.name
    what = where(error) if own else str(error)
    what = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else what
    what = one_line(what, 400) or type(error).__name__
    return f"the run failed after {parts.progress.agent_steps:,} agent steps: {what}; {kept}"
