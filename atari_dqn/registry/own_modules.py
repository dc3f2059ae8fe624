"""Modules of your own that environments come from: `my_module:MyEnv-v0`.

A module is imported only because a person typed its name, and a text that could be a path or a module reaches an
environment only because a person typed it: a checkpoint or config.yaml from elsewhere must not choose what runs here.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from atari_dqn.registry.watched import where
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import suggest

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
PLAIN = re.compile(r"(?!\.+$)[\w .+-]*")  # texts that name neither a path nor a module

_specs: dict[str, EnvSpec] = {}  # of the environments that were typed, by what was typed
_typed: set[str] = set()  # texts of their arguments


def allow(game: str, arguments: Any = None) -> None:
    """Take what a person typed as wanted: import the game's module, if it names one, and let its arguments pass.

    Raises UserError where the module cannot be imported, or has no such environment.
    """
    _typed.update(_texts(arguments))
    if ":" in game and game not in _specs:
        _specs[game] = _imported(game)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _imported(game: str) -> EnvSpec:
    module, _, name = game.partition(":")
    if not MODULE.fullmatch(module):
        raise UserError(
            f"env.game={game}: a module's name stands before the colon, as in my_package.my_module:MyEnv-v0"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    before = {*gymnasium.registry}
    try:
        loaded = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, and what an extension in Rust raises
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"env.game={game}: there is no module {error.name}; it is looked for in the current folder, in "
                f"PYTHONPATH and among the installed packages"
            ) from None
        raise UserError(f"env.game={game}: importing {module} failed: {where(error)}") from None
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    package = module.partition(".")[0]
    own = [
        one for one, spec in gymnasium.registry.items() if one not in before or origin(spec).startswith(f"{package}.")
    ]
    made = getattr(loaded, name, None)
    if isinstance(made, type) and not issubclass(made, gymnasium.Env):
        raise UserError(f"env.game={game}: {name} is no gymnasium.Env")
    if made is not None and isinstance(made, type) and not any(one.startswith(name) for one in own):
        return EnvSpec(id=name, entry_point=made)  # type: ignore[arg-type]
    classes = [one for one, value in vars(loaded).items() if isinstance(value, type) and value.__module__ == module]
    classes = [one for one in classes if issubclass(vars(loaded)[one], gymnasium.Env)]
    there = f"it registers {', '.join(sorted(own)[:5])}" if own else "it registers none"
    there += f" and has the classes {', '.join(classes[:5])}" if classes and not own else ""
    raise UserError(f"env.game={game}: {module} has no environment {name!r}{suggest(name, own or classes)}; {there}")


def origin(spec: EnvSpec) -> str:
    """The module that an environment is made by, with a dot behind it."""
    made = spec.entry_point
    return f"{made.partition(':')[0] if isinstance(made, str) else getattr(made, '__module__', '')}."


def spec(name: str) -> EnvSpec:
    """How an environment `my_module:MyEnv-v0` is made. Raises UserError where that was not typed."""
    if name not in _specs:
        raise UserError(
            f"{name} comes from the module {name.partition(':')[0]}, which is imported only where you name it: add "
            f"env.game={name} (with make: GAME={name})"
        )
    return _specs[name]


def check_typed(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise UserError where arguments have a text in them that could be a path or a module, and was not typed."""
    if strange := sorted({text for text in _texts(arguments) if not PLAIN.fullmatch(text)} - _typed):
        raise UserError(
            f"{name} was made with the argument {strange[0]!r}, which could name a file or a module, and is used only "
            f"where you type it: 'env.arguments={json.dumps(arguments)}'"
        )
