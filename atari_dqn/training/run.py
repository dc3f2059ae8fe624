"""A training run: its parts put together, and the loop driven with everything that watches it."""

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atari_dqn.checkpoint import checkpoints, folders
from atari_dqn.checkpoint.checkpoints import Resumed
from atari_dqn.config import validate
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.dqn import agent, networks, prioritized
from atari_dqn.dqn.loop import STAGES, NotFinite, Record, due, game_seeds, play_and_learn
from atari_dqn.dqn.replay import Replay, torch_dtype
from atari_dqn.envs import emulators
from atari_dqn.tracking import curves, trackers
from atari_dqn.tracking.curves import is_whole
from atari_dqn.tracking.display import Row, Tracker, compact, games, hours
from atari_dqn.training import capacity, footprint
from atari_dqn.training.evaluator import Examiner
from atari_dqn.training.saving import Saver
from atari_dqn.utils import machine, seeding
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import DIVERGED, RunFailed, UserError
from atari_dqn.utils.hints import hint
from atari_dqn.utils.signals import stop_signals
from atari_dqn.utils.stopwatch import Stopwatch

MOST_ROWS = 10_000  # of metrics.csv, where its interval is not given: about so many are seen in a picture


class Run:
    """One training run in its folder, from a fresh start or from a checkpoint.

    Args:
        resumed: the checkpoint to go on from, and its replay's files.

    Attributes:
        tell_outcome: called when all is saved, before the trackers send what they still have to.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        console: Console,
        resumed: Resumed | None = None,
    ) -> None:
        self.config, self.folder, self.console = config, folder, console
        self.device = machine.choose_device(config.device)
        networks.set_threads(config.network.name, self.device)
        machine.keep_freed_memory()
        machine.set_tf32(config.compute.tf32)
        machine.set_deterministic(config.compute.deterministic, self.device)
        self.agent_steps = self.updates = self.games = 0
        self.events = 0  # that the trackers were told
        self.over = False  # no more turns
        self.stopped = threading.Event()
        self.tell_outcome: Callable[[str], None] = lambda outcome: None
        self.seconds_before, self._started = 0.0, time.perf_counter()
        self.evaluation_seconds = 0.0  # of them
        self.watch = Stopwatch()
        self.goals = trackers.Goals(config.env.goals)
        self.trackers: list[Tracker] = []
        self._warned = False
        self._measure_every_steps = config.logger.every_steps or max(1_000, config.total_steps // MOST_ROWS)
        self.explore = seeding.generator(self.device, config.seed, "exploration")
        self.draw = seeding.generator(self.device, config.seed, "replay")
        games = emulators.make(config.env, config.num_envs, config.emulators, self.say)
        with contextlib.ExitStack() as on_error:
            on_error.callback(games.close)
            self.emulators = emulators.Journal(games, keep=config.checkpoint.cut_every_turns is not None)
            beside = footprint.check(config, games, self.device)
            self.agent = agent.make(config, games.frame_shape, len(games.actions), self.device)
            self.examiner = Examiner(config, self.agent.online, games.actions, self.stopped.is_set, self._playing)
            self._replay_rows, self._replay_device = capacity.replay_room(
                config, self.emulators, resumed, self.device, self.say, beside
            )
            self.saver = Saver(self, resumed)
            on_error.pop_all()

    @functools.cached_property
    def replay(self) -> Replay:
        """The memory, taken at first use: after all that could be wrong was found to be right."""
        envs, stack = self.emulators, self.config.env.frame_stack
        dtype = torch_dtype(envs.frame_dtype)
        return prioritized.build(
            self.config, self.agent_steps, self._replay_rows, envs.num_envs, envs.frame_shape, dtype, stack,
            self._replay_device,
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        """Training time since step 0, over all resumes."""
        return self.seconds_before + time.perf_counter() - self._started

    def _row(self, **more: Any) -> Row:
        return {
            "frames": self.agent_steps * self.config.env.frame_skip,
            "agent_steps": self.agent_steps,
            "updates": self.updates,
            "seconds": round(self.seconds, 3),
        } | more

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _tell(self, event: str, *what: Any) -> None:
        self.events += 1
        for tracker in self.trackers:
            getattr(tracker, event)(*what)

    def _playing(self, what: str, played: int, episodes: int) -> None:
        for tracker in self.trackers:
            tracker.evaluating(what, played, episodes)

    def stop(self) -> None:
        """End the run after this turn, as a signal would."""
        self.stopped.set()

    @property
    def outcome(self) -> str:
        """How it ended: stopped on request, or finished."""
        return "stopped" if self.stopped.is_set() else "finished"

    def go(self, *watchers: Tracker) -> None:
        """Train to the end, a goal, or a signal that asks to stop; `watchers` see it too. Raises RunFailed."""
        self._started = time.perf_counter()
        try:
            with stop_signals(self.stopped):
                self.trackers = trackers.build(
                    self.config,
                    self.folder,
                    self.agent_steps,
                    self.events,
                    self.examiner.confirmed,
                    self.console,
                    self.say,
                )
                self.trackers += watchers
                for note in validate.notes(self.config):
                    self.say(f"note: {note}")
                self._say_what_scores_mean()
                self._train()
                self.tell_outcome(self.outcome)
        except UserError:
            raise
        except Exception as error:
            raise RunFailed(self._failure(error)) from error
        finally:
            self.saver.close()  # before the trackers, which it has to do with
            for tracker in reversed(self.trackers):
                with contextlib.suppress(Exception):  # the others are closed all the same
                    tracker.close()
            self.examiner.close()
            self.emulators.close()
        steps = f"{self.agent_steps:,} agent steps in {hours(self.seconds)}"
        if self.stopped.is_set():
            self.say(f"stopped on request after {steps}; go on with {hint('resume', RUN=self.folder)}")
        else:
            share = self.evaluation_seconds / max(self.seconds, 1e-9)
            self.say(f"done: {steps}, of which evaluation took {share:.1%}")
            self.say(f"{self.folder} takes {machine.memory_size(folders.disk_use(self.folder))} on disk")
            self.say(f"play it with {hint('evaluate', CKPT=self.folder)}")

    def _say_what_scores_mean(self) -> None:
        game, name = self.config.env.game, self.config.published
        if scores.human_normalised(game, 0) is not None:
            self.say(f"% of a human: by {scores.SOURCE}")
        curve = scores.curve(name, game) if name else None
        if curve and self.config.total_steps * self.config.env.frame_skip > curve.every_frames:
            self.say(
                f"on track or not, from {compact(curve.every_frames)} frames on: "
                f"by the mean {curve.by.measure} returns of {curve.by.title}"
            )

    def _train(self) -> None:
        playing = self.saver.go_back()
        if self.stopped.is_set():
            return  # all is as it was saved
        self._since = (self.agent_steps, time.perf_counter())
        self._laps: dict[str, float] = {}
        self.watch.skip()
        if self.examiner.is_due(self.agent_steps):
            self._evaluate()
        loop = play_and_learn(
            self.emulators, self.replay, self.agent, self.config, self.explore, self.draw, self.agent_steps,
            self.updates, playing, self.watch,
        )  # fmt: skip
        epsilon = 0.0
        try:
            while not self.over and not self.stopped.is_set():
                record = next(loop)
                epsilon = record.epsilon
                self._see(record)
            self._check_finite()
        except NotFinite:
            raise RunFailed(f"the loss is not a finite number: {DIVERGED}{self._dump_batch()}") from None
        if self.over and self._since[0] < self.agent_steps:
            self._measure(epsilon)
        if self.over and not self.stopped.is_set() and self.examiner.examined_steps < self.agent_steps:
            self._evaluate()
        self.saver.save()
        if self.over and not self.stopped.is_set() and not self.examiner.confirmed:
            self.saver.wait()  # the best network may be among what is being written
            self._confirm()
            self.saver.save()
        self.saver.wait()
        if self.over and not self.stopped.is_set():
            self.saver.finish()

    def _check_finite(self) -> None:
        """Raise NotFinite now, and not a turn later as the loop does: what is learnt will be kept or scored."""
        machine.wait(self.device)
        if not self.agent.is_finite():
            raise NotFinite

    def _failure(self, error: Exception) -> str:
        kept = "no checkpoint was written yet"
        if (self.folder / "checkpoints" / "latest.pt").exists():
            kept = f"go on from its last checkpoint with {hint('resume', RUN=self.folder)}"
        what = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        what = " ".join(what.split())[:400]
        return f"the run failed after {self.agent_steps:,} agent steps: {what or type(error).__name__}; {kept}"

    def _see(self, record: Record) -> None:
        """Tell the trackers what happened, and do what is due."""
        config, before = self.config, self.agent_steps
        self.agent_steps, self.updates = record.agent_steps, record.updates
        for tracker in self.trackers:
            tracker.turn(record)
        self.over = self.agent_steps >= config.total_steps
        for game in record.games:
            self.games += 1
            self._tell(
                "episode", self._row(**{"return": game.score, "length_frames": game.length_frames, "env": game.env})
            )
            for goal, mean in self.goals.add(game):
                self.say(
                    f"{goal.note}: mean return {mean:.1f} over {goal.games} consecutive games "
                    f"after {self.agent_steps:,} agent steps, {hours(self.seconds)}"
                )
                self.over = self.over or goal.stop
        renew_every_steps = (config.checkpoint.cut_every_turns or 0) * config.num_envs
        if renew_every_steps and due(renew_every_steps, before, self.agent_steps):
            self.emulators.renew(game_seeds(config, self.agent_steps))
        if due(self._measure_every_steps, before, self.agent_steps):
            self._measure(record.epsilon)
        if self.over:
            return
        if self.examiner.is_due(self.agent_steps):
            self._check_finite()
            self._evaluate()
        if due(config.checkpoint.every_steps, before, self.agent_steps):
            self._check_finite()
            self.saver.save()
        else:
            self.saver.save_ahead()

    def _dump_batch(self) -> str:
        """Keep what was learnt from last, for a person to look into; a half sentence on it."""
        batch = self.agent.batch
        if batch is None:
            return ""
        parts = {name: part.cpu() for name, part in batch._asdict().items()}
        bad = [name for name, part in parts.items() if not part.isfinite().all()]
        path = self.folder / "not_finite.pt"
        try:
            checkpoints.write(path, {"agent_steps": self.agent_steps, "updates": self.updates, "batch": parts})
            kept = f"the batch is in {path}"
        except OSError as error:
            kept = f"the batch could not be written: {error.strerror}"
        return f" ({', '.join(bad) or 'nothing'} in its batch is not finite either; {kept})"

    def _measure(self, epsilon: float) -> None:
        losses = self.agent.losses()
        self._warn_of_impossible(losses.q_mean)
        steps, then = self._since
        now = time.perf_counter()
        self._since = (self.agent_steps, now)
        times = self.watch.since(self._laps)
        self._laps = dict(self.watch.seconds)
        total = sum(times.values()) or 1.0
        row = self._row(
            epsilon=epsilon,
            loss=losses.loss,
            q_mean=losses.q_mean,
            grad_norm=self.agent.gradient_norm(),
            return_mean=self.goals.mean,
            games=self.games,
            frames_per_second=(self.agent_steps - steps) * self.config.env.frame_skip / (now - then),
            **{f"time_{stage}": times.get(stage, 0.0) / total for stage in STAGES},
        )
        self._tell("metrics", row)

    def _warn_of_impossible(self, q_mean: float) -> None:
        """No discounted sum of rewards clipped to c is larger than c / (1 - discount)."""
        clip, discount = self.config.agent.reward_clip, self.config.agent.discount
        if self._warned or clip is None or discount == 1:
            return
        clip += self.agent.rule.bonus
        if not abs(q_mean) > clip / (1 - discount):
            return
        self._warned = True
        self.say(
            f"warning: at {self.agent_steps:,} agent steps the mean Q-value is {q_mean:.4g}, but rewards clipped to "
            f"{clip:g} allow {clip / (1 - discount):.4g} at most: {DIVERGED}"
        )

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Count the time of a block as evaluation's, and not as the loop's."""
        began = time.perf_counter()
        yield
        self._since = (self.agent_steps, time.perf_counter())
        self.evaluation_seconds += self._since[1] - began
        self.watch.skip()

    def _evaluate(self) -> None:
        """Score the online network, film a game, and keep the network if it is the best so far."""
        with self._evaluating():
            numbers = self.examiner.examine(self.agent_steps, self.folder / "episodes.csv")
            if numbers is None:
                return
            row = self._row(**numbers)
            self._tell("evaluation", row)
            if row["best"]:
                self.saver.save_best()
            self.say(
                f"evaluation at {self.agent_steps:,} agent steps: {self._score(row)}"
                + (", best so far" if row["best"] else "")
            )
            film = self.folder / "videos" / f"step{self.agent_steps}.mp4"
            if self.examiner.film(self.agent_steps, film, self.over, self.say):
                self._tell("video", film, row)

    def _confirm(self) -> None:
        """At the end: score the best of several networks once more, and say how the last and the best one do."""
        path, game = self.folder / "checkpoints" / "best.pt", self.config.env.game
        last, evaluated = self.examiner.last, curves.evaluations(curves.read(self.folder / "evaluations.csv"))
        with self._evaluating():
            try:
                best = checkpoints.Checkpoint(path, self.device)
            except UserError as error:
                self.say(f"the best network cannot be played again: {error}")
                self.examiner.confirmed = True
                return
            if last and len(evaluated) == 1 and self.config.protocol.source == "games":  # not the best of many
                self.examiner.confirmed = True
                self._tell("evaluation", self._row(**last | {"network": "best", "best": 0, "held_out_q": math.nan}))
                self.say(f"best network: the last one, the only one evaluated: {self._score(last)}")
                return
            numbers = self.examiner.confirm(best.network, self.agent_steps)
            if self.stopped.is_set():
                return
            self.examiner.confirmed = True
            row = self._row(**numbers) if numbers else {}
            if row:
                self._tell("evaluation", row)
        if last:
            self.say(f"last network: {self._score(last)}")
        chosen = self.examiner.best_score or 0.0
        again = f"; {self._score(row)}, from fresh seeds" if row else ""
        human = scores.human(game, chosen, is_whole(self.config))
        self.say(
            f"best network, of {best.agent_steps:,} agent steps: mean {chosen:.1f}{human} when it was chosen{again}"
        )

    def _score(self, row: Row) -> str:
        human = scores.human(self.config.env.game, row["mean"], row["human_normalised"] is not None)
        return f"mean {row['mean']:.1f}{human}, sd {row['sd']:.1f}, {games(row['episodes'])}"
