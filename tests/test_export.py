"""Exported networks act as their checkpoints do, by what their model cards say."""

import contextlib
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, small_run

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose
from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import networks
from atari_dqn.evaluation import rollout
from atari_dqn.evaluation.rollout import EvalEnvs
from atari_dqn.exchange import card, export, metadata, onnx, safetensors
from atari_dqn.utils.errors import UserError

MISSING = [name for names in export.NEEDS.values() for name in names if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra `export`)")

OWN = """
import torch
from torch import nn
class Plain(nn.Module):
    def __init__(self, frame_shape, stack):
        super().__init__()
        self.layer, self.widths = nn.Linear(4 * stack, 8), (8,)
    def forward(self, x):
        return self.layer(x.flatten(1)).tanh()
"""
SHORT = ["num_envs=2", "total_steps=80", "replay.warmup_steps=40", "evaluation.episodes=1", "protocol.epsilon=0"]


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """States of games at random, from their first on, [160, 4, 84, 84]."""
    config = compose.to_train_config(compose.compose("train", ["env.game=Breakout"]))
    with contextlib.closing(EvalEnvs(config.env, 4, torch.device("cpu"))) as games:
        return rollout.held_out(games, 4, 160, seed=1)


@pytest.fixture
def pole(shared, tmp_path) -> Path:
    """A run of CartPole with quantiles in two streams."""
    words = ["env=cartpole", "head=qr", "agent.dueling=true", *SHORT]
    shutil.copytree(
        shared("export-pole", lambda folder: small_run(folder / "run", *words).go()) / "run", tmp_path / "run"
    )
    return tmp_path / "run"


def make(config: TrainConfig, shape: tuple[int, ...], actions: int) -> networks.QNetwork:
    torch.manual_seed(3)
    network = networks.make_network(config.network, shape[1:], shape[0], actions, config.head, config.agent)
    return network.requires_grad_(False)


@pytest.mark.parametrize(
    "words",
    [
        "network=nature_cnn network.padding=same network.standardize=true head=c51 agent.dueling=true agent.noisy=true",
        "network=nips_cnn head=qr agent.dueling=true agent.dueling_gradient_scale=0.7",
    ],
)
def test_every_network_and_head_gives_the_same_values_in_onnxruntime(words, frames, tmp_path):
    config = compose.to_train_config(compose.compose("train", ["env.game=Breakout", *words.split()]))
    network = make(config, (4, 84, 84), 6)
    network.features.standardize(frames[:, -1])
    found = written(network, (4, 84, 84), "uint8", tmp_path, frames)
    assert found.same == len(frames) == 160 and found.largest < 1e-4


def test_so_do_vectors(tmp_path):
    config = compose.to_train_config(compose.compose("train", ["env=cartpole", "head=iqn", "agent.dueling=true"]))
    states = torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(1))
    found = written(make(config, (2, 4), 3), (2, 4), "float32", tmp_path, states)
    assert found.same == 50 and found.largest < 1e-4


def written(network, shape, dtype, folder: Path, states: torch.Tensor) -> export.Difference:
    (folder / "x.onnx").write_bytes(onnx.save(network, shape, dtype, {"a": "b"}))
    run = onnx.runner(folder / "x.onnx")
    assert run(states[:1].numpy()).shape == (1, network.num_actions)  # any N
    return export.difference(network, run, states)


def test_a_difference_is_seen(frames):
    config = compose.to_train_config(compose.compose("train", ["env.game=Breakout", "network=small_cnn"]))
    network = make(config, (4, 84, 84), 6)

    def other(states: np.ndarray) -> np.ndarray:
        values = network.q_values(torch.from_numpy(states)).numpy()
        return np.where(np.arange(len(states))[:, None] < 7, -values, values)

    found = export.difference(network, other, frames)
    assert found.same == 146 and found.largest == pytest.approx(2) and "146" in str(found)
    assert np.isnan(export.difference(network, lambda states: other(states) * np.nan, frames).largest)


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def run_card(path: Path) -> dict[str, object]:
    """Run all of a card's code, as a person would paste it; the names that it leaves."""
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for block in blocks(path.read_text()):
            exec(block, names)
    return names | {"said": said.getvalue().split()}


def test_a_card_s_code_plays_the_game_that_an_evaluation_plays(inside, tmp_path):
    """Frame for frame: preprocessing by Gymnasium's own wrappers, as the card says, and the network in onnxruntime."""
    run = tmp_path / "run"
    small_run(run, "env.game=Pong", "protocol.noop_max=0", "protocol.max_frames=40", "network=small_cnn", *SHORT).go()
    done = inside("export", "checkpoint=run", "states=100")
    assert done.returncode == 0, done.stderr
    assert "on 100 states of play it chooses the same action as the checkpoint in 100" in done.stdout
    told = run / "checkpoints" / "best.onnx.md"
    text = told.read_text()
    shorter = text.replace("env.reset(seed=1)", "(env := gymnasium.wrappers.TimeLimit(env, 200)).reset(seed=1)")
    (tmp_path / "shorter.md").write_text(shorter)
    shutil.copy(told.with_suffix(""), tmp_path)
    names = run_card(tmp_path / "shorter.md")
    words = ["evaluation.episodes=1", "protocol.max_frames=800", "output=e.json"]
    assert inside("evaluate", "checkpoint=run", *words).returncode == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["actions"] == names["actions"] and names["said"][0] in result["actions"]
    assert [names["score"]] == result["returns"] and names["score"] < 0
    for part in ("uint8 `[N, 4, 84, 84]`", "oldest first", "`INTER_AREA`", "scaling by 1/255", "| 0 | `NOOP` |", "±1"):
        assert part in text
    assert "| 1 | `nature` |" in text  # the run's evaluation
    assert str(tmp_path).encode() not in (run / "checkpoints" / "best.onnx").read_bytes()


def test_a_card_presses_fire_where_the_protocol_does(tmp_path):
    small_run(tmp_path / "run", "env.game=Breakout", "protocol.max_frames=40", "network=small_cnn", *SHORT).go()
    checkpoint = Checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    checkpoint.config.protocol.fire_reset = True
    text = card.write(checkpoint, "safetensors", str(tmp_path / "x.safetensors"))
    (tmp_path / "x.safetensors").write_bytes(safetensors.save(checkpoint.network, metadata.of(checkpoint)))
    pressed = text.replace("env.step(action)", "env.step(action); played.append((action, info['lives']))")
    limit = "(env := gymnasium.wrappers.TimeLimit(env, 60)).reset(seed=1); played = []"
    shorter = pressed.replace("env.reset(seed=1)", limit)
    (tmp_path / "card.md").write_text(shorter)
    played = run_card(tmp_path / "card.md")["played"]
    lives = [5, *(left for _, left in played)]
    after = [i + 1 for i in range(len(played)) if lives[i + 1] < lives[i]]
    assert len(after) > 1 and all(played[i][0] == 1 for i in [0, *after] if i < len(played))


def test_weights_carry_what_makes_their_network_again(inside, tmp_path, pole):
    words = ["export", "checkpoint=run", "format=safetensors"]
    for name in ("a.safetensors", "a-2.safetensors"):  # never over an older one
        done = inside(*words, "output=a.safetensors", "states=64")
        assert done.returncode == 0 and f"written: {name}" in done.stdout, done.stderr
    network = safetensors.load(tmp_path / "a.safetensors")
    states = torch.randn(9, 1, 4)
    checkpoint = Checkpoint(pole / "checkpoints" / "best.pt")
    assert torch.equal(network.q_values(states), checkpoint.network.q_values(states))
    names = run_card(tmp_path / "a.safetensors.md")
    assert names["score"] > 0 and names["actions"] == ["ACTION0", "ACTION1"]
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    for name in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(UserError, match="not an agent that atari_dqn exported"):
            safetensors.load(tmp_path / name)
    assert "must end with .safetensors" in inside(*words, "output=x.onnx").stderr


def test_a_small_checkpoint_plays_like_any_other(inside, tmp_path, pole):
    done = inside("export", "checkpoint=run", "format=pt", "states=64", "output=small.pt")
    path = tmp_path / "small.pt"
    assert done.returncode == 0, done.stderr
    small, whole = Checkpoint(path), Checkpoint(pole / "checkpoints" / "best.pt")
    assert {value.dtype for value in small.content["online"].values()} == {torch.float16}
    for key, value in small.network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, whole.network.state_dict()[key].half().float())
    assert not small.content.keys() & {"optimizer", "replay", "generators"}
    names = run_card(tmp_path / "small.pt.md")
    assert names["score"] > 0 and names["actions"] == ("ACTION0", "ACTION1")
    assert inside("evaluate", f"checkpoint={path}", "evaluation.episodes=1").returncode == 0


def test_a_network_of_one_s_own_is_exported(inside, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_nets.py").write_text(OWN)
    typed = "network=own_nets:Plain"
    assert inside("train", "env=cartpole", typed, "run_dir=run", *QUIET, *SHORT).returncode == 0
    done = inside("export", "checkpoint=run", typed)
    said = "on 1,000 states of play it chooses the same action as the checkpoint in 1,000; Q-values differ by"
    assert done.returncode == 0 and said in done.stdout, done.stderr


def test_torch_says_what_it_cannot_export():
    class Loops(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while float(x.abs().max()) > 1:  # depends on the data
                x = x / 2
            return x

    network = make(compose.to_train_config(compose.compose("train", ["env=cartpole"])), (1, 4), 2)
    network.features.layers.append(Loops())
    with pytest.raises(UserError, match=r"torch cannot export this network to ONNX: ."):
        onnx.save(network, (1, 4), "float32", {})


def test_a_file_that_would_play_otherwise_is_not_kept(inside, tmp_path, pole, monkeypatch):
    monkeypatch.setitem(export.TOLERANCE, "safetensors", -1)
    done = inside("export", "checkpoint=run", "format=safetensors", "output=out/x.safetensors", "states=10")
    assert done.returncode == 1 and "x.safetensors was not written" in done.stderr
    assert not [*(tmp_path / "out").iterdir()]


def test_what_is_missing_is_named_with_its_extra(inside, pole, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "onnx" else find(name, *more))
    done = inside("export", "checkpoint=run")
    assert done.returncode == 2 and "pip install 'atari-dqn[export]'" in done.stderr and "onnx" in done.stderr
