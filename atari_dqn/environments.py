"""Gymnasium's environments and your own: modules that register them, their arguments, and what they do by themselves.

A module is imported only because a person typed its name, and a text that could be a path or a module reaches an
environment only because a person typed it: a checkpoint or config.yaml from elsewhere must not choose what runs here.
"""

import contextlib
import copy
import functools
import importlib
import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from atari_dqn.errors import RunFailed, UserError
from atari_dqn.games import atari_name, suggest
from atari_dqn.wrappers import Watched, where

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
PLAIN = re.compile(r"[\w.+-]*")  # texts that name neither a path nor a module
OURS = ("id", "render_mode", "disable_env_checker")  # arguments of gymnasium.make that the program sets

_specs: dict[str, EnvSpec] = {}  # of the environments whose modules were typed, by what was typed
_typed_texts: set[str] = set()
_tried: set[tuple[str, str]] = set()


def bare(name: str) -> str:
    """An environment's name without its module, as a file can be called: `my_module:My/Env-v0` -> `My-Env-v0`."""
    return re.sub(r"[^\w.+-]+", "-", name.rpartition(":")[2])


def allow(game: str, arguments: Any = None) -> None:
    """Take what a person typed as wanted: import the game's module, if it names one, and let its arguments pass.

    Raises UserError where the module cannot be imported, or has no such environment.
    """
    _typed_texts.update(_texts(arguments))
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
    except (Exception, SystemExit) as error:
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
        one for one, spec in gymnasium.registry.items() if one not in before or _origin(spec).startswith(f"{package}.")
    ]
    made = getattr(loaded, name, None)
    if isinstance(made, type) and issubclass(made, gymnasium.Env) and not any(one.startswith(name) for one in own):
        return EnvSpec(id=name, entry_point=made)  # type: ignore[arg-type]
    there = f"it registers {', '.join(sorted(own)[:5])}" if own else "it registers none"
    raise UserError(f"env.game={game}: {module} has no environment {name!r}{suggest(name, own)}; {there}")


def _origin(spec: EnvSpec) -> str:
    made = spec.entry_point
    return f"{made.partition(':')[0] if isinstance(made, str) else getattr(made, '__module__', '')}."


def named(typed: str) -> str:
    """A registered name typed in any case, or without its version: `cartpole` -> `CartPole-v1`. Others as they are."""
    if typed in gymnasium.registry or ":" in typed:
        return typed
    names = {spec.id.lower(): spec for spec in gymnasium.registry.values()}
    if spec := names.get(typed.lower()):
        return spec.id
    versions = [spec for name, spec in names.items() if name.rpartition("-v")[0] == typed.lower()]
    return max(versions, key=lambda spec: spec.version or 0).id if versions else typed


def is_gymnasium(typed: str) -> bool:
    """Whether a name is of a Gymnasium environment that is no Atari game."""
    spec = gymnasium.registry.get(named(typed))
    return ":" in typed or (spec is not None and not _origin(spec).startswith("ale_py."))


def _spec(name: str) -> EnvSpec:
    if ":" in name:
        if name not in _specs:
            raise UserError(
                f"{name} comes from the module {name.partition(':')[0]}, which is imported only where you name it: add "
                f"env.game={name} (with make: GAME={name})"
            )
        return _specs[name]
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    newest = named(re.sub(r"-v\d+$", "", name))
    if newest in gymnasium.registry:
        raise UserError(f"no Gymnasium environment {name!r}: the newest version is {newest}")
    own = "; for one of your own, name its module: env.game=my_module:MyEnv-v0"
    raise UserError(f"no Gymnasium environment {name!r}{suggest(name, gymnasium.registry) or own}")


def check_arguments(kind: str, game: str, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for arguments of an environment (env.arguments) that are not its own."""
    if arguments and kind == "atari":
        raise UserError(
            f"env.arguments are for env=gymnasium. The settings of env=atari are env.*; the ALE's mode, difficulty and "
            f"obs_type=ram are available as env=gymnasium env.game=ALE/{game}-v5 'env.arguments={{mode: 1}}'"
        )
    for key in OURS:
        if key in arguments:
            raise UserError(f"env.arguments.{key} is set by the program; leave it out")


def make(name: str, arguments: Mapping[str, Any] | None = None, **kwargs: Any) -> gymnasium.Env:
    """An environment by its name, watched for mistakes (see wrappers.Watched), and tried out when it is first made.

    Args:
        arguments: env.arguments.
        kwargs: more of gymnasium.make's.

    Raises UserError where it cannot be made.
    """
    spec, arguments = _spec(name), copy.deepcopy(dict(arguments or {}))
    if strange := sorted({text for text in _texts(arguments) if not PLAIN.fullmatch(text)} - _typed_texts):
        raise UserError(
            f"{name} was made with the argument {strange[0]!r}, which could name a file or a module, and is used only "
            f"where you type it: 'env.arguments={json.dumps(arguments)}'"
        )
    try:
        creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        known = _parameters(creator)
        if known is not None:
            kwargs = {key: value for key, value in kwargs.items() if key in known}  # of render_mode few must know
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a render_mode that `metadata` does not list
            env = gymnasium.make(spec, disable_env_checker=True, **kwargs, **arguments)
        watched = Watched(env, name)
    except UserError:
        raise
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(_lacking(name, error)) from None
    except Exception as error:
        unknown = sorted({*arguments} - {"max_episode_steps"} - {*known}) if known is not None else []
        if unknown:
            takes = [one for one in known or () if one not in OURS]
            hint = suggest(unknown[0], takes) + f"; it takes {', '.join(takes) or 'none'}"
            raise UserError(f"{name} takes no env.arguments.{unknown[0]}{hint}") from None
        raise UserError(f"{name} cannot be made with env.arguments={json.dumps(arguments)}: {where(error)}") from None
    _try_out(watched, name, arguments)
    return watched


def _parameters(creator: Any) -> list[str] | None:
    """The names of the arguments that make an environment; None where it takes any."""
    try:
        found = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_KEYWORD for one in found):
        return None
    return [one.name for one in found]


def _lacking(name: str, error: Exception) -> str:
    """What to install."""
    text = " ".join(str(error).split())
    extra = re.search(r"(gymnasium|shimmy)\[[\w-]+\]", text)
    if (package := re.match(r"(\S+) is not installed", text)) and extra:
        return (
            f"{name} needs {package[1]}, which is not installed: pip install {'swig ' * ('swig' in text)}'{extra[0]}'"
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{name} needs the module {error.name}, which is not installed"
    return f"{name} cannot be made: {text[:300]}"


def _try_out(env: gymnasium.Env, name: str, arguments: Mapping[str, Any]) -> None:
    """Play one step, once for each environment, so that its mistakes are told before a run begins."""
    key = (name, json.dumps(arguments, sort_keys=True, default=str))
    actions, space = env.action_space, env.observation_space
    if key in _tried or not isinstance(actions, gymnasium.spaces.Discrete):
        return
    if not isinstance(space, gymnasium.spaces.Box):  # is refused elsewhere
        return
    try:
        env.reset(seed=0)
        env.step(actions.start)
    except RunFailed as error:
        env.close()
        raise UserError(str(error)) from None
    _tried.add(key)


class Own(NamedTuple):
    """What a Gymnasium environment does by itself, whatever the settings say."""

    shape: tuple[int, ...]  # of its observations
    frame_skip: tuple[int, int]  # frames in a step: at least, at most
    stickiness: float  # probability that an action is repeated
    atari: str | None  # its name for env=atari

    @property
    def frames(self) -> str:
        """`4`, or `2 to 4`."""
        return " to ".join(map(str, sorted({*self.frame_skip})))

    def check(self, name: str, frame_skip: int) -> None:
        """Raise UserError where frames would be skipped twice."""
        if self.frame_skip[1] > 1 and frame_skip > 1:
            remedy = f"env=atari env.game={self.atari}, or " if self.atari else ""
            raise UserError(
                f"{name} plays {self.frames} frames a step by itself, and env.frame_skip={frame_skip} would repeat "
                f"each step {frame_skip} times: use {remedy}env.frame_skip=1"
            )

    @property
    def note(self) -> str:
        """What of it must be known beside a score; nothing where it does as the settings say."""
        does = [f"plays {self.frames} frames a step"] if self.frame_skip[1] > 1 else []
        does += [f"repeats an action with a probability of {self.stickiness:g}"] if self.stickiness else []
        return " and ".join(does)


# What environments and wrappers around them call it: the ALE's, VizDoom's, Gymnasium's.
SKIPS = ("frameskip", "_frameskip", "frame_skip", "_frame_skip", "_skip")
STICKINESS = ("repeat_action_probability", "_repeat_action_probability")


def own(env: gymnasium.Env) -> Own:
    """What an environment does by itself, read from its wrappers, its arguments and what it was registered with."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    told: list[dict[str, Any]] = [vars(layer) for layer in layers]
    told += [told[-1].get("_ezpickle_kwargs", {}), env.spec.kwargs if env.spec else {}]
    found = {names: [one[name] for one in told for name in names if name in one] for names in (SKIPS, STICKINESS)}
    skips = [(skip, skip) for skip in found[SKIPS] if isinstance(skip, int)]
    # Of two numbers, the ALE draws one below the second.
    skips += [(skip[0], skip[1] - 1) for skip in found[SKIPS] if isinstance(skip, tuple | list) and len(skip) == 2]
    sticky = [float(share) for share in found[STICKINESS] if isinstance(share, int | float)]
    name = env.spec.id if env.spec else ""
    try:
        atari = atari_name(name) if "ale_py" in type(env.unwrapped).__module__ else None
    except UserError:
        atari = None
    return Own(
        env.observation_space.shape or (),
        max(skips, key=lambda skip: skip[1], default=(1, 1)),
        max(sticky, default=0.0),
        atari,
    )


def own_of(name: str, arguments: Mapping[str, Any] | None = None) -> Own:
    """The same of an environment by its name and env.arguments. Raises UserError where it cannot be made."""
    return _own_of(name, json.dumps(arguments or {}))


@functools.cache
def _own_of(name: str, arguments: str) -> Own:
    with contextlib.closing(make(name, json.loads(arguments))) as env:
        return own(env)
