"""Nothing is lost: runs that are killed, stopped, damaged and cheated, and go on to the bit or say why not."""

import contextlib
import csv
import dataclasses
import io
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fuzz
import gymnasium
import numpy as np
import pytest
import torch
import torture
import wandb_reader
import zstandard
from conftest import QUIET, ROOT, sealed, small_run

from atari_dqn.checkpoint import checkpoints, folders, replay_files
from atari_dqn.checkpoint.replay_files import ReplayFiles, Segment
from atari_dqn.config import compose
from atari_dqn.dqn.replay import Replay
from atari_dqn.envs import factory
from atari_dqn.envs.base import CUT, ORDINARY, VectorStep
from atari_dqn.envs.journal import Journal
from atari_dqn.tracking.callback import Callback
from atari_dqn.training import launch
from atari_dqn.training.run import Run
from atari_dqn.utils import background, devices, files, seeding
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed, UserError

CARTPOLE = [
    "env=cartpole", "total_steps=4_000", "replay.capacity=1_600", "replay.warmup_steps=400", "logger.every_steps=300",
    "checkpoint.every_steps=500", "checkpoint.cut_every_turns=112", "evaluation.every_steps=1_500",
    "evaluation.episodes=2",
]  # fmt: skip
PONG = [
    "env.game=Pong", "network=small_cnn", "num_envs=2", "total_steps=600", "replay.capacity=300",
    "replay.warmup_steps=100", "update.target_period_steps=100", "exploration.decay_steps=300",
    "checkpoint.every_steps=100", "checkpoint.cut_every_turns=125", "logger.every_steps=100",
    "evaluation.every_steps=400", "evaluation.episodes=1", "protocol.max_frames=100", "env.max_frames=300",
]  # fmt: skip


class Stop(Callback):
    """Asks the run to stop at an agent step, as a signal would."""

    def __init__(self, run: Run, agent_steps: int) -> None:
        self._run, self._agent_steps = run, agent_steps

    def step(self, info):
        if info.agent_steps >= self._agent_steps:
            self._run.stop()


def go_on(folder: Path, *overrides: str) -> str:
    """Resume a run in this process, as `train resume=` does; what it said."""
    asked = compose.to_train_config(compose.compose("train", [*overrides]))
    said = io.StringIO()
    launch.resume(folder, asked, list(overrides), Console(file=said, width=500))
    return said.getvalue()


@pytest.fixture(scope="module")
def cartpole(shared) -> Path:
    """The folder of a whole, untouched CartPole run."""
    return shared("cartpole", lambda folder: small_run(folder / "run", *CARTPOLE).go()) / "run"


@pytest.fixture(scope="module")
def half(shared) -> Path:
    """The same run stopped in its middle, with two checkpoints."""

    def build(folder: Path) -> None:
        run = small_run(folder / "run", *CARTPOLE)
        run.go(Stop(run, 2_300))

    return shared("cartpole-half", build) / "run"


@pytest.fixture
def stopped(half: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(half, tmp_path / "stopped")


def assert_equal_runs(one: Path, other: Path) -> None:
    expected, found = torture.left_behind(one), torture.left_behind(other)
    assert [key for key in expected if expected[key] != found[key]] == []


# --------------------------------------------------------------------------------------------------------- to the bit


@pytest.mark.parametrize("game", ["CartPole", "Pong"])
def test_a_killed_run_ends_as_an_untouched_one(game, tmp_path):
    """The short form of `make torture`: whole processes, SIGKILL at random and in the middle of saving."""
    steps = {"CartPole": 8_000, "Pong": 1_600}[game]
    more = ["network=small_cnn", "evaluation.every_steps=1000"] if game == "Pong" else ["evaluation.every_steps=3000"]
    torture.torture(game, steps, 3, 1, tmp_path, *more, most_seconds=2)


@pytest.mark.parametrize("words", [CARTPOLE, PONG], ids=["CartPole", "Pong"])
def test_a_run_stopped_on_request_ends_as_an_untouched_one(words, tmp_path):
    """Stopped between two checkpoints, before the first, in an evaluation; with a ring that has wrapped around."""
    untouched, folder = tmp_path / "untouched", tmp_path / "stopped"
    small_run(untouched, *words).go()
    total = compose.to_train_config(compose.compose("train", words)).total_steps
    run = small_run(folder, *words)
    run.go(Stop(run, 30))
    assert "resuming" in go_on(folder)  # this one goes to its end
    assert_equal_runs(untouched, folder)
    shutil.rmtree(folder)
    run = small_run(folder, *words)
    for share in (0.3, 0.55, 0.69, 0.9, 1):
        run.go(Stop(run, int(total * share)))
        run = Run(run.config, folder, Console(quiet=True), checkpoints.newest(folder, print))
    run.go()
    assert_equal_runs(untouched, folder)


# What does not depend on a run's measuring and evaluating at its own end.
LEARNT = ("online", "target", "optimizer", "generators", "emulators", "replay", "episodes")


@pytest.mark.parametrize("words", [CARTPOLE, PONG], ids=["CartPole", "Pong"])
def test_a_longer_run_equals_one_that_was_long_from_the_start(words, tmp_path):
    folder, long = tmp_path / "run", tmp_path / "long"
    small_run(long, *words).go()
    total = compose.to_train_config(compose.compose("train", words)).total_steps
    small_run(folder, *words, f"total_steps={total * 2 // 5}").go()
    go_on(folder, f"total_steps={total}")
    expected, found = torture.left_behind(long), torture.left_behind(folder)
    assert [key for key in LEARNT if expected[key] != found[key]] == []
    assert compose.to_train_config(launch.omegaconf.OmegaConf.load(folder / "config.yaml")).total_steps == total


def test_a_run_made_shorter_keeps_what_it_needs_to_be_long_again(stopped, cartpole):
    assert "done" in go_on(stopped, "total_steps=1_000")
    go_on(stopped, "total_steps=4_000")
    expected, found = torture.left_behind(cartpole), torture.left_behind(stopped)
    assert [key for key in LEARNT if expected[key] != found[key]] == []


def test_turns_without_an_update_are_measured_alike(tmp_path):
    words = [*CARTPOLE, "total_steps=700", "num_envs=1", "update.period_steps=8", "logger.every_steps=1"]
    small_run(tmp_path / "untouched", *words).go()
    run = small_run(tmp_path / "run", *words)
    run.go(Stop(run, 603))
    go_on(tmp_path / "run")
    assert_equal_runs(tmp_path / "untouched", tmp_path / "run")


def test_a_cpu_is_deterministic_anyway(cartpole, tmp_path):
    small_run(tmp_path / "run", *CARTPOLE, "compute.deterministic=true").go()
    assert_equal_runs(cartpole, tmp_path / "run")


def test_an_interrupted_evaluation_is_made_up_for(cartpole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run = small_run(folder, *CARTPOLE)
    original = run.evaluator.evaluate
    monkeypatch.setattr(run.evaluator, "evaluate", lambda *a: (run.stop(), original(*a))[1])
    run.go()
    assert run.agent_steps == 1504 and run.evaluator.evaluated_steps == 0
    go_on(folder)
    assert_equal_runs(cartpole, folder)


def test_a_run_without_a_checkpoint_starts_again(cartpole, tmp_path):
    """As one that was killed before its first checkpoint leaves it."""
    folder = tmp_path / "run"
    run = small_run(folder, *CARTPOLE)
    run.go(Stop(run, 400))
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    assert "after 0 agent steps" in go_on(folder)
    assert_equal_runs(cartpole, folder)


def test_every_game_is_played_to_its_end_and_begins_again_from_a_new_seed(tmp_path):
    """Games of 9 turns, which take new seeds every 20: nothing is cut off or left out."""
    renewed, free = (
        small_run(tmp_path / name, "env.game=Pong", "num_envs=2", "total_steps=120", "replay.warmup_steps=1000",
        f"checkpoint.cut_every_turns={every}", "env.max_frames=36", "evaluation.episodes=1", "protocol.max_frames=40")
        for name, every in (("renewed", 20), ("free", "null"))
    )  # fmt: skip
    for run in (renewed, free):
        run.go()
        ends = (run.replay.flags[: run.replay.written] == CUT).nonzero()[:, 0].tolist()
        assert ends == [end for end in range(9, 61, 10) for _ in range(2)]  # of their own, by max_frames
        assert len((run.folder / "episodes.csv").read_text().splitlines()) == 1 + len(ends)
    state = renewed.emulators.state()
    assert state["seeds"] == seeding.derive(1, "games", 80, count=2) and state["waiting"] == [True, True]
    assert state["next_seeds"] == seeding.derive(1, "games", 120, count=2)
    assert len(state["actions"]) == 60 - 50 and free.emulators.state() is None


def uneven(kind: str, seeds: list[int]) -> Journal:
    """Games that end at different times, just begun."""
    words = {"atari": ["env.game=Breakout", "env.repeat_action_probability=0.25"], "gymnasium": ["env=cartpole"]}
    config = compose.to_train_config(compose.compose("train", words[kind]))
    games = Journal(factory.make_emulators(config.env, 3), keep=True)
    games.reset(seeds)
    return games


@pytest.mark.parametrize(("kind", "scale"), [("atari", 8), ("gymnasium", 1)])
def test_emulators_come_back_to_where_they_were(kind, scale):
    one, other, choose = uneven(kind, [1, 2, 3]), uneven(kind, [7, 8, 9]), np.random.default_rng(1)
    played, waiting = 0, set()

    def go_on(*journals: Journal) -> list[VectorStep]:
        nonlocal played
        if played in (30 * scale, 90 * scale, 93 * scale):
            for games in journals:
                games.renew([played, played + 1, played + 2])
        played += 1
        actions = choose.integers(len(one.actions), size=3)
        for games in journals:
            games.send(actions)
        return [games.recv() for games in journals]

    for stop in (20, 40, 55, 91, 104, 130):  # before new seeds, while games wait for their ends, after
        while played < stop * scale:
            go_on(one)
        waiting.add(sum(one.state()["waiting"]))
        assert other.rewind(one.state())
        assert other.state()["actions"].equal(one.state()["actions"])
        assert {**other.state(), "actions": 0} == {**one.state(), "actions": 0}
    for _ in range(100):
        turns = go_on(one, other)
        assert all(np.array_equal(a, b) for a, b in zip(turns[0][:3], turns[1][:3], strict=True))
        assert turns[0].games == turns[1].games
    assert waiting > {0, 3} and len(one.state()["actions"]) < played - 30 * scale
    assert not other.rewind(one.state() | {"seeds": [4, 5, 6], "frames_crc": 0})
    for wrong in (
        {"seeds": [1, 2]},
        {"starts": [0, 0, 9999]},
        {"starts": [0, 0]},
        {"waiting": [True] * 3, "next_seeds": [1]},
        {"actions": torch.full((4, 3), 99, dtype=torch.uint8), "starts": [0, 0, 0]},
        {"actions": torch.ones(4)},
    ):
        with pytest.raises(ValueError, match=r"actions|begins|seeds"):
            other.rewind(one.state() | wrong)


def test_new_seeds_lose_no_turn_of_any_game():
    """Each game's turns are in games that were counted, or in the one in play."""
    games, choose = uneven("gymnasium", [1, 2, 3]), np.random.default_rng(1)
    counted, last = np.zeros(3, int), np.zeros(3, int)
    for turn in range(1, 601):
        if turn % 40 == 0:
            games.renew([turn] * 3)
        games.send(choose.integers(2, size=3))
        for game in games.recv().games:
            assert game.length_frames == turn - last[game.env] - (last[game.env] > 0)  # a turn shows the first frame
            counted[game.env], last[game.env] = counted[game.env] + 1, turn
    assert (counted > 15).all()


def test_a_run_of_an_older_version_goes_on_and_says_what_changed(cartpole, tmp_path, monkeypatch):
    """It kept no starts, for all games began together."""
    folder = tmp_path / "run"
    state = Journal.state
    monkeypatch.setattr(
        Journal, "state",
        lambda self: {key: state(self)[key] for key in ("seeds", "actions", "frames_crc")},
    )  # fmt: skip
    run = small_run(folder, *CARTPOLE)
    run.go(Stop(run, 500))
    monkeypatch.undo()
    assert "from here on each is played to its own end" in " ".join(go_on(folder).split())
    assert_equal_runs(cartpole, folder)


# --------------------------------------------------------------------------------------------------- the replay's files


def filled(rows: int, written: int, generator: torch.Generator, replay: Replay | None = None) -> Replay:
    replay = replay or Replay(rows, 3, (5, 4), stack=2)
    for _ in range(written):
        frames = torch.randint(256, (3, 5, 4), dtype=torch.uint8, generator=generator)
        if not replay.written or torch.rand((), generator=generator) < 0.05:
            replay.begin(frames)
        else:
            flags = torch.randint(3, (3,), dtype=torch.uint8, generator=generator)
            replay.write(torch.randint(4, (3,), generator=generator), torch.rand(3, generator=generator), frames, flags)
    return replay


@pytest.mark.parametrize("rows", [7, 40])
def test_replay_files_hold_the_ring(rows, tmp_path, monkeypatch):
    """Any pattern of writing and saving, files of a few rows, around the ring's end and past it."""
    monkeypatch.setattr(replay_files, "FILE_BYTES", 400)
    choose = np.random.default_rng(rows)
    generator = torch.Generator().manual_seed(rows)
    replay, stored = filled(rows, 1, generator), ReplayFiles(tmp_path)
    for _ in range(60):
        filled(rows, int(choose.integers(0, 12)), generator, replay)
        if choose.random() < 0.5:
            stored.write(replay, replay.written - stored.rows(replay))
            continue
        stored.write(replay, replay.written)
        kept = stored.held(replay, replay.written)
        stored.tidy(kept)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(segment.name for segment in kept)
        listing = replay_files.segments([list(segment) for segment in kept])
        again, loaded = ReplayFiles(tmp_path, listing), Replay(rows, 3, (5, 4), stack=2)
        assert again.drop_damaged() == [] and again.lost_rows(loaded, replay.written) == 0
        again.load(loaded, replay.written, 4)
        assert loaded.written == replay.written and int(loaded._newest) == int(replay._newest)
        oldest = max(0, replay.written - rows)
        for one, other in zip(replay.read(oldest, replay.written), loaded.read(oldest, replay.written), strict=True):
            assert torch.equal(one, other)
    assert replay.written > 3 * rows


def test_lost_rows_are_counted_and_never_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_files, "FILE_BYTES", 600)  # 7 rows
    replay, stored = filled(100, 60, torch.Generator().manual_seed(0)), ReplayFiles(tmp_path)
    stored.write(replay, replay.written)
    lost = stored.segments[3]
    (tmp_path / lost.name).unlink()
    assert stored.drop_damaged() == [lost]
    # Its first and its last row are in its neighbours, too.
    assert stored.lost_rows(replay, 60) == lost.last - lost.first - 2
    loaded = Replay(100, 3, (5, 4), stack=2)
    stored.load(loaded, 60, 4)
    assert (loaded.flags[lost.first : lost.last - 1] != ORDINARY).all()

    def transitions(of: Replay) -> set[bytes]:
        (batch,) = zip(*of.sample(1, 9000, torch.Generator().manual_seed(0), 0.9), strict=True)
        newest = (batch[0][:, -1], *batch[1:4], batch[4][:, -1])
        return {b"".join(part.numpy().tobytes() for part in one) for one in zip(*newest, strict=True)}

    drawn = transitions(loaded)
    assert 40 < len(drawn) < len(transitions(replay)) and drawn <= transitions(replay)


def test_replay_files_promise_nothing_that_is_believed(tmp_path):
    """Files made by someone else: too much, too little, cut short, with a huge window, with what cannot be."""
    replay, stored = filled(200, 60, torch.Generator().manual_seed(0)), ReplayFiles(tmp_path)
    stored.write(replay, replay.written)
    (whole,) = stored.segments
    plain = zstandard.ZstdDecompressor().decompress((tmp_path / whole.name).read_bytes())
    compress = zstandard.ZstdCompressor().compress
    chunks = zstandard.ZstdCompressor().compressobj()  # does not say how much it holds
    cases = {
        "too much": compress(plain + b"x"),
        "a bomb": compress(bytes(10**9)),
        "too little": compress(plain[:-1]),
        "cut short": compress(plain)[:-5],
        "nameless": chunks.compress(plain) + chunks.flush(),
        "nothing": b"",
        "noise": os.urandom(500),
        "an action that is none": compress(plain[: 60 * 60] + b"\xff" + plain[60 * 60 + 1 :]),
        "a flag that is none": compress(plain[:-1] + b"\x07"),
        "rewards not finite": compress(plain[: 60 * 63] + np.float32("nan").tobytes() + plain[60 * 63 + 4 :]),
    }
    for packed in cases.values():
        segment = Segment(0, 60, len(packed), replay_files.hashlib.sha256(packed).hexdigest())
        (tmp_path / segment.name).write_bytes(packed)
        with pytest.raises(UserError, match="does not match its checkpoint"):
            ReplayFiles(tmp_path, [segment]).load(Replay(100, 3, (5, 4), stack=2), 60, 4)
    good = "0" * 64
    for listing in (
        [[0, 5, 1, "../../etc/passwd"]], [[5, 5, 1, good]], [[-1, 5, 1, good]], [[0, 9, 1, good], [4, 12, 1, good]],
        [[0, 5, 1]], [["a", 5, 1, good]], [[0, 5, 1, good], [4, 5, 1, good]], [[0, 1 << 60, 1, good]],
    ):  # fmt: skip
        with pytest.raises(ValueError):
            replay_files.segments(listing)


# ------------------------------------------------------------------------------------------------ damage and its remedy


def flip(path: Path, where: float, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_found(stopped):
    path = stopped / "checkpoints" / "latest.pt"
    whole = path.read_bytes()
    for i, where in enumerate([0, 1, *np.random.default_rng(0).random(60), *np.linspace(0.999, 1, 20)]):
        flip(path, where, i % 8)
        with pytest.raises(UserError, match=r"latest\.pt"):
            checkpoints.Checkpoint(path)
        path.write_bytes(whole)
    checkpoints.Checkpoint(path)


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "gone", "folder"])
def test_a_damaged_latest_is_named_and_the_one_before_it_used(how, stopped, cartpole):
    path = stopped / "checkpoints" / "latest.pt"
    if how == "flip":
        flip(path, 0.6)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    said = go_on(stopped)
    assert ("latest.pt" in said) == (how != "gone") and "previous.pt" in said
    assert_equal_runs(cartpole, stopped)


def test_damaged_replay_files_are_named_and_cost_what_they_hold(stopped, cartpole, tmp_path):
    # The newest file belongs to the latest checkpoint alone: the one before it is whole, and goes on to the bit.
    _, _, older, *_, newest = sorted((stopped / "replay").iterdir())
    shutil.copytree(stopped, tmp_path / "both")
    flip(newest, 0.5)
    said = go_on(stopped)
    assert newest.name in said and "falling back" in said
    assert_equal_runs(cartpole, stopped)
    # An older file belongs to both: the latest goes on without its rows.
    flip(tmp_path / "both" / "replay" / older.name, 0.5, 3)
    said = go_on(tmp_path / "both")
    assert older.name in said and "agent steps of the replay are missing, so results will not be" in said
    assert checkpoints.Checkpoint(tmp_path / "both" / "checkpoints" / "latest.pt").agent_steps == 4_000
    # That was told once: what goes on from there loses nothing more.
    assert "not be bit-identical" not in go_on(tmp_path / "both", "total_steps=4_400")


def test_without_its_replay_a_run_fills_it_again(stopped):
    shutil.rmtree(stopped / "replay")
    said = go_on(stopped)
    assert "most of the replay is missing; it is refilled" in said
    content = checkpoints.Checkpoint(stopped / "checkpoints" / "latest.pt").content
    assert content["agent_steps"] == 4_000 and content["replay"]["written"] < 300


def test_with_both_checkpoints_damaged_nothing_is_touched(stopped):
    for name in ("latest.pt", "previous.pt"):
        flip(stopped / "checkpoints" / name, 0.4)
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file() and path.name != "process.json"}
    with pytest.raises(UserError, match=r"latest\.pt is damaged.*previous\.pt is damaged.*neither"):
        go_on(stopped)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_does_not_save_its_replay_goes_on_without(tmp_path):
    folder = tmp_path / "run"
    run = small_run(folder, *CARTPOLE, "checkpoint.replay=false")
    run.go(Stop(run, 2_300))
    assert not (folder / "replay").exists()
    assert "the replay was not saved" in go_on(folder)


def test_a_saved_replay_is_used_where_no_more_is_saved(stopped, cartpole):
    assert "not saved" not in go_on(stopped, "checkpoint.replay=false")
    contents = [checkpoints.Checkpoint(run / "checkpoints" / "latest.pt").content for run in (stopped, cartpole)]
    assert all(torch.equal(contents[0]["online"][key], contents[1]["online"][key]) for key in contents[0]["online"])


class Disk:
    """Makes the Nth write to any file fail, after a part of it, as a full disk does; 0 makes none fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
        self.writes, self.fails_at, original = 0, fails_at, files.replacing

        @files.contextlib.contextmanager
        def replacing(path, mode="wb", **how):
            with original(path, mode, **how) as file:
                self.writes += 1
                if self.writes == self.fails_at:
                    file.write("x" if "b" not in mode else b"half of it")
                    file.flush()
                    raise OSError(28, "No space left on device")
                yield file

        for module in (checkpoints, replay_files):
            monkeypatch.setattr(module, "replacing", replacing)


def test_a_full_disk_costs_nothing_that_was_saved(cartpole, tmp_path, monkeypatch):
    """Whichever write fails: the run ends in a sentence, and goes on to the bit once there is room."""
    with monkeypatch.context() as patch:
        disk = Disk(patch, 0)
        small_run(tmp_path / "counted", *CARTPOLE).go()
    assert disk.writes > 15
    for fails_at in range(1, disk.writes + 1, 6):
        folder = tmp_path / f"run{fails_at}"
        with monkeypatch.context() as patch:
            Disk(patch, fails_at)
            with pytest.raises(RunFailed, match=r"No space left on device: .*run"):
                small_run(folder, *CARTPOLE).go()
        assert not list(folder.rglob(".*.tmp*"))
        go_on(folder)
        assert_equal_runs(cartpole, folder)


def test_a_really_full_disk(tmp_path):
    """A small file system of its own, with all loggers on: nothing hangs, exit 1, and it goes on with more room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    words = [sys.executable, "-m", "atari_dqn", "train", "run_dir=run", "resume=auto", "env=cartpole"]
    words += ["total_steps=9_000", "checkpoint.every_steps=2_000", "logger.every_steps=40", "logger.wandb=offline"]
    where = {"cwd": disk, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    try:
        full = subprocess.run(words, **where, timeout=200)
        assert full.returncode == 1 and "No space left on device: run/" in full.stderr, full.stderr
        assert "atari-dqn train resume=run" in full.stderr and "Traceback" not in full.stderr
        assert all(line.startswith("atari_dqn: ") for line in full.stderr.splitlines())
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        again = subprocess.run(words, **where, timeout=200)
        assert again.returncode == 0 and "resuming run after" in again.stdout, again.stderr
    finally:
        subprocess.run(["umount", "-l", str(disk)])


def test_a_file_system_without_links_keeps_two_checkpoints_too(tmp_path, monkeypatch):
    def link(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for steps in (1, 2, 3):
        checkpoints.rotate(tmp_path, {"agent_steps": steps})
    found = [checkpoints._read(tmp_path / f"{name}.pt")["agent_steps"] for name in ("latest", "previous")]
    assert found == [3, 2] and len(list(tmp_path.iterdir())) == 2


# --------------------------------------------------------------------------------------------------- files of others


def test_sealed_files_of_others_run_nothing_and_take_nothing(stopped, tmp_path, monkeypatch):
    content = dict(checkpoints.Checkpoint(stopped / "checkpoints" / "latest.pt").content)

    class Foreign:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    wide, config, online = torch.zeros(1).expand(10**12), content["config"], content["online"]

    def setting(group, **values):
        return content | {"config": config | {group: config[group] | values}}

    monkeypatch.setenv("WANDB_API_KEY", "secret")
    cases = {
        "a list": [content],
        "another program's": {"model": torch.zeros(3)},
        "code": Foreign(),
        "an older format": content | {"version": 2},
        "no config": {key: value for key, value in content.items() if key != "config"},
        "wrong shapes": content | {"online": {key: value[:1] for key, value in online.items()}},
        "weights are text": content | {"online": "hello"},
        "not finite": content | {"online": online | {"head.2.bias": torch.full((2,), float("nan"))}},
        "wide weights": content | {"online": dict.fromkeys(online, wide)},
        "a wide optimiser": content | {"optimizer": wide},
        "huge layers": setting("network", hidden=[10**9, 10**9]),
        "no such game": setting("env", kind="atari", game="Doom"),
        "a secret": setting("logger", project="${oc.env:WANDB_API_KEY}"),
        "the same action twice": content | {"actions": ["NOOP"] * 2},
        "other actions": content | {"actions": ["NOOP"]},
    }
    bad = tmp_path / "bad.pt"
    checkpoints.Checkpoint(sealed(content, bad))
    for name, case in cases.items():
        with pytest.raises(UserError, match=r"bad\.pt") as refusal:
            checkpoints.Checkpoint(sealed(case, bad))
        assert "secret" not in str(refusal.value) and "\n" not in str(refusal.value), name
    # bytearray(10**12) is something that torch's own reader would call.
    for pickled in (
        b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x06\x00\x10\xa5\xd4\xe8\x00\x85q\x01Rq\x02.",
        pickle.dumps(Foreign()),
        b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".",
        b"\x80\x02" + b"]" * 10_000_000 + b".",
    ):
        with pytest.raises(UserError, match=r"bad\.pt"):
            checkpoints.Checkpoint(sealed(content, bad, pickled=pickled))
    # torch's reader takes DATA.PKL for data.pkl.
    hidden = {"archive/DATA.PKL": b"\x80\x02cbuiltins\nbytearray\nK\x01\x85R."}
    with pytest.raises(UserError, match="unexpected entries"):
        checkpoints.Checkpoint(sealed(content, bad, more=hidden))
    assert not (tmp_path / "owned").exists()


def test_small_files_that_stand_for_much_are_refused_at_once(stopped, tmp_path):
    content = dict(checkpoints.Checkpoint(stopped / "checkpoints" / "latest.pt").content)
    bomb: list = []
    for _ in range(60):
        bomb = [bomb, bomb] if bomb else [1]
    layers = content["config"] | {"network": {"name": "mlp", "hidden": [8] * 100_000}}
    began = time.perf_counter()
    for case in ({"bomb": bomb}, {"config": content["config"] | {"env": bomb}}, {"config": layers}):
        with pytest.raises(UserError, match=r"bad\.pt"):
            checkpoints.Checkpoint(sealed(content | case, tmp_path / "bad.pt"))
    text = (stopped / "config.yaml").read_text()
    lines = ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    (stopped / "config.yaml").write_text(text + "\n".join(lines) + "\n")
    with pytest.raises(UserError, match="aliases"):
        go_on(stopped)
    assert time.perf_counter() - began < 5


def test_nothing_outside_its_folder_is_touched(stopped, tmp_path):
    """A replay/ that is a link to another folder; a file there that no run has written."""
    (stopped / "replay" / "backup.tar.zst").write_bytes(b"precious")
    go_on(stopped, "total_steps=3_000")
    assert (stopped / "replay" / "backup.tar.zst").exists()
    (stopped / "replay").rename(tmp_path / "elsewhere")
    (stopped / "replay").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="replay is a symbolic link"):
        go_on(stopped, "total_steps=4_000")


@pytest.mark.parametrize(
    "change",
    [
        {"agent_steps": -5}, {"games": "many"}, {"generators": {}}, {"goals_reached": 5}, {"recent_returns": ["a"]},
        {"replay": {"written": "x", "segments": []}}, {"replay": {"written": 100, "segments": [[0, 5, 1, "../../x"]]}},
        {"replay": 7}, {"emulators": {"seeds": [1], "actions": 3}}, {"emulators": 5}, {"optimizer": {"state": 5}},
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(10**6)}}}}, {"sums": torch.ones(4)}, {"online": None},
        {"made_with": 1}, {"seconds": None}, {"updates": float("inf")}, {"replay": {"written": -5, "segments": []}},
        {"optimizer": {"state": {99: {"exp_avg": torch.ones(1)}}}},
        {"optimizer": {"state": {0: {f"m{i}": torch.ones(1) for i in range(99)}}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_that_makes_no_sense_is_refused_in_one_line(change, stopped):
    folder = stopped / "checkpoints"
    content = dict(checkpoints.Checkpoint(folder / "latest.pt").content)
    (folder / "previous.pt").unlink()
    sealed(content | change, folder / "latest.pt")
    with pytest.raises(UserError) as refusal:
        go_on(stopped)
    assert "\n" not in str(refusal.value)


def test_a_config_that_asks_for_secrets_is_refused(stopped, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    text = (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").write_text(text.replace("project: null", "project: ${oc.env:WANDB_API_KEY}"))
    with pytest.raises(UserError, match=r"settings contain \$\{") as refusal:
        go_on(stopped)
    assert "secret" not in str(refusal.value)


def test_keys_reach_no_file(tmp_path, command, monkeypatch):
    key = "0123456789abcdef" * 2 + "89abcdef"
    monkeypatch.setenv("WANDB_API_KEY", key)
    done = command(
        "train", *CARTPOLE, "total_steps=600", "run_dir=run", "logger.wandb=offline", "evaluation.video_seconds=1"
    )
    assert done.returncode == 0, done.stderr
    assert key not in done.stdout + done.stderr
    read = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(read) > 10 and not [path for path in read if key.encode() in path.read_bytes()]


# ------------------------------------------------------------------------------------------------ one run, one process


def test_a_run_in_use_is_refused_and_a_dead_lock_is_not(tmp_path, command, cartpole):
    words = [
        sys.executable, "-m", "atari_dqn", "train", "env=cartpole", "total_steps=10M", "run_dir=run",
        "checkpoint.every_steps=2_000", "network.hidden=[600,600]",  # slow, so that no goal is reached meanwhile
    ]  # fmt: skip
    process = subprocess.Popen(
        [*words, *QUIET],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: (tmp_path / "run" / "checkpoints" / "latest.pt").exists())
        for words in (["resume=run"], ["resume=auto", "run_dir=run", "env=cartpole"]):
            refused = command("train", *words)
            assert refused.returncode == 2 and f"run is in use by process {process.pid} on " in refused.stderr
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    # A lock file that nobody holds, and the note of a process that is gone, stop no one.
    shutil.copytree(cartpole, tmp_path / "old")
    for _ in range(2):
        assert command("train", "resume=old").returncode == 0
        assert (tmp_path / "old" / ".lock").exists() and (tmp_path / "old" / "process.json").exists()


def wait_for(condition, seconds: float = 90) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)


def test_litter_of_killed_writers_is_swept(stopped):
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout.strip()
    for name in (
        "checkpoints/.latest.{}.tmp.pt",
        "replay/.x.{}.tmp.zst",
        ".metrics.{}.tmp.csv",
        "videos/.a.{}.tmp.mp4",
    ):
        (stopped / name.format(ended)).write_bytes(b"half")
    living = stopped / "videos" / f".b.{os.getppid()}.tmp.mp4"  # another command's, which films
    living.write_bytes(b"half")
    go_on(stopped)
    assert list(stopped.rglob(".*.tmp*")) == [living]


def test_a_terminal_that_goes_away_stops_the_run_and_keeps_it(tmp_path):
    """SIGHUP and a closed pseudo-terminal, as when a connection breaks."""
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "atari_dqn", "train", "env=cartpole", "total_steps=10M", "run_dir=run", *QUIET],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    try:
        os.close(follower)
        os.set_blocking(leader, False)

        def training() -> bool:
            with contextlib.suppress(BlockingIOError):
                os.read(leader, 100_000)
            path = tmp_path / "run" / "metrics.csv"
            return path.exists() and len(path.read_text().splitlines()) > 3

        wait_for(training)
        os.close(leader)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    with open(tmp_path / "run" / "metrics.csv") as file:
        steps = int(list(csv.DictReader(file))[-1]["agent_steps"])
    assert checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").agent_steps >= steps


# ------------------------------------------------------------------------------------------------------ what goes wrong


class Poisoned(gymnasium.Env):
    """After 300 steps, an exception."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps > 300:
            raise RuntimeError("the emulator is on fire")
        return np.full(3, 0.5, np.float32), 1.0, self.steps % 20 == 0, False, {}


class Poison(Callback):
    """Puts what is no number into a run's replay, as a broken memory would."""

    def __init__(self, run: Run, part: str) -> None:
        self._run, self._part = run, part

    def step(self, info):
        if info.agent_steps == 600:
            getattr(self._run.replay, self._part)[250:290] = torch.nan


gymnasium.register("Poisoned/exception-v0", entry_point=Poisoned)
POISONED = [
    "env=gymnasium", "num_envs=2", "total_steps=4_000", "replay.warmup_steps=100", "replay.capacity=4_000",
    "checkpoint.every_steps=200", "evaluation.every_steps=4_000", "protocol.max_frames=100",
]  # fmt: skip


@pytest.mark.parametrize(("part", "culprit"), [("rewards", "r_t"), ("frames", "s_tm1, s_t")])
def test_the_batch_that_broke_learning_is_kept(part, culprit, tmp_path):
    run = small_run(tmp_path / "run", *CARTPOLE, "checkpoint.every_steps=200", "num_envs=2")
    with pytest.raises(RunFailed, match=rf"not a finite number.*\({culprit} in its batch.*resume") as failure:
        run.go(Poison(run, part))
    assert "\n" not in str(failure.value)
    dumped = checkpoints._read(tmp_path / "run" / "not_finite.pt")
    assert not torch.stack([part.isfinite().all() for part in dumped["batch"].values()]).all()
    good = checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")
    assert good.agent_steps == 600 < dumped["agent_steps"] < 700


def test_a_worker_does_one_thing_after_another_and_tells_its_failure_once():
    worker, done = background.Worker("test"), []

    def work(number: int) -> None:
        time.sleep(0.02)
        done.append(number)
        if number == 2:
            raise OSError(28, "No space left on device")

    for number in range(3):
        worker.do(work, number)
    assert len(done) < 3
    with pytest.raises(OSError, match="No space"):
        worker.do(work, 3)
    worker.wait()
    worker.do(work, 4)
    worker.close()
    assert done == [0, 1, 2, 4]


def test_a_snapshot_is_of_its_moment_and_what_was_asked_to_be_saved(tmp_path):
    """The loop goes on while a checkpoint is written: it holds the weights of its step, not later ones."""
    run = small_run(tmp_path / "run", *CARTPOLE)
    before = {key: value.clone() for key, value in run.agent.online.state_dict().items()}
    held = threading.Event()
    run.saver._worker.do(held.wait)  # the disk is slow
    write = threading.Thread(target=run.saver.save)
    write.start()
    time.sleep(0.1)
    with torch.no_grad():
        for parameter in run.agent.online.parameters():
            parameter.add_(1)
    held.set()
    write.join()
    run.saver.wait()
    saved = checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").content["online"]
    assert all(torch.equal(saved[key], before[key]) for key in before)
    run.saver.close()
    run.emulators.close()


def test_a_game_that_breaks_ends_the_run_in_a_sentence(tmp_path):
    run = small_run(tmp_path / "run", *POISONED, "env.game=Poisoned/exception-v0")
    with pytest.raises(RunFailed, match=r"after 628 agent steps: .*the emulator is on fire .*; resume from .*resume"):
        run.go()


def test_values_that_no_rewards_allow_are_told_once(tmp_path, monkeypatch):
    said = []
    run = small_run(
        tmp_path / "run", *CARTPOLE, "agent.reward_clip=1", "agent.discount=0.5", "optimizer.name=SGD",
        "agent.loss=squared", "optimizer.learning_rate=3e-3", "evaluation.every_steps=4000",
    )  # fmt: skip
    monkeypatch.setattr(run, "say", said.append)
    with torch.no_grad():
        list(run.agent.online.parameters())[-1].add_(50)
    run.go()
    (warning,) = [text for text in said if text.startswith("warning")]
    assert "clipped to 1 allow at most 2" in warning and "learning_rate" in warning


def test_another_machine_is_told_of(stopped, monkeypatch):
    own = devices.numerics(torch.device("cpu"))
    monkeypatch.setattr(devices, "numerics", lambda device: own | {"threads": "99", "GPU": "another"})
    said = go_on(stopped)
    assert "results will not be bit-identical to an uninterrupted run: threads 99 instead of" in said
    assert "GPU another instead of none" in said


def test_wandb_goes_on_with_the_same_run(tmp_path, command):
    """Offline: a folder for each time that it went on, of one run, with row numbers that go on where the kill was."""
    words = ["train", *CARTPOLE, "run_dir=run", "resume=auto", "logger.wandb=offline", "logger.tensorboard=false"]
    words += ["evaluation.video_seconds=0", "total_steps=40_000", "evaluation.every_steps=4_000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "atari_dqn", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 12)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with open(metrics) as file:
        killed_at = float(list(csv.DictReader(file))[-1]["seconds"])
    done = command(*[word if not word.startswith("total") else "total_steps=7_000" for word in words])
    assert done.returncode == 0, done.stderr
    first, second = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert first.name == second.name and "wandb/offline-run-*-" in done.stdout
    rows: dict[int, dict] = {}
    for path in (first, second):
        for row in wandb_reader.history(path):
            earlier = rows.setdefault(row["_step"], row)
            same = [key for key in row if key.split("/")[-1] in ("agent_steps", "loss", "return", "mean")]
            assert [earlier[key] for key in same] == [row[key] for key in same]
    with open(metrics) as file:
        expected = {int(row["agent_steps"]): float(row["seconds"]) for row in csv.DictReader(file)}
    found = [row["train/agent_steps"] for _, row in sorted(rows.items()) if "train/loss" in row]
    assert found == sorted(found) and set(found) <= set(expected) and found[-1] == max(expected)
    # W&B writes what it was told once a second.
    assert all(killed_at - 2 < expected[steps] <= killed_at for steps in set(expected) - set(found))


def test_rotate_is_never_without_a_latest(tmp_path, monkeypatch):
    """At every step of the disk's work there is a whole latest.pt, and after the first save never less than it."""
    original, seen = os.replace, []

    def replace(old, new):
        original(old, new)
        latest = tmp_path / "latest.pt"
        seen.append(checkpoints._read(latest)["agent_steps"] if latest.exists() else None)

    monkeypatch.setattr(os, "replace", replace)
    for steps in (1, 2, 3):
        checkpoints.rotate(tmp_path, {"agent_steps": steps})
    assert seen == [1, 2, 2, 3, 3]


def test_an_edited_config_or_a_typed_group_is_not_taken_in_silence(stopped):
    with pytest.raises(UserError, match="optimizer cannot be changed when resuming"):
        go_on(stopped, "optimizer=nature_rmsprop")
    text = (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").write_text(text.replace("learning_rate: 0.0005", "learning_rate: 0.5"))
    with pytest.raises(UserError, match=r"config\.yaml differs from its checkpoint in optimizer\.learning_rate"):
        go_on(stopped)
    (stopped / "config.yaml").write_text(
        re.sub(r"(optimizer:.*?\n  )arguments: {}", r"\1arguments: {eps: 0.1}", text, flags=re.S)
    )
    with pytest.raises(UserError, match=r"in optimizer\.arguments; restore it"):
        go_on(stopped)


def test_an_output_that_is_closed_does_not_end_the_run(tmp_path):
    """As `make train | head -3` closes it."""
    words = [sys.executable, "-m", "atari_dqn", "train", *CARTPOLE, "run_dir=run", *QUIET]
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(120) == 0 and said == b""
    assert checkpoints.Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").agent_steps == 4_000


def test_folders_are_made_whole(tmp_path, monkeypatch):
    config = compose.to_train_config(compose.compose("train", ["run_dir=null"]))
    monkeypatch.chdir(tmp_path)
    names = [folders.make(config).name for _ in range(3)]
    assert len(set(names)) == 3 and all((tmp_path / "runs" / name / "config.yaml").is_file() for name in names)

    (tmp_path / "mounted" / "videos").mkdir(parents=True)  # empty, or as a start that was killed left it
    (tmp_path / "mounted" / ".config.123.tmp.yaml").write_text("env:\n")
    assert folders.make(dataclasses.replace(config, run_dir="mounted")) == Path("mounted")
    shutil.rmtree(tmp_path / "mounted")

    def replace(old, new):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="Read-only file system; set run_dir=PATH"):
        folders.make(dataclasses.replace(config, run_dir=str(tmp_path / "other")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_broken_and_cheating_files_are_only_refused():
    """The short form of `make fuzz`."""
    counts = fuzz.fuzz(seconds=12)
    assert counts["refused"] > 200
