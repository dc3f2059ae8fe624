"""Hydra's multirun: several runs of one command, jobs of submitit that are put back into the queue, Optuna."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torture
from clusters import command, environment
from conftest import QUIET, small_run

SHORT = [*torture.GAMES["CartPole"], *QUIET]


def run(folder: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("train", "-m", *SHORT, *words), cwd=folder, env=environment(), capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


def test_a_failed_run_does_not_stop_the_others_and_folders_never_collide(tmp_path):
    """Four runs, two of which are given the same settings; one of them cannot be."""
    done = run(tmp_path, "total_steps=300", "seed=1,1", "replay.warmup_steps=200,99999999")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all("or learning never starts" in line for line in lines[:2]) and "Error executing job" in lines[2]
    assert lines[3] == "atari_dqn: 2 of 4 runs failed: " + "; ".join(["seed=1 replay.warmup_steps=99999999"] * 2)
    assert len(lines) == 4
    folders = sorted((tmp_path / "runs").glob("CartPole*"))
    assert len(folders) == 2 and all((folder / "checkpoints" / "latest.pt").exists() for folder in folders)


def until(is_so, seconds: float = 60.0):
    """Wait for something; what it was."""
    end = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_ctrl_c_saves_the_run_and_begins_no_other(tmp_path):
    process = subprocess.Popen(
        command("train", "-m", *SHORT, "total_steps=200000", "seed=1,2,3"), cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert until(lambda: [*tmp_path.glob("runs/*/checkpoints/latest.pt")])
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped on request" in said and not wrong
    assert len([*tmp_path.glob("runs/*/config.yaml")]) == 1


def test_a_job_that_must_give_way_is_queued_again_and_ends_as_an_untouched_run(tmp_path):
    """submitit's own processes; SIGUSR2 is what Slurm sends before a job's time is over, or another one's begins."""
    process = subprocess.Popen(
        command(
            "train", "-m", *SHORT, "total_steps=6000", "hydra/launcher=submitit_local",
        ),
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    latest = until(lambda: [*tmp_path.glob("runs/CartPole*job*/checkpoints/latest.pt")])
    assert latest
    folder = latest[0].parent.parent
    pid = json.loads((folder / "process.json").read_text())["pid"]
    os.kill(pid, signal.SIGUSR2)
    said = process.communicate(timeout=90)[0]
    assert process.returncode == 0, said
    assert json.loads((folder / "process.json").read_text())["pid"] != pid
    log = "".join(path.read_text() for path in tmp_path.glob("runs/multirun/*/jobs/*/*_log.out"))
    assert "stopped on request" in log and f"resuming {folder.relative_to(tmp_path)}" in log
    assert [path.name for path in tmp_path.glob("runs/CartPole*")] == [folder.name]
    small_run(tmp_path / "untouched", *torture.GAMES["CartPole"], "total_steps=6000").go()
    expected, found = torture.left_behind(tmp_path / "untouched"), torture.left_behind(folder)
    assert [key for key in expected if expected[key] != found[key]] == []


def test_optuna_finds_what_learns_most_and_a_failed_trial_is_no_end(tmp_path):
    done = run(
        tmp_path, "total_steps=1500", "hydra/sweeper=tune", "hydra.sweeper.n_trials=6", "hydra.sweeper.params={}",
        "replay.warmup_steps=400,99999999",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = next(tmp_path.glob("runs/multirun/*/optimization_results.yaml")).read_text()
    assert "replay.warmup_steps: 400" in results and "best_value" in results


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_slurm"], "slurm"),
        ("hydra_plugins.hydra_optuna_sweeper", ["hydra/sweeper=tune"], "tune"),
    ],
)
def test_a_plugin_that_is_missing_is_named(missing, words, extra, tmp_path):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from atari_dqn.__main__ import main; "
        f"sys.exit(main({['train', '-m', 'env=cartpole', *words]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and f"pip install 'atari-dqn[{extra}]'" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
