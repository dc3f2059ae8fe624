"""Minari data sets: whole games with raw rewards, for offline learning. Needs the extra `collect`.

A data set has one observation for each agent step and a last one: the newest frame, as the network sees it. Stacks are
left to the reader; they would take four times the space.
"""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import AtariPreprocessing

import atari_dqn
from atari_dqn.checkpoint import outputs
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.commands import CollectConfig
from atari_dqn.config.schema import Env, Protocol
from atari_dqn.envs.atari import atari_actions
from atari_dqn.envs.base import CUT, TERMINAL, Game
from atari_dqn.evaluation import rollout
from atari_dqn.evaluation.player import Player
from atari_dqn.evaluation.protocol import played_as
from atari_dqn.exchange import metadata
from atari_dqn.exchange.recording import Episode, Recorder
from atari_dqn.registry import environments
from atari_dqn.utils import extras, files
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import memory_size, plural

NEEDS = ("minari", "h5py")
CHUNK = 32  # frames that are compressed together


def check() -> None:
    """Raise UserError where no Minari is that keeps pictures as they are."""
    if sys.version_info < (3, 11):
        raise UserError("a data set needs Python 3.11 or newer: Minari for older ones stores pictures with losses")
    extras.need("a data set", *NEEDS)


class DataSet:
    """A new data set that appears under its name when it is complete.

    Args:
        root: a folder of Minari data sets.
        name: namespace and name, without the version; the first that is free is taken.
        env_spec: recreates the environment.
        about: the data set's metadata, as Minari names them.
    """

    def __init__(
        self, root: Path, name: str, space: Box, actions: Discrete, env_spec: Any, about: dict[str, Any]
    ) -> None:
        import minari
        from minari.dataset.minari_storage import MinariStorage

        version = next(i for i in range(1_000_000) if not os.path.lexists(root / f"{name}-v{i}"))
        self.id, self.path = f"{name}-v{version}", root / f"{name}-v{version}"
        self.root, self._space = root, space
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.folder = files.temporary_name(self.path)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            self.folder = self.folder.absolute()  # Minari measures no other
        except OSError as error:
            raise UserError(f"cannot write to {root}: {error.strerror}; set output=PATH") from None
        self._storage = MinariStorage.new(
            self.folder / "data", space, actions, env_spec, data_format="hdf5", jpeg_encoding=False
        )
        self._storage.update_metadata({"dataset_id": self.id, "minari_version": minari.__version__, **about})

    @property
    def episodes(self) -> int:
        return int(self._storage.total_episodes)

    def add(self, episode: Episode, flag: int, about: dict[str, Any]) -> None:
        """Write a finished episode, and what is told about it."""
        import h5py
        from minari.data_collector import EpisodeBuffer

        number, steps = self.episodes, len(episode.actions)
        # Minari compresses nothing, but appends to what is there.
        with h5py.File(self.folder / "data" / "main_data.hdf5", "a", track_order=True) as file:
            file.create_group(f"episode_{number}").create_dataset(
                "observations", (0, *self._space.shape), self._space.dtype, maxshape=(None, *self._space.shape),
                chunks=(CHUNK, *self._space.shape), compression="gzip", compression_opts=1,
            )  # fmt: skip
        over = np.arange(steps) == steps - 1
        buffer = EpisodeBuffer(
            id=number,
            observations=episode.frames(),
            actions=np.array(episode.actions, np.int64),
            rewards=np.array(episode.rewards, np.float32),
            terminations=over & (flag == TERMINAL),
            truncations=over & (flag == CUT),
            infos={key: np.array(values) for key, values in episode.infos.items()},
        )
        self._storage.update_episodes([buffer])
        self._storage.update_episode_metadata([about], [number])

    def finish(self) -> None:
        """Give the data set its name."""
        for folder in self.path.relative_to(self.root).parents:
            note = self.root / folder / "namespace_metadata.json"  # marks a namespace
            if folder != Path() and not note.exists():
                note.write_text("{}", encoding="utf-8")
        self.folder.rename(self.path)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def collect(
    checkpoint: Checkpoint,
    protocol: Protocol,
    env: Env,
    player: Player,
    asked: CollectConfig,
    episodes: int,
    on_step: Callable[[list[Game]], None],
    stop: Callable[[], bool],
) -> tuple[DataSet, list[Game]]:
    """Play whole games and store them. Stopped before the first has ended, nothing is kept."""
    with _new(checkpoint, protocol, env, asked) as data, tempfile.TemporaryDirectory(dir=data.folder) as folder:

        def keep(episode: Episode, flag: int, game: Game) -> None:
            about = {"env": game.env, "score": game.score, "length_frames": game.length_frames}
            data.add(episode, flag, about)

        count = min(asked.num_envs, episodes)
        with contextlib.closing(Recorder(env, count, player.device, Path(folder), keep)) as games:
            played = rollout.play(player, games, protocol.epsilon, episodes, asked.seed, on_step, stop)
    return data, played


def report(data: DataSet, played: list[Game], episodes: int, console: Console) -> None:
    """Tell what was stored, and how to read it."""
    if len(played) < episodes:
        console.say(f"stopped: {len(played)} of {plural(episodes, 'game')} played to the end")
    if not played:
        return
    mean = sum(game.score for game in played) / len(played)
    size = sum(path.stat().st_size for path in data.path.rglob("*") if path.is_file())
    console.say(f"{plural(len(played), 'game')}, mean score {mean:,.1f}; written: {data.path} ({memory_size(size)})")
    where = "" if data.root == root(None) else f" with MINARI_DATASETS_PATH={shlex.quote(str(data.root))}"
    console.say(f'read it: minari.load_dataset("{data.id}"){where}')


@contextlib.contextmanager
def _new(checkpoint: Checkpoint, protocol: Protocol, env: Env, asked: CollectConfig) -> Iterator[DataSet]:
    """A data set that is finished if the block succeeds and discarded if it raises, or if no game has ended."""
    spec, space, actions = _recreated(env, checkpoint)
    name = f"atari_dqn/{environments.bare(env.game)}/{name_of(checkpoint, asked)}"
    about = {
        "algorithm_name": f"DQN ({checkpoint.config.preset})",
        "description": _description(env, checkpoint, protocol),
        "requirements": [f"{name}=={version}" for name, version in _versions().items() if name != "atari-dqn"],
        "checkpoint": str(checkpoint.path),
        "agent_steps": checkpoint.agent_steps,
        "protocol": dataclasses.asdict(protocol) | played_as(env) | {"seed": asked.seed, "num_envs": asked.num_envs},
        "versions": _versions(),
        "actions": _actions(env) or [f"ACTION{i}" for i in range(int(actions.n))],
        "config": json.loads(metadata.of(checkpoint)["config"]),
    }
    data = DataSet(root(asked.output), re.sub(r"[^\w/-]+", "-", name), space, actions, spec, about)
    try:
        with outputs.writing(data.path):
            yield data
            if data.episodes:
                data.finish()
    finally:
        data.discard()


def root(asked: str | None) -> Path:
    """The folder of data sets: output=, or where Minari looks for them."""
    own = os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    return Path(asked or own)


def name_of(checkpoint: Checkpoint, asked: CollectConfig) -> str:
    if asked.name is not None and not re.fullmatch(r"\w[\w-]*", asked.name):
        raise UserError(f"name={asked.name}: expected letters, digits, - and _, as Minari's names have")
    return asked.name or f"{files.name(checkpoint.config.preset)}-{files.name(checkpoint.path.stem)}"


def _versions() -> dict[str, str]:
    return {
        "atari-dqn": atari_dqn.__version__, "gymnasium": gymnasium.__version__, "ale-py": ale_py.__version__,
    }  # fmt: skip


def _actions(env: Env) -> list[str]:
    """The meanings of an Atari game's actions."""
    return list(atari_actions(env.game, env.full_action_space)) if env.kind == "atari" else []


def _recreated(env: Env, checkpoint: Checkpoint) -> tuple[Any, Box, Discrete]:
    """The spec that makes such an environment with Gymnasium alone, the space of the frames, and the actions.

    No spec for one's own environment that Gymnasium cannot name.
    """
    low, high = (0, 255) if checkpoint.frame_dtype == "uint8" else (-np.inf, np.inf)
    space = Box(low, high, checkpoint.frame_shape, np.dtype(checkpoint.frame_dtype).type)
    if env.kind != "atari":
        single = environments.make(env.game, env.arguments)
        assert isinstance(single.action_space, Discrete)
        try:
            json.loads(single.spec.to_json() if single.spec else "null")
        except (TypeError, ValueError):  # a class instead of its name, or arguments that are no plain data
            return None, space, single.action_space
        return single.spec, space, single.action_space
    single = gymnasium.make(
        f"ALE/{env.game}-v5",
        frameskip=1,
        repeat_action_probability=env.repeat_action_probability,
        full_action_space=env.full_action_space,
        max_episode_steps=env.max_frames,
    )
    noops = env.noop_max if _actions(env)[0] == "NOOP" else 0
    single = AtariPreprocessing(single, noop_max=noops, frame_skip=env.frame_skip, screen_size=env.screen_size)
    assert isinstance(single.action_space, Discrete)
    return single.spec, space, single.action_space


def _description(env: Env, checkpoint: Checkpoint, protocol: Protocol) -> str:
    stack = f"stack {env.frame_stack} for the agent's states, with zeros before a game's start"
    return (
        f"Whole games of {env.game}, played by a DQN agent; a random action with probability {protocol.epsilon:g}. "
        f"Observations are single frames as the network sees them ({stack}); rewards are the game's own, never "
        f"clipped; a lost life ends no episode, but is seen in infos/lives where a game has lives."
    )
