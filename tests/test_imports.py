"""Networks of other programs: read without running their files' code, and equal to the originals."""

import gzip
import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.commands import ImportConfig, ImportEnv
from atari_dqn.exchange import imports
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError


def plain(actions: int) -> nn.Sequential:
    """The Nature network as CleanRL writes it down."""
    return nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions),
    )  # fmt: skip


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def cleanrl(path, actions=4, network=None):
    network = network or plain(actions)
    path.write_bytes(saved({f"network.{key}": value for key, value in network.state_dict().items()}))
    return lambda x: network(x / 255)


def sb3(path, actions=4):
    """Of Stable-Baselines3: q_net and q_net_target, and the optimizer beside them."""
    network = plain(actions)
    names = {"7.": "features_extractor.linear.0.", "9.": "q_net.0."}
    weights: OrderedDict[str, torch.Tensor] = OrderedDict()
    for part in ("q_net", "q_net_target"):
        for key, value in network.state_dict().items():
            name = next(
                (new + key[2:] for old, new in names.items() if key.startswith(old)), f"features_extractor.cnn.{key}"
            )
            weights[f"{part}.{name}"] = value if part == "q_net" else torch.randn_like(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", b'{"policy_class": {":serialized:": "gASV"}}')
        archive.writestr("policy.pth", saved(weights))
        archive.writestr("policy.optimizer.pth", saved({"state": {}}))
    return lambda x: network(x / 255)


def agents(path, actions=4):
    """Of atari-agents: C51 in a gzipped dictionary."""
    network, support = plain(actions * 51), torch.linspace(-10, 10, 51)
    weights = {"_AtariNet__support": support}
    for key, value in network.state_dict().items():
        number, _, kind = key.partition(".")
        head = int(number) - 7
        weights[f"_AtariNet__features.{key}" if head < 0 else f"_AtariNet__head.{head}.{kind}"] = value
    path.write_bytes(gzip.compress(saved({"estimator_state": weights, "step": 3})))
    return lambda x: (network(x / 255).unflatten(1, (actions, 51)).softmax(2) * support).sum(2)


def imported(source, game=None):
    target = source.parent / "out.pt"
    imports.run(ImportConfig(str(source), ImportEnv(game), str(target)), Console(quiet=True))
    return Checkpoint(target)


@pytest.mark.parametrize(
    ("write", "name", "preset", "steps"),
    [
        (cleanrl, "BreakoutNoFrameskip-v4__dqn_atari__1__17/dqn_atari.cleanrl_model", "cleanrl", 0),
        (sb3, "logs/BreakoutNoFrameskip-v4.zip", "sb3_zoo", 0),
        (agents, "C51_classic/Breakout/0/model_50000000.gz", "dopamine", 50_000_000),
    ],
)
def test_an_imported_network_computes_the_same(tmp_path, write, name, preset, steps):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    original = write(path)
    found = imported(path)
    states = torch.randint(256, (50, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        wanted = original(states.float())
    assert (found.network.q_values(states) - wanted).abs().max() < 1e-5 * wanted.abs().max() + 1e-6
    assert (found.config.preset, found.agent_steps) == (preset, steps)
    assert found.actions == ("NOOP", "FIRE", "RIGHT", "LEFT") and found.config.env.game == "Breakout"
    told = found.content["imported"]
    assert told["from"] == path.name and "84x84" in told["preprocessing"] and len(told["sha256"]) == 64


def test_an_imported_agent_plays_is_exported_and_trained_on(tmp_path, inside):
    cleanrl(tmp_path / "dqn_atari.cleanrl_model", 18)
    done = inside("import", "source=dqn_atari.cleanrl_model", "env.game=breakout")
    assert done.returncode == 0 and "18 actions of Breakout" in done.stdout, done.stderr
    assert "its pictures: CleanRL takes" in done.stdout and "here: atari_dqn takes" in done.stdout
    path = tmp_path / "dqn_atari-imported.pt"
    short = ["evaluation.episodes=1", "protocol.max_frames=60"]
    assert inside("evaluate", f"checkpoint={path}", *short).returncode == 0
    done = inside("export", f"checkpoint={path}", "format=safetensors", "states=20", "output=it.safetensors")
    assert done.returncode == 0, done.stderr
    assert "imported from `dqn_atari.cleanrl_model`" in next(tmp_path.glob("it*.md")).read_text()
    tuned = inside(
        "train", "env.game=Breakout", f"init={path}", "num_envs=2", "total_steps=12", "replay.warmup_steps=8",
        "replay.capacity=200", "logger.wandb=off", "logger.tensorboard=false", "run_dir=it", *short,
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr


def test_a_network_of_cartpole(tmp_path):
    network = nn.Sequential(nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2))
    path = tmp_path / "CartPole-v1__dqn__1.cleanrl_model"
    path.write_bytes(saved({f"network.{key}": value for key, value in network.state_dict().items()}))
    found, states = imported(path), torch.randn(20, 1, 4)
    with torch.no_grad():
        assert torch.allclose(found.network.q_values(states), network(states[:, 0]), atol=1e-6)
    assert found.config.network.hidden == [120, 84]


class Boom:
    def __reduce__(self):
        return os.mkdir, ("boom",)


@pytest.mark.parametrize("wrapped", ["plain", "zip", "gzip"])
def test_no_code_of_a_file_is_run(tmp_path, monkeypatch, wrapped):
    monkeypatch.chdir(tmp_path)
    bad = saved({"network.0.weight": torch.ones(2, 2), "network.0.bias": Boom()})
    path = tmp_path / "Pong.zip"
    if wrapped == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("policy.pth", bad)
            archive.writestr("data", pickle.dumps(Boom()))
    else:
        path.write_bytes(gzip.compress(bad) if wrapped == "gzip" else bad)
    with pytest.raises(UserError, match="cannot be read as weights"):
        imported(path)
    path.write_bytes(pickle.dumps(Boom()))
    with pytest.raises(UserError, match="cannot be read as weights"):
        imported(path)
    assert not (tmp_path / "boom").exists() and not (tmp_path / "out.pt").exists()


def bomb(path):
    path.write_bytes(gzip.compress(b"\0" * 50_000_000))


def other(path):
    path.write_bytes(saved({"policy.weight": torch.ones(3, 3)}))


def deeper(path):
    network = plain(4)
    network.append(nn.Linear(4, 4))
    cleanrl(path, network=nn.Sequential(nn.Conv2d(4, 7, 8, 4), nn.ReLU(), nn.Conv2d(7, 64, 4, 2), *network[3:]))


def cyclic(path):
    content = {"network.0.weight": torch.ones(2, 2)}
    content["model_weights"] = content
    path.write_bytes(saved(content))


def expanding(path):
    path.write_bytes(saved({"network.0.weight": torch.ones(1).expand(300_000, 300_000)}))


def sparse(path):
    path.write_bytes(saved({"network.0.weight": torch.eye(3).to_sparse()}))


def squeezed(path):
    """More than a gigabyte of zeros in a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(9):
                entry.write(b"\0" * (1 << 27))


def without_atoms(path):
    network = plain(4)
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    path.write_bytes(saved({"model_weights": weights | {"atoms": torch.zeros(0)}, "args": {"seed": 1}}))


def of_a_pole(inputs, outputs):
    def write(path):
        network = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))
        path.write_bytes(saved({f"network.{key}": value for key, value in network.state_dict().items()}))

    return write


def infinite(path):
    network = plain(4)
    nn.init.constant_(network[0].bias, float("nan"))
    cleanrl(path, network=network)


@pytest.mark.parametrize(
    ("write", "name", "game", "line"),
    [
        (lambda path: cleanrl(path), "model.cleanrl_model", None, "does not say which game it learned"),
        (lambda path: cleanrl(path, 5), "x.cleanrl_model", "Pong", "has 5 actions, but Pong has 6: set env.game"),
        (lambda path: cleanrl(path), "x.cleanrl_model", "Pogn", "did you mean Pong"),
        (lambda path: cleanrl(path), "x.cleanrl_model", "CartPole", "is a network for pictures, not for CartPole"),
        (bomb, "Pong.gz", None, "cannot be read as weights"),
        (other, "Pong.pth", None, "has the layout of none of CleanRL, Stable-Baselines3, atari-agents"),
        (deeper, "Pong.cleanrl_model", None, "no network of ours has convolutions"),
        (
            infinite,
            "Breakout.cleanrl_model",
            None,
            "Breakout.cleanrl_model cannot be imported: its weights are not finite",
        ),
        (cyclic, "Pong.cleanrl_model", None, "has the layout of none of"),
        (expanding, "Pong.cleanrl_model", None, "larger than what is stored of it"),
        (sparse, "Pong.cleanrl_model", None, "is not of plain floating-point numbers"),
        (squeezed, "Pong.cleanrl_model", None, "it is larger than 1 GB"),
        (without_atoms, "Pong.cleanrl_model", None, "fewer than 2 values"),
        (
            of_a_pole(6, 2),
            "CartPole.cleanrl_model",
            None,
            "has 6 inputs and 2 actions, but CartPole-v1 has 4 inputs and 2",
        ),
        (
            of_a_pole(4, 3),
            "CartPole.cleanrl_model",
            None,
            "has 4 inputs and 3 actions, but CartPole-v1 has 4 inputs and 2",
        ),
        (lambda path: path.write_text("hello"), "Pong.zip", None, "cannot be read as weights"),
        (lambda path: None, "Pong.zip", None, "there is no file"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_a_line(tmp_path, write, name, game, line):
    path = tmp_path / name
    write(path)
    with pytest.raises(UserError) as refused:
        imported(path, game)
    assert line in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out.pt").exists()
