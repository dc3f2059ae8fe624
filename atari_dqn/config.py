"""The configuration's types, and what Hydra's errors look like to a person.

The values, with their reasons, are in conf/. Units are in the names: _steps are agent steps, _frames environment frames
(60 a second), seconds are wall-clock.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf

from atari_dqn.errors import UserError
from atari_dqn.games import atari_name, suggest


@dataclass
class Goal:
    """A mean return over consecutive training games that is worth telling, and may end the run."""

    score: float
    games: int
    note: str
    stop: bool = False


@dataclass
class Env:
    kind: str = MISSING  # atari | gymnasium
    game: str = MISSING
    frame_skip: int = MISSING  # environment frames in an agent step
    frame_stack: int = MISSING
    screen_size: int = MISSING  # pixels
    repeat_action_probability: float = MISSING  # stickiness
    noop_max: int = MISSING  # frames
    max_frames: int = MISSING  # a game is cut off after so many
    full_action_space: bool = MISSING
    terminal_on_life_loss: bool = MISSING
    goals: list[Goal] = field(default_factory=list)


@dataclass
class Network:
    name: str = MISSING
    hidden: list[int] = field(default_factory=list)


@dataclass
class Optimizer:
    name: str = MISSING
    learning_rate: float = MISSING
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class AgentConfig:
    discount: float = MISSING  # per agent step
    n_step: int = MISSING  # agent steps
    loss: str = MISSING  # huber | squared
    reduction: str = MISSING  # mean | sum
    reward_clip: float | None = MISSING


@dataclass
class ReplayConfig:
    capacity: int = MISSING  # agent steps
    warmup_steps: int = MISSING


@dataclass
class Update:
    period_steps: int = MISSING
    batch_size: int = MISSING
    target_period_steps: int = MISSING


@dataclass
class Exploration:
    start: float = MISSING
    end: float = MISSING
    decay_steps: int = MISSING


@dataclass
class Protocol:
    """How evaluation games are played. null keeps what the checkpoint was trained with."""

    name: str = MISSING
    epsilon: float = MISSING
    repeat_action_probability: float | None = None
    noop_max: int | None = None
    max_frames: int | None = None


@dataclass
class Evaluation:
    every_steps: int = MISSING
    episodes: int = MISSING
    num_envs: int = MISSING
    video_seconds: int = MISSING  # of a game recorded at each evaluation; 0 for none


@dataclass
class Checkpoint:
    every_steps: int = MISSING


@dataclass
class Logger:
    every_steps: int = MISSING
    wandb: str = MISSING  # online | offline | off
    project: str = MISSING
    tensorboard: bool = MISSING


@dataclass
class TrainConfig:
    env: Env = field(default_factory=Env)
    network: Network = field(default_factory=Network)
    optimizer: Optimizer = field(default_factory=Optimizer)
    agent: AgentConfig = field(default_factory=AgentConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    update: Update = field(default_factory=Update)
    exploration: Exploration = field(default_factory=Exploration)
    evaluation: Evaluation = field(default_factory=Evaluation)
    protocol: Protocol = field(default_factory=Protocol)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    logger: Logger = field(default_factory=Logger)
    preset: str = MISSING
    seed: int = MISSING
    total_steps: int = MISSING
    num_envs: int = MISSING
    device: str = MISSING
    run_dir: str | None = None
    resume: str | None = None


@dataclass
class PlayEnv:
    game: str | None = None


@dataclass
class PlayEvaluation:
    episodes: int = MISSING
    num_envs: int = MISSING


@dataclass
class PlayConfig:
    """What `evaluate`, `video` and `watch` are asked; everything else comes from the checkpoint."""

    checkpoint: str = MISSING
    env: PlayEnv = field(default_factory=PlayEnv)
    evaluation: PlayEvaluation = field(default_factory=PlayEvaluation)
    protocol: Protocol | None = None
    max_seconds: int = MISSING  # of video; 0 for the whole game
    seed: int = MISSING
    device: str = MISSING
    output: str | None = None


SCHEMAS: dict[str, type] = {"train": TrainConfig, "evaluate": PlayConfig, "video": PlayConfig, "watch": PlayConfig}
for _command, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_command}_schema", node=_schema)


def conf_dir() -> Path:
    """The folder of YAML files: inside an installed package, or at the top of a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def plain_numbers(override: str) -> str:
    """`replay.capacity=200k` -> `replay.capacity=200000`; also 1M, 2.5M, 1e6 and 200_000 for whole-number keys."""
    match = re.fullmatch(r"([\w.]*(?:steps|frames|capacity|episodes))=([\d.,_]+(?:e\d+)?)([kKmM]?)", override)
    if not match:
        return override
    key, digits, suffix = match.groups()
    try:
        value = float(digits.replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6}[suffix.lower()]
    except ValueError:
        return override
    return f"{key}={int(value)}" if value == int(value) else override


# ----------------------------------------------------------------------------------------------------- composed configs


def to_train_config(composed: Any) -> TrainConfig:
    """A checked TrainConfig from what Hydra composed or a run's config.yaml holds."""
    try:
        node = OmegaConf.merge(OmegaConf.structured(TrainConfig), composed)
        config: TrainConfig = OmegaConf.to_object(node)  # type: ignore[assignment]
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None
    if config.env.kind == "atari":
        if re.fullmatch(r"cartpole(-v\d)?", config.env.game, re.IGNORECASE):
            raise UserError("CartPole is not an Atari game: use env=cartpole (`make train GAME=CartPole` does)")
        config.env.game = atari_name(config.env.game)
    check(config)
    return config


def to_play_config(composed: Any) -> PlayConfig:
    """A checked PlayConfig from what Hydra composed."""
    try:
        config: PlayConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UserError(explain_value(error)) from None
    between("evaluation.episodes", config.evaluation.episodes, 1)
    between("evaluation.num_envs", config.evaluation.num_envs, 1)
    between("max_seconds", config.max_seconds, 0)
    between("seed", config.seed, 0)
    if config.protocol:
        between("protocol.epsilon", config.protocol.epsilon, 0, 1)
    return config


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
    one_of("agent.loss", config.agent.loss, ("huber", "squared"))
    one_of("agent.reduction", config.agent.reduction, ("mean", "sum"))
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
    between("env.noop_max", env.noop_max, 0)
    between("env.screen_size", env.screen_size, 8, 512)
    between("num_envs", config.num_envs, 1, 4096)
    between("evaluation.video_seconds", config.evaluation.video_seconds, 0)
    for key, share in (
        ("exploration.start", exploration.start), ("exploration.end", exploration.end),
        ("agent.discount", config.agent.discount), ("protocol.epsilon", config.protocol.epsilon),
        ("env.repeat_action_probability", env.repeat_action_probability),
    ):  # fmt: skip
        between(key, share, 0, 1)
    if config.optimizer.learning_rate <= 0:
        raise UserError(f"optimizer.learning_rate={config.optimizer.learning_rate:g}: must be above 0")
    least = config.num_envs * (env.frame_stack + config.agent.n_step + 1)
    if replay.capacity < least:
        raise UserError(f"replay.capacity={replay.capacity}: must be at least {least} for {config.num_envs} games")
    if replay.warmup_steps > replay.capacity:
        raise UserError(
            f"replay.warmup_steps={replay.warmup_steps} can never be reached with replay.capacity={replay.capacity}"
        )


def to_yaml(config: TrainConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


# ----------------------------------------------------------------------------------------------------- Hydra's errors


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(value, omegaconf.DictConfig) and not value._is_none():
            yield from _leaves(value, f"{path}.")


@functools.cache
def known_keys(command: str) -> tuple[set[str], dict[str, list[str]]]:
    """All config keys of a command, and its groups with their options."""
    keys = set(_leaves(OmegaConf.structured(SCHEMAS[command])))
    groups = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in conf_dir().iterdir()
        if folder.is_dir()
    }
    return keys, groups


def explain_value(error: BaseException) -> str:
    """One line for OmegaConf's errors about a value."""
    text = str(getattr(error, "msg", None) or error).split("\n")[0]
    key = getattr(error, "full_key", None) or ""
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        wanted = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{key}={match[1]}: must be {wanted.get(match[2], match[2])}"
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
        elif key not in keys and not any(key.startswith(f"{k}.") for k in ("optimizer.arguments", "env.goals")):
            return UserError(f"no setting is called {key!r}{suggest(key, keys | {*groups})}")
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, omegaconf.errors.OmegaConfBaseException):
            return UserError(explain_value(chain))
        chain = chain.__cause__ or chain.__context__
    return UserError(" ".join(str(error).split("\n")[0].split()))


def compose(command: str, overrides: list[str]) -> omegaconf.DictConfig:
    """The composed config of a command, as Hydra makes it. For tests and tools; commands use hydra.main."""
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(command, [plain_numbers(word) for word in overrides])
    except (HydraException, omegaconf.errors.OmegaConfBaseException) as error:
        raise explain(command, overrides, error) from None


def task_overrides() -> list[str]:
    """What was typed for the running Hydra job."""
    return list(HydraConfig.get().overrides.task)


def as_plain(config: TrainConfig) -> dict[str, Any]:
    """The config as plain dicts, lists, strings and numbers."""
    return dataclasses.asdict(config)
