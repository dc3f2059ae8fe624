"""Compose a command's config with Hydra, check it, and explain errors in one line."""

import contextlib
import dataclasses
import functools
import re
import threading
from collections.abc import Iterator
from typing import Any

import hydra
import omegaconf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from atari_dqn.config import aliases, bounds, validate
from atari_dqn.config.commands import conf_dir
from atari_dqn.config.keys import is_known, known_keys, leaves, search_path
from atari_dqn.config.messages import explain, explain_value
from atari_dqn.config.overrides import as_hydra_reads
from atari_dqn.config.schema import Env, PlayProtocol, Protocol, TrainConfig
from atari_dqn.data.games import atari_games, atari_name
from atari_dqn.registry import environments, own_modules, plugins
from atari_dqn.utils import extras
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint


def to_train_config(composed: Any) -> TrainConfig:
    """A checked TrainConfig from a config that Hydra composed or a run's config.yaml. Raises UserError."""
    try:
        node = completed(composed)
        keys, groups = known_keys("train")
        for key in leaves(node):  # keys added with a plus, too
            if not is_known(key, keys):
                raise UserError(f"no setting is called {key!r}{aliases.meant(key, keys | {*groups})}")
        config: TrainConfig = OmegaConf.to_object(node)  # type: ignore[assignment]
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None
    config.env.game = game_name(config.env.kind, config.env.game)
    validate.check(config)
    return config


# What every stored config says. Other settings came later: where an older program left one out, it meant the default.
ALWAYS_SAID = ("network.name", "optimizer.name", "optimizer.learning_rate", "preset", "seed", "total_steps", "num_envs")


def completed(stored: Any) -> Any:
    """A run's config with the defaults of the settings that it lacks, but for those that every config has."""
    node = OmegaConf.merge(OmegaConf.structured(TrainConfig), stored)
    for key in OmegaConf.missing_keys(node):
        if key not in ALWAYS_SAID and (not key.startswith("env.") or key == "env.fire_reset"):
            OmegaConf.update(node, key, OmegaConf.select(_defaults(), key))
    return node


@functools.cache
def _defaults() -> omegaconf.DictConfig:
    return compose("train", [])


def game_name(kind: str, typed: str) -> str:
    """A game's name as the ALE or Gymnasium spells it. Raises UserError if there is no such game of that kind."""
    if kind == "atari":
        if re.fullmatch(r"cartpole(-v\d)?", typed, re.IGNORECASE):
            raise UserError(f"CartPole is not an Atari game: use env=cartpole ({hint('train', GAME='CartPole')} does)")
        if environments.is_gymnasium(typed):
            raise UserError(
                f"{typed} is not an Atari game but a Gymnasium environment: use env=gymnasium env.game={typed}"
            )
        return atari_name(typed)
    if typed.lower() in {name.lower() for name in atari_games()}:
        raise UserError(f"{typed} is an Atari game: use env=atari ({hint('train', GAME=typed)} does)")
    return environments.named(typed)


def with_groups(command: str, words: list[str]) -> list[str]:
    """Add the config groups that typed settings imply, and say `network=my_module:Name` as Hydra takes it.

    A game that names its module is a Gymnasium environment. CartPole has its own preset, unless another one is typed
    or a run is resumed.
    """
    words = [plugged(word) for word in words]
    if command not in ("train", "profile", "sweep", "atari100k"):
        return words
    typed = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    is_own = any(plugins.is_own(plugins.ENVIRONMENT, typed.get(key, "")) for key in ("env.game", "sweep.games"))
    if is_own and "env" not in typed:
        return [*words, "env=gymnasium"]
    if typed.get("env") == "cartpole" and "preset" not in typed and typed.get("resume", "auto") in ("auto", "null"):
        return [*words, "preset=cartpole"]
    return words


def plugged(word: str) -> str:
    """`network=my_module:Name` as `network.name=my_module:Name`; so it is with a rule and an optimizer."""
    key, _, value = word.partition("=")
    for kind in plugins.PARTS:
        if key == kind.setting:
            ours = {path.stem for path in (conf_dir() / key).glob("*.yaml")}
            is_own = any(plugins.is_own(kind, name) for name in value.split(",") if name not in ours)
            return f"{key}.name={value}" if is_own or kind is plugins.RULE else word
    return word


def check_references(composed: Any) -> None:
    """Raise UserError for an interpolation that cannot be resolved, such as ${HOME} (in a shell, type $HOME)."""
    try:
        OmegaConf.to_container(composed, resolve=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None


def allow_typed(composed: Any, words: list[str]) -> None:
    """Import what was typed: environments and plug-ins. Raises UserError."""
    allow_plugins(composed)
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    names = [str(composed.env.game)] if "env.game" in typed else []
    names += str(composed.sweep.games).split(",") if "sweep.games" in typed else []
    arguments = plain_arguments(composed) if any(key.startswith("env.arguments") for key in typed) else {}
    for name in names or [""]:
        own_modules.allow(name.strip(), arguments)


def allow_plugins(config: Any) -> None:
    """Trust the plug-ins of a config that the user typed, and import them. Raises UserError.

    Args:
        config: any command's; a stored one only where its plug-ins were typed elsewhere.
    """
    names: list[tuple[plugins.Kind, str]] = []
    for kind in plugins.PARTS:
        part = getattr(config, kind.setting, None)
        if part is not None and part.name is not None:
            names.append((kind, part.name))
            arguments = getattr(part, "arguments", {})
            own_modules.allow_texts(OmegaConf.to_object(arguments) if OmegaConf.is_config(arguments) else arguments)
    for kind in (plugins.TRACKER, plugins.CALLBACK):
        names += [(kind, name) for name in getattr(config, kind.setting, None) or ()]
    for kind, name in names:
        plugins.allow(kind, name)


def environment(typed: str, arguments: dict[str, Any]) -> Env:
    """The default Env settings of a game, for playing it without a checkpoint. Raises UserError."""
    kind = "gymnasium" if environments.is_gymnasium(typed) else "atari"
    kind = "cartpole" if environments.named(typed) == "CartPole-v1" else kind
    env = to_train_config(compose("train", [f"env={kind}"])).env
    env = dataclasses.replace(env, game=game_name(env.kind, typed), arguments=arguments)
    validate.check_arguments(env.kind, env.game, arguments)
    return env


def plain_arguments(composed: Any) -> Any:
    """env.arguments as plain Python values."""
    return OmegaConf.to_container(composed.env.arguments, resolve=True)


def plain(node: Any) -> Any:
    """Return `node`, read from a file, if it has no interpolations such as ${oc.env:SECRET}. Raises ValueError."""
    container = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    text = str(container)
    if len(text) > 100_000:
        raise ValueError("its settings are too long")
    if "${" in text:
        raise ValueError("its settings contain ${...}")
    return node


def to_object(composed: Any, prefix: str = "") -> Any:
    """Convert a composed config to its dataclass and check bounds. Raises UserError.

    Args:
        prefix: the prefix of its keys, if it is a section of a command's config.
    """
    try:
        config = OmegaConf.to_object(composed)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None
    bounds.check(config, prefix)
    return config


def apart(composed: Any, *names: str) -> tuple[Any, ...]:
    """Split sections that are not part of a run's config off; return the rest, and each section as its dataclass."""
    rest: Any = OmegaConf.to_container(composed)
    for name in names:
        del rest[name]
    return OmegaConf.create(rest), *(to_object(composed[name], f"{name}.") for name in names)


def merge_protocol(asked: PlayProtocol, trained: Protocol) -> Protocol:
    """The protocol to play under: the one asked for by name, or the run's own with changes and a changed name."""
    changes = {key: value for key, value in dataclasses.asdict(asked).items() if value is not None}
    if asked.name is not None and asked.epsilon is not None:
        return Protocol(**changes)
    if changes and "name" not in changes:
        changes["name"] = f"{trained.name.removesuffix('-changed')}-changed"
    return dataclasses.replace(trained, **changes)


def to_yaml(config: TrainConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def compose(command: str, overrides: list[str]) -> omegaconf.DictConfig:
    """Compose a command's config with Hydra; also within a hydra.main job, ours or another's. Raises UserError."""
    words = [as_hydra_reads(word) for word in with_groups(command, overrides)]
    words += search_path()
    try:
        with _alone:
            if _is_our_job():
                return hydra.compose(command, words)
            with _hydra_of_our_own():
                return hydra.compose(command, words)
    except (HydraException, omegaconf.errors.OmegaConfBaseException, ValueError) as error:  # or Hydra's own checks
        raise explain(command, overrides, error) from None


_alone = threading.RLock()  # a thread with Hydra's global state


@contextlib.contextmanager
def _hydra_of_our_own() -> Iterator[None]:
    """Hydra's global state, which is another program's or nobody's, is ours for a while."""
    theirs = Singleton._instances.pop(GlobalHydra, None)
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        if theirs is not None:
            Singleton._instances[GlobalHydra] = theirs


def _is_our_job() -> bool:
    """Whether Hydra is running and looks for files in our conf/."""
    if not GlobalHydra().is_initialized():
        return False
    places = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return any(place.path.removeprefix("file://") == str(conf_dir()) for place in places if place.path)


def typed(command: str, words: list[str]) -> tuple[omegaconf.DictConfig, list[str]]:
    """Compose what was typed as a command, as the command line does: with its checks, and trusting the modules that it
    names. Raises UserError.

    Returns: the config, and the words as Hydra reads them.
    """
    words = with_groups(command, words)
    composed = compose(command, words)
    check_references(composed)
    allow_typed(composed, words)
    return composed, [as_hydra_reads(word) for word in words]


def task_overrides() -> list[str]:
    """The overrides typed for the running Hydra job."""
    return list(HydraConfig.get().overrides.task)


# Choices that need a Hydra plugin.
PLUGINS = {
    "hydra/launcher=slurm": "hydra_plugins.hydra_submitit_launcher",
    "hydra/launcher=local": "hydra_plugins.hydra_submitit_launcher",
    "hydra/sweeper=tune": "hydra_plugins.hydra_optuna_sweeper",
    "hydra/sweeper=optuna": "hydra_plugins.hydra_optuna_sweeper",
}


def check_plugins(words: list[str]) -> None:
    """Raise UserError if a choice needs a plugin that is not installed."""
    for choice, plugin in PLUGINS.items():
        if choice in words:
            extras.load(plugin, choice)


def is_multirun() -> bool:
    """Whether the running Hydra job is one of several (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
