"""Settings as people type them: composed by Hydra, checked, and what is wrong with them in one line."""

import dataclasses
import functools
import importlib
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import hydra
import omegaconf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf

from atari_dqn import scores
from atari_dqn.config import SCHEMAS, Env, Head, PlayConfig, PlayProtocol, Protocol, TrainConfig, ViewConfig, conf_dir
from atari_dqn.errors import UserError
from atari_dqn.games import atari_games, atari_name, suggest


def as_hydra_reads(word: str, is_many: bool = False) -> str:
    """A typed setting in Hydra's grammar.

    Numbers as people write them, `replay.capacity=200k`, 1M, 2.5M, 1e6, 200_000 or 200,000, become whole numbers; paths
    and games with signs that mean something to Hydra are quoted. In a multirun (`is_many`) commas are between values.
    """
    word = LAUNCHERS.get(word, word)
    key, _, value = word.partition("=")
    if is_many and re.fullmatch(r"[\w.,]+", value):
        return f"{key}=" + ",".join(as_hydra_reads(f"{key}={one}").partition("=")[2] for one in value.split(","))
    if re.fullmatch(r"[\w.]*(steps|frames|capacity|episodes)", key):
        match = re.fullmatch(r"([\d._]+(?:e\d+)?|\d{1,3}(?:,\d{3})+)([kKmM]?)", value)
        try:
            number = (
                float(re.sub("[_,]", "", match[1])) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()] if match else 0.5
            )
        except ValueError:
            return word
        return f"{key}={int(number)}" if number == int(number) else word
    if key == "sweep.games" and re.fullmatch(r"[^'\"\[]*,[^'\"]*", value):
        return f"{key}='{value}'"
    if key in (
        "checkpoint",
        "run",
        "runs",
        "run_dir",
        "resume",
        "output",
        "env.game",
        "sweep.storage",
        "sweep.address",
    ) and not re.fullmatch(r"[\w./:,-]*|'.*'|\".*\"", value):
        escaped = value.replace("'", "\\'")
        return f"{key}='{escaped}'"
    return word


def to_train_config(composed: Any) -> TrainConfig:
    """A checked TrainConfig from what Hydra composed or a run's config.yaml holds."""
    try:
        node = OmegaConf.merge(OmegaConf.structured(TrainConfig), composed)
        keys, groups = known_keys("train")
        for key in leaves(node):  # what was added with a plus
            if not is_known(key, keys):
                raise UserError(f"no setting is called {key!r}{suggest(key, keys | {*groups})}")
        config: TrainConfig = OmegaConf.to_object(node)  # type: ignore[assignment]
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None
    config.env.game = game_name(config.env.kind, config.env.game)
    check(config)
    return config


def game_name(kind: str, typed: str) -> str:
    """A game as the ALE or Gymnasium spells it. Raises UserError where it is none of that kind."""
    if kind == "atari":
        if re.fullmatch(r"cartpole(-v\d)?", typed, re.IGNORECASE):
            raise UserError("CartPole is not an Atari game: use env=cartpole (`make train GAME=CartPole` does)")
        return atari_name(typed)
    if typed.lower() in {name.lower() for name in atari_games()}:
        raise UserError(f"{typed} is an Atari game: use env=atari (`make train GAME={typed}` does)")
    return typed


def plain(node: Any) -> Any:
    """`node`, from a file, unless it asks for more than it says, as ${oc.env:SECRET} does. Raises ValueError."""
    container = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    text = str(container)
    if len(text) > 100_000:
        raise ValueError("its settings are too long")
    if "${" in text:
        raise ValueError("its settings have ${...} in them")
    return node


def to_object(composed: Any) -> Any:
    """What Hydra composed, as its own dataclass."""
    try:
        return OmegaConf.to_object(composed)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None


def apart(composed: Any, name: str) -> tuple[Any, Any]:
    """What Hydra composed without a part that is not a run's own, and that part as its own dataclass."""
    rest: Any = OmegaConf.to_container(composed)
    del rest[name]
    return OmegaConf.create(rest), to_object(composed[name])


def to_play_config(composed: Any) -> PlayConfig:
    """A checked PlayConfig from what Hydra composed."""
    config: PlayConfig = to_object(composed)
    between("evaluation.episodes", config.evaluation.episodes, 1)
    between("evaluation.num_envs", config.evaluation.num_envs, 1)
    between("max_seconds", config.max_seconds, 0)
    between("seed", config.seed, 0)
    if isinstance(config, ViewConfig):
        one_of("view", config.view, ("plain", "inspect"))
    check_protocol(config.protocol)
    return config


def merge_protocol(asked: PlayProtocol, trained: Protocol) -> Protocol:
    """The protocol to play under: one asked for by name, whole; or the run's own with changes, and then renamed."""
    if asked.name is not None and asked.epsilon is not None:
        return Protocol(**{key: value for key, value in dataclasses.asdict(asked).items() if value is not None})
    changes = {key: value for key, value in dataclasses.asdict(asked).items() if value is not None}
    if changes and "name" not in changes:
        changes["name"] = f"{trained.name.removesuffix('-changed')}-changed"
    return dataclasses.replace(trained, **changes)


def check_protocol(protocol: Protocol | PlayProtocol) -> None:
    """Raise UserError for the first value out of its range."""
    if protocol.source is not None:
        one_of("protocol.source", protocol.source, ("games", "training"))
    for key, low, high in (
        ("epsilon", 0, 1), ("repeat_action_probability", 0, 1), ("noop_max", 0, math.inf), ("max_frames", 1, math.inf),
        ("window_frames", 1, math.inf), ("window_games", 1, math.inf),
    ):  # fmt: skip
        if (value := getattr(protocol, key)) is not None:
            between(f"protocol.{key}", value, low, high)


# What a protocol may say of how games are played.
PLAYED = (
    "repeat_action_probability", "noop_max", "fire_reset", "max_frames", "full_action_space", "terminal_on_life_loss",
)  # fmt: skip


def check_training(protocol: Protocol, env: Env) -> None:
    """Raise UserError where a protocol scores the training games, and these are not played as it says."""
    if protocol.source != "training":
        return
    if (protocol.window_frames is None) == (protocol.window_games is None):
        raise UserError("protocol.source=training needs protocol.window_frames or protocol.window_games, and not both")
    wanted = {f"env.{key}": getattr(protocol, key) for key in PLAYED if getattr(protocol, key) is not None}
    if any(value != getattr(env, key.removeprefix("env.")) for key, value in wanted.items()):
        words = " ".join(f"{key}={str(value).lower()}" for key, value in wanted.items())
        raise UserError(f"protocol={protocol.name} scores the training games, so they must be trained with {words}")


def one_of(key: str, value: str, options: tuple[str, ...]) -> None:
    """Raise UserError where `value` is none of `options`."""
    if value not in options:
        raise UserError(f"{key}={value}: must be one of {', '.join(options)}{suggest(value, options)}")


def between(key: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise UserError where `value` is outside low..high."""
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(f"{key}={value:g}: must be {limits}")


def check(config: TrainConfig) -> None:
    """Raise UserError for the first value out of its range, and for values that contradict each other."""
    env, replay, update, exploration = config.env, config.replay, config.update, config.exploration

    one_of("env.kind", env.kind, ("atari", "gymnasium"))
    one_of("network.padding", config.network.padding, ("valid", "same"))
    one_of("network.initialization", config.network.initialization, ("torch", "xavier"))
    if config.network.standardize and config.network.name == "mlp":
        raise UserError("network.standardize=true is for pictures, which network=mlp does not see: set it to false")
    one_of("agent.loss", config.agent.loss, ("huber", "squared"))
    one_of("agent.reduction", config.agent.reduction, ("mean", "sum"))
    one_of("emulators", config.emulators.kind, ("local", "ray"))
    if config.emulators.actors is not None:
        between("emulators.actors", config.emulators.actors, 1)
    one_of("logger.wandb", config.logger.wandb, ("online", "offline", "off"))
    for key, value in (
        ("env.frame_skip", env.frame_skip), ("env.frame_stack", env.frame_stack), ("env.max_frames", env.max_frames),
        ("total_steps", config.total_steps), ("num_envs", config.num_envs), ("agent.n_step", config.agent.n_step),
        ("replay.warmup_steps", replay.warmup_steps), ("update.period_steps", update.period_steps),
        ("update.batch_size", update.batch_size), ("update.target_period_steps", update.target_period_steps),
        ("exploration.decay_steps", exploration.decay_steps), ("evaluation.every_steps", config.evaluation.every_steps),
        ("evaluation.episodes", config.evaluation.episodes), ("evaluation.num_envs", config.evaluation.num_envs),
        ("checkpoint.every_steps", config.checkpoint.every_steps), ("logger.every_steps", config.logger.every_steps),
    ):  # fmt: skip
        between(key, value, 1)
    between("seed", config.seed, 0)
    check_head(config.head)
    check_agent(config)
    between("env.noop_max", env.noop_max, 0)
    between("env.screen_size", env.screen_size, 8, 512)
    between("num_envs", config.num_envs, 1, 4096)
    between("evaluation.video_seconds", config.evaluation.video_seconds, 0)
    between("evaluation.held_out_states", config.evaluation.held_out_states, 0, 100_000)
    if exploration.begin_steps is not None:
        between("exploration.begin_steps", exploration.begin_steps, 0)
    if config.published is not None:
        one_of("published", config.published, scores.LEARNING_CURVES)
    if env.fire_reset and not env.terminal_on_life_loss:
        raise UserError(
            "env.fire_reset=true presses FIRE after a lost life in place of the action that was chosen, so that state "
            "must start no transition: set env.terminal_on_life_loss=true, or env.fire_reset=false"
        )
    for key, share in (
        ("exploration.start", exploration.start), ("exploration.end", exploration.end),
        ("agent.discount", config.agent.discount),
        ("env.repeat_action_probability", env.repeat_action_probability),
        ("replay.priority_exponent", replay.priority_exponent), ("replay.importance_start", replay.importance_start),
        ("replay.importance_end", replay.importance_end),
    ):  # fmt: skip
        between(key, share, 0, 1)
    between("replay.importance_steps", replay.importance_steps, 1)
    check_protocol(config.protocol)
    check_training(config.protocol, env)
    for key, above in (
        ("optimizer.learning_rate", config.optimizer.learning_rate),
        ("optimizer.max_grad_norm", config.optimizer.max_grad_norm),
        ("agent.reward_clip", config.agent.reward_clip),
        ("update.tau", update.tau),
    ):
        if above is not None and not 0 < above < math.inf:
            raise UserError(f"{key}={above:g}: must be above 0")
    between("update.tau", update.tau, 0, 1)
    if exploration.temperature is not None:
        between("exploration.temperature", exploration.temperature, 1e-6, 1e6)
    if exploration.persistence is not None:
        between("exploration.persistence", exploration.persistence, 1, 100)
        if exploration.temperature is not None:
            raise UserError("exploration.persistence and exploration.temperature exclude each other; set one to null")
    if config.checkpoint.cut_every_turns is not None:
        between("checkpoint.cut_every_turns", config.checkpoint.cut_every_turns, 1)
    if len(config.network.hidden) > 100:
        raise UserError(f"network.hidden: {len(config.network.hidden)} layers; at most 100")
    for width in config.network.hidden:
        between("network.hidden", width, 1)
    if ":" in env.game:  # Gymnasium would import what stands before it
        raise UserError(f"env.game={env.game}: a game's name has no colon")
    least = config.num_envs * (env.frame_stack + config.agent.n_step + 1)
    if replay.capacity < least:
        raise UserError(f"replay.capacity={replay.capacity}: must be at least {least} for {config.num_envs} games")
    if replay.warmup_steps > replay.capacity:
        raise UserError(
            f"replay.warmup_steps={replay.warmup_steps} can never be reached with replay.capacity={replay.capacity}; "
            f"lower the one or raise the other"
        )


def check_head(head: Head) -> None:
    """Raise UserError for the first value out of its range."""
    one_of("head", head.name, ("scalar", "c51", "qr", "iqn"))
    between("head.atoms", head.atoms, 2, 10_000)
    for key in ("quantiles", "samples", "target_samples", "policy_samples", "cosines"):
        between(f"head.{key}", getattr(head, key), 1, 10_000)
    between("head.v_min", head.v_min, -1e6, 1e6)
    between("head.v_max", head.v_max, -1e6, 1e6)
    if head.v_max - head.v_min < 1e-3 * head.atoms:
        raise UserError(f"head.v_min={head.v_min:g}: must be below head.v_max={head.v_max:g}, by 0.001 for each atom")


def check_agent(config: TrainConfig) -> None:
    """Raise UserError where the algorithm's switches have no meaning together."""
    agent, head = config.agent, config.head.name
    between("agent.dueling_gradient_scale", agent.dueling_gradient_scale, 0, 1)
    between("agent.noisy_sigma", agent.noisy_sigma, 0, 100)
    between("agent.munchausen_temperature", agent.munchausen_temperature, 1e-6, 1e6)
    between("agent.munchausen_alpha", agent.munchausen_alpha, 0, 1)
    between("agent.munchausen_floor", agent.munchausen_floor, -1e6, 0)
    if agent.loss != "huber" and head != "scalar":
        raise UserError(
            f"agent.loss={agent.loss} is for head=scalar: {head} learns a distribution, by a loss of its own; leave "
            f"agent.loss=huber"
        )
    if agent.munchausen and agent.double:
        raise UserError(
            "agent.double=true chooses the best action of a target, and with agent.munchausen=true there is none, all "
            "actions count as a softmax policy takes them: set one of them to false"
        )
    if agent.munchausen and agent.n_step > 1:
        raise UserError(
            f"agent.n_step={agent.n_step}: agent.munchausen=true adds the policy's log-probability to each reward, and "
            f"knows it for the first step only; set agent.n_step=1"
        )
    if agent.munchausen and head == "c51":
        raise UserError(
            "head=c51 has fixed returns, which agent.munchausen=true would move for each action apart: use "
            "head=scalar, qr or iqn"
        )


def notes(config: TrainConfig) -> list[str]:
    """What is not wrong, but worth telling before a run starts."""
    head = config.head
    if head.name == "c51" and config.agent.reward_clip is None:
        return [
            f"rewards are not clipped, and head=c51 knows of returns from head.v_min={head.v_min:g} to "
            f"head.v_max={head.v_max:g} only"
        ]
    return []


def to_yaml(config: TrainConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def compose(command: str, overrides: list[str]) -> omegaconf.DictConfig:
    """The composed config of a command, as Hydra makes it; within one of hydra.main's jobs, too."""
    running = GlobalHydra().is_initialized()
    try:
        with nullcontext() if running else hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(command, [as_hydra_reads(word) for word in overrides])
    except (HydraException, omegaconf.errors.OmegaConfBaseException) as error:
        raise explain(command, overrides, error) from None


def task_overrides() -> list[str]:
    """What was typed for the running Hydra job."""
    return list(HydraConfig.get().overrides.task)


# In place of files of submitit's plugin, by which a job ends after an hour and for good. (A file of ours by the same
# name would be checked against the plugin's, with a warning.)
LAUNCHERS = {
    "hydra/launcher=submitit_slurm": "hydra/launcher=slurm", "hydra/launcher=submitit_local": "hydra/launcher=local",
}  # fmt: skip
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
    return HydraConfig.get().mode == RunMode.MULTIRUN


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(value, omegaconf.DictConfig) and not value._is_none():
            yield from leaves(value, f"{path}.")


@functools.cache
def known_keys(command: str) -> tuple[set[str], dict[str, list[str]]]:
    """All config keys of a command, and its groups with their options."""
    keys = set(leaves(OmegaConf.structured(SCHEMAS[command])))
    groups = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in conf_dir().iterdir()
        if folder.is_dir()
    }
    return keys, groups


def is_known(key: str, keys: set[str]) -> bool:
    """Whether `key` is one of `keys`, or below one that holds anything."""
    return key in keys or key.startswith(("optimizer.arguments.", "env.goals."))


def explain_value(error: BaseException) -> str:
    """One line for OmegaConf's errors about a value."""
    text = str(getattr(error, "msg", None) or error).split("\n")[0]
    key = getattr(error, "full_key", None) or ""
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        wanted = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{key}={match[1]}: must be {wanted.get(match[2], match[2])}"
    if match := re.match(r"Value '(.*)' is not a valid bool", text):
        return f"{key}={match[1]}: must be true or false"
    if isinstance(error, omegaconf.errors.MissingMandatoryValue):
        return f"{key or text} must be given"
    if "is not in struct" in text:
        return f"no setting is called {key!r}; a new one is written with a plus, +{key}=..."
    return f"{key}: {text}" if key and key not in text else text


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
            if "/" not in value and not {*value.split(",")} <= {*options, "null"} and key not in keys - {*groups}:
                return UserError(f"{key}={value}: no such {key}{suggest(value, options)}; known: {', '.join(options)}")
        elif not is_known(key, keys):
            return UserError(f"no setting is called {key!r}{suggest(key, keys | {*groups})}")
    if match := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
        return UserError(f"{match[1]}: several values make several runs, with -m before them")
    if isinstance(error, OverrideParseException):
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
