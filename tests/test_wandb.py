"""The real W&B client, against a server that answers, and one that refuses, hangs or dies. Training goes on."""

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import wandb_reader
from conftest import small_run
from wandb_server import KEY, Server, serving

from atari_dqn.checkpoint import checkpoints, folders
from atari_dqn.config import compose
from atari_dqn.tracking import aside, wandb_client, wandb_tracker
from atari_dqn.tracking.callback import Callback
from atari_dqn.utils import files
from atari_dqn.utils.console import Console

SHORT = [
    "env=cartpole", "num_envs=2", "total_steps=400", "replay.warmup_steps=100", "evaluation.episodes=1",
    "logger.every_steps=20", "logger.wandb=online", "logger.timeout_seconds=2",
]  # fmt: skip


class Trained(NamedTuple):
    """A run that has ended, what it said, and how long it took."""

    folder: Path
    said: str
    seconds: float


class Meanwhile(Callback):
    """Does something at the fifth row, once the client has begun."""

    def __init__(
        self, folder: Path, begun: Callable[[], object], action: Callable[[], object], after: Callable[[], object]
    ) -> None:
        self._folder, self._begun, self._action, self._after, self._rows = folder, begun, action, after, 0
        self.process: dict[str, object] = {}

    def metrics(self, row: dict[str, object]) -> None:
        self._rows += 1
        if self._rows == 5:
            while not self._begun():
                time.sleep(0.01)
            self._action()

    def close(self) -> None:
        self.process = folders.note(self._folder)
        self._after()


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(getattr(request, "param", "good")) as made:
        monkeypatch.setenv("WANDB_BASE_URL", made.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield made


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """A short run in this process."""
    monkeypatch.chdir(tmp_path)

    def go(
        *overrides: str,
        begun: Callable[[], object] = bool,
        action: Callable[[], object] | None = None,
        after: Callable[[], object] = bool,
    ) -> Trained:
        run, heard = small_run(Path("run"), *SHORT, *overrides), io.StringIO()
        run.console = Console(file=heard, width=500)
        watcher = Meanwhile(run.folder, begun, action, after) if action else Callback()
        began = time.perf_counter()
        with folders.held(run.folder) as process:
            run.tell_outcome = process.end
            run.go(watcher)
        if action:
            assert watcher.process["ended"] == "finished"  # before anything was waited for
        assert not wandb_client.service_processes()
        rows = (run.folder / "metrics.csv").read_text().count("\n") - 1
        assert run.agent_steps == 400 and rows == 20
        return Trained(run.folder, heard.getvalue(), time.perf_counter() - began)

    return go


def measured(path: Path) -> list[int]:
    """The rows of metrics.csv that a .wandb file holds."""
    return [row["train/agent_steps"] for row in wandb_reader.history(path) if "train/loss" in row]


def test_a_run_is_sent_with_its_networks(server, train, tmp_path, monkeypatch):
    """What the config says counts, then what the client is set to, then our defaults."""
    for name, value in {
        "PROJECT": "mine",
        "NAME": "first",
        "NOTES": "by hand",
        "TAGS": "x",
        "DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    done = train(
        "logger.group=all", "logger.tags=[pong,baseline]", "logger.notes=by config", "logger.timeout_seconds=20"
    )
    assert f"W&B: {server.url}/lab/mine/runs/" in done.said and "uploaded" not in done.said
    made = server.sent("UpsertBucket")[0]
    assert [made[key] for key in ("project", "displayName", "groupName", "notes")] == [
        "mine",
        "first",
        "all",
        "by config",
    ]
    assert made["tags"] == ["pong", "baseline"] and json.loads(made["config"])["seed"]["value"] == 1
    assert [row["train/agent_steps"] for row in server.rows() if "train/loss" in row] == [*range(20, 401, 20)]
    networks = [made["input"] for made in server.sent("^CreateArtifact$")]
    assert {made["artifactTypeName"] for made in networks} == {"model"} and len(networks) == 2
    assert [{alias["alias"] for alias in made["aliases"]} for made in networks] == [
        {"best", "latest"}, {"last", "latest"},
    ]  # fmt: skip
    for name in ("best", "last"):
        (tmp_path / f"{name}.pt").write_bytes(server.sent(f"/put/{name}.pt")[0])
        assert checkpoints.Checkpoint(tmp_path / f"{name}.pt").agent_steps == 400
    assert not (done.folder / "wandb").exists() and list(tmp_path.glob("wandb/run-*"))  # WANDB_DIR
    assert not list(tmp_path.glob("wandb/run-*/last.pt")) and len(server.keys) == 1


@pytest.mark.parametrize(
    ("server", "word"),
    [
        ("refuse", "cannot reach the server (Failed to get resume status"),
        ("hang", "cannot reach the server"),
        ("503", "HTTP 503"),
        ("401", "the server rejected the login"),
    ],
    indirect=["server"],
)
def test_a_server_that_does_not_begin(server, word, train, monkeypatch):
    if server.mode == "refuse":
        server.server_close()
    done = train()
    assert word in done.said and "so this run is recorded offline" in done.said and done.seconds < 15
    (path,) = done.folder.glob("wandb/*run-*/run-*.wandb")
    assert f"upload with `wandb sync {path.parent}`" in done.said and path.parent.name.startswith("offline-run-")
    assert measured(path) == [*range(20, 401, 20)]
    assert wandb_reader.summary(done.folder)["final/agent_steps"] == 400


@pytest.mark.parametrize("way", ["503", "401", "gone"])
def test_a_server_that_dies_in_the_middle(server, way, train, monkeypatch):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "30")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")

    def die() -> None:
        server.mode = way
        if way == "gone":
            server.shutdown()
            server.server_close()
            server.mode = "503"

    done = train("logger.timeout_seconds=null", begun=lambda: server.sent("UpsertBucket"), action=die)
    assert "not everything was uploaded" in done.said and done.seconds < 25
    (path,) = done.folder.glob("wandb/run-*/run-*.wandb")
    assert f"upload the rest with `wandb sync {path.parent}`" in done.said
    assert measured(path) == [*range(20, 401, 20)]


def test_a_service_that_is_killed(server, train):
    def kill() -> None:
        for process in wandb_client.service_processes():
            process.kill()
            process.wait()

    done = train("logger.wandb=offline", begun=lambda: [*Path("run").glob("wandb/*/*.wandb")], action=kill)
    assert done.said.count("W&B failed and is disabled for the rest of this run; training continues") == 1


@pytest.mark.parametrize(
    ("where", "machine", "found"),
    [
        ("", "api.wandb.ai", None),
        ("http://127.0.0.1:9", "127.0.0.1:9", True),  # nothing answers there, and nothing is asked
        ("file", "wandb.lab.example", True),
        ("file", "api.wandb.ai", False),
        ("http://127.0.0.1:9", "elsewhere", False),
    ],
)
def test_the_client_knows_who_is_logged_in(where, machine, found, tmp_path, monkeypatch):
    """By its own rules: a .netrc that others may read and own, a server of one's own, its own settings file."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o644)
    if os.getuid() == 0:
        os.chown(netrc, 12345, 12345)
    if where == "file":
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "settings").write_text("[default]\nbase_url = https://wandb.lab.example\n")
        where = "https://wandb.lab.example"
    elif where:
        monkeypatch.setenv("WANDB_BASE_URL", where)
    monkeypatch.chdir(tmp_path)
    said = wandb_client.standing()
    if found is None:  # its own server's name is the client's business
        found = wandb_client.load().login(prompt=False, verify=False)
    assert ("runs are uploaded" in said) == found and (where in said or not found) and KEY not in said


def test_a_home_folder_that_hangs_holds_up_no_run(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    os.mkfifo(netrc)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setattr(wandb_client, "LOGIN_SECONDS", 0.2)
    said: list[str] = []
    try:
        assert not wandb_tracker._has_login(said.append)
        assert "netrc, cannot be read within 0.2 s, so this run is recorded offline" in said[0]
        assert "recorded offline" in wandb_client.standing()
    finally:
        os.close(os.open(netrc, os.O_RDWR | os.O_NONBLOCK))  # lets those go that wait for it


@pytest.mark.parametrize(
    ("own", "asked", "mode"),
    [
        ("offline", "online", "offline"),
        ("disabled", "online", "off"),
        ("disabled", "offline", "offline"),
        ("online", "off", "off"),
        ("dryrun", "online", "offline"),
    ],
)
def test_the_clients_own_mode_counts(own, asked, mode, tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text(f"[default]\nmode = {own}\n")  # as `wandb offline` writes it
    monkeypatch.chdir(tmp_path)
    wandb_client.stop(kill=False)
    assert wandb_client.wandb_mode(asked) == mode


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("WANDB_MODE", "sometimes", "W&B cannot be used and is disabled for this run"),
        ("WANDB_API_KEY", "short", "the login is not valid"),
        ("WANDB_RUN_ID", "a/b", "W&B cannot be used and is disabled for this run"),
        ("WANDB_INIT_TIMEOUT", "soon", "W&B cannot be used and is disabled for this run"),
    ],
)
def test_settings_that_the_client_does_not_take_stop_nothing(name, value, word, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    said: list[str] = []
    logger = compose.to_train_config(compose.compose("train", ["logger.timeout_seconds=5"])).logger
    made = wandb_tracker.make_tracker(logger, tmp_path, {}, 0, {}, said.append)
    if made:
        made.close()
    assert word in said[0]


def test_a_foreign_id_is_no_path(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("abc")
    for content, found in {"../../x": "", "a b": "", "x" * 200: "", "0a1b2c3d\n": "0a1b2c3d"}.items():
        (tmp_path / "wandb_id").write_text(content)
        assert files.read_id(tmp_path / "wandb_id") == found
    (tmp_path / "wandb_id").unlink()
    (tmp_path / "wandb_id").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    assert files.read_id(tmp_path / "wandb_id") == files.read_id(tmp_path / "pipe") == ""


class Slow(Callback):
    """Waits for `free` in whatever it is told."""

    def __init__(self, free: threading.Event) -> None:
        self._free = free

    def metrics(self, row: dict[str, object]) -> None:
        if not self._free.wait(60) or row["n"] == "bad":
            raise ConnectionError("no network")


def test_a_tracker_that_hangs_is_abandoned(monkeypatch):
    monkeypatch.setattr(aside, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(aside, "MOST_EVENTS", 10)
    said: list[str] = []
    for rows in (5, 50):  # waits at the end; falls behind
        free, abandoned = threading.Event(), []

        def abandon(free: threading.Event = free, abandoned: list[int] = abandoned) -> None:
            abandoned.append(1)
            free.set()

        began = time.perf_counter()
        slow = aside.Aside("W&B", lambda free=free: Slow(free), 0.1, abandon, said.append)
        for n in range(rows):
            slow.metrics({"n": n})
        assert time.perf_counter() - began < 1
        slow.close()
        assert abandoned and slow._done.is_set()
    assert said[0].startswith("W&B: finishing") and "it cannot keep up" in said[1] and len(said) == 2


def test_a_tracker_that_fails_is_told_once():
    said: list[str] = []
    free = threading.Event()
    free.set()
    failing = aside.Aside("W&B", lambda: Slow(free), 5, lambda: None, said.append)
    for _ in range(3):
        failing.metrics({"n": "bad"})
        time.sleep(0.01)
    failing.close()
    assert len(said) == 1 and "W&B failed" in said[0] and "no network" in said[0]


def test_ctrl_c_skips_the_wait_and_not_the_run(train, server):
    server.mode = "hang"
    interrupt = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
    done = train("logger.timeout_seconds=60", action=lambda: None, begun=lambda: True, after=interrupt.start)
    assert "W&B: skipped" in done.said and "done: 400 agent steps" in done.said and done.seconds < 30
    (path,) = done.folder.glob("wandb/offline-run-*/run-*.wandb")
    assert measured(path) == [*range(20, 401, 20)]


def test_tags_and_notes_as_people_type_them():
    for typed in (
        "logger.tags=pong,my baseline",
        "logger.tags=[pong,my baseline]",
        "logger.tags='pong',\"my baseline\"",
    ):
        assert compose.compose("train", [typed]).logger.tags == ["pong", "my baseline"], typed
    assert compose.compose("train", ["logger.notes=a first try (slow), it's: x=1"]).logger.notes == (
        "a first try (slow), it's: x=1"
    )
