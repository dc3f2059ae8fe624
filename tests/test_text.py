"""What is shown never stops what is computed, whatever it is shown on; and what comes from files drives no terminal."""

import ast
import csv
import io
import os
import pty
import re
import shlex
import signal
import subprocess
import sys

import pytest
from conftest import QUIET, ROOT, small_run
from rich.table import Table

from atari_dqn import __main__
from atari_dqn.analysis import run_data
from atari_dqn.config import compose
from atari_dqn.dqn.loop import StepInfo
from atari_dqn.evaluation import rollout
from atari_dqn.tracking import display
from atari_dqn.training import launch, profiler
from atari_dqn.utils import console

HOSTILE = "a\x1b[2Jb\x07c\rd\x9be\u202ef\udcffg"
SHORT = ["env=cartpole", "num_envs=2", "replay.capacity=200", "replay.warmup_steps=20", "evaluation.episodes=3"]


def test_there_is_one_way_out():
    """No module but console.py prints, writes to a standard stream, or makes a console that can fail."""
    found = []
    for path in (ROOT / "atari_dqn").rglob("*.py"):
        if path.name in ("console.py", "make.py"):  # make.py runs before anything is installed
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call | ast.Attribute | ast.ImportFrom):
                text = ast.unparse(node)
                if re.match(r"print\(|traceback\.print|sys\.(__)?std(out|err)|from rich\S* import .*\bConsole\b", text):
                    found.append(f"{path.name}: {text[:60]}")
    assert not found


SHOWS = """
import sys
from atari_dqn.utils import console
with console.guarded():
    for i in range(3000):
        console.say(f"µ ε 日本 {i}")
    print("of another package", flush=True)
    console.Console().print("x" * 100_000)
    console.complain("wrong")
    with console.appended("/dev/full") as log:
        log.write("lost" * 10_000)
open("done", "w").close()
"""


@pytest.mark.parametrize(
    ("way", "encoding"),
    [
        ("> /dev/full", "ascii"), ("2> /dev/full", "utf-8"), (">&-", "utf-8"), ("<&- >&- 2>&-", "ascii"),
        ("| head -1", "ascii"), ("> out", "ascii"), ("> out", "latin-1"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_shown_stops_nothing(way, encoding, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    line = f"set -o pipefail; {shlex.quote(sys.executable)} -c '{SHOWS}' {way}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0 and (tmp_path / "done").exists()
    assert done.stderr in (b"atari_dqn: wrong\n", b"")
    if way == "> out":
        mu = {"ascii": b"u", "latin-1": b"\xb5"}[encoding]
        assert (tmp_path / "out").read_bytes().startswith(mu + rb" \u03b5 \u65e5\u672c 0" + b"\n")


def test_what_only_tells_has_failed_where_it_cannot(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        for words in (["runs"], ["games"], ["doctor", "--help"]):
            assert __main__.main(words) == 1
            assert "cannot write the output: No space left" in capsys.readouterr().err


TRAINS = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="atari_dqn")
from atari_dqn import __main__
from atari_dqn.tracking import display
display.PLAIN_SECONDS = 0.0
sys.exit(__main__.main(sys.argv[1:]))
"""


def test_a_run_goes_on_without_letters_room_or_cursor(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "ascii",
        "FORCE_COLOR": "1",
        "COLUMNS": "0",
    }
    words = ["train", *QUIET, *SHORT, "total_steps=400", "logger.every_steps=100"]
    start = [sys.executable, "-X", "warn_default_encoding", "-c", TRAINS, *words]
    with open(tmp_path / "log", "wb") as log:
        done = subprocess.run(
            [*start, "run_dir=run"], cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.PIPE
        )
    assert done.returncode == 0, done.stderr.decode()
    said = (tmp_path / "log").read_bytes().decode("ascii")
    assert re.search(r"epsilon [01]\.\d\d  ", said) and "left 0:00:00" in said
    assert "evaluation: 0 of 3 games played" in said
    assert "\x1b[?" not in said and "\x1b[2K" not in said and "\r" not in said  # nothing that moves a cursor
    assert (tmp_path / "run" / "checkpoints" / "latest.pt").exists()


def test_a_terminal_is_one_whose_cursor_moves(monkeypatch, tmp_path):
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal, open(tmp_path / "log", "w", encoding="utf-8") as log:
        for name, value, is_terminal in (
            ("TERM", "xterm", True), ("TERM", "dumb", False), ("TERM", "xterm", True), ("TTY_COMPATIBLE", "0", False),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
            assert console.Console(terminal).is_terminal == is_terminal
        for name, value in (("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TTY_INTERACTIVE", "1"), ("NO_COLOR", "1")):
            monkeypatch.setenv(name, value)
            shown = console.Console(log)
            assert not shown.is_terminal and not shown.is_interactive
            with shown.status("waiting"):
                pass
        assert not (tmp_path / "log").read_text(encoding="utf-8")
        for value, width in (("0", 80), ("-3", 80), ("wide", 80), ("²", 80), ("1", 20), ("90", 90), ("9" * 30, 80)):
            monkeypatch.setenv("COLUMNS", value)
            assert console.Console(log).width == width
    monkeypatch.undo()  # pytest reads COLUMNS, too
    os.close(ours)


def test_control_characters_are_shown_not_obeyed(inside, tmp_path, capsys):
    file = io.StringIO()
    shown = console.Console(file, width=200)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(f"[red]{HOSTILE}[/red] :smile:")
    for what in (HOSTILE, table):
        shown.print(what, soft_wrap=True)
    console.say(HOSTILE)
    console.complain(f"{HOSTILE}\nand so on")
    said = "".join([file.getvalue(), *capsys.readouterr()])
    assert not console.HIDDEN.search(said) and "[red]" in said and ":smile:" in said
    assert said.count(r"\x1b[2Jb\x07c") == 6 and r"\u202e" in said and r"\udcff" in said and r"\nand so on" in said
    folder = tmp_path / "runs" / "\x1b]0;x\x07"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text('env: "\\e[31m"\npreset: "\\x9b2J"\n', encoding="utf-8")
    for words in (["report", "run=runs"], ["train", "resume=runs/\x1b]0;x\x07"], ["train", "\x1b[2J=3"], ["\x1b[2J"]):
        done = inside(*words)
        assert done.returncode == 2 and not console.HIDDEN.search(done.stdout + done.stderr), done.stderr


def test_a_run_says_which_game_of_how_many_and_scores_a_network_once(monkeypatch, tmp_path):
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    played, play = [], rollout.play
    monkeypatch.setattr(rollout, "play", lambda *a, **k: played.append(a) or play(*a, **k))
    words = [*QUIET, *SHORT, "evaluation.num_envs=1", "total_steps=60", f"run_dir={tmp_path / 'run'}"]
    file = io.StringIO()
    run = launch.prepare(compose.to_train_config(compose.compose("train", words)), console.Console(file, width=80))
    run.go()
    said = file.getvalue()
    assert all(f"evaluation: {count} of 3 games played" in said for count in range(4)) and len(played) == 1
    assert "best network: the last one, the only one evaluated" in said
    with open(tmp_path / "run" / "evaluations.csv", encoding="utf-8") as rows:
        last, best = csv.DictReader(rows)
    assert (last["network"], best["network"]) == ("current", "best") and last["mean"] == best["mean"]
    assert run_data.line(tmp_path / "run")["hours"] * 3600 == pytest.approx(float(best["seconds"]), abs=0.1)
    small_run(tmp_path / "two", *SHORT, "total_steps=60", "evaluation.every_steps=30").go()
    assert len(played) == 4  # two on the way, and the better one of them again


def test_the_bar_ends_with_what_it_took():
    shown = console.Console(io.StringIO(), width=80, force_terminal=True, record=True)
    bar = display.Display(shown, "Pong", 1000, 4)

    def line() -> str:
        shown.print(bar._render())
        return shown.export_text().splitlines()[0]

    bar.step(StepInfo(500, 0, 1.0, []))
    assert "left " in line()
    bar.evaluating("evaluation", 7, 30)
    assert "left " not in line() and "50%" in line()
    bar.step(StepInfo(1000, 0, 1.0, []))
    assert "took 0:00:00" in line() and "left" not in line() and "100%" in line()
    bar.close()
    limited = display.Display(shown, "Pong", 1000, 4, time_used=lambda: 0.75)  # of max_minutes
    limited.step(StepInfo(500, 0, 1.0, []))
    shown.print(limited._render())
    assert " 75%" in shown.export_text()
    limited.close()


def test_profile_that_is_interrupted_says_so(inside, monkeypatch):
    step = profiler.Profiler.step

    def interrupted(profiler, info):
        step(profiler, info)
        if info.agent_steps == 200:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(profiler.Profiler, "step", interrupted)
    done = inside("profile", *SHORT, "total_steps=2_500")
    assert done.returncode == 1 and done.stderr.startswith("atari_dqn: interrupted after 200 agent steps")
    assert len(done.stderr.splitlines()) == 1 and not done.stdout
