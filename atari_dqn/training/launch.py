"""Start or resume a run: its directory and its config."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import omegaconf
import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser

from atari_dqn.checkpoint import checkpoints, folders
from atari_dqn.config import presets, unread, validate
from atari_dqn.config.compose import completed, is_multirun, known_keys, plain, plugged, to_train_config, to_yaml
from atari_dqn.config.schema import TrainConfig
from atari_dqn.tracking.callback import Callback
from atari_dqn.training import fine_tuning
from atari_dqn.training.progress import ends_alike, reached
from atari_dqn.training.run import Run
from atari_dqn.utils import devices, files
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing
from atari_dqn.utils.text import one_line

_select = omegaconf.OmegaConf.select
MOST_EVENTS, DEEPEST = 20_000, 20  # limits for a config.yaml; a run writes about 300 nodes, 4 levels deep

# Settings that may be changed when resuming; all others define the run and are taken from its config.yaml.
RESUMABLE = (
    "total_steps",
    "max_minutes",
    "device",
    "replay.device",
    "published",
    "evaluation.",
    "protocol.episodes",
    "checkpoint.every_steps",
    "checkpoint.replay",
    "logger.",
    "emulators.",
    "trackers",
    "callbacks",
)
# Never taken from a stored run, whose files may come from anyone: where this machine connects to, as whom, and what
# code runs. Only the command line or the default counts. (run_dir, resume and a sweep's address are never read from a
# stored run.)
NEVER_STORED = ("emulators.address", "logger.entity", "logger.host", "logger.mlflow_uri", "trackers", "callbacks")


def resumed_config(folder: Path, overrides: list[str], asked: TrainConfig) -> TrainConfig:
    """The run's config.yaml with the typed overrides. Raises UserError if these would make it a different run.

    Args:
        asked: the config that `overrides` would give a new run.
    """
    typed, written = omegaconf.OmegaConf.structured(asked), _written(folder)
    saved = _whole(folder, written)

    def differs(key: str) -> bool:  # compares only settings in the file: older versions had fewer
        node = _select(written, key)
        if key.endswith("arguments"):
            return bool(_select(saved, key) != _select(typed, key))
        if omegaconf.OmegaConf.is_dict(node):
            return any(differs(f"{key}.{name}") for name in node)
        return bool(_select(saved, key) != _select(typed, key))

    with _readable(folder):
        for override in OverridesParser.create().parse_overrides(overrides):
            key = override.key_or_group
            if key in ("resume", "run_dir") or override.is_sweep_override():
                continue
            if key == "init" and asked.resume == "auto":  # it was for the run's start
                continue
            if key == "emulators":  # a config group
                omegaconf.OmegaConf.update(saved, key, typed.emulators)
            elif key.startswith(RESUMABLE):
                omegaconf.OmegaConf.update(saved, key, override.value())
            elif key == "env":  # a config group; the run may differ from its defaults
                if differs("env.kind") or (override.value() == "cartpole" and differs("env.game")):
                    raise UserError(f"{folder} is a run of {saved.env.game}; leave out env={override.value()}")
            elif key not in ("logger", "hydra", "preset") and differs(key):
                allowed = ", ".join(f"{name}*" if name.endswith(".") else name for name in RESUMABLE)
                raise UserError(f"{key} cannot be changed when resuming; only {allowed} can")
    for key in NEVER_STORED:
        if _select(saved, key) is not None:
            omegaconf.OmegaConf.update(saved, key, _select(typed, key))
    return _checked(folder, saved)


@contextlib.contextmanager
def _readable(folder: Path | str) -> Iterator[None]:
    """Where a run's config.yaml is read: what goes wrong in it becomes a UserError."""
    try:
        yield
    except (OSError, omegaconf.errors.OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or one_line(error, 150)
        raise UserError(f"cannot read {folder}/config.yaml: {why}") from None


def forgotten(folder: Path, config: TrainConfig) -> list[str]:
    """Settings of a stored run that `config` does not use; see NEVER_STORED."""
    written, taken = _written(folder), omegaconf.OmegaConf.structured(config)
    there = {key: _select(written, key) for key in NEVER_STORED}
    return [
        f"{key}={there[key]}" for key in NEVER_STORED if there[key] is not None and there[key] != _select(taken, key)
    ]


def saved_config(folder: Path) -> TrainConfig:
    """Read a run's config.yaml. Raises UserError if it cannot be read."""
    return _checked(folder, _whole(folder, _written(folder)))


def parsed_config(folder: Path | str, text: str) -> TrainConfig:
    """Parse the text of a config.yaml, for runs in a remote store. Raises UserError."""
    return _checked(folder, _whole(folder, _parsed(folder, text)))


def _written(folder: Path) -> omegaconf.DictConfig:
    with _readable(folder):
        text = files.text(folder / "config.yaml", 100_000)
    return _parsed(folder, text)


def _parsed(folder: Path | str, text: str) -> omegaconf.DictConfig:
    with _readable(folder):
        return omegaconf.OmegaConf.create(_without_aliases(text))  # type: ignore[return-value]


def _whole(folder: Path | str, written: omegaconf.DictConfig) -> omegaconf.DictConfig:
    """The written config, with defaults for newer settings."""
    with _readable(folder):
        whole: omegaconf.DictConfig = completed(plain(written))
        return whole


def _checked(folder: Path | str, saved: omegaconf.DictConfig) -> TrainConfig:
    with _readable(folder):
        return to_train_config(plain(saved))


def _without_aliases(text: str) -> str:
    """Return `text` unless its YAML has aliases, by which a few bytes expand to gigabytes, or thousands of nested
    nodes, which take minutes to parse. Raises ValueError."""
    depth = 0
    for count, event in enumerate(yaml.parse(text)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if count > MOST_EVENTS or depth > DEEPEST or isinstance(event, yaml.AliasEvent):
            raise ValueError("it is too large, or contains YAML aliases")
    return text


def changes(one: TrainConfig, other: TrainConfig) -> list[str]:
    """Settings that differ between two configs of one run and must not."""
    here, there = (omegaconf.OmegaConf.structured(config) for config in (one, other))
    keys = known_keys("train")[0]
    groups = {key.rpartition(".")[0] for key in keys}
    fixed = [key for key in keys - groups if not key.startswith((*RESUMABLE, "run_dir", "resume"))]
    return sorted(key for key in fixed if _select(here, key) != _select(there, key))


def train(
    config: TrainConfig, overrides: list[str], console: Console | None = None, callbacks: Sequence[Callback] = ()
) -> Run | None:
    """Start or resume a run; returns None if it is already finished.

    Args:
        overrides: the typed settings.
        console: for the run's output; None for the terminal.
        callbacks: watch the run.
    """
    console, overrides = console or Console(), [plugged(word) for word in overrides]
    validate.check_installed(config, overrides)
    folders.of_job(config)
    folder = folders.find(config) if config.resume is not None else None
    if folder:
        return resume(folder, config, overrides, console, callbacks)
    config.resume = None
    config = fine_tuning.adopt(config, overrides)
    if not is_multirun():  # whose settings are for all of its runs
        unread.refuse(config, overrides)
    departures = presets.departures(config)
    run = prepare(config, console)
    presets.tell(config.preset, departures, console)
    with folders.held(run.folder) as process:
        run.tell_outcome = process.end
        run.go(*callbacks)
    return run


def resume(
    folder: Path, asked: TrainConfig, overrides: list[str], console: Console, callbacks: Sequence[Callback] = ()
) -> Run | None:
    """Resume the run in `folder` from its newest checkpoint, or from the start if there is none yet.

    Args:
        asked: the config that `overrides` would give a new run.
    """
    folders.refuse_links(folder)
    overrides = [plugged(word) for word in overrides]
    config = resumed_config(folder, overrides, asked)
    for key, now, then in (
        ("env.game", asked.env.game, config.env.game),
        ("preset", asked.preset, config.preset),
        ("seed", asked.seed, config.seed),
    ):
        typed = asked.resume == "auto" or any(word.startswith(f"{key}=") for word in overrides)
        if typed and now != then:
            raise UserError(f"{folder} is a run of {key}={then}, not {now}; choose another folder")
    for setting in forgotten(folder, config):
        console.say(f"note: {setting} in config.yaml is ignored; to use it, type it on the command line")
    devices.choose_device(config.device)  # before process.json is written
    with folders.held(folder) as process:
        resumed = checkpoints.newest(folder, console.say)
        if resumed:
            steps, content = resumed.checkpoint.agent_steps, resumed.checkpoint.content
            if changed := changes(config, resumed.checkpoint.config):
                raise UserError(
                    f"{folder}/config.yaml differs from its checkpoint in {', '.join(changed)}; "
                    f"restore it, or start a new run"
                )
            is_over = ends_alike(content["config"], config) or reached(steps, float(content["seconds"]), config)
            if content.get("finished") and is_over:
                longer = "total_steps=..." if config.max_minutes is None else "max_minutes=... or total_steps=..."
                console.say(f"{folder} is finished: {steps:,} agent steps; extend it with {longer}")
                process.ended = "finished"
                return None
        run = Run(config, folder, console, resumed)
        with replacing(folder / "config.yaml", "w") as file:  # saves changed settings for the next resume
            file.write(to_yaml(config))
        presets.tell(config.preset, presets.departures(config), console)
        console.say(f"resuming {folder} after {run.agent_steps:,} agent steps")
        run.tell_outcome = process.end
        run.go(*callbacks)
    return run


def prepare(config: TrainConfig, console: Console) -> Run:
    """Create a new run. Its directory is created last, when everything else succeeded."""
    run = Run(config, Path(), console)
    try:
        run.folder = folders.make(config)
    except BaseException:
        run.emulators.close()
        raise
    console.say(f"run: {run.folder}")
    return run
