"""The names of all settings, and the files that a group of them is chosen from."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import omegaconf
from omegaconf import OmegaConf

from atari_dqn.config.commands import SCHEMAS, conf_dir
from atari_dqn.registry import plugins
from atari_dqn.utils.errors import UserError


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(value, omegaconf.DictConfig) and not value._is_none():
            yield from leaves(value, f"{path}.")


_own_dirs: list[Path] = []  # the user's own folder of settings, if any


def use_config_dir(typed: str | None) -> str:
    """Find presets, and files of the other groups, in a folder besides conf/; its path. Raises UserError."""
    _own_dirs.clear()
    known_keys.cache_clear()
    if typed is None:
        return ""
    folder = Path(typed).expanduser().resolve()
    if not typed or not folder.is_dir():
        raise UserError(f"--config-dir {typed}: there is no such folder" if typed else "--config-dir needs a folder")
    for file in folder.glob("*/*.yaml"):
        name = file.relative_to(folder)
        if (conf_dir() / name).exists():
            raise UserError(f"--config-dir {typed}: {name} has the name of one in conf/; rename it")
    _own_dirs.append(folder)
    return str(folder)


def search_path() -> list[str]:
    """The user's own folder and those of installed packages, for Hydra."""
    folders = [*_own_dirs, *plugins.preset_folders()]
    quoted = ["'file://" + str(folder).replace("'", "\\'") + "'" for folder in folders]
    return [f"hydra.searchpath=[{','.join(quoted)}]"] if quoted else []


@functools.cache
def known_keys(command: str) -> tuple[set[str], dict[str, list[str]]]:
    """All config keys of a command, and its config groups with their options."""
    keys, roots = (
        set(leaves(OmegaConf.structured(SCHEMAS[command]))),
        (conf_dir(), *_own_dirs, *plugins.preset_folders()),
    )
    groups = {
        folder.name: sorted(path.stem for root in roots for path in root.glob(f"{folder.name}/*.yaml"))
        for folder in conf_dir().iterdir()
        if folder.is_dir()
    }
    for kind in plugins.PARTS:
        known = groups.get(kind.setting)  # a rule has none
        if known is not None:
            known += [name for name in plugins.installed(kind.group) if name not in known]
    return keys, groups


OPEN = (
    "optimizer.arguments.", "optimizer.schedule_arguments.", "network.arguments.", "rule.arguments.", "env.arguments.",
    "env.goals.",
)  # fmt: skip


def is_known(key: str, keys: set[str]) -> bool:
    """Whether `key` is one of `keys`, or below an open-ended one."""
    return key in keys or key.startswith(OPEN)
