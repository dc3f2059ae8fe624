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
    "max_minutes",
    "device",
    "run_dir",
    "resume",
    "logger.",
    "checkpoint.",
    "compute.",
    "emulators.",
    "evaluation.",
    "trackers",
    "callbacks",
)


class Departure(NamedTuple):
    key: str
    preset: object
    run: object


def is_known(preset: str) -> bool:
    """Whether a preset is in conf/, or in a folder that --config-dir names."""
    return preset in compose.known_keys("train")[1]["preset"]


def of(preset: str, config: TrainConfig) -> TrainConfig:
    """The preset's own config, for the same kind of game as `config`. Cached: do not modify it.

    An unknown preset, such as one from a user's own directory, counts as the default one.
    """
    preset = preset if is_known(preset) else "default"
    return _composed(preset, "cartpole" if config.env.game == "CartPole-v1" else config.env.kind, config.env.game)


@functools.cache
def _composed(preset: str, env: str, game: str) -> TrainConfig:
    found: TrainConfig = compose.to_object(  # without its checks: a preset of pictures is no game of CartPole's
        compose.compose("train", [f"env={env}", f"env.game={game}", f"preset={preset}"])
    )
    return found


def departures(config: TrainConfig, preset: str | None = None) -> list[Departure]:
    """The settings that change what a run computes, compared with its own or the given preset."""
    if not is_known(preset or config.preset):
        return [Departure("preset", "not known here", config.preset)]
    found = _departures(config, preset or config.preset)
    if found and config.env.game == "CartPole-v1" and (preset or config.preset) == "default":
        return min(found, _departures(config, "cartpole"), key=len)  # what `cartpole` was called before
    return found


def _departures(config: TrainConfig, preset: str) -> list[Departure]:
    here = OmegaConf.structured(config)
    there = OmegaConf.structured(of(preset, config))
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
