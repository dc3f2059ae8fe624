"""A run of 2026-11 (commit 3a498b2, before the package had folders), as it was left: what was made stays readable.

python -m atari_dqn train env=cartpole seed=5 total_steps=400 num_envs=2 network.hidden=[16,8] agent.dueling=true
replay.capacity=400 replay.warmup_steps=50 evaluation.every_steps=200 evaluation.episodes=3
evaluation.held_out_states=10 checkpoint.every_steps=100 logger.wandb=off logger.tensorboard=false
evaluation.video_seconds=0
"""

import csv
import json
import shutil

import pytest
import torch
from conftest import ROOT

from atari_dqn.checkpoint.checkpoints import Checkpoint


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(ROOT / "tests" / "data" / "old_run", tmp_path / "run")


def test_it_resumes_with_all_that_it_had(old, inside):
    before = torch.load(old / "checkpoints" / "latest.pt", weights_only=True)
    done = inside("train", f"resume={old}", "total_steps=600")
    assert done.returncode == 0, done.stderr
    assert "replaying 400 agent steps" in done.stdout and "replay is missing" not in done.stdout
    after = torch.load(old / "checkpoints" / "latest.pt", weights_only=True)
    assert after["agent_steps"] == 600 and after["updates"] > before["updates"] > 0
    with open(old / "episodes.csv") as file:
        games = [*csv.DictReader(file)]
    assert len(games) == after["games"] > before["games"]
    weights = sum(value.numel() for value in before["online"].values())
    assert weights == sum(value.numel() for value in after["online"].values())


def test_its_best_network_plays_as_it_did(old, inside):
    """The weights went to their places: the same network by hand gives the same Q-values."""
    network, w = (
        Checkpoint(old / "checkpoints" / "best.pt").network,
        torch.load(old / "checkpoints" / "best.pt", weights_only=True)["online"],
    )
    states = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(1))
    x = (states.flatten(1) @ w["layers.0.weight"].T + w["layers.0.bias"]).relu()
    a, v = (
        (x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"]).relu() @ w[f"{name}.2.weight"].T + w[f"{name}.2.bias"]
        for name in ("head", "value")
    )
    torch.testing.assert_close(network.q_values(states), v + a - a.mean(1, keepdim=True))
    done = inside("evaluate", f"checkpoint={old}", "evaluation.episodes=2", f"output={old / 'e.json'}")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((old / "e.json").read_text())["returns"]) == 2
