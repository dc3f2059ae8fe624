"""Collected games: read back by Minari, they are the games that an evaluation plays, with their raw rewards."""

import errno
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import QUIET, small_run

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.evaluation import rollout
from atari_dqn.exchange import minari as exchange
from atari_dqn.exchange import recording

MISSING = [name for name in exchange.NEEDS if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra `collect`)")

SHORT = ["num_envs=2", "total_steps=80", "replay.warmup_steps=40", "evaluation.episodes=1"]


@pytest.fixture
def data(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return tmp_path / "data" / "atari_dqn"


def test_collected_games_are_those_of_an_evaluation(inside, tmp_path, data):
    """Of Breakout with FIRE pressed for the agent: bricks of upper rows score 4 and 7, which training clips to 1."""
    import minari

    words = ["env.game=Breakout", "network=small_cnn", "protocol.max_frames=560", *SHORT]
    small_run(tmp_path / "run", *words).go()
    played = ["checkpoint=run", "seed=4", "protocol.epsilon=1", "protocol.fire_reset=true"]
    done = inside("collect", *played, "episodes=3", "num_envs=2")
    assert done.returncode == 0 and "3 games" in done.stdout, done.stderr
    evaluated = ["evaluation.episodes=3", "evaluation.num_envs=2", "output=e.json"]
    assert inside("evaluate", *played, *evaluated).returncode == 0
    result = json.loads((tmp_path / "e.json").read_text())
    name = "atari_dqn/Breakout/default-best-v0"
    assert name in done.stdout and [*minari.list_local_datasets()] == [name]
    found = minari.load_dataset(name)
    episodes = [*found]
    assert found.total_steps == sum(map(len, episodes)) == sum(result["lengths_frames"]) / 4
    assert [episode.rewards.sum() for episode in episodes] == result["returns"] and max(result["returns"]) > 0
    for episode in episodes:
        steps = len(episode)
        assert episode.observations.shape == (steps + 1, 84, 84) and episode.observations.dtype == np.uint8
        assert episode.terminations.sum() + episode.truncations.sum() == 1
        assert episode.terminations[-1] != episode.truncations[-1]
        lives = episode.infos["lives"]
        assert len(lives) == steps + 1 and lives[0] == 5 and (lives[-1] == 0) == episode.terminations[-1]
        lost = np.flatnonzero(np.diff(lives) < 0)[: int(lives[0] - 1)] + 1  # the action after a lost life is FIRE
        assert len(lost) and (episode.actions[lost[lost < steps]] == 1).all()
    meta = found.storage.metadata
    assert meta["checkpoint"] == "run/checkpoints/best.pt" and meta["protocol"]["epsilon"] == 1
    assert meta["actions"] == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert [m["score"] for m in found.storage.get_episode_metadata(range(3))] == result["returns"]
    env = found.recover_environment()
    assert env.observation_space == found.observation_space and env.action_space == found.action_space
    env.close()


def test_observations_are_what_the_agent_saw(inside, tmp_path, data, monkeypatch):
    """Stacked by the reader, they give the states, and so the actions, of a greedy agent."""
    import minari
    import torch

    small_run(tmp_path / "run", "env=cartpole", "env.frame_stack=3", *SHORT).go()
    states, visited = [], rollout.EvalEnvs.states
    monkeypatch.setattr(
        rollout.EvalEnvs, "states", lambda *args: states.append(visited(*args).clone()) or states[-1]
    )  # fmt: skip
    for number in range(2):  # never over an older one
        done = inside("collect", "checkpoint=run", "episodes=1", "name=a-b", "protocol=greedy")
        assert done.returncode == 0 and f"CartPole-v1/a-b-v{number}" in done.stdout, done.stderr
    (episode,) = minari.load_dataset("atari_dqn/CartPole-v1/a-b-v1")
    padded = np.concatenate([np.zeros((2, 4), np.float32), episode.observations])
    stacked = torch.from_numpy(np.stack([padded[i : i + 3] for i in range(len(episode))]))
    assert torch.equal(stacked, torch.cat(states)[-len(episode) :])
    network = Checkpoint(tmp_path / "run" / "checkpoints" / "best.pt").network
    assert torch.equal(network.q_values(stacked).argmax(1), torch.from_numpy(episode.actions))
    assert episode.rewards.sum() == len(episode) and episode.infos == {}


@pytest.mark.parametrize("games", [0, 2])
def test_stopped_it_keeps_whole_games_or_nothing(games, inside, tmp_path, data, monkeypatch):
    assert inside("train", "env.game=probes:Chain", "run_dir=run", *QUIET, *SHORT).returncode == 0
    add = exchange.DataSet.add

    def stop(*args):
        add(*args)
        if args[0].episodes == games:
            os.kill(os.getpid(), 2)

    monkeypatch.setattr(exchange.DataSet, "add", stop)
    if not games:
        once = iter([2])
        monkeypatch.setattr(recording.Episode, "add", lambda *args: [os.kill(os.getpid(), number) for number in once])
    done = inside("collect", "checkpoint=run", "episodes=9", "num_envs=3", "env.game=probes:Chain")
    kept = int(done.stdout.split()[1])
    assert done.returncode == 0 and f"stopped: {kept} of 9 games" in done.stdout and games <= kept < 9, done.stderr
    left = [path.name for path in data.rglob("*") if path.is_file()] if data.exists() else []
    assert sorted(left) == (["main_data.hdf5", "metadata.json", *["namespace_metadata.json"] * 2] if games else [])
    if games:
        import minari

        found = minari.load_dataset("atari_dqn/Chain/default-best-v0")
        assert len(found) == kept and found.env_spec is None  # a class that was registered by no name


def test_a_failure_leaves_nothing(inside, tmp_path, data, monkeypatch):
    small_run(tmp_path / "run", "env=cartpole", *SHORT).go()

    def fill(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exchange.DataSet, "add", fill)
    assert "default-v0: No space left on device" in inside("collect", "checkpoint=run", "name=default").stderr
    assert not [path for path in data.rglob("*") if path.is_file() or path.name.startswith(".")]
    assert "expected letters" in inside("collect", "checkpoint=run", "name=a/b").stderr
    (tmp_path / "file").touch()
    assert "cannot write to file" in inside("collect", "checkpoint=run", "output=file").stderr
