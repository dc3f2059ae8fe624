"""What is published: the wheel, its extras, and what the program says where a package is missing."""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from conftest import ROOT
from hydra._internal.utils import get_args_parser

import atari_dqn
from atari_dqn.cli import hydra_app
from atari_dqn.utils import extras
from atari_dqn.utils.errors import UserError


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a stranger does: from the source distribution, which holds nothing else."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: `make setup`")
    folder = tmp_path_factory.mktemp("dist")
    for kind, source in (("sdist", ROOT), ("wheel", folder / f"atari_dqn-{atari_dqn.__version__}")):
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        if kind == "sdist":
            shutil.unpack_archive(*folder.glob("*.tar.gz"), folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith("/METADATA"))
        return HeaderParser().parsestr(file.read(name).decode())


def test_the_wheel_holds_the_program_and_its_settings_and_nothing_else(wheel):
    def tree(folder: str) -> set[str]:
        found = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
        return {path.as_posix() for path in found if "__pycache__" not in path.parts}

    expected = tree("atari_dqn") | {f"atari_dqn/{name}" for name in tree("conf")}
    with zipfile.ZipFile(wheel) as file:
        assert {name for name in file.namelist() if ".dist-info/" not in name} == expected
    assert {"atari_dqn/py.typed", "atari_dqn/conf/train.yaml", "atari_dqn/data/curves.csv"} < expected


def test_the_metadata_says_what_the_code_says(wheel, metadata):
    version = atari_dqn.__version__
    assert metadata["Version"] == version and f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert {*extras.EXTRAS.values()} <= {*metadata.get_all("Provides-Extra")}
    names = [word for word in metadata.get_all("Classifier") if re.search(r":: 3\.\d+$", word)]
    assert metadata["Requires-Python"] == "<3.15,>=3.10" and len(names) == 5
    makefile = (ROOT / "atari_dqn/cli/make.mk").read_text()
    assert "(3, 10) <= sys.version_info[:2] <= (3, 14)" in makefile
    core = [name for name in metadata.get_all("Requires-Dist") if "extra ==" not in name]
    assert not {re.split(r"[<>=]", name)[0] for name in core} & {*extras.EXTRAS} and len(core) < 13
    everything = [name for name in metadata.get_all("Requires-Dist") if "extra == 'all'" in name]
    assert [name for name in everything if "rliable" in name and "python_version < '3.14'" in name], everything
    pytest.importorskip("twine", reason="twine is not installed: pip install twine")
    for path in (wheel, *wheel.parent.glob("*.tar.gz")):
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", path], check=True, capture_output=True)


LEAN = """
import contextlib, importlib, io, json, pkgutil, sys
import atari_dqn
from atari_dqn.utils import errors, extras
sys.modules.update(dict.fromkeys(extras.EXTRAS))  # None: as if it were not installed
from atari_dqn.__main__ import main
told = [atari_dqn.__file__]
for words in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    told.append([code, out.getvalue()])
for module in pkgutil.walk_packages(atari_dqn.__path__, "atari_dqn."):
    with contextlib.suppress(errors.UserError):
        importlib.import_module(module.name)
print(json.dumps(told))
"""
CORE = """
train env=cartpole total_steps=64 num_envs=2 evaluation.episodes=1 run_dir=run
evaluate checkpoint=run evaluation.episodes=1
runs runs=.
games
train env=cartpole logger.wandb=online => logger.wandb=online needs wandb | wandb
train env=cartpole logger.tensorboard=true => logger.tensorboard=true needs tensorboard | tensorboard
train resume=run evaluation.video_seconds=9 => evaluation.video_seconds=9 needs av | video
train env=cartpole emulators=ray => a sweep or emulators=ray needs ray | sweep
video checkpoint=run => a video needs av | video
video checkpoint=run view=inspect => text in a picture needs PIL | video
watch checkpoint=run => a window needs pygame | play
play env.game=Pong => playing by hand needs pygame | play
compare run=run => the plot needs matplotlib | report
report run=run => a report needs plotly | report
dashboard runs=. => the dashboard needs plotly | report
aggregate => aggregate needs rliable | aggregate
sweep sweep.games=Pong => a sweep needs ray and fsspec | sweep
demo => the demo needs av and matplotlib | video,report
"""


def test_the_wheel_s_core_trains_and_names_the_extra_of_whatever_else_is_asked(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    (tmp_path / "here/wandb").mkdir(parents=True)  # a folder of runs, not the package
    lines = CORE.strip().splitlines()
    done = subprocess.run(
        [sys.executable, "-c", LEAN],
        cwd=tmp_path / "here",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path[1:]]), "COLUMNS": "80"},
        input=json.dumps([line.partition(" => ")[0].split() for line in lines]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    where, *told = json.loads(done.stdout)
    assert where.startswith(str(tmp_path / "site"))
    for line, (code, said) in zip(lines, told, strict=True):
        _, _, refused = line.partition(" => ")
        needs, _, extra = refused.partition(" | ")
        expected = f"atari_dqn: {needs}, not installed here: pip install 'atari-dqn[{extra}]'\n"
        assert (code, said) == (2, expected) if refused else code == 0, f"{line}\n{said}"
        assert "Traceback" not in said and "make " not in said
    off = "off in this run, because not installed: W&B, TensorBoard, videos (pip install 'atari-dqn[wandb,tensorboard,"
    assert told[0][1].count(off) == 1 and "score it: `atari-dqn evaluate checkpoint=run`" in told[0][1]
    assert "no videos" not in told[0][1]


def test_what_is_missing_is_told_apart_from_what_is_broken(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "prefix", f"{ROOT}/.venv")
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(UserError, match=r"^a report needs plotly, not installed here: `make setup`$"):
        extras.load("plotly.offline", "a report")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minari").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "minari", raising=False)
    if not importlib.metadata.packages_distributions().get("minari"):
        assert not extras.there("minari")  # a folder is no package
    (tmp_path / "minari/__init__.py").write_text("import ctypes\nraise ImportError('libX.so is missing')")
    with pytest.raises(UserError, match=r"^collect needs minari, which cannot be loaded \(libX.so is missing\); try "):
        extras.load("minari", "collect")


def test_hydra_s_parser_passes_the_check_of_python_3_14(monkeypatch):
    add = argparse.ArgumentParser._add_action

    def check(self: argparse.ArgumentParser, action: argparse.Action) -> None:
        if action.help and "%z" in action.help:
            raise ValueError("badly formed help string")

    def checked(self: argparse.ArgumentParser, action: argparse.Action) -> argparse.Action:
        self._check_help(action)
        return add(self, action)

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "_add_action", checked)
    with pytest.raises(TypeError):
        get_args_parser()
    hydra_app._spare_lazy_help.__wrapped__()
    assert get_args_parser().parse_args(["a=1"]).overrides == ["a=1"]
    with pytest.raises(ValueError, match="badly formed"):
        argparse.ArgumentParser().add_argument("--x", help="%z")
