"""The W&B client: its settings, its login and its background process.

The client itself reads the environment, its settings files and .netrc; this module reads none of them.
"""

import contextlib
import os
import re
import secrets
import shutil
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import psutil

from atari_dqn.config.schema import Logger
from atari_dqn.utils import extras
from atari_dqn.utils.files import read_id
from atari_dqn.utils.text import one_line

TIMEOUT_SECONDS = 30.0  # for the server to respond at the start, and to accept the rest at the end
LOGIN_SECONDS = 10.0  # for reading the client's files: a network home directory may hang
MODES = {"offline": "offline", "dryrun": "offline", "disabled": "off"}  # the client's modes; all others are online
# Logger settings, and the client's names for them.
NAMES = {
    "project": "project", "entity": "entity", "name": "run_name", "group": "run_group", "tags": "run_tags",
    "notes": "run_notes",
}  # fmt: skip


class Warnings:
    """A sink for the client's messages that keeps its warnings."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None:
        self.heard.append(text)

    error = warning

    def of_upload(self) -> str:
        """Why part of the data was not uploaded, in one sentence; empty if all was."""
        found = next((text for text in self.heard if "wandb sync" in text), "")  # the remedy that the client names
        return re.sub(r"^wandb: \w+ ", "", one_line(found)).partition(". ")[0] if found else ""


def load() -> Any:
    """Import the client. Raises UserError if it is not installed."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # a broken server would block its telemetry, and us
    return extras.load("wandb", "W&B")  # slow to load


def client_settings(warnings: Warnings | None = None) -> Any:
    """The client's own settings, from its files and the environment; silent unless these say otherwise."""
    wandb = load()
    from wandb.sdk.wandb_setup import singleton  # wandb.setup() would start a process

    wandb.termsetup(wandb.Settings(silent=True), warnings)
    settings = singleton().settings
    if "silent" not in settings.model_fields_set:
        settings.silent = True
    wandb.termsetup(settings, warnings)
    return settings


def wandb_login() -> bool:
    """Whether the client has a login for its server, by its own rules. Uses no network.

    Raises what the client raises, and TimeoutError if its files cannot be read in time.
    """
    settings, answer = client_settings(), Future[bool]()
    silent, settings.silent = settings.silent, True  # otherwise it asks the server for a user name to show

    def ask() -> None:
        try:
            answer.set_result(bool(load().login(prompt=False, verify=False)))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(LOGIN_SECONDS)
    except FutureTimeout:
        raise TimeoutError(f"its files, such as ~/.netrc, cannot be read within {LOGIN_SECONDS:g} s") from None
    finally:
        settings.silent = silent


def standing() -> str:
    """How runs on this machine are logged, in one sentence."""
    wandb = load()
    stop(kill=False)  # so that settings are read again
    settings, mode = client_settings(), wandb_mode("online")
    if mode != "online":
        where = "runs are recorded offline" if mode == "offline" else "runs are not logged"
        return f"{wandb.__version__}, {settings.mode}: {where} (enable with `wandb online` or WANDB_MODE=online)"
    try:
        found = wandb_login()
    except TimeoutError as error:
        return f"{wandb.__version__}: {error}, so runs are recorded offline"
    if not found:
        return f"{wandb.__version__}, not logged in: runs are recorded offline (log in with `wandb login`)"
    return (
        f"{wandb.__version__}, logged in: runs are uploaded to {settings.base_url} (unless WANDB=offline or WANDB=off)"
    )


def wandb_mode(asked: str) -> str:
    """Resolve to online, offline or off; the client's own mode applies unless another was requested."""
    return MODES.get(client_settings().mode, "online") if asked == "online" else asked


def service_processes() -> list[psutil.Process]:
    """The client's background processes."""
    return [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]


def end_service() -> None:
    """Kill the client's service, so that all pending calls fail at once."""
    killed = service_processes()
    for process in killed:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(killed, timeout=5)


class Client:
    """The client, configured for a run.

    Attributes:
        known_id: the run's W&B id if it is resumed, else empty.
        warnings: the client's warnings.
    """

    def __init__(self, logger: Logger, folder: Path) -> None:
        self._logger, self._folder, self.warnings = logger, folder, Warnings()
        self.known_id = read_id(folder / "wandb_id")
        self._new_id = secrets.token_hex(4)

    def settings(self, mode: str) -> Any:
        """The client's settings: the run's config takes precedence over the user's own, these over our defaults."""
        settings, logger = client_settings(self.warnings), self._logger
        default = {
            "project": "atari_dqn",
            "root_dir": str(self._folder),
            "run_name": self._folder.name,
            "run_id": self._new_id,
            "resume": "allow",
            "console": "off",
            "init_timeout": TIMEOUT_SECONDS,
            "finish_timeout": TIMEOUT_SECONDS,
            "x_transaction_log_flush_interval": 1.0,  # seconds of rows that a kill may lose; its default is 15
        }
        values = {key: value for key, value in default.items() if key not in settings.model_fields_set}
        values |= {name: getattr(logger, key) for key, name in NAMES.items() if getattr(logger, key) is not None}
        if self.known_id:
            values |= {"run_id": self.known_id, "resume": "allow"}
        for key in ("init_timeout", "finish_timeout"):
            if logger.timeout_seconds is not None or getattr(settings, key) <= 0:  # 0 would wait forever
                values[key] = logger.timeout_seconds or TIMEOUT_SECONDS
        for key, value in values.items():
            if hasattr(settings, key):
                setattr(settings, key, value)
        settings.finish_timeout_raises = True
        settings.reinit = "create_new"  # no global `wandb.run`, which a killed service would leave behind
        if mode == "offline" or not settings._shared:
            settings.mode = mode
        return settings

    def start(self, mode: str, config: dict[str, Any]) -> Any:
        """Start a W&B run. On failure, remove its process and its half-written directory."""
        settings = self.settings(mode)
        folder, runs = Path(settings.wandb_dir), f"*run-*-{settings.run_id}"
        before = set(folder.glob(runs))
        try:
            return load().init(config=config)
        except BaseException:
            stop()
            for begun in set(folder.glob(runs)) - before:
                shutil.rmtree(begun, ignore_errors=True)
            raise


def stop(kill: bool = True) -> None:
    """End the client's process; without `kill`, after it has finished its work."""
    if kill:
        end_service()
    with contextlib.suppress(Exception, SystemExit):  # raised if the process was killed
        load().teardown()
