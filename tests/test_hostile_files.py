"""Run folders and checkpoints that were made to do harm or are damaged: what is refused, and what goes on."""

import contextlib
import csv
import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import sealed, small_run
from PIL import Image

from atari_dqn.analysis import dashboard, report, run_data, run_folders
from atari_dqn.checkpoint import checkpoints, folders, outputs
from atari_dqn.cli.hydra_app import guarded
from atari_dqn.config import compose
from atari_dqn.config.commands import ReportConfig
from atari_dqn.tracking import csv_files
from atari_dqn.training import capacity, launch
from atari_dqn.utils import files, machine
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import memory_size

WORDS = [
    "env=cartpole", "total_steps=300", "replay.warmup_steps=50", "evaluation.every_steps=100", "evaluation.episodes=1",
    "logger.every_steps=50", "checkpoint.every_steps=100", "replay.capacity=1000", "env.max_frames=30",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    small_run(folder, *WORDS).go()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A whole run in a folder of its own, beside which nothing is."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resume(folder: Path, *words: str) -> str:
    """What a resumed run says."""
    asked = compose.to_train_config(compose.compose("train", [f"resume={folder}", *words]))
    console = Console(record=True, quiet=False, file=open(os.devnull, "w"), width=300)  # noqa: SIM115
    launch.resume(folder, asked, [*words], console)
    return console.export_text()


# ------------------------------------------------------------------------------------------------- names and machines


def test_no_name_from_a_file_becomes_a_path(run, tmp_path, inside):
    content = dict(checkpoints.Checkpoint(run / "checkpoints" / "best.pt").content)
    bad = tmp_path / "bad.pt"
    config = content["config"]
    for name in (
        "../../victim", "/victim", "a/b", "a\\b", "..", ".", ".bashrc", "-rf", "x" * 200, "é" * 90, "a\nb", "a\0b",
        "", " ", "nul", "COM1.json", "C:x", "a\x1b[2J", "*", "trailing.",
    ):  # fmt: skip
        assert not files.is_name(name)
    for change in ({"preset": "../x"}, {"protocol": config["protocol"] | {"name": "../../victim"}}):
        with pytest.raises(UserError, match=r"bad\.pt is not a usable checkpoint: (protocol\.name|preset)="):
            checkpoints.Checkpoint(sealed(content | {"config": config | change}, bad))
    assert inside("evaluate", f"checkpoint={bad}").returncode == 2
    for text in ("../../x", "ALE/Pong-v5", "mine:My Game-v0", "[a-z]*", "é" * 300, "\udcff/..", "nul", "...", ""):
        assert files.is_name(files.name(text)) and "/" not in files.name(text), text
    assert files.name("ALE/Pong-v5") == "ALE-Pong-v5" and files.name("CartPole-v1") == "CartPole-v1"


def test_a_stored_run_chooses_no_cluster(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("address: null", "address: evil.example:6379"))
    assert "evil.example" in path.read_text()
    for words in ([], ["emulators=ray"], ["emulators.address=mine:1"]):
        asked = compose.to_train_config(compose.compose("train", words))
        taken = launch.resumed_config(run, words, asked)
        assert taken.emulators.address == ("mine:1" if "emulators.address=mine:1" in words else None)
    assert "note: emulators.address=evil.example:6379 in config.yaml is ignored" in resume(run)


# --------------------------------------------------------------------------------------------------------------- links


def test_nothing_is_written_through_a_link_in_a_run(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    asked = compose.to_train_config(compose.compose("train", []))
    (outside / "file").write_text("precious")
    for name in (
        "tensorboard", "wandb", "videos", "checkpoints", "replay", "metrics.csv", "episodes.csv", "config.yaml",
        ".lock", "process.json", "wandb_id", "mlflow_id", "not_finite.pt", "checkpoints/latest.pt",
        "checkpoints/best.pt", "videos/step400.mp4", "tensorboard/events.out.tfevents.1", "metrics.csv.damaged",
    ):  # fmt: skip
        folder = Path(shutil.copytree(run, tmp_path / "linked"))
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        kept = None
        if os.path.lexists(path):
            kept = path.rename(tmp_path / "kept")
        path.symlink_to(outside if (kept and kept.is_dir()) or name in ("tensorboard", "wandb") else outside / "file")
        with pytest.raises(UserError, match=f"{name} is a symbolic link"):
            launch.resume(folder, asked, ["total_steps=400"], Console(quiet=True))
        shutil.rmtree(folder)
        if kept:
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    assert [path.name for path in outside.iterdir()] == ["file"] and (outside / "file").read_text() == "precious"


@pytest.mark.parametrize("part", ["checkpoints", "replay"])
def test_a_run_that_could_not_save_does_not_go_on(part, run, monkeypatch):
    shutil.rmtree(run / part)
    (run / part).write_text("")
    with pytest.raises(UserError, match=f"cannot write to .*{part}: not a directory"), folders.held(run):
        pass
    (run / part).unlink()
    (run / part).mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run / part)
    with pytest.raises(UserError, match=f"cannot write to .*{part}: permission denied"), folders.held(run):
        pass


def test_what_the_system_says_of_a_file_is_no_surprise(tmp_path, capsys):
    for number in (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG):
        for path in (str(tmp_path / "x"), tmp_path / "x", b"x"):

            def action(number: int = number, path: object = path) -> None:
                raise OSError(number, os.strerror(number), path)

            assert guarded(action) == 2
            assert capsys.readouterr().err == f"atari_dqn: cannot use {os.fsdecode(path)}: {os.strerror(number)}\n"


def test_a_planted_temporary_name_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "twin").hardlink_to(tmp_path / "victim")
    for plant in (lambda path: path.symlink_to(tmp_path / "victim"), lambda path: os.link(tmp_path / "twin", path)):
        plant(files.temporary_name(tmp_path / "a.csv"))
        with files.replacing(tmp_path / "a.csv", "w") as file:
            file.write("é")
        assert (tmp_path / "a.csv").read_bytes() == "é".encode() and (tmp_path / "victim").read_text() == "precious"
    os.link(tmp_path / "victim", tmp_path / ".lock")  # which a lock must not make empty
    with folders.held(tmp_path):
        assert (tmp_path / "victim").read_text() == "precious"


# ------------------------------------------------------------------------------------------------------ outputs


def test_an_evaluation_is_never_replaced_and_nothing_but_files_ever(run, tmp_path, inside):
    words = ["evaluate", f"checkpoint={run}", "evaluation.episodes=1"]
    for _ in range(2):
        assert inside(*words).returncode == 0
    kept = sorted(path.name for path in (run / "checkpoints").glob("*.json"))
    assert len(kept) == 2 and kept[0].endswith("-2.json")
    (tmp_path / "there.json").write_text("{}")
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there.json")
    (tmp_path / "dangling.json").symlink_to(tmp_path / "nowhere")
    os.mknod(tmp_path / "device.json", 0o666 | stat.S_IFCHR, os.makedev(1, 3)) if os.geteuid() == 0 else None
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    done = inside(*words, "output=there.json")
    assert done.returncode == 0 and "there.json already exists; writing to there-2.json" in done.stdout
    (tmp_path / "there-2.json").unlink()
    assert inside("video", f"checkpoint={run}", "output=x.avi").returncode == 2
    for output in (
        *(name for name in before if name.endswith(".json") and name != "there.json"),
        "x",
        "x.gif",
        "x.json.txt",
        "/dev/null",
    ):
        with pytest.raises(UserError, match=output):
            outputs.choose(output, tmp_path / "x.json", (".json",), is_kept=True)
    for name in ("report.html", "compare.png"):
        os.mkfifo(run / name)
    with pytest.raises(UserError, match=r"report\.html is a FIFO"):
        report.write(ReportConfig(str(run), 0, None), Console(quiet=True))
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before
    assert (tmp_path / "there.json").read_text() == "{}" and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_gif_is_a_gif(run, inside, tmp_path):
    (tmp_path / "x.GIF").write_bytes(b"older")
    (tmp_path / f".x-2.{os.getpid()}.tmp.gif").symlink_to(tmp_path / "victim")
    assert inside("video", f"checkpoint={run}", "output=x.GIF", "max_seconds=1").returncode == 0
    with Image.open(tmp_path / "x-2.GIF") as picture:
        assert picture.format == "GIF" and picture.n_frames > 2 and 20 <= picture.info["duration"] <= 100
    assert (tmp_path / "x.GIF").read_bytes() == b"older" and not (tmp_path / "victim").exists()
    assert outputs.choose(str(tmp_path / "z.MP4"), run, (".mp4", ".gif")).name == "z.MP4"


# ---------------------------------------------------------------------------------------------------- damaged rows

BAD = ["nan", "inf", "-inf", "1e400", "-1", "two", "", "9" * 5000, "1\0", "0x1", "\ufffd", "1e16"]


def test_a_damaged_row_costs_no_other(run):
    """Each kind of damage beside two sound rows; the run is shown, and goes on from its checkpoint."""
    path = run / "metrics.csv"
    header, *sound = path.read_text().splitlines()
    columns = header.split(",")
    bad = [sound[0].replace(",", f",{value},", 1) for value in BAD]  # a field too many
    for column in ("frames", "seconds"):
        at = columns.index(column)
        bad += [",".join([*(fields := sound[0].split(","))[:at], value, *fields[at + 1 :]]) for value in BAD]
    bad += [header, sound[0].rpartition(",")[0], '"' + sound[0], "\0" * 500, "," * 500]
    path.write_bytes("\r\n".join([f"\ufeff{header}", sound[0], *bad, *sound[1:], sound[0][:9]]).encode())
    found = csv_files.read(path)
    assert found.damaged == len(bad) and len(found.rows) == len(sound)
    told = run_data.entry(run, 100)
    assert f"{len(bad)} rows of metrics.csv cannot be read" in told["detail"] and len(told["measured"]["loss"]) > 1
    said = resume(run, "total_steps=400")
    assert f"metrics.csv: {len(bad)} rows cannot be read; kept the other {len(sound)} rows" in said
    assert (run / "metrics.csv.damaged").stat().st_size > 5000
    with open(path, newline="") as file:
        rows = [int(row["agent_steps"]) for row in csv.DictReader(file)]
    assert rows == sorted(rows) and len(rows) > len(sound) and rows[-1] >= 400
    assert not csv_files.damage(run)


def test_what_is_no_file_hides_no_other_run_and_holds_nobody(run, tmp_path):
    """A run beside each kind of broken one: all are told of at once, and none is waited for."""
    root = tmp_path / "runs"

    def fifo(path: Path) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    def sock(path: Path) -> None:
        path.unlink(missing_ok=True)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(os.path.relpath(path))

    def sparse(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(10_000_000_000)

    def folder(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.mkdir()

    def deep(path: Path) -> None:
        path.write_text("[" * 90_000)

    def edit(text: str, other: str):
        return lambda path: path.write_text(path.read_text().replace(text, other))

    cases = [
        (name, part, harm)
        for part in ("metrics.csv", "config.yaml")
        for name, harm in (("fifo", fifo), ("socket", sock), ("sparse", sparse), ("folder", folder), ("deep", deep))
    ]
    cases += [("fifo", "process.json", fifo), ("deep", "process.json", deep), ("fifo", "episodes.csv", fifo)]
    cases += [("secrets", "config.yaml", edit("project: null", "project: ${oc.env:HOME}"))]
    cases += [("path", "config.yaml", edit("preset: cartpole", "preset: ../../secret"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        shutil.copytree(run, root / "good")
        for name, part, harm in cases:
            target = root / f"{part}-{name}"
            target.mkdir()
            for file in ("process.json", "metrics.csv", "config.yaml", "episodes.csv", "evaluations.csv"):
                if (run / file).exists():
                    shutil.copy(run / file, target / file)
            harm(target / part)
    began = time.monotonic()
    names = run_folders.named(root)
    data = report.gather(names, [*names])
    assert time.monotonic() - began < 20
    json.dumps(data, allow_nan=False)
    lines = {line["name"]: line for line in data["runs"]}
    assert len(lines) == len(cases) + 1 and lines["good"]["state"] in ("finished", "died")
    assert "trained" in data["entries"]["good"]
    for name, part, _ in cases:
        told = lines[f"{part}-{name}"]
        assert part == "process.json" or "cannot" in told.get("error", told.get("detail")), (name, part, told)
    for part in ("config.yaml", "process.json"):
        with pytest.raises(UserError, match=f"{part}"):
            resume(root / f"{part}-fifo")


# -------------------------------------------------------------------------------------------------------- the dashboard


def test_idle_connections_silence_nobody(run, monkeypatch):
    monkeypatch.setattr(dashboard, "ASK_SECONDS", 0.5)
    (run / "videos").mkdir(exist_ok=True)
    (run / "videos" / "step1.mp4").write_bytes(b"0123456789")
    server = dashboard.make(run, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    address = server.server_address[:2]

    def ask(text: str) -> bytes:
        with socket.create_connection(address, timeout=10) as one:
            one.sendall(f"{text}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1"))
            return b"".join(iter(lambda: one.recv(65536), b""))

    try:
        threads = threading.active_count()
        idle = [socket.create_connection(address) for _ in range(150)]
        for one in idle[::3]:
            one.sendall(b"GET / HT")
        assert ask("GET / HTTP/1.1").startswith(b"HTTP/1.1 200")
        assert threading.active_count() - threads <= dashboard.MOST_CONNECTIONS + 5
        film = f"GET /video?run={run.name}&name=step1.mp4 HTTP/1.1\r\nRange: bytes="
        for asked, status, body in (
            (f"{'9' * 5000}-", b"416", b""), (f"0-{'9' * 5000}", b"206", b"0123456789"), ("5-2", b"416", b""),
            (f"-{'9' * 5000}", b"206", b"0123456789"), ("-0", b"416", b""), ("8-", b"206", b"89"),
            ("0-1,4-5", b"200", b"0123456789"), ("²-", b"200", b"0123456789"), ("x", b"200", b"0123456789"),
        ):  # fmt: skip
            answer = ask(film + asked)
            assert answer[9:12] == status and answer.endswith(b"\r\n\r\n" + body), (asked[:20], answer)
        for line in ("GET", "GET / HTTP/9", "\x16\x03\x01", "GET //[ HTTP/1.1", "GET /video?run=%00&name=%ff HTTP/1.1"):
            assert ask(line)[:12] != b"HTTP/1.1 200", line
        until = time.monotonic() + 10
        while threading.active_count() > threads and time.monotonic() < until:
            time.sleep(0.05)
        assert threading.active_count() <= threads  # those that asked for nothing were hung up on
    finally:
        for one in idle:
            one.close()
        server.shutdown()
        thread.join()
        server.server_close()


# ------------------------------------------------------------------------------------------------ one run, one process


@pytest.mark.parametrize("number", [None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_living_run_is_known_without_its_lock(number, tmp_path, monkeypatch):
    """Its lock file was removed, or the file system knows no locks; a number that another process has now is no run."""
    if number:

        def flock(*what: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".lock").write_text("99999\nsomebody\n")  # a soft lock that was left behind
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with folders.held(tmp_path):
            note = folders.note(tmp_path)
        born = psutil.Process(living.pid).create_time()
        for change, is_alive in (
            ({"started": born}, True), ({"started": born - 500}, False), ({"started": "x"}, False),
            ({"started": born, "until": "now"}, False), ({"started": born, "host": "elsewhere"}, False),
            ({"started": born, "pid": "1" * 400}, False),
        ):  # fmt: skip
            (tmp_path / "process.json").write_text(json.dumps(note | {"pid": living.pid} | change))
            os.utime(tmp_path / "process.json", (0, 0))
            assert folders.is_held(tmp_path) == is_alive, change
            before = (tmp_path / "process.json").read_text()
            refused = pytest.raises(UserError, match="is in use by process") if is_alive else contextlib.nullcontext()
            with refused, folders.held(tmp_path):
                pass
            assert not is_alive or (tmp_path / "process.json").read_text() == before
        living.kill()
        (tmp_path / "process.json").write_text(json.dumps(note | {"pid": living.pid, "started": born}))
        time.sleep(0.2)
        assert not folders.is_held(tmp_path)  # though nobody has waited for it yet
    finally:
        living.kill()
        living.wait()


def test_a_run_of_another_machine_is_believed_where_there_are_no_locks(tmp_path, monkeypatch):
    def flock(*what: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "process.json").write_text('{"pid": 1, "host": "node7", "since": "today"}')
    with (
        pytest.raises(UserError, match=r"may be in use by process 1 on node7.*not support locks"),
        folders.held(tmp_path),
    ):
        pass
    os.utime(tmp_path / "process.json", (0, 0))
    with folders.held(tmp_path):
        pass


# -------------------------------------------------------------------------------------------------- memory and disk


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_ulimit_counts(kind):
    number = getattr(resource, kind)
    before, memory = resource.getrlimit(number), psutil.Process().memory_info()
    used = memory.vms if kind == "RLIMIT_AS" else memory.data
    try:
        resource.setrlimit(number, (used + 1_500_000_000, before[1]))
        assert 1_000_000_000 < machine.available_memory(torch.device("cpu")) <= 1_500_000_000
        with pytest.raises(UserError, match="only 1"):
            capacity.check_replay_fits(1_000_000, 7000, torch.device("cpu"))
    finally:
        resource.setrlimit(number, before)


def test_a_run_says_what_it_takes_and_a_finished_one_keeps_its_state_once(run, tmp_path):
    said = resume(run, "total_steps=400")
    state = (run / "checkpoints" / "latest.pt").stat()
    assert os.path.samestat(state, (run / "checkpoints" / "previous.pt").stat())
    assert f"{run} takes {memory_size(folders.disk_use(run))} on disk" in said
    du = subprocess.run(["du", "-sb", run], capture_output=True, text=True).stdout.split()[0]
    assert abs(folders.disk_use(run) - int(du)) < 50_000  # which counts folders, too
    fresh = small_run(tmp_path / "fresh", *WORDS, "replay.warmup_steps=300", "network.hidden=[512,512]")
    fresh.go()  # its target network is its online one
    weights = sum(part.nbytes for part in fresh.agent.online.state_dict().values())
    assert (tmp_path / "fresh/checkpoints/latest.pt").stat().st_size < 1.2 * weights
