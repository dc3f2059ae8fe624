"""What each command but `train` is asked, and the names under which Hydra knows them all."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from atari_dqn.config.schema import PlayProtocol, TrainConfig


@dataclass
class Sweep:
    """Runs of many games and seeds, and where Ray finds room for them."""

    games: str = MISSING  # atari57 | atari26 | nature49, or names with commas between
    seeds: int = MISSING  # runs of each game, of seeds from `seed` on
    storage: str | None = MISSING  # a folder that all machines see, or a URL; null: runs/sweeps/<preset>
    address: str | None = MISSING  # of a Ray cluster
    cpus: int = MISSING  # of a run
    gpus: float | None = MISSING  # of a run; null: a quarter where the cluster has GPUs, unless device=cpu
    retries: int = MISSING  # of a run whose worker or machine was lost


@dataclass
class SweepConfig(TrainConfig):
    """What `sweep` is asked: the settings of all its runs, and the sweep's own."""

    sweep: Sweep = field(default_factory=Sweep)


@dataclass
class Table:
    """A table of runs beside published ones."""

    only: bool = MISSING  # of the runs so far; none is trained
    against: str | None = MISSING  # DrQ(eps) | DER | SPR | SimPLe
    output: str | None = MISSING


@dataclass
class Atari100kConfig(SweepConfig):
    """What `atari100k` is asked: a sweep, and its table."""

    table: Table = field(default_factory=Table)


@dataclass
class PlayEnv:
    game: str | None = MISSING
    arguments: dict[str, Any] = MISSING  # to change of those that it was trained with


@dataclass
class PlayNetwork:
    name: str | None = None  # your own network, which the checkpoint names: my_package.my_module:Name


@dataclass
class PlayEvaluation:
    episodes: int | None = MISSING
    num_envs: int = MISSING


@dataclass
class PlayConfig:
    """What `evaluate`, `video`, `watch` and `match` are asked; everything else comes from the checkpoint."""

    checkpoint: str = MISSING  # of match: several with blanks between
    network: PlayNetwork = field(default_factory=PlayNetwork)
    env: PlayEnv = field(default_factory=PlayEnv)
    evaluation: PlayEvaluation = field(default_factory=PlayEvaluation)
    protocol: PlayProtocol = field(default_factory=PlayProtocol)
    max_seconds: int = MISSING  # of video; 0 for the whole game
    seed: int = MISSING
    device: str = MISSING
    output: str | None = MISSING


@dataclass
class ViewConfig(PlayConfig):
    """What `video` and `watch` are asked besides."""

    view: str = MISSING  # plain | inspect


@dataclass
class HandConfig:
    """What `play` is asked: a game, or a checkpoint, or both."""

    checkpoint: str | None = MISSING
    network: PlayNetwork = field(default_factory=PlayNetwork)
    env: PlayEnv = field(default_factory=PlayEnv)
    seed: int = MISSING
    device: str = MISSING
    output: str = MISSING


@dataclass
class ExportConfig:
    """Which network to write for other programs, and how."""

    checkpoint: str = MISSING
    format: str = MISSING  # onnx | safetensors | pt
    states: int = MISSING  # of play, on which the file is compared with the checkpoint; 0 for none
    network: PlayNetwork = field(default_factory=PlayNetwork)
    env: PlayEnv = field(default_factory=PlayEnv)
    seed: int = MISSING
    output: str | None = MISSING


@dataclass
class ImportEnv:
    game: str | None = MISSING


@dataclass
class ImportConfig:
    """Which file of another program to import."""

    source: str = MISSING
    env: ImportEnv = field(default_factory=ImportEnv)
    output: str | None = MISSING


@dataclass
class CollectConfig:
    """Which games to play and store as a data set."""

    checkpoint: str = MISSING
    network: PlayNetwork = field(default_factory=PlayNetwork)
    env: PlayEnv = field(default_factory=PlayEnv)
    episodes: int | None = MISSING  # whole games
    num_envs: int = MISSING  # played side by side
    protocol: PlayProtocol = field(default_factory=PlayProtocol)
    name: str | None = MISSING
    seed: int = MISSING
    device: str = MISSING
    output: str | None = MISSING  # a folder of Minari data sets


@dataclass
class CompareConfig:
    """Which run to draw on which published curve."""

    run: str = MISSING
    published: str | None = MISSING
    output: str | None = MISSING


@dataclass
class ReportConfig:
    """Which runs to report on."""

    run: str = MISSING
    videos: int | None = MISSING  # of each run, at most
    output: str | None = MISSING


@dataclass
class DashboardConfig:
    """Which folder to show, and where."""

    runs: str = MISSING
    port: int = MISSING


@dataclass
class RunsConfig:
    """Which folders to list."""

    runs: str = MISSING


@dataclass
class AggregateConfig:
    """Which runs to put together, and what to set them beside."""

    runs: str | None = MISSING
    score: str = MISSING  # last | best | training
    against: list[str] = MISSING  # published agents
    resamples: int = MISSING  # of the bootstrap
    output: str | None = MISSING


SCHEMAS: dict[str, type] = {
    "train": TrainConfig, "profile": TrainConfig, "demo": TrainConfig, "evaluate": PlayConfig, "video": ViewConfig,
    "watch": ViewConfig, "play": HandConfig, "compare": CompareConfig, "report": ReportConfig,
    "dashboard": DashboardConfig, "runs": RunsConfig, "sweep": SweepConfig, "aggregate": AggregateConfig,
    "export": ExportConfig, "collect": CollectConfig, "atari100k": Atari100kConfig, "match": PlayConfig,
    "import": ImportConfig,
}  # fmt: skip
# Where train.yaml's values are there already, its types' defaults must not come over them.
_train = {part.name: MISSING for part in fields(TrainConfig)}
_after_train: dict[str, Any] = {"sweep": SweepConfig(**_train), "atari100k": Atari100kConfig(**_train)}
for _command, _schema in (SCHEMAS | _after_train).items():
    ConfigStore.instance().store(name=f"{_command}_schema", node=_schema)


def conf_dir() -> Path:
    """The folder of YAML files: inside an installed package, or at the top of a checkout."""
    inside = Path(__file__).parent.parent / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"
