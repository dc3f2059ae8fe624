"""Every variant on problems whose optimum is known, and every combination on the fast paths and through a stop."""

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import flat, small_run
from probes import Chain, Memory
from recording import Recording
from test_saving import CARTPOLE, PONG, Stop, assert_equal_runs, go_on
from test_speed import filled, step

from atari_dqn.config import compose, validate
from atari_dqn.config.schema import AgentConfig, Head, Network
from atari_dqn.dqn import inputs, layers, networks, prioritized, targets
from atari_dqn.dqn.agent import Agent
from atari_dqn.dqn.exploration import LONGEST, Persistent, boltzmann, epsilon_greedy
from atari_dqn.dqn.replay import Replay
from atari_dqn.tracking.callback import Callback
from atari_dqn.training.agents import make_agent
from atari_dqn.training.run import Run
from atari_dqn.utils.errors import UserError

NOISY = ["agent.noisy=true", "exploration.start=0", "exploration.end=0"]
PRIORITIZED = ["replay.prioritized=true", "replay.importance_steps=5_000"]
VARIANTS = {
    "dqn": [],
    "double": ["agent.double=true"],
    "dueling": ["agent.dueling=true", "agent.dueling_gradient_scale=0.7071"],
    "noisy": NOISY,
    "prioritized": PRIORITIZED,
    "3-step": ["agent.n_step=3"],
    "c51": ["head=c51"],
    "qr": ["head=qr", "head.quantiles=25"],
    "iqn": ["head=iqn", "head.samples=8", "head.target_samples=8"],
    "munchausen": ["agent.munchausen=true", "agent.n_step=1"],
    "soft copies": ["update.tau=0.02", "update.target_period_steps=4"],
    "Boltzmann": ["exploration.temperature=0.3", "exploration.end=0"],
    "persistent": ["exploration.persistence=2"],
    "squared": ["agent.loss=squared"],
    "rainbow": ["head=c51", "agent.double=true", "agent.dueling=true", "agent.n_step=3", *NOISY, *PRIORITIZED],
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def support(variant: str, low: float, high: float) -> list[str]:
    """The range of returns, for those that must be told."""
    return [f"head.v_min={low}", f"head.v_max={high}"] if "head=c51" in VARIANTS[variant] else []


# ----------------------------------------------------------------------------------------------------- known optima


def munchausen_values(discount: float, alpha: float, temperature: float, floor: float) -> np.ndarray:
    """The fixed point of Munchausen value iteration on the chain."""
    q = np.zeros((Chain.ROOMS, 2))
    for _ in range(2000):
        log_pi = (q - q.max(1, keepdims=True)) / temperature
        log_pi -= np.log(np.exp(log_pi).sum(1, keepdims=True))
        soft = (np.exp(log_pi) * (q - temperature * log_pi)).sum(1)
        for room, action in itertools.product(range(Chain.ROOMS), range(2)):
            after, reward, end = Chain.outcome(room, action)
            bonus = alpha * np.clip(temperature * log_pi[room, action], floor, 0)
            q[room, action] = reward + bonus + (0 if end else discount * soft[after])
    return q


@each_variant
def test_chain_values_equal_the_table(tmp_path, variant):
    """Mean values of the distributional ones; of several steps the optimal action's, for they follow the behaviour."""
    discount, greedy_only = 0.8, variant in ("3-step", "rainbow")
    run = small_run(
        tmp_path / "run", "env=gymnasium", "env.game=Probe/Chain-v0", "num_envs=4", "total_steps=5_500",
        "replay.warmup_steps=500", "replay.capacity=4_000", "update.period_steps=4", "update.target_period_steps=100",
        f"agent.discount={discount}", f"exploration.end={0.1 if greedy_only else 0.6}", "exploration.decay_steps=1_000",
        "optimizer.learning_rate=2e-3", "network.hidden=[32]", "evaluation.episodes=2", "seed=3", *VARIANTS[variant],
        *support(variant, -1, 1.5),
    )  # fmt: skip
    run.go()
    learned = run.agent.online.q_values(torch.eye(Chain.ROOMS).unsqueeze(1)).detach().numpy()
    optimal = Chain.optimal_values(discount)
    best = optimal.argmax(1)
    assert (learned.argmax(1)[1:] == best[1:]).all()  # in room 0 both are worth the same
    if greedy_only:
        np.testing.assert_allclose(learned.max(1), optimal.max(1), atol=0.08)
    elif variant == "munchausen":
        agent = run.config.agent
        numbers = agent.munchausen_alpha, agent.munchausen_temperature, agent.munchausen_floor
        np.testing.assert_allclose(learned, munchausen_values(discount, *numbers), atol=0.06)
    else:
        np.testing.assert_allclose(learned, optimal, atol=0.05)


@pytest.mark.parametrize("variant", ["dqn", "dueling", "noisy", "prioritized", "qr", "iqn", "munchausen", "rainbow"])
def test_memory_is_learnt_from_pixels(tmp_path, variant):
    run = small_run(
        tmp_path / "run", "env=gymnasium", "env.game=Probe/Memory-v0", "network=small_cnn", "env.frame_stack=2",
        "num_envs=4", "total_steps=3_000", "replay.warmup_steps=200", "replay.capacity=4_000", "agent.discount=0.9",
        "update.target_period_steps=100", "exploration.decay_steps=500", "exploration.end=0.2",
        "optimizer.learning_rate=1e-3", "evaluation.episodes=20", *VARIANTS[variant], *support(variant, -1.5, 1.5),
    )  # fmt: skip
    run.go()
    blank, left, right = (torch.from_numpy(Memory.picture(side)) for side in (None, 0, 1))
    states = torch.stack([torch.stack(pair) for pair in ((left, blank), (right, blank))])
    values = run.agent.online.q_values(states).detach()
    assert values.argmax(1).tolist() == [0, 1] and run.evaluator.best_score == 1.0  # in all games of the evaluation
    np.testing.assert_allclose(values.max(1).values, [1, 1], atol=0.2)


class Enough(Callback):
    """Ends a run that has learned what it should."""

    def __init__(self, run: Run, score: float) -> None:
        self._run, self._score = run, score

    def evaluation(self, row):
        if row["mean"] >= self._score:
            self._run.stop()


def test_cartpole_is_balanced(tmp_path):
    """195 is what counted as solving CartPole-v0. A second seed may try where the first is slow."""
    for seed in (1, 2):
        run = small_run(
            tmp_path / f"run{seed}", "env=cartpole", "total_steps=36_000", "evaluation.every_steps=3_000",
            "network.hidden=[64,64]", "evaluation.episodes=10", "env.max_frames=250", f"seed={seed}",
        )  # fmt: skip
        run.go(Enough(run, 195))
        if run.evaluator.best_score >= 195:
            return
    pytest.fail(f"{run.evaluator.best_score} after 36,000 steps")


# ------------------------------------------------------------------------------------------------------- combinations

SWITCHES = {
    "head": ("scalar", "c51", "qr", "iqn"),
    "rule": ("agent.double=false", "agent.double=true", "agent.munchausen=true"),
    "agent.dueling": ("false", "true"),
    "agent.noisy": ("false", "true"),
    "replay.prioritized": ("false", "true"),
    "agent.n_step": ("1", "3"),
    "exploration.temperature": ("null", "0.5"),
    "update.tau": ("1", "0.1"),
}
SMALL = ["head.atoms=11", "head.quantiles=5", "head.samples=4", "head.target_samples=3", "head.policy_samples=2"]


def words(combination: tuple[str, ...]) -> list[str]:
    return [
        value if key == "rule" else f"{key}={value}" for key, value in zip(SWITCHES, combination, strict=True)
    ] + SMALL


def is_sound(combination: tuple[str, ...]) -> bool:
    """What theory allows."""
    head, rule, *_, n_step, _, _ = combination
    return "munchausen" not in rule or (head != "c51" and n_step == "1")


ALL = list(itertools.product(*SWITCHES.values()))


def covering_pairs() -> list[tuple[str, ...]]:
    """Sound combinations in which every sound pair of two switches' values is found."""

    def pairs(combination: tuple[str, ...]) -> set[tuple]:
        return set(itertools.combinations(enumerate(combination), 2))

    sound = [combination for combination in ALL if is_sound(combination)]
    missing, chosen = set().union(*map(pairs, sound)), []
    while missing:
        chosen.append(max(sound, key=lambda combination: len(pairs(combination) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


def test_every_combination_is_accepted_or_refused_with_a_sentence():
    config = compose.to_train_config(compose.compose("train", SMALL))
    for combination in ALL:
        head, rule, dueling, noisy, prioritized, n_step, temperature, tau = combination
        config.head.name, config.agent.n_step, config.update.tau = head, int(n_step), float(tau)
        config.agent.munchausen, config.agent.double = "munchausen" in rule, rule == "agent.double=true"
        config.agent.dueling, config.agent.noisy = dueling == "true", noisy == "true"
        config.replay.prioritized = prioritized == "true"
        config.exploration.temperature = None if temperature == "null" else float(temperature)
        if is_sound(combination):
            validate.check(config)
        else:
            with pytest.raises(UserError, match=r"agent\.munchausen=true"):
                validate.check(config)


def agents(*overrides: str) -> tuple[Agent, Agent]:
    """One that is scripted and one that is not, alike, whose target networks differ from their online ones."""
    made = []
    for graphs in ("true", "false"):
        config = compose.to_train_config(
            compose.compose("train", ["network=small_cnn", *overrides, f"compute.graphs={graphs}", "env.game=Pong"])
        )
        agent = make_agent(config, (36, 36), 4, torch.device("cpu"))
        with torch.no_grad():
            for parameter in agent.target.parameters():
                parameter.mul_(0.9)
        made.append(agent)
    return made[0], made[1]


def filled_replay(combination: tuple[str, ...]) -> tuple[Replay, torch.Generator]:
    """As `filled`, of the kind that a combination asks for."""
    words_ = [word for word in words(combination) if word.startswith(("replay.", "agent.n_step"))]
    config = compose.to_train_config(compose.compose("train", words_))
    replay, (plain, rng) = prioritized.make_replay(config, 0, 50, 3, (36, 36)), filled()
    rng.manual_seed(5)
    replay.begin(torch.randint(0, 256, (3, 36, 36), dtype=torch.uint8, generator=rng))
    for _ in range(70):
        step(replay, rng)
    assert torch.equal(replay.frames, plain.frames)
    return replay, rng


@pytest.mark.parametrize("combination", covering_pairs(), ids="-".join)
def test_scripted_and_recorded_turns_equal_eager_ones(combination, monkeypatch):
    """Acting, sampling, learning, noting errors: all that a CUDA graph holds, with rows written and copies between."""
    made = agents(*words(combination))
    contestants = [(agent, *filled_replay(combination)) for agent in (*made, copy.deepcopy(made[1]))]
    draws = [torch.Generator().manual_seed(2) for _ in contestants]
    monkeypatch.setattr(inputs, "interleaved", lambda states: states)  # OpenCV's work would not be recorded
    epsilon = torch.tensor(0.3)

    def turn(which: int) -> tuple[torch.Tensor, torch.Tensor]:
        agent, replay, _ = contestants[which]
        actions = agent.act(replay.newest_stack(), epsilon, draws[which])
        batch = replay.sample(2, 5, draws[which], 0.9, int(combination[5]))
        errors, _ = agent.learn(batch, draws[which])
        replay.update_priorities(batch, errors)
        return actions, errors

    for which in range(3):  # once as it stands, so that the optimisers have begun
        turn(which)
    recording = Recording(lambda: turn(2))
    for count in range(5):
        epsilon.fill_(0.3 - 0.05 * count)
        results = [turn(0), turn(1), recording.replay() if count else recording.result]
        for part in range(2):
            assert torch.equal(results[0][part], results[1][part])
            assert torch.equal(results[1][part], results[2][part])
        for agent, replay, rng in contestants:
            step(replay, rng)
            agent.copy_target(1 + count % 2)
    (script, *ours), (eager, *others), (recorded, *thirds) = contestants
    assert (
        all(one != script._differentiate for one in script._differentiated.made.values())
        and eager._differentiated == eager._differentiate
    )
    for (one, its), (other, theirs) in itertools.pairwise(((script, ours), (eager, others), (recorded, thirds))):
        assert torch.equal(flat(one.online), flat(other.online)) and torch.equal(flat(one.target), flat(other.target))
        here, there = its[0].state(), theirs[0].state()
        assert all(torch.equal(here[key], there[key]) for key in here)


@pytest.mark.parametrize("combination", covering_pairs(), ids="-".join)
def test_a_stopped_run_goes_on_to_the_bit(combination, tmp_path):
    short = ["total_steps=800", "replay.capacity=400", "replay.warmup_steps=200", "checkpoint.every_steps=200"]
    mine = [*CARTPOLE, *words(combination), *short, "network.hidden=[16,16]", "evaluation.every_steps=500"]
    small_run(tmp_path / "untouched", *mine).go()
    run = small_run(tmp_path / "stopped", *mine)
    run.go(Stop(run, 450))
    assert "resuming" in go_on(tmp_path / "stopped")
    assert_equal_runs(tmp_path / "untouched", tmp_path / "stopped")


def test_rainbow_from_pixels_goes_on_to_the_bit(tmp_path):
    more = ["network.standardize=true", "agent.augmentation=drq", "agent.dueling_shared=true"]
    mine = [*PONG, *VARIANTS["rainbow"], *more]
    small_run(tmp_path / "untouched", *mine).go()
    run = small_run(tmp_path / "stopped", *mine)
    run.go(Stop(run, 450))
    assert "resuming" in go_on(tmp_path / "stopped")
    assert_equal_runs(tmp_path / "untouched", tmp_path / "stopped")


# ------------------------------------------------------------------------------------------------------------- wiring


def expected(network: networks.QNetwork, z: torch.Tensor) -> torch.Tensor:
    """Mean returns of outputs [..., n], by hand."""
    head = network.values
    if head.__class__.__name__ == "Categorical":
        return (z.softmax(-1) * torch.linspace(-10, 10, 11)).sum(-1)
    return (z[..., -2:] if head.cosines else z).mean(-1)  # the last policy_samples of what an implicit one gives


def slow_loss(agent: Agent, words: list[str], part: list, noise_t, taus_t, noise, taus) -> tuple[torch.Tensor, list]:
    """A minibatch's mean loss, one transition at a time, each network asked for one state at a time."""
    online, target, losses, errors = agent.online, agent.target, [], []
    for b, (s_tm1, a_tm1, r_t, discount_t, s_t, weight) in enumerate(zip(*part, strict=True)):
        with torch.no_grad():
            z_t = target(s_t[None], noise_t[None], taus_t[b : b + 1])
            q_t = expected(target, z_t)
            if "agent.double=true" in words:
                q_t = expected(online, online(s_t[None], noise[1:]))
            a_t, samples = int(q_t.argmax()), z_t[0, :, :3] if online.values.cosines else z_t[0]
            if "agent.munchausen=true" in words:
                q_tm1 = expected(target, target(s_tm1[None], noise_t[None]))
                y = targets.munchausen(
                    r_t[None], discount_t[None], samples[None], q_t, q_tm1, a_tm1[None], 0.9, 0.03, -1
                )
            elif "head=c51" in words:
                p, spread = z_t.softmax(-1)[:, a_t : a_t + 1], torch.linspace(-10, 10, 11)
                y = targets.categorical(r_t[None], discount_t[None], p, torch.zeros(1, 1), spread)
            else:
                y = (r_t + discount_t * samples[a_t])[None]
        z = online(s_tm1[None], noise[:1], taus[b : b + 1])[:, int(a_tm1)]
        if "head=c51" in words:
            loss = error = targets.divergence(z, y)
        elif "head=qr" in words or "head=iqn" in words:
            mine = taus[b : b + 1] if "head=iqn" in words else (torch.arange(5)[None] + 0.5) / 5
            loss = error = targets.quantile_huber(z, mine, y)
        else:
            loss, error = torch.nn.functional.huber_loss(z, y)[None], (z - y).abs()[0]
        losses.append(weight * loss)
        errors.append(error.item())
    return torch.cat(losses).mean(), errors


@pytest.mark.parametrize("combination", covering_pairs(), ids="-".join)
def test_an_update_asks_the_right_network_for_the_right_state(combination):
    """Two minibatches against plain Adam on losses of single transitions; the noise and quantiles are drawn alike."""
    mine = words(combination)
    agent, _ = agents(*mine, "agent.reduction=mean", "optimizer.learning_rate=1e-3")
    twin = copy.deepcopy(agent)
    adam = torch.optim.Adam(twin.online.parameters(), lr=1e-3, foreach=False)
    replay, _ = filled()
    batch = replay.sample(2, 5, torch.Generator().manual_seed(7), 0.9, int(combination[5]))
    batch = batch._replace(weight=torch.rand(2, 5) + 0.1, s_tm1=batch.s_tm1.clone(), s_t=batch.s_t.clone())
    errors, _ = agent.learn(batch, torch.Generator().manual_seed(9))
    draw, values = torch.Generator().manual_seed(9), twin.online.values
    noise_t, taus_t = twin.target.draw_noise(2, draw), values.draw(10, True, draw, twin.device)
    noise, taus = twin.online.draw_noise(4, draw), values.draw(10, False, draw, twin.device)
    start = flat(twin.online).clone()
    for k in range(2):
        rows = slice(5 * k, 5 * k + 5)
        part = [x[k] for x in (*batch[:5], batch.weight)]
        loss, slow = slow_loss(twin, mine, part, noise_t[k], taus_t[rows], noise[2 * k : 2 * k + 2], taus[rows])
        assert errors[k].tolist() == pytest.approx(slow, rel=1e-3, abs=1e-4)
        adam.zero_grad()
        loss.backward()
        adam.step()
    change = flat(twin.online) - start
    assert change.abs().max() > 1e-3
    assert torch.linalg.norm(flat(agent.online) - start - change) < 0.02 * torch.linalg.norm(change)


def small_network(head: str = "scalar", **agent) -> networks.QNetwork:
    torch.manual_seed(1)
    return networks.make_network(
        Network("mlp", hidden=[9, 8]), (5,), 1, 3, Head(head), AgentConfig(loss="huber", **agent)
    )


def test_noisy_layers_are_a_noisy_matrix():
    layer = layers.NoisyDense(4, 3, sigma=0.5)
    assert {round(p, 6) for part in layer.spread.parameters() for p in part.flatten().tolist()} == {
        0.25
    }  # 0.5 / sqrt(4)
    assert all(p.abs().max() <= 0.5 for p in layer.mean.parameters())
    x, noise = torch.randn(6, 4), torch.randn(2, 7)
    y = layer(x, noise)
    for b in range(6):
        e_in, e_out = noise[b // 3, :4], noise[b // 3, 4:]
        weight = layer.mean.weight + layer.spread.weight * torch.outer(e_out, e_in)
        bias = layer.mean.bias + layer.spread.bias * e_out
        torch.testing.assert_close(y[b], weight @ x[b] + bias)


def test_each_game_acts_by_its_own_draw_and_evaluation_by_the_mean():
    network, states = small_network(noisy=True), torch.randn(1, 1, 5).expand(400, 1, 5)
    noise = network.draw_noise(400, torch.Generator().manual_seed(0))
    f = torch.randn(400, network.noise_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise, f.sign() * f.abs().sqrt())
    q = network.q_values(states, noise)
    assert len(q.unique(dim=0)) == 400
    torch.testing.assert_close(q[7], network.q_values(states[:1], noise[7:8])[0])
    x = network.features(network.prepare(states[:1]))
    mean = network.head[2].mean(network.head[0].mean(x).relu())
    torch.testing.assert_close(network.q_values(states), mean.expand(400, -1))


def test_dueling_streams_add_up_and_push_softly():
    states = torch.randn(6, 1, 5)
    network = small_network(dueling=True)
    x = network.features(network.prepare(states))
    v, a = network.value(x, None), network.head(x, None)
    torch.testing.assert_close(network.q_values(states), v + a - a.mean(1, keepdim=True))
    shared = small_network(dueling=True, dueling_shared=True)
    hidden = shared.shared(shared.features(shared.prepare(states)), None).relu()
    v, a = shared.value(hidden, None), shared.head(hidden, None)
    torch.testing.assert_close(shared.q_values(states), v + a - a.mean(1, keepdim=True))
    assert [len(stream) for stream in (shared.shared, shared.value, shared.head)] == [1, 1, 1]
    softer = small_network(dueling=True, dueling_gradient_scale=0.5)
    gradients = []
    for one in (network, softer):
        one.q_values(states).square().sum().backward()
        gradients.append([p.grad for p in one.parameters()])
    for name, full, half in zip((n for n, _ in network.named_parameters()), *gradients, strict=True):
        torch.testing.assert_close(half, full * (0.5 if name.startswith("features") else 1))


def test_implicit_quantiles_are_shown_as_cosines():
    network = small_network("iqn")
    states, taus = torch.randn(2, 1, 5), torch.rand(2, 4)
    z = network(states, None, taus)
    features = network.features(network.prepare(states))
    for b, n in itertools.product(range(2), range(4)):
        shown = torch.tensor([np.cos(np.pi * i * float(taus[b, n])) for i in range(64)], dtype=torch.float32)
        phi = torch.relu(network.embedding.weight @ shown + network.embedding.bias)
        torch.testing.assert_close(z[b, :, n], network.head((features[b] * phi)[None], None)[0])
    middles = (torch.arange(32) + 0.5) / 32
    torch.testing.assert_close(network.q_values(states), network(states, None, middles.expand(2, -1)).mean(-1))


def test_boltzmann_acts_in_proportion():
    q = torch.tensor([[1.0, 2.0, -torch.inf, 1.5]]).expand(40_000, 4)
    draw = torch.Generator().manual_seed(0)
    for epsilon in (0.0, 0.5):
        actions = boltzmann(q, epsilon, draw, temperature=0.7)
        weights = torch.tensor([1.0, 2.0, 1.5]).div(0.7).softmax(0) * (1 - epsilon) + epsilon / 3
        counts = torch.bincount(actions, minlength=4)
        assert counts[2] == 0
        wanted = 40_000 * weights
        assert float(((counts[[0, 1, 3]] - wanted) ** 2 / wanted).sum()) < 2 + 4 * 2  # chi-square of 2 degrees


def test_soft_copies():
    agent, _ = agents("update.tau=0.1")
    before, online = flat(agent.target).clone(), flat(agent.online)
    twin = copy.deepcopy(agent)
    agent.copy_target(3)
    for _ in range(3):
        twin.copy_target()
    torch.testing.assert_close(flat(agent.target), online + 0.9**3 * (before - online))
    torch.testing.assert_close(flat(agent.target), flat(twin.target))
    hard, _ = agents()
    hard.copy_target(5)
    assert torch.equal(flat(hard.target), flat(hard.online))


def test_persistent_exploration_repeats_as_the_zeta_distribution_says():
    """Against one game at a time in plain Python, from the same draws; then the lengths' distribution."""
    games, exponent = 6, 2.0
    q = torch.randn(games, 4, generator=torch.Generator().manual_seed(1))
    q[:, 2] = -torch.inf
    policy = Persistent(exponent, 0.02, games, torch.device("cpu"))
    draw, same = (torch.Generator().manual_seed(3) for _ in "ab")
    weights = np.arange(1, LONGEST + 1.0) ** -exponent
    upto = weights.cumsum() / weights.sum()
    action, left = [0] * games, [0] * games
    for turn in range(300):
        epsilon = 1.0 if turn < 100 else 0.05 if turn < 200 else 0.02
        begin, length = torch.rand(2, games, generator=same)
        anything = epsilon_greedy(q, 1.0, same)
        wanted = []
        for game in range(games):
            if not left[game] and begin[game] < epsilon:
                action[game], left[game] = (
                    int(anything[game]),
                    1 + int((upto < float(length[game])).sum()) * (epsilon > 0.02),
                )
            wanted.append(action[game] if left[game] else int(q[game].argmax()))
            left[game] = max(0, left[game] - 1)
        assert policy(q, epsilon, draw).tolist() == wanted and policy.left.tolist() == left
    many = Persistent(exponent, 0.02, 40_000, torch.device("cpu"))
    many(torch.zeros(40_000, 3), 1.0, draw)
    counts, wanted = torch.bincount(many.left, minlength=4)[:4].numpy(), 40_000 * weights[:4] / weights.sum()
    assert ((counts - wanted) ** 2 / wanted).sum() < 3 + 4 * 6**0.5


def test_what_is_repeated_goes_on_after_a_resume():
    one, other = (agents("exploration.persistence=2", "num_envs=5")[0] for _ in "ab")
    draw, states = torch.Generator().manual_seed(1), torch.randint(0, 255, (5, 4, 36, 36), dtype=torch.uint8)
    for _ in range(20):
        one.act_at_random(5, draw)
    other.restore(copy.deepcopy(one.state()))
    assert bool(one.policy.left.any()) and torch.equal(one.policy.left, other.policy.left)
    assert torch.equal(one.act(states, 0.0, draw), other.act(states, 0.0, draw))
    with pytest.raises(ValueError, match="cannot be"):
        other.restore(one.state() | {"policy": {"action": torch.full((5,), 9), "left": one.policy.left}})
