"""Gymnasium environments and your own: names, arguments, built-in behavior such as frame skipping."""

import contextlib
import copy
import functools
import inspect
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from atari_dqn.data.games import atari_name
from atari_dqn.registry import own_modules, plugins
from atari_dqn.registry.watched import Watched, where
from atari_dqn.utils import files
from atari_dqn.utils.errors import RunFailed, UserError
from atari_dqn.utils.text import suggest

OURS = ("id", "render_mode", "disable_env_checker")  # arguments of gymnasium.make that the program sets

_tried: set[tuple[str, str]] = set()


def bare(name: str) -> str:
    """An environment's name without its module, as a file name: `my_module:My/Env-v0` -> `My-Env-v0`."""
    return files.name(name.rpartition(":")[2])


def named(typed: str) -> str:
    """Resolve a registered name typed in any case or without its version: `cartpole` -> `CartPole-v1`. Other names are
    returned unchanged."""
    if typed in gymnasium.registry or ":" in typed:
        return typed
    names = {spec.id.lower(): spec for spec in gymnasium.registry.values()}
    if spec := names.get(typed.lower()):
        return spec.id
    versions = [spec for name, spec in names.items() if name.rpartition("-v")[0] == typed.lower()]
    return max(versions, key=lambda spec: spec.version or 0).id if versions else typed


def _unversioned(name: str) -> str:
    return re.sub(r"-v\d+$", "", name)


def is_gymnasium(typed: str) -> bool:
    """Whether a name, in any version, is a Gymnasium environment other than an Atari game."""
    spec = gymnasium.registry.get(named(typed)) or gymnasium.registry.get(named(_unversioned(typed)))
    return plugins.is_own(plugins.ENVIRONMENT, typed) or (
        spec is not None and not own_modules.origin(spec).startswith("ale_py.")
    )


def find(name: str) -> EnvSpec:
    """The spec of an environment. Raises UserError if there is none of that name."""
    if ":" in name:
        return own_modules.spec(name)
    if name not in gymnasium.registry and name in plugins.installed(plugins.ENVIRONMENT.group):
        return EnvSpec(id=name, entry_point=plugins.find(plugins.ENVIRONMENT, name))
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    newest = named(_unversioned(name))
    if newest in gymnasium.registry:
        raise UserError(f"no Gymnasium environment {name!r}: the newest version is {newest}")
    namespace = name.rpartition("/")[0]
    if namespace not in {spec.namespace or "" for spec in gymnasium.registry.values()}:
        raise UserError(
            f"no Gymnasium environment {name!r}: no installed package registers {namespace}/...; install "
            f"the package, or name its module with env.game=my_module:{name}"
        )
    own = "; for your own environment, name its module: env.game=my_module:MyEnv-v0"
    raise UserError(f"no Gymnasium environment {name!r}{suggest(name, gymnasium.registry) or own}")


def check_arguments(kind: str, game: str, arguments: Mapping[str, Any]) -> None:
    """Raise UserError for env.arguments that an environment cannot take."""
    if arguments and kind == "atari":
        raise UserError(
            f"env.arguments are for env=gymnasium. The settings of env=atari are env.*; the ALE's mode, difficulty and "
            f"obs_type=ram are available as env=gymnasium env.game=ALE/{game}-v5 'env.arguments={{mode: 1}}'"
        )
    for key in OURS:
        if key in arguments:
            raise UserError(f"env.arguments.{key} is set by the program; leave it out")


def make(name: str, arguments: Mapping[str, Any] | None = None, **kwargs: Any) -> gymnasium.Env:
    """Create an environment by name. It is checked for errors (see watched.py), and tested when first created.

    Args:
        arguments: env.arguments.
        kwargs: further arguments of gymnasium.make.

    Raises UserError if it cannot be created.
    """
    spec, arguments = find(name), copy.deepcopy(dict(arguments or {}))
    own_modules.check_typed(name, arguments)
    known: list[str] | None = None
    try:
        creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        known = _parameters(creator)
        if known is not None:
            kwargs = {key: value for key, value in kwargs.items() if key in known}  # render_mode is optional
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a render_mode that `metadata` does not list
            env = gymnasium.make(spec, disable_env_checker=True, **kwargs, **arguments)
        watched = Watched(env, name)
    except (UserError, KeyboardInterrupt):
        raise
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(_lacking(name, error)) from None
    except BaseException as error:
        unknown = sorted({*arguments} - {"max_episode_steps"} - {*known}) if known is not None else []
        if unknown:
            takes = [one for one in known or () if one not in OURS]
            hint = suggest(unknown[0], takes) + f"; it takes {', '.join(takes) or 'none'}"
            raise UserError(f"{name} takes no env.arguments.{unknown[0]}{hint}") from None
        text = re.sub(r" was raised from the environment creator .*\)(?= \(|$)", "", where(error))
        given = f" with env.arguments={json.dumps(arguments)}" if arguments else ""
        remedy = "; set it with env.arguments={...}" if "missing" in text else ""
        raise UserError(f"{name} cannot be created{given}: {text}{remedy}") from None
    _try_out(watched, name, arguments)
    return watched


def _parameters(creator: Any) -> list[str] | None:
    """Names of the arguments that an environment takes; None if it takes any."""
    try:
        found = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_KEYWORD for one in found):
        return None
    return [one.name for one in found]


def _lacking(name: str, error: Exception) -> str:
    """Explain which package is missing."""
    text = " ".join(str(error).split())
    extra = re.search(r"(gymnasium|shimmy)\[[\w-]+\]", text)
    if (package := re.match(r"(\S+) is not installed", text)) and extra:
        return (
            f"{name} needs {package[1]}, which is not installed: pip install {'swig ' * ('swig' in text)}'{extra[0]}'"
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{name} needs the module {error.name}, which is not installed"
    return f"{name} cannot be created: {text[:300]}"


def _try_out(env: gymnasium.Env, name: str, arguments: Mapping[str, Any]) -> None:
    """Play one step, once per environment, so that its errors are reported before a run starts."""
    key = (name, json.dumps(arguments, sort_keys=True, default=str))
    actions, space = env.action_space, env.observation_space
    if key in _tried or not isinstance(actions, gymnasium.spaces.Discrete):
        return
    if not isinstance(space, gymnasium.spaces.Box):  # rejected elsewhere
        return
    try:
        env.reset(seed=0)
        env.step(actions.start)
    except RunFailed as error:
        env.close()
        raise UserError(str(error)) from None
    _tried.add(key)


class Own(NamedTuple):
    """Built-in behavior of a Gymnasium environment, independent of our settings."""

    shape: tuple[int, ...]  # of its observations
    frame_skip: tuple[int, int]  # minimum and maximum frames per step
    stickiness: float  # probability that an action is repeated
    atari: str | None  # its name for env=atari

    @property
    def frames(self) -> str:
        """`4`, or `2 to 4`."""
        return " to ".join(map(str, sorted({*self.frame_skip})))

    def check(self, name: str, frame_skip: int) -> None:
        """Raise UserError if frames would be skipped twice."""
        if self.frame_skip[1] > 1 and frame_skip > 1:
            remedy = f"env=atari env.game={self.atari}, or " if self.atari else ""
            raise UserError(
                f"{name} plays {self.frames} frames a step by itself, and env.frame_skip={frame_skip} would repeat "
                f"each step {frame_skip} times: use {remedy}env.frame_skip=1"
            )

    @property
    def note(self) -> str:
        """The behavior that affects how a score is read; empty if the settings describe it fully."""
        does = [f"plays {self.frames} frames a step"] if self.frame_skip[1] > 1 else []
        does += [f"repeats an action with a probability of {self.stickiness:g}"] if self.stickiness else []
        return " and ".join(does)


# Names of these attributes in the ALE, VizDoom and Gymnasium.
SKIPS = ("frameskip", "_frameskip", "frame_skip", "_frame_skip", "_skip")
STICKINESS = ("repeat_action_probability", "_repeat_action_probability")


def own(env: gymnasium.Env) -> Own:
    """An environment's built-in behavior, read from its wrappers, its arguments and its registration."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    told: list[dict[str, Any]] = [vars(layer) for layer in layers]
    told += [told[-1].get("_ezpickle_kwargs", {}), env.spec.kwargs if env.spec else {}]
    found = {names: [one[name] for one in told for name in names if name in one] for names in (SKIPS, STICKINESS)}
    skips = [(skip, skip) for skip in found[SKIPS] if isinstance(skip, int)]
    # Of a pair, the ALE draws a number below the second.
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
    """`own` for an environment's name and env.arguments. Raises UserError if it cannot be created."""
    return _own_of(name, json.dumps(arguments or {}))


@functools.cache
def _own_of(name: str, arguments: str) -> Own:
    with contextlib.closing(make(name, json.loads(arguments))) as env:
        return own(env)
