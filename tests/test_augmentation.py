"""Random shifts and brightness, what an update makes of them, and products in bfloat16."""

import copy

import numpy as np
import pytest
import torch
from conftest import flat
from recording import Recording
from test_family import agents, filled_replay
from test_fidelity import composed, random_batches
from test_speed import step

from atari_dqn.config import presets
from atari_dqn.dqn import augmentation, layers
from atari_dqn.dqn.augmentation import KINDS, Change
from atari_dqn.dqn.bootstrap import Double
from atari_dqn.dqn.layers import Dense
from atari_dqn.training import agents as making
from atari_dqn.training.agents import make_agent
from atari_dqn.utils import devices
from atari_dqn.utils.errors import UserError

CPU = torch.device("cpu")
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def draw(kind: str, states: int, seed: int = 0) -> Change:
    return augmentation.draw(kind, states, torch.Generator().manual_seed(seed), CPU)


def cropped(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    """Padded by 4 pixels of its edge, and cropped: as in the paper, slowly."""
    height, width = picture.shape
    padded = np.pad(picture, 4, "edge")
    return padded[4 - down : 4 - down + height, 4 - right : 4 - right + width]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(32, 4, 84, 84), (1, 1, 36, 50), (7, 2, 5, 6), (3, 4, 3, 2)])
def test_pictures_are_padded_by_their_edges_and_cropped(kind, shape):
    states = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    change = draw(kind, shape[0])
    wanted = [
        [cropped(frame, int(down), int(right)) for frame in state]
        for state, down, right in zip(states.numpy(), change.down, change.right, strict=True)
    ]
    for found in (
        augmentation.shifted(states, change),
        augmentation.shifted_by_index(states, change),
        augmentation.shifted(states.float(), change),
    ):
        np.testing.assert_array_equal(found, np.array(wanted))


def test_all_shifts_and_brightnesses_of_the_sources_are_drawn():
    """Yarats et al. crop at 0 to 8; Dopamine's randint leaves the 8 out, and its noise is clipped at 2 deviations."""
    for kind, crops in (("shift", range(9)), ("drq", range(8))):
        change = draw(kind, 20_000)
        counts = torch.stack([4 - change.down, 4 - change.right]).unique(dim=1, return_counts=True)
        assert {tuple(pair) for pair in counts[0].T.tolist()} == {(x, y) for x in crops for y in crops}
        expected = 20_000 / len(crops) ** 2
        assert (counts[1] - expected).abs().max() < 5 * expected**0.5
    assert draw("shift", 5).factor is None
    factor = draw("drq", 20_000).factor
    assert factor.min() == pytest.approx(0.9) and factor.max() == pytest.approx(1.1)
    inside = factor[(factor > 0.901) & (factor < 1.099)]
    assert len(inside) / 20_000 == pytest.approx(0.954, abs=0.01) and factor.std() == pytest.approx(0.048, abs=0.002)


def made(*overrides: str):
    return make_agent(composed("env.game=Breakout", *overrides), (84, 84), 4, CPU)


def test_updates_of_drq_eps_equal_plain_torch():
    """Ten updates written out, in float64: shifted and brighter states, a dueling network with one hidden layer, the
    Huber loss averaged, Adam, and a target network that is the online one."""
    learner, rng = made("preset=drq_eps"), torch.Generator().manual_seed(9)
    w = {name: p.detach().double().contiguous().requires_grad_() for name, p in learner.online.named_parameters()}
    adam = torch.optim.Adam([*w.values()], lr=1e-4, eps=1.5e-4, foreach=False)

    def changed(states: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        down, right = torch.randint(-3, 5, (2, 32), generator=generator).tolist()
        noise = torch.randn(32, generator=generator)
        moved = [[cropped(f, i, j) for f in s] for s, i, j in zip(states.numpy(), down, right, strict=True)]
        return torch.from_numpy(np.array(moved)).double() / 255 * (1 + 0.05 * noise.clip(-2, 2))[:, None, None, None]

    def q_values(x: torch.Tensor) -> torch.Tensor:
        for layer, stride, (before, after) in zip((0, 3, 5), (4, 2, 1), ((2, 2), (1, 2), (1, 1)), strict=True):
            name = f"features.convolutions.{layer}"
            x = torch.nn.functional.pad(x, (before, after, before, after))
            x = torch.nn.functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride).relu()
        x = (x.permute(0, 2, 3, 1).flatten(1) @ w["shared.0.weight"].T + w["shared.0.bias"]).relu()
        a, v = (x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"] for name in ("head", "value"))
        return v + a - a.mean(1, keepdim=True)

    start, draws = flat(learner.online).clone(), torch.Generator().manual_seed(9)
    for batch in random_batches(10, 4):
        learner.learn(batch, rng)
        learner.copy_target()
        s, a, r, discount, s2 = (part[0] for part in batch[:5])
        s, s2 = changed(s, draws), changed(s2, draws)
        with torch.no_grad():
            y = r + discount * q_values(s2).max(1).values
        error = (y - q_values(s)[torch.arange(32), a]).abs()
        loss = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    change = torch.cat([p.detach().flatten() for p in w.values()]) - start
    assert torch.equal(rng.get_state(), draws.get_state())
    assert torch.linalg.norm(flat(learner.online) - start - change) < 0.02 * torch.linalg.norm(change)


def test_only_an_update_is_augmented():
    augmented, plain = made("preset=drq_eps"), made("preset=drq_eps", "agent.augmentation=none")
    states = random_batches(1, 4)[0].s_tm1[0]
    assert torch.equal(augmented.online.q_values(states), plain.online.q_values(states))
    assert torch.equal(*(one.act(states, 0.5, torch.Generator().manual_seed(3)) for one in (augmented, plain)))


@pytest.mark.parametrize("words", [(), ("head=c51",), ("update.period_steps=4", "num_envs=4", "update.tau=1")])
def test_one_network_does_for_two_where_both_are_always_equal(words, monkeypatch):
    one = made("preset=drq_eps", *words)
    monkeypatch.setattr(making, "_target_is_online", lambda config: False)
    two = made("preset=drq_eps", *words)
    assert one.target is one.online and two.target is not two.online
    assert isinstance(two.rule, Double) and not isinstance(one.rule, Double)
    draws = [torch.Generator().manual_seed(4) for _ in range(2)]
    for batch in random_batches(4, 4):
        for learner, rng in zip((one, two), draws, strict=True):
            learner.learn(batch, rng)
            learner.copy_target()
        assert torch.equal(flat(one.online), flat(two.online))
    assert {*one.state()["target"]} == {*two.state()["target"]}


@pytest.mark.parametrize(
    "words",
    [
        "num_envs=2",
        "update.target_period_steps=2",
        "update.tau=0.5",
        "update.repeats=2",
        "agent.noisy=true",
        "head=iqn",
    ],
)
def test_two_networks_remain_where_they_may_differ(words):
    learner = made("preset=drq_eps", words)
    assert learner.target is not learner.online and isinstance(learner.rule, Double)


def test_two_networks_remain_where_a_users_own_one_may_keep_a_state():
    config = composed("preset=drq_eps")
    assert making._target_is_online(config)
    config.network.name = "my_parts:Net"
    assert not making._target_is_online(config)


COMBINATION = ("scalar", "agent.double=true", "true", "false", "false", "3", "null", "1")


@pytest.mark.parametrize("kind", KINDS)
def test_augmented_turns_are_scripted_and_recorded(kind, monkeypatch):
    made = agents("agent.double=true", "agent.dueling=true", "agent.dueling_shared=true", f"agent.augmentation={kind}")
    contestants = [(agent, *filled_replay(COMBINATION)) for agent in (*made, copy.deepcopy(made[1]))]
    draws = [torch.Generator().manual_seed(2) for _ in contestants]
    monkeypatch.setattr(augmentation, "_shifted_by_opencv", augmentation.shifted_by_index)  # is not torch's
    monkeypatch.setattr("atari_dqn.dqn.inputs.interleaved", lambda states: states)

    def turn(which: int) -> torch.Tensor:
        agent, replay, _ = contestants[which]
        return agent.learn(replay.sample(2, 5, draws[which], 0.9, 3), draws[which])[0]

    for which in range(3):
        turn(which)
    recording = Recording(lambda: turn(2))
    for count in range(4):
        results = [turn(0), turn(1), recording.replay() if count else recording.result]
        assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
        for agent, replay, rng in contestants:
            step(replay, rng)
            agent.copy_target()
    networks = [flat(agent.online) for agent, *_ in contestants]
    assert torch.equal(networks[0], networks[1]) and torch.equal(networks[1], networks[2])


def test_augmentation_needs_pictures():
    assert presets.departures(composed("preset=drq_eps", "env=cartpole", "agent.augmentation=none"))  # as it says
    with pytest.raises(UserError, match=r"agent.augmentation=shift needs images.* set it to none"):
        composed("env=cartpole", "agent.augmentation=shift")
    with pytest.raises(UserError, match=r"agent.augmentation=crop: expected none, shift or drq"):
        composed("agent.augmentation=crop")


# ----------------------------------------------------------------------------------------------------------- bfloat16


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU does not multiply in bfloat16")
@pytest.mark.parametrize("preset", ["drq_eps", "rainbow", "laptop"])
def test_updates_in_bfloat16_are_nearly_those_in_float32(preset):
    """And those of TorchScript are the same to the bit. With a large epsilon Adam's steps are in proportion to the
    gradients; with a small one even the smallest would count."""
    words = [f"preset={preset}", "optimizer.learning_rate=0.01", "++optimizer.arguments.eps=1.0"]
    full, low, eager = (
        made(*words, f"compute.precision={precision}", f"compute.graphs={graphs}")
        for precision, graphs in (("float32", "true"), ("bf16", "true"), ("bf16", "false"))
    )
    start = flat(full.online).clone()
    for batch in random_batches(3, 4):
        for learner in (full, low, eager):
            learner.learn(batch, torch.Generator().manual_seed(5))
            learner.copy_target()
    assert torch.equal(flat(low.online), flat(eager.online))
    wanted, found = flat(full.online) - start, flat(low.online) - start
    off = float(torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted))
    assert 1e-4 < off < 0.1  # it is another precision, and no more than that
    assert all(p.dtype == torch.float32 for p in low.online.parameters())


@pytest.mark.parametrize("words", [[], ["head=c51"], ["head=qr"], ["agent.noisy=true", "agent.dueling_shared=false"]])
def test_the_last_layers_stay_in_float32(words, monkeypatch):
    monkeypatch.setattr(devices, "check_bfloat16", lambda device: None)
    online = made("preset=drq_eps", "compute.precision=bf16", *words).online
    low = {name for name, layer in online.named_modules() if isinstance(layer, Dense) and layer.in_bfloat16}
    first = {"head.0.mean", "head.0.spread", "value.0.mean", "value.0.spread"} if len(words) == 2 else {"shared.0"}
    assert low == first


def test_rounded_weights_follow_the_weights_however_these_change():
    layer, x = Dense(300, 300), torch.randn(2, 300)
    layer.in_bfloat16 = True

    def is_right(one: Dense) -> bool:
        wanted = (x.bfloat16() @ one.weight.bfloat16().T + one.bias.bfloat16()).float()
        return bool(torch.linalg.norm(one(x) - wanted) < 0.02 * torch.linalg.norm(wanted))

    assert is_right(layer)
    rounded = layer.rounded()
    with torch.no_grad():
        layer.weight.mul_(-2)
    assert is_right(layer) and layer.rounded() is rounded  # in the same memory, which TorchScript holds
    layer.load_state_dict(Dense(300, 300).state_dict())
    assert is_right(layer)
    twin = copy.deepcopy(layer)
    for _ in range(20):
        with torch.no_grad():
            twin.weight.mul_(-1.1)
        assert is_right(twin) and is_right(layer)
    layer.weight.data.neg_()  # as some optimizers do, unseen by torch
    assert not is_right(layer)
    layer.rounded(anew=True)
    assert is_right(layer)


def test_an_update_tells_its_layers_to_round_again(monkeypatch):
    monkeypatch.setattr(devices, "check_bfloat16", lambda device: None)
    learner = made("preset=drq_eps", "compute.precision=bf16", "compute.graphs=false")
    seen = []
    monkeypatch.setattr(
        layers.Dense, "rounded", lambda self, anew=False: (seen.append(anew), self.weight.bfloat16())[1]
    )
    learner.learn(random_batches(1, 4)[0], torch.Generator().manual_seed(0))
    assert seen == [False, False, False, True]  # to begin with, the target, the prediction; what the optimizer left


def test_bfloat16_is_refused_where_it_would_be_slower(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(UserError, match=r"^compute.precision=bf16: this CPU has neither AVX512-BF16 nor AMX; use comp"):
        made("compute.precision=bf16")
    with pytest.raises(UserError, match=r"compute.precision=bf16: this MPS cannot multiply in bfloat16"):
        devices.check_bfloat16(torch.device("mps"))
