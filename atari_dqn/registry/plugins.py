"""Your own networks, rules, optimizers, trackers and callbacks, by import path or by a package's entry points.

`my_package.my_module:Name` is imported only where it was typed, on the command line or in Python: a downloaded
checkpoint or config.yaml must not choose what code runs. An installed package offers names by entry points, such as

    [project.entry-points."atari_dqn.networks"]
    resnet = "my_package.nets:ResNet"
"""

import functools
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

from atari_dqn.data.games import atari_games
from atari_dqn.registry import own_modules
from atari_dqn.registry.watched import where
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import suggest


class Kind(NamedTuple):
    """What can be plugged in.

    Attributes:
        setting: how it is typed.
        group: the entry points' group.
    """

    setting: str
    group: str


NETWORK = Kind("network", "atari_dqn.networks")
RULE = Kind("rule", "atari_dqn.rules")
OPTIMIZER = Kind("optimizer", "atari_dqn.optimizers")
TRACKER = Kind("trackers", "atari_dqn.trackers")
CALLBACK = Kind("callbacks", "atari_dqn.callbacks")
PARTS = (NETWORK, RULE, OPTIMIZER)  # each a section of the settings, whose `name` it is
ENVIRONMENT = Kind("env.game", "atari_dqn.envs")
PRESETS = "atari_dqn.presets"
ALSO = {"atari_dqn.rules": ("atari_dqn.targets",)}  # other names of groups

_typed: dict[str, Any] = {}  # what was imported, by import path


@functools.cache
def installed(group: str) -> dict[str, metadata.EntryPoint]:
    """The names that installed packages offer."""
    groups = [*ALSO.get(group, ()), group]
    points = {point.name: point for one in groups for point in metadata.entry_points(group=one)}
    if points and group == ENVIRONMENT.group:  # the ALE's names stay its own
        points = {name: point for name, point in points.items() if name.lower() not in map(str.lower, atari_games())}
    return points


def is_path(name: str) -> bool:
    return ":" in name


def is_own(kind: Kind, name: str) -> bool:
    """Whether a name is a plug-in's: an import path, or what an installed package offers."""
    return is_path(name) or name in installed(kind.group)


@functools.cache
def preset_folders() -> list[Path]:
    """Folders of installed packages that have files for conf/'s groups, such as preset/NAME.yaml."""
    return [Path(str(resources.files(point.value))) for point in installed(PRESETS).values()]


def path_of(thing: Any) -> str:
    """The import path of a class or function; it counts as typed."""
    path = f"{thing.__module__}:{thing.__qualname__}"
    _typed[path] = thing
    return path


def allow(kind: Kind, name: str) -> None:
    """Trust what was typed: import it, if it is an import path. Raises UserError."""
    if not is_path(name) or name in _typed:
        return
    module, _, attribute = name.partition(":")
    loaded = own_modules.imported(kind.setting, name, module)
    found: Any = loaded
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        own = [one for one, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
        there = f"; it has {', '.join(own[:5])}" if own else ""
        raise UserError(f"{kind.setting}={name}: {module} has no {attribute!r}{suggest(attribute, own)}{there}")
    _typed[name] = found


def find(kind: Kind, name: str, known: tuple[str, ...] = ()) -> Any:
    """The class or function that a name stands for. Raises UserError if it is unknown, or a path that was not typed.

    Args:
        known: the program's own names.
    """
    if name in _typed:
        return _typed[name]
    if is_path(name):
        package = name.partition(":")[0].partition(".")[0]
        lacks = "" if _is_here(package) else f"; the package {package} is not installed here"
        raise UserError(
            f"{kind.setting}={name} is imported only if you name it: add {kind.setting}={name}"
            f"{lacks or ', if you trust it'}"
        )
    if point := installed(kind.group).get(name):
        return _loaded(kind, point)
    names = [*known, *installed(kind.group)]
    listed = f"; known: {', '.join(names)}" if names else ""
    what = f"no {kind.setting.removesuffix('s')} is called {name!r}"
    raise UserError(f"{what}{suggest(name, names)}{listed}; your own: {kind.setting}=my_package.my_module:Name")


def _is_here(package: str) -> bool:
    """Whether a package can be imported, as far as one knows without importing it."""
    try:
        here = importlib.machinery.PathFinder.find_spec(package, [os.getcwd()])
        return bool(here or importlib.util.find_spec(package))
    except (ImportError, ValueError):  # __main__ has no spec
        return package in sys.modules


def _loaded(kind: Kind, point: metadata.EntryPoint) -> Any:
    try:
        return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"{kind.setting}={point.name}: importing {point.value} failed: {where(error)}") from None


def make(
    kind: Kind, name: str, *args: Any, arguments: Mapping[str, Any] | None = None, known: tuple[str, ...] = ()
) -> Any:
    """Call what a name stands for, with `arguments` as keywords. Raises UserError.

    Args:
        known: the program's own names.
    """
    kind_of = find(kind, name, known)
    own_modules.check_typed(f"{kind.setting}={name}", arguments or {}, f"{kind.setting}.arguments")
    try:
        return kind_of(*args, **(arguments or {}))
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        given = f" with {kind.setting}.arguments={dict(arguments)}" if arguments else ""
        raise UserError(f"{kind.setting}={name} cannot be created{given}: {where(error)}") from None


def words(config: Any, to_play: bool = False) -> str:
    """The settings that must be typed again with a run of this config, as one types them: its import paths.

    Args:
        to_play: to play with its network, not to train it.
    """
    named = {kind.setting: getattr(config, kind.setting).name or "" for kind in ((NETWORK,) if to_play else PARTS)}
    named[ENVIRONMENT.setting] = config.env.game
    return " ".join(f"{setting}={name}" for setting, name in named.items() if is_path(name))


def origin(kind: Kind, name: str) -> str:
    """The package that a plug-in comes from, with its version where it is installed: what a checkpoint keeps."""
    if not is_path(name):
        point = installed(kind.group).get(name)
        return f"{point.dist.name} {point.dist.version}" if point and point.dist else ""
    package = name.partition(":")[0].partition(".")[0]
    names = metadata.packages_distributions().get(package, [])
    return f"{names[0]} {metadata.version(names[0])}" if names else package


def explain_missing(kind: Kind, name: str | None, package: str) -> None:
    """Raise UserError if a checkpoint's plug-in, of an installed `package` once, is not installed here."""
    if package and name and not is_path(name) and name not in installed(kind.group):
        raise UserError(f"its {kind.setting} {name} comes from the package {package}, which is not installed here")
