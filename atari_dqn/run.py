"""A training run: its folder, its parts put together, and the loop driven with everything that watches it."""

import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from atari_dqn import checkpoints, emulators, evaluation, machine, networks, optimizers, seeding, trackers, video
from atari_dqn.agent import Agent
from atari_dqn.checkpoints import Checkpoint
from atari_dqn.config import Env, TrainConfig
from atari_dqn.display import Row, Tracker, hours
from atari_dqn.errors import RunFailed, UserError
from atari_dqn.replay import BYTES_BESIDE_FRAME, Replay, torch_dtype
from atari_dqn.stopwatch import Stopwatch
from atari_dqn.training import STAGES, Record, due, play_and_learn

DIVERGED = "learning diverged; lower optimizer.learning_rate"


class Run:
    """One training run in its folder, from a fresh start or from its latest checkpoint."""

    def __init__(self, config: TrainConfig, folder: Path, console: Console, resumed: Checkpoint | None = None) -> None:
        self.config, self.folder, self.console = config, folder, console
        self.device = machine.choose_device(config.device)
        networks.set_threads(config.network.name)
        machine.keep_freed_memory()
        machine.set_tf32(config.compute.tf32)
        self.emulators = emulators.make(config.env, config.num_envs)
        try:
            self.agent = self._make_agent()
            self._replay_rows = self._plan_replay()
        except BaseException:
            self.emulators.close()
            raise
        self.explore = seeding.generator(self.device, config.seed, "exploration")
        self.draw = seeding.generator(self.device, config.seed, "replay")
        self.agent_steps, self.updates, self.seconds_before, self.games = 0, 0, 0.0, 0
        self.watch = Stopwatch()
        self._started = time.perf_counter()
        self._stopped = threading.Event()
        self._films = config.evaluation.video_seconds > 0
        self.best_score: float | None = None
        self.goals = trackers.Goals(config.env.goals)
        self.trackers: list[Tracker] = []
        if resumed:
            self._restore(resumed.content)

    def _plan_replay(self) -> int:
        """Rows of the replay. Says what they take; raises UserError where the machine has not got it."""
        config, envs = self.config, self.emulators
        # A run shorter than its capacity never fills more than its length.
        rows = min(-(-config.replay.capacity // config.num_envs) + 1, config.total_steps // config.num_envs + 2)
        rows = max(rows, config.env.frame_stack + config.agent.n_step + 1)
        frame_bytes = torch.Size(envs.frame_shape).numel() * envs.frame_dtype.itemsize
        text = machine.check_replay_fits(
            rows * config.num_envs, frame_bytes + BYTES_BESIDE_FRAME, self.device, config.replay.warmup_steps
        )
        self.console.print(text, soft_wrap=True)
        if config.total_steps <= config.replay.warmup_steps:
            self.console.print(
                f"note: nothing will be learnt, for total_steps={config.total_steps} ends before "
                f"replay.warmup_steps={config.replay.warmup_steps}",
                soft_wrap=True,
            )
        return rows

    @functools.cached_property
    def replay(self) -> Replay:
        """The memory, taken at first use: after all that could be wrong was found to be right."""
        envs, stack = self.emulators, self.config.env.frame_stack
        dtype = torch_dtype(envs.frame_dtype)
        return Replay(self._replay_rows, envs.num_envs, envs.frame_shape, dtype, stack, self.device)

    def _make_agent(self) -> Agent:
        config, envs = self.config, self.emulators
        torch.manual_seed(seeding.derive(config.seed, "network")[0])
        num_actions = len(envs.actions)
        online = networks.build(
            config.network.name, config.network.hidden, envs.frame_shape, config.env.frame_stack, num_actions
        ).to(self.device)
        optimizer = optimizers.build(
            config.optimizer.name, online.parameters(), config.optimizer.learning_rate, config.optimizer.arguments
        )
        script = config.compute.graphs and not config.compute.compile
        agent = Agent(online, num_actions, optimizer, config.agent.loss, config.agent.reduction, script)
        if config.compute.compile:
            for network in (agent.online, agent.target):
                network.compile()
        return agent

    # ------------------------------------------------------------------------------------------------ saving, resuming

    def save(self, name: str) -> None:
        """Write checkpoints/<name>.pt. Raises RunFailed, and keeps the one before, where weights are not finite."""
        if not all(parameter.isfinite().all() for parameter in self.agent.online.parameters()):
            raise RunFailed(f"the network's weights are no longer finite numbers: {DIVERGED}")
        content = {
            "config": dataclasses.asdict(self.config),
            "actions": list(self.emulators.actions),
            "frame_shape": list(self.emulators.frame_shape),
            "frame_dtype": self.emulators.frame_dtype.name,
            "agent_steps": self.agent_steps,
            "updates": self.updates,
            "seconds": self.seconds,
            "games": self.games,
            "recent_returns": list(self.goals.recent),
            "goals_reached": self.goals.reached,
            "best_score": self.best_score,
            "online": self.agent.online.state_dict(),
            "target": self.agent.target.state_dict(),
            "optimizer": self.agent.optimizer.state_dict(),
            "device": self.device.type,
            "generators": {"exploration": self.explore.get_state(), "replay": self.draw.get_state()},
        }
        checkpoints.save(self.folder / "checkpoints" / f"{name}.pt", content)

    def _restore(self, content: dict[str, Any]) -> None:
        try:
            self.agent.online.load_state_dict(content["online"])
            self.agent.target.load_state_dict(content["target"])
            self.agent.optimizer.load_state_dict(content["optimizer"])
            self.agent_steps, self.updates = int(content["agent_steps"]), int(content["updates"])
            if content["device"] == self.device.type:
                self.explore.set_state(content["generators"]["exploration"])
                self.draw.set_state(content["generators"]["replay"])
            else:
                self._say(f"on {self.device} now, not {content['device']}: new random numbers from here")
                self.explore = seeding.generator(self.device, self.config.seed, "exploration", self.agent_steps)
                self.draw = seeding.generator(self.device, self.config.seed, "replay", self.agent_steps)
            self.seconds_before, self.games = float(content["seconds"]), int(content["games"])
            self.best_score = content["best_score"]
            self.goals.reached = [str(note) for note in content["goals_reached"]]
            self.goals.recent.extend(float(score) for score in content["recent_returns"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"the checkpoint does not fit its own config ({reason})") from None

    # ------------------------------------------------------------------------------------------------ the run

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

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def stop(self) -> None:
        """End the run after this turn, as a signal would."""
        self._stopped.set()

    def go(self, *watchers: Tracker) -> None:
        """Train to the end, a goal, or a signal that asks to stop; `watchers` see it too. Raises RunFailed."""
        config = self.config
        self._started = time.perf_counter()
        self._since = (self.agent_steps, self._started)
        self._laps: dict[str, float] = {}
        try:
            with stop_signals(self._stopped):
                self.trackers = trackers.build(config, self.folder, self.agent_steps, self.console, self._say)
                self.trackers += watchers
                loop = play_and_learn(
                    self.emulators,
                    self.replay,
                    self.agent,
                    config,
                    self.explore,
                    self.draw,
                    seeding.derive(config.seed, "games", self.agent_steps, count=config.num_envs),
                    self.agent_steps,
                    self.updates,
                    self.watch,
                )
                for record in loop:
                    if self._see(record) or self._stopped.is_set():
                        break
                if self._since[0] < self.agent_steps:
                    self._measure(record.epsilon)
                self.save("latest")
                if not self._stopped.is_set():
                    self._evaluate()
        except UserError:
            raise
        except Exception as error:
            raise RunFailed(self._failure(error)) from error
        finally:
            for tracker in reversed(self.trackers):
                tracker.close()
            self.emulators.close()
        steps = f"{self.agent_steps:,} agent steps in {hours(self.seconds)}"
        if self._stopped.is_set():
            self._say(f"stopped on request after {steps}; go on with `make resume RUN={self.folder}`")
        else:
            self._say(f"done: {steps}; play it with `make evaluate CKPT={self.folder}/checkpoints/best.pt`")

    def _failure(self, error: Exception) -> str:
        latest = self.folder / "checkpoints" / "latest.pt"
        kept = "no checkpoint was written yet"
        if latest.exists():
            kept = f"go on from its last checkpoint with `make resume RUN={self.folder}`"
        what = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        return f"the run failed after {self.agent_steps:,} agent steps: {what or type(error).__name__}; {kept}"

    def _see(self, record: Record) -> bool:
        """Tell the trackers what happened; True where a goal says that the run is over."""
        config, before = self.config, self.agent_steps
        self.agent_steps, self.updates = record.agent_steps, record.updates
        over = False
        for tracker in self.trackers:
            tracker.turn(record)
        for game in record.games:
            self.games += 1
            row = self._row(**{"return": game.score, "length_frames": game.length_frames, "env": game.env})
            for tracker in self.trackers:
                tracker.episode(row)
            for goal, mean in self.goals.add(game):
                self._say(
                    f"{goal.note}: mean return {mean:.1f} over {goal.games} consecutive games "
                    f"after {self.agent_steps:,} agent steps, {hours(self.seconds)}"
                )
                over = over or goal.stop
        if due(config.logger.every_steps, before, self.agent_steps) or over:
            self._measure(record.epsilon)
        last = over or self.agent_steps >= config.total_steps
        if due(config.evaluation.every_steps, before, self.agent_steps) and not last:
            self._evaluate()
        if due(config.checkpoint.every_steps, before, self.agent_steps) and not last:
            self.save("latest")
        return over

    def _measure(self, epsilon: float) -> None:
        losses = self.agent.losses()
        if losses.updates and not torch.isfinite(torch.tensor([losses.loss, losses.q_mean])).all():
            raise RunFailed(f"the loss is {losses.loss} and the mean Q-value {losses.q_mean}: {DIVERGED}")
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
        for tracker in self.trackers:
            tracker.metrics(row)

    def _evaluate(self) -> None:
        """Play whole games with the online network, film one, and keep the network if it is the best so far."""
        config = self.config
        env = evaluation.environment(config.env, config.protocol, None)
        player = evaluation.Player(self.agent.online, self.emulators.actions, self.emulators.actions)
        seed = seeding.derive(config.seed, "evaluation", self.agent_steps)[0]
        games = evaluation.play(
            player,
            env,
            config.protocol.epsilon,
            config.evaluation.episodes,
            config.evaluation.num_envs,
            seed,
            stop=self._stopped.is_set,
        )
        if self._stopped.is_set():  # a part of the games would favour short ones
            return
        numbers = evaluation.summary(env.game, [game.score for game in games])
        best = self.best_score is None or numbers["mean"] > self.best_score
        row = self._row(protocol=config.protocol.name, best=int(best), **numbers)
        for tracker in self.trackers:
            tracker.evaluation(row)
        if best:
            self.best_score = numbers["mean"]
            self.save("best")
        self.save("latest")
        self._say(
            f"evaluation at {self.agent_steps:,} agent steps: mean {numbers['mean']:.1f}, sd {numbers['sd']:.1f}, "
            f"{numbers['episodes']} games" + (" (best so far)" if best else "")
        )
        if self._films:
            self._film(player, env, seed, row)
        self._since = (self.agent_steps, time.perf_counter())  # frames/s is the loop's
        self.watch.skip()

    def _film(self, player: evaluation.Player, env: Env, seed: int, row: Row) -> None:
        path = self.folder / "videos" / f"step{self.agent_steps}.mp4"
        seconds, epsilon = self.config.evaluation.video_seconds, self.config.protocol.epsilon
        try:
            video.film(player, env, epsilon, seed, path, seconds, stop=self._stopped.is_set)
        except Exception as error:  # a film is not worth a run
            self._films = False
            self._say(f"no videos for the rest of this run; training goes on ({error!r:.200})")
            return
        for tracker in self.trackers:
            tracker.video(path, row)


@contextlib.contextmanager
def stop_signals(stopped: threading.Event) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR1 set `stopped`. A second SIGINT interrupts at once."""

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
