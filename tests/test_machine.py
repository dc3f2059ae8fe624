"""Memory: what is there, what a container leaves, and refusing in time."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import QUIET, ROOT, small_run

from atari_dqn import SPIN
from atari_dqn.config.schema import Goal
from atari_dqn.data import scores
from atari_dqn.envs.base import Game
from atari_dqn.tracking.callback import Callback
from atari_dqn.tracking.callbacks import Guarded
from atari_dqn.tracking.goals import Goals
from atari_dqn.training import capacity
from atari_dqn.utils import devices, machine
from atari_dqn.utils.errors import UserError


def test_a_replay_that_cannot_fit_names_the_largest_that_does(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda device: 4_000_000_000)
    with pytest.raises(UserError, match=r"takes 7\.06 GB, but only 4\.00 GB") as refusal:
        capacity.check_replay_fits(1_000_000, 7_062, torch.device("cpu"))
    largest = int(re.search(r"REPLAY=(\d+)", str(refusal.value))[1])
    assert largest == 420_000  # 3 GB / 7062, to two digits
    assert "420,000" in capacity.check_replay_fits(largest, 7_062, torch.device("cpu"))


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts(tmp_path, version):
    folder, limit, used, cache = {
        1: (tmp_path / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: (tmp_path, "memory.max", "memory.current", "inactive_file"),
    }[version]
    own = tmp_path / "own"
    own.write_text("0::/job/step\n" if version == 2 else "9:cpu:/x\n4:memory:/job/step\n")
    assert machine.cgroup_headroom(tmp_path, own) is None
    folder = folder / "job"  # the limit of a group above our own
    (folder / "step").mkdir(parents=True)
    (folder / limit).write_text("8000000000\n")
    (folder / used).write_text("3000000000\n")
    (folder / "memory.stat").write_text(f"anon 5\n{cache} 1000000000\n")
    assert machine.cgroup_headroom(tmp_path, own) == 6_000_000_000
    (folder / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert machine.cgroup_headroom(tmp_path, own) is None


def test_a_containers_share_of_the_cpus_counts(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/\n")
    free = machine.cpus(tmp_path, own)
    assert 1 <= free <= os.cpu_count()
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.cpus(tmp_path, own) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cpus(tmp_path, own) == free


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that seems to have two GPUs; which of them were made the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"card {device}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 9)
    return current


def test_the_gpu_that_is_chosen_is_the_current_one(two_gpus):
    chosen = [str(devices.choose_device(name)) for name in ("cuda:1", "cuda", "cuda:1", "auto", "cuda:0", "cpu")]
    assert chosen == ["cuda:1", "cuda", "cuda:1", "cuda", "cuda:0", "cpu"]
    assert two_gpus == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("name", ["cuda:2", "cuda:128", "cuda:255", "cuda:256", "cuda:x", "cuda:-1", "cuda:", ""])
def test_a_gpu_that_is_not_there_is_refused(name, two_gpus):
    with pytest.raises(UserError, match=f"device={name}: "):
        devices.choose_device(name)
    assert not two_gpus


@pytest.fixture
def switches():
    """What torch was told of determinism; as it was at first again, in the end."""
    from torch._inductor import config as compiler

    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield lambda: (torch.backends.cudnn.deterministic, getattr(compiler, "deterministic", None))
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
    devices.set_deterministic(False, torch.device("cpu"))


def test_what_is_asked_of_determinism_is_what_torch_is_told(switches, two_gpus, monkeypatch):
    torch.backends.cudnn.benchmark = True
    older = None if switches()[1] is None else False  # of a torch whose compiler has no switch
    for on, device in ((True, "cuda:1"), (False, "cuda:1"), (True, "cuda"), (True, "cpu")):
        devices.set_deterministic(on, torch.device(device))
        told = on and device != "cpu"
        assert switches() == (told, told if older is False else None) and not torch.backends.cudnn.benchmark
        said = devices.numerics(torch.device("cuda:1"))
        assert said["compute.deterministic"] == str(told).lower() and said["GPU"] == "card cuda:1"
    assert os.environ[devices.WORKSPACE] in devices.WORKSPACES  # since before any product
    monkeypatch.setenv(devices.WORKSPACE, ":0:0")
    with pytest.raises(UserError, match="leave it unset"):
        devices.set_deterministic(True, torch.device("cuda"))
    devices.set_deterministic(True, torch.device("cpu"))
    devices.set_deterministic(False, torch.device("cuda"))


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_tells_torch_what_its_config_says(asked, monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(devices, "set_deterministic", lambda *what: told.append(what))
    run = small_run(tmp_path / "run", "env=cartpole", "device=cpu", f"compute.deterministic={asked}")
    run.emulators.close()
    assert told == [(asked, torch.device("cpu"))]
    assert not {"GPU", "compute.deterministic"} & {*devices.numerics(run.device)}


def test_human_normalised_scores():
    assert len(scores.random_and_human()) == 57
    assert scores.human_normalised("Breakout", 1.7) == 0 and scores.human_normalised("Breakout", 30.5) == 1
    assert scores.human_normalised("CartPole-v1", 500) is None


def test_goals_need_consecutive_games_and_are_told_once():
    goals = Goals([Goal(score=10, games=3, note="ten"), Goal(score=20, games=2, note="twenty", stop=True)])
    told = [
        [goal.note for goal, _ in goals.add(Game(0, score, 1, False))] for score in (30, 9, 9, 0, 10, 20, 20, 20, 20)
    ]
    assert told == [[], [], ["ten"], [], [], [], ["twenty"], [], []]


def test_a_failing_tracker_is_told_once_and_stops_nothing():
    class Failing(Callback):
        def metrics(self, row):
            raise ConnectionError("no network")

    said = []
    tracker = Guarded("W&B", Failing, said.append)
    for _ in range(3):
        tracker.metrics({})
    tracker.close()
    assert len(said) == 1 and "W&B failed" in said[0] and "no network" in said[0]


@pytest.mark.parametrize(
    ("chosen", "spins", "said"),
    [
        ({}, "'3000'", "GOMP_SPINCOUNT=3000, KMP_BLOCKTIME=0"),
        ({"GOMP_SPINCOUNT": "17"}, "'17'", "GOMP_SPINCOUNT=17"),
        ({"OMP_WAIT_POLICY": "passive"}, "'0'", "OMP_WAIT_POLICY=passive"),
        ({"KMP_BLOCKTIME": "5"}, "'300000'", "KMP_BLOCKTIME=5"),
    ],
    ids=["ours", "theirs", "policy", "another library's"],
)
def test_idle_threads_sleep_unless_a_person_chose_otherwise(chosen, spins, said):
    """What OpenMP's library itself says that it read, when torch loads it after us."""
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", *SPIN)}
    code = "import sys, atari_dqn\nassert 'torch' not in sys.modules\n"
    code += "from atari_dqn.utils import machine\nprint(machine.spinning())"
    environment = clean | {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(ROOT)} | chosen
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch uses another OpenMP library than GOMP here")
    assert f"GOMP_SPINCOUNT = {spins}" in done.stderr and done.stdout.strip() == said


def test_a_busy_machine_is_told_of(monkeypatch):
    """Wall clock, own CPU time, and the machine's total and idle time, of 2 CPUs."""
    now = iter([(0, 0, 0, 0), (2, 1, 4, 0), (6, 6, 12, 0.3), (16, 24, 32, 2), (26, 34, 52, 8)])
    monkeypatch.setattr(machine.CpuShare, "_now", staticmethod(lambda: next(now)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    share = machine.CpuShare()
    assert share.word() == ""  # too short to tell
    assert share.word() == "busy machine: this run gets 1.0 of 2 CPUs"
    assert share.word() == ""  # 1.8 of 2
    assert share.word() == ""  # 1 of 2, but it asked for no more: the machine was idle


def test_an_apple_gpu_trains(inside):
    if not torch.backends.mps.is_available():
        pytest.skip("no Apple GPU here, so device=mps is not tested")
    short = ["env=cartpole", "total_steps=64", "num_envs=2", "replay.warmup_steps=32", "evaluation.episodes=1"]
    done = inside("train", *QUIET, *short, "device=mps")
    assert done.returncode == 0, done.stderr


def test_a_run_flushes_denormals_whatever_another_library_did():
    torch.set_flush_denormal(False)  # as a session of onnxruntime does
    devices.choose_device("cpu")
    assert (torch.tensor([1e-38]) * 1e-3).item() == 0
