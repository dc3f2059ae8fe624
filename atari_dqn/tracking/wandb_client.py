"""The W&B client: its settings and login, which it finds by its own rules, and its process in the background.

It reads the environment, its settings files and .netrc; nothing of that is read here.
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
from atari_dqn.utils.text import one_line

TIMEOUT_SECONDS = 30.0  # for the server to answer at the start, and to take what is left at the end
LOGIN_SECONDS = 10.0  # for reading the client's files: a home folder may hang
MODES = {"offline": "offline", "dryrun": "offline", "disabled": "off"}  # of the client; all others are online
# What the client's settings are called that a run's config has, too.
NAMES = {
    "project": "project", "entity": "entity", "name": "run_name", "group": "run_group", "tags": "run_tags",
    "notes": "run_notes",
}  # fmt: skip


class Warnings:
    """Where the client's messages go: to nobody, but its warnings are kept."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None:
        self.heard.append(text)

    error = warning

    def of_upload(self) -> str:
        """What kept a part from being uploaded, in a sentence; empty for nothing."""
        found = next((text for text in self.heard if "wandb sync" in text), "")  # the remedy that it names
        return re.sub(r"^wandb: \w+ ", "", one_line(found)).partition(". ")[0] if found else ""


def load() -> Any:
    """The client's module."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else a broken server holds up telemetry, and with it us
    import wandb  # slow to load

    return wandb


def client_settings(warnings: Warnings | None = None) -> Any:
    """The client's own settings, from its files and the environment. It is quiet unless these say otherwise."""
    wandb = load()
    from wandb.sdk.wandb_setup import singleton  # wandb.setup() would start a process

    wandb.termsetup(wandb.Settings(silent=True), warnings)
    settings = singleton().settings
    if "silent" not in settings.model_fields_set:
        settings.silent = True
    wandb.termsetup(settings, warnings)
    return settings


def wandb_login() -> bool:
    """Whether the client has a login for its server, by its own rules. Costs no network.

    Raises what the client raises, and TimeoutError where its files cannot be read in time.
    """
    settings, answer = client_settings(), Future[bool]()
    silent, settings.silent = settings.silent, True  # else it asks the server for a name to show

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
    """What becomes of a run here, in a sentence."""
    wandb = load()
    stop(kill=False)  # settings are read anew
    settings, mode = client_settings(), wandb_mode("online")
    if mode != "online":
        where = "runs are recorded offline" if mode == "offline" else "runs do not use it"
        return f"{wandb.__version__}, {settings.mode}: {where} (`wandb online`, or WANDB_MODE=online, changes that)"
    try:
        found = wandb_login()
    except TimeoutError as error:
        return f"{wandb.__version__}: {error}, so runs are recorded offline"
    if not found:
        return f"{wandb.__version__}, no login: runs are recorded offline (`wandb login` changes that)"
    return f"{wandb.__version__}, logged in: runs are sent to {settings.base_url} (WANDB=offline or off changes that)"


def wandb_mode(asked: str) -> str:
    """online, offline or off; the client's own mode counts where nothing else was asked."""
    return MODES.get(client_settings().mode, "online") if asked == "online" else asked


def service_processes() -> list[psutil.Process]:
    """The client's processes in the background."""
    return [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]


def end_service() -> None:
    """Have all fail at once that waits for the client."""
    killed = service_processes()
    for process in killed:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(killed, timeout=5)


class Client:
    """The client, set up for a run.

    Attributes:
        known_id: of the run when it is resumed, else empty.
        warnings: what the client warned of.
    """

    def __init__(self, logger: Logger, folder: Path) -> None:
        self._logger, self._folder, self.warnings = logger, folder, Warnings()
        self.known_id = _read_id(folder / "wandb_id")
        self._new_id = secrets.token_hex(4)

    def settings(self, mode: str) -> Any:
        """Its settings: what the run's config says, then the user's own, then our defaults."""
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
            "x_transaction_log_flush_interval": 1.0,  # seconds of rows that a kill may cost; 15 is its own
        }
        values = {key: value for key, value in default.items() if key not in settings.model_fields_set}
        values |= {name: getattr(logger, key) for key, name in NAMES.items() if getattr(logger, key) is not None}
        if self.known_id:
            values |= {"run_id": self.known_id, "resume": "allow"}
        for key in ("init_timeout", "finish_timeout"):
            if logger.timeout_seconds is not None or getattr(settings, key) <= 0:  # 0 would wait for ever
                values[key] = logger.timeout_seconds or TIMEOUT_SECONDS
        for key, value in values.items():
            if hasattr(settings, key):
                setattr(settings, key, value)
        settings.finish_timeout_raises = True
        settings.reinit = "create_new"  # no `wandb.run`, which a service that was killed would leave behind
        if mode == "offline" or not settings._shared:
            settings.mode = mode
        return settings

    def start(self, mode: str, config: dict[str, Any]) -> Any:
        """A new run of the client's. Where that fails, its process and what it began to write are gone."""
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
    """End the client's process; without `kill`, once it has done what it has to."""
    if kill:
        end_service()
    with contextlib.suppress(Exception, SystemExit):  # what it says of a process that was killed
        load().teardown()


def _read_id(path: Path) -> str:
    """The run's id of before; empty where there is none, or no id in the file."""
    if path.is_symlink() or not path.is_file():
        return ""
    with open(path, "rb") as file:
        found = file.read(129).decode(errors="replace").strip()
    return found if re.fullmatch(r"[\w.-]{1,128}", found, re.ASCII) else ""
