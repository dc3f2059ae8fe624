"""Checkpoint files: torch's format, written atomically; loading one runs no code from it.

The last bytes of a file (the comment of the zip archive) are the SHA-256 of everything before them.
"""

import contextlib
import hashlib
import io
import os
import pickletools
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atari_dqn.checkpoint import folders
from atari_dqn.checkpoint.network import restored
from atari_dqn.checkpoint.replay_files import ReplayFiles, segments
from atari_dqn.config import compose
from atari_dqn.dqn import networks
from atari_dqn.registry import plugins
from atari_dqn.utils import files
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing, set_aside, sync_folder
from atari_dqn.utils.text import one_line, plural

FORMAT = "atari_dqn checkpoint"
VERSION = 3  # 3: checksum, replay files, the games' actions. 2: channels-last features for the dense layer
SEAL = b"sha256:"  # and 64 hex digits
SEAL_BYTES = len(SEAL) + 64
# Entries that torch writes. Its archive reader ignores case in names, so any other entry is rejected.
ENTRIES = re.compile(r"archive/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/\w+|data/\d+)")
MOST = 1_000_000  # operations in the pickle
NAMING = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}  # name Python objects
HARMLESS = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"} | {
    f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Byte", "Bool")
}


def sealed(content: dict[str, Any]) -> bytes:
    """A checkpoint file's bytes, from plain data and tensors."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION} | content, buffer)
    data = bytearray(buffer.getbuffer())
    data[-2:] = SEAL_BYTES.to_bytes(2, "little")  # the length of the archive's comment
    data += SEAL
    data += hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write plain data and tensors to `path`, atomically. Raises OSError."""
    data = sealed(content)
    with replacing(path) as file:
        file.write(data)


def small(checkpoint: "Checkpoint") -> dict[str, Any]:
    """What is needed to play with a checkpoint's network, its weights in float16."""
    needed = ("config", "actions", "frame_shape", "frame_dtype", "agent_steps", "plugins", "imported")
    content = {key: checkpoint.content[key] for key in needed if key in checkpoint.content}
    weights = checkpoint.network.state_dict()
    halved = {key: value.half() if value.is_floating_point() else value.clone() for key, value in weights.items()}
    return content | {"online": {key: value.cpu().contiguous() for key, value in halved.items()}}


def rotate(folder: Path, content: dict[str, Any]) -> None:
    """Write latest.pt and keep the old one as previous.pt. latest.pt exists at every moment."""
    latest, previous = folder / "latest.pt", folder / "previous.pt"
    kept = folder / f".previous.{os.getpid()}.tmp.pt"
    if latest.exists():
        kept.unlink(missing_ok=True)
        try:
            os.link(latest, kept)
        except OSError:  # a file system without hard links
            with replacing(kept) as file, files.opened(latest) as old:
                shutil.copyfileobj(old, file)
    try:
        write(latest, content)
        if kept.exists():
            os.replace(kept, previous)
            sync_folder(folder)
    finally:
        kept.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Make previous.pt a hard link to latest.pt: a finished run needs no earlier state, so this saves its space."""
    second = files.temporary_name(folder / "previous.pt")
    with contextlib.suppress(OSError):  # without hard links, both files stay
        second.unlink(missing_ok=True)
        os.link(folder / "latest.pt", second)
        os.replace(second, folder / "previous.pt")
        sync_folder(folder)
    second.unlink(missing_ok=True)


class Resumed(NamedTuple):
    """The state from which a run resumes."""

    checkpoint: "Checkpoint"
    files: ReplayFiles


class Checkpoint:
    """A loaded and verified checkpoint.

    Attributes:
        config: the run's TrainConfig.
        actions: the action name of each network output.
        content: the whole content, as saved.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        """Raises UserError, with a one-line message, if the file is not an intact checkpoint of atari_dqn."""
        self.path = path
        self.content = _read(path)
        try:
            self.config = compose.to_train_config(compose.plain(self.content["config"]))
            self.actions = tuple(str(name) for name in self.content["actions"])
            for plug in (plugins.NETWORK, plugins.RULE):  # the optimizer is not needed to play
                name, packages = getattr(self.config, plug.setting).name, self.content.get("plugins", {})
                plugins.explain_missing(plug, name, str(packages.get(plug.setting, "")))
            self.frame_shape = tuple(int(size) for size in self.content["frame_shape"])
            self.frame_dtype = str(self.content["frame_dtype"])
            self.agent_steps = int(self.content["agent_steps"])
            for part in ("online", "target"):
                if part in self.content:
                    self.content[part] = networks.renamed(self.content[part])
            if len(set(self.actions)) < len(self.actions):
                raise ValueError("duplicate actions")
            weights = self.content["online"]
            self.network = restored(self.config, self.frame_shape, len(self.actions), weights).to(device)
        except UserError as error:
            raise UserError(f"{path} is not a usable checkpoint: {error}") from None
        except Exception as error:
            kind = type(error).__name__
            raise UserError(f"{path} is not a usable checkpoint: {kind} ({one_line(error, 120)})") from None


def _is_damaged(path: Path) -> bool:
    """Whether a file ends with a checksum that does not match its content; False if it has no checksum."""
    with files.opened(path.resolve()) as file:  # a path that the user gave may be a link
        left = os.fstat(file.fileno()).st_size - 64
        file.seek(max(0, left - len(SEAL)))
        if file.read(len(SEAL)) != SEAL:
            return False
        digest = file.read()
        file.seek(0)
        sha256 = hashlib.sha256()
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            sha256.update(block)
            left -= len(block)
    return sha256.hexdigest().encode() != digest


def _check_archive(path: Path) -> None:
    """Raise ValueError for an archive that could expand beyond its size, or whose pickle calls unknown functions."""
    with zipfile.ZipFile(path) as archive:
        if not archive.comment.startswith(SEAL) or len(archive.comment) != SEAL_BYTES:
            raise UserError(f"{path} is not a checkpoint of atari_dqn, or it is damaged")
        entries = archive.infolist()
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries
        ):
            raise ValueError("it is compressed")
        names = [entry.filename for entry in entries]
        if len({*names}) < len(names) or not all(ENTRIES.fullmatch(name) for name in names):
            raise ValueError("unexpected entries in its archive")
        pickle = archive.getinfo("archive/data.pkl")
        if pickle.file_size > 16 * MOST:
            raise ValueError("it is too large")
        for count, (operation, argument, _) in enumerate(pickletools.genops(archive.read(pickle))):
            if count > MOST:
                raise ValueError("it is too large")
            if operation.name in NAMING and not (operation.name == "GLOBAL" and argument in HARMLESS):
                raise ValueError(f"it calls for {argument}")


def _check_parts(content: Any) -> None:
    """Raise ValueError if a few bytes could expand: objects used twice, tensors larger than their storage."""
    seen, left = set(), [content]
    while left:
        node = left.pop()
        if isinstance(node, Tensor):
            if node.numel() * node.element_size() > node.untyped_storage().nbytes():
                raise ValueError("a tensor larger than its storage")
        elif isinstance(node, dict | list | tuple):
            if id(node) in seen and node:
                raise ValueError("an object that is used twice")
            seen.add(id(node))
            left += [*node, *node.values()] if isinstance(node, dict) else node


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise UserError(f"{path} is a directory; give a .pt file in it")
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        if _is_damaged(path):
            raise UserError(f"{path} is damaged: its checksum does not match")
        _check_archive(path)
        with warnings.catch_warnings():  # torch warns about files that it cannot read, too
            warnings.simplefilter("ignore")
            # Memory-mapped: parts that are not used take no memory.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        _check_parts(content)
    except UserError:
        raise
    except zipfile.BadZipFile:
        raise UserError(f"{path} is not a checkpoint, or is truncated") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint of atari_dqn ({one_line(error, 60)})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of atari_dqn")
    if content.get("version") != VERSION:
        raise UserError(f"{path} has format version {content.get('version')}; this program reads version {VERSION}")
    return content


def find(where: str) -> Path:
    """The checkpoint for a .pt file, a run directory, its checkpoints/ directory, or `latest`."""
    path = folders.named("checkpoint", where, "checkpoints/*.pt")
    if path.is_dir():
        folders.refuse_links(path)
    for folder in (path / "checkpoints", path):
        for name in ("best.pt", "latest.pt", "previous.pt"):
            if (folder / name).is_file():
                return folder / name
    if path.is_dir():
        raise UserError(f"{path} contains no checkpoint; give a .pt file or a run directory")
    return path


def newest(run: Path, say: Callable[[str], None]) -> Resumed | None:
    """The checkpoint to resume from, with its replay files: latest.pt, or previous.pt if that is damaged.

    None if no checkpoint was written yet. Reports damage and sets a damaged latest.pt aside. If both lack replay files,
    the latest is used without them. Raises UserError if neither can be read.
    """
    folder, lacking, broken = run / "checkpoints", [], []
    for path in (folder / "latest.pt", folder / "previous.pt"):
        if not path.exists():
            continue
        try:
            checkpoint = Checkpoint(path)
            files = ReplayFiles(run / "replay", segments((checkpoint.content.get("replay") or {}).get("segments", ())))
        except (UserError, ValueError, TypeError, AttributeError) as error:
            broken.append(str(error))
            continue
        damaged = files.drop_damaged()
        if not damaged:
            break
        names = ", ".join(segment.name for segment in damaged[:3]) + (" ..." if len(damaged) > 3 else "")
        say(f"{run / 'replay'}: {plural(len(damaged), 'replay file')} of {path.name} damaged or missing: {names}")
        lacking.append(Resumed(checkpoint, files))
    else:
        if not lacking:
            if broken:
                raise UserError("; ".join(broken) + "; neither can be resumed from")
            return None
        checkpoint, files = lacking[0]
    for text in broken:
        say(text)
    if checkpoint.path.name == "previous.pt":
        say(f"falling back to the previous checkpoint, {checkpoint.path}")
        if (folder / "latest.pt").exists():
            set_aside(folder / "latest.pt")
    return Resumed(checkpoint, files)
