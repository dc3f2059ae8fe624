"""Messages name a command that is there: make in a checkout, the program itself where it was installed."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from atari_dqn.cli import make
from atari_dqn.cli.commands import COMMANDS
from atari_dqn.utils import hints
from atari_dqn.utils.hints import hint

HINTS = [
    ("resume", {"RUN": "runs/a b"}, "make resume RUN='runs/a b'", "atari-dqn train resume='runs/a b'"),
    ("evaluate", {"CKPT": Path("runs/x")}, "make evaluate CKPT=runs/x", "atari-dqn evaluate checkpoint=runs/x"),
    ("video", {"CKPT": "..."}, "make video CKPT=...", "atari-dqn video checkpoint=..."),
    ("train", {"GAME": "CartPole"}, "make train GAME=CartPole", "atari-dqn train env=cartpole"),
    (
        "train", {"GAME": "Pong", "PRESET": "laptop"}, "make train GAME=Pong PRESET=laptop",
        "atari-dqn train env.game=Pong preset=laptop",
    ),
    ("games", {}, "make games", "atari-dqn games"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "values", "here", "installed"), HINTS)
def test_a_hint_is_for_where_the_person_is(target, values, here, installed, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert hint(target, **values) == f"`{here}`" and hints.program() == "python -m atari_dqn"
    monkeypatch.chdir(ROOT / "tests")  # where make would find no Makefile
    assert hint(target, **values) == f"`{installed}`"
    monkeypatch.chdir(tmp_path)  # an editable install, used elsewhere
    assert hint(target, **values) == f"`{installed}`" and hints.program() == "atari-dqn"


@pytest.mark.parametrize("makefile", [False, True])
def test_an_installed_package_has_no_makefile_of_its_own(makefile, monkeypatch, tmp_path):
    """In site-packages; somebody else's Makefile in the working directory is another project's."""
    package = tmp_path / "site-packages" / "atari_dqn" / "utils"
    package.mkdir(parents=True)
    shutil.copy(hints.__file__, package)
    monkeypatch.setattr(hints, "__file__", str(package / "hints.py"))
    project = tmp_path / "project"
    project.mkdir()
    if makefile:
        (project / "Makefile").write_text("resume:\n\trm -rf .\n")
    for folder in (project, tmp_path / "site-packages"):
        monkeypatch.chdir(folder)
        assert hint("resume", RUN="x") == "`atari-dqn train resume=x`"
        assert hints.reinstall() == "a new virtual environment"


def test_a_hint_means_to_the_program_what_it_means_to_make(monkeypatch, tmp_path):
    targets = make.targets((ROOT / "Makefile").read_text())
    monkeypatch.chdir(tmp_path)
    for target, values, _, _ in HINTS:
        typed = {name: str(value).replace(" ", "_") for name, value in values.items()}
        started = [word for word in make.command(target, targets[target], typed) if word != "env=atari"]
        assert started == hint(target, **typed).strip("`").split()[1:]
        assert started[0] in {*COMMANDS, "games"}


def test_all_messages_ask_for_their_hints():
    said = re.compile(r"`make [a-z]+")
    for path in (ROOT / "atari_dqn").rglob("*.py"):
        text = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text())
        for line in text.splitlines() if path.name not in ("make.py", "hints.py") else []:
            assert not said.search(line) or "in_checkout()" in line, f"{path}: {line}"
