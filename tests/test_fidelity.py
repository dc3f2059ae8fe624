"""The published algorithms, exactly: the pictures, Nature's update, Dopamine's network, presets and protocols."""

import platform
import zlib
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import flat, small_run

from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config import compose, presets, schema
from atari_dqn.config.commands import conf_dir
from atari_dqn.dqn import networks
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.loop import epsilon_at
from atari_dqn.dqn.replay import Batch, Replay
from atari_dqn.envs import factory, wrappers
from atari_dqn.envs.atari import atari_actions
from atari_dqn.envs.base import CUT, ORDINARY, TERMINAL
from atari_dqn.evaluation import rollout
from atari_dqn.evaluation.player import Player
from atari_dqn.evaluation.protocol import environment, training_games
from atari_dqn.evaluation.rollout import EvalEnvs, held_out, mean_max_q
from atari_dqn.tracking import curves
from atari_dqn.training.agents import make_agent
from atari_dqn.utils.errors import UserError

X86 = platform.machine().lower() in ("x86_64", "amd64")  # others round otherwise when they resize
DATA = Path(__file__).parent / "data"


def composed(*overrides: str) -> schema.TrainConfig:
    return compose.to_train_config(compose.compose("train", list(overrides)))


# ---------------------------------------------------------------------------------------------------------- pictures


class Recorded(gymnasium.Env):
    """Plays back the ALE's grey screens, uint8 [n, 210, 160], whatever the actions."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(0, 255, (210, 160), np.uint8)

    def __init__(self, screens: np.ndarray) -> None:
        self.screens, self.at = screens, 0

    def reset(self, **kwargs):
        return self.screens[0], {}

    def step(self, action):
        self.at += 1
        return self.screens[self.at], 0.0, False, False, {}


@pytest.mark.parametrize("game", ["Breakout", "SpaceInvaders"])
def test_recorded_frames_become_the_golden_pictures(game):
    """Screens that were recorded once, and what the network saw of them (tests/data/record.py made both)."""
    golden = np.load(DATA / "frames.npz")
    env = gymnasium.wrappers.ResizeObservation(wrappers.FrameSkip(Recorded(golden[f"{game}_screens"]), 4), (84, 84))
    env.reset()
    seen = np.array([env.step(0)[0] for _ in golden[f"{game}_pictures"]])
    assert np.abs(seen.astype(int) - golden[f"{game}_pictures"]).max() <= (0 if X86 else 2)  # levels of grey


GOLDEN = {"Breakout": 132802874, "Pong": 1043328319, "SpaceInvaders": 1955396076}  # crc32 of 200 frames


@pytest.mark.skipif(not X86, reason="other processors round otherwise")
@pytest.mark.parametrize("game", GOLDEN)
def test_the_emulators_pictures_have_their_checksums(game):
    """200 agent steps of ale-py 0.12.1 with fixed actions: screens, maximum, grey and size, to the bit."""
    envs = factory.make_emulators(composed(f"env.game={game}", "env.noop_max=0").env, 1)
    crc = zlib.crc32(envs.reset([0]).tobytes())
    for step in range(200):
        envs.send(np.array([step // 7 % len(envs.actions)]))
        crc = zlib.crc32(envs.recv().frames.tobytes(), crc)
    envs.close()
    assert crc == GOLDEN[game]


def test_a_cut_game_bootstraps_from_its_true_last_frame_and_a_lost_one_does_not():
    """Breakout cut off after 60 steps, beside the wrappers: what is learned from the last transition of each game."""
    env = composed("env.game=Breakout", "env.noop_max=0", "env.max_frames=240").env
    envs, replay, rng = factory.make_emulators(env, 1), Replay(1000, 1, (84, 84)), np.random.default_rng(0)
    oracle = wrappers.atari("Breakout", noop_max=0, max_frames=240)
    replay.begin(torch.from_numpy(envs.reset([3])))
    stack, _ = oracle.reset(seed=3)
    last, ends, over = [], {CUT: 0, TERMINAL: 0}, False
    for _ in range(600):
        action = int(rng.integers(4))
        envs.send(np.array([action]))
        turn = envs.recv()
        replay.write(torch.tensor([action]), *map(torch.from_numpy, (turn.rewards, turn.frames, turn.flags)))
        if over:
            stack, _ = oracle.reset()
            over = False
        else:
            stack, _, terminated, truncated, _ = oracle.step(action)
            over = terminated or truncated
        flag = int(turn.flags[0])
        if flag != ORDINARY:
            _, _, _, discount_t, s_t = replay._transitions(
                torch.tensor([replay.written - 2]), torch.zeros(1, dtype=torch.long), 0.99, 1, 1.0
            )
            ends[flag] += 1
            assert discount_t.item() == pytest.approx(0.99 if flag == CUT else 0)
            if flag == CUT:
                assert truncated and (s_t[0, -1].numpy() == stack[-1]).all()
                last.append(s_t[0])
    assert ends[CUT] >= 5 and ends[TERMINAL] >= 5
    # The state that comes next in the memory is the next game's first, and is never what a cut one bootstraps from.
    assert not any(torch.equal(one[-1], replay.frames[0, 0]) for one in last)
    envs.close()
    oracle.close()


# ------------------------------------------------------------------------------------------------------------ updates


def random_batches(count: int, actions: int) -> list[Batch]:
    """Minibatches of 32 with rewards, terminal states, and errors on both sides of the clip."""
    rng = torch.Generator().manual_seed(0)
    states = lambda: torch.randint(0, 256, (1, 32, 4, 84, 84), dtype=torch.uint8, generator=rng)  # noqa: E731
    return [
        Batch(
            states(),
            torch.randint(actions, (1, 32), generator=rng),
            torch.randint(-1, 2, (1, 32), generator=rng) * 1.0,
            0.99 * (torch.rand(1, 32, generator=rng) > 0.2),
            states(),
            torch.ones(1, 32),
            *[torch.zeros(1, 32, dtype=torch.int64)] * 2,
        )
        for _ in range(count)
    ]


DRAW = torch.Generator()  # nothing is drawn by these agents


def made(*overrides: str) -> Agent:
    return make_agent(composed("env.game=Breakout", *overrides), (84, 84), 4, torch.device("cpu"))


class Transcription:
    """NeuralQLearner.lua's qLearnMinibatch and getQUpdate in NumPy, backpropagation included, in double precision."""

    STRIDES = (4, 2, 1)

    def __init__(self, weights: list[torch.Tensor]) -> None:
        self.w = [w.detach().numpy().astype(np.float64) for w in weights]
        self.target = [w.copy() for w in self.w]
        self.g = [np.zeros_like(w) for w in self.w]
        self.g2 = [np.zeros_like(w) for w in self.w]

    @staticmethod
    def windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
        """[B, C, H, W, kernel, kernel]"""
        view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))
        return view[:, :, ::stride, ::stride]

    def forward(self, states: np.ndarray, w: list[np.ndarray]) -> list[np.ndarray]:
        """Inputs of each layer, and last the Q-values."""
        x, inputs = states / 255, []
        for layer, stride in enumerate(self.STRIDES):
            inputs.append(x)
            kernel = w[2 * layer]
            x = (
                np.tensordot(self.windows(x, kernel.shape[-1], stride), kernel, ([1, 4, 5], [1, 2, 3]))
                + w[2 * layer + 1]
            )
            x = np.maximum(x, 0).transpose(0, 3, 1, 2)
        inputs.append(x.transpose(0, 2, 3, 1).reshape(len(x), -1))
        inputs.append(np.maximum(inputs[-1] @ w[6].T + w[7], 0))
        return [*inputs, inputs[-1] @ w[8].T + w[9]]

    def backward(self, inputs: list[np.ndarray], grad: np.ndarray) -> list[np.ndarray]:
        """dw of network:backward for a gradient [B, A] at the Q-values."""
        w, dw = self.w, [np.zeros(0)] * 10
        dw[8], dw[9] = grad.T @ inputs[4], grad.sum(0)
        grad = (grad @ w[8]) * (inputs[4] > 0)
        dw[6], dw[7] = grad.T @ inputs[3], grad.sum(0)
        grad = ((grad @ w[6]) * (inputs[3] > 0)).reshape(len(grad), 7, 7, 64).transpose(0, 3, 1, 2)
        for layer in (2, 1, 0):
            x, kernel, stride = inputs[layer], w[2 * layer], self.STRIDES[layer]
            size, (height, width) = kernel.shape[-1], grad.shape[2:]
            dw[2 * layer] = np.tensordot(grad, self.windows(x, size, stride), ([0, 2, 3], [0, 2, 3]))
            dw[2 * layer + 1] = grad.sum((0, 2, 3))
            below = np.zeros_like(x)
            for i in range(size):
                for j in range(size):
                    part = np.tensordot(grad, kernel[:, :, i, j], (1, 0)).transpose(0, 3, 1, 2)
                    below[:, :, i : i + stride * height : stride, j : j + stride * width : stride] += part
            grad = below * (x > 0)
        return dw

    def learn(self, batch: Batch) -> None:
        s, a, r, discount, s2 = (part[0].numpy().astype(np.float64) for part in batch[:5])
        delta = r + discount * self.forward(s2, self.target)[-1].max(1)
        inputs = self.forward(s, self.w)
        row, a = np.arange(32), a.astype(int)
        delta = np.clip(delta - inputs[-1][row, a], -1, 1)  # clip_delta
        targets = np.zeros_like(inputs[-1])
        targets[row, a] = delta
        for i, dw in enumerate(self.backward(inputs, targets)):  # summed, not averaged
            self.g[i] = 0.95 * self.g[i] + 0.05 * dw
            self.g2[i] = 0.95 * self.g2[i] + 0.05 * dw**2
            self.w[i] += 0.00025 * dw / np.sqrt(self.g2[i] - self.g[i] ** 2 + 0.01)


def test_six_updates_of_nature_equal_a_transcription_of_the_released_code():
    learner = made("preset=nature")
    with torch.no_grad():  # larger values, so that errors of all sizes come about
        learner.online.head[-1].weight *= 20
    learner.copy_target()
    transcription = Transcription(list(learner.online.parameters()))
    start = flat(learner.online).clone().numpy()
    for count, batch in enumerate(random_batches(6, 4)):
        if count == 3:
            learner.copy_target()
            transcription.target = [w.copy() for w in transcription.w]
        learner.learn(batch, DRAW)
        transcription.learn(batch)
    ours = flat(learner.online).numpy() - start
    theirs = np.concatenate([w.ravel() for w in transcription.w]) - start
    assert np.abs(theirs).max() > 1e-3
    # By rounding alone a unit at the edge of its ReLU may count on one side only.
    np.testing.assert_allclose(ours, theirs, atol=2e-2 * np.abs(theirs).max())
    # One weight and another: what is compared is the whole, not its largest part.
    assert np.linalg.norm(ours - theirs) < 1e-2 * np.linalg.norm(theirs)


def test_updates_of_dopamine_equal_plain_torch():
    """Squared errors, averaged and not halved; Adam; padded convolutions: ten updates written out, in float64."""
    learner = made("preset=dopamine")
    w = [p.detach().double().contiguous().requires_grad_() for p in learner.online.parameters()]
    target = [p.detach().clone() for p in w]
    adam = torch.optim.Adam(w, lr=6.25e-5, eps=1.5e-4, betas=(0.9, 0.999), foreach=False)

    def q_values(states: torch.Tensor, w: list[torch.Tensor]) -> torch.Tensor:
        x = states.double() / 255
        for layer, stride, (before, after) in zip((0, 2, 4), (4, 2, 1), ((2, 2), (1, 2), (1, 1)), strict=True):
            padded = torch.nn.functional.pad(x, (before, after, before, after))
            x = torch.nn.functional.conv2d(padded, w[layer], w[layer + 1], stride).relu()
        x = (x.permute(0, 2, 3, 1).flatten(1) @ w[6].T + w[7]).relu()
        return x @ w[8].T + w[9]

    start = flat(learner.online).clone()
    for batch in random_batches(10, 4):
        learner.learn(batch, DRAW)
        s, a, r, discount, s2 = (part[0] for part in batch[:5])
        y = r + discount * q_values(s2, target).max(1).values
        loss = ((y - q_values(s, w)[torch.arange(32), a]) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    change = torch.cat([p.detach().flatten() for p in w]) - start
    # By rounding one unit or another is at 0 or just above it; that alone has been 0.7%.
    assert torch.linalg.norm(flat(learner.online) - start - change) < 0.02 * torch.linalg.norm(change)


def test_dqn_zoo_averages_with_a_smaller_epsilon_and_so_does_the_same():
    sums, means = made("preset=nature"), made("preset=dqn_zoo")
    assert torch.equal(flat(sums.online), flat(means.online))
    start = flat(sums.online).clone()
    for batch in random_batches(5, 4):
        sums.learn(batch, DRAW)
        means.learn(batch, DRAW)
    change = flat(sums.online) - start
    assert torch.linalg.norm(flat(means.online) - start - change) < 1e-3 * torch.linalg.norm(change)


def test_long_gradients_are_shortened_where_it_is_asked():
    learner = made("preset=sb3_zoo", "optimizer.max_grad_norm=1e-3", "optimizer.name=SGD", "optimizer.learning_rate=1")
    start = flat(learner.online).clone()
    learner.learn(random_batches(1, 4)[0], DRAW)
    assert torch.linalg.norm(flat(learner.online) - start).item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("graphs", ["true", "false"])
@pytest.mark.parametrize("preset", ["c51", "qr_dqn", "rainbow"])
def test_a_shortened_update_equals_torchs_own_shortening(preset, graphs):
    """The preset's limit, put below the gradient's norm, against the same update without one."""
    words = [f"preset={preset}", "network=small_cnn", f"compute.graphs={graphs}"]
    free, limited = (made(*words, f"optimizer.max_grad_norm={limit}") for limit in ("null", "1e-3"))
    (batch,), seed = random_batches(1, 4), 3
    _, long = free.learn(batch, torch.Generator().manual_seed(seed))
    _, short = limited.learn(batch, torch.Generator().manual_seed(seed))
    twins = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in long]
    for twin, gradient in zip(twins, long, strict=True):
        twin.grad = gradient.clone()
    assert torch.nn.utils.clip_grad_norm_(twins, 1e-3, foreach=False) > 2e-3
    for twin, parameter, gradient in zip(twins, limited.online.parameters(), short, strict=True):
        assert parameter.grad is gradient and gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, twin.grad)


def test_dopamines_network_pads_like_flax_and_starts_like_it():
    network = networks.make_network(composed("preset=dopamine").network, (84, 84), 4, 6)
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim > 1]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 11 * 11 * 64), (6, 512)]
    for weight in (p for p in network.parameters() if p.ndim > 1):
        area = weight[0, 0].numel() if weight.ndim == 4 else 1
        limit = (6 / ((weight.shape[0] + weight.shape[1]) * area)) ** 0.5
        assert weight.abs().max() <= limit and weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
    assert all((p == 0).all() for p in network.parameters() if p.ndim == 1)
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    x = states.float() / 255
    for layer, stride, (before, after) in zip(
        (m for m in network.features.convolutions if isinstance(m, torch.nn.Conv2d)),
        (4, 2, 1),
        ((2, 2), (1, 2), (1, 1)),
        strict=True,
    ):
        x = torch.nn.functional.conv2d(
            torch.nn.functional.pad(x, (before, after, before, after)), layer.weight, layer.bias, stride
        ).relu()
    torch.testing.assert_close(network.q_values(states), network.head(x.permute(0, 2, 3, 1).flatten(1), None))


def test_he_starts_with_the_variance_that_keeps_a_relus_input():
    network = networks.make_network(composed("preset=nature", "network.initialization=he").network, (84, 84), 4, 6)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            assert parameter.std().item() == pytest.approx((2 / parameter[0].numel()) ** 0.5, rel=0.1)
        else:
            assert (parameter == 0).all()


# ------------------------------------------------------------------------------------------------ presets, protocols

# preset: capacity, warmup, period, batch, target, epsilon end, decay, begin, stickiness, no-ops, FIRE, life loss
PUBLISHED = {
    "nature": (10**6, 50_000, 4, 32, 10_000, 0.1, 10**6, None, 0, 30, False, True),
    "dqn_zoo": (10**6, 50_000, 4, 32, 10_000, 0.1, 10**6, None, 0, 30, False, True),
    "dopamine": (10**6, 20_000, 4, 32, 8_000, 0.01, 250_000, None, 0.25, 0, False, False),
    "cleanrl": (10**6, 80_000, 4, 32, 1_000, 0.01, 10**6, 0, 0, 30, True, True),
    "sb3_zoo": (10**5, 100_000, 4, 32, 1_000, 0.01, 10**6, 0, 0, 30, True, True),
    "drq_eps": (110_000, 1_600, 1, 32, 1, 0.01, 5_000, None, 0, 29, False, True),
    "otrainbow": (110_000, 20_000, 1, 32, 500, 0.01, 50_000, None, 0, 29, False, True),
}
OPTIMIZERS = {
    "nature": ("NatureRMSProp", 2.5e-4, {"decay": 0.95, "eps": 0.01}, "huber", "sum", None),
    "dqn_zoo": ("NatureRMSProp", 2.5e-4, {"decay": 0.95, "eps": 0.01 / 32**2}, "huber", "mean", None),
    "dopamine": ("Adam", 6.25e-5, {"eps": 1.5e-4}, "squared", "mean", None),
    "cleanrl": ("Adam", 1e-4, {}, "squared", "mean", None),
    "sb3_zoo": ("Adam", 1e-4, {}, "huber", "mean", 10),
    "drq_eps": ("Adam", 1e-4, {"eps": 1.5e-4}, "huber", "mean", None),
    "otrainbow": ("Adam", 6.25e-5, {"eps": 1.5e-4}, "huber", "mean", None),
}
N_STEPS = {"drq_eps": 10, "otrainbow": 3}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_has_its_papers_constants(preset):
    c = composed(f"preset={preset}")
    env, replay, update, explore = c.env, c.replay, c.update, c.exploration
    assert PUBLISHED[preset] == (
        replay.capacity, replay.warmup_steps, update.period_steps, update.batch_size, update.target_period_steps,
        explore.end, explore.decay_steps, explore.begin_steps, env.repeat_action_probability, env.noop_max,
        env.fire_reset, env.terminal_on_life_loss,
    )  # fmt: skip
    o = c.optimizer
    assert OPTIMIZERS[preset] == (
        o.name, o.learning_rate, o.arguments, c.agent.loss, c.agent.reduction, o.max_grad_norm,
    )  # fmt: skip
    assert (c.agent.discount, c.agent.n_step, c.agent.reward_clip, env.frame_skip, env.frame_stack) == (
        0.99,
        N_STEPS.get(preset, 1),
        1,
        4,
        4,
    )
    assert not env.full_action_space and env.max_frames == 108_000 and explore.start == 1
    assert presets.departures(c) == []


ADAM_32 = ("Adam", {"eps": 0.01 / 32})
RMSPROP = ("NatureRMSProp", {"decay": 0.95, "eps": 0.01})
# preset: double, dueling, n-step, noisy, Munchausen, head; optimiser, rate; warm-up, target copy, epsilon's end; base
FAMILY = {
    "double_dqn": (True, False, 1, False, False, "scalar", *RMSPROP, 2.5e-4, 50_000, 10_000, 0.1, "nature"),
    "dueling": (True, True, 1, False, False, "scalar", *RMSPROP, 6.25e-5, 50_000, 10_000, 0.1, "nature"),
    "per": (True, False, 1, False, False, "scalar", *RMSPROP, 6.25e-5, 50_000, 30_000, 0.01, "nature"),
    "c51": (False, False, 1, False, False, "c51", *ADAM_32, 2.5e-4, 50_000, 10_000, 0.01, "nature"),
    "qr_dqn": (False, False, 1, False, False, "qr", *ADAM_32, 5e-5, 50_000, 10_000, 0.01, "nature"),
    "iqn": (False, False, 1, False, False, "iqn", *ADAM_32, 5e-5, 50_000, 10_000, 0.01, "nature"),
    "rainbow": (True, True, 3, True, False, "c51", "Adam", {"eps": 1.5e-4}, 6.25e-5, 20_000, 8_000, 0, "nature"),
    "munchausen": (False, False, 1, False, True, "scalar", *ADAM_32, 5e-5, 20_000, 8_000, 0.01, "dopamine"),
}


@pytest.mark.parametrize("preset", FAMILY)
def test_a_variants_preset_has_its_papers_constants(preset):
    c = composed(f"preset={preset}")
    a, o = c.agent, c.optimizer
    *expected, games = FAMILY[preset]
    assert expected == [
        a.double, a.dueling, a.n_step, a.noisy, a.munchausen, c.head.name, o.name, o.arguments, o.learning_rate,
        c.replay.warmup_steps, c.update.target_period_steps, c.exploration.end,
    ]  # fmt: skip
    base = composed(f"preset={games}")
    assert c.env == base.env and c.network == base.network and c.total_steps == base.total_steps
    assert (c.update.period_steps, c.update.batch_size, c.replay.capacity, c.update.tau) == (4, 32, 10**6, 1)
    assert presets.departures(c) == [] and presets.departures(c, games) != []
    prioritized = (c.replay.priority_exponent, c.replay.importance_start, c.replay.importance_end)
    if c.replay.prioritized:
        assert (*prioritized, c.replay.importance_steps) == (0.5 if a.noisy else 0.6, 0.4, 1, 50_000_000)
    assert c.replay.prioritized == (preset in ("per", "rainbow"))
    h = c.head
    assert (h.atoms, h.v_min, h.v_max, h.quantiles) == (51, -10, 10, 200)
    assert (h.samples, h.target_samples, h.policy_samples, h.cosines) == (64, 64, 32, 64)
    assert (a.munchausen_alpha, a.munchausen_temperature, a.munchausen_floor) == (0.9, 0.03, -1)
    assert a.dueling_gradient_scale == (0.70710678 if preset == "dueling" else 1)


# google/dopamine at 5873f54, labs/atari_100k/configs: DrQ_eps.gin, DER.gin, OTRainbow.gin. Preset: n-step, double,
# dueling with one hidden layer, noise, head, augmentation; warm-up, updates a step, target copy, epsilon at first, at
# last, and its steps; priorities' exponents; rate.
ATARI_100K = {
    "drq_eps": (10, True, True, None, "scalar", "drq", 1_600, 1, 1, (1, 0.01, 5_000), None, 1e-4),
    "der": (10, True, True, 0.1, "c51", "none", 1_600, 1, 2_000, (0, 0), (0.5, 0.5, 0.5), 1e-4),
    "otrainbow": (3, False, False, None, "c51", "none", 20_000, 8, 500, (1, 0.01, 50_000), (0.5,) * 3, 6.25e-5),
}


@pytest.mark.parametrize("preset", ATARI_100K)
def test_a_preset_of_atari_100k_has_dopamines_constants(preset):
    c = composed(f"preset={preset}")
    a, e, r = c.agent, c.exploration, c.replay
    epsilons = (e.start, e.end, e.decay_steps)[: 3 if e.start != e.end else 2]
    priorities = (r.priority_exponent, r.importance_start, r.importance_end) if r.prioritized else None
    assert ATARI_100K[preset] == (
        a.n_step, a.double, a.dueling and a.dueling_shared, a.noisy_sigma if a.noisy else None, c.head.name,
        a.augmentation, r.warmup_steps, c.update.repeats, c.update.target_period_steps, epsilons, priorities,
        c.optimizer.learning_rate,
    )  # fmt: skip
    assert (c.head.atoms, c.head.v_min, c.head.v_max, a.loss, a.reduction) == (51, -10, 10, "huber", "mean")
    assert (c.optimizer.name, c.optimizer.arguments, c.update.period_steps, c.num_envs) == (
        "Adam",
        {"eps": 1.5e-4},
        1,
        1,
    )
    assert (c.network.padding, c.network.initialization, a.dueling_gradient_scale) == ("same", "xavier", 1)
    assert c.total_steps == c.evaluation.every_steps == 100_000 <= r.capacity  # nothing is forgotten
    assert (c.evaluation.episodes, c.protocol.name, c.env.terminal_on_life_loss) == (100, "atari100k", True)
    assert presets.departures(c) == []


# preset: epsilon of its evaluation, stickiness, most no-ops, FIRE, frames until a game is cut off (or which training
# games count); the norm that gradients are shortened to. Where no source is named it is DQN Zoo at 45061f4.
EVALUATED = {
    "nature": (0.05, 0, 30, False, 18_000, None),  # Extended Data Table 2; train_agent.lua:117
    "double_dqn": (0.05, 0, 30, False, 18_000, None),  # van Hasselt et al. 2016, table 1
    "dqn_zoo": (0.05, 0, 30, False, 108_000, None),  # dqn/run_atari.py:74, 120, 60
    "dueling": (0.05, 0, 30, False, 108_000, 10),  # Wang et al. 2016, section 4.2; epsilon as Nature's
    "per": (0.01, 0, 30, False, 108_000, None),  # prioritized/run_atari.py:79, 142, 65
    "c51": (0.001, 0, 30, False, 108_000, 10),  # c51/run_atari.py:75, 124, 61, 84
    "qr_dqn": (0.001, 0, 30, False, 108_000, 10),  # qrdqn/run_atari.py:75, 126, 61, 85
    "iqn": (0.001, 0, 30, False, 108_000, None),  # iqn/run_atari.py:74, 125, 60, 213: no clipping
    "rainbow": (0, 0, 30, False, 108_000, 10),  # rainbow/run_atari.py:256, 136, 70, 81; Kaixhin/Rainbow's main.py:47
    "cleanrl": (0.01, 0, 30, True, 108_000, None),  # dqn_atari.py:72, 258, 91, 95
    "sb3_zoo": (0.01, 0, 30, True, 108_000, 10),  # dqn.yml, exp_manager.py:184; atari_wrappers.py:303; dqn.py's default
    "dopamine": ("training", 1_000_000, None),  # jax/agents/dqn/configs/dqn.gin: create_runner.schedule
    "munchausen": ("training", 1_000_000, None),  # munchausen_rl/train.py: TrainRunner
    "keras_rl_cartpole": (0, 0, 0, False, 200, None),  # rl/agents/dqn.py:148: GreedyQPolicy; CartPole-v0's limit
    "cartpole": (0, 0, 0, False, 108_000, None),
    "laptop": (0.05, 0, 30, False, 18_000, None),
    "default": (0.05, 0, 30, False, 18_000, None),
    "drq_eps": (0.001, 0, 29, False, 108_000, None),  # google/dopamine at 5873f54: labs/atari_100k/
    "der": (0.001, 0, 29, False, 108_000, None),
    "otrainbow": (0.001, 0, 29, False, 108_000, None),
}


def test_all_presets_evaluations_are_known():
    assert {*EVALUATED} == {path.stem for path in (conf_dir() / "preset").glob("*.yaml")}


@pytest.mark.parametrize("preset", EVALUATED)
def test_a_preset_evaluates_and_shortens_gradients_as_its_source_does(preset):
    game = ["env=cartpole"] if "cartpole" in preset else ["env.game=Breakout"]
    c = composed(*game, f"preset={preset}")
    *expected, max_grad_norm = EVALUATED[preset]
    if expected[0] == "training":
        assert expected == [c.protocol.source, c.protocol.window_frames]
    else:
        env = environment(c.env, c.protocol, None)
        assert c.protocol.source == "games" and expected == [
            c.protocol.epsilon, env.repeat_action_probability, env.noop_max, env.fire_reset, env.max_frames
        ]  # fmt: skip
        assert not env.terminal_on_life_loss and not env.full_action_space
    frame = (84, 84) if c.env.kind == "atari" else (4,)
    assert make_agent(c, frame, 4, torch.device("cpu")).max_grad_norm == c.optimizer.max_grad_norm == max_grad_norm


def test_a_protocol_that_is_typed_takes_the_place_of_the_presets():
    """All of it, its epsilon too."""
    assert composed("preset=rainbow", "protocol=nature").protocol == composed("preset=nature").protocol


def test_keras_rls_agent_has_its_constants():
    c = composed("env=cartpole", "preset=keras_rl_cartpole")
    assert (c.network.hidden, c.network.initialization, c.num_envs, c.total_steps) == ([16], "xavier", 1, 5_000)
    assert (c.replay.capacity, c.env.frame_stack, c.replay.warmup_steps, c.update.tau) == (50_000, 1, 10, 0.01)
    assert (c.update.period_steps, c.update.target_period_steps, c.update.batch_size) == (1, 1, 32)
    assert (c.optimizer.name, c.optimizer.learning_rate, c.agent.n_step, c.agent.loss) == ("Adam", 1e-3, 1, "squared")
    assert (c.exploration.start, c.exploration.end, c.evaluation.episodes, c.protocol.epsilon) == (0.1, 0.1, 5, 0)
    assert presets.departures(c) == []


def test_cleanrls_epsilon_falls_from_the_first_step():
    c = composed("preset=cleanrl")
    at = [epsilon_at(step, c.replay.warmup_steps, c.exploration) for step in (0, 500_000, 1_000_000)]
    assert at == pytest.approx([1.0, 0.505, 0.01])


def test_departures_from_a_preset_are_found():
    c = composed("preset=dopamine", "env.game=Pong", "seed=7", "total_steps=5", "agent.loss=huber", "num_envs=1",
                 "+optimizer.arguments.amsgrad=true", "logger.every_steps=7", "device=cpu", "run_dir=x")  # fmt: skip
    assert {d.key: (d.preset, d.run) for d in presets.departures(c)} == {
        "agent.loss": ("squared", "huber"), "num_envs": (16, 1), "optimizer.arguments.amsgrad": (None, True),
        "total_steps": (50_000_000, 5),
    }  # fmt: skip
    other = {d.key for d in presets.departures(composed("preset=default"), "nature")}
    assert {"optimizer.name", "exploration.end", "update.target_period_steps"} <= other and "env.game" not in other
    assert presets.departures(composed("env=cartpole")) == []


PROTOCOLS = {
    "nature": (0.05, 0.0, 30, 18_000, False),
    "dqn_zoo": (0.05, 0.0, 30, 108_000, False),
    "dopamine": (0.001, 0.25, 0, 108_000, False),
    "per": (0.01, 0.0, 30, 108_000, False),
    "c51": (0.001, 0.0, 30, 108_000, False),
    "rainbow": (0.0, 0.0, 30, 108_000, False),
    "sb3": (0.01, 0.0, 30, 108_000, False),
    "atari100k": (0.001, 0.0, 29, 108_000, False),
}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("preset", ["dopamine", "cleanrl", "default"])
def test_a_protocol_says_how_games_are_played_whatever_was_trained(name, preset):
    """Stickiness, no-ops, FIRE and all 18 actions where a protocol asks for them, and nowhere else."""
    trained = composed(f"preset={preset}", "env.game=Breakout").env
    protocol = composed(f"preset={preset}", f"protocol={name}").protocol
    env = environment(trained, protocol, None)
    assert (
        protocol.epsilon, env.repeat_action_probability, env.noop_max, env.max_frames, env.full_action_space
    ) == PROTOCOLS[name]  # fmt: skip
    assert env.fire_reset == (name == "sb3") and not env.terminal_on_life_loss


def test_all_18_actions_are_played_by_their_meanings(monkeypatch):
    """A network of Breakout's 4 actions on a game with all 18: each stands for the one of its name."""
    trained, protocol = composed("env.game=Breakout").env, composed("protocol.full_action_space=true").protocol
    env = environment(trained, protocol, None)
    learned, all18 = (atari_actions("Breakout", e.full_action_space) for e in (trained, env))
    assert (len(learned), len(all18)) == (4, 18)
    network = networks.make_network(schema.Network("mlp", hidden=[]), (1,), 1, 4)
    layer = network.head[0]
    for number, name in enumerate(learned):
        layer.bias.data = torch.eye(4)[number]
        layer.weight.data.zero_()
        chosen = Player(network, learned, all18).act(torch.zeros(1, 1), 0.0, torch.Generator())
        assert all18[int(chosen)] == name


def test_machado_scores_only_training_games_that_were_played_as_it_says():
    words = ["env.repeat_action_probability=0.25", "env.noop_max=0", "env.full_action_space=true",
             "env.terminal_on_life_loss=false"]  # fmt: skip
    machado = composed("protocol=machado", *words).protocol
    assert machado.source == "training" and machado.window_games == 100
    for one in words:
        with pytest.raises(UserError, match=r"so train with .*terminal_on_life_loss=false"):
            composed("protocol=machado", *(word for word in words if word != one))


def test_training_is_scored_by_its_own_games(tmp_path):
    """protocol=training: the mean of the training games of the last frames; nothing is played for it."""
    run = small_run(
        tmp_path / "run", "env=cartpole", "env.goals=[]", "protocol=training", "protocol.window_frames=1000",
        "total_steps=3_000", "evaluation.every_steps=1_000",
    )  # fmt: skip
    run.go()
    games = curves.read(tmp_path / "run" / "episodes.csv")
    scored = curves.read(tmp_path / "run" / "evaluations.csv")
    assert [row["agent_steps"] for row in scored] == ["1000", "2000", "3000"]
    for row in scored:
        at = int(row["frames"])
        returns = [float(game["return"]) for game in games if at - 1000 < int(game["frames"]) <= at]
        assert float(row["mean"]) == pytest.approx(np.mean(returns)) and int(row["episodes"]) == len(returns)
    checkpoint = Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")
    protocol = compose.to_train_config(compose.compose("train", ["env=cartpole", "protocol=training"])).protocol
    last = training_games(checkpoint, protocol, checkpoint.config.env)
    assert [game.score for game in last] == [float(game["return"]) for game in games]


def test_held_out_states_are_random_play_and_the_same_again(tmp_path):
    env = composed("env.game=Breakout").env
    games = EvalEnvs(env, 10, torch.device("cpu"))
    states = held_out(games, 4, 37, seed=5)
    assert states.shape == (37, 4, 84, 84) and torch.equal(states, held_out(games, 4, 37, seed=5))
    games.close()
    assert len({zlib.crc32(state.numpy().tobytes()) for state in states}) > 20
    network = networks.make_network(schema.Network("nature_cnn"), (84, 84), 4, 4)
    expected = network.q_values(states).max(1).values.mean().item()
    assert mean_max_q(network, states) == pytest.approx(expected, abs=1e-6)


def test_a_damaged_best_network_does_not_stop_a_run_at_its_end(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "env=cartpole", "env.goals=[]", "total_steps=1_500", "evaluation.episodes=1")
    said: list[str] = []
    monkeypatch.setattr(run, "say", said.append)
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    confirm = run._evaluations.confirm
    monkeypatch.setattr(run._evaluations, "confirm", lambda: (best.write_bytes(b"?"), confirm()))
    run.go()
    assert any("cannot evaluate the best network again" in text for text in said)
    assert Checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt").content["finished"]


def test_the_best_network_is_played_again_from_fresh_seeds(tmp_path):
    run = small_run(
        tmp_path / "run", "env=cartpole", "env.goals=[]", "total_steps=3_000", "evaluation.every_steps=1_000",
        "evaluation.episodes=4", "evaluation.held_out_states=30",
    )  # fmt: skip
    run.go()
    found = curves.read(tmp_path / "run" / "evaluations.csv")
    assert [row["network"] for row in found] == ["current"] * 3 + ["best"]
    chosen = max(found[:3], key=lambda row: float(row["mean"]))
    best = Checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best.agent_steps == int(chosen["agent_steps"])
    seed = run.evaluator._seed(3_000, "fresh evaluation")
    player = Player(best.network, best.actions, best.actions)
    games = EvalEnvs(run.evaluator._env, 4, run.device)
    played = rollout.play(player, games, run.config.protocol.epsilon, 4, seed)
    assert float(found[-1]["mean"]) == pytest.approx(np.mean([game.score for game in played]))
    states = held_out(games, 2, 30, run.evaluator._seed(0, "held-out states"))
    last = mean_max_q(run.agent.online, states)
    assert float(found[2]["held_out_q"]) == pytest.approx(last, rel=1e-5)
