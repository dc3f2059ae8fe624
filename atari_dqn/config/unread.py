"""Find settings without effect: those of an environment, network, head or replay that the run does not use."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from atari_dqn.config import compose, presets, validate
from atari_dqn.config.schema import TrainConfig
from atari_dqn.registry import plugins
from atari_dqn.registry.environments import own_of
from atari_dqn.utils.errors import UserError


class Reader(NamedTuple):
    """A condition under which some settings are used.

    Attributes:
        keys: the settings, separated by spaces.
        reads: whether a config uses them.
        when: the condition in words.
        strict: reject them on the command line if they have no effect; else the run's own preset may set them, too.
    """

    keys: str
    reads: Callable[[TrainConfig], bool]
    when: str
    strict: bool = True


def _sees_pictures(config: TrainConfig) -> bool:
    return config.env.kind == "atari" or len(own_of(config.env.game, config.env.arguments).shape) == 3


def _own(config: TrainConfig) -> bool:
    return plugins.is_own(plugins.NETWORK, config.network.name)


_GAME = " ".join(f"env.{key} protocol.{key}" for key in validate.PLAYED if key != "max_frames")

READERS = (
    Reader(_GAME, lambda c: c.env.kind == "atari", "env=atari"),
    Reader("env.screen_size", _sees_pictures, "games with image observations"),
    Reader("network.hidden", lambda c: c.network.name == "mlp", "network=mlp"),
    Reader("network.padding", lambda c: c.network.name != "mlp" and not _own(c), "a network with convolutions"),
    Reader("network.standardize", lambda c: c.network.name != "mlp", "a network with convolutions"),
    Reader("network.arguments", _own, "network=my_package.my_module:Name"),
    Reader("rule.arguments", lambda c: c.rule.name is not None, "rule=my_package.my_module:Name"),
    Reader("agent.double agent.munchausen", lambda c: c.rule.name is None, "rule.name=null"),
    Reader("head.atoms head.v_min head.v_max", lambda c: c.head.name == "c51", "head=c51"),
    Reader(
        "head.priority", lambda c: c.head.name == "c51" and c.replay.prioritized, "head=c51 and replay.prioritized=true"
    ),
    Reader("head.quantiles", lambda c: c.head.name == "qr", "head=qr"),
    Reader(
        "head.samples head.target_samples head.policy_samples head.cosines", lambda c: c.head.name == "iqn", "head=iqn"
    ),
    Reader(
        "optimizer.schedule_steps optimizer.final_learning_rate",
        lambda c: c.optimizer.schedule in ("linear", "cosine"),
        "optimizer.schedule=linear or cosine",
    ),
    Reader(
        "optimizer.schedule_arguments", lambda c: c.optimizer.schedule not in ("constant", "linear", "cosine"),
        "an optimizer.schedule of torch's, such as StepLR",
    ),
    Reader("agent.dueling_shared agent.dueling_gradient_scale", lambda c: c.agent.dueling, "agent.dueling=true"),
    Reader("agent.noisy_sigma", lambda c: c.agent.noisy, "agent.noisy=true"),
    Reader(
        "agent.munchausen_alpha agent.munchausen_temperature agent.munchausen_floor", lambda c: c.agent.munchausen,
        "agent.munchausen=true",
    ),
    Reader(
        "replay.priority_exponent replay.importance_start replay.importance_end replay.importance_steps",
        lambda c: c.replay.prioritized, "replay.prioritized=true",
    ),
    Reader(
        "exploration.decay_steps exploration.begin_steps exploration.persistence",
        lambda c: c.exploration.start != c.exploration.end, "exploration.start different from exploration.end",
        strict=False,
    ),
    Reader("evaluation.episodes protocol.episodes", lambda c: c.protocol.source == "games", "protocol.source=games"),
    Reader("evaluation.video_share", lambda c: c.evaluation.video_seconds > 0, "evaluation.video_seconds above 0"),
    Reader(
        "protocol.window_frames protocol.window_games", lambda c: c.protocol.source == "training",
        "protocol.source=training",
    ),
    Reader("logger.mlflow_uri", lambda c: c.logger.mlflow, "logger.mlflow=true"),
    Reader("emulators.actors emulators.address", lambda c: c.emulators.kind == "ray", "emulators=ray"),
)  # fmt: skip


def _value(config: TrainConfig, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def unread(config: TrainConfig, part: str = "") -> dict[str, Reader]:
    """The settings that differ from their defaults but have no effect.

    Args:
        part: restrict to keys with this prefix.
    """
    found, plain = {}, compose.completed({})
    for reader in READERS:
        for key in reader.keys.split():
            value, default = _value(config, key), OmegaConf.select(plain, key)
            asks_nothing = key.startswith("protocol.") and not value  # no sticky actions, no no-ops
            if not key.startswith(part) or asks_nothing or value == default or reader.reads(config):
                continue
            preset = "default" if reader.strict else config.preset
            if value != _value(presets.of(preset, config), key):
                found[key] = reader
    return found


def notes(config: TrainConfig, part: str = "") -> list[str]:
    """A message that lists the settings without effect, if any."""
    told: dict[str, list[str]] = {}
    for key, reader in unread(config, part).items():
        told.setdefault(reader.when, []).append(f"{key}={presets.text(_value(config, key))}")
    if not told:
        return []
    return ["no effect in this run: " + "; ".join(f"{', '.join(s)} (needs {when})" for when, s in told.items())]


def refuse(config: TrainConfig, words: Iterable[str], part: str = "") -> None:
    """Raise UserError if a setting without effect was typed on the command line."""
    typed = {word.lstrip("+~").partition("=")[0] for word in words}
    for key, reader in unread(config, part).items():
        if reader.strict and any(word == key or word.startswith(f"{key}.") for word in typed):
            value = presets.text(_value(config, key))
            raise UserError(f"{key}={value} has no effect in this run: it needs {reader.when}; leave it out")
