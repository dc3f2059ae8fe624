"""Log to MLflow: the settings, the rows of the CSV files, the networks. Failures never stop a run."""

import contextlib
import getpass
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atari_dqn.config import presets
from atari_dqn.config.schema import Logger
from atari_dqn.tracking import curves, uploads
from atari_dqn.tracking.aside import Aside
from atari_dqn.tracking.callback import Callback, Row, group
from atari_dqn.utils import extras, locks
from atari_dqn.utils.files import read_id, replacing
from atari_dqn.utils.text import one_line

TIMEOUT_SECONDS = 30.0  # for the server to answer a request
BATCH_SECONDS = 1.0  # of rows that a kill may lose; a resumed run sends them
BATCH = 500  # metrics
MOST_METRICS, MOST_PARAMS = 1000, 100  # that MLflow accepts at once
BESIDE = ("frames", "updates", "seconds", "env", "episodes", "best", "network", "protocol")  # no metrics of games
REQUESTS = {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "1", "TIMEOUT": f"{TIMEOUT_SECONDS:.0f}"}
STATUS = {"finished": "FINISHED", "stopped": "KILLED"}  # and FAILED


def require(logger: Logger) -> None:
    """Raise UserError if a config asks for MLflow where its client is not installed."""
    if logger.mlflow:
        extras.need("logger.mlflow=true", "mlflow")


def load(seconds: float | None = None) -> Any:
    """Import the client, quiet, and impatient where the user's environment does not say otherwise."""
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    quiet |= {f"MLFLOW_HTTP_REQUEST_{name}": value for name, value in REQUESTS.items()}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if seconds is not None:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(math.ceil(seconds))
    import mlflow  # slow to load

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def make_tracker(
    logger: Logger,
    folder: Path,
    config: Row,
    agent_steps: int,
    outcome: Callable[[], str],
    say: Callable[[str], None],
) -> Callback | None:
    """Build the MLflow tracker that a config asks for; None for none.

    Args:
        agent_steps: where the run starts or resumes.
        outcome: how the run has ended: finished, stopped or failed.
    """
    if not logger.mlflow:
        return None
    return Aside(
        "MLflow",
        lambda: MLflow(logger, folder, config, agent_steps, outcome, say),
        3 * (logger.timeout_seconds or TIMEOUT_SECONDS) + 10,
        lambda: None,  # its requests end by themselves
        say,
    )


class MLflow(Callback):
    """Log to one run of MLflow, with environment frames as its steps; see make_tracker for the arguments.

    Rows are sent in batches. When a run resumes, those that MLflow has are left out, and those that it lacks are read
    from the CSV files, so a kill leaves neither gaps nor doubled points.
    """

    def __init__(
        self,
        logger: Logger,
        folder: Path,
        config: Row,
        agent_steps: int,
        outcome: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        mlflow = load(logger.timeout_seconds)
        self._mlflow, self._folder, self._outcome, self._say = mlflow, folder, outcome, say
        self._artifacts, self._summary = logger.artifacts, uploads.Summary()
        self._batch: list[Any] = []
        self._last: Row = {}  # of metrics.csv
        self._newest, self._sent_at = -1.0, time.monotonic()  # agent steps of the batch's last row
        uri, beside = logger.mlflow_uri or _client_uri(mlflow), folder.absolute().parent
        lock: Any = contextlib.nullcontext()
        if uri is None:  # beside the runs, so that they can be compared
            uri, lock = f"sqlite:///{beside / 'mlflow.db'}", _locked(beside / ".mlflow.lock")
        with lock:  # only one process may create the database
            self._client = mlflow.MlflowClient(uri)
            run = self._run(logger, (beside / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None)
        self._id, self._began = run.info.run_id, run.info.start_time
        self._held = {
            key.removesuffix("/agent_steps"): value
            for key, value in run.data.metrics.items()
            if key.endswith("/agent_steps")
        }
        self._keep_params(dict(_flat(config)), run.data.params)
        self._catch_up(agent_steps)
        say(f"MLflow: {_where(uri, run)}")

    def _run(self, logger: Logger, artifacts: str | None) -> Any:
        """The MLflow run of this run: a new one, or the one that it had."""
        client = self._client
        if known := read_id(self._folder / "mlflow_id"):
            try:
                run = client.get_run(known)
                if run.info.lifecycle_stage == "active":
                    client.update_run(known, status="RUNNING")
                    return run
            except self._mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        tags = {"mlflow.source.name": "atari_dqn", "mlflow.source.type": "LOCAL"}
        with contextlib.suppress(Exception):  # no name, as in some containers
            tags["mlflow.user"] = getpass.getuser()
        tags |= {tag: "true" for tag in logger.tags or []}
        tags |= {"mlflow.note.content": logger.notes} if logger.notes else {}
        tags |= {"group": logger.group} if logger.group else {}
        run = client.create_run(
            self._experiment(logger, artifacts),
            start_time=int(1000 * (time.time() - self._seconds())),
            tags=tags,
            run_name=logger.name or os.environ.get("MLFLOW_RUN_NAME") or self._folder.absolute().name,
        )
        with replacing(self._folder / "mlflow_id", "w") as file:
            file.write(run.info.run_id + "\n")
        return run

    def _experiment(self, logger: Logger, artifacts: str | None) -> str:
        if not logger.project and (known := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            return known
        name = logger.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "atari_dqn"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifacts))
            except self._mlflow.exceptions.MlflowException:  # another run may just have created it
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _seconds(self) -> float:
        """How long the run had trained when this process began."""
        rows = curves.read(self._folder / "metrics.csv")
        return float(rows[-1]["seconds"]) if rows else 0.0

    def _keep_params(self, params: dict[str, str], held: dict[str, str]) -> None:
        """Store the settings. MLflow's parameters never change, so a changed setting becomes a tag of its name."""
        new = [self._mlflow.entities.Param(key, value) for key, value in params.items() if key not in held]
        changed = {key: value for key, value in params.items() if held.get(key, value) != value}
        for i in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._id, params=new[i : i + MOST_PARAMS])
        for key, value in changed.items():
            self._client.set_tag(self._id, key, value)

    def _catch_up(self, agent_steps: int) -> None:
        for name, add in (("metrics", self.metrics), ("episodes", self.episode), ("evaluations", self.evaluation)):
            for row in curves.read(self._folder / f"{name}.csv"):
                if int(row["agent_steps"]) <= agent_steps:
                    add(_parsed(row))
        self._send()

    def _add(self, kind: str, row: Row) -> None:
        steps, beside = row["agent_steps"], ("frames",) if kind == "train" else BESIDE
        if steps <= self._held.get(kind, -1):
            return
        is_due = len(self._batch) >= BATCH or time.monotonic() - self._sent_at > BATCH_SECONDS
        if is_due and steps != self._newest:  # a turn's rows are held all or none
            self._send()
        self._newest = steps
        self._batch += self._metrics({f"{kind}/{key}": value for key, value in row.items() if key not in beside}, row)

    def _metrics(self, values: Row, row: Row) -> list[Any]:
        at, step = self._began + int(1000 * row["seconds"]), int(row["frames"])
        return [
            self._mlflow.entities.Metric(key, float(value), at, step)
            for key, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        ]

    def _send(self) -> None:
        for i in range(0, len(self._batch), MOST_METRICS):
            self._client.log_batch(self._id, metrics=self._batch[i : i + MOST_METRICS])
        self._batch, self._sent_at = [], time.monotonic()

    def metrics(self, row: Row) -> None:
        self._summary.metrics(row)
        self._last = row
        self._add("train", row)

    def episode(self, row: Row) -> None:
        self._add("episode", row)

    def evaluation(self, row: Row) -> None:
        self._summary.evaluation(row)
        self._add(group(row), row)

    def video(self, path: Path, row: Row) -> None:
        self._upload("videos", path)

    def close(self) -> None:
        """Send what is left, the final values and the networks, and how the run ended."""
        self._send()
        if self._last:
            final = {f"final/{key}": value for key, value in self._summary.values.items()}
            self._batch = self._metrics(final, self._last)
            self._send()
        with tempfile.TemporaryDirectory() as into:
            checkpoints = self._folder / "checkpoints"
            if self._artifacts and (last := uploads.last_network(checkpoints, Path(into))):
                self._upload("networks", checkpoints / "best.pt", last)
        self._client.set_terminated(self._id, STATUS.get(self._outcome(), "FAILED"))

    def _upload(self, what: str, *paths: Path) -> None:
        """Upload files as artifacts, if asked for. The numbers go on where that fails, which is said once."""
        try:
            for path in paths if self._artifacts else ():
                self._client.log_artifact(self._id, str(path), what)
        except Exception as error:
            self._artifacts = False
            self._say(f"MLflow: {what} and what follows are not uploaded ({one_line(error)})")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = locks.take(path, 2 * TIMEOUT_SECONDS)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _client_uri(mlflow: Any) -> str | None:
    """The tracking server that MLflow itself is set to, if any."""
    return str(mlflow.get_tracking_uri()) if mlflow.is_tracking_uri_set() else None


def _where(uri: str, run: Any) -> str:
    """Where a run is seen, for a person."""
    uri = re.sub(r"//[^/@]*@", "//", uri)  # without a password
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return f"recorded; see it with `mlflow ui --backend-store-uri {uri}`"


def _flat(config: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each setting by its dotted key, as text."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "logger.mlflow_uri":
            yield f"{prefix}{key}", str(value) if type(value) is int else presets.text(value)


def _parsed(row: dict[str, str]) -> Row:
    """A row of a CSV file with its numbers."""
    parsed: Row = {}
    for key, value in row.items():
        try:
            parsed[key] = float(value)
        except ValueError:
            parsed[key] = value or ("current" if key == "network" else None)  # of an older version
    return parsed
