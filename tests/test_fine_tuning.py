"""Runs that begin with a checkpoint's weights: what they take, what they refuse, and how they say so."""

import shutil

import pytest
import torch
from conftest import QUIET, small_run

from atari_dqn.checkpoint import checkpoints
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import presets
from atari_dqn.training import launch
from atari_dqn.training.fine_tuning import matched

SHORT = [
    "num_envs=2", "total_steps=40", "replay.warmup_steps=20", "replay.capacity=400", "evaluation.episodes=1",
    "protocol.max_frames=40", "env.max_frames=200", "exploration.decay_steps=10",
]  # fmt: skip
DUELING = ["network=small_cnn", "network.standardize=true", "agent.dueling=true", "head=qr", "head.quantiles=5"]


@pytest.fixture(scope="module")
def learned(shared):
    """A short run of Breakout, with a network unlike the default."""

    def train(folder):
        small_run(folder / "run", "env.game=Breakout", *SHORT, *DUELING, "seed=7").go()

    return shared("fine-tuning", train) / "run"


def test_actions_keep_their_outputs_by_name_and_new_ones_are_fresh():
    fresh, known = torch.arange(12.0).view(6, 2), 100 + torch.arange(8.0).view(4, 2)  # 3 and 2 actions of 2 outputs
    found = matched(fresh, ["NOOP", "FIRE", "UP"], known, ["UP", "NOOP"])
    assert torch.equal(found, torch.cat([known[2:], fresh[2:4], known[:2]]))
    assert torch.equal(matched(fresh[:, 0], ["A", "B", "C"], known[:, 0], ["C", "D"])[4:], known[:2, 0])


def test_a_run_begins_with_the_weights_of_another_and_takes_its_network(learned, inside, monkeypatch):
    before = launch.Run._train
    words = ["env.game=Breakout", *SHORT, *QUIET, f"init={learned}"]
    taken = {}

    def keep(run):
        taken.update({key: value.clone() for key, value in run.agent.online.state_dict().items()})
        taken["target"] = run.agent.target.state_dict()["head.2.weight"].clone()
        before(run)

    monkeypatch.setattr(launch.Run, "_train", keep)
    done = inside("train", *words, "run_dir=it")
    assert done.returncode == 0, done.stderr
    source = Checkpoint(checkpoints.find(str(learned)))
    weights = source.network.state_dict()
    assert torch.equal(taken.pop("target"), weights["head.2.weight"])
    assert taken.keys() == weights.keys() and all(torch.equal(taken[key], weights[key]) for key in weights)
    assert "fine-tuning: initial weights from" in done.stdout and "(Breakout, 40 agent steps)" in done.stdout
    assert "at random" not in done.stdout
    config = Checkpoint(checkpoints.find("it")).config
    assert (config.network.name, config.agent.dueling, config.head.name) == ("small_cnn", True, "qr")
    assert config.init == str(learned) and "init" in {one.key for one in presets.departures(config)}


def test_another_game_keeps_what_both_know(learned, inside, monkeypatch):
    taken, before = {}, launch.Run._train

    def keep(run):
        taken.update({key: value.clone() for key, value in run.agent.online.state_dict().items()})
        before(run)

    monkeypatch.setattr(launch.Run, "_train", keep)
    words = ["env.game=Freeway", *SHORT, *QUIET]
    done = inside("train", *words, f"init={learned}", "run_dir=tuned")
    assert done.returncode == 0, done.stderr
    assert "; UP, DOWN start at random" in done.stdout
    tuned = dict(taken)
    assert inside("train", *words, *DUELING, "run_dir=fresh").returncode == 0
    weights = Checkpoint(checkpoints.find(str(learned))).network.state_dict()
    for key, value in tuned.items():
        if not key.startswith("head.2."):
            assert torch.equal(value, weights[key])
    known, fresh, found = (x["head.2.weight"].unflatten(0, (-1, 5)) for x in (weights, taken, tuned))
    assert torch.equal(found[0], known[0]) and torch.equal(found[1:], fresh[1:])  # NOOP, and UP and DOWN


def test_it_resumes_without_the_file_that_it_began_with(learned, inside, tmp_path):
    shutil.copytree(learned, tmp_path / "old")
    words = ["env.game=Breakout", *SHORT, *QUIET, "init=old"]
    assert inside("train", *words, "run_dir=it").returncode == 0
    shutil.rmtree(tmp_path / "old")
    done = inside("train", "resume=it", "total_steps=60", "logger.wandb=off")
    assert done.returncode == 0 and "resuming it after 40 agent steps" in done.stdout
    again = inside("train", *words, "resume=auto", "run_dir=it", "init=latest")
    assert again.returncode == 0 and "it is finished" in again.stdout, again.stderr
    refused = inside("train", "resume=it", "total_steps=80", "init=other")
    assert refused.returncode == 2 and "init cannot be changed when resuming" in refused.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["network=nature_cnn"], "needs network.name=small_cnn to fit its weights; leave out network="),
        (["agent.dueling=false"], "needs agent.dueling=true to fit its weights"),
        (["env.frame_stack=3"], "needs env.frame_stack=4 to"),
        (["env=cartpole"], "was trained on frames (84, 84), not CartPole-v1's (4,)"),
        (["agent={dueling: false}"], "needs agent.dueling=true to fit its weights"),
        (["init=nowhere"], "there is no checkpoint nowhere"),
        (["init=''"], "init= is empty"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(learned, inside, tmp_path, words, line):
    done = inside("train", *SHORT, *QUIET, f"init={learned}", "run_dir=it", *words)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "it").exists()
