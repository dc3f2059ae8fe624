"""MLflow's client and a real server: runs that end, fail, are killed and resumed, and servers that are not there."""

import contextlib
import csv
import http.server
import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torture
from conftest import QUIET, small_run
from test_saving import Stop, go_on

from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose
from atari_dqn.tracking import mlflow_tracker
from atari_dqn.tracking.callback import Callback
from atari_dqn.training import launch
from atari_dqn.training.run import Run
from atari_dqn.utils import extras
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import RunFailed

needs_mlflow = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None for name in ("mlflow", "flask_cors", "aiohttp", "sqlalchemy", "alembic")
    ),
    reason="MLflow's server is not installed (pip install -e '.[mlflow,dev]')",
)
SHORT = [
    "env=cartpole", "num_envs=2", "total_steps=600", "replay.warmup_steps=100", "evaluation.episodes=2",
    "evaluation.every_steps=200", "checkpoint.every_steps=100", "logger.every_steps=20", "logger.mlflow=true",
]  # fmt: skip
FILES = {"train": "metrics", "episode": "episodes", "evaluation": "evaluations"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server, with a database and a folder for artifacts."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db"]
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words, "--artifacts-destination", "artifacts"],
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # and its workers
        process.wait()


def client(uri: str) -> Any:
    return mlflow_tracker.load().MlflowClient(uri)


def stored(uri: str, folder: Path) -> Any:
    """The run in MLflow that a run's folder names."""
    return client(uri).get_run((folder / "mlflow_id").read_text().strip())


def again(folder: Path, *words: str) -> Run:
    """The run in a folder, about to be resumed."""
    config = launch.resumed_config(folder, [*words], compose.to_train_config(compose.compose("train", [*words])))
    return Run(config, folder, Console(quiet=True), checkpoints.newest(folder, print))


def assert_all_rows_are_there_once(uri: str, folder: Path, kinds: Iterable[str] = tuple(FILES)) -> None:
    known = client(uri)
    run = stored(uri, folder)
    for kind in kinds:
        with open(folder / f"{FILES[kind]}.csv") as file:
            rows = [row for row in csv.DictReader(file) if row.get("network", "current") == "current"]
        for key in {"train": ("loss", "learning_rate"), "episode": ("return",), "evaluation": ("mean",)}[kind]:
            wanted = sorted((int(row["frames"]), float(row[key])) for row in rows if row[key] not in ("", "nan"))
            found = sorted((m.step, m.value) for m in known.get_metric_history(run.info.run_id, f"{kind}/{key}"))
            assert [step for step, _ in found] == [step for step, _ in wanted] and len(wanted) > 1
            assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


@needs_mlflow
def test_a_run_is_logged_with_its_settings_and_networks(server, tmp_path):
    run = small_run(
        tmp_path / "run", *SHORT, f"logger.mlflow_uri={server}", "logger.project=poles", "logger.name=first",
        "logger.group=all", "logger.tags=[short,test]", "logger.notes=by config",
    )  # fmt: skip
    heard = run.console = Console(file=io.StringIO(), width=500)
    run.go()
    made, known = stored(server, run.folder), client(server)
    assert f"MLflow: {server}/#/experiments/{made.info.experiment_id}/runs/{made.info.run_id}" in heard.file.getvalue()
    assert known.get_experiment(made.info.experiment_id).name == "poles"
    assert (made.info.status, made.info.run_name) == ("FINISHED", "first")
    tags = {"group": "all", "short": "true", "test": "true", "mlflow.note.content": "by config"}
    assert made.data.tags.items() >= tags.items()
    params = {
        "env.game": "CartPole-v1",
        "total_steps": "600",
        "compute.graphs": "true",
        "agent.dueling": "false",
        "network.hidden": "[128, 128]",
    }
    assert made.data.params.items() >= params.items() and not any("mlflow_uri" in key for key in made.data.params)
    assert_all_rows_are_there_once(server, run.folder)
    assert made.data.metrics["final/best_return"] == run.evaluator.best_score
    assert made.data.metrics["final/updates"] == run.updates == 250
    assert "evaluation_best/mean" in made.data.metrics
    for name in ("best", "last"):
        path = known.download_artifacts(made.info.run_id, f"networks/{name}.pt", str(tmp_path))
        assert Checkpoint(Path(path)).agent_steps > 0


@needs_mlflow
def test_a_killed_run_goes_on_with_the_same_points(server, tmp_path):
    folder = tmp_path / "run"
    uri = f"logger.mlflow_uri={server}"
    process = torture.start(
        [sys.executable, "-m", "atari_dqn", "train", *QUIET, *SHORT, "total_steps=1_000_000", uri, f"run_dir={folder}"]
    )
    try:
        until, sent = time.monotonic() + 120, 0.0
        while sent < 300:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
            if (folder / "mlflow_id").exists():
                sent = stored(server, folder).data.metrics.get("train/agent_steps", 0.0)
    finally:
        process.kill()
        process.wait()
    before, saved = stored(server, folder), checkpoints.newest(folder, print).checkpoint.agent_steps
    go_on(folder, uri, f"total_steps={saved + 400}")
    after = stored(server, folder)
    assert (before.info.status, after.info.status) == ("RUNNING", "FINISHED")
    assert before.info.run_id == after.info.run_id
    assert_all_rows_are_there_once(server, folder)


@needs_mlflow
def test_what_happened_without_mlflow_is_sent_when_a_run_resumes(server, tmp_path):
    """And how a run ended: failed, stopped, finished; a setting that changed is a tag."""
    folder, asked = tmp_path / "run", ["logger.mlflow=true", f"logger.mlflow_uri={server}"]

    class Trips(Callback):
        def metrics(self, row):
            if row["agent_steps"] == 240:
                raise OSError("no more")

    with pytest.raises(RunFailed):
        small_run(folder, *SHORT, "logger.mlflow=false").go(Trips())
    with pytest.raises(RunFailed):
        again(folder, *asked).go(Trips())
    assert stored(server, folder).info.status == "FAILED"
    run = again(folder, *asked)
    run.go(Stop(run, 500))
    assert stored(server, folder).info.status == "KILLED"
    go_on(folder, *asked, "total_steps=700")
    found = stored(server, folder)
    assert found.info.status == "FINISHED"
    assert (found.data.params["total_steps"], found.data.tags["total_steps"]) == ("600", "700")
    assert_all_rows_are_there_once(server, folder)


class Relay(http.server.BaseHTTPRequestHandler):
    """Hands requests on to a server."""

    server: Any

    def log_message(self, *args: Any) -> None: ...

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        request = urllib.request.Request(self.server.to + self.path, body, dict(self.headers), method=self.command)
        try:
            with urllib.request.urlopen(request) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = relay


@needs_mlflow
def test_a_server_that_dies_in_the_middle_costs_a_line(server, tmp_path):
    """What it lacks then is sent when the run resumes."""
    relay = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    relay.to = server
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    folder = tmp_path / "run"
    run = small_run(folder, *SHORT, f"logger.mlflow_uri=http://127.0.0.1:{relay.server_port}")
    heard = run.console = Console(file=io.StringIO(), width=500)

    class Cuts(Callback):
        def metrics(self, row):
            if row["agent_steps"] == 300:
                while not (folder / "mlflow_id").exists():
                    time.sleep(0.01)
                relay.shutdown()
                relay.server_close()

    run.go(Cuts())
    said = heard.file.getvalue()
    assert said.count("MLflow failed and is disabled for the rest of this run; training continues") == 1
    assert run.outcome == "finished" and stored(server, folder).info.status == "RUNNING"
    go_on(folder, f"logger.mlflow_uri={server}", "total_steps=640")
    assert stored(server, folder).info.status == "FINISHED"
    assert_all_rows_are_there_once(server, folder)


@needs_mlflow
@pytest.mark.parametrize("way", ["refuses", "hangs"])
def test_a_server_that_does_not_begin_costs_a_line(way, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if way == "hangs":
            listener.listen()
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = ["total_steps=200", "logger.timeout_seconds=1", f"logger.mlflow_uri={uri}"]
        run = small_run(tmp_path / "run", *SHORT, *words)
        heard = run.console = Console(file=io.StringIO(), width=500)
        began = time.monotonic()
        run.go()
    assert heard.file.getvalue().count("MLflow failed and is disabled for the rest of this run") == 1
    assert run.outcome == "finished" and run.agent_steps == 200 and time.monotonic() - began < 40
    assert not (run.folder / "mlflow_id").exists()


@needs_mlflow
def test_without_a_server_runs_share_a_database_beside_them(tmp_path, monkeypatch):
    run = small_run(tmp_path / "runs" / "one", *SHORT, "total_steps=200")
    heard = run.console = Console(file=io.StringIO(), width=500)
    run.go()
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert f"MLflow: recorded; see it with `mlflow ui --backend-store-uri {uri}`" in heard.file.getvalue()
    made = stored(uri, run.folder)
    assert made.info.status == "FINISHED" and made.info.run_name == "one"
    assert {path.name for path in (tmp_path / "runs" / "mlartifacts").rglob("*.pt")} == {"best.pt", "last.pt"}

    def fails(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(type(client(uri)), "log_artifact", fails)
    run = small_run(tmp_path / "runs" / "two", *SHORT, "total_steps=200")
    heard = run.console = Console(file=io.StringIO(), width=500)
    run.go()
    assert "MLflow: networks and what follows are not uploaded (no room)" in heard.file.getvalue()
    assert stored(uri, run.folder).info.status == "FINISHED"
    assert_all_rows_are_there_once(uri, run.folder, ("train", "episode"))


def test_a_missing_client_is_named_with_its_extra(inside, monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "there", lambda module: module != "mlflow")
    monkeypatch.setattr(extras, "in_checkout", lambda: False)
    done = inside("train", "env=cartpole", "logger.mlflow=true", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "logger.mlflow=true needs mlflow, not installed here: pip install 'atari-dqn[mlflow]'" in done.stderr
    assert not (tmp_path / "run").exists()
