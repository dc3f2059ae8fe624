"""Games x seeds on Ray: real raylets, one of them killed; emulators in actors, equal to local ones; runs at a URL."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torture
from clusters import command, environment, lose_a_node
from conftest import QUIET, small_run
from test_saving import CARTPOLE, Stop

from atari_dqn.checkpoint import checkpoints
from atari_dqn.config import compose
from atari_dqn.envs import factory
from atari_dqn.envs.base import CUT, ORDINARY
from atari_dqn.envs.remote import RemoteEmulators
from atari_dqn.sweep import display, storage, sweep
from atari_dqn.training import launch
from atari_dqn.training.run import Run
from atari_dqn.utils import ray_cluster
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError

SWEEP = ["sweep", "sweep.games=CartPole-v1", *torture.GAMES["CartPole"], *QUIET]


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine with two CPUs, whatever share of it this test may use, for emulators in actors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_cluster.machine, "cpus", lambda: 2)
        joined = ray_cluster.join(None)
    yield joined
    joined.shutdown()


def composed(*words: str):
    return compose.to_train_config(compose.compose("train", [*words]))


# ------------------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize(
    ("words", "there", "gets"),
    [
        ([], {"GPU": 2.0}, 0.25), ([], {}, 0), (["device=cuda"], {"GPU": 1.0}, 0.25), (["device=cpu"], {"GPU": 1.0}, 0),
        (["sweep.gpus=0.5", "device=cpu"], {"GPU": 1.0}, 0.5), (["device=cuda"], {}, "the cluster has no GPU"),
        (["device=cuda", "sweep.gpus=0"], {"GPU": 1.0}, "sweep.gpus=0 gives the runs none"),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_of_a_sweep_gets_its_share_of_a_gpu(words, there, gets):
    train, asked = compose.apart(compose.compose("sweep", ["sweep.games=Pong", *words]), "sweep")
    config = compose.to_train_config(train)
    if isinstance(gets, str):
        with pytest.raises(UserError, match=gets):
            sweep.gpus_of(config, asked, there)
    else:
        assert sweep.gpus_of(config, asked, there) == gets


def test_a_sweep_that_loses_a_node_ends_as_an_untouched_one(tmp_path):
    """Two seeds on two nodes, one killed in the middle; then the same command again, and with other settings."""
    steps, store, words = 6_000, tmp_path / "sweep", [*SWEEP, "sweep.seeds=2"]
    words = command(*words, f"total_steps={steps}", f"sweep.storage={store}")
    under_way = lose_a_node(store, words, steps)
    assert len(under_way) == 2
    logs = [(store / f"CartPole-v1-seed{seed}.log").read_text() for seed in (1, 2)]
    assert sum("resuming" in log for log in logs) == 1
    for seed in (1, 2):
        untouched = tmp_path / f"untouched{seed}"
        small_run(untouched, *torture.GAMES["CartPole"], f"total_steps={steps}", f"seed={seed}").go()
        expected, found = torture.left_behind(untouched), torture.left_behind(store / f"CartPole-v1-seed{seed}")
        assert [key for key in expected if expected[key] != found[key]] == []
    again = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "2 of 2 runs done" in again.stdout and "Ray" not in again.stdout
    other = subprocess.run([*words, "seed=2", "agent.double=true"], env=environment(), capture_output=True, text=True)
    assert other.returncode == 2 and "was started with different agent.double" in other.stderr


def test_a_failed_run_does_not_stop_the_others_and_a_stopped_sweep_goes_on(tmp_path):
    """Runs at a URL, so from disk to disk; Ctrl-C in the middle; one run's place is taken by a file."""
    store = tmp_path / "bucket"
    words = command(*SWEEP, "sweep.seeds=2", "total_steps=6000", f"sweep.storage=file://{store}")
    store.mkdir()
    (store / "CartPole-v1-seed2").write_text("in the way")
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 90
    while not (store / "CartPole-v1-seed1" / "checkpoints" / "latest.pt").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=90)[0]
    first = store / "CartPole-v1-seed1"
    assert (
        "CartPole-v1-seed1: stopped" in said and json.loads((first / "process.json").read_text())["ended"] == "stopped"
    )
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "1 of 2 runs done" in done.stdout, done.stdout + done.stderr
    assert (
        "1 of 2 runs failed" in done.stderr
        and "CartPole-v1-seed2" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )
    assert "resuming" in (store / "CartPole-v1-seed1.log").read_text()
    untouched = tmp_path / "untouched"
    small_run(untouched, *torture.GAMES["CartPole"], "total_steps=6000").go()
    expected, found = torture.left_behind(untouched), torture.left_behind(first)
    assert [key for key in expected if expected[key] != found[key]] == []


def test_what_a_sweep_is_of():
    config = composed()
    for name, count in (("atari57", 57), ("Atari26", 26), ("nature49", 49)):
        games = sweep.games_of(name, "atari")
        assert len({*games}) == count and all(compose.game_name("atari", game) == game for game in games)
    asked = compose.to_object(compose.compose("sweep", ["sweep.games=pong,ms_pacman,Pong", "sweep.seeds=2", "seed=4"]))
    config.seed = 4
    jobs = sweep.plan(config, asked.sweep, ["seed=4", "sweep.seeds=2"])
    assert [job.name for job in jobs] == ["Pong-seed4", "MsPacman-seed4", "Pong-seed5", "MsPacman-seed5"]
    assert jobs[3].config.env.game == "MsPacman" and jobs[3].config.seed == 5 and jobs[3].typed == ["seed=4"]
    needs = sweep.needs(composed(), asked.sweep, 0)
    assert 8.0e9 < needs["memory"] < 8.2e9 and sweep.needs(composed(), asked.sweep, 0.25)["memory"] == 1e9
    assert sweep.needs(composed("replay.device=cpu"), asked.sweep, 0.25)["memory"] == needs["memory"]


def test_the_table_counts(tmp_path):
    with open(tmp_path / "out", "w") as file:
        view = display.Scoreboard(Console(file=file, width=80), {f"Pong-seed{i}": 1000 for i in range(4)}, 4)
        view.ended("Pong-seed0", display.Outcome("finished", "", 9.0))
        view.ended("Pong-seed1", display.Outcome("failed", "no memory", 9.0))
        view.told({"Pong-seed0": display.Told(1, "a"), "Pong-seed2": display.Told(1, "a", 500, 200.0)})
        view.told({"Pong-seed2": display.Told(2, "b", None)})
        view.told({"Pong-seed2": display.Told(2, "b", 500, 200.0)})
        # 500 steps of one run and 1,000 of one that waits, 4 frames each, at 200 frames a second
        assert view._line() == ("4 runs: 1 done, 1 running, 1 waiting, 1 failed  200 frames/s in total  left 0:00:30")
    text = (tmp_path / "out").read_text()
    assert "Pong-seed1: failed after 0:00:09: no memory" in text
    assert text.count("its worker or machine was lost; restarted on b") == 1


class Breaks(Exception):
    pass


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    small_run(folder, *CARTPOLE, "total_steps=2000").go()
    return folder


@pytest.mark.parametrize("break_after", [0, 5, None])
def test_a_copy_that_breaks_off_leaves_the_checkpoint_before_it(break_after, untouched, tmp_path, monkeypatch):
    """A run's copies at a URL: whatever file is the last that got there, what is there can be gone on from."""
    store = storage.Store(f"file://{tmp_path / 'bucket'}")
    run = small_run(tmp_path / "here", *CARTPOLE, "total_steps=2000")
    mirror = storage.Mirror(store, "run", run.folder, print)
    put, left = store.files.put_file, [10**6]

    def put_file(*words, **more):
        left[0] -= 1
        if left[0] < 0:
            raise Breaks
        put(*words, **more)

    monkeypatch.setattr(store.files, "put_file", put_file)
    run.go(mirror, Stop(run, 900))
    mirror.push()
    run = Run(run.config, run.folder, Console(quiet=True), checkpoints.newest(run.folder, print))
    run.go(Stop(run, 1300))
    if break_after is not None:
        left[0] = break_after
        with pytest.raises(Breaks):
            mirror.push()
    else:
        mirror.push()
    there = tmp_path / "there"
    storage.Mirror(store, "run", there, print).pull()
    said = []
    resumed = checkpoints.newest(there, said.append)
    assert resumed and not said and resumed.checkpoint.agent_steps >= 900
    asked = composed(*CARTPOLE, "total_steps=2000")
    launch.resume(there, asked, [], Console(quiet=True))
    expected, found = torture.left_behind(untouched), torture.left_behind(there)
    assert [key for key in expected if expected[key] != found[key]] == []


# ----------------------------------------------------------------------------------------------------- emulators=ray


@pytest.mark.parametrize(("words", "count"), [(("env.game=Breakout", "env.max_frames=300"), 5), (("env=cartpole",), 4)])
def test_games_in_actors_equal_local_ones(ray, words, count):
    """Frames, rewards, flags and games' ends of 120 turns, twice begun, from shares of unequal size."""
    config = composed(*words, "emulators=ray", "emulators.actors=2")
    local, remote = factory.make_emulators(config.env, count), RemoteEmulators(config.env, count, config.emulators)
    assert (remote.frame_shape, remote.frame_dtype, remote.actions) == (
        local.frame_shape, local.frame_dtype, local.actions,
    )  # fmt: skip
    rng, ended = np.random.default_rng(0), 0
    for seeds in ([*range(count)], [*range(7, 7 + count)]):
        assert (local.reset(seeds) == remote.reset(seeds)).all()
        for _ in range(120):
            actions = rng.integers(len(local.actions), size=count)
            local.send(actions)
            remote.send(actions)
            one, other = local.recv(), remote.recv()
            assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(one[:3], other[:3], strict=True))
            assert one.games == other.games
            ended += len(one.games)
        some = np.arange(count) % 3 == 1
        assert (local.reset(seeds[::-1], some)[some] == remote.reset(seeds[::-1], some)[some]).all()
    assert ended >= count
    remote.close()
    local.close()


def test_the_games_of_a_lost_actor_are_cut_off_and_begun_anew(ray):
    config = composed("env.game=Breakout", "emulators=ray", "emulators.actors=2")
    said: list[str] = []
    local, remote = factory.make_emulators(config.env, 4), RemoteEmulators(config.env, 4, config.emulators, said.append)
    local.reset([1, 2, 3, 4])
    before = remote.reset([1, 2, 3, 4])
    rng = np.random.default_rng(0)
    for turn in range(60):
        actions = rng.integers(4, size=4)
        if turn == 20:
            ray.kill(remote._players[1])
        local.send(actions)
        remote.send(actions)
        one, other = local.recv(), remote.recv()
        assert all((a[:2] == b[:2]).all() for a, b in zip(one[:3], other[:3], strict=True))  # those of the first actor
        if turn == 20:
            assert (other.flags[2:] == CUT).all() and (other.frames[2:] == before[2:]).all() and not other.games
        elif turn == 21:
            assert (other.flags[2:] == ORDINARY).all() and (other.rewards[2:] == 0).all()
            fresh = factory.make_emulators(config.env, 4)
            start = fresh.reset([1, 2, 3, 4])
            assert (
                np.abs(other.frames[2:].astype(int) - start[2:]).mean(axis=(1, 2)) < 5
            ).all()  # a game's first frame
        before = other.frames
    assert "2 games are truncated" in said[-1] and len(said) == 2
    remote.close()


def test_a_run_whose_games_are_in_actors_equals_a_local_one(ray, tmp_path):
    """Both networks, the replay and all rows; also where it is stopped and goes on with local games."""
    small_run(tmp_path / "local", *CARTPOLE).go()
    run = small_run(tmp_path / "remote", *CARTPOLE, "emulators=ray", "emulators.actors=2")
    run.go(Stop(run, 2_300))
    launch.resume(tmp_path / "remote", composed(*CARTPOLE, "emulators=local"), ["emulators=local"], Console(quiet=True))
    assert launch.saved_config(tmp_path / "remote").emulators.kind == "local"
    expected, found = torture.left_behind(tmp_path / "local"), torture.left_behind(tmp_path / "remote")
    assert [key for key in expected if expected[key] != found[key]] == []


def test_what_ray_cannot_do_is_said(ray):
    config = composed("env.game=Pong", "emulators=ray", "emulators.actors=900", "num_envs=1000", "replay.capacity=1M")
    with pytest.raises(UserError, match=r"emulators\.actors=900: Ray has \d+ free CPUs"):
        RemoteEmulators(config.env, 1000, config.emulators)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
