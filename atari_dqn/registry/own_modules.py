"""Environments from your own modules: `my_module:MyEnv-v0`.

A module is imported only if its name was typed on the command line, and a string that could be a path or a module
reaches an environment only if it was typed: a downloaded checkpoint or config.yaml must not choose what code runs.
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
PLAIN = re.compile(r"(?!\.+$)[\w .+-]*")  # strings that name neither a path nor a module

_specs: dict[str, EnvSpec] = {}  # of the typed environments, by the typed name
_typed: set[str] = set()  # strings in their arguments


def allow(game: str, arguments: Any = None) -> None:
    """Trust what was typed: import the game's module, if it names one, and allow its arguments.

    Raises UserError if the module cannot be imported or has no such environment.
    """
    allow_texts(arguments)
    if ":" in game and game not in _specs:
        _specs[game] = _imported(game)


def allow_texts(arguments: Any) -> None:
    """Trust the strings in arguments that were typed."""
    _typed.update(_texts(arguments))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def imported(setting: str, typed: str, module: str) -> Any:
    """Import a module that was typed as part of a setting. Raises UserError if there is none, or it fails."""
    if not MODULE.fullmatch(module):
        example = "MyEnv-v0" if setting == "env.game" else "Name"
        raise UserError(
            f"{setting}={typed}: a module's name stands before the colon, as in my_package.my_module:{example}"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit and panics of Rust extensions
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"{setting}={typed}: there is no module {error.name} in the current directory, PYTHONPATH or the "
                f"installed packages"
            ) from None
        raise UserError(f"{setting}={typed}: importing {module} failed: {where(error)}") from None


def _imported(game: str) -> EnvSpec:
    module, _, name = game.partition(":")
    before = {*gymnasium.registry}
    loaded = imported("env.game", game, module)
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    package = module.partition(".")[0]
    own = [
        one for one, spec in gymnasium.registry.items() if one not in before or origin(spec).startswith(f"{package}.")
    ]
    made = getattr(loaded, name, None)
    if isinstance(made, type) and not issubclass(made, gymnasium.Env):
        raise UserError(f"env.game={game}: {name} is not a gymnasium.Env")
    if made is not None and isinstance(made, type) and not any(one.startswith(name) for one in own):
        return EnvSpec(id=name, entry_point=made)  # type: ignore[arg-type]
    classes = [one for one, value in vars(loaded).items() if isinstance(value, type) and value.__module__ == module]
    classes = [one for one in classes if issubclass(vars(loaded)[one], gymnasium.Env)]
    there = f"it registers {', '.join(sorted(own)[:5])}" if own else "it registers no environments"
    there += f" and has the classes {', '.join(classes[:5])}" if classes and not own else ""
    raise UserError(f"env.game={game}: {module} has no environment {name!r}{suggest(name, own or classes)}; {there}")


def origin(spec: EnvSpec) -> str:
    """The module of an environment's entry point, followed by a dot."""
    made = spec.entry_point
    return f"{made.partition(':')[0] if isinstance(made, str) else getattr(made, '__module__', '')}."


def spec(name: str) -> EnvSpec:
    """The spec of an environment `my_module:MyEnv-v0`. Raises UserError if that name was not typed."""
    if name not in _specs:
        raise UserError(
            f"{name} comes from the module {name.partition(':')[0]}, which is only imported if you name it: add "
            f"env.game={name} (with make: GAME={name})"
        )
    return _specs[name]


def check_typed(name: str, arguments: Mapping[str, Any], setting: str = "env.arguments") -> None:
    """Raise UserError if arguments contain a string that could be a path or a module and was not typed."""
    if strange := sorted({text for text in _texts(arguments) if not PLAIN.fullmatch(text)} - _typed):
        raise UserError(
            f"{name} has the argument {strange[0]!r}, which could name a file or a module and is only used if you type "
            f"it: '{setting}={json.dumps(arguments)}'"
        )
