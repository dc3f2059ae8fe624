"""Targets, optimisers, the network, the schedule of the loop; and probes whose optimum is known."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from conftest import flat, small_run
from probes import Uneven

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose
from atari_dqn.config.schema import Exploration, Network
from atari_dqn.dqn import inputs, networks
from atari_dqn.dqn.exploration import epsilon_greedy
from atari_dqn.dqn.loop import due, epsilon_at, training_loop
from atari_dqn.dqn.optimizers import NatureRMSProp
from atari_dqn.evaluation import rollout
from atari_dqn.evaluation.player import Player
from atari_dqn.evaluation.rollout import EvalEnvs


def test_nature_rmsprop_equals_a_numpy_transcription():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 3)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = NatureRMSProp([parameter], lr=2.5e-4, decay=0.95, eps=0.01)
    g, v, w = np.zeros((5, 3)), np.zeros((5, 3)), w.astype(np.float64)
    for scale in [1, 1e-4, 30, 0, 1, 1, 0.1, 5, 1, 1]:
        dw = rng.normal(size=(5, 3)) * scale
        parameter.grad = torch.from_numpy(dw.astype(np.float32))
        optimizer.step()
        g = 0.95 * g + 0.05 * dw
        v = 0.95 * v + 0.05 * dw**2
        w -= 2.5e-4 * dw / np.sqrt(v - g**2 + 0.01)
    np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-5, atol=1e-7)


def test_nature_rmsprop_survives_equal_gradients():
    """v - g^2 tends to 0 and rounding takes it below."""
    parameter = torch.nn.Parameter(torch.zeros(100))
    optimizer = NatureRMSProp([parameter], eps=1e-12)
    for _ in range(2000):
        parameter.grad = torch.full((100,), 1234.567)
        optimizer.step()
    assert torch.isfinite(parameter).all()


def test_nature_network_has_the_papers_shape():
    network = networks.make_network(Network("nature_cnn"), (84, 84), 4, 18)
    assert [tuple(p.shape) for p in network.parameters() if p.ndim > 1] == [
        (32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (18, 512),
    ]  # fmt: skip
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    plain = torch.nn.functional.relu(network.features.convolutions[0](states.float() / 255))
    for layer in list(network.features.convolutions)[2:]:
        plain = layer(plain)
    torch.testing.assert_close(network.q_values(states), network.head(plain.permute(0, 2, 3, 1).flatten(1), None))


def test_the_network_of_2013_has_its_papers_shape():
    network = networks.make_network(Network("nips_cnn"), (84, 84), 4, 6)
    assert [tuple(p.shape) for p in network.parameters() if p.ndim > 1] == [
        (16, 4, 8, 8), (32, 16, 4, 4), (256, 2592), (6, 256),
    ]  # fmt: skip


@pytest.mark.parametrize("stack", [1, 4])
def test_scaled_states_are_the_plain_ones(stack):
    states = torch.randint(0, 256, (5, stack, 84, 84), dtype=torch.uint8)
    scaled = inputs.scaled(states)
    assert scaled.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(scaled, states.float() * (1 / 255))


def test_an_mlp_sees_bytes_as_shares_and_numbers_as_they_are():
    network = networks.make_network(Network("mlp", hidden=[16]), (128,), 2, 3)
    states = torch.randint(0, 256, (5, 2, 128), dtype=torch.uint8)
    shares = network.prepare(states)
    torch.testing.assert_close(shares, states.flatten(1) / 255)
    assert network.prepare(shares) is not states and torch.equal(network.prepare(shares), shares)
    numbers = torch.randn(5, 2, 128) * 100
    assert torch.equal(network.prepare(numbers), numbers.flatten(1))
    torch.testing.assert_close(network.q_values(states), network.q_values(states / 255))


def test_standardized_states_are_the_plain_ones():
    frames = (torch.rand(40, 36, 36).add_(torch.rand(36, 36)) * 127).to(torch.uint8)
    standard = inputs.Standardize(3, (36, 36)).to(memory_format=torch.channels_last)
    standard.measure(frames)
    shown = standard(frames.unfold(0, 3, 1).movedim(-1, 1))  # 38 stacks: more than a part
    assert shown.is_contiguous(memory_format=torch.channels_last)
    plain = frames.double() / 255
    plain = (plain - plain.mean(0)) / (plain - plain.mean(0)).std()
    torch.testing.assert_close(shown[:, 0].double(), plain[:-2], rtol=0, atol=1e-4)
    torch.testing.assert_close(shown[:, 2].double(), plain[2:], rtol=0, atol=1e-4)
    states = torch.stack([torch.zeros_like(frames[:2]), frames[:2], frames[1:3]], 1)  # two games that have just begun
    assert not standard(states)[:, 0].any()
    assert torch.equal(standard(states)[:, 1:], torch.stack([shown[:2, 0], shown[1:3, 0]], 1))
    assert torch.equal(standard(shown), shown)  # done already


def test_epsilon_is_drawn_for_each_game_apart():
    q_values = torch.zeros(4000, 4)
    q_values[:, 2] = 1
    actions = epsilon_greedy(q_values, 0.4, torch.Generator().manual_seed(0))
    shares = torch.bincount(actions, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.03)
    q_values[:, 3] = -torch.inf  # not available: never chosen
    assert 3 not in epsilon_greedy(q_values, 1.0, torch.Generator().manual_seed(0))


def test_epsilon_schedule():
    nature = Exploration(start=1.0, end=0.1, decay_steps=1_000_000, begin_steps=None)
    at = [epsilon_at(step, 50_000, nature) for step in (0, 50_000, 550_000, 1_050_000, 50_000_000)]
    assert at == pytest.approx([1.0, 1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_the_loop_updates_and_copies_the_same_whatever_the_number_of_games(tmp_path, num_envs, monkeypatch):
    run = small_run(
        tmp_path / "run", "env=cartpole", f"num_envs={num_envs}", "total_steps=720", "replay.warmup_steps=240",
        "update.target_period_steps=120", "update.period_steps=4", "update.batch_size=7", "agent.reward_clip=0.5",
    )  # fmt: skip
    assert torch.equal(flat(run.agent.target), flat(run.agent.online))
    copies, asked, sample = [], [], run.replay.sample
    monkeypatch.setattr(run.agent, "copy_target", lambda times: copies.append(times))
    monkeypatch.setattr(run.replay, "sample", lambda *a: asked.append((*a[:2], *a[3:])) or sample(*a))
    last = list(training_loop(run.emulators, run.replay, run.agent, run.config, run.streams))[-1]
    # Learning begins in the first turn that starts with 240 steps in memory.
    assert (last.agent_steps, last.updates, sum(copies)) == (720, (720 - 240) // 4, 6)
    assert {a[1:] for a in asked} == {(7, 0.99, 5, 0.5)} and sum(a[0] for a in asked) == last.updates


@pytest.mark.parametrize("num_envs", [1, 3, 8, 10])
def test_updates_and_target_copies_are_due_by_agent_steps_whatever_the_number_of_games(num_envs):
    for every in (1, 4, 100):
        turns = [due(every, step, step + num_envs) for step in range(0, 1200, num_envs)]
        assert list(itertools.accumulate(turns)) == [(i + 1) * num_envs // every for i in range(len(turns))]


def test_the_target_network_is_copied_on_the_exact_step(tmp_path):
    run = small_run(
        tmp_path / "run", "env=cartpole", "num_envs=2", "total_steps=1_000", "replay.warmup_steps=100",
        "update.target_period_steps=150", "update.period_steps=4", "agent.n_step=1",
    )  # fmt: skip
    loop = training_loop(run.emulators, run.replay, run.agent, run.config, run.streams)
    before, copied_at, updates = flat(run.agent.target).clone(), [], {}
    for record in loop:
        target = flat(run.agent.target)
        if not torch.equal(target, before):
            copied_at.append(record.agent_steps)
            assert torch.equal(target, flat(run.agent.online))
            before = target.clone()
        updates[record.agent_steps] = record.updates
    assert copied_at == [150, 300, 450, 600, 750, 900]
    # No update before the memory holds 100 steps; then one in 4, whatever the number of games.
    assert updates[100] == 0 and updates[104] == 1 and updates[1000] == (1000 - 100) // 4
    assert run.agent.target.training is True and not any(p.requires_grad for p in run.agent.target.parameters())


def test_every_emulator_has_its_quota_of_games(monkeypatch):
    """Emulator 0 plays games of 1 step, emulator 1 of 50: both count equally."""
    lengths = iter([1, 50])
    monkeypatch.setattr(Uneven, "next_length", staticmethod(lambda: next(lengths)))
    env = compose.to_train_config(compose.compose("train", ["env=gymnasium", "env.game=Probe/Uneven-v0"])).env
    network = networks.make_network(Network("mlp"), (1,), 1, 2)
    player = Player(network, ("ACTION0", "ACTION1"), ("ACTION0", "ACTION1"))
    with contextlib.closing(EvalEnvs(env, 2, player.device)) as games:
        played = rollout.play(player, games, 0.0, episodes=7, seed=1)
    assert sorted(g.length_frames for g in played) == [1, 1, 1, 1, 50, 50, 50]


def test_games_that_begin_again_are_those_that_would_be_made_anew():
    env = compose.to_train_config(compose.compose("train", ["env.game=Pong", "env.max_frames=60"])).env
    torch.manual_seed(0)
    player = Player(networks.make_network(Network("small_cnn"), (84, 84), 4, 6), range(6), range(6))
    found = []
    for seeds in ([1, 2], [2]):
        with contextlib.closing(EvalEnvs(env, 2, player.device)) as games:
            for seed in seeds:
                played = rollout.play(player, games, 0.3, episodes=3, seed=seed)
        found.append((played, games.states(games.all)))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def weights(folder, *overrides: str) -> torch.Tensor:
    run = small_run(
        folder, "env.game=Pong", "num_envs=4", "total_steps=360", "replay.warmup_steps=280", "evaluation.episodes=1",
        "protocol.max_frames=100", *overrides,
    )  # fmt: skip
    run.go()
    return flat(run.agent.online)


def test_networks_are_shown_the_warmups_pictures_once(tmp_path):
    run = small_run(
        tmp_path / "run", "env.game=Pong", "network=small_cnn", "network.standardize=true", "num_envs=4",
        "total_steps=400", "replay.capacity=4000", "replay.warmup_steps=100", "evaluation.every_steps=400",
        "evaluation.episodes=1", "evaluation.num_envs=1",
    )  # fmt: skip
    run.go()
    frames = run.replay.frames[:26].double().flatten(0, 1) / 255  # the warm-up's 25 turns, and the first states
    for network in (run.agent.online, run.agent.target, Checkpoint(tmp_path / "run/checkpoints/latest.pt").network):
        torch.testing.assert_close(network.features.standard.mean[0, 3].double(), frames.mean(0), rtol=0, atol=1e-6)
        assert float(network.features.standard.scale) == pytest.approx(
            1 / float((frames - frames.mean(0)).std()), rel=1e-4
        )


def test_one_seed_one_result_to_the_bit(tmp_path):
    first, again = weights(tmp_path / "a", "seed=1"), weights(tmp_path / "b", "seed=1")
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(tmp_path / "c", "seed=2"))
