"""Fine-tuning: start a run from the weights of a checkpoint, `init=`, instead of random ones."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import omegaconf
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import Tensor

from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import presets, validate
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import compact

# What makes a network, besides `network` and `head`: these settings come with its weights.
AGENT, ENV = ("dueling", "dueling_shared", "noisy"), ("frame_stack", "screen_size")


@functools.lru_cache(maxsize=2)  # a run asks twice
def _loaded(path: Path, changed: float) -> Checkpoint:
    return Checkpoint(path)


def _source(config: TrainConfig) -> Checkpoint:
    assert config.init is not None
    path = checkpoints.find(config.init)
    return _loaded(path, path.stat().st_mtime if path.exists() else 0.0)


def adopt(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """The config with the network of its `init`. Raises UserError if a typed setting asks for another one.

    Args:
        overrides: the typed settings.
    """
    if config.init is None:
        return config
    if not config.init.strip():
        raise UserError("init= is empty; give a checkpoint, or leave it out")
    source = _source(config)
    theirs, where = source.config, source.path
    config = dataclasses.replace(config, init=str(where)) if config.init == "latest" else config
    taken = dataclasses.replace(
        config,
        network=theirs.network,
        head=theirs.head,
        agent=dataclasses.replace(config.agent, **{key: getattr(theirs.agent, key) for key in AGENT}),
        env=dataclasses.replace(config.env, **{key: getattr(theirs.env, key) for key in ENV}),
    )
    asked, given = omegaconf.OmegaConf.structured(config), omegaconf.OmegaConf.structured(taken)
    for key in _typed(overrides):
        key = f"{key}.name" if key in ("network", "head") else key
        mine, wanted = (omegaconf.OmegaConf.select(one, key) for one in (asked, given))
        if mine != wanted and not omegaconf.OmegaConf.is_dict(mine):  # a section: what it sets is not all typed
            raise UserError(
                f"init={config.init} needs {key}={presets.text(wanted)} to fit its weights; leave out "
                f"{key.removesuffix('.name')}={presets.text(mine)}"
            )
    validate.check(taken)
    return taken


def _typed(overrides: Sequence[str]) -> list[str]:
    """The settings that were typed; of agent={dueling: true}, agent.dueling."""
    keys = []
    for override in OverridesParser.create().parse_overrides([*overrides]):
        value = None if override.is_sweep_override() else override.value()
        inside = value if isinstance(value, dict) else None
        keys += [override.key_or_group] if inside is None else [f"{override.key_or_group}.{name}" for name in inside]
    return keys


def beginning(
    config: TrainConfig, frame_shape: tuple[int, ...], actions: Sequence[str], say: Callable[[str], None]
) -> Callable[[QNetwork], None]:
    """What gives a fresh network the weights of the config's `init`. Raises UserError if it sees other frames.

    Args:
        actions: of the run's game, by their names.
        say: told what was taken.
    """
    source = _source(config)
    if source.frame_shape != frame_shape:
        raise UserError(
            f"init={config.init} was trained on frames {source.frame_shape}, not {config.env.game}'s {frame_shape}"
        )
    known = source.actions

    def begin(network: QNetwork) -> None:
        fresh, weights = network.state_dict(), dict(source.network.state_dict())
        last = f"head.{len(network.head) - 1}."
        for key in weights:
            if key.startswith(last):
                weights[key] = matched(fresh[key], actions, weights[key], known)
        network.load_state_dict(weights)
        new = [name for name in actions if name not in known]
        say(
            f"fine-tuning: initial weights from {source.path} ({source.config.env.game}, "
            f"{compact(source.agent_steps)} agent steps); outputs are matched by action name"
            + (f"; {', '.join(new)} start at random" if new else "")
        )

    return begin


def matched(fresh: Tensor, actions: Sequence[str], known: Tensor, known_actions: Sequence[str]) -> Tensor:
    """A last layer's weights or biases, [actions * n, ...]: those of an action that is known, else fresh ones."""
    rows, theirs = (x.unflatten(0, (len(names), -1)) for x, names in ((fresh, actions), (known, known_actions)))
    rows = rows.clone()
    for index, name in enumerate(actions):
        if name in known_actions:
            rows[index] = theirs[list(known_actions).index(name)]
    return rows.flatten(0, 1)
