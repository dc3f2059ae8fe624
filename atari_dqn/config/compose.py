"""Settings as people type them: composed by Hydra, checked, and what is wrong with them in one line."""

import dataclasses
import functools
import importlib
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_type_hints

import hydra
import omegaconf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf

from atari_dqn.config import aliases, bounds, validate
from atari_dqn.config.commands import SCHEMAS, conf_dir
from atari_dqn.config.overrides import as_hydra_reads
from atari_dqn.config.schema import Env, Goal, PlayProtocol, Protocol, TrainConfig
from atari_dqn.data.games import atari_games, atari_name
from atari_dqn.registry import environments, own_modules
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint
from atari_dqn.utils.text import shown, suggest


def to_train_config(composed: Any) -> TrainConfig:
    """A checked TrainConfig from what Hydra composed or a run's config.yaml holds."""
    try:
        node = completed(composed)
        keys, groups = known_keys("train")
        for key in leaves(node):  # what was added with a plus
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
    """A game as the ALE or Gymnasium spells it. Raises UserError where it is none of that kind."""
    if kind == "atari":
        if re.fullmatch(r"cartpole(-v\d)?", typed, re.IGNORECASE):
            raise UserError(f"CartPole is not an Atari game: use env=cartpole ({hint('train', GAME='CartPole')} does)")
        if environments.is_gymnasium(typed):
            raise UserError(f"{typed} is no Atari game but a Gymnasium environment: use env=gymnasium env.game={typed}")
        return atari_name(typed)
    if typed.lower() in {name.lower() for name in atari_games()}:
        raise UserError(f"{typed} is an Atari game: use env=atari ({hint('train', GAME=typed)} does)")
    return environments.named(typed)


def with_groups(command: str, words: list[str]) -> list[str]:
    """Typed settings with the groups that they imply.

    A game that names its module is one of Gymnasium's. CartPole has a preset of its own, unless another one is typed;
    so has a run that is resumed.
    """
    if command not in ("train", "profile", "sweep"):
        return words
    typed = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    is_own = any(re.match(r"[^:]+:", typed.get(key, "")) for key in ("env.game", "sweep.games"))
    if is_own and "env" not in typed:
        return [*words, "env=gymnasium"]
    if typed.get("env") == "cartpole" and "preset" not in typed and typed.get("resume", "auto") in ("auto", "null"):
        return [*words, "preset=cartpole"]
    return words


def check_references(composed: Any) -> None:
    """Raise UserError where a setting refers to what is not there, as ${HOME} does; a shell's $HOME has no braces."""
    try:
        OmegaConf.to_container(composed, resolve=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None


def allow_typed(composed: Any) -> None:
    """Import the modules of environments that were typed for the running job. Raises UserError."""
    typed = {word.lstrip("+").partition("=")[0] for word in task_overrides()}
    names = [str(composed.env.game)] if "env.game" in typed else []
    names += str(composed.sweep.games).split(",") if "sweep.games" in typed else []
    arguments = plain_arguments(composed) if any(key.startswith("env.arguments") for key in typed) else {}
    for name in names or [""]:
        own_modules.allow(name.strip(), arguments)


def environment(typed: str, arguments: dict[str, Any]) -> Env:
    """A game that is played without having been learned, with the settings of its kind. Raises UserError."""
    kind = "gymnasium" if environments.is_gymnasium(typed) else "atari"
    kind = "cartpole" if environments.named(typed) == "CartPole-v1" else kind
    env = to_train_config(compose("train", [f"env={kind}"])).env
    env = dataclasses.replace(env, game=game_name(env.kind, typed), arguments=arguments)
    validate.check_arguments(env.kind, env.game, arguments)
    return env


def plain_arguments(composed: Any) -> Any:
    """env.arguments as they were typed."""
    return OmegaConf.to_container(composed.env.arguments, resolve=True)


def plain(node: Any) -> Any:
    """`node`, from a file, unless it asks for more than it says, as ${oc.env:SECRET} does. Raises ValueError."""
    container = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    text = str(container)
    if len(text) > 100_000:
        raise ValueError("its settings are too long")
    if "${" in text:
        raise ValueError("its settings have ${...} in them")
    return node


def to_object(composed: Any, prefix: str = "") -> Any:
    """What Hydra composed, as its own dataclass, each value within its bounds.

    Args:
        prefix: what its keys begin with, where it is a part of a command's config.
    """
    try:
        config = OmegaConf.to_object(composed)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None
    bounds.check(config, prefix)
    return config


def apart(composed: Any, name: str) -> tuple[Any, Any]:
    """What Hydra composed without a part that is not a run's own, and that part as its own dataclass."""
    rest: Any = OmegaConf.to_container(composed)
    del rest[name]
    return OmegaConf.create(rest), to_object(composed[name], f"{name}.")


def merge_protocol(asked: PlayProtocol, trained: Protocol) -> Protocol:
    """The protocol to play under: one asked for by name, whole; or the run's own with changes, and then renamed."""
    changes = {key: value for key, value in dataclasses.asdict(asked).items() if value is not None}
    if asked.name is not None and asked.epsilon is not None:
        return Protocol(**changes)
    if changes and "name" not in changes:
        changes["name"] = f"{trained.name.removesuffix('-changed')}-changed"
    return dataclasses.replace(trained, **changes)


def to_yaml(config: TrainConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def compose(command: str, overrides: list[str]) -> omegaconf.DictConfig:
    """The composed config of a command, as Hydra makes it; within one of hydra.main's jobs, too."""
    running = GlobalHydra().is_initialized()
    words = [as_hydra_reads(word) for word in with_groups(command, overrides)]
    if _own_dirs and not running:
        words.append(f"hydra.searchpath=[{','.join(_quoted(folder) for folder in _own_dirs)}]")
    try:
        with nullcontext() if running else hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(command, words)
    except (HydraException, omegaconf.errors.OmegaConfBaseException, ValueError) as error:  # Hydra's own checks, too
        raise explain(command, overrides, error) from None


def task_overrides() -> list[str]:
    """What was typed for the running Hydra job."""
    return list(HydraConfig.get().overrides.task)


# Choices that need a plugin of Hydra's, and the extra that brings it.
PLUGINS = {
    "hydra/launcher=slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "hydra/launcher=local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "hydra/sweeper=tune": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
    "hydra/sweeper=optuna": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
}


def check_plugins(words: list[str]) -> None:
    """Raise UserError where a choice needs a plugin that is not installed."""
    for choice, (plugin, extra) in PLUGINS.items():
        if choice in words:
            try:
                importlib.import_module(plugin)
            except ImportError:
                raise UserError(f"{choice} needs a package more: pip install 'atari-dqn[{extra}]'") from None


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


_own_dirs: list[Path] = []  # a person's own folder of settings, if there is one


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


def _quoted(folder: Path) -> str:
    return "'file://" + str(folder).replace("'", "\\'") + "'"


@functools.cache
def known_keys(command: str) -> tuple[set[str], dict[str, list[str]]]:
    """All config keys of a command, and its groups with their options."""
    keys, roots = set(leaves(OmegaConf.structured(SCHEMAS[command]))), (conf_dir(), *_own_dirs)
    groups = {
        folder.name: sorted(path.stem for root in roots for path in root.glob(f"{folder.name}/*.yaml"))
        for folder in conf_dir().iterdir()
        if folder.is_dir()
    }
    return keys, groups


def is_known(key: str, keys: set[str]) -> bool:
    """Whether `key` is one of `keys`, or below one that holds anything."""
    return key in keys or key.startswith(("optimizer.arguments.", "env.arguments.", "env.goals."))


# What OmegaConf says of a value that is of another kind altogether.
ANOTHER_KIND = (
    "Value '|Invalid value assigned|Cannot (merge|convert|assign)|Invalid type assigned|.* is not a subclass of|"
    ".* is not Optional|Incompatible value 'None'"
)
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def explain_value(error: BaseException) -> str:
    """One line for OmegaConf's errors about a value."""
    text = str(getattr(error, "msg", None) or error).split("\n")[0]
    key, owner = getattr(error, "full_key", None) or "", getattr(error, "object_type", None)
    if owner is Goal and "." not in key:
        key = f"env.goals.{key}"
    if isinstance(error, omegaconf.errors.MissingMandatoryValue):
        more = "; the file of a preset has a line with its name, preset: NAME" if (key or text) == "preset" else ""
        return f"{key or text} must be given{more}"
    if isinstance(error, omegaconf.errors.ConfigKeyError) and owner is Goal:
        return f"{key}: a goal has score, games, note and stop"
    if "is not in struct" in text:
        return f"no setting is called {key!r}; a new one is written with a plus, +{key}=..."
    if key and re.match(ANOTHER_KIND, text):
        typed = re.match(r"Value '(.*?)' (?:of type|could not|is not)", text)
        value = "=null" if "None" in text or "Optional" in text else f"={shown(typed[1])}" if typed else ""
        hints = get_type_hints(owner) if dataclasses.is_dataclass(owner) else {}
        kinds = {KINDS[kind] for kind in KINDS if hints.get(key.rpartition(".")[2]) in (kind, kind | None)}
        return f"{key}{value}: expected {bounds.expected(key, *kinds)}"
    return f"{key}: {text}" if key and key not in text else text


def sections(keys: set[str]) -> dict[str, str]:
    """Settings that hold others, each with the first of them."""
    return {key.rpartition(".")[0]: key for key in sorted(keys, reverse=True) if "." in key}


GROUP_REMEDIES = {
    "env": "name a game with env.game=Breakout",
    "optimizer": "any of torch.optim is optimizer.name=AdamW",
}


def explain(command: str, overrides: list[str], error: BaseException) -> UserError:
    """The one line that a person should read instead of Hydra's exception."""
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
            more = "; to go on with a run, resume=PATH" if key == "checkpoint" else ""
            return UserError(f"{key}={value}: {key} holds settings, such as {sections(keys)[key]}=...{more}")
        elif not is_known(key, keys):
            return UserError(f"no setting is called {key!r}{aliases.meant(key, keys | {*groups})}")
    if match := re.match(r"Could not append to config. An item is already at '(.*)'", str(error)):
        return UserError(f"+{match[1]}: this setting is there already; write it without the plus")
    if match := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
        return UserError(f"{match[1]}: several values make several runs, with -m before them")
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        expected = bounds.expected(key, "")
        if expected and not re.search(r"""[][(){}'"]""", value):
            return UserError(f"{key}={shown(value)}: expected {expected}")
        return UserError(f"cannot read {error.override!r}; is a bracket or a quote missing?")
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, omegaconf.errors.OmegaConfBaseException):
            return UserError(explain_value(chain))
        chain = chain.__cause__ or chain.__context__
    text = " ".join(str(error).split("\n")[0].split())
    if match := re.match(r"Could not override '(\w+)'", text):  # a group, but of other commands
        remedy = "; name the game, env.game=CartPole" if match[1] == "env" else ""
        return UserError(f"{command} takes no {match[1]}=...{remedy}")
    return UserError(text)
