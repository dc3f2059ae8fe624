"""Saving a run and restoring it: everything that makes a resumed run bit-identical."""

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.checkpoints import Resumed
from atari_dqn.checkpoint.plain import plain
from atari_dqn.checkpoint.replay_files import ReplayFiles, Segment
from atari_dqn.registry import plugins
from atari_dqn.training.parts import Parts
from atari_dqn.utils import devices
from atari_dqn.utils.background import Worker
from atari_dqn.utils.errors import DIVERGED, RunFailed, UserError
from atari_dqn.utils.seeding import Streams
from atari_dqn.utils.text import one_line


class Snapshot:
    """A copy of data and tensors for another thread. Copying from a GPU is not waited for."""

    def __init__(self, content: dict[str, Any], device: torch.device) -> None:
        self._content = _copied(content)
        self._there = torch.cuda.Event() if device.type == "cuda" else None
        if self._there:
            self._there.record(torch.cuda.current_stream(device))

    def content(self) -> dict[str, Any]:
        if self._there:
            self._there.synchronize()
        return self._content


def _copied(node: Any) -> Any:
    if isinstance(node, Tensor):
        return node.clone() if node.device.type == "cpu" else node.to("cpu", non_blocking=node.is_cuda)
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_copied(value) for value in node)
    return node


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """`content`, if the online network is finite. Raises RunFailed."""
    if not all(weights.isfinite().all() for weights in content["online"].values()):
        raise RunFailed(f"the network's weights are no longer finite numbers: {DIVERGED}")
    return content


def _without_copies(content: dict[str, Any]) -> dict[str, Any]:
    """`content`, in which a target network that is the online one is stored once."""
    online, target = content["online"], content["target"]
    same = all(torch.equal(online[key], target[key]) for key in online)
    return content | {"target": dict(online)} if same else content


class Saver:
    """Saves a run, and restores a resumed one.

    Args:
        run: the parts of a fresh run.
        resumed: the checkpoint to resume from. Raises UserError if it does not fit.
    """

    def __init__(self, run: Parts, resumed: Resumed | None) -> None:
        self._run, self._content = run, resumed.checkpoint.content if resumed else None
        self._files = resumed.files if resumed else None
        self._kept: list[Segment] = [*resumed.files.segments] if resumed else []  # by the checkpoint before
        self._saved: tuple[Any, ...] = ()  # what identified the last checkpoint
        self._worker = Worker("saving")  # and from here on the files are its own
        self._handed_rows = 0  # of the replay, counted since the start, given to be written
        if self._content:
            self._restore(self._content)

    @property
    def files(self) -> ReplayFiles:
        """The replay's files in the run's folder."""
        if self._files is None:
            self._files = ReplayFiles(self._run.folder / "replay")
        return self._files

    def _playable(self) -> dict[str, Any]:
        """What is needed to play with the online network."""
        run = self._run
        return {
            "config": dataclasses.asdict(run.config),
            "actions": list(run.emulators.actions),
            "frame_shape": list(run.emulators.frame_shape),
            "frame_dtype": run.emulators.frame_dtype.name,
            "agent_steps": run.progress.agent_steps,
            "updates": run.progress.updates,
            "seconds": run.progress.seconds,
            "plugins": self._plugins,
            "online": run.agent.online.state_dict(),
        }

    @functools.cached_property
    def _plugins(self) -> dict[str, str]:
        """The package that each plug-in comes from."""
        names = {kind: getattr(self._run.config, kind.setting).name for kind in plugins.PARTS}
        own = {kind: name for kind, name in names.items() if name and plugins.is_own(kind, name)}
        return {kind.setting: plugins.origin(kind, name) for kind, name in own.items()}

    def save_best(self) -> None:
        """Write best.pt, to play with the network as it is now."""
        self._worker.do(self._write_best, Snapshot(self._playable(), self._run.device))

    def _write_best(self, snapshot: Snapshot) -> None:
        checkpoints.write(self._run.folder / "checkpoints" / "best.pt", _checked(snapshot.content()))

    def save(self) -> None:
        """Write latest.pt with everything that a resume needs, and the replay's files; the checkpoint before is kept.

        The state is copied now and written while the run continues; a failure, OSError or RunFailed, is raised by the
        next call or by `wait`, and what was saved before is whole then. Does nothing where the same was saved last.
        """
        run = self._run
        if self._saved == self._state():
            return
        self._saved = self._state()
        replay = {"written": run.replay.written, **run.replay.state()} if run.config.checkpoint.replay else None
        agent = run.agent.state()
        plain(agent["rule"], "the rule")
        plain(agent["optimizer"], "the optimizer")
        content = {
            **self._playable(),
            **agent,
            **run.progress.state(),
            **run.trackers.state(),
            **run.goals.state(),
            **run.evaluator.state(),
            "finished": run.progress.over and self._is_evaluated(),
            "device": run.device.type,
            "generators": run.streams.state(),
            "emulators": run.emulators.state(),
            "replay": replay,
            "made_with": devices.numerics(run.device),
        }
        self._handed_rows = run.replay.written
        self._worker.do(self._write, Snapshot(content, run.device))

    def _write(self, snapshot: Snapshot) -> None:
        run, content = self._run, _without_copies(_checked(snapshot.content()))
        kept: list[Segment] = []
        if replay := content["replay"]:
            self.files.write(run.replay, replay["written"])
            kept = self.files.held(run.replay, replay["written"])
            replay["lost_rows"] = self.files.lost_rows(run.replay, replay["written"])
            replay["segments"] = [tuple(segment) for segment in kept]
        run.trackers.sync()
        checkpoints.rotate(run.folder / "checkpoints", content)
        if replay:
            self.files.tidy([*kept, *self._kept])
            self._kept = kept
        run.trackers.checkpoint(run.folder / "checkpoints" / "latest.pt")

    def _is_evaluated(self) -> bool:
        evaluator = self._run.evaluator
        return evaluator.evaluated_steps == self._run.progress.agent_steps and evaluator.confirmed

    def _state(self) -> tuple[Any, ...]:
        """What distinguishes this checkpoint from others."""
        progress, evaluator = self._run.progress, self._run.evaluator
        return progress.agent_steps, progress.over, evaluator.evaluated_steps, evaluator.confirmed

    def save_ahead(self) -> None:
        """Write the next of the replay's files if it is full, so that no save takes long."""
        upto = self._handed_rows + self._file_rows - 1
        if self._run.config.checkpoint.replay and upto < self._run.replay.written:
            self._handed_rows = upto
            self._worker.do(self._write_ahead, upto)

    @functools.cached_property
    def _file_rows(self) -> int:
        return self.files.rows(self._run.replay)

    def _write_ahead(self, upto: int) -> None:
        self.files.write(self._run.replay, upto)
        self.files.tidy([*self.files.held(self._run.replay, upto), *self._kept])

    def wait(self) -> None:
        """Wait until everything is written. Raises OSError or RunFailed if it cannot be."""
        self._worker.wait()

    def finish(self) -> None:
        """Free the disk space that only a running run needs, once everything is written."""
        self.wait()
        checkpoints.settle(self._run.folder / "checkpoints")
        if self._run.config.checkpoint.replay:
            self.files.tidy(self._kept)

    def close(self) -> None:
        """End the thread that writes, once it has."""
        self._worker.close()

    def _restore(self, content: dict[str, Any]) -> None:
        """Everything but the replay and the games."""
        run, config = self._run, self._run.config
        try:
            run.agent.restore(content)
            run.progress.restore(content, config)
            run.trackers.restore(content)
            run.goals.restore(content)
            run.evaluator.restore(content, run.progress.over)
            if content["device"] == run.device.type:
                run.streams.restore(content["generators"])
            else:
                run.say(f"on {run.device} now, not {content['device']}: new random numbers from here")
                run.streams = Streams(run.device, config.seed, run.progress.agent_steps)
            then, now = dict(content["made_with"]), devices.numerics(run.device)
        except Exception as error:
            raise self._unfit(error) from None
        then = dict.fromkeys(now, "none") | then  # from a CPU, or by an older program
        if changed := [f"{key} {now[key]} instead of {then[key]}" for key in now if now[key] != then[key]]:
            run.say(f"results will not be bit-identical to an uninterrupted run: {', '.join(changed)}")

    def _unfit(self, error: Exception) -> UserError:
        return UserError(f"the checkpoint does not fit its own config ({one_line(error, 120)})")

    def go_back(self) -> bool:
        """Restore the replay and the games; returns whether the loop can continue from there."""
        if not self._content:
            return False
        run, saved, journal = self._run, self._content["replay"], self._content["emulators"]
        self._content = None  # which lets go of its file
        if not saved:
            run.say(f"the replay was not saved; it is refilled for {run.config.replay.warmup_steps:,} agent steps")
            return False
        try:
            written = int(saved["written"])
            if not 0 < written < 1 << 48:
                raise ValueError("a count that cannot be")
            lost = self.files.lost_rows(run.replay, written)
            if lost > min(written, run.replay.rows) // 2:
                run.say("most of the replay is missing; it is refilled")
                self._files = ReplayFiles(run.folder / "replay")
                return False
            self._handed_rows = written
            with run.console.status("reading the replay"):
                self.files.load(run.replay, written, len(run.emulators.actions))
            run.replay.restore(saved)
            if lost := lost - int(saved["lost_rows"]):  # since the checkpoint
                run.say(
                    f"{lost * run.config.num_envs:,} agent steps of the replay are missing, so results will not be "
                    "bit-identical"
                )
                return False
            if not journal:
                run.say("checkpoint.cut_every_turns=null: new games start, so results will not be bit-identical")
                return False
            if "starts" not in journal:
                run.say(
                    "started by an older version, which truncated all games every "
                    f"{run.config.checkpoint.cut_every_turns:,} turns; from here on each is played to its own end"
                )
            run.say(f"restoring the games: replaying {journal['actions'].numel():,} agent steps")
            there = run.emulators.rewind(journal, run.stopped.is_set)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self._unfit(error) from None
        if not there and not run.stopped.is_set():
            run.say(
                "the games did not return to the same pictures: new ones start, so results will not be bit-identical"
            )
        return there
