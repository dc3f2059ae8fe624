"""What a run sets otherwise than its preset."""

import functools
from typing import NamedTuple

from omegaconf import OmegaConf
from rich.table import Table

from atari_dqn.config import compose
from atari_dqn.config.schema import TrainConfig
from atari_dqn.utils.console import Console

# How a run is made, watched and kept; what it computes does not depend on it. The game is the user's choice.
BESIDE = (
    "env.game",
    "env.goals",
    "seed",
    "device",
    "run_dir",
    "resume",
    "logger.",
    "checkpoint.",
    "compute.",
    "emulators.",
    "evaluation.",
)


class Departure(NamedTuple):
    key: str
    preset: object
    run: object


def is_known(preset: str) -> bool:
    """Whether a preset is in conf/, or in a folder that --config-dir names."""
    return preset in compose.known_keys("train")[1]["preset"]


def of(preset: str, config: TrainConfig) -> TrainConfig:
    """What the preset alone sets, for the kind of game that `config` is of. It is kept: not to be changed.

    A preset that is not there, of a person's own folder, counts as the default one.
    """
    preset = preset if is_known(preset) else "default"
    return _composed(preset, "cartpole" if config.env.game == "CartPole-v1" else config.env.kind, config.env.game)


@functools.cache
def _composed(preset: str, env: str, game: str) -> TrainConfig:
    return compose.to_train_config(compose.compose("train", [f"env={env}", f"env.game={game}", f"preset={preset}"]))


def departures(config: TrainConfig, preset: str | None = None) -> list[Departure]:
    """Where a run departs from its preset, or from the one that is named: in what it computes, not in how."""
    if not is_known(preset or config.preset):
        return [Departure("preset", "not known here", config.preset)]
    found = _departures(config, preset or config.preset)
    if found and config.env.game == "CartPole-v1" and (preset or config.preset) == "default":
        return min(found, _departures(config, "cartpole"), key=len)  # as that was called before it had a name
    return found


def _departures(config: TrainConfig, preset: str) -> list[Departure]:
    here = OmegaConf.structured(config)
    there = OmegaConf.structured(of(preset, config))
    found = []
    for key in sorted({*compose.leaves(here), *compose.leaves(there)}):
        mine, own = OmegaConf.select(here, key), OmegaConf.select(there, key)
        beside = key.startswith(BESIDE) or key in ("preset", "published") or OmegaConf.is_dict(mine or own)
        beside = beside or (key.startswith("protocol.") and key != "protocol.name")  # a name stands for the rest
        if not beside and mine != own:
            found.append(Departure(key, own, mine))
    return found


def table(preset: str, found: list[Departure]) -> Table:
    """The departures for a person, 80 columns wide at most."""
    view = Table(title=f"otherwise than preset {preset}", title_justify="left")
    for column in ("setting", "preset", "this run"):
        view.add_column(column, overflow="fold", justify="left" if column == "setting" else "right")
    for key, own, mine in found:
        view.add_row(key, text(own), text(mine))
    return view


def tell(preset: str, found: list[Departure], console: Console) -> None:
    """Print the departures, if there are any."""
    if found:
        console.print(table(preset, found))


def text(value: object) -> str:
    """A setting's value as it is written in YAML, large numbers with commas."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)
