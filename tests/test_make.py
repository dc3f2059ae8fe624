"""What is typed on make's command line: checked before anything runs, and passed on to the letter."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import QUIET, ROOT

from atari_dqn.analysis import run_folders
from atari_dqn.checkpoint import folders
from atari_dqn.cli import make
from atari_dqn.config import compose

WORDS = {  # what make, a shell, sed or printf would each make something of
    "GAME": 'it\'s "$HOME" $(shell touch oops) `touch oops` $$ \\ # 100% ; touch oops',
    "PRESET": "'; touch oops; '",
    "SEED": "é ε\n2",
    "REPLAY": "$(error oops)",
    "ARGS": "'output=x y.json' 'a=$HOME' b=\"it's\" c=d\\ e",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a folder with a blank and an accent, whose program says what it was started with."""
    root = tmp_path / "é x"
    (root / "atari_dqn/cli").mkdir(parents=True)
    (root / ".venv/bin").mkdir(parents=True)
    (root / "benchmarks").mkdir()
    copied = ["Makefile", "benchmarks/Makefile", "atari_dqn/cli/make.mk", "atari_dqn/cli/make.py"]
    for name in (*copied, "requirements.lock", "extras.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "atari_dqn/__init__.py").touch()
    (root / "atari_dqn/__main__.py").write_text(
        "import json, os, sys; print(json.dumps([sys.argv[1:], [n for n in os.environ if n in ('ARGS', 'MAKEFLAGS')]]))"
    )
    script(root / ".venv/bin/python", f'case "$*" in *find_spec*) echo 1;; *) exec "{sys.executable}" "$@";; esac')
    (root / ".venv/.ready").touch()
    return root


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}\n")
    path.chmod(0o755)


def run_make(root: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    hidden = (*make.VARIABLES, "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHONPATH", "PYTHON")
    clean = {key: value for key, value in os.environ.items() if key not in hidden}
    command = [os.environ.get("TEST_MAKE", "make"), *words]
    return subprocess.run(
        command, cwd=root, env=clean | {"LC_ALL": "C"} | env, capture_output=True, text=True, timeout=60,
        encoding="utf-8",
    )  # fmt: skip


WRONG = """
train game=Pong => does not use game= (did you mean GAME?); it uses GAME, SEED
train GAMES=Pong => does not use GAMES= (did you mean GAME?)
evaluate RUN=runs/x => does not use RUN= (did you mean CKPT?)
sweep GAMES=Pong seed=3 => did you mean SEED?
train total_steps=20k => did you mean STEPS?
train lr=1 => any other setting goes into ARGS=
clean SEED=1 => it takes no variables
games GAME=Pong => does not use GAME=; it takes no variables
games VENV=elsewhere => does not use VENV=
games CHECK=: FITS=: => does not use CHECK=
train TYPED= GOALS= game=Pong => does not use GOALS=
train BIN='$(shell touch oops)' => does not use BIN=
help gaem=Pong => did you mean GAME?
SEDE=1 => did you mean SEED?
train evaluate => `make evaluate` needs CKPT: CKPT=... is missing
resume => RUN=... is missing
resume RUN= => RUN= is empty
train GAME= => GAME= is empty
train Pong => no target 'Pong'
tran => did you mean train?
train ARGS="'" => ARGS=': no closing quotation
-n train game=Pong => did you mean GAME?
-j2 train video => CKPT=... is missing
family => no target 'family'
-C benchmarks famly => did you mean family?
-C benchmarks family GAME=x => `make -C benchmarks family` does not use GAME=; it uses ARGS
-C benchmarks laptop ROOT='$(shell touch oops)' => does not use ROOT=
"""


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_what_cannot_be_meant_is_refused_before_anything_runs(line, checkout):
    typed, said = line.split(" => ")
    done = run_make(checkout, *shlex.split(typed))
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "[[" not in done.stdout and not list(checkout.rglob("oops"))


def test_no_folder_but_the_project_s_own_is_emptied_by_the_set_up(checkout):
    kept = checkout / "elsewhere/thesis.tex"
    kept.parent.mkdir()
    kept.touch()
    clears = f'case "$*" in *--clear*) rm -rf elsewhere/*; exit 1;; *) exec "{sys.executable}" "$@";; esac'
    script(checkout / "python", clears)
    for words in (["setup", "VENV=elsewhere"], ["-e", "setup"], ["clean", "VENV=elsewhere"]):
        run_make(checkout, *words, "PYTHON=./python", VENV="elsewhere")
        assert kept.exists() and len(list(kept.parent.iterdir())) == 1


def test_variables_reach_the_program_as_they_were_typed(checkout):
    game, preset, seed, replay = (WORDS[name] for name in ("GAME", "PRESET", "SEED", "REPLAY"))
    expected = ["train", "env=atari", f"env.game={game}", f"seed={seed}", f"preset={preset}"]
    expected += [f"replay.capacity={replay}", "output=x y.json", "a=$HOME", "b=it's", "c=d e"]
    typed = [f"{name}={value}" for name, value in WORDS.items()]
    outside = run_make(checkout, "train", **WORDS)
    for done in (run_make(checkout, "train", *typed), outside, run_make(checkout, "-e", "train", **WORDS)):
        assert json.loads(done.stdout) == [expected, []], done.stderr
    assert "make TARGET" in run_make(checkout, "help", *typed).stdout
    for words in (["-n", "train", *typed], ["x'; touch oops; '"], ["train", "NEW=$(shell touch oops)"]):
        run_make(checkout, *words)
    assert not list(checkout.rglob("oops*"))


def test_each_target_starts_its_command(checkout):
    def started(*words: str, **env: str) -> list[str]:
        said = run_make(checkout, *words, **env).stdout
        return json.loads(next(line for line in said.splitlines() if line.startswith("[[")))[0]

    assert started("train") == ["train", "env=atari", "env.game=Breakout"]
    assert started("profile", "GAME=cartpole-V1") == ["profile", "env=cartpole"]
    assert started("resume", "RUN=runs/a b", "STEPS=2M") == ["train", "total_steps=2M", "resume=runs/a b"]
    assert started("train", "GAME=mine:Env-v0") == ["train", "env=gymnasium", "env.game=mine:Env-v0"]
    assert started("evaluate", "CKPT=latest", SEED="3") == ["evaluate", "seed=3", "checkpoint=latest"]
    assert started("sweep", "GAMES=CartPole", "RAY=auto") == [
        "sweep", "env=cartpole", "sweep.games=CartPole-v1", "sweep.address=auto",
    ]  # fmt: skip
    assert started("play", "CKPT=x") == ["play", "checkpoint=x"] and started("play") == ["play", "env.game=Breakout"]
    # A make that another one started has that one's variables on its command line.
    assert started("games", MAKEFLAGS=" -- ARGS=-x CC=gcc", MAKELEVEL="1", ARGS="-x", CC="gcc") == ["games"]


def test_benchmarks_are_started_in_the_project_s_folder(checkout):
    program = "import json, os, sys; print(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd()]))"
    for name in ("family", "race", "sweep"):
        (checkout / f"benchmarks/{name}.py").write_text(program)
    for name in ("sb3", "cleanrl"):
        (checkout / ".peers" / name).mkdir(parents=True)
        (checkout / "benchmarks/peers").mkdir(exist_ok=True)
        (checkout / f"benchmarks/peers/{name}.txt").touch()
        (checkout / ".peers" / name / ".ready").touch()
    os.utime(checkout / ".venv/.ready", (time.time() + 9,) * 2)  # newer than what it is made from

    def started(*words: str) -> list[list[object]]:
        done = run_make(checkout, *words, GAME="it's $(shell touch oops)")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]

    root = os.path.realpath(checkout)
    assert started("-C", "benchmarks", "family", "ARGS=speed 'x y'") == [["family.py", ["speed", "x y"], root]]
    assert [words[0] for _, words, _ in started("-C", "benchmarks", "cluster")] == ["kill", "time", "actors"]
    assert not list(checkout.rglob("oops*"))
    assert started("-n", "bench", "CLEANRL=/x") == []
    refused = run_make(checkout, "-C", "benchmarks", "bench")
    assert refused.returncode == 2 and "git clone https://github.com/vwxyzjn/cleanrl" in refused.stderr


def test_help_lists_the_targets_for_users_and_help_dev_the_others(checkout):
    makefile = (checkout / "Makefile").read_text()
    listed = [
        re.findall(r"^  ([a-z0-9-]+) +\S", run_make(checkout, *words).stdout, re.MULTILINE)
        for words in ([], ["help-dev"])
    ]
    users = (
        "setup doctor games train resume demo runs evaluate video watch match play compare report dashboard sweep "
        "atari100k aggregate export import collect"
    )
    assert listed[0] == [*users.split(), "test"]
    assert {*listed[0], *listed[1], "help"} == {*make.targets(makefile)} and not {*listed[0]} & {*listed[1]}
    assert {*make.targets(makefile)} == {*re.search("TARGETS := (.*)", makefile)[1].split()}
    for folder in ("", "benchmarks"):
        for words in (["help"], ["help-dev"]) if not folder else (["help"],):
            said = run_make(checkout / folder, *words).stdout
            assert said.startswith("make ") and max(map(len, said.splitlines())) <= 80


def test_set_up_takes_a_python_that_can_and_people_s_pip_as_it_is(checkout):
    shutil.rmtree(checkout / ".venv")
    (checkout / ".venv/lib/half-made").mkdir(parents=True)
    (checkout / "requirements.lock").write_text("pip\n")
    log = checkout / "log"
    fake_python = """case "$*" in *ensurepip*) exit {0};; *.pth*) exec "{1}" "$@";; *venv*) mkdir -p .venv/bin
        cp "$0" .venv/bin/python; echo "$@" >> log;;
        *--editable*) echo editable >> log;;
        *pip*install*) exec "{1}" "$@" --dry-run --no-index;; *) exec "{1}" "$@";; esac"""
    fake = checkout.parent / "bin"
    script(fake / "python3", fake_python.format(1, sys.executable))  # as Debian's, without python3-venv
    script(fake / "python3.13", "exit 1")  # a shim of pyenv's
    path = f"{fake}:/usr/bin:/bin"
    for name in ("python3.12", "python3.11", "python3.10", "python"):
        script(fake / name, "exit 1")
    refused = run_make(checkout, "setup", PATH=path)
    assert refused.returncode == 2 and "python3 cannot make virtual environments" in refused.stderr, refused.stderr
    script(fake / "python3.12", fake_python.format(0, sys.executable))
    names = {"PIP_USER": "1", "PIP_TARGET": "/x", "PIP_PREFIX": "/x", "PYTHONHOME": "/x", "PIP_REQUIRE_VIRTUALENV": "1"}
    done = run_make(checkout, "setup", PATH=path, **names)
    assert done.returncode == 0, done.stderr + done.stdout
    assert log.read_text().splitlines() == ["-m venv --clear .venv", "editable"]
    (checkout / ".venv/.ready").rename(checkout / ".venv/.unfinished")  # as an interrupted one leaves it: anew
    assert run_make(checkout, "setup", PATH=path).returncode == 0
    (checkout / ".venv/.ready").unlink()  # as a person's own .venv: kept
    assert run_make(checkout, "setup", PATH=path).returncode == 0
    assert log.read_text().splitlines() == ["-m venv --clear .venv", "editable"] * 2 + ["editable"]
    assert (checkout / ".venv/.ready").exists() and not (checkout / ".venv/.unfinished").exists()
    (checkout / "requirements.lock").write_text(
        f"torch=={importlib.metadata.version('torch').partition('+')[0]}\npip\n"
    )
    script(fake / "uv", 'echo "uv $@" >> log; exit 1')  # it does not find what pip finds: pip does all
    assert run_make(checkout, "setup", PATH=path).returncode == 0
    uv = "uv pip install --quiet --python .venv/bin/python -r requirements.lock"
    assert log.read_text().splitlines()[5:] == [uv, "editable"]


def test_a_mistake_that_only_the_program_can_see_ends_make_as_well():
    words = ["resume", "RUN=runs/no where's"]
    done = run_make(ROOT, "-o", ".venv/.ready", *words, PYTHONPATH=str(ROOT))
    assert done.returncode == 2 and "resume=runs/no where's: not a run directory" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_newest_run_is_meant_by_latest_and_auto_whatever_its_name_says(tmp_path, inside, monkeypatch):
    """The first run's local time is a day ahead of the second's."""
    monkeypatch.chdir(tmp_path)
    short = ["env=cartpole", "total_steps=64", "num_envs=2", "replay.warmup_steps=32", "evaluation.episodes=1"]
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert inside("train", *QUIET, *short).returncode == 0
        time.sleep(1)  # process.json tells seconds
    monkeypatch.delenv("TZ")
    time.tzset()
    older, newer = sorted(Path("runs").iterdir(), reverse=True)
    os.utime(older / "config.yaml")  # not what tells when a run began
    config = compose.to_train_config(compose.compose("train", [*short, "resume=auto"]))
    assert folders.find(config) == newer

    changed = newer / "metrics.csv"
    os.utime(changed, (time.time() + 10,) * 2)
    assert f"'checkpoint: {newer}" in repr(inside("evaluate", "checkpoint=latest", "evaluation.episodes=1").stdout)
    config.resume = "latest"
    assert folders.find(config) == newer and run_folders.roots("run", "latest") == [newer]
    os.utime(older / "metrics.csv", (time.time() + 20,) * 2)
    assert folders.find(config) == older

    (tmp_path / "runs/\x1b[31mstrange").mkdir()
    (tmp_path / "runs/\x1b[31mstrange/config.yaml").write_text("env: [")
    (tmp_path / "runs/file").touch()
    listed = inside("runs")
    rows = listed.stdout.splitlines()
    assert listed.returncode == 0 and max(map(len, rows)) <= 80 and "\x1b" not in listed.stdout
    assert rows[0].split() == ["run", "steps", "state", "last", "best", "disk", "age"]
    told = {row.split()[0]: row.split()[1:3] for row in rows[1:-1] if "/" in row or "broken" in row}
    assert list(told.values()).count(["64/64", "finished"]) == 2
    assert told["?[31mstrange"] == ["?", "broken"] and rows[-1].startswith("3 runs, ")


def test_there_may_be_no_runs_yet(inside, tmp_path):
    assert "no runs in runs/ yet" in inside("runs").stdout
    assert "run=latest: no run in runs/" in inside("report", "run=latest").stderr
    assert "no such folder" in inside("runs", "runs=elsewhere").stderr and not list(tmp_path.iterdir())
