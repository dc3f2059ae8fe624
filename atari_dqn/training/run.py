"""A training run: the loop driven to its end, with everything that watches it."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from atari_dqn.checkpoint import folders
from atari_dqn.checkpoint.checkpoints import Resumed
from atari_dqn.config import validate
from atari_dqn.config.schema import TrainConfig
from atari_dqn.data import scores
from atari_dqn.dqn.loop import NotFinite, StepInfo, due, game_seeds, training_loop
from atari_dqn.registry import plugins
from atari_dqn.tracking import callbacks, trackers
from atari_dqn.tracking.callback import Callback
from atari_dqn.training.diagnostics import Meter, dump_batch, failure
from atari_dqn.training.evaluations import Evaluations
from atari_dqn.training.parts import Parts
from atari_dqn.training.progress import reached
from atari_dqn.training.saving import Saver
from atari_dqn.utils import devices
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import DIVERGED, RunFailed, UserError
from atari_dqn.utils.hints import hint
from atari_dqn.utils.signals import stop_signals
from atari_dqn.utils.text import compact, hours, memory_size


class Run(Parts):
    """One training run in its folder, from a fresh start or from a checkpoint.

    Args:
        resumed: the checkpoint to resume from, and its replay's files.

    Attributes:
        outcome: finished, or stopped on request; until then, failed.
        tell_outcome: called when everything is saved, before the trackers flush.
    """

    def __init__(self, config: TrainConfig, folder: Path, console: Console, resumed: Resumed | None = None) -> None:
        self._named = callbacks.named(config)  # before anything is written
        super().__init__(config, folder, console, resumed)
        self.outcome = "failed"
        self.tell_outcome: Callable[[str], None] = lambda outcome: None
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.emulators.close)
            self.saver = Saver(self, resumed)
            on_error.pop_all()
        self._meter = Meter(self)
        self._evaluations = Evaluations(self, self.saver, self._meter)

    @property
    def agent_steps(self) -> int:
        return self.progress.agent_steps

    @property
    def updates(self) -> int:
        return self.progress.updates

    def stop(self) -> None:
        """End the run after this turn, as a signal would."""
        self.stopped.set()

    def go(self, *watching: Callback) -> None:
        """Train until the end, a goal, or a stop signal, `watching` it, too. Raises RunFailed."""
        self.progress.start_clock()
        try:
            with stop_signals(self.stopped):
                chosen = trackers.make_trackers(
                    self.config,
                    self.folder,
                    self.agent_steps,
                    self.trackers.events,
                    self.evaluator.confirmed,
                    lambda: self.outcome,
                    lambda: self.progress.seconds,
                    self.console,
                    self.say,
                )
                self.trackers.begin(self, chosen, [*self._named, *watching])
                for note in validate.notes(self.config):
                    self.say(f"note: {note}")
                self._say_what_scores_mean()
                self._train()
                self.outcome = "stopped" if self.stopped.is_set() else "finished"
                self.tell_outcome(self.outcome)
        except UserError:
            raise
        except Exception as error:
            raise RunFailed(failure(self, error)) from error
        finally:
            self.saver.close()  # before the trackers, which it uses
            self.trackers.close()
            self.evaluator.close()
            self.emulators.close()
        self._say_how_it_ended()

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

    def _say_how_it_ended(self) -> None:
        seconds = self.progress.seconds
        steps = f"{self.agent_steps:,} agent steps in {hours(seconds)}"
        if self.stopped.is_set():
            again = hint("resume", RUN=self.folder, ARGS=plugins.words(self.config))
            self.say(f"stopped on request after {steps}; resume with {again}")
            return
        share = self.progress.evaluation_seconds / max(seconds, 1e-9)
        self.say(f"done: {steps}, of which evaluation took {share:.1%}")
        self.say(f"{self.folder} takes {memory_size(folders.disk_use(self.folder))} on disk")
        own = plugins.words(self.config, to_play=True)
        self.say(f"score it: {hint('evaluate', CKPT=self.folder, ARGS=own)}")

    def _train(self) -> None:
        playing = self.saver.go_back()
        if self.stopped.is_set():
            return  # nothing has changed since it was saved
        self._meter.start()
        if self.evaluator.is_due(self.agent_steps):
            self._evaluations.evaluate()
        loop = training_loop(
            self.emulators, self.replay, self.agent, self.config, self.streams, self.progress, playing, self.watch
        )
        epsilon = 0.0
        try:
            while not self.progress.over and not self.stopped.is_set():
                info = next(loop)
                epsilon = info.epsilon
                self._see(info)
            self._check_finite()
        except NotFinite:
            raise RunFailed(f"the loss is not a finite number: {DIVERGED}{dump_batch(self)}") from None
        finished = self.progress.over and not self.stopped.is_set()
        if self.progress.over and self._meter.measured_steps < self.agent_steps:
            self._meter.measure(epsilon)
        if finished and self.evaluator.evaluated_steps < self.agent_steps:
            self._evaluations.evaluate()
        self.saver.save()
        if self.progress.over and not self.stopped.is_set() and not self.evaluator.confirmed:
            self.saver.wait()  # the best network may be among what is being written
            self._evaluations.confirm()
            self.saver.save()
        self.saver.wait()
        if self.progress.over and not self.stopped.is_set():
            self.saver.finish()

    def _check_finite(self) -> None:
        """Raise NotFinite now, not a turn later as the loop does: the weights are about to be saved or scored."""
        devices.wait(self.device)
        if not self.agent.is_finite():
            raise NotFinite

    def _see(self, info: StepInfo) -> None:
        """Report a turn to the trackers, and do what is due."""
        config, before = self.config, info.agent_steps - self.config.num_envs
        self.trackers.step(info)
        self.progress.over = reached(self.agent_steps, self.progress.seconds, config)
        for game in info.games:
            self.progress.games += 1
            self.trackers.episode(
                self.row(**{"return": game.score, "length_frames": game.length_frames, "env": game.env})
            )
            for goal, mean in self.goals.add(game):
                self.say(
                    f"{goal.note}: mean return {mean:.1f} over {goal.games} consecutive games "
                    f"after {self.agent_steps:,} agent steps, {hours(self.progress.seconds)}"
                )
                self.progress.over = self.progress.over or goal.stop
        renew_every_steps = (config.checkpoint.cut_every_turns or 0) * config.num_envs
        if renew_every_steps and due(renew_every_steps, before, self.agent_steps):
            self.emulators.renew(game_seeds(config, self.agent_steps))
        if due(self._meter.every_steps, before, self.agent_steps):
            self._meter.measure(info.epsilon)
        if self.progress.over:
            return
        if self.evaluator.is_due(self.agent_steps):
            self._check_finite()
            self._evaluations.evaluate()
        if due(config.checkpoint.every_steps, before, self.agent_steps):
            self._check_finite()
            self.saver.save()
        else:
            self.saver.save_ahead()
