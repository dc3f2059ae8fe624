"""Paths with any letter, sign or blank in them, wherever one is typed."""

import json
import pwd
import shlex
from pathlib import Path

import pytest
from conftest import QUIET
from hydra.core.override_parser.overrides_parser import OverridesParser

from atari_dqn.config import compose
from atari_dqn.sweep.storage import Store
from atari_dqn.training import launch
from atari_dqn.utils.errors import UserError

ODD = '~é e\u0301 日本 😀 it\'s "q" [1](2){3}, a=b: c;#$HOME %d { \\'
TINY = [
    *QUIET, "env=cartpole", "num_envs=2", "total_steps=60", "replay.capacity=200", "replay.warmup_steps=20",
    "evaluation.episodes=1", "protocol.max_frames=20",
]  # fmt: skip


PATHS = [
    ODD, "'", "\\", "\\'", "it''s\\\\'", " a ", "1e3", "007", "1_000", "true", "null.pt", "a,b", "inf", "-x", "a/",
    "choice(a,b)", "a\nb", "[x",
]  # fmt: skip


@pytest.mark.parametrize("key", ["run_dir", "resume", "checkpoint", "output", "sweep.storage"])
def test_every_path_that_is_typed_is_the_path_that_is_meant(key):
    typed = [compose.as_hydra_reads(f"{key}={path}") for path in PATHS]
    assert [read.value() for read in OverridesParser.create().parse_overrides(typed)] == PATHS


def test_quotes_and_null_mean_what_they_mean_to_hydra_and_the_tilde_a_home():
    typed = {
        "'a b'": "a b",
        '"a, b"': "a, b",
        "null": None,
        "": "",
        "~": str(Path.home()),
        "~/a b": f"{Path.home()}/a b",
    }
    typed |= {f"~{pwd.getpwuid(0).pw_name}/x": f"{pwd.getpwuid(0).pw_dir}/x", "./~": "./~"}
    read = OverridesParser.create().parse_overrides([compose.as_hydra_reads(f"run_dir={word}") for word in typed])
    assert dict(zip(typed, (one.value() for one in read), strict=True)) == typed
    assert compose.as_hydra_reads("run=~/a ~/é") == f"run='{Path.home()}/a {Path.home()}/é'"
    for word in ("~nobody_of_that_name/x", "a" * 300, "a\0b", "\udcff"):
        with pytest.raises(UserError, match="run_dir="):
            compose.as_hydra_reads(f"run_dir={word}")


def test_of_several_runs_each_has_its_path():
    assert compose.as_hydra_reads("run_dir=é,b c,1e3", True) == "run_dir='é',b c,'1e3'"
    assert compose.as_hydra_reads("run_dir='a,b',it's (1),c", True) == "run_dir='a,b','it\\'s (1)',c"
    assert compose.as_hydra_reads("env.game=choice(Pong,Breakout)", True) == "env.game=choice(Pong,Breakout)"
    assert compose.as_hydra_reads("env.game=Pong,Breakout", True) == "env.game=Pong,Breakout"
    assert compose.as_hydra_reads("replay.capacity=100k,2M", True) == "replay.capacity=100000,2000000"


def test_a_run_lives_in_a_folder_of_any_name(inside, tmp_path):
    folder = tmp_path / ODD
    for words in (
        ["train", *TINY, f"run_dir={folder}"],
        ["train", f"resume={folder}", "total_steps=80"],
        ["evaluate", f"checkpoint={folder}", "evaluation.episodes=1", f"output={folder}/e:é.json"],
        ["video", f"checkpoint={folder}/checkpoints/latest.pt", "max_seconds=1", f"output={folder}/v:é.mp4"],
    ):
        done = inside(*words)
        assert done.returncode == 0, done.stderr
        assert str(folder) in done.stdout
        assert words[0] != "train" or f"evaluate checkpoint={shlex.quote(str(folder))}" in done.stdout
    assert json.loads((folder / "e:é.json").read_text(encoding="utf-8"))["summary"]["episodes"] == 1
    assert (folder / "v:é.mp4").stat().st_size > 1000
    assert launch.saved_config(folder).run_dir == str(folder)


def test_a_sweeps_folder_is_no_url(tmp_path):
    store = Store(str(tmp_path / "a::b [1]*?#~ é"))
    store.make()
    (Path(store.where) / "c.txt").write_text("here", encoding="utf-8")
    assert (store.read("c.txt"), store.read("d.txt")) == ("here", None) and len([*tmp_path.iterdir()]) == 1
