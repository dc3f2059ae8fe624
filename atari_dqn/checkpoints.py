"""Checkpoints: one file with all that is needed to play or to train on, and nothing in it that runs code."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atari_dqn import networks, settings
from atari_dqn.errors import UserError

FORMAT = "atari_dqn checkpoint"
VERSION = 2  # 2: the dense layer takes its features in channels-last order


def save(path: Path, content: dict[str, Any]) -> None:
    """Write plain data and tensors to `path`: under a temporary name first, so that the file is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION} | content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Checkpoint:
    """A checkpoint read and checked.

    Attributes:
        config: the run's TrainConfig.
        actions: what each of the network's outputs means.
        content: everything, as it was saved.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        """Raises UserError, in one line, where the file is not a whole checkpoint of this project."""
        self.path = path
        self.content = _read(path)
        try:
            self.config = settings.to_train_config(self.content["config"])
            self.actions = tuple(str(name) for name in self.content["actions"])
            self.frame_shape = tuple(int(size) for size in self.content["frame_shape"])
            self.frame_dtype = str(self.content["frame_dtype"])
            self.agent_steps = int(self.content["agent_steps"])
            if len(set(self.actions)) < len(self.actions):
                raise ValueError("its actions are not distinct")
            self.network = self._network().to(device)
        except UserError as error:
            raise UserError(f"{path} does not hold a usable checkpoint: {error}") from None
        except Exception as error:
            kind = type(error).__name__
            raise UserError(f"{path} does not hold a usable checkpoint: {kind} ({_short(error)})") from None

    def _network(self) -> nn.Module:
        # Built without memory, so that a tampered size costs nothing before the weights have been compared with it.
        network, weights = self.config.network, self.content["online"]
        with torch.device("meta"):
            module = networks.build(
                network.name, network.hidden, self.frame_shape, self.config.env.frame_stack, len(self.actions)
            )
        shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        if {key: tuple(value.shape) for key, value in weights.items()} != shapes:
            raise ValueError("its weights do not fit its network")
        if not all(torch.isfinite(value).all() for value in weights.values()):
            raise ValueError("its weights are not finite")
        module = module.to_empty(device="cpu")
        module.load_state_dict(weights)
        return module.requires_grad_(False)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a .pt file in it")
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken:
            raise UserError(f"{path} is damaged (at {broken}); use another checkpoint of the run")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except zipfile.BadZipFile:
        raise UserError(f"{path} is not a checkpoint, or was cut short") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint of atari_dqn ({_short(error)[:60]}…)") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of atari_dqn")
    if content.get("version") != VERSION:
        raise UserError(f"{path} has format version {content.get('version')}; this program reads version {VERSION}")
    return content


def find(where: str) -> Path:
    """The checkpoint that a person means by a .pt file, a run's folder, or its checkpoints/ folder."""
    path = Path(where)
    for folder in (path / "checkpoints", path):
        for name in ("best.pt", "latest.pt"):
            if (folder / name).is_file():
                return folder / name
    if path.is_dir():
        raise UserError(f"{path} holds no checkpoint; give a .pt file or a run's folder")
    return path
