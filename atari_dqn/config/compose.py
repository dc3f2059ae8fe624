"""Compose a command's config with Hydra, check it, and explain errors in one line."""

import dataclasses
import functools
import importlib
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, get_type_hints

import hydra
import omegaconf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf

from atari_dqn.config import aliases, bounds, validate
from atari_dqn.config.overrides import as_hydra_reads
from atari_dqn.config.schema import SCHEMAS, Env, Goal, PlayProtocol, Protocol, TrainConfig, conf_dir
from atari_dqn.data.games import atari_games, atari_name, suggest
from atari_dqn.registry import environments, own_modules
from atari_dqn.utils.errors import UserError


def to_train_config(composed: Any) -> TrainConfig:
    """A checked TrainConfig from a config that Hydra composed or a run's config.yaml. Raises UserError."""
    try:
        node = OmegaConf.merge(OmegaConf.structured(TrainConfig), composed)
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


def game_name(kind: str, typed: str) -> str:
    """A game's name as the ALE or Gymnasium spells it. Raises UserError if there is no such game of that kind."""
    if kind == "atari":
        if re.fullmatch(r"cartpole(-v\d)?", typed, re.IGNORECASE):
            raise UserError("CartPole is not an Atari game: use env=cartpole (`make train GAME=CartPole` does)")
        if environments.is_gymnasium(typed):
            raise UserError(
                f"{typed} is not an Atari game but a Gymnasium environment: use env=gymnasium env.game={typed}"
            )
        return atari_name(typed)
    if typed.lower() in {name.lower() for name in atari_games()}:
        raise UserError(f"{typed} is an Atari game: use env=atari (`make train GAME={typed}` does)")
    return environments.named(typed)


def with_group(words: list[str]) -> list[str]:
    """Add env=gymnasium to typed settings if a game names its module: only Gymnasium environments do."""
    is_own = any(re.match(r"env\.game=[^:]+:|sweep\.games=[^:]+:", word) for word in words)
    return [*words, "env=gymnasium"] if is_own and not any(word.startswith("env=") for word in words) else words


def check_references(composed: Any) -> None:
    """Raise UserError for an interpolation that cannot be resolved, such as ${HOME} (in a shell, type $HOME)."""
    try:
        OmegaConf.to_container(composed, resolve=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None


def allow_typed(composed: Any) -> None:
    """Import the modules of environments that were typed on the command line. Raises UserError."""
    typed = {word.lstrip("+").partition("=")[0] for word in task_overrides()}
    names = [str(composed.env.game)] if "env.game" in typed else []
    names += str(composed.sweep.games).split(",") if "sweep.games" in typed else []
    arguments = plain_arguments(composed) if any(key.startswith("env.arguments") for key in typed) else {}
    for name in names or [""]:
        own_modules.allow(name.strip(), arguments)


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


def apart(composed: Any, name: str) -> tuple[Any, Any]:
    """Split a section that is not part of a run's config off; return the rest, and the section as its dataclass."""
    rest: Any = OmegaConf.to_container(composed)
    del rest[name]
    return OmegaConf.create(rest), to_object(composed[name], f"{name}.")


def merge_protocol(asked: PlayProtocol, trained: Protocol) -> Protocol:
    """The protocol to play under: the one asked for by name, or the run's own with changes and a changed name."""
    if asked.name is not None and asked.epsilon is not None:
        return Protocol(**{key: value for key, value in dataclasses.asdict(asked).items() if value is not None})
    changes = {key: value for key, value in dataclasses.asdict(asked).items() if value is not None}
    if changes and "name" not in changes:
        changes["name"] = f"{trained.name.removesuffix('-changed')}-changed"
    return dataclasses.replace(trained, **changes)


def to_yaml(config: TrainConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def compose(command: str, overrides: list[str]) -> omegaconf.DictConfig:
    """Compose a command's config with Hydra; also works within a hydra.main job. Raises UserError."""
    running = GlobalHydra().is_initialized()
    try:
        with nullcontext() if running else hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(command, [as_hydra_reads(word) for word in overrides])
    except (HydraException, omegaconf.errors.OmegaConfBaseException, ValueError) as error:  # or Hydra's own checks
        raise explain(command, overrides, error) from None


def task_overrides() -> list[str]:
    """The overrides typed for the running Hydra job."""
    return list(HydraConfig.get().overrides.task)


# Choices that need a Hydra plugin, and the extra that installs it.
PLUGINS = {
    "hydra/launcher=slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "hydra/launcher=local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "hydra/sweeper=tune": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
    "hydra/sweeper=optuna": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
}


def check_plugins(words: list[str]) -> None:
    """Raise UserError if a choice needs a plugin that is not installed."""
    for choice, (plugin, extra) in PLUGINS.items():
        if choice in words:
            try:
                importlib.import_module(plugin)
            except ImportError:
                raise UserError(f"{choice} needs another package: pip install 'atari-dqn[{extra}]'") from None


def is_multirun() -> bool:
    """Whether the running Hydra job is one of several (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(value, omegaconf.DictConfig) and not value._is_none():
            yield from leaves(value, f"{path}.")


@functools.cache
def known_keys(command: str) -> tuple[set[str], dict[str, list[str]]]:
    """All config keys of a command, and its config groups with their options."""
    keys = set(leaves(OmegaConf.structured(SCHEMAS[command])))
    groups = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in conf_dir().iterdir()
        if folder.is_dir()
    }
    return keys, groups


def is_known(key: str, keys: set[str]) -> bool:
    """Whether `key` is one of `keys`, or below an open-ended one."""
    return key in keys or key.startswith(("optimizer.arguments.", "env.arguments.", "env.goals."))


# OmegaConf's messages for a value of the wrong type.
ANOTHER_KIND = (
    "Value '|Invalid value assigned|Cannot (merge|convert|assign)|Invalid type assigned|.* is not a subclass of|"
    ".* is not Optional|Incompatible value 'None'"
)
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def explain_value(error: BaseException) -> str:
    """A one-line message for an OmegaConf error about a value."""
    text = str(getattr(error, "msg", None) or error).split("\n")[0]
    key, owner = getattr(error, "full_key", None) or "", getattr(error, "object_type", None)
    if owner is Goal and "." not in key:
        key = f"env.goals.{key}"
    if isinstance(error, omegaconf.errors.MissingMandatoryValue):
        return f"{key or text} must be given"
    if isinstance(error, omegaconf.errors.ConfigKeyError) and owner is Goal:
        return f"{key}: a goal has score, games, note and stop"
    if "is not in struct" in text:
        return f"no setting is called {key!r}; add a new one with a plus, +{key}=..."
    if key and re.match(ANOTHER_KIND, text):
        typed = re.match(r"Value '(.*?)' (?:of type|could not|is not)", text)
        value = "=null" if "None" in text or "Optional" in text else f"={bounds.shown(typed[1])}" if typed else ""
        hints = get_type_hints(owner) if dataclasses.is_dataclass(owner) else {}
        kinds = {KINDS[kind] for kind in KINDS if hints.get(key.rpartition(".")[2]) in (kind, kind | None)}
        return f"{key}{value}: expected {bounds.expected(key, *kinds)}"
    return f"{key}: {text}" if key and key not in text else text


def sections(keys: set[str]) -> dict[str, str]:
    """Config sections, each with its first setting."""
    return {key.rpartition(".")[0]: key for key in sorted(keys, reverse=True) if "." in key}


GROUP_REMEDIES = {
    "env": "name a game with env.game=Breakout",
    "optimizer": "choose any of torch.optim with optimizer.name=AdamW",
}


def explain(command: str, overrides: list[str], error: BaseException) -> UserError:
    """A one-line message that replaces Hydra's exception."""
    keys, groups = known_keys(command)
    for override in overrides:
        match = re.match(r"[+~]*([^=@]+)(?:@[^=]*)?=?(.*)", override)
        if not match or ("=" not in override and not override.startswith("~")):
            return UserError(f"cannot read {override!r}; settings are written key=value, e.g. seed=2")
        key, value = match.groups()
        if key.startswith("hydra"):
            continue
        if key in groups:
            options = groups[key]
            wrong = next((one for one in value.split(",") if one not in (*options, "null")), None)
            wrong = wrong if value != "null" else value
            if wrong is not None and not re.search(r"[/(]", value) and key not in keys - {*groups}:
                more = f"; {GROUP_REMEDIES[key]}" if key in GROUP_REMEDIES else ""
                return UserError(
                    f"{key}={wrong}: no such {key}{suggest(wrong, options)}; known: {', '.join(options)}{more}"
                )
        elif override.startswith("~") and key in keys:
            return UserError(f"~{key}: a setting cannot be removed; leave it out for its default")
        elif key in sections(keys):
            more = "; to resume a run, set resume=PATH" if key == "checkpoint" else ""
            return UserError(f"{key}={value}: {key} is a section with settings such as {sections(keys)[key]}=...{more}")
        elif not is_known(key, keys):
            return UserError(f"no setting is called {key!r}{aliases.meant(key, keys | {*groups})}")
    if match := re.match(r"Could not append to config. An item is already at '(.*)'", str(error)):
        return UserError(f"+{match[1]}: this setting already exists; write it without the plus")
    if match := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
        return UserError(f"{match[1]}: several values make several runs; put -m before them")
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        expected = bounds.expected(key, "")
        if expected and not re.search(r"""[][(){}'"]""", value):
            return UserError(f"{key}={bounds.shown(value)}: expected {expected}")
        return UserError(f"cannot read {error.override!r}; is a bracket or a quote missing?")
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, omegaconf.errors.OmegaConfBaseException):
            return UserError(explain_value(chain))
        chain = chain.__cause__ or chain.__context__
    text = " ".join(str(error).split("\n")[0].split())
    if match := re.match(r"Could not override '(\w+)'", text):  # a group of other commands
        remedy = "; name the game, env.game=CartPole" if match[1] == "env" else ""
        return UserError(f"{command} takes no {match[1]}=...{remedy}")
    return UserError(text)
