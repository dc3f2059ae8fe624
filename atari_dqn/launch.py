"""Starting a run, or going on with one: its folder, and the config that holds for it."""

import datetime
from pathlib import Path

import omegaconf
import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from atari_dqn.checkpoints import Checkpoint
from atari_dqn.config import TrainConfig
from atari_dqn.errors import UserError
from atari_dqn.run import Run
from atari_dqn.settings import known_keys, to_train_config, to_yaml

_select = omegaconf.OmegaConf.select

# What may be changed when a run goes on; anything else would make it another run.
RESUMABLE = ("total_steps", "device", "evaluation.", "checkpoint.", "logger.")


def make_folder(config: TrainConfig) -> Path:
    """The run's own new folder."""
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"run_dir={folder} is there already; choose another, or go on with it: `make resume RUN={folder}`"
            )
        folders = iter([folder])
    else:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        game = config.env.game.replace("/", "-")
        name = f"runs/{game}-{config.preset}-seed{config.seed}-{stamp}"
        folders = (Path(name + (f"-{i}" if i > 1 else "")) for i in range(1, 1000))
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=config.run_dir is not None)
            (folder / "checkpoints").mkdir()
            (folder / "videos").mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make the run's folder {folder}: {error.strerror}; set run_dir=PATH") from None
        return folder
    raise UserError("no free name for the run's folder; set run_dir=PATH")


def find_run(config: TrainConfig) -> Path | None:
    """The folder that resume= means; None where resume=auto finds nothing to go on with."""
    if config.resume != "auto":
        folder = Path(config.resume or "")
        if not (folder / "checkpoints" / "latest.pt").is_file():
            raise UserError(f"resume={folder}: not a run with a checkpoint (checkpoints/latest.pt)")
        return folder
    pattern = f"{config.env.game.replace('/', '-')}-{config.preset}-seed{config.seed}-*"
    candidates = [Path(config.run_dir)] if config.run_dir else sorted(Path("runs").glob(pattern), reverse=True)
    for folder in candidates:
        if (folder / "checkpoints" / "latest.pt").is_file():
            return folder
    return None


def resumed_config(folder: Path, overrides: list[str], asked: TrainConfig) -> TrainConfig:
    """The run's own config.yaml with what was typed on top. Raises UserError where that would make it another run.

    Args:
        asked: what `overrides` would make of a fresh run.
    """
    typed = omegaconf.OmegaConf.structured(asked)
    try:
        saved = omegaconf.OmegaConf.load(folder / "config.yaml")
        for override in OverridesParser.create().parse_overrides(overrides):
            key = override.key_or_group
            if key in ("resume", "run_dir") or override.is_sweep_override():
                continue
            if key.startswith(RESUMABLE):
                omegaconf.OmegaConf.update(saved, key, override.value())
            elif key not in known_keys("train")[1] and _select(saved, key) != _select(typed, key):
                allowed = ", ".join(f"{name}*" if name.endswith(".") else name for name in RESUMABLE)
                raise UserError(f"{key} cannot be changed when a run goes on; only {allowed} can")
        return to_train_config(saved)
    except (OSError, omegaconf.errors.OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(f"cannot read {folder}/config.yaml: {' '.join(str(error).split())[:150]}") from None


def train(config: TrainConfig, overrides: list[str]) -> None:
    """Start a run, or go on with one. `overrides` are the words that were typed."""
    console = Console(highlight=False)
    folder = find_run(config) if config.resume else None
    if folder:
        asked, config = config, resumed_config(folder, overrides, config)
        for key, now, then in (
            ("env.game", asked.env.game, config.env.game),
            ("preset", asked.preset, config.preset),
            ("seed", asked.seed, config.seed),
        ):
            typed = asked.resume == "auto" or any(word.startswith(f"{key}=") for word in overrides)
            if typed and now != then:
                raise UserError(f"{folder} is a run of {key}={then}, not {now}; choose another folder")
        checkpoint = Checkpoint(folder / "checkpoints" / "latest.pt")
        if checkpoint.agent_steps >= config.total_steps:
            console.print(
                f"{folder} is finished: {checkpoint.agent_steps:,} agent steps; total_steps=... makes it longer",
                soft_wrap=True,
            )
            return
        run = Run(config, folder, console, checkpoint)
        console.print(f"going on in {folder} after {checkpoint.agent_steps:,} agent steps", soft_wrap=True)
    else:
        config.resume = None
        run = prepare(config, console)
    run.go()


def prepare(config: TrainConfig, console: Console) -> Run:
    """A fresh run. Its folder is made only when all its parts could be."""
    run = Run(config, Path(), console)
    try:
        run.folder = make_folder(config)
        (run.folder / "config.yaml").write_text(to_yaml(config))
    except BaseException:
        run.emulators.close()
        raise
    console.print(f"run: {run.folder}", soft_wrap=True)
    return run
