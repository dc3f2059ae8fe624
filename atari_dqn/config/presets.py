"""Compare a run's config with its preset."""

import functools
from typing import NamedTuple

from omegaconf import OmegaConf
from rich.table import Table

from atari_dqn.config import compose
from atari_dqn.config.schema import TrainConfig
from atari_dqn.utils.console import Console

# Settings that do not change the algorithm: logging, saving, execution, and the user's choice of game.
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


def of(preset: str, config: TrainConfig) -> TrainConfig:
    """The preset's own config, for the same kind of game as `config`. Cached: do not modify it."""
    return _composed(preset, "cartpole" if config.env.game == "CartPole-v1" else config.env.kind, config.env.game)


@functools.cache
def _composed(preset: str, env: str, game: str) -> TrainConfig:
    return compose.to_train_config(compose.compose("train", [f"env={env}", f"env.game={game}", f"preset={preset}"]))


def departures(config: TrainConfig, preset: str | None = None) -> list[Departure]:
    """The settings that change what a run computes, compared with its own or the given preset."""
    here = OmegaConf.structured(config)
    there = OmegaConf.structured(of(preset or config.preset, config))
    found = []
    for key in sorted({*compose.leaves(here), *compose.leaves(there)}):
        mine, own = OmegaConf.select(here, key), OmegaConf.select(there, key)
        beside = key.startswith(BESIDE) or key in ("preset", "published") or OmegaConf.is_dict(mine or own)
        beside = beside or (key.startswith("protocol.") and key != "protocol.name")  # the name stands for the rest
        if not beside and mine != own:
            found.append(Departure(key, own, mine))
    return found


def table(preset: str, found: list[Departure]) -> Table:
    """A printable table of the departures, at most 80 columns wide."""
    view = Table(title=f'Overrides of preset "{preset}"', title_justify="left")
    for column in ("setting", "preset", "this run"):
        view.add_column(column, overflow="fold", justify="left" if column == "setting" else "right")
    for key, own, mine in found:
        view.add_row(key, text(own), text(mine))
    return view


def tell(preset: str, found: list[Departure], console: Console) -> None:
    """Print the departures, if any."""
    if found:
        console.print(table(preset, found))


def text(value: object) -> str:
    """A setting's value as YAML writes it, but with commas in large numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)
