"""Helpers that the tests share: running commands as a person does, small runs, probe environments."""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import filelock
import gymnasium
import pytest
import torch
import zygote

from atari_dqn import __main__
from atari_dqn.checkpoint import checkpoints
from atari_dqn.config import compose
from atari_dqn.training import launch
from atari_dqn.training.run import Run
from atari_dqn.utils.console import Console

ROOT = Path(__file__).parent.parent
QUIET = [
    "logger.wandb=off", "logger.tensorboard=false", "evaluation.video_seconds=0", "evaluation.held_out_states=0",
]  # fmt: skip

gymnasium.register("Probe/Chain-v0", entry_point="probes:Chain")
gymnasium.register("Probe/Memory-v0", entry_point="probes:Memory")
gymnasium.register("Probe/Uneven-v0", entry_point="probes:Uneven")
for name, what in {
    "Vector": {},
    "Ram": {"dtype": "uint8"},
    "Counts": {"dtype": "uint8", "high": 100},
    "Screen": {"dtype": "uint8", "shape": (2, 36)},
}.items():
    gymnasium.register(f"Probe/{name}-v0", entry_point="probes:Clock", kwargs=what, max_episode_steps=12)
gymnasium.register("Probe/Dice-v0", entry_point="probes:Dice")


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run side by side, each worker has its share of the cores to itself. Commands start fast."""
    if not torch.cuda.is_available():  # a driver that was asked cannot be forked
        zygote.install()
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) % len(cores) :: workers])


@pytest.fixture(autouse=True)
def _no_accounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may find a person's W&B login, MLflow server, or a screen."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    own = [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_")) and name != "WANDB_CONFIG_DIR"]
    for name in (*own, "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder that is filled once for all workers; whoever changes what is in it changes a copy."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def get(name: str, build: Callable[[Path], object]) -> Path:
        folder = root / f"shared-{name}"
        with filelock.FileLock(f"{folder}.lock"):
            if not (folder / ".built").exists():
                folder.mkdir(exist_ok=True)
                build(folder)
                (folder / ".built").touch()
        return folder

    return get


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m atari_dqn ...` in a folder of its own."""

    def run_command(*words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "atari_dqn", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run_command


@pytest.fixture
def inside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in this process, where a process of its own would prove nothing more and take seconds to begin."""

    def run_command(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        capsys.readouterr()
        code = __main__.main([*words])
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run_command


def flat(network: torch.nn.Module) -> torch.Tensor:
    """All weights in a row."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def small_run(folder: Path, *overrides: str) -> Run:
    """A fresh run in this process, without logs or videos."""
    composed = compose.compose("train", [*QUIET, *overrides, f"run_dir={folder}"])
    return launch.prepare(compose.to_train_config(composed), Console(quiet=True))


def sealed(content: object, path: Path, *, pickled: bytes | None = None, more: dict[str, bytes] | None = None) -> Path:
    """A file with a right seal around anything; `more` are further entries of its archive."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    if pickled is not None or more:
        changed = io.BytesIO()
        with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(changed, "w") as new:
            for entry in old.infolist():
                hidden = pickled is not None and entry.filename.endswith("data.pkl")
                new.writestr(entry.filename, pickled if hidden else old.read(entry))
            for name, data in (more or {}).items():
                new.writestr(name, data)
        buffer = changed
    data = bytearray(buffer.getvalue())
    data[-2:] = checkpoints.SEAL_BYTES.to_bytes(2, "little")
    data += checkpoints.SEAL
    data += checkpoints.hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(data)
    return path
